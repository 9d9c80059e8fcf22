//! Six meshes of which a fifth crashes without a word, each from one seed.
//!
//! `MACULA_SIM_SEED=7 cargo test -p macula-proto --test simulation -- --nocapture` tells the story of one
//! seed line by line. What else befalls a mesh is in `scenarios`, and `make sim` tells that of large ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod life;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use macula_proto::sim::{Options, Swarm, Tenant};

use life::Life;

const SEEDS: Range<u64> = 0..6;
/// Tables have been filled and looked over a second time by then.
const SETTLING: Duration = Duration::from_secs(10);
/// From the crash to the first deed after it.
const AFTER_THE_CRASH: Duration = Duration::from_secs(10);
/// A deed that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Deeds of each sort after the crash.
const DEEDS: usize = 100;
/// The share of them that must succeed, in percent.
const MUST_SUCCEED: usize = 99;

const ROOMS: usize = 6;
const PROCEDURES: usize = 8;

/// Two hundred servers of infrastructure, a realm with ten of its own, and a realm with none.
fn options(seed: u64, trace: bool) -> Options {
    let tenant = |name: &str, servers, clients| {
        let realm = name.parse().unwrap();
        Tenant { realm, servers, clients }
    };
    let realms = vec![tenant("com.example.shop", 10, 30), tenant("org.example.clinic", 0, 40)];
    Options { seed, bootstraps: 5, gateways: 195, realms, trace }
}

#[test]
fn the_living_find_and_reach_each_other_after_a_fifth_has_crashed() {
    let only: Option<u64> = std::env::var("MACULA_SIM_SEED").ok().and_then(|s| s.parse().ok());
    if let Some(seed) = only {
        println!("{}", tell(seed, true).judge());
        return;
    }
    let next = std::sync::atomic::AtomicU64::new(SEEDS.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let told = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if !SEEDS.contains(&seed) {
                        return;
                    }
                    let story = Replay(seed).guard(|| tell(seed, false));
                    told.lock().unwrap().insert(seed, story);
                }
            });
        }
    });
    for (seed, story) in told.into_inner().unwrap() {
        Replay(seed).guard(|| println!("{}", story.judge()));
    }
}

#[test]
fn the_same_seed_tells_the_same_story_twice_and_another_tells_another() {
    let digest = |seed| {
        let mut swarm = Swarm::new(&Options { gateways: 40, ..options(seed, false) });
        let mut life = Life::new(seed, &swarm);
        life.lead(&mut swarm);
        (swarm.digest(), life.story(&swarm).frames)
    };
    let (first, again, other) = (digest(1), digest(1), digest(2));
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
}

/// Prints how to tell a failing seed's story again.
struct Replay(u64);

impl Replay {
    fn guard<T>(self, deed: impl FnOnce() -> T) -> T {
        let result = deed();
        std::mem::forget(self);
        result
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let seed = self.0;
        println!(
            "replay: MACULA_SIM_SEED={seed} cargo test -p macula-proto --test simulation -- --nocapture"
        );
    }
}

fn tell(seed: u64, trace: bool) -> Story {
    let began = Instant::now();
    let mut swarm = Swarm::new(&options(seed, trace));
    let mut life = Life::new(seed, &swarm);
    life.lead(&mut swarm);
    Story { took: began.elapsed(), ..life.story(&swarm) }
}

// ---- what is told ----

/// How often something was tried, and what went wrong.
#[derive(Debug, Default)]
struct Tally {
    tried: usize,
    failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, result: Result<(), String>) {
        self.tried += 1;
        self.failures.extend(result.err());
    }

    fn succeeded(&self) -> usize {
        self.tried - self.failures.len()
    }

    fn judge(&self, what: &str) {
        let enough = 100 * self.succeeded() >= MUST_SUCCEED * self.tried;
        assert!(enough && self.tried >= DEEDS, "{what}: {self:#?}");
    }
}

#[derive(Debug)]
struct Story {
    seed: u64,
    /// Of infrastructure: nobody sees fewer.
    servers: usize,
    lookups: Tally,
    publishes: Tally,
    calls: Tally,
    /// Of all lookups, upkeep's not counted.
    most_asked: usize,
    frames: u64,
    took: Duration,
}

impl Story {
    /// Holds the story against what the mesh promises, and gives it in a line.
    fn judge(&self) -> String {
        let line = format!(
            "seed {:2}: {} servers; lookups {}/{}, publishes {}/{}, calls {}/{}; at most {} asked; \
             {} frames in {:.1} s",
            self.seed,
            self.servers,
            self.lookups.succeeded(),
            self.lookups.tried,
            self.publishes.succeeded(),
            self.publishes.tried,
            self.calls.succeeded(),
            self.calls.tried,
            self.most_asked,
            self.frames,
            self.took.as_secs_f64(),
        );
        self.lookups.judge("lookups");
        self.publishes.judge("publishes");
        self.calls.judge("calls");
        assert!(self.servers >= 200, "k = 20 would be everybody");
        assert!(3 * self.most_asked <= self.servers, "a lookup asked {}", self.most_asked);
        line
    }
}
