//! Finds the seeds: keeps the addresses behind their names, and says which names it waits for.
//!
//! [`Discovery::run`] is the actor; the [`Handle`] shows what it [`Found`] and tells it that a seed
//! was lost. Nothing here fails for good: a name that does not resolve is waited for, and one that
//! resolved before keeps its last addresses until there are better ones.
//!
//! A bootstrap finds its own address behind its headless Service like everybody else's. It is not
//! left out here: only the handshake tells who answers (a pod's address is used again), so whoever
//! dials compares the NodeId and drops itself.

mod backoff;
mod name;
mod resolver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
pub use macula_config::{Host, Seed};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

pub use self::backoff::Backoff;
use self::name::Name;
pub use self::resolver::{Error, Resolver};
use crate::supervise::{Kind, failpoint};

/// When names are looked up.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// How long after an answer a name is looked up again, give or take a tenth: a fleet that
    /// started together must not ask together. The answer's TTL plays no part, and no answer is
    /// kept in a cache here; CoreDNS's 5 s would be a flood from ten thousand sidecars.
    pub every: Duration,
    /// The least time between two lookups of one name, however many seeds are lost.
    pub at_least: Duration,
    /// How long one lookup may take, along the whole search path.
    pub patience: Duration,
    /// How long to wait after a lookup that failed.
    pub backoff: Backoff,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30),
            at_least: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            // Gateways start before the bootstraps have their volumes: they shall not sleep when those come.
            backoff: Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(5) },
        }
    }
}

/// What discovery knows at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where to dial: every address of every seed, once, in the configuration's order and within
    /// one name in the addresses' own.
    pub seeds: Vec<SocketAddr>,
    /// The names whose last lookup failed.
    pub waiting: Vec<Waiting>,
}

/// A name whose last lookup failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The name as configured.
    pub name: String,
    /// Why, for a person.
    pub because: String,
    /// When its lookups began to fail.
    pub since: Instant,
    /// When it is looked up again.
    pub next_try: Instant,
    /// How many of its addresses are still used, from the last lookup that succeeded.
    pub kept: usize,
}

/// The actor. One `run` at a time does its work; a second one waits for the first to be dropped,
/// and then goes on from the same state: so a supervisor may restart it.
#[derive(Debug)]
pub struct Discovery {
    resolver: Resolver,
    schedule: Schedule,
    found: watch::Sender<Found>,
    state: Mutex<State>,
}

/// Shows what discovery found, and tells it what was lost. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    found: watch::Receiver<Found>,
    lost: mpsc::Sender<SocketAddr>,
}

#[derive(Debug)]
struct State {
    /// In the configuration's order.
    seeds: Vec<Place>,
    lost: mpsc::Receiver<SocketAddr>,
}

#[derive(Debug)]
enum Place {
    Fixed(SocketAddr),
    Named(Name),
}

/// How many lost seeds may wait to be heard. When it is full one more is dropped without loss: the
/// names behind those that wait are about to be looked up anyway.
const LOST_CAPACITY: usize = 64;

impl Discovery {
    /// Prepares the search; addresses among the seeds are found already.
    #[must_use]
    pub fn new(seeds: &[Seed], resolver: Resolver, schedule: Schedule) -> (Arc<Self>, Handle) {
        let now = Instant::now();
        let seeds: Vec<_> = seeds
            .iter()
            .map(|Seed { host, port }| match host {
                Host::Ip(ip) => Place::Fixed(SocketAddr::new(*ip, *port)),
                Host::Name(name) => Place::Named(Name::new(name.clone(), *port, now)),
            })
            .collect();
        let (found, receiver) = watch::channel(summary(&seeds));
        let (sender, lost) = mpsc::channel(LOST_CAPACITY);
        let state = Mutex::new(State { seeds, lost });
        let discovery = Arc::new(Self { resolver, schedule, found, state });
        (discovery, Handle { found: receiver, lost: sender })
    }

