//! Real handshakes in memory: who is let in, and what both sides know when one is not.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use macula_identity::forge::{Flaw, forge, honest};
use macula_identity::tls::{self, client_config, code_of_alert, server_config};
use macula_identity::{Authority, Bundle, Credentials, NodeKey, Order, Refusal, Subject, Verdict};
use rustls::client::Resumption;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::ServerSessionMemoryCache;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};

const ALPN: &[u8] = b"macula/1";

#[test]
fn two_nodes_of_a_mesh_know_each_other_when_the_handshake_is_done() {
    let authority = authority();
    let met =
        Meeting::of(&authority, honest_of(&authority, peer()), honest_of(&authority, bootstrap()));
    met.result.as_ref().unwrap();
    assert_eq!(met.by_server.outcome().unwrap().subject, peer());
    assert_eq!(met.by_client.outcome().unwrap().subject, bootstrap());
    assert_eq!(met.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(met.server.alpn_protocol(), Some(ALPN));
    assert_eq!(met.server.server_name(), None, "no name is sent");
}

#[test]
fn a_server_refuses_every_flaw_by_its_name_and_the_client_hears_an_alert() {
    let authority = authority();
    for &flaw in Flaw::ALL {
        let flawed = forge(&authority, &peer(), flaw, now());
        let met = Meeting::of(&authority, flawed, honest_of(&authority, bootstrap()));
        let (side, error) = met.result.unwrap_err();
        assert_eq!(side, Side::Server, "{flaw:?}: {error}");
        let refusal = met.by_server.get().unwrap().unwrap_err();
        assert_eq!(refusal.code(), flaw.code(), "{refusal}");
        assert_eq!(met.by_client.get().unwrap().unwrap().subject, bootstrap());
        assert_eq!(met.heard, Some(what_an_alert_tells(flaw)), "{flaw:?}");
    }
}

#[test]
fn a_client_refuses_every_flaw_by_its_name_and_the_server_hears_an_alert() {
    let authority = authority();
    for &flaw in Flaw::ALL {
        let flawed = forge(&authority, &bootstrap(), flaw, now());
        let met = Meeting::of(&authority, honest_of(&authority, peer()), flawed);
        let (side, error) = met.result.unwrap_err();
        assert_eq!(side, Side::Client, "{flaw:?}: {error}");
        let refusal = met.by_client.get().unwrap().unwrap_err();
        assert_eq!(refusal.code(), flaw.code(), "{refusal}");
        assert_eq!(met.by_server.get(), None, "the server has seen no certificate");
        assert_eq!(met.heard, Some(what_an_alert_tells(flaw)), "{flaw:?}");
    }
}

fn what_an_alert_tells(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::OtherCa => "untrusted_certificate",
        Flaw::Expired | Flaw::NotYetValid => "certificate_expired",
        _ => "bad_certificate",
    }
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let authority = authority();
    let mut stolen = honest_of(&authority, peer());
    stolen.key = NodeKey::generate().private_key_der();
    let config =
        client_config(&stolen, Arc::new(authority.bundle()), scope(), ALPN, Verdict::new());
    assert!(matches!(config, Err(tls::Error::Credentials(_))), "an honest node notices itself");
    let nothing = Credentials { chain: Vec::new(), ..stolen.clone() };
    let bundle = Arc::new(authority.bundle());
    assert!(server_config(&nothing, bundle, scope(), ALPN, Verdict::new()).is_err());

    // A thief does not care.
    let (by_server, by_client) = (Verdict::new(), Verdict::new());
    let server = server_of(&authority, &honest_of(&authority, bootstrap()), &by_server);
    let mut client = client_of(&authority, &honest_of(&authority, peer()), &by_client);
    let key = rustls::crypto::ring::sign::any_supported_type(&stolen.key).unwrap();
    let thief = rustls::sign::CertifiedKey::new(stolen.chain.clone(), key);
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(thief));
    let met = Meeting::between(client, server, by_client, by_server);
    assert_eq!(met.result.unwrap_err().0, Side::Server);
    let refusal = met.by_server.get().unwrap().unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the certificate breaks the profile: the other side does not hold its key"
    );
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let authority = authority();
    let (by_server, by_client) = (Verdict::new(), Verdict::new());
    let server = server_of(&authority, &honest_of(&authority, bootstrap()), &by_server);
    let mut client = client_of(&authority, &honest_of(&authority, peer()), &by_client);
    client.client_auth_cert_resolver = Arc::new(Nobody);
    let met = Meeting::between(client, server, by_client, by_server);
    let (side, error) = met.result.unwrap_err();
    assert_eq!((side, error), (Side::Server, rustls::Error::NoCertificatesPresented));
    assert_eq!(met.by_server.get(), None);
}

