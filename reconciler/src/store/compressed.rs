//! Segment bytes as the store keeps them: one zstd frame each.
//!
//! Contexts are kept per thread, because making one costs more than a segment.

use std::cell::RefCell;

use tallystick_common::seal::MAX_SEGMENT_BYTES;
use zstd::bulk::{Compressor, Decompressor};

use super::StoreError;

/// Packed columns gain little from more.
const LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses sealed bytes.
///
/// # Errors
/// When there is no memory for it.
pub(crate) fn compress(bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(LEVEL).map_err(damaged)?),
        };
        compressor.compress(bytes).map_err(damaged)
    })
}

/// Sealed bytes from the store.
///
/// # Errors
/// When they are damaged.
pub(crate) fn decompress(packed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let length = zstd::zstd_safe::get_frame_content_size(packed)
        .ok()
        .flatten();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let room = length.map_or(MAX_SEGMENT_BYTES, |length| length.min(MAX_SEGMENT_BYTES));
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new().map_err(damaged)?),
        };
        decompressor.decompress(packed, room).map_err(damaged)
    })
}

fn damaged(error: std::io::Error) -> StoreError {
    StoreError::damaged("segments.bytes", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_damage_is_noticed() {
        let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let packed = compress(&bytes).unwrap();
        assert_eq!(decompress(&packed).unwrap(), bytes);
        assert!(decompress(&packed[..packed.len() / 2]).is_err());
        assert!(decompress(b"no frame").is_err());
        assert_eq!(decompress(&packed).unwrap(), bytes, "and goes on after it");
    }
}
