//! What must hold of the followed names after whatever came.

use super::{Following, Look, MAX_KNOWN, MAX_LOOKS, WATCHED};

impl Following {
    /// Panics unless every index says the same, and all is within its limits.
    pub(in crate::dht) fn check(&self) {
        assert_eq!(self.names.len(), self.all.len());
        let mut looks = 0;
        for (name, followed) in &self.all {
            assert_eq!(self.names.get(&followed.key), Some(name));
            assert!(followed.known.len() <= MAX_KNOWN, "publishers of a name");
            assert!(followed.storers.len() <= WATCHED, "storers of a name");
            if let Some(wake) = followed.wake {
                assert!(self.due.contains(&(wake, name.clone())), "a name is due");
            }
            looks += usize::from(matches!(followed.look, Look::UnderWay { is_upkeep: true, .. }));
        }
        let waking = self.all.values().filter(|followed| followed.wake.is_some()).count();
        assert_eq!(self.due.len(), waking);
        assert_eq!(self.looks, looks);
        assert!(looks <= MAX_LOOKS, "looks of upkeep");
        let asked = self.suspects.values().filter(|suspect| suspect.next.is_some()).count();
        assert_eq!(self.suspects_due.len(), asked);
        for (node, suspect) in &self.suspects {
            if let Some(next) = suspect.next {
                assert!(self.suspects_due.contains(&(next, *node)));
            }
        }
    }
}
