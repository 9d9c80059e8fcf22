//! One iterative lookup, as a value: whom to ask next, and when it is done (Kademlia §2.3), over disjoint
//! paths (Baumgart and Mies, "S/Kademlia", 2007).
//!
//! It asks the nearest known node that has not been asked, [`ALPHA`] at a time, until the k nearest
//! that did not fail have all answered. One that is slow frees its place among the α and among the
//! k, and its answer still counts. A search for values does not stop at the first: a key holds a set, and
//! sets are merged from all k.
//!
//! It does so [`PATHS`] times over. Each path sees only what it was dealt at the start and what those whom
//! it asked have told, and goes on until its own k nearest have answered; who has been asked by one
//! path is not asked by another. So whoever lies, of others or of where they are, misleads the path that
//! asked him, and the result is of all paths.

use std::array;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use macula_identity::NodeId;

use super::K;
use crate::key::{Distance, Key};
use crate::wire::{Contact, MAX_ADDRESSES};

/// How many requests of a lookup are under way at a time: α of the paper. One for each path, and a second
/// of one path when another has nobody to ask.
pub const ALPHA: usize = 3;
/// How many paths a lookup has: d of S/Kademlia. As many as α, so that safety costs no time.
pub const PATHS: usize = 3;
/// The most nodes that a lookup asks. Twenty answer, a few are on the way there, and of both some
/// have gone: among 10,000 servers of which a fifth crashed, that makes some forty.
pub const MAX_ASKED: usize = 60;
/// The most rounds: who is known only from this far away is not asked. Each round halves the distance at
/// least, and twenty contacts an answer make that four bits: even a million servers take seven.
pub const MAX_ROUNDS: usize = 16;
/// Who has told of this many more nodes that do not answer than of such that do is not believed any
/// more. An honest node's contacts fail by a fifth in bad times; invented ones fail all.
const DOUBTS: i32 = 4;
/// The most addresses of a node that one answer may tell: so many that an honest one's is among them, so
/// few that liars do not fill the list.
pub(super) const MAX_TOLD: usize = 4;
/// The most addresses of a node that are remembered: as many as its requests can try.
pub(super) const MAX_PLACES: usize = PATHS * MAX_ADDRESSES;

/// Who told of the seeds: this node itself, which is always believed.
const MYSELF: u64 = 1 << 63;
const _: () = assert!(MAX_ASKED < 63, "one bit for each who was asked, and one for this node");

/// A lookup under way.
#[derive(Debug)]
pub struct Lookup {
    target: Key,
    me: NodeId,
    /// Nearest first.
    candidates: BTreeMap<Distance, Candidate>,
    /// Infrastructure that is asked however far it is.
    always: Vec<Distance>,
    /// Each that was asked, in order, as a witness of whom it tells of.
    witnesses: Vec<Witness>,
    /// The witnesses that are believed, by bit.
    believed: u64,
    paths: [Path; PATHS],
    skipped: usize,
    answered: usize,
    is_stopped: bool,
}

#[derive(Debug)]
struct Candidate {
    id: NodeId,
    addresses: Vec<Address>,
    state: State,
    /// Of each path the witnesses that told of it, by bit; without any the path does not see it.
    told_by: [u64; PATHS],
    /// How many answers led to it, and one.
    round: usize,
    /// How often it was asked: again only where another path says that it is elsewhere.
    tries: usize,
}

#[derive(Debug)]
struct Address {
    at: SocketAddr,
    /// The first path that was told.
    path: usize,
    /// How many of the same witness come before it.
    rank: usize,
    is_tried: bool,
}

#[derive(Debug)]
struct Witness {
    path: usize,
    /// Of whom it told, those that answered less those that did not.
    balance: i32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Path {
    under_way: usize,
    asked: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// As this witness.
    Asked(usize),
    /// As this witness.
    Slow(usize),
    Answered,
    /// Where it was said to be, it does not answer.
    Failed,
    /// It was not asked, or answered that it does not answer.
    Refused,
}

impl State {
    const fn is_waited_for(self) -> bool {
        match self {
            Self::Asked(_) | Self::Slow(_) => true,
            Self::New | Self::Answered | Self::Failed | Self::Refused => false,
        }
    }

    const fn is_gone(self) -> bool {
        match self {
            Self::Failed | Self::Refused => true,
            Self::New | Self::Asked(_) | Self::Slow(_) | Self::Answered => false,
        }
    }
}

impl Candidate {
    const fn is_seen_by(&self, path: usize) -> bool {
        self.told_by[path] != 0
    }

