//! QUIC: one UDP socket that dials and listens, and connections whose other end has been judged.
//!
//! The only module that knows quinn. It has never heard of topics or procedures.

mod endpoint;
mod link;
mod socket;
mod stream;

pub use endpoint::{BindError, Endpoint, Incoming, any_address};

pub use link::{Direction, Link};
pub(crate) use stream::{FlowReader, RequestStream};
