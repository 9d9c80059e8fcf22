//! Credentials from files that somebody else renews: read at the start, read again when they change.
//!
//! Contents are compared, not times: a mounted ConfigMap or Secret changes by a flipped symbolic
//! link. The three files are one set. A set that does not fit together may be one that is just
//! being written, so it is believed to be wrong only when it is read twice in a row.

mod load;

use std::sync::Arc;
use std::time::Duration;

use macula_config::{Config, Files, Invalid};
use macula_identity::Subject;
use macula_proto::{Code, Fault};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use self::load::Contents;
pub use self::load::{Error, load};
use super::{Credentials, Nearness, Source};
use crate::clock;
use crate::metrics::Metrics;
use crate::supervise::{self, Kind, Tree, failpoint};

/// How often the files are read: short enough that a rotation takes seconds, and three small files.
pub const EVERY: Duration = Duration::from_secs(1);

/// Reads the files again and again. [`run`](Self::run) is the task; a supervisor may start it again.
#[derive(Debug)]
pub struct Watch {
    files: Files,
    expected: Subject,
    every: Duration,
    sender: watch::Sender<Arc<Credentials>>,
    report: watch::Sender<Report>,
    state: Mutex<State>,
}

/// What happened to the files since the start, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How often a new set was taken over.
    pub reloads: u64,
    /// How many different sets were refused.
    pub refused: u64,
    /// What is wrong with the files as they are now, if something is.
    pub problem: Option<String>,
    /// How near the end of the certificate in use is.
    pub nearness: Nearness,
}

#[derive(Debug, Default)]
struct State {
    /// What was read last, and what was made of it.
    last: Option<(Result<Contents, String>, Verdict)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// In use.
    Good,
    /// Wrong when it was read for the first time.
    Doubtful,
    /// Wrong twice; said so.
    Bad,
}

/// Loads the files of this configuration, to be watched every [`EVERY`].
///
/// # Errors
/// When they are not credentials of the node that the configuration describes.
pub fn start(config: &Config) -> Result<Arc<Watch>, StartError> {
    Ok(watch(config.identity.files()?, config.subject()?, EVERY)?)
}

/// Why the files of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration describes no node.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The files are wrong.
    #[error(transparent)]
    Files(#[from] Error),
}

impl StartError {
    /// The failure by its code: that of the refusal when the certificate is not believed, else
    /// `invalid_config`.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let code = match self {
            Self::Files(Error::Refused { source, .. }) => Code::of_refusal(source),
            Self::Files(_) | Self::Config(_) => Code::InvalidConfig,
        };
        Fault::new(code, self.to_string()).tried("load the node's identity")
    }
}

/// Loads the files and prepares to watch them.
///
/// # Errors
/// When they are not credentials for `expected` to begin with.
pub fn watch(files: Files, expected: Subject, every: Duration) -> Result<Arc<Watch>, Error> {
    let first = load(&files, &expected, clock::unix_time())?;
    let nearness = first.nearness(clock::unix_time());
    let sender = watch::Sender::new(Arc::new(first));
    // Far, so that one that is near already is told of by the first run.
    let report = Report { reloads: 0, refused: 0, problem: None, nearness: Nearness::Far };
    let (report, state) = (watch::Sender::new(report), Mutex::default());
    let watch = Arc::new(Watch { files, expected, every, sender, report, state });
    watch.tell_nearness(nearness);
    Ok(watch)
}

