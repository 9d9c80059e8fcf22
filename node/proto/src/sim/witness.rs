//! Sees every frame that reaches a peer, and that none tells it of another realm (docs/ARCHITECTURE.md,
//! "Realms").

use std::collections::BTreeMap;
use std::net::SocketAddr;

use macula_identity::{Identity, NodeId, RealmName};

use crate::record::Record;
use crate::wire::{Frame, message};
use message::{request, response};

/// Knows of each peer which realm it belongs to, and the words that would give it away.
#[derive(Debug, Default)]
pub(super) struct Witness {
    realms: BTreeMap<NodeId, RealmName>,
    /// Realm names, and the ids and addresses of peers.
    words: BTreeMap<String, RealmName>,
}

type Seen = Result<(), String>;

impl Witness {
    pub(super) fn meet(&mut self, node: &Identity, address: SocketAddr) {
        let Some(realm) = node.subject.realm() else { return };
        self.realms.insert(node.id, realm.clone());
        let (id, short, name) = (node.id.to_string(), node.id.short(), realm.to_string());
        for word in [id, short, name, address.ip().to_string(), address.to_string()] {
            self.words.insert(word, realm.clone());
        }
    }

    /// Says how the frame shows a peer anything of another realm, if it does.
    pub(super) fn see(&self, from: NodeId, to: NodeId, frame: &Frame) -> Seen {
        let Some(mine) = self.realms.get(&to) else { return Ok(()) };
        self.is_ours(mine, from)?;
        match frame {
            Frame::Request(message::Request { body: Some(body) }) => match body {
                request::Body::Store(message::Store { record, addresses: _ })
                | request::Body::Delete(message::Delete { record }) => {
                    record.iter().try_for_each(|record| self.is_our_record(mine, record))
                }
                request::Body::Changed(changed) => {
                    let mut records =
                        changed.records.iter().filter_map(|stored| stored.record.as_ref());
                    records.try_for_each(|record| self.is_our_record(mine, record))?;
                    let mut lost =
                        changed.lost.iter().filter_map(|id| NodeId::try_from(&id[..]).ok());
                    lost.try_for_each(|id| self.is_ours(mine, id))
                }
                request::Body::Ping(_)
                | request::Body::FindNode(_)
                | request::Body::FindValue(_)
                | request::Body::Call(_) => Ok(()),
            },
            Frame::Response(message::Response { body: Some(body) }) => match body {
                response::Body::Nodes(nodes) => self.are_our_contacts(mine, &nodes.closest),
                response::Body::Failure(failure) => self.are_our_words(mine, &failure.because),
                response::Body::Values(values) => {
                    self.are_our_contacts(mine, &values.closest)?;
                    let refused = values.refused.as_ref().map_or("", |refused| &refused.because);
                    self.are_our_words(mine, refused)?;
                    let mut records =
                        values.records.iter().filter_map(|stored| stored.record.as_ref());
                    records.try_for_each(|record| self.is_our_record(mine, record))
                }
                response::Body::Pong(_)
                | response::Body::Stored(_)
                | response::Body::Deleted(_)
                | response::Body::Answer(_)
                | response::Body::Noted(_) => Ok(()),
            },
            Frame::Request(message::Request { body: None })
            | Frame::Response(message::Response { body: None })
            | Frame::Hello(_)
            | Frame::HelloAck(_)
            | Frame::Goodbye(_)
            | Frame::FlowOpen(_)
            | Frame::Publish(_) => Ok(()),
        }
    }