    /// It and where to try: first what was not tried, of that what each witness thinks best, and of that what
    /// `path` was told. Of one that has answered, first where it did.
    fn contact(&self, path: usize) -> Contact {
        let has_answered = self.state == State::Answered;
        let mut addresses: Vec<_> = self.addresses.iter().collect();
        addresses.sort_by_key(|address| {
            (address.is_tried != has_answered, address.rank, address.path != path)
        });
        let addresses = addresses.into_iter().map(|address| address.at);
        Contact { id: self.id, addresses: addresses.take(MAX_ADDRESSES).collect() }
    }
}

impl Lookup {
    /// A lookup of the nodes nearest to `target`, that starts with these.
    #[must_use]
    pub fn new(target: Key, me: NodeId, seeds: impl IntoIterator<Item = Contact>) -> Self {
        Self::with_infrastructure(target, me, [], seeds)
    }

    /// The same, that asks this infrastructure however far it is: each path starts with some of it, as
    /// long as it lasts.
    #[must_use]
    pub fn with_infrastructure(
        target: Key,
        me: NodeId,
        infrastructure: impl IntoIterator<Item = Contact>,
        seeds: impl IntoIterator<Item = Contact>,
    ) -> Self {
        let mut lookup = Self {
            target,
            me,
            candidates: BTreeMap::new(),
            always: Vec::new(),
            witnesses: Vec::new(),
            believed: u64::MAX,
            paths: [Path::default(); PATHS],
            skipped: 0,
            answered: 0,
            is_stopped: false,
        };
        let mut turns = (0..PATHS).cycle();
        for contact in infrastructure {
            let distance = target.distance(contact.id);
            if lookup.learn_seed(contact, &mut turns) {
                lookup.always.push(distance);
            }
        }
        let mut seeds: Vec<_> = seeds.into_iter().collect();
        seeds.sort_by_key(|seed| target.distance(seed.id));
        for contact in seeds {
            lookup.learn_seed(contact, &mut turns);
        }
        lookup
    }

    /// Deals a contact to the path whose turn it is. Gives whether it was new.
    fn learn_seed(&mut self, contact: Contact, turns: &mut impl Iterator<Item = usize>) -> bool {
        let before = self.candidates.len();
        if !self.candidates.contains_key(&self.target.distance(contact.id))
            && contact.id != self.me
            && let Some(path) = turns.next()
        {
            self.learn(contact, path, MYSELF, 1);
        }
        self.candidates.len() > before
    }

    /// What is looked for.
    #[must_use]
    pub const fn target(&self) -> Key {
        self.target
    }

    /// Whom to ask now. It counts as asked.
    pub fn poll_ask(&mut self) -> Option<Contact> {
        let under_way: usize = self.paths.iter().map(|path| path.under_way).sum();
        if under_way >= ALPHA {
            return None;
        }
        let (path, distance) = self.next()?;
        let candidate = self.candidates.get_mut(&distance).expect("found just now");
        let contact = candidate.contact(path);
        candidate.addresses.iter_mut().for_each(|address| address.is_tried = true);
        candidate.state = State::Asked(self.witnesses.len());
        candidate.tries += 1;
        self.witnesses.push(Witness { path, balance: 0 });
        self.paths[path].under_way += 1;
        self.paths[path].asked += 1;
        Some(contact)
    }

    /// Whose turn it is and whom it asks: of the paths that have somebody to ask, the one with the fewest
    /// under way. A third of all requests is each path's own, whatever the others are told.
    fn next(&self) -> Option<(usize, Distance)> {
        if self.is_stopped || self.witnesses.len() >= MAX_ASKED {
            return None;
        }
        let next: [_; PATHS] = array::from_fn(|path| self.next_of(path));
        let has_used_its_share = |path: usize| self.paths[path].asked >= MAX_ASKED / PATHS;
        let needs_no_more = |path: usize| {
            has_used_its_share(path) || (next[path].is_none() && !self.is_waiting(path))
        };
        let may_ask = |path: usize| {
            let mut others = (0..PATHS).filter(|other| *other != path);
            !has_used_its_share(path) || others.all(needs_no_more)
        };
        (0..PATHS)
            .filter_map(|path| next[path].map(|distance| (path, distance)))
            .filter(|(path, _)| may_ask(*path))
            .min_by_key(|(path, _)| (self.paths[*path].under_way, self.paths[*path].asked))
    }

