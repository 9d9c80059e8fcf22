//! What a panic said, and where it goes: to the log, as one event.

use std::any::Any;
use std::error::Error;
use std::panic::PanicHookInfo;

/// Logs every panic of the process as one event with thread, place and message, where the default
/// hook writes lines of its own to stderr between those of the log.
pub fn install_hook() {
    std::panic::set_hook(Box::new(log));
}

fn log(info: &PanicHookInfo<'_>) {
    let message = message(info.payload());
    let current = std::thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(thread, location, message, "panicked");
    } else {
        // No log, or none for us: a panic is never silent.
        eprintln!("macula-node: thread {thread} panicked at {location}: {message}");
    }
}

/// The text of a panic.
pub(super) fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without text"
    }
}

/// An error and its sources, on one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
