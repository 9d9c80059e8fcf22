//! What travels between nodes: the messages of `schema/macula.proto`, their frames and limits
//! (docs/PROTOCOL.md §3).

pub mod frame;
pub(crate) mod limits;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use macula_identity::NodeId;

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

/// A message that decodes, and one of whose fields does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} in the message is malformed")]
pub struct Malformed(pub &'static str);
