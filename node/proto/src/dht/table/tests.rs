//! The tables against a plain list of the same contacts.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::record::tests::{World, realm};

fn contact(bytes: [u8; 20]) -> Contact {
    let addresses = vec!["10.0.0.1:9443".parse().unwrap()];
    Contact { id: NodeId::from_bytes(bytes), addresses }
}

fn tables() -> Tables {
    let realms = BTreeMap::new();
    let scopes = BTreeMap::new();
    let me = Key::from_bytes([0; 20]);
    Tables { me, realm: None, infrastructure: Table::default(), realms, scopes }
}

#[test]
fn a_peer_keeps_infrastructure_and_the_servers_of_its_own_realm() {
    let world = World::new();
    let tables = Tables::new(&world.peer("r", "me").identity);
    let scope = |place, server| tables.scope_of(&world.node(place, "n", server).identity);
    let of = |name| Place::Realm(realm(name));
    assert_eq!(scope(Place::Bootstrap, true), Some(Scope::Infrastructure));
    assert_eq!(scope(Place::Gateway, true), Some(Scope::Infrastructure));
    assert_eq!(scope(of("r"), true), Some(Scope::Realm(realm("r"))));
    assert_eq!(scope(of("r"), false), None);
    assert_eq!(scope(of("s"), true), None);
}

#[test]
fn infrastructure_keeps_every_realms_servers_apart_and_bounded() {
    let world = World::new();
    let mut tables = Tables::new(&world.node(Place::Bootstrap, "me", true).identity);
    let now = Instant::now();
    for n in 0..=MAX_REALMS {
        let mut id = [0x55; 20];
        id[..8].copy_from_slice(&n.to_be_bytes());
        tables.insert(now, Scope::Realm(realm(&format!("r{n}"))), contact(id));
    }
    assert_eq!(tables.realms.len(), MAX_REALMS);
    assert_eq!(tables.scopes.len(), MAX_REALMS);
    let closest = |name| tables.closest(tables.me, &Scope::Realm(realm(name)), K, None).len();
    assert_eq!((closest("r0"), closest("r1"), closest("unknown")), (1, 1, 0));
}

#[test]
fn a_realms_table_is_bounded_whatever_ids_come() {
    let mut tables = tables();
    let now = Instant::now();
    let scope = Scope::Realm(realm("r"));
    for bucket in 0..40 {
        for n in 0..K {
            let mut random = [0; 20];
            random[19] = u8::try_from(n).unwrap();
            let id = crate::key::Distance::within_bucket(bucket, random).from(tables.me);
            tables.insert(now, scope.clone(), contact(*id.as_bytes()));
        }
    }
    assert_eq!(tables.sizes().nth(1), Some((scope, MAX_CONTACTS)));
}

#[test]
fn of_a_public_network_a_few_are_known_and_the_next_waits_until_one_of_them_is_gone() {
    let mut tables = tables();
    let (now, scope) = (Instant::now(), Scope::Realm(realm("r")));
    let at = |id: [u8; 20], ip: &str| Contact {
        addresses: vec![SocketAddr::new(ip.parse().unwrap(), 9443)],
        ..contact(id)
    };
    let id = |bucket: u8, n: u8| {
        let mut random = [0; 20];
        random[19] = n;
        let id = crate::key::Distance::within_bucket(bucket.into(), random);
        *id.from(Key::from_bytes([0; 20])).as_bytes()
    };
    let known = |tables: &Tables, id| tables.get(NodeId::from_bytes(id)).is_some();
    for n in 0..4 {
        tables.insert(now, scope.clone(), at(id(0, n), &format!("203.0.113.{n}")));
        tables.insert(now, scope.clone(), at(id(0, 10 + n), &format!("10.0.0.{n}")));
    }
    let public = |tables: &Tables| [0, 1, 2, 3].map(|n| known(tables, id(0, n)));
    assert_eq!(public(&tables), [true, true, false, false]);
    assert!((10..14).all(|n| known(&tables, id(0, n))), "a cluster is one network");
    tables.remove(NodeId::from_bytes(id(0, 11)));
    assert_eq!(public(&tables), [true, true, false, false], "the place is not for them");
    tables.remove(NodeId::from_bytes(id(0, 1)));
    assert_eq!(public(&tables), [true, false, false, true]);
    // Who moves in where there are enough moves out.
    tables.insert(now, scope.clone(), at(id(0, 12), "203.0.113.12"));
    assert_eq!(public(&tables), [true, false, false, true]);
    assert!(!known(&tables, id(0, 12)));
    // Ten in all buckets together.
    for bucket in 1..10 {
        for n in 0..2 {
            tables.insert(now, scope.clone(), at(id(bucket, n), "203.0.113.99"));
        }
    }
    assert_eq!(tables.sizes().nth(1), Some((scope.clone(), 10 + 2)), "and two of the cluster");
    tables.insert(now, scope, at(id(9, 9), "203.0.114.1"));
    assert!(known(&tables, id(9, 9)), "the next network has its own places");
    // Infrastructure is the operator's own.
    for n in 0..20 {
        tables.insert(now, Scope::Infrastructure, at(id(20, n), "203.0.113.7"));
    }
    assert_eq!(tables.infrastructure.len, 20);
}

