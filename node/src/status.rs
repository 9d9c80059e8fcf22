//! What a node says of itself: `GET /v1/status`, `macula-node status`. The fields are a contract:
//! they are added to, never renamed.

use serde::{Deserialize, Serialize};

/// One node's view of itself and of the mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the binary.
    pub version: String,
    /// Who it is.
    pub node: Node,
    /// Whether it has joined its mesh.
    pub ready: bool,
    /// What it waits for, a sentence each: a seed's name that does not resolve, a certificate.
    pub waiting: Vec<String>,
    /// Its certificate.
    pub certificate: Certificate,
    /// The UDP address that it dials and listens on.
    pub listen: String,
    /// The addresses that the seeds' names resolve to now.
    pub seeds: Vec<String>,
    /// The nodes that it is connected to.
    pub connections: Vec<Connection>,
    /// What it knows of the DHT.
    pub dht: Dht,
    /// The patterns that it subscribes to.
    pub subscriptions: Vec<String>,
    /// The procedures that it offers.
    pub advertisements: Vec<String>,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its 160-bit id, 40 hexadecimal digits.
    pub id: String,
    /// Its name within the role.
    pub name: String,
    /// `bootstrap`, `gateway` or `peer`.
    pub role: String,
    /// A peer's realm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// The mesh, `<namespace>.<name>`.
    pub mesh: String,
    /// When it started, in milliseconds since 1970.
    pub incarnation: u64,
}

/// The state of a node's certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The SPIFFE ID.
    pub subject: String,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
    /// How long that is from now.
    pub seconds_left: u64,
}

/// One connection to another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// The other node's id.
    pub id: String,
    /// Its SPIFFE ID.
    pub subject: String,
    /// Where it is.
    pub address: String,
    /// `dialled` or `accepted`.
    pub direction: String,
    /// The smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
}

/// What a node knows of the DHT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dht {
    /// Infrastructure nodes in its table.
    pub infrastructure: usize,
    /// Serving peers of realms in its tables.
    pub realm_servers: usize,
    /// Records that it stores for others.
    pub records: usize,
}
