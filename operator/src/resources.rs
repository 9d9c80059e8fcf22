//! Builds the objects of a mesh from plain inputs. Pure: no client, no clock, no store.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use macula_api::names::labels;
use macula_api::{MaculaMesh, names};
use macula_identity::{Role, Scope};

use crate::settings::Settings;
use crate::stores::{Key, Kind};

mod bootstrap;
mod config;
mod disruption;
mod gateway;
mod pod;
pub mod trust;

/// What the objects of a mesh are made from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The mesh.
    pub mesh: &'a MaculaMesh,
    /// Its name and trust domain, as names.
    pub scope: Scope,
    /// The image of its nodes.
    pub image: &'a str,
    /// When the kubelet pulls it.
    pub pull_policy: Option<&'a str>,
    /// By which Secrets.
    pub pull_secrets: &'a [String],
    /// The namespace of the operator, where nodes enrol.
    pub operator_namespace: &'a str,
}

impl<'a> Inputs<'a> {
    /// The inputs for a mesh under these settings.
    #[must_use]
    pub fn new(mesh: &'a MaculaMesh, scope: Scope, settings: &'a Settings) -> Self {
        Self {
            mesh,
            scope,
            image: mesh.spec.image.as_deref().unwrap_or(&settings.node_image),
            pull_policy: settings.pull_policy.as_deref(),
            pull_secrets: &settings.pull_secrets,
            operator_namespace: &settings.namespace,
        }
    }

    fn namespace(&self) -> String {
        self.mesh.namespace().unwrap_or_default()
    }

    /// `<mesh>-bootstrap` or `<mesh>-gateway`.
    fn name(&self, role: Role) -> String {
        let mesh = self.mesh.name_any();
        match role {
            Role::Bootstrap => names::bootstrap(&mesh),
            Role::Gateway => names::gateway(&mesh),
            Role::Peer => unreachable!("a peer is a sidecar, and no object of its mesh"),
        }
    }

    fn labels(&self, role: Role) -> Labels {
        labels_of(&self.mesh.name_any(), role.as_str())
    }

    /// What selects the pods of a role. It can never be changed.
    fn selector(&self, role: Role) -> LabelSelector {
        let mut all = self.labels(role);
        all.remove(labels::MANAGED_BY);
        LabelSelector { match_labels: Some(all), ..LabelSelector::default() }
    }

    /// The metadata of everything that we make for a role.
    fn meta(&self, role: Role) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name(role)),
            namespace: Some(self.namespace()),
            labels: Some(self.labels(role)),
            owner_references: Some(vec![owner(self.mesh)]),
            ..ObjectMeta::default()
        }
    }
}

/// Labels by key.
type Labels = BTreeMap<String, String>;

/// The labels of everything that we make for a mesh.
#[must_use]
pub fn labels_of(mesh: &str, component: &str) -> Labels {
    [
        (labels::NAME, labels::NAME_VALUE),
        (labels::COMPONENT, component),
        (labels::INSTANCE, mesh),
        (labels::MANAGED_BY, names::OPERATOR),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// One object of a mesh.
#[derive(Clone, Debug)]
pub enum Object {
    /// Who the pods of a role are.
    ServiceAccount(Box<ServiceAccount>),
    /// The configuration of a role.
    ConfigMap(Box<ConfigMap>),
    /// How a role is found.
    Service(Box<Service>),
    /// The bootstraps.
    StatefulSet(Box<StatefulSet>),
    /// The gateways.
    Deployment(Box<Deployment>),
    /// How many of a role may be away at once.
    PodDisruptionBudget(Box<PodDisruptionBudget>),
}

impl Object {
    /// Which object it is.
    #[must_use]
    pub fn key(&self) -> Key {
        let (kind, meta) = match self {
            Self::ServiceAccount(object) => (Kind::ServiceAccount, object.meta()),
            Self::ConfigMap(object) => (Kind::ConfigMap, object.meta()),
            Self::Service(object) => (Kind::Service, object.meta()),
            Self::StatefulSet(object) => (Kind::StatefulSet, object.meta()),
            Self::Deployment(object) => (Kind::Deployment, object.meta()),
            Self::PodDisruptionBudget(object) => (Kind::PodDisruptionBudget, object.meta()),
        };
        Key {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// A number that changes when anything in the object does.
    #[must_use]
    pub fn digest(&self) -> u64 {
        match self {
            Self::ServiceAccount(object) => digest(object),
            Self::ConfigMap(object) => digest(object),
            Self::Service(object) => digest(object),
            Self::StatefulSet(object) => digest(object),
            Self::Deployment(object) => digest(object),
            Self::PodDisruptionBudget(object) => digest(object),
        }
    }
}

/// Everything that a mesh needs in its namespace, in the order in which it is applied.
#[must_use]
pub fn build(inputs: &Inputs<'_>) -> Vec<Object> {
    let mut objects = bootstrap::build(inputs);
    objects.extend(gateway::build(inputs));
    objects.sort_by_key(Object::key);
    objects
}

/// Who owns what we make: it goes with its mesh. It does not hold the mesh up when that is deleted.
fn owner(mesh: &MaculaMesh) -> OwnerReference {
    OwnerReference {
        api_version: MaculaMesh::api_version(&()).into_owned(),
        kind: MaculaMesh::kind(&()).into_owned(),
        name: mesh.name_any(),
        uid: mesh.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn digest(object: &impl serde::Serialize) -> u64 {
    let text = serde_json::to_vec(object).expect("objects of Kubernetes are JSON");
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
