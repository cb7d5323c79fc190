//! A client of the API.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use ureq::http::Request;

/// An API and the token it is asked with.
#[derive(Debug, Clone)]
pub struct Api {
    /// `http://ADDRESS`, without a slash at the end.
    pub base: String,
    /// The bearer token; empty for none.
    pub token: String,
    agent: ureq::Agent,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub kind: String,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Api {
    /// Of a running reconciler.
    #[must_use]
    pub fn new(base: String, token: String) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        Self {
            base,
            token,
            agent: config.into(),
        }
    }

    /// Asks, whatever is answered.
    ///
    /// # Errors
    /// When nothing is answered.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("Bearer {}", self.token));
        }
        let answer = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.agent.run(request.body(body.to_string())?)
            }
            None => self.agent.run(request.body(())?),
        };
        let mut answer = answer.with_context(|| format!("{method} {path}"))?;
        let kind = answer.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        Ok(Answer {
            status: answer.status().as_u16(),
            kind: kind.to_owned(),
            body: answer.body_mut().read_to_string()?,
        })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When it is not answered by 200 and JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.ask("GET", path, None)?;
        ensure!(
            answer.status == 200,
            "GET {path}: {} {}",
            answer.status,
            answer.body
        );
        serde_json::from_str(&answer.body).with_context(|| format!("GET {path}: {}", answer.body))
    }

    /// The bytes at `path`.
    ///
    /// # Errors
    /// When it is not answered by 200.
    pub fn bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let request = Request::builder()
            .uri(format!("{}{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.token));
        let mut answer = self.agent.run(request.body(())?)?;
        ensure!(answer.status() == 200, "GET {path}: {}", answer.status());
        Ok(answer.body_mut().read_to_vec()?)
    }

    /// `POST path`.
    ///
    /// # Errors
    /// When it is not answered by 2xx.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.ask("POST", path, Some(body))?;
        ensure!(
            (200..300).contains(&answer.status),
            "POST {path}: {} {}",
            answer.status,
            answer.body
        );
        Ok(answer.json())
    }

    /// Every item of a list, page by page. `path` may have a query.
    ///
    /// # Errors
    /// When a page is not answered.
    pub fn all(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}{join}limit=1000{cursor}"))?;
            let found = page["items"].as_array();
            items.extend(found.with_context(|| format!("{page} is no page"))?.clone());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }
}
