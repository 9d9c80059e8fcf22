//! Who is refused, by which name, and what the refused one hears: over real QUIC, with the endpoint
//! as it is shipped on the honest side, as the one who listens and as the one who dials.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "refusals/sessions.rs"]
mod sessions;
#[path = "refusals/stranger.rs"]
mod stranger;
#[path = "refusals/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use macula_identity::forge::{Flaw, forge, honest};
use macula_identity::tls::Credentials;
use macula_identity::{Authority, Bundle, NodeId, NodeKey, Order, Role, Subject, UnixTime};
use macula_node::clock::unix_time;
use macula_node::{Code, Fault, Peer};
use macula_proto::realm::Expected;
use sessions::{Gullible, Tickets, generous_server, greedy_client};
use stranger::{Heard, Met, Stranger};
use world::{Honest, TestNode, authority, bootstrap, credentials, eventually, peer, peer_of};

/// What the honest side says to a dialler with these credentials, and what that one hears.
async fn dialled_by(honest: &Honest, authority: &Authority, them: &Credentials) -> Outcome {
    let theirs = stranger::dial(authority, them, honest.address());
    let (ours, theirs) = tokio::join!(honest.listen(), theirs);
    Outcome::of(honest, ours, theirs)
}

/// What the honest side says when it dials one with these credentials, and what that one hears.
async fn dials(
    honest: &Honest,
    authority: &Authority,
    them: &Credentials,
    expected: Expected,
) -> Outcome {
    let stranger = Stranger::presenting(authority, them);
    let (ours, theirs) = tokio::join!(honest.dial(stranger.address(), expected), stranger.listen());
    Outcome::of(honest, ours, theirs)
}

#[derive(Debug)]
struct Outcome {
    /// Whom the honest side met, or why it refused.
    ours: Result<Subject, Fault>,
    /// How often it has counted that refusal.
    counted: u64,
    heard: Heard,
}

impl Outcome {
    fn of(
        honest: &Honest,
        ours: Result<macula_node::transport::Link, Fault>,
        Met { heard, .. }: Met,
    ) -> Self {
        let counted =
            ours.as_ref().err().map(|fault| honest.metrics.handshakes_refused.get(fault.code));
        let ours = ours.map(|link| link.identity().subject.clone());
        Self { ours, counted: counted.unwrap_or(0), heard }
    }

    /// Refused and counted once, under this name.
    #[track_caller]
    fn assert_refused(&self, code: Code, heard: &Heard) {
        assert_eq!(self.ours.as_ref().unwrap_err().code, code, "{self:?}");
        assert_eq!((self.counted, &self.heard), (1, heard), "{self:?}");
    }

    #[track_caller]
    fn assert_welcome(&self, subject: &Subject) {
        assert_eq!(self.ours.as_ref(), Ok(subject), "{self:?}");
        assert_eq!(self.heard, Heard::Welcome);
    }
}

/// TLS has fewer words than we have.
fn what_an_alert_tells(flaw: Flaw) -> Heard {
    Heard::Alert(match flaw {
        Flaw::OtherCa => "untrusted_certificate",
        Flaw::Expired | Flaw::NotYetValid => "certificate_expired",
        Flaw::OtherMesh
        | Flaw::NoSan
        | Flaw::TwoSans
        | Flaw::MissingEku
        | Flaw::AlteredExtension
        | Flaw::MissingExtension
        | Flaw::SignedByLeaf
        | Flaw::UnknownKeyType => "bad_certificate",
    })
}

// ---- certificates ----

#[tokio::test]
async fn who_listens_refuses_every_flawed_certificate_by_its_name_and_welcomes_its_neighbour() {
    let authority = authority();
    for &flaw in Flaw::ALL {
        let listener = Honest::new(&authority, bootstrap());
        let flawed = forge(&authority, &peer(), flaw, unix_time());
        let code = Code::from_name(flaw.code()).unwrap();
        let outcome = dialled_by(&listener, &authority, &flawed).await;
        outcome.assert_refused(code, &what_an_alert_tells(flaw));
        assert_eq!(listener.metrics.connections_accepted.get(), 0);

        let flawless = honest(&authority, &peer(), unix_time());
        dialled_by(&listener, &authority, &flawless).await.assert_welcome(&peer());
        assert_eq!(listener.metrics.handshakes_refused.total(), 1, "{flaw:?} alone");
    }
}

