//! Which connections a node has open, and how many it may.
//!
//! A node needs one. A few more are those of a killed agent that nobody has closed yet; when there
//! are too many, the oldest gives way, so that a restarted agent is never kept waiting by its past.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tallystick_common::ids::NodeId;
use tallystick_common::wire::CloseCode;

use super::peer::Line;

/// Connections one node may have open.
const PER_NODE: usize = 4;

/// Open connections by node.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<HashMap<NodeId, VecDeque<Line>>>);

/// A place among them, given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Guests>,
    node: NodeId,
    id: (bool, usize),
}

impl Guests {
    /// Takes a place for a connection; the oldest of too many is closed.
    pub(super) fn admit(guests: &Arc<Self>, node: NodeId, line: &Line) -> Place {
        let mut by_node = guests.lock();
        let open = by_node.entry(node).or_default();
        open.push_back(line.clone());
        if open.len() > PER_NODE
            && let Some(oldest) = open.pop_front()
        {
            let why = "a newer connection of this node took its place";
            oldest.cut(CloseCode::TooMany, why);
        }
        Place {
            guests: Arc::clone(guests),
            node,
            id: line.id(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, VecDeque<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_node = self.guests.lock();
        if let Some(open) = by_node.get_mut(&self.node) {
            open.retain(|line| line.id() != self.id);
            if open.is_empty() {
                by_node.remove(&self.node);
            }
        }
    }
}
