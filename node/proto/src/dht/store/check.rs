//! What must hold of a store after whatever came.

use std::collections::BTreeMap;

use super::Store;

impl Store {
    /// Panics unless every index says the same, and all is within its limits.
    pub(crate) fn check(&self) {
        let (mut bytes, mut len) = (0, 0);
        let mut shares: BTreeMap<_, (usize, usize)> = BTreeMap::new();
        for (key, set) in &self.records {
            assert!(!set.is_empty(), "a key without records is removed");
            assert!(set.len() <= self.limits.publishers_per_key, "publishers of a key");
            for (publisher, entry) in set {
                bytes += entry.bytes();
                len += 1;
                let share = shares.entry(*publisher).or_default();
                *share = (share.0 + entry.bytes(), share.1 + 1);
                let expiry = (entry.expires_at, *key, *publisher);
                assert!(self.expiries.contains(&expiry), "a record expires");
                let by_age = &self.shares[publisher].by_age;
                assert_eq!(by_age.get(&entry.age), Some(key), "a record counts in a share");
            }
        }
        assert_eq!((self.bytes, self.len, self.expiries.len()), (bytes, len, len));
        assert!(self.bytes <= self.limits.bytes, "bytes of the store");
        assert_eq!(self.shares.len(), shares.len());
        assert_eq!(self.by_size.len(), shares.len());
        for (publisher, (bytes, keys)) in shares {
            let share = &self.shares[&publisher];
            assert_eq!((share.bytes, share.by_age.len()), (bytes, keys));
            assert!(self.by_size.contains(&(bytes, publisher)));
            assert!(keys <= self.limits.keys_per_publisher, "keys of a publisher");
        }
    }
}
