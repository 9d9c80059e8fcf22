//! Decides when which object is reconciled. The stores tell what changed; here are the queue, the
//! bounds and the patience: at most [`AT_ONCE`] at a time, none for longer than [`DEADLINE`], what
//! failed again later, and everything now and then.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use macula_api::{MaculaMesh, MaculaRealm};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::backoff::{Backoff, jittered};
use crate::census::{self, Census};
use crate::context::Context;
use crate::mesh::Applied;
use crate::stores::{Change, Stores};
use crate::tenancy::mesh_ref_of;
use crate::{mesh, prune, realm, trust};

/// How many objects are reconciled at a time.
const AT_ONCE: usize = 8;

/// How long one may take at most. What it waits for has deadlines of its own, so that it can still
/// say what it waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// Changes that come together are one.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// How often an object is looked at though nothing has happened.
const RESYNC: Duration = Duration::from_mins(5);

/// What the reconciles of one process remember.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Who was alive when it was last asked.
    pub(crate) census: Census,
    /// What was applied.
    pub(crate) applied: Applied,
}

/// Reconciles until it is told to stop. What is running then is dropped: each reconcile may end
/// anywhere, and the next one goes on from what it finds.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken) {
    let memory = Arc::<Memory>::default();
    let work = async {
        let census = census::run(&ctx, &memory.census);
        tokio::join!(census, trust::run(&ctx), reconcile_all(&ctx, &memory));
    };
    Box::pin(stop.run_until_cancelled(work)).await;
}

/// One thing to reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Mesh(ObjectRef<MaculaMesh>),
    Realm(ObjectRef<MaculaRealm>),
    /// The authorities of meshes that are gone.
    Prune,
}

impl Work {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Mesh(_) => "mesh",
            Self::Realm(_) => "realm",
            Self::Prune => "prune",
        }
    }

    async fn reconcile(&self, ctx: &Context, memory: &Memory) -> Result<(), String> {
        match self {
            Self::Mesh(reference) => mesh::reconcile(ctx, memory, reference).await,
            Self::Realm(reference) => realm::reconcile(ctx, memory, reference).await,
            Self::Prune => prune::authorities(ctx).await,
        }
    }

    /// Whether there is something to come back for.
    fn lives(&self, stores: &Stores) -> bool {
        match self {
            Self::Mesh(reference) => stores.meshes.get(reference).is_some(),
            Self::Realm(reference) => stores.realms.get(reference).is_some(),
            Self::Prune => true,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = match self {
            Self::Mesh(ObjectRef { namespace, name, .. }) => (namespace, name),
            Self::Realm(ObjectRef { namespace, name, .. }) => (namespace, name),
            Self::Prune => return f.write_str("authorities"),
        };
        write!(f, "{}/{name}", namespace.as_deref().unwrap_or_default())
    }
}

