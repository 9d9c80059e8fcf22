//! The third source of an identity: the node asks the operator for its certificate, and renews it
//! from half of what remains.
//!
//! The key is the node's own and never leaves it. Who the node is proves a token that is read anew for
//! each request; what is trusted is read anew as well, because all of these files are rotated under
//! the node's feet, and at a pod's start may not be there yet. Nothing here gives up: each failure has
//! a code, is told once for as long as it lasts, and is tried again.
//!
//! | file | holds |
//! | --- | --- |
//! | `client` | one request and its answer |
//! | `keep` | key and certificate on a volume |

mod client;
mod keep;

use std::sync::Arc;
use std::time::Duration;

use macula_config::Config;
use macula_identity::{Bundle, Chain, NodeKey, NodeName, Place, Scope};
use macula_proto::{Code, Fault};
use rand::Rng;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::clock;
use crate::discovery::Resolver;
use crate::identity::{Credentials, Nearness, Source, Trouble};
use crate::metrics::Metrics;
use crate::supervise::{self, Kind, Tree, failpoint};
use keep::Keep;

/// One node's enrolment.
#[derive(Debug)]
pub struct Enrolment {
    config: macula_config::Enrolment,
    bundle: std::path::PathBuf,
    scope: Scope,
    place: Place,
    /// The name that the certificate must have, where the configuration says one.
    name: Option<NodeName>,
    resolver: Resolver,
    key: Arc<NodeKey>,
    keep: Option<Keep>,
    trouble: watch::Sender<Option<Fault>>,
    metrics: Arc<Metrics>,
}

/// How long one request may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The waits between tries that fail: they double from the first to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often files are read again.
const EVERY: Duration = Duration::from_secs(1);

impl Enrolment {
    /// Prepares the enrolment of a node, with its kept key or a new one.
    ///
    /// # Errors
    /// `invalid_config`, when the configuration has no enrolment, or its folder cannot be used.
    pub fn new(config: &Config, resolver: Resolver, metrics: Arc<Metrics>) -> Result<Self, Fault> {
        let invalid = |because: String| {
            Fault::new(Code::InvalidConfig, because).tried("prepare the node's enrolment")
        };
        let enrolment = config.identity.enrolment.clone();
        let enrolment = enrolment.ok_or_else(|| invalid("identity.enrolment is missing".into()))?;
        let place = config.place().map_err(|wrong| invalid(wrong.to_string()))?;
        let keep = config.data_dir.as_deref().map(Keep::open).transpose();
        let keep = keep.map_err(|error| invalid(error.to_string()))?;
        let key = match &keep {
            Some(keep) => keep.key().map_err(|error| invalid(error.to_string()))?,
            None => NodeKey::generate(),
        };
        Ok(Self {
            config: enrolment,
            bundle: config.identity.bundle.clone(),
            scope: config.scope(),
            place,
            name: config.name.clone(),
            resolver,
            key: Arc::new(key),
            keep,
            trouble: watch::Sender::new(None),
            metrics,
        })
    }

