//! One node that hears whatever others may say, in any order, while time goes by as it likes.
//!
//! The bytes are a program. After each step the node's outputs are taken, what is due is done, and what
//! must hold is checked: nothing panics, what it remembers is within its limits and agrees with itself,
//! what it does is in proportion to what it was asked, what it says can be read, and nothing of one
//! realm is said to another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use macula_identity::{Identity, NodeId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::cast::{BLUE, Everybody, MEMBER, NOON_MS, Node, RED, TESTED, everybody};
use super::input::Input;
use super::record::{NAMES, message as record_message, sign};
use super::wire::framed;
use crate::dht::{self, store};
use crate::engine::{Engine, Handled, Output, RequestId, failure_of};
use crate::error::{Code, Fault};
use crate::key::{Key, Kind, Scope};
use crate::payload::Payload;
use crate::pubsub::{Message, PublishId, SubscriptionId};
use crate::rpc::CallId;
use crate::time::Now;
use crate::wire::{Frame, FrameDecoder, MAX_ADDRESSES, message};
use message::{request, response};

/// The most steps of one program.
const STEPS: usize = 300;
/// What one step may put out whatever the node remembers: a lookup that ends stores at twenty, leaves
/// five leases and lets the next one begin.
const OUTPUTS: usize = 100;
/// And for each request, lease, name and announcement that it may concern: when time has passed all of
/// them may be due at once, each once.
const OUTPUTS_EACH: usize = 24;
/// How often what is due may be due again at the same instant: a round that ended makes room for the next.
const DUE_AGAIN: usize = 16;
/// The most lookups that a node begins of itself: four of upkeep, sixteen rounds, sixteen looks.
const LOOKUPS: usize = 4 + 16 + 16;

pub(super) fn core(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut it = Play::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        it.step(&mut input);
    }
    it.end();
}

struct Play {
    world: &'static Everybody,
    engine: Engine,
    tested: usize,
    limits: store::Limits,
    now: Now,
    /// Requests without an answer: to whom, and what was asked; nothing of a call of its own.
    pending: BTreeMap<RequestId, (NodeId, Option<request::Body>)>,
    subscriptions: Vec<SubscriptionId>,
    /// Lookups that were ordered, and have not ended.
    lookups: usize,
    commands: usize,
    next: u64,
}

