//! What a person sees who looks.

use anyhow::{Context, ensure};
use macula_e2e::Story;
use macula_e2e::manifests::App;
use macula_e2e::story::SOON;
use serde_json::json;

pub(crate) async fn status_answers_in_every_pod_and_kubectl_get_prints_rows_for_people(
    story: &Story,
) -> anyhow::Result<()> {
    let shop = story.namespace("shop").await?;
    let mesh = story.mesh(json!({})).await?;
    let realm = story.realm("com.example.shop", &[&shop]).await?;
    let (namespace, name) = story.main();
    let [app] = story
        .run([App::new(&shop, "app", &[]).of("com.example.shop", (&namespace, &name))])
        .await?;

    let status = app.node(&["status"]).await?;
    for part in [format!("peer {shop}.app, ready"), "com.example.shop".to_owned()] {
        ensure!(status.ok && status.stdout.contains(&part), "no {part:?} in {}", status.text());
    }
    let status = story.bootstrap(0).node(&["status"]).await?;
    ensure!(
        status.ok && status.stdout.contains("bootstrap main-bootstrap-0, ready"),
        "{}",
        status.text()
    );

    for object in [&mesh, &realm] {
        story
            .until_status(object, "counts the peer", SOON, |status| {
                if status["peers"] == 1 { Ok(()) } else { Err(status.to_string()) }
            })
            .await?;
    }
    let mesh =
        ["READY", "True", "BOOTSTRAPS", "1/1", "GATEWAYS", "0/0", "REALMS", "1", "PEERS", "1"];
    let realm = ["REALM", "com.example.shop", "MESH", "main", "ACCEPTED", "True", "PEERS", "1"];
    for (kind, expected) in [("mmesh", &mesh[..]), ("mrealm", &realm)] {
        let printed = story.world.cluster.kubectl(&["get", kind, "-n", &namespace]).await?;
        row(&printed, expected).with_context(|| printed.clone())?;
    }
    let both = story.world.cluster.kubectl(&["get", "macula", "-A"]).await?;
    for part in ["maculamesh.macula.io/main", "macularealm.macula.io/shop"] {
        ensure!(both.contains(part), "`kubectl get macula -A` shows no {part}: {both}");
    }
    Ok(())
}

/// Whether a table of one row has these values under these headings.
fn row(table: &str, expected: &[&str]) -> anyhow::Result<()> {
    let mut lines = table.lines();
    let heading = lines.next().context("a table has a heading")?;
    let row = lines.next().context("it has a row")?;
    for pair in expected.chunks(2) {
        let at = heading.find(pair[0]).with_context(|| format!("it has no column {}", pair[0]))?;
        let cell = row.get(at..).unwrap_or_default().split_whitespace().next().unwrap_or_default();
        let found = cell == pair[1]
            || cell.ends_with(&format!(".{}", pair[1]))
            || cell.ends_with(&format!("/{}", pair[1]));
        ensure!(found, "{} is {cell} and not {}", pair[0], pair[1]);
    }
    Ok(())
}
