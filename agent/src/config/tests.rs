use super::*;

fn parse(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    parse(text)
        .check()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_empty_file_is_the_documented_default() {
    assert_eq!(parse(""), Config::default());
    assert_eq!(Config::default().check(), []);
    let documented: String = include_str!("../config.rs")
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n")
        .collect();
    assert_eq!(parse(&documented), Config::default());
}

#[test]
fn periods_must_meet_the_quarter_hour() {
    assert_eq!(problems("sample_seconds = 1\nseal_seconds = 1"), [""; 0]);
    assert_eq!(
        problems("sample_seconds = 300\nseal_seconds = 900"),
        [""; 0]
    );
    let found = problems("sample_seconds = 7");
    assert!(
        found[0].starts_with("sample_seconds: 7 ") && found[0].contains("1, 2, 3, 4, 5, 6, 9, 10")
    );
    assert!(problems("sample_seconds = 0")[0].contains("use one of"));
    assert!(problems("sample_seconds = 450")[0].contains("sample_seconds"));
    let found = problems("sample_seconds = 20\nseal_seconds = 50");
    assert!(
        found[0].contains("use one of 20, 60, 100, 180, 300, 900"),
        "{found:?}"
    );
    assert!(problems("seal_seconds = 120")[0].contains("seal_seconds"));
}

#[test]
fn cgroups_inside_one_another_are_refused_where_globs_prove_it() {
    for bad in [
        r#"include = ["*", "a/b"]"#,
        r#"include = ["**"]"#,
        r#"include = ["system.slice/**"]"#,
        r#"include = ["a", "a/b/*"]"#,
        r#"include = ["*/x", "y/x/z"]"#,
        r#"include = ["*", "system.slice/*"]
           exclude = ["user.slice"]"#,
    ] {
        assert_eq!(problems(&format!("[cgroups]\n{bad}")).len(), 1, "{bad}");
    }
    for good in [
        r#"include = ["*", "system.slice/*"]
           exclude = ["system.slice"]"#,
        r#"include = ["a/*", "b/*"]"#,
        r#"include = ["a", "ab/c"]"#,
        r#"include = ["**/docker-*.scope"]"#,
    ] {
        assert_eq!(problems(&format!("[cgroups]\n{good}")), [""; 0], "{good}");
    }
}

#[test]
fn every_problem_is_named() {
    let found = problems(
        "sample_seconds = 7\ndata = \"here\"\n[cgroups]\ninclude = [\"[\", \"/a\"]\n\
         [buffer]\nlimit_bytes = 1\n[registers]\nlimit = 1\n[labels]\na = \"b\\nc\"",
    );
    for key in [
        "sample_seconds",
        "data",
        "cgroups.include",
        "buffer.limit_bytes",
        "registers.limit",
        "labels.a",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(key)),
            "{key}: {found:?}"
        );
    }
    assert_eq!(found.len(), 7);
}

#[test]
fn only_loopback_tells_figures_and_addresses_name_a_port() {
    assert_eq!(problems("metrics = \"[::1]:8622\""), [""; 0]);
    assert!(problems("metrics = \"0.0.0.0:8622\"")[0].contains("loopback"));
    let addresses = |list: &str| problems(&format!("addresses = [{list}]")).len();
    assert_eq!(
        addresses("\"a.example:1\", \"[::1]:8621\", \"192.0.2.1:8621\""),
        0
    );
    assert_eq!(
        addresses("\"a.example\", \"::1:8621\", \":1\", \"a:0\", \"a b:1\""),
        5
    );
}

#[test]
fn a_star_stays_within_one_level() {
    let globs = Selection::new(&["*", "a/b*"], &["skip"]).compile().unwrap();
    assert!(globs.selects("system.slice") && globs.selects("a/bc"));
    assert!(!globs.selects("system.slice/ssh.service") && !globs.selects("skip"));
}

#[test]
fn folders_around_what_is_selected_are_known_where_globs_show_them() {
    let globs = |include: &[&str]| Selection::new(include, &[]).compile().unwrap();
    let levels = globs(&["*", "kubepods.slice/*/x"]);
    assert!(levels.may_select_inside("") && levels.may_select_inside("kubepods.slice"));
    assert!(levels.may_select_inside("kubepods.slice/a"));
    assert!(!levels.may_select_inside("system.slice"));
    assert!(!levels.may_select_inside("kubepods.slice/a/x"));
    for anywhere in ["**/docker-*.scope", "{a/b,c}", "a[/]b", "a\\/b"] {
        assert!(
            globs(&[anywhere]).may_select_inside("any/where"),
            "{anywhere}"
        );
    }
}

