//! Small runs of the scenarios: the laws hold, a seed tells its story twice, and what is planted is caught.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::time::Duration;

use macula_proto::sim::plan::Plan;
use macula_proto::sim::report::{Report, Success, replay};
use macula_proto::sim::run::run;

/// A scenario among so many nodes.
fn small(name: &str, seed: u64, nodes: usize) -> Plan {
    let mut plan = Plan::built_in(name).unwrap();
    (plan.seed, plan.nodes, plan.is_brief) = (seed, nodes, true);
    plan.serving = nodes / 2;
    plan
}

/// Runs it to its end. A broken law prints the line that replays it.
fn tell(plan: &Plan) -> Report {
    let report = run(plan, &mut |_| {});
    if let Some(broken) = &report.broken {
        panic!("{broken}\nreplay: {}", replay(plan));
    }
    println!("{}", report.lines());
    report
}

#[test]
fn in_a_storm_with_hostile_servers_every_law_holds() {
    let plan = Plan { hostile: 0.2, ..small("storm", 11, 50) };
    let report = tell(&plan);
    for sort in [report.meanwhile.values, report.meanwhile.publishes, report.meanwhile.calls] {
        assert!(sort.0 > 50, "deeds were done: {:?}", report.meanwhile);
        assert!(Success::share(sort) > 0.5, "and most succeed: {:?}", report.meanwhile);
    }
}

#[test]
fn the_same_seed_tells_the_same_storm_twice_and_another_tells_another() {
    let plan = |seed| Plan { hostile: 0.2, ..small("storm", seed, 24) };
    let brief = |seed| Plan { lasts: Duration::from_secs(30), ..plan(seed) };
    let digest = |seed| tell(&brief(seed)).digest;
    assert_eq!(digest(3), digest(3));
    assert_ne!(digest(3), digest(4));
}

#[test]
fn a_split_heals() {
    let plan = Plan { lasts: Duration::from_secs(735), ..small("split", 5, 40) };
    let report = tell(&plan);
    let healed = report.healed.unwrap();
    assert!(healed <= Duration::from_secs(60), "healed after {healed:?}: {:#?}", report.failures);
}
