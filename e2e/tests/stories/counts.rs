//! The status of a mesh tells how many nodes live, not how many pods are Ready.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use macula_e2e::manifests::{self, App};
use macula_e2e::story::SOON;
use macula_e2e::{Pod, Story, pod};
use serde_json::{Value, json};

/// A connection without an answer is given up after half a minute, and asked about every few seconds.
const NOTICED: Duration = Duration::from_secs(90);

pub(crate) async fn a_mesh_and_a_realm_become_ready_and_count_what_their_nodes_say(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    let (namespace, _) = story.main();
    let mesh = (namespace.as_str(), "main");
    let spec = json!({ "bootstrap": { "replicas": 3 }, "gateway": { "replicas": 2 } });
    let main = manifests::mesh(mesh.0, mesh.1, spec);
    let realm = manifests::realm(mesh.0, "com.example.shop", mesh, &[&shop]);
    story.apply(&main).await?;
    story.apply(&realm).await?;
    let objects = ["maculamesh/main", "macularealm/shop", "-n", mesh.0];
    let wait = ["wait", "--for=condition=Ready", "--timeout=90s"];
    story.world.cluster.kubectl(&[&wait[..], &objects].concat()).await?;
    let apps = ["one", "two"].map(|name| App::new(&shop, name, &[]).of("com.example.shop", mesh));
    story.run(apps).await?;

    let counted = story
        .until_status(&main, "counts both peers", SOON, |status| {
            if status["peers"] == 2 { Ok(status.clone()) } else { Err(status.to_string()) }
        })
        .await?;
    story
        .until_status(&realm, "counts both peers", SOON, |status| {
            if status["peers"] == 2 { Ok(()) } else { Err(status.to_string()) }
        })
        .await?;

    // Whom the nodes themselves know: each tells itself and those that it is connected to.
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in story.pods(mesh.0, "app.kubernetes.io/instance=main").await? {
        let status = pod.status().await?;
        let own = &status["node"];
        let role = own["role"].as_str().context("a node has a role")?;
        known.entry(role.to_owned()).or_default().insert(text(&own["id"]));
        let connections = status["connections"].as_array().context("a node has connections")?;
        for other in connections {
            let subject = text(&other["subject"]);
            let role = subject.rsplit('/').nth(1).context("a SPIFFE ID has a role")?;
            known.entry(role.to_owned()).or_default().insert(text(&other["id"]));
        }
        let metrics = pod_metrics(story, &pod).await?;
        let line = format!("macula_connections {}", connections.len());
        ensure!(metrics.lines().any(|one| one == line), "{} has no line {line}", pod.name);
    }
    let number = |role: &str| known.get(role).map_or(0, BTreeSet::len);
    for (role, status) in [("bootstrap", &counted["bootstraps"]), ("gateway", &counted["gateways"])]
    {
        ensure!(status["alive"] == number(role), "{status} of {known:?}");
        ensure!(status["alive"] == status["desired"], "{status} is not all of them");
    }
    ensure!(number("peer") == 2, "the nodes know these peers: {known:?}");
    Ok(())
}

pub(crate) async fn a_node_that_is_cut_off_is_not_counted_though_its_pod_stays_ready(
    story: &Story,
) -> anyhow::Result<()> {
    let mesh = story.mesh(json!({ "bootstrap": { "replicas": 3 } })).await?;
    let alive = |number: u64| {
        move |status: &Value| match status["bootstraps"]["alive"] == number {
            true => Ok(()),
            false => Err(status["bootstraps"].to_string()),
        }
    };
    let victim = story.bootstrap(2);
    // The mesh may know it before its kubelet has said so.
    victim.ready().await?;
    cut(story, &victim, "-I").await?;
    story.until_status(&mesh, "counts two of three", NOTICED, alive(2)).await?;
    story.becomes(&mesh, "Ready", "False").await?;
    let still = victim.get().await?;
    ensure!(pod::is_ready(&still), "the pod was to stay Ready: {}", pod::state(&still));

    cut(story, &victim, "-D").await?;
    story.until_status(&mesh, "counts all three again", NOTICED, alive(3)).await
}

/// Drops every UDP packet between the pod and other nodes, or no longer, with the `iptables` of its machine.
async fn cut(story: &Story, victim: &Pod, verb: &str) -> anyhow::Result<()> {
    let pod = victim.get().await?;
    let machine = pod.spec.and_then(|spec| spec.node_name).context("it runs somewhere")?;
    let containers = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let container = containers.into_iter().find_map(|container| container.container_id);
    let container = container.context("it has a container")?;
    let container = container.rsplit('/').next().unwrap_or_default();
    let name = if verb == "-I" { "cut" } else { "mend" };
    let namespace = story.namespace_of("privileged", name).await?;
    let script = format!(
        "iptables -w {verb} INPUT -p udp --dport 9443 -j DROP && \
         iptables -w {verb} OUTPUT -p udp --sport 9443 -j DROP"
    );
    let knife = App::new(&namespace, name, &[])
        .doing(&["in-network-of", container, "--", "sh", "-c", &script])
        .with(json!({ "spec": {
            "nodeName": machine, "hostPID": true, "restartPolicy": "Never",
            "securityContext": { "runAsNonRoot": false, "runAsUser": 0 },
        } }));
    let mut manifest = knife.pod(story.world.cluster.app_image()?);
    let container = &mut manifest["spec"]["containers"][0];
    container["securityContext"] = json!({ "privileged": true });
    container.as_object_mut().context("a container is an object")?.remove("readinessProbe");
    story.apply(&manifest).await?;
    Pod::new(&story.world, &namespace, name).succeeded().await
}

async fn pod_metrics(story: &Story, pod: &Pod) -> anyhow::Result<String> {
    let path = format!("/api/v1/namespaces/{}/pods/{}:7781/proxy/metrics", pod.namespace, pod.name);
    story.world.cluster.kubectl(&["get", "--raw", &path]).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
