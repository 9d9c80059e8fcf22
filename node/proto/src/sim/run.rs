//! Tells a scenario: everybody joins and comes to rest, then it begins, and something is always being tried.
//!
//! | part | lasts | measures |
//! | --- | --- | --- |
//! | joining | 5 s, 20 s to settle, and 70 s until links that nobody uses are closed | |
//! | at rest | 30 s | what a node costs of itself |
//! | announcing | 10 s, 15 s to settle, and 70 s again | |
//! | announced | 200 s | what it costs when each peer subscribes and provides |
//! | watching | 30 s | how soon a change is seen |
//! | in use | 20 s | lookups, publishes and calls while all is well |
//! | the scenario | as long as it says | the same, meanwhile |
//! | the end | 10 s | that every command has ended |

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use macula_identity::{NodeId, Place};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::life::{Life, Outcome};
use super::plan::{Aim, Plan, Step, Who};
use super::report::{Rate, Report, Spread, Success};
use super::{Hostility, JOINING, Meter, Options, Swarm, Tenant, Weather};

/// Time passes in steps of this; in each something is tried.
const TICK: Duration = Duration::from_millis(100);
/// Tables have been filled and looked over a second time by then.
const SETTLING: Duration = Duration::from_secs(20);
/// And links that nobody uses have been closed, which takes a minute.
const UNUSED_CLOSED: Duration = Duration::from_secs(70);
const AT_REST: Duration = Duration::from_secs(30);
const ANNOUNCING: Duration = Duration::from_secs(10);
const ANNOUNCED_SETTLING: Duration = Duration::from_secs(15);
/// One period of what is announced again.
const ANNOUNCED: Duration = Duration::from_secs(200);
const IN_USE: Duration = Duration::from_secs(20);
/// After ten seconds somebody new subscribes every half second, twenty times.
const WATCHING: Duration = Duration::from_secs(30);
/// Seconds, for each of which it is judged whether all is well again after a cut.
const HEALED_SPAN: u64 = 5;
/// How long each of these lasts in a brief run.
const BRIEFLY: Duration = Duration::from_secs(3);
/// In a mesh of at least so many nodes one deed of each sort is begun in each step; in smaller ones fewer.
const BUSY: f64 = 250.0;
/// Nodes that go are away for between this and ten times this.
const AWAY: Duration = Duration::from_secs(5);
/// Bootstraps of every mesh.
const BOOTSTRAPS: usize = 5;
/// Of the serving nodes one in so many is a gateway.
const A_GATEWAY: usize = 10;
/// Of the peers one in so many belongs to the second realm.
const A_SECOND: usize = 10;

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Which part.
    pub part: &'a str,
    /// Virtual time since the beginning, and how long it will be in all.
    pub elapsed: Duration,
    /// How long it will be.
    pub of: Duration,
    /// Nodes alive.
    pub alive: usize,
    /// Everything that has happened.
    pub events: u64,
    /// How many things were tried, and how many of them failed.
    pub tried: usize,
    /// How many failed.
    pub failed: usize,
}

/// Who takes part in a scenario.
#[must_use]
pub fn options(plan: &Plan) -> Options {
    let bootstraps = BOOTSTRAPS.min(plan.nodes);
    let gateways = (plan.serving / A_GATEWAY).min(plan.nodes - bootstraps);
    let peers = plan.nodes - bootstraps - gateways;
    let servers = plan.serving.saturating_sub(bootstraps + gateways).min(peers);
    let second = peers / A_SECOND;
    let second_servers = servers / A_SECOND;
    let tenant = |name: &str, servers, clients| Tenant {
        realm: name.parse().expect("a realm of this form is one"),
        servers,
        clients,
    };
    let realms = vec![
        tenant(
            "com.example.shop",
            servers - second_servers,
            (peers - second) - (servers - second_servers),
        ),
        tenant("org.example.clinic", second_servers, second - second_servers),
    ];
    Options { seed: plan.seed, bootstraps, gateways, realms, trace: false }
}

