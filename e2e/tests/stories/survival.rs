//! What goes on while parts of it are away.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use macula_e2e::manifests::App;
use macula_e2e::{Pod, Story, pod, wait};
use serde_json::{Value, json};

const SHOP: &str = "com.example.shop";

pub(crate) async fn traffic_goes_on_without_bootstraps_and_they_come_back_with_the_same_ids(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    story.mesh(json!({ "bootstrap": { "replicas": 3 } })).await?;
    story.realm(SHOP, &[&shop]).await?;
    let (namespace, name) = story.main();
    let mesh = (namespace.as_str(), name.as_str());
    let [old, caller] = story.run(pair(&shop, mesh)).await?;
    traffic(&caller, &old, 10).await?;
    let before = ids(story).await?;

    story.world.cluster.kubectl(&["delete", "pod", "-n", mesh.0, "main-bootstrap-0"]).await?;
    traffic(&caller, &old, 20).await?;
    let bootstraps = "app.kubernetes.io/component=bootstrap";
    story.world.cluster.kubectl(&["delete", "pods", "-n", mesh.0, "-l", bootstraps]).await?;
    traffic(&caller, &old, 20).await?;
    for number in 0..3 {
        story.bootstrap(number).ready().await?;
    }
    let after = ids(story).await?;
    ensure!(before == after, "the bootstraps' ids were {before:?} and are {after:?}");

    // A newcomer finds those who were there before.
    let [new] = story.run([App::new(&shop, "new", &[]).of(SHOP, mesh)]).await?;
    let (answer, heard) =
        tokio::join!(new.call("math.sum", "[1,2]", "10s"), new.hear("news.**", 1, "10s"));
    ensure!(answer?["by"] == "old");
    ensure!(heard?[0]["text"].as_str().is_some_and(|text| text.starts_with("caller ")));
    none_failed(&caller).await
}

pub(crate) async fn no_call_fails_while_bootstraps_come_go_and_die_and_every_record_is_back(
    story: &Story,
) -> anyhow::Result<()> {
    /// Both are subscribers or providers under one key each.
    const RECORDS: u64 = 2;
    let shop = story.namespace("shop").await?;
    let mut mesh = story.mesh(json!({ "bootstrap": { "replicas": 3 } })).await?;
    story.realm(SHOP, &[&shop]).await?;
    let (namespace, name) = story.main();
    let [old, caller] = story.run(pair(&shop, (namespace.as_str(), name.as_str()))).await?;
    traffic(&caller, &old, 10).await?;
    hold_every_record(story, 0..3, RECORDS).await?;

    for replicas in [5, 3] {
        mesh["spec"]["bootstrap"]["replicas"] = json!(replicas);
        story.apply(&mesh).await?;
        let alive = |status: &Value| match status["bootstraps"]["alive"] == replicas {
            true => Ok(()),
            false => Err(status["bootstraps"].to_string()),
        };
        let what = format!("counts {replicas} bootstraps");
        story.until_status(&mesh, &what, pod::START, alive).await?;
        hold_every_record(story, 0..replicas, RECORDS).await?;
        traffic(&caller, &old, 20).await?;
        none_failed(&caller).await.with_context(|| format!("on the way to {replicas}"))?;
    }

    // Without a word: the nodes do not get the time to say goodbye.
    let kill = ["delete", "pods", "-n", &namespace, "--grace-period=0", "--force"];
    for number in 0..3 {
        let pod = format!("main-bootstrap-{number}");
        story.world.cluster.kubectl(&[&kill[..], &[&pod]].concat()).await?;
        traffic(&caller, &old, 20).await?;
        story.bootstrap(number).ready().await?;
        hold_every_record(story, 0..3, RECORDS).await?;
    }
    let all = ["-l", "app.kubernetes.io/component=bootstrap"];
    story.world.cluster.kubectl(&[&kill[..], &all].concat()).await?;
    traffic(&caller, &old, 20).await?;
    for number in 0..3 {
        story.bootstrap(number).ready().await?;
    }
    hold_every_record(story, 0..3, RECORDS).await?;
    none_failed(&caller).await
}

