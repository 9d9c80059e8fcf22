//! What must hold of every story, at every moment. A broken law ends the story.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use macula_identity::NodeId;

use super::{K_TABLE, Swarm};
use crate::dht::{Found, Me, lookup};
use crate::engine::Output;
use crate::pubsub::Message;
use crate::wire::message;

/// A law, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// Nothing that reaches a peer of one realm tells of a peer, address, name or record of another, not even
    /// the words of a refusal.
    NoForeignNames,
    /// A lookup asks at most as many nodes as the core promises.
    BoundedLookup,
    /// A record that is found was said, as it stands, by its publisher.
    NoFalseRecord,
    /// No message is delivered twice at a node, nor behind a later one of its publisher.
    ExactlyOnceInOrder,
    /// A command ends by its deadline, well or with a reason.
    AnsweredOrRefused,
    /// Tables, stores and lookups keep within their constants.
    BoundedMemory,
    /// A realm sees the same whether another is there or not.
    TwoTenantIndependence,
}

impl Law {
    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoForeignNames => "no_foreign_names",
            Self::BoundedLookup => "bounded_lookup",
            Self::NoFalseRecord => "no_false_record",
            Self::ExactlyOnceInOrder => "exactly_once_in_order",
            Self::AnsweredOrRefused => "answered_or_refused",
            Self::BoundedMemory => "bounded_memory",
            Self::TwoTenantIndependence => "two_tenant_independence",
        }
    }
}

/// A law was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which.
    pub law: Law,
    /// When, since the beginning.
    pub at: Duration,
    /// At which node.
    pub node: String,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { law, at, node, how } = self;
        write!(f, "{} is broken at {:.6} s, at {node}: {how}", law.name(), at.as_secs_f64())
    }
}

impl std::error::Error for Broken {}

/// What has to be remembered to judge.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Of each receiver and publisher, the last message that was delivered.
    delivered: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    /// The bodies of the records that left their publishers, by publisher, incarnation and sequence.
    said: BTreeMap<(NodeId, u64, u64), u64>,
}

impl Ledger {
    /// A record was sent by this node, whose certificate this is: when it is its publisher, it has been said.
    pub(super) fn hear(&mut self, from: NodeId, me: &Me, record: &message::SignedRecord) {
        use prost::Message;
        if record.certificate[..] != me.chain.leaf_der()[..] {
            return;
        }
        let Ok(body) = message::Record::decode(&record.body[..]) else { return };
        self.said.insert((from, body.incarnation, body.sequence), hash(&record.body));
    }

    /// A node that starts again has been told nothing yet.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.delivered.retain(|(receiver, _), _| *receiver != node);
    }
}

impl Swarm {
    /// The laws that were broken, in order; a story ends with the first.
    #[must_use]
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// A law does not hold.
    pub fn breaks(&mut self, law: Law, node: NodeId, how: impl Into<String>) {
        let subject = &self.nodes[&node].identity.subject;
        let node = format!("{}/{}", subject.place, subject.name);
        self.broken.push(Broken { law, at: self.elapsed(), node, how: how.into() });
    }

    /// Holds what a node told its application against the laws.
    pub(super) fn judge_output(&mut self, node: NodeId, output: &Output) {
        match output {
            Output::Deliver { message, .. } => self.judge_delivery(node, message),
            Output::LookedUp { found, .. } => self.judge_found(node, found),
            Output::Request { .. }
            | Output::Cancel(_)
            | Output::Invoke { .. }
            | Output::Send { .. }
            | Output::Gap { .. }
            | Output::Published { .. }
            | Output::Returned { .. }
            | Output::Announced { .. } => {}
        }
    }

    fn judge_delivery(&mut self, node: NodeId, message: &Message) {
        let order = (message.incarnation, message.sequence);
        let before = self.ledger.delivered.insert((node, message.publisher), order);
        if let Some(before) = before
            && before >= order
        {
            let publisher = message.publisher.short();
            let how = format!("{order:?} of {publisher} was delivered after {before:?}");
            self.breaks(Law::ExactlyOnceInOrder, node, how);
        }
    }

