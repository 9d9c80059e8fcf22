//! The `helm` at hand, and what it makes of the chart.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// The namespace that the chart is rendered for.
pub(crate) const NAMESPACE: &str = "macula-system";

/// `HELM`, else the one of `PATH`, else the newest of the parts that `make cluster` built.
fn helm() -> PathBuf {
    let given = std::env::var_os("HELM").map(PathBuf::from);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&paths).map(|folder| folder.join("helm"));
    given.or_else(|| on_path.find(|file| file.is_file())).or_else(of_the_parts).expect(
        "these tests ask helm to render the chart: install it, name it with HELM=, or let \
         `make cluster` build it",
    )
}

fn of_the_parts() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let parts = std::fs::read_dir(cache.join("macula/parts")).ok()?;
    // Beside the parts of a cluster, or where nothing but tools was built.
    let built =
        parts.flatten().flat_map(|part| ["tools/helm", "helm"].map(|file| part.path().join(file)));
    let age = |file: &PathBuf| file.metadata().and_then(|it| it.modified()).ok();
    built.filter(|file| file.is_file()).max_by_key(age)
}

fn run(arguments: &[&str]) -> Output {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/macula");
    let (verb, rest) = arguments.split_first().expect("a verb of helm");
    let mut command = Command::new(helm());
    command.arg(verb);
    if matches!(*verb, "template" | "install") {
        command.args(["macula", "--namespace", NAMESPACE]);
    }
    command.arg(chart).args(rest).env("KUBECONFIG", "/dev/null").output().expect("helm can be run")
}

/// What helm prints.
pub(crate) fn prints(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a user reads after the installation.
pub(crate) fn notes(values: &[&str]) -> String {
    let set: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    let text = prints(&[&["install", "--dry-run=client"], &*set].concat());
    text.split_once("\nNOTES:\n").expect("the chart has notes").1.to_owned()
}

/// The objects of the chart with these values set.
pub(crate) fn renders(values: &[&str]) -> Vec<Value> {
    let set: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    let text = prints(&[&["template"], &*set].concat());
    let documents = serde_yaml::Deserializer::from_str(&text);
    let read = |document| serde::Deserialize::deserialize(document).unwrap();
    documents.map(read).filter(|object: &Value| !object.is_null()).collect()
}

/// Why helm renders nothing with these values set.
pub(crate) fn refuses(values: &[&str]) -> String {
    let set: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    let output = run(&[&["template"], &*set].concat());
    assert!(!output.status.success(), "{values:?} was accepted");
    String::from_utf8(output.stderr).unwrap()
}