#[tokio::test]
async fn who_dials_refuses_every_flawed_certificate_by_its_name_and_welcomes_its_neighbour() {
    let authority = authority();
    for &flaw in Flaw::ALL {
        let dialler = Honest::new(&authority, peer());
        let flawed = forge(&authority, &bootstrap(), flaw, unix_time());
        let code = Code::from_name(flaw.code()).unwrap();
        let outcome = dials(&dialler, &authority, &flawed, Expected::Bootstrap).await;
        outcome.assert_refused(code, &what_an_alert_tells(flaw));
        assert_eq!(dialler.metrics.connections_dialled.get(), 0);

        let flawless = honest(&authority, &bootstrap(), unix_time());
        let outcome = dials(&dialler, &authority, &flawless, Expected::Bootstrap).await;
        outcome.assert_welcome(&bootstrap());
        assert_eq!(dialler.metrics.handshakes_refused.total(), 1, "{flaw:?} alone");
    }
}

/// Issued at another time, by an authority whose clock is ahead. It dates back by five minutes.
fn issued_at(authority: &Authority, subject: &Subject, now: UnixTime) -> Credentials {
    let key = NodeKey::generate();
    let chain = authority.issue(&key.csr_der(), &Order::new(subject.clone()), now).unwrap();
    Credentials::new(&chain, &key)
}

#[tokio::test]
async fn a_certificate_of_the_near_future_is_within_skew_and_a_later_one_is_not() {
    let authority = authority();
    let begins_in = |subject: &Subject, seconds| {
        let now = unix_time().as_secs() + macula_identity::authority::BACKDATE.as_secs() + seconds;
        issued_at(&authority, subject, UnixTime::since_unix_epoch(Duration::from_secs(now)))
    };
    let (code, alert) = (Code::CertificateNotYetValid, Heard::Alert("certificate_expired"));
    let skew = macula_identity::verify::SKEW.as_secs();

    let listener = Honest::new(&authority, bootstrap());
    let soon = begins_in(&peer(), skew);
    dialled_by(&listener, &authority, &soon).await.assert_welcome(&peer());
    let late = begins_in(&peer(), skew + 10);
    dialled_by(&listener, &authority, &late).await.assert_refused(code, &alert);

    let dialler = Honest::new(&authority, peer());
    let soon = begins_in(&bootstrap(), skew);
    let outcome = dials(&dialler, &authority, &soon, Expected::Bootstrap).await;
    outcome.assert_welcome(&bootstrap());
    let late = begins_in(&bootstrap(), skew + 10);
    let outcome = dials(&dialler, &authority, &late, Expected::Bootstrap).await;
    outcome.assert_refused(code, &alert);
}

// ---- who is meant ----

#[tokio::test]
async fn a_peer_that_answers_as_a_bootstrap_is_refused_by_who_dials() {
    let authority = authority();
    let dialler = Honest::new(&authority, peer());
    let poser = honest(&authority, &peer_of("com.example.shop", "shop.poser"), unix_time());
    let outcome = dials(&dialler, &authority, &poser, Expected::Bootstrap).await;
    outcome.assert_refused(Code::RoleMismatch, &Heard::Close(Code::RoleMismatch));

    let real = honest(&authority, &bootstrap(), unix_time());
    let outcome = dials(&dialler, &authority, &real, Expected::Bootstrap).await;
    outcome.assert_welcome(&bootstrap());
}

/// Who listens expects nobody in particular, and a dialler has nothing but its certificate to say
/// what it is: it can pose only by a certificate that it signs itself.
#[tokio::test]
async fn a_peer_that_dials_as_a_bootstrap_is_refused_by_who_listens() {
    let authority = authority();
    let listener = Honest::new(&authority, peer());
    let poser = forge(&authority, &bootstrap(), Flaw::SignedByLeaf, unix_time());
    let outcome = dialled_by(&listener, &authority, &poser).await;
    outcome.assert_refused(Code::SignedByLeaf, &Heard::Alert("bad_certificate"));

    let plain = honest(&authority, &peer_of("com.example.shop", "shop.plain"), unix_time());
    let outcome = dialled_by(&listener, &authority, &plain).await;
    assert_eq!(outcome.ours.unwrap().role(), Role::Peer);
}