    fn is_ours(&self, mine: &RealmName, node: NodeId) -> Seen {
        match self.realms.get(&node) {
            Some(theirs) if theirs != mine => {
                Err(format!("{node} of {theirs} was shown to {mine}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn are_our_contacts(&self, mine: &RealmName, contacts: &[message::Contact]) -> Seen {
        contacts.iter().try_for_each(|contact| {
            let id = NodeId::try_from(&contact.id[..]).expect("honest nodes send whole ids");
            self.is_ours(mine, id)
        })
    }

    fn is_our_record(&self, mine: &RealmName, record: &message::SignedRecord) -> Seen {
        let record = Record::decode(&record.body).expect("honest nodes send whole records");
        if record.realm == *mine {
            return Ok(());
        }
        Err(format!("a record of {} was shown to {mine}", record.realm))
    }

    fn are_our_words(&self, mine: &RealmName, text: &str) -> Seen {
        let is_between = |c: char| !c.is_ascii_alphanumeric() && !"-.:".contains(c);
        for word in text.split(is_between) {
            let word = word.trim_matches([':', '.']);
            if let Some(theirs) = self.words.get(word)
                && theirs != mine
            {
                return Err(format!("{mine} was told {word} of {theirs}: {text}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use macula_identity::Place;

    use super::super::{NOON_MS, cast::Cast};
    use super::*;
    use crate::engine::failure_of;
    use crate::error::{Code, Fault};
    use crate::time::Now;
    use crate::wire::Contact;

    /// A witness who knows one peer of each of two realms, and a bootstrap.
    fn witness() -> (Witness, [Identity; 3]) {
        let now = Now { instant: std::time::Instant::now(), unix_ms: NOON_MS };
        let cast = Cast::new(1, now);
        let mut witness = Witness::default();
        let peer = |realm: &str| Place::Realm(realm.parse().expect("a realm"));
        let places = [peer("com.example.shop"), peer("org.example.clinic"), Place::Bootstrap];
        let mut at = 0;
        let nodes = places.map(|place| {
            at += 1;
            let me = cast.node(now, place, &format!("n{at}"), true);
            witness.meet(&me.identity, SocketAddr::from(([10, 0, 0, at], 9443)));
            me.identity.clone()
        });
        (witness, nodes)
    }

    fn nodes(contact: &Contact) -> Frame {
        let closest = vec![contact.into()];
        let body = Some(response::Body::Nodes(message::Nodes { closest }));
        Frame::Response(message::Response { body })
    }

    fn refusal(because: String) -> Frame {
        let failure = failure_of(&Fault::new(Code::Internal, because));
        Frame::Response(message::Response { body: Some(response::Body::Failure(failure)) })
    }

    #[test]
    fn a_contact_of_another_realm_is_seen_and_one_of_infrastructure_is_fine() {
        let (witness, [mine, foreign, bootstrap]) = witness();
        let contact = |id| Contact { id, addresses: Vec::new() };
        assert!(witness.see(bootstrap.id, mine.id, &nodes(&contact(foreign.id))).is_err());
        assert!(witness.see(bootstrap.id, mine.id, &nodes(&contact(bootstrap.id))).is_ok());
        assert!(witness.see(bootstrap.id, bootstrap.id, &nodes(&contact(foreign.id))).is_ok());
        assert!(witness.see(foreign.id, mine.id, &nodes(&contact(mine.id))).is_err());
    }

    #[test]
    fn the_words_of_a_refusal_give_nobody_away() {
        let (witness, [mine, foreign, bootstrap]) = witness();
        let see = |text: String| witness.see(bootstrap.id, mine.id, &refusal(text));
        assert!(see(format!("{} does not answer", foreign.id)).is_err());
        assert!(see(format!("provider {}: gone", foreign.id.short())).is_err());
        assert!(see("this node serves realm org.example.clinic only".to_owned()).is_err());
        assert!(see("dialled 10.0.0.2:9443 in vain".to_owned()).is_err());
        assert!(see(format!("{} at 10.0.0.1:9443 of com.example.shop", mine.id)).is_ok());
    }

    #[test]
    fn a_record_of_another_realm_is_seen() {
        use prost::Message;
        let (witness, [mine, foreign, bootstrap]) = witness();
        let shown = |node: &Identity| {
            let body = message::Record {
                realm: node.subject.realm().expect("a peer").to_string(),
                kind: message::record::Kind::Provider.into(),
                name: "cart.add".to_owned(),
                ..message::Record::default()
            };
            let record = message::SignedRecord {
                body: body.encode_to_vec().into(),
                certificate: Bytes::new(),
                signature: Bytes::new(),
            };
            let records =
                vec![message::StoredRecord { record: Some(record), addresses: Vec::new() }];
            let values = message::Values { records, ..Default::default() };
            Frame::Response(message::Response { body: Some(response::Body::Values(values)) })
        };
        assert!(witness.see(bootstrap.id, mine.id, &shown(&mine)).is_ok());
        assert!(witness.see(bootstrap.id, mine.id, &shown(&foreign)).is_err());
    }
}