impl Play {
    fn new(input: &mut Input<'_>) -> Self {
        let world = everybody();
        let tested = input.pick(&TESTED);
        let limits = if input.flag() {
            store::Limits { bytes: 8 << 10, publishers_per_key: 2, keys_per_publisher: 4 }
        } else {
            store::Limits::default()
        };
        let config = dht::Config { store: limits, ..dht::Config::default() };
        let me = world.nodes[tested].me.clone();
        let rng = StdRng::seed_from_u64(u64::from(input.byte()));
        let engine = Engine::new(config, me, world.cast.trust(), rng);
        Self {
            world,
            engine,
            tested,
            limits,
            now: world.start,
            pending: BTreeMap::new(),
            subscriptions: Vec::new(),
            lookups: 0,
            commands: 0,
            next: 1,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let budget = self.budget();
        match input.byte() % 24 {
            0 | 1 => self.connect(input),
            2 => {
                let (node, failed) = (self.node(input), input.flag());
                self.engine.handle_disconnected(self.now, node.id(), failed);
            }
            3 => {
                let node = self.node(input);
                self.engine.handle_left(node.id());
            }
            4..=8 => {
                let (from, body) = (self.node(input), self.request(input));
                self.hear(from, body, budget);
            }
            9 => {
                let from = self.node(input);
                let length = usize::from(input.short());
                for frame in decode(4, input.take(length)) {
                    if let Frame::Request(request) = frame {
                        self.hear(from, request.body, budget);
                    }
                }
            }
            10..=12 => self.answer(input),
            13 => self.answer_all(input),
            14 => {
                let id = RequestId(input.number());
                let about =
                    self.pending.get(&id).and_then(|(_, body)| self.realm_of(body.as_ref()));
                let answer = self.response(input, about);
                self.pending.remove(&id);
                self.engine.handle_response(self.now, id, answer);
            }
            15 => self.message(input),
            16..=18 => self.command(input),
            19 => {
                let later = Duration::from_millis(u64::from(input.short()));
                self.now = self.now + later;
            }
            20 => self.run(input),
            21 => {
                let hours = u32::from(input.byte());
                self.now = self.now + Duration::from_secs(600) * hours * hours;
            }
            22 => {
                self.now.unix_ms = match input.byte() {
                    0 => 0,
                    1 => u64::MAX,
                    2 => NOON_MS,
                    3 => input.number(),
                    more => NOON_MS - 1_280_000 + u64::from(more) * 10_000,
                };
            }
            _ => self.renew(input),
        }
        self.drain(budget);
        self.on_time();
        self.check();
    }

    /// One of those that the node may meet.
    fn node(&self, input: &mut Input<'_>) -> &'static Node {
        let others = &self.world.nodes;
        let at = input.below(others.len());
        &others[if at == self.tested { MEMBER } else { at }]
    }

    /// One whom another node of its realm may know: a realm's members know nobody of another.
    fn acquaintance(&self, input: &mut Input<'_>) -> &'static Node {
        let node = self.node(input);
        if self.is_red() && node.realm() == Some(BLUE) { &self.world.nodes[MEMBER] } else { node }
    }

    fn is_red(&self) -> bool {
        self.world.nodes[self.tested].realm().is_some()
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        let node = self.node(input);
        let mut addresses = vec![node.address; 1 + input.below(10)];
        if input.rarely(8) {
            addresses = vec![SocketAddr::from(([0, 0, 0, 0], 0)); input.below(3)];
        }
        self.engine.handle_connected(self.now, &node.me.identity, addresses);
    }

    /// A request arrives; what is answered can be read, and is nobody else's business.
    fn hear(&mut self, from: &Node, body: Option<request::Body>, budget: usize) {
        let asked = message::Request { body };
        let spoken = blue_and_red(&Frame::Request(asked.clone()).to_bytes().unwrap_or_default());
        let answer = self.engine.handle_request(self.now, &from.me.identity, from.address, asked);
        let body = match answer {
            Ok(Handled::Respond(body)) => body,
            Ok(Handled::Invoke(call)) => {
                assert_eq!(from.realm(), Some(RED), "calls stay within a realm");
                call.payload.check().expect("a call that is taken is within the limits");
                return;
            }
            Err(fault) => response::Body::Failure(failure_of(&fault)),
        };
        let said = readable(&Frame::Response(message::Response { body: Some(body) }));
        let told = blue_and_red(&said);
        // Whoever asks knows the names that it says itself.
        let foreign = self.foreign_to(&from.me.identity);
        for (at, is_foreign) in foreign.into_iter().enumerate() {
            assert!(!is_foreign || !told[at] || spoken[at], "{} heard of another realm", from.id());
        }
        self.drain(budget);
    }

    /// Whether BLUE, and whether RED, must not be told to this node.
    fn foreign_to(&self, other: &Identity) -> [bool; 2] {
        match other.subject.realm().map(|realm| realm.as_str()) {
            Some(BLUE) => [false, true],
            Some(_) => [true, false],
            None => [self.is_red(), false],
        }
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let at = input.below(self.pending.len().min(256));
        let (&id, (_, body)) = self.pending.iter().nth(at).expect("there are more");
        let answer = self.response(input, self.realm_of(body.as_ref()));
        self.pending.remove(&id);
        self.engine.handle_response(self.now, id, answer);
    }

    /// All answer as they should, or all fail.
    fn answer_all(&mut self, input: &mut Input<'_>) {
        let (fails, shows) = (input.rarely(4), input.flag());
        let record = self.record(input);
        for (id, (to, body)) in std::mem::take(&mut self.pending) {
            let budget = self.budget();
            let answer = match fails {
                true => Err(Fault::of(Code::Unreachable)),
                false => Ok(self.honest(to, body.as_ref(), record.clone().filter(|_| shows))),
            };
            self.engine.handle_response(self.now, id, answer);
            self.drain(budget);
        }
    }

    fn honest(
        &self,
        from: NodeId,
        asked: Option<&request::Body>,
        record: Option<message::SignedRecord>,
    ) -> response::Body {
        let about = self.realm_of(asked);
        let known = self.world.nodes.iter();
        let known = known.filter(|node| node.realm().is_none() || node.realm() == about);
        let closest = known.filter(|node| node.id() != from).map(contact).collect();
        match asked {
            None | Some(request::Body::Call(_)) => {
                let (payload, content_type) = (Bytes::from_static(b"yes"), "text/plain".to_owned());
                response::Body::Answer(message::Answer { payload, content_type })
            }
            Some(request::Body::Ping(_)) => response::Body::Pong(message::Pong {}),
            Some(request::Body::FindNode(_)) => response::Body::Nodes(message::Nodes { closest }),
            Some(request::Body::FindValue(find)) => response::Body::Values(message::Values {
                records: record.into_iter().map(|record| stored(Some(record))).collect(),
                closest,
                truncated: false,
                version: Some(message::Version { epoch: 5, count: self.next }),
                lease_ms: find.lease_ms,
                refused: None,
            }),
            Some(request::Body::Store(_)) => response::Body::Stored(message::Stored {}),
            Some(request::Body::Delete(_)) => response::Body::Deleted(message::Deleted {}),
            Some(request::Body::Changed(_)) => response::Body::Noted(message::Noted {}),
        }
    }

    fn message(&mut self, input: &mut Input<'_>) {
        let publisher = self.node(input).id();
        let (incarnation, sequence) = (input.pick(&[0, 1, NOON_MS, u64::MAX]), input.byte());
        let sequence = if sequence == 255 { u64::MAX } else { u64::from(sequence) };
        let Ok(topic) = input.pick(NAMES).parse() else { return };
        let dropped = input.pick(&[0, 0, 1, u64::MAX]);
        let payload = Payload::bytes(input.bytes());
        let message = Message { publisher, incarnation, sequence, topic, payload };
        self.engine.handle_message(dropped, message);
    }

    fn command(&mut self, input: &mut Input<'_>) {
        self.commands += 1;
        self.next += 1;
        let name = input.pick(NAMES);
        match input.byte() % 9 {
            0 | 1 => {
                let Ok(topic) = name.parse() else { return };
                let payload = Payload::bytes(input.bytes());
                self.engine.publish(self.now, PublishId(self.next), topic, payload);
            }
            2 => {
                let Ok(pattern) = name.parse() else { return };
                let subscribed = self.engine.subscribe(pattern);
                self.subscriptions.extend(subscribed.map(|(id, _)| id));
            }
            3 => self.subscriptions.pop().into_iter().for_each(|id| self.engine.unsubscribe(id)),
            4 => {
                let Ok(procedure) = name.parse() else { return };
                let _ = self.engine.advertise(procedure);
            }
            5 => {
                let Ok(procedure) = name.parse() else { return };
                self.engine.withdraw(&procedure);
            }
            6 => {
                let Ok(procedure) = name.parse() else { return };
                let timeout = Duration::from_millis(input.pick(&[0, 1, 500, 5000, u64::MAX]));
                let (id, payload) = (CallId(self.next), Payload::bytes(input.bytes()));
                self.engine.call(self.now, id, procedure, payload, timeout);
                if input.rarely(4) {
                    self.engine.cancel(id);
                }
            }
            7 => {
                let realm = RED.parse().expect("a realm");
                self.engine.find_values(self.now, &realm, Kind::Provider, name);
                self.lookups += 1;
            }
            _ => {
                let scope = match self.is_red() || input.flag() {
                    true => Scope::Realm(RED.parse().expect("a realm")),
                    false => Scope::Infrastructure,
                };
                // Who looks in a realm knows nobody of another.
                let node = self.node(input);
                let is_blue = node.realm() == Some(BLUE);
                let target =
                    Key::from(if is_blue { self.world.nodes[MEMBER].id() } else { node.id() });
                self.engine.find_nodes(self.now, target, scope);
                self.lookups += 1;
            }
        }
        if input.rarely(32) {
            self.engine.leave(self.now);
            self.subscriptions.clear();
        }
    }

    fn renew(&mut self, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 => self.engine.set_trust(self.world.foreign.clone()),
            1 => self.engine.set_trust(self.world.cast.trust()),
            2 => {
                let at = TESTED.iter().position(|at| *at == self.tested).expect("one of them");
                self.engine.set_me(self.now, self.world.renewed[at].clone());
            }
            _ => self.engine.set_me(self.now, self.world.nodes[self.tested].me.clone()),
        }
    }

    /// Time goes from deadline to deadline.
    fn run(&mut self, input: &mut Input<'_>) {
        for _ in 0..input.byte() % 32 {
            let Some(deadline) = self.engine.poll_timeout() else { break };
            let later = deadline.at.saturating_duration_since(self.now.instant);
            self.now = self.now + later;
            self.on_time();
        }
    }

    /// What is due is done, and is not due again.
    fn on_time(&mut self) {
        let mut times = 0;
        while let Some(deadline) = self.engine.poll_timeout()
            && deadline.at <= self.now.instant
        {
            let budget = self.budget();
            self.engine.handle_timeout(self.now);
            self.drain(budget);
            times += 1;
            assert!(times <= DUE_AGAIN, "{} is due again and again", deadline.reason);
        }
    }

    /// How much one step may put out, from what the node has to do with.
    fn budget(&self) -> usize {
        let dht = self.engine.dht();
        let concerned = self.pending.len()
            + dht.leases()
            + dht.followed()
            + dht.announced().count()
            + dht.lookups()
            + self.commands;
        OUTPUTS + OUTPUTS_EACH * concerned
    }

    fn drain(&mut self, budget: usize) {
        let mut count = 0;
        while let Some(output) = self.engine.poll_output(self.now) {
            self.on_output(output);
            count += 1;
            assert!(count <= budget, "one step put out more than {budget}");
        }
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Request { id, to, body, timeout, repeatable: _ } => {
                assert!(timeout <= Duration::from_secs(3600), "a request ends");
                assert_ne!(to.id, self.engine.me().identity.id, "a node does not dial itself");
                let said = readable(&Frame::Request(message::Request { body: Some(body.clone()) }));
                if let Some(to) = self.world.nodes.iter().find(|node| node.id() == to.id) {
                    let told = match &body {
                        // What an application says is its own business.
                        request::Body::Call(_) => [false; 2],
                        _ => blue_and_red(&said),
                    };
                    let foreign = self.foreign_to(&to.me.identity);
                    let leaks =
                        foreign.into_iter().zip(told).any(|(foreign, told)| foreign && told);
                    assert!(
                        !leaks,
                        "{} is told of another realm: {body:?}",
                        to.me.identity.subject
                    );
                    let is_blue = to.realm() == Some(BLUE);
                    assert!(!(self.is_red() && is_blue), "a peer asks one of another realm");
                }
                assert!(self.pending.insert(id, (to.id, Some(body))).is_none());
            }
            Output::Invoke { id, call: _ } => {
                let me = self.engine.me().identity.id;
                assert!(self.pending.insert(id, (me, None)).is_none());
            }
            Output::Cancel(id) => assert!(self.pending.remove(&id).is_some(), "it was asked"),
            Output::Send { to, message: _ } => {
                // By now one of them may be taken for gone, and then nobody says where it is.
                for node in to.iter() {
                    let known = self.world.nodes.iter().find(|known| known.id() == *node);
                    assert_eq!(known.and_then(Node::realm), Some(RED));
                }
            }
            Output::LookedUp { .. } => self.lookups -= 1,
            Output::Deliver { .. }
            | Output::Gap { .. }
            | Output::Published { .. }
            | Output::Announced { .. } => {}
            Output::Returned { id: _, result } => {
                if let Ok(payload) = result {
                    payload.check().expect("an answer that is handed on is within the limits");
                }
            }
        }
    }

    fn check(&self) {
        let dht = self.engine.dht();
        dht.check();
        assert!(dht.record_bytes() <= self.limits.bytes);
        assert_eq!(self.engine.requests(), self.pending.len(), "each request has an end");
        assert!(dht.lookups() <= LOOKUPS + self.lookups + 2 * NAMES.len(), "lookups under way");
        assert!(dht.followed() <= 2 * NAMES.len(), "a name is followed once");
    }

    /// Everybody falls silent: what others made the node remember ends.
    fn end(&mut self) {
        for node in &self.world.nodes {
            self.engine.handle_disconnected(self.now, node.id(), true);
        }
        let silence = self.now.instant + Duration::from_secs(700);
        for _ in 0..10_000 {
            let Some(deadline) = self.engine.poll_timeout() else { break };
            if deadline.at > silence {
                break;
            }
            let later = deadline.at.saturating_duration_since(self.now.instant);
            self.now = self.now + later;
            let budget = self.budget();
            for (id, _) in std::mem::take(&mut self.pending) {
                self.engine.handle_response(self.now, id, Err(Fault::of(Code::Unreachable)));
            }
            self.drain(budget);
            self.on_time();
        }
        self.check();
        let dht = self.engine.dht();
        assert_eq!(dht.leases(), 0, "leases end");
        // Its own announcements go on.
        assert!(dht.records() <= 2 * NAMES.len(), "{} records stay", dht.records());
        assert_eq!(dht.table_sizes().iter().map(|(_, size)| size).sum::<usize>(), 0);
    }

    // ---- what others say ----

    fn key(&self, input: &mut Input<'_>) -> Bytes {
        let realm = input.pick(&[RED, RED, RED, BLUE]).parse().expect("a realm");
        let kind = input.pick(&[Kind::Provider, Kind::Subscriber]);
        match input.byte() {
            0..=199 => {
                let key = Key::of(&realm, kind, input.pick(NAMES));
                Bytes::copy_from_slice(key.as_bytes())
            }
            200..=239 => Bytes::copy_from_slice(self.acquaintance(input).id().as_bytes()),
            _ => Bytes::copy_from_slice(input.take(20)),
        }
    }

    fn record(&self, input: &mut Input<'_>) -> Option<message::SignedRecord> {
        let by = match input.byte() % 8 {
            0 => return None,
            1..=3 => &self.world.nodes[MEMBER].me,
            4 => &self.world.stranger,
            _ => &self.node(input).me,
        };
        let mut signed = sign(by, &record_message(input, self.now.unix_ms));
        if input.rarely(16) {
            signed.signature = Bytes::from_static(&[0; 64]);
        }
        Some(signed)
    }

    /// One that may be of RED alone, as whoever answers a peer of RED knows them.
    fn records(&self, input: &mut Input<'_>) -> Vec<message::StoredRecord> {
        (0..input.below(4)).map(|_| stored(self.record(input))).collect()
    }

    /// Of which realm a request is: whoever answers it knows the nodes of that one alone.
    fn realm_of(&self, asked: Option<&request::Body>) -> Option<&'static str> {
        let named = match asked? {
            request::Body::FindNode(find) => &find.realm,
            request::Body::FindValue(find) => &find.realm,
            request::Body::Ping(_)
            | request::Body::Store(_)
            | request::Body::Delete(_)
            | request::Body::Call(_)
            | request::Body::Changed(_) => return None,
        };
        let named = if self.is_red() { RED } else { named };
        [BLUE, RED].into_iter().find(|realm| *realm == named)
    }

