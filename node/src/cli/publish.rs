//! `macula-node pub`: publishes.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use http::Method;
use http::header::CONTENT_TYPE;
use macula_proto::name::TopicName;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use super::body::{self, ContentType, Header};
use super::client::{Ask, Node};
use super::exit::Exit;
use super::failure::Stop;
use super::output::{self, Format};

/// What `pub` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node pub sensor.temp 21.5
  macula-node pub cart.added '{\"sku\":7}' --header 'ce-type: cart.added'
  date | macula-node pub clock.tick -
  macula-node pub load.test hello --count 1000 --rate 100/s

Best effort: it says how many subscribers the message was sent to, and zero is no error.
With -o json: {\"topic\", \"messages\", \"subscribers\"}.")]
pub(crate) struct Publish {
    /// The topic, such as sensor.temp
    topic: TopicName,
    /// The body, sent verbatim; `-` reads standard input (up to 1 MiB)
    #[arg(allow_negative_numbers = true)]
    body: Option<OsString>,
    /// The body's content type [default: what the bytes look like: JSON, text, or just bytes]
    #[arg(long, value_name = "TYPE/SUBTYPE")]
    content_type: Option<ContentType>,
    /// A header that travels with the message: ce-*, traceparent, tracestate (may be repeated)
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Header>,
    /// How often to publish it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// At most how many in a second, such as 100/s
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,
}

/// Messages in a second: `100/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(u32);

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix("/s").unwrap_or(text).parse() {
            Ok(number @ 1..=1_000_000) => Ok(Self(number)),
            Ok(_) | Err(_) => Err("it is written N/s with N from 1 to 1000000, as in 100/s"),
        }
    }
}

impl Rate {
    fn every(self) -> Duration {
        Duration::from_secs(1) / self.0
    }
}

/// Publishes and says to how many.
pub(crate) async fn run(args: Publish, node: &Node, format: Format) -> Result<Exit, Stop> {
    let Publish { topic, body, content_type, headers, count, rate } = args;
    let tried = format!("publish to `{topic}`");
    let body = body::read(body, &tried)?;
    let content_type = content_type.map_or_else(
        || http::HeaderValue::from_static(body::content_type(&body)),
        |ContentType(value)| value,
    );
    let mut ask = Ask::new(tried.clone(), Method::POST, format!("/v1/publish/{topic}"));
    ask.body = body;
    ask.headers.push((CONTENT_TYPE, content_type));
    ask.headers.extend(headers.into_iter().map(|Header { name, value }| (name, value)));

    let started = Instant::now();
    let mut ticks = rate.map(|rate| {
        let mut ticks = tokio::time::interval(rate.every());
        // A node that was slow for a while is not flooded afterwards.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let mut subscribers = 0;
    for _ in 0..count {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let answer = node.ask_json(ask.clone()).await?;
        subscribers = answer["subscribers"]
            .as_u64()
            .ok_or_else(|| node.not_ours(tried.clone(), &"it names no number of subscribers"))?;
    }
    match format {
        Format::Json => output::json(
            &json!({"topic": topic.as_str(), "messages": count, "subscribers": subscribers}),
        )?,
        Format::Text => {
            let who = match subscribers {
                0 => "nobody is subscribed".to_owned(),
                1 => "1 subscriber".to_owned(),
                many => format!("{many} subscribers"),
            };
            output::line(match count {
                1 => format!("published to {topic}: {who}"),
                many => {
                    let seconds = started.elapsed().as_secs_f64();
                    format!("published {many} messages to {topic} in {seconds:.1} s: {who}")
                }
            })?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, response};
    use super::*;

    #[test]
    fn a_rate_is_a_number_a_second() {
        assert_eq!("100/s".parse(), Ok(Rate(100)));
        assert_eq!("100".parse::<Rate>().unwrap().every(), Duration::from_millis(10));
        for text in ["", "0/s", "-1/s", "1/m", "1000001/s", "1.5/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn sends_the_bytes_with_their_type_and_headers() {
        let (node, server) =
            answering(response("202 Accepted", "application/json", r#"{"subscribers":1}"#)).await;
        let args = Publish {
            topic: "a.b".parse().unwrap(),
            body: Some("21.5".into()),
            content_type: None,
            headers: vec!["ce-id: 7".parse().unwrap()],
            count: 1,
            rate: None,
        };
        assert_eq!(run(args, &node, Format::Json).await.unwrap(), Exit::Ok);
        let request = server.await.unwrap();
        assert!(request.starts_with("POST /v1/publish/a.b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: text/plain; charset=utf-8\r\n"));
        assert!(request.contains("ce-id: 7\r\n"));
        assert!(request.ends_with("\r\n\r\n21.5"));
    }
}
