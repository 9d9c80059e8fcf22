//! What is known of the names in use: who subscribes under each, who provides it.
//!
//! The DHT follows a name from its first use on, and tells of every change; so a second publish or
//! call asks nobody. Only while no storer holds a lease, and what is known may be old, does whoever
//! finds nobody ask again. A name that nobody used for a while is followed no longer. Pub/sub and RPC
//! each own one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use macula_identity::NodeId;

use crate::time::{Deadline, Now};

/// A name that nobody used for this long is followed no longer.
pub const IDLE: Duration = Duration::from_secs(300);
/// The most names that are followed; past it the longest unused makes room.
pub(crate) const CAPACITY: usize = 4096;

/// What the directory asks of the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Look this name up now, and tell what changes from then on.
    Follow(String),
    /// It is not in use any more.
    Unfollow(String),
}

/// What is news about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News<T> {
    /// Of these publishers something else stands now, or nothing.
    pub changes: Vec<(NodeId, Option<T>)>,
    /// A look has ended, well or badly.
    pub looked: bool,
    /// Whether changes are told as they happen.
    pub held: bool,
}

/// Names, and what stands under them.
#[derive(Debug)]
pub struct Directory<T> {
    entries: BTreeMap<String, Entry<T>>,
    /// By when each was used, as far as was noted: looked at again when it would be unused by that.
    idle: BTreeSet<(Instant, String)>,
    asks: VecDeque<Ask>,
}

/// A look that starts at or after somebody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// Of whoever has nothing to wait for.
    pub const NONE: Self = Self(0);
}

#[derive(Debug)]
struct Entry<T> {
    said: BTreeMap<NodeId, T>,
    /// Looks begun and completed; one is under way while they differ.
    begun: u64,
    completed: u64,
    /// The newest look that somebody waits for.
    wanted: u64,
    used: Instant,
    held: bool,
}

impl<T> Directory<T> {
    /// An empty directory.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new(), idle: BTreeSet::new(), asks: VecDeque::new() }
    }

    /// Whether the name's first look has completed. Counts as use.
    pub fn is_known(&mut self, now: Now, name: &str) -> bool {
        self.entries.get_mut(name).is_some_and(|entry| {
            entry.used = now.instant;
            entry.completed > 0
        })
    }

    /// What stands under the name.
    pub fn get(&self, name: &str) -> impl Iterator<Item = (NodeId, &T)> {
        let said = self.entries.get(name).into_iter().flat_map(|entry| &entry.said);
        said.map(|(node, what)| (*node, what))
    }

    /// Asks for a look that starts now or later: [`Ticket::NONE`] when what is known is told of as it
    /// changes. One that is under way began too early to have seen everything, so another follows it.
    pub fn ask(&mut self, now: Now, name: &str) -> Ticket {
        self.make_room(name);
        if !self.entries.contains_key(name) {
            let said = BTreeMap::new();
            let used = now.instant;
            let entry = Entry { said, begun: 0, completed: 0, wanted: 0, used, held: false };
            self.entries.insert(name.to_owned(), entry);
            self.idle.insert((used, name.to_owned()));
        }
        let entry = self.entries.get_mut(name).expect("inserted above");
        entry.used = now.instant;
        if entry.held && entry.completed > 0 {
            return Ticket::NONE;
        }
        entry.wanted = entry.begun + 1;
        let ticket = Ticket(entry.wanted);
        self.begin(name);
        ticket
    }

    /// Whether the look behind the ticket has completed, well or badly; also when the name was
    /// forgotten meanwhile.
    #[must_use]
    pub fn has_completed(&self, name: &str, ticket: Ticket) -> bool {
        self.entries.get(name).is_none_or(|entry| entry.completed >= ticket.0)
    }

    /// There is news about a name. Gives whether what stands has changed.
    pub fn on_news(&mut self, name: &str, news: News<T>) -> bool {
        let News { changes, looked, held } = news;
        let Some(entry) = self.entries.get_mut(name) else { return false };
        entry.held = held;
        let changed = !changes.is_empty();
        for (node, what) in changes {
            match what {
                Some(what) => entry.said.insert(node, what),
                None => entry.said.remove(&node),
            };
        }
        if looked {
            entry.completed = entry.begun;
            if entry.wanted > entry.begun {
                self.begin(name);
            }
        }
        changed
    }

    /// The node has said itself that it is not what the name stands for: it is not taken for it until
    /// it says otherwise.
    pub fn forget(&mut self, node: NodeId, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.said.remove(&node);
        }
    }

    /// Follows unused names no longer. Gives whether there were any.
    pub fn handle_timeout(&mut self, now: Now) -> bool {
        let before = self.entries.len();
        while let Some((since, _)) = self.idle.first()
            && *since + IDLE <= now.instant
        {
            let (since, name) = self.idle.pop_first().expect("looked at above");
            let entry = &self.entries[&name];
            if entry.used > since {
                self.idle.insert((entry.used, name));
            } else if entry.begun != entry.completed {
                // It is waited for, and looked at again later.
                self.idle.insert((now.instant, name));
            } else {
                self.remove(&name);
            }
        }
        self.entries.len() < before
    }

    /// When to call [`Directory::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.idle.first().map(|(since, _)| Deadline::new(*since + IDLE, "unused name"))
    }

    /// What to ask of the DHT next.
    pub fn poll_ask(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// What the node says under one name of those under which it says something.
    #[must_use]
    pub fn find(&self, node: NodeId) -> Option<&T> {
        self.entries.values().find_map(|entry| entry.said.get(&node))
    }

    /// What stands under every name.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, &T)> {
        let said = self.entries.values().flat_map(|entry| &entry.said);
        said.map(|(node, what)| (*node, what))
    }

    /// How many names are followed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no name is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn begin(&mut self, name: &str) {
        let entry = self.entries.get_mut(name).expect("callers have looked it up");
        if entry.begun == entry.completed {
            entry.begun += 1;
            self.asks.push_back(Ask::Follow(name.to_owned()));
        }
    }

    fn remove(&mut self, name: &str) {
        self.entries.remove(name);
        self.asks.push_back(Ask::Unfollow(name.to_owned()));
    }

    /// Makes room for a name, unless there is some. Gives whether another is known no longer.
    pub(crate) fn make_room(&mut self, name: &str) -> bool {
        if self.entries.len() < CAPACITY || self.entries.contains_key(name) {
            return false;
        }
        let idle = self.entries.iter().filter(|(_, entry)| entry.begun == entry.completed);
        let longest = idle.min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone());
        let Some(longest) = longest else { return false };
        self.idle.retain(|(_, noted)| *noted != longest);
        self.remove(&longest);
        true
    }
}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