#[tokio::test]
async fn another_node_than_the_pinned_one_is_refused_and_both_sides_count_it() {
    let authority = authority();
    let (dialler, listener) =
        (Honest::new(&authority, peer()), Honest::new(&authority, bootstrap()));
    let meet = async |pinned: NodeId| {
        tokio::join!(dialler.dial(listener.address(), Expected::Node(pinned)), listener.listen())
    };
    let (dialled, accepted) = meet(dialler.id).await;
    assert_eq!(dialled.unwrap_err().code, Code::NodeMismatch);
    assert_eq!(accepted.unwrap_err().code, Code::NodeMismatch, "heard from the dialler");
    for side in [&dialler, &listener] {
        assert_eq!(side.metrics.handshakes_refused.get(Code::NodeMismatch), 1);
    }

    let (dialled, accepted) = meet(listener.id).await;
    assert_eq!(dialled.unwrap().identity().id, listener.id);
    assert_eq!(accepted.unwrap().identity().id, dialler.id);
}

#[tokio::test]
async fn a_stranger_at_the_pinned_address_hears_that_it_is_not_the_one() {
    let authority = authority();
    let dialler = Honest::new(&authority, peer());
    let them = honest(&authority, &bootstrap(), unix_time());
    let somebody_else = Expected::Node(dialler.id);
    let outcome = dials(&dialler, &authority, &them, somebody_else).await;
    outcome.assert_refused(Code::NodeMismatch, &Heard::Close(Code::NodeMismatch));

    let pinned = Expected::Node(authority.node_id(&bootstrap()));
    dials(&dialler, &authority, &them, pinned).await.assert_welcome(&bootstrap());
}

#[tokio::test]
async fn a_peer_of_another_realm_is_refused_whoever_dials() {
    let authority = authority();
    let foreign = peer_of("com.example.bank", "shop.cart-0");
    let ours = Honest::new(&authority, peer_of("com.example.shop", "shop.cart-1"));
    let closed = Heard::Close(Code::RealmMismatch);

    let them = honest(&authority, &foreign, unix_time());
    let outcome = dialled_by(&ours, &authority, &them).await;
    outcome.assert_refused(Code::RealmMismatch, &closed);
    let because = &outcome.ours.unwrap_err().because;
    assert!(!because.contains("bank"), "the other realm is not named: {because}");

    let ours = Honest::new(&authority, peer_of("com.example.shop", "shop.cart-1"));
    let pinned = |subject| Expected::Node(authority.node_id(subject));
    let outcome = dials(&ours, &authority, &them, pinned(&foreign)).await;
    outcome.assert_refused(Code::RealmMismatch, &closed);

    // The same name in our realm.
    let fellow = honest(&authority, &peer(), unix_time());
    dialled_by(&ours, &authority, &fellow).await.assert_welcome(&peer());
    dials(&ours, &authority, &fellow, pinned(&peer())).await.assert_welcome(&peer());
}

// ---- sessions ----
//
// `session_resumed` itself cannot be provoked over QUIC: it is the name for a handshake in which
// nobody was judged, and neither side of ours gives or takes what a resumption needs. These tests
// show just that; `macula-identity`'s `a_resumed_session_would_be_noticed` shows that it would be
// refused by that name if it happened all the same.

#[tokio::test]
async fn who_listens_gives_no_ticket_to_a_client_that_would_resume() {
    let authority = authority();
    let listener = Honest::new(&authority, bootstrap());
    let (verifier, tickets) = (Arc::new(Gullible::default()), Tickets::new());
    let them = honest(&authority, &peer(), unix_time());
    let client = greedy_client(&them, &verifier, &tickets);
    for handshakes in 1..=2 {
        let theirs = stranger::dial_with(client.clone(), listener.address());
        let (ours, theirs) = tokio::join!(listener.listen(), theirs);
        Outcome::of(&listener, ours, theirs).assert_welcome(&peer());
        assert_eq!(verifier.handshakes_in_full(), handshakes);
    }
    assert_eq!(tickets.given(), 0);
}

