//! What is sent: a body from the command line or from standard input, with its content type.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use macula_proto::Code;
use macula_proto::wire::MAX_PAYLOAD;

use super::failure::Failure;

/// The body of this argument: its bytes, those of standard input for `-`, none without one.
pub(crate) fn read(argument: Option<OsString>, tried: &str) -> Result<Bytes, Failure> {
    match argument {
        None => Ok(Bytes::new()),
        Some(dash) if dash == "-" => read_from(io::stdin().lock(), tried),
        Some(text) => bounded(text.into_vec(), tried),
    }
}

fn read_from(input: impl Read, tried: &str) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    let most = MAX_PAYLOAD as u64 + 1;
    input.take(most).read_to_end(&mut body).map_err(|error| {
        let because = format!("standard input cannot be read: {error}");
        Failure::new(Code::InvalidRequest, tried, because)
            .with_next("Give the body as an argument.")
    })?;
    bounded(body, tried)
}

fn bounded(body: Vec<u8>, tried: &str) -> Result<Bytes, Failure> {
    if body.len() > MAX_PAYLOAD {
        let because = format!("the body has more than {MAX_PAYLOAD} bytes");
        return Err(Failure::new(Code::TooLarge, tried, because));
    }
    Ok(body.into())
}

/// The content type of bytes that nobody described: a JSON object or array, text, or just bytes.
pub(crate) fn content_type(body: &[u8]) -> &'static str {
    let Ok(text) = std::str::from_utf8(body) else { return "application/octet-stream" };
    let opens = text.trim_start().starts_with(['{', '[']);
    if opens && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    }
}

/// A header that travels with a message: `ce-id: 7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

/// Headers that pass through to the receiver; others would be the HTTP connection's own.
const PASSING: &[&str] = &["traceparent", "tracestate"];

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| "it is written NAME: VALUE, as in 'ce-type: reading'".to_owned())?;
        let name: HeaderName =
            name.trim().parse().map_err(|_| format!("{:?} is not a header's name", name.trim()))?;
        if !name.as_str().starts_with("ce-") && !PASSING.contains(&name.as_str()) {
            return Err(format!(
                "{name} does not travel with a message; ce-*, traceparent and tracestate do"
            ));
        }
        let value = value
            .trim()
            .parse()
            .map_err(|_| format!("the value of {name} has characters that no header may have"))?;
        Ok(Self { name, value })
    }
}

/// A content type on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentType(pub(crate) HeaderValue);

impl FromStr for ContentType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let is_token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&c))
        };
        match essence.split_once('/') {
            Some((kind, subtype)) if is_token(kind) && is_token(subtype) => {
                text.parse().map(Self).map_err(|error| format!("{error}"))
            }
            _ => Err("it is written TYPE/SUBTYPE, as in application/json".to_owned()),
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_the_limit_is_sent_and_one_byte_more_is_refused() {
        let limit = vec![0; MAX_PAYLOAD];
        assert_eq!(read_from(limit.as_slice(), "x").map(|body| body.len()), Ok(MAX_PAYLOAD));
        let refused = read_from(io::repeat(0), "publish to a").unwrap_err();
        assert_eq!(refused.code, "too_large");
        assert_eq!(refused.tried, "publish to a");
    }

    #[test]
    fn an_argument_is_sent_verbatim() {
        let odd = OsString::from_vec(b"\xff\0".to_vec());
        assert_eq!(read(Some(odd), "x").unwrap(), &b"\xff\0"[..]);
        assert_eq!(read(None, "x").unwrap(), "");
    }

    #[test]
    fn the_content_type_is_what_the_bytes_look_like() {
        for (body, kind) in [
            (&br#"{"a":1}"#[..], "application/json"),
            (b" [1,2]\n", "application/json"),
            (b"{not json}", "text/plain; charset=utf-8"),
            (b"21.5", "text/plain; charset=utf-8"),
            (b"", "text/plain; charset=utf-8"),
            (b"\xff\xd8", "application/octet-stream"),
        ] {
            assert_eq!(content_type(body), kind);
        }
    }

    #[test]
    fn headers_that_would_not_arrive_are_refused() {
        let header: Header = "CE-Type:  reading".parse().unwrap();
        assert_eq!((header.name.as_str(), header.value.as_bytes()), ("ce-type", &b"reading"[..]));
        assert!("traceparent:00-1-2-01".parse::<Header>().is_ok());
        for text in ["Host: a", "ce-type", "a b: c", "ce-a: b\nc", "Macula-Timeout: 1s"] {
            assert!(text.parse::<Header>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_content_type_has_a_type_and_a_subtype() {
        assert!("application/json; charset=utf-8".parse::<ContentType>().is_ok());
        for text in ["", "json", "a/", "/b", "a b/c", "text/plain\n"] {
            assert!(text.parse::<ContentType>().is_err(), "{text}");
        }
    }
}
