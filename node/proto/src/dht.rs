//! The distributed hash table: who serves which realm, and what its peers have said of themselves
//! (docs/PROTOCOL.md §5).
//!
//! Kademlia (Maymounkov and Mazières, 2002) with certified ids, seen through a realm: the servers of
//! R's keys are the infrastructure and those peers of R that hold the server grant. [`Dht`] is one
//! node's part of it.
//!
//! | file | holds |
//! | --- | --- |
//! | `bucket`, `table` | the servers that this node knows |
//! | `subnet` | how many of them may be in one network |
//! | `lookup` | one iterative lookup |
//! | `store` | the records that it keeps for others |
//! | `answer` | what it answers to requests |
//! | `budget` | how many of them, and how long it leaves alone who is asked too much |
//! | `ask` | its requests and lookups under way |
//! | `gather` | the records that a lookup has found |
//! | `follow` | the names that it follows: looked up once, and told as they change |
//! | `lease` | the keys that others follow, and what they are told |
//! | `announce` | its own records, republished until withdrawn |
//! | `keep` | what lasts over a restart, on a disk that the shell has |
//! | `replicate` | others' records, brought where they belong when infrastructure comes or goes |
//! | `limits` | what others can make it remember and do, as a table |
//! | `upkeep` | the lookups that fill and refresh the tables |

mod announce;
mod answer;
mod ask;
mod bucket;
pub mod budget;
mod follow;
mod gather;
pub mod keep;
pub(crate) mod lease;
pub(crate) mod limits;
pub mod lookup;
mod replicate;
pub mod store;
mod subnet;
mod table;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_identity::{Chain, Identity, NodeId, NodeKey, Place};
use rand::Rng;
use rand::rngs::StdRng;

use crate::error::{Code, Fault};
use crate::key::{Key, Kind, Scope};
use crate::record::Verifier;
use crate::time::{Deadline, Now};
use crate::wire::{Contact, MAX_ADDRESSES, message};

pub use crate::record::Trust;
pub use bucket::K;
pub use follow::Change;
pub use gather::{Found, FoundRecord};
pub use table::MAX_REALMS;

/// A contact of which nothing was heard for this long is pinged before a full bucket prefers it to
/// a new one. Half of what idle connections last.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// How long what a publisher said still stands here when the connection to it has failed. If it lives
/// it has noticed too, and says it again.
const DOUBT: Duration = Duration::from_secs(60);

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long our own records stand; they are published again after a third of it.
    pub record_ttl: Duration,
    /// A request without an answer fails after this.
    pub request_timeout: Duration,
    /// A request without an answer no longer keeps its lookup from asking another after this.
    pub slow_after: Duration,
    /// How often the tables are refreshed.
    pub refresh_every: Duration,
    /// What is kept for others.
    pub store: store::Limits,
    /// Whether changes of it are noted for [`Dht::poll_kept`]. Without somebody who takes them they
    /// only cost memory.
    pub keep: bool,
    /// How many requests are answered to whom.
    pub budget: budget::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            record_ttl: Duration::from_secs(600),
            request_timeout: Duration::from_secs(2),
            slow_after: Duration::from_millis(500),
            refresh_every: Duration::from_secs(600),
            store: store::Limits::default(),
            keep: false,
            budget: budget::Limits::default(),
        }
    }
}

/// This node, as it proves itself now.
#[derive(Clone, Debug)]
pub struct Me {
    /// What the certificate says.
    pub identity: Identity,
    /// The certified key.
    pub key: Arc<NodeKey>,
    /// The certificate.
    pub chain: Chain,
    /// When this node started, in milliseconds since 1970.
    pub incarnation: u64,
}

/// Names a request until it is answered, times out or is cancelled. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Names a lookup until it ends with [`Output::Found`]. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(u64);

/// What the DHT wants done, or has found out.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this request, over a connection that ends at this very node, and hand the answer or
    /// the failure to [`Dht::handle_response`].
    Request {
        /// Comes back with the response.
        id: RequestId,
        /// Whom to ask, and where it was met.
        to: Contact,
        /// What to ask.
        body: message::request::Body,
    },
    /// Nobody waits for this response any more.
    Cancel {
        /// Of a request that was output before.
        id: RequestId,
    },
    /// A lookup has ended.
    Found {
        /// As it was given by [`Dht::find_values`] or [`Dht::find_nodes`].
        lookup: LookupId,
        /// What it found.
        found: Found,
    },
    /// What stands under a followed name has changed, a look at it has ended, or it is held no longer.
    Followed {
        /// A subscriber's or a provider's.
        kind: Kind,
        /// The rendezvous or the procedure.
        name: String,
        /// For whom something else stands now.
        changes: Vec<Change>,
        /// Whether a look has ended: what stands is known, as far as it can be.
        looked: bool,
        /// Whether a storer tells of changes. If not, a fresh look may show more.
        held: bool,
    },
    /// A round of an announcement has ended: the first, or one that repeats it.
    Announced {
        /// What was announced.
        kind: Kind,
        /// Under which name.
        name: String,
        /// How many nodes keep it now, this one included. When no other does it is tried again soon.
        stored: usize,
        /// Why one of those that do not keep it does not, for instance `stale_incarnation`. With a
        /// storer's refusal it is tried again; with our own, such as `too_large`, it is not.
        refused: Option<Fault>,
    },
    /// A withdrawal has ended.
    Withdrawn {
        /// What was withdrawn.
        kind: Kind,
        /// Under which name.
        name: String,
        /// How many nodes have confirmed it, this one included.
        deleted: usize,
    },
}

