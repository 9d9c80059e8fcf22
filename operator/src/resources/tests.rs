use std::collections::BTreeSet;

use macula_config::Config;
use serde_json::{Value, json};

use super::*;
use crate::tenancy::scope_of;
use crate::tenancy::tests::mesh;

fn built_with(mesh: &MaculaMesh) -> Vec<Object> {
    let pull_secrets = ["registry".to_owned()];
    build(&Inputs {
        mesh,
        scope: scope_of(mesh).unwrap(),
        image: "macula:1",
        pull_policy: Some("IfNotPresent"),
        pull_secrets: &pull_secrets,
        operator_namespace: "macula-system",
    })
}

/// Each object as JSON, by `Kind/name`.
fn built(spec: Value) -> BTreeMap<String, Value> {
    let mut mesh = mesh("meshes", "main");
    mesh.spec = serde_json::from_value(spec).unwrap();
    let json = |object: &Object| {
        let key = object.key();
        assert_eq!(key.namespace, "meshes");
        (format!("{}/{}", key.kind.as_str(), key.name), as_json(object))
    };
    built_with(&mesh).iter().map(json).collect()
}

fn as_json(object: &Object) -> Value {
    match object {
        Object::ServiceAccount(it) => serde_json::to_value(it),
        Object::ConfigMap(it) => serde_json::to_value(it),
        Object::Service(it) => serde_json::to_value(it),
        Object::StatefulSet(it) => serde_json::to_value(it),
        Object::Deployment(it) => serde_json::to_value(it),
        Object::PodDisruptionBudget(it) => serde_json::to_value(it),
    }
    .unwrap()
}

fn pod_specs(objects: &BTreeMap<String, Value>) -> [&Value; 2] {
    ["StatefulSet/main-bootstrap", "Deployment/main-gateway"]
        .map(|key| &objects[key]["spec"]["template"]["spec"])
}

#[test]
fn a_mesh_is_made_of_these_objects_and_owns_them_all() {
    let objects = built(json!({}));
    let names: Vec<_> = objects.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "ConfigMap/main-bootstrap",
            "ConfigMap/main-gateway",
            "Deployment/main-gateway",
            "PodDisruptionBudget/main-bootstrap",
            "PodDisruptionBudget/main-gateway",
            "Service/main-bootstrap",
            "Service/main-gateway",
            "ServiceAccount/main-bootstrap",
            "ServiceAccount/main-gateway",
            "StatefulSet/main-bootstrap",
        ]
    );
    for (name, object) in &objects {
        assert_eq!(
            object["metadata"]["ownerReferences"],
            json!([{
                "apiVersion": "macula.io/v1alpha1", "kind": "MaculaMesh", "name": "main",
                "uid": "uid-of-main", "controller": true,
            }]),
            "{name}"
        );
        let component = if name.ends_with("bootstrap") { "bootstrap" } else { "gateway" };
        assert_eq!(
            object["metadata"]["labels"],
            json!({
                "app.kubernetes.io/name": "macula", "app.kubernetes.io/instance": "main",
                "app.kubernetes.io/component": component,
                "app.kubernetes.io/managed-by": "macula-operator",
            }),
            "{name}"
        );
    }
}

#[test]
fn what_the_nodes_of_two_roles_read_is_a_configuration() {
    let objects = built(json!({ "log": "debug" }));
    let read = |role: &str| {
        let text =
            objects[&format!("ConfigMap/main-{role}")]["data"]["node.yaml"].as_str().unwrap();
        let config = Config::from_yaml(text, "node.yaml").unwrap();
        assert_eq!(config.role.as_str(), role);
        assert_eq!(config.mesh.as_str(), "meshes.main");
        assert_eq!(config.log.as_deref(), Some("debug"));
        assert_eq!(config.seeds, ["main-bootstrap.meshes.svc".parse().unwrap()]);
        assert_eq!(config.admin.listen, "0.0.0.0:7781".parse().unwrap());
        let counts = config.counts.unwrap();
        assert_eq!(counts.listen, "0.0.0.0:7782".parse().unwrap());
        assert_eq!(counts.ca.to_str(), Some("/var/run/macula/enrolment-ca.pem"));
        assert_eq!(config.identity.bundle.to_str(), Some("/var/run/macula/meshes.main.pem"));
        let enrolment = config.identity.enrolment.unwrap();
        assert_eq!(enrolment.url.to_string(), "https://macula-operator.macula-system.svc:7783");
        assert_eq!(enrolment.token.to_str(), Some("/var/run/macula/token"));
        config.data_dir
    };
    // Only a bootstrap has a volume, and comes back as it was.
    assert_eq!(read("bootstrap").unwrap().to_str(), Some("/var/lib/macula"));
    assert_eq!(read("gateway"), None);
}