#[test]
fn another_protocol_is_refused() {
    let authority = authority();
    let (by_server, by_client) = (Verdict::new(), Verdict::new());
    let server = server_of(&authority, &honest_of(&authority, bootstrap()), &by_server);
    let mut client = client_of(&authority, &honest_of(&authority, peer()), &by_client);
    client.alpn_protocols = vec![b"macula/2".to_vec()];
    let met = Meeting::between(client, server, by_client, by_server);
    assert_eq!(met.result.unwrap_err(), (Side::Server, rustls::Error::NoApplicationProtocol));
}

#[test]
fn a_session_is_never_resumed_even_if_the_client_would_like_to() {
    let authority = authority();
    let sessions = Resumption::in_memory_sessions(8);
    let mine = honest_of(&authority, peer());
    for _ in 0..2 {
        let (by_server, by_client) = (Verdict::new(), Verdict::new());
        let server = server_of(&authority, &honest_of(&authority, bootstrap()), &by_server);
        let mut client = client_of(&authority, &mine, &by_client);
        client.resumption = sessions.clone();
        let met = Meeting::between(client, server, by_client, by_server);
        met.result.unwrap();
        assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(met.client.tls13_tickets_received(), 0);
        assert_eq!(met.by_server.outcome().unwrap().subject, peer());
    }
}

#[test]
fn a_resumed_session_would_be_noticed() {
    let authority = authority();
    // One configuration for two connections, with what ours leave out put back in: the verdict of
    // the first connection is left behind, and the second asks a verdict that nobody set.
    let (by_server, by_client) = (Verdict::new(), Verdict::new());
    let mut server = server_of(&authority, &honest_of(&authority, bootstrap()), &by_server);
    server.send_tls13_tickets = 1;
    server.session_storage = ServerSessionMemoryCache::new(8);
    let mut client = client_of(&authority, &honest_of(&authority, peer()), &by_client);
    client.resumption = Resumption::in_memory_sessions(8);

    let first = Meeting::between(client.clone(), server.clone(), by_client, by_server);
    first.result.unwrap();
    assert_eq!(first.client.tls13_tickets_received(), 1);
    let second = Meeting::between(client, server, Verdict::new(), Verdict::new());
    second.result.unwrap();
    assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(second.server.peer_certificates().is_some(), "rustls believes the ticket");
    assert_eq!(second.by_server.outcome(), Err(Refusal::SessionResumed));
    assert_eq!(second.by_server.outcome().unwrap_err().code(), "session_resumed");
}

#[test]
fn nodes_of_two_roots_meet_while_both_are_in_the_bundle() {
    let old = authority();
    let new = old.rotated(now());
    let both = old.bundle().merged(&new.bundle()).unwrap();
    let meet = |bundle: &Bundle| {
        let (by_server, by_client) = (Verdict::new(), Verdict::new());
        let bundle = Arc::new(bundle.clone());
        let one = honest_of(&new, bootstrap());
        let server = server_config(&one, bundle.clone(), scope(), ALPN, by_server.clone());
        let client =
            client_config(&honest_of(&old, peer()), bundle, scope(), ALPN, by_client.clone());
        Meeting::between(timed_client(client), timed_server(server), by_client, by_server)
    };
    meet(&both).result.unwrap();
    let met = meet(&new.bundle());
    assert!(met.result.is_err());
    assert_eq!(met.by_server.get().unwrap().unwrap_err().code(), "untrusted_certificate");
}

