//! Requests in and out, and messages that arrive.

use std::time::{Duration, Instant};

use macula_proto::engine::{Handled, RequestId, failure_of};
use macula_proto::identity::NodeId;
use macula_proto::time::Now;
use macula_proto::wire::message::{request, response};
use macula_proto::wire::{Contact, message};
use macula_proto::{Code, Fault};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::mesh::nodes::{Dial, Pending, WAITING};
use crate::mesh::serve::{self, Answer, Event, Invocation};
use crate::mesh::{Pong, Serving};
use crate::peer::{Caller, Request};
use crate::transport::Link;

use super::{Actor, not_sent};

impl Actor {
    pub(super) fn handle_event(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Request { link, request, reply } => {
                let answer = self.serve(now, &link, request);
                // The asker may have gone.
                let _ = reply.send(answer);
            }
            Event::Response { id, result } => self.on_response(now, id, result),
            Event::Again { link, pending } => {
                let (node, address) = (link.identity().id, link.address());
                if pending.again {
                    return self.fail(pending.id, Fault::of(Code::Unreachable));
                }
                let entry = self.nodes.entry(node);
                if entry.link.as_ref().is_some_and(|live| live.link.is(&link)) {
                    entry.link = None;
                }
                let pending = Pending { again: true, ..pending };
                if entry.link.is_some() {
                    // Another has taken its place.
                    return self.ask(node, pending);
                }
                entry.waiting.push(pending);
                self.dial(node, vec![address]);
            }
            Event::Messages(messages) => {
                for read in messages {
                    self.shared.metrics.messages_received.inc();
                    self.engine.handle_message(read.dropped, read.message);
                }
            }
            Event::Unlinked { link, fault } => self.on_unlinked(&link, &fault),
        }
    }

    pub(super) fn serve(&mut self, now: Now, link: &Link, request: message::Request) -> Answer {
        match self.engine.handle_request(now, link.identity(), link.address(), request) {
            Ok(Handled::Respond(body)) => Answer::Respond(body),
            Ok(Handled::Invoke(call)) => match self.invocation(call, serve::caller(link)) {
                Some(invocation) => Answer::Invoke(invocation),
                None => Answer::Respond(response::Body::Failure(failure_of(&Fault::of(
                    Code::NoProvider,
                )))),
            },
            Err(fault) => Answer::Respond(response::Body::Failure(failure_of(&fault))),
        }
    }

    pub(super) fn invocation(
        &self,
        call: macula_proto::rpc::Incoming,
        caller: Caller,
    ) -> Option<Invocation> {
        let registry = self.shared.registry();
        let Serving { handler, runtime, .. } = registry.procedures.get(&call.procedure)?.clone();
        drop(registry);
        self.shared.metrics.calls_served.inc();
        let macula_proto::rpc::Incoming { procedure, payload, timeout } = call;
        let request = Request { procedure, payload, caller, timeout };
        Some(Invocation { handler, runtime, request, counters: self.tasks.counters().clone() })
    }

    /// Sends a request over the node's link, or when there is one.
    pub(super) fn request(
        &mut self,
        to: Contact,
        id: RequestId,
        body: request::Body,
        timeout: Duration,
        repeatable: bool,
    ) {
        let pending = Pending { id, body, timeout, repeatable, again: false };
        let entry = self.nodes.entry(to.id);
        self.requests.insert(id, CancellationToken::new());
        if entry.link.is_some() {
            return self.ask(to.id, pending);
        }
        match &entry.dial {
            Dial::Failed { until, fault } if Instant::now() < *until => {
                let fault = not_sent(fault);
                self.fail(id, fault);
            }
            Dial::Idle | Dial::Failed { .. } | Dial::Dialling if entry.waiting.len() < WAITING => {
                entry.waiting.push(pending);
                self.dial(to.id, to.addresses);
            }
            Dial::Idle | Dial::Failed { .. } | Dial::Dialling => {
                self.fail(id, Fault::new(Code::Overloaded, "too many requests wait for the node"));
            }
        }
    }

    pub(super) fn ask(&mut self, node: NodeId, pending: Pending) {
        let Some(cancelled) = self.requests.get(&pending.id).cloned() else { return };
        let Some(live) = self.nodes.get(node).and_then(|node| node.link.as_ref()) else {
            return self.fail(pending.id, Fault::of(Code::Unreachable));
        };
        let (link, superseded) = (live.link.clone(), live.superseded.clone());
        self.context(link, superseded).ask(pending, cancelled);
    }

    pub(super) fn fail(&mut self, id: RequestId, fault: Fault) {
        self.on_response(clock::now(), id, Err(fault));
    }

    pub(super) fn on_response(
        &mut self,
        now: Now,
        id: RequestId,
        result: Result<response::Body, Fault>,
    ) {
        self.requests.remove(&id);
        if let Some((since, link, reply)) = self.pings.remove(&id) {
            let pong = result.map(|_| Pong {
                id: link.identity().id.to_string(),
                subject: link.identity().subject.to_string(),
                address: link.address().to_string(),
                rtt_us: u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
            });
            // The asker may have gone.
            let _ = reply.send(pong);
            return;
        }
        self.engine.handle_response(now, id, result);
    }
}
