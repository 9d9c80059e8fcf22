//! Text forms of bytes: PEM, hexadecimal, and excerpts of what a stranger wrote.

use std::fmt;

use rustls::pki_types::pem::{PemObject, SectionKind};

/// One PEM section.
pub(crate) fn to_pem(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

/// The sections of a PEM text in their order; text around them is a comment (RFC 7468 §2).
pub(crate) fn pem_sections(text: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| excerpt(&error.to_string()))
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `N` bytes from `2 * N` hexadecimal digits of either case.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

/// The beginning of a text that someone else chose, so that what we print of it is bounded.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Long enough for a name, short enough for a log line and for a QUIC close frame.
const EXCERPT: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_back_and_others_are_refused() {
        let bytes = [0x00, 0x7f, 0xff];
        assert_eq!(Hex(&bytes).to_string(), "007fff");
        assert_eq!(from_hex("007fFF"), Some(bytes));
        assert_eq!(from_hex::<3>("007ff"), None);
        assert_eq!(from_hex::<3>("007ffg"), None);
        assert_eq!(from_hex::<3>("+07fff"), None);
    }

    #[test]
    fn an_excerpt_is_bounded_and_says_that_it_is_one() {
        assert_eq!(excerpt("short"), "short");
        let long = excerpt(&"é".repeat(10_000));
        assert_eq!(long.chars().count(), EXCERPT + 1);
        assert!(long.ends_with('…'));
    }
}
