//! Names of topics and procedures, and the patterns that subscriptions use (docs/PROTOCOL.md §2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use macula_identity::name::{MeshName, NodeName, RealmName, TrustDomain};

/// The longest name, in bytes. Ours; long enough for a path of sixteen words.
pub const LONGEST: usize = 255;
/// The most segments of a name: bounds the work of matching one.
pub const MOST_SEGMENTS: usize = 32;

/// Why a text is not a name or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is refused: {why}")]
pub struct Error {
    what: &'static str,
    given: String,
    why: Why,
}

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Over [`LONGEST`].
    #[error("it has {0} bytes, and 255 is the most")]
    TooLong(usize),
    /// Over [`MOST_SEGMENTS`].
    #[error("it has {0} segments, and 32 is the most")]
    TooManySegments(usize),
    /// `a..b`
    #[error("it has an empty segment")]
    EmptySegment,
    /// A character that no name may hold.
    #[error("{0:?} is not a letter, a digit, '_' or '-'")]
    BadCharacter(char),
    /// A wildcard in a name that must be literal.
    #[error("a wildcard is allowed in a subscription's pattern only")]
    Wildcard,
    /// `a*`
    #[error("a wildcard is a whole segment: '*' or '**'")]
    PartialWildcard,
    /// `a.**.b`
    #[error("'**' is allowed as the last segment only")]
    InnerDoubleWildcard,
}

/// A topic that messages are published to: `sensor.temp`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Something callable: `cart.add`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcedureName(Arc<str>);

/// What a subscription asks for: a topic whose segments may be `*` (exactly one segment) and whose
/// last may be `**` (zero or more, so that `a.**` matches `a`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern(Arc<str>);

/// One segment of a [`TopicPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Exactly this text.
    Literal(&'a str),
    /// `*`: any one segment.
    One,
    /// `**`: all the rest, even nothing.
    Rest,
}

impl TopicName {
    /// The segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.split('.')
    }
}

impl TopicPattern {
    /// The segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> + Clone {
        self.0.split('.').map(|text| match text {
            "*" => Segment::One,
            "**" => Segment::Rest,
            literal => Segment::Literal(literal),
        })
    }

    /// The name of the DHT key under which subscribers of this pattern are found: the first
    /// segment when it is literal, else `*`.
    #[must_use]
    pub fn rendezvous(&self) -> &str {
        match self.segments().next() {
            Some(Segment::Literal(first)) => first,
            Some(Segment::One | Segment::Rest) | None => ANY,
        }
    }

    /// Whether a message on this topic belongs to a subscriber of this pattern.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut segments = topic.segments();
        for pattern in self.segments() {
            match pattern {
                Segment::Rest => return true,
                Segment::One if segments.next().is_some() => {}
                Segment::Literal(text) if segments.next() == Some(text) => {}
                Segment::One | Segment::Literal(_) => return false,
            }
        }
        segments.next().is_none()
    }
}

/// The rendezvous name of patterns that start with a wildcard.
pub const ANY: &str = "*";

fn literal(what: &'static str, text: &str) -> Result<Arc<str>, Error> {
    let refuse = |why| Error { what, given: text.chars().take(80).collect(), why };
    bounded(text).map_err(refuse)?;
    for segment in text.split('.') {
        if segment.is_empty() {
            return Err(refuse(Why::EmptySegment));
        }
        if matches!(segment, "*" | "**") {
            return Err(refuse(Why::Wildcard));
        }
        if let Some(bad) = segment.chars().find(|c| !is_name_character(*c)) {
            return Err(refuse(Why::BadCharacter(bad)));
        }
    }
    Ok(text.into())
}

fn bounded(text: &str) -> Result<(), Why> {
    if text.is_empty() {
        return Err(Why::Empty);
    }
    if text.len() > LONGEST {
        return Err(Why::TooLong(text.len()));
    }
    match text.split('.').count() {
        0..=MOST_SEGMENTS => Ok(()),
        more => Err(Why::TooManySegments(more)),
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

impl FromStr for TopicName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        literal("topic", text).map(Self)
    }
}

