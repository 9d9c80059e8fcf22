//! What came of a run, in numbers and in words.

use std::fmt::Write;
use std::time::Duration;

use super::life::{Outcome, Sort};
use super::plan::{Aim, Plan};
use super::{Broken, Cause, Meter};

/// Many numbers, in a few.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 in 100.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Spread {
    /// Of these numbers; all 0 when there are none.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = numbers.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let Some(max) = all.last().copied() else { return Self::default() };
        let at = |share: f64| all[((all.len() as f64 * share).ceil() as usize).max(1) - 1];
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        Self { count: all.len(), mean, p50: at(0.5), p99: at(0.99), max }
    }
}

/// How much was sent in some time.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// By what it was for.
    pub meter: Meter,
    /// Of each node, bytes a second.
    pub each: Spread,
    /// How long.
    pub time: Duration,
    /// By how many nodes.
    pub nodes: usize,
}

impl Rate {
    /// Bytes a second and node, for this.
    #[must_use]
    pub fn bytes(&self, cause: Cause) -> f64 {
        self.meter.of(cause).bytes as f64 / self.nodes as f64 / self.time.as_secs_f64()
    }

    /// Bytes a second and node, in all.
    #[must_use]
    pub fn all_bytes(&self) -> f64 {
        self.meter.total().bytes as f64 / self.nodes as f64 / self.time.as_secs_f64()
    }

    /// Messages a minute and node.
    #[must_use]
    pub fn messages(&self) -> f64 {
        60.0 * self.meter.total().messages as f64 / self.nodes as f64 / self.time.as_secs_f64()
    }
}

/// How much nodes hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Contacts in all tables of a node.
    pub contacts: Spread,
    /// Records that a server keeps.
    pub records: Spread,
    /// What they cost.
    pub record_bytes: Spread,
    /// Connections of a node.
    pub links: Spread,
}

/// How often what succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Success {
    /// Lookups for servers: tried, and failed.
    pub nodes: (usize, usize),
    /// Lookups for records.
    pub values: (usize, usize),
    /// Publishes.
    pub publishes: (usize, usize),
    /// Calls.
    pub calls: (usize, usize),
}

impl Success {
    pub(super) fn of(outcomes: &[Outcome], from: Duration, to: Duration) -> Self {
        let mut success = Self::default();
        for outcome in outcomes.iter().filter(|it| from <= it.began && it.began < to) {
            let (tried, failed) = match outcome.sort {
                Sort::Nodes => &mut success.nodes,
                Sort::Values => &mut success.values,
                Sort::Publish => &mut success.publishes,
                Sort::Call => &mut success.calls,
            };
            *tried += 1;
            *failed += usize::from(outcome.failure.is_some());
        }
        success
    }

