//! A scenario: who takes part, what befalls them when, and what is expected of it.
//!
//! It is a text of lines. `#` begins a comment. These lines say what the mesh is; flags of the command line win:
//!
//! ```text
//! nodes 1000               how many nodes, five bootstraps and the gateways among them
//! serving 200 | all        how many of them serve; a fifth, unless it is said
//! hostile 20%              which share of the serving peers misbehaves from the beginning
//! for 60s                  how long it goes on, after everybody has joined and come to rest
//! ```
//!
//! These say what befalls it, and when, counted from that rest:
//!
//! ```text
//! at 0s loss 5%            this share of packets is lost
//! at 0s jitter 50ms        packets take up to this much longer
//! at 0s churn 10%          each minute this share of nodes goes, half of it without a word, and comes back
//! at 0s crash 20%          also: crash bootstraps, crash infrastructure
//! at 30s return            whoever is gone comes back
//! at 0s split 50%          nothing passes between this share of the nodes and the others
//! at 0s mute 1%            what these nodes send is lost, and they hear everything
//! at 60s heal              ends every cut
//! at 0s pause 5% for 20s   machines sleep
//! at 0s skew 10s           each clock is off by up to this much, either way
//! at 0s jump 5% by -20s    clocks of this share jump
//! ```
//!
//! And these, what is aimed at: `aim lookups 99%`, `aim publishes 99%`, `aim calls 99%` (of those begun after
//! the rest), `aim rounds 4` (of 99 in 100 lookups), `aim idle 200` (bytes a second and node), `aim heals 60s`
//! (after the last `heal`).

use std::time::Duration;

/// A scenario.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// Everything else follows from it.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them serve.
    pub serving: usize,
    /// Which share of the serving peers misbehaves.
    pub hostile: f64,
    /// How long it goes on.
    pub lasts: Duration,
    /// What befalls it, in order.
    pub steps: Vec<(Duration, Step)>,
    /// What is aimed at.
    pub aims: Vec<Aim>,
    /// Whether the scenario begins as soon as everybody has joined and announced, and what a mesh costs at rest
    /// is not measured: for tests.
    pub is_brief: bool,
}

/// Something that befalls a mesh.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the lines of a scenario say what each is")]
pub enum Step {
    Loss(f64),
    Jitter(Duration),
    Churn(f64),
    Crash(Who),
    Return,
    Split(f64),
    Mute(f64),
    Heal,
    Pause { share: f64, lasts: Duration },
    Skew(Duration),
    Jump { share: f64, by_ms: i64 },
}

/// Whom it befalls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    /// This share of all, as chance has it.
    Share(f64),
    /// Every bootstrap.
    Bootstraps,
    /// Every bootstrap and gateway.
    Infrastructure,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// The share of lookups for records that succeed.
    Lookups(f64),
    /// The share of publishes.
    Publishes(f64),
    /// The share of calls.
    Calls(f64),
    /// The most rounds of 99 in 100 lookups.
    Rounds(u32),
    /// The most bytes a second that a node sends, of itself.
    Idle(f64),
    /// The longest time from the end of the last cut until all is well.
    Heals(Duration),
}

/// The scenarios that come with it, by name.
pub const BUILT_IN: [(&str, &str); 8] = [
    ("calm", include_str!("../../scenarios/calm.sim")),
    ("churn", include_str!("../../scenarios/churn.sim")),
    ("storm", include_str!("../../scenarios/storm.sim")),
    ("split", include_str!("../../scenarios/split.sim")),
    ("bootstraps-dead", include_str!("../../scenarios/bootstraps-dead.sim")),
    ("infrastructure-dead", include_str!("../../scenarios/infrastructure-dead.sim")),
    ("hostile", include_str!("../../scenarios/hostile.sim")),
    ("hostile-edge", include_str!("../../scenarios/hostile-edge.sim")),
];

/// What is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the scenario: {because}")]
pub struct Malformed {
    /// Counted from one.
    pub line: usize,
    /// Why it is not understood.
    pub because: String,
}