    fn contacts(&self, input: &mut Input<'_>, about: Option<&str>) -> Vec<message::Contact> {
        let one = |input: &mut Input<'_>| match input.byte() {
            0..=9 => message::Contact::default(),
            10..=99 => {
                let mut id = [0; 20];
                id[..2].copy_from_slice(&input.short().to_be_bytes());
                let address = SocketAddr::from(([10, 1, 0, 1], 9443));
                let id = Bytes::copy_from_slice(&id);
                message::Contact { id, addresses: vec![address.into()] }
            }
            _ => {
                let node = self.node(input);
                let is_known = node.realm().is_none() || node.realm() == about;
                contact(if is_known { node } else { &self.world.nodes[1] })
            }
        };
        (0..input.below(24)).map(|_| one(input)).collect()
    }

    fn version(input: &mut Input<'_>) -> Option<message::Version> {
        input.flag().then(|| message::Version {
            epoch: u64::from(input.byte() % 8),
            count: input.pick(&[0, 1, 2, 5, 100, u64::MAX]),
        })
    }

    fn request(&self, input: &mut Input<'_>) -> Option<request::Body> {
        const LEASES: &[u32] = &[0, 0, 1, 1000, 90_000, u32::MAX];
        let realm = |input: &mut Input<'_>| input.pick(&["", "", RED, RED, BLUE, "R", "x y"]);
        Some(match input.byte() % 16 {
            0 => request::Body::Ping(message::Ping {}),
            1 | 2 => {
                let (target, realm) = (self.key(input), realm(input).to_owned());
                request::Body::FindNode(message::FindNode { target, realm })
            }
            3..=6 => request::Body::FindValue(message::FindValue {
                key: self.key(input),
                realm: realm(input).to_owned(),
                lease_ms: input.pick(LEASES),
                has: Self::version(input),
            }),
            7..=10 => {
                let record = self.record(input);
                let told = input.below(MAX_ADDRESSES + 1);
                let address = message::Address { ip: input.bytes(), port: input.short().into() };
                request::Body::Store(message::Store { record, addresses: vec![address; told] })
            }
            11 | 12 => request::Body::Delete(message::Delete { record: self.record(input) }),
            13 => request::Body::Call(message::Call {
                procedure: input.pick(NAMES).to_owned(),
                payload: input.bytes(),
                content_type: "x".repeat(usize::from(input.short()) % 300),
                timeout_ms: input.pick(&[0, 1, 1000, u32::MAX]),
                id: input.bytes(),
                headers: Vec::new(),
            }),
            14 => {
                let lost = (0..input.below(4)).map(|_| {
                    let is_me = input.rarely(4);
                    let node = self.acquaintance(input).id();
                    let node = if is_me { self.engine.me().identity.id } else { node };
                    Bytes::copy_from_slice(node.as_bytes())
                });
                let lost = lost.collect();
                request::Body::Changed(message::Changed {
                    key: self.key(input),
                    since: Self::version(input),
                    count: input.pick(&[0, 1, 2, 6, 101, u64::MAX]),
                    records: self.records(input),
                    lost,
                    truncated: input.flag(),
                })
            }
            _ => return None,
        })
    }

    fn response(
        &self,
        input: &mut Input<'_>,
        about: Option<&str>,
    ) -> Result<response::Body, Fault> {
        const LEASES: &[u32] = &[0, 1, 1000, 90_000, 90_000, u32::MAX];
        Ok(match input.byte() % 16 {
            0 => return Err(Fault::of(input.pick(Code::ALL))),
            1 => {
                let code = u32::from(input.short());
                let because = "because".to_owned();
                let retry_after_ms = input.pick(&[0, 1, 250, u32::MAX]);
                response::Body::Failure(message::Failure { code, because, retry_after_ms })
            }
            2 => response::Body::Pong(message::Pong {}),
            3..=5 => response::Body::Nodes(message::Nodes { closest: self.contacts(input, about) }),
            6..=10 => response::Body::Values(message::Values {
                records: self.records(input),
                closest: self.contacts(input, about),
                truncated: input.rarely(4),
                version: Self::version(input),
                lease_ms: input.pick(LEASES),
                refused: None,
            }),
            11 => response::Body::Stored(message::Stored {}),
            12 => response::Body::Deleted(message::Deleted {}),
            13 => response::Body::Answer(message::Answer {
                payload: input.bytes(),
                content_type: "x".repeat(usize::from(input.short()) % 300),
            }),
            14 => response::Body::Noted(message::Noted {}),
            _ => {
                let length = usize::from(input.short());
                let frame = decode(5, input.take(length)).pop();
                let Some(Frame::Response(message::Response { body: Some(body) })) = frame else {
                    return Err(Fault::of(Code::Protocol));
                };
                body
            }
        })
    }
}

