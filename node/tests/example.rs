//! The example of docs/LIBRARY.md, built and run as a stranger would: outside this workspace.

use std::process::Command;

use macula_node::dev::{Mesh, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_outside_the_workspace_joins_subscribes_serves_and_calls() {
    let free = "127.0.0.1:0".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let join_file = Some(folder.path().join("join.json"));
    let options = Options { apis: [free, free], join_file, ..Options::default() };
    let mesh = Mesh::start(options).await.unwrap();
    let join_file = mesh.join_file().to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/join/Cargo.toml");
        Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--manifest-path", manifest, "--"])
            .arg(join_file)
            .output()
            .unwrap()
    });
    let output = run.await.unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let lines: Vec<&str> = words.lines().collect();
    assert!(lines[0].starts_with("joined as join-"), "{words}");
    let rest = ["published to 1", "heard greeting.world: hello", "answered HELLO"];
    assert_eq!(lines[1..], rest);
    mesh.stop().await;
}
