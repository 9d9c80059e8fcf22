//! The loop of the data plane: inputs to the engine, outputs to the network. It never waits for
//! anything but its next input.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use macula_proto::dht::{self, Me, Trust};
use macula_proto::engine::{Engine, Handled, Output, RequestId, failure_of};
use macula_proto::identity::{NodeId, Role};
use macula_proto::key::{Kind as RecordKind, Scope};
use macula_proto::pubsub::{Message, PublishId, SubscriptionId};
use macula_proto::realm::Expected;
use macula_proto::rpc::CallId;
use macula_proto::time::Now;
use macula_proto::wire::message::{request, response};
use macula_proto::wire::{Contact, message};
use macula_proto::{Code, Fault};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::nodes::{DIAL_AGAIN_AFTER, Dial, Live, Nodes, Pending, WAITING};
use super::seeds::Seeds;
use super::serve::{self, Answer, Context, Event, Invocation};
use super::{Command, Pong, Reply, Serving, Shared, Target};
use crate::clock;
use crate::identity::Credentials;
use crate::metrics::MessageDrop;
use crate::peer::{Caller, Delivery, QueueSender, Request};
use crate::status;
use crate::supervise::{Kind, Spawner, failpoint};
use crate::transport::{BindError, Direction, Endpoint, Incoming, Link};

/// Events of links that wait for the actor; then the links' tasks wait, and with them the senders.
const EVENTS: usize = 1024;
/// Inputs that are taken before outputs are done: what makes batches.
const AT_ONCE: usize = 256;
/// How often seeds, idle links and gauges are looked after.
const UPKEEP: Duration = Duration::from_millis(250);
/// A link that nothing used for this long is closed, unless it leads to a seed.
const UNUSED: Duration = Duration::from_secs(60);
/// How long `subscribe` and `advertise` wait until they can be found; then they go on in the
/// background.
const ANNOUNCE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node that leaves waits for its records to be withdrawn.
const LEAVE_PATIENCE: Duration = Duration::from_millis(500);
/// How long a restarted actor waits for the socket of the one before.
const REBIND_PATIENCE: Duration = Duration::from_secs(3);

/// Runs one incarnation of the node, until it is stopped or breaks.
pub(super) async fn run(shared: Arc<Shared>, tasks: Spawner) -> Result<(), BindError> {
    // Held for the actor's life: a restarted actor takes them over.
    let mut commands = shared.inbox.lock().await;
    let mut endings = shared.endings_inbox.lock().await;
    let incarnation = shared.next_incarnation();
    let credentials = shared.config.source.borrow().clone();
    let endpoint = bind(&shared, incarnation).await?;
    let address = *shared.address.get_or_init(|| endpoint.local_address());
    tracing::info!(%address, node = %credentials.identity.id, "listening");
    let (events_in, mut events) = mpsc::channel(EVENTS);
    let (dials_in, mut dials) = mpsc::channel(EVENTS);
    let life = CancellationToken::new();
    let _end_tasks = life.clone().drop_guard();
    let accepting = endpoint.clone();
    let me = me(&credentials, incarnation);
    let trust = trust(&credentials);
    let rng = StdRng::from_rng(&mut rand::rng());
    let mut actor = Actor {
        engine: Engine::new(dht::Config::default(), me, trust, rng),
        credentials,
        endpoint,
        tasks,
        life,
        events: events_in,
        dials: dials_in,
        nodes: Nodes::default(),
        seeds: Seeds::default(),
        requests: HashMap::new(),
        pings: HashMap::new(),
        tokens: HashMap::new(),
        queues: HashMap::new(),
        calls: HashMap::new(),
        publishes: HashMap::new(),
        announcing: Vec::new(),
        next_publish: 1,
        next_ping: u64::MAX,
        shared: shared.clone(),
    };
    actor.replay();
    let mut found = shared.config.seeds.found();
    let mut source = shared.config.source.clone();
    let mut upkeep = tokio::time::interval(UPKEEP);
    upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(AT_ONCE);
    let mut arrived = Vec::with_capacity(AT_ONCE);
    actor.seeds.set(Instant::now(), &found.borrow_and_update().seeds.clone());
    actor.do_outputs();
    loop {
        failpoint(Kind::Mesh);
        let due = actor.engine.poll_timeout().map(|deadline| deadline.at);
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            _ = upkeep.tick() => actor.look_after(),
            Some(ending) = endings.recv() => actor.handle_command(clock::now(), ending),
            Some(dialled) = dials.recv() => actor.handle_dialled(dialled),
            Some(incoming) = accepting.accept() => actor.greet(incoming),
            Ok(()) = source.changed() => {
                let credentials = source.borrow_and_update().clone();
                actor.handle_credentials(credentials);
            }
            Ok(()) = found.changed() => {
                let seeds = found.borrow_and_update().seeds.clone();
                actor.seeds.set(Instant::now(), &seeds);
                actor.dial_seeds();
            }
            () = until(due) => actor.engine.handle_timeout(clock::now()),
            count = events.recv_many(&mut arrived, AT_ONCE) => {
                debug_assert!(count > 0, "the actor holds a sender");
                arrived.drain(..).for_each(|event| actor.handle_event(event));
            }
            count = commands.recv_many(&mut batch, AT_ONCE) => {
                debug_assert!(count > 0, "the shared state holds a sender");
                let now = clock::now();
                batch.drain(..).for_each(|command| actor.handle_command(now, command));
            }
        }
        actor.do_outputs();
    }
    // Stopping: take back what was announced, wait a moment until the storers know, then say
    // goodbye to everybody; who waits for an answer hears that the node is gone.
    actor.engine.leave(clock::now());
    actor.do_outputs();
    let patience = tokio::time::sleep(LEAVE_PATIENCE);
    tokio::pin!(patience);
    while !actor.requests.is_empty() {
        tokio::select! {
            () = &mut patience => break,
            Some(event) = events.recv() => actor.handle_event(event),
        }
        actor.do_outputs();
    }
    actor.endpoint.close(Code::Draining).await;
    Ok(())
}

