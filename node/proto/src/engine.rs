//! One node of the mesh, without I/O: the DHT, pub/sub and RPC joined.
//!
//! The parts do not know each other. When pub/sub needs to know who subscribes, it says so, and the
//! engine asks the DHT. The shell drives the engine over real sockets; [`crate`]'s simulation
//! drives the very same engine in virtual time.
//!
//! To drive it: tell it of connections ([`Engine::handle_connected`]), requests, responses and
//! messages that arrive, and of the time ([`Engine::handle_timeout`] at [`Engine::poll_timeout`]);
//! give it commands; after each of these, do what [`Engine::poll_output`] says until it is `None`.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_identity::{Identity, NodeId, Place, RealmName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::dht::{self, Change, Dht, Found, LookupId, Me, Trust};
use crate::directory::{Ask, News};
use crate::error::{Code, Fault};
use crate::key::{Key, Kind, Scope};
use crate::name::{ProcedureName, TopicName, TopicPattern};
use crate::payload::Payload;
use crate::pubsub::{self, Message, PubSub, PublishId, SubscriptionId};
use crate::record;
use crate::rpc::{self, AttemptId, CallId, Incoming, Rpc};
use crate::time::{Deadline, Now};
use crate::wire::{Contact, message};

/// One request of this node to another, until its response or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the shell does.
#[derive(Debug)]
pub enum Output {
    /// Send a request to a node, dialling it if need be; answer with [`Engine::handle_response`].
    Request {
        /// Names it in the response.
        id: RequestId,
        /// Where to.
        to: Contact,
        /// What.
        body: message::request::Body,
        /// How long to wait. A call has a deadline of its own, this or shorter.
        timeout: Duration,
        /// Whether the request may run twice: if not, it is sent only to a node that is known to be
        /// alive, or [`Code::Unreachable`] is the answer.
        repeatable: bool,
    },
    /// The response of this request is not wanted any more.
    Cancel(RequestId),
    /// This node calls a procedure of its own; answer with [`Engine::handle_response`].
    Invoke {
        /// Names it in the response.
        id: RequestId,
        /// The call.
        call: Incoming,
    },
    /// Send a message to each of these nodes; [`Engine::contact`] says where they are.
    Send {
        /// The subscribers.
        to: Arc<[NodeId]>,
        /// The message.
        message: Arc<Message>,
    },
    /// Hand a message to these subscriptions.
    Deliver {
        /// Those whose pattern matches.
        to: Arc<[SubscriptionId]>,
        /// The message.
        message: Arc<Message>,
    },
    /// Tell these subscriptions that messages were lost before they came here.
    Gap {
        /// Every subscription of this node.
        to: Vec<SubscriptionId>,
        /// How many messages.
        missed: u64,
    },
    /// A publish is done.
    Published {
        /// Which one.
        id: PublishId,
        /// To how many subscribers.
        result: Result<usize, Fault>,
    },
    /// A call is done.
    Returned {
        /// Which one.
        id: CallId,
        /// The answer.
        result: Result<Payload, Fault>,
    },
    /// A record of this node was stored, for the first time or again.
    Announced {
        /// A subscriber's or a provider's.
        kind: Kind,
        /// The rendezvous or the procedure.
        name: String,
        /// At how many nodes; at none, nobody can find it yet.
        stored: usize,
        /// Why one of those that refused did so.
        refused: Option<Fault>,
    },
    /// A lookup of the DHT is done.
    LookedUp {
        /// As [`Engine::find_nodes`] or [`Engine::find_values`] gave it.
        lookup: LookupId,
        /// What it found, and how many nodes it asked.
        found: Found,
    },
}

/// What to do with a request that arrived.
#[derive(Debug)]
pub enum Handled {
    /// Send this back.
    Respond(message::response::Body),
    /// Run the handler of this call, and send back what it answers.
    Invoke(Incoming),
}

/// One node.
#[derive(Debug)]
pub struct Engine {
    me: Arc<Me>,
    realm: Option<RealmName>,
    dht: Dht,
    pubsub: PubSub,
    rpc: Rpc,
    requests: BTreeMap<RequestId, Purpose>,
    by_dht: BTreeMap<dht::RequestId, RequestId>,
    by_attempt: BTreeMap<AttemptId, RequestId>,
    next_request: u64,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Dht(dht::RequestId),
    Attempt(AttemptId),
}