impl Watch {
    /// Watches for ever. May be dropped at any point and run again.
    pub async fn run(&self, metrics: &Metrics) {
        let mut state = self.state.lock().await;
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            failpoint(Kind::Renewal);
            ticks.tick().await;
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || Contents::read(&files)).await;
            // The runtime is shutting down, and this task with it.
            let Ok(read) = read else { return };
            let refused = self.report.borrow().refused;
            self.handle_read(&mut state, read);
            metrics.identity_reload_failures.add(self.report.borrow().refused - refused);
            self.tell_nearness(self.sender.borrow().nearness(clock::unix_time()));
        }
    }

    /// The credentials of now, and every change of them.
    #[must_use]
    pub fn source(&self) -> Source {
        self.sender.subscribe()
    }

    /// Makes the watch a child of this tree.
    pub fn add_to(self: &Arc<Self>, tree: &mut Tree, runtime: &Handle, metrics: &Arc<Metrics>) {
        let (files, metrics) = (self.clone(), metrics.clone());
        tree.child(Kind::Renewal, "identity", runtime, move |stop| {
            let (files, metrics) = (files.clone(), metrics.clone());
            async move {
                stop.run_until_cancelled(files.run(&metrics)).await;
                Ok::<(), supervise::Error>(())
            }
        });
    }

    /// What happened so far, and every change of it.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    fn handle_read(&self, state: &mut State, read: Result<Contents, Error>) {
        let (seen, parsed) = match read {
            Ok(contents) => (Ok(contents.clone()), Ok(contents)),
            Err(error) => (Err(error.to_string()), Err(error)),
        };
        let before = match &state.last {
            Some((last, verdict)) if *last == seen => Some(*verdict),
            Some(_) | None => None,
        };
        let verdict = match (before, parsed) {
            (Some(settled @ (Verdict::Good | Verdict::Bad)), _) => settled,
            (None | Some(Verdict::Doubtful), Ok(contents)) => {
                let judged = contents.judge(&self.files, &self.expected, clock::unix_time());
                match judged {
                    Ok(credentials) => self.on_good(credentials),
                    Err(_) if before.is_none() => Verdict::Doubtful,
                    Err(error) => {
                        self.on_bad(&error);
                        self.replace_bundle(&contents);
                        Verdict::Bad
                    }
                }
            }
            (None, Err(_)) => Verdict::Doubtful,
            (Some(Verdict::Doubtful), Err(error)) => {
                self.on_bad(&error);
                Verdict::Bad
            }
        };
        state.last = Some((seen, verdict));
    }

    fn on_good(&self, credentials: Credentials) -> Verdict {
        let same = {
            let now = self.sender.borrow();
            now.chain == credentials.chain
                && now.bundle == credentials.bundle
                && now.key.public_key() == credentials.key.public_key()
        };
        if !same {
            let not_after = credentials.identity.not_after;
            info!(not_after, roots = credentials.bundle.roots().len(), "the identity was reloaded");
            self.sender.send_replace(Arc::new(credentials));
        }
        self.report.send_if_modified(|report| {
            report.reloads += u64::from(!same);
            report.problem.take().is_some() || !same
        });
        Verdict::Good
    }

    fn on_bad(&self, error: &Error) {
        let problem = error.to_string();
        warn!(problem, "the identity's files changed and cannot be used; the last good ones stay");
        self.report.send_modify(|report| {
            report.refused += 1;
            report.problem = Some(problem);
        });
    }

    /// Distrust does not wait for the rest of the set: a bundle that can be read counts, even when
    /// the node's own certificate is not of one of its roots.
    fn replace_bundle(&self, contents: &Contents) {
        let Ok(bundle) = contents.bundle(&self.files) else { return };
        self.sender.send_if_modified(|now| {
            if *now.bundle == bundle {
                return false;
            }
            warn!(roots = bundle.roots().len(), "the bundle was replaced by itself");
            *now = Arc::new(Credentials { bundle: Arc::new(bundle), ..Credentials::clone(now) });
            true
        });
    }

    /// Says each step once.
    fn tell_nearness(&self, nearness: Nearness) {
        let changed = self.report.send_if_modified(|report| {
            let changed = report.nearness != nearness;
            report.nearness = nearness;
            changed
        });
        if !changed {
            return;
        }
        let file = self.files.certificate.display();
        let left = self.sender.borrow().remaining(clock::unix_time());
        match nearness {
            Nearness::Far => {}
            Nearness::Near => {
                warn!(%file, ?left, "the certificate ends soon and nobody has renewed it");
            }
            Nearness::Imminent => {
                error!(%file, ?left, "the certificate is about to end; then nobody will speak with this node");
            }
            Nearness::Expired => {
                error!(%file, "the certificate has expired; nobody speaks with this node");
            }
        }
    }
}

#[cfg(test)]
mod tests;
