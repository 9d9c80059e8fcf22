//! Sees every frame that reaches a peer, and that none tells it of another realm (docs/ARCHITECTURE.md,
//! "Realms").

use std::collections::BTreeMap;

use macula_identity::{Identity, NodeId, RealmName};

use crate::record::Record;
use crate::wire::{Frame, message};
use message::{request, response};

/// Knows of each peer which realm it belongs to.
#[derive(Debug, Default)]
pub(super) struct Witness {
    realms: BTreeMap<NodeId, RealmName>,
}

impl Witness {
    pub(super) fn meet(&mut self, node: &Identity) {
        if let Some(realm) = node.subject.realm() {
            self.realms.insert(node.id, realm.clone());
        }
    }

    /// # Panics
    /// When the frame shows a peer anything of another realm.
    pub(super) fn see(&self, from: NodeId, to: NodeId, frame: &Frame) {
        let Some(mine) = self.realms.get(&to) else { return };
        self.is_ours(mine, from);
        match frame {
            Frame::Request(message::Request { body: Some(body) }) => match body {
                request::Body::Store(message::Store { record })
                | request::Body::Delete(message::Delete { record }) => {
                    record.iter().for_each(|record| self.is_our_record(mine, record));
                }
                request::Body::Changed(changed) => {
                    let records =
                        changed.records.iter().filter_map(|stored| stored.record.as_ref());
                    records.for_each(|record| self.is_our_record(mine, record));
                    for lost in &changed.lost {
                        let id = NodeId::try_from(&lost[..]).expect("honest nodes send whole ids");
                        self.is_ours(mine, id);
                    }
                }
                request::Body::Ping(_)
                | request::Body::FindNode(_)
                | request::Body::FindValue(_)
                | request::Body::Call(_) => {}
            },
            Frame::Response(message::Response { body: Some(body) }) => match body {
                response::Body::Nodes(nodes) => self.are_our_contacts(mine, &nodes.closest),
                response::Body::Values(values) => {
                    self.are_our_contacts(mine, &values.closest);
                    let records = values.records.iter().filter_map(|stored| stored.record.as_ref());
                    records.for_each(|record| self.is_our_record(mine, record));
                }
                response::Body::Failure(_)
                | response::Body::Pong(_)
                | response::Body::Stored(_)
                | response::Body::Deleted(_)
                | response::Body::Answer(_)
                | response::Body::Noted(_) => {}
            },
            Frame::Request(message::Request { body: None })
            | Frame::Response(message::Response { body: None })
            | Frame::Hello(_)
            | Frame::HelloAck(_)
            | Frame::Goodbye(_)
            | Frame::FlowOpen(_)
            | Frame::Publish(_) => {}
        }
    }

    fn is_ours(&self, mine: &RealmName, node: NodeId) {
        let theirs = self.realms.get(&node);
        assert!(theirs.is_none_or(|theirs| theirs == mine), "{mine} met {node} of {theirs:?}");
    }

    fn are_our_contacts(&self, mine: &RealmName, contacts: &[message::Contact]) {
        for contact in contacts {
            let id = NodeId::try_from(&contact.id[..]).expect("honest nodes send whole ids");
            self.is_ours(mine, id);
        }
    }

    fn is_our_record(&self, mine: &RealmName, record: &message::SignedRecord) {
        let record = Record::decode(&record.body).expect("honest nodes send whole records");
        assert_eq!(record.realm, *mine, "a record of {} was shown to {mine}", record.realm);
    }
}
