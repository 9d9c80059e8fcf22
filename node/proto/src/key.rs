//! The key space: where records live, and how far from there a node is.
//!
//! Keys and node ids share one space of 160 bits under the XOR metric (Maymounkov and Mazières,
//! "Kademlia: A Peer-to-peer Information System Based on the XOR Metric", 2002, §2.1).

use std::fmt;

use macula_identity::NodeId;
use ring::digest;

use crate::name::RealmName;

/// How many bits a key has: the number of buckets of a table.
pub const BITS: usize = 8 * NodeId::LENGTH;

/// A place in the key space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; NodeId::LENGTH]);

impl Key {
    /// The key under which a realm's records of this kind and name are stored:
    /// `trunc160(SHA-256(realm ‖ 0 ‖ kind ‖ 0 ‖ name))`.
    #[must_use]
    pub fn of(realm: &RealmName, kind: Kind, name: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(realm.as_str().as_bytes());
        hash.update(&[0]);
        hash.update(kind.as_str().as_bytes());
        hash.update(&[0]);
        hash.update(name.as_bytes());
        let (first, _) = hash
            .finish()
            .as_ref()
            .split_first_chunk()
            .map(|(first, rest)| (*first, rest.len()))
            .expect("SHA-256 has more than 20 bytes");
        Self(first)
    }

    /// The key with these bytes, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; NodeId::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; NodeId::LENGTH] {
        &self.0
    }

    /// The distance to another place.
    #[must_use]
    pub fn distance(self, other: impl Into<Self>) -> Distance {
        let other = other.into();
        Distance(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }
}

impl From<NodeId> for Key {
    fn from(id: NodeId) -> Self {
        Self(*id.as_bytes())
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = macula_identity::id::ParseError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        NodeId::try_from(bytes).map(Self::from)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// How far two places are from each other: their XOR, compared as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; NodeId::LENGTH]);

impl Distance {
    /// How many leading bits the two places share; [`BITS`] when they are the same.
    #[must_use]
    pub fn leading_zeros(&self) -> usize {
        match self.0.iter().position(|byte| *byte != 0) {
            Some(at) => 8 * at + self.0[at].leading_zeros() as usize,
            None => BITS,
        }
    }

    /// The place that is this far from `from`.
    #[must_use]
    pub fn from(self, from: Key) -> Key {
        Key(std::array::from_fn(|i| self.0[i] ^ from.0[i]))
    }

    /// A distance that shares exactly `zeros` leading bits, and whose other bits come from
    /// `random`.
    #[must_use]
    pub fn within_bucket(zeros: usize, random: [u8; NodeId::LENGTH]) -> Self {
        let mut bytes = random;
        for bit in 0..zeros.min(BITS) {
            bytes[bit / 8] &= !(0x80 >> (bit % 8));
        }
        if zeros < BITS {
            bytes[zeros / 8] |= 0x80 >> (zeros % 8);
        }
        Self(bytes)
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Somebody wants the messages that match its patterns.
    Subscriber,
    /// Somebody answers calls of a procedure.
    Provider,
}

impl Kind {
    /// The text that goes into keys.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber",
            Self::Provider => "provider",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose servers: one routing table is kept for each. A lookup for a realm runs over its own
/// servers and the infrastructure's, merged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Bootstraps and gateways, alone.
    Infrastructure,
    /// The peers of this realm that hold the server grant, beside the infrastructure.
    Realm(RealmName),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Key> {
        any::<[u8; 20]>().prop_map(Key)
    }

    #[test]
    fn a_key_is_pinned_and_differs_by_realm_kind_and_name() {
        let realm = |name: &str| name.parse::<RealmName>().unwrap();
        let shop = Key::of(&realm("com.example.shop"), Kind::Provider, "cart.add");
        // printf 'com.example.shop\0provider\0cart.add' | sha256sum | head -c 40
        assert_eq!(shop.to_string(), "f557c197a672ebe106ee3afc751f8cfabc2d2e1b");
        assert_ne!(shop, Key::of(&realm("com.example.sho"), Kind::Provider, "cart.add"));
        assert_ne!(shop, Key::of(&realm("com.example.shop"), Kind::Subscriber, "cart.add"));
        assert_ne!(shop, Key::of(&realm("com.example.shop"), Kind::Provider, "cart.ad"));
    }

    proptest! {
        #[test]
        fn nothing_is_at_distance_zero_but_the_place_itself(a in key(), b in key()) {
            prop_assert_eq!(a.distance(a).leading_zeros(), BITS);
            prop_assert_eq!(a == b, a.distance(b) == a.distance(a));
        }

        #[test]
        fn the_way_there_is_as_long_as_the_way_back(a in key(), b in key()) {
            prop_assert_eq!(a.distance(b), b.distance(a));
        }

        /// XOR never exceeds the sum, byte for byte, so the triangle inequality holds.
        #[test]
        fn a_detour_is_never_shorter(a in any::<u128>(), b in any::<u128>(), c in any::<u128>()) {
            let place = |n: u128| {
                let mut bytes = [0; 20];
                bytes[4..].copy_from_slice(&(n >> 1).to_be_bytes());
                Key(bytes)
            };
            let length = |d: Distance| u128::from_be_bytes(d.0[4..].try_into().unwrap());
            let (a, b, c) = (place(a), place(b), place(c));
            prop_assert!(
                length(a.distance(c)) <= length(a.distance(b)) + length(b.distance(c))
            );
        }

        /// Kademlia §2.1: XOR is unidirectional, so lookups for one key converge.
        #[test]
        fn exactly_one_place_lies_at_each_distance(a in key(), b in key()) {
            prop_assert_eq!(a.distance(b).from(a), b);
        }

        /// So the k nearest are a set that every party agrees on.
        #[test]
        fn no_two_places_are_equally_far_from_a_third(a in key(), b in key(), from in key()) {
            prop_assert_eq!(a == b, from.distance(a) == from.distance(b));
        }

        #[test]
        fn a_random_place_of_a_bucket_falls_into_it(
            me in key(), bucket in 0..BITS, random in any::<[u8; 20]>()
        ) {
            let place = Distance::within_bucket(bucket, random).from(me);
            prop_assert_eq!(me.distance(place).leading_zeros(), bucket);
        }
    }
}
