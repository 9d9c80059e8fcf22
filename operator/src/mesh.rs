//! Reconciles one mesh, in five verbs: observe, validate, build, apply, report.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use macula_api::names::{components, labels, managers};
use macula_api::{MaculaMesh, MaculaMeshStatus};
use macula_identity::Authority;
use serde_json::json;
use tokio::time::timeout;

use crate::context::Context;
use crate::controllers::Memory;
use crate::failure::{explain, is_not_found};
use crate::resources::{Inputs, build};
use crate::stores::trouble;
use crate::tenancy::{Candidate, judge, judge_mesh, scope_of};
use crate::trust;

mod apply;
mod status;

pub(crate) use apply::Applied;
use status::Facts;

/// How long everything up to the report may take. The client itself would try for minutes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Makes what a mesh asks for, and says how it is. What went wrong stands in its status.
///
/// # Errors
/// The same sentence, so that it is tried again.
pub(crate) async fn reconcile(
    ctx: &Context,
    memory: &Memory,
    reference: &ObjectRef<MaculaMesh>,
) -> Result<(), String> {
    let Some(mesh) = ctx.stores.meshes.get(reference) else { return Ok(()) };
    if mesh.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let accepted = judge_mesh(&mesh, &ctx.settings.mesh_namespaces);
    let made = match &accepted {
        Err(_) => Ok(None),
        Ok(()) => match timeout(DEADLINE, make(ctx, memory, &mesh)).await {
            Ok(made) => made.map(Some),
            Err(_) => Err(format!("the API server did not answer within {} s", DEADLINE.as_secs())),
        },
    };
    let pods = ctx.stores.infrastructure_of(reference);
    let is_gateway = |pod: &&Arc<_>| is_a(pod, components::GATEWAY);
    let count = memory.census.of(&mesh);
    let facts = Facts {
        accepted: accepted.as_ref().copied(),
        made: made.as_ref().map(drop).map_err(String::as_str),
        authority: made.as_ref().ok().and_then(|made| made.as_deref()),
        count: count.as_deref(),
        realms: realms(ctx, &mesh),
        gateway_pods: pods.iter().filter(is_gateway).count(),
        pod_trouble: pods.iter().find_map(|pod| trouble(pod)),
    };
    let after = status::of(&mesh, &facts, Timestamp::now());
    report(ctx, &mesh, after).await?;
    made.map(drop)
}

/// Everything between validation and report.
async fn make(ctx: &Context, memory: &Memory, mesh: &MaculaMesh) -> Result<Arc<Authority>, String> {
    let scope = scope_of(mesh).map_err(|error| error.to_string())?;
    let authority = ctx.authorities.current(mesh, &ctx.stores).await;
    let authority = authority.map_err(|error| error.to_string())?;
    let namespace = mesh.namespace().unwrap_or_default();
    trust::put_now(ctx, &namespace).await.map_err(|error| error.to_string())?;
    let objects = build(&Inputs::new(mesh, scope, &ctx.settings));
    apply::all(ctx, &memory.applied, mesh, &objects).await?;
    Ok(authority)
}

/// Whether a pod is one of this component, and is not about to go.
fn is_a(pod: &k8s_openapi::api::core::v1::Pod, component: &str) -> bool {
    pod.labels().get(labels::COMPONENT).is_some_and(|it| it == component)
        && pod.metadata.deletion_timestamp.is_none()
}

/// How many realms the mesh accepts.
fn realms(ctx: &Context, mesh: &MaculaMesh) -> usize {
    let realms = ctx.stores.realms_with_labels(&ObjectRef::from_obj(mesh));
    let candidates: Vec<_> = realms
        .iter()
        .map(|(realm, namespace_labels)| Candidate { realm, namespace_labels })
        .collect();
    let managed = &ctx.settings.mesh_namespaces;
    let accepted = |it: &&Candidate<'_>| judge(Some(mesh), managed, **it, &candidates).is_ok();
    candidates.iter().filter(accepted).count()
}

/// Writes the status if it says something else than before, and an Event for each transition.
async fn report(ctx: &Context, mesh: &MaculaMesh, after: MaculaMeshStatus) -> Result<(), String> {
    let before = mesh.status.clone().unwrap_or_default();
    if after == before {
        return Ok(());
    }
    let api: Api<MaculaMesh> =
        Api::namespaced(ctx.client.clone(), &mesh.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": MaculaMesh::api_version(&()), "kind": MaculaMesh::kind(&()), "status": after,
    });
    let params = PatchParams::apply(managers::MESH_STATUS).force();
    match api.patch_status(&mesh.name_any(), &params, &Patch::Apply(patch)).await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) => return Ok(()),
        Err(error) => return Err(format!("cannot write the mesh's status: {}", explain(&error))),
    }
    ctx.events.transitions(&mesh.object_ref(&()), &before.conditions, &after.conditions).await;
    Ok(())
}
