//! What the application asks of the actor.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use macula_proto::engine::RequestId;
use macula_proto::key::Kind as RecordKind;
use macula_proto::pubsub::PublishId;
use macula_proto::realm::Expected;
use macula_proto::rpc::CallId;
use macula_proto::time::Now;
use macula_proto::wire::message;
use macula_proto::wire::message::request;
use tokio_util::sync::CancellationToken;

use crate::mesh::nodes::Pending;
use crate::mesh::{Command, Pong, Reply, Serving, Target};
use crate::peer::QueueSender;
use crate::transport::Link;

use super::{ANNOUNCE_PATIENCE, Actor, Announcing, Why};

impl Actor {
    pub(super) fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::Publish { topic, payload, reply } => {
                let id = PublishId(self.next_publish);
                self.next_publish += 1;
                if let Some(reply) = reply {
                    self.publishes.insert(id, reply);
                }
                self.engine.publish(now, id, topic, payload);
            }
            Command::Subscribe { pattern, queue, reply } => self.subscribe(pattern, queue, reply),
            Command::Unsubscribe { token } => {
                self.shared.registry().subscriptions.remove(&token);
                if let Some(id) = self.tokens.remove(&token) {
                    self.queues.remove(&id);
                    self.engine.unsubscribe(id);
                }
            }
            Command::Call { id, procedure, payload, timeout, reply } => {
                self.shared.metrics.calls_started.inc();
                self.calls.insert(CallId(id), reply);
                self.engine.call(now, CallId(id), procedure, payload, timeout);
            }
            Command::CancelCall { id } => {
                if self.calls.remove(&CallId(id)).is_some() {
                    self.engine.cancel(CallId(id));
                }
            }
            Command::Advertise { procedure, handler, runtime, reply } => {
                let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
                match self.engine.advertise(procedure.clone()) {
                    Err(fault) => drop(reply.send(Err(fault))),
                    Ok(news) => {
                        let name = procedure.to_string();
                        let serving = Serving { token, handler, runtime };
                        self.shared.registry().procedures.insert(procedure, serving);
                        self.announced(RecordKind::Provider, name, news, token, reply);
                    }
                }
            }
            Command::Withdraw { procedure, token } => {
                let mut registry = self.shared.registry();
                if registry.procedures.get(&procedure).is_some_and(|it| it.token == token) {
                    registry.procedures.remove(&procedure);
                    drop(registry);
                    self.engine.withdraw(&procedure);
                }
            }
            // A caller that no longer waits needs no answer.
            Command::Status { reply } => drop(reply.send(Ok(self.status()))),
            Command::Ping { target, reply } => self.ping(target, reply),
        }
    }

    pub(super) fn ping(&mut self, target: Target, reply: Reply<Pong>) {
        let (addresses, expected) = match target {
            Target::Address(address) => (vec![address], Expected::Anyone),
            Target::Node(node) => {
                if let Some(live) = self.nodes.get(node).and_then(|node| node.link.as_ref()) {
                    return self.ping_over(live.link.clone(), reply);
                }
                (self.addresses(node), Expected::Node(node))
            }
        };
        self.spawn_dial(Why::Ping(reply), addresses, expected);
    }

    pub(super) fn ping_over(&mut self, link: Link, reply: Reply<Pong>) {
        let (id, node) = (RequestId(self.next_ping), link.identity().id);
        self.next_ping -= 1;
        self.pings.insert(id, (Instant::now(), link, reply));
        self.requests.insert(id, CancellationToken::new());
        let body = request::Body::Ping(message::Ping {});
        let timeout = Duration::from_secs(5);
        self.ask(node, Pending { id, body, timeout, repeatable: true, again: false });
    }

    pub(super) fn subscribe(
        &mut self,
        pattern: macula_proto::name::TopicPattern,
        queue: QueueSender,
        reply: Reply<u64>,
    ) {
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        match self.engine.subscribe(pattern.clone()) {
            Err(fault) => drop(reply.send(Err(fault))),
            Ok((id, news)) => {
                let queue = Arc::new(queue);
                self.tokens.insert(token, id);
                self.queues.insert(id, queue.clone());
                let name = pattern.rendezvous().to_owned();
                self.shared.registry().subscriptions.insert(token, (pattern, queue));
                self.announced(RecordKind::Subscriber, name, news, token, reply);
            }
        }
    }

    /// Answers at once when nothing new has to be announced, else when it was.
    pub(super) fn announced(
        &mut self,
        kind: RecordKind,
        name: String,
        news: bool,
        token: u64,
        reply: Reply<u64>,
    ) {
        if news {
            let until = Instant::now() + ANNOUNCE_PATIENCE;
            self.announcing.push(Announcing { kind, name, until, token, reply });
        } else {
            // A caller that no longer waits drops what it was given, which ends it.
            let _ = reply.send(Ok(token));
        }
    }
}
