//! What travels between nodes: the messages of `schema/macula.proto`, their frames and limits
//! (docs/PROTOCOL.md §3).

pub mod frame;
pub(crate) mod limits;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use macula_identity::NodeId;

use crate::error::{Code, Fault};

pub use frame::{Frame, FrameDecoder, FrameType};

/// The newest version of the protocol that this crate speaks.
pub const VERSION: u32 = 1;
/// The ALPN of the protocol (RFC 7301).
pub const ALPN: &[u8] = b"macula/1";
/// The most bytes of a publish's or a call's payload.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The most addresses that one contact may have.
pub const MAX_ADDRESSES: usize = 8;
/// The most application headers of a publish or call.
pub const MAX_HEADERS: usize = 32;

/// The longest that a node leaves another alone because that one said so.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);
/// The most characters of what another node says went wrong.
pub(crate) const MAX_BECAUSE: usize = 1024;

/// The generated messages.
#[allow(missing_docs, reason = "generated; the schema documents them")]
#[allow(clippy::all, reason = "generated")]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/macula.v1.rs"));
}

/// A node and the addresses at which somebody met it. Dialling one must end at this very id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The node that must answer.
    pub id: NodeId,
    /// Where to try, best first; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
}

impl From<&Contact> for message::Contact {
    fn from(contact: &Contact) -> Self {
        Self {
            id: Bytes::copy_from_slice(contact.id.as_bytes()),
            addresses: contact.addresses.iter().map(|address| (*address).into()).collect(),
        }
    }
}

impl TryFrom<message::Contact> for Contact {
    type Error = Malformed;

    fn try_from(message: message::Contact) -> Result<Self, Malformed> {
        let id = NodeId::try_from(&message.id[..]).map_err(|_| Malformed("a node id"))?;
        let addresses =
            message.addresses.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { id, addresses })
    }
}

impl From<SocketAddr> for message::Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip().to_canonical() {
            IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
        };
        Self { ip, port: u32::from(address.port()) }
    }
}

impl TryFrom<message::Address> for SocketAddr {
    type Error = Malformed;

    fn try_from(message: message::Address) -> Result<Self, Malformed> {
        let port = u16::try_from(message.port).map_err(|_| Malformed("a port"))?;
        let ip = match message.ip.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(&message.ip[..]).expect("four bytes")),
            16 => IpAddr::from(<[u8; 16]>::try_from(&message.ip[..]).expect("sixteen bytes")),
            _ => return Err(Malformed("an IP address")),
        };
        Ok(Self::new(ip, port))
    }
}

impl From<&Fault> for message::Failure {
    fn from(fault: &Fault) -> Self {
        // Rounded up, since no time at all means that nothing is said.
        let pause = fault.retry_after.map_or(0, |pause| pause.as_nanos().div_ceil(1_000_000));
        Self {
            code: fault.code.number(),
            because: fault.because.clone(),
            retry_after_ms: u32::try_from(pause).unwrap_or(u32::MAX),
        }
    }
}

impl From<message::Failure> for Fault {
    /// A code of a later version is `internal`, with its words.
    fn from(failure: message::Failure) -> Self {
        let message::Failure { code, because, retry_after_ms } = failure;
        let code = Code::from_number(code.into()).unwrap_or(Code::Internal);
        let because: String = because.chars().take(MAX_BECAUSE).collect();
        let pause = Duration::from_millis(retry_after_ms.into()).min(MAX_RETRY_AFTER);
        let retry_after = (!pause.is_zero()).then_some(pause);
        Self { retry_after, ..Self::new(code, because) }
    }
}

/// A message that decodes, and one of whose fields does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} in the message is malformed")]
pub struct Malformed(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_travels_with_when_to_come_back_and_without() {
        for pause in [None, Some(Duration::from_millis(1)), Some(MAX_RETRY_AFTER)] {
            let fault = Fault { retry_after: pause, ..Fault::new(Code::Overloaded, "too much") };
            assert_eq!(Fault::from(message::Failure::from(&fault)), fault);
        }
    }

    #[test]
    fn a_pause_is_rounded_up_when_it_is_told_and_cut_when_it_is_heard() {
        let told = |pause| message::Failure::from(&Fault::of(Code::Overloaded).retry_after(pause));
        assert_eq!(told(Duration::from_nanos(1)).retry_after_ms, 1);
        assert_eq!(told(Duration::MAX).retry_after_ms, u32::MAX);
        let heard = |retry_after_ms| {
            let failure = message::Failure { code: 7, because: String::new(), retry_after_ms };
            Fault::from(failure).retry_after
        };
        assert_eq!(heard(0), None);
        assert_eq!(heard(9_999), Some(Duration::from_millis(9_999)));
        assert_eq!(heard(10_001), Some(MAX_RETRY_AFTER));
        assert_eq!(heard(u32::MAX), Some(MAX_RETRY_AFTER));
    }
}
