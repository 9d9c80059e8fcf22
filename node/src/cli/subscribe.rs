//! `macula-node sub`: prints messages as they arrive.

use std::pin::pin;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use macula_config::period;
use macula_proto::Code;
use macula_proto::name::TopicPattern;
use serde_json::Value;

use super::client::{Ask, Node};
use super::exit::Exit;
use super::failure::{Failure, Stop, printable};
use super::output::{self, Format};
use super::sse::{Event, Parser};

/// What `sub` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node sub 'sensor.**'
  macula-node sub 'sensor.*.temp' --count 1 --timeout 10s
  macula-node sub 'sensor.**' -o json | jq .text
  macula-node sub photo.new --raw --count 1 > photo.jpg

In a pattern `*` is one segment and a last `**` is any number of them; quote both from the shell.
Only messages go to standard output: TOPIC BODY, or with -o json one object a line (\"id\", \"topic\",
\"content_type\", \"publisher\", \"sequence\", \"headers\", \"text\" or \"base64\"; or {\"gap\": {\"missed\"}}).
Exit 3 when --timeout passes before --count messages came, 4 when the node goes away.")]
pub(crate) struct Subscribe {
    /// Which topics, such as 'sensor.**'
    pattern: TopicPattern,
    /// Ends after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Prints the bodies' bytes as they are and nothing else
    #[arg(long)]
    raw: bool,
    /// Ends after this time, such as 10s
    #[arg(long, value_name = "TIME", value_parser = super::positive_period)]
    timeout: Option<Duration>,
}

/// How one message is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Line,
    Raw,
    Json,
}

/// Subscribes, and prints until something ends it.
pub(crate) async fn run(args: Subscribe, node: &Node, format: Format) -> Result<Exit, Stop> {
    let Subscribe { pattern, count, raw, timeout } = args;
    let style = match (raw, format) {
        (true, _) => Style::Raw,
        (false, Format::Text) => Style::Line,
        (false, Format::Json) => Style::Json,
    };
    let tried = format!("subscribe to `{pattern}`");
    // The node subscribes before it answers, so from here on nothing is missed.
    let mut printer = Printer { style, left: count, node, tried: tried.clone() };
    let work = async {
        let ask = Ask::new(tried.clone(), Method::GET, format!("/v1/subscribe?topic={pattern}"));
        let stream = node.open(ask).await?.into_body();
        output::say(format_args!("subscribed to {pattern} (Ctrl-C ends)"));
        printer.follow(stream).await
    };
    let Some(timeout) = timeout else { return work.await.map(|()| Exit::Ok) };
    if let Ok(ended) = tokio::time::timeout(timeout, pin!(work)).await {
        return ended.map(|()| Exit::Ok);
    }
    let (Some(count), Some(left)) = (count, printer.left) else { return Ok(Exit::Ok) };
    let (arrived, within) = (count - left, period::format(timeout));
    let because = format!("{arrived} of {count} messages arrived within {within}");
    Err(Failure::new(Code::Timeout, tried, because)
        .with_next(
            "See whether somebody publishes, in the same realm; or wait longer: `--timeout`.",
        )
        .with_exit(Exit::Unmet)
        .into())
}

/// Prints messages and counts them down.
#[derive(Debug)]
struct Printer<'a> {
    style: Style,
    /// How many messages are still wanted; `None` for all there are.
    left: Option<u64>,
    node: &'a Node,
    tried: String,
}

impl Printer<'_> {
    /// Prints a stream's messages until enough came; a stream that ends before is a failure.
    async fn follow(&mut self, mut stream: Incoming) -> Result<(), Stop> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        while let Some(frame) = stream.frame().await {
            let frame = frame.map_err(|error| self.node.went_away(&self.tried, &error))?;
            let Ok(bytes) = frame.into_data() else { continue };
            parser
                .push(&bytes, |event| events.push(event))
                .map_err(|error| self.node.not_ours(self.tried.clone(), &error))?;
            for event in events.drain(..) {
                self.print(&event)?;
                if self.left == Some(0) {
                    return Ok(());
                }
            }
        }
        Err(self.node.went_away(&self.tried, &"the stream ended").into())
    }

    fn print(&mut self, event: &Event) -> Result<(), Stop> {
        let read = || {
            serde_json::from_str::<Value>(&event.data)
                .map_err(|error| self.node.not_ours(self.tried.clone(), &error))
        };
        match event.kind.as_str() {
            "message" => {
                let shown = render(self.style, &event.id, read()?)
                    .map_err(|why| self.node.not_ours(self.tried.clone(), &why))?;
                output::bytes(&shown)?;
                self.left = self.left.map(|left| left - 1);
            }
            "gap" => {
                let gap = read()?;
                match self.style {
                    Style::Json => output::json(&serde_json::json!({ "gap": gap }))?,
                    Style::Line | Style::Raw => output::say(format_args!(
                        "gap: {} messages were lost here, because this reader is too slow",
                        gap["missed"]
                    )),
                }
            }
            // Kinds of a later version.
            _ => {}
        }
        Ok(())
    }
}

