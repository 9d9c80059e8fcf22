//! What an application sends: opaque bytes, kept verbatim, with their content type.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Code, Fault};
use crate::wire::{MAX_HEADERS, MAX_PAYLOAD, message};

/// The content type of bytes that nobody described (RFC 9110 §8.3).
pub const OCTET_STREAM: &str = "application/octet-stream";
/// The longest content type, and the longest name or value of a header, in bytes.
pub(crate) const MAX_TEXT: usize = 256;

/// Bytes in are bytes out: a body, its content type, and the few headers that pass through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The body, verbatim.
    pub body: Bytes,
    /// The media type of the body.
    pub content_type: Arc<str>,
    /// Headers that pass through, such as `ce-id` and `traceparent`, in lower case.
    pub headers: Vec<(String, String)>,
}

impl Payload {
    /// A body of this content type, without headers.
    #[must_use]
    pub fn new(body: impl Into<Bytes>, content_type: &str) -> Self {
        Self { body: body.into(), content_type: content_type.into(), headers: Vec::new() }
    }

    /// Bytes that nobody described.
    #[must_use]
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Self::new(body, OCTET_STREAM)
    }

    /// Holds the payload against the limits of the wire.
    ///
    /// # Errors
    /// `too_large`, with the limit that was passed.
    pub fn check(&self) -> Result<(), Fault> {
        let refuse = |because: String| Err(Fault::new(Code::TooLarge, because));
        if self.body.len() > MAX_PAYLOAD {
            let length = self.body.len();
            return refuse(format!("a payload of {length} bytes; {MAX_PAYLOAD} is the most"));
        }
        if self.headers.len() > MAX_HEADERS {
            return refuse(format!("more than {MAX_HEADERS} headers"));
        }
        let texts = self.headers.iter().flat_map(|(name, value)| [name.as_str(), value]);
        if texts.chain([&*self.content_type]).any(|text| text.len() > MAX_TEXT) {
            return refuse(format!("a header or content type of more than {MAX_TEXT} bytes"));
        }
        Ok(())
    }
}

/// The headers as the wire has them.
pub(crate) fn to_wire(headers: &[(String, String)]) -> Vec<message::Header> {
    headers.iter().cloned().map(|(name, value)| message::Header { name, value }).collect()
}

/// The headers as an application has them.
pub(crate) fn from_wire(headers: Vec<message::Header>) -> Vec<(String, String)> {
    headers.into_iter().map(|header| (header.name, header.value)).collect()
}
