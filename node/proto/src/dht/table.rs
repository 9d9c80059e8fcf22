//! Which servers this node knows: one table of k-buckets for each scope (docs/PROTOCOL.md §5).
//!
//! Tenants cannot crowd each other's buckets: infrastructure keeps one table of infrastructure and
//! a bounded one for each realm, a peer keeps infrastructure and its own realm.

#[cfg(feature = "fuzz")]
mod check;

use std::collections::BTreeMap;
use std::time::Instant;

use macula_identity::{Identity, NodeId, Place, RealmName};

use super::bucket::{Bucket, Inserted};
use super::{K, STALE_AFTER, subnet};
use crate::key::{BITS, Key, Scope};
use crate::wire::Contact;

/// The most realms whose servers infrastructure keeps. Peers of one more realm are served all the
/// same, and are not told of each other's servers.
pub const MAX_REALMS: usize = 1024;
/// The most contacts of one realm's table: sixteen full buckets, which a million servers do not
/// fill, since node ids cannot be chosen.
pub(super) const MAX_CONTACTS: usize = 16 * K;

/// The tables of all scopes that a node keeps.
#[derive(Debug)]
pub(crate) struct Tables {
    me: Key,
    /// Of a peer its own, the only one it keeps.
    realm: Option<RealmName>,
    infrastructure: Table,
    realms: BTreeMap<RealmName, Table>,
    /// In which table each contact is, in a bucket's place or waiting for one.
    scopes: BTreeMap<NodeId, Scope>,
}

impl Tables {
    pub(crate) fn new(me: &Identity) -> Self {
        let realm = match &me.subject.place {
            Place::Realm(realm) => Some(realm.clone()),
            Place::Bootstrap | Place::Gateway => None,
        };
        Self {
            me: me.id.into(),
            realm,
            infrastructure: Table::default(),
            realms: BTreeMap::new(),
            scopes: BTreeMap::new(),
        }
    }

    /// Where the servers of a realm are kept: of each public network a few.
    fn diverse() -> Table {
        Table { is_diverse: true, ..Table::default() }
    }

    /// The table of a node that serves, when this node keeps it.
    pub(crate) fn scope_of(&self, server: &Identity) -> Option<Scope> {
        match &server.subject.place {
            Place::Bootstrap | Place::Gateway => Some(Scope::Infrastructure),
            Place::Realm(realm) if server.grants.server && self.keeps(realm) => {
                Some(Scope::Realm(realm.clone()))
            }
            Place::Realm(_) => None,
        }
    }

    /// Whether servers of this realm are kept.
    pub(crate) fn keeps(&self, realm: &RealmName) -> bool {
        self.realm.as_ref().is_none_or(|mine| mine == realm)
    }

    /// A server was met. Gives whether it has a place that it did not have, and a contact to ping, when
    /// a full bucket holds one of which nothing was heard for long.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        scope: Scope,
        contact: Contact,
    ) -> (bool, Option<Contact>) {
        if Key::from(contact.id) == self.me {
            return (false, None);
        }
        if self.scopes.get(&contact.id).is_some_and(|known| *known != scope) {
            self.remove(contact.id);
        }
        let me = self.me;
        let table = match &scope {
            Scope::Infrastructure => &mut self.infrastructure,
            Scope::Realm(realm) if self.realms.contains_key(realm) => {
                self.realms.get_mut(realm).expect("looked for above")
            }
            Scope::Realm(_) if self.realms.len() >= MAX_REALMS => return (false, None),
            Scope::Realm(realm) => self.realms.entry(realm.clone()).or_insert_with(Self::diverse),
        };
        let id = contact.id;
        let (inserted, forgotten) = table.insert(now, me, contact);
        self.scopes.insert(id, scope);
        if let Some(forgotten) = forgotten {
            self.scopes.remove(&forgotten);
        }
        match inserted {
            Inserted::New => (true, None),
            Inserted::Known => (false, None),
            Inserted::Waiting { doubtful } => (false, doubtful),
        }
    }

    /// The node was heard.
    pub(crate) fn touch(&mut self, now: Instant, id: NodeId) {
        let me = self.me;
        if let Some(bucket) = self.table_of(id).and_then(|table| table.bucket(me, id)) {
            bucket.touch(now, id);
        }
    }

    /// The node is gone, or serves no longer. Gives in which table it had a place.
    pub(crate) fn remove(&mut self, id: NodeId) -> Option<Scope> {
        let me = self.me;
        let had_place = self.get(id).is_some();
        if let Some(table) = self.table_of(id) {
            table.remove(me, id);
        }
        let scope = self.scopes.remove(&id)?;
        if let Scope::Realm(realm) = &scope
            && self.realms.get(realm).is_some_and(|table| table.buckets.is_empty())
        {
            self.realms.remove(realm);
        }
        had_place.then_some(scope)
    }

    fn table_of(&mut self, id: NodeId) -> Option<&mut Table> {
        match self.scopes.get(&id)? {
            Scope::Infrastructure => Some(&mut self.infrastructure),
            Scope::Realm(realm) => self.realms.get_mut(realm),
        }
    }

    /// The infrastructure that is known.
    pub(crate) fn infrastructure(&self) -> impl Iterator<Item = &Contact> {
        self.infrastructure.contacts()
    }

    /// The tables that a lookup in this scope runs over.
    fn merged(&self, scope: &Scope) -> impl Iterator<Item = &Table> {
        let realm = match scope {
            Scope::Infrastructure => None,
            Scope::Realm(realm) => self.realms.get(realm),
        };
        [&self.infrastructure].into_iter().chain(realm)
    }

    /// The contacts nearest to a place of this scope, nearest first; without one, who asks.
    pub(crate) fn closest(
        &self,
        target: Key,
        scope: &Scope,
        count: usize,
        without: Option<NodeId>,
    ) -> Vec<Contact> {
        let mut contacts: Vec<_> = self
            .merged(scope)
            .flat_map(Table::contacts)
            .filter(|contact| Some(contact.id) != without)
            .map(|contact| (target.distance(contact.id), contact))
            .collect();
        if contacts.len() > count {
            contacts.select_nth_unstable_by_key(count, |(distance, _)| *distance);
            contacts.truncate(count);
        }
        contacts.sort_unstable_by_key(|(distance, _)| *distance);
        contacts.into_iter().map(|(_, contact)| contact.clone()).collect()
    }

    /// Whether a lookup in this scope is worth while, and has a table to fill.
    pub(crate) fn is_known(&self, scope: &Scope) -> bool {
        let has_infrastructure = self.infrastructure.len > 0;
        match scope {
            Scope::Infrastructure => has_infrastructure,
            Scope::Realm(realm) => {
                let is_mine = self.realm.as_ref() == Some(realm);
                self.realms.contains_key(realm) || (is_mine && has_infrastructure)
            }
        }
    }

    /// A contact that has a place in its bucket.
    pub(crate) fn get(&self, id: NodeId) -> Option<&Contact> {
        let scope = self.scopes.get(&id)?;
        let bucket = self.me.distance(id).leading_zeros();
        let mut buckets = self.merged(scope).filter_map(|table| table.buckets.get(&bucket));
        buckets.find_map(|bucket| bucket.contacts().find(|contact| contact.id == id))
    }

    /// How many contacts each bucket of the scope holds, nothing beyond the deepest.
    pub(crate) fn fill(&self, scope: &Scope) -> Vec<usize> {
        let mut fill = Vec::new();
        for (&index, bucket) in self.merged(scope).flat_map(|table| &table.buckets) {
            fill.resize(fill.len().max(index + 1), 0);
            fill[index] += bucket.len();
        }
        fill
    }

    /// Every contact that has a place, infrastructure first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Contact> {
        [&self.infrastructure].into_iter().chain(self.realms.values()).flat_map(Table::contacts)
    }

    /// Every scope that has contacts, and how many.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (Scope, usize)> {
        let realms =
            self.realms.iter().map(|(realm, table)| (Scope::Realm(realm.clone()), table.len));
        [(Scope::Infrastructure, self.infrastructure.len)].into_iter().chain(realms)
    }
}

