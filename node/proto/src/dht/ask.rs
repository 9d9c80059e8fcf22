//! The requests and lookups that this node has under way.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{NodeId, Place};

use super::gather::{Found, Gathered};
use super::lookup::{Lookup, PATHS};
use super::{Dht, K, LookupId, Output, RequestId, announce, dialable, is_gone};
use crate::error::{Code, Fault};
use crate::key::{Key, Kind, Scope};
use crate::name::RealmName;
use crate::time::{Deadline, Now};
use crate::wire::{Contact, MAX_ADDRESSES, message};
use message::{request, response};

/// Requests without an answer.
#[derive(Debug, Default)]
pub(super) struct Requests {
    next: u64,
    /// All have the same timeout and time never goes back, so the first is due first.
    pending: BTreeMap<RequestId, Pending>,
    /// When requests of lookups become slow, in order.
    slow: VecDeque<(Instant, RequestId)>,
}

#[derive(Debug)]
struct Pending {
    to: NodeId,
    purpose: Purpose,
    deadline: Instant,
}

/// What a request is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// To see whether the node lives.
    Ping,
    /// One step of a lookup, which may have ended meanwhile.
    Lookup(LookupId),
    /// One node's part in a round of an announcement or withdrawal.
    Round(announce::Round),
    /// A lease on a followed name.
    Lease((Kind, String)),
    /// To see whether a publisher of a followed name lives.
    Suspect,
    /// To tell the holder of a lease what has changed under this key.
    Push(Key),
    /// To bring the node what others have published.
    Replica,
}

impl Requests {
    /// When to call [`Dht::time_out_requests`].
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let timeout = self.pending.first_key_value();
        Deadline::earliest([
            timeout.map(|(_, pending)| Deadline::new(pending.deadline, "request timeout")),
            self.slow.front().map(|(at, _)| Deadline::new(*at, "slow request")),
        ])
    }

    fn remove(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.pending.remove(&id);
        while let Some((_, first)) = self.slow.front()
            && !self.pending.contains_key(first)
        {
            self.slow.pop_front();
        }
        pending
    }
}

/// A lookup with what it is for.
#[derive(Debug)]
pub(super) struct Running {
    lookup: Lookup,
    scope: Scope,
    goal: Goal,
    deadline: Instant,
}

/// The longest that a lookup takes. One that meets twenty dead seeds takes five seconds; a liar who
/// spins it out is cut off before those give up who commonly wait ten for what it finds.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(8);
/// How much infrastructure every lookup for a realm asks, however near the realm's own servers are, and
/// every announcement tells: one for each path to start with. Its certificates are the operator's own, so
/// that whoever surrounds a key with peers does not hide it.
const INFRASTRUCTURE_ASKED: usize = PATHS;

/// What a lookup is for.
#[derive(Debug)]
pub(super) enum Goal {
    /// The caller wants the nearest nodes.
    Nodes,
    /// The caller wants the records.
    Values(Gathered),
    /// A followed name wants the records, and who keeps them.
    Follow(Gathered, (Kind, String)),
    /// A round of an announcement wants to know who shall keep it.
    Round(announce::Round),
    /// The table of this scope wants filling.
    Upkeep,
}

impl Dht {
    /// Looks for the servers nearest to a place. Ends with [`Output::Found`].
    pub fn find_nodes(&mut self, now: Now, target: Key, scope: Scope) -> LookupId {
        self.start_lookup(now, target, scope, Goal::Nodes)
    }

    /// Looks for a realm's records under a name: asks the k nearest servers, takes this node's own
    /// store as one more, and merges what they have. Ends with [`Output::Found`]. A peer finds
    /// nothing in another realm.
    pub fn find_values(&mut self, now: Now, realm: &RealmName, kind: Kind, name: &str) -> LookupId {
        let gathered = self.gather(now, realm, kind, name);
        let (target, scope) = (Key::of(realm, kind, name), Scope::Realm(realm.clone()));
        self.start_lookup(now, target, scope, Goal::Values(gathered))
    }

    /// What this node's own store has under a name.
    pub(super) fn gather(
        &mut self,
        now: Now,
        realm: &RealmName,
        kind: Kind,
        name: &str,
    ) -> Gathered {
        let target = Key::of(realm, kind, name);
        let mut gathered = Gathered::new(realm.clone(), target);
        if self.serves(&Scope::Realm(realm.clone())) {
            for (_, entry) in self.store.find(now, target, realm, self.me.identity.id) {
                let addresses = entry.addresses.clone();
                gathered.add(now, &mut self.verifier, &entry.signed, addresses);
            }
        }
        gathered
    }

    pub(super) fn start_lookup(
        &mut self,
        now: Now,
        target: Key,
        scope: Scope,
        goal: Goal,
    ) -> LookupId {
        let id = LookupId(self.next_lookup);
        self.next_lookup += 1;
        self.counters.lookups_started += 1;
        let seeds = self.tables.closest(target, &scope, K, None);
        let always = match &scope {
            Scope::Infrastructure => Vec::new(),
            Scope::Realm(_) => {
                self.tables.closest(target, &Scope::Infrastructure, INFRASTRUCTURE_ASKED, None)
            }
        };
        let lookup = Lookup::with_infrastructure(target, self.me.identity.id, always, seeds);
        let deadline = now.after(LOOKUP_DEADLINE);
        self.lookups.insert(id, Running { lookup, scope, goal, deadline });
        self.drive(now, id);
        id
    }

