//! Work in a task of its own, so that its panic is its own.

use std::future::Future;

use tokio::sync::oneshot;

use crate::supervise::{Kind, Spawner};

/// Runs work in a task of its own. `None` when it panicked, which the supervisor counts. Dropping
/// the future drops the work.
pub(super) async fn in_own_task<T: Send + 'static>(
    tasks: &Spawner,
    kind: Kind,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (mut reply, done) = oneshot::channel();
    tasks.spawn(kind, async move {
        tokio::select! {
            biased;
            () = reply.closed() => {}
            // Whoever waited may have gone in this very moment.
            result = work => drop(reply.send(result)),
        }
    });
    done.await.ok()
}