    /// Looks names up, for ever. May be dropped at any point and run again.
    pub async fn run(&self) {
        let mut state = self.state.lock().await;
        let State { seeds, lost } = &mut *state;
        // A lookup that was under way when the last run was dropped is begun anew.
        names(seeds).for_each(Name::abandon);
        let mut lookups = FuturesUnordered::new();
        loop {
            failpoint(Kind::Discovery);
            let now = Instant::now();
            for (index, name) in due(seeds, now) {
                name.begin(now);
                let host = name.host.clone();
                lookups.push(async move {
                    let answer = self.resolver.lookup(&host, self.schedule.patience).await;
                    (index, answer)
                });
            }
            let next = names(seeds).filter_map(|name| name.due_at()).min();
            tokio::select! {
                Some((index, answer)) = lookups.next() => {
                    if let Some(Place::Named(name)) = seeds.get_mut(index) {
                        self.handle_answer(name, answer);
                    }
                    self.publish(seeds);
                }
                Some(address) = lost.recv() => self.handle_lost(seeds, address),
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                // No name, or nobody left who could lose one: there is nothing to do, for ever.
                else => std::future::pending().await,
            }
        }
    }

    fn handle_answer(&self, name: &mut Name, answer: Result<resolver::Answer, Error>) {
        let now = Instant::now();
        let before = name.addresses.clone();
        let waited = name.failing.is_some();
        match answer {
            Ok(answer) => name.succeed(answer, now, &self.schedule),
            Err(error) => {
                let because = error.to_string();
                let next = name.fail(because.clone(), now, &self.schedule);
                if waited {
                    debug!(name = %name.host, because, retry_in = ?next, "a seed still does not resolve");
                } else {
                    let kept = name.addresses.len();
                    warn!(name = %name.host, because, kept, retry_in = ?next, "a seed does not resolve");
                }
                return;
            }
        }
        if waited || before != name.addresses {
            info!(name = %name.host, addresses = ?name.addresses, "a seed resolved");
        } else {
            debug!(name = %name.host, addresses = ?name.addresses, "a seed resolved as before");
        }
    }

    /// Brings the lookup forward of the names that this address came from. An address that no name
    /// gives any more has been replaced already.
    fn handle_lost(&self, seeds: &mut [Place], address: SocketAddr) {
        for name in names(seeds) {
            if name.gave(address) {
                name.hurry(self.schedule.at_least);
                debug!(name = %name.host, %address, "a seed was lost; its name is looked up again");
            }
        }
    }

    fn publish(&self, seeds: &[Place]) {
        let now = summary(seeds);
        self.found.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}

impl Handle {
    /// What is known now, and every change of it.
    #[must_use]
    pub fn found(&self) -> watch::Receiver<Found> {
        self.found.clone()
    }

    /// Says that the seed at this address went away or did not answer. Its name is looked up again
    /// at once, but never sooner than [`Schedule::at_least`] after the last time.
    pub fn seed_lost(&self, address: SocketAddr) {
        // Full or ended: see LOST_CAPACITY.
        let _ = self.lost.try_send(address);
    }
}

fn names(seeds: &mut [Place]) -> impl Iterator<Item = &mut Name> {
    seeds.iter_mut().filter_map(|place| match place {
        Place::Named(name) => Some(name),
        Place::Fixed(_) => None,
    })
}

fn due(seeds: &mut [Place], now: Instant) -> impl Iterator<Item = (usize, &mut Name)> {
    seeds.iter_mut().enumerate().filter_map(move |(index, place)| match place {
        Place::Named(name) => name.due_at().is_some_and(|at| at <= now).then_some((index, name)),
        Place::Fixed(_) => None,
    })
}

fn summary(seeds: &[Place]) -> Found {
    let mut found = Found::default();
    for place in seeds {
        let (addresses, waiting): (&[SocketAddr], _) = match place {
            Place::Fixed(address) => (std::slice::from_ref(address), None),
            Place::Named(name) => (&name.addresses, name.waiting()),
        };
        for address in addresses {
            if !found.seeds.contains(address) {
                found.seeds.push(*address);
            }
        }
        found.waiting.extend(waiting);
    }
    found
}

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
