//! The lookups that fill the tables and keep them fresh (Kademlia §2.3, last paragraphs).
//!
//! With the first contact of a scope a node looks for its own neighbours, then for a random place
//! in each bucket that is farther away than these. It does so again a little later, when those who
//! joined with it are there too, and then at intervals. Who only asks needs no more than its
//! neighbours: those whom it asks have full tables.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::Rng;

use super::ask::Goal;
use super::{Dht, K};
use crate::key::{Distance, Key, Scope};
use crate::time::{Deadline, Now};

/// How many lookups of upkeep are under way at a time.
pub(super) const MAX_RUNNING: usize = 4;
/// How long after the first round the second follows.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two lookups of one round.
const STEP: Duration = Duration::from_millis(50);

/// What is to be refreshed when.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    tasks: BTreeMap<Scope, Task>,
    /// Those not under way.
    due: BTreeSet<(Instant, Scope)>,
    running: usize,
}

#[derive(Debug)]
struct Task {
    round: u32,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Neighbours,
    Bucket(usize),
}

impl Upkeep {
    /// When to call [`Dht::start_due_upkeep`].
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let (at, _) = self.due.first().filter(|_| self.running < MAX_RUNNING)?;
        Some(Deadline::new(*at, "bucket refresh"))
    }
}

impl Dht {
    /// A server of this scope was met. When it is the first, this node joins.
    pub(super) fn join(&mut self, now: Now, met: Scope) {
        // A peer looks at both of its tables at once.
        let scope = self.my_realm().map_or(met, |mine| Scope::Realm(mine.clone()));
        if self.upkeep.tasks.contains_key(&scope) || !self.tables.is_known(&scope) {
            return;
        }
        self.upkeep.tasks.insert(scope.clone(), Task { round: 0, step: Step::Neighbours });
        self.upkeep.due.insert((now.instant, scope));
        self.start_due_upkeep(now);
    }

    /// Starts the lookups that are due, as many as may be under way.
    pub(super) fn start_due_upkeep(&mut self, now: Now) {
        while self.upkeep.running < MAX_RUNNING
            && let Some((at, _)) = self.upkeep.due.first()
            && *at <= now.instant
        {
            let (_, scope) = self.upkeep.due.pop_first().expect("looked at above");
            if !self.tables.is_known(&scope) {
                // The next server that comes starts it again.
                self.upkeep.tasks.remove(&scope);
                continue;
            }
            let me = Key::from(self.me.identity.id);
            let target = match self.upkeep.tasks[&scope].step {
                Step::Neighbours => me,
                Step::Bucket(index) => Distance::within_bucket(index, self.rng.random()).from(me),
            };
            self.upkeep.running += 1;
            self.start_lookup(now, target, scope, Goal::Upkeep);
        }
    }

    /// A lookup of upkeep has ended: what comes next, and when.
    pub(super) fn on_upkept(&mut self, now: Now, scope: Scope) {
        self.upkeep.running -= 1;
        let next = self.next_bucket(&scope);
        let spread = self.rng.random_range(0.9..1.1);
        let Some(task) = self.upkeep.tasks.get_mut(&scope) else { return };
        let pause = if let Some(index) = next {
            task.step = Step::Bucket(index);
            STEP
        } else {
            let is_first = task.round == 0;
            *task = Task { round: task.round.saturating_add(1), step: Step::Neighbours };
            if is_first { SETTLE } else { self.config.refresh_every.mul_f64(spread) }
        };
        self.upkeep.due.insert((now.after(pause), scope));
    }

    /// The next bucket of this round: after joining those that are not full, later all.
    fn next_bucket(&self, scope: &Scope) -> Option<usize> {
        let task = self.upkeep.tasks.get(scope).filter(|_| self.is_server())?;
        let from = match task.step {
            Step::Neighbours => 0,
            Step::Bucket(index) => index + 1,
        };
        let fill = self.tables.fill(scope);
        // The deepest buckets that together hold k are what looking for neighbours has refreshed.
        let mut deeper = 0;
        let is_near = |count: &&usize| {
            deeper += **count;
            deeper < K
        };
        let near = fill.iter().rev().take_while(is_near).count();
        let is_wanted = |index: &usize| task.round >= 2 || fill[*index] < K;
        (from..fill.len().saturating_sub(near)).find(is_wanted)
    }
}