    fn next_of(&self, path: usize) -> Option<Distance> {
        let is_new = |candidate: &Candidate| candidate.state == State::New;
        let always = self.always.iter().map(|distance| (distance, &self.candidates[distance]));
        let mut always = always.filter(|(_, c)| c.is_seen_by(path) && is_new(c));
        // As if the slow had failed: when they have, whom to ask instead is already known.
        let prompt = self.candidates.iter().filter(|(_, candidate)| match candidate.state {
            State::New => self.is_believed(candidate),
            State::Asked(_) | State::Answered => true,
            State::Slow(_) | State::Failed | State::Refused => false,
        });
        let mut nearest = prompt.filter(|(_, c)| c.is_seen_by(path)).take(K);
        // Infrastructure first: it is asked in any case, and nobody else chose it.
        let next = always.next().or_else(|| nearest.find(|(_, c)| is_new(c)));
        next.map(|(distance, _)| *distance)
    }

    /// Whether somebody whose word still counts has told of it.
    const fn is_believed(&self, candidate: &Candidate) -> bool {
        let [a, b, c] = candidate.told_by;
        (a | b | c) & self.believed != 0
    }

    /// Those that have not failed, nearest first; without such as nobody is believed about.
    fn hopeful(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.values().filter(|candidate| match candidate.state {
            State::New => self.is_believed(candidate),
            State::Asked(_) | State::Slow(_) | State::Answered => true,
            State::Failed | State::Refused => false,
        })
    }

    /// Whether one of the path's k nearest may still answer, or infrastructure that it asked.
    fn is_waiting(&self, path: usize) -> bool {
        let always = self.always.iter().map(|distance| &self.candidates[distance]);
        let always = always.filter(|candidate| candidate.is_seen_by(path));
        let nearest = self.hopeful().filter(|candidate| candidate.is_seen_by(path)).take(K);
        always.chain(nearest).any(|candidate| candidate.state.is_waited_for())
    }

    /// The node has not answered yet: another may be asked beside it.
    pub fn on_slow(&mut self, node: NodeId) {
        if let Some(candidate) = self.candidate(node)
            && let State::Asked(witness) = candidate.state
        {
            candidate.state = State::Slow(witness);
            let told_by = candidate.told_by;
            self.free(witness);
            self.judge(witness, told_by, -1);
        }
    }

    /// The node answered, and knows these.
    pub fn on_answer(&mut self, node: NodeId, contacts: impl IntoIterator<Item = Contact>) {
        let Some(candidate) = self.candidate(node) else { return };
        let (State::Asked(witness) | State::Slow(witness)) = candidate.state else { return };
        let was_slow = matches!(candidate.state, State::Slow(_));
        candidate.state = State::Answered;
        let (told_by, round) = (candidate.told_by, candidate.round);
        if was_slow {
            self.judge(witness, told_by, 2);
        } else {
            self.free(witness);
            self.judge(witness, told_by, 1);
        }
        self.answered += 1;
        let path = self.witnesses[witness].path;
        // A path without anybody is dealt some: with a single seed, its answer makes the others.
        let bare = (0..PATHS).filter(|other| *other != path && self.is_bare(*other));
        let paths: Vec<usize> = [path].into_iter().chain(bare).collect();
        // More than k is not what was asked for.
        for (contact, path) in contacts.into_iter().take(K).zip(paths.into_iter().cycle()) {
            self.learn(contact, path, 1 << witness, round + 1);
        }
    }

    /// The node does not answer where it was said to be.
    pub fn on_failure(&mut self, node: NodeId) {
        self.fail(node, State::Failed);
        self.try_elsewhere(self.target.distance(node));
    }

    /// The node answered that it does not answer this.
    pub fn on_refusal(&mut self, node: NodeId) {
        self.fail(node, State::Refused);
    }

    /// The node that was to be asked just now was not. It does not count as asked.
    pub fn on_skipped(&mut self, node: NodeId) {
        if let Some(candidate) = self.candidate(node)
            && let State::Asked(witness) = candidate.state
        {
            candidate.state = State::Refused;
            self.free(witness);
            self.skipped += 1;
        }
    }

    fn fail(&mut self, node: NodeId, state: State) {
        let Some(candidate) = self.candidate(node) else { return };
        let (before, told_by) = (candidate.state, candidate.told_by);
        match before {
            State::New | State::Asked(_) | State::Slow(_) => candidate.state = state,
            State::Answered | State::Failed | State::Refused => {}
        }
        if let State::Asked(witness) = before {
            self.free(witness);
            self.judge(witness, told_by, -1);
        }
    }

