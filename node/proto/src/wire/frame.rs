//! Frames: a type, a length and a body, each type with a hard maximum that is checked before
//! anything is allocated (docs/PROTOCOL.md §3.1).
//!
//! Type and length are QUIC variable-length integers (RFC 9000 §16), as in HTTP/3 (RFC 9114 §7.1).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::limits::{self, Shape};
use super::{MAX_PAYLOAD, message};
use crate::error::{Code, Fault};

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// [`message::Hello`], first on the control stream.
    Hello,
    /// [`message::HelloAck`], the answer to it.
    HelloAck,
    /// [`message::Goodbye`], last on the control stream.
    Goodbye,
    /// [`message::Request`], first on a request stream.
    Request,
    /// [`message::Response`], the answer to it.
    Response,
    /// [`message::FlowOpen`], first on a flow.
    FlowOpen,
    /// [`message::Publish`], on a flow.
    Publish,
}

impl FrameType {
    const ALL: [Self; 7] = [
        Self::Hello,
        Self::HelloAck,
        Self::Goodbye,
        Self::Request,
        Self::Response,
        Self::FlowOpen,
        Self::Publish,
    ];

    const fn number(self) -> u64 {
        match self {
            Self::Hello => 1,
            Self::HelloAck => 2,
            Self::Goodbye => 3,
            Self::Request => 4,
            Self::Response => 5,
            Self::FlowOpen => 6,
            Self::Publish => 7,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The most bytes of the body: a payload and, beside it, names, headers and certificates.
    #[must_use]
    pub const fn max_length(self) -> usize {
        match self {
            Self::Hello | Self::HelloAck | Self::Goodbye | Self::FlowOpen => 1 << 10,
            Self::Request | Self::Response | Self::Publish => MAX_PAYLOAD + (16 << 10),
        }
    }
}

/// The longest body of a type that this version does not know, which is skipped.
pub(crate) const MAX_UNKNOWN: usize = 64 << 10;
/// The longest header: two variable-length integers.
const MAX_HEADER: usize = 16;

/// A decoded message.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "FrameType says what each holds")]
pub enum Frame {
    Hello(message::Hello),
    HelloAck(message::HelloAck),
    Goodbye(message::Goodbye),
    Request(message::Request),
    Response(message::Response),
    FlowOpen(message::FlowOpen),
    Publish(message::Publish),
}

impl Frame {
    /// The type that goes on the wire.
    #[must_use]
    pub const fn kind(&self) -> FrameType {
        match self {
            Self::Hello(_) => FrameType::Hello,
            Self::HelloAck(_) => FrameType::HelloAck,
            Self::Goodbye(_) => FrameType::Goodbye,
            Self::Request(_) => FrameType::Request,
            Self::Response(_) => FrameType::Response,
            Self::FlowOpen(_) => FrameType::FlowOpen,
            Self::Publish(_) => FrameType::Publish,
        }
    }

    /// Appends the frame.
    ///
    /// # Errors
    /// `too_large` when the body exceeds its type's maximum; nothing is appended then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), Fault> {
        match self {
            Self::Hello(body) => put(FrameType::Hello, body, out),
            Self::HelloAck(body) => put(FrameType::HelloAck, body, out),
            Self::Goodbye(body) => put(FrameType::Goodbye, body, out),
            Self::Request(body) => put(FrameType::Request, body, out),
            Self::Response(body) => put(FrameType::Response, body, out),
            Self::FlowOpen(body) => put(FrameType::FlowOpen, body, out),
            Self::Publish(body) => put(FrameType::Publish, body, out),
        }
    }

    /// The frame's bytes.
    ///
    /// # Errors
    /// As [`Frame::encode`].
    pub fn to_bytes(&self) -> Result<Bytes, Fault> {
        let mut out = BytesMut::new();
        self.encode(&mut out)?;
        Ok(out.freeze())
    }

    fn decode(kind: FrameType, body: Bytes) -> Result<Self, Fault> {
        fn read<M: Message + Default>(shape: Shape, body: Bytes) -> Result<M, Fault> {
            limits::check(shape, &body)?;
            M::decode(body).map_err(|error| Fault::new(Code::Protocol, error.to_string()))
        }
        Ok(match kind {
            FrameType::Hello => Self::Hello(read(limits::PLAIN, body)?),
            FrameType::HelloAck => Self::HelloAck(read(limits::PLAIN, body)?),
            FrameType::Goodbye => Self::Goodbye(read(limits::PLAIN, body)?),
            FrameType::Request => Self::Request(read(limits::REQUEST, body)?),
            FrameType::Response => Self::Response(read(limits::RESPONSE, body)?),
            FrameType::FlowOpen => Self::FlowOpen(read(limits::PLAIN, body)?),
            FrameType::Publish => Self::Publish(read(limits::PUBLISH, body)?),
        })
    }
}

fn put(kind: FrameType, body: &impl Message, out: &mut BytesMut) -> Result<(), Fault> {
    let length = body.encoded_len();
    if length > kind.max_length() {
        return Err(too_large(kind, length as u64));
    }
    out.reserve(MAX_HEADER + length);
    put_varint(kind.number(), out);
    put_varint(length as u64, out);
    body.encode_raw(out);
    Ok(())
}

fn too_large(kind: FrameType, length: u64) -> Fault {
    let limit = kind.max_length();
    Fault::new(Code::TooLarge, format!("a {kind:?} frame of {length} bytes; {limit} is the most"))
}

/// Cuts a byte stream into frames, however the bytes arrive. A frame inside one chunk is not
/// copied. Memory: at most one frame's maximum.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// Bytes of the frame that has begun.
    pending: BytesMut,
    /// Bytes of an unknown type still to be skipped.
    skip: usize,
}

