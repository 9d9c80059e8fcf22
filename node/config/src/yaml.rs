//! The only user of `serde_yaml` (archived upstream, so replaceable here and nowhere else).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Location};

/// Reads one document.
pub(crate) fn read<T: DeserializeOwned>(text: &str, source_name: &str) -> Result<T, Error> {
    let refuse = |location, why| Error { source_name: source_name.to_owned(), location, why };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(refuse(None, "it is empty".to_owned()));
    }
    serde_yaml::from_str(text).map_err(|error| {
        let mut why = error.to_string();
        let location = error.location().map(|at| Location { line: at.line(), column: at.column() });
        if let Some(Location { line, column }) = location {
            // The place stands in front, once.
            if let Some(bare) = why.strip_suffix(&format!(" at line {line} column {column}")) {
                why.truncate(bare.len());
            }
        }
        refuse(location, why)
    })
}

/// Writes one document.
pub(crate) fn write<T: Serialize>(value: &T) -> String {
    serde_yaml::to_string(value).expect("our types have text keys and no bytes")
}

/// Finds a key such as `api.listen` in a document that has been read. Only block style is
/// understood; `None` when the key is absent or written otherwise.
pub(crate) fn locate(text: &str, key: &str) -> Option<Location> {
    let mut parts = key.split('.');
    let mut part = parts.next()?;
    let mut inside = None; // the indentation of the part that was found last
    for (number, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if bare.is_empty() || bare.starts_with('#') {
            continue;
        }
        match inside {
            None if indent > 0 => continue,
            Some(outer) if indent <= outer => return None,
            None | Some(_) => {}
        }
        if bare.strip_prefix(part).is_some_and(|rest| rest.starts_with(':')) {
            match parts.next() {
                Some(next) => (part, inside) = (next, Some(indent)),
                None => return Some(Location { line: number + 1, column: indent + 1 }),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_key_at_its_own_depth_only() {
        let text = "listen: a\n# api:\napi:\n  # listen: no\n  listen: b\nadmin:\n  other: c\n";
        let place = |key| locate(text, key).map(|at| (at.line, at.column));
        assert_eq!(place("listen"), Some((1, 1)));
        assert_eq!(place("api"), Some((3, 1)));
        assert_eq!(place("api.listen"), Some((5, 3)));
        assert_eq!(place("admin.listen"), None);
        assert_eq!(place("other"), None);
        assert_eq!(locate("{api: {listen: b}}", "api.listen"), None);
    }
}
