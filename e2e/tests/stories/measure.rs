//! What it costs: printed, never judged. `make measure`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use kube::api::{DynamicObject, PostParams};
use macula_api::names;
use macula_e2e::manifests::App;
use macula_e2e::world::OPERATOR;
use macula_e2e::{Pod, Story};
use serde_json::{Value, json};

const SHOP: &str = "com.example.shop";
/// Pods that the webhook is asked about.
const PODS: usize = 200;
/// How long everybody is left alone before memory is read.
const REST: Duration = Duration::from_secs(30);

pub(crate) async fn times_latencies_and_memory(story: &Story) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    let (namespace, name) = story.main();
    let mesh = (namespace.as_str(), name.as_str());

    let spec = json!({ "bootstrap": { "replicas": 3 }, "gateway": { "replicas": 2 } });
    let began = Instant::now();
    story.mesh(spec).await?;
    told("a mesh of 3 bootstraps and 2 gateways, applied to Ready", began.elapsed());
    story.realm(SHOP, &[&shop]).await?;

    let caller = ["--publish", "news.today", "--call", "math.sum", "--every", "100ms", "--quiet"];
    story.run([App::new(&shop, "old", &caller).of(SHOP, mesh)]).await?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let new = ["--subscribe", "news.**", "--serve", "math.sum", "--quiet"];
    let [new] = story.run([App::new(&shop, "new", &new).of(SHOP, mesh)]).await?;
    let heard = |tallies: &Value| tallies["heard"]["first_unix_ms"].is_u64();
    let tallies = new.until_tallies("hears news", Duration::from_secs(30), heard).await?;
    let first = tallies["heard"]["first_unix_ms"].as_u64().context("it heard something")?;
    told(
        "a labelled pod, created to its first delivered message",
        Duration::from_millis(first) - created,
    );

    let unlabelled = App::new(&shop, "dry", &[]);
    let plain = admissions(story, &unlabelled).await?;
    let labelled = admissions(story, &unlabelled.of(SHOP, mesh)).await?;
    for (what, all) in [("without our labels", plain), ("with a sidecar", labelled)] {
        let at = |percent: usize| all[(all.len() - 1) * percent / 100];
        let what = format!("one of {PODS} pods {what}, admitted (dry run): p50 {:?}, p99", at(50));
        told(&what, at(99));
    }

    tokio::time::sleep(REST).await;
    let charged = |pod: Pod, container: &'static str| async move {
        let bytes = working_set(story, &pod, container).await?;
        println!(
            "{:>9.1} MiB  working set: {}/{} {container}",
            bytes / 1_048_576.0,
            pod.namespace,
            pod.name
        );
        anyhow::Ok(())
    };
    let component = |component: &str| format!("app.kubernetes.io/component={component}");
    for (namespace, component, container) in [
        (OPERATOR, component(names::components::OPERATOR), "operator"),
        (mesh.0, component(names::components::BOOTSTRAP), names::CONTAINER),
        (mesh.0, component(names::components::GATEWAY), names::CONTAINER),
    ] {
        for pod in story.pods(namespace, &component).await? {
            charged(pod, container).await?;
        }
    }
    charged(new, names::CONTAINER).await
}

/// How long the API server took for each of these pods, the shortest first. Nothing is made.
async fn admissions(story: &Story, app: &App) -> anyhow::Result<Vec<Duration>> {
    let pod = app.pod(story.world.cluster.app_image()?);
    let api = story.api_of(&pod)?;
    let object: DynamicObject = serde_json::from_value(pod)?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut all = Vec::new();
    for _ in 0..PODS {
        let began = Instant::now();
        api.create(&dry, &object).await?;
        all.push(began.elapsed());
    }
    all.sort_unstable();
    Ok(all)
}

/// The working set of a container, in bytes: what the kubelet charges it with.
async fn working_set(story: &Story, pod: &Pod, container: &str) -> anyhow::Result<f64> {
    let machine =
        pod.get().await?.spec.and_then(|spec| spec.node_name).context("it runs somewhere")?;
    let path = format!("/api/v1/nodes/{machine}/proxy/stats/summary");
    let summary: Value =
        serde_json::from_str(&story.world.cluster.kubectl(&["get", "--raw", &path]).await?)?;
    let pods = summary["pods"].as_array().context("a summary has pods")?;
    let found = pods
        .iter()
        .filter(|one| {
            one["podRef"]["namespace"] == pod.namespace && one["podRef"]["name"] == pod.name
        })
        .flat_map(|one| one["containers"].as_array().into_iter().flatten())
        .find(|one| one["name"] == container)
        .with_context(|| format!("the kubelet does not tell of {}/{container}", pod.name))?;
    found["memory"]["workingSetBytes"].as_f64().context("it has no memory")
}

fn told(what: &str, took: Duration) {
    println!("{:>9.1} ms   {what}", took.as_secs_f64() * 1000.0);
}
