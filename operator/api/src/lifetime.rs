//! A length of time as it is written in YAML: `24h`, `1h30m`, `30s`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, with the text that it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    text: String,
    length: Duration,
}

/// Why a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time; write numbers with h, m or s: 24h, 1h30m, 30s")]
pub struct Error(String);

impl Lifetime {
    /// How long.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.length
    }
}

impl Default for Lifetime {
    /// A day.
    fn default() -> Self {
        Self { text: "24h".to_owned(), length: Duration::from_hours(24) }
    }
}

impl FromStr for Lifetime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let length = parse(text).ok_or_else(|| Error(text.chars().take(80).collect()))?;
        Ok(Self { text: text.to_owned(), length })
    }
}

/// Parts such as `1h` and `30m`, added up.
fn parse(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
        if rest.is_empty() {
            return Some(Duration::from_secs(seconds));
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Lifetime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Lifetime {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Lifetime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 24 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        for (text, seconds) in [("24h", 86_400), ("1h30m", 5400), ("90s", 90), ("0s", 0)] {
            let lifetime: Lifetime = text.parse().unwrap();
            assert_eq!(lifetime.duration(), Duration::from_secs(seconds), "{text}");
            assert_eq!(lifetime.to_string(), text);
        }
        assert_eq!(Lifetime::default(), "24h".parse().unwrap());
    }

    #[test]
    fn anything_else_is_refused_in_words() {
        for text in
            ["", "24", "h", "1d", "1.5h", "-1h", "1h ", "1h30", "99999999999999999999h", "ñ"]
        {
            assert!(text.parse::<Lifetime>().is_err(), "{text:?}");
        }
        let refused = "1d".parse::<Lifetime>().unwrap_err().to_string();
        assert_eq!(
            refused,
            "\"1d\" is no length of time; write numbers with h, m or s: 24h, 1h30m, 30s"
        );
    }
}
