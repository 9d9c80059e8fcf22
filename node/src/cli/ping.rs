//! `macula-node ping`: whom to ping, as whom, and how the answer is shown.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use macula_config::Seed;
use macula_proto::{Code, Fault};
use serde_json::json;

use super::client::{Ask, Node};
use super::exit::Exit;
use super::failure::{Failure, Stop};
use super::logging::Logging;
use super::output::{self, Format};
use super::run as run_config;
use crate::identity::{Source, files};
use crate::join::JoinFile;
use crate::peer::{Pong, Target};
use crate::ping::Pinger;

/// What `ping` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node ping 10.244.1.7:9443
  macula-node ping 127.0.0.1:9443 --config peer.yaml
  macula-node ping 00112233445566778899aabbccddeeff00112233 --join join.json --count 3

The node at MACULA_URL pings, as itself. With --config or --join this command dials by itself with the
identity of the file, as a node would. Both print the round trip, or the name of the code with which
the other node closed the connection.")]
pub(crate) struct Ping {
    /// An address, IP:PORT, or a node's id of 40 hexadecimal digits
    target: Target,
    /// The configuration of the node as which to ping
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    config: Option<PathBuf>,
    /// The join file, as `dev` writes one
    #[arg(long, value_name = "FILE")]
    join: Option<PathBuf>,
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long each may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = super::positive_period)]
    timeout: Duration,
    #[command(flatten)]
    pub(super) logging: Logging,
}

/// As whom to ping, and where to ask for a node that is known by its id alone.
struct Identity {
    source: Source,
    seeds: Vec<Seed>,
}

/// Connects once, and pings as often as asked.
pub(super) async fn run(ping: Ping, node: &Node, format: Format) -> Result<Exit, Stop> {
    let tried = format!("ping {}", ping.target);
    let failed = |fault: Fault| Failure::from(fault.tried(tried.clone()));
    let Some(Identity { source, seeds }) = ping.identity()? else {
        for _ in 0..ping.count {
            let path = format!("/v1/ping/{}", ping.target);
            let ask = Ask { within: ping.timeout, ..Ask::new(tried.clone(), Method::POST, path) };
            let pong = node.ask_json(ask).await?;
            show(
                &serde_json::from_value(pong).map_err(|error| {
                    Failure::from(
                        Fault::new(Code::Protocol, error.to_string()).tried(tried.clone()),
                    )
                })?,
                format,
            )?;
        }
        return Ok(Exit::Ok);
    };
    let late = || Fault::new(Code::Timeout, "no answer before the deadline");
    let connect = Pinger::connect(ping.target, source, &seeds);
    let pinger = tokio::time::timeout(ping.timeout, connect)
        .await
        .unwrap_or_else(|_| Err(late()))
        .map_err(failed)?;
    for _ in 0..ping.count {
        let pong = tokio::time::timeout(ping.timeout, pinger.ping())
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(failed)?;
        show(&pong, format)?;
    }
    pinger.close().await;
    Ok(Exit::Ok)
}

fn show(pong: &Pong, format: Format) -> Result<(), Stop> {
    match format {
        Format::Json => output::json(&json!(pong)),
        Format::Text => {
            let rtt = Duration::from_micros(pong.rtt_us);
            output::line(format_args!("{} at {} in {rtt:?}", pong.subject, pong.address))
        }
    }
}

impl Ping {
    /// As whom to ping; nobody when the node is to do it.
    fn identity(&self) -> Result<Option<Identity>, Failure> {
        let tried = "read an identity to ping with";
        let wrong = |path: &PathBuf, error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            run_config::invalid(tried, format!("{}: {error}{cause}", path.display()))
        };
        match (&self.config, &self.join) {
            (Some(path), _) => {
                let config = run_config::read(path)?;
                let watch = files::start(&config).map_err(|error| Failure::from(error.fault()))?;
                Ok(Some(Identity { source: watch.source(), seeds: config.seeds }))
            }
            (None, Some(path)) => {
                let file = JoinFile::read(path).map_err(|error| wrong(path, &error))?;
                let renewal = file.enrol("ping").map_err(|error| wrong(path, &error))?;
                let seeds = file.seeds.iter().map(|address| (*address).into()).collect();
                Ok(Some(Identity { source: renewal.source(), seeds }))
            }
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_an_id() {
        assert_eq!("[::1]:1".parse(), Ok(Target::Address("[::1]:1".parse().unwrap())));
        let id = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(id.parse(), Ok(Target::Node(id.parse().unwrap())));
        for text in ["", "127.0.0.1", "127.0.0.1:0", "localhost:1", &id[1..]] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
