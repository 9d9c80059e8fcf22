//! What the DHT said lately about a name: who subscribes under it, who provides it.
//!
//! Until watch exists, an entry in use is asked for again every [`REFRESH`], kept when that fails,
//! and asked for again by whoever finds it empty. Pub/sub and RPC each own one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::time::{Deadline, Now};

/// How often an entry in use is looked up again.
pub const REFRESH: Duration = Duration::from_secs(5);
/// An entry that nobody used for this long is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// The most names that are remembered; past it the longest unused is forgotten.
const CAPACITY: usize = 4096;

/// Names and what was found under them.
#[derive(Debug)]
pub struct Directory<V> {
    entries: BTreeMap<String, Entry<V>>,
    to_find: VecDeque<String>,
}

/// A lookup that starts at or after somebody asked. Compared with what has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Entry<V> {
    value: V,
    /// Lookups begun and completed; one is under way while they differ.
    begun: u64,
    completed: u64,
    /// The newest lookup that somebody waits for.
    wanted: u64,
    used: Instant,
    refresh_at: Instant,
}

impl<V: Default> Directory<V> {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), to_find: VecDeque::new() }
    }

    /// What is known under the name; `None` before its first lookup has completed.
    pub fn get(&mut self, now: Now, name: &str) -> Option<&V> {
        let entry = self.entries.get_mut(name)?;
        entry.used = now.instant;
        (entry.completed > 0).then_some(&entry.value)
    }

    /// As [`Directory::get`], without counting as use.
    #[must_use]
    pub fn peek(&self, name: &str) -> Option<&V> {
        self.entries.get(name).map(|entry| &entry.value)
    }

    /// Asks for a lookup that starts now or later. One that is under way began too early to have
    /// seen everything, so another follows it.
    pub fn ask(&mut self, now: Now, name: &str) -> Ticket {
        if !self.entries.contains_key(name) {
            self.make_room();
            let entry = Entry {
                value: V::default(),
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

    /// The lookup of this name ended. `None`: it failed, and what was known is kept.
    /// Gives whether the value was replaced.
    pub fn on_found(&mut self, now: Now, name: &str, found: Option<V>) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        entry.completed = entry.begun;
        entry.refresh_at = now.instant + REFRESH;
        let replaced = found.is_some();
        if let Some(value) = found {
            entry.value = value;
        }
        if entry.wanted > entry.begun {
            self.begin(name);
        }
        replaced
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

    /// What is known under every name.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// What is known under every name, to be amended.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|entry| &mut entry.value)
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

impl<V: Default> Default for Directory<V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Now {
        Now { instant: Instant::now(), unix_ms: 0 }
    }

    #[test]
    fn an_unknown_name_is_looked_up_once_for_all_who_ask_before_it_began() {
        let (mut directory, now) = (Directory::<u32>::new(), now());
        let first = directory.ask(now, "a");
        assert_eq!(directory.poll_find().as_deref(), Some("a"));
        let second = directory.ask(now, "a");
        let third = directory.ask(now, "a");
        assert_eq!(directory.poll_find(), None, "one lookup at a time");
        directory.on_found(now, "a", Some(1));
        assert!(directory.has_completed("a", first) && !directory.has_completed("a", second));
        assert_eq!(directory.poll_find().as_deref(), Some("a"), "the later askers' own");
        directory.on_found(now, "a", Some(2));
        assert!(directory.has_completed("a", second) && directory.has_completed("a", third));
        assert_eq!(directory.poll_find(), None);
        assert_eq!(directory.get(now, "a"), Some(&2));
    }

    #[test]
    fn a_failed_refresh_keeps_what_was_known() {
        let (mut directory, now) = (Directory::<u32>::new(), now());
        directory.ask(now, "a");
        directory.poll_find();
        directory.on_found(now, "a", Some(7));
        let later = now + REFRESH;
        directory.handle_timeout(later);
        assert_eq!(directory.poll_find().as_deref(), Some("a"));
        directory.on_found(later, "a", None);
        assert_eq!(directory.get(later, "a"), Some(&7));
    }

    #[test]
    fn a_name_in_use_is_refreshed_and_an_unused_one_is_forgotten() {
        let (mut directory, now) = (Directory::<u32>::new(), now());
        directory.ask(now, "a");
        directory.poll_find();
        directory.on_found(now, "a", Some(7));
        let just_before = now + (REFRESH - Duration::from_millis(1));
        directory.handle_timeout(just_before);
        assert_eq!(directory.poll_find(), None);
        directory.handle_timeout(now + REFRESH);
        assert_eq!(directory.poll_find().as_deref(), Some("a"));
        directory.on_found(now + REFRESH, "a", Some(7));
        assert!(directory.handle_timeout(now + IDLE));
        assert!(directory.is_empty() && directory.poll_timeout().is_none());
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let (mut directory, now) = (Directory::<u32>::new(), now());
        for i in 0..CAPACITY + 10 {
            let name = i.to_string();
            directory.ask(now, &name);
            directory.poll_find();
            directory.on_found(now, &name, Some(0));
        }
        assert_eq!(directory.len(), CAPACITY);
    }
}
