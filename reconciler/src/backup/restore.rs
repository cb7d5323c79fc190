//! Restoring a backup, as another life of the store.
//!
//! ```text
//! DATA/restoring/       while it lasts: whatever else works with the data folder refuses it then
//!   store.sqlite        a copy of the backup's, made another store: its new life, its exclusions
//!   authority/          moved into place last
//!   restore.json        written when all of that is ready, before the store goes to its place
//! ```
//!
//! The store arrives whole: a file by its name, a database by one transaction. A restore that was cut off is run
//! again: it begins anew unless its store has arrived, which the store's epoch tells.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tallystick_common::ids::{Hash, NodeId, StoreEpoch};
use tallystick_common::time::Timestamp;

use super::exclusion::{Applied, Exclusions, Known, NAMED};
use super::manifest::{AUTHORITY, Manifest, STORE};
use super::verify::{checked_log, verify};
use super::{BackupError, RESTORING, folder, taken};
use crate::audit::{self, Note};
use crate::auth::{self, Secret};
use crate::authority::{Authority, files};
use crate::bans::{Bans, Entry};
use crate::config::{self, Config};
use crate::rollup::check;
use crate::store::restoring::{Renewal, Voided, renew, void_api_tokens};
use crate::store::{Location, Store, StoreError, moving};

const PLAN: &str = "restore.json";

/// What is to be restored, and where.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The backup's folder.
    pub backup: &'a Path,
    /// Where: data folder and store.
    pub config: &'a Config,
    /// Who was shut out since it was made.
    pub exclusions: &'a Exclusions,
    /// Count every segment again first, and refuse what its rollups do not agree with.
    pub check_rollups: bool,
    /// Who restores.
    pub actor: &'a str,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// The life that the backup is of, and all else that was settled.
    pub plan: Plan,
    /// The administrator's new API token, told once.
    pub api_token: Secret,
}

/// What was settled before the store went to its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The backup, by the digest of its manifest.
    pub backup: Hash,
    /// When it was made.
    pub made_at: Timestamp,
    /// The life that it is of.
    pub epoch_before: StoreEpoch,
    /// The new one.
    pub epoch: StoreEpoch,
    /// Stands in the numbers of documents from now on.
    pub series: String,
    /// What lets nobody in any more.
    pub voided: Voided,
    /// Who is shut out.
    pub exclusions: Applied,
}

/// Restores a backup into an empty data folder, and a file or database without a store.
///
/// # Errors
/// When the backup is not whole, something is there already, or nobody says who was shut out since it was made. If
/// it was cut off, `restore` of the same backup goes on.
pub async fn restore(order: Order<'_>, now: Timestamp) -> Result<Restored, BackupError> {
    let (plan, known) = place_store(&order, now).await?;
    finish(
        &order,
        &order.config.data.join(RESTORING),
        plan,
        &known,
        now,
    )
    .await
}

/// Everything up to where the store is in its place, and nothing serves it yet.
async fn place_store(order: &Order<'_>, now: Timestamp) -> Result<(Plan, Known), BackupError> {
    let verified = verify(order.backup).await?;
    let (data, store) = (&order.config.data, &order.config.store);
    let known = order.exclusions.read(data, &verified.manifest)?;
    let place = data.join(RESTORING);
    refuse_taken(data)?;
    let plan = match arrived(&place, store).await? {
        Some(plan) if plan.backup == verified.digest => plan,
        Some(_) => return Err(BackupError::Begun(data.clone())),
        None if Store::lives_at(store).await? => return Err(taken(store)),
        None => {
            let plan = prepare(order, &verified.manifest, verified.digest, &known, now).await?;
            arrive(&place.join(STORE), store).await?;
            plan
        }
    };
    Ok((plan, known))
}

/// As if it were cut off there.
#[cfg(test)]
pub(super) async fn up_to_the_store(order: Order<'_>, now: Timestamp) -> Result<Plan, BackupError> {
    place_store(&order, now).await.map(|(plan, _)| plan)
}

fn refuse_taken(data: &Path) -> Result<(), BackupError> {
    let authority = data.join(AUTHORITY);
    if authority.exists() {
        let why = "move the data folder aside, or choose another with --data";
        return Err(BackupError::Taken(authority.display().to_string(), why));
    }
    Ok(())
}

/// The plan of a restore that was cut off after its store had arrived.
async fn arrived(place: &Path, store: &Location) -> Result<Option<Plan>, BackupError> {
    let Ok(text) = fs::read(place.join(PLAN)) else {
        return Ok(None);
    };
    let Ok(plan) = serde_json::from_slice::<Plan>(&text) else {
        return Ok(None);
    };
    if !Store::lives_at(store).await? {
        return Ok(None);
    }
    let held = Store::open(store).await?;
    let epoch = held.epoch();
    held.close().await;
    Ok((epoch == plan.epoch).then_some(plan))
}

/// Makes another store of the backup's, beside where it will be.
async fn prepare(
    order: &Order<'_>,
    manifest: &Manifest,
    backup: Hash,
    known: &Known,
    now: Timestamp,
) -> Result<Plan, BackupError> {
    let place = order.config.data.join(RESTORING);
    folder::make(&order.config.data)?;
    files::begin_folder(&place)?;
    let copy = place.join(STORE);
    folder::copy_large(&order.backup.join(STORE), &copy)?;
    folder::copy(&order.backup.join(AUTHORITY), &place.join(AUTHORITY))?;
    let authority = Authority::open_with(&place, order.config.lives, now)?;
    let store = Store::open(&copy).await?;
    let made = remake(order, manifest, backup, known, &store, &authority, now).await;
    store.close().await;
    let plan = made?;
    let text = serde_json::to_vec_pretty(&plan)
        .map_err(|error| folder::failed("write", &place, error.into()))?;
    files::write_private(&place.join(PLAN), &text)?;
    files::sync_folder(&place)?;
    Ok(plan)
}

