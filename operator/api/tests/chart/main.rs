//! The chart, as `helm template` renders it: what it installs, what its values do, and which values it
//! refuses. Needs `helm`.
#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

#[path = "../types/check.rs"]
mod check;
mod helm;
mod rights;

use std::collections::BTreeMap;

use helm::{NAMESPACE, notes, prints, refuses, renders};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use macula_api::names::{self, labels, ports, webhooks};
use serde_json::{Value, json};

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("the chart has no {kind}"));
    assert!(found.next().is_none(), "the chart has more than one {kind}");
    first
}

fn container(objects: &[Value]) -> &Value {
    &of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
}

fn variables(objects: &[Value]) -> BTreeMap<&str, &str> {
    let variables = container(objects)["env"].as_array().unwrap();
    variables.iter().filter_map(|it| Some((it["name"].as_str()?, it["value"].as_str()?))).collect()
}

#[test]
fn helm_finds_no_fault_with_it() {
    prints(&["lint", "--strict"]);
}

#[test]
fn it_installs_the_operator_and_both_definitions() {
    let mut kinds = BTreeMap::<_, usize>::new();
    let objects = renders(&[]);
    for object in &objects {
        *kinds.entry(object["kind"].as_str().unwrap()).or_default() += 1;
    }
    let expected = [
        ("ClusterRole", 1),
        ("ClusterRoleBinding", 1),
        ("CustomResourceDefinition", 2),
        ("Deployment", 1),
        ("MutatingWebhookConfiguration", 1),
        ("Role", 2),
        ("RoleBinding", 2),
        ("Service", 1),
        ("ServiceAccount", 1),
    ];
    assert_eq!(kinds, expected.into());
    for kind in ["ClusterRole", "Deployment", "MutatingWebhookConfiguration", "Service"] {
        assert_eq!(of_kind(&objects, kind)["metadata"]["name"], names::OPERATOR);
    }
}

#[test]
fn the_definitions_are_those_of_the_types_and_stay_when_the_chart_goes() {
    let definition = |object: &&Value| object["kind"] == "CustomResourceDefinition";
    let objects = renders(&[]);
    let rendered: Vec<_> = objects.iter().filter(definition).collect();
    let crds = macula_api::crds();
    assert_eq!(rendered.len(), crds.len());
    for (rendered, crd) in rendered.into_iter().zip(crds) {
        assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        // Numbers of a schema are read as whole ones.
        let read: CustomResourceDefinition = serde_json::from_value(rendered.clone()).unwrap();
        assert!(read.spec == crd.spec, "{} is stale: `make crds`", crd.spec.names.kind);
    }
    assert_eq!(renders(&["crds.install=false"]).iter().filter(definition).count(), 0);
}