async fn reconcile_all(ctx: &Arc<Context>, memory: &Arc<Memory>) {
    let mut changes = ctx.stores.changes();
    ctx.stores.ready().await;
    let mut queue = Queue::default();
    let backoff = Backoff::default();
    let mut running = JoinSet::new();
    queue.plan(&ctx.stores, &Change::Everything);
    loop {
        while running.len() < AT_ONCE
            && let Some(work) = queue.next(Instant::now())
        {
            running.spawn(one(ctx.clone(), memory.clone(), work));
        }
        let idle = Instant::now() + RESYNC;
        let wake = if running.len() < AT_ONCE { queue.wake().unwrap_or(idle) } else { idle };
        tokio::select! {
            () = sleep_until(wake) => {}
            Some(done) = running.join_next() => {
                // A panic ends the operator: a half of it that goes on alone would help nobody.
                let (work, is_well) = done.expect("a reconcile does not panic");
                let wait = if is_well {
                    backoff.forget(&work);
                    jittered(RESYNC)
                } else {
                    backoff.failed(work.clone())
                };
                let lives = work.lives(&ctx.stores);
                if !lives {
                    backoff.forget(&work);
                }
                queue.done(work, lives.then(|| Instant::now() + wait));
            }
            change = changes.recv() => match change {
                Ok(change) => queue.plan(&ctx.stores, &change),
                Err(RecvError::Lagged(_)) => queue.plan(&ctx.stores, &Change::Everything),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

async fn one(ctx: Arc<Context>, memory: Arc<Memory>, work: Work) -> (Work, bool) {
    let begin = Instant::now();
    let kind = work.kind();
    let result = match timeout(DEADLINE, work.reconcile(&ctx, &memory)).await {
        Ok(Ok(())) => "ok",
        Ok(Err(why)) => {
            warn!(kind, object = %work, why, "a reconcile failed, and is tried again");
            "error"
        }
        Err(_) => {
            warn!(kind, object = %work, "a reconcile took too long, and is tried again");
            "timeout"
        }
    };
    let took = begin.elapsed();
    debug!(kind, object = %work, result, took_ms = took.as_millis(), "reconciled");
    ctx.metrics.on_reconcile(kind, result, took);
    (work, result == "ok")
}

/// What is to be reconciled, and when. Never longer than there are objects.
#[derive(Debug, Default)]
struct Queue {
    due: HashMap<Work, Instant>,
    /// What is being reconciled. It is not begun again before it is done.
    busy: HashSet<Work>,
}

impl Queue {
    /// Takes what is due longest.
    fn next(&mut self, now: Instant) -> Option<Work> {
        let (work, at) = self.waiting().min_by_key(|(_, at)| **at)?;
        if *at > now {
            return None;
        }
        let work = work.clone();
        self.due.remove(&work);
        self.busy.insert(work.clone());
        Some(work)
    }

    /// When there is something to take.
    fn wake(&self) -> Option<Instant> {
        self.waiting().map(|(_, at)| *at).min()
    }

    /// Makes way for the next time, which is at the latest then.
    fn done(&mut self, work: Work, again: Option<Instant>) {
        self.busy.remove(&work);
        if let Some(again) = again {
            self.put(work, again);
        }
    }

    /// Puts in whatever a change may matter to.
    fn plan(&mut self, stores: &Stores, change: &Change) {
        let at = Instant::now() + DEBOUNCE;
        for work in concerned(stores, change) {
            self.put(work, at);
        }
    }

    fn put(&mut self, work: Work, at: Instant) {
        let due = self.due.entry(work).or_insert(at);
        *due = at.min(*due);
    }

    fn waiting(&self) -> impl Iterator<Item = (&Work, &Instant)> {
        self.due.iter().filter(|(work, _)| !self.busy.contains(*work))
    }
}

/// Whom a change may matter to.
fn concerned(stores: &Stores, change: &Change) -> Vec<Work> {
    let all_of = |mesh: &ObjectRef<MaculaMesh>| refs(&stores.realms_of(mesh), Work::Realm);
    match change {
        Change::Mesh(mesh) => {
            let mut work = all_of(mesh);
            work.extend([Work::Mesh(mesh.clone()), Work::Prune]);
            work
        }
        Change::MeshStatus(mesh) => all_of(mesh),
        Change::Census(mesh) => {
            let mut work = all_of(mesh);
            work.push(Work::Mesh(mesh.clone()));
            work
        }
        // Its rivals may have the name now, or not any more.
        Change::Realm(realm, mesh) => {
            let mut work = all_of(mesh);
            work.extend([Work::Mesh(mesh.clone()), Work::Realm(realm.clone())]);
            work
        }
        Change::Infrastructure(mesh) | Change::Child(mesh) => vec![Work::Mesh(mesh.clone())],
        Change::Secret(mesh) => {
            // A namespace has no dot in its name.
            let mesh = mesh
                .split_once('.')
                .map(|(namespace, name)| Work::Mesh(ObjectRef::new(name).within(namespace)));
            mesh.into_iter().chain([Work::Prune]).collect()
        }
        // A mesh may allow realms of it by its labels, and its pods may ask for any realm by them.
        Change::Namespace(namespace) => {
            let here = stores.realms.state_filter(|it| it.namespace().as_ref() == Some(namespace));
            let meshes = here.iter().map(|realm| Work::Mesh(mesh_ref_of(realm)));
            every(&stores.realms, Work::Realm).into_iter().chain(meshes).collect()
        }
        Change::Pod(Some(realm)) => {
            refs(&stores.realms.state_filter(|known| known.spec.name == *realm), Work::Realm)
        }
        Change::Pod(None) => every(&stores.realms, Work::Realm),
        Change::Trust(_) | Change::Ensured(_) | Change::OperatorCa => Vec::new(),
        Change::Everything => {
            let mut work = every(&stores.realms, Work::Realm);
            work.extend(every(&stores.meshes, Work::Mesh));
            work.push(Work::Prune);
            work
        }
    }
}

fn every<K>(store: &Store<K>, work: fn(ObjectRef<K>) -> Work) -> Vec<Work>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    refs(&store.state(), work)
}

fn refs<K>(objects: &[Arc<K>], work: fn(ObjectRef<K>) -> Work) -> Vec<Work>
where
    K: kube::Resource<DynamicType = ()>,
{
    objects.iter().map(|object| work(ObjectRef::from_obj(&**object))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(name: &str) -> Work {
        Work::Mesh(ObjectRef::new(name).within("macula-system"))
    }

    #[test]
    fn what_is_due_is_taken_once_and_the_longest_due_first() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        queue.put(mesh("b"), later(2));
        queue.put(mesh("a"), later(1));
        queue.put(mesh("b"), later(9));
        assert_eq!(queue.next(now), None);
        assert_eq!(queue.wake(), Some(later(1)));
        assert_eq!(queue.next(later(2)), Some(mesh("a")));
        assert_eq!(queue.next(later(2)), Some(mesh("b")));
        assert_eq!(queue.next(later(99)), None);
    }

    #[test]
    fn what_changes_while_it_is_reconciled_is_reconciled_again_afterwards() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.put(mesh("a"), now);
        assert_eq!(queue.next(now), Some(mesh("a")));
        queue.put(mesh("a"), now);
        assert_eq!(queue.next(now), None, "it is busy");
        assert_eq!(queue.wake(), None);
        queue.done(mesh("a"), Some(now + RESYNC));
        assert_eq!(queue.next(now), Some(mesh("a")));
        queue.done(mesh("a"), None);
        assert_eq!(queue.wake(), None);
    }

    #[test]
    fn an_object_is_shown_as_people_write_it() {
        assert_eq!(mesh("main").to_string(), "macula-system/main");
    }
}
