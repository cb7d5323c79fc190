//! What arrives from agents, from the socket to the committed transaction.
//!
//! ```text
//! endpoint ─▶ listener ─┬─▶ enroll              a join token becomes a node
//!  TLS, UDP    who may  ├─▶ renew               a certificate, expired or not, becomes a new one
//!  and TCP              └─▶ connection ─▶ session ─▶ commit ─▶ (receipt back)
//!                            peer          pure       one transaction: admit, segments, heads, refusals
//! ```
//!
//! Does not know bills. What an enrolled node sends and is not counted goes to the store whole, with
//! its reason (I11); strangers are only counted ([`strangers`]).

use std::net::SocketAddr;
use std::sync::Arc;

use tallystick_common::ids::NodeId;
use tallystick_common::time::Timestamp;

use self::bulletin::Changes;
use self::intake::Intake;
use self::strangers::{StrangerReason, Strangers};
use crate::authority::{Authority, AuthorityError};
use crate::store::Store;

pub mod admit;
pub mod bulletin;
pub mod commit;
mod connection;
pub mod endpoint;
pub mod enroll;
mod guests;
pub mod intake;
pub mod listener;
mod peer;
mod renew;
mod reset;
pub(crate) mod rivals;
pub mod session;
pub mod strangers;
#[cfg(test)]
pub(crate) mod testing;

/// Connections that may be open at once, unless said otherwise.
pub const DEFAULT_CONNECTIONS_MAX: usize = 10_000;

/// What connections work with.
#[derive(Debug)]
pub struct Services {
    /// Keys and certificates.
    pub authority: Authority,
    /// The store.
    pub store: Store,
    /// Admission and commit.
    pub intake: Arc<dyn Intake>,
    /// Those who were not let in.
    pub strangers: Strangers,
    /// `host:port` at which nodes reach this reconciler, told at enrolment; those of the join token
    /// hold when there is none.
    pub addresses: Vec<String>,
    /// Connections that may be open at once.
    pub connections_max: usize,
    /// When nodes may have to be told something new.
    pub changes: Changes,
}

impl Services {
    /// The server's clock.
    pub(crate) fn now(&self) -> Timestamp {
        crate::clock::now()
    }

    fn stranger(&self, from: SocketAddr, reason: StrangerReason, detail: &str) {
        self.strangers.count(self.now(), from, reason, detail);
    }

    fn draw_node(&self) -> Result<NodeId, AuthorityError> {
        let mut id = NodeId::ZERO;
        getrandom::fill(&mut id.0).map_err(AuthorityError::Random)?;
        Ok(id)
    }
}
