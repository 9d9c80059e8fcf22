//! The patch that puts a sidecar into a pod: targeted operations on the pod as it is, so that nothing
//! of it that we do not know is lost. Applied to a pod that has its sidecar already, it converges.

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use kube::ResourceExt;
use macula_api::names::{self, annotations, labels, ports};
use macula_api::{MaculaMesh, MaculaRealm};
use macula_config::{Admin, Api, Config, Enrolment, EnrolmentUrl, Identity};
use macula_identity::{Role, enrolment};
use serde_json::{Map, Value, json};

use crate::settings::Settings;
use crate::tenancy::scope_of;

/// Why a pod does not get its sidecar, and so is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// A stable word, for metrics.
    pub reason: &'static str,
    /// For whoever made the pod.
    pub message: String,
}

impl Denied {
    /// A denial for this reason.
    #[must_use]
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a pod is to get.
#[derive(Clone, Debug)]
pub struct Wish {
    realm: String,
    mesh: String,
    audience: String,
    config: Config,
    image: String,
    pull_policy: Option<String>,
    /// Of the realm.
    resources: Value,
}

impl Wish {
    /// The sidecar of a realm's pods.
    ///
    /// # Errors
    /// When a name is none, which the schema should have refused.
    pub fn new(
        mesh: &MaculaMesh,
        realm: &MaculaRealm,
        settings: &Settings,
    ) -> Result<Self, String> {
        let scope = scope_of(mesh).map_err(|error| error.to_string())?;
        let namespace = mesh.namespace().unwrap_or_default();
        let told = |error: &dyn std::error::Error| error.to_string();
        let host = names::operator_host(&settings.namespace);
        let url = EnrolmentUrl::new(&host, ports::ENROLMENT).map_err(|error| told(&error))?;
        let seed = names::seed(&namespace, &mesh.name_any());
        let sidecar = realm.spec.sidecar.clone().unwrap_or_default();
        let config = Config {
            trust_domain: scope.trust_domain.clone(),
            mesh: scope.mesh.clone(),
            role: Role::Peer,
            realm: Some(realm.spec.name.parse().map_err(|error| told(&error))?),
            name: None,
            identity: Identity {
                key: None,
                certificate: None,
                bundle: names::run_path(&names::roots(&namespace, &mesh.name_any())).into(),
                enrolment: Some(Enrolment {
                    url,
                    ca: names::run_path(names::ENROLMENT_CA).into(),
                    token: names::run_path(names::TOKEN).into(),
                }),
            },
            data_dir: None,
            listen: ([0, 0, 0, 0], ports::QUIC).into(),
            seeds: vec![seed.parse().map_err(|error| told(&error))?],
            discovery: macula_config::Discovery::default(),
            api: Some(Api::default()),
            admin: Admin { listen: ([0, 0, 0, 0], ports::ADMIN).into() },
            counts: None,
            log: sidecar.log,
        };
        Ok(Self {
            realm: realm.spec.name.clone(),
            mesh: mesh.mesh_name(),
            audience: enrolment::audience(&scope),
            config,
            image: settings.node_image.clone(),
            pull_policy: settings.pull_policy.clone(),
            resources: json!(sidecar.resources.unwrap_or_default()),
        })
    }
}

/// The operations that give this pod its sidecar.
///
/// # Errors
/// [`Denied`], when it cannot have one.
pub fn inject(pod: &Value, wish: &Wish) -> Result<Patch, Denied> {
    let ours = pod["metadata"]["annotations"].get(annotations::CONFIG).is_some();
    refuse(pod, ours)?;
    let mut operations = Vec::new();
    let mut add = |path: String, value: Value| {
        let path = path.parse().expect("a path of ours is a JSON pointer");
        operations.push(PatchOperation::Add(AddOperation { path, value }));
    };

    let mut config = wish.config.clone();
    if let Some(log) = annotation(pod, annotations::LOG) {
        if log.trim().is_empty() {
            return Err(invalid(annotations::LOG, log, "it is empty"));
        }
        config.log = Some(log.to_owned());
    }
    if !pod["metadata"]["annotations"].is_object() {
        add("/metadata/annotations".into(), json!({}));
    }
    add(pointer("/metadata/annotations", annotations::CONFIG), config.to_yaml().into());
    if !pod["metadata"]["labels"].is_object() {
        add("/metadata/labels".into(), json!({}));
    }
    for (key, value) in [(labels::REALM, &wish.realm), (labels::MESH, &wish.mesh)] {
        if pod["metadata"]["labels"].get(key).is_none() {
            add(pointer("/metadata/labels", key), value.as_str().into());
        }
    }

    let list = |key: &str| pod["spec"][key].as_array().map_or(&[][..], Vec::as_slice);
    let at = |items: &[Value], name: &str| items.iter().position(|item| item["name"] == name);
    let volumes = list("volumes");
    match (at(volumes, names::VOLUME), pod["spec"]["volumes"].is_array()) {
        (Some(index), _) => add(format!("/spec/volumes/{index}"), Value::Null),
        (None, true) => add("/spec/volumes/-".into(), volume(wish)),
        (None, false) => add("/spec/volumes".into(), json!([volume(wish)])),
    }
    let url = json!({ "name": names::URL_VARIABLE, "value": names::URL });
    for key in ["containers", "initContainers"] {
        for (index, container) in list(key).iter().enumerate() {
            let env = container["env"].as_array();
            let has = env.is_some_and(|env| at(env, names::URL_VARIABLE).is_some());
            if container["name"] == names::CONTAINER || has {
                continue;
            }
            match env {
                Some(_) => add(format!("/spec/{key}/{index}/env/-"), url.clone()),
                None => add(format!("/spec/{key}/{index}/env"), json!([url])),
            }
        }
    }
    let sidecar = container(wish, resources(pod, wish)?);
    let init = list("initContainers");
    match (at(init, names::CONTAINER), pod["spec"]["initContainers"].is_array()) {
        (Some(index), _) => {
            let path = format!("/spec/initContainers/{index}").parse().expect("a JSON pointer");
            operations.push(PatchOperation::Remove(RemoveOperation { path }));
            let path = "/spec/initContainers/0".parse().expect("a JSON pointer");
            operations.push(PatchOperation::Add(AddOperation { path, value: sidecar }));
        }
        (None, true) => add("/spec/initContainers/0".into(), sidecar),
        (None, false) => add("/spec/initContainers".into(), json!([sidecar])),
    }
    // A volume of ours that is there is replaced in its place.
    for operation in &mut operations {
        if let PatchOperation::Add(AddOperation { path, value: value @ Value::Null }) = operation {
            *value = volume(wish);
            let path = path.clone();
            let value = std::mem::take(value);
            *operation = PatchOperation::Replace(json_patch::ReplaceOperation { path, value });
        }
    }
    Ok(Patch(operations))
}

/// What a pod with a sidecar cannot be.
fn refuse(pod: &Value, ours: bool) -> Result<(), Denied> {
    let spec = &pod["spec"];
    if spec["hostNetwork"] == true {
        let why = "a pod on the host's network (hostNetwork) cannot have a sidecar: its ports would be \
                   the host's";
        return Err(Denied::new("host_network", why));
    }
    if let Some(policy @ ("None" | "Default")) = spec["dnsPolicy"].as_str() {
        let why = format!(
            "with dnsPolicy {policy} the sidecar cannot find the mesh by the cluster's DNS; use \
             ClusterFirst"
        );
        return Err(Denied::new("dns_policy", why));
    }
    if spec["os"]["name"] == "windows" {
        return Err(Denied::new("windows", "the sidecar runs on Linux"));
    }
    let containers = |key: &str| spec[key].as_array().cloned().unwrap_or_default();
    let taken = |what: &str| {
        let why =
            format!("the name {} of a {what} is the sidecar's; choose another", names::CONTAINER);
        Err(Denied::new("name_taken", why))
    };
    let named = |items: &[Value]| items.iter().any(|item| item["name"] == names::CONTAINER);
    if named(&containers("containers")) || (!ours && named(&containers("initContainers"))) {
        return taken("container");
    }
    if !ours && named(&containers("volumes")) {
        return taken("volume");
    }
    for container in containers("containers").iter().chain(&containers("initContainers")) {
        if container["name"] == names::CONTAINER {
            continue;
        }
        for port in container["ports"].as_array().into_iter().flatten() {
            let number = port["containerPort"].as_u64().and_then(|it| u16::try_from(it).ok());
            let udp = port["protocol"] == "UDP";
            let taken = match number {
                Some(ports::API | ports::ADMIN) => !udp,
                Some(ports::QUIC) => udp,
                _ => false,
            };
            if taken {
                let name = container["name"].as_str().unwrap_or_default();
                let (port, protocol) = (&port["containerPort"], if udp { "UDP" } else { "TCP" });
                let why = format!(
                    "the container {name} has the port {port}/{protocol}, which is the sidecar's"
                );
                return Err(Denied::new("port_taken", why));
            }
        }
    }
    Ok(())
}

/// Ours, the realm's, the pod's: the later wins.
fn resources(pod: &Value, wish: &Wish) -> Result<Value, Denied> {
    let mut all = json!({
        "requests": { "cpu": "10m", "memory": "16Mi" },
        "limits": { "memory": "64Mi" },
    });
    for part in ["requests", "limits"] {
        let of_realm = wish.resources[part].as_object().cloned().unwrap_or_default();
        let all = all[part].as_object_mut().expect("made just now");
        all.extend(of_realm);
    }
    for (key, part, resource) in [
        (annotations::CPU_REQUEST, "requests", "cpu"),
        (annotations::MEMORY_REQUEST, "requests", "memory"),
        (annotations::CPU_LIMIT, "limits", "cpu"),
        (annotations::MEMORY_LIMIT, "limits", "memory"),
    ] {
        let Some(given) = annotation(pod, key) else { continue };
        if !is_quantity(given) {
            return Err(invalid(key, given, "it is not a quantity such as 10m or 16Mi"));
        }
        all[part][resource] = given.into();
    }
    Ok(all)
}

/// Digits with at most one point, and a suffix (Kubernetes' `resource.Quantity`).
fn is_quantity(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let suffixes = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    number.parse::<f64>().is_ok() && suffixes.contains(&suffix)
}

fn invalid(key: &str, given: &str, why: &str) -> Denied {
    let given: String = given.chars().take(60).collect();
    Denied::new("bad_annotation", format!("the annotation {key}: {given:?}: {why}"))
}

fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"].get(key).and_then(Value::as_str)
}

