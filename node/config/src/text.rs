//! Lets a type that is read from text, and printed as text, stand in the file as text.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// For `#[serde(with = "text")]`.
pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    from.deserialize_str(Parse(str::parse))
}

/// For `#[serde(with = "text")]`.
pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Parses within the visit: only an error from there is told with the value's own place and key.
pub(crate) struct Parse<T, E>(pub(crate) fn(&str) -> Result<T, E>);

impl<T, E: Display> Visitor<'_> for Parse<T, E> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<F: Error>(self, text: &str) -> Result<T, F> {
        (self.0)(text).map_err(F::custom)
    }
}

/// The same for a value that may be left out: `#[serde(default, with = "text::option")]`.
pub(crate) mod option {
    use super::{Deserializer, Display, FromStr, Maybe, Serializer};

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        from.deserialize_option(Maybe(str::parse))
    }

    pub(crate) fn serialize<T, S>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error>
    where
        T: Display,
        S: Serializer,
    {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }
}

/// The same for `ip:port`, with an error that says how one is written.
pub(crate) mod address {
    pub(crate) use super::serialize;
    use super::{Deserializer, Parse, SocketAddr, parse_address};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
        from.deserialize_str(Parse(parse_address))
    }
}

/// The same for an address that may be left out.
pub(crate) mod optional_address {
    pub(crate) use super::option::serialize;
    use super::{Deserializer, Maybe, SocketAddr, parse_address};

    pub(crate) fn deserialize<'de, D>(from: D) -> Result<Option<SocketAddr>, D::Error>
    where
        D: Deserializer<'de>,
    {
        from.deserialize_option(Maybe(parse_address))
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let given: String = text.chars().take(80).collect();
        format!("{given:?} is not an address and a port, such as 0.0.0.0:9443 or [::]:9443")
    })
}

struct Maybe<T, E>(fn(&str) -> Result<T, E>);

impl<'de, T, E: Display> Visitor<'de> for Maybe<T, E> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or nothing")
    }

    fn visit_none<F: Error>(self) -> Result<Self::Value, F> {
        Ok(None)
    }

    fn visit_unit<F: Error>(self) -> Result<Self::Value, F> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(Parse(self.0)).map(Some)
    }
}
