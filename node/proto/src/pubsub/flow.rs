//! A flow: the one-way stream of one publisher's messages to one receiver (docs/PROTOCOL.md §6.2).
//!
//! A topic and content type are sent once and then stand for a small number, so that a hot topic
//! costs a few bytes a message.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use macula_identity::NodeId;

use super::Message;
use crate::error::{Code, Fault};
use crate::name::TopicName;
use crate::payload::{self, Payload};
use crate::wire::{Frame, message};

/// The most aliases of one flow; further topics are written out each time.
pub(crate) const MAX_ALIASES: u32 = 1024;

/// Writes messages as frames.
#[derive(Debug, Default)]
pub struct Writer {
    aliases: HashMap<(TopicName, Arc<str>), u32>,
}

impl Writer {
    /// Appends the first frame of a flow.
    pub fn open(incarnation: u64, out: &mut BytesMut) {
        let open = Frame::FlowOpen(message::FlowOpen { incarnation });
        open.encode(out).expect("an opening frame is a few bytes");
    }

    /// Appends a message, and how many were dropped on this flow before it.
    ///
    /// # Errors
    /// `too_large`; nothing is appended then.
    pub fn write(&mut self, it: &Message, dropped: u64, out: &mut BytesMut) -> Result<(), Fault> {
        let key = (it.topic.clone(), it.payload.content_type.clone());
        let known = self.aliases.get(&key).copied();
        let count = u32::try_from(self.aliases.len()).unwrap_or(MAX_ALIASES);
        let alias = known.unwrap_or(if count < MAX_ALIASES { count + 1 } else { 0 });
        let (topic, content_type) = match known {
            Some(_) => (String::new(), String::new()),
            None => (it.topic.to_string(), it.payload.content_type.to_string()),
        };
        Frame::Publish(message::Publish {
            sequence: it.sequence,
            alias,
            topic,
            payload: it.payload.body.clone(),
            content_type,
            headers: payload::to_wire(&it.payload.headers),
            dropped,
        })
        .encode(out)?;
        if known.is_none() && alias > 0 {
            self.aliases.insert(key, alias);
        }
        Ok(())
    }
}

/// Reads frames as messages.
#[derive(Debug)]
pub struct Reader {
    publisher: NodeId,
    incarnation: Option<u64>,
    aliases: Vec<(TopicName, Arc<str>)>,
}

/// What a frame held.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Messages that the publisher dropped on this flow before this one.
    pub dropped: u64,
    /// The message.
    pub message: Message,
}

impl Reader {
    /// A flow of this publisher.
    #[must_use]
    pub fn new(publisher: NodeId) -> Self {
        Self { publisher, incarnation: None, aliases: Vec::new() }
    }

    /// Takes the next frame; the first says the incarnation and holds no message.
    ///
    /// # Errors
    /// `protocol` or `invalid_name`; the flow is of no more use then.
    pub fn read(&mut self, frame: Frame) -> Result<Option<Read>, Fault> {
        let protocol = |because: &str| Err(Fault::new(Code::Protocol, because));
        let publish = match (frame, self.incarnation) {
            (Frame::FlowOpen(open), None) => {
                self.incarnation = Some(open.incarnation);
                return Ok(None);
            }
            (Frame::Publish(publish), Some(_)) => publish,
            (_, None) => return protocol("a flow starts with FlowOpen"),
            (_, Some(_)) => return protocol("after FlowOpen a flow holds Publish frames only"),
        };
        let (topic, content_type) = if publish.topic.is_empty() {
            let at = (publish.alias as usize).wrapping_sub(1);
            match self.aliases.get(at) {
                Some(known) => known.clone(),
                None => return protocol("an alias that was not introduced"),
            }
        } else {
            let topic: TopicName = publish
                .topic
                .parse()
                .map_err(|error| Fault::new(Code::InvalidName, format!("{error}")))?;
            let named = (topic, Arc::from(publish.content_type.as_str()));
            if publish.alias > 0 {
                if publish.alias as usize != self.aliases.len() + 1 || publish.alias > MAX_ALIASES {
                    return protocol("aliases are introduced in order, 1024 at most");
                }
                self.aliases.push(named.clone());
            }
            named
        };
        let payload = Payload {
            body: publish.payload,
            content_type,
            headers: payload::from_wire(publish.headers),
        };
        payload.check()?;
        let message = Message {
            publisher: self.publisher,
            incarnation: self.incarnation.expect("matched above"),
            sequence: publish.sequence,
            topic,
            payload,
        };
        Ok(Some(Read { dropped: publish.dropped, message }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FrameDecoder;

    const ALICE: NodeId = NodeId::from_bytes([1; 20]);

    fn message(topic: &str, sequence: u64) -> Message {
        Message {
            publisher: ALICE,
            incarnation: 9,
            sequence,
            topic: topic.parse().unwrap(),
            payload: Payload::new(vec![b'x'; 16], "text/plain"),
        }
    }

    fn frames(bytes: BytesMut) -> Vec<Frame> {
        let mut frames = Vec::new();
        FrameDecoder::default().feed(bytes.freeze(), &mut frames).unwrap();
        frames
    }

    #[test]
    fn what_is_written_is_read_and_a_topic_is_named_once() {
        let (mut writer, mut bytes) = (Writer::default(), BytesMut::new());
        Writer::open(9, &mut bytes);
        let sent: Vec<_> = (1..=2000).map(|n| message(&format!("t.{}", n % 1500), n)).collect();
        for message in &sent {
            writer.write(message, 0, &mut bytes).unwrap();
        }
        let mut reader = Reader::new(ALICE);
        let read: Vec<_> = frames(bytes)
            .into_iter()
            .filter_map(|frame| reader.read(frame).unwrap())
            .map(|read| read.message)
            .collect();
        assert_eq!(read, sent);
    }

    #[test]
    fn a_hot_topic_costs_few_bytes() {
        let (mut writer, mut bytes) = (Writer::default(), BytesMut::new());
        writer.write(&message("a.long.topic.name", 1), 0, &mut bytes).unwrap();
        let first = bytes.len();
        writer.write(&message("a.long.topic.name", 2), 0, &mut bytes).unwrap();
        assert!(bytes.len() - first <= 16 + 8, "{} bytes", bytes.len() - first);
    }

    #[test]
    fn refuses_what_comes_out_of_order() {
        let publish = |alias, topic: &str| {
            Frame::Publish(message::Publish {
                alias,
                topic: topic.to_owned(),
                ..Default::default()
            })
        };
        let open = || Frame::FlowOpen(message::FlowOpen { incarnation: 1 });
        let mut reader = Reader::new(ALICE);
        assert_eq!(reader.read(publish(1, "a")).unwrap_err().code, Code::Protocol);
        assert_eq!(reader.read(open()), Ok(None));
        assert_eq!(reader.read(open()).unwrap_err().code, Code::Protocol);
        assert_eq!(reader.read(publish(1, "")).unwrap_err().code, Code::Protocol);
        assert_eq!(reader.read(publish(0, "")).unwrap_err().code, Code::Protocol);
        assert_eq!(reader.read(publish(2, "a")).unwrap_err().code, Code::Protocol);
        assert_eq!(reader.read(publish(1, "a b")).unwrap_err().code, Code::InvalidName);
        assert!(reader.read(publish(1, "a")).unwrap().is_some());
        assert!(reader.read(publish(1, "")).unwrap().is_some());
    }
}
