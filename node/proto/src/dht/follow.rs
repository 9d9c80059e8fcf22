//! The names that this node follows: what stands under each, told as it changes
//! (docs/PROTOCOL.md §5.5).
//!
//! A name is looked up once. Then the storers nearest to its key are left a lease each, and push what
//! changes; the answer to a lease shows whatever came between. What one storer shows is merged with what
//! the others do, and what a publisher said stands until it says otherwise, or until it ends: that a
//! storer does not show it means no more than that the storer has lost it. When a lease cannot be had
//! or kept the name is looked up again.
//!
//! A publisher whose connection failed, here or at a storer, is asked itself. While it does not answer
//! it is not shown, and asked again at intervals: a storer's word alone hides nobody.

#[cfg(feature = "fuzz")]
mod check;
mod suspect;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{NodeId, RealmName};
use rand::Rng;

use super::ask::{Goal, Purpose};
use super::gather::{Found, FoundRecord, Gathered, Words};
use super::lease::LEASE;
use super::{Dht, LookupId, Output, RequestId};
use crate::error::{Code, Fault};
use crate::key::{Key, Kind, Scope};
use crate::record::{MAX_TTL, VerifiedRecord};
use crate::time::{Deadline, Now};
use crate::wire::{Contact, MAX_ADDRESSES, message};
use message::{request, response};

/// How many storers are left a lease: with a fifth of all hostile, one name in three thousand has no
/// honest one.
pub(super) const WATCHED: usize = 5;
/// The most publishers that are known under one name; past it those are forgotten that end first.
pub(super) const MAX_KNOWN: usize = 512;
/// How often a name is looked up again though its leases hold: a storer may be mistaken about who is near.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// How soon, at the most, after a storer was lost, or a nearer one has come.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// The least time between two looks because somebody nearer is said to have come: it may be a lie.
const LOOK_NEARER_AFTER: Duration = Duration::from_secs(60);
/// After a look that found nobody who gives a lease; then after twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// And at the latest after this.
const RETRY_WITHIN: Duration = Duration::from_secs(30);
/// How many looks of upkeep are under way at a time: when all storers start again at once, a node that
/// follows thousands of names shall not ask for all of them at once.
pub(super) const MAX_LOOKS: usize = 16;
/// A kind, and a name of that kind.
type Name = (Kind, String);

/// What stands under a name has changed for one publisher.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose word it is.
    pub publisher: NodeId,
    /// What it says; nothing when nothing of it stands any more.
    pub says: Option<FoundRecord>,
}

/// All names that this node follows.
#[derive(Debug, Default)]
pub(super) struct Following {
    all: BTreeMap<Name, Followed>,
    names: BTreeMap<Key, Name>,
    due: BTreeSet<(Instant, Name)>,
    looks: usize,
    suspects: BTreeMap<NodeId, suspect::Suspect>,
    /// Those that wait to be asked again.
    suspects_due: BTreeSet<(Instant, NodeId)>,
}

