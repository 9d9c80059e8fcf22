//! What the chart lets the operator do, beside `operator/rights.txt`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::helm::{NAMESPACE, renders};

/// A line of the list, its words apart by one space.
type Right = String;

/// The list of the repository.
fn listed() -> BTreeSet<Right> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../rights.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn texts<'a>(rule: &'a Value, field: &str) -> Vec<&'a str> {
    rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The rights of one role, each resource and each name apart.
fn of_role(role: &Value, place: &str) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        assert!(rule.get("nonResourceURLs").is_none(), "{rule}");
        let mut verbs = texts(rule, "verbs");
        verbs.sort_unstable();
        let mut names = texts(rule, "resourceNames");
        if names.is_empty() {
            names.push("any");
        }
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
                let dot = if group.is_empty() { "" } else { "." };
                let slash = if sub.is_empty() { "" } else { "/" };
                for name in &names {
                    let verbs = verbs.join(" ");
                    rights
                        .push(format!("{place} {resource}{dot}{group}{slash}{sub} {name} {verbs}"));
                }
            }
        }
    }
    rights
}

/// Every right that the chart binds to somebody. A role that is bound twice is there twice.
fn granted(values: &[&str], place: impl Fn(&str, &str) -> &'static str) -> Vec<Right> {
    let objects = renders(values);
    let mut rights = Vec::new();
    for binding in &objects {
        let kind = binding["kind"].as_str().unwrap();
        let Some(of) = kind.strip_suffix("Binding") else { continue };
        let subjects = binding["subjects"].as_array().unwrap();
        assert_eq!(subjects.len(), 1, "{binding}");
        assert_eq!(subjects[0]["kind"], "ServiceAccount");
        assert_eq!(subjects[0]["name"], "macula-operator");
        assert_eq!(subjects[0]["namespace"], NAMESPACE);
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let name = binding["roleRef"]["name"].as_str().unwrap();
        assert_eq!(binding["roleRef"]["kind"], of);
        let role = objects.iter().find(|role| {
            role["kind"] == of
                && role["metadata"]["name"] == name
                && role["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
        });
        let role = role.unwrap_or_else(|| panic!("{name} is bound, and not there"));
        rights.extend(of_role(role, place(namespace, name)));
    }
    rights
}

#[test]
fn the_chart_grants_what_the_list_says_and_nothing_else() {
    let place = |namespace: &str, role: &str| match (namespace, role) {
        ("", _) => "cluster",
        (NAMESPACE, "macula-operator") => "operator",
        (NAMESPACE, "macula-operator-meshes") => "meshes",
        other => panic!("{other:?} is bound where nothing should be"),
    };
    let granted = granted(&[], place);
    let listed = listed();
    let lines = |rights: Vec<&Right>| format!("{rights:#?}");
    let more = granted.iter().filter(|right| !listed.contains(*right)).collect();
    let granted: BTreeSet<_> = granted.iter().cloned().collect();
    let fewer = listed.difference(&granted).collect();
    assert!(
        granted == listed,
        "granted and not in operator/rights.txt: {}\nthere and not granted: {}",
        lines(more),
        lines(fewer)
    );
}

#[test]
fn nothing_is_granted_by_a_wildcard_and_secrets_only_beside_the_operator() {
    for right in listed() {
        assert!(!right.contains('*'), "{right}");
        assert!(!right.contains(" secrets ") || right.starts_with("operator "), "{right}");
        for verb in ["escalate", "bind", "impersonate", "deletecollection", "update"] {
            assert!(!right.split(' ').any(|word| word == verb), "{right}");
        }
    }
}

#[test]
fn workloads_may_be_made_in_the_namespaces_of_meshes_alone() {
    let place = |namespace: &str, role: &str| match (namespace, role) {
        ("", _) => "cluster",
        (NAMESPACE, "macula-operator") => "operator",
        ("one" | "two", "macula-operator-meshes") => "meshes",
        other => panic!("{other:?} is bound where nothing should be"),
    };
    let granted = granted(&["meshNamespaces={one,two}"], place);
    let sets = |place: &str| {
        let start = format!("{place} statefulsets.apps ");
        granted.iter().filter(|right| right.starts_with(&start)).count()
    };
    assert_eq!((sets("meshes"), sets("operator"), sets("cluster")), (2, 0, 0));
}
