//! What each rule of the types refuses, beside its nearest neighbour that it accepts. The same table
//! is asked here of the schemas and, in the stories, of a real API server.

use serde_json::{Value, json};

/// Two objects on both sides of one rule.
#[derive(Debug)]
pub(crate) struct Case {
    /// What is there already, for a rule about change.
    pub(crate) before: Option<Value>,
    /// This may be.
    pub(crate) accepted: Value,
    /// This may not.
    pub(crate) refused: Value,
    /// A part of what the refusal says.
    pub(crate) says: &'static str,
}

/// A mesh of this spec.
pub(crate) fn mesh(spec: Value) -> Value {
    mesh_named("main", spec)
}

fn mesh_named(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "macula.io/v1alpha1",
        "kind": "MaculaMesh",
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// A realm with these fields instead of usual ones.
pub(crate) fn realm(fields: Value) -> Value {
    let mut spec = json!({
        "name": "com.example.shop",
        "meshRef": { "namespace": "macula-system", "name": "main" },
        "members": [{ "namespaceSelector": {} }],
    });
    for (key, value) in fields.as_object().expect("fields are an object") {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "macula.io/v1alpha1",
        "kind": "MaculaRealm",
        "metadata": { "name": "shop" },
        "spec": spec,
    })
}

fn member(fields: Value) -> Value {
    let mut member = json!({ "namespaceSelector": {} });
    for (key, value) in fields.as_object().expect("fields are an object") {
        member[key] = value.clone();
    }
    realm(json!({ "members": [member] }))
}

fn expression(operator: &str, values: &[&str]) -> Value {
    let mut expression = json!({ "key": "team", "operator": operator });
    if !values.is_empty() {
        expression["values"] = json!(values);
    }
    member(json!({ "namespaceSelector": { "matchExpressions": [expression] } }))
}

fn case(says: &'static str, accepted: Value, refused: Value) -> Case {
    Case { before: None, accepted, refused, says }
}

fn change(says: &'static str, before: Value, accepted: Value, refused: Value) -> Case {
    Case { before: Some(before), accepted, refused, says }
}

/// Every rule of `MaculaMesh`.
pub(crate) fn of_mesh() -> Vec<Case> {
    let long = |length| mesh_named(&"m".repeat(length), json!({}));
    let named = |name| mesh_named(name, json!({}));
    let domain = |text: &str| mesh(json!({ "trustDomain": text }));
    let bootstraps = |replicas| mesh(json!({ "bootstrap": { "replicas": replicas } }));
    let gateways = |replicas| mesh(json!({ "gateway": { "replicas": replicas } }));
    let service = |type_| mesh(json!({ "gateway": { "service": { "type": type_ } } }));
    let size = |size| mesh(json!({ "bootstrap": { "storage": { "size": size } } }));
    let storage = |storage| mesh(json!({ "bootstrap": { "storage": storage } }));
    let lifetime = |text| mesh(json!({ "certificates": { "lifetime": text } }));
    let names = |names| mesh(json!({ "allowedRealms": { "names": names } }));
    let from = |namespaces| mesh(json!({ "allowedRealms": { "namespaces": namespaces } }));
    let image = |image| mesh(json!({ "image": image }));
    let resources = |resources| mesh(json!({ "gateway": { "resources": resources } }));

    const LIFETIME: &str = "lifetime is from 30s to 720h";
    const STORAGE: &str = "storage cannot be changed";
    const NAMES: &str = "each of names is a realm's whole name";
    const SELECTOR: &str = "selector is needed with `from: Selector`, and is not allowed with any";
    const DOMAIN: &str = "a trust domain is a name such as cluster.local";
    const NAME: &str = "the name of a mesh starts with a lowercase letter";
    vec![
        case("has at most 40 characters", long(40), long(41)),
        case(NAME, named("m1"), named("1m")),
        case(NAME, named("a-b"), named("a.b")),
        case(DOMAIN, domain("cluster.local"), domain("cluster..local")),
        case(DOMAIN, domain("a"), domain("Cluster.local")),
        change(
            "trustDomain cannot be changed",
            domain("example.org"),
            domain("example.org"),
            mesh(json!({})),
        ),
        case("should be greater than or equal to 1", bootstraps(1), bootstraps(0)),
        case("should be less than or equal to 9", bootstraps(9), bootstraps(10)),
        case("should be greater than or equal to 0", gateways(0), gateways(-1)),
        case("should be less than or equal to 100", gateways(100), gateways(101)),
        case("Unsupported value", service("NodePort"), service("ExternalName")),
        case("size is a quantity of bytes", size("1Mi"), size("1Ki")),
        case("size is a quantity of bytes", size("1.5Gi"), size("much")),
        change(STORAGE, size("256Mi"), mesh(json!({})), size("128Mi")),
        change(
            STORAGE,
            storage(json!({ "storageClassName": "fast" })),
            storage(json!({ "storageClassName": "fast" })),
            mesh(json!({})),
        ),
        change(
            STORAGE,
            mesh(json!({})),
            bootstraps(1),
            storage(json!({ "storageClassName": "fast" })),
        ),
        case(LIFETIME, lifetime("30s"), lifetime("29s")),
        case(LIFETIME, lifetime("720h"), lifetime("720h1s")),
        case(LIFETIME, lifetime("1h30m"), lifetime("1.5h")),
        case(LIFETIME, lifetime("60m"), lifetime("1d")),
        case(NAMES, names(json!(["*"])), names(json!(["com.*.shop"]))),
        case(NAMES, names(json!(["com.example.*"])), names(json!(["com.example*"]))),
        case(NAMES, names(json!(["shop", "com.example.shop"])), names(json!(["shop", ""]))),
        case("should have at least 1 items", names(json!(["shop"])), names(json!([]))),
        case("Unsupported value", from(json!({ "from": "All" })), from(json!({ "from": "None" }))),
        case(
            SELECTOR,
            from(json!({ "from": "Selector", "selector": {} })),
            from(json!({ "from": "Selector" })),
        ),
        case(
            SELECTOR,
            from(json!({ "from": "Same" })),
            from(json!({ "from": "Same", "selector": {} })),
        ),
        case(SELECTOR, from(json!({})), from(json!({ "selector": {} }))),
        case("without spaces", image("example/macula:1"), image("example/macula :1")),
        case(
            "no request may be above its limit",
            resources(json!({ "requests": { "cpu": "500m" }, "limits": { "cpu": 1 } })),
            resources(json!({ "requests": { "cpu": "1001m" }, "limits": { "cpu": 1 } })),
        ),
        case(
            "should match",
            resources(json!({ "limits": { "memory": "64Mi" } })),
            resources(json!({ "limits": { "memory": "64 MB" } })),
        ),
    ]
}

