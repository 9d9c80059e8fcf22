//! What the DHT said lately about a name: who subscribes under it, who provides it.
//!
//! Until watch exists, an entry in use is asked for again every [`REFRESH`], kept when that fails,
//! and asked for again by whoever finds it empty. Pub/sub and RPC each own one.
//!
//! What a publisher said stands until it says otherwise, or until it ends: that a lookup does not show
//! it means no more than that its keepers have lost it, as all do when all of them start again at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use macula_identity::NodeId;

use crate::time::{Deadline, Now};

/// How often an entry in use is looked up again.
pub const REFRESH: Duration = Duration::from_secs(5);
/// An entry that nobody used for this long is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// The most names that are remembered; past it the longest unused is forgotten.
const CAPACITY: usize = 4096;
/// The most publishers that are remembered under one name; past it those are forgotten that end first.
const PUBLISHERS: usize = 512;

/// What one publisher says under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// Of two that it said the later is the greater: [`crate::record::Record::order`].
    pub order: (u64, u64),
    /// When it ends, in milliseconds since 1970.
    pub expiry_ms: u64,
    /// What it says; nothing when it has taken back what it said before.
    pub what: Option<T>,
}

/// What a lookup found under a name, by publisher.
pub type Found<T> = BTreeMap<NodeId, Said<T>>;

/// Names and what was found under them.
#[derive(Debug)]
pub struct Directory<T> {
    entries: BTreeMap<String, Entry<T>>,
    to_find: VecDeque<String>,
}

/// A lookup that starts at or after somebody asked. Compared with what has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Entry<T> {
    said: Found<T>,
    /// Lookups begun and completed; one is under way while they differ.
    begun: u64,
    completed: u64,
    /// The newest lookup that somebody waits for.
    wanted: u64,
    used: Instant,
    refresh_at: Instant,
}

impl<T> Entry<T> {
    fn standing(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.said.iter().filter_map(|(node, said)| Some((*node, said.what.as_ref()?)))
    }

    fn merge(&mut self, now: Now, found: Found<T>, complete: bool) {
        if complete {
            self.said.retain(|node, said| now.unix_ms < said.expiry_ms || found.contains_key(node));
        }
        for (node, said) in found {
            if self.said.get(&node).is_none_or(|known| known.order <= said.order) {
                self.said.insert(node, said);
            }
        }
        while self.said.len() > PUBLISHERS {
            let first = self.said.iter().min_by_key(|(_, said)| said.expiry_ms);
            let first = *first.expect("there are more than none").0;
            self.said.remove(&first);
        }
    }
}

impl<T> Directory<T> {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), to_find: VecDeque::new() }
    }

    /// Whether the name's first lookup has completed. Counts as use.
    pub fn is_known(&mut self, now: Now, name: &str) -> bool {
        self.entries.get_mut(name).is_some_and(|entry| {
            entry.used = now.instant;
            entry.completed > 0
        })
    }

    /// What stands under the name.
    pub fn get(&self, name: &str) -> impl Iterator<Item = (NodeId, &T)> {
        self.entries.get(name).into_iter().flat_map(Entry::standing)
    }

    /// Asks for a lookup that starts now or later. One that is under way began too early to have
    /// seen everything, so another follows it.
    pub fn ask(&mut self, now: Now, name: &str) -> Ticket {
        if !self.entries.contains_key(name) {
            self.make_room();
            let entry = Entry {
                said: Found::new(),
                begun: 0,
                completed: 0,
                wanted: 0,
                used: now.instant,
                refresh_at: now.instant + REFRESH,
            };
            self.entries.insert(name.to_owned(), entry);
        }
        let entry = self.entries.get_mut(name).expect("inserted above");
        entry.used = now.instant;
        entry.wanted = entry.begun + 1;
        let ticket = Ticket(entry.wanted);
        self.begin(name);
        ticket
    }

    /// As [`Directory::ask`] when `needed`; else a ticket that has completed.
    pub fn ask_if(&mut self, now: Now, name: &str, needed: bool) -> Ticket {
        if needed { self.ask(now, name) } else { Ticket(0) }
    }

    /// Whether the lookup behind the ticket has completed, well or badly; also when the name was
    /// forgotten meanwhile.
    #[must_use]
    pub fn has_completed(&self, name: &str, ticket: Ticket) -> bool {
        self.entries.get(name).is_none_or(|entry| entry.completed >= ticket.0)
    }

    /// The lookup of this name ended. `None`: it failed, and all that was known is kept. One that is
    /// not `complete` adds, and takes nothing away.
    /// Gives whether what is known may have changed.
    pub fn on_found(
        &mut self,
        now: Now,
        name: &str,
        found: Option<Found<T>>,
        complete: bool,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        entry.completed = entry.begun;
        entry.refresh_at = now.instant + REFRESH;
        let changed = found.is_some();
        if let Some(found) = found {
            entry.merge(now, found, complete);
        }
        if entry.wanted > entry.begun {
            self.begin(name);
        }
        changed
    }

    /// The node has left, or has said itself that it is not what the name stands for: nothing that it
    /// said stands any more, under this name or any, unless it is found again. Gives whether
    /// something did.
    pub fn forget(&mut self, node: NodeId, name: Option<&str>) -> bool {
        let entries = self.entries.iter_mut();
        let entries = entries.filter(|(key, _)| name.is_none_or(|name| name == key.as_str()));
        entries.filter_map(|(_, entry)| entry.said.remove(&node)).count() > 0
    }

    /// Begins due refreshes and forgets unused names. Gives whether anything was forgotten.
    pub fn handle_timeout(&mut self, now: Now) -> bool {
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| now.instant < entry.used + IDLE || entry.begun > entry.completed);
        let due: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.begun == entry.completed && entry.refresh_at <= now.instant)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.begin(&name);
        }
        self.entries.len() < before
    }

    /// When to call [`Directory::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let idle = self.entries.values().filter(|entry| entry.begun == entry.completed);
        idle.map(|entry| entry.refresh_at.min(entry.used + IDLE))
            .min()
            .map(|at| Deadline { at, reason: "directory refresh" })
    }

    /// The next name to look up in the DHT.
    pub fn poll_find(&mut self) -> Option<String> {
        self.to_find.pop_front()
    }

    /// What the node says under one name of those under which it says something.
    #[must_use]
    pub fn find(&self, node: NodeId) -> Option<&T> {
        self.entries.values().find_map(|entry| entry.said.get(&node)?.what.as_ref())
    }

    /// What stands under every name.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.entries.values().flat_map(Entry::standing)
    }

    /// How many names are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn begin(&mut self, name: &str) {
        let entry = self.entries.get_mut(name).expect("callers have looked it up");
        if entry.begun == entry.completed {
            entry.begun += 1;
            self.to_find.push_back(name.to_owned());
        }
    }

    fn make_room(&mut self) {
        if self.entries.len() < CAPACITY {
            return;
        }
        let idle = self.entries.iter().filter(|(_, entry)| entry.begun == entry.completed);
        if let Some(name) = idle.min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone()) {
            self.entries.remove(&name);
        }
    }
}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
