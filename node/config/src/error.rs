//! Says which file, where in it, which key, and what is wrong with it.

use std::fmt;

/// Why a configuration file is refused. Reads like a compiler's line:
/// `node.yaml:4:8: realm: realm name "Shop" is refused: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub(crate) source_name: String,
    pub(crate) location: Option<Location>,
    pub(crate) why: String,
}

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A value that is well-formed and still wrong, or wrong beside another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct Invalid {
    /// The key, as in the file: `api.listen`.
    pub key: &'static str,
    /// The reason, for a person.
    pub why: String,
}

impl Invalid {
    pub(crate) fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }
}

impl Error {
    /// Where in the file, when that is known (a missing key is nowhere).
    #[must_use]
    pub const fn location(&self) -> Option<Location> {
        self.location
    }

    /// The key and the reason, without the file.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source_name, location, why } = self;
        match location {
            Some(Location { line, column }) => write!(f, "{source_name}:{line}:{column}: {why}"),
            None => write!(f, "{source_name}: {why}"),
        }
    }
}

impl std::error::Error for Error {}