#[test]
fn pods_satisfy_the_restricted_standard() {
    let objects = built(json!({}));
    for spec in pod_specs(&objects) {
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["runAsUser"], 65532);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(spec["automountServiceAccountToken"], false);
        let container = &spec["containers"][0];
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
            })
        );
    }
    let [bootstrap, gateway] = pod_specs(&objects);
    assert_eq!(bootstrap["securityContext"]["fsGroup"], 65532);
    assert_eq!(gateway["securityContext"].get("fsGroup"), None);
    for name in ["ServiceAccount/main-bootstrap", "ServiceAccount/main-gateway"] {
        assert_eq!(objects[name]["automountServiceAccountToken"], false);
    }
}

#[test]
fn a_node_gets_token_trust_and_configuration_in_one_folder() {
    let objects = built(json!({ "trustDomain": "example.org" }));
    let [bootstrap, gateway] = pod_specs(&objects);
    let volume = &bootstrap["volumes"][0]["projected"];
    assert_eq!(volume["defaultMode"], 0o444);
    assert_eq!(
        volume["sources"],
        json!([
            { "serviceAccountToken": {
                "audience": "spiffe://example.org/mesh/meshes.main",
                "expirationSeconds": 3600, "path": "token",
            } },
            { "configMap": { "name": "macula-trust", "optional": true } },
            { "configMap": {
                "name": "main-bootstrap", "items": [{ "key": "node.yaml", "path": "node.yaml" }],
            } },
        ])
    );
    let mounts = |spec: &Value| {
        let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
        mounts
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(mounts(bootstrap), ["/var/run/macula", "/var/lib/macula"]);
    assert_eq!(mounts(gateway), ["/var/run/macula"]);
    let container = &gateway["containers"][0];
    assert_eq!(
        (&container["command"], &container["args"]),
        (
            &json!(["/macula-node"]),
            &json!(["run", "--config", "/var/run/macula/node.yaml", "--name", "$(POD_NAME)"])
        )
    );
    assert_eq!(gateway["imagePullSecrets"], json!([{ "name": "registry" }]));
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn bootstraps_find_each_other_before_they_are_ready_and_come_back_all_at_once() {
    let objects = built(json!({ "bootstrap": { "storage": { "storageClassName": "fast" } } }));
    let service = &objects["Service/main-bootstrap"]["spec"];
    assert_eq!(service["clusterIP"], "None");
    assert_eq!(service["publishNotReadyAddresses"], true);
    assert_eq!(service["ports"][0]["protocol"], "UDP");
    let set = &objects["StatefulSet/main-bootstrap"]["spec"];
    assert_eq!(set["podManagementPolicy"], "Parallel");
    assert_eq!(set["serviceName"], "main-bootstrap");
    assert_eq!(
        set["persistentVolumeClaimRetentionPolicy"],
        json!({ "whenDeleted": "Delete", "whenScaled": "Delete" })
    );
    let claim = &set["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"], "data");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "256Mi");
    assert_eq!(claim["spec"]["storageClassName"], "fast");
}

#[test]
fn selectors_select_the_pods_of_their_role_and_no_others() {
    let objects = built(json!({}));
    for (workload, service, budget) in [
        (
            "StatefulSet/main-bootstrap",
            "Service/main-bootstrap",
            "PodDisruptionBudget/main-bootstrap",
        ),
        ("Deployment/main-gateway", "Service/main-gateway", "PodDisruptionBudget/main-gateway"),
    ] {
        let selector = &objects[workload]["spec"]["selector"]["matchLabels"];
        let pods = &objects[workload]["spec"]["template"]["metadata"]["labels"];
        for (key, value) in selector.as_object().unwrap() {
            assert_eq!(&pods[key], value);
        }
        assert_eq!(selector.as_object().unwrap().len(), 3);
        assert_eq!(&objects[service]["spec"]["selector"], selector);
        assert_eq!(&objects[budget]["spec"]["selector"]["matchLabels"], selector);
    }
}

