//! What arrives over QUIC, from the socket to the committed transaction.
//!
//! ```text
//! endpoint ─▶ listener ─┬─▶ enroll              a join token becomes a node
//!  TLS, UDP    who may  └─▶ connection ─▶ session ─▶ commit ─▶ (receipt back)
//!                            quinn         pure       one transaction: admit, segments, heads, refusals
//! ```
//!
//! Does not know bills. What an enrolled node sends and is not counted goes to the store whole, with
//! its reason (I11); strangers are only counted ([`strangers`]).

pub mod endpoint;
pub mod enroll;
pub mod strangers;