    fn judge_found(&mut self, node: NodeId, found: &Found) {
        if found.asked > lookup::MAX_ASKED {
            let how = format!("a lookup asked {} nodes", found.asked);
            self.breaks(Law::BoundedLookup, node, how);
        }
        let standing = found.records.iter().map(|found| &found.record);
        for record in standing.chain(&found.withdrawn) {
            let publisher = record.publisher.id;
            let said = (publisher, record.record.incarnation, record.record.sequence);
            // What a node keeps of its own may never have left it.
            let is_true = publisher == node
                || self.ledger.said.get(&said) == Some(&hash(&record.signed.body));
            if !is_true {
                let how = format!("{} of {} was found", record.record.name, publisher.short());
                return self.breaks(Law::NoFalseRecord, node, how);
            }
        }
    }

    /// Holds every living node's memory against the core's constants.
    pub fn inspect(&mut self) {
        let mut too_much = Vec::new();
        for (id, node) in self.nodes.iter().filter(|(_, node)| node.is_alive) {
            let dht = node.engine.dht();
            if let Some((scope, size)) = dht.table_sizes().iter().find(|(_, size)| *size > K_TABLE)
            {
                too_much.push((*id, format!("the table of {scope:?} holds {size}")));
            }
            let limits = crate::dht::store::Limits::default();
            if dht.record_bytes() > limits.bytes {
                too_much.push((*id, format!("its records cost {} bytes", dht.record_bytes())));
            }
        }
        for (node, how) in too_much {
            self.breaks(Law::BoundedMemory, node, how);
        }
    }
}

/// Enough to tell records apart: FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Options;
    use super::*;
    use crate::dht::LookupId;
    use crate::payload::Payload;

    fn swarm() -> (Swarm, NodeId) {
        let options =
            Options { seed: 1, bootstraps: 2, gateways: 0, realms: Vec::new(), trace: false };
        let mut swarm = Swarm::new(&options);
        swarm.run_for(super::super::JOINING);
        let node = swarm.living().next().expect("there are two").id;
        (swarm, node)
    }

    fn broken(swarm: &Swarm) -> Vec<Law> {
        swarm.broken().iter().map(|broken| broken.law).collect()
    }

    #[test]
    fn a_message_that_comes_twice_or_too_late_breaks_a_law() {
        let (mut swarm, node) = swarm();
        let mut deliver = |incarnation, sequence| {
            let message = Message {
                publisher: NodeId::from_bytes([7; 20]),
                incarnation,
                sequence,
                topic: "room1.temp".parse().expect("a topic"),
                payload: Payload::new("21", "text/plain"),
            };
            let output = Output::Deliver { to: [].into(), message: Arc::new(message) };
            swarm.judge_output(node, &output);
            broken(&swarm).len()
        };
        assert_eq!((deliver(1, 1), deliver(1, 3), deliver(2, 1)), (0, 0, 0));
        assert_eq!((deliver(2, 1), deliver(1, 4)), (1, 2));
        assert_eq!(broken(&swarm), [Law::ExactlyOnceInOrder; 2]);
    }

    #[test]
    fn a_lookup_without_a_bound_breaks_a_law() {
        let (mut swarm, node) = swarm();
        let lookup: LookupId = swarm.command(node, |engine, now| {
            engine.find_nodes(now, node.into(), crate::key::Scope::Infrastructure)
        });
        let mut ask = |asked| {
            let found = Found { asked, ..Found::default() };
            swarm.judge_output(node, &Output::LookedUp { lookup, found });
            broken(&swarm).len()
        };
        assert_eq!((ask(lookup::MAX_ASKED), ask(lookup::MAX_ASKED + 1)), (0, 1));
    }
}
