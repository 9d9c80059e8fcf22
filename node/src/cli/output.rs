//! Where words go: results to standard output, all talk to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use macula_proto::Code;
use serde_json::Value;

use super::failure::{Failure, Stop};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change.
    #[default]
    Text,
    /// For programs; a contract: fields are added, never renamed. Failures are printed to standard
    /// output too, as {"error": {…}}.
    Json,
}

/// Writes a result's bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut out = stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::ReaderGone,
        _ => Failure::new(Code::Internal, "write to standard output", error.to_string())
            .with_next("See where standard output leads, and whether that is full.")
            .into(),
    })
}

/// Writes a result's line.
pub(crate) fn line(line: impl fmt::Display) -> Result<(), Stop> {
    bytes(format!("{line}\n").as_bytes())
}

/// Writes what a program reads: one value on one line.
pub(crate) fn json(value: &Value) -> Result<(), Stop> {
    line(value)
}

/// Says something beside the result. A closed standard error is no failure.
pub(crate) fn say(text: impl fmt::Display) {
    let _ = writeln!(stderr(), "{text}");
}

#[cfg(not(test))]
fn stdout() -> impl Write {
    io::stdout().lock()
}

#[cfg(not(test))]
fn stderr() -> impl Write {
    io::stderr().lock()
}

/// What a test's commands print is nobody's to read.
#[cfg(test)]
use io::{sink as stderr, sink as stdout};

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A message's text for a person: line ends and tabs stay, other control characters are written
/// out, so that nobody's message moves the reader's cursor.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_move_the_cursor() {
        assert_eq!(visible("a\n\tb\x1b[2J\u{9b}é"), "a\n\tb\\u{1b}[2J\\u{9b}é");
    }
}
