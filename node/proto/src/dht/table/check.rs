//! What must hold of the tables after whatever came.

use super::{MAX_CONTACTS, MAX_REALMS, Table, Tables};
use crate::key::Scope;

impl Tables {
    /// Panics unless every contact is where it belongs, and all is within its limits.
    pub(crate) fn check(&self) {
        assert!(self.realms.len() <= MAX_REALMS);
        if let Some(mine) = &self.realm {
            assert!(self.realms.keys().all(|realm| realm == mine), "a peer keeps its own realm");
        }
        self.check_table(&Scope::Infrastructure, &self.infrastructure);
        for (realm, table) in &self.realms {
            assert!(!table.buckets.is_empty(), "an empty table is removed");
            self.check_table(&Scope::Realm(realm.clone()), table);
        }
    }

    fn check_table(&self, scope: &Scope, table: &Table) {
        let len: usize = table.buckets.values().map(super::super::bucket::Bucket::len).sum();
        assert_eq!(table.len, len);
        assert!(len <= MAX_CONTACTS);
        for (index, bucket) in &table.buckets {
            assert!(!bucket.is_empty(), "an empty bucket is removed");
            assert!(bucket.len() <= super::K);
            for contact in bucket.contacts() {
                assert_eq!(self.me.distance(contact.id).leading_zeros(), *index);
                assert_eq!(self.scopes.get(&contact.id), Some(scope));
                assert!(!contact.addresses.is_empty(), "a contact can be dialled");
            }
        }
    }
}
