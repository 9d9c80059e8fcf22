//! Links that come, go and are renewed, and the dials that make them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use macula_proto::identity::NodeId;
use macula_proto::realm::Expected;
use macula_proto::{Code, Fault};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::identity::Credentials;
use crate::mesh::nodes::{DIAL_AGAIN_AFTER, Dial, Live};
use crate::mesh::serve::{self, Context};
use crate::metrics::MessageDrop;
use crate::supervise::Kind;
use crate::transport::{Incoming, Link};

use super::{Actor, Dialled, Why, me, not_sent, trust};

impl Actor {
    /// Completes a handshake, in a task of its own: one that stalls keeps nobody waiting.
    pub(super) fn greet(&self, incoming: Incoming) {
        let (endpoint, dials, life) =
            (self.endpoint.clone(), self.dials.clone(), self.life.clone());
        self.tasks.spawn(Kind::Connection, async move {
            match life.run_until_cancelled(endpoint.greet(incoming)).await {
                Some(Ok(link)) => {
                    // Without a receiver the actor is gone.
                    let _ = dials.send(Dialled { why: Why::Accepted, result: Ok(link) }).await;
                }
                Some(Err(Fault { code, because, .. })) => {
                    tracing::info!(%code, because, "refused a connection");
                }
                None => {}
            }
        });
    }

    pub(super) fn handle_dialled(&mut self, Dialled { why, result }: Dialled) {
        let now = Instant::now();
        let link = match result {
            Ok(link) => link,
            Err(fault) => {
                match why {
                    Why::Accepted => {}
                    Why::Seed(address) => {
                        self.on_seed_failed(now, address, fault);
                        self.shared.config.seeds.seed_lost(address);
                    }
                    Why::Node(node) => self.on_dial_failed(now, node, fault),
                    // The asker may have gone.
                    Why::Ping(reply) => drop(reply.send(Err(fault))),
                }
                return;
            }
        };
        let node = link.identity().id;
        if node == self.credentials.identity.id {
            link.close(Code::Goodbye, "this is the very same node");
            if let Why::Seed(address) = why {
                self.seeds.on_self(now, address);
            }
            return;
        }
        // The bundle may have changed while the handshake was under way.
        if let Err(refusal) = self.credentials.bundle.still_trusts(link.identity()) {
            link.close(Code::TrustWithdrawn, &refusal.to_string());
            self.shared.metrics.connections_closed.inc(Code::TrustWithdrawn);
            let fault = Fault::new(Code::TrustWithdrawn, refusal.to_string());
            return self.handle_dialled(Dialled { why, result: Err(fault) });
        }
        self.on_link(link.clone());
        match why {
            Why::Seed(address) => self.seeds.on_connected(address, node),
            Why::Ping(reply) => self.ping_over(link, reply),
            Why::Accepted | Why::Node(_) => {}
        }
    }

    /// Says so once for each reason: it is tried again until it succeeds.
    pub(super) fn on_seed_failed(&mut self, now: Instant, address: SocketAddr, fault: Fault) {
        let Fault { code, because, .. } = fault.clone();
        if !self.seeds.on_failed(now, address, fault) {
            tracing::debug!(%address, %code, because, "a seed cannot be joined yet");
        } else if matches!(code, Code::Unreachable | Code::Timeout) {
            tracing::info!(%address, %code, because, "a seed cannot be reached; trying again");
        } else {
            tracing::warn!(%address, %code, because, "a seed cannot be joined; trying again");
        }
    }

    pub(super) fn on_link(&mut self, link: Link) {
        let node = link.identity().id;
        let entry = self.nodes.entry(node);
        entry.dial = Dial::Idle;
        if let Some(live) = &entry.link {
            if !link.is_better_than(&live.link) {
                // The other end decides alike, and keeps the one that we keep.
                let superseded = CancellationToken::new();
                superseded.cancel();
                self.start(link, superseded);
                self.flush_waiting(node);
                return;
            }
            live.superseded.cancel();
            if live.link.incarnation() < link.incarnation() {
                live.link.close(Code::Superseded, "a later incarnation has connected");
            }
        }
        let superseded = CancellationToken::new();
        entry.link = Some(Live { link: link.clone(), superseded: superseded.clone() });
        tracing::debug!(%node, subject = %link.identity().subject, address = %link.address(), "connected");
        self.engine.handle_connected(clock::now(), link.identity(), vec![link.address()]);
        if link.identity().subject.role().is_infrastructure()
            && !self.shared.ready.send_replace(true)
        {
            tracing::info!("joined the mesh");
        }
        self.start(link, superseded);
        self.flush_waiting(node);
    }

    pub(super) fn start(&mut self, link: Link, superseded: CancellationToken) {
        self.context(link, superseded).start();
    }

    pub(super) fn context(&mut self, link: Link, superseded: CancellationToken) -> Context {
        let mine = self.credentials.identity.subject.role();
        let theirs = link.identity().subject.role();
        let node = self.nodes.entry(link.identity().id);
        Context {
            outbox: node.outbox.clone(),
            gate: node.gate.clone(),
            busy: link.busy(),
            link,
            events: self.events.clone(),
            superseded,
            life: self.life.clone(),
            tasks: self.tasks.clone(),
            incarnation: self.engine.me().incarnation,
            flows: serve::may_flow(mine, theirs),
        }
    }

