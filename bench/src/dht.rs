//! The DHT's parts on their own, then lookups among real nodes.
//!
//! | file | measures |
//! | --- | --- |
//! | `table` | servers met, the closest ones, and what a contact costs |
//! | `records` | records verified and kept, and what one costs |
//! | `watch` | one change told to all who watch |
//! | `lookups` | lookups among 50 nodes over QUIC |
//! | `rival` | the same work, done by libp2p-kad |
//! | `world` | nodes with certificates, none of which runs |
//!
//! Of everything but `lookups` the processor time of one thread is measured, the middle one of five.

mod lookups;
mod records;
#[cfg(feature = "rivals")]
mod rival;
#[cfg(not(feature = "rivals"))]
#[path = "dht/no_rival.rs"]
mod rival;
mod table;
mod watch;
mod world;

/// How many servers a table is shown.
const SERVERS: usize = 10_000;
/// How many records are kept: as many publishers as a verifier remembers certificates of.
const RECORDS: usize = 4000;
/// How many watch one key.
const WATCHERS: usize = 1000;
/// How many nodes run for the lookups.
const NODES: usize = 50;

/// Measures, and prints.
pub(crate) async fn run() -> anyhow::Result<()> {
    if cfg!(feature = "rivals") {
        println!("ratio: ours / theirs. Of rates more is better, of times and bytes less.");
    } else {
        println!("libp2p-kad beside it, as ratios: make bench ONLY=dht RIVALS=1");
    }
    let world = world::World::new()?;
    let servers = world.servers(SERVERS)?;
    table::run(&world, &servers)?;
    let peers = world.peers(RECORDS)?;
    records::run(&world, &servers, &peers)?;
    watch::run(&world, &peers[..=WATCHERS])?;
    drop((servers, peers));
    lookups::run().await
}
