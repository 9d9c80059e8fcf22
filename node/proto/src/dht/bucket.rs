//! One k-bucket: the nodes at one distance, those seen longest ago first (Kademlia §2.2, §4.1).

use std::time::{Duration, Instant};

use macula_identity::NodeId;

use crate::wire::Contact;

/// How many contacts a bucket holds, and how many nodes hold a record: k of the paper (§2.3),
/// where twenty are unlikely to fail within an hour.
pub const K: usize = 20;
/// How many contacts wait for a place in a full bucket. The newest ones wait.
pub(super) const WAITING: usize = 8;

/// A bucket, which holds live contacts as long as they live: in the paper's measurements, who has
/// been up long stays up.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Seen longest ago first; at most [`K`].
    entries: Vec<Entry>,
    /// In the order of arrival; at most [`WAITING`].
    waiting: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    contact: Contact,
    seen: Instant,
    /// A ping to see whether it still lives is under way.
    is_pinged: bool,
}

/// What became of a contact.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It took a free place.
    New,
    /// It was there; its addresses are replaced.
    Known,
    /// The bucket is full, or holds enough of its network, and it waits. This one, not seen for long, is
    /// to be pinged: when it does not answer it makes room.
    Waiting {
        /// The contact to ping.
        doubtful: Option<Contact>,
    },
}

