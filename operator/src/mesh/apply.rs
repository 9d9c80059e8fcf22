//! Brings the objects of a mesh into the cluster: those that are not there as they were built, and
//! takes away those that are not wanted any more.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use macula_api::MaculaMesh;
use macula_api::names::managers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::info;

use crate::context::Context;
use crate::failure::{explain, is_conflict, is_not_found};
use crate::resources::Object;
use crate::stores::{Key, Kind, fingerprint};

/// What was applied last, and how it looked afterwards: what looks so still is left alone.
#[derive(Debug, Default)]
pub(crate) struct Applied(Mutex<HashMap<Key, Last>>);

#[derive(Debug)]
struct Last {
    /// Of what was applied.
    digest: u64,
    /// Of what came of it in the cluster.
    fingerprint: u64,
    at: Instant,
}

/// For how long what looks as it should is believed to be so.
const BELIEVED: Duration = Duration::from_mins(10);

impl Applied {
    /// Whether an object was applied like this, and nobody has touched it since.
    fn is_current(&self, key: &Key, digest: u64, seen: Option<u64>) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).is_some_and(|last| {
            last.digest == digest && Some(last.fingerprint) == seen && last.at.elapsed() < BELIEVED
        })
    }

    fn note(&self, key: Key, digest: u64, meta: &ObjectMeta) {
        let last = Last { digest, fingerprint: fingerprint(meta), at: Instant::now() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, last);
    }

    /// Forgets what is old: the objects of meshes that are gone among it.
    fn tidy(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, last| last.at.elapsed() < BELIEVED);
    }
}

/// Applies and removes until the namespace holds just these objects of the mesh.
pub(super) async fn all(
    ctx: &Context,
    applied: &Applied,
    mesh: &MaculaMesh,
    objects: &[Object],
) -> Result<(), String> {
    applied.tidy();
    for object in objects {
        let (key, digest) = (object.key(), object.digest());
        if applied.is_current(&key, digest, ctx.stores.children.fingerprint(&key)) {
            continue;
        }
        let meta = match object {
            Object::ServiceAccount(it) => one(ctx, &key, &**it).await?,
            Object::ConfigMap(it) => one(ctx, &key, &**it).await?,
            Object::Service(it) => one(ctx, &key, &**it).await?,
            Object::StatefulSet(it) => one(ctx, &key, &**it).await?,
            Object::Deployment(it) => one(ctx, &key, &**it).await?,
            Object::PodDisruptionBudget(it) => one(ctx, &key, &**it).await?,
        };
        applied.note(key, digest, &meta);
    }
    let wanted: BTreeSet<Key> = objects.iter().map(Object::key).collect();
    for (key, child) in ctx.stores.children.controlled_by(&mesh.uid().unwrap_or_default()) {
        if !wanted.contains(&key) {
            remove(ctx, &key, child.uid).await?;
        }
    }
    Ok(())
}

/// Applies one object; its metadata afterwards.
async fn one<K>(ctx: &Context, key: &Key, object: &K) -> Result<ObjectMeta, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let Key { kind, namespace, name } = key;
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    let params = PatchParams::apply(managers::MESH).force();
    let after = api.patch(name, &params, &Patch::Apply(object)).await.map_err(|error| {
        format!("cannot apply the {} {name}: {}", kind.as_str(), explain(&error))
    })?;
    Ok(after.meta().clone())
}

async fn remove(ctx: &Context, key: &Key, uid: String) -> Result<(), String> {
    let Key { kind, namespace, name } = key;
    let only = Preconditions { uid: Some(uid), resource_version: None };
    let params = DeleteParams::background().preconditions(only);
    macro_rules! delete {
        ($($Kind:ident),*) => {
            match kind {
                $(Kind::$Kind => {
                    let api: Api<$Kind> = Api::namespaced(ctx.client.clone(), namespace);
                    api.delete(name, &params).await.map(drop)
                })*
            }
        };
    }
    let removed =
        delete!(ServiceAccount, ConfigMap, Service, StatefulSet, Deployment, PodDisruptionBudget);
    let kind = kind.as_str();
    match removed {
        Ok(()) => {
            info!(kind, namespace, name, "what the mesh does not want any more is removed");
            Ok(())
        }
        // Gone already, or another by now: the watch tells of it.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(format!("cannot remove the {kind} {name}: {}", explain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_touched_is_applied_again_only_when_it_is_wanted_otherwise() {
        let key = Key {
            kind: Kind::Service,
            namespace: "macula-system".to_owned(),
            name: "main-gateway".to_owned(),
        };
        let meta = ObjectMeta { generation: Some(1), ..ObjectMeta::default() };
        let seen = Some(fingerprint(&meta));
        let applied = Applied::default();
        assert!(!applied.is_current(&key, 7, seen), "nothing was applied yet");
        applied.note(key.clone(), 7, &meta);
        assert!(applied.is_current(&key, 7, seen));
        assert!(!applied.is_current(&key, 8, seen), "it is wanted otherwise");
        assert!(!applied.is_current(&key, 7, None), "somebody deleted it");
        let touched = ObjectMeta { generation: Some(2), ..ObjectMeta::default() };
        assert!(!applied.is_current(&key, 7, Some(fingerprint(&touched))), "somebody changed it");
    }
}
