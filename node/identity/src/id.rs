//! The 160-bit identifier of a node, chosen by the authority that signs its certificate.

use std::fmt;
use std::str::FromStr;

/// The place of a node in the key space: 160 bits, as in the Kademlia paper (Maymounkov and
/// Mazières, 2002, §2). Written as 40 lowercase hexadecimal digits.
///
/// The authority derives it from the subject that it signs for, with a secret key; a node cannot
/// choose its own place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; Self::LENGTH]);

impl NodeId {
    /// Length in bytes.
    pub const LENGTH: usize = 20;

    /// The identifier with these bytes, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The first eight hexadecimal digits: enough for a person to tell nodes apart in a log.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

/// Why some bytes or some text are not a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The wrong number of bytes.
    #[error("a node id is 20 bytes, not {0}")]
    Length(usize),
    /// Text that is not 40 hexadecimal digits.
    #[error("a node id is written as 40 hexadecimal digits")]
    NotHex,
}

impl TryFrom<&[u8]> for NodeId {
    type Error = ParseError;

    fn try_from(bytes: &[u8]) -> Result<Self, ParseError> {
        bytes.try_into().map(Self).map_err(|_| ParseError::Length(bytes.len()))
    }
}

impl FromStr for NodeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::LENGTH || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(ParseError::NotHex);
        }
        let mut bytes = [0; Self::LENGTH];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let value =
                |digit: u8| char::from(digit).to_digit(16).expect("checked to be hex above");
            *byte = u8::try_from(value(pair[0]) * 16 + value(pair[1])).expect("two hex digits");
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_forty_digits_and_read_back() {
        let id = NodeId::from_bytes(std::array::from_fn(|i| i as u8 * 11));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(NodeId::try_from(&id.as_bytes()[..]), Ok(id));
    }

    #[test]
    fn refuses_what_is_shorter_longer_or_not_hex() {
        assert_eq!("ab".parse::<NodeId>(), Err(ParseError::NotHex));
        assert_eq!("é".repeat(20).parse::<NodeId>(), Err(ParseError::NotHex));
        assert_eq!("g".repeat(40).parse::<NodeId>(), Err(ParseError::NotHex));
        assert_eq!(NodeId::try_from(&[0; 19][..]), Err(ParseError::Length(19)));
        assert_eq!(NodeId::try_from(&[0; 21][..]), Err(ParseError::Length(21)));
    }
}
