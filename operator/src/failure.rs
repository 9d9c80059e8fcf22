//! What went wrong between us and the API server, in one sentence for a status.

use std::error::Error;

/// What the API server said, or the whole chain of why it was not asked.
#[must_use]
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

/// An error and everything behind it, joined by colons; what only repeats its source is said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let why = source.to_string();
        if !said.ends_with(&why) {
            said = format!("{said}: {why}");
        }
        next = source.source();
    }
    said
}

/// Whether the API server says that the object is not there.
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    has_code(error, 404)
}

/// Whether the API server says that the object has changed, or is there already.
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    has_code(error, 409)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_servers_own_words_are_enough() {
        let mut status = Status::failure("pods is forbidden", "Forbidden");
        status.code = 403;
        let error = kube::Error::Api(status.boxed());
        assert_eq!(explain(&error), "pods is forbidden");
        assert!(!is_not_found(&error) && !is_conflict(&error));
    }

    #[test]
    fn a_chain_is_told_to_its_end_and_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("no connection: {0}")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("refused"));
        assert_eq!(chain(&error), "no connection: refused");
    }
}
