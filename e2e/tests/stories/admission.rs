//! What the webhook lets in, and what happens without it.

use anyhow::{bail, ensure};
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use macula_e2e::manifests::App;
use macula_e2e::story::SOON;
use macula_e2e::{Story, wait};
use serde_json::json;

pub(crate) async fn a_pod_that_names_an_unknown_realm_is_denied_with_our_message(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    story.mesh(json!({})).await?;
    let (namespace, name) = story.main();
    let lost = App::new(&shop, "lost", &[]).of("com.example.nowhere", (&namespace, &name));
    let why = denied(story, &lost).await?;
    for part in ["denied the request", "com.example.nowhere"] {
        ensure!(why.contains(part), "the message does not say {part:?}: {why}");
    }
    let pods: Api<Object> = Api::namespaced(story.world.client.clone(), &shop);
    ensure!(pods.get_opt("lost").await?.is_none(), "the pod was made though it was denied");
    Ok(())
}

pub(crate) async fn while_the_webhook_is_down_labelled_pods_are_refused_and_no_others(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    story.mesh(json!({})).await?;
    story.realm("com.example.shop", &[&shop]).await?;
    let (namespace, name) = story.main();
    story.world.operators(0).await?;

    story.run([App::new(&shop, "unlabelled", &[])]).await?;
    let labelled = App::new(&shop, "labelled", &[]).of("com.example.shop", (&namespace, &name));
    let why = denied(story, &labelled).await?;
    ensure!(why.contains("inject.macula.io"), "the message does not name the webhook: {why}");

    story.world.operators(1).await?;
    // The Service finds the operator a moment after it is ready.
    let made = wait::poll("the labelled pod is made", SOON, async || {
        Ok(story.create(&labelled).await.map_err(|error| format!("{error:#}")))
    });
    made.await?.ready().await.map(drop)
}

/// What the API server says against this pod.
async fn denied(story: &Story, app: &App) -> anyhow::Result<String> {
    match story.create(app).await {
        Ok(pod) => bail!("{} was to be refused, and was made", pod.name),
        Err(error) => Ok(format!("{error:#}")),
    }
}
