//! The authority in the process: issues at once and renews from half of a life (`dev`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use macula_identity::{Authority, NodeKey, Order, authority};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Credentials, Source, Unfit};
use crate::clock;
use crate::metrics::Metrics;
use crate::supervise::{self, Kind, Tree, failpoint};

/// Renews one node's certificate. [`run`](Self::run) is the task; a supervisor may start it again.
#[derive(Debug)]
pub struct Renewal {
    authority: Arc<Authority>,
    order: Order,
    key: Arc<NodeKey>,
    sender: watch::Sender<Arc<Credentials>>,
    renewals: AtomicU64,
}

/// Why no certificate came from the authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not sign.
    #[error("the authority in the process does not sign")]
    Issue(#[from] authority::Error),
    /// What it signed is not believed.
    #[error("the certificate that it signed cannot be used")]
    Unfit(#[from] Unfit),
}

/// Gets the first certificate, for a new key that every renewal keeps.
///
/// # Errors
/// When the authority does not sign what is ordered.
pub fn start(authority: Arc<Authority>, order: Order) -> Result<Arc<Renewal>, Error> {
    let key = Arc::new(NodeKey::generate());
    let first = issue(&authority, &order, &key)?;
    let sender = watch::Sender::new(Arc::new(first));
    let renewals = AtomicU64::new(0);
    Ok(Arc::new(Renewal { authority, order, key, sender, renewals }))
}

impl Renewal {
    /// Renews for ever. May be dropped at any point and run again.
    pub async fn run(&self, metrics: &Metrics) {
        let mut next = Instant::now() + self.half_of_what_is_left();
        loop {
            failpoint(Kind::Renewal);
            sleep_until(next).await;
            match issue(&self.authority, &self.order, &self.key) {
                Ok(credentials) => {
                    info!(
                        not_after = credentials.identity.not_after,
                        "the certificate was renewed"
                    );
                    self.sender.send_replace(Arc::new(credentials));
                    self.renewals.fetch_add(1, Ordering::Relaxed);
                    next = Instant::now() + self.half_of_what_is_left();
                }
                Err(error) => {
                    metrics.identity_reload_failures.inc();
                    let because = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(%error, because, "the certificate cannot be renewed; trying again");
                    next = Instant::now() + RETRY.min(self.order.lifetime / 20);
                }
            }
        }
    }

    /// The credentials of now, and every change of them.
    #[must_use]
    pub fn source(&self) -> Source {
        self.sender.subscribe()
    }

    /// Makes the renewal a child of this tree.
    pub fn add_to(self: &Arc<Self>, tree: &mut Tree, runtime: &Handle, metrics: &Arc<Metrics>) {
        let (renewal, metrics) = (self.clone(), metrics.clone());
        tree.child(Kind::Renewal, "renewal", runtime, move |stop| {
            let (renewal, metrics) = (renewal.clone(), metrics.clone());
            async move {
                stop.run_until_cancelled(renewal.run(&metrics)).await;
                Ok::<(), supervise::Error>(())
            }
        });
    }

    /// How often the certificate was renewed.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    fn half_of_what_is_left(&self) -> Duration {
        self.sender.borrow().remaining(clock::unix_time()) / 2
    }
}

/// How long to wait after the authority refused: it is in memory, so only a clock can change that.
const RETRY: Duration = Duration::from_secs(10);

fn issue(authority: &Authority, order: &Order, key: &Arc<NodeKey>) -> Result<Credentials, Error> {
    let now = clock::unix_time();
    let chain = authority.issue(&key.csr_der(), order, now)?;
    let (bundle, mesh) = (Arc::new(authority.bundle()), authority.scope().clone());
    Ok(Credentials::new(key.clone(), chain, bundle, mesh, now)?)
}

#[cfg(test)]
mod tests {
    use macula_identity::{Place, Scope};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn renews_at_half_of_a_life_and_keeps_key_and_id() {
        let renewal = start_with(Duration::from_secs(10));
        let mut source = renewal.source();
        let first = source.borrow_and_update().clone();
        let (started, running) = (Instant::now(), renewal.clone());
        let task = tokio::spawn(async move { running.run(&Metrics::default()).await });
        for renewals in 1..=6 {
            source.changed().await.unwrap();
            let renewed = source.borrow_and_update().clone();
            assert!(!Arc::ptr_eq(&first, &renewed));
            assert_eq!(renewed.identity.id, first.identity.id);
            assert_eq!(renewed.identity.public_key, first.identity.public_key);
            // The wall clock goes on while the paused one is still, so a second may be missing.
            let passed = started.elapsed();
            let most = Duration::from_secs(5) * renewals;
            assert!(passed <= most && passed + Duration::from_secs(1) * renewals >= most);
        }
        task.abort();
        assert!(renewal.renewals() >= 6);
    }

    #[test]
    fn an_order_for_another_mesh_is_an_error_at_once() {
        let authority = Authority::new(mesh("ns.one"), clock::unix_time());
        let other = mesh("ns.two").subject(Place::Gateway, "g".parse().unwrap());
        let error = start(Arc::new(authority), Order::new(other)).unwrap_err();
        assert!(matches!(error, Error::Issue(authority::Error::OtherMesh { .. })), "{error:?}");
    }

    fn start_with(lifetime: Duration) -> Arc<Renewal> {
        let mesh = mesh("ns.test");
        let authority = Authority::new(mesh.clone(), clock::unix_time());
        let subject = mesh.subject(Place::Bootstrap, "b".parse().unwrap());
        start(Arc::new(authority), Order { lifetime, ..Order::new(subject) }).unwrap()
    }

    fn mesh(name: &str) -> Scope {
        Scope { trust_domain: "test".parse().unwrap(), mesh: name.parse().unwrap() }
    }
}
