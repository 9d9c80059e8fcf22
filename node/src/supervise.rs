//! Keeps tasks alive: what each kind's death means, how often that may happen, and how they stop.
//!
//! A [`Tree`] is filled with children, each a factory of futures, and then [run](Tree::run). A
//! panic or an `Err` is a child's death; it is counted, and answered as [`Kind::on_death`] says.
//! More deaths than the [`Budget`] end the tree with an [`Ended`], and with it the process.
//! Work that comes and goes (a connection, a request) is spawned by a [`Spawner`]: its death is
//! counted, and only that work is lost.

mod budget;
mod counters;
mod failpoint;
mod kind;
mod panic;
mod spawner;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use self::budget::Budget;
pub use self::counters::{Count, Counters};
pub use self::failpoint::failpoint;
#[cfg(any(test, feature = "failpoints"))]
pub use self::failpoint::{FAILPOINTS, arm, arm_from_environment};
pub use self::kind::{Kind, Strategy};
pub use self::panic::install_hook;
pub use self::spawner::Spawner;

/// What a child may fail with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How patient a tree is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many deaths are borne.
    pub budget: Budget,
    /// The wait before the first restart; it doubles with each death that the budget remembers,
    /// up to a second.
    pub pause: Duration,
    /// How long a stop may take in all. One child may use up a third of it.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget: Budget { deaths: 5, within: Duration::from_secs(60) },
            pause: Duration::from_millis(10),
            // Below Kubernetes' terminationGracePeriodSeconds of 30.
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a tree ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// More deaths than the budget.
    #[error("{name} ({kind}) died, death {deaths} within {within:?}: {because}")]
    Exhausted {
        /// The kind that died last.
        kind: Kind,
        /// The child's name.
        name: String,
        /// How many deaths the budget remembered.
        deaths: usize,
        /// The budget's window.
        within: Duration,
        /// The last death's cause.
        because: String,
    },
    /// The death of a child that the node cannot be without.
    #[error("{name} ({kind}) died, and nothing can go on without it: {because}")]
    Fatal {
        /// The kind that died.
        kind: Kind,
        /// The child's name.
        name: String,
        /// The cause.
        because: String,
    },
    /// A child that had to be restarted with another did not stop, not even when aborted: it
    /// blocks its thread.
    #[error("{name} ({kind}) does not stop")]
    Stuck {
        /// The kind of the child.
        kind: Kind,
        /// The child's name.
        name: String,
    },
}

/// Children and their supervisor. The order in which they were added is the order in which they
/// are started; they are stopped in reverse, one after the other.
pub struct Tree {
    settings: Settings,
    stop: CancellationToken,
    counters: Arc<Counters>,
    spawner: Spawner,
    children: Vec<Child>,
    tasks: JoinSet<Result<(), Error>>,
    /// Deaths that came while another child was waited for.
    late: VecDeque<(usize, String)>,
}

struct Child {
    kind: Kind,
    strategy: Strategy,
    name: String,
    runtime: Handle,
    factory: Factory,
    state: State,
}

type Factory = Arc<dyn Fn(CancellationToken) -> Life + Send + Sync>;
type Life = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

enum State {
    /// To be started at this time.
    Planned(Instant),
    Running {
        stop: CancellationToken,
        task: AbortHandle,
    },
    /// Ended by itself, or lost as its kind allows; it is not started again.
    Done,
}

impl Tree {
    /// A tree without children, which ends cleanly when `stop` is cancelled.
    #[must_use]
    pub fn new(settings: Settings, stop: CancellationToken) -> Self {
        let counters = Arc::<Counters>::default();
        let spawner = Spawner::new(stop.child_token(), counters.clone());
        let (children, tasks, late) = (Vec::new(), JoinSet::new(), VecDeque::new());
        Self { settings, stop, counters, spawner, children, tasks, late }
    }