    /// Forgets a lookup. Answers that are under way still tell who lives.
    pub(super) fn drop_lookup(&mut self, id: LookupId) {
        self.lookups.remove(&id);
    }

    /// Asks whom the lookup wants asked, and ends it when there is nobody left.
    fn drive(&mut self, now: Now, id: LookupId) {
        let Some(running) = self.lookups.get_mut(&id) else { return };
        let mut to_ask = Vec::new();
        while let Some(contact) = running.lookup.poll_ask() {
            if self.rests.is_resting(now, contact.id) {
                running.lookup.on_skipped(contact.id);
            } else {
                to_ask.push(contact);
            }
        }
        if running.lookup.is_finished() {
            let running = self.lookups.remove(&id).expect("looked for above");
            self.finish(now, id, running);
            return;
        }
        let place = Bytes::copy_from_slice(running.lookup.target().as_bytes());
        // Realms are named by infrastructure only; of a peer, its certificate says.
        let realm = match (&running.scope, &self.me.identity.subject.place) {
            (Scope::Realm(realm), Place::Bootstrap | Place::Gateway) => realm.to_string(),
            (Scope::Realm(_), Place::Realm(_)) | (Scope::Infrastructure, _) => String::new(),
        };
        let body = match running.goal {
            Goal::Nodes | Goal::Round(_) | Goal::Upkeep => {
                request::Body::FindNode(message::FindNode { target: place, realm })
            }
            Goal::Values(_) | Goal::Follow(..) => {
                let (key, lease_ms, has) = (place, 0, None);
                request::Body::FindValue(message::FindValue { key, realm, lease_ms, has })
            }
        };
        for contact in to_ask {
            let request = self.send(now, contact, body.clone(), Purpose::Lookup(id));
            self.requests.slow.push_back((now.after(self.config.slow_after), request));
        }
    }

    fn finish(&mut self, now: Now, id: LookupId, running: Running) {
        self.counters.lookups_finished += 1;
        let Running { lookup, scope, goal, deadline: _ } = running;
        let is_complete = lookup.is_complete() && (lookup.answered() > 0 || self.serves(&scope));
        let (mut gathered, name) = match goal {
            Goal::Nodes => (None, None),
            Goal::Values(gathered) => (Some(gathered), None),
            Goal::Follow(gathered, name) => (Some(gathered), Some(name)),
            Goal::Round(round) => return self.on_keepers(now, &round, &lookup),
            Goal::Upkeep => return self.on_upkept(now, scope),
        };
        let versions = gathered.as_mut().map(Gathered::take_versions).unwrap_or_default();
        let ((records, withdrawn), is_truncated) =
            gathered.map(Gathered::finish).unwrap_or_default();
        let found = Found {
            records,
            withdrawn,
            closest: lookup.closest(),
            asked: lookup.asked(),
            answered: lookup.answered(),
            rounds: lookup.rounds(),
            complete: is_complete && !is_truncated,
        };
        match name {
            Some(name) => self.on_looked(now, &name, found, versions),
            None => self.outputs.push_back(Output::Found { lookup: id, found }),
        }
    }

    pub(super) fn send(
        &mut self,
        now: Now,
        to: Contact,
        body: request::Body,
        purpose: Purpose,
    ) -> RequestId {
        let id = RequestId(self.requests.next);
        self.requests.next += 1;
        self.counters.requests_sent += 1;
        let deadline = now.after(self.config.request_timeout);
        self.requests.pending.insert(id, Pending { to: to.id, purpose, deadline });
        self.outputs.push_back(Output::Request { id, to, body });
        id
    }

    /// Asks a node whether it lives.
    pub(super) fn ping(&mut self, now: Now, to: Contact) {
        self.send(now, to, request::Body::Ping(message::Ping {}), Purpose::Ping);
    }

    /// The answer to a request, or why there is none. What nobody waits for is ignored. A node
    /// that cannot be reached leaves its table.
    pub fn handle_response(
        &mut self,
        now: Now,
        id: RequestId,
        result: Result<response::Body, Fault>,
    ) {
        let Some(Pending { to, purpose, .. }) = self.requests.remove(id) else { return };
        let result = result.and_then(|body| match body {
            response::Body::Failure(failure) => Err(failure.into()),
            response::Body::Pong(_)
            | response::Body::Nodes(_)
            | response::Body::Values(_)
            | response::Body::Stored(_)
            | response::Body::Deleted(_)
            | response::Body::Answer(_)
            | response::Body::Noted(_) => Ok(body),
        });
        match &result {
            Err(fault) if is_gone(fault) => self.forget(now, to),
            Ok(_) | Err(_) => self.tables.touch(now.instant, to),
        }
        if let Err(fault) = &result {
            self.counters.requests_failed += 1;
            self.note_pause(now, to, fault);
        }
        match purpose {
            Purpose::Ping => {}
            Purpose::Lookup(lookup) => {
                self.on_lookup_response(now, lookup, to, result);
                self.tell_glimpsed(now, lookup);
                self.drive(now, lookup);
            }
            Purpose::Round(round) => self.on_round_response(now, &round, result),
            Purpose::Lease(name) => self.on_lease_response(now, &name, (to, id), result),
            Purpose::Suspect => self.on_suspect_response(now, to, &result),
            Purpose::Push(key) => self.on_push_response(now, (key, to), id, result),
            Purpose::Replica => self.on_replicated(now, &result),
        }
    }

