//! What is printed from the types: `crds/`, the chart's copies and `docs/REFERENCE.md`. `UPDATE=1`
//! writes them; without it, these tests fail when one is stale.
#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

mod reference;

use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

const BANNER: &str = "# Printed from operator/api; `make crds` writes it again.\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `macula.io_maculameshes.yaml`.
fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    serde_yaml::to_string(crd).unwrap()
}

/// The chart's copy: it can be left out, and it stays when the chart goes. A later version of the
/// chart replaces it, which Helm does not do for a chart's folder `crds/`.
fn template(mut crd: CustomResourceDefinition) -> String {
    let annotations = crd.metadata.annotations.get_or_insert_default();
    annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    let yaml = yaml(&crd);
    assert!(!yaml.contains("{{"), "Helm would read it as a template");
    format!("{BANNER}{{{{- if .Values.crds.install }}}}\n{yaml}{{{{- end }}}}\n")
}

/// Every printed file, by its path in the repository.
fn printed() -> Vec<(String, String)> {
    let mut files = vec![("docs/REFERENCE.md".to_owned(), reference::page())];
    for crd in macula_api::crds() {
        let name = file_name(&crd);
        files.push((format!("crds/{name}"), format!("{BANNER}{}", yaml(&crd))));
        files.push((format!("charts/macula/templates/crds/{name}"), template(crd)));
    }
    files
}

#[test]
fn what_is_printed_is_what_the_types_say() {
    for (path, text) in printed() {
        let file = repository().join(&path);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == text, "{path} is stale: `make crds` prints it again");
    }
}

#[test]
fn a_definition_that_is_gone_leaves_no_file() {
    let printed = printed();
    for folder in ["crds", "charts/macula/templates/crds"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let path = format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap());
            assert!(printed.iter().any(|(known, _)| *known == path), "{path} is of no kind");
        }
    }
}

#[test]
fn each_definition_is_small_enough_for_kubectl_apply() {
    // Client-side apply keeps the whole object in an annotation, of at most 256 KiB.
    for crd in macula_api::crds() {
        let length = serde_json::to_string(&crd).unwrap().len();
        assert!(length < 128 << 10, "{} has {length} bytes", file_name(&crd));
    }
}
