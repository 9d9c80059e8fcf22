//! Requests and messages on their way to a link, or waiting for one.

use std::sync::Arc;

use bytes::BytesMut;
use macula_identity::NodeId;

use super::Swarm;
use super::event::{
    Asked, DIAL_TIMEOUT, Event, PROBE_AFTER, PROBE_TIMEOUT, Path, Pending, Stream, cause_of_request,
};
use super::meter::{self, Cause};
use crate::error::{Code, Fault};
use crate::pubsub::{Message, flow};
use crate::realm::Expected;
use crate::wire::{Contact, Frame, message};
use message::request;

impl Swarm {
    pub(super) fn ask(&mut self, from: NodeId, to: &Contact, pending: Pending) {
        let now = self.now_at(from);
        let node = self.node(from);
        match node.paths.get_mut(&to.id) {
            Some(Path::Up(_)) => return self.ask_over_link(from, to.id, pending),
            Some(Path::Dialling { waiting, .. }) => return waiting.push(pending),
            Some(Path::Failed { until }) if now.instant < *until => {
                let fault = Fault::new(Code::Unreachable, "a dial has failed just now");
                return node.engine.handle_response(now, pending.id, Err(fault));
            }
            Some(Path::Failed { .. }) | None => {}
        }
        if to.addresses.is_empty() {
            let fault = Fault::new(Code::Unreachable, "no address is known");
            return node.engine.handle_response(now, pending.id, Err(fault));
        }
        let path = Path::Dialling { waiting: vec![pending], outbox: Vec::new() };
        node.paths.insert(to.id, path);
        self.dial_each(from, to);
    }

    pub(super) fn ask_over_link(&mut self, from: NodeId, to: NodeId, pending: Pending) {
        let now = self.now_at(from);
        let node = self.node(from);
        if node.cancelled.remove(&pending.id) {
            return;
        }
        let Some(Path::Up(link)) = node.paths.get(&to) else {
            let fault = Fault::of(Code::Unreachable);
            return node.engine.handle_response(now, pending.id, Err(fault));
        };
        let silent = now.instant.saturating_duration_since(link.heard);
        if !pending.repeatable && silent > PROBE_AFTER {
            let link = link.number;
            let takes = if self.answers(from, to, link) {
                2 * self.latency(from, to)
            } else {
                PROBE_TIMEOUT
            };
            self.meter.count(Cause::Ping, 2, 2 * meter::on_the_wire(8));
            return self.foresee(takes, Event::Probed { from, to, link, pending });
        }
        let may_repeat = pending.repeatable && !pending.again;
        let again = may_repeat.then(|| Pending { again: true, ..pending.clone() });
        self.node(from).asked.insert(pending.id, Asked { to, again });
        if let request::Body::Store(message::Store { record: Some(record), .. })
        | request::Body::Delete(message::Delete { record: Some(record) }) = &pending.body
        {
            self.ledger.hear(from, &self.nodes[&from].me, record);
        }
        let cause = cause_of_request(&pending.body);
        let request = Frame::Request(message::Request { body: Some(pending.body) });
        let bytes = request.to_bytes().expect("what an engine sends fits its frame");
        self.carry(from, to, (Stream::Request(pending.id), cause), bytes);
    }

    /// Whether a ping over this link would be answered.
    fn answers(&self, from: NodeId, to: NodeId, link: u64) -> bool {
        self.is_reachable(from, to) && self.nodes[&to].link_to(from) == Some(link)
    }

    pub(super) fn on_probed(&mut self, from: NodeId, to: NodeId, link: u64, pending: Pending) {
        let now = self.now_at(from);
        if self.answers(from, to, link) {
            if let Some(Path::Up(link)) = self.node(from).paths.get_mut(&to) {
                link.heard = now.instant;
            }
            self.ask_over_link(from, to, pending);
            return self.settle(from);
        }
        if self.nodes[&from].link_to(to) == Some(link) {
            self.disconnect(from, to);
        }
        if pending.again {
            let fault = Fault::of(Code::Unreachable);
            self.node(from).engine.handle_response(now, pending.id, Err(fault));
        } else {
            let addresses = vec![self.nodes[&to].address];
            self.ask(from, &Contact { id: to, addresses }, Pending { again: true, ..pending });
        }
        self.settle(from);
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: &Arc<Message>) {
        let now = self.now;
        let node = self.node(from);
        match node.paths.get_mut(&to) {
            Some(Path::Up(_)) => return self.send_over_link(from, to, message),
            Some(Path::Dialling { outbox, .. }) => return outbox.push(message.clone()),
            Some(Path::Failed { until }) if now.instant < *until => return,
            Some(Path::Failed { .. }) | None => {}
        }
        let contact = node.engine.contact(to).filter(|contact| !contact.addresses.is_empty());
        let Some(contact) = contact.cloned() else { return };
        let path = Path::Dialling { waiting: Vec::new(), outbox: vec![message.clone()] };
        node.paths.insert(to, path);
        self.dial_each(from, &contact);
    }

    /// Dials a node at each of these addresses, one after the other. Nobody is where a liar says that somebody
    /// is.
    fn dial_each(&mut self, from: NodeId, to: &Contact) {
        let met = |address| self.by_address.get(address).copied();
        let here = to.addresses.iter().position(|address| met(address) == Some(to.id));
        let last = here.unwrap_or(to.addresses.len() - 1);
        let at = met(&to.addresses[last]);
        let after = DIAL_TIMEOUT * u32::try_from(last).expect("addresses are few");
        self.dial(from, to.id, at, Expected::Node(to.id), after);
    }

    pub(super) fn send_over_link(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let node = self.node(from);
        let Some(Path::Up(link)) = node.paths.get_mut(&to) else { return };
        let mut bytes = BytesMut::new();
        let writer = link.writer.get_or_insert_with(|| {
            flow::Writer::open(message.incarnation, &mut bytes);
            flow::Writer::default()
        });
        writer.write(message, 0, &mut bytes).expect("payloads are checked when published");
        let stream = Stream::Flow(link.written);
        link.written += 1;
        self.carry(from, to, (stream, Cause::Publish), bytes.freeze());
    }
}
