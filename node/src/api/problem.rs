//! Refusals as they are sent: problem documents (RFC 9457) with the codes of the error table.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use macula_proto::{Code, Fault};
use serde_json::json;

use super::body::Body;

/// The media type of a problem document (RFC 9457 §3).
const CONTENT: HeaderValue = HeaderValue::from_static("application/problem+json");
/// When a refused request may be tried again, in seconds. The waits it stands for are short.
const RETRY: HeaderValue = HeaderValue::from_static("1");

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    fault: Fault,
    /// The methods that the endpoint has.
    allow: Option<&'static str>,
    /// The connection is of no more use: part of the request was not read.
    close: bool,
}

impl Problem {
    pub(super) fn new(code: Code, because: impl Into<String>) -> Self {
        Fault::new(code, because).into()
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let because = format!("the endpoint takes {allow}");
        Self { allow: Some(allow), ..Self::new(Code::MethodNotAllowed, because) }
    }

    /// The same, and the connection is closed after it.
    pub(super) fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    pub(super) fn code(&self) -> Code {
        self.fault.code
    }

    pub(super) fn because(&self) -> &str {
        &self.fault.because
    }

    /// Says what was tried, when that is not said yet.
    pub(super) fn tried(mut self, tried: impl FnOnce() -> String) -> Self {
        if self.fault.tried.is_empty() {
            self.fault.tried = tried();
        }
        self
    }

    fn document(&self) -> Vec<u8> {
        let Fault { code, tried, because, retry_after: _ } = &self.fault;
        let mut document = json!({
            "type": code.page(),
            "title": code.title(),
            "status": code.status(),
            "detail": because,
            "code": code.name(),
            "retryable": code.is_retryable(),
            "tried": tried,
            "next": code.next(),
        })
        .to_string()
        .into_bytes();
        document.push(b'\n');
        document
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::full(Bytes::from(self.document())));
        *response.status_mut() = status(self.code());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, CONTENT);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.is_worth_a_retry() {
            headers.insert(RETRY_AFTER, RETRY);
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The whole answer as bytes, for a connection that HTTP cannot go on with.
    pub(super) fn last_words(&self) -> Vec<u8> {
        let (status, document) = (status(self.code()), self.document());
        let retry = if self.is_worth_a_retry() { "retry-after: 1\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n\
             cache-control: no-store\r\n{retry}content-length: {}\r\nconnection: close\r\n\r\n",
            document.len(),
        );
        [head.into_bytes(), document].concat()
    }

    fn is_worth_a_retry(&self) -> bool {
        self.code().is_retryable() && matches!(self.code().status(), 429 | 503)
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self { fault, allow: None, close: false }
    }
}

impl From<macula_proto::name::Error> for Problem {
    fn from(error: macula_proto::name::Error) -> Self {
        Self::new(Code::InvalidName, error.to_string())
    }
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).expect("a test holds every status of the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_that_http_knows() {
        for &code in Code::ALL {
            assert_eq!(status(code).as_u16(), code.status(), "{code}");
        }
    }

    #[test]
    fn says_what_was_tried_why_it_failed_and_what_to_do() {
        let problem = Problem::from(Fault::new(Code::NoProvider, "nobody offers it"))
            .tried(|| "call `a.b`".to_owned())
            .tried(|| "not this".to_owned());
        let document: serde_json::Value = serde_json::from_slice(&problem.document()).unwrap();
        let expected = json!({
            "type": "https://macula.io/errors/no_provider",
            "title": "nobody provides the procedure",
            "status": 404,
            "detail": "nobody offers it",
            "code": "no_provider",
            "retryable": true,
            "tried": "call `a.b`",
            "next": Code::NoProvider.next(),
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn tells_when_to_retry_only_what_passes_by_itself() {
        let retry_after =
            |code| Problem::new(code, "x").response().headers().get(RETRY_AFTER).cloned();
        assert_eq!(retry_after(Code::Starting), Some(RETRY));
        assert_eq!(retry_after(Code::TooMany), Some(RETRY));
        assert_eq!(retry_after(Code::NoProvider), None);
        assert_eq!(retry_after(Code::TooLarge), None);
    }
}
