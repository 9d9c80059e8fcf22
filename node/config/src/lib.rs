//! What the operator writes and the node reads: the file of `macula-node run --config FILE`.
//!
//! [`Config`] is the whole of it, [`EXAMPLE`] a complete one. Every key, unknown or wrong, is
//! refused with the file, the place and the reason; nothing is guessed and nothing is ignored.

mod config;
pub mod counts;
mod error;
pub mod period;
mod seed;
mod text;
mod url;
mod yaml;

pub use config::{Admin, Api, Config, Counts, DEFAULT_PORT, Discovery, Enrolment, Files, Identity};
pub use error::{Error, Invalid, Location};
pub use macula_identity::Role;
pub use seed::{Host, Seed};
pub use url::EnrolmentUrl;

/// A complete file with every key and a comment for each, as `macula-node run --help` prints it.
pub const EXAMPLE: &str = include_str!("example.yaml");
