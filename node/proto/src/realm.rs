//! Who may speak to whom (docs/ARCHITECTURE.md, "Realms").
//!
//! | from \ to | infrastructure | peer of R | peer of S |
//! | --- | --- | --- | --- |
//! | infrastructure | yes | yes | yes |
//! | peer of R | yes | yes | `realm_mismatch` |

use macula_identity::{Identity, NodeId, Place, Role};

use crate::error::{Code, Fault};

/// What a dialler expects to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this node: addresses are used again.
    Node(NodeId),
    /// A seed found by DNS, whose id nobody knows yet.
    Bootstrap,
    /// Whoever dialled us, or whoever answers a `ping` of an address.
    Anyone,
}

/// Judges the node at the other end of a connection, whose certificate has been verified.
///
/// # Errors
/// `realm_mismatch`, `node_mismatch` or `role_mismatch`; the connection is closed with that code.
pub fn judge(me: &Identity, other: &Identity, expected: Expected) -> Result<(), Fault> {
    match expected {
        Expected::Node(id) if id != other.id => {
            let because = format!("{id} was expected and {} answered", other.id);
            return Err(Fault::new(Code::NodeMismatch, because));
        }
        Expected::Bootstrap if other.subject.role() != Role::Bootstrap => {
            let because = format!("{} is not a bootstrap", other.subject);
            return Err(Fault::new(Code::RoleMismatch, because));
        }
        Expected::Node(_) | Expected::Bootstrap | Expected::Anyone => {}
    }
    match (&me.subject.place, &other.subject.place) {
        (Place::Realm(mine), Place::Realm(theirs)) if mine != theirs => {
            // The other realm's name is not repeated: its existence is not ours to tell.
            Err(Fault::new(Code::RealmMismatch, format!("this node serves realm {mine} only")))
        }
        (Place::Realm(_), Place::Realm(_))
        | (Place::Bootstrap | Place::Gateway, _)
        | (_, Place::Bootstrap | Place::Gateway) => Ok(()),
    }
}
