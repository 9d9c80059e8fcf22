//! Servers that are members, and misbehave.
//!
//! Each holds a certificate of its own, so it can say what it likes and cannot sign for others. The honest
//! engine runs on beneath: what it would have answered is what gets twisted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use macula_identity::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::Swarm;
use super::event::{Event, Pending};
use crate::dht::K;
use crate::dht::lease::LEASE;
use crate::engine::RequestId;
use crate::error::{Code, Fault};
use crate::key::{Key, Kind};
use crate::name::ProcedureName;
use crate::wire::{Contact, MAX_ADDRESSES, message};
use message::{request, response};

/// What a hostile server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hostility {
    /// It names nodes that do not exist, right beside whatever is looked for.
    LiesAboutNeighbours,
    /// It names itself and its accomplices, as if nobody were closer.
    NamesItselfClosest,
    /// It says that it has stored, and has not.
    DropsStores,
    /// It refuses every record, and shows none.
    RefusesStores,
    /// It shows the first record that it got of each publisher, for ever, and ignores withdrawals.
    ServesStale,
    /// It changes the records that it shows.
    ServesForged,
    /// It shows records of other keys instead of those that were asked for.
    ServesForeign,
    /// It connects to everybody, again and again, and names more nodes than it may.
    StuffsBuckets,
    /// It announces itself under the names that others use, and shows heaps of junk there.
    StuffsSets,
    /// It asks everybody for anything, as fast as it can.
    Floods,
    /// It answers as late as it may.
    AnswersSlowly,
    /// It shows records as they are, and says that their publishers are met where nobody is.
    MisplacesPublishers,
    /// It asks for names of other realms that it guesses, and leaves leases there.
    GuessesNames,
}

impl Hostility {
    /// All of them; a hostile share of a mesh is dealt them in turn.
    pub const ALL: [Self; 13] = [
        Self::LiesAboutNeighbours,
        Self::NamesItselfClosest,
        Self::DropsStores,
        Self::RefusesStores,
        Self::ServesStale,
        Self::ServesForged,
        Self::ServesForeign,
        Self::StuffsBuckets,
        Self::StuffsSets,
        Self::Floods,
        Self::AnswersSlowly,
        Self::MisplacesPublishers,
        Self::GuessesNames,
    ];

    /// As a scenario names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LiesAboutNeighbours => "lies-about-neighbours",
            Self::NamesItselfClosest => "names-itself-closest",
            Self::DropsStores => "drops-stores",
            Self::RefusesStores => "refuses-stores",
            Self::ServesStale => "serves-stale",
            Self::ServesForged => "serves-forged",
            Self::ServesForeign => "serves-foreign",
            Self::StuffsBuckets => "stuffs-buckets",
            Self::StuffsSets => "stuffs-sets",
            Self::Floods => "floods",
            Self::AnswersSlowly => "answers-slowly",
            Self::MisplacesPublishers => "misplaces-publishers",
            Self::GuessesNames => "guesses-names",
        }
    }
}

/// How often a hostile node does something of its own.
const MISCHIEF_EVERY: Duration = Duration::from_millis(500);
/// Whom it bothers each time.
const VICTIMS: usize = 10;
/// How late the late answer: long after a lookup calls it slow, just before it times out.
const LATE: Duration = Duration::from_millis(1_700);
/// Junk records in one answer.
const JUNK: usize = 100;
/// Of so many names one is guessed.
const GUESSES: usize = 8;
/// Requests of a hostile node's own; its engine does not know them.
const MISCHIEF: u64 = 1 << 63;

/// A hostile node's mind.
#[derive(Debug)]
pub(super) struct Hostile {
    pub(super) kind: Hostility,
    rng: StdRng,
    /// The first record of each key and publisher that came here.
    first: BTreeMap<(Bytes, NodeId), message::StoredRecord>,
    requests: u64,
}

/// What a hostile node answers.
pub(super) struct Twisted {
    pub(super) result: Result<response::Body, Fault>,
    pub(super) after: Duration,
}

impl Hostile {
    pub(super) const fn new(kind: Hostility, rng: StdRng) -> Self {
        Self { kind, rng, first: BTreeMap::new(), requests: 0 }
    }

    /// Turns what the honest engine answers into what this node does. `accomplices` are ordered by
    /// nothing in particular.
    pub(super) fn twist(
        &mut self,
        request: &request::Body,
        from: NodeId,
        honest: Result<response::Body, Fault>,
        accomplices: &[Contact],
    ) -> Twisted {
        let after = match self.kind {
            Hostility::AnswersSlowly => LATE,
            _ => Duration::ZERO,
        };
        let result = match request {
            request::Body::FindNode(it) => self.on_find(&it.target, honest, accomplices),
            request::Body::FindValue(it) => self.on_find(&it.key, honest, accomplices),
            request::Body::Store(it) => self.on_store(it.record.as_ref(), from, honest),
            request::Body::Delete(_) if self.kind == Hostility::ServesStale => {
                Ok(response::Body::Deleted(message::Deleted {}))
            }
            request::Body::Delete(_)
            | request::Body::Ping(_)
            | request::Body::Call(_)
            | request::Body::Changed(_) => honest,
        };
        Twisted { result, after }
    }

