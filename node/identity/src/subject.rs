//! Whom a certificate is about, written as a SPIFFE ID.

use std::fmt;
use std::str::FromStr;

use crate::encoding::excerpt;
use crate::name::{self, MeshName, NodeName, RealmName, TrustDomain};

/// One node of one mesh.
///
/// Its text is the certificate's only SAN, a SPIFFE ID of one of three shapes:
///
/// ```text
/// spiffe://<trust-domain>/mesh/<mesh>/bootstrap/<name>
/// spiffe://<trust-domain>/mesh/<mesh>/gateway/<name>
/// spiffe://<trust-domain>/mesh/<mesh>/realm/<realm>/peer/<name>
/// ```
///
/// It is read strictly, so that a subject has one text: no percent-encoding, no `..`, no slash at
/// the end, no query, no port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The SPIFFE trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// The mesh within the trust domain.
    pub mesh: MeshName,
    /// Role, and for a peer its realm.
    pub place: Place,
    /// The node's own name, unique within its place.
    pub name: NodeName,
}

impl Subject {
    /// The longest text that is read as a subject, in bytes (SPIFFE-ID §2.3).
    pub const MAX_LENGTH: usize = 2048;

    /// What the node is for.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.place.role()
    }

    /// The tenant that the node belongs to; infrastructure belongs to none.
    #[must_use]
    pub const fn realm(&self) -> Option<&RealmName> {
        match &self.place {
            Place::Realm(realm) => Some(realm),
            Place::Bootstrap | Place::Gateway => None,
        }
    }

    /// The mesh that the node belongs to.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { trust_domain: self.trust_domain.clone(), mesh: self.mesh.clone() }
    }

    /// Whether the node belongs to this mesh.
    #[must_use]
    pub fn is_in(&self, scope: &Scope) -> bool {
        self.trust_domain == scope.trust_domain && self.mesh == scope.mesh
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, mesh, place, name } = self;
        write!(f, "spiffe://{trust_domain}/mesh/{mesh}/{place}/{name}")
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > Self::MAX_LENGTH {
            return Err(Error::TooLong(text.len()));
        }
        let other = || Error::Shape(excerpt(text));
        let path = text.strip_prefix("spiffe://").ok_or_else(other)?;
        let parts: Vec<_> = path.splitn(MAX_PARTS + 1, '/').collect();
        let (trust_domain, mesh, place, name) = match *parts.as_slice() {
            [domain, "mesh", mesh, "bootstrap", name] => (domain, mesh, Place::Bootstrap, name),
            [domain, "mesh", mesh, "gateway", name] => (domain, mesh, Place::Gateway, name),
            [domain, "mesh", mesh, "realm", realm, "peer", name] => {
                (domain, mesh, Place::Realm(realm.parse()?), name)
            }
            _ => return Err(other()),
        };
        Ok(Self {
            trust_domain: trust_domain.parse()?,
            mesh: mesh.parse()?,
            place,
            name: name.parse()?,
        })
    }
}

/// The longest shape has these: domain, `mesh`, mesh, `realm`, realm, `peer`, name.
const MAX_PARTS: usize = 7;

/// Where a node stands in its mesh: role and realm in one, because only peers have a realm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A seed that others join through.
    Bootstrap,
    /// A way in for those outside the mesh.
    Gateway,
    /// A peer of this tenant.
    Realm(RealmName),
}

impl Place {
    /// What a node of this place is for.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Bootstrap => Role::Bootstrap,
            Self::Gateway => Role::Gateway,
            Self::Realm(_) => Role::Peer,
        }
    }
}

impl fmt::Display for Place {
    /// The part of the SPIFFE ID between mesh and name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap => f.write_str("bootstrap"),
            Self::Gateway => f.write_str("gateway"),
            Self::Realm(realm) => write!(f, "realm/{realm}/peer"),
        }
    }
}

/// What a node is for. Its text is `bootstrap`, `gateway` or `peer`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A seed that others join through.
    Bootstrap,
    /// A way in for those outside the mesh.
    Gateway,
    /// A node that serves one pod of one realm.
    Peer,
}

impl Role {
    /// Every role.
    pub const ALL: &[Self] = &[Self::Bootstrap, Self::Gateway, Self::Peer];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Gateway => "gateway",
            Self::Peer => "peer",
        }
    }

    /// Whether this is the mesh's own, which serves every realm.
    #[must_use]
    pub const fn is_infrastructure(self) -> bool {
        match self {
            Self::Bootstrap | Self::Gateway => true,
            Self::Peer => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .copied()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Error::Role(excerpt(text)))
    }
}

/// Which mesh. Its text is the beginning of every SPIFFE ID in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The SPIFFE trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// The mesh within the trust domain.
    pub mesh: MeshName,
}

impl Scope {
    /// The node of this name at this place in the mesh.
    #[must_use]
    pub fn subject(&self, place: Place, name: NodeName) -> Subject {
        let Self { trust_domain, mesh } = self.clone();
        Subject { trust_domain, mesh, place, name }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/mesh/{}", self.trust_domain, self.mesh)
    }
}

