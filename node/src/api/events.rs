//! Subscriptions as server-sent events (WHATWG HTML §9.2).
//!
//! Everywhere else bytes are bytes and there is no envelope. An event stream is text, and one
//! stream carries the messages of many topics, so here each message is a line of JSON; its body is
//! `text` when it is UTF-8, and else `base64`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use macula_proto::pubsub::Message;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::body::Body;
use super::limits::{EVENTS_BYTES, Times};
use crate::peer::{Delivery, Subscription};
use crate::supervise::{Kind, Spawner, failpoint};

/// The body that carries a subscription, for as long as the client reads it.
pub(super) fn stream(subscription: Subscription, times: Times, tasks: &Spawner) -> Body {
    // What does not fit waits in the subscription's own queue, which counts what it drops.
    let (sender, receiver) = mpsc::channel(1);
    let stopping = tasks.stopping();
    tasks.spawn(Kind::Subscription, async move {
        tokio::select! {
            () = deliver(subscription, times, &sender) => {}
            () = sender.closed() => {}
            () = stopping.cancelled() => {}
        }
    });
    Body::Stream(receiver)
}

/// Writes what arrives, until the node stops or the client is gone.
async fn deliver(mut subscription: Subscription, times: Times, sender: &mpsc::Sender<Bytes>) {
    loop {
        failpoint(Kind::Subscription);
        let mut text = String::new();
        match timeout(times.ping, subscription.next()).await {
            Err(_) => text.push_str(": ping\n\n"),
            Ok(None) => return,
            Ok(Some(delivery)) => {
                write(&mut text, &delivery);
                while text.len() < EVENTS_BYTES
                    && let Some(Some(delivery)) = subscription.next().now_or_never()
                {
                    write(&mut text, &delivery);
                }
            }
        }
        if sender.send(text.into()).await.is_err() {
            return;
        }
    }
}

/// Writes one event.
fn write(out: &mut String, delivery: &Delivery) {
    match delivery {
        Delivery::Message(message) => write_message(out, message),
        Delivery::Gap { missed } => {
            let data = json!({ "missed": missed });
            out.push_str(&format!("event: gap\ndata: {data}\n\n"));
        }
    }
}

fn write_message(out: &mut String, message: &Arc<Message>) {
    let Message { publisher, incarnation, sequence, topic, payload } = &**message;
    let headers: Map<String, Value> =
        payload.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let (kind, body) = match std::str::from_utf8(&payload.body) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("base64", STANDARD.encode(&payload.body)),
    };
    // JSON escapes line breaks, so this is one line.
    let data = json!({
        "topic": topic.as_str(),
        "content_type": &*payload.content_type,
        "publisher": publisher.to_string(),
        "sequence": sequence,
        "headers": headers,
        kind: body,
    });
    let id = format_args!("{publisher}-{incarnation}-{sequence}");
    out.push_str(&format!("event: message\nid: {id}\ndata: {data}\n\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use macula_proto::identity::NodeId;
    use macula_proto::payload::Payload;

    fn event(payload: Payload) -> String {
        let mut out = String::new();
        let message = Message {
            publisher: NodeId::from_bytes([0xab; 20]),
            incarnation: 1_700_000_000_000,
            sequence: 7,
            topic: "sensor.temp".parse().unwrap(),
            payload,
        };
        write(&mut out, &Delivery::Message(Arc::new(message)));
        out
    }

    #[test]
    fn a_message_is_an_event_of_one_line() {
        let mut payload = Payload::new("21.5\nand \"more\"", "text/plain");
        payload.headers.push(("ce-id".to_owned(), "1".to_owned()));
        let publisher = "ab".repeat(20);
        let expected = format!(
            "event: message\nid: {publisher}-1700000000000-7\n\
             data: {{\"topic\":\"sensor.temp\",\"content_type\":\"text/plain\",\
             \"publisher\":\"{publisher}\",\"sequence\":7,\"headers\":{{\"ce-id\":\"1\"}},\
             \"text\":\"21.5\\nand \\\"more\\\"\"}}\n\n"
        );
        assert_eq!(event(payload), expected);
    }

    #[test]
    fn what_is_no_text_is_base64() {
        assert!(event(Payload::bytes(vec![0xff, 0xfe])).contains("\"base64\":\"//4=\""));
    }

    #[test]
    fn a_gap_says_how_many_are_missing() {
        let mut out = String::new();
        write(&mut out, &Delivery::Gap { missed: 3 });
        assert_eq!(out, "event: gap\ndata: {\"missed\":3}\n\n");
    }
}
