//! One node of a Macula mesh: the [`Peer`] library, and every socket that a node owns.
//!
//! docs/ARCHITECTURE.md says how the modules hang together.

pub mod api;
pub mod cli;
pub mod clock;
pub mod dev;
pub mod discovery;
mod disk;
pub mod enrolment;
pub mod identity;
pub mod join;
mod mesh;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod ping;
pub mod run;
pub mod status;
pub mod supervise;
pub mod transport;

pub use macula_proto::payload::Payload;
pub use macula_proto::{Code, Fault};
pub use node::Node;
pub use peer::Peer;
