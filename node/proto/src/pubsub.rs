//! Publish and subscribe without a broker (docs/PROTOCOL.md §6).
//!
//! A subscriber is found in the DHT under its pattern's first literal segment, or under `*`. A
//! publisher asks for the topic's two keys, matches patterns locally and sends straight to each
//! subscriber. Best effort: queues are bounded, and what overflows is counted and said.

pub mod flow;
pub(crate) mod seen;
pub(crate) mod trie;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use macula_identity::NodeId;

use crate::directory::{Ask, Directory, News, Ticket};
use crate::error::{Code, Fault};
use crate::name::{ANY, TopicName, TopicPattern};
use crate::payload::Payload;
use crate::time::{Deadline, Now};
use crate::wire::Contact;
use crate::wire::limits::MAX_PATTERNS;

use seen::Seen;
use trie::Trie;

/// The most subscriptions of one node.
pub const MAX_SUBSCRIPTIONS: usize = 1024;
/// The most publishes that wait for a lookup; one more is `overloaded`.
pub(crate) const MAX_WAITING: usize = 1024;
/// The most bytes that those may hold.
pub(crate) const MAX_WAITING_BYTES: usize = 16 << 20;
/// A publish waits this long for its subscribers to be found: a look that was under way, and most of another.
pub(crate) const WAIT: Duration = Duration::from_secs(10);
/// The most topics whose route is remembered; then all are matched again.
pub(crate) const MAX_ROUTES: usize = 4096;

/// One subscription of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// One publish of this node, until it is [`Output::Published`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishId(pub u64);

/// A message as a subscriber gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who published it, from the certificate of the connection that it came on.
    pub publisher: NodeId,
    /// When that publisher started, in milliseconds since 1970.
    pub incarnation: u64,
    /// Rises with each message of that publisher and incarnation.
    pub sequence: u64,
    /// What it was published to.
    pub topic: TopicName,
    /// What was published.
    pub payload: Payload,
}

/// What the shell does.
#[derive(Debug)]
pub enum Output {
    /// Find who subscribes under this rendezvous, and tell of it by [`PubSub::handle_news`]; or tell
    /// no longer.
    Ask(Ask),
    /// Announce these patterns under this rendezvous; none: withdraw.
    Announce {
        /// The first literal segment, or `*`.
        rendezvous: String,
        /// At most [`MAX_PATTERNS`].
        patterns: Vec<TopicPattern>,
    },
    /// Send to each of these nodes.
    Send {
        /// The subscribers, without this node.
        to: Arc<[NodeId]>,
        /// The message.
        message: Arc<Message>,
    },
    /// Hand to these subscriptions of this node.
    Deliver {
        /// Those whose pattern matches.
        to: Arc<[SubscriptionId]>,
        /// The message.
        message: Arc<Message>,
    },
    /// Tell these subscriptions that a publisher dropped messages before they were sent.
    Gap {
        /// All of this node: which topics were dropped is not known.
        to: Vec<SubscriptionId>,
        /// How many messages.
        missed: u64,
    },
    /// A publish was handed to the flows of this many subscribers.
    Published {
        /// Which one.
        id: PublishId,
        /// The subscribers it was sent to, or why it was not.
        result: Result<usize, Fault>,
    },
}

/// Counters that only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages published here.
    pub published: u64,
    /// Copies sent to other nodes.
    pub sent: u64,
    /// Messages that arrived from other nodes.
    pub received: u64,
    /// Messages that had arrived before.
    pub duplicates: u64,
    /// Messages that no subscription wanted any more.
    pub unmatched: u64,
    /// Messages that publishers say they dropped before sending.
    pub missed: u64,
}

/// One who subscribes under a rendezvous, as the DHT said it: where to reach it, and what it wants.
pub type Subscriber = (Contact, Vec<TopicPattern>);

