//! Who may import whom (docs/ARCHITECTURE.md, "Rooms"). A new import that crosses a wall fails here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages of the workspace, and which of their fellows each may use.
const PACKAGES: &[(&str, &[&str])] = &[
    ("macula-identity", &[]),
    ("macula-config", &["macula-identity"]),
    ("macula-proto", &["macula-identity"]),
    ("macula-node", &["macula-config", "macula-identity", "macula-proto"]),
    ("macula-api", &[]),
    ("macula-operator", &["macula-api", "macula-config", "macula-identity", "macula-proto"]),
    ("macula-e2e", &["macula-api"]),
    ("macula-e2e-app", &[]),
];

/// What the core must never reach, however indirectly.
const IMPURE: &[&str] =
    &["tokio", "quinn", "quinn-proto", "mio", "socket2", "hyper", "kube-client"];

/// Inside the core: these stand side by side, and `engine` joins them.
const SIDE_BY_SIDE: &[&str] = &["dht", "pubsub", "rpc", "realm"];
/// Inside the core: the bottom, which imports nothing of the parts above it.
const BOTTOM: &[&str] = &["name", "wire", "time", "error", "payload", "key"];

/// Inside the node: who may use whom, upper rooms first. A module may use those in later lines.
const NODE: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["dev", "run"],
    &["join"],
    &["node"],
    &["api", "ping"],
    &["peer", "mesh"],
    &["enrolment"],
    &["transport"],
    &["identity", "discovery", "disk"],
    &["metrics", "status", "supervise", "clock"],
];

/// Crates that one place alone may name.
const SOLE_USERS: &[(&str, &str)] = &[
    ("quinn", "transport"),
    ("quinn_proto", "transport"),
    ("hickory_resolver", "discovery"),
    ("redb", "disk"),
    ("hyper", "api or cli or enrolment"),
    ("prometheus_client", "metrics"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("node/ lies in the workspace").to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs, since it runs this");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The normal dependencies of a package, direct and indirect.
fn dependencies(package: &str, depth: &[&str]) -> BTreeSet<String> {
    let fixed = ["tree", "--offline", "--edges", "normal", "--prefix", "none", "-p", package];
    let tree = cargo(&[&fixed[..], depth].concat());
    let names = tree.lines().skip(1).filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn packages_use_their_fellows_only_as_the_rooms_allow() {
    for (package, allowed) in PACKAGES {
        let used: BTreeSet<_> = dependencies(package, &["--depth", "1"])
            .into_iter()
            .filter(|name| name.starts_with("macula-"))
            .collect();
        let allowed: BTreeSet<_> = allowed.iter().map(ToString::to_string).collect();
        assert!(used.is_subset(&allowed), "{package} uses {used:?}, and may use {allowed:?}");
    }
}

#[test]
fn the_core_and_identity_reach_no_socket_and_no_runtime() {
    for package in ["macula-proto", "macula-identity", "macula-config"] {
        let reached = dependencies(package, &[]);
        let impure: Vec<_> = IMPURE.iter().filter(|name| reached.contains(**name)).collect();
        assert!(impure.is_empty(), "{package} reaches {impure:?}");
    }
}

/// Every Rust file below a folder, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("it can be read");
            found.push((path, text));
        }
    }
    found
}

/// The top-level module that a file belongs to.
fn module(source: &Path, file: &Path) -> String {
    let below = file.strip_prefix(source).expect("found below it");
    let first = below.components().next().expect("a file has a name");
    let first = first.as_os_str().to_str().expect("our file names are ASCII");
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of this crate that a text names: after `crate::`, also in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    // Tests of a room may look at its neighbours.
    let code = code.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String =
                name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn within_the_core_the_parts_do_not_know_each_other() {
    let source = root().join("node/proto/src");
    for (file, text) in sources(&source) {
        let here = module(&source, &file);
        for other in imports(&text) {
            let sideways = SIDE_BY_SIDE.contains(&here.as_str())
                && SIDE_BY_SIDE.contains(&other.as_str())
                && here != other;
            let upwards = BOTTOM.contains(&here.as_str())
                && (SIDE_BY_SIDE.contains(&other.as_str()) || other == "engine");
            assert!(!sideways && !upwards, "{} imports crate::{other}", file.display());
            // The fuzz targets take their cast from it; neither is in a product.
            let is_tool = here == "sim" || here == "fuzz";
            assert!(other != "sim" || is_tool, "{} imports the simulation", file.display());
        }
    }
}

#[test]
fn within_the_node_imports_go_down() {
    let source = root().join("node/src");
    let level = |name: &str| NODE.iter().position(|rooms| rooms.contains(&name));
    for (file, text) in sources(&source) {
        let here = module(&source, &file);
        if here == "lib" || here == "main" {
            continue;
        }
        let mine = level(&here).unwrap_or_else(|| panic!("{here} is in no room: add it to NODE"));
        for other in imports(&text) {
            // What is not a module is an item that lib.rs exports.
            let Some(theirs) = level(&other) else { continue };
            assert!(theirs >= mine, "{} ({here}) imports crate::{other}", file.display());
        }
    }
}

#[test]
fn each_foreign_protocol_has_one_room() {
    let source = root().join("node/src");
    for (file, text) in sources(&source) {
        let here = module(&source, &file);
        for (name, users) in SOLE_USERS {
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{name}::"))
            });
            let allowed = users.split(" or ").any(|user| user == here);
            assert!(!named || allowed, "{} names {name}; {users} alone may", file.display());
        }
    }
}

#[test]
fn the_scan_sees_what_it_should() {
    let text = "use crate::dht::Dht;\n// crate::no\nuse crate::{pubsub, rpc::Rpc};\nmy_crate::x();";
    let seen: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(seen, ["dht", "pubsub", "rpc"]);
}
