//! Bootstraps that are killed and come back on what they kept.

#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

mod support;

use std::fs;
use std::path::PathBuf;

use support::{Mesh, Node, Place, Role, eventually};

const SHOP: &str = "com.example.shop";

/// A bootstrap that keeps what it has in a folder beside its configuration.
fn keeping(mesh: &Mesh, name: &str) -> (Place, PathBuf) {
    let place = mesh.place(name, Role::Bootstrap);
    let text = fs::read_to_string(&place.config).unwrap();
    fs::write(&place.config, format!("{text}dataDir: {name}.data\n")).unwrap();
    let folder = place.config.with_file_name(format!("{name}.data"));
    (place, folder)
}

fn started(place: &Place) -> Node {
    let mut node = place.clone().start(&[]);
    node.ready();
    node
}

fn until(node: &Node, metric: &str, condition: impl Fn(u64) -> bool) {
    eventually(metric, || condition(node.metric(metric)).then_some(()));
}

#[test]
fn a_bootstrap_that_was_killed_serves_what_was_announced_before_although_nobody_repeats_it() {
    let mesh = Mesh::new(1);
    let (place, folder) = keeping(&mesh, "boot-0");
    let mut bootstrap = started(&place);
    let mut provider = mesh.peer("shop.one", SHOP);
    let serving = provider.serve("text.upper", "tr a-z A-Z");
    // Nothing else has been stored, and no contact is there to be written.
    until(&bootstrap, "macula_disk_writes_total", |writes| writes > 0);
    until(&bootstrap, "macula_dht_records", |records| records == 1);
    provider.process.kill();
    drop(serving);
    bootstrap.process.kill();

    let mut bootstrap = started(&place);
    until(&bootstrap, "macula_disk_records_restored_total", |restored| restored == 1);
    until(&bootstrap, "macula_dht_records", |records| records == 1);
    // A caller is told of the provider, which does not answer any more; without the record there
    // would be nobody to ask.
    let caller = mesh.peer("shop.two", SHOP);
    let outcome = caller.run(&["call", "text.upper", "x", "--timeout", "3s"]);
    outcome.says(&["1 known, none could take it", "no answer"]);

    // A file that was damaged while it was away is set aside, and the mesh goes on.
    bootstrap.process.kill();
    let file = folder.join("dht.redb");
    let length = fs::metadata(&file).unwrap().len();
    fs::write(&file, vec![0; usize::try_from(length).unwrap()]).unwrap();
    let bootstrap = started(&place);
    until(&bootstrap, "macula_disk_files_set_aside_total", |set_aside| set_aside == 1);
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("dht.redb.damaged-")), "{names:?}");
    let _serving = caller.serve("text.upper", "tr a-z A-Z");
    until(&bootstrap, "macula_dht_records", |records| records == 1);
}

#[test]
fn a_bootstrap_without_seeds_dials_whom_it_knew() {
    let mesh = Mesh::new(2);
    let other = mesh.place("boot-1", Role::Bootstrap);
    let without_seeds = |place: &Place| {
        let text = fs::read_to_string(&place.config).unwrap();
        let kept = text.lines().filter(|line| !line.starts_with("seeds:"));
        let text = kept.map(|line| format!("{line}\n")).collect::<String>();
        fs::write(&place.config, text).unwrap();
    };
    without_seeds(&other);
    let other = started(&other);
    let (place, _) = keeping(&mesh, "boot-0");
    let mut bootstrap = started(&place);
    until(&bootstrap, "macula_dht_contacts", |contacts| contacts == 1);
    until(&bootstrap, "macula_disk_writes_total", |writes| writes > 0);
    bootstrap.process.kill();
    without_seeds(&place);
    let bootstrap = started(&place);
    until(&bootstrap, "macula_connections_dialled_total", |dialled| dialled == 1);
    until(&bootstrap, "macula_dht_contacts", |contacts| contacts == 1);
    until(&other, "macula_dht_contacts", |contacts| contacts == 1);
}

#[test]
fn a_bootstrap_whose_folder_cannot_be_used_says_so_and_goes_on_in_memory() {
    let mesh = Mesh::new(1);
    let (place, folder) = keeping(&mesh, "boot-0");
    fs::write(&folder, "no folder").unwrap();
    let mut bootstrap = started(&place);
    bootstrap.process.until_it_says("records are kept in memory alone");
    assert!(bootstrap.metric("macula_disk_failures_total") > 0);
    let (one, two) = (mesh.peer("shop.one", SHOP), mesh.peer("shop.two", SHOP));
    let _serving = one.serve("text.upper", "tr a-z A-Z");
    two.run(&["call", "text.upper", "x", "--timeout", "5s"]).exits(0);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_task_of_the_disk_or_of_the_mesh_that_dies_is_started_again_on_what_was_kept() {
    let mesh = Mesh::new(1);
    let (place, _) = keeping(&mesh, "boot-0");
    let mut bootstrap = started(&place);
    let peer = mesh.peer("shop.one", SHOP);
    let _serving = peer.serve("text.upper", "tr a-z A-Z");
    until(&bootstrap, "macula_disk_writes_total", |writes| writes > 0);
    bootstrap.process.kill();

    let failpoints = [("MACULA_FAILPOINTS", "disk=2,mesh=2")];
    let mut bootstrap = place.start(&failpoints);
    bootstrap.ready();
    for task in ["disk", "mesh"] {
        let restarted = format!("macula_tasks_restarted_total{{kind=\"{task}\"}}");
        until(&bootstrap, &restarted, |restarts| restarts == 2);
    }
    until(&bootstrap, "macula_dht_records", |records| records == 1);
    until(&bootstrap, "macula_disk_writes_total", |writes| writes > 0);
}
