//! Reads server-sent events (WHATWG HTML §9.2) as they arrive, however the bytes are split.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its kind; empty when the server did not say.
    pub(crate) kind: String,
    /// The last id that the server gave.
    pub(crate) id: String,
    /// Its data, lines joined by `\n`.
    pub(crate) data: String,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// An event, or a line, over [`MAX_EVENT`].
    #[error("an event of more than {MAX_EVENT} bytes")]
    TooLarge,
    /// Not text.
    #[error("a line that is not UTF-8")]
    NotText,
}

/// The most bytes that are kept of one event: a payload of 1 MiB, each byte of which JSON may
/// write as six (`\u0000`), and the words around it.
pub(crate) const MAX_EVENT: usize = 7 << 20;

/// Bytes in, events out. Holds at most [`MAX_EVENT`] of a line and as much of an event.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// The line before ended with a carriage return, so that a line feed now belongs to it.
    after_return: bool,
    started: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes of the stream; gives each event that they complete to `each`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Event)) -> Result<(), Error> {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
            if self.line.len() + piece.len() > MAX_EVENT {
                return Err(Error::TooLarge);
            }
            self.line.extend(piece);
            if let [ending, following @ ..] = after {
                self.after_return = *ending == b'\r';
                rest = following;
                if let Some(event) = self.end_line()? {
                    each(event);
                }
            } else {
                rest = after;
            }
        }
        Ok(())
    }

    /// Judges one complete line; an empty one completes the event.
    fn end_line(&mut self) -> Result<Option<Event>, Error> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| Error::NotText)?;
        let first = !std::mem::replace(&mut self.started, true);
        let line = if first { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        if line.is_empty() {
            let id = self.event.id.clone();
            let event = std::mem::replace(&mut self.event, Event { id, ..Event::default() });
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "id" if !value.contains('\0') => value.clone_into(&mut self.event.id),
            "data" => {
                if self.event.data.len() + value.len() >= MAX_EVENT {
                    return Err(Error::TooLarge);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments (the node's pings), `retry`, and fields of a later version.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}: ping\n\nevent: message\nid: a-1-1\ndata: {\"é\":1}\n\n\
        event: gap\r\ndata:{\"missed\":2}\r\n\r\n: ping\r\rretry: 5\ndata: one\rdata\rdata:  two\n\n\
        event: nothing\n\nid\ndata: last\n\ndata: unfinished";

    fn event(kind: &str, id: &str, data: &str) -> Event {
        Event { kind: kind.to_owned(), id: id.to_owned(), data: data.to_owned() }
    }

    fn expected() -> Vec<Event> {
        vec![
            event("message", "a-1-1", "{\"é\":1}"),
            event("gap", "a-1-1", "{\"missed\":2}"),
            event("", "a-1-1", "one\n\n two"),
            event("", "", "last"),
        ]
    }

    fn read(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.push(piece, |event| events.push(event)).unwrap();
        }
        events
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_split() {
        let bytes = STREAM.as_bytes();
        assert_eq!(read(&[bytes]), expected());
        for size in 1..bytes.len() {
            assert_eq!(
                read(&bytes.chunks(size).collect::<Vec<_>>()),
                expected(),
                "pieces of {size}"
            );
        }
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(&pieces), expected(), "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn an_event_without_end_is_refused_and_not_kept() {
        let (mut parser, chunk) = (Parser::default(), vec![b'x'; 1 << 20]);
        let results: Vec<_> = (0..8).map(|_| parser.push(&chunk, |_| ())).collect();
        assert_eq!(results[6], Ok(()));
        assert_eq!(results[7], Err(Error::TooLarge));
        let mut parser = Parser::default();
        let mut lines =
            (0..).map(|_| parser.push(b"data: 0123456789012345678901234567890123456789\n", |_| ()));
        assert_eq!(lines.find(Result::is_err), Some(Err(Error::TooLarge)));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(Parser::default().push(b"data: \xff\n", |_| ()), Err(Error::NotText));
    }
}