#[tokio::test]
async fn who_dials_uses_no_ticket_of_a_server_that_gives_them() {
    let authority = authority();
    let dialler = Honest::new(&authority, peer());
    let verifier = Arc::new(Gullible::default());
    let them = honest(&authority, &bootstrap(), unix_time());
    let server = Stranger::with(generous_server(&them, &verifier));
    for handshakes in 1..=2 {
        let ours = dialler.dial(server.address(), Expected::Bootstrap);
        let (ours, theirs) = tokio::join!(ours, server.listen());
        Outcome::of(&dialler, ours, theirs).assert_welcome(&bootstrap());
        assert_eq!(verifier.handshakes_in_full(), handshakes);
    }
}

/// Else the two tests above would show nothing.
#[tokio::test]
async fn those_two_strangers_do_resume_with_each_other() {
    let authority = authority();
    let (at_client, at_server) = (Arc::new(Gullible::default()), Arc::new(Gullible::default()));
    let tickets = Tickets::new();
    let server = honest(&authority, &bootstrap(), unix_time());
    let server = Stranger::with(generous_server(&server, &at_server));
    let client = honest(&authority, &peer(), unix_time());
    let client = greedy_client(&client, &at_client, &tickets);
    for _ in 0..2 {
        let theirs = stranger::dial_with(client.clone(), server.address());
        let (one, other) = tokio::join!(theirs, server.listen());
        assert_eq!((one.heard, other.heard), (Heard::Welcome, Heard::Welcome));
    }
    assert!(tickets.given() > 0);
    assert_eq!((at_client.handshakes_in_full(), at_server.handshakes_in_full()), (1, 1));
}

// ---- connections that are open ----

const DAY: Duration = Duration::from_hours(24);

fn closed(peer: &Peer, code: Code) -> u64 {
    peer.metrics().connections_closed.get(code)
}

/// A bootstrap, and two peers that have joined it: one whose fate a test decides, and its neighbour.
struct Joined {
    bootstrap: TestNode,
    peer: TestNode,
    neighbour: TestNode,
}

impl Joined {
    async fn with(
        bootstrap: Arc<macula_node::identity::Credentials>,
        peer: Arc<macula_node::identity::Credentials>,
        neighbour: Arc<macula_node::identity::Credentials>,
    ) -> Self {
        let bootstrap = TestNode::start(bootstrap, None);
        let seed = bootstrap.address().await;
        let [peer, neighbour] = [peer, neighbour].map(|it| TestNode::start(it, Some(seed)));
        let joined = Self { bootstrap, peer, neighbour };
        eventually("both peers join", async || {
            joined.bootstrap.connected_to().await == ["shop.cart-0", "shop.cart-1"]
                && joined.peer.connected_to().await == ["bootstrap-0"]
                && joined.neighbour.connected_to().await == ["bootstrap-0"]
        })
        .await;
        // A close is one packet that nobody repeats, and quinn holds it back for ever when the
        // congestion window is full at that moment: then the other end hears a stateless reset. So
        // let the connections come to rest first.
        eventually("the first lookups end", async || {
            [&joined.peer, &joined.neighbour].iter().all(|node| {
                let (started, ended) =
                    (&node.metrics().lookups_started, &node.metrics().lookups_completed);
                started.get() > 0 && started.get() == ended.get()
            })
        })
        .await;
        joined
    }

    /// Both ends have seen the link between bootstrap and peer end with this code, stay apart, and
    /// the neighbour has noticed nothing.
    async fn assert_parted_for(&self, code: Code) {
        let Self { bootstrap, peer, neighbour } = self;
        eventually(code.name(), async || {
            bootstrap.connected_to().await == ["shop.cart-1"]
                && peer.connected_to().await.is_empty()
                && closed(bootstrap.node.peer(), code) == 1
                && closed(peer.node.peer(), code) == 1
        })
        .await;
        assert_eq!(bootstrap.metrics().connections_closed.total(), 1);
        assert_eq!(neighbour.metrics().connections_closed.total(), 0);
        assert_eq!(neighbour.connected_to().await, ["bootstrap-0"]);
    }