/// What has happened so far. Each only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lookups begun, those of announcements and upkeep included.
    pub lookups_started: u64,
    /// Lookups that came to their end.
    pub lookups_finished: u64,
    /// Requests sent.
    pub requests_sent: u64,
    /// Requests that failed, were refused or timed out.
    pub requests_failed: u64,
    /// Requests of others that were refused since there were too many.
    pub requests_over_budget: u64,
    /// Records of others that were refused, by this node as a storer or as a reader.
    pub records_refused: u64,
    /// Records of others that this node sent where they belong.
    pub records_replicated: u64,
    /// Records that made room for others.
    pub records_evicted: u64,
}

/// One node's part of the DHT.
///
/// Tell it who connects ([`Dht::handle_connected`]), hand it requests ([`Dht::handle_request`]) and
/// responses ([`Dht::handle_response`]), and call [`Dht::handle_timeout`] when
/// [`Dht::poll_timeout`] is due. After any of these, and after each command ([`Dht::find_nodes`],
/// [`Dht::find_values`], [`Dht::announce`], [`Dht::withdraw`]), drain [`Dht::poll_output`].
#[derive(Debug)]
pub struct Dht {
    config: Config,
    me: Arc<Me>,
    verifier: Verifier,
    rng: StdRng,
    tables: table::Tables,
    store: store::Store,
    requests: ask::Requests,
    budgets: budget::Budgets,
    rests: budget::Rests,
    lookups: BTreeMap<LookupId, ask::Running>,
    announcements: announce::Announcements,
    upkeep: upkeep::Upkeep,
    leases: lease::Leases,
    following: follow::Following,
    replication: replicate::Replication,
    next_lookup: u64,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Dht {
    /// A node that knows nobody yet.
    #[must_use]
    pub fn new(config: Config, me: Arc<Me>, trust: Trust, mut rng: StdRng) -> Self {
        let mut store = store::Store::new(config.store);
        if config.keep {
            store.keep_changes();
        }
        Self {
            leases: lease::Leases::new(rng.random()),
            following: follow::Following::default(),
            tables: table::Tables::new(&me.identity),
            store,
            config,
            me,
            verifier: Verifier::new(trust),
            rng,
            requests: ask::Requests::default(),
            budgets: budget::Budgets::default(),
            rests: budget::Rests::default(),
            lookups: BTreeMap::new(),
            announcements: announce::Announcements::default(),
            upkeep: upkeep::Upkeep::default(),
            replication: replicate::Replication::default(),
            next_lookup: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The certificate was renewed: every announcement is signed and stored anew.
    pub fn set_me(&mut self, now: Now, me: Arc<Me>) {
        debug_assert_eq!(me.identity.id, self.me.identity.id, "a renewal keeps the id");
        debug_assert_eq!(me.identity.subject.place, self.me.identity.subject.place);
        self.me = me;
        self.announce_all(now);
    }

    /// The bundle changed. What is stored is not judged again: it expires within minutes, and each
    /// reader judges for itself.
    pub fn set_trust(&mut self, trust: Trust) {
        self.verifier.set_trust(trust);
    }

    /// A connection with this node stands, and its certificate has been verified: the only way
    /// into a table, and only for a server of a scope that this node keeps. `addresses` are where
    /// others can dial it, best first.
    pub fn handle_connected(&mut self, now: Now, peer: &Identity, addresses: Vec<SocketAddr>) {
        let Some(scope) = self.tables.scope_of(peer) else {
            // Its grant may have been withdrawn with the renewal of its certificate.
            self.forget(now, peer.id);
            return;
        };
        let contact = Contact { id: peer.id, addresses: dialable(addresses) };
        if contact.addresses.is_empty() {
            return;
        }
        let (is_new, doubtful) = self.tables.insert(now.instant, scope.clone(), contact);
        if let Some(contact) = doubtful {
            self.ping(now, contact);
        }
        if is_new && scope == Scope::Infrastructure {
            self.on_came(now, peer.id);
        }
        self.join(now, scope);
        self.announce_unkept(now);
        if is_new {
            self.announce_nearer(now, peer.id);
        }
    }

    /// A connection has ended. With `failed`, the node is taken for gone: it crashed, or stops.
    /// Otherwise it stays in the table, and is connected again when needed.
    pub fn handle_disconnected(&mut self, now: Now, node: NodeId, failed: bool) {
        if failed {
            self.forget(now, node);
            self.fail_requests_of(now, node);
            self.announce_lost(now, node);
            self.drop_leases(node);
            self.push_lost(now, node);
            self.store.doubt(node, now.after(DOUBT));
            self.follow_failed(now, node);
        }
    }

    /// What is due is done.
    pub fn handle_timeout(&mut self, now: Now) {
        self.store.expire(now);
        self.time_out_requests(now);
        self.stop_lookups(now);
        self.start_due_rounds(now);
        self.start_due_upkeep(now);
        self.push_due(now);
        self.follow_due(now);
        self.guard_due(now);
        self.replicate(now);
    }

    /// When to call [`Dht::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        Deadline::earliest([
            self.store.poll_timeout(),
            self.requests.poll_timeout(),
            self.poll_lookup_timeout(),
            self.announcements.poll_timeout(),
            self.upkeep.poll_timeout(),
            self.leases.poll_timeout(),
            self.following.poll_timeout(),
            self.replication.poll_timeout(),
        ])
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether this node keeps records for others: infrastructure does, and peers with the grant.
    #[must_use]
    pub fn is_server(&self) -> bool {
        let Identity { subject, grants, .. } = &self.me.identity;
        match subject.place {
            Place::Bootstrap | Place::Gateway => true,
            Place::Realm(_) => grants.server,
        }
    }

    /// Whether this node is one of the scope's servers.
    fn serves(&self, scope: &Scope) -> bool {
        let is_infrastructure = self.my_realm().is_none();
        self.is_server()
            && match scope {
                Scope::Infrastructure => is_infrastructure,
                Scope::Realm(realm) => self.tables.keeps(realm),
            }
    }

    /// The realm of a peer; infrastructure has none.
    fn my_realm(&self) -> Option<&crate::name::RealmName> {
        match &self.me.identity.subject.place {
            Place::Realm(realm) => Some(realm),
            Place::Bootstrap | Place::Gateway => None,
        }
    }

    /// After how long a request of this node fails.
    #[must_use]
    pub const fn request_timeout(&self) -> Duration {
        self.config.request_timeout
    }

    /// How many contacts each table holds.
    #[must_use]
    pub fn table_sizes(&self) -> Vec<(Scope, usize)> {
        self.tables.sizes().collect()
    }

    /// The contacts nearest to a place, of those that a lookup in this scope would start with.
    #[must_use]
    pub fn contacts(&self, target: Key, scope: &Scope, count: usize) -> Vec<Contact> {
        self.tables.closest(target, scope, count, None)
    }

    /// How many records are kept, marks of withdrawals included.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.store.len()
    }

