//! `MaculaMesh`: bootstraps, gateways, and which realms they serve.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lifetime::Lifetime;
use crate::{names, schema};

/// What a mesh is made of. Every field has a default: `spec: {}` is a whole mesh.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    cel,
    group = "macula.io",
    version = "v1alpha1",
    kind = "MaculaMesh",
    plural = "maculameshes",
    shortname = "mmesh",
    category = "macula",
    namespaced,
    doc = "The infrastructure of a mesh: bootstraps, through which nodes find each other, and \
           gateways; and which realms may use it. Nodes call it `<namespace>.<name>`. It must be in \
           one of the namespaces that the operator's chart was given as meshNamespaces.",
    status = "MaculaMeshStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.gateway.replicas",
        status_replicas_path = ".status.gatewayReplicas",
        label_selector_path = ".status.gatewaySelector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether every node of the infrastructure is alive",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Bootstraps",
        type_ = "string",
        description = "Living bootstraps, of those wanted",
        json_path = ".status.bootstraps.summary"
    ),
    printcolumn(
        name = "Gateways",
        type_ = "string",
        description = "Living gateways, of those wanted",
        json_path = ".status.gateways.summary"
    ),
    printcolumn(
        name = "Realms",
        type_ = "integer",
        description = "Realms that the mesh accepted",
        json_path = ".status.realms"
    ),
    printcolumn(
        name = "Peers",
        type_ = "integer",
        description = "Living peers of all realms",
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
    ),
    validation = Rule::new("size(self.metadata.name) <= 40").message(
        "the name of a mesh has at most 40 characters: names of its objects are made from it"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "the name of a mesh starts with a lowercase letter, goes on with lowercase letters, digits \
         and hyphens, and does not end with a hyphen"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MaculaMeshSpec {
    /// The SPIFFE trust domain: the first part of every node's identity,
    /// `spiffe://<trustDomain>/mesh/<namespace>.<name>/...`. It cannot be changed.
    #[serde(default = "default_trust_domain")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
            .message("a trust domain is a name such as cluster.local: parts of lowercase letters, digits and inner hyphens, joined by dots"),
        validation = Rule::new("self == oldSelf")
            .message("trustDomain cannot be changed: it is part of every certificate; make another mesh")
    )]
    pub trust_domain: String,
    /// The nodes through which others find the mesh. They keep their identity on a volume.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// The part of the infrastructure that scales: nodes without a volume, which share the work of
    /// the bootstraps.
    #[serde(default)]
    pub gateway: Gateway,
    /// Which realms the mesh accepts. By default those of its own namespace, of any name.
    #[serde(default)]
    pub allowed_realms: AllowedRealms,
    /// The certificates of nodes.
    #[serde(default)]
    pub certificates: Certificates,
    /// The image of this mesh's bootstraps and gateways, instead of the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^[^\\s]+$')")
        .message("image is the whole reference of an image, without spaces"))]
    pub image: Option<String>,
    /// What bootstraps and gateways log, such as `info` or `macula_node=debug`. By default `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub log: Option<String>,
}

/// The nodes through which others find the mesh.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// How many. One is enough to try things out; three outlive the loss of a machine.
    #[serde(default = "default_bootstraps")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,
    /// The volume of each, for its key and certificate, and for the records that it keeps. It goes
    /// when the mesh goes, and cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("storage cannot be changed: the volume claims of a StatefulSet are fixed; make another mesh"))]
    pub storage: Storage,
    /// What applies to their pods.
    #[serde(flatten)]
    pub pods: Pods,
}

/// The volume of a bootstrap.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Its size. A bootstrap keeps 64 MiB of records at most, which take up to four times as much here;
    /// a full volume stops no traffic, but what is not on it is lost with a restart.
    #[serde(default = "default_size")]
    #[schemars(schema_with = "schema::size")]
    pub size: Quantity,
    /// Its storage class. Left out, the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// The part of the infrastructure that scales.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// How many. `kubectl scale maculamesh NAME --replicas N` sets it too.
    #[serde(default = "default_gateways")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// The Service in front of them.
    #[serde(default)]
    pub service: GatewayService,
    /// What applies to their pods.
    #[serde(flatten)]
    pub pods: Pods,
}