#[derive(Debug)]
struct Followed {
    key: Key,
    known: BTreeMap<NodeId, Known>,
    storers: BTreeMap<NodeId, Storer>,
    /// This node is itself one of those nearest to the key.
    is_storer: bool,
    look: Look,
    looked: Option<Instant>,
    /// Looks in a row that led to no lease.
    failures: u32,
    /// When it is due, unless all that is due waits for something.
    wake: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Look {
    At(Instant),
    UnderWay { lookup: LookupId, is_upkeep: bool },
}

#[derive(Debug)]
struct Known {
    found: FoundRecord,
    ends: Instant,
}

/// One that was asked for a lease.
#[derive(Debug)]
struct Storer {
    contact: Contact,
    /// What this node has of it.
    has: Option<message::Version>,
    /// Until when it pushes; at first, and when it has refused, not at all.
    until: Option<Instant>,
    renew: Renew,
}

#[derive(Debug)]
enum Renew {
    At(Instant),
    UnderWay(RequestId),
}

/// Who shows a record, and so whose word it is where its publisher is met.
#[derive(Clone, Copy, Debug)]
enum Shown {
    /// One storer's, which may mislead: it adds to what is known of the record.
    ByOne,
    /// All storers' that a look has asked so far, and most of them first.
    InLook,
}

impl Following {
    /// When to call [`Dht::follow_due`].
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let suspect = self.suspects_due.first();
        Deadline::earliest([
            self.due.first().map(|(at, _)| Deadline::new(*at, "watch")),
            suspect.map(|(at, _)| Deadline::new(*at, "publisher may be gone")),
        ])
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Notes when the name is due next.
    fn reschedule(&mut self, name: &Name) {
        let crowded = self.looks >= MAX_LOOKS;
        let Some(followed) = self.all.get_mut(name) else { return };
        let look = match followed.look {
            // The next look that ends makes room.
            Look::At(_) if crowded => None,
            Look::At(at) => Some(at),
            Look::UnderWay { .. } => None,
        };
        let renewals = followed.storers.values().flat_map(|storer| {
            let renew = match storer.renew {
                Renew::At(at) => Some(at),
                Renew::UnderWay(_) => None,
            };
            [renew, storer.until]
        });
        let ends = followed.known.values().map(|known| Some(known.ends));
        let wake = renewals.chain(ends).chain([look]).flatten().min();
        if let Some(before) = std::mem::replace(&mut followed.wake, wake) {
            self.due.remove(&(before, name.clone()));
        }
        self.due.extend(wake.map(|at| (at, name.clone())));
    }
}

impl Followed {
    fn is_held(&self) -> bool {
        self.is_storer || self.storers.values().any(|storer| storer.until.is_some())
    }

    /// How far away the farthest of those nearest to the key is.
    fn farthest(&self) -> Option<crate::key::Distance> {
        self.storers.keys().map(|id| self.key.distance(*id)).max()
    }

    /// Takes what was shown. Gives whether it is news that anybody wants to hear, and who made room.
    fn merge(&mut self, now: Now, news: FoundRecord, shown: Shown) -> (bool, Vec<NodeId>) {
        let record = &news.record.record;
        let left = Duration::from_millis(record.expiry_ms.saturating_sub(now.unix_ms));
        let ends = now.after(left.min(MAX_TTL));
        if ends <= now.instant {
            return (false, Vec::new());
        }
        let Some(known) = self.known.get_mut(&news.record.publisher.id) else {
            let stands = !record.withdrawn;
            self.known.insert(news.record.publisher.id, Known { found: news, ends });
            let mut forgotten = Vec::new();
            while self.known.len() > MAX_KNOWN {
                let first = self.known.iter().min_by_key(|(_, known)| known.ends);
                let first = *first.expect("there are more than none").0;
                self.known.remove(&first);
                forgotten.push(first);
            }
            return (stands, forgotten);
        };
        let before = &known.found.record.record;
        if record.order() < before.order() {
            return (false, Vec::new());
        }
        let same = before.kind == record.kind && before.withdrawn == record.withdrawn;
        let known_addresses = match before.incarnation == record.incarnation {
            true => &known.found.addresses[..],
            // Of another start it may be elsewhere.
            false => &[],
        };
        let (first, then) = match shown {
            Shown::ByOne if record.order() == before.order() => {
                (known_addresses, &news.addresses[..])
            }
            Shown::ByOne | Shown::InLook => (&news.addresses[..], known_addresses),
        };
        let mut seen = BTreeSet::new();
        let mut addresses: Vec<_> = first.iter().chain(then).copied().collect();
        addresses.retain(|address| seen.insert(*address));
        addresses.truncate(MAX_ADDRESSES);
        let moved = addresses != known.found.addresses;
        let withdrawn = record.withdrawn;
        *known = Known { found: FoundRecord { record: news.record, addresses }, ends };
        (!same || (moved && !withdrawn), Vec::new())
    }
}

impl Dht {
    /// Follows a name of this peer's realm: looks it up now, also when it is followed already, and
    /// tells of everything that changes by [`Output::Followed`], until [`Dht::unfollow`].
    pub fn follow(&mut self, now: Now, kind: Kind, name: &str) {
        let name = (kind, name.to_owned());
        let Some(realm) = self.my_realm() else {
            return self.on_followed(&name, Vec::new(), true);
        };
        let key = Key::of(realm, kind, &name.1);
        let followed = self.following.all.entry(name.clone()).or_insert_with(|| Followed {
            key,
            known: BTreeMap::new(),
            storers: BTreeMap::new(),
            is_storer: false,
            look: Look::At(now.instant),
            looked: None,
            failures: 0,
            wake: None,
        });
        self.following.names.insert(key, name.clone());
        if let Look::At(_) = followed.look {
            self.look(now, &name, false);
        }
    }

