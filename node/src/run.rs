//! `macula-node run`: one node, as containers run it, from a file and flags.

use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::Context;
use macula_config::Config;

use crate::dev::interrupted;
use crate::discovery::{Resolver, Schedule};
use crate::identity::files;
use crate::node::{Node, Parts};
use crate::supervise::Settings;

/// Runs the node until SIGTERM or Ctrl-C, or until it cannot go on.
///
/// # Errors
/// When it cannot start, or when a task that it cannot be without kept dying.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut node = start(&config)?;
    let outcome = tokio::select! {
        outcome = node.ended() => {
            outcome.context("the node gave up")?;
            return Ok(ExitCode::SUCCESS);
        }
        () = interrupted() => {
            tracing::info!("asked to stop");
            node.stop().await
        }
    };
    outcome.context("the node did not stop cleanly")?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the node of this configuration.
///
/// # Errors
/// When a file, a listener or the certificate does not hold.
pub fn start(config: &Config) -> anyhow::Result<Node> {
    let renewal = files::start(config).map_err(|error| error.fault())?;
    let listen = |what: &str, address| {
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address} for {what}"))
    };
    let api = config.api.as_ref().map(|api| listen("the API", api.listen)).transpose()?;
    let admin = listen("health and metrics", config.admin.listen)?;
    let resolver = match config.discovery.server {
        Some(server) => Resolver::at(server),
        None => Resolver::from_system(),
    };
    let parts = Parts {
        listen: config.listen,
        source: renewal.source(),
        seeds: config.seeds.clone(),
        resolver: resolver.context("cannot set up the lookup of names")?,
        schedule: Schedule { every: config.discovery.every, ..Schedule::default() },
        api,
        admin: Some(admin),
        supervision: Settings::default(),
    };
    let node = Node::start(parts, |tree, runtime, metrics| {
        renewal.add_to(tree, runtime, metrics);
    })?;
    Ok(node)
}