/// The contacts of one scope, by how many leading bits they share with this node.
#[derive(Debug, Default)]
struct Table {
    buckets: BTreeMap<usize, Bucket>,
    /// How many contacts have a place.
    len: usize,
    /// Whether each public network has a few places only. Not of infrastructure: only the operator's own
    /// has its certificates, and often all of it is in one network.
    is_diverse: bool,
}

impl Table {
    /// Gives also who no longer waits.
    fn insert(&mut self, now: Instant, me: Key, contact: Contact) -> (Inserted, Option<NodeId>) {
        let index = me.distance(contact.id).leading_zeros();
        debug_assert!(index < BITS, "a node is not its own contact");
        let (has_room, fits) = (self.len < MAX_CONTACTS, self.fits(index, &contact));
        let bucket = self.buckets.entry(index).or_default();
        // One that has moved into a network of which there are enough gives its place up.
        let is_out = !fits && bucket.remove(contact.id);
        let (inserted, forgotten) = bucket.insert(now, contact, has_room, fits, STALE_AFTER);
        self.len += usize::from(inserted == Inserted::New);
        if is_out {
            self.len -= 1;
            self.promote(index);
        }
        (inserted, forgotten)
    }

    /// Whether there are few enough of its networks in this bucket and in the table.
    fn fits(&self, index: usize, contact: &Contact) -> bool {
        if !self.is_diverse {
            return true;
        }
        let subnets = subnet::of(contact);
        let is_other = |other: &&Contact| other.id != contact.id;
        let near = self.buckets.get(&index).into_iter().flat_map(Bucket::contacts);
        subnet::fits(&subnets, near.filter(is_other), subnet::MAX_PER_BUCKET)
            && subnet::fits(&subnets, self.contacts().filter(is_other), subnet::MAX_PER_TABLE)
    }

    /// A place is free: of those who wait and may have it, the one that came last takes it.
    fn promote(&mut self, index: usize) {
        let Some(bucket) = self.buckets.get(&index) else { return };
        let mut waiting = bucket.waiting();
        let next = waiting.find(|contact| self.fits(index, contact)).map(|contact| contact.id);
        drop(waiting);
        if let (Some(next), Some(bucket)) = (next, self.buckets.get_mut(&index)) {
            bucket.promote(next);
            self.len += 1;
        }
    }

    fn bucket(&mut self, me: Key, id: NodeId) -> Option<&mut Bucket> {
        self.buckets.get_mut(&me.distance(id).leading_zeros())
    }

    fn remove(&mut self, me: Key, id: NodeId) {
        let index = me.distance(id).leading_zeros();
        let Some(bucket) = self.buckets.get_mut(&index) else { return };
        let is_free = bucket.remove(id);
        if bucket.is_empty() {
            self.buckets.remove(&index);
        }
        if is_free {
            self.len -= 1;
            self.promote(index);
        }
    }

    fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.buckets.values().flat_map(Bucket::contacts)
    }
}

#[cfg(test)]
mod tests;
