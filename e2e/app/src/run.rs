//! `run`: one task for each thing that the application was asked to do.

use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::server;
use crate::sidecar::Sidecar;
use crate::tallies::Tallies;

/// How soon something is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// What `run` is told. Each may be repeated.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The name that its answers and messages carry
    #[arg(long, env = "HOSTNAME", default_value = "app")]
    name: String,
    /// A procedure that it answers
    #[arg(long, value_name = "PROCEDURE")]
    serve: Vec<String>,
    /// A pattern of topics that it hears
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// A topic that it publishes on
    #[arg(long, value_name = "TOPIC")]
    publish: Vec<String>,
    /// A procedure that it calls
    #[arg(long, value_name = "PROCEDURE")]
    call: Vec<String>,
    /// The time between two messages, and between two calls
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = crate::period)]
    every: Duration,
    /// Tell only what fails
    #[arg(long)]
    quiet: bool,
}

/// Runs until SIGTERM, or until its listener fails.
pub(crate) async fn run(sidecar: Sidecar, what: Run) -> anyhow::Result<()> {
    let Run { name, serve, subscribe, publish, call, every, quiet } = what;
    let tallies = Tallies::new(&name, quiet, serve.len() + subscribe.len());
    let mut tasks = JoinSet::new();
    for procedure in serve {
        tasks.spawn(advertise(sidecar.clone(), tallies.clone(), procedure));
    }
    for pattern in subscribe {
        tasks.spawn(listen(sidecar.clone(), tallies.clone(), pattern));
    }
    for topic in publish {
        tasks.spawn(announce(sidecar.clone(), tallies.clone(), topic, every));
    }
    for procedure in call {
        tasks.spawn(ask(sidecar.clone(), tallies.clone(), procedure, every));
    }
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = server::serve(tallies) => ended,
        _ = terminated.recv() => Ok(()),
    }
}

/// Advertises, and again when the sidecar has been restarted: it forgets what it was told.
async fn advertise(sidecar: Sidecar, tallies: Tallies, procedure: String) {
    let callback = server::callback(&procedure);
    let mut known = None;
    loop {
        let now = incarnation(&sidecar).await;
        if now.is_some() && now != known {
            match sidecar.advertise(&procedure, &callback).await {
                Ok(()) if known.is_none() => {
                    known = now;
                    tallies.in_place("serves", &procedure);
                }
                Ok(()) => known = now,
                Err(failure) => tallies.waits(&procedure, &failure),
            }
        }
        sleep(AGAIN).await;
    }
}

async fn incarnation(sidecar: &Sidecar) -> Option<u64> {
    let status: Value = serde_json::from_str(&sidecar.get("/v1/status").await.ok()?).ok()?;
    status["node"]["incarnation"].as_u64()
}

async fn listen(sidecar: Sidecar, tallies: Tallies, pattern: String) {
    let mut first = true;
    loop {
        match sidecar.subscribe(&pattern).await {
            Ok(mut events) => {
                if std::mem::take(&mut first) {
                    tallies.in_place("subscribes", &pattern);
                }
                while let Some(event) = events.next().await {
                    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                    match event.kind.as_str() {
                        "gap" => tallies.missed(data["missed"].as_u64().unwrap_or_default()),
                        _ => tallies.heard(data),
                    }
                }
            }
            Err(failure) => tallies.waits(&pattern, &failure),
        }
        sleep(AGAIN).await;
    }
}

async fn announce(sidecar: Sidecar, tallies: Tallies, topic: String, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1_u64.. {
        ticks.tick().await;
        let text = format!("{} {number}", tallies.name());
        tallies.published(&topic, &text, sidecar.publish(&topic, &text).await);
    }
}

async fn ask(sidecar: Sidecar, tallies: Tallies, procedure: String, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1_u64.. {
        ticks.tick().await;
        let body = format!("[{number},1]");
        tallies.called(&procedure, sidecar.call(&procedure, &body).await);
    }
}
