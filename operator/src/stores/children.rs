//! What we made for meshes, as it is in the cluster: enough to see that somebody changed it.
//!
//! The rights for these watches are given namespace by namespace, so they run only where a mesh is
//! that we look after, and one for each kind and namespace.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use macula_api::MaculaMesh;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Change, Stores, keep, pods};

/// The kinds of what we make in the namespace of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`.
    ServiceAccount,
    /// `v1`.
    ConfigMap,
    /// `v1`.
    Service,
    /// `apps/v1`.
    StatefulSet,
    /// `apps/v1`.
    Deployment,
    /// `policy/v1`.
    PodDisruptionBudget,
}

impl Kind {
    /// The name of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is known of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its UID.
    pub uid: String,
    /// Of what somebody could have changed: see [`fingerprint`].
    pub fingerprint: u64,
    /// The UID of the object that controls it.
    pub controller: Option<String>,
    /// The mesh that it was made for, by its labels.
    pub mesh: ObjectRef<MaculaMesh>,
}

/// Everything that we made in the namespaces of meshes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<RwLock<HashMap<Key, Child>>>);

impl Children {
    /// The fingerprint of an object; nothing if it is not there, or not known.
    #[must_use]
    pub fn fingerprint(&self, key: &Key) -> Option<u64> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).map(|child| child.fingerprint)
    }

    /// What is controlled by the object with this UID, by key.
    #[must_use]
    pub fn controlled_by(&self, uid: &str) -> Vec<(Key, Child)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = known
            .iter()
            .filter(|(_, child)| child.controller.as_deref() == Some(uid))
            .map(|(key, child)| (key.clone(), child.clone()))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// Puts this in the place of everything of one kind in one namespace. The meshes to whom
    /// something happened.
    fn replace(
        &self,
        kind: Kind,
        namespace: &str,
        now: HashMap<Key, Child>,
    ) -> Vec<ObjectRef<MaculaMesh>> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let here = |key: &Key| key.kind == kind && key.namespace == namespace;
        let before: HashMap<_, _> = known.extract_if(|key, _| here(key)).collect();
        let mut touched: Vec<_> = before
            .iter()
            .filter(|(key, child)| now.get(key) != Some(child))
            .chain(now.iter().filter(|(key, _)| !before.contains_key(key)))
            .map(|(_, child)| child.mesh.clone())
            .collect();
        known.extend(now);
        touched.sort_by_key(ToString::to_string);
        touched.dedup();
        touched
    }

    fn put(&self, key: Key, child: Child) -> Option<ObjectRef<MaculaMesh>> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mesh = child.mesh.clone();
        let before = known.insert(key, child.clone());
        (before != Some(child)).then_some(mesh)
    }

    fn take(&self, key: &Key) -> Option<ObjectRef<MaculaMesh>> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(key).map(|child| child.mesh)
    }

    fn forget(&self, namespace: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|key, _| key.namespace != namespace);
    }
}

/// A number that changes when somebody changes the object, and stays when only its status does.
///
/// Kinds with a generation count there what happens to their spec; of the others every change counts.
#[must_use]
pub fn fingerprint(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    let ObjectMeta { uid, generation, resource_version, labels, annotations, .. } = meta;
    (uid, labels, annotations).hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    for owner in meta.owner_references.iter().flatten() {
        (&owner.uid, owner.controller).hash(&mut hasher);
    }
    match generation {
        Some(generation) => generation.hash(&mut hasher),
        None => resource_version.hash(&mut hasher),
    }
    hasher.finish()
}

/// Keeps [`Children`] in the managed namespaces that have a mesh, until it is dropped.
pub(super) async fn run(
    client: Client,
    stores: Stores,
    managed: BTreeSet<String>,
    selector: String,
) {
    let mut changes = stores.changes();
    let mut running: HashMap<String, CancellationToken> = HashMap::new();
    let mut watches: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        let wanted: BTreeSet<String> = stores
            .meshes
            .state()
            .iter()
            .filter_map(|mesh| mesh.namespace())
            .filter(|namespace| managed.contains(namespace))
            .collect();
        running.retain(|namespace, stop| {
            let stays = wanted.contains(namespace);
            if !stays {
                stop.cancel();
                stores.children.forget(namespace);
            }
            stays
        });
        for namespace in wanted {
            if running.contains_key(&namespace) {
                continue;
            }
            let stop = CancellationToken::new();
            let watch = watch(client.clone(), stores.clone(), namespace.clone(), selector.clone());
            watches.push(stop.clone().run_until_cancelled_owned(watch).map(|_| ()).boxed());
            running.insert(namespace, stop);
        }
        loop {
            tokio::select! {
                Some(()) = watches.next() => {}
                change = changes.recv() => match change {
                    Ok(Change::Mesh(_) | Change::Everything) | Err(_) => break,
                    Ok(_) => {}
                },
            }
        }
    }
}

