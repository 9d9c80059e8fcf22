//! What a user gets wrong, and where it says so.

use anyhow::ensure;
use macula_e2e::Story;
use macula_e2e::manifests;
use serde_json::{Value, json};

pub(crate) async fn a_bad_object_says_in_its_status_what_is_wrong(
    story: &Story,
) -> anyhow::Result<()> {
    let elsewhere = story.namespace("elsewhere").await?;
    let own = story.mesh_namespace();
    // Realms of its own namespace alone, and of some names alone.
    let rules = json!({ "allowedRealms": { "namespaces": { "from": "Same" }, "names": ["com.example.*"] } });
    story.mesh(rules).await?;

    let unmanaged = manifests::mesh(&elsewhere, "main", json!({}));
    says(story, &unmanaged, "NamespaceNotManaged", &[&elsewhere]).await?;

    let lost = manifests::realm(&own, "com.example.lost", (&own, "nowhere"), &[&own]);
    says(story, &lost, "MeshNotFound", &["nowhere"]).await?;
    let foreign = manifests::realm(&elsewhere, "com.example.foreign", (&own, "main"), &[&own]);
    says(story, &foreign, "NotAllowed", &[&elsewhere]).await?;
    let unnamed = manifests::realm(&own, "org.example.shop", (&own, "main"), &[&own]);
    says(story, &unnamed, "NotAllowed", &["org.example.shop"]).await?;

    let first = manifests::realm(&own, "com.example.shop", (&own, "main"), &[&own]);
    let mut second = first.clone();
    second["metadata"]["name"] = json!("second");
    let mut first = first;
    first["metadata"]["name"] = json!("first");
    story.apply(&first).await?;
    story.becomes(&first, "Accepted", "True").await?;
    says(story, &second, "NameTaken", &["com.example.shop", "first"]).await?;

    // And when the first gives it up, the second has it.
    story.delete(&first).await?;
    story.becomes(&second, "Accepted", "True").await.map(drop)
}

/// Applies it, and waits until it is told why it is not accepted, in words that name these.
async fn says(story: &Story, manifest: &Value, reason: &str, names: &[&str]) -> anyhow::Result<()> {
    story.apply(manifest).await?;
    let accepted = story.becomes(manifest, "Accepted", "False").await?;
    ensure!(accepted["reason"] == reason, "the reason is not {reason}: {accepted}");
    let message = accepted["message"].as_str().unwrap_or_default();
    for name in names {
        ensure!(message.contains(name), "the message does not name {name}: {message}");
    }
    let ready = story.becomes(manifest, "Ready", "False").await?;
    ensure!(ready["observedGeneration"].is_u64(), "the condition names no generation: {ready}");
    Ok(())
}
