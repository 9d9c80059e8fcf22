//! Lengths of time as people write them: `500ms`, `30s`, `2m`, `1h`.

use std::time::Duration;

use serde::{Deserializer, Serializer};

use crate::text;

/// Why a text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a length of time: write a whole number and ms, s, m or h, as in 500ms or 30s"
)]
pub struct ParseError {
    given: String,
}

/// The units, longest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a length of time.
///
/// # Errors
/// When it is not a whole number followed by `ms`, `s`, `m` or `h`, or too long to count in
/// milliseconds.
pub fn parse(text: &str) -> Result<Duration, ParseError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let each = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, each)| each);
    each.zip(number.parse::<u64>().ok())
        .and_then(|(each, number)| number.checked_mul(*each))
        .map(Duration::from_millis)
        .ok_or_else(|| ParseError { given: text.chars().take(40).collect() })
}

/// Writes a length of time in the longest unit that tells all of it; below a millisecond is cut.
#[must_use]
pub fn format(period: Duration) -> String {
    let whole = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    if whole == 0 {
        return "0s".to_owned();
    }
    let (name, each) =
        UNITS.into_iter().find(|(_, each)| whole % each == 0).expect("one divides every number");
    format!("{}{name}", whole / each)
}

/// For `#[serde(with = "period")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from.deserialize_str(text::Parse(parse))
}

/// For `#[serde(with = "period")]`.
pub(crate) fn serialize<S: Serializer>(period: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format(*period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for (text, ms) in
            [("0s", 0), ("1ms", 1), ("1500ms", 1500), ("30s", 30_000), ("2m", 120_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
            assert_eq!(format(Duration::from_millis(ms)), text);
        }
        assert_eq!(parse("60m"), parse("1h"));
    }

    #[test]
    fn refuses_a_number_alone_a_fraction_and_what_overflows() {
        for text in ["", "30", "s", "1.5s", "-1s", "1 s", "1d", "+1s", "18446744073709551615h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