/// The subscriptions of this node, and its cached knowledge of others'.
///
/// Drive it: commands, [`PubSub::handle_news`], [`PubSub::handle_message`], and
/// [`PubSub::handle_timeout`] at [`PubSub::poll_timeout`]; after each, drain
/// [`PubSub::poll_output`].
#[derive(Debug)]
pub struct PubSub {
    me: NodeId,
    incarnation: u64,
    next_sequence: u64,
    next_subscription: u64,
    local: Trie<SubscriptionId>,
    patterns: BTreeMap<SubscriptionId, TopicPattern>,
    remote: Directory<Subscriber>,
    /// Every pattern of `remote`, for matching; rebuilt when `remote` changes.
    remote_trie: Trie<NodeId>,
    /// Topics matched against both tries; cleared when either changes.
    routes: HashMap<TopicName, Route>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    seen: Seen,
    outputs: VecDeque<Output>,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Route {
    local: Arc<[SubscriptionId]>,
    remote: Arc<[NodeId]>,
}

#[derive(Debug)]
struct Waiting {
    id: PublishId,
    topic: TopicName,
    payload: Payload,
    tickets: [Ticket; 2],
    until: Instant,
}

impl PubSub {
    /// No subscriptions yet. The incarnation is this node's start, in milliseconds since 1970.
    #[must_use]
    pub fn new(me: NodeId, incarnation: u64) -> Self {
        Self {
            me,
            incarnation,
            next_sequence: 1,
            next_subscription: 1,
            local: Trie::default(),
            patterns: BTreeMap::new(),
            remote: Directory::new(),
            remote_trie: Trie::default(),
            routes: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            seen: Seen::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Subscribes; messages come as [`Output::Deliver`].
    ///
    /// # Errors
    /// `too_many` at [`MAX_SUBSCRIPTIONS`].
    pub fn subscribe(&mut self, pattern: TopicPattern) -> Result<SubscriptionId, Fault> {
        if self.patterns.len() >= MAX_SUBSCRIPTIONS {
            let because = format!("{MAX_SUBSCRIPTIONS} subscriptions are open");
            return Err(Fault::new(Code::TooMany, because));
        }
        let id = SubscriptionId(self.next_subscription);
        self.next_subscription += 1;
        let news = !self.patterns.values().any(|other| *other == pattern);
        self.local.insert(&pattern, id);
        let rendezvous = pattern.rendezvous().to_owned();
        self.patterns.insert(id, pattern);
        self.routes.clear();
        if news {
            self.announce(rendezvous);
        }
        Ok(id)
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        let Some(pattern) = self.patterns.remove(&id) else { return };
        self.local.remove(&pattern, id);
        self.routes.clear();
        if !self.patterns.values().any(|other| *other == pattern) {
            self.announce(pattern.rendezvous().to_owned());
        }
    }

    /// Publishes; ends with [`Output::Published`], at once when the subscribers are known. If they cannot
    /// all be looked for within ten seconds it goes to those that are known, and without any it is
    /// `timeout`.
    pub fn publish(&mut self, now: Now, id: PublishId, topic: TopicName, payload: Payload) {
        if let Err(fault) = payload.check() {
            self.outputs.push_back(Output::Published { id, result: Err(fault) });
            return;
        }
        let keys = [first_segment(&topic), ANY];
        // Behind an earlier publish of the same topic that waits: a topic keeps its order.
        let ahead = self.waiting.iter().rfind(|earlier| earlier.topic == topic);
        let tickets = ahead.map(|earlier| earlier.tickets);
        let known = keys.iter().all(|key| self.remote.is_known(now, key));
        if tickets.is_none() && known {
            let route = self.route(&topic);
            if !route.remote.is_empty() {
                self.send(id, topic, payload, route);
                return;
            }
        }
        // Nobody known: perhaps somebody has come since the last look, unless that would have been told.
        let tickets = tickets.unwrap_or_else(|| keys.map(|key| self.ask(now, key)));
        if tickets == [Ticket::NONE; 2] {
            let route = self.route(&topic);
            self.send(id, topic, payload, route);
            return;
        }
        if self.waiting.len() >= MAX_WAITING
            || self.waiting_bytes + payload.body.len() > MAX_WAITING_BYTES
        {
            let because = "too many publishes wait for their subscribers to be found";
            let result = Err(Fault::new(Code::Overloaded, because));
            self.outputs.push_back(Output::Published { id, result });
            return;
        }
        self.waiting_bytes += payload.body.len();
        let until = now.instant + WAIT;
        self.waiting.push_back(Waiting { id, topic, payload, tickets, until });
    }

    fn ask(&mut self, now: Now, rendezvous: &str) -> Ticket {
        if self.remote.make_room(rendezvous) {
            self.rebuild_routes();
        }
        self.remote.ask(now, rendezvous)
    }

    /// There is news about a rendezvous.
    pub fn handle_news(&mut self, rendezvous: &str, news: News<Subscriber>) {
        let looked = news.looked;
        if self.remote.on_news(rendezvous, news) {
            self.rebuild_routes();
        }
        if !looked {
            return;
        }
        for publish in std::mem::take(&mut self.waiting) {
            let keys = [first_segment(&publish.topic), ANY];
            let mut tickets = keys.iter().zip(publish.tickets);
            if tickets.all(|(key, ticket)| self.remote.has_completed(key, ticket)) {
                self.send_waiting(publish, None);
            } else {
                self.waiting.push_back(publish);
            }
        }
    }

    /// Sends what has waited; with a fault, that is what came of it unless somebody is there.
    fn send_waiting(&mut self, publish: Waiting, otherwise: Option<Fault>) {
        let Waiting { id, topic, payload, .. } = publish;
        self.waiting_bytes -= payload.body.len();
        let route = self.route(&topic);
        match otherwise.filter(|_| route.local.is_empty() && route.remote.is_empty()) {
            Some(fault) => {
                let result = Err(fault.tried(format!("publish to {topic}")));
                self.outputs.push_back(Output::Published { id, result });
            }
            None => self.send(id, topic, payload, route),
        }
    }

    /// A message arrived on a flow of that publisher.
    pub fn handle_message(&mut self, message: Message) {
        self.counters.received += 1;
        if !self.seen.is_new(message.publisher, message.incarnation, message.sequence) {
            self.counters.duplicates += 1;
            return;
        }
        let to = self.route(&message.topic).local;
        if to.is_empty() {
            self.counters.unmatched += 1;
            return;
        }
        self.outputs.push_back(Output::Deliver { to, message: Arc::new(message) });
    }

    /// A publisher says that it dropped messages that were meant for this node.
    pub fn handle_gap(&mut self, missed: u64) {
        self.counters.missed = self.counters.missed.saturating_add(missed);
        let to: Vec<_> = self.patterns.keys().copied().collect();
        if !to.is_empty() {
            self.outputs.push_back(Output::Gap { to, missed });
        }
    }

    /// Ends the wait of publishes whose time is up, and forgets what is not in use.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(publish) = self.waiting.pop_front_if(|it| it.until <= now.instant) {
            let because = "the time was up while subscribers were looked for";
            self.send_waiting(publish, Some(Fault::new(Code::Timeout, because)));
        }
        if self.remote.handle_timeout(now) {
            self.rebuild_routes();
        }
    }