/// Why a text is not a [`Subject`] or a [`Role`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than a SPIFFE ID may have.
    #[error("a SPIFFE ID has at most {max} bytes, not {0}", max = Subject::MAX_LENGTH)]
    TooLong(usize),
    /// None of the three shapes.
    #[error(
        "{0:?} is not spiffe://<trust-domain>/mesh/<mesh>/bootstrap|gateway/<name> \
         or spiffe://<trust-domain>/mesh/<mesh>/realm/<realm>/peer/<name>"
    )]
    Shape(String),
    /// The right shape with a part that is not a name.
    #[error(transparent)]
    Name(#[from] name::Error),
    /// A word that names no role.
    #[error("{0:?} is not a role: bootstrap, gateway or peer")]
    Role(String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "spiffe://cluster.local/mesh/macula-system.main/realm/com.example/peer/a.b";

    #[test]
    fn reads_the_three_shapes() {
        let peer: Subject = PEER.parse().unwrap();
        assert_eq!(peer.role(), Role::Peer);
        assert_eq!(peer.realm().map(RealmName::as_str), Some("com.example"));
        assert_eq!(peer.name.as_str(), "a.b");
        assert_eq!(peer.scope().to_string(), "spiffe://cluster.local/mesh/macula-system.main");
        assert_eq!(peer.to_string(), PEER);

        for role in [Role::Bootstrap, Role::Gateway] {
            let text = format!("spiffe://d/mesh/n.m/{role}/x-0");
            let subject: Subject = text.parse().unwrap();
            assert_eq!((subject.role(), subject.realm()), (role, None));
            assert_eq!(subject.to_string(), text);
        }
    }

    #[test]
    fn refuses_every_other_way_to_write_one() {
        for text in [
            "",
            "spiffe://",
            "SPIFFE://d/mesh/n.m/gateway/x",
            "https://d/mesh/n.m/gateway/x",
            "spiffe:///mesh/n.m/gateway/x",
            "spiffe://d/mesh/n.m/gateway",
            "spiffe://d/mesh/n.m/gateway/",
            "spiffe://d/mesh/n.m/gateway/x/",
            "spiffe://d/mesh/n.m//gateway/x",
            "spiffe://d/mesh/n.m/gateway/../x",
            "spiffe://d/mesh/n.m/gateway/..",
            "spiffe://d/mesh/n.m/gateway/%78",
            "spiffe://d/mesh/n.m/gateway/x?a=b",
            "spiffe://d/mesh/n.m/gateway/x#a",
            "spiffe://d:1/mesh/n.m/gateway/x",
            "spiffe://u@d/mesh/n.m/gateway/x",
            "spiffe://d/mesh/m/gateway/x",
            "spiffe://d/mesh/n.m/Gateway/x",
            "spiffe://d/mesh/n.m/peer/x",
            "spiffe://d/mesh/n.m/realm/r/gateway/x",
            "spiffe://d/mesh/n.m/realm/r/peer/x/y",
            "spiffe://d/mesh/n.m/gateway/x ",
            "spiffe://d/mesh/n.m/gateway/x\0",
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_it_repeats_of_a_long_text_is_bounded() {
        let long = format!("spiffe://{}", "x/".repeat(1000));
        assert!(long.parse::<Subject>().unwrap_err().to_string().len() < 400);
        assert_eq!("x".repeat(2049).parse::<Subject>(), Err(Error::TooLong(2049)));
        assert!(matches!("x".repeat(2048).parse::<Subject>(), Err(Error::Shape(_))));
    }

    #[test]
    fn roles_are_read_back() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(*role));
        }
        assert!("Peer".parse::<Role>().is_err());
    }

    fn names() -> impl Strategy<Value = Subject> {
        let label = "[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?";
        let dotted = move |n: usize| prop::collection::vec(label, n..5).prop_map(|l| l.join("."));
        let place = prop_oneof![
            Just(Place::Bootstrap),
            Just(Place::Gateway),
            dotted(1)
                .prop_filter("63 at most", |realm| realm.len() <= 63)
                .prop_map(|realm| Place::Realm(realm.parse().unwrap())),
        ];
        (dotted(1), dotted(2), place, dotted(1)).prop_map(|(domain, mesh, place, name)| Subject {
            trust_domain: domain.parse().unwrap(),
            mesh: mesh.parse().unwrap(),
            place,
            name: name.parse().unwrap(),
        })
    }

    proptest! {
        #[test]
        fn a_subject_is_read_back(subject in names()) {
            let text = subject.to_string();
            prop_assert!(text.len() <= Subject::MAX_LENGTH);
            prop_assert_eq!(text.parse(), Ok(subject));
        }

        #[test]
        fn a_text_that_is_accepted_is_the_only_text_of_its_subject(
            text in "(spiffe://)?[a-z./%?#:@ -]{0,40}(/mesh/)?[a-z.]{0,8}/(gateway|bootstrap)/[a-zA-Z./%-]{0,8}",
        ) {
            if let Ok(subject) = text.parse::<Subject>() {
                prop_assert_eq!(subject.to_string(), text);
            }
        }

        #[test]
        fn garbage_never_panics(text in any::<String>()) {
            let _ = text.parse::<Subject>();
        }
    }
}
