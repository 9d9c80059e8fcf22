//! What this node says of itself: records that it signs, stores at the k nearest servers, repeats
//! while they stand, and withdraws.
//!
//! Each publication is a round: sign, look up the nearest, STORE at each. A round's number is its
//! record's sequence, so an answer that belongs to an earlier round is known by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use macula_identity::NodeId;
use rand::Rng;

use super::ask::{Goal, Purpose};
use super::follow::WATCHED;
use super::lookup::Lookup;
use super::{Dht, K, LookupId, Output};
use crate::error::{Code, Fault};
use crate::key::{Key, Kind, Scope};
use crate::name::RealmName;
use crate::record::{self, Record};
use crate::time::{Deadline, Now};
use crate::wire::{Contact, message};
use message::{request, response};

/// How many rounds are under way at a time: a node that renews its certificate signs everything
/// anew, and shall not send all of it at once.
pub(super) const MAX_ROUNDS: usize = 16;
/// After a round that nobody but this node kept, the next follows this soon, then after twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often the nearest of those who keep something are pinged: it keeps the connections in use, so
/// that they notice when this node is gone.
const GUARD_EVERY: Duration = Duration::from_secs(45);
/// The most that are pinged at a time.
pub(super) const MAX_GUARDS: usize = 64;
/// After a server came that is nearer than those who keep something, the next round follows this soon:
/// a node that joins meets many.
const NEARER_AFTER: Duration = Duration::from_secs(2);

/// What is announced: a kind, and a name of that kind.
type Name = (Kind, String);

/// One publication, or a withdrawal.
#[derive(Clone, Debug)]
pub(super) struct Round {
    name: Name,
    sequence: u64,
}

/// All that this node announces.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    all: BTreeMap<Name, Announcement>,
    /// Those that wait, by when they are due.
    due: BTreeSet<(Instant, Name)>,
    /// Rounds under way.
    running: usize,
    sequence: u64,
    /// When the nearest of those who keep something are pinged next.
    guard_at: Option<Instant>,
}

#[derive(Debug)]
struct Announcement {
    kind: record::Kind,
    phase: Phase,
    /// Who was sent the record, and until when it may keep it: whom a withdrawal must reach.
    holders: BTreeMap<NodeId, (Contact, Instant)>,
    /// Rounds in a row that nobody but this node kept.
    failures: u32,
    /// The round under way has an old certificate; the next follows at once.
    is_outdated: bool,
}

#[derive(Debug)]
enum Phase {
    Waiting { due: Instant },
    Finding { sequence: u64, lookup: LookupId, signed: message::SignedRecord },
    Storing { sequence: u64, waiting: usize, kept: Kept, refused: Option<Fault> },
    Withdrawing { sequence: u64, waiting: usize, deleted: usize },
}

/// Who keeps what was announced.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    here: bool,
    elsewhere: usize,
}

impl Phase {
    const fn is_round(&self) -> bool {
        match self {
            Self::Finding { .. } | Self::Storing { .. } => true,
            Self::Waiting { .. } | Self::Withdrawing { .. } => false,
        }
    }
}

impl Announcements {
    /// When to call [`Dht::start_due_rounds`].
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let due = self.due.first().filter(|_| self.running < MAX_ROUNDS);
        Deadline::earliest([
            due.map(|(at, _)| Deadline::new(*at, "record republish")),
            self.guard_at.map(|at| Deadline::new(at, "keepers are pinged")),
        ])
    }

    /// Changes the phase, and gives the one before.
    fn enter(&mut self, name: &Name, phase: Phase) -> Option<Phase> {
        let announcement = self.all.get_mut(name)?;
        if let Phase::Waiting { due } = &phase {
            self.due.insert((*due, name.clone()));
        }
        self.running += usize::from(phase.is_round());
        let before = std::mem::replace(&mut announcement.phase, phase);
        self.leave(name, &before);
        Some(before)
    }

    fn leave(&mut self, name: &Name, before: &Phase) {
        self.running -= usize::from(before.is_round());
        if let Phase::Waiting { due } = before {
            let is_due_again = matches!(
                self.all.get(name), Some(Announcement { phase: Phase::Waiting { due: again }, .. })
                    if again == due
            );
            if !is_due_again {
                self.due.remove(&(*due, name.clone()));
            }
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(announcement) = self.all.remove(name) {
            self.leave(name, &announcement.phase);
        }
    }
}

