//! How near a certificate's end is, in the steps at which somebody should be told.

use macula_identity::Identity;
use macula_identity::authority::BACKDATE;
use rustls::pki_types::UnixTime;

/// The steps, each later than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// More than a quarter of its life is left; it is renewed at half.
    Far,
    /// A quarter or less: whoever renews it is late.
    Near,
    /// A tenth or less.
    Imminent,
    /// It has expired; nobody believes it.
    Expired,
}

impl Nearness {
    pub(super) fn of(identity: &Identity, now: UnixTime) -> Self {
        let left = identity.remaining(now).as_secs();
        // From when it was issued: the authority dates certificates back, which is no life of theirs.
        let issued = identity.not_before.saturating_add(BACKDATE.as_secs());
        let from = if issued < identity.not_after { issued } else { identity.not_before };
        let life = identity.not_after.saturating_sub(from);
        if left == 0 {
            Self::Expired
        } else if left.saturating_mul(10) <= life {
            Self::Imminent
        } else if left.saturating_mul(4) <= life {
            Self::Near
        } else {
            Self::Far
        }
    }

    /// The word for status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Far => "far",
            Self::Near => "near",
            Self::Imminent => "imminent",
            Self::Expired => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use macula_identity::{Authority, NodeKey, Order, Scope};

    use super::*;

    #[test]
    fn each_step_begins_at_its_instant_and_not_before() {
        let now = 1_700_000_000;
        let identity = identity(now, 1_000);
        for (passed, nearness) in [
            (0, Nearness::Far),
            (749, Nearness::Far),
            (750, Nearness::Near),
            (899, Nearness::Near),
            (900, Nearness::Imminent),
            (999, Nearness::Imminent),
            (1_000, Nearness::Expired),
            (9_999, Nearness::Expired),
        ] {
            assert_eq!(Nearness::of(&identity, at(now + passed)), nearness, "after {passed} s");
        }
    }

    #[test]
    fn a_ten_second_certificate_is_not_born_near_its_end() {
        let now = 1_700_000_000;
        assert_eq!(Nearness::of(&identity(now, 10), at(now)), Nearness::Far);
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn identity(now: u64, lifetime: u64) -> Identity {
        let mesh =
            Scope { trust_domain: "test".parse().unwrap(), mesh: "ns.test".parse().unwrap() };
        let authority = Authority::new(mesh.clone(), at(now));
        let subject = mesh.subject(macula_identity::Place::Gateway, "g".parse().unwrap());
        let order = Order { lifetime: Duration::from_secs(lifetime), ..Order::new(subject) };
        let chain = authority.issue(&NodeKey::generate().csr_der(), &order, at(now)).unwrap();
        Identity::of_own(&chain).unwrap()
    }
}
