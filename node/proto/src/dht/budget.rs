//! How many requests a node may make of this one, and how long this one leaves those alone who said that it
//! makes too many (docs/PROTOCOL.md §5.3).
//!
//! Each node has a token bucket, which one instant describes: when it will be full again (the virtual
//! scheduling of ITU-T I.371). One that is full again is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use macula_identity::{Identity, NodeId};

use super::Dht;
use crate::error::{Code, Fault};
use crate::time::Now;
use crate::wire::{MAX_RETRY_AFTER, message};
use message::request;

/// A token bucket's measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests that it grants in a second, in the long run.
    pub per_second: u32,
    /// Requests that it grants at once.
    pub burst: u32,
}

/// How many requests about records and nodes this node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To one peer of a realm.
    pub peer: Rate,
    /// To one node of infrastructure.
    pub infrastructure: Rate,
}

impl Default for Limits {
    /// Many times what an honest peer needs who uses all that is its own and finds a single server: 8192 names
    /// followed, each lease renewed every forty seconds or so, and 1024 records looked up and stored every three
    /// minutes, which is some 220 a second; and all of them at once when it joins. Infrastructure, which brings the
    /// records of others too, has four times that.
    fn default() -> Self {
        Self {
            peer: Rate { per_second: 1024, burst: 4096 },
            infrastructure: Rate { per_second: 4096, burst: 16_384 },
        }
    }
}

/// The most nodes whose budgets are remembered; past it the one is forgotten that owes the least. Ten times
/// as many as infrastructure has connections.
pub(super) const MAX_BUCKETS: usize = 16_384;
/// Who is refused comes back when this much has flowed in, not for the next drop.
const PAUSE: Duration = Duration::from_millis(250);
/// The most nodes that are remembered to have asked for a pause.
pub(super) const MAX_RESTS: usize = 1024;

/// What is left of everybody's budget.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    /// When each bucket is full again.
    full_at: BTreeMap<NodeId, Instant>,
    by_time: BTreeSet<(Instant, NodeId)>,
}

impl Budgets {
    /// One request of this node, or after how long it may try again.
    fn take(&mut self, now: Instant, node: NodeId, rate: Rate) -> Result<(), Duration> {
        while let Some(&(at, full)) = self.by_time.first()
            && at <= now
        {
            self.remove(full);
        }
        let Rate { per_second, burst } = rate;
        let cost = Duration::from_secs(1) / per_second.max(1);
        let full_at = self.full_at.get(&node).map_or(now, |at| *at) + cost;
        let (owed, most) = (full_at.saturating_duration_since(now), cost * burst.max(1));
        if owed > most {
            return Err(owed.saturating_sub(most).max(PAUSE.min(most)));
        }
        self.remove(node);
        if self.full_at.len() >= MAX_BUCKETS
            && let Some(&(_, fullest)) = self.by_time.first()
        {
            self.remove(fullest);
        }
        self.full_at.insert(node, full_at);
        self.by_time.insert((full_at, node));
        Ok(())
    }

    fn remove(&mut self, node: NodeId) {
        if let Some(at) = self.full_at.remove(&node) {
            self.by_time.remove(&(at, node));
        }
    }
}

/// Who has asked not to be asked for a while.
#[derive(Debug, Default)]
pub(super) struct Rests {
    until: BTreeMap<NodeId, Instant>,
}

impl Rests {
    /// The node asks for a pause, of which it gets [`MAX_RETRY_AFTER`] at most.
    fn note(&mut self, now: Now, node: NodeId, pause: Duration) {
        self.until.retain(|_, until| *until > now.instant);
        if self.until.len() >= MAX_RESTS
            && let Some((&soonest, _)) = self.until.iter().min_by_key(|(_, until)| **until)
        {
            self.until.remove(&soonest);
        }
        self.until.insert(node, now.after(pause.min(MAX_RETRY_AFTER)));
    }

    /// Whether the node is to be left alone.
    pub(super) fn is_resting(&self, now: Now, node: NodeId) -> bool {
        self.until.get(&node).is_some_and(|until| now.instant < *until)
    }
}

impl Dht {
    /// Counts a request against its sender's budget.
    ///
    /// # Errors
    /// `overloaded`, with when to come back.
    pub(super) fn check_budget(
        &mut self,
        now: Now,
        from: &Identity,
        body: &request::Body,
    ) -> Result<(), Fault> {
        match body {
            // Cheaper to answer than to count, and a call has its own bounds.
            request::Body::Ping(_) | request::Body::Call(_) => return Ok(()),
            request::Body::FindNode(_)
            | request::Body::FindValue(_)
            | request::Body::Store(_)
            | request::Body::Delete(_)
            | request::Body::Changed(_) => {}
        }
        let Limits { peer, infrastructure } = self.config.budget;
        let rate = if from.subject.role().is_infrastructure() { infrastructure } else { peer };
        self.budgets.take(now.instant, from.id, rate).map_err(|pause| {
            self.counters.requests_over_budget += 1;
            let because = format!(
                "this node answers {} requests a second to one node; come back in {} ms",
                rate.per_second,
                pause.as_millis()
            );
            Fault::new(Code::Overloaded, because).retry_after(pause)
        })
    }