    /// Follows a name no longer. Its storers hear of it with their next push.
    pub fn unfollow(&mut self, kind: Kind, name: &str) {
        let name = (kind, name.to_owned());
        let Some(followed) = self.following.all.remove(&name) else { return };
        if let Some(wake) = followed.wake {
            self.following.due.remove(&(wake, name));
        }
        self.following.names.remove(&followed.key);
        if let Look::UnderWay { lookup, is_upkeep } = followed.look {
            self.following.looks -= usize::from(is_upkeep);
            self.drop_lookup(lookup);
        }
    }

    /// How many names are followed.
    #[must_use]
    pub fn followed(&self) -> usize {
        self.following.len()
    }

    fn look(&mut self, now: Now, name: &Name, is_upkeep: bool) {
        let realm = self.my_realm().expect("only a peer follows").clone();
        let gathered = self.gather(now, &realm, name.0, &name.1);
        // Told before it starts, since without servers it ends at once.
        let look = Look::UnderWay { lookup: LookupId(self.next_lookup), is_upkeep };
        let Some(followed) = self.following.all.get_mut(name) else { return };
        let target = followed.key;
        followed.look = look;
        self.following.looks += usize::from(is_upkeep);
        self.following.reschedule(name);
        let goal = Goal::Follow(gathered, name.clone());
        self.start_lookup(now, target, Scope::Realm(realm), goal);
    }

    /// A look has shown something, and goes on.
    pub(super) fn on_glimpsed(&mut self, now: Now, name: &Name, words: Words) {
        let changes = self.merge_all(now, name, words, Shown::InLook);
        if !changes.is_empty() {
            self.following.reschedule(name);
            self.on_followed(name, changes, false);
        }
    }

    /// A look has ended: what it found is told, and the nearest are asked for leases.
    pub(super) fn on_looked(
        &mut self,
        now: Now,
        name: &Name,
        found: Found,
        mut versions: BTreeMap<NodeId, message::Version>,
    ) {
        let serves = self.my_realm().cloned().is_some_and(|it| self.serves(&Scope::Realm(it)));
        let me = self.me.identity.id;
        let Some(followed) = self.following.all.get_mut(name) else { return };
        let Look::UnderWay { is_upkeep, .. } = followed.look else { return };
        self.following.looks -= usize::from(is_upkeep);
        followed.looked = Some(now.instant);
        let nearest = &found.closest[..found.closest.len().min(WATCHED)];
        followed.is_storer = serves
            && nearest
                .get(WATCHED - 1)
                .is_none_or(|last| followed.key.distance(me) < followed.key.distance(last.id));
        followed.storers.retain(|id, _| nearest.iter().any(|near| near.id == *id));
        for contact in nearest {
            let has = versions.remove(&contact.id).filter(|_| found.complete);
            followed.storers.entry(contact.id).or_insert_with(|| Storer {
                contact: contact.clone(),
                has,
                until: None,
                renew: Renew::At(now.instant),
            });
        }
        let pause = if followed.storers.is_empty() && !followed.is_storer {
            followed.failures += 1;
            backoff(RETRY_AFTER, followed.failures, RETRY_WITHIN)
        } else {
            LOOK_EVERY
        };
        followed.look = Look::At(now.after(pause.mul_f64(self.rng.random_range(0.8..1.0))));
        let changes = self.merge_all(now, name, (found.records, found.withdrawn), Shown::InLook);
        self.on_followed(name, changes, true);
        self.follow_name(now, name);
        self.wake_a_look(now);
    }