    /// How often each kind died and was restarted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Spawns work that comes and goes, and that this tree's stop waits for.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Adds a child that lives on `runtime`. The factory is called for each of its lives, with a
    /// token that says when this life should end: for another child's sake, or when the whole tree
    /// stops and those that were started after it have ended. What has to survive belongs into what
    /// the factory captures. A child that returns `Ok` is done and is not started again.
    pub fn child<F, T, E>(
        &mut self,
        kind: Kind,
        name: impl Into<String>,
        runtime: &Handle,
        factory: F,
    ) where
        F: Fn(CancellationToken) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Error>,
    {
        let factory: Factory = Arc::new(move |stop| {
            let life = factory(stop);
            Box::pin(async move { life.await.map_err(Into::into) })
        });
        self.children.push(Child {
            kind,
            strategy: kind.on_death(),
            name: name.into(),
            runtime: runtime.clone(),
            factory,
            state: State::Planned(Instant::now()),
        });
    }

    /// Runs the children until the tree is asked to stop or cannot go on. Either way every child
    /// and every transient task has been stopped when it returns.
    ///
    /// # Errors
    /// [`Ended`] when the tree was not asked to end; the process should exit with a code that is
    /// not zero.
    pub async fn run(mut self) -> Result<(), Ended> {
        let outcome = self.supervise().await;
        if let Err(ended) = &outcome {
            error!(reason = %ended, "the supervisor gives up");
        }
        self.shut_down().await;
        outcome
    }

    async fn supervise(&mut self) -> Result<(), Ended> {
        let mut deaths = budget::Deaths::new(self.settings.budget);
        loop {
            if let Some((index, because)) = self.late.pop_front() {
                self.on_death(index, because, &mut deaths).await?;
                continue;
            }
            self.start_planned();
            let next = self.children.iter().filter_map(Child::planned).min();
            if next.is_none() && self.tasks.is_empty() {
                // Every child is done; transient tasks go on until somebody stops the tree.
                self.stop.cancelled().await;
                return Ok(());
            }
            let (index, outcome) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                Some(exit) = self.tasks.join_next_with_id() => match self.take_exit(exit) {
                    Some(exit) => exit,
                    None => continue,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => continue,
            };
            let Err(because) = outcome else {
                debug!(child = self.children[index].name, "a task is done");
                continue;
            };
            self.on_death(index, because, &mut deaths).await?;
        }
    }

    async fn on_death(
        &mut self,
        index: usize,
        because: String,
        deaths: &mut budget::Deaths,
    ) -> Result<(), Ended> {
        let Child { kind, strategy, name, .. } = &self.children[index];
        let (kind, strategy, name) = (*kind, *strategy, name.clone());
        warn!(child = name, kind = %kind, because, ?strategy, "a task died");
        let restarted = match strategy {
            Strategy::Ignore => return Ok(()),
            Strategy::Fatal => return Err(Ended::Fatal { kind, name, because }),
            Strategy::Restart => index..index + 1,
            Strategy::RestartRest => index..self.children.len(),
            Strategy::RestartAll => 0..self.children.len(),
        };
        let remembered = deaths.add(Instant::now());
        let Budget { deaths: most, within } = self.settings.budget;
        if remembered > most {
            return Err(Ended::Exhausted { kind, name, deaths: remembered, within, because });
        }
        // Those that were done before stay done.
        let again: Vec<_> = restarted
            .filter(|&i| i == index || !matches!(self.children[i].state, State::Done))
            .collect();
        self.stop_children(again.iter().rev().copied().filter(|&i| i != index)).await?;
        self.late.retain(|(i, _)| !again.contains(i));
        let at = Instant::now() + self.pause_after(remembered);
        for i in again {
            self.children[i].state = State::Planned(at);
            self.counters.restarted(self.children[i].kind);
        }
        Ok(())
    }

