//! The `macula-operator` binary.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use kube::Client;
use macula_operator::authorities::Authorities;
use macula_operator::certificates::{self, Serving};
use macula_operator::context::Context;
use macula_operator::events::Events;
use macula_operator::metrics::Metrics;
use macula_operator::server::{self, Readiness};
use macula_operator::settings::Settings;
use macula_operator::stores::Stores;
use macula_operator::{controllers, watchdog};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let settings = Settings::from_process();
    let filter = match EnvFilter::try_new(&settings.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("macula-operator: --log {}: {error}", settings.log);
            return ExitCode::from(2);
        }
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if settings.log_text {
        logs.init()
    } else {
        logs.json().flatten_event(true).init()
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        error!("another provider of cryptography is there already");
    }
    // One thread for the work, which is waiting; a few more for whatever blocks.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(settings)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(because = format!("{error:#}"), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let client = Client::try_default().await.context(
        "no cluster: neither a pod's service account nor a kubeconfig says where the API server is",
    )?;
    let namespace = settings.namespace.clone();
    let operator_ca = tokio::select! {
        made = certificates::authority(&client, &namespace) => Arc::new(made?),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let metrics = Metrics::default();
    let serving = Serving::new(&operator_ca, &namespace, &metrics)
        .context("the certificate of the operator's servers")?;
    let (stores, keep) = Stores::start(&client, &namespace, &settings.mesh_namespaces);
    let ctx = Arc::new(Context {
        authorities: Authorities::new(client.clone(), &namespace),
        events: Events::new(client.clone(), settings.pod.clone()),
        client,
        stores,
        operator_ca,
        metrics,
        settings,
    });
    info!(namespace, meshes = ?ctx.settings.mesh_namespaces, version = env!("CARGO_PKG_VERSION"), "the operator starts");

    let (known, known_seen) = watch::channel(false);
    let (trusted, trusted_seen) = watch::channel(false);
    let readiness = Readiness { known: known_seen, trusted: trusted_seen };
    let mut tasks: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    macro_rules! task {
        ($name:literal, $work:expr) => {{
            let (ctx, until) = (ctx.clone(), stop.clone());
            let work = $work(ctx);
            tasks.spawn(async move {
                until.run_until_cancelled_owned(work).await;
                ($name, Ok(()))
            });
        }};
    }
    task!("stores", |_ctx| keep);
    task!("ready", |ctx: Arc<Context>| async move {
        ctx.stores.ready().await;
        known.send_replace(true);
        std::future::pending::<()>().await;
    });
    let tls = serving.config();
    task!("certificates", |ctx: Arc<Context>| async move { serving.run(&ctx).await });
    task!("ca_bundle", |ctx: Arc<Context>| async move {
        certificates::keep_ca_bundle(&ctx, &trusted).await;
    });
    task!("watchdog", |ctx: Arc<Context>| async move { watchdog::run(&ctx).await });
    let (shared, until) = (ctx.clone(), stop.clone());
    tasks.spawn(async move {
        controllers::run(shared, until).await;
        ("controllers", Ok(()))
    });
    let (shared, until) = (ctx.clone(), stop.clone());
    tasks.spawn(async move {
        let served = server::run(shared, tls, readiness, until).await;
        ("servers", served.context("the servers"))
    });

    // Half of an operator is none: whatever ends before it was asked to ends everything.
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok((name, Ok(()))) => Err(anyhow!("{name} ended by itself")),
            Ok((name, Err(error))) => Err(error.context(name)),
            Err(panic) => Err(anyhow!("a task died: {panic}")),
        },
    };
    info!("the operator stops");
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    outcome
}
