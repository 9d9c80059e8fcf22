//! `MaculaRealm`: a tenant of a mesh.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::mesh::default_any;
use crate::{names, schema};

/// Who the tenant is, and whose pods belong to it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    cel,
    group = "macula.io",
    version = "v1alpha1",
    kind = "MaculaRealm",
    plural = "macularealms",
    singular = "macularealm",
    shortname = "mrealm",
    category = "macula",
    namespaced,
    doc = "A tenant of a mesh: pods that hear and call each other and nobody else. The mesh must \
           allow it.",
    status = "MaculaRealmStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Realm",
        type_ = "string",
        description = "What pods name in the label macula.io/realm",
        json_path = ".spec.name"
    ),
    printcolumn(
        name = "Mesh",
        type_ = "string",
        description = "The mesh that it is on",
        json_path = ".spec.meshRef.name"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        description = "Whether the mesh accepted it",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether its pods can join",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Peers",
        type_ = "integer",
        description = "Its living peers",
        json_path = ".status.peers"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why it is ready or not",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        description = "The same, for a person",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MaculaRealmSpec {
    /// The realm's name on its mesh, such as `com.example.shop`: what pods name in the label
    /// `macula.io/realm`. Of several realms with one name on one mesh the oldest has it. It cannot
    /// be changed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
            .message("a realm's name is one such as com.example.shop: parts of lowercase letters, digits and inner hyphens, joined by dots"),
        validation = Rule::new("self == oldSelf")
            .message("name cannot be changed: it is part of every certificate; make another realm")
    )]
    pub name: String,
    /// The mesh that it is on. It cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("meshRef cannot be changed: a realm stays on its mesh; make another realm"))]
    pub mesh_ref: MeshRef,
    /// The pods that belong to it: those that fit one of these. A pod says with labels that it wants
    /// to; this says who may.
    #[schemars(length(min = 1, max = 32))]
    pub members: Vec<Member>,
    /// The sidecars of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
}

/// A mesh, by the place and name of its `MaculaMesh`.
#[derive(
    KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct MeshRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("namespace is the name of a namespace: lowercase letters, digits and inner hyphens"))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("name is that of a MaculaMesh: a lowercase letter, then lowercase letters, digits and inner hyphens"))]
    pub name: String,
}

/// Pods of some namespaces and service accounts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Labels of their namespace. Every namespace has the label `kubernetes.io/metadata.name`, its
    /// name; an empty selector, `{}`, matches every namespace.
    #[schemars(schema_with = "schema::label_selector")]
    pub namespace_selector: LabelSelector,
    /// Their service accounts, or `*` for any.
    #[serde(default = "default_any")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new(r"self.all(name, name.matches('^(\\*|[a-z0-9]([-.a-z0-9]*[a-z0-9])?)$'))")
        .message("each of serviceAccounts is the whole name of a service account, or *"))]
    pub service_accounts: Vec<String>,
}

/// The sidecars of a realm's pods. Annotations of a pod override it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// What each asks for, and its limits. Left out, the operator's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// What each logs, such as `info` or `macula_node=debug`. By default `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub log: Option<String>,
}

/// What the operator found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaculaRealmStatus {
    /// The `metadata.generation` that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the mesh allows it. `Ready`: its pods can join. `InjectionHealthy`: every pod that
    /// asked for a sidecar has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Its living peers, counted by the infrastructure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<i32>,
    /// Its pods with a sidecar, alive or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i32>,
}

impl MeshRef {
    /// What nodes call the mesh: `<namespace>.<name>`.
    #[must_use]
    pub fn mesh_name(&self) -> String {
        names::mesh_name(&self.namespace, &self.name)
    }
}

impl MaculaRealm {
    /// What nodes call its mesh: `<namespace>.<name>`.
    #[must_use]
    pub fn mesh_name(&self) -> String {
        self.spec.mesh_ref.mesh_name()
    }
}
