//! Why a command ends without its result, and the four lines that a person reads of it.

use std::io::{self, IsTerminal, Write};
use std::ops::Deref;

use macula_proto::{Code, Fault};
use serde_json::{Value, json};

use super::exit::Exit;
use super::output::Format;

/// Why a command stops before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed.
    Failed(Failure),
    /// Nobody reads standard output any more (`macula-node sub '**' | head -1`): no failure.
    ReaderGone,
}

/// A failure as it is shown: what was tried, why it failed, what to do, where to read more.
///
/// A node of a later version may send codes that this version's table does not have, so the code is
/// a text here. It derefs to its [`Details`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(Box<Details>);

/// What a [`Failure`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) code: String,
    pub(crate) title: String,
    pub(crate) tried: String,
    pub(crate) because: String,
    pub(crate) next: String,
    pub(crate) retryable: bool,
    pub(crate) exit: Exit,
}

impl Failure {
    /// A failure of this code; what to do next comes from the table.
    pub(crate) fn new(code: Code, tried: impl Into<String>, because: impl Into<String>) -> Self {
        Self(Box::new(Details {
            code: code.name().to_owned(),
            title: code.title().to_owned(),
            tried: tried.into(),
            because: because.into(),
            next: code.next().to_owned(),
            retryable: code.is_retryable(),
            exit: Exit::of(code),
        }))
    }

    /// The same with advice that fits better than the table's.
    pub(crate) fn with_next(mut self, next: impl Into<String>) -> Self {
        self.0.next = next.into();
        self
    }

    /// The same with another exit code.
    pub(crate) fn with_exit(mut self, exit: Exit) -> Self {
        self.0.exit = exit;
        self
    }

    /// Reads a problem document (RFC 9457). What it leaves out comes from the table or from the
    /// request; what is no such document says so.
    pub(crate) fn from_problem(status: u16, body: &[u8], tried: &str, url: &str) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| document[key].as_str().filter(|text| !text.is_empty());
        let Some(name) = text("code") else {
            let because = format!("{url} answered {status} without a problem document of ours");
            return Self::new(Code::Protocol, tried, because)
                .with_next("See what listens there: it does not look like a macula-node.");
        };
        let code = Code::from_name(name);
        let or = |key, table: Option<&str>| {
            text(key).or(table).map_or_else(|| "not said".to_owned(), printable)
        };
        Self(Box::new(Details {
            code: printable(name),
            title: or("title", code.map(Code::title)),
            tried: text("tried").map_or_else(|| tried.to_owned(), printable),
            because: or("detail", code.map(Code::because)),
            next: or("next", code.map(Code::next)),
            retryable: document["retryable"]
                .as_bool()
                .unwrap_or_else(|| code.is_some_and(Code::is_retryable)),
            exit: code.map_or(Exit::of_status(status), Exit::of),
        }))
    }

    /// What an operation of this process reported: a [`Fault`] anywhere in its chain decides;
    /// otherwise an address that is taken is the configuration's, and the rest is ours.
    pub(crate) fn from_error(error: &anyhow::Error, tried: &str) -> Self {
        if let Some(fault) = error.chain().find_map(|cause| cause.downcast_ref::<Fault>()) {
            return Self::from(fault.clone()).tried_if_unsaid(tried);
        }
        if let Some(invalid) = error.chain().find_map(|e| e.downcast_ref::<macula_config::Error>())
        {
            return Self::new(Code::InvalidConfig, tried, invalid.to_string());
        }
        let because = format!("{error:#}");
        let kind = error.chain().find_map(|cause| cause.downcast_ref()).map(io::Error::kind);
        match kind {
            Some(io::ErrorKind::AddrInUse) => Self::new(Code::InvalidConfig, tried, because)
                .with_next("Stop what listens there, or choose another address."),
            Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                Self::new(Code::InvalidConfig, tried, because)
                    .with_next("Check the path and its permissions.")
            }
            Some(_) | None => Self::new(Code::Internal, tried, because)
                .with_next("Look at what is printed above; `--log debug` says more."),
        }
    }

    fn tried_if_unsaid(mut self, tried: &str) -> Self {
        if self.tried.is_empty() {
            tried.clone_into(&mut self.0.tried);
        }
        self
    }

    /// The five lines for a person.
    pub(crate) fn to_text(&self, color: bool) -> String {
        let Details { code, title, tried, because, next, retryable: _, exit: _ } = &**self;
        let error = if color { "\x1b[1;31merror\x1b[0m" } else { "error" };
        format!(
            "{error}: {code}: {title}\n  tried:   {tried}\n  because: {because}\n  \
             next:    {next}\n  more:    macula-node explain {code}\n"
        )
    }

    /// The object of `-o json`, on one line: `{"error": {…}}`.
    pub(crate) fn to_json(&self) -> Value {
        let Details { code, title, tried, because, next, retryable, exit } = &**self;
        json!({"error": {
            "code": code, "title": title, "tried": tried, "because": because, "next": next,
            "more": format!("macula-node explain {code}"), "retryable": retryable,
            "exit": exit.number(),
        }})
    }

    /// Prints it where the format says: standard error for people, standard output for programs.
    pub(crate) fn print(&self, format: Format) {
        // Nobody is left to tell when these fail.
        let _ = match format {
            Format::Text => {
                let color = io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                io::stderr().write_all(self.to_text(color).as_bytes())
            }
            Format::Json => writeln!(io::stdout(), "{}", self.to_json()),
        };
    }
}