fn contact(node: &Node) -> message::Contact {
    let id = Bytes::copy_from_slice(node.id().as_bytes());
    message::Contact { id, addresses: vec![node.address.into()] }
}

fn stored(record: Option<message::SignedRecord>) -> message::StoredRecord {
    let address = SocketAddr::from(([10, 0, 0, 9], 9443));
    message::StoredRecord { record, addresses: vec![address.into()] }
}

/// The frames in these bytes, as one body of this type.
fn decode(kind: u64, body: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let _ = FrameDecoder::default().feed(framed(kind, body), &mut frames);
    frames
}

/// What the node says is within the limits of the wire. Gives its bytes.
fn readable(frame: &Frame) -> Bytes {
    let bytes = frame.to_bytes().expect("what is said is not too long");
    let mut frames = Vec::new();
    FrameDecoder::default().feed(bytes.clone(), &mut frames).expect("what is said can be read");
    assert_eq!(frames, std::slice::from_ref(frame));
    bytes
}

/// Whether bytes name something of BLUE, and whether of RED: the realm, or a node of it.
fn blue_and_red(bytes: &[u8]) -> [bool; 2] {
    [BLUE, RED].map(|realm| {
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        let mut nodes = everybody().nodes.iter().filter(|node| node.realm() == Some(realm));
        has(realm.as_bytes()) || nodes.any(|node| has(node.id().as_bytes()))
    })
}