async fn remake(
    order: &Order<'_>,
    manifest: &Manifest,
    backup: Hash,
    known: &Known,
    store: &Store,
    authority: &Authority,
    now: Timestamp,
) -> Result<Plan, BackupError> {
    if order.check_rollups {
        check_rollups(store).await?;
    }
    let epoch = StoreEpoch(crate::store::random()?);
    let series = series(now);
    let renewal = Renewal {
        before: manifest.epoch,
        epoch,
        series: &series,
        backup_made_at: manifest.made_at,
        actor: order.actor,
        at: now,
    };
    let mut tx = store.write().await?;
    let voided = renew(&mut tx, &renewal).await?;
    let detail = json!({
        "epoch_before": manifest.epoch, "epoch": epoch, "series": series,
        "backup": { "digest": backup, "made_at": manifest.made_at, "audit": manifest.audit },
        "voided": voided,
    });
    let subject = epoch.to_string();
    let note = Note {
        at: now,
        actor: order.actor,
        action: "store.restore",
        subject: &subject,
        detail,
    };
    audit::append(&mut tx, &note).await?;
    tx.commit().await?;
    let exclusions = known.apply(store, authority, order.actor, now).await?;
    let mut tx = store.read().await?;
    checked_log(order.backup, &mut tx).await?;
    Ok(Plan {
        backup,
        made_at: manifest.made_at,
        epoch_before: manifest.epoch,
        epoch,
        series,
        voided,
        exclusions,
    })
}

async fn check_rollups(store: &Store) -> Result<(), BackupError> {
    let found = check(store).await?;
    match found.first {
        Some(first) => Err(BackupError::Rollups {
            differing: found.differing,
            first,
        }),
        None => Ok(()),
    }
}

/// By the second of the restore: whatever is not known of lives in between, none began in the same one.
fn series(now: Timestamp) -> String {
    let digits: String = now
        .to_string()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    // 20261125023355, without the century.
    format!("R{}", digits.get(2..14).unwrap_or(&digits))
}

async fn arrive(copy: &Path, store: &Location) -> Result<(), BackupError> {
    match store {
        Location::File(file) => {
            let beside = file.with_extension("part");
            folder::copy_large(copy, &beside)?;
            fs::rename(&beside, file).map_err(|error| folder::failed("rename to", file, error))?;
            file.parent().map_or(Ok(()), files::sync_folder)?;
        }
        Location::Server(_) => {
            let held = Store::open(copy).await?;
            let mut tx = held.read().await?;
            moving::arrive(&mut tx, store).await?;
            drop(tx);
            held.close().await;
        }
    }
    Ok(())
}

/// Lets the administrator in, and puts the authority in its place: from there on it serves.
async fn finish(
    order: &Order<'_>,
    place: &Path,
    plan: Plan,
    known: &Known,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let data = &order.config.data;
    keep_configuration(order.backup, data)?;
    keep_bans(data, &plan, known, now)?;
    let store = Store::open(&order.config.store).await?;
    // Of an attempt that was cut off here, and told nobody.
    let mut tx = store.write().await?;
    void_api_tokens(&mut tx, now).await?;
    tx.commit().await?;
    let api_token = auth::create_token(&store, "admin", order.actor, now).await?;
    store.close().await;
    files::finish_folder(&place.join(AUTHORITY), &data.join(AUTHORITY))?;
    fs::remove_dir_all(place).map_err(|error| folder::failed("remove", place, error))?;
    Ok(Restored { plan, api_token })
}

fn keep_configuration(backup: &Path, data: &Path) -> Result<(), BackupError> {
    let (from, to) = (backup.join(config::FILE_NAME), data.join(config::FILE_NAME));
    if from.exists() && !to.exists() {
        files::write_private(&to, &files::read(&from)?)?;
    }
    Ok(())
}

/// The next restore, of this or an older backup, is to know them, too.
fn keep_bans(data: &Path, plan: &Plan, known: &Known, now: Timestamp) -> Result<(), BackupError> {
    let Some(bans) = Bans::of(data) else {
        return Ok(());
    };
    let own: PathBuf = data.join(crate::bans::FILE_NAME);
    let held = if own.exists() {
        crate::bans::read(&own)?
    } else {
        Vec::new()
    };
    let mut missing: Vec<Entry> = Vec::new();
    if held.is_empty()
        && !known
            .entries
            .iter()
            .any(|entry| matches!(entry, Entry::Begun { .. }))
    {
        missing.push(Entry::Begun { at: plan.made_at });
    }
    let new = |entry: &&Entry| !held.contains(entry);
    missing.extend(known.entries.iter().filter(new).cloned());
    let told = |node: &NodeId| {
        known
            .entries
            .iter()
            .any(|entry| entry.node() == Some(*node))
    };
    let named = plan.exclusions.shut_out.iter().filter(|node| !told(node));
    missing.extend(named.map(|node| Entry::Ban {
        at: now,
        node: *node,
        reason: NAMED.to_owned(),
    }));
    Ok(bans.append(&missing).map_err(StoreError::from)?)
}
