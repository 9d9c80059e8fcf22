//! How fast a mesh is, in groups that are measured one after the other. `--help` says which.
//!
//! | file | measures |
//! | --- | --- |
//! | `traffic` | calls and messages, beside raw quinn |
//! | `dht` | tables, records, watches and lookups, beside libp2p-kad where that was built in |
//!
//! | file | helps |
//! | --- | --- |
//! | `clock` | processor time, which others on the machine do not take away |
//! | `heap` | bytes that live, counted by the allocator |
//! | `report` | rows |

mod clock;
mod dht;
mod heap;
mod report;
mod traffic;

use std::process::ExitCode;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Traffic,
    Dht,
}

impl Group {
    const ALL: [Self; 2] = [Self::Traffic, Self::Dht];

    const fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Dht => "dht",
        }
    }
}

const HELP: &str = "\
Measures how fast a mesh is, and prints it. Nothing is asserted: machines differ.

  make bench                       every group, one after the other
  make bench ONLY=dht              one of them
  make bench ONLY=dht RIVALS=1     libp2p-kad beside it, as ratios (some 100 crates more to build)

  cargo run --release [--features rivals] -- [GROUP…]

Groups
  traffic   calls and one-way messages between two peers, beside raw quinn
  dht       tables, records, watches, memory, and lookups among 50 nodes

Some two minutes in all. Read docs/BENCHMARKS.md for what each row includes.
";

#[tokio::main]
async fn main() -> ExitCode {
    let mut groups = Vec::new();
    for argument in std::env::args().skip(1) {
        match Group::ALL.into_iter().find(|group| group.name() == argument) {
            Some(group) => groups.push(group),
            None if argument == "--help" || argument == "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            None => {
                let names = Group::ALL.map(Group::name).join(", ");
                eprintln!("there is no group {argument:?}; write one of {names}, or --help");
                return ExitCode::from(2);
            }
        }
    }
    if groups.is_empty() {
        groups.extend(Group::ALL);
    }
    match run(&groups).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(groups: &[Group]) -> anyhow::Result<()> {
    println!("{}", report::machine());
    for group in groups {
        println!();
        match group {
            Group::Traffic => traffic::run().await?,
            Group::Dht => dht::run().await?,
        }
    }
    Ok(())
}
