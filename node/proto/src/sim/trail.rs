//! How many rounds a lookup took, seen from outside.
//!
//! Whom a node knew itself is of the first round; whom one of round n named first is of round n + 1. A lookup
//! took as many rounds as the last of the nearest that it found.

use std::collections::BTreeMap;

use macula_identity::NodeId;

use super::Swarm;
use crate::dht::{self, Found};
use crate::key::{Key, Scope};
use crate::wire::message;
use message::{request, response};

/// Of one lookup, the round of each node that was named or asked.
#[derive(Debug, Default)]
pub(super) struct Trail(BTreeMap<NodeId, u32>);

impl Swarm {
    /// Follows the lookup of this target that this node begins next.
    pub fn follow(&mut self, node: NodeId, target: Key, scope: &Scope) {
        let known = self.nodes[&node].engine.dht().contacts(target, scope, dht::K);
        let trail = Trail(known.into_iter().map(|contact| (contact.id, 1)).collect());
        self.trails.insert((node, target), trail);
    }

    /// The rounds of a lookup that was followed, and has ended.
    pub fn rounds(&mut self, node: NodeId, target: Key, found: &Found) -> Option<u32> {
        let Trail(rounds) = self.trails.remove(&(node, target))?;
        found.closest.iter().filter_map(|contact| rounds.get(&contact.id)).max().copied()
    }

    /// A node asks. Gives the target when it is followed.
    pub(super) fn trail_of(
        &mut self,
        from: NodeId,
        to: NodeId,
        body: &request::Body,
    ) -> Option<Key> {
        if self.trails.is_empty() {
            return None;
        }
        let target = match body {
            request::Body::FindNode(it) => &it.target,
            request::Body::FindValue(it) => &it.key,
            request::Body::Ping(_)
            | request::Body::Store(_)
            | request::Body::Delete(_)
            | request::Body::Call(_)
            | request::Body::Changed(_) => return None,
        };
        let target = Key::try_from(&target[..]).ok()?;
        let Trail(rounds) = self.trails.get_mut(&(from, target))?;
        rounds.entry(to).or_insert(1);
        Some(target)
    }

    /// A node that was asked on a trail names others.
    pub(super) fn on_named(
        &mut self,
        asker: NodeId,
        target: Key,
        by: NodeId,
        body: &response::Body,
    ) {
        let closest = match body {
            response::Body::Nodes(it) => &it.closest,
            response::Body::Values(it) => &it.closest,
            response::Body::Failure(_)
            | response::Body::Pong(_)
            | response::Body::Stored(_)
            | response::Body::Deleted(_)
            | response::Body::Answer(_)
            | response::Body::Noted(_) => return,
        };
        let Some(Trail(rounds)) = self.trails.get_mut(&(asker, target)) else { return };
        let next = rounds.get(&by).copied().unwrap_or(1) + 1;
        for contact in closest {
            if let Ok(id) = NodeId::try_from(&contact.id[..]) {
                rounds.entry(id).or_insert(next);
            }
        }
    }
}
