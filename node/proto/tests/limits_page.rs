//! `docs/LIMITS.md` is printed from the constants. `UPDATE=1` rewrites it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use macula_proto::limits;

/// Constants that are called like a limit and bound nothing that another can ask for.
const NO_LIMITS: &[(&str, &str, &str)] = &[
    ("record.rs", "MAX_PATTERNS", "the same as wire/limits.rs"),
    ("wire/frame.rs", "MAX_HEADER", "how many bytes of our own are reserved"),
];

fn page() -> String {
    let mut page = String::from(
        "<!-- Printed from node/proto/src/limits.rs; `make docs` rewrites it. -->\n\
         # Limits\n\n\
         What one peer, or a stranger, can make a node remember or compute. Nothing grows past these: what happens then\n\
         stands beside each. All of a node's memory for others is bounded by them, and every wait by a time.\n\n\
         The limits of connections and streams are those of `node/src/transport/endpoint.rs`, of the queues to other nodes\n\
         `node/src/mesh/outbox.rs`, and of the HTTP API [API.md](API.md).\n",
    );
    for (room, limits) in limits::all() {
        write!(
            page,
            "\n## {room}\n\n| at most | of what, and then | constant |\n| ---: | --- | --- |\n"
        )
        .expect("writing to a string does not fail");
        for limits::Limit { file, name, value, sentence } in limits {
            writeln!(page, "| {value} | {sentence} | `{file}` `{name}` |")
                .expect("writing to a string does not fail");
        }
    }
    page
}

#[test]
fn the_page_is_what_the_constants_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/LIMITS.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, page()).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "docs/LIMITS.md is stale: run `make docs`");
}

#[test]
fn each_limit_is_there_once_and_says_what_it_bounds() {
    let mut seen = BTreeSet::new();
    for limit in limits::all().into_iter().flat_map(|(_, limits)| limits) {
        assert!(seen.insert((limit.file, limit.name)), "{} is there twice", limit.name);
        assert!(limit.sentence.ends_with('.') && limit.sentence.len() > 15, "{}", limit.name);
    }
}

#[test]
fn every_constant_that_is_a_limit_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    scan(&src, &src, &mut found);
    assert!(found.len() > 30, "{} were found: does the scan still fit the sources?", found.len());
    let listed: BTreeSet<(String, String)> = limits::all()
        .into_iter()
        .flat_map(|(_, limits)| limits)
        .map(|limit| (limit.file.to_owned(), limit.name.to_owned()))
        .chain(NO_LIMITS.iter().map(|(file, name, _)| ((*file).to_owned(), (*name).to_owned())))
        .collect();
    for (file, name) in &found {
        let is_listed = listed.contains(&(file.clone(), name.clone()));
        assert!(is_listed, "{name} of {file} is in no row of limits.rs, nor said to be no limit");
    }
    // And what is listed as a plain constant is still there.
    for (file, name) in listed.iter().filter(|(file, name)| is_limit(name) && file != "identity") {
        assert!(found.contains(&(file.clone(), name.clone())), "{file} has no {name} any more");
    }
}

fn scan(root: &Path, directory: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(directory).expect("the sources can be read") {
        let path = entry.expect("the sources can be read").path();
        let file = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
        let is_test = file.ends_with("tests.rs") || file.contains("/tests/");
        let is_tool = ["fuzz", "sim", "fuzz.rs", "sim.rs"].contains(&file.as_str());
        if is_test || is_tool {
            continue;
        }
        if path.is_dir() {
            scan(root, &path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("the sources can be read");
        let text = text.split("#[cfg(test)]\nmod tests").next().expect("there is a first part");
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("const ") else { continue };
            let Some((name, _)) = rest.split_once(": ") else { continue };
            if is_limit(name) {
                found.insert((file.clone(), name.to_owned()));
            }
        }
    }
}

/// Whether a constant is called like a limit.
fn is_limit(name: &str) -> bool {
    const WORDS: &[&str] = &["MAX", "MOST", "LONGEST", "CAPACITY", "CACHE", "WAITING", "WINDOW"];
    let is_constant = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    is_constant && name.split('_').any(|word| WORDS.contains(&word))
}
