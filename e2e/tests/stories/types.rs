//! The two kinds, as a real API server has them.

#[path = "../../../operator/api/tests/types/cases.rs"]
mod cases;

use anyhow::{Context, ensure};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use macula_api::{MaculaMesh, MaculaMeshSpec};
use macula_e2e::{Story, world};
use serde_json::{Value, json};

use cases::{Case, mesh};

/// Nobody else writes these fields.
const MANAGER: &str = "stories-types";

pub(crate) async fn the_definitions_installed_are_those_of_the_folder_crds(
    story: &Story,
) -> anyhow::Result<()> {
    let folder = world::root().join("crds");
    let folder = folder.to_str().context("the checkout's path is not UTF-8")?;
    // The API server judges them, and fills in what it would; nothing is changed.
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json"];
    let judged = story.world.cluster.kubectl(&[&apply[..], &["-f", folder]].concat()).await?;
    let judged: Value = serde_json::from_str(&judged)?;
    let judged = judged["items"].as_array().context("kubectl prints a list")?;
    ensure!(judged.len() == macula_api::crds().len(), "{} were applied", judged.len());
    for crd in judged {
        let name = crd["metadata"]["name"].as_str().context("a definition has a name")?;
        let installed = ["get", "customresourcedefinition", name, "-o", "json"];
        let installed = story.world.cluster.kubectl(&installed).await?;
        let installed: Value = serde_json::from_str(&installed)?;
        ensure!(installed["spec"] == crd["spec"], "{name}: the chart installs another one");
    }
    Ok(())
}

pub(crate) async fn each_rule_refuses_what_it_should_and_accepts_its_neighbour(
    story: &Story,
) -> anyhow::Result<()> {
    // No mesh is looked after here: what is applied stays an object.
    let namespace = story.namespace("types").await?;
    let asked = |object: &Value| {
        let object = placed(object, &namespace);
        async move { apply(story, &object, true).await }
    };
    for Case { before, accepted, refused, says } in
        cases::of_mesh().into_iter().chain(cases::of_realm())
    {
        if let Some(before) = &before {
            apply(story, &placed(before, &namespace), false).await?;
        }
        asked(&accepted).await.with_context(|| format!("this may be: {accepted}"))?;
        match asked(&refused).await {
            Ok(_) => anyhow::bail!("this may not be: {refused}"),
            Err(error) => {
                let why = format!("{error:#}");
                ensure!(why.contains(says), "{refused} is refused, not with {says:?}: {why}");
            }
        }
        if let Some(before) = &before {
            story.delete(&placed(before, &namespace)).await?;
        }
    }
    Ok(())
}

pub(crate) async fn defaults_nulls_and_unknown_fields_are_treated_as_the_types_say(
    story: &Story,
) -> anyhow::Result<()> {
    let namespace = story.namespace("defaults").await?;
    let made = async |spec| apply(story, &placed(&mesh(spec), &namespace), true).await;
    let nothing = [json!({}), json!({ "gateway": { "replicas": null } })];
    for spec in nothing {
        let whole: MaculaMesh = serde_json::from_value(serde_json::to_value(made(spec).await?)?)?;
        ensure!(whole.spec == MaculaMeshSpec::default(), "the defaults are {:?}", whole.spec);
    }
    let misspelt = made(json!({ "gatway": {} })).await.map(drop);
    let why = misspelt.err().context("a misspelt field was accepted")?;
    ensure!(format!("{why:#}").contains("gatway"), "{why:#}");
    Ok(())
}

pub(crate) async fn a_mesh_can_be_scaled_and_its_status_has_room_for_several_writers(
    story: &Story,
) -> anyhow::Result<()> {
    let namespace = story.namespace("scale").await?;
    let object = placed(&mesh(json!({})), &namespace);
    apply(story, &object, false).await?;

    let kubectl = &story.world.cluster;
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        kubectl.try_kubectl(&["scale", "mmesh", "main", "-n", &namespace, &replicas]).await
    };
    let output = scale("5").await?;
    ensure!(output.ok, "{}", output.text());
    let output = scale("101").await?;
    ensure!(!output.ok && output.text().contains("less than or equal to 100"), "{}", output.text());

    let api: Api<MaculaMesh> = Api::namespaced(story.world.client.clone(), &namespace);
    let found = api.get("main").await?.spec.gateway.replicas;
    ensure!(found == 5, "{found} gateways are wanted");

    for type_ in ["One", "Two"] {
        let condition = json!({
            "type": type_,
            "status": "True",
            "reason": "Said",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let mut status = object.clone();
        status.as_object_mut().context("it is an object")?.remove("spec");
        status["status"] = json!({ "conditions": [condition] });
        let manager = PatchParams::apply(&format!("{MANAGER}-{type_}"));
        api.patch_status("main", &manager, &Patch::Apply(&status)).await?;
    }
    let conditions = api.get("main").await?.status.unwrap_or_default().conditions;
    for type_ in ["One", "Two"] {
        ensure!(conditions.iter().any(|it| it.type_ == type_), "{type_} is gone: {conditions:?}");
    }
    Ok(())
}

fn placed(object: &Value, namespace: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// As `kubectl apply` does: an unknown field is an error.
async fn apply(story: &Story, object: &Value, dry_run: bool) -> anyhow::Result<DynamicObject> {
    let name = object["metadata"]["name"].as_str().context("an object has a name")?;
    let mut manager = PatchParams::apply(MANAGER).force().validation_strict();
    manager.dry_run = dry_run;
    Ok(story.api_of(object)?.patch(name, &manager, &Patch::Apply(object)).await?)
}
