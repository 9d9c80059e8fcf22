use super::*;
use crate::tenancy::tests::mesh;

fn wish() -> Wish {
    let realm = json!({
        "apiVersion": "macula.io/v1alpha1", "kind": "MaculaRealm",
        "metadata": { "name": "shop", "namespace": "tenants" },
        "spec": {
            "name": "com.example.shop", "meshRef": { "namespace": "macula-system", "name": "main" },
            "members": [{ "namespaceSelector": {} }],
            "sidecar": { "resources": { "limits": { "memory": "32Mi" } } },
        },
    });
    let settings =
        <Settings as clap::Parser>::parse_from(["macula-operator", "--node-image", "macula:1"]);
    let realm = serde_json::from_value(realm).unwrap();
    Wish::new(&mesh("macula-system", "main"), &realm, &settings).unwrap()
}

fn pod() -> Value {
    json!({
        "metadata": { "generateName": "cart-", "labels": { "macula.io/inject": "enabled" } },
        "spec": {
            "containers": [
                { "name": "app", "image": "app", "ports": [{ "containerPort": 8080 }] },
                { "name": "two", "image": "two", "env": [{ "name": "MACULA_URL", "value": "http://x" }] },
            ],
            "newField": { "kept": true },
        },
    })
}

fn injected(mut pod: Value) -> Value {
    let patch = inject(&pod, &wish()).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn a_pod_gets_its_sidecar_first_and_everything_else_stays() {
    let pod = injected(pod());
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("macula"), &json!("Always")));
    assert_eq!(sidecar["resources"]["limits"]["memory"], "32Mi");
    assert_eq!(pod["spec"]["newField"]["kept"], true);
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["value"], names::URL);
    assert_eq!(
        pod["spec"]["containers"][1]["env"],
        json!([{ "name": "MACULA_URL", "value": "http://x" }])
    );
    assert_eq!(pod["metadata"]["labels"]["macula.io/realm"], "com.example.shop");
    let sources = &pod["spec"]["volumes"][0]["projected"]["sources"];
    assert_eq!(
        sources[0]["serviceAccountToken"]["audience"],
        "spiffe://cluster.local/mesh/macula-system.main"
    );
    let yaml = pod["metadata"]["annotations"]["macula.io/config"].as_str().unwrap();
    let config = Config::from_yaml(yaml, "annotation").unwrap();
    assert_eq!(config.seeds[0].to_string(), "main-bootstrap.macula-system.svc:9443");
}

#[test]
fn injecting_twice_is_injecting_once_also_when_others_came_between() {
    let once = injected(pod());
    assert_eq!(injected(once.clone()), once);
    let mut moved = once.clone();
    let other =
        json!({ "name": "other", "image": "x", "env": [{ "name": "MACULA_URL", "value": "y" }] });
    moved["spec"]["initContainers"].as_array_mut().unwrap().insert(0, other.clone());
    moved["spec"]["volumes"].as_array_mut().unwrap().insert(0, json!({ "name": "v" }));
    let again = injected(moved);
    assert_eq!(again["spec"]["initContainers"], json!([once["spec"]["initContainers"][0], other]));
    assert_eq!(again["spec"]["volumes"], json!([{ "name": "v" }, once["spec"]["volumes"][0]]));
}

#[test]
fn what_cannot_have_a_sidecar_is_denied_and_its_neighbour_is_not() {
    type Change = fn(&mut Value);
    let cases: [(Change, Change, &str); 8] = [
        (
            |p| p["spec"]["hostNetwork"] = json!(true),
            |p| p["spec"]["hostNetwork"] = json!(false),
            "host_network",
        ),
        (
            |p| p["spec"]["dnsPolicy"] = json!("Default"),
            |p| p["spec"]["dnsPolicy"] = json!("ClusterFirst"),
            "dns_policy",
        ),
        (
            |p| p["spec"]["os"] = json!({ "name": "windows" }),
            |p| p["spec"]["os"] = json!({ "name": "linux" }),
            "windows",
        ),
        (
            |p| p["spec"]["containers"][0]["ports"][0] = json!({ "containerPort": 7781 }),
            |p| {
                p["spec"]["containers"][0]["ports"][0] =
                    json!({ "containerPort": 7781, "protocol": "UDP" })
            },
            "port_taken",
        ),
        (
            |p| {
                p["spec"]["containers"][0]["ports"][0] =
                    json!({ "containerPort": 9443, "protocol": "UDP" })
            },
            |p| p["spec"]["containers"][0]["ports"][0] = json!({ "containerPort": 9443 }),
            "port_taken",
        ),
        (
            |p| p["spec"]["containers"][0]["name"] = json!("macula"),
            |p| p["spec"]["containers"][0]["name"] = json!("macula-app"),
            "name_taken",
        ),
        (
            |p| p["spec"]["volumes"] = json!([{ "name": "macula" }]),
            |p| p["spec"]["volumes"] = json!([{ "name": "data" }]),
            "name_taken",
        ),
        (
            |p| p["metadata"]["annotations"] = json!({ "macula.io/sidecar-memory-limit": "lots" }),
            |p| p["metadata"]["annotations"] = json!({ "macula.io/sidecar-memory-limit": "48Mi" }),
            "bad_annotation",
        ),
    ];
    for (wrong, right, reason) in cases {
        let changed = |change: Change| {
            let mut pod = pod();
            change(&mut pod);
            pod
        };
        assert_eq!(inject(&changed(wrong), &wish()).unwrap_err().reason, reason);
        inject(&changed(right), &wish()).unwrap();
    }
}

#[test]
fn annotations_of_the_pod_win() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "macula.io/sidecar-memory-limit": "48Mi", "macula.io/sidecar-log": "macula_node=debug",
    });
    let pod = injected(pod);
    assert_eq!(pod["spec"]["initContainers"][0]["resources"]["limits"]["memory"], "48Mi");
    let yaml = pod["metadata"]["annotations"]["macula.io/config"].as_str().unwrap();
    assert_eq!(Config::from_yaml(yaml, "a").unwrap().log.as_deref(), Some("macula_node=debug"));
}
