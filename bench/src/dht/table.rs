//! What it takes to meet servers, to name the closest ones, and to remember them.
//!
//! Each meeting is of a certified node on a connection, since nothing else enters a table: with it the
//! node asks whom it should tell, and who of a full bucket should be pinged. Buckets hold twenty, so
//! of 10,000 some two hundred stay.

use std::hint::black_box;

use macula_proto::dht::{Dht, K, Me};
use macula_proto::key::{Key, Scope};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::rival;
use super::world::{World, address, drain};
use crate::{clock, heap, report};

/// How many places are asked for the closest to them.
pub(super) const TARGETS: usize = 10_000;

/// What was measured of a table.
pub(super) struct Table {
    /// Meetings a second.
    pub(super) inserts: f64,
    /// Answers of the twenty closest a second.
    pub(super) closest: f64,
    /// How many contacts have a place at the end.
    pub(super) stay: f64,
    /// Bytes for each of those, the empty table left out.
    pub(super) bytes: f64,
    /// Bytes of the empty table.
    pub(super) empty: f64,
}

pub(super) fn run(world: &World, servers: &[Me]) -> anyhow::Result<()> {
    let ours = ours(world, servers)?;
    let theirs = rival::table();
    let theirs = |part: fn(&Table) -> f64| theirs.as_ref().map(part);
    report::head("a table, 10,000 servers met");
    report::row("servers met, per second", ours.inserts, theirs(|t| t.inserts), "");
    report::row("the 20 closest to a place, per second", ours.closest, theirs(|t| t.closest), "");
    report::row("servers that stay", ours.stay, theirs(|t| t.stay), "");
    report::row("bytes for each that stays", ours.bytes, theirs(|t| t.bytes), "");
    let at_once = "theirs makes all buckets at once";
    report::row("bytes of the empty table", ours.empty, theirs(|t| t.empty), at_once);
    Ok(())
}

fn ours(world: &World, servers: &[Me]) -> anyhow::Result<Table> {
    let me = world.gateway("me")?;
    let inserts = clock::median(|| {
        let mut dht = world.dht(&me);
        clock::time(|| meet(world, &mut dht, servers)).1
    });
    let (mut dht, empty) = heap::grown(|| world.dht(&me));
    let ((), bytes) = heap::grown(|| meet(world, &mut dht, servers));
    let stay = dht.table_sizes().iter().map(|(_, size)| size).sum::<usize>();
    let mut rng = StdRng::seed_from_u64(1);
    let targets: Vec<_> = (0..TARGETS).map(|_| Key::from_bytes(rng.random())).collect();
    let closest = clock::median(|| {
        let look = || {
            for target in &targets {
                black_box(dht.contacts(*target, &Scope::Infrastructure, K));
            }
        };
        clock::time(look).1
    });
    Ok(Table {
        inserts: report::rate(servers.len(), inserts),
        closest: report::rate(TARGETS, closest),
        stay: stay as f64,
        bytes: bytes as f64 / stay as f64,
        empty: empty as f64,
    })
}

/// All of them connect, one after the other.
pub(super) fn meet(world: &World, dht: &mut Dht, servers: &[Me]) {
    for (number, server) in servers.iter().enumerate() {
        dht.handle_connected(world.now, &server.identity, vec![address(number)]);
        drain(dht);
    }
}