    fn on_store(
        &mut self,
        record: Option<&message::SignedRecord>,
        from: NodeId,
        honest: Result<response::Body, Fault>,
    ) -> Result<response::Body, Fault> {
        match self.kind {
            Hostility::DropsStores => Ok(response::Body::Stored(message::Stored {})),
            Hostility::RefusesStores => Err(Fault::new(Code::QuotaExceeded, "no room, so it says")),
            Hostility::ServesStale | Hostility::ServesForeign => {
                use prost::Message;
                let body = record.and_then(|it| message::Record::decode(&it.body[..]).ok());
                if let (Some(record), Some(body)) = (record, body) {
                    let name = Bytes::from(format!("{} {}", body.kind, body.name));
                    let kept =
                        message::StoredRecord { record: Some(record.clone()), addresses: vec![] };
                    self.first.entry((name, from)).or_insert(kept);
                }
                honest
            }
            _ => honest,
        }
    }

    fn on_find(
        &mut self,
        target: &Bytes,
        honest: Result<response::Body, Fault>,
        accomplices: &[Contact],
    ) -> Result<response::Body, Fault> {
        Ok(match honest? {
            response::Body::Nodes(message::Nodes { closest }) => {
                let closest = self.neighbours(target, closest, accomplices);
                response::Body::Nodes(message::Nodes { closest })
            }
            response::Body::Values(mut values) => {
                values.closest = self.neighbours(target, values.closest, accomplices);
                values.records = self.records(values.records);
                response::Body::Values(values)
            }
            other => other,
        })
    }

    fn neighbours(
        &mut self,
        target: &Bytes,
        honest: Vec<message::Contact>,
        accomplices: &[Contact],
    ) -> Vec<message::Contact> {
        match self.kind {
            Hostility::LiesAboutNeighbours => (0..K).map(|_| self.nobody_near(target)).collect(),
            Hostility::NamesItselfClosest => {
                let Ok(target) = Key::try_from(&target[..]) else { return honest };
                let mut nearest: Vec<_> = accomplices.iter().collect();
                nearest.sort_by_key(|contact| target.distance(contact.id));
                nearest.into_iter().take(K).map(Into::into).collect()
            }
            Hostility::StuffsBuckets => {
                let more = (0..2 * K).map(|_| self.nobody_near(target));
                honest.into_iter().chain(more).collect()
            }
            _ => honest,
        }
    }

    /// As many addresses as may be, where nobody is.
    fn misplace(&mut self, stored: message::StoredRecord) -> message::StoredRecord {
        let addresses = (0..MAX_ADDRESSES).map(|_| self.nowhere()).collect();
        message::StoredRecord { addresses, ..stored }
    }

    fn nowhere(&mut self) -> message::Address {
        let ip: [u8; 4] = [198, 18, self.rng.random(), self.rng.random()];
        message::Address { ip: Bytes::copy_from_slice(&ip), port: 9443 }
    }

    /// A made-up node that shares ten bytes with the target, at an address where nobody is.
    fn nobody_near(&mut self, target: &Bytes) -> message::Contact {
        let mut id = target.to_vec();
        for byte in id.iter_mut().skip(10) {
            *byte = self.rng.random();
        }
        message::Contact { id: id.into(), addresses: vec![self.nowhere()] }
    }

    fn records(&mut self, honest: Vec<message::StoredRecord>) -> Vec<message::StoredRecord> {
        match self.kind {
            Hostility::LiesAboutNeighbours
            | Hostility::NamesItselfClosest
            | Hostility::DropsStores
            | Hostility::RefusesStores => Vec::new(),
            Hostility::ServesStale => {
                // Of those that it would have shown, as they were at first.
                let names: Vec<_> = honest.iter().filter_map(name_of).collect();
                let first = self.first.iter().filter(|((name, _), _)| names.contains(name));
                first.map(|(_, record)| record.clone()).collect()
            }
            Hostility::ServesForged => honest.into_iter().map(|it| self.forge(it)).collect(),
            Hostility::ServesForeign => self.first.values().take(JUNK).cloned().collect(),
            Hostility::StuffsSets => {
                let mut all = honest;
                if let Some(one) = all.first().cloned() {
                    all.extend((0..JUNK).map(|_| self.forge(one.clone())));
                }
                all
            }
            Hostility::MisplacesPublishers => {
                honest.into_iter().map(|it| self.misplace(it)).collect()
            }
            Hostility::StuffsBuckets
            | Hostility::Floods
            | Hostility::AnswersSlowly
            | Hostility::GuessesNames => honest,
        }
    }

