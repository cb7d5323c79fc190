//! Renewal: a node gets a new certificate for the TLS key that it enrolled with.
//!
//! The certificate it shows may have expired, however long ago: the handshake proved that the node has the
//! key, and the store says whose key it is and whether the node may still come.

use tallystick_common::ids::NodeId;
use tallystick_common::keys::PublicKey;
use tallystick_common::wire::{
    CloseCode, FrameKind, Message, RefusalReason, Refused, Renew, Renewed, Versions,
};

use super::Services;
use super::listener::only_message;
use super::peer::{Line, Wire};
use super::session::{Shown, judge_peer, refused};
use super::strangers::StrangerReason;
use crate::store::nodes;

/// Answers the one request of a connection.
pub(super) async fn serve(
    line: &Line,
    wire: Wire,
    node: NodeId,
    tls_key: PublicKey,
    services: &Services,
) {
    let Some((mut sender, message)) = only_message(line, wire, FrameKind::Renew, services).await
    else {
        return;
    };
    let Message::Renew(request) = message else {
        return;
    };
    let shown = Shown { node, tls_key };
    let (answer, code) = match renew(&shown, &request, services).await {
        Ok(renewed) => {
            tracing::info!(node.id = %node, from = %line.from, "renewed a node's certificate");
            (Message::Renewed(renewed), CloseCode::Done)
        }
        Err(refused) => {
            tracing::info!(node.id = %node, from = %line.from, reason = %refused.reason, detail = refused.detail, "refused to renew a certificate");
            if refused.reason == RefusalReason::UnknownNode {
                services.stranger(line.from, StrangerReason::UnknownNode, &refused.detail);
            }
            (Message::Refused(refused), CloseCode::Refused)
        }
    };
    if sender.send(&answer).await.is_ok() {
        sender.close(line, code, "answered").await;
    }
}

async fn renew(shown: &Shown, request: &Renew, services: &Services) -> Result<Renewed, Refused> {
    let version = request.versions.common(Versions::OURS).ok_or_else(|| {
        let Versions { oldest, newest } = Versions::OURS;
        let detail = format!("this reconciler speaks versions {oldest} to {newest}");
        refused(RefusalReason::Version, detail)
    })?;
    if request.node != shown.node {
        let detail = "it asks for another node than its certificate's";
        return Err(refused(RefusalReason::WrongNode, detail));
    }
    let busy = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "could not renew a certificate");
        let detail = "the reconciler could not renew it now; its log says why";
        refused(RefusalReason::Busy, detail)
    };
    let node = async {
        let mut tx = services.store.read().await?;
        nodes::by_id(&mut tx, shown.node).await
    };
    let node = node.await.map_err(|error| busy(&error))?;
    judge_peer(shown, node.as_ref())?;
    let now = services.now();
    let certificate = services
        .authority
        .issue_client(shown.node, &shown.tls_key, now)
        .map_err(|error| busy(&error))?;
    Ok(Renewed {
        version,
        server_time: now,
        certificates: vec![certificate.to_vec()],
        trust: services.authority.trust(&services.addresses),
    })
}