impl Dht {
    /// Says that this peer provides a procedure, or subscribes to patterns that share the
    /// rendezvous `name`; replaces what it said before under that name, also its withdrawal. Each
    /// round ends with [`Output::Announced`]. What no storer would take, such as too many patterns,
    /// is `refused` there at once, and what was announced before stands.
    pub fn announce(&mut self, now: Now, kind: record::Kind, name: &str) {
        let name = (kind.key_kind(), name.to_owned());
        if let Err(fault) = self.sign_next(now, &name, kind.clone(), false) {
            return self.on_announced(name, 0, Some(fault));
        }
        let phase = Phase::Waiting { due: now.instant };
        if let Some(before) = self.announcements.enter(&name, phase) {
            self.abandon(&before);
            let known = self.announcements.all.get_mut(&name).expect("entered just now");
            known.kind = kind;
            known.failures = 0;
        } else {
            let announcement = Announcement {
                kind,
                phase: Phase::Waiting { due: now.instant },
                holders: BTreeMap::new(),
                failures: 0,
                is_outdated: false,
            };
            self.announcements.due.insert((now.instant, name.clone()));
            self.announcements.all.insert(name, announcement);
            let guard_at = now.after(GUARD_EVERY);
            self.announcements.guard_at.get_or_insert(guard_at);
        }
        self.start_due_rounds(now);
    }

    /// Takes back what was announced, from everybody who may keep it. Ends with
    /// [`Output::Withdrawn`].
    pub fn withdraw(&mut self, now: Now, kind: Kind, name: &str) {
        let name = (kind, name.to_owned());
        match self.announcements.all.get(&name) {
            None => return self.on_withdrawn(name, 0),
            Some(Announcement { phase: Phase::Withdrawing { .. }, .. }) => return,
            Some(_) => {}
        }
        let withdrawal = match kind {
            Kind::Subscriber => record::Kind::Subscriber { patterns: Vec::new() },
            Kind::Provider => record::Kind::Provider,
        };
        let Ok((sequence, signed)) = self.sign_next(now, &name, withdrawal, true) else {
            // Without a certificate that stands, the records end with the one before.
            return self.on_withdrawn(name, 0);
        };
        let known = self.announcements.all.get_mut(&name).expect("looked for above");
        known.holders.retain(|_, (_, until)| *until > now.instant);
        let holders: Vec<_> = known.holders.values().map(|(contact, _)| contact.clone()).collect();
        let deleted = usize::from(self.is_server() && self.keep_own(now, &signed).is_ok());
        let phase = Phase::Withdrawing { sequence, waiting: holders.len(), deleted };
        if let Some(before) = self.announcements.enter(&name, phase) {
            self.abandon(&before);
        }
        if holders.is_empty() {
            return self.on_withdrawn(name, deleted);
        }
        for holder in holders {
            let body = request::Body::Delete(message::Delete { record: Some(signed.clone()) });
            let round = Round { name: name.clone(), sequence };
            self.send(now, holder, body, Purpose::Round(round));
        }
    }

    /// What this node announces, and has not withdrawn.
    pub fn announced(&self) -> impl Iterator<Item = (Kind, &str)> {
        let standing =
            self.announcements.all.iter().filter(|(_, announcement)| {
                !matches!(announcement.phase, Phase::Withdrawing { .. })
            });
        standing.map(|((kind, name), _)| (*kind, name.as_str()))
    }

    /// Starts the rounds that are due, as many as may be under way.
    pub(super) fn start_due_rounds(&mut self, now: Now) {
        while self.announcements.running < MAX_ROUNDS
            && let Some((at, name)) = self.announcements.due.first()
            && *at <= now.instant
        {
            let name = name.clone();
            self.start_round(now, name);
        }
    }

    /// Pings the nearest of those who keep something, when it is time.
    pub(super) fn guard_due(&mut self, now: Now) {
        if self.announcements.guard_at.is_none_or(|at| at > now.instant) {
            return;
        }
        let guards: BTreeMap<NodeId, Contact> = self
            .announcements
            .all
            .iter()
            .flat_map(|(name, announcement)| self.nearest_keepers(name, announcement))
            .map(|keeper| (keeper.id, keeper.clone()))
            .take(MAX_GUARDS)
            .collect();
        let is_idle = self.announcements.all.is_empty();
        let spread = self.rng.random_range(0.9..1.0);
        self.announcements.guard_at = (!is_idle).then(|| now.after(GUARD_EVERY.mul_f64(spread)));
        for keeper in guards.into_values() {
            self.ping(now, keeper);
        }
    }