    pub(super) fn flush_waiting(&mut self, node: NodeId) {
        let waiting = std::mem::take(&mut self.nodes.entry(node).waiting);
        for pending in waiting {
            self.ask(node, pending);
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, node: NodeId, fault: Fault) {
        let entry = self.nodes.entry(node);
        let until = now + DIAL_AGAIN_AFTER;
        entry.dial = Dial::Failed { until, fault: fault.clone() };
        if entry.link.is_some() {
            tracing::debug!(%node, %fault, "a connection could not be replaced yet");
            return;
        }
        let dropped = entry.outbox.clear();
        let waiting = std::mem::take(&mut entry.waiting);
        self.shared.metrics.messages_dropped.add(MessageDrop::Unreachable, dropped);
        tracing::debug!(%node, %fault, dropped, "a node cannot be reached");
        for pending in waiting {
            self.fail(pending.id, not_sent(&fault));
        }
    }

    pub(super) fn on_unlinked(&mut self, link: &Link, fault: &Fault) {
        self.shared.metrics.connections_closed.inc(fault.code);
        let node = link.identity().id;
        let Some(entry) = self.nodes.get_mut(node) else { return };
        if !entry.link.as_ref().is_some_and(|live| live.link.is(link)) {
            return;
        }
        tracing::debug!(%node, %fault, "disconnected");
        entry.link = None;
        let redial = !entry.outbox.is_empty();
        let comes_back = matches!(fault.code, Code::Goodbye | Code::Superseded);
        self.engine.handle_disconnected(clock::now(), node, !comes_back);
        if fault.code == Code::Draining {
            self.engine.handle_left(node);
        }
        if let Some(address) = self.seeds.on_lost(Instant::now(), node) {
            self.shared.config.seeds.seed_lost(address);
        }
        if redial {
            let addresses = self.addresses(node);
            self.dial(node, addresses);
        }
    }

    pub(super) fn dial_seeds(&mut self) {
        let all = self.credentials.identity.subject.role().is_infrastructure();
        for address in self.seeds.next_dials(Instant::now(), all) {
            self.spawn_dial(Why::Seed(address), vec![address], Expected::Bootstrap);
        }
    }

    /// Dials a node at the first of these addresses that answers.
    pub(super) fn dial(&mut self, node: NodeId, addresses: Vec<SocketAddr>) {
        let entry = self.nodes.entry(node);
        if matches!(entry.dial, Dial::Dialling) {
            return;
        }
        entry.dial = Dial::Dialling;
        self.spawn_dial(Why::Node(node), addresses, Expected::Node(node));
    }

    pub(super) fn spawn_dial(&self, why: Why, addresses: Vec<SocketAddr>, expected: Expected) {
        let (endpoint, life) = (self.endpoint.clone(), self.life.clone());
        let mut outcome = Outcome { dials: self.dials.clone(), why: Some(why) };
        self.tasks.spawn(Kind::Connection, async move {
            let dial = async {
                let mut result = Err(Fault::new(Code::Unreachable, "no address is known"));
                for address in addresses {
                    result = endpoint.dial(address, expected).await;
                    if result.is_ok() {
                        break;
                    }
                }
                if let Some(why) = outcome.why.take() {
                    // Without a receiver the actor is gone.
                    let _ = outcome.dials.send(Dialled { why, result }).await;
                }
            };
            life.run_until_cancelled(dial).await;
        });
    }

    /// Where a node was met: by the DHT's word, or by an earlier link of ours.
    pub(super) fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.engine.contact(node).map(|contact| contact.addresses.clone()).unwrap_or_default()
    }

    pub(super) fn handle_credentials(&mut self, credentials: Arc<Credentials>) {
        let (now, incarnation) = (clock::now(), self.engine.me().incarnation);
        if credentials.identity.id != self.credentials.identity.id {
            tracing::error!("the new certificate is another node's; the old one stays in use");
            return;
        }
        self.credentials = credentials.clone();
        self.engine.set_trust(trust(&credentials));
        self.engine.set_me(now, me(&credentials, incarnation));
        for link in self.nodes.links() {
            if let Err(refusal) = credentials.bundle.still_trusts(link.identity()) {
                link.close(Code::TrustWithdrawn, &refusal.to_string());
            }
        }
        self.renew_links();
    }

    /// Make before break: dials where a link shows an earlier certificate of ours; the new link takes
    /// the old one's place when it is up.
    pub(super) fn renew_links(&mut self) {
        let not_after = self.credentials.identity.not_after;
        for (node, address) in self.nodes.to_renew(Instant::now(), not_after) {
            self.dial(node, vec![address]);
        }
    }
}

/// Tells the actor what a dial came to, also when its task dies: the node would count as being
/// dialled for ever.
struct Outcome {
    dials: mpsc::Sender<Dialled>,
    why: Option<Why>,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if let Some(why) = self.why.take() {
            let result = Err(Fault::new(Code::Internal, "the task that dialled died"));
            // Without a receiver the actor is gone.
            let _ = self.dials.try_send(Dialled { why, result });
        }
    }
}
