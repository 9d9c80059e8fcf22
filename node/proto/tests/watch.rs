//! What watch promises, in virtual time: who uses a name hears of its changes soon, and asks nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::time::Duration;

use macula_proto::engine::Output;
use macula_proto::identity::{NodeId, Place};
use macula_proto::payload::Payload;
use macula_proto::pubsub::PublishId;
use macula_proto::rpc::CallId;
use macula_proto::sim::{JOINING, Options, Swarm, Tenant};

/// On a quiet machine, an arrival and a goodbye are known to all who use the name within this.
const SOON: Duration = Duration::from_secs(1);
/// A connection without a word is dead after this; a crash is known within twice as long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Fifty servers of infrastructure, and a realm of peers.
struct World {
    swarm: Swarm,
    peers: Vec<NodeId>,
    next: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let realm: macula_proto::identity::RealmName = "com.example.shop".parse().unwrap();
        let tenant = Tenant { realm, servers: 0, clients: 12 };
        let options =
            Options { seed, bootstraps: 5, gateways: 45, realms: vec![tenant], trace: false };
        let mut swarm = Swarm::new(&options);
        swarm.run_for(JOINING + Duration::from_secs(20));
        let is_peer = |place: &Place| matches!(place, Place::Realm(_));
        let peers = swarm.living().filter(|node| is_peer(&node.subject.place));
        let peers = peers.map(|node| node.id).collect();
        swarm.take_happened();
        Self { swarm, peers, next: 0 }
    }

    fn subscribe(&mut self, node: NodeId) {
        self.swarm.command(node, |engine, _| engine.subscribe("news.**".parse().unwrap()).unwrap());
    }

    /// To how many subscribers a message goes.
    fn publish(&mut self, node: NodeId) -> usize {
        self.next += 1;
        let id = PublishId(self.next);
        self.swarm.command(node, |engine, now| {
            engine.publish(now, id, "news.today".parse().unwrap(), Payload::bytes("hello"));
        });
        self.swarm.run_for(Duration::from_millis(1));
        let mut waited = 0;
        loop {
            let published =
                self.swarm.take_happened().into_iter().find_map(|happened| match happened.output {
                    Output::Published { id: done, result } if done == id => Some(result.unwrap()),
                    _ => None,
                });
            if let Some(count) = published {
                return count;
            }
            waited += 1;
            assert!(waited < 100, "it was never published");
            self.swarm.run_for(Duration::from_millis(100));
        }
    }

    fn call(&mut self, node: NodeId, procedure: &str) {
        self.next += 1;
        let (id, procedure) = (CallId(self.next), procedure.parse().unwrap());
        self.swarm.command(node, |engine, now| {
            engine.call(now, id, procedure, Payload::bytes("2 3"), Duration::from_secs(5));
        });
        self.swarm.run_for(Duration::from_secs(1));
    }

    fn asked(&self, node: NodeId) -> u64 {
        self.swarm.engine(node).dht().counters().requests_sent
    }
}

#[test]
fn a_second_publish_or_call_asks_the_dht_nothing_also_where_nobody_is() {
    let mut world = World::new(1);
    let (user, subscriber, provider) = (world.peers[0], world.peers[1], world.peers[2]);
    world.subscribe(subscriber);
    world.swarm.command(provider, |engine, _| engine.advertise("sum".parse().unwrap()).unwrap());
    world.swarm.run_for(Duration::from_secs(5));
    let nothing = world.asked(user);
    assert_eq!(world.publish(user), 1);
    world.call(user, "sum");
    world.call(user, "nobody.has.it");
    let first = world.asked(user);
    assert!(first > nothing, "the first of each is looked up");
    for _ in 0..10 {
        assert_eq!(world.publish(user), 1);
        world.call(user, "sum");
        world.call(user, "nobody.has.it");
    }
    assert_eq!(world.asked(user), first);
}

#[test]
fn arrivals_and_goodbyes_are_known_within_a_second_and_crashes_within_two_idle_timeouts() {
    for seed in 0..3 {
        let mut world = World::new(seed);
        let (users, others) = (world.peers[..4].to_vec(), world.peers[4..].to_vec());
        for user in &users {
            assert_eq!(world.publish(*user), 0);
        }
        world.subscribe(others[0]);
        world.subscribe(others[1]);
        // The subscriber looks for who shall keep its record first: some two seconds of round trips.
        world.swarm.run_for(Duration::from_secs(2) + SOON);
        for user in &users[..2] {
            assert_eq!(world.publish(*user), 2, "seed {seed}");
        }
        world.swarm.command(others[0], |engine, now| engine.leave(now));
        world.swarm.run_for(SOON);
        for user in &users {
            assert_eq!(world.publish(*user), 1, "seed {seed}");
        }
        // The last two have never sent it anything until just now, and close that connection.
        world.swarm.crash(&[others[1]]);
        world.swarm.run_for(IDLE_TIMEOUT * 2);
        for user in &users {
            assert_eq!(world.publish(*user), 0, "seed {seed}");
        }
    }
}

#[test]
fn a_crash_is_told_to_those_who_never_had_a_connection_to_the_one_that_crashed() {
    for seed in 0..3 {
        let mut world = World::new(seed);
        let (user, subscriber) = (world.peers[0], world.peers[1]);
        assert_eq!(world.publish(user), 0);
        world.subscribe(subscriber);
        world.swarm.run_for(Duration::from_secs(100));
        world.swarm.crash(&[subscriber]);
        world.swarm.run_for(IDLE_TIMEOUT * 2);
        assert_eq!(world.publish(user), 0, "seed {seed}");
    }
}
