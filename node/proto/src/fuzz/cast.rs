//! Who takes part: made once, since keys and certificates are slow to make. The ids are the same in
//! every run, the keys are not.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use macula_identity::{NodeId, Place};

use crate::dht::Me;
use crate::record::Trust;
use crate::sim::cast::Cast;
use crate::time::Now;

/// Noon of a day in 2026.
pub(super) const NOON_MS: u64 = 1_781_000_000_000;
/// The realm that is looked at. Its name and the other's stand nowhere else.
pub(super) const RED: &str = "com.example.red";
/// The realm that must never be seen there.
pub(super) const BLUE: &str = "org.other.blue";

/// The infrastructure, two realms, and a mesh that nobody trusts.
#[derive(Debug)]
pub(super) struct Everybody {
    pub(super) start: Now,
    pub(super) cast: Cast,
    pub(super) foreign: Trust,
    /// Bootstraps and a gateway, then peers of RED, the last of which misbehaves, then peers of BLUE.
    pub(super) nodes: Vec<Node>,
    /// Nodes 0, 4 and 7 once more, with renewed certificates.
    pub(super) renewed: Vec<Arc<Me>>,
    /// Of another authority.
    pub(super) stranger: Arc<Me>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) me: Arc<Me>,
    pub(super) address: SocketAddr,
}

impl Node {
    pub(super) fn id(&self) -> NodeId {
        self.me.identity.id
    }

    /// `None` of infrastructure.
    pub(super) fn realm(&self) -> Option<&str> {
        self.me.identity.subject.realm().map(|realm| realm.as_str())
    }
}

/// The kinds of node that are put to the test, by their place in [`Everybody::nodes`]: a bootstrap, a
/// peer of RED that serves, one that only asks.
pub(super) const TESTED: [usize; 3] = [0, 4, 7];
/// The member of RED who signs anything.
pub(super) const MEMBER: usize = 9;

/// The same for all inputs of a run.
pub(super) fn everybody() -> &'static Everybody {
    static EVERYBODY: OnceLock<Everybody> = OnceLock::new();
    EVERYBODY.get_or_init(|| {
        let start = Now { instant: Instant::now(), unix_ms: NOON_MS };
        let (cast, other) = (Cast::new(7, start), Cast::new(8, start));
        let realm = |name: &str| Place::Realm(name.parse().expect("a realm"));
        let places = [
            (Place::Bootstrap, "b0", true),
            (Place::Bootstrap, "b1", true),
            (Place::Bootstrap, "b2", true),
            (Place::Gateway, "g0", true),
            (realm(RED), "r0", true),
            (realm(RED), "r1", true),
            (realm(RED), "r2", true),
            (realm(RED), "r3", false),
            (realm(RED), "r4", false),
            (realm(RED), "r5", true),
            (realm(BLUE), "s0", true),
            (realm(BLUE), "s1", true),
            (realm(BLUE), "s2", false),
        ];
        let node = |(place, name, server): &(Place, &str, bool)| {
            cast.node(start, place.clone(), name, *server)
        };
        let nodes = (0..).zip(&places).map(|(n, place)| {
            let address = SocketAddr::from(([10, 0, 0, n], 9443));
            Node { me: node(place), address }
        });
        Everybody {
            start,
            foreign: other.trust(),
            nodes: nodes.collect(),
            renewed: TESTED.iter().map(|at| node(&places[*at])).collect(),
            stranger: other.node(start, realm(RED), "r0", true),
            cast,
        }
    })
}
