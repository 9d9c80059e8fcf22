//! Applications that know nothing of the mesh use it.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use macula_e2e::manifests::App;
use macula_e2e::{Story, pod, wait};
use serde_json::json;

pub(crate) async fn two_labelled_pods_in_two_restricted_namespaces_call_and_publish(
    story: &Story,
) -> anyhow::Result<()> {
    let (front, back) = (story.namespace("front").await?, story.namespace("back").await?);
    story.mesh(json!({})).await?;
    story.realm("com.example.shop", &[&front, &back]).await?;
    let mesh = story.main();
    let mesh = (mesh.0.as_str(), mesh.1.as_str());
    let [asks, serves] = story
        .run([
            App::new(&front, "asks", &[]).of("com.example.shop", mesh),
            App::new(&back, "serves", &["--serve", "math.sum", "--subscribe", "sensor.**"])
                .of("com.example.shop", mesh),
        ])
        .await?;

    let answer = asks.call("math.sum", "[1,2,39]", "10s").await?;
    ensure!(answer == json!({ "by": "serves", "sum": 42 }), "the answer was {answer}");

    asks.app(&["publish", "sensor.kitchen.temperature", "21.5"]).await?;
    let heard = |tallies: &serde_json::Value| {
        let last = &tallies["heard"]["last"][0];
        last["topic"] == "sensor.kitchen.temperature" && last["text"] == "21.5"
    };
    serves.until_tallies("hears the temperature", Duration::from_secs(10), heard).await?;
    Ok(())
}

pub(crate) async fn an_injected_job_completes(story: &Story) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    story.mesh(json!({})).await?;
    story.realm("com.example.shop", &[&shop]).await?;
    let mesh = story.main();
    let mesh = (mesh.0.as_str(), mesh.1.as_str());
    let once = App::new(&shop, "once", &[])
        .of("com.example.shop", mesh)
        .doing(&["call", "math.sum", "[1,2]", "--within", "30s"]);
    let job = once.job(story.world.cluster.app_image()?);
    story
        .run([App::new(&shop, "serves", &["--serve", "math.sum"]).of("com.example.shop", mesh)])
        .await?;
    story.apply(&job).await?;

    let jobs: Api<Job> = Api::namespaced(story.world.client.clone(), &shop);
    wait::until("the job completes", pod::START, jobs, wait::named("once"), |seen| {
        let status = seen.first().and_then(|job| job.status.clone()).unwrap_or_default();
        match (status.succeeded, status.failed) {
            (Some(1), _) => Ok(()),
            _ => Err(format!("{status:?}")),
        }
    })
    .await?;
    // The job's only container of its own has ended; so has its sidecar, else the pod would run.
    for pod in story.pods(&shop, "job-name=once").await? {
        pod.succeeded().await?;
    }
    Ok(())
}
