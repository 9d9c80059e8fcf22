//! What others can make this node remember and do, as a table (docs/LIMITS.md).

use super::{
    announce, answer, bucket, budget, follow, gather, keep, lease, lookup, replicate, store,
    subnet, table, upkeep,
};
use crate::limits::{Limit, bytes, count, time};

/// Every bound of the DHT.
pub(crate) fn all() -> Vec<Limit> {
    let store = store::Limits::default();
    let budget = budget::Limits::default();
    vec![
        count(
            "dht/budget.rs",
            "Limits::peer",
            budget.peer.per_second as usize,
            "Requests a second about nodes and records that one peer is answered, four seconds' worth at once; more is `overloaded`, with when to come back.",
        ),
        count(
            "dht/budget.rs",
            "Limits::infrastructure",
            budget.infrastructure.per_second as usize,
            "The same for one node of infrastructure, which brings the records of others too.",
        ),
        count(
            "dht/budget.rs",
            "MAX_BUCKETS",
            budget::MAX_BUCKETS,
            "Nodes whose budgets are remembered; past it the one is forgotten that owes the least.",
        ),
        count(
            "dht/budget.rs",
            "MAX_RESTS",
            budget::MAX_RESTS,
            "Nodes that are remembered to have asked for a pause.",
        ),
        count(
            "dht/subnet.rs",
            "MAX_PER_BUCKET",
            subnet::MAX_PER_BUCKET,
            "Servers of one realm in one public network that a bucket holds.",
        ),
        count(
            "dht/subnet.rs",
            "MAX_PER_TABLE",
            subnet::MAX_PER_TABLE,
            "Servers of one realm in one public network that a table holds.",
        ),
        count(
            "dht/replicate.rs",
            "MAX_RUNNING",
            replicate::MAX_RUNNING,
            "Records on their way to where they belong since infrastructure came or went.",
        ),
        count(
            "dht/replicate.rs",
            "MAX_LOOKED_AT",
            replicate::MAX_LOOKED_AT,
            "Records that are looked at for that before others get their turn.",
        ),
        count(
            "dht/replicate.rs",
            "MAX_CHANGES",
            replicate::MAX_CHANGES,
            "Arrivals and departures that wait for it; past it publishers bring their records themselves.",
        ),
        count(
            "dht/keep.rs",
            "MAX_CONTACTS",
            keep::MAX_CONTACTS,
            "Nodes that are kept on disk, each dialled once after a restart.",
        ),
        count(
            "dht/lookup.rs",
            "MAX_ROUNDS",
            lookup::MAX_ROUNDS,
            "Rounds of a lookup: who is known only from farther away is not asked.",
        ),
        count(
            "dht/lookup.rs",
            "MAX_TOLD",
            lookup::MAX_TOLD,
            "Addresses of a node that count in one answer of a lookup.",
        ),
        count(
            "dht/lookup.rs",
            "MAX_PLACES",
            lookup::MAX_PLACES,
            "Addresses of a node that a lookup remembers.",
        ),
        bytes(
            "dht/store.rs",
            "Limits::bytes",
            store.bytes,
            "Records that a node keeps for others; past it the publisher who holds the most loses its oldest.",
        ),
        count(
            "dht/store.rs",
            "Limits::publishers_per_key",
            store.publishers_per_key,
            "Publishers under one key; past it the one who holds the most makes room, or the newcomer gets `quota_exceeded`.",
        ),
        count(
            "dht/store.rs",
            "Limits::keys_per_publisher",
            store.keys_per_publisher,
            "Records of one publisher; one more is `quota_exceeded`.",
        ),
        count(
            "dht/lease.rs",
            "MAX_OF_NODE",
            lease::MAX_OF_NODE,
            "Keys that one node watches here; one more is `too_many_watches`.",
        ),
        count("dht/lease.rs", "MAX_OF_KEY", lease::MAX_OF_KEY, "Nodes that watch one key."),
        count(
            "dht/lease.rs",
            "MAX_ALL",
            lease::MAX_ALL,
            "Leases in all; some 300 bytes each. To each holder at most one push is under way.",
        ),
        time(
            "dht/lease.rs",
            "LEASE",
            lease::LEASE,
            "How long a lease lasts, whatever is asked for.",
        ),
        count(
            "dht/bucket.rs",
            "K",
            bucket::K,
            "Nodes in one bucket, in one answer, and that one record is stored at.",
        ),
        count(
            "dht/bucket.rs",
            "WAITING",
            bucket::WAITING,
            "Nodes that wait for a place in a full bucket; past it the longest waiting is forgotten.",
        ),
        count(
            "dht/table.rs",
            "MAX_CONTACTS",
            table::MAX_CONTACTS,
            "Nodes in the table of infrastructure, or of one realm.",
        ),
        count(
            "dht/table.rs",
            "MAX_REALMS",
            table::MAX_REALMS,
            "Realms of whose servers infrastructure keeps a table; others are served all the same.",
        ),
        count("dht/lookup.rs", "ALPHA", lookup::ALPHA, "Requests of one lookup under way."),
        count(
            "dht/lookup.rs",
            "MAX_ASKED",
            lookup::MAX_ASKED,
            "Nodes that one lookup asks, whatever those that answer say.",
        ),
        count(
            "dht/gather.rs",
            "MAX_PUBLISHERS",
            gather::MAX_PUBLISHERS,
            "Publishers that one lookup finds, and records that it reads of one answer.",
        ),
        bytes(
            "dht/answer.rs",
            "MAX_SHOWN",
            answer::MAX_SHOWN,
            "Records in one answer or push; with more it says that it is truncated.",
        ),
        count(
            "dht/follow.rs",
            "MAX_KNOWN",
            follow::MAX_KNOWN,
            "Publishers that are known under one name; past it the one whose record ends first is forgotten.",
        ),
        count(
            "dht/follow.rs",
            "WATCHED",
            follow::WATCHED,
            "Storers that are left a lease on one name.",
        ),
        count(
            "dht/follow.rs",
            "MAX_LOOKS",
            follow::MAX_LOOKS,
            "Fresh looks at followed names under way, however many storers were lost.",
        ),
        count(
            "dht/announce.rs",
            "MAX_ROUNDS",
            announce::MAX_ROUNDS,
            "Announcements that are being stored at a time.",
        ),
        count(
            "dht/announce.rs",
            "MAX_GUARDS",
            announce::MAX_GUARDS,
            "Keepers of announcements that are pinged at a time.",
        ),
        count(
            "dht/upkeep.rs",
            "MAX_RUNNING",
            upkeep::MAX_RUNNING,
            "Lookups that refresh tables under way, however many realms there are.",
        ),
    ]
}