#[test]
fn there_is_no_certificate_and_no_secret_in_it() {
    let text = prints(&["template"]);
    for word in ["BEGIN", "caBundle:", "kind: Secret", "genCA", "tls.key"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn the_operator_satisfies_the_pod_security_standard_restricted() {
    let objects = renders(&[]);
    let pod = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"];
    let all = &pod["securityContext"];
    assert_eq!(all["runAsNonRoot"], true);
    assert_eq!(all["runAsUser"], names::USER);
    assert_eq!(all["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert_eq!(
        container(&objects)["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        })
    );
    for (field, value) in pod.as_object().unwrap() {
        assert!(!field.starts_with("host"), "{field}: {value}");
        assert_ne!(field, "volumes");
    }
}

#[test]
fn there_is_one_operator_at_a_time() {
    let objects = renders(&[]);
    let spec = &of_kind(&objects, "Deployment")["spec"];
    assert_eq!((&spec["replicas"], &spec["strategy"]), (&json!(1), &json!({"type": "Recreate"})));
}

#[test]
fn its_ports_are_those_of_the_contract() {
    let objects = renders(&[]);
    let mut listens = BTreeMap::new();
    for port in container(&objects)["ports"].as_array().unwrap() {
        listens.insert(port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap());
    }
    let expected = [
        (ports::WEBHOOK_NAME, u64::from(ports::WEBHOOK)),
        (ports::ENROLMENT_NAME, ports::ENROLMENT.into()),
        (ports::ADMIN_NAME, ports::ADMIN.into()),
    ];
    assert_eq!(listens, expected.into());
    for port in of_kind(&objects, "Service")["spec"]["ports"].as_array().unwrap() {
        assert!(listens.contains_key(port["targetPort"].as_str().unwrap()), "{port}");
    }
    let service = |name: &str| {
        let ports = of_kind(&objects, "Service")["spec"]["ports"].as_array().unwrap();
        ports.iter().find(|port| port["name"] == name).unwrap()["port"].as_u64().unwrap()
    };
    assert_eq!(service(ports::WEBHOOK_NAME), u64::from(ports::WEBHOOK_SERVICE));
    assert_eq!(service(ports::ENROLMENT_NAME), u64::from(ports::ENROLMENT));
}

#[test]
fn the_image_is_by_tag_unless_there_is_a_digest() {
    let image = |values: &[&str]| {
        let objects = renders(values);
        let image = container(&objects)["image"].as_str().unwrap().to_owned();
        assert_eq!(variables(&objects)["MACULA_NODE_IMAGE"], image);
        image
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    let by_digest = format!("image.digest={digest}");
    assert_eq!(image(&[]), concat!("macula-io/macula:", env!("CARGO_PKG_VERSION")));
    assert_eq!(image(&["image.tag=dev"]), "macula-io/macula:dev");
    assert_eq!(image(&["image.tag=dev", &by_digest]), format!("macula-io/macula@{digest}"));
    assert_eq!(image(&["image.repository=host:5000/a/b"])[..14], *"host:5000/a/b:");
    let other = renders(&["nodeImage=other:1"]);
    assert_eq!(variables(&other)["MACULA_NODE_IMAGE"], "other:1");
}

#[test]
fn its_values_reach_the_operator() {
    let objects = renders(&[
        "image.pullPolicy=Never",
        "image.pullSecrets={one,two}",
        "meshNamespaces={mesh-a,mesh-b}",
        "log=debug",
        "annotations.a=b",
        "podAnnotations.c=d",
        "podLabels.e=f",
        "nodeSelector.disk=fast",
        "tolerations[0].operator=Exists",
        "resources.limits.cpu=1",
    ]);
    let deployment = of_kind(&objects, "Deployment");
    let template = &deployment["spec"]["template"];
    let expected = [
        ("MACULA_IMAGE_PULL_POLICY", "Never"),
        ("MACULA_IMAGE_PULL_SECRETS", "one,two"),
        ("MACULA_LOG", "debug"),
        ("MACULA_MESH_NAMESPACES", "mesh-a,mesh-b"),
        ("MACULA_NODE_IMAGE", concat!("macula-io/macula:", env!("CARGO_PKG_VERSION"))),
    ];
    assert_eq!(variables(&objects), expected.into());
    assert_eq!(deployment["metadata"]["annotations"], json!({ "a": "b" }));
    assert_eq!(template["metadata"]["annotations"], json!({ "c": "d" }));
    assert_eq!(template["metadata"]["labels"]["e"], "f");
    let pod = &template["spec"];
    assert_eq!(pod["imagePullSecrets"], json!([{ "name": "one" }, { "name": "two" }]));
    assert_eq!(pod["nodeSelector"], json!({ "disk": "fast" }));
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(container(&objects)["imagePullPolicy"], "Never");
    assert_eq!(container(&objects)["resources"]["limits"]["cpu"], 1);
    assert_eq!(variables(&renders(&[]))["MACULA_MESH_NAMESPACES"], NAMESPACE);
}

#[test]
fn a_value_that_it_does_not_know_is_refused_by_name() {
    for (value, name) in [
        ("replicas=2", "replicas"),
        ("image.registry=a", "registry"),
        ("image.digest=sha256:0", "digest"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.repository=", "repository"),
        ("crds.keep=true", "keep"),
        ("resources.claims={a}", "claims"),
        ("tolerations[0].keys=a", "keys"),
        ("meshNamespaces={A}", "meshNamespaces"),
        ("log=", "log"),
    ] {
        let why = refuses(&[value]);
        assert!(why.contains(name) && why.contains("schema"), "{value}: {why}");
    }
}

#[test]
fn every_object_of_its_schema_is_closed() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/macula/values.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    closed(&schema, "");
}

fn closed(schema: &Value, path: &str) {
    // Helm hands the values of all charts down by this name.
    if schema["type"] == "object" && path != ".properties.global" {
        assert!(schema["additionalProperties"] != Value::Null, "{path} takes anything");
    }
    for (key, value) in schema.as_object().into_iter().flatten() {
        closed(value, &format!("{path}.{key}"));
    }
}

#[test]
fn the_webhook_sees_only_pods_that_ask_for_a_sidecar() {
    let objects = renders(&[]);
    let entries = of_kind(&objects, "MutatingWebhookConfiguration")["webhooks"].as_array().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, [webhooks::NAMESPACE, webhooks::POD]);
    for entry in entries {
        assert_eq!(entry["failurePolicy"], "Fail");
        assert_eq!(entry["sideEffects"], "NoneOnDryRun");
        assert_eq!(entry["timeoutSeconds"], 5);
        assert_eq!(entry["reinvocationPolicy"], "IfNeeded");
        assert_eq!(entry["clientConfig"]["service"]["path"], webhooks::PATH);
        assert_eq!(entry["clientConfig"]["service"]["namespace"], NAMESPACE);
        let rules = json!([{
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }]);
        assert_eq!(entry["rules"], rules);
    }
    let seen = |namespace: &str, of_namespace: Option<&str>, of_pod: Option<&str>| {
        let labels = |inject: Option<&str>| -> BTreeMap<String, String> {
            let name = (labels::NAMESPACE_NAME.to_owned(), namespace.to_owned());
            let inject = inject.map(|it| (labels::INJECT.to_owned(), it.to_owned()));
            [name].into_iter().chain(inject).collect()
        };
        let selects = |selector: &Value, labels: &BTreeMap<String, String>| {
            let selector: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            Selector::try_from(selector).unwrap().matches(labels)
        };
        let both = |entry: &&Value| {
            selects(&entry["namespaceSelector"], &labels(of_namespace))
                && selects(&entry["objectSelector"], &labels(of_pod))
        };
        entries.iter().filter(both).count()
    };
    let (on, off) = (Some(labels::ENABLED), Some(labels::DISABLED));
    // Whoever asks is seen by one entry.
    for (of_namespace, of_pod) in [(on, None), (on, on), (None, on), (off, on)] {
        assert_eq!(seen("shop", of_namespace, of_pod), 1, "{of_namespace:?} {of_pod:?}");
    }
    for (of_namespace, of_pod) in [(None, None), (None, off), (off, None), (off, off), (on, off)] {
        assert_eq!(seen("shop", of_namespace, of_pod), 0, "{of_namespace:?} {of_pod:?}");
    }
    for never in ["kube-system", "kube-public", "kube-node-lease", NAMESPACE] {
        assert_eq!(seen(never, on, on), 0, "{never}");
    }
}

#[test]
fn the_mesh_and_the_realm_of_its_notes_are_accepted_and_belong_together() {
    for (values, namespace) in [(&[][..], NAMESPACE), (&["meshNamespaces={one,two}"], "one")] {
        let notes = notes(values);
        let objects: Vec<Value> = notes
            .split("<<'YAML'\n")
            .skip(1)
            .map(|rest| serde_yaml::from_str(rest.split("  YAML").next().unwrap()).unwrap())
            .collect();
        let [mesh, realm] = &objects[..] else { panic!("a mesh and a realm: {notes}") };
        for object in &objects {
            assert_eq!(check::faults(object, None), [""; 0]);
            assert_eq!(object["metadata"]["namespace"], namespace);
        }
        assert_eq!(realm["spec"]["meshRef"]["name"], mesh["metadata"]["name"]);
        assert_eq!(realm["spec"]["meshRef"]["namespace"], namespace);
    }
}

#[test]
fn its_version_is_that_of_the_program() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/macula/Chart.yaml");
    let chart: Value = serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}