#[test]
fn nodes_of_a_role_are_kept_apart_where_that_is_possible() {
    let objects = built(json!({}));
    for spec in pod_specs(&objects) {
        let spread = spec["topologySpreadConstraints"].as_array().unwrap();
        // One alone: see why where it is built.
        assert_eq!(spread.len(), 1);
        assert_eq!(spread[0]["topologyKey"], "kubernetes.io/hostname");
        assert_eq!(spread[0]["whenUnsatisfiable"], "ScheduleAnyway");
        let anti = &spec["affinity"]["podAntiAffinity"];
        let zones = &anti["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
        assert_eq!(zones["topologyKey"], "topology.kubernetes.io/zone");
    }
}

#[test]
fn a_budget_exists_only_where_it_can_be_kept() {
    let budgets = |bootstraps: i32, gateways: i32| {
        let objects = built(json!({
            "bootstrap": { "replicas": bootstraps }, "gateway": { "replicas": gateways },
        }));
        let is_budget = |name: &&String| name.starts_with("PodDisruptionBudget/");
        objects.keys().filter(is_budget).cloned().collect::<BTreeSet<_>>().len()
    };
    assert_eq!(budgets(1, 0), 0);
    assert_eq!(budgets(1, 1), 0);
    assert_eq!(budgets(2, 1), 1);
    assert_eq!(budgets(3, 2), 2);
    let budget = &built(json!({}))["PodDisruptionBudget/main-bootstrap"]["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}

#[test]
fn a_mesh_without_gateways_keeps_their_deployment_at_none() {
    let objects = built(json!({ "gateway": { "replicas": 0 } }));
    assert_eq!(objects["Deployment/main-gateway"]["spec"]["replicas"], 0);
}

#[test]
fn what_the_author_says_about_pods_and_service_is_done() {
    let objects = built(json!({
        "gateway": {
            "service": { "type": "LoadBalancer", "annotations": { "lb": "fast" } },
            "annotations": { "team": "net" },
            "nodeSelector": { "edge": "yes" },
            "tolerations": [{ "key": "edge", "operator": "Exists" }],
            "resources": { "requests": { "cpu": "1" } },
        },
        "image": "other:2",
    }));
    let service = &objects["Service/main-gateway"];
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["metadata"]["annotations"]["lb"], "fast");
    let template = &objects["Deployment/main-gateway"]["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"]["team"], "net");
    assert_eq!(template["spec"]["nodeSelector"]["edge"], "yes");
    assert_eq!(template["spec"]["tolerations"][0]["key"], "edge");
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["resources"], json!({ "requests": { "cpu": "1" } }));
    let bootstrap = &objects["StatefulSet/main-bootstrap"]["spec"]["template"]["spec"];
    assert_eq!(bootstrap["containers"][0]["resources"]["requests"]["memory"], "48Mi");
}

#[test]
fn another_configuration_rolls_the_pods_and_the_same_one_does_not() {
    let hash = |spec: Value| {
        let objects = built(spec);
        ["StatefulSet/main-bootstrap", "Deployment/main-gateway"].map(|key| {
            let template = &objects[key]["spec"]["template"]["metadata"]["annotations"];
            template["macula.io/config-hash"].as_str().unwrap().to_owned()
        })
    };
    let [bootstrap, gateway] = hash(json!({}));
    assert_ne!(bootstrap, gateway);
    assert_eq!(hash(json!({ "gateway": { "replicas": 7 } })), [bootstrap.clone(), gateway.clone()]);
    let [other_bootstrap, other_gateway] = hash(json!({ "log": "debug" }));
    assert!(other_bootstrap != bootstrap && other_gateway != gateway);
}

#[test]
fn the_same_inputs_build_the_same_objects() {
    let mesh = mesh("meshes", "main");
    let digests = || built_with(&mesh).iter().map(Object::digest).collect::<Vec<_>>();
    assert_eq!(digests(), digests());
    assert_eq!(BTreeSet::from_iter(digests()).len(), 10);
}
