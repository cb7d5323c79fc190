//! Why a connection was closed: the application error codes of QUIC, and the codes of `Closing` over TCP.

/// The codes both sides close connections and streams with. They say how it ended; what was wrong
/// with what was sent is said before, in a `Refused` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Everything was said.
    Done = 0,
    /// The side that closes is being stopped.
    ShuttingDown = 1,
    /// Something was refused.
    Refused = 2,
    /// A message was too long in coming.
    Slow = 3,
    /// As many connections as allowed are open.
    TooMany = 4,
    /// The side that closes failed; nothing is wrong with the other.
    Failed = 5,
    /// The node's certificate has expired: renew it.
    Expired = 6,
}

impl CloseCode {
    /// By number; `None` for a code of a newer version.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        [
            Self::Done,
            Self::ShuttingDown,
            Self::Refused,
            Self::Slow,
            Self::TooMany,
            Self::Failed,
            Self::Expired,
        ]
        .into_iter()
        .find(|close| u64::from(*close as u32) == code)
    }
}