/// Binds the socket. One that replaces another waits until that has let go of the address: quinn
/// keeps a socket until its connections have drained (RFC 9000 §10.2).
async fn bind(shared: &Shared, incarnation: u64) -> Result<Endpoint, BindError> {
    let until = Instant::now() + REBIND_PATIENCE;
    let before = shared.address.get().copied();
    loop {
        let listen = before.unwrap_or(shared.config.listen);
        let source = shared.config.source.clone();
        match Endpoint::bind(listen, source, incarnation, shared.metrics.clone()) {
            Err(BindError::Bind { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse
                    && before.is_some()
                    && Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bound => return bound,
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A dial or a greeting that came to an end.
pub(super) struct Dialled {
    why: Why,
    result: Result<Link, Fault>,
}

enum Why {
    Accepted,
    Seed(SocketAddr),
    Node(NodeId),
    Ping(Reply<Pong>),
}

struct Actor {
    shared: Arc<Shared>,
    engine: Engine,
    credentials: Arc<Credentials>,
    endpoint: Endpoint,
    tasks: Spawner,
    life: CancellationToken,
    events: mpsc::Sender<Event>,
    dials: mpsc::Sender<Dialled>,
    nodes: Nodes,
    seeds: Seeds,
    /// Requests under way, and how to stop each.
    requests: HashMap<RequestId, CancellationToken>,
    /// Pings of the application, by an id that the engine never gives.
    pings: HashMap<RequestId, (Instant, Link, Reply<Pong>)>,
    tokens: HashMap<u64, SubscriptionId>,
    queues: HashMap<SubscriptionId, Arc<QueueSender>>,
    calls: HashMap<CallId, Reply<macula_proto::payload::Payload>>,
    publishes: HashMap<PublishId, Reply<usize>>,
    /// Who waits until something can be found.
    announcing: Vec<Announcing>,
    next_publish: u64,
    next_ping: u64,
}

struct Announcing {
    kind: RecordKind,
    name: String,
    until: Instant,
    token: u64,
    reply: Reply<u64>,
}

impl Actor {
    /// Takes up what the actor before this one served.
    fn replay(&mut self) {
        let registry = self.shared.registry();
        for (token, (pattern, queue)) in &registry.subscriptions {
            if let Ok((id, _)) = self.engine.subscribe(pattern.clone()) {
                self.tokens.insert(*token, id);
                self.queues.insert(id, queue.clone());
                // What came while nobody listened is not known; that something may have is.
                queue.push(Delivery::Gap { missed: 0 });
            }
        }
        for procedure in registry.procedures.keys() {
            // They fitted before.
            let _ = self.engine.advertise(procedure.clone());
        }
        drop(registry);
        if self.credentials.identity.subject.role() == Role::Bootstrap {
            self.shared.ready.send_replace(true);
        }
    }

    // ---- commands ----

    fn handle_command(&mut self, now: Now, command: Command) {
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

    fn ping(&mut self, target: Target, reply: Reply<Pong>) {
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

    fn ping_over(&mut self, link: Link, reply: Reply<Pong>) {
        let (id, node) = (RequestId(self.next_ping), link.identity().id);
        self.next_ping -= 1;
        self.pings.insert(id, (Instant::now(), link, reply));
        self.requests.insert(id, CancellationToken::new());
        let body = request::Body::Ping(message::Ping {});
        let timeout = Duration::from_secs(5);
        self.ask(node, Pending { id, body, timeout, repeatable: true, again: false });
    }

    fn subscribe(
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
    fn announced(
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

    // ---- links ----

    /// Completes a handshake, in a task of its own: one that stalls keeps nobody waiting.
    fn greet(&self, incoming: Incoming) {
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

    fn handle_dialled(&mut self, Dialled { why, result }: Dialled) {
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
    fn on_seed_failed(&mut self, now: Instant, address: SocketAddr, fault: Fault) {
        let Fault { code, because, .. } = fault.clone();
        if !self.seeds.on_failed(now, address, fault) {
            tracing::debug!(%address, %code, because, "a seed cannot be joined yet");
        } else if matches!(code, Code::Unreachable | Code::Timeout) {
            tracing::info!(%address, %code, because, "a seed cannot be reached; trying again");
        } else {
            tracing::warn!(%address, %code, because, "a seed cannot be joined; trying again");
        }
    }

    fn on_link(&mut self, link: Link) {
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

    fn start(&mut self, link: Link, superseded: CancellationToken) {
        self.context(link, superseded).start();
    }

    fn context(&mut self, link: Link, superseded: CancellationToken) -> Context {
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

    fn flush_waiting(&mut self, node: NodeId) {
        let waiting = std::mem::take(&mut self.nodes.entry(node).waiting);
        for pending in waiting {
            self.ask(node, pending);
        }
    }

    fn on_dial_failed(&mut self, now: Instant, node: NodeId, fault: Fault) {
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

    fn on_unlinked(&mut self, link: &Link, fault: &Fault) {
        self.shared.metrics.connections_closed.inc(fault.code);
        let node = link.identity().id;
        let Some(entry) = self.nodes.get_mut(node) else { return };
        if !entry.link.as_ref().is_some_and(|live| live.link.is(link)) {
            return;
        }
        tracing::debug!(%node, %fault, "disconnected");
        entry.link = None;
        let redial = !entry.outbox.is_empty();
        let polite = matches!(fault.code, Code::Goodbye | Code::Superseded | Code::Draining);
        self.engine.handle_disconnected(clock::now(), node, !polite);
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

    fn dial_seeds(&mut self) {
        let all = self.credentials.identity.subject.role().is_infrastructure();
        for address in self.seeds.next_dials(Instant::now(), all) {
            self.spawn_dial(Why::Seed(address), vec![address], Expected::Bootstrap);
        }
    }

    /// Dials a node at the first of these addresses that answers.
    fn dial(&mut self, node: NodeId, addresses: Vec<SocketAddr>) {
        let entry = self.nodes.entry(node);
        if matches!(entry.dial, Dial::Dialling) {
            return;
        }
        entry.dial = Dial::Dialling;
        self.spawn_dial(Why::Node(node), addresses, Expected::Node(node));
    }

    fn spawn_dial(&self, why: Why, addresses: Vec<SocketAddr>, expected: Expected) {
        let (endpoint, dials, life) =
            (self.endpoint.clone(), self.dials.clone(), self.life.clone());
        self.tasks.spawn(Kind::Connection, async move {
            let dial = async {
                let mut result = Err(Fault::new(Code::Unreachable, "no address is known"));
                for address in addresses {
                    result = endpoint.dial(address, expected).await;
                    if result.is_ok() {
                        break;
                    }
                }
                // Without a receiver the actor is gone.
                let _ = dials.send(Dialled { why, result }).await;
            };
            life.run_until_cancelled(dial).await;
        });
    }

    /// Where a node was met: by the DHT's word, or by an earlier link of ours.
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.engine.contact(node).map(|contact| contact.addresses.clone()).unwrap_or_default()
    }

    fn handle_credentials(&mut self, credentials: Arc<Credentials>) {
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
    fn renew_links(&mut self) {
        let not_after = self.credentials.identity.not_after;
        for (node, address) in self.nodes.to_renew(Instant::now(), not_after) {
            self.dial(node, vec![address]);
        }
    }

    // ---- requests and messages ----

    fn handle_event(&mut self, event: Event) {
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
                entry.waiting.push(Pending { again: true, ..pending });
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

    fn serve(&mut self, now: Now, link: &Link, request: message::Request) -> Answer {
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

    fn invocation(&self, call: macula_proto::rpc::Incoming, caller: Caller) -> Option<Invocation> {
        let registry = self.shared.registry();
        let Serving { handler, runtime, .. } = registry.procedures.get(&call.procedure)?.clone();
        drop(registry);
        self.shared.metrics.calls_served.inc();
        let macula_proto::rpc::Incoming { procedure, payload, timeout } = call;
        let request = Request { procedure, payload, caller, timeout };
        Some(Invocation { handler, runtime, request, counters: self.tasks.counters().clone() })
    }

    /// Sends a request over the node's link, or when there is one.
    fn request(
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

    fn ask(&mut self, node: NodeId, pending: Pending) {
        let Some(cancelled) = self.requests.get(&pending.id).cloned() else { return };
        let Some(live) = self.nodes.get(node).and_then(|node| node.link.as_ref()) else {
            return self.fail(pending.id, Fault::of(Code::Unreachable));
        };
        let (link, superseded) = (live.link.clone(), live.superseded.clone());
        self.context(link, superseded).ask(pending, cancelled);
    }

    fn fail(&mut self, id: RequestId, fault: Fault) {
        self.on_response(clock::now(), id, Err(fault));
    }

    fn on_response(&mut self, now: Now, id: RequestId, result: Result<response::Body, Fault>) {
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

    // ---- what the engine wants ----

    fn do_outputs(&mut self) {
        // One reading of the clocks for all: they cost as much as a small message.
        let now = clock::now();
        while let Some(output) = self.engine.poll_output(now) {
            self.do_output(output);
        }
    }

    fn do_output(&mut self, output: Output) {
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
    fn invoke_here(&mut self, id: RequestId, call: macula_proto::rpc::Incoming) {
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

    fn send(&mut self, to: NodeId, message: &Arc<Message>) {
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

    fn on_announced(&mut self, kind: RecordKind, name: &str, stored: usize) {
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

    // ---- upkeep and status ----

    fn look_after(&mut self) {
        let now = Instant::now();
        self.dial_seeds();
        self.renew_links();
        self.nodes.prune(now);
        let clock = clock::now();
        for link in self.nodes.links() {
            // A node that failed a request and is heard again is a contact again.
            if link.silent_for() < UPKEEP {
                self.engine.handle_connected(clock, link.identity(), vec![link.address()]);
            }
            if link.unused_for() > UNUSED && !self.seeds.holds(link.identity().id) {
                link.close(Code::Goodbye, "unused");
            }
        }
        let late = self.announcing.extract_if(.., |waiting| waiting.until <= now);
        for waiting in late {
            // It is announced in the background as soon as somebody stores it.
            let _ = waiting.reply.send(Ok(waiting.token));
        }
        self.measure();
    }

    fn measure(&self) {
        let metrics = &self.shared.metrics;
        let dht = self.engine.dht();
        let counters = dht.counters();
        metrics.lookups_started.set_to(counters.lookups_started);
        metrics.lookups_completed.set_to(counters.lookups_finished);
        metrics.lookup_requests.set_to(counters.requests_sent);
        metrics.dht_contacts.set(dht.table_sizes().iter().map(|(_, size)| *size as u64).sum());
        metrics.dht_records.set(dht.records() as u64);
        metrics.connections.set(self.nodes.links().count() as u64);
        metrics.subscriptions.set(self.queues.len() as u64);
        let counters = self.engine.pubsub().counters();
        metrics.messages_published.set_to(counters.published);
        metrics.messages_duplicate.set_to(counters.duplicates);
        metrics.messages_unmatched.set_to(counters.unmatched);
        let left = self.credentials.identity.remaining(clock::now().unix_time());
        metrics.certificate_seconds_left.set(left.as_secs());
        let found = self.shared.config.seeds.found();
        metrics.seeds_resolved.set(found.borrow().seeds.len() as u64);
    }

    fn status(&self) -> status::Status {
        let identity = &self.credentials.identity;
        let found = self.shared.config.seeds.found().borrow().clone();
        let mut waiting: Vec<String> = found
            .waiting
            .iter()
            .map(|name| format!("the seed {} does not resolve: {}", name.name, name.because))
            .collect();
        if !*self.shared.ready.borrow() {
            waiting.extend(self.seeds.failed().map(|(address, Fault { code, because, .. })| {
                format!("the seed {address} cannot be joined: {code}: {because}")
            }));
            if waiting.is_empty() {
                waiting.push("no seed has answered yet".to_owned());
            }
        }
        let dht = self.engine.dht();
        let sizes = dht.table_sizes();
        let is_infrastructure = |scope: &Scope| matches!(scope, Scope::Infrastructure);
        let connections = self.nodes.links().map(|link| status::Connection {
            id: link.identity().id.to_string(),
            subject: link.identity().subject.to_string(),
            address: link.address().to_string(),
            direction: match link.direction() {
                Direction::Dialled => "dialled".to_owned(),
                Direction::Accepted => "accepted".to_owned(),
            },
            rtt_us: u64::try_from(link.rtt().as_micros()).unwrap_or(u64::MAX),
        });
        status::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: status::Node {
                id: identity.id.to_string(),
                name: identity.subject.name.to_string(),
                role: identity.subject.role().to_string(),
                realm: identity.subject.realm().map(ToString::to_string),
                mesh: identity.subject.mesh.to_string(),
                incarnation: self.engine.me().incarnation,
            },
            ready: *self.shared.ready.borrow(),
            waiting,
            certificate: status::Certificate {
                subject: identity.subject.to_string(),
                not_after: identity.not_after,
                seconds_left: identity.remaining(clock::now().unix_time()).as_secs(),
            },
            listen: self.endpoint.local_address().to_string(),
            seeds: found.seeds.iter().map(ToString::to_string).collect(),
            connections: connections.collect(),
            dht: status::Dht {
                infrastructure: sizes
                    .iter()
                    .filter(|(scope, _)| is_infrastructure(scope))
                    .map(|(_, n)| n)
                    .sum(),
                realm_servers: sizes
                    .iter()
                    .filter(|(scope, _)| !is_infrastructure(scope))
                    .map(|(_, n)| n)
                    .sum(),
                records: dht.records(),
            },
            subscriptions: self
                .engine
                .pubsub()
                .subscriptions()
                .map(|(_, pattern)| pattern.to_string())
                .collect(),
            advertisements: self.engine.rpc().advertised().map(ToString::to_string).collect(),
        }
    }
}

fn me(credentials: &Credentials, incarnation: u64) -> Arc<Me> {
    Arc::new(Me {
        identity: credentials.identity.clone(),
        key: credentials.key.clone(),
        chain: credentials.chain.clone(),
        incarnation,
    })
}

fn trust(credentials: &Credentials) -> Trust {
    Trust { bundle: credentials.bundle.clone(), mesh: credentials.mesh.clone() }
}

/// Whatever kept a request from being sent, for the engine it was not sent.
fn not_sent(fault: &Fault) -> Fault {
    Fault::new(Code::Unreachable, format!("{}: {}", fault.code, fault.because))
}
