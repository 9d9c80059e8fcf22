//! The law `two_tenant_independence`: a realm gets the same answers whether another is on the mesh or not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::engine::Output;
use macula_proto::identity::{NodeId, RealmName};
use macula_proto::key::Kind;
use macula_proto::payload::Payload;
use macula_proto::pubsub::PublishId;
use macula_proto::rpc::CallId;
use macula_proto::sim::{JOINING, Options, Swarm, Tenant};

const MINE: &str = "com.example.shop";
const OTHER: &str = "org.example.clinic";
const DEEDS: u64 = 24;

#[test]
fn a_realm_sees_the_same_whether_another_is_there_or_not() {
    for seed in 1..=2 {
        let alone = answers(seed, &[MINE]);
        let together = answers(seed, &[MINE, OTHER]);
        assert_eq!(alone.len() as u64, 3 * DEEDS, "every deed has an answer");
        assert_eq!(alone, together, "two_tenant_independence, seed {seed}");
    }
}

/// What the peers of the first realm hear, while those of every realm do the same.
fn answers(seed: u64, realms: &[&str]) -> BTreeMap<String, String> {
    let tenant = |realm: &&str| Tenant { realm: realm.parse().unwrap(), servers: 6, clients: 14 };
    let realms: Vec<Tenant> = realms.iter().map(tenant).collect();
    let options =
        Options { seed, bootstraps: 3, gateways: 40, realms: realms.clone(), trace: false };
    let mut swarm = Swarm::new(&options);
    swarm.run_for(JOINING + Duration::from_secs(10));
    let peers: Vec<Vec<NodeId>> =
        realms.iter().map(|tenant| peers(&swarm, &tenant.realm)).collect();
    for peers in &peers {
        for (n, peer) in peers.iter().enumerate() {
            let pattern = format!("room{}.**", n % 4).parse().unwrap();
            swarm.command(*peer, |engine, _| engine.subscribe(pattern)).unwrap();
            let procedure = format!("service{}.run", n % 5).parse().unwrap();
            swarm.command(*peer, |engine, _| engine.advertise(procedure)).unwrap();
        }
    }
    swarm.run_for(Duration::from_secs(5));
    let mut names = BTreeMap::new();
    for n in 0..DEEDS {
        for (tenant, peers) in realms.iter().zip(&peers) {
            let from = peers[n as usize * 7 % peers.len()];
            let (room, service) = (n % 5, n % 6);
            let topic = format!("room{room}.temp").parse().unwrap();
            let payload = Payload::new(format!("{} {n}", tenant.realm), "text/plain");
            let body = payload.clone();
            swarm.command(from, |engine, now| engine.publish(now, PublishId(n), topic, payload));
            let procedure = format!("service{service}.run").parse().unwrap();
            let timeout = Duration::from_secs(5);
            swarm.command(from, |engine, now| {
                engine.call(now, CallId(n), procedure, body, timeout);
            });
            let name = format!("service{service}.run");
            let lookup = swarm.command(from, |engine, now| {
                engine.find_values(now, &tenant.realm, Kind::Provider, &name)
            });
            names.insert((from, lookup), format!("lookup {n:02}"));
        }
        swarm.run_for(Duration::from_millis(300));
    }
    swarm.run_for(Duration::from_secs(8));
    swarm.inspect();
    assert_eq!(swarm.broken().first().map(ToString::to_string), None);
    heard(&mut swarm, &peers[0], &names)
}

fn peers(swarm: &Swarm, realm: &RealmName) -> Vec<NodeId> {
    let mine = swarm.living().filter(|node| node.subject.realm() == Some(realm));
    let mut mine: Vec<_> = mine.map(|node| (node.subject.name.to_string(), node.id)).collect();
    mine.sort();
    mine.into_iter().map(|(_, id)| id).collect()
}

/// Each answer without its time: of a publish who got it, of a call whether it was answered, of a lookup whose
/// records and which servers it found.
fn heard(
    swarm: &mut Swarm,
    peers: &[NodeId],
    names: &BTreeMap<(NodeId, macula_proto::dht::LookupId), String>,
) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for it in swarm.take_happened() {
        if !peers.contains(&it.node) {
            continue;
        }
        match it.output {
            Output::Published { id, result } => {
                answers.insert(format!("publish {:02}", id.0), format!("{result:?}"));
            }
            Output::Returned { id, result } => {
                let result = result.map_err(|fault| fault.code);
                answers.insert(format!("call {:02}", id.0), format!("{result:?}"));
            }
            Output::LookedUp { lookup, found } => {
                let Some(name) = names.get(&(it.node, lookup)) else { continue };
                let publishers: Vec<_> =
                    found.records.iter().map(|it| it.record.publisher.id.short()).collect();
                let closest: Vec<_> = found.closest.iter().map(|it| it.id.short()).collect();
                answers.insert(name.clone(), format!("{publishers:?} at {closest:?}"));
            }
            Output::Deliver { message, .. } => {
                let body = String::from_utf8(message.payload.body.to_vec()).unwrap();
                let (realm, n) = body.split_once(' ').unwrap();
                assert_eq!(realm, MINE);
                got.entry(format!("publish {n:0>2}")).or_default().push(it.node.short());
            }
            _ => {}
        }
    }
    for (publish, mut receivers) in got {
        receivers.sort();
        let answer = answers.get_mut(&publish).expect("a message that was delivered was published");
        answer.push_str(&format!(" {receivers:?}"));
    }
    answers
}