    /// What keeps the node from its certificate now, and every change of it.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.trouble.subscribe()
    }

    /// The certificate that was kept, if it is still good: a node comes back while the operator is
    /// away.
    #[must_use]
    pub fn kept(&self) -> Option<Credentials> {
        let chain = self.keep.as_ref()?.certificate()?;
        match self.bundle().and_then(|bundle| self.judge(chain, bundle)) {
            Ok(credentials) => Some(credentials),
            Err(fault) => {
                info!(code = %fault.code, because = fault.because, "the kept certificate is of no more use");
                None
            }
        }
    }

    /// Tries until there is a certificate. May be dropped at any point.
    pub async fn first(&self) -> Credentials {
        let mut wait = FIRST_WAIT;
        loop {
            let files = self.files();
            match self.attempt().await {
                Ok(credentials) => return credentials,
                Err(fault) => self.on_failure(fault),
            }
            // A file that has come or changed may be what was missing.
            let until = Instant::now() + jittered(wait);
            while Instant::now() < until && self.files() == files {
                sleep_until(until.min(Instant::now() + EVERY)).await;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// What is in the files that a request needs.
    fn files(&self) -> [Option<String>; 3] {
        let macula_config::Enrolment { url: _, ca, token } = &self.config;
        [ca, token, &self.bundle].map(|path| client::read("", path).ok())
    }

    /// Goes on from the first certificate.
    #[must_use]
    pub fn renewal(self, first: Credentials) -> Arc<Renewal> {
        Arc::new(Renewal { enrolment: self, sender: watch::Sender::new(Arc::new(first)) })
    }

    async fn attempt(&self) -> Result<Credentials, Fault> {
        let asked = tokio::time::timeout(PATIENCE, self.ask()).await;
        let credentials =
            asked.unwrap_or_else(|_| Err(unavailable("no answer within ten seconds".into())))?;
        if self.trouble.send_replace(None).is_some() {
            info!("enrolment works again");
        }
        self.metrics.enrolments.inc();
        if let Some(keep) = &self.keep
            && let Err(error) = keep.put_certificate(&credentials.chain)
        {
            warn!(%error, "the certificate cannot be kept; after a restart the node asks again");
        }
        Ok(credentials)
    }

    async fn ask(&self) -> Result<Credentials, Fault> {
        let bundle = self.bundle()?;
        let chain = client::ask(
            &self.config,
            &self.resolver,
            &macula_identity::enrolment::Request::new(
                self.scope.mesh.clone(),
                &self.place,
                &self.key.csr_der(),
            ),
        )
        .await?;
        self.judge(chain, bundle)
    }

    fn bundle(&self) -> Result<Arc<Bundle>, Fault> {
        let text = client::read("the mesh's roots", &self.bundle)?;
        let bundle = Bundle::from_pem(&text)
            .map_err(|error| unavailable(format!("{}: {error}", self.bundle.display())))?;
        Ok(Arc::new(bundle))
    }

    fn judge(&self, chain: Chain, bundle: Arc<Bundle>) -> Result<Credentials, Fault> {
        let (key, scope) = (self.key.clone(), self.scope.clone());
        let credentials = Credentials::new(key, chain, bundle, scope, clock::unix_time())
            .map_err(|unfit| unavailable(format!("the certificate cannot be used: {unfit}")))?;
        let subject = &credentials.identity.subject;
        let other_name = self.name.as_ref().is_some_and(|name| *name != subject.name);
        if subject.place != self.place || other_name {
            let because = format!("the certificate is for {subject}, which this node is not");
            return Err(unavailable(because));
        }
        Ok(credentials)
    }

    fn on_failure(&self, fault: Fault) {
        self.metrics.enrolment_failures.inc(fault.code);
        self.trouble.send_if_modified(|trouble| {
            let news = trouble.as_ref() != Some(&fault);
            if news {
                let (code, because) = (fault.code, &fault.because);
                warn!(%code, because, next = code.next(), "no certificate; trying again");
                *trouble = Some(fault);
            }
            news
        });
    }
}

/// Keeps one node's certificate fresh. [`run`](Self::run) is the task; a supervisor may start it
/// again.
#[derive(Debug)]
pub struct Renewal {
    enrolment: Enrolment,
    sender: watch::Sender<Arc<Credentials>>,
}

impl Renewal {
    /// Renews for ever. May be dropped at any point and run again.
    pub async fn run(&self) {
        let mut due = self.half_time();
        let mut wait = FIRST_WAIT;
        let mut nearness = Nearness::Far;
        loop {
            failpoint(Kind::Renewal);
            self.tell_nearness(&mut nearness);
            tokio::select! {
                () = sleep_until(due) => {}
                () = sleep(EVERY) => {
                    self.reload_bundle();
                    continue;
                }
            }
            match self.enrolment.attempt().await {
                Ok(credentials) => {
                    let not_after = credentials.identity.not_after;
                    info!(not_after, "the certificate was renewed");
                    self.sender.send_replace(Arc::new(credentials));
                    (due, wait) = (self.half_time(), FIRST_WAIT);
                }
                Err(fault) => {
                    self.enrolment.on_failure(fault);
                    due = Instant::now() + jittered(wait.min(self.patience()));
                    wait = (wait * 2).min(LONGEST_WAIT);
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
    pub fn add_to(self: &Arc<Self>, tree: &mut Tree, runtime: &Handle) {
        let renewal = self.clone();
        tree.child(Kind::Renewal, "enrolment", runtime, move |stop| {
            let renewal = renewal.clone();
            async move {
                stop.run_until_cancelled(renewal.run()).await;
                Ok::<(), supervise::Error>(())
            }
        });
    }

    fn remaining(&self) -> Duration {
        self.sender.borrow().remaining(clock::unix_time())
    }

    /// When half of what remains is over, or a little later: nodes that started together spread.
    fn half_time(&self) -> Instant {
        Instant::now() + self.remaining().mul_f64(rand::rng().random_range(0.5..=0.55))
    }

    /// The longest wait between two tries: many are left before the certificate's end, and after it
    /// nothing is in a hurry any more.
    fn patience(&self) -> Duration {
        match self.remaining() {
            Duration::ZERO => LONGEST_WAIT,
            left => (left / 20).clamp(FIRST_WAIT, LONGEST_WAIT),
        }
    }

    /// Says each step once.
    fn tell_nearness(&self, told: &mut Nearness) {
        let now = self.sender.borrow().nearness(clock::unix_time());
        if now == std::mem::replace(told, now) {
            return;
        }
        let left = self.remaining();
        match now {
            Nearness::Far => {}
            Nearness::Near => warn!(?left, "the certificate ends soon, and is not renewed"),
            Nearness::Imminent => {
                error!(
                    ?left,
                    "the certificate is about to end; then nobody will speak with this node"
                );
            }
            Nearness::Expired => {
                error!("the certificate has expired; nobody speaks with this node");
            }
        }
    }

    /// A file that is just being replaced, or is wrong, changes nothing: the next second is near.
    fn reload_bundle(&self) {
        let Ok(bundle) = self.enrolment.bundle() else { return };
        self.sender.send_if_modified(|now| {
            if *now.bundle == *bundle {
                return false;
            }
            info!(roots = bundle.roots().len(), "the bundle was reloaded");
            *now = Arc::new(Credentials { bundle, ..Credentials::clone(now) });
            true
        });
    }
}

/// A wait of between half and all of this, so that a crowd that failed together spreads.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn unavailable(because: String) -> Fault {
    Fault::new(Code::EnrolmentUnavailable, because)
}