impl FromStr for ProcedureName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        literal("procedure", text).map(Self)
    }
}

impl FromStr for TopicPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why| Error { what: "pattern", given: text.chars().take(80).collect(), why };
        bounded(text).map_err(refuse)?;
        let mut segments = text.split('.').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "" => return Err(refuse(Why::EmptySegment)),
                "*" => {}
                "**" if segments.peek().is_some() => return Err(refuse(Why::InnerDoubleWildcard)),
                "**" => {}
                text => {
                    if let Some(bad) = text.chars().find(|c| !is_name_character(*c)) {
                        let why =
                            if bad == '*' { Why::PartialWildcard } else { Why::BadCharacter(bad) };
                        return Err(refuse(why));
                    }
                }
            }
        }
        Ok(Self(text.into()))
    }
}

macro_rules! text {
    ($($Name:ident)*) => {$(
        impl $Name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
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
    )*};
}
text!(TopicName ProcedureName TopicPattern);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().unwrap()
    }

    fn topic(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    fn why(text: &str) -> Why {
        text.parse::<TopicPattern>().unwrap_err().why
    }

    #[test]
    fn a_pattern_matches_what_the_documentation_says() {
        for (p, yes, no) in [
            ("a.b", "a.b", "a"),
            ("a.*", "a.b", "a.b.c"),
            ("*.b", "a.b", "b"),
            ("a.**", "a", "b"),
            ("a.**", "a.b.c", "ab"),
            ("**", "a", "a.b"),
            ("*", "a", "a.b"),
        ] {
            assert!(pattern(p).matches(&topic(yes)), "{p} matches {yes}");
            assert_eq!(pattern(p).matches(&topic(no)), p == "**", "{p} and {no}");
        }
    }

    #[test]
    fn refuses_malformed_patterns_with_the_reason() {
        assert_eq!(why(""), Why::Empty);
        assert_eq!(why("a..b"), Why::EmptySegment);
        assert_eq!(why("a.**.b"), Why::InnerDoubleWildcard);
        assert_eq!(why("a*"), Why::PartialWildcard);
        assert_eq!(why("a b"), Why::BadCharacter(' '));
        assert_eq!(why("a\0"), Why::BadCharacter('\0'));
        assert_eq!(why(&"a".repeat(256)), Why::TooLong(256));
        assert_eq!(why(&vec!["a"; 33].join(".")), Why::TooManySegments(33));
        assert!(vec!["a"; 32].join(".").parse::<TopicPattern>().is_ok());
        assert_eq!("a.*".parse::<TopicName>().unwrap_err().why, Why::Wildcard);
        assert_eq!("a.**".parse::<ProcedureName>().unwrap_err().why, Why::Wildcard);
    }

    #[test]
    fn subscribers_are_found_under_the_first_literal_segment_or_the_star() {
        for (p, key) in [("a.b", "a"), ("a.**", "a"), ("*.b", "*"), ("**", "*")] {
            assert_eq!(pattern(p).rendezvous(), key);
        }
    }

    proptest! {
        /// The two keys that a publisher asks for are enough to find every matching pattern.
        #[test]
        fn a_matching_pattern_lies_under_a_key_that_the_publisher_asks(
            t in "[ab](\\.[ab]){0,3}", p in "([ab]|\\*)(\\.([ab]|\\*)){0,3}(\\.\\*\\*)?"
        ) {
            let (t, p) = (topic(&t), pattern(&p));
            if p.matches(&t) {
                prop_assert!([t.segments().next().unwrap(), ANY].contains(&p.rendezvous()));
            }
        }

        #[test]
        fn reading_never_panics(text in ".{0,40}") {
            let _ = text.parse::<TopicPattern>();
            let _ = text.parse::<TopicName>();
        }
    }
}
