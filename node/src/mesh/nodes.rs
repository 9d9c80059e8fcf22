//! What is known of each other node: its link, a dial under way, and what waits for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use macula_proto::Fault;
use macula_proto::engine::RequestId;
use macula_proto::identity::NodeId;
use macula_proto::wire::message;
use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use crate::transport::Link;

/// After a dial has failed, nobody waits for another for this long.
pub(super) const DIAL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Requests that wait for one dial; one more is refused.
pub(super) const WAITING: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Nodes(BTreeMap<NodeId, Node>);

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) link: Option<Live>,
    pub(super) dial: Dial,
    pub(super) waiting: Vec<Pending>,
    pub(super) outbox: Arc<Outbox>,
    /// Held by the task that reads the publisher's flow: one after the other.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
}

/// A link in use.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) link: Link,
    /// Tells its writer to end the flow: a better link has come.
    pub(super) superseded: CancellationToken,
}

#[derive(Debug, Default)]
pub(super) enum Dial {
    #[default]
    Idle,
    Dialling,
    Failed {
        until: Instant,
        fault: Fault,
    },
}

/// A request that waits for a link.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: RequestId,
    pub(super) body: message::request::Body,
    pub(super) timeout: Duration,
    pub(super) repeatable: bool,
    /// Whether it went back to waiting before, because its link was dead or ended.
    pub(super) again: bool,
}

impl Nodes {
    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.0.get(&id)
    }

    pub(super) fn entry(&mut self, id: NodeId) -> &mut Node {
        self.0.entry(id).or_default()
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.0.get_mut(&id)
    }

    /// The live links, in the order of their nodes' ids.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.0.values().filter_map(|node| node.link.as_ref()).map(|live| &live.link)
    }

    /// Where links lead that show a certificate of ours which ends before this, and that nobody is
    /// replacing just now.
    pub(super) fn to_renew(&self, now: Instant, not_after: u64) -> Vec<(NodeId, SocketAddr)> {
        let outdated = self.0.iter().filter_map(|(id, Node { link, dial, .. })| {
            let due = match dial {
                Dial::Idle => true,
                Dial::Dialling => false,
                Dial::Failed { until, .. } => *until <= now,
            };
            let link = &link.as_ref()?.link;
            (due && link.own_until() < not_after).then(|| (*id, link.address()))
        });
        outdated.collect()
    }

    /// Forgets nodes with which there is nothing to do.
    pub(super) fn prune(&mut self, now: Instant) {
        self.0.retain(|_, node| {
            let Node { link, dial, waiting, outbox, gate: _ } = node;
            let idle = match dial {
                Dial::Idle => true,
                Dial::Dialling => false,
                Dial::Failed { until, .. } => *until <= now,
            };
            link.is_some() || !idle || !waiting.is_empty() || !outbox.is_empty()
        });
    }
}