impl Plan {
    /// Reads a scenario.
    ///
    /// # Errors
    /// [`Malformed`] at the first line that is not understood.
    pub fn read(name: &str, text: &str) -> Result<Self, Malformed> {
        let mut plan = Self {
            name: name.to_owned(),
            seed: 1,
            nodes: 1000,
            serving: 0,
            hostile: 0.0,
            lasts: Duration::from_secs(30),
            steps: Vec::new(),
            aims: Vec::new(),
            is_brief: false,
        };
        let mut serving = None;
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let read = match words[..] {
                [] => Ok(()),
                ["nodes", count] => number(count).map(|count| plan.nodes = count),
                ["serving", "all"] => {
                    serving = Some(usize::MAX);
                    Ok(())
                }
                ["serving", count] => number(count).map(|count| serving = Some(count)),
                ["hostile", share] => percent(share).map(|share| plan.hostile = share),
                ["for", lasts] => duration(lasts).map(|lasts| plan.lasts = lasts),
                ["at", when, ref what @ ..] => duration(when)
                    .and_then(|when| step(what).map(|step| plan.steps.push((when, step)))),
                ["aim", what, how] => aim(what, how).map(|aim| plan.aims.push(aim)),
                [word, ..] => Err(format!("'{word}' begins no line")),
            };
            read.map_err(|because| Malformed { line: at + 1, because })?;
        }
        plan.steps.sort_by_key(|(when, _)| *when);
        plan.serving = serving.unwrap_or(plan.nodes / 5).min(plan.nodes);
        Ok(plan)
    }

    /// One of those that come with it.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        let (name, text) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name)?;
        Some(Self::read(name, text).expect("a test reads each"))
    }
}

fn step(words: &[&str]) -> Result<Step, String> {
    Ok(match *words {
        ["loss", share] => Step::Loss(percent(share)?),
        ["jitter", most] => Step::Jitter(duration(most)?),
        ["churn", share] => Step::Churn(percent(share)?),
        ["crash", "bootstraps"] => Step::Crash(Who::Bootstraps),
        ["crash", "infrastructure"] => Step::Crash(Who::Infrastructure),
        ["crash", share] => Step::Crash(Who::Share(percent(share)?)),
        ["return"] => Step::Return,
        ["split", share] => Step::Split(percent(share)?),
        ["mute", share] => Step::Mute(percent(share)?),
        ["heal"] => Step::Heal,
        ["pause", share, "for", lasts] => {
            Step::Pause { share: percent(share)?, lasts: duration(lasts)? }
        }
        ["skew", most] => Step::Skew(duration(most)?),
        ["jump", share, "by", by] => {
            let (sign, by) = by.strip_prefix('-').map_or((1, by), |by| (-1, by));
            let by_ms = i64::try_from(duration(by)?.as_millis()).map_err(|it| it.to_string())?;
            Step::Jump { share: percent(share)?, by_ms: sign * by_ms }
        }
        _ => return Err(format!("'{}' befalls nobody", words.join(" "))),
    })
}

fn aim(what: &str, how: &str) -> Result<Aim, String> {
    Ok(match what {
        "lookups" => Aim::Lookups(percent(how)?),
        "publishes" => Aim::Publishes(percent(how)?),
        "calls" => Aim::Calls(percent(how)?),
        "rounds" => Aim::Rounds(number(how)?),
        "idle" => Aim::Idle(number(how)?),
        "heals" => Aim::Heals(duration(how)?),
        _ => return Err(format!("nothing aims at '{what}'")),
    })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not a number"))
}

fn percent(text: &str) -> Result<f64, String> {
    let share = text.strip_suffix('%').ok_or_else(|| format!("'{text}' does not end in %"))?;
    let share = number::<f64>(share)? / 100.0;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("'{text}' is no share")) }
}

/// Reads `500ms`, `90s` or `10m`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let count: u64 = number(digits)?;
    match unit {
        "ms" => Ok(Duration::from_millis(count)),
        "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(60 * count)),
        "h" => Ok(Duration::from_secs(3600 * count)),
        _ => Err(format!("'{text}' is no time: 500ms, 90s, 10m, 1h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_it_can_be_read() {
        for (name, _) in BUILT_IN {
            assert_eq!(Plan::built_in(name).map(|plan| plan.name), Some(name.to_owned()));
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let because =
            |text: &str| Plan::read("test", text).map(|_| ()).map_err(|it| it.to_string());
        assert_eq!(because("nodes 10\n# fine\n\nat 1s loss 5%"), Ok(()));
        let refused = "line 2 of the scenario: '5' does not end in %";
        assert_eq!(because("nodes 10\nat 1s loss 5"), Err(refused.to_owned()));
        let refused = "line 1 of the scenario: 'rain 5%' befalls nobody";
        assert_eq!(because("at 1s rain 5%"), Err(refused.to_owned()));
    }

    #[test]
    fn clocks_jump_both_ways() {
        let plan = Plan::read("test", "at 2m jump 5% by -20s\nat 1s jump 100% by 500ms").unwrap();
        let jump = |share, by_ms| Step::Jump { share, by_ms };
        let minutes = Duration::from_secs(120);
        assert_eq!(plan.steps[1], (minutes, jump(0.05, -20_000)));
        assert_eq!(plan.steps[0], (Duration::from_secs(1), jump(1.0, 500)));
    }
}