    /// A look has ended, so that another may begin.
    fn wake_a_look(&mut self, now: Now) {
        let waiting = self
            .following
            .all
            .iter()
            .filter(|(_, followed)| matches!(followed.look, Look::At(at) if at <= now.instant));
        if let Some(name) = waiting.map(|(name, _)| name.clone()).next() {
            self.following.reschedule(&name);
        }
    }

    fn on_followed(&mut self, name: &Name, changes: Vec<Change>, looked: bool) {
        let held = self.following.all.get(name).is_some_and(Followed::is_held);
        let (kind, name) = name.clone();
        self.outputs.push_back(Output::Followed { kind, name, changes, looked, held });
    }

    /// What is due of all that is followed.
    pub(super) fn follow_due(&mut self, now: Now) {
        while let Some((at, name)) = self.following.due.first()
            && *at <= now.instant
        {
            let name = name.clone();
            self.follow_name(now, &name);
        }
        while let Some(&(at, node)) = self.following.suspects_due.first()
            && at <= now.instant
        {
            self.ask_suspect(now, node);
        }
    }

    /// What is due of one name.
    fn follow_name(&mut self, now: Now, name: &Name) {
        let Some(followed) = self.following.all.get_mut(name) else { return };
        let was_held = followed.is_held();
        let key = followed.key;
        let mut ended = Vec::new();
        followed.known.retain(|id, known| {
            let stands = known.ends > now.instant;
            if !stands && !known.found.record.record.withdrawn {
                ended.push(*id);
            }
            stands
        });
        let mut renew = Vec::new();
        for (id, storer) in &mut followed.storers {
            if storer.until.is_some_and(|until| until <= now.instant) {
                storer.until = None;
            }
            if matches!(storer.renew, Renew::At(at) if at <= now.instant) {
                renew.push((*id, storer.contact.clone(), storer.has));
            }
        }
        let look = matches!(followed.look, Look::At(at) if at <= now.instant);
        for (id, contact, has) in renew {
            let body = request::Body::FindValue(message::FindValue {
                key: Bytes::copy_from_slice(key.as_bytes()),
                realm: String::new(),
                lease_ms: u32::try_from(LEASE.as_millis()).expect("a lease is short"),
                has,
            });
            let request = self.send(now, contact, body, Purpose::Lease(name.clone()));
            let followed = self.following.all.get_mut(name).expect("it is looked at");
            let storer = followed.storers.get_mut(&id).expect("it is looked at");
            storer.renew = Renew::UnderWay(request);
        }
        if look && self.following.looks < MAX_LOOKS {
            self.look(now, name, true);
        }
        self.following.reschedule(name);
        let is_held = self.following.all.get(name).is_some_and(Followed::is_held);
        let changes: Vec<_> =
            ended.into_iter().map(|publisher| Change { publisher, says: None }).collect();
        if !changes.is_empty() || was_held != is_held {
            self.on_followed(name, changes, false);
        }
    }