/// The Service in front of the gateways.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayService {
    /// Its type.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,
    /// Its annotations: what a cloud's load balancer is told by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reached from within the cluster.
    #[default]
    ClusterIP,
    /// And by a port of every machine.
    NodePort,
    /// And by a load balancer's address.
    LoadBalancer,
}

impl ServiceType {
    /// As a Service has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// What applies to the pods of bootstraps or gateways.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// What each pod asks for, and its limits. Left out, the operator's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a machine must have to run one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of machines that do not keep them away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Which realms a mesh accepts: those that fit both.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowedRealms {
    /// The namespaces that they may be in.
    #[serde(default)]
    pub namespaces: AllowedNamespaces,
    /// The names (`spec.name`) that they may have: whole names, beginnings such as `com.example.*`,
    /// or `*` for any.
    #[serde(default = "default_any")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 65)))]
    #[x_kube(validation = Rule::new(r"self.all(name, name.matches('^(\\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(\\.\\*)?)$'))")
        .message("each of names is a realm's whole name, a beginning such as com.example.*, or *"))]
    pub names: Vec<String>,
}

/// The namespaces that realms may be in.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("selector is needed with `from: Selector`, and is not allowed with any other"))]
pub struct AllowedNamespaces {
    /// Where from.
    #[serde(default)]
    pub from: From,
    /// Labels of their namespaces: needed with `from: Selector`, and not allowed otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub selector: Option<LabelSelector>,
}

/// Where realms may come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum From {
    /// Every namespace.
    All,
    /// The mesh's own namespace.
    #[default]
    Same,
    /// The namespaces that the selector matches.
    Selector,
}

/// The certificates of nodes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// How long each is valid, such as `24h`; from `30s` to `720h`. Nodes renew theirs from half of
    /// it, so the mesh outlives half of it without the operator.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+[hms])+$') && duration(self) >= duration('30s') && duration(self) <= duration('720h')")
        .message("lifetime is from 30s to 720h, written as numbers with h, m or s: 24h, 1h30m"))]
    pub lifetime: Lifetime,
}

/// What the operator found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaculaMeshStatus {
    /// The `metadata.generation` that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the operator looks after this mesh. `Ready`: all its nodes are alive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The bootstraps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstraps: Option<NodeCount>,
    /// The gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<NodeCount>,
    /// The pods of gateways that there are, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_replicas: Option<i32>,
    /// The labels of the gateways' pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_selector: Option<String>,
    /// The realms that the mesh accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realms: Option<i32>,
    /// The living peers of all realms, counted by the infrastructure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<i32>,
    /// When the certificate of the mesh's authority ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_not_after: Option<Time>,
}

/// Nodes of one role. Alive are those that others have an authenticated connection to, not pods that
/// are Ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCount {
    /// How many there should be.
    pub desired: i32,
    /// How many are alive.
    pub alive: i32,
    /// Both, as `2/3`.
    pub summary: String,
}

impl NodeCount {
    /// So many alive of so many.
    #[must_use]
    pub fn new(alive: i32, desired: i32) -> Self {
        Self { desired, alive, summary: format!("{alive}/{desired}") }
    }
}

impl MaculaMesh {
    /// What nodes call it: `<namespace>.<name>`.
    #[must_use]
    pub fn mesh_name(&self) -> String {
        names::mesh_name(&self.namespace().unwrap_or_default(), &self.name_any())
    }
}

impl Default for MaculaMeshSpec {
    fn default() -> Self {
        Self {
            trust_domain: default_trust_domain(),
            bootstrap: Bootstrap::default(),
            gateway: Gateway::default(),
            allowed_realms: AllowedRealms::default(),
            certificates: Certificates::default(),
            image: None,
            log: None,
        }
    }
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { replicas: default_bootstraps(), storage: Storage::default(), pods: Pods::default() }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: default_size(), storage_class_name: None }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        let service = GatewayService::default();
        Self { replicas: default_gateways(), service, pods: Pods::default() }
    }
}

impl Default for AllowedRealms {
    fn default() -> Self {
        Self { namespaces: AllowedNamespaces::default(), names: default_any() }
    }
}

fn default_trust_domain() -> String {
    "cluster.local".to_owned()
}

const fn default_bootstraps() -> i32 {
    3
}

const fn default_gateways() -> i32 {
    2
}

fn default_size() -> Quantity {
    Quantity("256Mi".to_owned())
}

pub(crate) fn default_any() -> Vec<String> {
    vec!["*".to_owned()]
}