    /// A node that failed is asked once more when another path knows another address: a liar who says of
    /// the nearest that they are where nobody is must not hide them from those who know better.
    fn try_elsewhere(&mut self, distance: Distance) {
        if let Some(candidate) = self.candidates.get_mut(&distance)
            && candidate.state == State::Failed
            && candidate.tries < PATHS
            && candidate.addresses.iter().any(|address| !address.is_tried)
        {
            candidate.state = State::New;
        }
    }

    /// A request no longer counts among the α.
    fn free(&mut self, witness: usize) {
        self.paths[self.witnesses[witness].path].under_way -= 1;
    }

    /// Whom these told of has answered as this witness, or has not. Only the path that asked judges, since
    /// it went where it was told: who told another path of the same node may have said where it is.
    fn judge(&mut self, asked_as: usize, told_by: [u64; PATHS], weight: i32) {
        let told_by = told_by[self.witnesses[asked_as].path];
        for (at, witness) in self.witnesses.iter_mut().enumerate() {
            if told_by & (1 << at) != 0 {
                witness.balance += weight;
                if witness.balance < -DOUBTS {
                    self.believed &= !(1 << at);
                } else {
                    self.believed |= 1 << at;
                }
            }
        }
    }

    fn candidate(&mut self, node: NodeId) -> Option<&mut Candidate> {
        self.candidates.get_mut(&self.target.distance(node))
    }

    /// Whether the path has nobody, or nobody who lives.
    fn is_bare(&self, path: usize) -> bool {
        !self.candidates.values().any(|c| c.is_seen_by(path) && !c.state.is_gone())
    }

    fn learn(&mut self, contact: Contact, path: usize, told_by: u64, round: usize) {
        if contact.id == self.me || contact.addresses.is_empty() || round > MAX_ROUNDS {
            return;
        }
        let distance = self.target.distance(contact.id);
        let candidate = self.candidates.entry(distance).or_insert_with(|| Candidate {
            id: contact.id,
            addresses: Vec::new(),
            state: State::New,
            told_by: [0; PATHS],
            round,
            tries: 0,
        });
        candidate.told_by[path] |= told_by;
        if candidate.state == State::New {
            candidate.round = candidate.round.min(round);
        }
        let most = if told_by == MYSELF { MAX_ADDRESSES } else { MAX_TOLD };
        for (rank, at) in contact.addresses.into_iter().take(most).enumerate() {
            if candidate.addresses.len() < MAX_PLACES
                && !candidate.addresses.iter().any(|known| known.at == at)
            {
                candidate.addresses.push(Address { at, path, rank, is_tried: false });
            }
        }
        self.try_elsewhere(distance);
    }

    /// The time is up: nobody more is asked, and what is there is the result.
    pub const fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Whether there is nobody left to ask or to wait for.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_stopped || (!(0..PATHS).any(|path| self.is_waiting(path)) && self.next().is_none())
    }

    /// Whether the k nearest that have not failed have all answered, and the infrastructure that is
    /// asked always.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let mut always = self.always.iter().map(|distance| self.candidates[distance].state);
        let has_answered = |state: State| state == State::Answered;
        always.all(|state| has_answered(state) || state.is_gone())
            && self.hopeful().take(K).all(|candidate| has_answered(candidate.state))
    }

    /// The k nearest that answered, nearest first.
    #[must_use]
    pub fn closest(&self) -> Vec<Contact> {
        self.answerers().take(K).map(|(_, candidate)| candidate.contact(0)).collect()
    }

    /// Who shall keep what belongs at the target: so many of [`Lookup::closest`], and after them the
    /// infrastructure that every lookup asks.
    #[must_use]
    pub fn keepers(&self, count: usize) -> Vec<Contact> {
        let further = self.answerers().skip(count);
        let further = further.filter(|(distance, _)| self.always.contains(distance));
        let keepers = self.answerers().take(count).chain(further);
        keepers.map(|(_, candidate)| candidate.contact(0)).collect()
    }

    fn answerers(&self) -> impl Iterator<Item = (&Distance, &Candidate)> {
        self.candidates.iter().filter(|(_, candidate)| candidate.state == State::Answered)
    }

    /// How many nodes were asked; one that was asked at two places counts twice.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.witnesses.len() - self.skipped
    }

    /// How many of them answered.
    #[must_use]
    pub const fn answered(&self) -> usize {
        self.answered
    }

    /// How many answers in a row it took to come to the one that was farthest down: the hops of the papers.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.answerers().map(|(_, candidate)| candidate.round).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
