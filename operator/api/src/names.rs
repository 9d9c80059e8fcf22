//! Every name that the operator, its chart, its nodes and its users agree on.

pub mod annotations;
pub mod labels;

/// The API group of both kinds.
pub const GROUP: &str = "macula.io";

/// The operator's Deployment, ServiceAccount, Service, webhook configuration and cluster role.
pub const OPERATOR: &str = "macula-operator";
/// The namespace that the chart is usually installed in.
pub const OPERATOR_NAMESPACE: &str = "macula-system";
/// The Secret, in the operator's namespace, of the operator's own authority.
pub const OPERATOR_CA_SECRET: &str = "macula-operator-ca";

/// The certificate of an authority, in its Secret.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The key of an authority, in its Secret.
pub const CA_KEY: &str = "ca.key";
/// The key that node ids are made with, in the Secret of a mesh's authority.
pub const NODE_ID_KEY: &str = "node-id.key";

/// The ConfigMap, in every namespace with nodes, of all roots to trust.
pub const TRUST: &str = "macula-trust";
/// In [`TRUST`] and among the files of a node: the operator's own authority, which signs the
/// enrolment server's certificate.
pub const ENROLMENT_CA: &str = "enrolment-ca.pem";
/// In a ConfigMap and among the files of a node: its configuration.
pub const NODE_CONFIG: &str = "node.yaml";

/// The container of a node in a pod: of infrastructure, and of a sidecar.
pub const CONTAINER: &str = "macula";
/// The volume of a node's configuration, token and trust.
pub const VOLUME: &str = "macula";
/// Where [`VOLUME`] is mounted.
pub const RUN_PATH: &str = "/var/run/macula";
/// Among the files of [`VOLUME`]: the service account's token for enrolment.
pub const TOKEN: &str = "token";
/// How long such a token is valid. The kubelet renews it.
pub const TOKEN_SECONDS: i64 = 3600;
/// The volume claim of a bootstrap.
pub const DATA_VOLUME: &str = "data";
/// Where [`DATA_VOLUME`] is mounted.
pub const DATA_PATH: &str = "/var/lib/macula";
/// The user of our image.
pub const USER: i64 = 65532;
/// The node's command in our image.
pub const NODE_COMMAND: &str = "/macula-node";
/// The operator's command in our image.
pub const OPERATOR_COMMAND: &str = "/macula-operator";

/// The variable by which an application finds its node.
pub const URL_VARIABLE: &str = "MACULA_URL";
/// Its value.
pub const URL: &str = "http://127.0.0.1:7780";

/// The parts of a mesh, in names and in the label `app.kubernetes.io/component`.
pub mod components {
    /// Bootstraps.
    pub const BOOTSTRAP: &str = "bootstrap";
    /// Gateways.
    pub const GATEWAY: &str = "gateway";
    /// The trust of all meshes.
    pub const TRUST: &str = "trust";
    /// The authority of a mesh.
    pub const AUTHORITY: &str = "authority";
    /// The operator itself.
    pub const OPERATOR: &str = "operator";
}

/// Ports, and what each is called in a Service.
pub mod ports {
    /// UDP: nodes to each other.
    pub const QUIC: u16 = 9443;
    /// [`QUIC`] by name.
    pub const QUIC_NAME: &str = "quic";
    /// A peer's HTTP API, on loopback.
    pub const API: u16 = 7780;
    /// Health and metrics, of nodes and of the operator.
    pub const ADMIN: u16 = 7781;
    /// [`ADMIN`] by name.
    pub const ADMIN_NAME: &str = "admin";
    /// What infrastructure tells the operator, HTTPS.
    pub const COUNTS: u16 = 7782;
    /// [`COUNTS`] by name.
    pub const COUNTS_NAME: &str = "counts";
    /// The operator's enrolment, HTTPS.
    pub const ENROLMENT: u16 = 7783;
    /// [`ENROLMENT`] by name.
    pub const ENROLMENT_NAME: &str = "enrolment";
    /// The operator's webhook, HTTPS.
    pub const WEBHOOK: u16 = 8443;
    /// [`WEBHOOK`] in the operator's Service.
    pub const WEBHOOK_SERVICE: u16 = 443;
    /// [`WEBHOOK`] by name.
    pub const WEBHOOK_NAME: &str = "webhook";
}

