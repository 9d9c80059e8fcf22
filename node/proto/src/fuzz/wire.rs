//! Frames, messages and flows: whatever arrives on a stream.

use bytes::{BufMut, Bytes, BytesMut};
use macula_identity::NodeId;

use super::input::Input;
use crate::error::Code;
use crate::pubsub::flow::{Reader, Writer};
use crate::wire::{Contact, Frame, FrameDecoder, FrameType, MAX_ADDRESSES, MAX_HEADERS, message};
use message::{request, response};

/// The most memory for a frame that has begun: a whole one, and what a buffer rounds up by.
const PENDING: usize = 2 * FrameType::Publish.max_length();

/// Decodes a stream that arrives in chunks of these lengths, round and round.
fn decode(stream: &[u8], cuts: &[u8]) -> (Vec<Frame>, Option<Code>) {
    let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
    let mut rest = stream;
    let mut lengths = cuts.iter().cycle();
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |cut| usize::from(*cut) + 1);
        let (chunk, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        if let Err(fault) = decoder.feed(Bytes::copy_from_slice(chunk), &mut frames) {
            return (frames, Some(fault.code));
        }
        assert!(decoder.capacity() <= PENDING, "{} bytes are pending", decoder.capacity());
    }
    (frames, None)
}

/// A stream says the same however it is cut, and what it says is read back when it is written again.
pub(super) fn frames(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let count = 1 + input.below(8);
    let cuts = input.take(count);
    let stream = input.rest();
    let whole = decode(stream, &[]);
    assert_eq!(whole, decode(stream, cuts));
    check(whole.0);
}

fn check(frames: Vec<Frame>) {
    let mut again = BytesMut::new();
    for frame in &frames {
        frame.encode(&mut again).expect("what was read is not too long to be written");
        check_counts(frame);
    }
    assert_eq!((frames, None), decode(&again, &[]));
}

/// One body of each type in turn, with a header that fits it.
pub(super) fn messages(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    check(decode(&framed(u64::from(kind % 7) + 1, body), &[]).0);
}

/// A frame of any type with any body.
pub(super) fn framed(kind: u64, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(u8::try_from(kind).expect("frame types are small"));
    frame.put_u32(0x8000_0000 | u32::try_from(body.len()).expect("bodies are short"));
    frame.put(body);
    frame.freeze()
}

/// Nothing repeats more often than docs/LIMITS.md says, and addresses survive being read.
fn check_counts(frame: &Frame) {
    match frame {
        Frame::Hello(_) | Frame::Goodbye(_) | Frame::FlowOpen(_) => {}
        Frame::HelloAck(ack) => ack.observed.iter().for_each(check_address),
        Frame::Publish(publish) => assert!(publish.headers.len() <= MAX_HEADERS),
        Frame::Request(message::Request { body }) => match body {
            None | Some(request::Body::Ping(_) | request::Body::FindNode(_)) => {}
            Some(
                request::Body::FindValue(_) | request::Body::Store(_) | request::Body::Delete(_),
            ) => {}
            Some(request::Body::Call(call)) => assert!(call.headers.len() <= MAX_HEADERS),
            Some(request::Body::Changed(changed)) => {
                check_records(&changed.records);
                assert!(changed.lost.len() <= crate::wire::limits::MAX_LOST);
            }
        },
        Frame::Response(message::Response { body }) => match body {
            Some(response::Body::Nodes(nodes)) => check_contacts(&nodes.closest),
            Some(response::Body::Values(values)) => {
                check_records(&values.records);
                check_contacts(&values.closest);
            }
            Some(
                response::Body::Failure(_)
                | response::Body::Pong(_)
                | response::Body::Stored(_)
                | response::Body::Deleted(_)
                | response::Body::Answer(_)
                | response::Body::Noted(_),
            )
            | None => {}
        },
    }
}

fn check_records(records: &[message::StoredRecord]) {
    assert!(records.len() <= 512);
    for record in records {
        assert!(record.addresses.len() <= MAX_ADDRESSES);
        record.addresses.iter().for_each(check_address);
    }
}

fn check_contacts(contacts: &[message::Contact]) {
    assert!(contacts.len() <= 20);
    for contact in contacts {
        let Ok(read) = Contact::try_from(contact.clone()) else { continue };
        assert!(read.addresses.len() <= MAX_ADDRESSES);
        let again = Contact::try_from(message::Contact::from(&read)).expect("it was one");
        assert_eq!(again.id, read.id);
    }
}

fn check_address(address: &message::Address) {
    let Ok(read) = std::net::SocketAddr::try_from(address.clone()) else { return };
    let again = std::net::SocketAddr::try_from(message::Address::from(read)).expect("it was one");
    assert_eq!(again.ip(), read.ip().to_canonical());
    assert_eq!(again.port(), read.port());
}

/// What a reader of a flow takes is within the limits, and is read again when it is written again.
pub(super) fn flows(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let publisher = NodeId::from_bytes([1; 20]);
    let frames = if input.flag() {
        decode(input.rest(), &[]).0
    } else {
        let mut frames = vec![Frame::FlowOpen(message::FlowOpen { incarnation: 7 })];
        while !input.is_empty() {
            frames.push(Frame::Publish(publish(&mut input)));
        }
        frames
    };
    let mut reader = Reader::new(publisher);
    let mut heard = Vec::new();
    for frame in frames {
        match reader.read(frame) {
            Ok(read) => heard.extend(read),
            Err(_) => break,
        }
    }
    let (mut writer, mut again) = (Writer::default(), BytesMut::new());
    Writer::open(heard.first().map_or(0, |read| read.message.incarnation), &mut again);
    for read in &heard {
        read.message.payload.check().expect("what is read is within the limits");
        writer.write(&read.message, read.dropped, &mut again).expect("and can be written");
    }
    let mut reader = Reader::new(publisher);
    let again = decode(&again, &[]).0.into_iter();
    let again = again.filter_map(|frame| reader.read(frame).expect("a writer's frames are read"));
    assert_eq!(again.collect::<Vec<_>>(), heard);
}

fn publish(input: &mut Input<'_>) -> message::Publish {
    const TOPICS: &[&str] = &["", "a", "a.b", "sensor.temp", "a..b", "*"];
    let headers = (0..input.below(40)).filter(|n| n % 8 == 0);
    message::Publish {
        sequence: input.number(),
        alias: u32::from(input.byte()),
        topic: input.pick(TOPICS).to_owned(),
        payload: input.bytes(),
        content_type: "x".repeat(usize::from(input.short()) % 300),
        headers: headers.map(|_| message::Header::default()).collect(),
        dropped: u64::from(input.byte()),
    }
}
