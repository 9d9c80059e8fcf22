//! One node's subscriptions and publishes, with the DHT played by the test.

use super::*;
use crate::directory::{CAPACITY, IDLE};

const ME: NodeId = NodeId::from_bytes([0; 20]);
const ALICE: NodeId = NodeId::from_bytes([1; 20]);
const BOB: NodeId = NodeId::from_bytes([2; 20]);

struct Desk {
    pubsub: PubSub,
    now: Now,
    next: u64,
}

impl Desk {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 0 };
        Self { pubsub: PubSub::new(ME, 7), now, next: 0 }
    }

    fn publish(&mut self, topic: &str, body: &str) -> PublishId {
        self.next += 1;
        let id = PublishId(self.next);
        let payload = Payload::new(body.to_owned(), "text/plain");
        self.pubsub.publish(self.now, id, topic.parse().unwrap(), payload);
        id
    }

    fn subscribe(&mut self, pattern: &str) -> SubscriptionId {
        self.pubsub.subscribe(pattern.parse().unwrap()).unwrap()
    }

    /// A look has ended, and shows these; nobody tells of changes from now on.
    fn found(&mut self, rendezvous: &str, subscribers: &[(NodeId, &str)]) {
        self.news(rendezvous, subscribers, true, false);
    }

    /// These subscribe, and nobody else.
    fn news(&mut self, rendezvous: &str, found: &[(NodeId, &str)], looked: bool, held: bool) {
        let changes = [ME, ALICE, BOB].map(|id| {
            let pattern = found.iter().find(|(of, _)| *of == id).map(|(_, pattern)| pattern);
            let contact = Contact { id, addresses: Vec::new() };
            (id, pattern.map(|pattern| (contact, vec![pattern.parse().unwrap()])))
        });
        self.pubsub.handle_news(rendezvous, News { changes: changes.into(), looked, held });
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.pubsub.handle_timeout(self.now);
    }

    /// What the node wants done, a word each.
    fn said(&mut self) -> Vec<String> {
        let said = std::iter::from_fn(|| self.pubsub.poll_output()).map(|output| match output {
            Output::Ask(Ask::Follow(name)) => format!("find {name}"),
            Output::Ask(Ask::Unfollow(name)) => format!("forget {name}"),
            Output::Announce { rendezvous, patterns } => {
                let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
                format!("announce {rendezvous}: {}", patterns.join(" "))
            }
            Output::Send { to, message } => format!("send {} to {}", body(&message), to.len()),
            Output::Deliver { to, message } => {
                format!("deliver {} to {}", body(&message), to.len())
            }
            Output::Gap { to, missed } => format!("gap of {missed} to {}", to.len()),
            Output::Published { id, result: Ok(count) } => format!("published {} to {count}", id.0),
            Output::Published { id, result: Err(fault) } => format!("{}: {}", id.0, fault.code),
        });
        said.collect()
    }
}

fn body(message: &Message) -> String {
    String::from_utf8(message.payload.body.to_vec()).unwrap()
}

fn message(publisher: NodeId, sequence: u64) -> Message {
    let topic = "room.temp".parse().unwrap();
    Message { publisher, incarnation: 1, sequence, topic, payload: Payload::bytes("hello") }
}

#[test]
fn a_publish_to_an_unknown_topic_looks_up_both_keys_and_then_sends() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    assert_eq!(desk.said(), ["find room", "find *"]);
    desk.found("room", &[(ALICE, "room.*"), (BOB, "room.door")]);
    assert_eq!(desk.said(), [""; 0], "the other key may hold more");
    desk.found("*", &[(BOB, "**")]);
    assert_eq!(desk.said(), ["send a to 2", "published 1 to 2"]);
}

