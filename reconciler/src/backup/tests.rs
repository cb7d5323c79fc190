use std::path::{Path, PathBuf};

use tallystick_common::ids::Seq;
use tallystick_common::time::Timestamp;

use super::restore::Order;
use super::*;
use crate::audit::{self, Verification};
use crate::auth;
use crate::authority::Authority;
use crate::bans;
use crate::billing::issue::Issued;
use crate::billing::testing::at as instant;
use crate::billing::testing::world::{TO_DECEMBER, World};
use crate::catalog::change::set_node_state;
use crate::config::Config;
use crate::decision;
use crate::ingest::testing::at;
use crate::store::nodes::NodeState;
use crate::store::testing::{ENGINES, Engine, Home};
use crate::store::{Store, decisions, nodes, sql};

const LATE: &str = "2026-11-30T23:59:59Z";

/// A reconciler with usage, and a folder for what is made of it.
struct Old {
    world: World,
    folder: tempfile::TempDir,
    config: Config,
    token: auth::Secret,
}

impl Old {
    async fn new(engine: Engine) -> Self {
        let mut world = World::new(engine).await;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("old");
        std::fs::create_dir(&data).unwrap();
        Authority::create(&data, made_at()).unwrap();
        std::fs::write(data.join("reconciler.toml"), "seller = \"Tally\"\n").unwrap();
        world.store = world.store.begin_bans(&data, made_at()).unwrap();
        world.next(TO_DECEMBER / 2, 1000).await;
        world.roll_up().await;
        world.next(TO_DECEMBER, 500).await;
        let token = auth::create_token(&world.store, "admin", "test", made_at()).await;
        Self {
            config: Config::of(&data),
            token: token.unwrap(),
            world,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn backup(&self) -> PathBuf {
        let to = self.path("backup");
        let file = self.config.data.join("reconciler.toml");
        let made = make(&self.config, &file, &self.world.store, &to, made_at()).await;
        made.unwrap();
        to
    }

    fn bans(&self) -> Exclusions {
        Exclusions {
            files: vec![self.config.data.join(bans::FILE_NAME)],
            ..Exclusions::default()
        }
    }

    /// What is restored into another folder, and for a server another database.
    fn elsewhere(&self, home: &Home) -> Config {
        let mut config = Config::of(&self.path("new"));
        config.store = home.location.clone();
        config
    }
}

fn made_at() -> Timestamp {
    instant("2026-11-25T02:00:00Z")
}

fn restored_at() -> Timestamp {
    instant("2026-11-25T02:33:55.7Z")
}

fn order<'a>(backup: &'a Path, config: &'a Config, exclusions: &'a Exclusions) -> Order<'a> {
    Order {
        backup,
        config,
        exclusions,
        check_rollups: true,
        actor: "test",
    }
}

fn banned() -> NodeState {
    NodeState::Banned {
        at: restored_at(),
        reason: "stolen".to_owned(),
    }
}

async fn ban(old: &Old) {
    let node = old.world.agent.node.to_string();
    let done = set_node_state(&old.world.store, &node, banned(), "test", made_at()).await;
    done.unwrap();
}

fn number(issued: &Issued) -> String {
    issued.invoice().number.clone()
}

#[tokio::test]
async fn what_is_restored_counts_the_same_and_repeats_and_revives_nothing() {
    for (engine, target) in [
        (Engine::Sqlite, Engine::Sqlite),
        (Engine::Postgres, Engine::Sqlite),
        (Engine::Sqlite, Engine::Postgres),
        (Engine::Postgres, Engine::Postgres),
    ] {
        let mut old = Old::new(engine).await;
        let backup = old.backup().await;
        let verified = verify(&backup).await.unwrap();
        assert_eq!(verified.manifest.epoch, old.world.store.epoch());
        let before = old.world.draft("acme", LATE).await.statement;
        let after = number(&old.world.issue().await.unwrap());
        assert_eq!(after, "TS-2026-000001", "the backup knows nothing of it");
        ban(&old).await;

        let home = Home::empty(target).await;
        let (config, exclusions) = (old.elsewhere(&home), old.bans());
        let made = restore(order(&backup, &config, &exclusions), restored_at()).await;
        let made = made.unwrap();
        assert!(refuse_half_restored(&config.data).is_ok());
        Authority::open(&config.data, restored_at()).unwrap();
        assert!(config.data.join("reconciler.toml").exists());
        let store = Store::open(&config.store).await.unwrap();
        assert_eq!(store.epoch(), made.plan.epoch);
        assert_ne!(store.epoch(), old.world.store.epoch());
        let actor = auth::token_actor(&store, old.token.reveal()).await.unwrap();
        assert_eq!(actor, None, "the old token is void");
        let actor = auth::token_actor(&store, made.api_token.reveal()).await;
        assert!(actor.unwrap().is_some());
        let mut tx = store.read().await.unwrap();
        let node = nodes::by_id(&mut tx, old.world.agent.node).await.unwrap();
        assert_eq!(node.unwrap().state, banned());
        let log = audit::verify(&mut tx).await.unwrap();
        assert!(matches!(log, Verification::Whole(_)), "{log:?}");
        let told = audit::entry_of(&mut tx, "store.restore", &store.epoch().to_string()).await;
        let told = told.unwrap().unwrap().detail;
        assert!(
            told.contains(&old.world.store.epoch().to_string()),
            "{told}"
        );
        drop(tx);
        old.world.store = store;
        assert_eq!(old.world.draft("acme", LATE).await.statement, before);
        let first = number(&old.world.issue().await.unwrap());
        assert_eq!(first, "TS-2026-R261125023355-000001");
        let again = restore(order(&backup, &config, &exclusions), restored_at()).await;
        assert!(matches!(again, Err(BackupError::Taken(..))), "{again:?}");
    }
}

