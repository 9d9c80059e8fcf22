//! What infrastructure tells the operator: `GET /v1/counts` by HTTPS, for the operator alone.

use serde::{Deserialize, Serialize};

use crate::Role;

/// The path.
pub const PATH: &str = "/v1/counts";

/// The TCP port.
pub const PORT: u16 = 7782;

/// Which nodes one node of the infrastructure sees alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The node that answers.
    pub node: Node,
    /// The nodes with which it has an open connection, authenticated by both sides.
    pub links: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its 160-bit id, 40 hexadecimal digits.
    pub id: String,
    /// What it is for.
    pub role: Role,
    /// A peer's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
}