#[test]
fn later_files_win_and_unknown_keys_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("agent.toml");
    assert!(
        Config::load(&main)
            .unwrap_err()
            .to_string()
            .starts_with("could not read")
    );
    std::fs::write(
        &main,
        "sample_seconds = 5\n[labels]\na = \"1\"\nb = \"1\"\n",
    )
    .unwrap();
    assert_eq!(Config::load(&main).unwrap().sample_seconds, 5);
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    std::fs::write(dir.path().join("conf.d/20.toml"), "[labels]\nb = \"3\"\n").unwrap();
    std::fs::write(
        dir.path().join("conf.d/10.toml"),
        "seal_seconds = 30\n[labels]\nb = \"2\"\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("conf.d/note.txt"), "not read").unwrap();
    let config = Config::load(&main).unwrap();
    assert_eq!((config.sample_seconds, config.seal_seconds), (5, 30));
    assert_eq!(config.labels["a"], "1");
    assert_eq!(config.labels["b"], "3");
    std::fs::write(dir.path().join("conf.d/20.toml"), "[labls]\n").unwrap();
    let error = Config::load(&main).unwrap_err().to_string();
    assert!(
        error.contains("20.toml") && error.contains("labls"),
        "{error}"
    );
}

#[test]
fn the_digest_changes_with_the_configuration() {
    let [here, there] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]));
    let changed = parse("sample_seconds = 5");
    assert_ne!(changed.digest(&here), Config::default().digest(&here));
    assert_eq!(parse("").digest(&here), Config::default().digest(&here));
    let elsewhere = Config::default().digest(&there);
    assert_ne!(
        elsewhere,
        Config::default().digest(&here),
        "nobody else can make it"
    );
}

#[test]
fn conf_d_is_read_also_where_the_file_may_be_missing_and_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    assert_eq!(Config::load_if_there(&path).unwrap(), Config::default());
    std::fs::create_dir(folder.path().join("conf.d")).unwrap();
    std::fs::write(folder.path().join("conf.d/a.toml"), "seal_seconds = 300").unwrap();
    assert_eq!(Config::load_if_there(&path).unwrap().seal_seconds, 300);
    assert!(
        Config::load(&path).is_err(),
        "asked for by name, it must be there"
    );
    std::fs::write(&path, "nonsense = 1").unwrap();
    assert!(Config::load_if_there(&path).is_err());
}

#[test]
fn what_cannot_be_taken_in_is_named_with_its_place() {
    let config: Config = toml::from_str(
        r#"
        [intake]
        socket = "here.sock"
        mode = 0o1666
        events = 1
        meters = { include = ["[a"] }

        [[scrape]]
        url = "http://192.0.2.1:9100/metrics"
        workload = "w"
        meters = []

        [[scrape]]
        url = "unix:/run/a.sock"
        interval_seconds = 0
        workload = "/w"
        meters = [{ metric = "a_total", meter = "a" }]
        "#,
    )
    .unwrap();
    let said: Vec<String> = config.check().iter().map(ToString::to_string).collect();
    let expected = [
        "intake.socket: it is not an absolute path",
        "intake.mode: ",
        "intake.events: 1 is not in",
        "intake.meters: ",
        "scrape[0].url: ",
        "scrape[0].meters: nothing",
        "scrape[1].interval_seconds: 0",
        "scrape[1].workload: ",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
    let off = "[intake]\nenabled = false\n[[scrape]]\nurl = \"unix:/a:/m\"\nworkload = \"w\"\nmeters = [{ metric = \"a\", meter = \"a\" }]";
    let off: Config = toml::from_str(off).unwrap();
    assert_eq!(off.check().len(), 1);
    for bad in ["meter = \"a b\"", "meter = \"a\", unit = \"hours\""] {
        let text = format!(
            "[[scrape]]\nurl = \"unix:/a:/m\"\nworkload = \"w\"\nmeters = [{{ metric = \"a\", {bad} }}]"
        );
        assert!(toml::from_str::<Config>(&text).is_err(), "{bad}");
    }
}