proptest! {
    /// Whoever comes, moves and goes, and in whatever order.
    #[test]
    fn no_public_network_fills_a_bucket_or_a_table(
        steps in prop::collection::vec((0..8_u8, 0..5_usize, 0..12_u8, 0..3_u8), 1..300),
    ) {
        let mut tables = tables();
        let (now, scope) = (Instant::now(), Scope::Realm(realm("r")));
        for (deed, bucket, n, network) in steps {
            let mut random = [0; 20];
            random[19] = n;
            let id = crate::key::Distance::within_bucket(bucket, random).from(tables.me);
            if deed == 0 {
                tables.remove(NodeId::from_bytes(*id.as_bytes()));
            } else {
                let address = format!("203.0.{network}.{n}:1").parse().unwrap();
                let contact = Contact { addresses: vec![address], ..contact(*id.as_bytes()) };
                tables.insert(now, scope.clone(), contact);
            }
            let Some(table) = tables.realms.get(&realm("r")) else { continue };
            let count = |contacts: &mut dyn Iterator<Item = &Contact>, network: u8| {
                let of = subnet::of(&Contact {
                    addresses: vec![format!("203.0.{network}.1:1").parse().unwrap()],
                    ..contact([1; 20])
                });
                contacts.filter(|contact| subnet::of(contact) == of).count()
            };
            prop_assert_eq!(table.contacts().count(), table.len);
            for network in 0..3 {
                prop_assert!(count(&mut table.contacts(), network) <= 10);
                for bucket in table.buckets.values() {
                    prop_assert!(count(&mut bucket.contacts(), network) <= 2);
                }
            }
        }
    }

    #[test]
    fn the_closest_are_those_of_a_sorted_list(
        steps in prop::collection::vec(
            (any::<bool>(), 0..2_u8, prop::array::uniform2(0..24_u8), 0..4_u8), 1..200
        ),
        target in any::<[u8; 20]>(),
    ) {
        // Forty-eight bits of place in two bytes, so that buckets fill and ids come again.
        let mut tables = tables();
        let now = Instant::now();
        let mut oracle: BTreeMap<NodeId, Scope> = BTreeMap::new();
        for (i, (insert, which, [high, low], deep)) in steps.into_iter().enumerate() {
            let mut id = [0; 20];
            id[usize::from(deep)] = high + 1;
            id[19] = low;
            let scope = if which == 0 { Scope::Infrastructure } else { Scope::Realm(realm("r")) };
            let now = now + Duration::from_millis(i as u64);
            if insert {
                tables.insert(now, scope, contact(id));
            } else {
                tables.remove(NodeId::from_bytes(id));
            }
            // What has a place is what the buckets hold, no more than k at each distance.
            oracle.clear();
            for scope in [Scope::Infrastructure, Scope::Realm(realm("r"))] {
                let table = match &scope {
                    Scope::Infrastructure => Some(&tables.infrastructure),
                    Scope::Realm(realm) => tables.realms.get(realm),
                };
                for contact in table.into_iter().flat_map(Table::contacts) {
                    prop_assert!(oracle.insert(contact.id, scope.clone()).is_none(), "once only");
                }
                let held = table.into_iter().flat_map(Table::contacts).count();
                prop_assert_eq!(table.map_or(0, |table| table.len), held);
            }
            for (id, scope) in &oracle {
                prop_assert_eq!(tables.scopes.get(id), Some(scope));
                prop_assert_eq!(tables.get(*id).map(|contact| contact.id), Some(*id));
            }
        }
        let target = Key::from_bytes(target);
        for scope in [Scope::Infrastructure, Scope::Realm(realm("r"))] {
            let mut sorted: Vec<_> = oracle
                .iter()
                .filter(|(_, of)| **of == Scope::Infrastructure || **of == scope)
                .map(|(id, _)| *id)
                .collect();
            sorted.sort_by_key(|id| target.distance(*id));
            sorted.truncate(K);
            let closest = tables.closest(target, &scope, K, None);
            let closest: Vec<_> = closest.into_iter().map(|contact| contact.id).collect();
            prop_assert_eq!(&closest, &sorted);
        }
    }
}
