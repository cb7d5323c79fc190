//! One node's connection.
use std::sync::Arc;

use tallystick_common::ids::NodeId;
use tallystick_common::keys::PublicKey;
use tokio::sync::watch;

use super::Services;

pub(super) async fn serve(
    _connection: quinn::Connection,
    _node: NodeId,
    _tls_key: PublicKey,
    _services: Arc<Services>,
    _shutdown: watch::Receiver<bool>,
) {
}
