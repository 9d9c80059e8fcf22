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

    /// Frames of one stream arrived in these bytes.
    pub(super) fn tell(
        &mut self,
        at: Duration,
        from: NodeId,
        to: NodeId,
        bytes: &Bytes,
        frames: &[Frame],
    ) {
        self.frames += frames.len() as u64;
        self.hash.update(&at.as_nanos().to_be_bytes());
        self.hash.update(from.as_bytes());
        self.hash.update(to.as_bytes());
        match frames {
            [Frame::Request(request)] if holds_record(request) => {
                self.tell_bytes(&redact_request(request.clone()).encode_to_vec());
            }
            [
                Frame::Response(
                    response @ message::Response { body: Some(response::Body::Values(_)) },
                ),
            ] => self.tell_bytes(&redact_response(response.clone()).encode_to_vec()),
            _ => self.tell_bytes(bytes),
        }
    }

    fn tell_bytes(&mut self, bytes: &[u8]) {
        self.hash.update(&bytes.len().to_be_bytes());
        self.hash.update(bytes);
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

fn holds_record(request: &message::Request) -> bool {
    matches!(
        request.body,
        Some(request::Body::Store(_) | request::Body::Delete(_) | request::Body::Changed(_))
    )
}

fn redact_request(mut request: message::Request) -> message::Request {
    if let Some(
        request::Body::Store(message::Store { record, addresses: _ })
        | request::Body::Delete(message::Delete { record }),
    ) = &mut request.body
    {
        record.iter_mut().for_each(redact);
    }
    if let Some(request::Body::Changed(changed)) = &mut request.body {
        changed.records.iter_mut().filter_map(|stored| stored.record.as_mut()).for_each(redact);
    }
    request
}

fn redact_response(mut response: message::Response) -> message::Response {
    if let Some(response::Body::Values(values)) = &mut response.body {
        values.records.iter_mut().filter_map(|stored| stored.record.as_mut()).for_each(redact);
    }
    response
}

/// What keys bring is left out: each run's keys and serial numbers are new, so its certificates
/// and signatures are too.
fn redact(record: &mut message::SignedRecord) {
    record.certificate = Bytes::new();
    record.signature = Bytes::new();
}
