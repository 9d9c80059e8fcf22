//! What must hold of the leases after whatever came.

use super::{Leases, MAX_ALL, MAX_LOST, MAX_OF_KEY, MAX_OF_NODE};

impl Leases {
    /// Panics unless every index says the same, and all is within its limits.
    pub(in crate::dht) fn check(&self) {
        let of_nodes: usize = self.by_node.values().map(std::collections::BTreeSet::len).sum();
        let of_keys: usize = self.of_key.values().sum();
        let all = self.all.len();
        assert_eq!((of_nodes, of_keys, self.due.len()), (all, all, all));
        assert!(all <= MAX_ALL);
        assert!(self.by_node.values().all(|keys| (1..=MAX_OF_NODE).contains(&keys.len())));
        assert!(self.of_key.values().all(|count| (1..=MAX_OF_KEY).contains(count)));
        for ((key, holder), lease) in &self.all {
            assert_eq!(lease.to.id, *holder);
            assert!(self.due.contains(&(lease.due(), *key, *holder)), "a lease is due");
            assert!(self.by_node[holder].contains(key));
            assert!(lease.lost.len() <= 2 * (MAX_LOST + 1), "publishers to be named as lost");
        }
    }
}
