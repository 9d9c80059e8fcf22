//! What the operator and the nodes say to each other beside the mesh, handshake by handshake.
#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{authority, bootstrap, issue, scope};
use macula_identity::operator::{
    self, OperatorAuthority, counts_client_config, counts_server_config, enrolment_client_config,
};
use macula_identity::tls::{Credentials, Verdict};
use macula_identity::{Authority, NodeKey, Order, Pair, UnixTime};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

const DAY: Duration = Duration::from_hours(24);

/// rustls judges by the clock of the machine, so these tests do too.
fn now() -> UnixTime {
    UnixTime::now()
}

struct Node {
    mesh: Authority,
    credentials: Credentials,
}

fn node() -> Node {
    let mesh = Authority::new(scope(), now());
    let key = NodeKey::generate();
    let chain = mesh.issue(&key.csr_der(), &Order::new(bootstrap()), now()).unwrap();
    Node { mesh, credentials: Credentials::new(&chain, &key) }
}

/// Both sides to the end, in memory.
fn handshake(client: ClientConfig, server: ServerConfig, name: &'static str) -> Result<(), String> {
    let mut client = ClientConnection::new(Arc::new(client), name.try_into().unwrap())
        .map_err(|e| e.to_string())?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|e| e.to_string())?;
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut arriving = wire.as_slice();
        while !arriving.is_empty() {
            server.read_tls(&mut arriving).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut arriving = wire.as_slice();
        while !arriving.is_empty() {
            client.read_tls(&mut arriving).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn ask(node: &Node, trusted: &OperatorAuthority, with: &Pair) -> Result<Verdict, String> {
    let verdict = Verdict::new();
    let domain = scope().trust_domain;
    let server = counts_server_config(&node.credentials, trusted.ca_cert_pem(), &domain).unwrap();
    let bundle = Arc::new(node.mesh.bundle());
    let client = counts_client_config(with, bundle, scope(), verdict.clone()).unwrap();
    handshake(client, server, "ignored").map(|()| verdict)
}

#[test]
fn the_operator_is_told_the_counts_and_learns_which_node_told() {
    let operator = OperatorAuthority::new(now());
    let with = operator.client(&scope().trust_domain, DAY, now()).unwrap();
    let verdict = ask(&node(), &operator, &with).unwrap();
    assert_eq!(verdict.outcome().unwrap().subject, bootstrap());
}

#[test]
fn nobody_else_is() {
    let (node, operator) = (node(), OperatorAuthority::new(now()));
    let domain = scope().trust_domain;
    let stranger = OperatorAuthority::new(now()).client(&domain, DAY, now()).unwrap();
    let elsewhere = operator.client(&"example.org".parse().unwrap(), DAY, now()).unwrap();
    let serving = operator.serving(&["a.svc".to_owned()], DAY, now()).unwrap();
    let before = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 7200));
    let expired = operator.client(&domain, Duration::from_secs(60), before).unwrap();
    for (with, reason) in [
        (stranger, "server: invalid peer certificate"),
        (elsewhere, "ApplicationVerificationFailure"),
        (serving, "server: invalid peer certificate"),
        (expired, "server: invalid peer certificate: certificate expired"),
    ] {
        let error = ask(&node, &operator, &with).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    // Another node of the mesh.
    let key = NodeKey::generate();
    let chain = node.mesh.issue(&key.csr_der(), &Order::new(bootstrap()), now()).unwrap();
    let server = counts_server_config(&node.credentials, operator.ca_cert_pem(), &domain).unwrap();
    let other = macula_identity::tls::client_config(
        &Credentials::new(&chain, &key),
        Arc::new(node.mesh.bundle()),
        scope(),
        b"http/1.1",
        Verdict::new(),
    )
    .unwrap();
    let error = handshake(other, server, "ignored").unwrap_err();
    assert!(error.contains("server: invalid peer certificate"), "{error}");
}

#[test]
fn the_operator_asks_no_stranger() {
    let operator = OperatorAuthority::new(now());
    let with = operator.client(&scope().trust_domain, DAY, now()).unwrap();
    let (ours, theirs) = (node(), node());
    let mixed = Node { mesh: ours.mesh, credentials: theirs.credentials };
    let error = ask(&mixed, &operator, &with).unwrap_err();
    assert!(error.starts_with("client: invalid peer certificate: UnknownIssuer"), "{error}");
}

#[test]
fn a_node_enrols_with_the_operator_of_the_url_alone() {
    let operator = OperatorAuthority::new(now());
    let names = ["macula-operator.macula-system.svc".to_owned()];
    let serving = operator.serving(&names, DAY, now()).unwrap();
    let trusting = || enrolment_client_config(operator.ca_cert_pem()).unwrap();
    let server = || serving.server_config().unwrap();
    handshake(trusting(), server(), "macula-operator.macula-system.svc").unwrap();
    assert!(handshake(trusting(), server(), "macula-operator.elsewhere.svc").is_err());
    let other = OperatorAuthority::new(now());
    let wrong = enrolment_client_config(other.ca_cert_pem()).unwrap();
    assert!(handshake(wrong, server(), "macula-operator.macula-system.svc").is_err());
    // A mesh's root is no CA for enrolment: it is of another kind, and of another job.
    let mesh = authority();
    let by_mesh = enrolment_client_config(&mesh.ca_cert_pem()).unwrap();
    assert!(handshake(by_mesh, server(), "macula-operator.macula-system.svc").is_err());
    let _ = issue(&mesh, bootstrap());
}

#[test]
fn an_authority_that_was_kept_signs_on() {
    let operator = OperatorAuthority::new(now());
    let kept =
        OperatorAuthority::from_parts(operator.ca_cert_pem(), &operator.ca_key_pem()).unwrap();
    assert_eq!(kept.not_after(), operator.not_after());
    let with = kept.client(&scope().trust_domain, DAY, now()).unwrap();
    ask(&node(), &operator, &with).unwrap();
    let other = OperatorAuthority::new(now());
    let error = OperatorAuthority::from_parts(operator.ca_cert_pem(), &other.ca_key_pem());
    assert_eq!(error.unwrap_err(), operator::Error::OtherKey);
    assert!(!format!("{operator:?}").contains("PRIVATE"));
}