/// Waits until each of these bootstraps holds so many records.
async fn hold_every_record(story: &Story, which: Range<usize>, all: u64) -> anyhow::Result<()> {
    for number in which {
        let bootstrap = story.bootstrap(number);
        let what = format!("{} holds every record", bootstrap.name);
        wait::poll(&what, pod::START, async || {
            let records = bootstrap.status().await?["dht"]["records"].clone();
            Ok(if records == all { Ok(()) } else { Err(format!("{records} of {all}")) })
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn no_call_fails_while_the_operator_is_away_upgraded_or_reinstalled(
    story: &Story,
) -> anyhow::Result<()> {
    /// Seconds.
    const LIFE: u64 = 100;
    let world = &story.world;
    let shop = story.namespace("shop").await?;
    let life = json!({ "bootstrap": { "replicas": 2 }, "certificates": { "lifetime": format!("{LIFE}s") } });
    story.mesh(life).await?;
    story.realm(SHOP, &[&shop]).await?;
    let (namespace, name) = story.main();
    let mesh = (namespace.as_str(), name.as_str());
    let [old, caller] = story.run(pair(&shop, mesh)).await?;
    traffic(&caller, &old, 10).await?;

    // Everybody renews from half of a life, so everybody must be young enough to outlive the operator's absence, and
    // the time that it takes to come back.
    let nodes = [&old, &caller, &story.bootstrap(0), &story.bootstrap(1)];
    let ends = wait::poll("every certificate is young", Duration::from_secs(LIFE), async || {
        let mut ends = Vec::new();
        for node in nodes {
            let certificate = node.status().await?["certificate"].clone();
            if certificate["seconds_left"].as_u64().is_none_or(|left| left < LIFE * 2 / 3) {
                return Ok(Err(format!("{}'s is {certificate}", node.name)));
            }
            ends.push(certificate["not_after"].as_u64());
        }
        Ok(Ok(ends))
    })
    .await?;
    let since = Instant::now();
    world.operators(0).await?;
    while since.elapsed() <= Duration::from_secs(LIFE / 2 + 2) {
        traffic(&caller, &old, 10).await?;
    }
    world.operators(1).await?;
    for (node, end) in nodes.into_iter().zip(ends) {
        let what = format!("{} has another certificate", node.name);
        wait::poll(&what, Duration::from_secs(30), async || {
            let now = node.status().await?["certificate"]["not_after"].as_u64();
            Ok(if now > end { Ok(()) } else { Err(format!("its own still ends at {end:?}")) })
        })
        .await?;
    }
    none_failed(&caller).await.context("while the operator was away")?;

    world.install(&["log=debug"]).await?;
    traffic(&caller, &old, 10).await?;
    none_failed(&caller).await.context("while the chart was upgraded")?;

    world.uninstall().await?;
    traffic(&caller, &old, 10).await?;
    world.install(&[]).await?;
    traffic(&caller, &old, 10).await?;
    none_failed(&caller).await.context("while the chart was not there")?;
    let [new] = story.run([App::new(&shop, "new", &[]).of(SHOP, mesh)]).await?;
    ensure!(new.call("math.sum", "[1,2]", "10s").await?["by"] == "old");
    Ok(())
}

/// One that serves and listens, and one that calls and publishes all the time.
fn pair(namespace: &str, mesh: (&str, &str)) -> [App; 2] {
    let old = ["--serve", "math.sum", "--subscribe", "news.**", "--quiet"];
    let caller = ["--call", "math.sum", "--publish", "news.today", "--every", "100ms", "--quiet"];
    [
        App::new(namespace, "old", &old).of(SHOP, mesh),
        App::new(namespace, "caller", &caller).of(SHOP, mesh),
    ]
}

/// Waits until so many more calls were answered and messages heard.
async fn traffic(caller: &Pod, hears: &Pod, more: u64) -> anyhow::Result<()> {
    let calls = caller.tallies().await?["calls"]["ok"].as_u64().unwrap_or_default();
    let heard = hears.tallies().await?["heard"]["count"].as_u64().unwrap_or_default();
    let what = format!("{more} more calls");
    caller
        .until_tallies(&what, pod::START, |now| now["calls"]["ok"].as_u64() >= Some(calls + more))
        .await?;
    let what = format!("{more} more messages");
    hears
        .until_tallies(&what, pod::START, |now| {
            now["heard"]["count"].as_u64() >= Some(heard + more)
        })
        .await?;
    Ok(())
}

async fn none_failed(caller: &Pod) -> anyhow::Result<()> {
    let tallies = caller.tallies().await?;
    for kind in ["calls", "published"] {
        let failed = &tallies[kind]["failed"];
        ensure!(
            *failed == json!({}),
            "of {kind}, these failed: {failed}; the last: {}",
            tallies[kind]["last_failure"]
        );
    }
    Ok(())
}

/// The ids of the three bootstraps.
async fn ids(story: &Story) -> anyhow::Result<Vec<Value>> {
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(story.bootstrap(number).status().await?["node"]["id"].clone());
    }
    Ok(ids)
}
