//! What the types accept and refuse, by their schemas and rules as they are installed.
#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

mod cases;
mod check;

use cases::{Case, mesh, realm};
use macula_api::{MaculaMesh, MaculaMeshSpec, MaculaRealm};
use serde_json::{Value, json};

fn all() -> Vec<Case> {
    cases::of_mesh().into_iter().chain(cases::of_realm()).collect()
}

#[test]
fn each_rule_refuses_what_it_should_and_accepts_its_neighbour() {
    for Case { before, accepted, refused, says } in all() {
        let faults = check::faults(&accepted, before.as_ref());
        assert!(faults.is_empty(), "{accepted}: {faults:?}");
        let faults = check::faults(&refused, before.as_ref());
        assert!(faults.iter().any(|it| it.contains(says)), "{refused}: {says:?} not in {faults:?}");
    }
}

#[test]
fn every_rule_has_a_message_and_a_case() {
    for crd in macula_api::crds() {
        each_schema(&check::schema(&crd), &mut |schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let message = rule["message"].as_str().unwrap_or_else(|| panic!("{rule} is mute"));
                assert!(all().iter().any(|it| message.contains(it.says)), "no case: {message}");
            }
        });
    }
}

#[test]
fn every_default_satisfies_its_schema() {
    for crd in macula_api::crds() {
        let mut defaults = 0;
        each_schema(&check::schema(&crd), &mut |schema| {
            if let Some(default) = schema.get("default") {
                let faults = check::structure(schema, default, "default");
                assert!(faults.is_empty(), "{faults:?}");
                defaults += 1;
            }
        });
        assert!(defaults > 0, "{} has defaults", crd.spec.names.kind);
    }
}

#[test]
fn every_field_says_what_it_is() {
    for crd in macula_api::crds() {
        each_schema(&check::schema(&crd), &mut |schema| {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                assert!(field["description"].is_string(), "{name} of {}", crd.spec.names.kind);
            }
        });
    }
}

#[test]
fn an_empty_spec_is_a_mesh_with_the_defaults_of_the_types() {
    let read: MaculaMesh = serde_json::from_value(mesh(json!({}))).unwrap();
    assert_eq!(read.spec, MaculaMeshSpec::default());
    assert_eq!(check::faults(&mesh(json!({})), None), [""; 0]);
    // What the API server fills in is what the types fill in.
    let filled = kube::core::cel::apply_defaults(
        &check::schema_of(&mesh(json!({}))),
        &mesh(json!({ "bootstrap": {}, "gateway": { "service": {} }, "allowedRealms": {} })),
    );
    assert_eq!(filled["spec"], serde_json::to_value(MaculaMeshSpec::default()).unwrap());
}

#[test]
fn what_is_accepted_is_read_and_written_as_it_was() {
    for Case { accepted, .. } in all() {
        let whole = kube::core::cel::apply_defaults(&check::schema_of(&accepted), &accepted);
        let written = match whole["kind"].as_str() {
            Some("MaculaMesh") => {
                serde_json::to_value(serde_json::from_value::<MaculaMesh>(whole.clone()).unwrap())
            }
            _ => {
                serde_json::to_value(serde_json::from_value::<MaculaRealm>(whole.clone()).unwrap())
            }
        };
        assert_eq!(numbers_as_text(written.unwrap()), numbers_as_text(whole));
    }
}

#[test]
fn the_derived_rules_run_on_the_types_themselves() {
    let read = |name: &str| -> MaculaRealm {
        serde_json::from_value(realm(json!({ "name": name }))).unwrap()
    };
    assert!(read("shop").validate_cel().is_ok());
    assert!(read("Shop").validate_cel().is_err());
    assert!(read("shop").validate_cel_update(&read("shop")).is_ok());
    assert!(read("shop").validate_cel_update(&read("bank")).is_err());
}

#[test]
fn a_mesh_has_the_name_that_a_realm_calls_it() {
    let mut mesh: MaculaMesh = serde_json::from_value(mesh(json!({}))).unwrap();
    mesh.metadata.namespace = Some("macula-system".to_owned());
    let realm: MaculaRealm = serde_json::from_value(realm(json!({}))).unwrap();
    assert_eq!(mesh.mesh_name(), "macula-system.main");
    assert_eq!(realm.mesh_name(), mesh.mesh_name());
}

#[test]
fn every_example_of_the_documentation_is_accepted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/KUBERNETES.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut texts: Vec<_> = blocks.map(str::to_owned).collect();
    for file in std::fs::read_dir(root.join("examples/kubernetes")).unwrap() {
        texts.push(std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    let mut ours = 0;
    for text in &texts {
        for document in serde_yaml::Deserializer::from_str(text) {
            let object: Value = serde::Deserialize::deserialize(document).unwrap();
            if object["apiVersion"] == "macula.io/v1alpha1" {
                assert_eq!(check::faults(&object, None), [""; 0], "{object}");
                ours += 1;
            }
        }
    }
    assert!(ours >= 4, "{ours} examples were found");
}

/// A schema and all within it.
fn each_schema(schema: &Value, look: &mut impl FnMut(&Value)) {
    look(schema);
    for field in schema["properties"].as_object().into_iter().flat_map(|all| all.values()) {
        each_schema(field, look);
    }
    for inner in [&schema["items"], &schema["additionalProperties"]] {
        if inner.is_object() {
            each_schema(inner, look);
        }
    }
}

/// A quantity that was written as a number is kept as text.
fn numbers_as_text(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(numbers_as_text).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, numbers_as_text(value))).collect()
        }
        other => other,
    }
}