#[tokio::test]
async fn a_backup_is_refused_whatever_of_it_is_changed() {
    let old = Old::new(Engine::Sqlite).await;
    let backup = old.backup().await;
    let home = Home::empty(Engine::Sqlite).await;
    let (config, exclusions) = (old.elsewhere(&home), old.bans());
    let fails = async |what: &str| {
        let order = order(&backup, &config, &exclusions);
        let told = restore(order, restored_at()).await.unwrap_err().to_string();
        assert!(told.contains(what), "{what}: {told}");
        assert!(!config.data.exists(), "nothing was begun");
    };
    for name in ["store.sqlite", "authority/ca.key", "reconciler.toml"] {
        let path = backup.join(name);
        let held = std::fs::read(&path).unwrap();
        let mut other = held.clone();
        other[held.len() / 2] ^= 1;
        std::fs::write(&path, &other).unwrap();
        fails(name).await;
        std::fs::remove_file(&path).unwrap();
        fails("it is missing").await;
        std::fs::write(&path, &held).unwrap();
    }
    let log = backup.join("store.sqlite-wal");
    std::fs::write(&log, "").unwrap();
    fails("it was not there").await;
    std::fs::remove_file(&log).unwrap();
    verify(&backup).await.unwrap();
    std::fs::rename(backup.join("manifest.json"), old.path("m")).unwrap();
    fails("no complete backup").await;
    let twice = make(
        &old.config,
        &old.path("none"),
        &old.world.store,
        &backup,
        made_at(),
    )
    .await;
    assert!(matches!(twice, Err(BackupError::Exists(_))), "{twice:?}");
}

#[tokio::test]
async fn a_table_that_differs_is_named_although_the_file_is_listed_so() {
    let old = Old::new(Engine::Sqlite).await;
    let backup = old.backup().await;
    let file = backup.join("store.sqlite");
    let store = Store::open(&file).await.unwrap();
    let mut tx = store.write().await.unwrap();
    let text = "UPDATE accounts SET name = 'Other' WHERE id = 'acme'";
    sql::query(text).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    let (mut manifest, _) = Manifest::read(&backup).unwrap();
    std::fs::remove_file(backup.join("manifest.json")).unwrap();
    manifest.files = folder::list(&backup).unwrap();
    let text = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(backup.join("manifest.json"), text).unwrap();
    let told = verify(&backup).await.unwrap_err().to_string();
    assert!(told.contains("table accounts"), "{told}");
}

#[tokio::test]
async fn a_restore_that_was_cut_off_is_run_again() {
    for engine in ENGINES {
        let old = Old::new(engine).await;
        let backup = old.backup().await;
        let home = Home::empty(engine).await;
        let (config, exclusions) = (old.elsewhere(&home), old.bans());
        let order = order(&backup, &config, &exclusions);
        let place = config.data.join(RESTORING);

        // Before anything is ready; a database has its tables by then.
        std::fs::create_dir_all(place.join("authority")).unwrap();
        std::fs::write(place.join("store.sqlite"), "half").unwrap();
        assert!(refuse_half_restored(&config.data).is_err());
        if engine == Engine::Postgres {
            let at = crate::store::Store::unsettled(&config.store).await.unwrap();
            at.close().await;
        }
        let first = restore::up_to_the_store(order, restored_at())
            .await
            .unwrap();
        assert!(refuse_half_restored(&config.data).is_err());
        assert!(!config.data.join("authority").exists(), "nothing serves it");

        let later = instant("2026-11-25T03:00:00Z");
        let made = restore(order, later).await.unwrap();
        assert_eq!(made.plan, first, "it went on where it was");
        assert!(refuse_half_restored(&config.data).is_ok());
        let store = Store::open(&config.store).await.unwrap();
        let tokens = {
            let mut tx = store.read().await.unwrap();
            crate::store::auth::api_tokens(&mut tx).await.unwrap()
        };
        let in_use = tokens.iter().filter(|token| token.revoked_at.is_none());
        assert_eq!(in_use.count(), 1);
    }
}

