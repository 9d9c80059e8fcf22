//! Which messages have arrived before: a sliding window for each publisher, as against replays in
//! RFC 6479.

use std::collections::BTreeMap;

use macula_identity::NodeId;

/// How far behind the newest a message may arrive and still be told from a duplicate.
pub(crate) const WINDOW: u64 = 128;
/// The most publishers that are remembered; past it the one longest silent is forgotten.
pub(crate) const MAX_PUBLISHERS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Seen {
    publishers: BTreeMap<NodeId, Window>,
    clock: u64,
}

#[derive(Debug)]
struct Window {
    incarnation: u64,
    newest: u64,
    /// Bit n: `newest - n` has arrived.
    bits: u128,
    used: u64,
}

impl Seen {
    /// Whether this message is here for the first time; then it is remembered. One of an earlier
    /// incarnation, or too old to tell, is not new.
    pub(super) fn is_new(&mut self, publisher: NodeId, incarnation: u64, sequence: u64) -> bool {
        self.clock += 1;
        let used = self.clock;
        if !self.publishers.contains_key(&publisher) && self.publishers.len() >= MAX_PUBLISHERS {
            let oldest = self.publishers.iter().min_by_key(|(_, window)| window.used);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.publishers.remove(&oldest);
            }
        }
        let fresh = Window { incarnation, newest: sequence, bits: 0, used };
        let window = self.publishers.entry(publisher).or_insert(fresh);
        window.used = used;
        if incarnation < window.incarnation {
            return false;
        }
        if incarnation > window.incarnation {
            *window = Window { incarnation, newest: sequence, bits: 0, used };
        }
        window.accept(sequence)
    }
}

impl Window {
    fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.newest {
            let ahead = sequence - self.newest;
            self.bits = if ahead < WINDOW { self.bits << ahead } else { 0 };
            self.newest = sequence;
        }
        let behind = self.newest - sequence;
        if behind >= WINDOW {
            return false;
        }
        let bit = 1 << behind;
        let new = self.bits & bit == 0;
        self.bits |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALICE: NodeId = NodeId::from_bytes([1; 20]);

    proptest! {
        #[test]
        fn every_message_within_the_window_is_new_exactly_once(
            mut order in Just((1_u64..100).collect::<Vec<_>>()).prop_shuffle(), extra in 0_usize..50
        ) {
            let again: Vec<_> = order.iter().copied().take(extra).collect();
            order.extend(again);
            let mut seen = Seen::default();
            let new = order.iter().filter(|n| seen.is_new(ALICE, 1, **n)).count();
            prop_assert_eq!(new, 99);
        }

        #[test]
        fn no_number_panics(numbers in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
            let mut seen = Seen::default();
            for (incarnation, sequence) in numbers {
                seen.is_new(ALICE, incarnation, sequence);
            }
        }
    }

    #[test]
    fn a_restarted_publisher_begins_again_and_its_past_is_over() {
        let mut seen = Seen::default();
        assert!(seen.is_new(ALICE, 1, 5));
        assert!(seen.is_new(ALICE, 2, 5));
        assert!(!seen.is_new(ALICE, 1, 6));
    }

    #[test]
    fn the_last_of_the_window_is_accepted_and_the_one_before_refused() {
        let mut seen = Seen::default();
        assert!(seen.is_new(ALICE, 1, WINDOW + 1));
        assert!(seen.is_new(ALICE, 1, 2));
        assert!(!seen.is_new(ALICE, 1, 1));
    }
}