/// A key below a path (RFC 6901 §3).
fn pointer(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn volume(wish: &Wish) -> Value {
    json!({
        "name": names::VOLUME,
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                { "serviceAccountToken": {
                    "audience": wish.audience,
                    "expirationSeconds": names::TOKEN_SECONDS,
                    "path": names::TOKEN,
                } },
                { "configMap": { "name": names::TRUST, "optional": true } },
                { "downwardAPI": { "items": [{
                    "path": names::NODE_CONFIG,
                    "fieldRef": { "fieldPath": format!("metadata.annotations['{}']", annotations::CONFIG) },
                }] } },
            ],
        },
    })
}

/// It satisfies the Pod Security Standard *restricted* whatever the pod says of itself.
fn container(wish: &Wish, resources: Value) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": ports::ADMIN },
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    let mut container: Map<String, Value> = Map::new();
    let mut put = |key: &str, value: Value| container.insert(key.to_owned(), value);
    put("name", names::CONTAINER.into());
    put("image", wish.image.as_str().into());
    if let Some(policy) = &wish.pull_policy {
        put("imagePullPolicy", policy.as_str().into());
    }
    put("restartPolicy", "Always".into());
    put("command", json!([names::NODE_COMMAND]));
    let name = "$(MACULA_POD_NAMESPACE).$(MACULA_POD_NAME)";
    put("args", json!(["run", "--config", names::run_path(names::NODE_CONFIG), "--name", name]));
    put(
        "env",
        json!([
            field("MACULA_POD_NAMESPACE", "metadata.namespace"),
            field("MACULA_POD_NAME", "metadata.name"),
        ]),
    );
    put(
        "ports",
        json!([
            { "name": "macula-quic", "containerPort": ports::QUIC, "protocol": "UDP" },
            { "name": "macula-admin", "containerPort": ports::ADMIN, "protocol": "TCP" },
        ]),
    );
    put("resources", resources);
    // The application starts when the API listens; nothing here waits for the application.
    put("startupProbe", probe("/healthz/live", 1, 60));
    put("readinessProbe", probe("/healthz/ready", 2, 3));
    put(
        "securityContext",
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": names::USER,
            "runAsGroup": names::USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        }),
    );
    put(
        "volumeMounts",
        json!([
            { "name": names::VOLUME, "mountPath": names::RUN_PATH, "readOnly": true },
        ]),
    );
    container.into()
}

#[cfg(test)]
mod tests;