#[test]
fn a_second_publish_asks_nobody_and_a_name_out_of_use_is_forgotten() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    desk.found("room", &[(ALICE, "room.temp")]);
    desk.found("*", &[]);
    desk.said();
    desk.pass(IDLE - Duration::from_millis(1));
    desk.publish("room.temp", "b");
    assert_eq!(desk.said(), ["send b to 1", "published 2 to 1"]);
    desk.pass(Duration::from_millis(1));
    assert_eq!(desk.said(), [""; 0]);
    desk.pass(IDLE);
    assert_eq!(desk.said(), ["forget *", "forget room"]);
}

#[test]
fn a_publish_that_knows_nobody_asks_again_and_nobody_is_no_error() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    desk.found("room", &[]);
    desk.found("*", &[]);
    assert_eq!(desk.said().last().unwrap(), "published 1 to 0");
    desk.publish("room.temp", "b");
    assert_eq!(desk.said(), ["find room", "find *"]);
    desk.found("room", &[(ALICE, "room.temp")]);
    desk.found("*", &[]);
    assert_eq!(desk.said(), ["send b to 1", "published 2 to 1"]);
}

#[test]
fn a_publish_that_would_have_been_told_of_subscribers_asks_nobody() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    desk.news("room", &[], true, true);
    desk.news("*", &[], true, true);
    assert_eq!(desk.said().last().unwrap(), "published 1 to 0");
    desk.publish("room.temp", "b");
    assert_eq!(desk.said(), ["published 2 to 0"]);
    desk.news("room", &[(BOB, "room.*")], false, true);
    desk.publish("room.temp", "c");
    assert_eq!(desk.said(), ["send c to 1", "published 3 to 1"]);
}

#[test]
fn publishes_of_a_topic_that_wait_keep_their_order() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    desk.found("room", &[(ALICE, "room.temp")]);
    // `*` is not known yet: the second waits behind the first.
    desk.publish("room.temp", "b");
    desk.found("*", &[]);
    desk.publish("room.temp", "c");
    let said = desk.said();
    let sent: Vec<_> = said.iter().filter(|word| word.starts_with("send")).collect();
    assert_eq!(sent, ["send a to 1", "send b to 1", "send c to 1"]);
}

#[test]
fn a_publish_waits_no_longer_than_it_may_and_goes_to_those_that_are_known_by_then() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    desk.publish("hall.temp", "b");
    desk.said();
    desk.news("room", &[(ALICE, "room.temp")], false, false);
    desk.pass(WAIT - Duration::from_millis(1));
    assert_eq!(desk.said(), [""; 0]);
    assert_eq!(desk.pubsub.poll_timeout().unwrap().at, desk.now.instant + Duration::from_millis(1));
    desk.pass(Duration::from_millis(1));
    assert_eq!(desk.said(), ["send a to 1", "published 1 to 1", "2: timeout"]);
    assert_eq!(desk.pubsub.waiting_bytes, 0);
}

#[test]
fn a_subscriber_under_a_name_that_made_room_is_not_sent_to_any_more() {
    let mut desk = Desk::new();
    desk.publish("room.temp", "a");
    desk.found("room", &[(ALICE, "room.temp")]);
    desk.found("*", &[]);
    desk.said();
    desk.pass(Duration::from_millis(1));
    for n in 0..CAPACITY {
        desk.publish(&format!("hall{n}.temp"), "b");
        desk.found(&format!("hall{n}"), &[]);
        desk.found("*", &[]);
    }
    let said = desk.said();
    assert!(said.contains(&"forget room".to_owned()));
    desk.publish("room.temp", "c");
    desk.found("*", &[]);
    desk.found("room", &[]);
    assert_eq!(desk.said().last().unwrap(), &format!("published {} to 0", CAPACITY + 2));
}

