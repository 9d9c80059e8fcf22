//! Counts what repeats in a message before it is decoded: protobuf bounds depth, not breadth, and
//! an empty sub-message of two bytes becomes a hundred in memory.

use super::{MAX_ADDRESSES, MAX_HEADERS};
use crate::error::{Code, Fault};

/// The fields of a message that hold messages: a message that repeats over its limit is refused.
/// A singular one may appear once, since protobuf merges a second into the first.
pub(crate) type Shape = &'static [Field];

#[derive(Debug)]
pub(crate) struct Field {
    number: u64,
    most: usize,
    inner: Shape,
}

const fn field(number: u64, most: usize, inner: Shape) -> Field {
    Field { number, most, inner }
}

/// The most contacts in an answer: one bucket.
pub(crate) const MAX_CONTACTS: usize = 20;
/// The most records in an answer: what a storer keeps for one key.
pub(crate) const MAX_RECORDS: usize = 512;
/// The most lost publishers that one push names; a storer that knows of more says that it is truncated.
pub(crate) const MAX_LOST: usize = 64;
/// The most patterns in one subscriber's record.
pub(crate) const MAX_PATTERNS: usize = 64;

/// No field may repeat, except scalars, of which the last counts.
pub(crate) const PLAIN: Shape = &[field(3, 1, &[])];
const ONE_RECORD: Shape = &[field(1, 1, &[])];
const STORE: Shape = &[field(1, 1, &[]), field(2, MAX_ADDRESSES, &[])];
pub(crate) const CONTACT: Shape = &[field(2, MAX_ADDRESSES, &[])];
pub(crate) const STORED_RECORD: Shape = &[field(1, 1, &[]), field(2, MAX_ADDRESSES, &[])];
pub(crate) const REQUEST: Shape = &[
    field(1, 1, &[]),
    field(2, 1, &[]),
    field(3, 1, &[field(4, 1, &[])]),
    field(4, 1, STORE),
    field(5, 1, ONE_RECORD),
    field(6, 1, &[field(6, MAX_HEADERS, &[])]),
    field(7, 1, &[field(2, 1, &[]), field(4, MAX_RECORDS, STORED_RECORD), field(5, MAX_LOST, &[])]),
];
pub(crate) const RESPONSE: Shape = &[
    field(15, 1, &[]),
    field(1, 1, &[]),
    field(2, 1, &[field(1, MAX_CONTACTS, CONTACT)]),
    field(
        3,
        1,
        &[
            field(1, MAX_RECORDS, STORED_RECORD),
            field(2, MAX_CONTACTS, CONTACT),
            field(4, 1, &[]),
            field(6, 1, &[]),
        ],
    ),
    field(4, 1, &[]),
    field(5, 1, &[]),
    field(6, 1, &[]),
    field(7, 1, &[]),
];
pub(crate) const PUBLISH: Shape = &[field(6, MAX_HEADERS, &[])];
/// Of [`super::message::Record`], whose patterns are strings.
pub(crate) const RECORD: Shape = &[field(4, MAX_PATTERNS, &[])];

/// Holds a message's bytes against its shape.
///
/// # Errors
/// `too_large` when something repeats too often, `protocol` when the bytes are no protobuf.
pub(crate) fn check(shape: Shape, mut bytes: &[u8]) -> Result<(), Fault> {
    let mut seen = [0_usize; 9];
    debug_assert!(shape.len() <= seen.len(), "one counter a field");
    while !bytes.is_empty() {
        let (number, inner) = next_field(&mut bytes)
            .ok_or_else(|| Fault::new(Code::Protocol, "the bytes are not a protobuf message"))?;
        let Some(at) = shape.iter().position(|field| field.number == number) else { continue };
        let Field { number, most, inner: shape } = &shape[at];
        seen[at] += 1;
        if seen[at] > *most {
            let because = format!("field {number} repeats more than {most} times");
            return Err(Fault::new(Code::TooLarge, because));
        }
        if let (Some(inner), false) = (inner, shape.is_empty()) {
            check(shape, inner)?;
        }
    }
    Ok(())
}

/// Takes one field off the front; with its bytes when it is length-delimited.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let tag = varint(bytes)?;
    let inner = match tag & 7 {
        0 => varint(bytes).map(|_| None)?,
        1 => take(bytes, 8).map(|_| None)?,
        5 => take(bytes, 4).map(|_| None)?,
        2 => {
            let length = varint(bytes)?;
            Some(take(bytes, length)?)
        }
        // Groups are not part of proto3, and their depth is how such scanners are attacked.
        _ => return None,
    };
    Some((tag >> 3, inner))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;
    use prost::Message;

    fn nodes(contacts: usize, addresses: usize) -> Vec<u8> {
        let contact = message::Contact {
            addresses: vec![message::Address::default(); addresses],
            ..Default::default()
        };
        let body =
            message::response::Body::Nodes(message::Nodes { closest: vec![contact; contacts] });
        message::Response { body: Some(body) }.encode_to_vec()
    }

    #[test]
    fn as_many_as_the_limit_pass_and_one_more_is_refused() {
        assert_eq!(check(RESPONSE, &nodes(20, 8)), Ok(()));
        assert_eq!(check(RESPONSE, &nodes(21, 8)).unwrap_err().code, Code::TooLarge);
        assert_eq!(check(RESPONSE, &nodes(20, 9)).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_record_comes_with_as_many_addresses_as_a_contact_has() {
        let store = |addresses| {
            let addresses = vec![message::Address::default(); addresses];
            let store = message::Store { record: None, addresses };
            let body = Some(message::request::Body::Store(store));
            message::Request { body }.encode_to_vec()
        };
        assert_eq!(check(REQUEST, &store(MAX_ADDRESSES)), Ok(()));
        assert_eq!(check(REQUEST, &store(MAX_ADDRESSES + 1)).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_body_given_twice_is_refused_since_it_would_be_merged() {
        let twice = [nodes(15, 1), nodes(15, 1)].concat();
        assert_eq!(check(RESPONSE, &twice).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_bomb_of_empty_messages_is_refused() {
        let bomb = [0x0a, 0x00].repeat(500_000);
        let mut values = vec![0x1a];
        prost::encoding::encode_varint(bomb.len() as u64, &mut values);
        values.extend(bomb);
        assert_eq!(check(RESPONSE, &values).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn unknown_fields_pass_and_groups_do_not() {
        let unknown = [0xf8, 0x07, 0x01];
        assert_eq!(check(RESPONSE, &unknown), Ok(()));
        assert_eq!(check(RESPONSE, &[0x0b]).unwrap_err().code, Code::Protocol);
    }
}