    fn pause_after(&self, deaths: usize) -> Duration {
        let doublings = u32::try_from(deaths.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        self.settings.pause.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
    }

    fn start_planned(&mut self) {
        let now = Instant::now();
        for child in &mut self.children {
            if child.planned().is_some_and(|at| at <= now) {
                let stop = CancellationToken::new();
                let Child { kind, name, runtime, factory, .. } = child;
                debug!(child = name, kind = %kind, "a task starts");
                // The factory is called within the task: its panic is a death like any other.
                let (factory, asked) = (factory.clone(), stop.clone());
                let task = self.tasks.spawn_on(async move { factory(asked).await }, runtime);
                child.state = State::Running { stop, task };
            }
        }
    }

    /// Whose end this is, and how it ended; counts it.
    fn take_exit(
        &mut self,
        exit: Result<(Id, Result<(), Error>), JoinError>,
    ) -> Option<(usize, Result<(), String>)> {
        let id = match &exit {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let index = self.children.iter().position(|child| child.is(id))?;
        let child = &mut self.children[index];
        child.state = State::Done;
        let outcome = match exit {
            Ok((_, Ok(()))) => Ok(()),
            Ok((_, Err(error))) => {
                self.counters.failed(child.kind);
                Err(panic::chain(&*error))
            }
            Err(error) => match error.try_into_panic() {
                Ok(payload) => {
                    self.counters.panicked(child.kind);
                    Err(format!("panicked: {}", panic::message(&*payload)))
                }
                Err(_) => Err("it was aborted, or its runtime ended".to_owned()),
            },
        };
        Some((index, outcome))
    }

    /// Asks each in turn, waits, and aborts the one that does not listen.
    async fn stop_children(&mut self, order: impl Iterator<Item = usize>) -> Result<(), Ended> {
        for index in order {
            let State::Running { stop, task } = &self.children[index].state else { continue };
            stop.cancel();
            let abort = task.clone();
            if !self.ended_by(index, Instant::now() + self.settings.grace / 3).await {
                warn!(child = self.children[index].name, "a task did not stop when asked; aborted");
                abort.abort();
                if !self.ended_by(index, Instant::now() + ABORT_PATIENCE).await {
                    let Child { kind, name, .. } = &self.children[index];
                    return Err(Ended::Stuck { kind: *kind, name: name.clone() });
                }
            }
        }
        Ok(())
    }

    /// Whether the child ended before the deadline. Others that die meanwhile are heard later.
    async fn ended_by(&mut self, index: usize, deadline: Instant) -> bool {
        while matches!(self.children[index].state, State::Running { .. }) {
            match timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(exit)) => match self.take_exit(exit) {
                    Some((other, Err(because))) if other != index => {
                        self.late.push_back((other, because));
                    }
                    Some((_, Ok(()) | Err(_))) | None => {}
                },
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    async fn shut_down(&mut self) {
        let deadline = Instant::now() + self.settings.grace;
        // Nothing new begins, and what is under way hears of it.
        self.spawner.ask();
        for child in &mut self.children {
            if let State::Planned(_) = child.state {
                child.state = State::Done;
            }
        }
        // The last that was started is the first that is asked: it may need those before it.
        let order = (0..self.children.len()).rev();
        let orderly = async {
            if let Err(stuck) = self.stop_children(order).await {
                error!(reason = %stuck, "left behind");
            }
        };
        if timeout_at(deadline, orderly).await.is_err() {
            warn!("not every task stopped in time; the rest is aborted");
        }
        // Then what came and went, and what is left of either.
        if timeout_at(deadline, self.spawner.ended()).await.is_err() {
            warn!(left = self.spawner.alive(), "work under way is cut off");
        }
        self.spawner.cut();
        self.tasks.abort_all();
        let _ = timeout_at(Instant::now() + ABORT_PATIENCE, async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await;
        info!("every task has stopped");
    }
}

/// The longest wait before a restart: the budget decides when to give up, not the pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long an aborted task may take to reach its next await.
const ABORT_PATIENCE: Duration = Duration::from_secs(1);

impl Child {
    fn planned(&self) -> Option<Instant> {
        match self.state {
            State::Planned(at) => Some(at),
            State::Running { .. } | State::Done => None,
        }
    }

    fn is(&self, id: Id) -> bool {
        match &self.state {
            State::Running { task, .. } => task.id() == id,
            State::Planned(_) | State::Done => false,
        }
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.children.iter().map(|child| &child.name).collect();
        f.debug_struct("Tree").field("children", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
