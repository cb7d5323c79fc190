//! Plans as a person writes them and what they come to; agent.toml, and the settings an agent is told.

use tallystick_agent::config::Config;
use tallystick_common::price::Plan;

use super::{Input, Target, texts};

pub(super) const PLAN: Target = Target {
    name: "plan",
    max_bytes: 2048,
    run: plan,
    seeds: plan_seeds,
    words: &[
        "name = \"",
        "title = \"",
        "currency = \"EUR\"",
        "[[prices]]",
        "id = \"",
        "meter = \"cpu.time\"",
        "meter = \"memory.usage\"",
        "per = \"cpu-hour\"",
        "per = \"GiB-hour\"",
        "model = \"graduated\"",
        "model = \"per_unit\"",
        "model = \"volume\"",
        "free = \"1\"",
        "price = \"0.5\"",
        "tiers = [",
        "up_to = \"10\"",
        "flat = \"",
        "scope = \"workload\"",
        "scope = \"account\"",
        "app_meter = \"",
        "charge_first_flat_at_zero = true",
    ],
};

pub(super) const SETTINGS: Target = Target {
    name: "settings",
    max_bytes: 2048,
    run: settings,
    seeds: settings_seeds,
    words: &[
        "sample_seconds = ",
        "seal_seconds = ",
        "[cgroups]",
        "[interfaces]",
        "[filesystems]",
        "[intake]",
        "[buffer]",
        "include = [\"**\"]",
        "exclude = [\"",
        "[[scrape]]",
        "url = \"http://127.0.0.1:1/m\"",
        "[labels]",
        "[registers]",
    ],
};

/// A plan that may be applied keeps its meaning through its canonical form.
fn plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let plan: Plan = match toml::from_str(text) {
        Ok(plan) => plan,
        Err(error) => return drop(error.to_string()),
    };
    for problem in plan.check() {
        let _ = problem.to_string();
    }
    let json = plan.canonical_json();
    let again: Plan = serde_json::from_str(&json).expect("canonical JSON can be read");
    assert_eq!(
        again.canonical_json(),
        json,
        "a plan has one canonical form"
    );
    assert_eq!(again.check().len(), plan.check().len());
}

/// The first byte says whether the rest is a node's own configuration or central settings.
fn settings(bytes: &[u8]) {
    let mut input = Input(bytes);
    let central = input.byte() % 2 == 0;
    let Ok(text) = std::str::from_utf8(input.0) else {
        return;
    };
    if central {
        let _ = Config::default().with_central(text);
        return;
    }
    let Ok(config) = toml::from_str::<Config>(text) else {
        return;
    };
    for problem in config.check() {
        let _ = problem.to_string();
    }
    let _ = config.with_central("seal_seconds = 300");
    for selection in [&config.cgroups, &config.interfaces, &config.filesystems] {
        if let Ok(globs) = selection.compile() {
            let _ = globs.selects("a/b") | globs.may_select_inside("a");
        }
    }
}

fn plan_seeds() -> Vec<Vec<u8>> {
    texts(&[
        crate::evidence::PLAN,
        "name = \"a\"\ntitle = \"A\"\ncurrency = \"JPY\"\n[[prices]]\nid = \"x\"\ntitle = \"X\"\nmeter = \"app.count\"\napp_meter = \"jobs\"\nper = \"1000\"\nmodel = \"volume\"\ncharge_first_flat_at_zero = true\ntiers = [{ up_to = \"1\", price = \"0\", flat = \"2.50\" }, { price = \"0.1\" }]\n",
    ])
}

fn settings_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "0seal_seconds = 300\nsample_seconds = 10\n[cgroups]\ninclude = [\"system.slice/*\"]\nexclude = [\"**/init.scope\"]\n",
        "1sample_seconds = 5\nseal_seconds = 60\n[cgroups]\ninclude = [\"a/{b,c}/**\"]\n[interfaces]\ninclude = [\"eth[0-9]\"]\n[intake]\nenabled = true\n[[intake.scrape]]\nurl = \"http://127.0.0.1:9100/metrics\"\nworkload = \"node\"\n",
    ])
}
