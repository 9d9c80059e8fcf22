//! What goes to the disk, and what comes back from there. The actor never waits for it: a batch is
//! taken from the engine when the disk has room for one, and until then changes are noted there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use macula_proto::dht::Dht;
use macula_proto::dht::keep::MAX_CONTACTS;
use macula_proto::wire::Contact;
use macula_proto::{Code, Fault};
use tokio::sync::mpsc;

use crate::clock;
use crate::disk::{self, Batch, Found};
use crate::mesh::nodes::Dial;

use super::Actor;

/// How old what is not on disk may get.
const EVERY: Duration = Duration::from_secs(1);
/// Records in one transaction: some megabytes. When more have changed, the next follows at once.
const MOST: usize = 4096;
/// How often contacts are looked at; how often they are written although they are the same, so that
/// the disk knows that they were there.
const CONTACTS_EVERY: Duration = Duration::from_secs(5);
const CONTACTS_AGAIN: Duration = Duration::from_secs(3600);
/// Kept contacts that are dialled in one turn, four times a second: a thousand take a quarter of a
/// minute.
const DIALS: usize = 16;
/// How long a node that leaves waits for its disk.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// What one incarnation of the mesh has to do with the disk.
#[derive(Debug)]
pub(super) struct Keep {
    disk: disk::Handle,
    /// What is on disk, until all of it was here.
    reading: Option<mpsc::Receiver<Found>>,
    restored: u64,
    dropped: u64,
    /// Whom this node knew, to be dialled.
    known: VecDeque<Contact>,
    /// When the next batch is due.
    due: Instant,
    /// The contacts as they were written last, and when.
    contacts: Vec<Contact>,
    contacts_at: Option<Instant>,
    contacts_due: Instant,
}

impl Keep {
    pub(super) fn new(disk: disk::Handle) -> Self {
        let (reading, now) = (Some(disk.read()), Instant::now());
        Self {
            disk,
            reading,
            restored: 0,
            dropped: 0,
            known: VecDeque::new(),
            due: now,
            contacts: Vec::new(),
            contacts_at: None,
            contacts_due: now + CONTACTS_EVERY,
        }
    }

    /// The next of what is on disk, as long as there is more. May be dropped at any point.
    pub(super) async fn found(keep: &mut Option<Self>) -> Option<Found> {
        let Some(Self { reading, restored, dropped, .. }) = keep else { return None };
        let found = reading.as_mut()?.recv().await;
        if found.is_none() {
            tracing::info!(restored, dropped, "what was on disk has been read");
            *reading = None;
        }
        found
    }

    /// The contacts to write, when they have changed or were written long ago.
    fn news(&mut self, now: Instant, dht: &Dht) -> Vec<Contact> {
        if now < self.contacts_due {
            return Vec::new();
        }
        self.contacts_due = now + CONTACTS_EVERY;
        let mut contacts = dht.kept_contacts();
        // In a table those heard last come last, which is no news.
        contacts.sort_unstable_by_key(|contact| contact.id);
        let written = self.contacts_at.is_some_and(|at| now < at + CONTACTS_AGAIN);
        if written && contacts == self.contacts {
            return Vec::new();
        }
        self.contacts.clone_from(&contacts);
        self.contacts_at = Some(now);
        contacts
    }
}

impl Actor {
    /// Hands over what has changed, if it is time and the disk has room; dials whom the disk knew.
    pub(super) fn keep(&mut self) {
        let Some(keep) = &mut self.keep else { return };
        let now = Instant::now();
        if keep.disk.fell_behind() {
            self.engine.keep_everything();
            keep.contacts_at = None;
        }
        if now >= keep.due && keep.disk.has_room() {
            let contacts = keep.news(now, self.engine.dht());
            let records = self.engine.poll_kept(clock::now(), MOST);
            if records.is_some() || !contacts.is_empty() {
                let records = records.unwrap_or_default();
                if records.changes.len() < MOST {
                    keep.due = now + EVERY;
                }
                keep.disk.hand_over(Batch { records, contacts });
            }
        }
        // However much arrives from the network, what was kept has its turn.
        let found = keep.reading.as_mut().and_then(|reading| reading.try_recv().ok());
        if let Some(found) = found {
            self.handle_kept(found);
        }
        self.dial_known(now);
    }

    /// Some of what was on disk.
    pub(super) fn handle_kept(&mut self, found: Found) {
        let Some(keep) = &mut self.keep else { return };
        match found {
            Found::Contacts(all) => {
                let dht = self.engine.dht();
                let known = all.iter().filter_map(|bytes| dht.restore_contact(bytes));
                keep.known.extend(known.take(MAX_CONTACTS));
            }
            Found::Records(records) => {
                let (now, metrics) = (clock::now(), &self.shared.metrics);
                for (slot, bytes) in records {
                    match self.engine.restore(now, &slot, &bytes) {
                        Ok(()) => {
                            keep.restored += 1;
                            metrics.disk_records_restored.inc();
                        }
                        Err(Fault { code, because, .. }) => {
                            keep.dropped += 1;
                            metrics.disk_records_dropped.inc(code);
                            if !matches!(code, Code::RecordExpired | Code::StaleSequence) {
                                tracing::debug!(%code, because, "a kept record does not stand");
                            }
                        }
                    }
                }
            }
        }
    }

    /// Dials those that this node knew, pinned to their ids: whoever answers enters the table by
    /// the same road as anybody. Each is tried once.
    fn dial_known(&mut self, now: Instant) {
        let Some(keep) = &mut self.keep else { return };
        let some = keep.known.drain(..keep.known.len().min(DIALS)).collect::<Vec<_>>();
        for Contact { id, addresses } in some {
            let entry = self.nodes.entry(id);
            let idle = match &entry.dial {
                Dial::Idle => true,
                Dial::Dialling => false,
                Dial::Failed { until, .. } => *until <= now,
            };
            if entry.link.is_none() && idle {
                self.dial(id, addresses);
            }
        }
    }

    /// Before the node leaves: hands over what is left. A disk that does not take it in time has
    /// missed it.
    pub(super) async fn keep_the_last(&mut self) {
        let Some(Keep { disk, reading, .. }) = &mut self.keep else { return };
        // Who reads waits for this actor, and would write nothing meanwhile.
        *reading = None;
        let disk = disk.clone();
        let until = tokio::time::Instant::now() + LAST_PATIENCE;
        while let Some(records) = self.engine.poll_kept(clock::now(), MOST) {
            let batch = Batch { records, contacts: Vec::new() };
            if tokio::time::timeout_at(until, disk.hand_over_last(batch)).await.is_err() {
                return;
            }
        }
    }
}