impl Engine {
    /// A node that knows nobody yet.
    #[must_use]
    pub fn new(config: dht::Config, me: Arc<Me>, trust: Trust, mut rng: StdRng) -> Self {
        let id = me.identity.id;
        let realm = match &me.identity.subject.place {
            Place::Realm(realm) => Some(realm.clone()),
            Place::Bootstrap | Place::Gateway => None,
        };
        let rpc = Rpc::new(id, StdRng::from_seed(rng.random()));
        let pubsub = PubSub::new(id, me.incarnation);
        let dht = Dht::new(config, me.clone(), trust, rng);
        Self {
            me,
            realm,
            dht,
            pubsub,
            rpc,
            requests: BTreeMap::new(),
            by_dht: BTreeMap::new(),
            by_attempt: BTreeMap::new(),
            next_request: 1,
            outputs: VecDeque::new(),
        }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// The DHT's state, for status and metrics.
    #[must_use]
    pub fn dht(&self) -> &Dht {
        &self.dht
    }

    /// As [`Dht::poll_kept`].
    pub fn poll_kept(&mut self, now: Now, most: usize) -> Option<dht::keep::Batch> {
        self.dht.poll_kept(now, most)
    }

    /// As [`Dht::keep_everything`].
    pub fn keep_everything(&mut self) {
        self.dht.keep_everything();
    }

    /// A record was found on disk.
    ///
    /// # Errors
    /// As [`Dht::restore`].
    pub fn restore(&mut self, now: Now, slot: &dht::keep::Slot, bytes: &[u8]) -> Result<(), Fault> {
        self.dht.restore(now, slot, bytes)
    }

    /// The subscriptions' state, for status and metrics.
    #[must_use]
    pub fn pubsub(&self) -> &PubSub {
        &self.pubsub
    }

    /// The calls' state, for status and metrics.
    #[must_use]
    pub fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// How many requests are without an answer, calls of this node's own procedures included.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Where a subscriber can be reached.
    #[must_use]
    pub fn contact(&self, node: NodeId) -> Option<&Contact> {
        self.pubsub.contact(node)
    }

    // ---- commands ----

    /// The certificate was renewed. The id stays; what was announced is signed anew.
    pub fn set_me(&mut self, now: Now, me: Arc<Me>) {
        assert_eq!(me.identity.id, self.me.identity.id, "a renewal keeps the node id");
        self.me = me.clone();
        self.dht.set_me(now, me);
    }

    /// The bundle has changed.
    pub fn set_trust(&mut self, trust: Trust) {
        self.dht.set_trust(trust);
    }

    /// Publishes; ends with [`Output::Published`].
    pub fn publish(&mut self, now: Now, id: PublishId, topic: TopicName, payload: Payload) {
        if let Err(fault) = self.in_a_realm() {
            self.outputs.push_back(Output::Published { id, result: Err(fault) });
            return;
        }
        self.pubsub.publish(now, id, topic, payload);
    }

    /// Subscribes. With whether an [`Output::Announced`] of its rendezvous follows.
    ///
    /// # Errors
    /// `too_many`; `unsupported` on infrastructure.
    pub fn subscribe(&mut self, pattern: TopicPattern) -> Result<(SubscriptionId, bool), Fault> {
        self.in_a_realm()?;
        let news = !self.pubsub.subscriptions().any(|(_, other)| *other == pattern);
        self.pubsub.subscribe(pattern).map(|id| (id, news))
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        self.pubsub.unsubscribe(id);
    }

    /// Offers a procedure. With whether an [`Output::Announced`] of it follows.
    ///
    /// # Errors
    /// `too_many`; `unsupported` on infrastructure.
    pub fn advertise(&mut self, procedure: ProcedureName) -> Result<bool, Fault> {
        self.in_a_realm()?;
        let news = !self.rpc.advertised().any(|other| *other == procedure);
        self.rpc.advertise(procedure).map(|()| news)
    }

    /// Takes a procedure back.
    pub fn withdraw(&mut self, procedure: &ProcedureName) {
        self.rpc.withdraw(procedure);
    }

    /// Calls; ends with [`Output::Returned`].
    pub fn call(
        &mut self,
        now: Now,
        id: CallId,
        procedure: ProcedureName,
        payload: Payload,
        timeout: Duration,
    ) {
        if let Err(fault) = self.in_a_realm() {
            self.outputs.push_back(Output::Returned { id, result: Err(fault) });
            return;
        }
        self.rpc.call(now, id, procedure, payload, timeout);
    }

    /// Gives a call up.
    pub fn cancel(&mut self, id: CallId) {
        self.rpc.cancel(id);
    }

    /// Looks for the servers nearest to a place; ends with [`Output::LookedUp`].
    pub fn find_nodes(&mut self, now: Now, target: Key, scope: Scope) -> LookupId {
        self.dht.find_nodes(now, target, scope)
    }

    /// Looks for a realm's records under a name; ends with [`Output::LookedUp`]. A peer finds
    /// nothing in another realm.
    pub fn find_values(&mut self, now: Now, realm: &RealmName, kind: Kind, name: &str) -> LookupId {
        self.dht.find_values(now, realm, kind, name)
    }

    /// Takes back everything that this node announced, before it leaves.
    pub fn leave(&mut self, now: Now) {
        let procedures: Vec<_> = self.rpc.advertised().cloned().collect();
        for procedure in procedures {
            self.rpc.withdraw(&procedure);
        }
        let subscriptions: Vec<_> = self.pubsub.subscriptions().map(|(id, _)| id).collect();
        for id in subscriptions {
            self.pubsub.unsubscribe(id);
        }
        self.join_parts(now);
    }

    // ---- what arrives ----

    /// A connection is up, and its other end has been judged.
    pub fn handle_connected(&mut self, now: Now, peer: &Identity, addresses: Vec<SocketAddr>) {
        self.dht.handle_connected(now, peer, addresses);
    }

    /// A connection ended; `failed` unless the node is still there for another one.
    pub fn handle_disconnected(&mut self, now: Now, node: NodeId, failed: bool) {
        self.dht.handle_disconnected(now, node, failed);
    }

    /// A node has left the mesh on purpose: its subscriptions and procedures went with it.
    pub fn handle_left(&mut self, node: NodeId) {
        self.dht.forget_publisher(node);
    }

    /// A request arrived.
    ///
    /// # Errors
    /// The fault to send back.
    pub fn handle_request(
        &mut self,
        now: Now,
        from: &Identity,
        observed: SocketAddr,
        request: message::Request,
    ) -> Result<Handled, Fault> {
        match request.body {
            None => Err(Fault::of(Code::UnknownRequest)),
            Some(message::request::Body::Call(call)) => {
                self.in_a_realm()?;
                if from.subject.realm() != self.realm.as_ref() {
                    return Err(Fault::new(Code::RealmMismatch, "calls stay within a realm"));
                }
                self.rpc.handle_call(call).map(Handled::Invoke)
            }
            Some(body) => self.dht.handle_request(now, from, observed, body).map(Handled::Respond),
        }
    }

    /// A request was answered, or failed: [`Code::Unreachable`] when it was certainly not sent.
    pub fn handle_response(
        &mut self,
        now: Now,
        id: RequestId,
        result: Result<message::response::Body, Fault>,
    ) {
        let Some(purpose) = self.requests.remove(&id) else { return };
        let result = result.and_then(|body| match body {
            message::response::Body::Failure(failure) => Err(fault_of(failure)),
            body => Ok(body),
        });
        match purpose {
            Purpose::Dht(id) => {
                self.by_dht.remove(&id);
                self.dht.handle_response(now, id, result);
            }
            Purpose::Attempt(id) => {
                self.by_attempt.remove(&id);
                let answer = result.and_then(|body| match body {
                    message::response::Body::Answer(answer) => Ok(answer),
                    _ => Err(Fault::new(Code::Protocol, "a call was not answered by an answer")),
                });
                self.rpc.handle_answer(now, id, answer);
            }
        }
    }

    /// A message arrived on a flow of a peer of this realm.
    pub fn handle_message(&mut self, dropped: u64, message: Message) {
        if dropped > 0 {
            self.pubsub.handle_gap(dropped);
        }
        self.pubsub.handle_message(message);
    }

    /// The time has come that [`Engine::poll_timeout`] gave.
    pub fn handle_timeout(&mut self, now: Now) {
        self.dht.handle_timeout(now);
        self.pubsub.handle_timeout(now);
        self.rpc.handle_timeout(now);
    }

    /// When to call [`Engine::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        Deadline::earliest([
            self.dht.poll_timeout(),
            self.pubsub.poll_timeout(),
            self.rpc.poll_timeout(),
        ])
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now: Now) -> Option<Output> {
        if self.outputs.is_empty() {
            self.join_parts(now);
        }
        self.outputs.pop_front()
    }

    /// Does what the parts ask of each other, until none asks.
    fn join_parts(&mut self, now: Now) {
        loop {
            let mut idle = true;
            while let Some(output) = self.pubsub.poll_output() {
                idle = false;
                self.on_pubsub(now, output);
            }
            while let Some(output) = self.rpc.poll_output() {
                idle = false;
                self.on_rpc(now, output);
            }
            while let Some(output) = self.dht.poll_output() {
                idle = false;
                self.on_dht(now, output);
            }
            if idle {
                return;
            }
        }
    }

    fn on_pubsub(&mut self, now: Now, output: pubsub::Output) {
        let output = match output {
            pubsub::Output::Ask(ask) => return self.ask(now, Kind::Subscriber, ask),
            pubsub::Output::Announce { rendezvous, patterns } if patterns.is_empty() => {
                return self.dht.withdraw(now, Kind::Subscriber, &rendezvous);
            }
            pubsub::Output::Announce { rendezvous, patterns } => {
                let kind = record::Kind::Subscriber { patterns };
                return self.dht.announce(now, kind, &rendezvous);
            }
            pubsub::Output::Send { to, message } => Output::Send { to, message },
            pubsub::Output::Deliver { to, message } => Output::Deliver { to, message },
            pubsub::Output::Gap { to, missed } => Output::Gap { to, missed },
            pubsub::Output::Published { id, result } => Output::Published { id, result },
        };
        self.outputs.push_back(output);
    }

    fn on_rpc(&mut self, now: Now, output: rpc::Output) {
        match output {
            rpc::Output::Ask(ask) => self.ask(now, Kind::Provider, ask),
            rpc::Output::Announce(procedure) => {
                self.dht.announce(now, record::Kind::Provider, procedure.as_str());
            }
            rpc::Output::Withdraw(procedure) => {
                self.dht.withdraw(now, Kind::Provider, procedure.as_str());
            }
            rpc::Output::Attempt { id: attempt, to, call } => {
                let id = self.request(Purpose::Attempt(attempt));
                self.by_attempt.insert(attempt, id);
                if to.id == self.me.identity.id {
                    match self.rpc.handle_call(call) {
                        Ok(call) => self.outputs.push_back(Output::Invoke { id, call }),
                        Err(fault) => self.handle_response(now, id, Err(fault)),
                    }
                    return;
                }
                let timeout = Duration::from_millis(call.timeout_ms.into());
                let body = message::request::Body::Call(call);
                let request = Output::Request { id, to, body, timeout, repeatable: false };
                self.outputs.push_back(request);
            }
            rpc::Output::Cancel(attempt) => {
                if let Some(id) = self.by_attempt.remove(&attempt) {
                    self.requests.remove(&id);
                    self.outputs.push_back(Output::Cancel(id));
                }
            }
            rpc::Output::Returned { id, result } => {
                self.outputs.push_back(Output::Returned { id, result });
            }
        }
    }

    fn on_dht(&mut self, now: Now, output: dht::Output) {
        match output {
            dht::Output::Request { id: dht_id, to, body } => {
                let id = self.request(Purpose::Dht(dht_id));
                self.by_dht.insert(dht_id, id);
                let timeout = self.dht.request_timeout();
                let request = Output::Request { id, to, body, timeout, repeatable: true };
                self.outputs.push_back(request);
            }
            dht::Output::Cancel { id } => {
                if let Some(id) = self.by_dht.remove(&id) {
                    self.requests.remove(&id);
                    self.outputs.push_back(Output::Cancel(id));
                }
            }
            dht::Output::Found { lookup, found } => {
                self.outputs.push_back(Output::LookedUp { lookup, found });
            }
            dht::Output::Followed { kind, name, changes, looked, held } => {
                self.on_followed(now, kind, &name, changes, (looked, held));
            }
            dht::Output::Announced { kind, name, stored, refused } => {
                self.outputs.push_back(Output::Announced { kind, name, stored, refused });
            }
            dht::Output::Withdrawn { .. } => {}
        }
    }

    fn on_followed(
        &mut self,
        now: Now,
        kind: Kind,
        name: &str,
        changes: Vec<Change>,
        (looked, held): (bool, bool),
    ) {
        let changes = changes.into_iter().map(|Change { publisher, says }| {
            let says = says.map(|found| {
                let to = Contact { id: publisher, addresses: found.addresses };
                (to, found.record.record.kind)
            });
            (publisher, says)
        });
        match kind {
            Kind::Subscriber => {
                let changes = changes.map(|(publisher, says)| {
                    (publisher, says.map(|(to, kind)| (to, kind.patterns().to_vec())))
                });
                let news = News { changes: changes.collect(), looked, held };
                self.pubsub.handle_news(name, news);
            }
            Kind::Provider => {
                let changes = changes.map(|(publisher, says)| (publisher, says.map(|(to, _)| to)));
                let news = News { changes: changes.collect(), looked, held };
                self.rpc.handle_news(now, name, news);
            }
        }
    }

    fn ask(&mut self, now: Now, kind: Kind, ask: Ask) {
        match ask {
            Ask::Follow(name) => self.dht.follow(now, kind, &name),
            Ask::Unfollow(name) => self.dht.unfollow(kind, &name),
        }
    }

    fn request(&mut self, purpose: Purpose) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, purpose);
        id
    }

    fn in_a_realm(&self) -> Result<(), Fault> {
        if self.realm.is_some() {
            return Ok(());
        }
        let because = "infrastructure belongs to no realm, so it has no topics or procedures";
        Err(Fault::new(Code::Unsupported, because))
    }
}

/// What another node says went wrong. A code of a later version is `internal`, with its words.
#[must_use]
pub fn fault_of(failure: message::Failure) -> Fault {
    failure.into()
}

/// The message that tells another node of a fault.
#[must_use]
pub fn failure_of(fault: &Fault) -> message::Failure {
    fault.into()
}