#[test]
fn alerts_are_read_as_codes_of_the_table() {
    assert_eq!(code_of_alert(48), "untrusted_certificate");
    assert_eq!(code_of_alert(45), "certificate_expired");
    for alert in [0, 40, 42, 46, 51, 116, 255] {
        assert_eq!(code_of_alert(alert), "bad_certificate");
    }
}

/// One handshake, and what came of it.
struct Meeting {
    client: ClientConnection,
    server: ServerConnection,
    by_client: Verdict,
    by_server: Verdict,
    /// Who gave up, and why.
    result: Result<(), (Side, rustls::Error)>,
    /// What the other side made of the alert.
    heard: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Client,
    Server,
}

impl Meeting {
    fn of(authority: &Authority, client: Credentials, server: Credentials) -> Self {
        let (by_server, by_client) = (Verdict::new(), Verdict::new());
        let server = server_of(authority, &server, &by_server);
        let client = client_of(authority, &client, &by_client);
        Self::between(client, server, by_client, by_server)
    }

    fn between(
        client: ClientConfig,
        server: ServerConfig,
        by_client: Verdict,
        by_server: Verdict,
    ) -> Self {
        let name = ServerName::try_from("ignored.invalid").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let result = pump(&mut client, &mut server);
        let alert = match &result {
            Ok(()) => None,
            Err((Side::Server, _)) => pass(&mut server, &mut client).err(),
            Err((Side::Client, _)) => pass(&mut client, &mut server).err(),
        };
        let heard = match alert {
            Some(rustls::Error::AlertReceived(alert)) => Some(code_of_alert(alert.into())),
            _ => None,
        };
        Self { client, server, by_client, by_server, result, heard }
    }
}

/// Carries bytes to and fro until neither side has any.
fn pump(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), (Side, rustls::Error)> {
    while client.wants_write() || server.wants_write() {
        pass(client, server).map_err(|error| (Side::Server, error))?;
        pass(server, client).map_err(|error| (Side::Client, error))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn pass<A, B>(
    from: &mut rustls::ConnectionCommon<A>,
    to: &mut rustls::ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes as &mut dyn io::Read).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn honest_of(authority: &Authority, subject: Subject) -> Credentials {
    let key = NodeKey::generate();
    let chain = authority.issue(&key.csr_der(), &Order::new(subject.clone()), now()).unwrap();
    assert_eq!(honest(authority, &subject, now()).chain.len(), 1);
    Credentials::new(&chain, &key)
}

fn server_of(authority: &Authority, own: &Credentials, verdict: &Verdict) -> ServerConfig {
    let bundle = Arc::new(authority.bundle());
    timed_server(server_config(own, bundle, scope(), ALPN, verdict.clone()))
}

fn client_of(authority: &Authority, own: &Credentials, verdict: &Verdict) -> ClientConfig {
    let bundle = Arc::new(authority.bundle());
    timed_client(client_config(own, bundle, scope(), ALPN, verdict.clone()))
}

fn timed_server(config: Result<ServerConfig, tls::Error>) -> ServerConfig {
    let mut config = config.unwrap();
    config.time_provider = Arc::new(Now);
    config
}

fn timed_client(config: Result<ClientConfig, tls::Error>) -> ClientConfig {
    let mut config = config.unwrap();
    config.time_provider = Arc::new(Now);
    config
}

/// The clock of these tests stands still.
#[derive(Debug)]
struct Now;

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(NOW)))
    }
}

/// Presents nothing.
#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