    async fn stop(self) {
        let Self { bootstrap, peer, neighbour } = self;
        for node in [peer, neighbour, bootstrap] {
            node.node.stop().await.unwrap();
        }
    }
}

fn neighbour() -> Subject {
    peer_of("com.example.shop", "shop.cart-1")
}

#[tokio::test]
async fn an_open_connection_ends_with_the_certificate_of_who_dialled() {
    let authority = authority();
    let issue = |subject, lifetime| credentials(&authority, subject, lifetime, &authority.bundle());
    let short = issue(peer(), Duration::from_secs(3));
    let not_after = short.identity.not_after;
    let joined = Joined::with(issue(bootstrap(), DAY), short, issue(neighbour(), DAY)).await;
    assert!(unix_time().as_secs() < not_after, "connected while it was good");
    joined.assert_parted_for(Code::CertificateExpired).await;
    let now = unix_time().as_secs();
    assert!((not_after..=not_after + 1).contains(&now), "{now}, and not at {not_after}");
    eventually("a dial with the expired certificate is refused by that name", async || {
        joined.bootstrap.metrics().handshakes_refused.get(Code::CertificateExpired) > 0
            && joined.peer.metrics().handshakes_refused.get(Code::CertificateExpired) > 0
    })
    .await;
    joined.stop().await;
}

#[tokio::test]
async fn an_open_connection_ends_with_the_certificate_of_who_listened() {
    let authority = authority();
    let issue = |subject, lifetime| credentials(&authority, subject, lifetime, &authority.bundle());
    let short = issue(bootstrap(), Duration::from_secs(3));
    let not_after = short.identity.not_after;
    let Joined { bootstrap, peer, neighbour } =
        Joined::with(short, issue(peer(), DAY), issue(neighbour(), DAY)).await;
    assert!(unix_time().as_secs() < not_after, "connected while it was good");
    eventually("both ends of both connections see the expiry", async || {
        bootstrap.connected_to().await.is_empty()
            && peer.connected_to().await.is_empty()
            && neighbour.connected_to().await.is_empty()
            && closed(bootstrap.node.peer(), Code::CertificateExpired) == 2
            && closed(peer.node.peer(), Code::CertificateExpired) == 1
            && closed(neighbour.node.peer(), Code::CertificateExpired) == 1
    })
    .await;
    let now = unix_time().as_secs();
    assert!((not_after..=not_after + 1).contains(&now), "{now}, and not at {not_after}");
    Joined { bootstrap, peer, neighbour }.stop().await;
}

/// The same credentials, with another bundle.
fn trusting(node: &TestNode, bundle: &Bundle) -> Arc<macula_node::identity::Credentials> {
    let mut changed = macula_node::identity::Credentials::clone(&node.credentials.borrow());
    changed.bundle = Arc::new(bundle.clone());
    Arc::new(changed)
}

#[tokio::test]
async fn who_listens_closes_at_once_when_its_bundle_drops_the_root_of_who_dialled() {
    let old = authority();
    let new = old.rotated(unix_time());
    let both = old.bundle().merged(&new.bundle()).unwrap();
    let joined = Joined::with(
        credentials(&new, bootstrap(), DAY, &both),
        credentials(&old, peer(), DAY, &both),
        credentials(&new, neighbour(), DAY, &both),
    )
    .await;
    let without_old = both.without(old.root().id()).unwrap();
    joined.bootstrap.credentials.send_replace(trusting(&joined.bootstrap, &without_old));
    joined.assert_parted_for(Code::TrustWithdrawn).await;
    joined.stop().await;
}

#[tokio::test]
async fn who_dialled_closes_at_once_when_its_bundle_drops_the_root_of_who_listens() {
    let old = authority();
    let new = old.rotated(unix_time());
    let both = old.bundle().merged(&new.bundle()).unwrap();
    let joined = Joined::with(
        credentials(&old, bootstrap(), DAY, &both),
        credentials(&new, peer(), DAY, &both),
        credentials(&new, neighbour(), DAY, &both),
    )
    .await;
    let without_old = both.without(old.root().id()).unwrap();
    joined.peer.credentials.send_replace(trusting(&joined.peer, &without_old));
    joined.assert_parted_for(Code::TrustWithdrawn).await;
    joined.stop().await;
}
