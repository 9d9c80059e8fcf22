//! `macula-node status`: what the node says of itself.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use http::Method;

use super::client::{Ask, Node};
use super::dates;
use super::exit::Exit;
use super::failure::{Stop, printable};
use super::output::{self, Format};
use crate::clock;
use crate::status::{self, Status};

/// What `status` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node status
  macula-node status -o json | jq .ready
  macula-node status --url http://127.0.0.1:7790

With -o json it prints the document of GET /v1/status as the node wrote it.")]
pub(crate) struct Query {}

/// Asks the node and prints its answer.
pub(crate) async fn run(_: Query, node: &Node, format: Format) -> Result<Exit, Stop> {
    match format {
        Format::Json => {
            let ask = Ask::new("ask the node for its status", Method::GET, "/v1/status");
            output::json(&node.ask_json(ask).await?)?;
        }
        Format::Text => output::bytes(table(&node.status().await?).as_bytes())?,
    }
    Ok(Exit::Ok)
}

/// The status for a person.
fn table(status: &Status) -> String {
    let Status {
        version,
        node: status::Node { id, name, role, realm, mesh, incarnation },
        ready,
        waiting,
        certificate: status::Certificate { subject, not_after, seconds_left },
        listen,
        seeds,
        connections,
        dht: status::Dht { infrastructure, realm_servers, records },
        subscriptions,
        advertisements,
    } = status;
    let state = if *ready { "ready" } else { "not ready" };
    let up =
        Duration::from_secs(clock::now_since_epoch().as_secs().saturating_sub(incarnation / 1000));
    let left = match seconds_left {
        0 => "expired".to_owned(),
        &some => format!("for {}", dates::rough(Duration::from_secs(some))),
    };
    // What a node has that has not enrolled yet.
    let or = |text: &str, otherwise: &str| match text {
        "" => otherwise.to_owned(),
        text => text.to_owned(),
    };
    let valid = match subject.as_str() {
        "" => "-".to_owned(),
        _ => format!("until {}, {left}", dates::utc(*not_after)),
    };
    let rows = [
        (
            "node",
            format!("{role} {}, {state}, up {}", or(name, "without a name yet"), dates::rough(up)),
        ),
        ("realm", realm.clone().unwrap_or_else(|| "every realm (infrastructure)".to_owned())),
        ("mesh", mesh.clone()),
        ("id", or(id, "-")),
        ("version", version.clone()),
        ("listen", format!("{listen}/udp")),
        ("certificate", or(subject, "none yet")),
        ("valid", valid),
        ("seeds", listed(seeds)),
        (
            "dht",
            format!(
                "{infrastructure} infrastructure and {realm_servers} serving peers known, \
                 {records} records kept"
            ),
        ),
        ("subscribes", listed(subscriptions)),
        ("serves", listed(advertisements)),
    ];
    let mut text = String::new();
    // Writing into a String does not fail.
    for (label, value) in rows {
        let _ = writeln!(text, "{label:<12} {}", printable(&value));
    }
    for sentence in waiting {
        let _ = writeln!(text, "{:<12} {}", "waits", printable(sentence));
    }
    let _ = writeln!(text, "{:<12} {}", "connections", connections.len());
    if !connections.is_empty() {
        let _ = writeln!(text, "\n{}", row("ID", "ADDRESS", "DIRECTION", "RTT", "SUBJECT"));
    }
    for status::Connection { id, subject, address, direction, rtt_us } in connections {
        let short: String = id.chars().take(8).collect();
        let rtt = format!("{}.{} ms", rtt_us / 1000, rtt_us / 100 % 10);
        let _ = writeln!(text, "{}", row(&short, address, direction, &rtt, subject));
    }
    text
}

fn row(id: &str, address: &str, direction: &str, rtt: &str, subject: &str) -> String {
    printable(&format!("{id:<9} {address:<22} {direction:<10} {rtt:>8}  {subject}"))
}

fn listed(texts: &[String]) -> String {
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::client::tests::{answering, response};
    use super::*;

    /// A status of a peer that serves this.
    pub(crate) fn serving(procedures: &[&str]) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            node: status::Node {
                id: "ab".repeat(20),
                name: "cart".to_owned(),
                role: "peer".to_owned(),
                realm: Some("com.example.shop".to_owned()),
                mesh: "demo.main".to_owned(),
                incarnation: 1_700_000_000_000,
            },
            ready: false,
            waiting: vec!["seed main.svc does not resolve yet".to_owned()],
            certificate: status::Certificate {
                subject: "spiffe://cluster.local/mesh/demo.main/realm/com.example.shop/peer/cart"
                    .to_owned(),
                not_after: 1_700_086_400,
                seconds_left: 86_399,
            },
            listen: "0.0.0.0:9443".to_owned(),
            seeds: vec![],
            connections: vec![status::Connection {
                id: "cd".repeat(20),
                subject: "spiffe://cluster.local/mesh/demo.main/bootstrap/a".to_owned(),
                address: "127.0.0.1:9443".to_owned(),
                direction: "dialled".to_owned(),
                rtt_us: 1_250,
            }],
            dht: status::Dht { infrastructure: 3, realm_servers: 2, records: 4 },
            subscriptions: vec!["sensor.**".to_owned()],
            advertisements: procedures.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn the_table_says_all_of_it() {
        let text = table(&serving(&["math.add"]));
        for line in [
            "node         peer cart, not ready, up ",
            "realm        com.example.shop",
            "valid        until 2023-11-15T22:13:20Z, for 23h 59m",
            "seeds        -",
            "dht          3 infrastructure and 2 serving peers known, 4 records kept",
            "subscribes   sensor.**",
            "serves       math.add",
            "waits        seed main.svc does not resolve yet",
            "connections  1",
            "cdcdcdcd  127.0.0.1:9443         dialled      1.2 ms  spiffe://",
        ] {
            assert!(
                text.contains(&format!("\n{line}")) || text.starts_with(line),
                "{line}\n{text}"
            );
        }
    }

    #[test]
    fn a_node_without_a_certificate_says_so() {
        let mut status = serving(&[]);
        status.node = status::Node { id: String::new(), name: String::new(), ..status.node };
        status.certificate =
            status::Certificate { subject: String::new(), not_after: 0, seconds_left: 0 };
        let text = table(&status);
        for line in [
            "node         peer without a name yet, not ready, up ",
            "\nid           -\n",
            "\ncertificate  none yet\n",
            "\nvalid        -\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[tokio::test]
    async fn asks_the_node() {
        let body = serde_json::to_string(&serving(&[])).unwrap();
        for format in [Format::Text, Format::Json] {
            let (node, server) = answering(response("200 OK", "application/json", &body)).await;
            assert_eq!(run(Query {}, &node, format).await.unwrap(), Exit::Ok);
            assert!(server.await.unwrap().starts_with("GET /v1/status HTTP/1.1\r\n"));
        }
    }
}
