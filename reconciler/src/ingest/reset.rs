//! Telling the peers of a process that is gone that their connections are gone with it.
//!
//! A reconciler that was killed leaves agents with connections that nobody answers. The next process
//! at the same address cannot read what they send, but it can prove that it stands for the last one:
//! by a stateless reset (RFC 9000, 10.3), whose token is a function of the connection's id and of a key
//! that outlives the process. Agents then connect again at once instead of after the idle timeout.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};

use crate::authority::Authority;

/// Separates this use of the server's key from every other.
const CONTEXT: &str = "tallystick 1 stateless reset tokens";
/// Length of our connection ids.
const ID_BYTES: usize = 8;

/// The endpoint's settings: reset tokens that the next process at this address can make again.
pub(super) fn endpoint_config(authority: &Authority) -> EndpointConfig {
    let (_, server) = authority.server();
    let key = ResetKey(blake3::derive_key(CONTEXT, server.secret_der()));
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(AnyId));
    config
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0)
            .update(data)
            .finalize_xof()
            .fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let hash = blake3::keyed_hash(&self.0, data);
        // Compared in constant time, as `blake3::Hash` does.
        let given = blake3::Hash::from_slice(signature).map_err(|_| CryptoError)?;
        if hash == given {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

/// Random ids, of which none is refused unseen: one that this process did not draw may be of the last.
struct AnyId;

impl ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_BYTES];
        getrandom::fill(&mut bytes)
            .expect("the system has random bytes: it gave some for the handshake");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