#[test]
fn patterns_that_start_alike_are_announced_together_and_too_many_as_one() {
    let mut desk = Desk::new();
    desk.subscribe("room.a");
    let b = desk.subscribe("room.b");
    desk.subscribe("room.b");
    assert_eq!(desk.said(), ["announce room: room.a", "announce room: room.a room.b"]);
    desk.pubsub.unsubscribe(b);
    assert_eq!(desk.said(), [""; 0], "another subscription has the same pattern");
    let more: Vec<_> = (2..=MAX_PATTERNS).map(|n| desk.subscribe(&format!("room.x{n}"))).collect();
    assert_eq!(desk.said().last().unwrap(), "announce room: room.**");
    desk.pubsub.unsubscribe(more[0]);
    let said = desk.said();
    assert!(said[0].ends_with("room.x9") && !said[0].contains("*"), "{said:?}");
}

#[test]
fn the_last_pattern_of_a_rendezvous_withdraws_it() {
    let mut desk = Desk::new();
    let id = desk.subscribe("*.temp");
    desk.pubsub.unsubscribe(id);
    assert_eq!(desk.said(), ["announce *: *.temp", "announce *: "]);
}

#[test]
fn a_node_hears_its_own_publishes_once() {
    let mut desk = Desk::new();
    desk.subscribe("room.temp");
    desk.said();
    desk.publish("room.temp", "a");
    desk.found("room", &[(ME, "room.temp"), (ALICE, "room.temp")]);
    desk.found("*", &[]);
    let said = desk.said();
    assert_eq!(said[2..], ["deliver a to 1", "send a to 1", "published 1 to 2"]);
}

#[test]
fn as_many_publishes_wait_as_may_and_one_more_is_overloaded() {
    let mut desk = Desk::new();
    for _ in 0..MAX_WAITING {
        desk.publish("room.temp", "a");
    }
    assert_eq!(desk.said(), ["find room", "find *"]);
    desk.publish("room.temp", "a");
    assert_eq!(desk.said(), [format!("{}: overloaded", MAX_WAITING + 1)]);
}

#[test]
fn a_payload_too_large_is_refused_before_anybody_is_looked_for() {
    let mut desk = Desk::new();
    desk.publish("room.temp", &"x".repeat(crate::wire::MAX_PAYLOAD + 1));
    assert_eq!(desk.said(), ["1: too_large"]);
    desk.publish("room.temp", &"x".repeat(crate::wire::MAX_PAYLOAD));
    assert_eq!(desk.said(), ["find room", "find *"]);
}

#[test]
fn a_message_is_delivered_once_and_counted_when_nobody_wants_it() {
    let mut desk = Desk::new();
    let id = desk.subscribe("room.*");
    desk.said();
    desk.pubsub.handle_message(message(ALICE, 1));
    desk.pubsub.handle_message(message(ALICE, 1));
    assert_eq!(desk.said(), ["deliver hello to 1"]);
    desk.pubsub.unsubscribe(id);
    desk.said();
    desk.pubsub.handle_message(message(ALICE, 2));
    assert_eq!(desk.said(), [""; 0]);
    let Counters { received, duplicates, unmatched, .. } = desk.pubsub.counters();
    assert_eq!((received, duplicates, unmatched), (3, 1, 1));
}

#[test]
fn a_gap_is_told_to_every_subscription_and_to_none_when_there_is_none() {
    let mut desk = Desk::new();
    desk.pubsub.handle_gap(3);
    assert_eq!(desk.said(), [""; 0]);
    desk.subscribe("room.a");
    desk.subscribe("hall.b");
    desk.said();
    desk.pubsub.handle_gap(4);
    assert_eq!(desk.said(), ["gap of 4 to 2"]);
    assert_eq!(desk.pubsub.counters().missed, 7);
}

#[test]
fn the_last_subscription_is_taken_and_one_more_refused() {
    let mut desk = Desk::new();
    for _ in 0..MAX_SUBSCRIPTIONS {
        desk.subscribe("room.a");
    }
    let refused = desk.pubsub.subscribe("room.a".parse().unwrap());
    assert_eq!(refused.unwrap_err().code, Code::TooMany);
}
