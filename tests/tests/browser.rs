//! The console in a real browser.

use serde_json::Value;
use tallystick_tests::browser::{Browser, PATIENCE};
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::poll;
use tallystick_tests::process::Up;

/// The figures on the page: the amount so far, and all CPU time in microseconds by workload added up.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    amount: String,
    cpu_us: u64,
}

const READ: &str = r#"
const amount = document.querySelector(".so-far");
const cells = document.querySelectorAll("tr:not(.control) td[data-meter='cpu.time'] data");
const cpu = Array.from(cells).reduce((sum, cell) => sum + Number(cell.value), 0);
return [amount && amount.value, cpu];
"#;

fn shown(browser: &Browser) -> Option<Shown> {
    let values = browser.run(READ).ok()?;
    Some(Shown {
        amount: values[0].as_str()?.to_owned(),
        cpu_us: values[1].as_u64()?,
    })
}

fn up() -> (tempfile::TempDir, Up) {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data")).unwrap();
    (folder, up)
}

#[test]
fn the_bill_moves_before_ones_eyes() {
    let (_folder, up) = up();
    let browser = Browser::open(1280, true).unwrap();
    let cgroup = Cgroup::make("seen");
    let _busy = cgroup.as_ref().map(|cgroup| cgroup.keep_busy().unwrap());
    browser.go(&up.console).unwrap();
    let first = poll::until(PATIENCE, "figures on the first page", || {
        shown(&browser).filter(|shown| shown.cpu_us > 0)
    });
    // A mark that a reload would take away.
    browser.run("window.unloaded = false").unwrap();
    let later = poll::until(PATIENCE, "a higher amount and more CPU time", || {
        shown(&browser).filter(|shown| shown.cpu_us > first.cpu_us && shown.amount != first.amount)
    });
    let decimal = |text: &str| text.parse::<rust_decimal::Decimal>().unwrap();
    assert!(
        decimal(&later.amount) > decimal(&first.amount),
        "{first:?} {later:?}"
    );
    let unloaded = browser.run("return window.unloaded").unwrap();
    assert_eq!(
        unloaded,
        Value::Bool(false),
        "the page was not loaded again"
    );
    if let Some(cgroup) = &cgroup {
        poll::until(PATIENCE, "the new workload on the page", || {
            browser
                .source()
                .unwrap()
                .contains(&cgroup.workload())
                .then_some(())
        });
    }

    let errors = browser.log("browser").unwrap();
    let errors: Vec<_> = errors
        .iter()
        .filter(|line| line["level"] == "SEVERE")
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let requests = browser.requests().unwrap();
    let origin = format!("{}/", up.api.base);
    assert!(
        requests.iter().any(|url| *url == format!("{origin}live")),
        "{requests:?}"
    );
    let elsewhere: Vec<_> = requests
        .iter()
        .filter(|url| !url.starts_with(&origin))
        .collect();
    assert!(
        elsewhere.is_empty(),
        "only its own origin is asked: {elsewhere:?}"
    );
    drop(browser);
    up.terminate().unwrap();
}

#[test]
fn a_login_link_works_once() {
    let (_folder, up) = up();
    let browser = Browser::open(1280, true).unwrap();
    browser.go(&format!("{}/", up.api.base)).unwrap();
    assert!(
        browser.url().unwrap().ends_with("/login"),
        "no figures without a login"
    );
    browser.go(&up.console).unwrap();
    poll::until(PATIENCE, "the first page", || shown(&browser));
    drop(browser);

    let another = Browser::open(1280, true).unwrap();
    another.go(&up.console).unwrap();
    let said = another.source().unwrap();
    assert!(said.contains("used before"), "{said}");
    another.go(&format!("{}/", up.api.base)).unwrap();
    assert!(another.url().unwrap().ends_with("/login"));
    assert_eq!(shown(&another), None);
    drop(another);
    up.terminate().unwrap();
}

#[test]
fn it_is_readable_on_a_phone() {
    let (_folder, up) = up();
    let browser = Browser::open(390, true).unwrap();
    browser.go(&up.console).unwrap();
    poll::until(PATIENCE, "figures on the first page", || {
        shown(&browser).filter(|shown| shown.cpu_us > 0)
    });
    let width = browser.run("return window.innerWidth").unwrap();
    assert_eq!(width, 390, "the page thinks it is on a phone");
    let widest = browser
        .run("return document.documentElement.scrollWidth")
        .unwrap();
    assert!(
        widest.as_u64().unwrap() <= 390,
        "it scrolls sideways: {widest}"
    );
    let small = "return Array.from(document.querySelectorAll('main *')).filter(it => \
        it.textContent.trim() && parseFloat(getComputedStyle(it).fontSize) < 11).length";
    assert_eq!(
        browser.run(small).unwrap(),
        0,
        "nothing is too small to read"
    );
    drop(browser);
    up.terminate().unwrap();
}

#[test]
fn without_javascript_the_page_still_shows_the_figures() {
    let (_folder, up) = up();
    let browser = Browser::open(1280, false).unwrap();
    browser
        .go("data:text/html,<p id=a>off</p><script>a.textContent='on'</script>")
        .unwrap();
    assert!(
        browser.source().unwrap().contains(">off<"),
        "scripts of pages are off"
    );
    browser.go(&up.console).unwrap();
    let amount = |page: &str| {
        let (_, rest) = page.split_once("class=\"so-far\" value=\"")?;
        Some(rest.split('"').next()?.to_owned())
    };
    let first = poll::until(PATIENCE, "an amount", || amount(&browser.source().ok()?));
    poll::until(PATIENCE, "another amount, by reloading", || {
        amount(&browser.source().ok()?).filter(|later| *later != first)
    });
    assert!(
        browser
            .source()
            .unwrap()
            .contains("data-meter=\"cpu.time\"")
    );
    drop(browser);
    up.terminate().unwrap();
}
