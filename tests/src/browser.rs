//! A real Chromium, driven by W3C WebDriver through chromedriver.
//!
//! Nothing is fetched from anywhere: the browser's own background traffic is switched off.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::http::Api;
use crate::process::Process;

const INSTALL: &str = "apt-get install -y --no-install-recommends chromium chromium-driver";

/// A browser window. Closed, with its driver, when dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Api,
    session: String,
    _profile: tempfile::TempDir,
    _process: Process,
}

impl Browser {
    /// Opens a window of `width` by 900 pixels; scripts of pages run only with `javascript`.
    ///
    /// # Errors
    /// When Chromium or its driver is missing, with the command that installs them, or does not start.
    pub fn open(width: u32, javascript: bool) -> anyhow::Result<Self> {
        let (chromium, driver) = (installed("chromium")?, installed("chromedriver")?);
        let profile = tempfile::tempdir()?;
        let mut command = Command::new(driver);
        command.arg("--port=0").env("HOME", profile.path());
        let mut process = Process::spawn(&mut command)?;
        let port = process.says(port)?;
        let driver = Api::new(format!("http://127.0.0.1:{port}"), String::new());
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--window-size={width},900"));
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let scripts = if javascript { 1 } else { 2 };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": {
                "binary": chromium,
                "args": arguments,
                "prefs": { "profile.managed_default_content_settings.javascript": scripts },
                // The window cannot be as narrow as a phone; the page's view of it can.
                "mobileEmulation": { "deviceMetrics": {
                    "width": width, "height": 900, "pixelRatio": 1.0, "mobile": false, "touch": false,
                } },
            },
        } } });
        let made = told(&driver.ask("POST", "/session", Some(&wanted))?.json())?;
        let session = made["sessionId"]
            .as_str()
            .context("the driver names the session")?;
        Ok(Self {
            session: session.to_owned(),
            driver,
            _profile: profile,
            _process: process,
        })
    }

    /// Goes to `url` and waits until it is loaded.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn go(&self, url: &str) -> anyhow::Result<()> {
        self.ask("POST", "url", Some(&json!({ "url": url })))
            .map(drop)
    }

    /// Where it is.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn url(&self) -> anyhow::Result<String> {
        let url = self.ask("GET", "url", None)?;
        Ok(url.as_str().context("an address is a text")?.to_owned())
    }

    /// The page's HTML as it is now.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn source(&self) -> anyhow::Result<String> {
        let source = self.ask("GET", "source", None)?;
        Ok(source.as_str().context("a page is a text")?.to_owned())
    }

    /// What a script of the driver's gives back, which runs also where the page's own do not.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, script: &str) -> anyhow::Result<Value> {
        let body = json!({ "script": script, "args": [] });
        self.ask("POST", "execute/sync", Some(&body))
    }

    /// Lines of a log since it was last asked for: `browser` (the console) or `performance` (the network).
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn log(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let lines = self.ask("POST", "se/log", Some(&json!({ "type": kind })))?;
        Ok(lines.as_array().context("a log has lines")?.clone())
    }

    /// Every address in the network that pages asked for since this was last asked; not what the browser
    /// shows of its own.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn requests(&self) -> anyhow::Result<Vec<String>> {
        let mut urls = Vec::new();
        for line in self.log("performance")? {
            let event: Value = serde_json::from_str(line["message"].as_str().unwrap_or_default())?;
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let url = event["message"]["params"]["request"]["url"].as_str();
                urls.extend(
                    url.filter(|url| url.starts_with("http") || url.starts_with("ws"))
                        .map(str::to_owned),
                );
            }
        }
        Ok(urls)
    }

    fn ask(&self, method: &str, what: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let path = format!("/session/{}/{what}", self.session);
        told(&self.driver.ask(method, &path, body)?.json())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver closes the browser that it started; then it is killed itself.
        let _ = self
            .driver
            .ask("DELETE", &format!("/session/{}", self.session), None);
    }
}

fn told(answer: &Value) -> anyhow::Result<Value> {
    let value = &answer["value"];
    if let Some(error) = value["error"].as_str() {
        bail!("{error}: {}", value["message"].as_str().unwrap_or_default());
    }
    ensure!(!answer.is_null(), "the driver said nothing");
    Ok(value.clone())
}

fn port(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once("started successfully on port ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    // Until the number is followed by something, it may not be there whole.
    (digits.len() < rest.len()).then(|| digits.parse().ok())?
}

fn installed(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([Path::new("/usr/bin").to_owned()]);
    let found = places.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    found.with_context(|| format!("{name} is not installed: {INSTALL}"))
}

/// How long the first figures may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
