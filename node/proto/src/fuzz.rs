//! What a fuzzer throws at the core: for each parser, and for one whole node, a function of bytes that
//! panics when something does not hold that must hold whatever anybody sends.
//!
//! cargo-fuzz drives them for as long as one likes (`make fuzz TARGET=core FOR=600`), and each run of the
//! tests for seconds, from the corpus that is kept in `node/proto/fuzz/corpus` (`tests/fuzz.rs`).
//!
//! | target | what the bytes are |
//! | --- | --- |
//! | `frames` | a stream of frames, and how it is cut |
//! | `messages` | the body of one frame |
//! | `records` | a record, or what is done to one that was signed |
//! | `names` | a text, read as each kind of name; patterns and a topic |
//! | `flows` | the frames of one publisher's flow |
//! | `certificates` | a certificate or a request for one, or what is done to a good one |
//! | `enrolment` | the body of an enrolment's request or answer |
//! | `core` | a program: what a node hears, is told to do, and how the time goes by |

mod cast;
mod core;
mod identity;
mod input;
mod names;
mod record;
pub mod seeds;
mod wire;

/// A target: its name, and what it does with an input. It panics when a law is broken.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("frames", wire::frames),
    ("messages", wire::messages),
    ("records", record::records),
    ("names", names::names),
    ("flows", wire::flows),
    ("certificates", identity::certificates),
    ("enrolment", identity::enrolment),
    ("core", core::core),
];

/// The function of this name.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