impl Bucket {
    /// A contact was met. With `has_room` false it can only wait; `fits` says whether the table has room
    /// for one more of its network. Gives also who no longer waits.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        contact: Contact,
        has_room: bool,
        fits: bool,
        stale_after: Duration,
    ) -> (Inserted, Option<NodeId>) {
        let entry = Entry { contact, seen: now, is_pinged: false };
        let id = entry.contact.id;
        if let Some(at) = self.entries.iter().position(|known| known.contact.id == id) {
            self.entries.remove(at);
            self.entries.push(entry);
            return (Inserted::Known, None);
        }
        self.waiting.retain(|waiting| waiting.contact.id != id);
        if has_room && fits && self.entries.len() < K {
            self.entries.push(entry);
            return (Inserted::New, None);
        }
        let is_crowded = self.waiting.len() >= WAITING;
        let forgotten = is_crowded.then(|| self.waiting.remove(0).contact.id);
        self.waiting.push(entry);
        let oldest = self.entries.first_mut().filter(|_| fits);
        let doubtful = oldest.filter(|oldest| {
            !oldest.is_pinged && now.saturating_duration_since(oldest.seen) >= stale_after
        });
        let doubtful = doubtful.map(|oldest| {
            oldest.is_pinged = true;
            oldest.contact.clone()
        });
        (Inserted::Waiting { doubtful }, forgotten)
    }

    /// The node was heard.
    pub(crate) fn touch(&mut self, now: Instant, id: NodeId) {
        if let Some(at) = self.entries.iter().position(|known| known.contact.id == id) {
            let entry = self.entries.remove(at);
            self.entries.push(Entry { seen: now, is_pinged: false, ..entry });
        }
    }

    /// The node is gone. Gives whether that freed a place: for [`Bucket::promote`].
    pub(crate) fn remove(&mut self, id: NodeId) -> bool {
        self.waiting.retain(|waiting| waiting.contact.id != id);
        let before = self.entries.len();
        self.entries.retain(|known| known.contact.id != id);
        self.entries.len() < before
    }

    /// One that waits takes a free place.
    pub(crate) fn promote(&mut self, id: NodeId) {
        debug_assert!(self.entries.len() < K, "a place is free");
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.contact.id == id) {
            self.entries.push(self.waiting.remove(at));
            self.entries.sort_by_key(|entry| entry.seen);
        }
    }

    /// Those that wait, in the order in which they take places: who came last first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Contact> {
        self.waiting.iter().rev().map(|entry| &entry.contact)
    }

    /// The contacts, seen longest ago first.
    pub(crate) fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.entries.iter().map(|entry| &entry.contact)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STALE: Duration = Duration::from_secs(60);

    fn contact(n: u8) -> Contact {
        Contact { id: NodeId::from_bytes([n; 20]), addresses: Vec::new() }
    }

    fn insert(bucket: &mut Bucket, now: Instant, n: u8) -> Inserted {
        bucket.insert(now, contact(n), true, true, STALE).0
    }

    fn remove(bucket: &mut Bucket, n: u8) {
        let next = bucket.waiting().next().map(|contact| contact.id);
        if let (true, Some(next)) = (bucket.remove(contact(n).id), next) {
            bucket.promote(next);
        }
    }

    fn full(now: Instant) -> Bucket {
        let mut bucket = Bucket::default();
        for n in 0..20 {
            assert_eq!(insert(&mut bucket, now, n), Inserted::New);
        }
        bucket
    }

    #[test]
    fn a_full_bucket_keeps_the_old_and_lets_the_new_wait() {
        let now = Instant::now();
        let mut bucket = full(now);
        let waits = insert(&mut bucket, now, 20);
        assert_eq!(waits, Inserted::Waiting { doubtful: None });
        remove(&mut bucket, 7);
        assert!(bucket.contacts().any(|known| known.id == contact(20).id));
        assert_eq!(bucket.len(), K);
    }

    #[test]
    fn the_stalest_is_pinged_once_before_it_is_replaced() {
        let now = Instant::now();
        let mut bucket = full(now);
        bucket.touch(now + STALE / 2, contact(0).id);
        let doubtful = Some(contact(1));
        assert_eq!(insert(&mut bucket, now + STALE, 20), Inserted::Waiting { doubtful });
        assert_eq!(insert(&mut bucket, now + STALE, 21), Inserted::Waiting { doubtful: None });
        bucket.touch(now + STALE, contact(1).id);
        assert_eq!(bucket.contacts().last(), Some(&contact(1)));
    }

    #[test]
    fn one_too_many_of_a_network_waits_though_there_are_places_and_nobody_is_pinged_for_it() {
        let now = Instant::now();
        let mut bucket = Bucket::default();
        insert(&mut bucket, now, 0);
        let waits = bucket.insert(now + STALE, contact(1), true, false, STALE).0;
        assert_eq!(waits, Inserted::Waiting { doubtful: None });
        assert_eq!((bucket.len(), bucket.waiting().count()), (1, 1));
    }

    #[test]
    fn those_who_wait_are_bounded_and_the_newest_comes_first() {
        let now = Instant::now();
        let mut bucket = full(now);
        for n in 20..60 {
            insert(&mut bucket, now, n);
        }
        assert_eq!(bucket.waiting.len(), WAITING);
        remove(&mut bucket, 0);
        remove(&mut bucket, 0);
        assert_eq!((bucket.len(), bucket.waiting.len()), (K, WAITING - 1));
        assert!(bucket.contacts().any(|known| known.id == contact(59).id));
    }

    /// What a bucket is, said plainly.
    #[derive(Default)]
    struct Model {
        /// Who has a place, and when it was seen.
        placed: Vec<(u32, u8)>,
        /// The same of who waits, the newest last.
        waiting: Vec<(u32, u8)>,
    }

    impl Model {
        fn meet(&mut self, at: u32, n: u8) {
            self.waiting.retain(|(_, waiting)| *waiting != n);
            if self.hear(at, n) {
                return;
            }
            if self.placed.len() < K {
                return self.placed.push((at, n));
            }
            self.waiting.push((at, n));
            let over = self.waiting.len().saturating_sub(WAITING);
            self.waiting.drain(..over);
        }

        fn hear(&mut self, at: u32, n: u8) -> bool {
            let known = self.placed.iter_mut().find(|(_, known)| *known == n);
            known.map(|(seen, _)| *seen = at).is_some()
        }

        fn lose(&mut self, n: u8) {
            let before = self.placed.len();
            self.placed.retain(|(_, known)| *known != n);
            self.waiting.retain(|(_, waiting)| *waiting != n);
            if self.placed.len() < before {
                self.placed.extend(self.waiting.pop());
            }
        }
    }

    proptest! {
        /// Whoever has a place keeps it until it is gone, and they stand in the order in which they were seen.
        #[test]
        fn a_bucket_is_as_its_model_whatever_happens(
            events in prop::collection::vec((0_u8..4, 0_u8..40), 0..200),
        ) {
            let began = Instant::now();
            let (mut bucket, mut model) = (Bucket::default(), Model::default());
            for (at, (event, n)) in (0_u32..).zip(events) {
                let now = began + Duration::from_secs(1) * at;
                match event {
                    0 | 1 => {
                        insert(&mut bucket, now, n);
                        model.meet(at, n);
                    }
                    2 => {
                        bucket.touch(now, contact(n).id);
                        model.hear(at, n);
                    }
                    _ => {
                        remove(&mut bucket, n);
                        model.lose(n);
                    }
                }
                model.placed.sort_unstable();
                let placed: Vec<_> = model.placed.iter().map(|(_, n)| contact(*n)).collect();
                prop_assert!(bucket.contacts().eq(&placed));
                let waiting = model.waiting.iter().rev().map(|(_, n)| contact(*n));
                prop_assert!(bucket.waiting().cloned().eq(waiting));
            }
        }
    }
}