/// Tells it to the end, or until a law is broken.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(Progress<'_>)) -> Report {
    let began = Instant::now();
    let memory = resident_bytes();
    let swarm = Swarm::new(&options(plan));
    let brief = |time: Duration| if plan.is_brief { BRIEFLY } else { time };
    let closing = if plan.is_brief { Duration::ZERO } else { UNUSED_CLOSED };
    let measured = brief(AT_REST) + brief(ANNOUNCED) + brief(IN_USE) + brief(WATCHING);
    let of = JOINING
        + SETTLING
        + closing * 2
        + ANNOUNCING
        + ANNOUNCED_SETTLING
        + measured
        + plan.lasts
        + Duration::from_secs(16);
    let mut run = Run {
        plan,
        rng: StdRng::seed_from_u64(plan.seed ^ 0x5ca1_ab1e),
        life: Life::new(plan.seed, &swarm),
        swarm,
        weather: Weather::default(),
        churn: 0.0,
        going: 0.0,
        deeds: 0.0,
        away: BTreeMap::new(),
        is_hostile: plan.hostile > 0.0,
        part: "joining",
        of,
        tell,
    };
    run.appoint_hostile();
    run.pass(JOINING + SETTLING + closing, false);
    let rest = run.measure("at rest", brief(AT_REST), false);
    run.part = "announcing";
    run.announce();
    run.pass(ANNOUNCED_SETTLING + closing, false);
    let announced = run.measure("announced", brief(ANNOUNCED), false);
    let memory = resident_bytes().saturating_sub(memory);
    let sizes = run.sizes();
    run.watch(brief(WATCHING));
    let calm_until = run.swarm.elapsed();
    let in_use = run.measure("in use", brief(IN_USE), true);
    let scenario = run.swarm.elapsed();
    let busy = run.scenario();
    run.finish();
    let Run { life, swarm, .. } = run;
    let last_heal = plan.steps.iter().rev().find(|(_, step)| *step == Step::Heal);
    let last_heal = last_heal.map(|(when, _)| scenario + *when);
    let lookups: Vec<_> = life.outcomes.iter().filter_map(|it| it.cost).collect();
    let last_third = scenario + plan.lasts * 2 / 3;
    let between = |from: Duration, to: Duration| Success::of(&life.outcomes, from, to);
    let watch = life.watches.iter().filter_map(|it| Some(it.heard? - it.subscribed?));
    let watch: Vec<f64> = watch.map(|delay| delay.as_secs_f64()).collect();
    let failures = life.outcomes.iter().filter(|it| it.began >= scenario);
    let failures = failures.filter_map(|it| {
        let (sort, after) = (it.sort, it.began - scenario);
        Some(format!("{sort:?} at {:.1} s: {}", after.as_secs_f64(), it.failure.as_ref()?))
    });
    Report {
        name: plan.name.clone(),
        seed: plan.seed,
        nodes: plan.nodes,
        serving: plan.serving,
        hostile: plan.hostile,
        rounds: Spread::of(lookups.iter().map(|it| it.rounds as f64)),
        asked: Spread::of(lookups.iter().map(|it| it.asked as f64)),
        took_ms: Spread::of(lookups.iter().map(|it| it.took.as_secs_f64() * 1000.0)),
        agreed: Spread::of(lookups.iter().filter_map(|it| it.agreed)),
        watch: Spread::of(watch.iter().copied()),
        unseen: super::life::WATCHES.saturating_sub(watch.len()),
        calm: between(calm_until, scenario),
        meanwhile: between(scenario, Duration::MAX),
        at_last: between(last_third, Duration::MAX),
        rest,
        announced,
        in_use,
        busy,
        sizes,
        memory: memory as f64 / plan.nodes as f64,
        healed: last_heal.map(|heal| healed(&life.outcomes, heal, least(&plan.aims))),
        failures: failures.take(12).collect(),
        elapsed: swarm.elapsed(),
        wall: began.elapsed(),
        events: swarm.events(),
        frames: swarm.frames(),
        digest: swarm.digest(),
        broken: swarm.broken().first().cloned(),
        // A brief run never comes to rest.
        aims: plan
            .aims
            .iter()
            .filter(|aim| !plan.is_brief || !matches!(aim, Aim::Idle(_)))
            .copied()
            .collect(),
    }
}

/// Which share must succeed for all to be well.
fn least(aims: &[Aim]) -> f64 {
    let shares = aims.iter().filter_map(|aim| match aim {
        Aim::Lookups(share) | Aim::Publishes(share) | Aim::Calls(share) => Some(*share),
        Aim::Rounds(_) | Aim::Idle(_) | Aim::Heals(_) => None,
    });
    shares.fold(0.99, f64::min)
}

/// How long after this until all is well for good: the end of the last five seconds in which more of what was
/// begun failed than may, and more than one.
fn healed(outcomes: &[Outcome], heal: Duration, least: f64) -> Duration {
    let mut spans: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|it| it.began >= heal) {
        let (tried, failed) =
            spans.entry((outcome.began - heal).as_secs() / HEALED_SPAN).or_default();
        *tried += 1;
        *failed += usize::from(outcome.failure.is_some());
    }
    let is_ill = |(tried, failed): &(usize, usize)| {
        *failed > 1 && (*failed as f64) > *tried as f64 * (1.0 - least)
    };
    let last = spans.iter().rev().find(|(_, span)| is_ill(span));
    Duration::from_secs(last.map_or(0, |(at, _)| (at + 1) * HEALED_SPAN))
}