async fn watch(client: Client, stores: Stores, namespace: String, selector: String) {
    let config = watcher::Config::default().labels(&selector);
    let place = |kind| Place { kind, namespace: namespace.clone(), stores: stores.clone() };
    tokio::join!(
        one::<ServiceAccount>(&client, &config, place(Kind::ServiceAccount)),
        one::<ConfigMap>(&client, &config, place(Kind::ConfigMap)),
        one::<Service>(&client, &config, place(Kind::Service)),
        one::<StatefulSet>(&client, &config, place(Kind::StatefulSet)),
        one::<Deployment>(&client, &config, place(Kind::Deployment)),
        one::<PodDisruptionBudget>(&client, &config, place(Kind::PodDisruptionBudget)),
    );
}

/// What one watch looks at.
struct Place {
    kind: Kind,
    namespace: String,
    stores: Stores,
}

async fn one<K>(client: &Client, config: &watcher::Config, place: Place)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let Place { kind, namespace, stores } = place;
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), &namespace);
    let mut events = keep::metadata(api, config.clone())();
    let mut listed = HashMap::new();
    let key = |object: &PartialObjectMeta<K>| Key {
        kind,
        namespace: namespace.clone(),
        name: object.name_any(),
    };
    while let Some(event) = events.next().await {
        let touched = match event {
            Ok(Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                listed.extend(entry(kind, &object.metadata));
                Vec::new()
            }
            Ok(Event::InitDone) => {
                stores.children.replace(kind, &namespace, std::mem::take(&mut listed))
            }
            Ok(Event::Apply(object)) => match entry(kind, &object.metadata) {
                Some((key, child)) => stores.children.put(key, child),
                // Somebody took a label away that says whose it is.
                None => stores.children.take(&key(&object)),
            }
            .into_iter()
            .collect(),
            Ok(Event::Delete(object)) => stores.children.take(&key(&object)).into_iter().collect(),
            Err(error) => {
                let (kind, why) = (kind.as_str(), crate::failure::chain(&error));
                warn!(kind, namespace, why, "a watch was interrupted, and begins again");
                Vec::new()
            }
        };
        for mesh in touched {
            stores.tell(Change::Child(mesh));
        }
    }
}

fn entry(kind: Kind, meta: &ObjectMeta) -> Option<(Key, Child)> {
    let namespace = meta.namespace.clone()?;
    let mesh = pods::owner(meta.labels.as_ref()?, &namespace)?;
    let controller =
        meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let child = Child {
        uid: meta.uid.clone()?,
        fingerprint: fingerprint(meta),
        controller: controller.map(|owner| owner.uid.clone()),
        mesh,
    };
    Some((Key { kind, namespace, name: meta.name.clone()? }, child))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use macula_api::names;
    use macula_api::names::labels;

    use super::*;

    fn meta(name: &str) -> ObjectMeta {
        let owner = OwnerReference {
            uid: "mesh".to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("macula-system".to_owned()),
            uid: Some("uid".to_owned()),
            generation: Some(1),
            resource_version: Some("1".to_owned()),
            labels: Some(
                [label(labels::MANAGED_BY, names::OPERATOR), label(labels::INSTANCE, "main")]
                    .into(),
            ),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_fingerprint_moves_with_the_spec_and_our_labels_and_not_with_the_status() {
        let before = fingerprint(&meta("a"));
        let after = |change: fn(&mut ObjectMeta)| {
            let mut meta = meta("a");
            change(&mut meta);
            fingerprint(&meta)
        };
        assert_eq!(after(|meta| meta.resource_version = Some("2".to_owned())), before);
        assert_ne!(after(|meta| meta.generation = Some(2)), before);
        assert_ne!(after(|meta| meta.labels = None), before);
        assert_ne!(after(|meta| meta.owner_references = None), before);
        assert_ne!(after(|meta| meta.uid = Some("another".to_owned())), before);
        let without = |version: &str| {
            let meta = ObjectMeta {
                generation: None,
                resource_version: Some(version.to_owned()),
                ..meta("a")
            };
            fingerprint(&meta)
        };
        assert_ne!(without("1"), without("2"));
    }

    #[test]
    fn a_new_list_tells_of_those_that_came_went_or_changed() {
        let children = Children::default();
        let list = |metas: &[ObjectMeta]| -> Vec<String> {
            let now = metas.iter().filter_map(|meta| entry(Kind::Service, meta)).collect();
            let touched = children.replace(Kind::Service, "macula-system", now);
            touched.iter().map(|mesh| mesh.name.clone()).collect()
        };
        assert_eq!(list(&[meta("a"), meta("b")]), ["main"]);
        assert!(list(&[meta("b"), meta("a")]).is_empty());
        assert_eq!(list(&[meta("a")]), ["main"]);
        let changed = ObjectMeta { generation: Some(2), ..meta("a") };
        assert_eq!(list(std::slice::from_ref(&changed)), ["main"]);

        let (key, child) = entry(Kind::Service, &changed).unwrap();
        assert_eq!(children.fingerprint(&key), Some(fingerprint(&changed)));
        assert_eq!(children.controlled_by("mesh"), [(key.clone(), child.clone())]);
        assert_eq!(children.put(key.clone(), child), None);
        assert!(children.take(&key).is_some());
        assert_eq!(children.take(&key), None);
    }

    #[test]
    fn what_is_not_ours_is_not_a_child() {
        let foreign = ObjectMeta { labels: None, ..meta("a") };
        assert_eq!(entry(Kind::Service, &foreign), None);
    }
}