    /// A storer has answered to a request for a lease, or cannot.
    pub(super) fn on_lease_response(
        &mut self,
        now: Now,
        name: &Name,
        (from, id): (NodeId, RequestId),
        result: Result<response::Body, Fault>,
    ) {
        let Some(followed) = self.following.all.get_mut(name) else { return };
        let Some(storer) = followed.storers.get_mut(&from) else { return };
        if !matches!(storer.renew, Renew::UnderWay(current) if current == id) {
            return;
        }
        let was_held = followed.is_held();
        let storer = followed.storers.get_mut(&from).expect("looked for above");
        let Ok(response::Body::Values(values)) = result else {
            self.lose_storer(now, name, from);
            return;
        };
        let lease = Duration::from_millis(values.lease_ms.into()).min(LEASE);
        storer.has = values.version.filter(|_| !values.truncated);
        storer.until = (lease > Duration::ZERO).then(|| now.after(lease));
        // Without a lease it is asked again as often as a name was before there were leases.
        let failures = if storer.until.is_some() { 0 } else { followed.failures + 1 };
        followed.failures = failures;
        let pause = match failures {
            // However short a lease somebody gives, it is not asked for without a pause.
            0 => (lease / 2).max(RETRY_AFTER),
            failures => backoff(RETRY_AFTER * 5, failures, RETRY_WITHIN),
        };
        storer.renew = Renew::At(now.after(pause.mul_f64(self.rng.random_range(0.8..1.0))));
        let nearer = values.closest.iter().any(|contact| {
            NodeId::try_from(&contact.id[..]).is_ok_and(|id| {
                let is_known = followed.storers.contains_key(&id);
                let has_room = followed.storers.len() < WATCHED;
                let distance = followed.key.distance(id);
                !is_known && (has_room || followed.farthest().is_none_or(|far| distance < far))
            })
        });
        let lately = followed.looked.is_some_and(|at| now.instant < at + LOOK_NEARER_AFTER);
        if nearer && !lately {
            self.look_soon(now, name);
        }
        let is_held = self.following.all.get(name).is_some_and(Followed::is_held);
        self.take_in(now, name, values.records, from, is_held != was_held);
        self.following.reschedule(name);
    }

    /// A storer will not push any more: another takes its place.
    fn lose_storer(&mut self, now: Now, name: &Name, storer: NodeId) {
        let Some(followed) = self.following.all.get_mut(name) else { return };
        let was_held = followed.is_held();
        if followed.storers.remove(&storer).is_none() {
            return;
        }
        let is_held = followed.is_held();
        self.look_soon(now, name);
        if was_held && !is_held {
            self.on_followed(name, Vec::new(), false);
        }
    }

    fn look_soon(&mut self, now: Now, name: &Name) {
        let spread = self.rng.random_range(0.1..1.0);
        let Some(followed) = self.following.all.get_mut(name) else { return };
        if let Look::At(at) = followed.look {
            // Whoever has looked in vain lately does so with its own pauses.
            let pause = match followed.failures {
                0 => LOOK_SOON,
                failures => backoff(RETRY_AFTER, failures, RETRY_WITHIN),
            };
            followed.look = Look::At(at.min(now.after(pause.mul_f64(spread))));
        }
        self.following.reschedule(name);
    }

    /// A storer pushes what has changed.
    ///
    /// # Errors
    /// `not_watching` unless this node has a lease with it; `invalid_request` for what is no key.
    pub(super) fn on_changed(
        &mut self,
        now: Now,
        from: NodeId,
        changed: message::Changed,
    ) -> Result<(), Fault> {
        let message::Changed { key, since, count, records, lost, truncated } = changed;
        let key = Key::try_from(&key[..])
            .map_err(|error| Fault::new(Code::InvalidRequest, error.to_string()))?;
        let name = self.following.names.get(&key).cloned();
        let name = name.ok_or_else(|| Fault::of(Code::NotWatching))?;
        let followed =
            self.following.all.get_mut(&name).expect("names are those of what is followed");
        let Some(storer) = followed.storers.get_mut(&from) else {
            return Err(Fault::of(Code::NotWatching));
        };
        let follows = since.is_some() && since == storer.has && !truncated;
        let is_old = matches!((since, storer.has), (Some(since), Some(has))
            if since.epoch == has.epoch && count <= has.count);
        if follows {
            let epoch = since.map_or(0, |since| since.epoch);
            storer.has = Some(message::Version { epoch, count });
        } else if !is_old {
            // Something is missing between what this node has and this: it asks for all that it lacks.
            if truncated {
                storer.has = None;
            }
            if let Renew::At(_) = storer.renew {
                storer.renew = Renew::At(now.instant);
            }
        }
        self.take_in(now, &name, records, from, false);
        for publisher in lost {
            let Ok(publisher) = NodeId::try_from(&publisher[..]) else { continue };
            // Of others this storer says nothing under this key, and to look for each is work.
            let followed = &self.following.all[&name];
            if followed.known.contains_key(&publisher) {
                self.suspect(now, publisher);
            }
        }
        self.follow_name(now, &name);
        Ok(())
    }

