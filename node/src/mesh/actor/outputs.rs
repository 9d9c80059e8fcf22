//! Does what the engine wants.

use std::sync::Arc;
use std::time::Instant;

use macula_proto::engine::{Output, RequestId};
use macula_proto::identity::NodeId;
use macula_proto::key::Kind as RecordKind;
use macula_proto::pubsub::Message;
use macula_proto::{Code, Fault};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::mesh::nodes::Dial;
use crate::mesh::serve::Event;
use crate::metrics::MessageDrop;
use crate::peer::{Caller, Delivery};
use crate::supervise::Kind;

use super::Actor;

impl Actor {
    pub(super) fn do_outputs(&mut self) {
        // One reading of the clocks for all: they cost as much as a small message.
        let now = clock::now();
        while let Some(output) = self.engine.poll_output(now) {
            self.do_output(output);
        }
    }

    pub(super) fn do_output(&mut self, output: Output) {
        match output {
            Output::Request { id, to, body, timeout, repeatable } => {
                self.request(to, id, body, timeout, repeatable);
            }
            Output::Cancel(id) => {
                if let Some(cancelled) = self.requests.remove(&id) {
                    cancelled.cancel();
                }
            }
            Output::Invoke { id, call } => self.invoke_here(id, call),
            Output::Send { to, message } => {
                for node in to.iter() {
                    self.send(*node, &message);
                }
            }
            Output::Deliver { to, message } => {
                for queue in to.iter().filter_map(|id| self.queues.get(id)) {
                    let dropped = queue.push(Delivery::Message(message.clone()));
                    self.shared.metrics.messages_delivered.add(1 - dropped.min(1));
                    self.shared.metrics.messages_dropped.add(MessageDrop::Subscription, dropped);
                }
            }
            Output::Gap { to, missed } => {
                self.shared.metrics.gaps.inc();
                for queue in to.iter().filter_map(|id| self.queues.get(id)) {
                    queue.push(Delivery::Gap { missed });
                }
            }
            Output::Published { id, result } => {
                if let Some(reply) = self.publishes.remove(&id) {
                    // The publisher may not wait.
                    let _ = reply.send(result);
                } else if let Err(fault) = result {
                    tracing::debug!(%fault, "a message was not published");
                }
            }
            Output::Returned { id, result } => {
                if let Err(fault) = &result {
                    self.shared.metrics.calls_failed.inc(fault.code);
                }
                if let Some(reply) = self.calls.remove(&id) {
                    // The caller may have gone.
                    let _ = reply.send(result);
                }
            }
            Output::Announced { kind, name, stored, refused } => {
                if let Some(fault) = refused {
                    tracing::warn!(%name, %fault, "a storer refused a record of this node");
                }
                self.on_announced(kind, &name, stored);
            }
            Output::LookedUp { .. } => {}
        }
    }

    /// A call of a procedure that this very node serves.
    pub(super) fn invoke_here(&mut self, id: RequestId, call: macula_proto::rpc::Incoming) {
        let identity = &self.credentials.identity;
        let caller = Caller { id: identity.id, name: identity.subject.name.clone() };
        let Some(invocation) = self.invocation(call, caller) else {
            return self.fail(id, Fault::of(Code::NoProvider));
        };
        let cancelled = CancellationToken::new();
        self.requests.insert(id, cancelled.clone());
        let (events, life) = (self.events.clone(), self.life.clone());
        self.tasks.spawn(Kind::Stream, async move {
            let run = async {
                if let Some(body) = cancelled.run_until_cancelled(invocation.run()).await {
                    // Without a receiver the actor is gone.
                    let _ = events.send(Event::Response { id, result: Ok(body) }).await;
                }
            };
            life.run_until_cancelled(run).await;
        });
    }

    pub(super) fn send(&mut self, to: NodeId, message: &Arc<Message>) {
        let entry = self.nodes.entry(to);
        let metrics = &self.shared.metrics;
        if entry.link.is_none()
            && matches!(&entry.dial, Dial::Failed { until, .. } if Instant::now() < *until)
        {
            metrics.messages_dropped.inc(MessageDrop::Unreachable);
            return;
        }
        if entry.outbox.push(message.clone()) {
            metrics.messages_sent.inc();
        } else {
            metrics.messages_dropped.inc(MessageDrop::Flow);
        }
        if entry.link.is_none() && !matches!(entry.dial, Dial::Dialling) {
            let addresses = self.addresses(to);
            self.dial(to, addresses);
        }
    }

    pub(super) fn on_announced(&mut self, kind: RecordKind, name: &str, stored: usize) {
        if stored == 0 {
            return;
        }
        let waiting = std::mem::take(&mut self.announcing);
        for waiting in waiting {
            if waiting.kind == kind && waiting.name == name {
                // A caller that no longer waits drops what it was given, which ends it.
                let _ = waiting.reply.send(Ok(waiting.token));
            } else {
                self.announcing.push(waiting);
            }
        }
    }
}
