//! Garbage on the UDP port: dropped and counted, and nobody notices.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::UdpSocket;
use std::time::Duration;

use macula_node::dev::{Mesh, Options};
use macula_node::peer::{Peer, Request};
use macula_node::{Fault, Payload};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio_util::sync::CancellationToken;

const DATAGRAMS: u64 = 20_000;
/// Sent before the receiver is waited for: fewer than the smallest socket buffer holds.
const BURST: u64 = 50;
/// More than quinn takes on a path whose size nobody has probed.
const LONGEST: usize = 2000;
const SEED: u64 = 0x6d61_6375_6c61;
const MOST_GROWTH: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_dropped_and_counted_while_calls_go_through_and_memory_does_not_grow() {
    let mesh = mesh().await;
    let [caller, target] = mesh.peers();
    let echo = |request: Request| async move { Ok::<Payload, Fault>(request.payload) };
    let _serving = target.advertise("echo".parse().unwrap(), echo).await.unwrap();
    call(caller, 0).await;
    // Buffers and allocator have their size before anything is measured.
    fire(target, SEED + 1, DATAGRAMS / 4).await;
    let (connections, memory) = (connections(target).await, resident_bytes());
    assert!(!connections.is_empty());

    let fired = CancellationToken::new();
    let calling = tokio::spawn({
        let (caller, fired) = (caller.clone(), fired.clone());
        async move {
            let mut calls = 0_u32;
            while !fired.is_cancelled() {
                calls += 1;
                call(&caller, calls).await;
            }
            calls
        }
    });
    fire(target, SEED, DATAGRAMS).await;
    fired.cancel();
    let calls = calling.await.unwrap();

    assert!(calls > 10, "only {calls} calls went through");
    let growth = resident_bytes().saturating_sub(memory);
    assert!(growth < MOST_GROWTH, "{growth} bytes more than before");
    assert_eq!(self::connections(target).await, connections);
    for peer in [caller, target] {
        let metrics = peer.metrics();
        assert_eq!(metrics.connections_closed.total(), 0);
        assert_eq!((metrics.calls_failed.total(), metrics.handshakes_refused.total()), (0, 0));
        assert_eq!(metrics.handshakes_under_way.get(), 0, "garbage begins no handshake");
    }
    mesh.stop().await;
}

/// Fires as many random datagrams, and returns when the node has counted every one of them.
async fn fire(target: &Peer, seed: u64, datagrams: u64) {
    let dropped = || target.metrics().datagrams_dropped.total();
    let (mut random, before) = (StdRng::seed_from_u64(seed), dropped());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(target.address().unwrap()).unwrap();
    let mut datagram = [0; LONGEST];
    for sent in 1..=datagrams {
        // An empty one is nothing that could be dropped.
        let length = random.random_range(1..=LONGEST);
        random.fill_bytes(&mut datagram[..length]);
        socket.send(&datagram[..length]).unwrap();
        if sent % BURST == 0 || sent == datagrams {
            // Of 2^31 one looks like a packet of QUIC 1 and is found out only when decrypted.
            eventually(&format!("{sent} of seed {seed} are counted"), || {
                dropped() - before >= sent
            })
            .await;
        }
    }
    assert_eq!(dropped() - before, datagrams, "each once");
}

async fn call(caller: &Peer, number: u32) {
    let payload = Payload::bytes(number.to_string());
    let answer = caller.call("echo".parse().unwrap(), payload.clone(), PATIENCE).await;
    assert_eq!(answer.unwrap().body, payload.body);
}

async fn connections(peer: &Peer) -> Vec<String> {
    let status = peer.status().await.unwrap();
    let mut all: Vec<_> =
        status.connections.into_iter().map(|it| format!("{} {}", it.subject, it.address)).collect();
    all.sort();
    all
}

/// What this process holds in memory (proc(5), `statm`: the second number, in pages).
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE
}

/// Waits until it holds; the one place where this test lets time pass.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never happened: {what}");
}

async fn mesh() -> Mesh {
    let free = "127.0.0.1:0".parse().unwrap();
    let join_file = tempfile::tempdir().unwrap().keep().join("join.json");
    let options = Options { apis: [free, free], join_file: Some(join_file), ..Options::default() };
    Mesh::start(options).await.unwrap()
}