    /// A node refused a request, perhaps with when to come back.
    pub(super) fn note_pause(&mut self, now: Now, node: NodeId, fault: &Fault) {
        if let Some(pause) = fault.retry_after {
            self.rests.note(now, node, pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 100, burst: 50 };
    const COST: Duration = Duration::from_millis(10);

    fn node(n: u32) -> NodeId {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(id)
    }

    fn granted(budgets: &mut Budgets, now: Instant, node: NodeId, tries: u32) -> usize {
        (0..tries).filter(|_| budgets.take(now, node, RATE).is_ok()).count()
    }

    #[test]
    fn a_burst_is_granted_and_one_more_is_not_until_it_is_told_to_come_back() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        assert_eq!(granted(&mut budgets, now, node(1), 50), 50);
        let pause = budgets.take(now, node(1), RATE).unwrap_err();
        assert_eq!(pause, PAUSE);
        assert_eq!(granted(&mut budgets, now, node(2), 1), 1, "another has its own");
        let early = now + (COST - Duration::from_millis(1));
        assert_eq!(granted(&mut budgets, early, node(1), 1), 0);
        assert_eq!(granted(&mut budgets, now + pause, node(1), 100), 25);
    }

    #[test]
    fn a_bucket_that_is_full_again_is_forgotten_and_not_before() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        granted(&mut budgets, now, node(1), 3);
        granted(&mut budgets, now + 3 * COST - Duration::from_millis(1), node(2), 1);
        assert_eq!(budgets.full_at.len(), 2);
        granted(&mut budgets, now + 3 * COST, node(2), 1);
        assert_eq!(budgets.full_at.len(), 1);
    }

    #[test]
    fn buckets_are_bounded_and_who_owes_most_is_remembered() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        granted(&mut budgets, now, node(0), 50);
        for n in 1..=u32::try_from(MAX_BUCKETS).unwrap() + 10 {
            assert_eq!(granted(&mut budgets, now, node(n), 1), 1);
        }
        assert_eq!(budgets.full_at.len(), MAX_BUCKETS);
        assert_eq!(budgets.by_time.len(), MAX_BUCKETS);
        assert_eq!(granted(&mut budgets, now, node(0), 1), 0);
    }

    #[test]
    fn whoever_asks_for_a_pause_gets_it_up_to_the_bound() {
        let (mut rests, now) = (Rests::default(), Now { instant: Instant::now(), unix_ms: 0 });
        rests.note(now, node(1), Duration::from_secs(1));
        rests.note(now, node(2), Duration::MAX);
        let just_before = |after: Duration| now + (after - Duration::from_millis(1));
        assert!(rests.is_resting(just_before(Duration::from_secs(1)), node(1)));
        assert!(!rests.is_resting(now + Duration::from_secs(1), node(1)));
        assert!(rests.is_resting(just_before(MAX_RETRY_AFTER), node(2)));
        assert!(!rests.is_resting(now + MAX_RETRY_AFTER, node(2)));
        assert!(!rests.is_resting(now, node(3)));
        for n in 10..3000 {
            rests.note(now, node(n), Duration::from_secs(1));
        }
        assert_eq!(rests.until.len(), MAX_RESTS);
        assert!(rests.is_resting(now, node(2)), "the longest stays");
    }

    proptest! {
        /// In whatever steps time passes: no more than the burst and what flowed in, and no less.
        #[test]
        fn grants_the_burst_and_the_rate(steps in prop::collection::vec((0..400_u64, 0..60_u32), 1..50)) {
            let (mut budgets, start) = (Budgets::default(), Instant::now());
            let (mut passed, mut total) = (0, 0);
            let mut tokens = u64::from(RATE.burst) * 10;
            for (pause_ms, tries) in steps {
                passed += pause_ms;
                tokens = (tokens + pause_ms).min(u64::from(RATE.burst) * 10);
                let now = start + Duration::from_millis(passed);
                let granted = granted(&mut budgets, now, node(1), tries);
                let expected = (tokens / 10).min(u64::from(tries));
                prop_assert_eq!(granted as u64, expected);
                tokens -= expected * 10;
                total += granted as u64;
            }
            prop_assert!(total <= u64::from(RATE.burst) + passed / 10);
        }
    }
}