    /// Changes one byte of what was signed, or of its signature.
    fn forge(&mut self, mut stored: message::StoredRecord) -> message::StoredRecord {
        if let Some(record) = &mut stored.record {
            let part = if self.rng.random() { &mut record.body } else { &mut record.signature };
            let mut bytes = part.to_vec();
            if !bytes.is_empty() {
                let at = self.rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << self.rng.random_range(0..8);
            }
            *part = bytes.into();
        }
        stored
    }
}

fn name_of(stored: &message::StoredRecord) -> Option<Bytes> {
    use prost::Message;
    let body = message::Record::decode(&stored.record.as_ref()?.body[..]).ok()?;
    Some(format!("{} {}", body.kind, body.name).into())
}

impl Swarm {
    /// Makes a server hostile from now on.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn turn_hostile(&mut self, node: NodeId, kind: Hostility) {
        self.note(node, format_args!("is hostile: {}", kind.name()));
        let it = self.node(node);
        let rng = super::rng_of(it.seed, "hostile");
        it.hostile = Some(Hostile::new(kind, rng));
        let contact = Contact { id: node, addresses: vec![it.address] };
        self.accomplices.push(contact);
        match kind {
            Hostility::StuffsBuckets | Hostility::Floods | Hostility::GuessesNames => {
                self.foresee(MISCHIEF_EVERY, Event::Mischief(node));
            }
            _ => {}
        }
    }

    /// What a node does, if it is hostile.
    #[must_use]
    pub fn hostility(&self, node: NodeId) -> Option<Hostility> {
        self.nodes[&node].hostile.as_ref().map(|hostile| hostile.kind)
    }

    /// Has the set-stuffers announce themselves under a name that others use.
    pub fn stuff(&mut self, procedures: &[ProcedureName]) {
        let stuffers: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.is_alive)
            .filter(|(id, _)| self.hostility(**id) == Some(Hostility::StuffsSets))
            .map(|(id, _)| *id)
            .collect();
        for stuffer in stuffers {
            for procedure in procedures {
                // Past the most that it may advertise it is refused, and that is well.
                let _ = self.command(stuffer, |engine, _| engine.advertise(procedure.clone()));
            }
        }
    }

    pub(super) fn on_mischief(&mut self, id: NodeId) {
        self.foresee(MISCHIEF_EVERY, Event::Mischief(id));
        if self.hostility(id) == Some(Hostility::GuessesNames) {
            return self.guess(id);
        }
        let everybody: Vec<NodeId> = self.nodes.keys().copied().collect();
        let node = self.node(id);
        let Some(hostile) = &mut node.hostile else { return };
        let victims: Vec<_> =
            everybody.choose_multiple(&mut hostile.rng, VICTIMS).copied().collect();
        for victim in victims {
            if victim == id {
                continue;
            }
            let hostile = self.node(id).hostile.as_mut().expect("it was hostile just now");
            let target = Bytes::copy_from_slice(&hostile.rng.random::<[u8; 20]>());
            let body = match hostile.kind {
                Hostility::Floods => {
                    request::Body::FindNode(message::FindNode { target, realm: String::new() })
                }
                _ => request::Body::Ping(message::Ping {}),
            };
            self.bother(id, victim, body);
        }
        self.settle(id);
    }

    fn bother(&mut self, id: NodeId, victim: NodeId, body: request::Body) {
        let Some(hostile) = &mut self.node(id).hostile else { return };
        hostile.requests += 1;
        let request = RequestId(MISCHIEF + hostile.requests);
        let contact = Contact { id: victim, addresses: vec![self.nodes[&victim].address] };
        self.ask(id, &contact, Pending { id: request, body, repeatable: true, again: false });
    }

    /// Watches a name that another realm may have, with the servers nearest to its key.
    fn guess(&mut self, id: NodeId) {
        let mine = self.nodes[&id].me.identity.subject.realm().cloned();
        let realms: BTreeSet<_> =
            self.living().filter_map(|node| node.subject.realm().cloned()).collect();
        let others: Vec<_> =
            realms.into_iter().filter(|realm| Some(realm) != mine.as_ref()).collect();
        let Some(hostile) = &mut self.node(id).hostile else { return };
        let Some(realm) = others.choose(&mut hostile.rng) else { return };
        let name = super::life::procedure(hostile.rng.random_range(0..GUESSES));
        let key = Key::of(realm, Kind::Provider, name.as_str());
        let servers = self.living().filter(|node| node.grants.server && node.id != id);
        let mut servers: Vec<NodeId> = servers.map(|node| node.id).collect();
        servers.sort_by_key(|server| key.distance(*server));
        for server in servers.into_iter().take(VICTIMS) {
            let body = request::Body::FindValue(message::FindValue {
                key: Bytes::copy_from_slice(key.as_bytes()),
                lease_ms: u32::try_from(LEASE.as_millis()).expect("a lease is short"),
                ..message::FindValue::default()
            });
            self.bother(id, server, body);
        }
        self.settle(id);
    }
}