/// Field managers of server-side apply: one for each concern.
pub mod managers {
    /// What a mesh consists of.
    pub const MESH: &str = "macula-operator/mesh";
    /// [`TRUST`](super::TRUST) in every namespace.
    pub const TRUST: &str = "macula-operator/trust";
    /// Status of meshes.
    pub const MESH_STATUS: &str = "macula-operator/mesh-status";
    /// Status of realms.
    pub const REALM_STATUS: &str = "macula-operator/realm-status";
    /// The realms' condition about injection.
    pub const INJECTION: &str = "macula-operator/injection";
    /// The operator's own certificates and the webhook configuration's `caBundle`.
    pub const WEBHOOK: &str = "macula-operator/webhook";
}

/// The two entries of the webhook configuration.
pub mod webhooks {
    /// Pods of labelled namespaces.
    pub const NAMESPACE: &str = "namespace.inject.macula.io";
    /// Pods that are labelled themselves, elsewhere.
    pub const POD: &str = "pod.inject.macula.io";
    /// Where both are served.
    pub const PATH: &str = "/inject";
}

/// What nodes call a mesh: `<namespace>.<name>`.
#[must_use]
pub fn mesh_name(namespace: &str, mesh: &str) -> String {
    format!("{namespace}.{mesh}")
}

/// Everything of a mesh's bootstraps: ServiceAccount, ConfigMap, Service, StatefulSet, budget.
#[must_use]
pub fn bootstrap(mesh: &str) -> String {
    format!("{mesh}-{}", components::BOOTSTRAP)
}

/// Everything of a mesh's gateways: ServiceAccount, ConfigMap, Service, Deployment, budget.
#[must_use]
pub fn gateway(mesh: &str) -> String {
    format!("{mesh}-{}", components::GATEWAY)
}

/// The Secret, in the operator's namespace, of a mesh's authority.
#[must_use]
pub fn mesh_secret(namespace: &str, mesh: &str) -> String {
    format!("macula-mesh-{namespace}.{mesh}")
}

/// In [`TRUST`], and among the files of a node: the roots of one mesh.
#[must_use]
pub fn roots(namespace: &str, mesh: &str) -> String {
    format!("{namespace}.{mesh}.pem")
}

/// A file of [`VOLUME`] as the node sees it.
#[must_use]
pub fn run_path(file: &str) -> String {
    format!("{RUN_PATH}/{file}")
}

/// Where a mesh's bootstraps are found, by the search path of every pod.
#[must_use]
pub fn seed(namespace: &str, mesh: &str) -> String {
    format!("{}.{namespace}.svc", bootstrap(mesh))
}

/// The operator's name in its certificate, and in the webhook configuration.
#[must_use]
pub fn operator_host(namespace: &str) -> String {
    format!("{OPERATOR}.{namespace}.svc")
}

/// Every name by which the operator's Service may be called.
#[must_use]
pub fn operator_hosts(namespace: &str) -> Vec<String> {
    let host = operator_host(namespace);
    vec![host.clone(), format!("{host}.cluster.local"), format!("{OPERATOR}.{namespace}")]
}

/// Where nodes enrol.
#[must_use]
pub fn enrolment_url(namespace: &str) -> String {
    format!("https://{}:{}", operator_host(namespace), ports::ENROLMENT)
}

/// The node name of a pod's peer.
#[must_use]
pub fn peer(namespace: &str, pod: &str) -> String {
    format!("{namespace}.{pod}")
}
