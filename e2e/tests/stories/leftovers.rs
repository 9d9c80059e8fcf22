//! What goes when a mesh goes: everything that we made, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use kube::api::{DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use kube::{Api, ResourceExt};
use macula_e2e::manifests::App;
use macula_e2e::world::OPERATOR;
use macula_e2e::{Story, wait};
use serde_json::json;

/// The garbage collector and the storage provisioner take their time.
const GONE: Duration = Duration::from_secs(90);
/// What Kubernetes itself keeps about things that were: an hour of Events.
const RECORDS: &[&str] = &["Event"];

pub(crate) async fn deleting_realm_and_mesh_leaves_nothing_that_we_made(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    let (namespace, name) = story.main();
    let kinds = Discovery::new(story.world.client.clone()).run().await?;
    let before = everything(story, &kinds, &shop).await?;

    let spec = json!({ "bootstrap": { "replicas": 2 }, "gateway": { "replicas": 1 } });
    let mesh = story.mesh(spec).await?;
    let realm = story.realm("com.example.shop", &[&shop]).await?;
    let [app] = story
        .run([App::new(&shop, "app", &[]).of("com.example.shop", (&namespace, &name))])
        .await?;
    let during = everything(story, &kinds, &shop).await?;
    for expected in ["StatefulSet", "Secret", "ConfigMap", "PersistentVolume", "MaculaRealm"] {
        let seen = during.difference(&before).any(|one| one.starts_with(&format!("{expected} ")));
        ensure!(seen, "the listing does not see a {expected} of the mesh");
    }

    app.api().delete(&app.name, &Default::default()).await?;
    story.delete(&realm).await?;
    story.delete(&mesh).await?;
    wait::poll("nothing is left", GONE, async || {
        let after = everything(story, &kinds, &shop).await?;
        let left: Vec<_> = after.difference(&before).collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) })
    })
    .await?;
    let after = everything(story, &kinds, &shop).await?;
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "this was there before us, and is gone: {lost:?}");
    Ok(())
}

/// Every object of every kind, of those in the story's two namespaces, and of those elsewhere that name its mesh's.
async fn everything(
    story: &Story,
    kinds: &Discovery,
    shop: &str,
) -> anyhow::Result<BTreeSet<String>> {
    let own = story.mesh_namespace();
    // A number may be the beginning of another.
    let names_it = |object: &DynamicObject| {
        let text = serde_json::to_string(object).unwrap_or_default();
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .any(|word| word.ends_with(&own))
    };
    let resources = kinds.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
    let lists = resources
        .filter(|(resource, can)| {
            can.supports_operation(verbs::LIST) && !RECORDS.contains(&resource.kind.as_str())
        })
        .map(|(resource, _)| async move {
            let api: Api<DynamicObject> = Api::all_with(story.world.client.clone(), &resource);
            api.list(&ListParams::default()).await.map(|list| (resource, list))
        });
    let mut found = BTreeSet::new();
    for (resource, list) in try_join_all(lists).await? {
        for object in list {
            let place = object.namespace();
            let relevant = match place.as_deref() {
                Some(namespace) if namespace == own || namespace == shop => true,
                Some(OPERATOR) | None => names_it(&object),
                Some(_) => false,
            };
            if relevant {
                let place = place.map(|namespace| format!("{namespace}/")).unwrap_or_default();
                found.insert(format!("{} {place}{}", resource.kind, object.name_any()));
            }
        }
    }
    Ok(found)
}
