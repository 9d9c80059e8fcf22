//! What the authority allows a node beyond being there, and how a certificate carries it.
//!
//! Node id and grants travel in one private, non-critical extension, [`EXTENSION_OID`]. Its value
//! is DER:
//!
//! ```text
//! MaculaNode ::= SEQUENCE {
//!     version  INTEGER (1),
//!     nodeId   OCTET STRING (SIZE (20)),
//!     grants   BIT STRING { server (0) } }
//! ```
//!
//! It is read strictly: one encoding for one value, no byte left over, no other version. Bits that
//! this version does not know are skipped, so that an authority may be upgraded before its nodes.

use crate::id::NodeId;

/// What a certificate allows its node to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants {
    /// The node may answer DHT requests and keep records for others. Infrastructure always may.
    pub server: bool,
}

/// The private extension: `iso.org.dod.internet.private.enterprise`, then 58888, a number that
/// stands in for one of our own, then `1` for identity and `1` for this extension.
pub const EXTENSION_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 58888, 1, 1];

/// The extension's value.
pub(crate) fn encode(id: &NodeId, grants: Grants) -> Vec<u8> {
    // A named bit list drops its trailing zeros (X.690 §11.2.2): `server` is bit 0 of one byte.
    let Grants { server } = grants;
    let bits: &[u8] = if server { &[7, 0b1000_0000] } else { &[0] };
    let mut body = VERSION.to_vec();
    push(&mut body, OCTET_STRING, id.as_bytes());
    push(&mut body, BIT_STRING, bits);
    let mut value = Vec::new();
    push(&mut value, SEQUENCE, &body);
    value
}

/// Reads the extension's value, or says what is wrong with it.
pub(crate) fn decode(value: &[u8]) -> Result<(NodeId, Grants), &'static str> {
    let (body, rest) = take(value, SEQUENCE).ok_or("it is not a DER sequence")?;
    if !rest.is_empty() {
        return Err("bytes follow its end");
    }
    let body = body.strip_prefix(&VERSION).ok_or("its version is not 1")?;
    let (id, body) = take(body, OCTET_STRING).ok_or("its node id is not an octet string")?;
    let id = NodeId::try_from(id).map_err(|_| "its node id is not 20 bytes long")?;
    let (bits, rest) = take(body, BIT_STRING).ok_or("its grants are not a bit string")?;
    if !rest.is_empty() {
        return Err("bytes follow its grants");
    }
    let server = named_bits(bits).ok_or("its grants are not in DER")?.first();
    Ok((id, Grants { server: server.is_some_and(|byte| byte & 0b1000_0000 != 0) }))
}

/// The bytes of a named bit list, whose last bit is a one.
fn named_bits(content: &[u8]) -> Option<&[u8]> {
    let (&unused, bytes) = content.split_first()?;
    match bytes.last() {
        None => (unused == 0).then_some(bytes),
        Some(last) => (last.trailing_zeros() == u32::from(unused)).then_some(bytes),
    }
}

/// The content of the first element, which must have this tag and a length of one byte, and what
/// follows it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length @ 0..0x80, rest @ ..] = bytes else { return None };
    if *found != tag {
        return None;
    }
    rest.split_at_checked(usize::from(*length))
}

fn push(to: &mut Vec<u8>, tag: u8, content: &[u8]) {
    let length = u8::try_from(content.len()).expect("ours are shorter than 128 bytes");
    to.extend([tag, length]);
    to.extend(content);
}

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
const BIT_STRING: u8 = 0x03;
/// `INTEGER 1`.
const VERSION: [u8; 3] = [0x02, 0x01, 0x01];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: NodeId = NodeId::from_bytes([0xab; 20]);

    fn bytes(spaced: &str) -> Vec<u8> {
        spaced.split_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect()
    }

    fn with_grants(grants: &str) -> Vec<u8> {
        let grants = bytes(grants);
        let mut value = bytes("30 00 02 01 01 04 14");
        value.extend([0xab; 20]);
        value.extend(grants);
        value[1] = u8::try_from(value.len() - 2).unwrap();
        value
    }

    #[test]
    fn the_bytes_on_the_wire_are_these() {
        let server = Grants { server: true };
        //                                      ┌ version ┐┌ node id, 20 bytes of ab … ┐┌ grants
        assert_eq!(encode(&ID, server), with_grants("03 02 07 80"));
        assert_eq!(encode(&ID, Grants::default()), with_grants("03 01 00"));
        assert_eq!(encode(&ID, server)[..7], bytes("30 1d 02 01 01 04 14"));
    }

    #[test]
    fn grants_of_a_later_version_are_skipped() {
        assert_eq!(decode(&with_grants("03 02 05 a0")), Ok((ID, Grants { server: true })));
        assert_eq!(decode(&with_grants("03 02 06 40")), Ok((ID, Grants { server: false })));
        assert_eq!(decode(&with_grants("03 03 07 00 80")), Ok((ID, Grants { server: false })));
    }

    #[test]
    fn refuses_every_other_way_to_write_the_same() {
        let refused = |value: &[u8]| decode(value).unwrap_err();
        let good = with_grants("03 02 07 80");
        assert_eq!(refused(&[]), "it is not a DER sequence");
        assert_eq!(refused(&[&good[..], &[0]].concat()), "bytes follow its end");
        assert_eq!(refused(&good[..good.len() - 1]), "it is not a DER sequence");
        assert_eq!(refused(&with_grants("03 02 07 80 05 00")), "bytes follow its grants");
        assert_eq!(refused(&with_grants("03 02 00 80")), "its grants are not in DER");
        assert_eq!(refused(&with_grants("03 02 07 00")), "its grants are not in DER");
        assert_eq!(refused(&with_grants("03 01 07")), "its grants are not in DER");
        assert_eq!(refused(&with_grants("03 00")), "its grants are not in DER");
        assert_eq!(refused(&with_grants("")), "its grants are not a bit string");
        let mut later = good.clone();
        later[4] = 2;
        assert_eq!(refused(&later), "its version is not 1");
        let short = bytes("30 08 02 01 01 04 00 03 01 00");
        assert_eq!(refused(&short), "its node id is not 20 bytes long");
        let long_form = [&[0x30, 0x81, 0x1d], &good[2..]].concat();
        assert_eq!(refused(&long_form), "it is not a DER sequence");
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(id: [u8; 20], server: bool) {
            let (id, grants) = (NodeId::from_bytes(id), Grants { server });
            prop_assert_eq!(decode(&encode(&id, grants)), Ok((id, grants)));
        }

        #[test]
        fn garbage_never_panics(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&value);
        }
    }
}
