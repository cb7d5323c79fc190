//! A look at a buffer from outside, without changing anything.

use std::path::Path;

use tallystick_common::ids::StreamId;

use super::record::Mark;
use super::scan::{self, Scan};
use super::{BufferError, Head, ReceiptMark};
use crate::durable;

/// What a buffer that no agent has open says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// The stream.
    pub stream: StreamId,
    /// Where it stands.
    pub head: Head,
    /// The last receipt.
    pub last_receipt: Option<ReceiptMark>,
    /// Sealed segments without a receipt.
    pub unreceipted: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The open registers after the last seal.
    pub state: Option<Vec<u8>>,
}

/// Reads the journal in `dir` and changes nothing. `None` when nothing was begun there.
///
/// # Errors
/// When the files cannot be read.
pub fn peek(dir: &Path) -> Result<Option<Peek>, BufferError> {
    let scan = scan::scan(&dir.join("journal"))?;
    Ok(scan.mark.as_ref().map(|mark| of_scan(dir, &scan, mark)))
}

/// What `scan` says of the buffer in `dir`, whose stream stands at `mark`.
pub(super) fn of_scan(dir: &Path, scan: &Scan, mark: &Mark) -> Peek {
    let (first, _) = mark.first_unreceipted();
    Peek {
        stream: mark.life.stream,
        head: mark.head,
        unreceipted: mark.head.next.0.saturating_sub(first.0),
        bytes: durable::bytes_below(&dir.join("journal"))
            + durable::bytes_below(&dir.join("store")),
        state: scan.state.at(mark.head.next).map(<[u8]>::to_vec),
        last_receipt: mark.receipt.clone(),
    }
}
