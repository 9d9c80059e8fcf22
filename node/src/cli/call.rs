//! `macula-node call`: calls a procedure and prints its answer.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method};
use macula_config::period;
use macula_proto::Code;
use macula_proto::name::ProcedureName;
use serde_json::{Map, Value};

use super::body::{self, ContentType};
use super::client::{Ask, Node};
use super::exit::Exit;
use super::failure::{Failure, Stop};
use super::output::{self, Format};

/// What `call` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node call math.add '{\"a\":1,\"b\":2}' --timeout 2s
  macula-node call image.thumb - < photo.jpg > thumb.jpg

The answer's bytes go to standard output as they are (on a terminal with a line end).
With -o json: {\"procedure\", \"content_type\", \"text\" or \"base64\", \"elapsed_ms\"}.
Exit 4 when nobody provides the procedure, 6 when the deadline passes, 1 when the handler fails.")]
pub(crate) struct Call {
    /// The procedure, such as math.add
    procedure: ProcedureName,
    /// The body, sent verbatim; `-` reads standard input (up to 1 MiB)
    #[arg(allow_negative_numbers = true)]
    body: Option<OsString>,
    /// How long the answer may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::positive_period)]
    timeout: Duration,
    /// The body's content type [default: what the bytes look like: JSON, text, or just bytes]
    #[arg(long, value_name = "TYPE/SUBTYPE")]
    content_type: Option<ContentType>,
}

/// The header that carries a deadline.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("macula-timeout");

/// How much longer than the deadline we wait for the node to say that it has passed.
const GRACE: Duration = Duration::from_secs(2);

/// Calls and prints the answer.
pub(crate) async fn run(args: Call, node: &Node, format: Format) -> Result<Exit, Stop> {
    let Call { procedure, body, timeout, content_type } = args;
    let tried = format!("call `{procedure}`");
    let body = body::read(body, &tried)?;
    let content_type = content_type.map_or_else(
        || HeaderValue::from_static(body::content_type(&body)),
        |ContentType(value)| value,
    );
    let deadline = HeaderValue::from_str(&period::format(timeout)).map_err(|error| {
        Failure::new(Code::InvalidRequest, &tried, format!("the deadline: {error}"))
    })?;
    let mut ask = Ask::new(tried, Method::POST, format!("/v1/call/{procedure}"));
    ask.body = body;
    ask.headers = vec![(CONTENT_TYPE, content_type), (TIMEOUT, deadline)];
    ask.within = timeout.saturating_add(GRACE);
    let started = Instant::now();
    let (answer, content_type) = node.ask(ask).await?;
    match format {
        Format::Text => {
            output::bytes(&answer)?;
            if output::is_terminal() && !answer.ends_with(b"\n") {
                output::bytes(b"\n")?;
            }
        }
        Format::Json => {
            let mut object = Map::new();
            object.insert("procedure".to_owned(), procedure.as_str().into());
            object.insert("content_type".to_owned(), content_type.into());
            match std::str::from_utf8(&answer) {
                Ok(text) => object.insert("text".to_owned(), text.into()),
                Err(_) => object.insert("base64".to_owned(), STANDARD.encode(&answer).into()),
            };
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            object.insert("elapsed_ms".to_owned(), elapsed.into());
            output::json(&Value::Object(object))?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, response};
    use super::*;

    fn call() -> Call {
        Call {
            procedure: "math.add".parse().unwrap(),
            body: Some(r#"{"a":1}"#.into()),
            timeout: Duration::from_millis(1500),
            content_type: None,
        }
    }

    #[tokio::test]
    async fn sends_the_deadline_with_the_body() {
        let (node, server) = answering(response("200 OK", "application/json", "3")).await;
        assert_eq!(run(call(), &node, Format::Json).await.unwrap(), Exit::Ok);
        let request = server.await.unwrap();
        assert!(request.starts_with("POST /v1/call/math.add HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("macula-timeout: 1500ms\r\n"));
        assert!(request.contains("content-type: application/json\r\n"));
    }

    #[tokio::test]
    async fn a_handlers_error_is_a_failure_and_a_passed_deadline_is_its_own() {
        for (status, code, exit) in [
            ("502 Bad Gateway", "handler_error", Exit::Failed),
            ("504 Gateway Timeout", "timeout", Exit::Deadline),
            ("403 Forbidden", "unauthorized", Exit::Refused),
        ] {
            let problem = format!(r#"{{"code":"{code}","detail":"d"}}"#);
            let (node, _server) =
                answering(response(status, "application/problem+json", &problem)).await;
            let Err(Stop::Failed(failure)) = run(call(), &node, Format::Text).await else {
                panic!("{code} was no failure")
            };
            assert_eq!((failure.code.as_str(), failure.exit), (code, exit));
            assert_eq!(failure.tried, "call `math.add`");
        }
    }
}