    /// The share that succeeded; 1 when nothing was tried.
    #[must_use]
    pub fn share((tried, failed): (usize, usize)) -> f64 {
        if tried == 0 { 1.0 } else { (tried - failed) as f64 / tried as f64 }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the table names each")]
pub struct Report {
    pub name: String,
    pub seed: u64,
    pub nodes: usize,
    pub serving: usize,
    pub hostile: f64,
    pub rounds: Spread,
    pub asked: Spread,
    pub took_ms: Spread,
    /// Of lookups for servers, the share of the twenty nearest honest ones that was found.
    pub agreed: Spread,
    pub watch: Spread,
    /// Changes that nobody saw within ten seconds and more.
    pub unseen: usize,
    /// Before the scenario, in it, and in its last third.
    pub calm: Success,
    pub meanwhile: Success,
    pub at_last: Success,
    pub rest: Rate,
    pub announced: Rate,
    pub in_use: Rate,
    pub busy: Rate,
    pub sizes: Sizes,
    /// Bytes a node.
    pub memory: f64,
    pub healed: Option<Duration>,
    /// The first of those in the scenario.
    pub failures: Vec<String>,
    pub elapsed: Duration,
    pub wall: Duration,
    pub events: u64,
    pub frames: u64,
    pub digest: String,
    pub broken: Option<Broken>,
    pub aims: Vec<Aim>,
}

impl Report {
    /// Each aim in words, and whether it is met.
    #[must_use]
    pub fn judged(&self) -> Vec<(bool, String)> {
        let percent = |what: &str, aim: f64, it| {
            let share = Success::share(it);
            (share >= aim, format!("{what} {:.1} % of {:.0} %", 100.0 * share, 100.0 * aim))
        };
        let judge = |aim: &Aim| match *aim {
            Aim::Lookups(share) => percent("lookups for records", share, self.meanwhile.values),
            Aim::Publishes(share) => percent("publishes", share, self.meanwhile.publishes),
            Aim::Calls(share) => percent("calls", share, self.meanwhile.calls),
            Aim::Rounds(most) => {
                let rounds = self.rounds.p99;
                (
                    rounds <= f64::from(most),
                    format!("rounds of 99 in 100 lookups {rounds} of {most}"),
                )
            }
            Aim::Idle(most) => {
                let idle = self.rest.all_bytes();
                (idle <= most, format!("bytes a second and node at rest {idle:.0} of {most:.0}"))
            }
            Aim::Heals(most) => {
                let healed = self.healed.unwrap_or_default();
                (
                    healed <= most,
                    format!("healed after {:.1} s of {:?}", healed.as_secs_f64(), most),
                )
            }
        };
        self.aims.iter().map(judge).collect()
    }

    /// Everything in a few lines.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut out = table(std::slice::from_ref(self));
        for (is_met, words) in self.judged() {
            let _ = writeln!(out, "{} {words}", if is_met { "met:   " } else { "MISSED:" });
        }
        for failure in &self.failures {
            let _ = writeln!(out, "  {failure}");
        }
        out
    }
}

/// Reports beside each other, as a table in Markdown: a line a number, a column a run.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &dyn Fn(&Report) -> String| {
        let cells: Vec<String> = reports.iter().map(value).collect();
        let _ = writeln!(out, "| {name:<44} | {} |", cells.join(" | "));
    };
    line("", &|it| format!("{} {} nodes, seed {}", it.name, it.nodes, it.seed));
    line("---", &|_| "---:".to_owned());
    line("serving, of them hostile among peers", &|it| {
        format!("{}, {:.0} %", it.serving, 100.0 * it.hostile)
    });
    let pair = |it: &Spread| format!("{:.0} / {:.0}", it.p50, it.p99);
    line("rounds of a lookup, p50 / p99", &|it| pair(&it.rounds));
    line("nodes asked by a lookup, p50 / p99", &|it| pair(&it.asked));
    line("time of a lookup in ms, p50 / p99", &|it| pair(&it.took_ms));
    line("nearest 20 found, mean", &|it| format!("{:.1} %", 100.0 * it.agreed.mean));
    let share = |success: &Success| {
        let it = [success.nodes, success.values, success.publishes, success.calls];
        it.map(|it| format!("{:.1}", 100.0 * Success::share(it))).join(" / ")
    };
    line("all is well: nodes / records / publishes / calls %", &|it| share(&it.calm));
    line("the scenario: the same", &|it| share(&it.meanwhile));
    line("its last third: the same", &|it| share(&it.at_last));
    line("tried in the scenario", &|it| {
        let it =
            [it.meanwhile.nodes, it.meanwhile.values, it.meanwhile.publishes, it.meanwhile.calls];
        it.map(|(tried, _)| tried.to_string()).join(" / ")
    });
    line("healed after", &|it| {
        it.healed.map_or_else(|| "-".to_owned(), |it| format!("{:.1} s", it.as_secs_f64()))
    });
    line("a change is seen after s, p50 / max (unseen)", &|it| {
        format!("{:.1} / {:.1} ({})", it.watch.p50, it.watch.max, it.unseen)
    });
    let rate = |it: &Rate| format!("{:.0} / {:.0}", it.messages(), it.all_bytes());
    line("messages a minute / bytes a second, at rest", &|it| rate(&it.rest));
    line("the same, announced", &|it| rate(&it.announced));
    line("the same, in use", &|it| rate(&it.in_use));
    line("the same, in the scenario", &|it| rate(&it.busy));
    line("bytes a second at rest, p50 / p99 / max node", &|it| {
        format!("{:.0} / {:.0} / {:.0}", it.rest.each.p50, it.rest.each.p99, it.rest.each.max)
    });
    for cause in Cause::ALL {
        let name = format!("bytes a second at rest / announced: {}", cause.name());
        line(&name, &|it| {
            format!("{:.0} / {:.0}", it.rest.bytes(cause), it.announced.bytes(cause))
        });
    }
    line("connections, mean / max", &|it| most(&it.sizes.links));
    line("contacts, mean / max", &|it| most(&it.sizes.contacts));
    line("records of a server, mean / max", &|it| most(&it.sizes.records));
    line("KiB of records, mean / max", &|it| {
        format!(
            "{:.0} / {:.0}",
            it.sizes.record_bytes.mean / 1024.0,
            it.sizes.record_bytes.max / 1024.0
        )
    });
    line("KiB of memory a node, the network's part included", &|it| {
        format!("{:.0}", it.memory / 1024.0)
    });
    line("virtual s / real s", &|it| {
        format!("{:.0} / {:.0}", it.elapsed.as_secs_f64(), it.wall.as_secs_f64())
    });
    line("events / frames", &|it| format!("{} / {}", it.events, it.frames));
    line("story", &|it| it.digest.clone());
    out
}

fn most(it: &Spread) -> String {
    format!("{:.0} / {:.0}", it.mean, it.max)
}

/// The command that tells the very same story again.
#[must_use]
pub fn replay(plan: &Plan) -> String {
    format!(
        "make sim SEED={} SCENARIO={} NODES={} SERVING={} HOSTILE={} FOR={}s{}",
        plan.seed,
        plan.name,
        plan.nodes,
        plan.serving,
        (100.0 * plan.hostile).round(),
        plan.lasts.as_secs(),
        if plan.is_brief { " BRIEF=1" } else { "" }
    )
}
