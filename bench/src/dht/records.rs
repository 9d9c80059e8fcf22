//! What it takes to judge records, to keep them and to show them, and how much memory one takes.
//!
//! A record is judged by its publisher's certificate, which is verified once and then remembered, and
//! by its signature. STORE is the request as it comes from its publisher, decoded; the answer is made
//! and not encoded.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::dht::{Dht, Me};
use macula_proto::key::{Key, Kind};
use macula_proto::record::Verifier;
use macula_proto::wire::message::{FindValue, SignedRecord, request};

use super::world::{World, address, drain, store};
use super::{rival, table};
use crate::{clock, heap, report};

/// What was measured of a store that judges nothing.
pub(super) struct Store {
    /// Records kept a second.
    pub(super) puts: f64,
    /// Bytes for each.
    pub(super) bytes: f64,
}

pub(super) fn run(world: &World, servers: &[Me], peers: &[Me]) -> anyhow::Result<()> {
    // The first of each publisher, then another of each.
    let sign = |prefix: &str| -> anyhow::Result<Vec<SignedRecord>> {
        let numbered = peers.iter().enumerate();
        numbered.map(|(at, peer)| world.provider(peer, &format!("{prefix}.n{at}"), 1)).collect()
    };
    let (first, further) = (sign("first")?, sign("further")?);
    let gateway = world.gateway("me")?;

    let mut took: [Vec<Duration>; 4] = Default::default();
    for _ in 0..5 {
        let (mut verifier, mut dht) = (Verifier::new(world.trust()), world.dht(&gateway));
        for (signed, into) in [(&first, 0), (&further, 1)] {
            took[into].push(clock::time(|| judge(world, &mut verifier, signed)).1);
            let requests = signed.iter().map(store).collect();
            took[into + 2].push(clock::time(|| answer(world, &mut dht, peers, requests)).1);
        }
    }
    let [judge_first, judge_further, keep_first, keep_further] = took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    });
    let alone = keep_further.saturating_sub(judge_further);

    let mut dht = world.dht(&gateway);
    let bodies = |signed: &[SignedRecord]| signed.iter().map(store).collect();
    let (of_first, of_further) = (bodies(&first), bodies(&further));
    let ((), first_bytes) = heap::grown(|| answer(world, &mut dht, peers, of_first));
    let ((), further_bytes) = heap::grown(|| answer(world, &mut dht, peers, of_further));
    anyhow::ensure!(dht.records() == 2 * peers.len(), "every record is kept");

    table::meet(world, &mut dht, servers);
    let find = clock::median(|| {
        let requests = (0..peers.len()).map(|at| find(world, &format!("further.n{at}")));
        let requests: Vec<_> = requests.collect();
        clock::time(|| answer(world, &mut dht, peers, requests)).1
    });

    let theirs = rival::store(&further);
    let per_second = |took| report::rate(peers.len(), took);
    let each = |bytes: isize| bytes as f64 / peers.len() as f64;
    let size = size(&further[0]);
    report::head(&format!("records of {size} bytes, {} publishers", peers.len()));
    report::row(
        "judged per second, certificate new",
        per_second(judge_first),
        None,
        "no such thing",
    );
    report::row(
        "judged per second, certificate known",
        per_second(judge_further),
        None,
        "no such thing",
    );
    report::row("STORE per second, certificate new", per_second(keep_first), None, "no such thing");
    let puts = theirs.as_ref().map(|theirs| theirs.puts);
    report::row(
        "STORE per second, certificate known",
        per_second(keep_further),
        puts,
        "theirs is MemoryStore::put, which verifies nothing",
    );
    report::row(
        "the same less judging (a difference)",
        per_second(alone),
        puts,
        "neither verifies; ours keeps shares and expiries",
    );
    report::row("FIND_VALUE per second, 1 record, 20 contacts", per_second(find), None, "");
    let bytes = theirs.as_ref().map(|theirs| theirs.bytes);
    report::row("bytes for each, the certificate remembered too", each(first_bytes), None, "");
    report::row("bytes for each further one", each(further_bytes), bytes, "");
    Ok(())
}

fn judge(world: &World, verifier: &mut Verifier, signed: &[SignedRecord]) {
    for record in signed {
        black_box(verifier.verify(world.now, record).expect("it is signed as it should be"));
    }
}

/// Each peer asks one thing.
fn answer(world: &World, dht: &mut Dht, peers: &[Me], requests: Vec<request::Body>) {
    for (number, (peer, body)) in peers.iter().zip(requests).enumerate() {
        let answer = dht.handle_request(world.now, &peer.identity, address(number), body);
        black_box(answer.expect("it is asked as it should be"));
        drain(dht);
    }
}

fn find(world: &World, procedure: &str) -> request::Body {
    let key = Key::of(&world.realm, Kind::Provider, procedure);
    let key = Bytes::copy_from_slice(key.as_bytes());
    request::Body::FindValue(FindValue { key, realm: String::new(), lease_ms: 0, has: None })
}

/// How many bytes a signed record has.
pub(super) fn size(signed: &SignedRecord) -> usize {
    signed.body.len() + signed.certificate.len() + signed.signature.len()
}
