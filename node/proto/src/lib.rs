//! The mesh without I/O: ids, names, wire, DHT, pub/sub, RPC and the rules between realms.
//!
//! Everything here is told the time and given its randomness; it takes inputs and returns outputs.
//! [`engine::Engine`] joins the parts into one node: the shell (`macula-node`) drives it with real
//! sockets, the simulation with virtual time and a seed. Start at [`engine`].

pub mod dht;
pub mod directory;
pub mod engine;
pub mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod key;
pub mod limits;
pub mod name;
pub mod payload;
pub mod pubsub;
pub mod realm;
pub mod record;
pub mod rpc;
#[cfg(feature = "sim")]
pub mod sim;
pub mod time;
pub mod wire;

pub use error::{Code, Fault};
pub use macula_identity as identity;
