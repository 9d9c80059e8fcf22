//! The names that a certificate carries. Parsed once, at the door, and refused with the reason.

use std::fmt;
use std::str::FromStr;

/// Why a text is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is refused: {why}")]
pub struct Error {
    what: &'static str,
    given: String,
    why: String,
}

impl Error {
    fn new(what: &'static str, given: &str, why: impl Into<String>) -> Self {
        // What is shown of a hostile name is bounded.
        Self { what, given: given.chars().take(80).collect(), why: why.into() }
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $Name:ident = $what:literal, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Name(Box<str>);

        impl $Name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $Name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map_err(|why| Error::new($what, text, why))?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($Name), self.0)
            }
        }

        impl serde::Serialize for $Name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $Name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

names! {
    /// The name of a tenant, such as `com.example.shop`: at most 63 characters (a Kubernetes label
    /// value), dot-separated labels of lowercase letters, digits and inner hyphens.
    RealmName = "realm name", |text| dotted_labels(text, 63);

    /// The name of a mesh, `<namespace>.<name>`: two labels or more.
    MeshName = "mesh name", |text| {
        dotted_labels(text, 253)?;
        if text.contains('.') { Ok(()) } else { Err("it is written <namespace>.<name>".to_owned()) }
    };

    /// The SPIFFE trust domain, such as `cluster.local` (SPIFFE-ID §2.1, narrowed to DNS labels).
    TrustDomain = "trust domain", |text| dotted_labels(text, 253);

    /// The name of one node within its role; a pod's peer is `<namespace>.<pod>`.
    NodeName = "node name", |text| dotted_labels(text, 253);
}

/// Labels of RFC 1123, joined by dots.
fn dotted_labels(text: &str, longest: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > longest {
        return Err(format!("it has {} bytes, and {longest} is the most", text.len()));
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Err("it has an empty part between dots".to_owned());
        }
        if label.len() > 63 {
            return Err("a part between dots has more than 63 bytes".to_owned());
        }
        if let Some(bad) = label.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(format!("{bad:?} is not a lowercase letter, a digit, '-' or '.'"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a part between dots starts or ends with '-'".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_names_of_the_documentation() {
        for name in ["com.example.shop", "a", "0", "a-b.c"] {
            assert_eq!(name.parse::<RealmName>().map(|n| n.to_string()), Ok(name.to_owned()));
        }
        assert!("a".repeat(63).parse::<RealmName>().is_ok());
        assert!("macula-system.main".parse::<MeshName>().is_ok());
    }

    #[test]
    fn refuses_with_the_reason() {
        let refused = |text: &str| text.parse::<RealmName>().unwrap_err().to_string();
        assert_eq!(refused(""), "realm name \"\" is refused: it is empty");
        assert!(refused(&"a".repeat(64)).ends_with("it has 64 bytes, and 63 is the most"));
        assert!(refused("a..b").ends_with("it has an empty part between dots"));
        assert!(refused("Shop").contains("'S' is not a lowercase letter"));
        assert!(refused("a/b").contains("'/' is not"));
        assert!(refused("-a").ends_with("starts or ends with '-'"));
        assert!("main".parse::<MeshName>().is_err());
        assert!(refused(&"x".repeat(1 << 20)).len() < 200, "a refusal is bounded");
    }
}
