//! Tells scenarios of the mesh on virtual time, from one seed: `make sim`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use macula_proto::sim::plan::{self, BUILT_IN, Plan};
use macula_proto::sim::report::{Report, replay, table};
use macula_proto::sim::run::{Progress, run};
use macula_proto::sim::{Hostility, chart};

/// Tells scenarios of the mesh on virtual time, from one seed.
///
/// The nodes are the shipping core with real certificates; the network, the machines and the clocks are made
/// up. The same seed tells the same story twice: compare the line `story` of two runs. While it runs, laws are
/// checked at every message; a broken one ends the run with exit code 1 and the line that replays it.
///
/// Progress goes to standard error, the table to standard output.
#[derive(Debug, Parser)]
#[command(after_long_help = after_help())]
struct Flags {
    /// A built-in scenario, or a file that holds one
    #[arg(long, default_value = "calm")]
    scenario: String,
    /// How many nodes, one run after the other: 100,1000,10000 shows how things grow
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<usize>,
    /// How many of them serve, or `all`; a fifth, unless the scenario says
    #[arg(long)]
    serving: Option<String>,
    /// Which share of the serving peers is hostile, in percent
    #[arg(long)]
    hostile: Option<f64>,
    /// How long the scenario goes on in virtual time, such as 60s
    #[arg(long = "for", value_parser = plan::duration)]
    lasts: Option<Duration>,
    /// Everything follows from it; 1, or with --swarm a fresh one
    #[arg(long)]
    seed: Option<u64>,
    /// Begin the scenario at once, and do not measure what a mesh costs at rest
    #[arg(long)]
    brief: bool,
    /// Fresh seeds, and every built-in scenario in turn, for this long in real time
    #[arg(long, value_parser = plan::duration, value_name = "TIME")]
    swarm: Option<Duration>,
    /// Writes a chart of the runs to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn after_help() -> String {
    let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    let hostile = Hostility::ALL.map(Hostility::name);
    format!(
        "Built-in scenarios: {}.\nThey lie in node/proto/scenarios; how one is written is said in \
         node/proto/src/sim/plan.rs, for instance:\n\n{}\n\
         A hostile server does one of: {}.\n\n\
         Examples:\n  \
         make sim                                        how costs grow: 100, 1,000 and 10,000 nodes\n  \
         make sim SCENARIO=storm NODES=1000 SEED=7       one story\n  \
         make sim-swarm FOR=10m                          fresh seeds for ten minutes",
        names.join(", "),
        BUILT_IN[2].1,
        hostile.join(", "),
    )
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if let Some(lasts) = flags.swarm {
        return swarm(lasts, flags.seed);
    }
    let sizes =
        if flags.nodes.is_empty() { vec![read(&flags)?.nodes] } else { flags.nodes.clone() };
    let mut reports = Vec::new();
    for nodes in sizes {
        let plan = sized(&flags, nodes)?;
        let report = tell(&plan);
        let is_broken = report.broken.is_some();
        show(&plan, &report);
        reports.push(report);
        if is_broken {
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{}", table(&reports));
    if let Some(file) = &flags.svg {
        std::fs::write(file, chart::svg(&reports))
            .with_context(|| format!("write the chart to {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The scenario as it is written.
fn read(flags: &Flags) -> anyhow::Result<Plan> {
    if let Some(plan) = Plan::built_in(&flags.scenario) {
        return Ok(plan);
    }
    let text = std::fs::read_to_string(&flags.scenario).with_context(|| {
        format!("{} is no built-in scenario, so it is read as a file", flags.scenario)
    })?;
    Ok(Plan::read(&flags.scenario, &text)?)
}

/// With what the flags say.
fn sized(flags: &Flags, nodes: usize) -> anyhow::Result<Plan> {
    let mut plan = read(flags)?;
    let is_said = plan.serving != plan.nodes / 5;
    plan.serving = match flags.serving.as_deref() {
        Some("all") => nodes,
        Some(count) => count.parse::<usize>().context("--serving takes a number, or 'all'")?,
        None if is_said => plan.serving * nodes / plan.nodes,
        None => nodes / 5,
    };
    plan.nodes = nodes;
    plan.serving = plan.serving.min(nodes);
    plan.seed = flags.seed.unwrap_or(1);
    plan.is_brief = flags.brief;
    plan.lasts = flags.lasts.unwrap_or(plan.lasts);
    plan.hostile = flags.hostile.map_or(plan.hostile, |percent| percent / 100.0);
    Ok(plan)
}

/// Runs it, and shows how far it is once a second.
fn tell(plan: &Plan) -> Report {
    let began = Instant::now();
    let is_terminal = std::io::stderr().is_terminal();
    let every = Duration::from_secs(if is_terminal { 1 } else { 10 });
    let mut shown = Instant::now();
    let mut before = 0;
    run(plan, &mut |progress: Progress<'_>| {
        if shown.elapsed() < every {
            return;
        }
        let rate = (progress.events - before) as f64 / shown.elapsed().as_secs_f64();
        (shown, before) = (Instant::now(), progress.events);
        let line = format!(
            "{} {}: {:.0} of {:.0} s in {:.0} s, {}; {} nodes alive, {:.0} events a second, {} deeds, {} failed",
            plan.name,
            plan.nodes,
            progress.elapsed.as_secs_f64(),
            progress.of.as_secs_f64(),
            began.elapsed().as_secs_f64(),
            progress.part,
            progress.alive,
            rate,
            progress.tried,
            progress.failed,
        );
        // Progress that nobody reads is no failure.
        let _ = if is_terminal {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    })
}

fn show(plan: &Plan, report: &Report) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    println!(
        "{} {} nodes, seed {}, {:.0} s",
        plan.name,
        plan.nodes,
        plan.seed,
        report.wall.as_secs_f64()
    );
    for (is_met, words) in report.judged() {
        println!("  {} {words}", if is_met { "met:   " } else { "MISSED:" });
    }
    for failure in &report.failures {
        println!("    {failure}");
    }
    if let Some(broken) = &report.broken {
        println!("  BROKEN: {broken}");
        println!("  replay: {}", replay(plan));
    }
}

/// Story after story, until the time is up or a law is broken.
fn swarm(lasts: Duration, first: Option<u64>) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut seed = first.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let mut told = (0, Duration::ZERO);
    while began.elapsed() < lasts {
        let (name, _) = BUILT_IN[seed as usize % BUILT_IN.len()];
        let mut plan = Plan::built_in(name).expect("it is one of them");
        plan.seed = seed;
        plan.is_brief = true;
        plan.nodes = [60, 120, 250, 500][seed as usize / BUILT_IN.len() % 4];
        plan.serving = if plan.hostile > 0.0 { plan.nodes } else { plan.nodes / 5 };
        let report = tell(&plan);
        show(&plan, &report);
        if report.broken.is_some() {
            return Ok(ExitCode::FAILURE);
        }
        told = (told.0 + report.nodes, told.1 + report.elapsed);
        seed += 1;
    }
    println!(
        "{} nodes, {:.1} virtual hours, and every law held",
        told.0,
        told.1.as_secs_f64() / 3600.0
    );
    Ok(ExitCode::SUCCESS)
}
