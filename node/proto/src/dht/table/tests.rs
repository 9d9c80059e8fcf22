//! The tables against a plain list of the same contacts.

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

proptest! {
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
