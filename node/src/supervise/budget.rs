//! How many deaths a tree bears before it gives up.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// This many deaths within this time are borne; one more ends the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How many.
    pub deaths: usize,
    /// The window that slides along.
    pub within: Duration,
}

/// The deaths that the budget remembers: never more than one above it.
#[derive(Debug)]
pub(super) struct Deaths {
    budget: Budget,
    times: VecDeque<Instant>,
}

impl Deaths {
    pub(super) const fn new(budget: Budget) -> Self {
        Self { budget, times: VecDeque::new() }
    }

    /// How many there are with this one.
    pub(super) fn add(&mut self, now: Instant) -> usize {
        self.times.push_back(now);
        while self.times.front().is_some_and(|&at| now.duration_since(at) > self.budget.within)
            || self.times.len() > self.budget.deaths + 1
        {
            self.times.pop_front();
        }
        self.times.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn forgets_a_death_the_instant_after_the_window() {
        let within = Duration::from_secs(60);
        let mut deaths = Deaths::new(Budget { deaths: 2, within });
        let start = Instant::now();
        assert_eq!(deaths.add(start), 1);
        assert_eq!(deaths.add(start + within), 2, "the window's end belongs to it");
        assert_eq!(deaths.add(start + within + Duration::from_nanos(1)), 2);
        assert_eq!(deaths.add(start + within + Duration::from_nanos(2)), 3);
        for _ in 0..100 {
            assert_eq!(deaths.add(start + within * 2), 3, "it does not grow");
        }
    }
}
