//! Certificates that are renewed under traffic: every connection is replaced, and no message is lost,
//! doubled or overtaken by another.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::time::{Duration, Instant};

use macula_node::dev::{Mesh, Options};
use macula_node::peer::{Delivery, Peer, Subscription};
use macula_node::{Code, Payload};
use tokio::time::MissedTickBehavior;

const LIFETIME: Duration = Duration::from_secs(10);
/// Each is renewed at half of its life.
const RENEWALS: u64 = 6;
const PER_SECOND: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn ten_second_certificates_are_renewed_six_times_and_each_message_arrives_exactly_once() {
    let mesh = mesh().await;
    let [publisher, subscriber] = mesh.peers();
    let mut subscription = subscriber.subscribe("count".parse().unwrap()).await.unwrap();
    // The first one is published until it arrives: then the subscriber has been found.
    let first = Payload::bytes("0");
    assert_eq!(publisher.publish("count".parse().unwrap(), first).await.unwrap(), 1);
    assert_eq!(next_number(&mut subscription).await, 0);

    let replaced = || [publisher, subscriber].map(superseded);
    let expiry_at_first = publisher.status().await.unwrap().certificate.not_after;
    let publishing = {
        let publisher = publisher.clone();
        tokio::spawn(async move { publish_numbers(&publisher).await })
    };
    let started = Instant::now();
    let mut expected = 1;
    let published = loop {
        let number = next_number(&mut subscription).await;
        assert_eq!(number, expected, "after {:?}; replaced: {:?}", started.elapsed(), replaced());
        expected += 1;
        if publishing.is_finished() {
            break publishing.await.unwrap();
        }
    };
    while expected <= published {
        assert_eq!(next_number(&mut subscription).await, expected, "the last ones");
        expected += 1;
    }

    let enough = (started.elapsed().as_secs() + 1) * PER_SECOND * 9 / 10;
    assert!(
        published >= enough,
        "{published} in {:?} are no {PER_SECOND} a second",
        started.elapsed()
    );
    let renewed = publisher.status().await.unwrap().certificate.not_after - expiry_at_first;
    assert!(renewed >= RENEWALS * LIFETIME.as_secs() / 2 - 1, "by {renewed} s");
    for (peer, replaced) in
        [("publisher", superseded(publisher)), ("subscriber", superseded(subscriber))]
    {
        // To the bootstrap, the gateway and the other peer.
        assert!(replaced >= RENEWALS, "{peer}: {replaced}");
    }
    for peer in [publisher, subscriber] {
        let metrics = peer.metrics();
        assert_eq!(metrics.connections_closed.get(Code::CertificateExpired), 0);
        assert_eq!(metrics.messages_dropped.total(), 0);
        assert_eq!(metrics.messages_duplicate.get(), 0);
        assert_eq!(metrics.gaps.get(), 0);
    }
    mesh.stop().await;
}

/// Publishes 1, 2, 3, … until the certificates have been renewed often enough; gives the last.
async fn publish_numbers(publisher: &Peer) -> u64 {
    let topic = "count".parse().unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / PER_SECOND));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut number, started) = (0, Instant::now());
    // Half a life more: what the last renewal has begun shall end under traffic.
    while started.elapsed() < LIFETIME / 2 * u32::try_from(RENEWALS + 1).unwrap() {
        tick.tick().await;
        number += 1;
        publisher.send(&topic, Payload::bytes(number.to_string())).await.unwrap();
    }
    number
}

async fn next_number(subscription: &mut Subscription) -> u64 {
    match tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap().unwrap() {
        Delivery::Message(message) => {
            std::str::from_utf8(&message.payload.body).unwrap().parse().unwrap()
        }
        Delivery::Gap { missed } => panic!("{missed} messages were lost"),
    }
}

fn superseded(peer: &Peer) -> u64 {
    peer.metrics().connections_closed.get(Code::Superseded)
}

async fn mesh() -> Mesh {
    let free = "127.0.0.1:0".parse().unwrap();
    let join_file = tempfile::tempdir().unwrap().keep().join("join.json");
    let options = Options {
        apis: [free, free],
        lifetime: LIFETIME,
        join_file: Some(join_file),
        ..Options::default()
    };
    Mesh::start(options).await.unwrap()
}
