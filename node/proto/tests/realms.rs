//! One table, seen through a realm: all who may see a realm agree on where its keys live.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::collections::BTreeSet;
use std::time::Duration;

use macula_proto::dht::K;
use macula_proto::engine::Output;
use macula_proto::identity::{NodeId, Place, RealmName};
use macula_proto::key::{Key, Scope};
use macula_proto::sim::{JOINING, Options, Swarm, Tenant};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

#[test]
fn whoever_may_see_a_realm_finds_the_same_holders_of_its_keys() {
    for seed in 0..8 {
        let tenant = |name: &str, servers, clients| {
            let realm = name.parse().unwrap();
            Tenant { realm, servers, clients }
        };
        let realms = vec![tenant("com.example.shop", 25, 10), tenant("org.example.bank", 25, 10)];
        let options = Options { seed, bootstraps: 3, gateways: 22, realms, trace: false };
        let mut swarm = Swarm::new(&options);
        swarm.run_for(JOINING + Duration::from_secs(30));
        let mut rng = StdRng::seed_from_u64(seed);
        let shop: RealmName = "com.example.shop".parse().unwrap();
        let of = |swarm: &Swarm, wanted: fn(&Place, bool) -> bool, realm: &RealmName| {
            let nodes = swarm.living().filter(|node| {
                let here = match &node.subject.place {
                    Place::Realm(of) => of == realm,
                    Place::Bootstrap | Place::Gateway => true,
                };
                here && wanted(&node.subject.place, node.grants.server)
            });
            nodes.map(|node| node.id).collect::<Vec<_>>()
        };
        let infrastructure = of(&swarm, |place, _| !matches!(place, Place::Realm(_)), &shop);
        let servers = of(&swarm, |place, server| matches!(place, Place::Realm(_)) && server, &shop);
        let clients =
            of(&swarm, |place, server| matches!(place, Place::Realm(_)) && !server, &shop);
        let may_hold: BTreeSet<_> = infrastructure.iter().chain(&servers).copied().collect();
        for _ in 0..10 {
            let key = Key::from_bytes(rng.random());
            let mut nearest: Vec<_> = may_hold.iter().copied().collect();
            nearest.sort_by_key(|id| key.distance(*id));
            for group in [&infrastructure, &servers, &clients] {
                let asker = *group.choose(&mut rng).unwrap();
                let found = holders(&mut swarm, asker, key, &shop);
                // An asker does not find itself.
                let expected: Vec<_> =
                    nearest.iter().filter(|id| **id != asker).take(K).copied().collect();
                assert_eq!(found, expected, "seed {seed}: what {asker} finds near {key}");
            }
        }
    }
}

/// The k nearest that this node finds, nearest first.
fn holders(swarm: &mut Swarm, asker: NodeId, key: Key, realm: &RealmName) -> Vec<NodeId> {
    let scope = Scope::Realm(realm.clone());
    let wanted = swarm.command(asker, |engine, now| engine.find_nodes(now, key, scope));
    swarm.run_for(Duration::from_secs(10));
    let found = swarm.take_happened().into_iter().find_map(|happened| match happened.output {
        Output::LookedUp { lookup, found } if lookup == wanted => Some(found),
        _ => None,
    });
    found.unwrap().closest.into_iter().map(|contact| contact.id).collect()
}