struct Run<'a> {
    plan: &'a Plan,
    rng: StdRng,
    swarm: Swarm,
    life: Life,
    weather: Weather,
    /// The share of nodes that goes each minute, and how many are due to.
    churn: f64,
    going: f64,
    /// How many deeds of each sort are due.
    deeds: f64,
    /// Who comes back when.
    away: BTreeMap<NodeId, Duration>,
    is_hostile: bool,
    part: &'static str,
    of: Duration,
    tell: &'a mut dyn FnMut(Progress<'_>),
}

impl Run<'_> {
    fn appoint_hostile(&mut self) {
        if !self.is_hostile {
            return;
        }
        let servers = self
            .swarm
            .living()
            .filter(|node| node.grants.server && matches!(node.subject.place, Place::Realm(_)));
        let mut servers: Vec<NodeId> = servers.map(|node| node.id).collect();
        servers.shuffle(&mut self.rng);
        servers.truncate((servers.len() as f64 * self.plan.hostile).round() as usize);
        for (at, server) in servers.into_iter().enumerate() {
            self.swarm.turn_hostile(server, Hostility::ALL[at % Hostility::ALL.len()]);
        }
        self.life = Life::new(self.plan.seed, &self.swarm);
    }

    /// Lets time pass; with `deeds`, something is tried in each step.
    fn pass(&mut self, time: Duration, deeds: bool) {
        let end = self.swarm.elapsed() + time;
        while self.swarm.elapsed() < end && self.swarm.broken().is_empty() {
            self.tick(deeds);
        }
    }

    fn tick(&mut self, deeds: bool) {
        self.churn();
        self.come_back();
        if deeds {
            self.deeds += (self.plan.nodes as f64 / BUSY).min(1.0);
            if self.deeds >= 1.0 {
                self.deeds -= 1.0;
                self.life.act(&mut self.swarm);
            }
        }
        self.swarm.run_for(TICK);
        self.life.collect(&mut self.swarm);
        let failed = self.life.outcomes.iter().filter(|it| it.failure.is_some()).count();
        if self.swarm.elapsed().as_millis() % 10_000 < TICK.as_millis() {
            self.swarm.inspect();
        }
        (self.tell)(Progress {
            part: self.part,
            elapsed: self.swarm.elapsed(),
            of: self.of,
            alive: self.plan.nodes - self.away.len(),
            events: self.swarm.events(),
            tried: self.life.outcomes.len(),
            failed,
        });
    }

    fn measure(&mut self, part: &'static str, time: Duration, deeds: bool) -> Rate {
        self.part = part;
        let before = self.sent();
        self.pass(time, deeds);
        self.rate(&before, time)
    }

    fn sent(&mut self) -> (Meter, BTreeMap<NodeId, u64>) {
        self.swarm.sent()
    }

    fn rate(&mut self, before: &(Meter, BTreeMap<NodeId, u64>), time: Duration) -> Rate {
        let (meter, nodes) = self.sent();
        let each = nodes.iter().map(|(id, bytes)| {
            (bytes - before.1.get(id).unwrap_or(&0)) as f64 / time.as_secs_f64()
        });
        Rate { meter: meter.since(&before.0), each: Spread::of(each), time, nodes: self.plan.nodes }
    }

    /// Everybody's application starts, one after the other.
    fn announce(&mut self) {
        let mut peers: Vec<NodeId> = self.life.peers().collect();
        peers.shuffle(&mut self.rng);
        let ticks = (ANNOUNCING.as_millis() / TICK.as_millis()) as usize;
        let some = peers.len().div_ceil(ticks).max(1);
        for peers in peers.chunks(some) {
            for peer in peers {
                self.life.begin(&mut self.swarm, *peer);
            }
            self.tick(false);
        }
        let procedures = self.life.procedures();
        self.swarm.stuff(&procedures[..procedures.len().min(64)]);
    }

    /// How long a change takes until others see it.
    fn watch(&mut self, time: Duration) {
        self.part = "watching";
        self.life.prepare_watches(&mut self.swarm);
        for tick in 0..(time.as_millis() / TICK.as_millis()) as usize {
            let newcomer = tick.checked_sub(100).filter(|at| at % 5 == 0).map(|at| at / 5);
            self.life.watch(&mut self.swarm, newcomer);
            self.tick(false);
            if !self.swarm.broken().is_empty() {
                return;
            }
        }
    }

    fn sizes(&self) -> super::report::Sizes {
        let servers: Vec<_> = self.swarm.living().filter(|node| node.grants.server).collect();
        let dht = |id| self.swarm.engine(id).dht();
        let everybody = self.swarm.living().map(|node| {
            dht(node.id).table_sizes().iter().map(|(_, size)| *size as f64).sum::<f64>()
        });
        super::report::Sizes {
            contacts: Spread::of(everybody),
            records: Spread::of(servers.iter().map(|node| dht(node.id).records() as f64)),
            record_bytes: Spread::of(servers.iter().map(|node| dht(node.id).record_bytes() as f64)),
            links: Spread::of(self.swarm.living().map(|node| self.swarm.links(node.id) as f64)),
        }
    }

    fn scenario(&mut self) -> Rate {
        self.part = "the scenario";
        let before = self.sent();
        let begins = self.swarm.elapsed();
        let mut steps = self.plan.steps.iter().peekable();
        while self.swarm.elapsed() < begins + self.plan.lasts && self.swarm.broken().is_empty() {
            while let Some((_, step)) =
                steps.next_if(|(when, _)| begins + *when <= self.swarm.elapsed())
            {
                self.befall(*step);
            }
            self.tick(true);
        }
        self.rate(&before, self.plan.lasts)
    }

    /// Until every command has ended.
    fn finish(&mut self) {
        self.part = "the end";
        self.churn = 0.0;
        while self.life.under_way() > 0 && self.swarm.broken().is_empty() {
            self.tick(false);
        }
    }

    // ---- what befalls it ----

    fn befall(&mut self, step: Step) {
        match step {
            Step::Loss(loss) => self.weather.loss = loss,
            Step::Jitter(jitter) => self.weather.jitter = jitter,
            Step::Churn(share) => self.churn = share,
            Step::Crash(who) => {
                let nodes = self.those(who);
                self.swarm.crash(&nodes);
                self.away.extend(nodes.into_iter().map(|id| (id, Duration::MAX)));
            }
            Step::Return => {
                let now = self.swarm.elapsed();
                self.away.values_mut().for_each(|when| *when = now);
            }
            Step::Split(share) => {
                let nodes = self.those(Who::Share(share));
                self.swarm.split(&nodes);
            }
            Step::Mute(share) => {
                let nodes = self.those(Who::Share(share));
                for id in &nodes {
                    self.life.excuse(*id, Duration::MAX);
                }
                self.swarm.mute(&nodes);
            }
            Step::Heal => {
                self.life.recover(self.swarm.elapsed());
                self.swarm.heal();
            }
            Step::Pause { share, lasts } => {
                let nodes = self.those(Who::Share(share));
                let until = self.swarm.elapsed() + lasts;
                for id in &nodes {
                    self.life.excuse(*id, until);
                }
                self.swarm.pause(&nodes, lasts);
            }
            Step::Skew(most) => {
                let most = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
                for id in self.those(Who::Share(1.0)) {
                    let off = self.rng.random_range(-most..=most);
                    self.swarm.set_clock(id, off);
                }
            }
            Step::Jump { share, by_ms } => {
                for id in self.those(Who::Share(share)) {
                    let off = self.swarm.clock(id);
                    self.swarm.set_clock(id, off + by_ms);
                }
            }
        }
        self.swarm.set_weather(self.weather);
    }

    /// Of the living.
    fn those(&mut self, who: Who) -> Vec<NodeId> {
        let place = |id: NodeId| self.swarm.engine(id).me().identity.subject.place.clone();
        let living: Vec<NodeId> = self.swarm.living().map(|node| node.id).collect();
        match who {
            Who::Share(share) => {
                let mut living = living;
                living.shuffle(&mut self.rng);
                living.truncate((living.len() as f64 * share).round() as usize);
                living
            }
            Who::Bootstraps => {
                living.into_iter().filter(|id| place(*id) == Place::Bootstrap).collect()
            }
            Who::Infrastructure => living
                .into_iter()
                .filter(|id| matches!(place(*id), Place::Bootstrap | Place::Gateway))
                .collect(),
        }
    }

    fn churn(&mut self) {
        self.going += self.churn * self.plan.nodes as f64 * TICK.as_secs_f64() / 60.0;
        while self.going >= 1.0 {
            self.going -= 1.0;
            let nodes = self.those(Who::Share(1.0));
            let nodes: Vec<_> = nodes.into_iter().filter(|id| self.swarm.is_awake(*id)).collect();
            let Some(node) = nodes.first().copied() else { return };
            if self.rng.random() {
                self.swarm.crash(&[node]);
            } else {
                self.swarm.leave(node);
            }
            let back = self.swarm.elapsed() + AWAY.mul_f64(self.rng.random_range(1.0..10.0));
            self.away.insert(node, back);
        }
    }

    fn come_back(&mut self) {
        let now = self.swarm.elapsed();
        // Who slept while it was leaving is not gone yet.
        let is_gone = |id: &NodeId| self.swarm.age(*id).is_none();
        let due = self.away.extract_if(.., |id, when| *when <= now && is_gone(id));
        for id in due.map(|(id, _)| id).collect::<Vec<_>>() {
            self.swarm.start_again(id);
            self.life.begin(&mut self.swarm, id);
        }
    }
}

/// What the process holds in memory (proc_pid_statm(5)); 0 where there is no such file.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE
}
