//! Asks the configured targets for their counters, each in its own rhythm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tallystick_common::time::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::client::{Call, exchange};
use super::exposition;
use super::{Answer, Content, Request};
use crate::config::Scrape;

/// What is wrong at the moment with the socket, and with targets by their address.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<String, String>>>);

impl Troubles {
    /// For people.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(url, why): (&String, &String)| format!("{url}: {why}");
        troubles.iter().map(line).collect()
    }

    /// Notes how something went; a log says what changed.
    pub fn note(&self, what: &str, trouble: Option<String>) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.get(what) == trouble.as_ref() {
            return;
        }
        match trouble {
            Some(why) => {
                tracing::warn!(what, why, "not everything that is reported is counted");
                troubles.insert(what.to_owned(), why);
            }
            None => {
                tracing::info!(what, "everything that is reported is counted again");
                troubles.remove(what);
            }
        }
    }
}

/// Asks `scrape`'s target for ever; what it says goes into `queue`.
pub async fn run(
    scrape: Scrape,
    queue: mpsc::Sender<Request>,
    troubles: Troubles,
    now: fn() -> Timestamp,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(scrape.interval_seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let trouble = read_once(&scrape, &queue, now).await.err();
        troubles.note(&scrape.url, trouble);
    }
}

async fn read_once(
    scrape: &Scrape,
    queue: &mpsc::Sender<Request>,
    now: fn() -> Timestamp,
) -> Result<(), String> {
    let target = scrape.target()?;
    let call = Call {
        method: "GET",
        headers: &[
            "accept: application/openmetrics-text;version=1.0.0, text/plain;version=0.0.4;q=0.5",
        ],
        body: b"",
    };
    let answer = exchange(&target, &call)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("it answers with status {}", answer.status));
    }
    let text = String::from_utf8(answer.body).map_err(|_| "it does not answer in UTF-8")?;
    let found = exposition::read(&text, scrape, now());
    let mut troubles = found.troubles;
    if !found.counts.is_empty() {
        let (answer, told) = oneshot::channel();
        let content = Content::Counts(found.counts);
        let sent = queue.send(Request { content, answer }).await;
        sent.map_err(|_| "the agent is stopping")?;
        match told.await.map_err(|_| "the agent is stopping")? {
            Answer::Counted { unclear, .. } => {
                troubles.extend(unclear.into_iter().map(|(_, why)| why));
            }
            Answer::Later(why) => troubles.push(why),
            Answer::Conflict(_) => {}
        }
    }
    if troubles.is_empty() {
        Ok(())
    } else {
        Err(troubles.join("; "))
    }
}
