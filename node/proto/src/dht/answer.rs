//! What this node answers to the requests of others, and shows of each realm to whom.

use std::net::SocketAddr;

use bytes::Bytes;
use macula_identity::{Identity, NodeId, Place, RealmName};
use rand::Rng;

use super::follow::WATCHED;
use super::{Dht, K, dialable};
use crate::error::{Code, Fault};
use crate::key::{Key, Scope};
use crate::record::{self, VerifiedRecord};
use crate::time::Now;
use crate::wire::{Contact, message};
use message::{request, response};

/// The most bytes of records in one answer; a frame holds a mebibyte.
pub(super) const MAX_SHOWN: usize = 512 << 10;
/// What a record in an answer costs beside its parts: addresses and the lengths of fields.
const FRAMING: usize = 256;

impl Dht {
    /// Answers a request of the node at the other end of a verified connection. `observed` is where
    /// that node is seen to be.
    ///
    /// # Errors
    /// What travels back: `not_a_server`, `overloaded`, `realm_mismatch`, `invalid_request`, what is wrong
    /// with a record, `unknown_request` for what is not the DHT's.
    pub fn handle_request(
        &mut self,
        now: Now,
        from: &Identity,
        observed: SocketAddr,
        body: request::Body,
    ) -> Result<response::Body, Fault> {
        self.tables.touch(now.instant, from.id);
        if self.is_server() {
            self.check_budget(now, from, &body)?;
        }
        match body {
            request::Body::Ping(message::Ping {}) => Ok(response::Body::Pong(message::Pong {})),
            request::Body::Call(_) => Err(Fault::of(Code::UnknownRequest)),
            request::Body::Changed(changed) => {
                self.on_changed(now, from.id, changed)?;
                Ok(response::Body::Noted(message::Noted {}))
            }
            request::Body::FindNode(_)
            | request::Body::FindValue(_)
            | request::Body::Store(_)
            | request::Body::Delete(_)
                if !self.is_server() =>
            {
                Err(Fault::of(Code::NotAServer))
            }
            request::Body::FindNode(message::FindNode { target, realm }) => {
                let target = place(&target)?;
                let scope = self.scope_shown_to(from, &realm)?;
                let closest = self.closest_shown_to(from, target, &scope, K);
                Ok(response::Body::Nodes(message::Nodes { closest }))
            }
            request::Body::FindValue(message::FindValue { key, realm, lease_ms, has }) => {
                let key = place(&key)?;
                let scope = self.scope_shown_to(from, &realm)?;
                let Scope::Realm(realm) = &scope else {
                    let because = "a key belongs to a realm, and none is named";
                    return Err(Fault::new(Code::InvalidRequest, because));
                };
                let (records, truncated) =
                    self.records_since(now, key, realm, self.lacks_from(has));
                let version = Some(self.version());
                let (lease_ms, refused) = match lease_ms {
                    0 => (0, None),
                    wanted => match self.lease(now, from, observed, (key, realm), wanted) {
                        Ok(length) => (length, None),
                        Err(Fault { code, because, .. }) => {
                            let code = code.number();
                            (0, Some(message::Failure { code, because, ..Default::default() }))
                        }
                    },
                };
                // Who renews a lease has looked already, and wants to see no more than whether
                // somebody nearer has come.
                let count = if has.is_some() { WATCHED } else { K };
                let closest = self.closest_shown_to(from, key, &scope, count);
                Ok(response::Body::Values(message::Values {
                    records,
                    closest,
                    truncated,
                    version,
                    lease_ms,
                    refused,
                }))
            }
            request::Body::Store(message::Store { record, addresses }) => self
                .keep(now, from, (observed, addresses), record, false)
                .map(|()| response::Body::Stored(message::Stored {})),
            request::Body::Delete(message::Delete { record }) => self
                .keep(now, from, (observed, Vec::new()), record, true)
                .map(|()| response::Body::Deleted(message::Deleted {})),
        }
    }

    /// Whose servers and records the asker may see: a peer its own realm's, whatever it names;
    /// infrastructure those of the realm that it names.
    fn scope_shown_to(&self, from: &Identity, named: &str) -> Result<Scope, Fault> {
        let scope = match &from.subject.place {
            Place::Realm(realm) if named.is_empty() || named == realm.as_str() => {
                Scope::Realm(realm.clone())
            }
            Place::Realm(_) => {
                let because = "a peer asks for its own realm only";
                return Err(Fault::new(Code::RealmMismatch, because));
            }
            Place::Bootstrap | Place::Gateway if named.is_empty() => Scope::Infrastructure,
            Place::Bootstrap | Place::Gateway => {
                let realm = named.parse::<RealmName>();
                let realm =
                    realm.map_err(|error| Fault::new(Code::InvalidRequest, error.to_string()))?;
                Scope::Realm(realm)
            }
        };
        match &scope {
            Scope::Realm(realm) if !self.tables.keeps(realm) => {
                let because = "this node serves another realm";
                Err(Fault::new(Code::RealmMismatch, because))
            }
            Scope::Realm(_) | Scope::Infrastructure => Ok(scope),
        }
    }

