//! Publishers of followed names that may be gone: asked themselves, and not shown while they do not answer.

use std::time::{Duration, Instant};

use macula_identity::NodeId;
use rand::Rng;

use super::{Change, Following, Name, backoff};
use crate::dht::ask::Purpose;
use crate::dht::{Dht, is_gone};
use crate::error::Fault;
use crate::time::Now;
use crate::wire::{Contact, message};
use message::{request, response};

/// A publisher that did not answer is asked again after this, then after twice as long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// And at the latest after this.
const ASK_AGAIN_WITHIN: Duration = Duration::from_secs(15);

/// A publisher that may be gone.
#[derive(Debug)]
pub(super) struct Suspect {
    /// It did not answer, and is not shown.
    is_hidden: bool,
    failures: u32,
    pub(super) next: Option<Instant>,
}

impl Following {
    pub(super) fn is_hidden(&self, publisher: NodeId) -> bool {
        self.suspects.get(&publisher).is_some_and(|suspect| suspect.is_hidden)
    }

    pub(super) fn suspect_again(&mut self, node: NodeId, next: Option<Instant>) {
        let Some(suspect) = self.suspects.get_mut(&node) else { return };
        if let Some(before) = std::mem::replace(&mut suspect.next, next) {
            self.suspects_due.remove(&(before, node));
        }
        self.suspects_due.extend(next.map(|at| (at, node)));
    }

    pub(super) fn clear(&mut self, node: NodeId) {
        self.suspect_again(node, None);
        self.suspects.remove(&node);
    }
}

impl Dht {
    /// Shows a publisher again, everywhere. What concerns this name the caller tells.
    pub(super) fn unhide(&mut self, publisher: NodeId, except: &Name) -> Option<Change> {
        self.following.clear(publisher);
        for name in self.names_of(publisher) {
            if name != *except {
                let change = self.shown(&name, publisher);
                self.on_followed(&name, change.into_iter().collect(), false);
            }
        }
        self.shown(except, publisher)
    }

    /// The node said that it leaves: nothing that it said stands any more, unless it says it again.
    pub fn forget_publisher(&mut self, publisher: NodeId) {
        self.following.clear(publisher);
        for name in self.names_of(publisher) {
            if let Some(followed) = self.following.all.get_mut(&name) {
                followed.known.remove(&publisher);
            }
            self.on_followed(&name, vec![Change { publisher, says: None }], false);
        }
    }

    /// Somebody says that this node is gone, or so it seems.
    pub(super) fn suspect(&mut self, now: Now, node: NodeId) {
        // This node lives, whatever anybody says of it.
        let is_me = node == self.me.identity.id;
        let is_suspect = self.following.suspects.contains_key(&node);
        if is_me || is_suspect || self.names_of(node).is_empty() {
            return;
        }
        let suspect = Suspect { is_hidden: false, failures: 0, next: None };
        self.following.suspects.insert(node, suspect);
        self.ask_suspect(now, node);
    }

    pub(super) fn ask_suspect(&mut self, now: Now, node: NodeId) {
        self.following.suspect_again(node, None);
        let Some(name) = self.names_of(node).into_iter().next() else {
            return self.following.clear(node);
        };
        let known = &self.following.all[&name].known[&node];
        let to = Contact { id: node, addresses: known.found.addresses.clone() };
        self.send(now, to, request::Body::Ping(message::Ping {}), Purpose::Suspect);
    }

    /// A publisher that may be gone has answered, or has not.
    pub(in crate::dht) fn on_suspect_response(
        &mut self,
        now: Now,
        node: NodeId,
        result: &Result<response::Body, Fault>,
    ) {
        let Some(suspect) = self.following.suspects.get_mut(&node) else { return };
        let was_hidden = suspect.is_hidden;
        if !matches!(result, Err(fault) if is_gone(fault)) {
            self.following.clear(node);
            if was_hidden {
                for name in self.names_of(node) {
                    let change = self.shown(&name, node);
                    self.on_followed(&name, change.into_iter().collect(), false);
                }
            }
            return;
        }
        suspect.is_hidden = true;
        suspect.failures += 1;
        let pause = backoff(ASK_AGAIN_AFTER, suspect.failures, ASK_AGAIN_WITHIN);
        let next = now.after(pause.mul_f64(self.rng.random_range(0.8..1.0)));
        self.following.suspect_again(node, Some(next));
        if !was_hidden {
            for name in self.names_of(node) {
                self.on_followed(&name, vec![Change { publisher: node, says: None }], false);
            }
        }
    }
}
