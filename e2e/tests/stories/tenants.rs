//! Realms share a mesh and never see each other; and a realm says who belongs to it.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Event, ServiceAccount};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use macula_e2e::manifests::{self, App};
use macula_e2e::story::SOON;
use macula_e2e::{Story, pod, wait};
use serde_json::{Value, json};

const SHOP: &str = "com.example.shop";
const BANK: &str = "com.example.bank";

pub(crate) async fn another_realm_on_the_mesh_hears_nothing_finds_nobody_and_is_refused_by_name(
    story: &Story,
) -> anyhow::Result<()> {
    let (shop, bank) = (story.namespace("shop").await?, story.namespace("bank").await?);
    story.mesh(json!({})).await?;
    story.realm(SHOP, &[&shop]).await?;
    story.realm(BANK, &[&bank]).await?;
    let mesh = story.main();
    let mesh = (mesh.0.as_str(), mesh.1.as_str());
    let both = ["--serve", "math.sum", "--subscribe", "news.**"];
    let [shop, bank] = story
        .run([
            App::new(&shop, "shop", &both).of(SHOP, mesh),
            App::new(&bank, "bank", &["--subscribe", "news.**"]).of(BANK, mesh),
        ])
        .await?;

    // The shop's provider is there for the shop alone.
    ensure!(shop.call("math.sum", "[1,2]", "10s").await?["by"] == "shop");
    let code = bank.refused("math.sum").await?;
    ensure!(code == "no_provider", "the bank's call ended with {code}");

    // Each hears its own, and so the other's would have come before.
    shop.app(&["publish", "news.today", "the shop is open"]).await?;
    bank.app(&["publish", "news.today", "the bank is closed"]).await?;
    for (pod, text) in [(&shop, "the shop is open"), (&bank, "the bank is closed")] {
        let any = |tallies: &Value| tallies["heard"]["count"] != 0;
        let tallies = pod.until_tallies("hears its own news", Duration::from_secs(10), any).await?;
        ensure!(tallies["heard"]["count"] == 1, "{} heard more than its own: {tallies}", pod.name);
        ensure!(tallies["heard"]["last"][0]["text"] == text, "{} heard {tallies}", pod.name);
    }

    // The same name within its own realm.
    story
        .run([App::new(&bank.namespace, "teller", &["--serve", "math.sum"]).of(BANK, mesh)])
        .await?;
    ensure!(bank.call("math.sum", "[1,2]", "10s").await?["by"] == "teller");
    ensure!(shop.call("math.sum", "[1,2]", "10s").await?["by"] == "shop");

    // And nobody goes around the names: the other's node itself refuses, and says why.
    let status = shop.get().await?.status.context("a pod has a status")?;
    let address = format!("{}:9443", status.pod_ip.context("a running pod has an address")?);
    let ping = bank.node(&["ping", &address]).await?;
    ensure!(!ping.ok && ping.text().contains("realm_mismatch"), "the bank's ping: {}", ping.text());
    Ok(())
}

pub(crate) async fn a_pod_that_no_realm_admits_starts_and_says_why_it_has_no_certificate(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(story.world.client.clone(), &shop);
    let metadata = ObjectMeta { name: Some("stranger".to_owned()), ..ObjectMeta::default() };
    accounts
        .create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() })
        .await?;
    story.mesh(json!({})).await?;
    let mesh = story.main();
    let mesh = (mesh.0.as_str(), mesh.1.as_str());
    let mut realm = manifests::realm(mesh.0, SHOP, mesh, &[&shop]);
    realm["spec"]["members"][0]["serviceAccounts"] = json!(["default"]);
    story.apply(&realm).await?;
    story.becomes(&realm, "Ready", "True").await?;

    let stranger = App::new(&shop, "stranger", &[])
        .of(SHOP, mesh)
        .with(json!({ "spec": { "serviceAccountName": "stranger" } }));
    let stranger = story.create(&stranger).await?;
    let runs = |pod: &k8s_openapi::api::core::v1::Pod| {
        let containers =
            pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        match containers.clone().count() == 1
            && containers.clone().all(|one| one.started == Some(true))
        {
            true => Ok(()),
            false => Err(pod::state(pod)),
        }
    };
    stranger.until("starts its application", pod::START, runs).await?;

    let status = wait::poll("the sidecar says why", SOON, async || {
        let status = stranger.status().await?;
        let said = status["waiting"].to_string().contains("not_a_member");
        Ok(if said { Ok(status) } else { Err(status.to_string()) })
    })
    .await?;
    ensure!(status["ready"] == false && status["certificate"]["subject"] == "", "{status}");
    ensure!(!pod::is_ready(&stranger.get().await?), "a pod without a certificate is Ready");

    let events: Api<Event> = Api::namespaced(story.world.client.clone(), &shop);
    let about = watcher::Config::default().fields("involvedObject.name=stranger");
    wait::until("an Event on the pod says why", SOON, events, about, |seen| {
        let told: Vec<_> =
            seen.iter().map(|event| format!("{:?}: {:?}", event.reason, event.message)).collect();
        match told.iter().any(|text| text.contains("stranger") && text.contains("member")) {
            true => Ok(()),
            false => Err(format!("{told:?}")),
        }
    })
    .await
}
