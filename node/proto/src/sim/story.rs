//! What has happened, as one number: two runs of a seed are the same when their stories are.

use std::time::Duration;

use bytes::Bytes;
use macula_identity::NodeId;
use prost::Message;
use ring::digest;

use crate::wire::{Frame, message};
use message::{request, response};

/// The running hash of every frame that arrived: when, from whom, at whom, and what it said.
pub(super) struct Story {
    hash: digest::Context,
    /// How many frames arrived.
    pub(super) frames: u64,
}

impl Story {
    pub(super) fn new() -> Self {
        Self { hash: digest::Context::new(&digest::SHA256), frames: 0 }
    }

    pub(super) fn tell(&mut self, at: Duration, from: NodeId, to: NodeId, frame: &Frame) {
        self.frames += 1;
        self.hash.update(&at.as_nanos().to_be_bytes());
        self.hash.update(from.as_bytes());
        self.hash.update(to.as_bytes());
        let body = told(frame);
        self.hash.update(&body.len().to_be_bytes());
        self.hash.update(&body);
    }

    /// The first eight bytes of the hash, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        let digest = self.hash.clone().finish();
        digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Story({} frames, {})", self.frames, self.digest())
    }
}

/// A frame's bytes without what keys bring: each run's keys and serial numbers are new, so its
/// certificates and signatures are too.
fn told(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Request(request) => {
            let mut request = request.clone();
            match &mut request.body {
                Some(request::Body::Store(message::Store { record: Some(record) })) => {
                    redact(record);
                }
                Some(request::Body::Delete(message::Delete { record: Some(record) })) => {
                    redact(record);
                }
                Some(_) | None => {}
            }
            request.encode_to_vec()
        }
        Frame::Response(response) => {
            let mut response = response.clone();
            if let Some(response::Body::Values(values)) = &mut response.body {
                values.records.iter_mut().filter_map(|stored| stored.record.as_mut()).for_each(redact);
            }
            response.encode_to_vec()
        }
        Frame::Hello(message) => message.encode_to_vec(),
        Frame::HelloAck(message) => message.encode_to_vec(),
        Frame::Goodbye(message) => message.encode_to_vec(),
        Frame::FlowOpen(message) => message.encode_to_vec(),
        Frame::Publish(message) => message.encode_to_vec(),
    }
}

fn redact(record: &mut message::SignedRecord) {
    record.certificate = Bytes::new();
    record.signature = Bytes::new();
}