#[tokio::test]
async fn nobody_is_let_in_again_because_nobody_said_who_was_shut_out() {
    let old = Old::new(Engine::Sqlite).await;
    let backup = old.backup().await;
    let home = Home::empty(Engine::Sqlite).await;
    let config = old.elsewhere(&home);
    let mut exclusions = Exclusions::default();
    let refused = async |exclusions: &Exclusions, what: &str| {
        let order = order(&backup, &config, exclusions);
        let told = restore(order, restored_at()).await.unwrap_err().to_string();
        assert!(told.contains(what), "{what}: {told}");
    };
    refused(&exclusions, "--accept-unknown-bans").await;
    let later = old.path("later");
    std::fs::create_dir(&later).unwrap();
    let begun = bans::Bans::of(&later).unwrap();
    begun.begin(restored_at()).unwrap();
    exclusions.files = vec![later.join(bans::FILE_NAME)];
    refused(&exclusions, "begins later").await;
    exclusions.nodes = vec!["nobody".to_owned()];
    refused(&exclusions, "nobody").await;
    exclusions.nodes = vec![old.world.agent.node.to_string()];
    let made = restore(order(&backup, &config, &exclusions), restored_at()).await;
    let shut_out = made.unwrap().plan.exclusions.shut_out;
    assert_eq!(shut_out, [old.world.agent.node]);
    let held = bans::read(&config.data.join(bans::FILE_NAME)).unwrap();
    assert!(held.iter().any(|entry| entry.node() == Some(shut_out[0])));
}

#[tokio::test]
async fn nothing_is_restored_over_what_is_there() {
    let old = Old::new(Engine::Sqlite).await;
    let backup = old.backup().await;
    let exclusions = old.bans();
    let home = Home::empty(Engine::Sqlite).await;
    let mut config = old.elsewhere(&home);
    let Location::File(file) = &home.location else {
        panic!("a file")
    };
    for left in ["", "-wal"] {
        let path = PathBuf::from(format!("{}{left}", file.display()));
        std::fs::write(&path, "someone's").unwrap();
        let done = restore(order(&backup, &config, &exclusions), restored_at()).await;
        assert!(matches!(done, Err(BackupError::Taken(..))), "{done:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"someone's");
        std::fs::remove_file(&path).unwrap();
    }
    config.data.clone_from(&old.config.data);
    let done = restore(order(&backup, &config, &exclusions), restored_at()).await;
    assert!(matches!(done, Err(BackupError::Taken(..))), "{done:?}");
}

#[tokio::test]
async fn a_key_that_was_revoked_after_the_backup_signs_nothing_new() {
    for engine in ENGINES {
        let old = Old::new(engine).await;
        let backup = old.backup().await;
        let authority = Authority::open(&old.config.data, made_at()).unwrap();
        let node = old.world.agent.node.to_string();
        let theft = decision::Order {
            node: &node,
            stream: old.world.agent.stream,
            reason: "stolen",
            actor: "test",
            signer: authority.receipt_key(),
        };
        let revoked = decision::revoke(&old.world.store, &theft, Seq(1), false, made_at()).await;
        revoked.unwrap();
        let home = Home::empty(engine).await;
        let (config, exclusions) = (old.elsewhere(&home), old.bans());
        let made = restore(order(&backup, &config, &exclusions), restored_at()).await;
        assert_eq!(made.unwrap().plan.exclusions.keys_revoked, 1);
        let store = Store::open(&config.store).await.unwrap();
        let mut tx = store.read().await.unwrap();
        let node = nodes::by_id(&mut tx, old.world.agent.node).await.unwrap();
        let row = node.unwrap().row;
        let held = decisions::revocations(&mut tx, row).await.unwrap();
        assert_eq!((held.len(), held[0].from), (1, Seq(1)));
        assert_eq!(held[0].stream, old.world.agent.stream);
        let streams = crate::store::streams::of_node(&mut tx, row).await.unwrap();
        let first = streams[0].row;
        drop(tx);
        let mut tx = store.read().await.unwrap();
        let kept = crate::store::streams::segments_from(&mut tx, first, Seq(0), 9).await;
        let counted: Vec<bool> = kept.unwrap().iter().map(|kept| kept.counted).collect();
        assert_eq!(counted, [true, false]);
        assert_eq!(at(0), instant("2026-11-22T12:00:00Z"));
    }
}