    fn on_lookup_response(
        &mut self,
        now: Now,
        id: LookupId,
        from: NodeId,
        result: Result<response::Body, Fault>,
    ) {
        let Some(running) = self.lookups.get_mut(&id) else { return };
        let contacts = match (&mut running.goal, result) {
            (
                Goal::Values(gathered) | Goal::Follow(gathered, _),
                Ok(response::Body::Values(values)),
            ) => {
                let here = self.tables.get(from).map(|contact| contact.addresses.as_slice());
                let refused =
                    gathered.add_all(now, &mut self.verifier, values.records, (from, here));
                self.counters.records_refused += refused;
                gathered.note_truncated(values.truncated);
                if let (false, Some(version)) = (values.truncated, values.version) {
                    gathered.note_version(from, version);
                }
                values.closest
            }
            (Goal::Nodes | Goal::Round(_) | Goal::Upkeep, Ok(response::Body::Nodes(nodes))) => {
                nodes.closest
            }
            // An answer to something else, or none.
            (_, Ok(_)) => return running.lookup.on_refusal(from),
            (_, Err(fault)) if is_gone(&fault) => return running.lookup.on_failure(from),
            (_, Err(_)) => return running.lookup.on_refusal(from),
        };
        let tables = &self.tables;
        let contacts = contacts.into_iter().filter_map(|contact| {
            let mut contact = Contact::try_from(contact).ok()?;
            // Where we met it ourselves comes first: others may be mistaken, or lie.
            let met = tables.get(contact.id).map(|met| met.addresses.clone()).unwrap_or_default();
            let told = dialable(contact.addresses);
            contact.addresses = met.into_iter().chain(told).take(MAX_ADDRESSES).collect();
            Some(contact)
        });
        running.lookup.on_answer(from, contacts);
    }

    /// What a look for a followed name has shown is told at once: whoever waits for it does not wait for
    /// the slowest of those asked.
    fn tell_glimpsed(&mut self, now: Now, id: LookupId) {
        let Some(running) = self.lookups.get_mut(&id) else { return };
        if let Goal::Follow(gathered, name) = &mut running.goal {
            let (words, name) = (gathered.take_fresh(), name.clone());
            self.on_glimpsed(now, &name, words);
        }
    }

    /// When to call [`Dht::stop_lookups`].
    pub(super) fn poll_lookup_timeout(&self) -> Option<Deadline> {
        // All may take as long and time never goes back, so the first is due first.
        let (_, running) = self.lookups.first_key_value()?;
        Some(Deadline::new(running.deadline, "lookup deadline"))
    }

    /// Ends the lookups whose time is up with what they have found.
    pub(super) fn stop_lookups(&mut self, now: Now) {
        while let Some(mut entry) = self.lookups.first_entry()
            && entry.get().deadline <= now.instant
        {
            let id = *entry.key();
            entry.get_mut().lookup.stop();
            self.drive(now, id);
        }
    }

    /// Fails the requests whose time is up, and lets lookups ask beside those that are slow.
    pub(super) fn time_out_requests(&mut self, now: Now) {
        while let Some((&id, pending)) = self.requests.pending.first_key_value()
            && pending.deadline <= now.instant
        {
            self.outputs.push_back(Output::Cancel { id });
            let because = format!("no answer within {:?}", self.config.request_timeout);
            self.handle_response(now, id, Err(Fault::new(Code::Timeout, because)));
        }
        while let Some(&(at, id)) = self.requests.slow.front()
            && at <= now.instant
        {
            self.requests.slow.pop_front();
            let Some(pending) = self.requests.pending.get(&id) else { continue };
            if let Purpose::Lookup(lookup) = pending.purpose {
                let node = pending.to;
                if let Some(running) = self.lookups.get_mut(&lookup) {
                    running.lookup.on_slow(node);
                }
                self.drive(now, lookup);
            }
        }
    }

    /// Fails every request to a node that is gone.
    pub(super) fn fail_requests_of(&mut self, now: Now, node: NodeId) {
        let pending = self.requests.pending.iter();
        let ids: Vec<_> = pending.filter(|(_, p)| p.to == node).map(|(id, _)| *id).collect();
        for id in ids {
            let fault = Fault::new(Code::Unreachable, "its connection ended");
            self.handle_response(now, id, Err(fault));
        }
    }
}