    /// How many bytes they cost.
    #[must_use]
    pub const fn record_bytes(&self) -> usize {
        self.store.bytes()
    }

    /// How many leases others hold here.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// How many lookups are under way.
    #[must_use]
    pub fn lookups(&self) -> usize {
        self.lookups.len()
    }

    /// Panics unless what each part remembers agrees with itself and is within its limits.
    #[cfg(feature = "fuzz")]
    pub(crate) fn check(&self) {
        self.store.check();
        self.leases.check();
        self.tables.check();
        self.following.check();
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        Counters { records_evicted: self.store.evicted(), ..self.counters }
    }
}

/// The addresses that can be dialled at all, as many as a contact may have.
fn dialable(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses = addresses.into_iter().filter(|address| {
        let ip = address.ip().to_canonical();
        address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
    });
    addresses.take(MAX_ADDRESSES).collect()
}

/// Whether a failed request means that the node is gone, or serves no longer. Otherwise it has
/// answered, and the refusal was about this request.
fn is_gone(fault: &Fault) -> bool {
    !matches!(
        fault.code,
        Code::Internal
            | Code::Cancelled
            | Code::Overloaded
            | Code::TooLarge
            | Code::UnknownRequest
            | Code::RealmMismatch
            | Code::InvalidRecord
            | Code::RecordExpired
            | Code::StaleIncarnation
            | Code::StaleSequence
            | Code::QuotaExceeded
            | Code::TooManyWatches
            | Code::NotWatching
            | Code::InvalidName
            | Code::InvalidRequest
    )
}

#[cfg(test)]
mod tests;
