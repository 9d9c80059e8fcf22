//! Bodies: those that are read, up to the limit and in time, and those that are answered.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use macula_config::period;
use macula_proto::Code;
use macula_proto::payload::{OCTET_STREAM, Payload};
use tokio::sync::mpsc;

use super::limits;
use super::problem::Problem;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    /// Bytes that are there, until they are taken.
    Full(Option<Bytes>),
    /// Bytes as they come, until their task ends.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn empty() -> Self {
        Self::Full(None)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take()),
            Self::Stream(bytes) => bytes.poll_recv(cx),
        };
        bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Reads a request's body. Whatever is refused closes the connection: the rest is not read.
pub(super) async fn read(body: Incoming, within: Duration) -> Result<Bytes, Problem> {
    let too_large = |length: &str| {
        let because = format!("a body of {length}; {} bytes is the most", limits::BODY);
        Problem::new(Code::TooLarge, because).closing()
    };
    let declared = hyper::body::Body::size_hint(&body).lower();
    if declared > limits::BODY as u64 {
        return Err(too_large(&format!("{declared} bytes")));
    }
    match tokio::time::timeout(within, Limited::new(body, limits::BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large("more than the limit")),
        Ok(Err(error)) => Err(broken(&*error)),
        Err(_) => {
            let because = format!("the body was not there within {}", period::format(within));
            Err(Problem::new(Code::SlowClient, because).closing())
        }
    }
}

/// What is wrong with a body that cannot be read to its end.
fn broken(error: &(dyn Error + 'static)) -> Problem {
    let mut sources = std::iter::successors(Some(error), |error| (*error).source());
    let ended = sources.any(|error| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    });
    if ended {
        let because = "the connection ended before the body did";
        Problem::new(Code::IncompleteBody, because).closing()
    } else {
        let because = format!("the body cannot be read: {}", with_sources(error));
        Problem::new(Code::InvalidRequest, because).closing()
    }
}

/// An error and what it came from, in one line.
pub(super) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The payload that a request, or a callback's answer, carries.
pub(super) fn payload(headers: &HeaderMap, body: Bytes) -> Result<Payload, Problem> {
    let text = |name: &HeaderName, value: &HeaderValue| {
        value.to_str().map(str::to_owned).map_err(|_| {
            Problem::new(Code::InvalidRequest, format!("the header {name} is not ASCII text"))
        })
    };
    let content_type = match headers.get(CONTENT_TYPE) {
        Some(value) => text(&CONTENT_TYPE, value)?,
        None => OCTET_STREAM.to_owned(),
    };
    let mut payload = Payload::new(body, &content_type);
    for (name, value) in headers.iter().filter(|(name, _)| passes(name.as_str())) {
        payload.headers.push((name.as_str().to_owned(), text(name, value)?));
    }
    payload.check()?;
    Ok(payload)
}

/// Writes a payload's content type and headers. They come from another node, so what HTTP cannot
/// say is left out.
pub(super) fn describe(payload: &Payload, headers: &mut HeaderMap) {
    let content_type = HeaderValue::from_str(&payload.content_type);
    let unknown = HeaderValue::from_static(OCTET_STREAM);
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(unknown));
    for (name, value) in payload.headers.iter().filter(|(name, _)| passes(name)) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
}

/// Whether a header, in lower case, belongs to the payload: CloudEvents' attributes (its HTTP
/// binding, §3.1.3) and W3C trace context. No other does, `Macula-Caller` least of all.
fn passes(name: &str) -> bool {
    name.starts_with("ce-") || name == "traceparent" || name == "tracestate"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_payload_keeps_its_type_and_the_headers_that_pass() {
        let request = headers(&[
            ("content-type", "application/json"),
            ("ce-id", "7"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("macula-caller", "somebody else"),
            ("cookie", "secret"),
        ]);
        let payload = payload(&request, Bytes::from_static(b"{}")).unwrap();
        assert_eq!((&*payload.content_type, &*payload.body), ("application/json", &b"{}"[..]));
        let names: Vec<_> = payload.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ce-id", "traceparent"]);

        let mut answer = HeaderMap::new();
        describe(&payload, &mut answer);
        assert_eq!(answer[CONTENT_TYPE], "application/json");
        assert_eq!(answer["ce-id"], "7");
        assert_eq!(answer.len(), 3);
    }

    #[test]
    fn bytes_that_nobody_described_are_an_octet_stream() {
        let payload = payload(&HeaderMap::new(), Bytes::new()).unwrap();
        assert_eq!(&*payload.content_type, OCTET_STREAM);
    }

    #[test]
    fn what_another_node_says_cannot_break_out_of_a_header() {
        let mut evil = Payload::new("x", "text/plain\r\nset-cookie: a=b");
        evil.headers = [("ce-a", "b\r\nc: d"), ("ce-b\r\n", "x"), ("host", "elsewhere")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let mut answer = HeaderMap::new();
        describe(&evil, &mut answer);
        assert_eq!(answer[CONTENT_TYPE], OCTET_STREAM);
        assert_eq!(answer.len(), 1);
    }

    #[test]
    fn refuses_a_header_longer_than_the_wire_carries() {
        let accepted = headers(&[("ce-id", &"x".repeat(256))]);
        assert!(payload(&accepted, Bytes::new()).is_ok());
        let refused = headers(&[("ce-id", &"x".repeat(257))]);
        let problem = payload(&refused, Bytes::new()).unwrap_err();
        assert_eq!(problem.code(), Code::TooLarge);
    }
}