    fn closest_shown_to(
        &self,
        from: &Identity,
        target: Key,
        scope: &Scope,
        count: usize,
    ) -> Vec<message::Contact> {
        let closest = self.tables.closest(target, scope, count, Some(from.id));
        closest.iter().map(|contact: &Contact| contact.into()).collect()
    }

    /// The records under a key that have come from this count on, and whether there are more than fit.
    pub(super) fn records_since(
        &mut self,
        now: Now,
        key: Key,
        realm: &RealmName,
        since: u64,
    ) -> (Vec<message::StoredRecord>, bool) {
        let start = NodeId::from_bytes(self.rng.random());
        // Withdrawals are shown too, and last: they tell the reader what another storer, which
        // could not be reached at the time, still shows.
        let news = || self.store.find(now, key, realm, start).filter(|(_, e)| e.age >= since);
        let standing = news().filter(|(_, entry)| !entry.withdrawn);
        let withdrawn = news().filter(|(_, entry)| entry.withdrawn);
        let mut records = Vec::new();
        let mut bytes = 0;
        for (_, entry) in standing.chain(withdrawn) {
            bytes += record::size(&entry.signed) + FRAMING;
            if bytes > MAX_SHOWN {
                return (records, true);
            }
            records.push(message::StoredRecord {
                record: Some(entry.signed.clone()),
                addresses: entry.addresses.iter().map(|address| (*address).into()).collect(),
            });
        }
        (records, false)
    }

    /// Keeps a record that another node brings, or the mark of its withdrawal.
    fn keep(
        &mut self,
        now: Now,
        from: &Identity,
        met: (SocketAddr, Vec<message::Address>),
        signed: Option<message::SignedRecord>,
        withdrawn: bool,
    ) -> Result<(), Fault> {
        let kept = signed
            .ok_or_else(|| Fault::new(Code::InvalidRecord, "there is none in the request"))
            .and_then(|signed| self.try_keep(now, from, met, &signed, withdrawn));
        self.counters.records_refused += u64::from(kept.is_err());
        kept
    }

    fn try_keep(
        &mut self,
        now: Now,
        from: &Identity,
        (observed, told): (SocketAddr, Vec<message::Address>),
        signed: &message::SignedRecord,
        withdrawn: bool,
    ) -> Result<(), Fault> {
        let is_infrastructure = from.subject.role().is_infrastructure();
        let observed = SocketAddr::new(observed.ip().to_canonical(), observed.port());
        let verified = self.verifier.verify(now, signed)?;
        if !self.tables.keeps(&verified.record.realm) {
            let because = "this node serves another realm";
            return Err(Fault::new(Code::RealmMismatch, because));
        }
        if verified.record.withdrawn != withdrawn {
            let because = "STORE brings a record that stands, DELETE one that is withdrawn";
            return Err(Fault::new(Code::InvalidRecord, because));
        }
        let is_own = verified.publisher.id == from.id;
        if !is_own && !is_infrastructure {
            let because = "a peer stores its own records only";
            return Err(Fault::new(Code::Unauthorized, because));
        }
        // Infrastructure may bring the records of others: a storer replicates what it keeps.
        let (observed, told) = match is_own {
            true => (dialable([observed]).pop(), Vec::new()),
            false => (None, dialable(told.into_iter().filter_map(|it| it.try_into().ok()))),
        };
        self.keep_verified(now, &verified, observed, told)
    }

    /// Keeps a record of this node's own.
    pub(super) fn keep_own(
        &mut self,
        now: Now,
        signed: &message::SignedRecord,
    ) -> Result<(), Fault> {
        let verified = self.verifier.verify(now, signed)?;
        self.keep_verified(now, &verified, None, Vec::new())
    }

    /// `observed` is where this node met the publisher, `told` where infrastructure did.
    fn keep_verified(
        &mut self,
        now: Now,
        verified: &VerifiedRecord,
        observed: Option<SocketAddr>,
        told: Vec<SocketAddr>,
    ) -> Result<(), Fault> {
        let is_news = self.store.insert(now, verified, observed)?;
        let key = verified.record.key();
        self.store.note_addresses(key, verified.publisher.id, told);
        if is_news {
            self.push_changes(now, key, &verified.record.realm);
            self.follow_own(now, verified, observed);
        }
        Ok(())
    }
}

fn place(bytes: &Bytes) -> Result<Key, Fault> {
    Key::try_from(&bytes[..]).map_err(|error| Fault::new(Code::InvalidRequest, error.to_string()))
}
