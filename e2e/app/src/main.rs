//! The small application of the stories and the demo. It knows nothing of meshes: it speaks plain HTTP
//! to the sidecar at `MACULA_URL`, as any application would, in any language.
//!
//! `run` does in one process what an application does: it serves, subscribes, publishes and calls, and
//! keeps tallies of it, which `tallies` prints. `call`, `publish` and `hear` do one thing once.

mod events;
mod network;
mod run;
mod server;
mod sidecar;
mod tallies;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use sidecar::{Failure, Sidecar};

/// The small application of the stories and the demo.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The sidecar
    #[arg(long, env = "MACULA_URL", default_value = "http://127.0.0.1:7780", global = true)]
    url: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves, subscribes, publishes and calls, until it is told to stop
    Run(run::Run),
    /// Calls, again until it succeeds, and prints the answer
    Call {
        procedure: String,
        #[arg(default_value = "")]
        body: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Publishes, again until it succeeds
    Publish {
        topic: String,
        #[arg(default_value = "")]
        text: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Prints messages until there were so many
    Hear {
        pattern: String,
        #[arg(long, default_value_t = 1)]
        count: usize,
        #[command(flatten)]
        patience: Patience,
    },
    /// Prints the tallies of the `run` in this container
    Tallies,
    /// Runs a command of this machine in the network of one of its containers, which is that of the
    /// container's pod (privileged, `hostPID`)
    InNetworkOf {
        /// Its id, without `containerd://`
        container: String,
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Patience {
    /// How long to go on; `0s` tries once
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = period)]
    within: Duration,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        // Before there is a second thread: a mount namespace is entered by a process with one.
        Command::InNetworkOf { container, command } => network::enter(&container, &command),
        other => perform(&cli.url, other),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(2)
    })
}

#[tokio::main(flavor = "current_thread")]
async fn perform(url: &str, command: Command) -> anyhow::Result<ExitCode> {
    let sidecar = Sidecar::new(url)?;
    match command {
        Command::Run(what) => run::run(sidecar, what).await.map(|()| ExitCode::SUCCESS),
        Command::Call { procedure, body, patience } => {
            once(patience.within, async || {
                sidecar.call(&procedure, &body).await.map(|answer| json!({ "answer": answer }))
            })
            .await
        }
        Command::Publish { topic, text, patience } => {
            once(patience.within, async || {
                sidecar
                    .publish(&topic, &text)
                    .await
                    .map(|subscribers| json!({ "subscribers": subscribers }))
            })
            .await
        }
        Command::Hear { pattern, count, patience } => {
            hear(&sidecar, &pattern, count, patience.within).await
        }
        Command::Tallies => {
            let own = Sidecar::new(&format!("http://127.0.0.1:{}", server::PORT))?;
            println!("{}", own.get("/tallies").await.map_err(anyhow::Error::from)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::InNetworkOf { .. } => unreachable!("main has done it"),
    }
}

/// Tries until it succeeds or the time is over, and prints what came of it, a line of JSON.
async fn once(
    within: Duration,
    attempt: impl AsyncFn() -> Result<Value, Failure>,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        let outcome = attempt().await;
        let over = started.elapsed() >= within;
        match outcome {
            Ok(mut done) => {
                done["after_ms"] = json!(started.elapsed().as_millis());
                println!("{done}");
                return Ok(ExitCode::SUCCESS);
            }
            Err(failure) if over => {
                println!("{}", json!({ "failed": failure.code, "detail": failure.detail }));
                return Ok(ExitCode::FAILURE);
            }
            Err(_) => {}
        }
    }
}

async fn hear(
    sidecar: &Sidecar,
    pattern: &str,
    count: usize,
    within: Duration,
) -> anyhow::Result<ExitCode> {
    let listen = async {
        let mut heard = 0;
        while heard < count {
            let Ok(mut messages) = sidecar.subscribe(pattern).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while heard < count
                && let Some(event) = messages.next().await
            {
                println!("{}", event.data);
                heard += usize::from(event.kind == "message");
            }
        }
    };
    match tokio::time::timeout(within, listen).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(_) => Ok(ExitCode::FAILURE),
    }
}

/// Reads a length of time: a whole number and `ms`, `s` or `m`.
fn period(text: &str) -> anyhow::Result<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("{text:?} begins with no number"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        _ => anyhow::bail!("{text:?}: write a whole number and ms, s or m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_number_and_a_unit() {
        assert_eq!(period("200ms").unwrap(), Duration::from_millis(200));
        assert_eq!(period("2m").unwrap(), Duration::from_secs(120));
        assert!(period("2").is_err());
        assert!(period("s").is_err());
    }
}
