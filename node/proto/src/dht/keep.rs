//! What a node keeps on disk over a restart, and what it takes back from there.
//!
//! The core knows no disk: the shell takes what has changed ([`Dht::poll_kept`]), and after a start
//! hands back what it finds ([`Dht::restore`]). Nothing that lay on a disk is believed: a record is
//! judged as if a stranger had brought it, and stands for what is left of its time by the wall
//! clock. A contact does not enter a table by having been written down: it is somebody to dial.

use std::net::SocketAddr;
use std::time::Duration;

use macula_identity::NodeId;
use prost::Message;

use super::{Dht, dialable};
use crate::error::{Code, Fault};
use crate::key::Key;
use crate::record::{MAX_RECORD, MAX_TTL};
use crate::time::Now;
use crate::wire::{Contact, limits, message};

/// Where a record is kept: its key, then its publisher.
pub type Slot = [u8; 2 * NodeId::LENGTH];

/// The most contacts that are kept. Each is dialled after a restart.
pub const MAX_CONTACTS: usize = 1024;

/// What a kept record has beside what was signed: addresses, and the lengths of fields.
const FRAMING: usize = 512;

/// A record, or the mark of a withdrawal, as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it is forgotten, in milliseconds since 1970.
    pub until_ms: u64,
    /// As it was signed.
    pub signed: message::SignedRecord,
    /// Where its publisher was met.
    pub addresses: Vec<SocketAddr>,
}

/// What is to be written, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Every record that is on disk is to be removed first.
    pub afresh: bool,
    /// What stands where; `None` where nothing does any more.
    pub changes: Vec<(Slot, Option<Record>)>,
}

impl Record {
    /// Its bytes on disk: `until_ms`, big-endian, then a `StoredRecord` of the protocol.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { until_ms, signed, addresses } = self;
        let stored = message::StoredRecord {
            record: Some(signed.clone()),
            addresses: addresses.iter().map(|address| (*address).into()).collect(),
        };
        let mut bytes = until_ms.to_be_bytes().to_vec();
        stored.encode(&mut bytes).expect("a vector grows");
        bytes
    }

    /// Reads them back.
    ///
    /// # Errors
    /// `too_large`, `invalid_record`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let invalid = |because: &str| Fault::new(Code::InvalidRecord, because);
        if bytes.len() > MAX_RECORD + FRAMING {
            return Err(Fault::new(Code::TooLarge, "no record has so many bytes"));
        }
        let (until_ms, stored) =
            bytes.split_first_chunk().ok_or_else(|| invalid("it is cut off"))?;
        limits::check(limits::STORED_RECORD, stored)?;
        let stored = message::StoredRecord::decode(stored);
        let stored = stored.map_err(|_| invalid("it cannot be decoded"))?;
        let message::StoredRecord { record, addresses } = stored;
        let addresses: Result<Vec<SocketAddr>, _> =
            addresses.into_iter().map(TryInto::try_into).collect();
        Ok(Self {
            until_ms: u64::from_be_bytes(*until_ms),
            signed: record.ok_or_else(|| invalid("there is none in it"))?,
            addresses: addresses.map_err(|error| invalid(&error.to_string()))?,
        })
    }
}

/// A contact's bytes on disk.
#[must_use]
pub fn encode_contact(contact: &Contact) -> Vec<u8> {
    message::Contact::from(contact).encode_to_vec()
}

pub(super) fn slot(key: Key, publisher: NodeId) -> Slot {
    let mut slot = [0; 2 * NodeId::LENGTH];
    slot[..NodeId::LENGTH].copy_from_slice(key.as_bytes());
    slot[NodeId::LENGTH..].copy_from_slice(publisher.as_bytes());
    slot
}

impl Dht {
    /// Takes what has changed since the last time, so many records at most: only with
    /// [`super::Config::keep`]. What was taken and could not be written is lost to the disk until
    /// [`Dht::keep_everything`].
    pub fn poll_kept(&mut self, now: Now, most: usize) -> Option<Batch> {
        self.store.expire(now);
        self.store.take_changes(now, most)
    }

    /// The disk has missed something: it is written afresh.
    pub fn keep_everything(&mut self) {
        self.store.all_changed();
    }

    /// A record was found on disk.
    ///
    /// # Errors
    /// Why it does not stand here: `stale_sequence` and `stale_incarnation` when a later one has come
    /// meanwhile; otherwise whatever a storer refuses. It is removed from the disk.
    pub fn restore(&mut self, now: Now, slot: &Slot, bytes: &[u8]) -> Result<(), Fault> {
        let (key, publisher) = slot.split_at(NodeId::LENGTH);
        let key = Key::try_from(key).expect("half of a slot");
        let publisher = NodeId::try_from(publisher).expect("the other half");
        let restored =
            Record::decode(bytes).and_then(|kept| self.take_back(now, (key, publisher), &kept));
        if restored.is_err() {
            self.store.changed(key, publisher);
        }
        restored
    }

    fn take_back(&mut self, now: Now, place: (Key, NodeId), kept: &Record) -> Result<(), Fault> {
        let Record { until_ms, signed, addresses } = kept;
        let verified = self.verifier.verify(now, signed)?;
        if (verified.record.key(), verified.publisher.id) != place {
            let because = "it was kept under another key or publisher";
            return Err(Fault::new(Code::InvalidRecord, because));
        }
        if !self.tables.keeps(&verified.record.realm) {
            let because = "this node serves another realm";
            return Err(Fault::new(Code::RealmMismatch, because));
        }
        let left = until_ms.saturating_sub(now.unix_ms);
        if left == 0 {
            return Err(Fault::new(Code::RecordExpired, "its time here was over"));
        }
        let left = Duration::from_millis(left).min(MAX_TTL);
        let observed = dialable(addresses.iter().copied()).into_iter().next();
        self.store.restore(now, &verified, observed, left)
    }

    /// The contacts to keep, infrastructure first.
    #[must_use]
    pub fn kept_contacts(&self) -> Vec<Contact> {
        self.tables.all().take(MAX_CONTACTS).cloned().collect()
    }

    /// Whom to dial, of a contact that was found on disk: nobody when it is this very node, has no
    /// address that can be dialled, or cannot be read.
    #[must_use]
    pub fn restore_contact(&self, bytes: &[u8]) -> Option<Contact> {
        limits::check(limits::CONTACT, bytes).ok()?;
        let contact = Contact::try_from(message::Contact::decode(bytes).ok()?).ok()?;
        let addresses = dialable(contact.addresses);
        let is_other = contact.id != self.me.identity.id && !addresses.is_empty();
        is_other.then_some(Contact { id: contact.id, addresses })
    }
}

#[cfg(test)]
mod tests;