impl Deref for Failure {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl From<Fault> for Failure {
    fn from(Fault { code, tried, because, retry_after: _ }: Fault) -> Self {
        Self::new(code, tried, because)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Somebody else's words on one line, without the control characters that would move a terminal's
/// cursor.
pub(crate) fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_code_is_shown_with_its_four_labels() {
        for &code in Code::ALL {
            let text = Failure::new(code, "call `a`", "it is late").to_text(false);
            let labels: Vec<_> = text
                .lines()
                .map(|line| line.trim().split(':').next().unwrap_or_default())
                .collect();
            assert_eq!(labels, ["error", "tried", "because", "next", "more"], "{text}");
            assert!(text.ends_with(&format!("more:    macula-node explain {code}\n")));
        }
    }

    #[test]
    fn a_problem_document_is_shown_in_its_own_words() {
        let body = br#"{"type":"x","title":"nobody","status":404,"detail":"none here","code":
            "no_provider","retryable":true,"tried":"call `a`","next":"Start one."}"#;
        assert_eq!(
            Failure::from_problem(404, body, "unused", "http://n").to_text(false),
            "error: no_provider: nobody\n  tried:   call `a`\n  because: none here\n  \
             next:    Start one.\n  more:    macula-node explain no_provider\n"
        );
    }

    #[test]
    fn a_problem_of_a_later_version_is_still_shown() {
        let body = br#"{"code":"moon_phase","detail":"full\u001b[2J"}"#;
        let failure = Failure::from_problem(403, body, "call `a`", "http://n");
        assert_eq!((failure.code.as_str(), failure.exit), ("moon_phase", Exit::Refused));
        assert_eq!(failure.because, "full [2J");
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_not_believed() {
        for body in [b"<html>".as_slice(), b"", b"[]", br#"{"code":7}"#] {
            let failure = Failure::from_problem(404, body, "call `a`", "http://n");
            assert_eq!((failure.code.as_str(), failure.exit), ("protocol", Exit::Failed));
        }
    }

    #[test]
    fn a_fault_inside_an_error_decides_and_so_does_an_address_in_use() {
        let fault = Fault::new(Code::RealmMismatch, "peer of b");
        let error = Err::<(), _>(fault).context("dial").unwrap_err();
        let failure = Failure::from_error(&error, "ping 127.0.0.1:1");
        assert_eq!((failure.code.as_str(), failure.exit), ("realm_mismatch", Exit::Refused));
        assert_eq!(failure.tried, "ping 127.0.0.1:1");
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        let error = Err::<(), _>(taken).context("listen on 127.0.0.1:7780").unwrap_err();
        let failure = Failure::from_error(&error, "start");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.because.starts_with("listen on 127.0.0.1:7780: "));
    }

    #[test]
    fn json_is_one_object_under_error() {
        let failure = Failure::new(Code::Timeout, "call `a`", "late");
        let value = failure.to_json();
        assert_eq!(value["error"]["code"], "timeout");
        assert_eq!(value["error"]["exit"], 6);
        assert!(!value.to_string().contains('\n'));
    }
}