/// Every rule of `MaculaRealm`.
pub(crate) fn of_realm() -> Vec<Case> {
    let named = |name: &str| realm(json!({ "name": name }));
    let on = |namespace: &str, name: &str| {
        realm(json!({ "meshRef": { "namespace": namespace, "name": name } }))
    };
    let members = |count| {
        let member = json!({ "namespaceSelector": {} });
        realm(json!({ "members": vec![member; count] }))
    };
    let accounts = |names| member(json!({ "serviceAccounts": names }));
    let (long, longer) = ("r".repeat(63), "r".repeat(64));

    const NAME: &str = "a realm's name is one such as com.example.shop";
    const EXPRESSION: &str = "In and NotIn need values; Exists and DoesNotExist have none";
    const ACCOUNTS: &str = "each of serviceAccounts is the whole name of a service account, or *";
    vec![
        case(NAME, named("com.example.shop"), named("com.example.*")),
        case(NAME, named("0"), named("Shop")),
        case(NAME, named("a-b"), named("a-")),
        case("Too long: may not be more than 63", named(&long), named(&longer)),
        change(
            "name cannot be changed",
            named("shop"),
            realm(json!({ "name": "shop", "sidecar": { "log": "debug" } })),
            named("shop2"),
        ),
        change("meshRef cannot be changed", on("a", "main"), on("a", "main"), on("b", "main")),
        case("namespace is the name of a namespace", on("a-b", "main"), on("a.b", "main")),
        case("name is that of a MaculaMesh", on("a", "main"), on("a", "Main")),
        case("should have at least 1 items", members(1), members(0)),
        case("must have at most 32 items", members(32), members(33)),
        case(EXPRESSION, expression("In", &["shop"]), expression("In", &[])),
        case(EXPRESSION, expression("Exists", &[]), expression("Exists", &["shop"])),
        case("Unsupported value", expression("NotIn", &["a"]), expression("Like", &["a"])),
        case(ACCOUNTS, accounts(json!(["*"])), accounts(json!(["shop-*"]))),
        case(ACCOUNTS, accounts(json!(["default", "a.b"])), accounts(json!(["default", ""]))),
        case("should have at least 1 items", accounts(json!(["shop"])), accounts(json!([]))),
        case(
            "no request may be above its limit",
            realm(json!({ "sidecar": { "resources": { "limits": { "memory": "64Mi" } } } })),
            realm(json!({ "sidecar": { "resources": {
                "requests": { "memory": "1Gi" },
                "limits": { "memory": "64Mi" },
            } } })),
        ),
    ]
}