    /// When to call [`PubSub::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let first = self.waiting.front().map(|it| Deadline::new(it.until, "publish waits"));
        Deadline::earliest([first, self.remote.poll_timeout()])
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.remote.poll_ask().map(Output::Ask).or_else(|| self.outputs.pop_front())
    }

    /// Where a subscriber that a message is for can be reached.
    #[must_use]
    pub fn contact(&self, node: NodeId) -> Option<&Contact> {
        self.remote.find(node).map(|(contact, _)| contact)
    }

    /// The subscriptions of this node, in the order they were made.
    pub fn subscriptions(&self) -> impl Iterator<Item = (SubscriptionId, &TopicPattern)> {
        self.patterns.iter().map(|(id, pattern)| (*id, pattern))
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn send(&mut self, id: PublishId, topic: TopicName, payload: Payload, route: Route) {
        let Route { local, remote } = route;
        let message = Arc::new(Message {
            publisher: self.me,
            incarnation: self.incarnation,
            sequence: self.next_sequence,
            topic,
            payload,
        });
        self.next_sequence += 1;
        self.counters.published += 1;
        self.counters.sent += remote.len() as u64;
        let subscribers = remote.len() + usize::from(!local.is_empty());
        if !local.is_empty() {
            self.outputs.push_back(Output::Deliver { to: local, message: message.clone() });
        }
        if !remote.is_empty() {
            self.outputs.push_back(Output::Send { to: remote, message });
        }
        self.outputs.push_back(Output::Published { id, result: Ok(subscribers) });
    }

    fn route(&mut self, topic: &TopicName) -> Route {
        if let Some(route) = self.routes.get(topic) {
            return route.clone();
        }
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        let local = self.local.matches(topic).into_iter().collect();
        let remote = self.remote_trie.matches(topic).into_iter().collect();
        let route = Route { local, remote };
        self.routes.insert(topic.clone(), route.clone());
        route
    }

    fn rebuild_routes(&mut self) {
        self.routes.clear();
        self.remote_trie = Trie::default();
        for (node, (_, patterns)) in self.remote.all().filter(|(node, _)| *node != self.me) {
            for pattern in patterns {
                self.remote_trie.insert(pattern, node);
            }
        }
    }

    fn announce(&mut self, rendezvous: String) {
        let mut patterns: BTreeSet<TopicPattern> = self
            .patterns
            .values()
            .filter(|pattern| pattern.rendezvous() == rendezvous)
            .cloned()
            .collect();
        if patterns.len() > MAX_PATTERNS {
            // One pattern that covers them all: publishers send more, and nothing is missed.
            let cover =
                if rendezvous == ANY { "**".to_owned() } else { format!("{rendezvous}.**") };
            patterns = BTreeSet::from([cover.parse().expect("a segment and a wildcard")]);
        }
        let patterns = patterns.into_iter().collect();
        self.outputs.push_back(Output::Announce { rendezvous, patterns });
    }
}

fn first_segment(topic: &TopicName) -> &str {
    topic.segments().next().expect("a name has a segment")
}

#[cfg(test)]
mod tests;
