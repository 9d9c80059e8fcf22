//! Records: what a peer tells its realm, signed by itself, and judged by everybody it passes
//! (docs/PROTOCOL.md §5.1).
//!
//! A storer verifies what it is given, and a reader verifies what a storer shows: nobody has to
//! trust a server. A record stands only as long as its publisher's certificate does.

pub(crate) mod verifier;

use std::time::Duration;

use bytes::Bytes;
use macula_identity::{Chain, NodeKey};
use prost::Message;

use crate::error::{Code, Fault};
use crate::key::{self, Key};
use crate::name::{ProcedureName, RealmName, TopicPattern};
use crate::wire::limits;
use crate::wire::message;

pub use verifier::{Trust, VerifiedRecord, Verifier};

/// The most bytes of a signed record: body, certificate and signature.
pub const MAX_RECORD: usize = 4 << 10;
/// The most patterns of one subscriber's record.
pub const MAX_PATTERNS: usize = limits::MAX_PATTERNS;
/// How long a storer keeps a record at most, whatever the record says.
pub const MAX_TTL: Duration = Duration::from_secs(600);

/// What the signature covers starts with this, so that it stands for nothing else.
const CONTEXT: &[u8] = b"macula/1 record\0";

/// What a record says its publisher does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It wants the messages that match.
    Subscriber {
        /// All of its patterns that share the rendezvous: 1 to [`MAX_PATTERNS`].
        patterns: Vec<TopicPattern>,
    },
    /// It answers calls.
    Provider,
}

impl Kind {
    /// The kind alone, as it goes into the key.
    #[must_use]
    pub const fn key_kind(&self) -> key::Kind {
        match self {
            Self::Subscriber { .. } => key::Kind::Subscriber,
            Self::Provider => key::Kind::Provider,
        }
    }

    /// Of a subscriber, its patterns.
    #[must_use]
    pub fn patterns(&self) -> &[TopicPattern] {
        match self {
            Self::Subscriber { patterns } => patterns,
            Self::Provider => &[],
        }
    }
}

/// What a peer says about itself under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The publisher's realm.
    pub realm: RealmName,
    /// What it is about.
    pub kind: Kind,
    /// The procedure of a provider; the rendezvous of a subscriber's patterns
    /// ([`TopicPattern::rendezvous`]).
    pub name: String,
    /// When the publisher started, in milliseconds since 1970.
    pub incarnation: u64,
    /// Rises with each record of an incarnation.
    pub sequence: u64,
    /// When it ends, in milliseconds since 1970.
    pub expiry_ms: u64,
    /// Takes back what stands under the key.
    pub withdrawn: bool,
}

impl Record {
    /// Where it is stored.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::of(&self.realm, self.kind.key_kind(), &self.name)
    }

    /// The later of two records of one publisher under one key is the greater here.
    #[must_use]
    pub const fn order(&self) -> (u64, u64) {
        (self.incarnation, self.sequence)
    }

    /// Reads a record's body.
    ///
    /// # Errors
    /// `too_large` with more than [`MAX_PATTERNS`] patterns, `invalid_record` when a field does not
    /// hold what it should.
    pub fn decode(body: &[u8]) -> Result<Self, Fault> {
        limits::check(limits::RECORD, body)
            .map_err(|fault| Fault { because: format!("its body: {}", fault.because), ..fault })?;
        let message =
            message::Record::decode(body).map_err(|_| invalid("its body cannot be decoded"))?;
        let kind = message.kind();
        let message::Record {
            realm,
            kind: _,
            name,
            patterns,
            incarnation,
            sequence,
            expiry_ms,
            withdrawn,
        } = message;
        let realm = realm.parse().map_err(|error| invalid(format!("{error}")))?;
        let patterns: Vec<TopicPattern> = patterns
            .iter()
            .map(|pattern| pattern.parse().map_err(|error| invalid(format!("{error}"))))
            .collect::<Result<_, _>>()?;
        let kind = match kind {
            message::record::Kind::Subscriber => Kind::Subscriber { patterns },
            message::record::Kind::Provider if patterns.is_empty() => Kind::Provider,
            message::record::Kind::Provider => return Err(invalid("a provider has no patterns")),
            message::record::Kind::Unspecified => return Err(invalid("its kind is unknown")),
        };
        let record = Self { realm, kind, name, incarnation, sequence, expiry_ms, withdrawn };
        record.check_name()?;
        Ok(record)
    }

    /// Whether the name is one that this kind of record lives under.
    fn check_name(&self) -> Result<(), Fault> {
        match &self.kind {
            Kind::Provider => {
                self.name.parse::<ProcedureName>().map_err(|error| invalid(format!("{error}")))?;
            }
            Kind::Subscriber { patterns } => {
                let rendezvous = self
                    .name
                    .parse::<TopicPattern>()
                    .map_err(|error| invalid(format!("{error}")))?;
                if rendezvous.rendezvous() != self.name {
                    return Err(invalid("its name is not a rendezvous: one segment, or '*'"));
                }
                if let Some(pattern) = patterns.iter().find(|p| p.rendezvous() != self.name) {
                    let because = format!("{pattern} is not found under {}", self.name);
                    return Err(invalid(because));
                }
                if patterns.is_empty() && !self.withdrawn {
                    return Err(invalid("a subscriber has at least one pattern"));
                }
            }
        }
        Ok(())
    }

    fn encode(&self) -> Bytes {
        let kind = match self.kind {
            Kind::Subscriber { .. } => message::record::Kind::Subscriber,
            Kind::Provider => message::record::Kind::Provider,
        };
        let message = message::Record {
            realm: self.realm.to_string(),
            kind: kind.into(),
            name: self.name.clone(),
            patterns: self.kind.patterns().iter().map(ToString::to_string).collect(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            expiry_ms: self.expiry_ms,
            withdrawn: self.withdrawn,
        };
        message.encode_to_vec().into()
    }
}

/// Signs a record as its publisher.
///
/// # Errors
/// What every storer would refuse is refused here: `too_large` over [`MAX_RECORD`] bytes or
/// [`MAX_PATTERNS`] patterns, `invalid_record` when the name does not fit the kind.
pub fn sign(record: &Record, key: &NodeKey, chain: &Chain) -> Result<message::SignedRecord, Fault> {
    let patterns = record.kind.patterns().len();
    if patterns > MAX_PATTERNS {
        let because = format!("{patterns} patterns start alike, and {MAX_PATTERNS} is the most");
        return Err(Fault::new(Code::TooLarge, because));
    }
    record.check_name()?;
    let body = record.encode();
    let signature = Bytes::copy_from_slice(&key.sign(&signed_bytes(&body)));
    let certificate = Bytes::copy_from_slice(&chain.leaf_der()[..]);
    let signed = message::SignedRecord { body, certificate, signature };
    check_size(&signed)?;
    Ok(signed)
}

/// How many bytes a signed record has.
pub(crate) fn size(signed: &message::SignedRecord) -> usize {
    let message::SignedRecord { body, certificate, signature } = signed;
    body.len() + certificate.len() + signature.len()
}

fn check_size(signed: &message::SignedRecord) -> Result<(), Fault> {
    match size(signed) {
        0..=MAX_RECORD => Ok(()),
        more => {
            let because = format!("the record has {more} bytes, and {MAX_RECORD} is the most");
            Err(Fault::new(Code::TooLarge, because))
        }
    }
}

pub(crate) fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [CONTEXT, body].concat()
}

fn invalid(because: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidRecord, because)
}

#[cfg(test)]
pub(crate) mod tests;
