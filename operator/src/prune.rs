//! Removes the authorities of meshes that are gone: no owner reference reaches them, and no finalizer
//! holds a mesh until they are.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use macula_api::MaculaMesh;
use macula_api::names::labels;
use tracing::info;

use crate::context::Context;
use crate::failure::{explain, is_conflict, is_not_found};

/// Looks at every Secret of a mesh's authority. One is removed only when the API server says that its
/// mesh is gone: stores are late.
///
/// # Errors
/// A sentence: something could not be asked or removed.
pub async fn authorities(ctx: &Context) -> Result<(), String> {
    let living = |uid: &str| {
        ctx.stores.meshes.state().iter().any(|mesh| mesh.metadata.uid.as_deref() == Some(uid))
    };
    ctx.authorities.retain(living);
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &ctx.settings.namespace);
    for secret in ctx.stores.secrets.state() {
        let Some(uid) = secret.labels().get(labels::OWNER_UID).filter(|uid| !living(uid)) else {
            continue;
        };
        let name = secret.name_any();
        let Some(mesh) = secret.annotations().get(labels::MESH) else { continue };
        let Some((namespace, mesh_name)) = mesh.split_once('.') else { continue };
        let meshes: Api<MaculaMesh> = Api::namespaced(ctx.client.clone(), namespace);
        let now = meshes.get_metadata_opt(mesh_name).await;
        let now =
            now.map_err(|error| format!("cannot read the mesh {mesh}: {}", explain(&error)))?;
        if now.is_some_and(|now| now.metadata.uid.as_ref() == Some(uid)) {
            continue;
        }
        let only = Preconditions { uid: secret.uid(), resource_version: None };
        match secrets.delete(&name, &DeleteParams::default().preconditions(only)).await {
            Ok(_) => info!(secret = name, mesh, "the authority of a mesh that is gone is removed"),
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => {
                return Err(format!("cannot remove the Secret {name}: {}", explain(&error)));
            }
        }
    }
    Ok(())
}