/// One message as it is printed.
fn render(style: Style, id: &str, mut message: Value) -> Result<Vec<u8>, &'static str> {
    if style == Style::Json {
        let object = message.as_object_mut().ok_or("a message is not an object")?;
        object.shift_insert(0, "id".to_owned(), id.into());
        return Ok(format!("{message}\n").into_bytes());
    }
    let bytes = match (message["text"].as_str(), message["base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(text)) => {
            STANDARD.decode(text).map_err(|_| "a message's base64 is malformed")?
        }
        (None, None) => return Err("a message has neither text nor base64"),
    };
    if style == Style::Raw {
        return Ok(bytes);
    }
    let topic = printable(message["topic"].as_str().ok_or("a message has no topic")?);
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => format!("{topic} {}\n", output::visible(text)),
        Err(_) => {
            let kind = printable(message["content_type"].as_str().unwrap_or("unknown type"));
            format!("{topic} <{} bytes, {kind}>\n", bytes.len())
        }
    }
    .into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::answering;
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    const MESSAGE: &str =
        "event: message\nid: a-1-1\ndata: {\"topic\":\"a.b\",\"text\":\"hi\"}\n\n";

    fn sub(count: Option<u64>, timeout: Option<Duration>) -> Subscribe {
        Subscribe { pattern: "a.**".parse().unwrap(), count, raw: false, timeout }
    }

    fn render(style: Style, message: &str) -> String {
        let bytes = super::render(style, "a-1-1", serde_json::from_str(message).unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_message_is_a_line_its_bytes_or_an_object() {
        let text = r#"{"topic":"a.b","content_type":"text/plain","text":"hi\u001b[2J"}"#;
        assert_eq!(render(Style::Line, text), "a.b hi\\u{1b}[2J\n");
        assert_eq!(render(Style::Raw, text), "hi\x1b[2J");
        assert!(render(Style::Json, text).starts_with(r#"{"id":"a-1-1","topic":"a.b","#));
        let bytes = r#"{"topic":"a.b","content_type":"image/png","base64":"/w=="}"#;
        assert_eq!(render(Style::Line, bytes), "a.b <1 bytes, image/png>\n");
        let decoded = super::render(Style::Raw, "", serde_json::from_str(bytes).unwrap());
        assert_eq!(decoded, Ok(vec![0xff]));
    }

    #[test]
    fn a_message_without_a_body_or_with_a_broken_one_is_refused() {
        for message in [r#"{"topic":"a"}"#, r#"{"topic":"a","base64":"?"}"#, r#"{"text":"a"}"#, "7"]
        {
            let value = serde_json::from_str(message).unwrap();
            assert!(super::render(Style::Line, "", value).is_err(), "{message}");
        }
    }

    #[tokio::test]
    async fn ends_with_success_when_enough_messages_came() {
        let gap = "event: gap\ndata: {\"missed\":3}\n\n";
        let (node, server) = answering(format!("{HEAD}: ping\n\n{gap}{MESSAGE}")).await;
        let exit = run(sub(Some(1), None), &node, Format::Text).await.unwrap();
        assert_eq!(exit, Exit::Ok);
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /v1/subscribe?topic=a.** HTTP/1.1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_stream_that_ends_too_early_is_a_node_that_went_away() {
        let (node, _server) = answering(format!("{HEAD}{MESSAGE}")).await;
        let Err(Stop::Failed(failure)) = run(sub(Some(2), None), &node, Format::Text).await else {
            panic!("it did not fail")
        };
        assert_eq!(failure.exit, Exit::Unreachable);
    }

    #[tokio::test]
    async fn too_few_messages_in_time_is_an_assertion_not_met() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let node = Node::new(url.parse().unwrap());
        let soon = Some(Duration::from_millis(20));
        let Err(Stop::Failed(failure)) = run(sub(Some(1), soon), &node, Format::Text).await else {
            panic!("it did not fail")
        };
        assert_eq!(failure.exit, Exit::Unmet);
        assert_eq!(failure.because, "0 of 1 messages arrived within 20ms");
        assert_eq!(run(sub(None, soon), &node, Format::Text).await.unwrap(), Exit::Ok);
    }
}
