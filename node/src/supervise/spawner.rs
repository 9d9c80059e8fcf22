//! Spawns work that comes and goes: connections, requests, handlers.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Counters, Kind, panic};

/// Spawns transient tasks of one tree. A panic is counted and ends only that task; the tree's stop
/// waits for all of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spawner {
    tasks: TaskTracker,
    counters: Arc<Counters>,
    asked: CancellationToken,
    cut: CancellationToken,
}

impl Spawner {
    pub(super) fn new(asked: CancellationToken, counters: Arc<Counters>) -> Self {
        Self { tasks: TaskTracker::new(), counters, asked, cut: CancellationToken::new() }
    }

    /// Spawns onto the runtime of the caller, which must be within one.
    pub fn spawn<T>(&self, kind: Kind, task: T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.spawn_on(kind, task, &Handle::current());
    }

    /// Spawns onto this runtime.
    pub fn spawn_on<T>(&self, kind: Kind, task: T, runtime: &Handle)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let (counters, cut) = (self.counters.clone(), self.cut.clone());
        let task = Box::pin(task);
        let watched = async move {
            // Nothing of the task is looked at after it panicked: it is dropped as a whole.
            let task = AssertUnwindSafe(cut.run_until_cancelled_owned(task)).catch_unwind();
            if let Err(payload) = task.await {
                counters.panicked(kind);
                let because = panic::message(&*payload);
                warn!(kind = %kind, because, "a task died; its work is lost");
            }
        };
        self.tasks.spawn_on(watched, runtime);
    }

    /// Cancelled when the tree stops: finish, and begin nothing long.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.asked.clone()
    }

    /// How many tasks there are now.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.tasks.len()
    }

    /// What they die of is counted here.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub(super) fn ask(&self) {
        self.asked.cancel();
    }

    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn cut(&self) {
        self.cut.cancel();
    }
}