    /// Takes in what a storer shows, verified; with `tell`, whether it is held has changed too.
    fn take_in(
        &mut self,
        now: Now,
        name: &Name,
        records: Vec<message::StoredRecord>,
        from: NodeId,
        tell: bool,
    ) {
        let Some(followed) = self.following.all.get(name) else { return };
        let realm: RealmName = self.my_realm().expect("only a peer follows").clone();
        let mut gathered = Gathered::new(realm, followed.key);
        let here = self.tables.get(from).map(|contact| contact.addresses.as_slice());
        let refused = gathered.add_all(now, &mut self.verifier, records, (from, here));
        self.counters.records_refused += refused;
        let (words, _) = gathered.finish();
        let changes = self.merge_all(now, name, words, Shown::ByOne);
        if tell || !changes.is_empty() {
            self.on_followed(name, changes, false);
        }
    }

    /// Something has changed in this node's own store.
    pub(super) fn follow_own(
        &mut self,
        now: Now,
        verified: &VerifiedRecord,
        observed: Option<SocketAddr>,
    ) {
        let Some(name) = self.following.names.get(&verified.record.key()).cloned() else { return };
        let addresses = observed.into_iter().collect();
        let found = FoundRecord { record: verified.clone(), addresses };
        let words = match verified.record.withdrawn {
            true => (Vec::new(), vec![found.record]),
            false => (vec![found], Vec::new()),
        };
        let changes = self.merge_all(now, &name, words, Shown::ByOne);
        if !changes.is_empty() {
            self.on_followed(&name, changes, false);
        }
        self.following.reschedule(&name);
    }

    fn merge_all(
        &mut self,
        now: Now,
        name: &Name,
        (records, withdrawn): Words,
        shown: Shown,
    ) -> Vec<Change> {
        let withdrawn = withdrawn.into_iter();
        let withdrawn = withdrawn.map(|record| FoundRecord { record, addresses: Vec::new() });
        let mut changes = Vec::new();
        for news in records.into_iter().chain(withdrawn) {
            let publisher = news.record.publisher.id;
            let Some(followed) = self.following.all.get_mut(name) else { break };
            let order = news.record.record.order();
            let before = followed.known.get(&publisher).map(|it| it.found.record.record.order());
            let (is_news, forgotten) = followed.merge(now, news, shown);
            // Whoever is not known any more would not be told of when its record ends.
            changes.extend(forgotten.into_iter().map(|publisher| Change { publisher, says: None }));
            let is_later = before.is_some_and(|before| before < order);
            if is_later && self.following.is_hidden(publisher) {
                // It has spoken since it was taken for gone.
                changes.extend(self.unhide(publisher, name));
            } else if is_news && !self.following.is_hidden(publisher) {
                changes.extend(self.shown(name, publisher));
            }
        }
        changes
    }

    /// What stands of a publisher under a name.
    fn shown(&self, name: &Name, publisher: NodeId) -> Option<Change> {
        let known = self.following.all.get(name)?.known.get(&publisher)?;
        let stands = !known.found.record.record.withdrawn;
        Some(Change { publisher, says: stands.then(|| known.found.clone()) })
    }

    /// The names under which something of this publisher stands.
    fn names_of(&self, publisher: NodeId) -> Vec<Name> {
        let of = self.following.all.iter().filter(|(_, followed)| {
            let known = followed.known.get(&publisher);
            known.is_some_and(|known| !known.found.record.record.withdrawn)
        });
        of.map(|(name, _)| name.clone()).collect()
    }

    /// The connection to a node has failed. If it publishes under a followed name it is asked whether
    /// it lives; if it stores one, another takes its place.
    pub(super) fn follow_failed(&mut self, now: Now, node: NodeId) {
        let storing = self.following.all.iter().filter(|(_, it)| it.storers.contains_key(&node));
        let names: Vec<_> = storing.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.lose_storer(now, &name, node);
        }
        self.suspect(now, node);
    }
}

/// Twice as long after each failure, the first counted as one.
fn backoff(first: Duration, failures: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
}