impl FrameDecoder {
    /// Takes a chunk and appends the frames that it completes.
    ///
    /// # Errors
    /// `too_large` from the header alone, `protocol` for a body that does not decode. The stream is
    /// of no more use then. Frames before the bad one have been appended.
    pub fn feed(&mut self, mut chunk: Bytes, frames: &mut Vec<Frame>) -> Result<(), Fault> {
        while !chunk.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(chunk.len());
                chunk.advance(skipped);
                self.skip -= skipped;
                continue;
            }
            if self.pending.is_empty() {
                match header(&chunk)? {
                    Some(header) if chunk.len() >= header.size + header.length => {
                        chunk.advance(header.size);
                        self.complete(header, chunk.split_to(header.length), frames)?;
                    }
                    Some(Header { kind: None, size, length }) => {
                        chunk.advance(size);
                        self.skip = length;
                    }
                    Some(header) => {
                        self.pending.reserve(header.size + header.length);
                        self.pending.put(&mut chunk);
                    }
                    None => self.pending.put(&mut chunk),
                }
            } else {
                match header(&self.pending)? {
                    None => self.pending.put_u8(chunk.get_u8()),
                    Some(Header { kind: None, size, length }) => {
                        self.skip = length - (self.pending.len() - size);
                        self.pending.clear();
                    }
                    Some(header) => {
                        let missing = header.size + header.length - self.pending.len();
                        self.pending.put(chunk.split_to(missing.min(chunk.len())));
                        self.finish_pending(header, frames)?;
                        continue;
                    }
                }
                if let Some(header) = header(&self.pending)? {
                    self.finish_pending(header, frames)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here: no frame has begun.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.pending.is_empty() && self.skip == 0
    }

    /// How much memory the frame that has begun may use.
    #[cfg(feature = "fuzz")]
    pub(crate) fn capacity(&self) -> usize {
        self.pending.capacity()
    }

    fn finish_pending(&mut self, header: Header, frames: &mut Vec<Frame>) -> Result<(), Fault> {
        if self.pending.len() < header.size + header.length {
            return Ok(());
        }
        let mut whole = std::mem::take(&mut self.pending).freeze();
        whole.advance(header.size);
        self.complete(header, whole, frames)
    }

    fn complete(
        &mut self,
        head: Header,
        body: Bytes,
        frames: &mut Vec<Frame>,
    ) -> Result<(), Fault> {
        if let Some(kind) = head.kind {
            frames.push(Frame::decode(kind, body)?);
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Header {
    /// `None` for a type of a later version.
    kind: Option<FrameType>,
    size: usize,
    length: usize,
}

/// The header at the start of these bytes, when all of it is there.
fn header(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let Some((number, first)) = varint(bytes) else { return Ok(None) };
    let Some((length, second)) = varint(&bytes[first..]) else { return Ok(None) };
    let kind = FrameType::from_number(number);
    match kind {
        Some(kind) if length > kind.max_length() as u64 => return Err(too_large(kind, length)),
        None if length > MAX_UNKNOWN as u64 => {
            let because = format!("an unknown frame type {number} of {length} bytes");
            return Err(Fault::new(Code::TooLarge, because));
        }
        Some(_) | None => {}
    }
    let length = usize::try_from(length).expect("bounded by a limit that is a usize");
    Ok(Some(Header { kind, size: first + second, length }))
}

/// RFC 9000 §16: the two high bits of the first byte give the length.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let size = 1 << (first >> 6);
    let rest = bytes.get(1..size)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, b| value << 8 | u64::from(*b));
    Some((value, size))
}

fn put_varint(value: u64, out: &mut BytesMut) {
    let narrow = |value: u64| u32::try_from(value).expect("frame types and lengths are small");
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(0x4000 | value as u16),
        _ => out.put_u32(0x8000_0000 | narrow(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn publish(payload: usize) -> Frame {
        Frame::Publish(message::Publish {
            sequence: 7,
            alias: 1,
            topic: "sensor.temp".to_owned(),
            payload: Bytes::from(vec![b'x'; payload]),
            ..Default::default()
        })
    }

    fn decode(bytes: &[u8], cut: usize) -> Result<Vec<Frame>, Fault> {
        let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
        for chunk in bytes.chunks(cut.max(1)) {
            decoder.feed(Bytes::copy_from_slice(chunk), &mut frames)?;
        }
        assert!(decoder.is_between_frames() || frames.is_empty());
        Ok(frames)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_bytes_of_a_hello_are_pinned() {
        let hello = Frame::Hello(message::Hello { version: 1, incarnation: 300 });
        let (kind, length, version, incarnation) = ("01", "05", "08 01", "10 ac 02");
        let pinned = format!("{kind} {length} {version} {incarnation}");
        assert_eq!(hex(&hello.to_bytes().unwrap()), pinned);
    }

    #[test]
    fn the_bytes_of_a_publish_are_pinned() {
        let (kind, length) = ("07", "14");
        let (sequence, alias) = ("08 07", "10 01");
        let topic = "1a 0b 73 65 6e 73 6f 72 2e 74 65 6d 70";
        let payload = "22 01 78";
        let pinned = format!("{kind} {length} {sequence} {alias} {topic} {payload}");
        assert_eq!(hex(&publish(1).to_bytes().unwrap()), pinned);
    }

    #[test]
    fn the_largest_payload_passes_and_a_frame_over_the_limit_is_refused_by_both_sides() {
        assert!(publish(MAX_PAYLOAD).to_bytes().is_ok());
        let over = FrameType::Publish.max_length() + 1;
        assert_eq!(publish(over).to_bytes().unwrap_err().code, Code::TooLarge);
        let mut header = BytesMut::new();
        put_varint(FrameType::Publish.number(), &mut header);
        put_varint(over as u64, &mut header);
        assert_eq!(decode(&header, 16).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_length_near_the_largest_integer_is_refused_before_allocating() {
        let bytes = [0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decode(&bytes, 9).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn an_unknown_type_is_skipped_and_the_next_frame_read() {
        let mut bytes = vec![0x3e, 0x03, 1, 2, 3];
        bytes.extend(publish(3).to_bytes().unwrap());
        for cut in 1..bytes.len() {
            assert_eq!(decode(&bytes, cut).unwrap(), [publish(3)], "cut every {cut} bytes");
        }
    }

    proptest! {
        #[test]
        fn frames_survive_however_the_stream_is_cut(
            sizes in prop::collection::vec(0_usize..300, 1..6), cut in 1_usize..400
        ) {
            let frames: Vec<_> = sizes.into_iter().map(publish).collect();
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut bytes).unwrap();
            }
            prop_assert_eq!(decode(&bytes, cut).unwrap(), frames);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
            let _ = decoder.feed(Bytes::from(bytes), &mut frames);
        }
    }
}
