//! Which records are not on disk yet as they stand here: a set of places, not a queue of values, so
//! that it is bounded by what the store holds, however slow the disk is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use macula_identity::NodeId;

use super::Store;
use crate::dht::keep::{self, Batch};
use crate::error::{Code, Fault};
use crate::key::Key;
use crate::record::{MAX_TTL, VerifiedRecord};
use crate::time::Now;

/// Places that may be noted beyond twice as many as there are records: those whose records have gone.
/// Beyond it everything is written afresh, which is less work than so many removals.
const SLACK: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Changes {
    dirty: BTreeSet<(Key, NodeId)>,
    /// Nothing that is on disk counts any more.
    afresh: bool,
}

impl Store {
    /// Notes from now on what changes.
    pub(crate) fn keep_changes(&mut self) {
        self.changes = Some(Changes::default());
    }

    /// What is on disk at this place is not what stands here.
    pub(crate) fn changed(&mut self, key: Key, publisher: NodeId) {
        let Some(changes) = &mut self.changes else { return };
        changes.dirty.insert((key, publisher));
        if changes.dirty.len() > 2 * self.len + SLACK {
            self.all_changed();
        }
    }

    /// The disk is to be written afresh.
    pub(crate) fn all_changed(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        let sets = self.records.iter();
        let all = sets.flat_map(|(key, set)| set.keys().map(|publisher| (*key, *publisher)));
        *changes = Changes { dirty: all.collect(), afresh: true };
    }

    /// Takes so many changes at most. Whoever takes them sees to it that they are written, or says
    /// [`Store::all_changed`].
    pub(crate) fn take_changes(&mut self, now: Now, most: usize) -> Option<Batch> {
        let changes = self.changes.as_mut().filter(|it| it.afresh || !it.dirty.is_empty())?;
        let afresh = std::mem::take(&mut changes.afresh);
        let mut taken = Vec::with_capacity(most.min(changes.dirty.len()));
        while taken.len() < most
            && let Some((key, publisher)) = changes.dirty.pop_first()
        {
            let entry = self.records.get(&key).and_then(|set| set.get(&publisher));
            let record = entry.map(|entry| {
                let left = entry.expires_at.saturating_duration_since(now.instant);
                keep::Record {
                    until_ms: (now + left).unix_ms,
                    signed: entry.signed.clone(),
                    addresses: entry.addresses.clone(),
                }
            });
            taken.push((keep::slot(key, publisher), record));
        }
        Some(Batch { afresh, changes: taken })
    }

    /// Keeps a record that was on disk, for what is left of its time there.
    ///
    /// # Errors
    /// As [`Store::insert`]; and `stale_sequence` when it is here already, fresher.
    pub(crate) fn restore(
        &mut self,
        now: Now,
        verified: &VerifiedRecord,
        observed: Option<SocketAddr>,
        left: Duration,
    ) -> Result<(), Fault> {
        let (key, publisher) = (verified.record.key(), verified.publisher.id);
        let known = self.records.get(&key).and_then(|set| set.get(&publisher));
        if known.is_some_and(|known| known.order >= verified.record.order()) {
            let because = "it, or a later one, has come meanwhile";
            return Err(Fault::new(Code::StaleSequence, because));
        }
        self.insert_for(now, verified, observed, left.min(MAX_TTL))?;
        // It stands on disk as it stands here.
        if let Some(changes) = self.changes.as_mut().filter(|changes| !changes.afresh) {
            changes.dirty.remove(&(key, publisher));
        }
        Ok(())
    }
}