    /// Those who keep an announcement and are watched by whoever follows its name.
    fn nearest_keepers<'a>(
        &self,
        (kind, name): &Name,
        announcement: &'a Announcement,
    ) -> Vec<&'a Contact> {
        let Some(realm) = self.my_realm() else { return Vec::new() };
        let key = Key::of(realm, *kind, name);
        let mut keepers: Vec<_> = announcement.holders.values().map(|(keeper, _)| keeper).collect();
        keepers.sort_by_key(|keeper| key.distance(keeper.id));
        keepers.truncate(WATCHED);
        keepers
    }

    /// A server has come: what it is nearer to than some who keep it is announced to it too.
    pub(super) fn announce_nearer(&mut self, now: Now, server: NodeId) {
        let Some(realm) = self.my_realm().cloned() else { return };
        let at = NEARER_AFTER.mul_f64(self.rng.random_range(0.5..1.0));
        self.hasten(now.after(at), |(kind, name), announcement| {
            let key = Key::of(&realm, *kind, name);
            let farthest = announcement.holders.keys().map(|keeper| key.distance(*keeper)).max();
            let has_room = announcement.holders.len() < K;
            !announcement.holders.contains_key(&server)
                && (has_room || farthest.is_none_or(|far| key.distance(server) < far))
        });
    }

    /// Every announcement is due now.
    pub(super) fn announce_all(&mut self, now: Now) {
        self.hasten(now.instant, |_, announcement| {
            announcement.is_outdated = announcement.phase.is_round();
            true
        });
        self.start_due_rounds(now);
    }

    /// Announcements that nobody else keeps are due now: somebody has come who may.
    pub(super) fn announce_unkept(&mut self, now: Now) {
        self.hasten(now.instant, |_, announcement| announcement.failures > 0);
        self.start_due_rounds(now);
    }

    /// Announcements that this node kept, and keeps no longer, are due now.
    pub(super) fn announce_lost(&mut self, now: Now, keeper: NodeId) {
        self.hasten(now.instant, |_, announcement| announcement.holders.remove(&keeper).is_some());
        self.start_due_rounds(now);
    }

    /// The announcements that this picks are due then, unless they are due earlier.
    fn hasten(&mut self, due: Instant, mut which: impl FnMut(&Name, &mut Announcement) -> bool) {
        let mut names = Vec::new();
        for (name, announcement) in &mut self.announcements.all {
            if which(name, announcement)
                && matches!(announcement.phase, Phase::Waiting { due: later } if due < later)
            {
                names.push(name.clone());
            }
        }
        for name in names {
            self.announcements.enter(&name, Phase::Waiting { due });
        }
    }

    fn start_round(&mut self, now: Now, name: Name) {
        let kind = self.announcements.all[&name].kind.clone();
        let (sequence, signed) = match self.sign_next(now, &name, kind, false) {
            Ok(signed) => signed,
            Err(fault) => return self.end_round(now, name, Kept::default(), Some(fault)),
        };
        let realm = self.my_realm().expect("only a peer's record can be signed").clone();
        let target = Key::of(&realm, name.0, &name.1);
        // Told before it starts, since without servers it ends at once.
        let lookup = LookupId(self.next_lookup);
        let phase = Phase::Finding { sequence, lookup, signed };
        self.announcements.enter(&name, phase);
        let goal = Goal::Round(Round { name, sequence });
        self.start_lookup(now, target, Scope::Realm(realm), goal);
    }

    /// The lookup of a round has found who shall keep the record.
    pub(super) fn on_keepers(&mut self, now: Now, round: &Round, lookup: &Lookup) {
        let Round { name, sequence } = round;
        let Some(announcement) = self.announcements.all.get(name) else { return };
        let Phase::Finding { sequence: current, signed, .. } = &announcement.phase else { return };
        if current != sequence {
            return;
        }
        let signed = signed.clone();
        let (mut kept, mut refused) = (Kept::default(), None);
        // In place of the k-th, unless that is infrastructure which keeps it besides.
        let is_keeper = self.is_keeper(name, &lookup.closest());
        let keepers = lookup.keepers(if is_keeper { K - 1 } else { K });
        if is_keeper {
            match self.keep_own(now, &signed) {
                Ok(()) => kept.here = true,
                Err(fault) => refused = Some(fault),
            }
        }
        if keepers.is_empty() {
            return self.end_round(now, name.clone(), kept, refused);
        }
        let phase = Phase::Storing { sequence: *sequence, waiting: keepers.len(), kept, refused };
        self.announcements.enter(name, phase);
        let until = now.after(self.config.record_ttl);
        let announcement = self.announcements.all.get_mut(name).expect("looked for above");
        announcement.holders.retain(|_, (_, until)| *until > now.instant);
        // Noted as holders before they confirm, which may be lost on the way.
        let holders = keepers.iter().map(|keeper| (keeper.id, (keeper.clone(), until)));
        announcement.holders.extend(holders);
        for keeper in keepers {
            let body = request::Body::Store(message::Store {
                record: Some(signed.clone()),
                addresses: Vec::new(),
            });
            self.send(now, keeper, body, Purpose::Round(round.clone()));
        }
    }

    /// Whether this node is itself one of the k nearest servers.
    fn is_keeper(&self, (kind, name): &Name, keepers: &[Contact]) -> bool {
        let Some(realm) = self.my_realm().filter(|_| self.is_server()) else { return false };
        let key = Key::of(realm, *kind, name);
        keepers
            .get(K - 1)
            .is_none_or(|last| key.distance(self.me.identity.id) < key.distance(last.id))
    }

    /// A node has answered to its part of a round.
    pub(super) fn on_round_response(
        &mut self,
        now: Now,
        round: &Round,
        result: Result<response::Body, Fault>,
    ) {
        let Some(announcement) = self.announcements.all.get_mut(&round.name) else { return };
        match &mut announcement.phase {
            Phase::Storing { sequence, waiting, kept, refused } if *sequence == round.sequence => {
                *waiting -= 1;
                match result {
                    Ok(response::Body::Stored(message::Stored {})) => kept.elsewhere += 1,
                    Ok(_) => *refused = Some(Fault::of(Code::Protocol)),
                    Err(fault) => *refused = Some(fault),
                }
                if *waiting == 0 {
                    let (kept, refused) = (*kept, refused.take());
                    self.end_round(now, round.name.clone(), kept, refused);
                }
            }
            Phase::Withdrawing { sequence, waiting, deleted } if *sequence == round.sequence => {
                *waiting -= 1;
                let is_deleted = matches!(result, Ok(response::Body::Deleted(message::Deleted {})));
                *deleted += usize::from(is_deleted);
                if *waiting == 0 {
                    let deleted = *deleted;
                    self.on_withdrawn(round.name.clone(), deleted);
                }
            }
            // Of an earlier round.
            Phase::Waiting { .. }
            | Phase::Finding { .. }
            | Phase::Storing { .. }
            | Phase::Withdrawing { .. } => {}
        }
    }

    fn end_round(&mut self, now: Now, name: Name, kept: Kept, refused: Option<Fault>) {
        let Some(announcement) = self.announcements.all.get_mut(&name) else { return };
        let period = self.config.record_ttl / 3;
        // What nobody but this node keeps others hardly find.
        announcement.failures = if kept.elsewhere == 0 { announcement.failures + 1 } else { 0 };
        let pause = match announcement.failures {
            0 if announcement.is_outdated => Duration::ZERO,
            // Spread, so that nodes that started together do not stay together.
            0 => period.mul_f64(self.rng.random_range(0.9..1.0)),
            failures => period.min(RETRY_AFTER * (1 << failures.min(6) >> 1)),
        };
        announcement.is_outdated = false;
        self.announcements.enter(&name, Phase::Waiting { due: now.after(pause) });
        self.on_announced(name, kept.elsewhere + usize::from(kept.here), refused);
    }

    fn on_announced(&mut self, (kind, name): Name, stored: usize, refused: Option<Fault>) {
        self.outputs.push_back(Output::Announced { kind, name, stored, refused });
    }

    fn on_withdrawn(&mut self, name: Name, deleted: usize) {
        if let Some(announcement) = self.announcements.all.get(&name)
            && let Phase::Finding { lookup, .. } = announcement.phase
        {
            self.drop_lookup(lookup);
        }
        self.announcements.remove(&name);
        let (kind, name) = name;
        self.outputs.push_back(Output::Withdrawn { kind, name, deleted });
    }

    /// A phase was left before its end.
    fn abandon(&mut self, before: &Phase) {
        match before {
            Phase::Finding { lookup, .. } => self.drop_lookup(*lookup),
            Phase::Waiting { .. } | Phase::Storing { .. } | Phase::Withdrawing { .. } => {}
        }
    }

    /// Signs the next record under a name.
    fn sign_next(
        &mut self,
        now: Now,
        (_, name): &Name,
        kind: record::Kind,
        withdrawn: bool,
    ) -> Result<(u64, message::SignedRecord), Fault> {
        let realm: RealmName = self.my_realm().cloned().ok_or_else(|| {
            Fault::new(Code::InvalidRecord, "infrastructure publishes no records")
        })?;
        self.announcements.sequence += 1;
        let sequence = self.announcements.sequence;
        let ends = (now + self.config.record_ttl).unix_ms;
        let record = Record {
            realm,
            kind,
            name: name.clone(),
            incarnation: self.me.incarnation,
            sequence,
            expiry_ms: ends.min(self.me.identity.not_after.saturating_mul(1000)),
            withdrawn,
        };
        Ok((sequence, record::sign(&record, &self.me.key, &self.me.chain)?))
    }
}
