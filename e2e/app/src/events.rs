//! Reads the stream of a subscription: `text/event-stream`.

use http_body_util::BodyExt;
use hyper::body::Incoming;

/// One event of the stream.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    /// `message` or `gap`.
    pub(crate) kind: String,
    /// A line of JSON.
    pub(crate) data: String,
}

/// A subscription's events, in their order.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    lines: Lines,
}

impl Events {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, lines: Lines::default() }
    }

    /// The next event, or none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.lines.event() {
                return Some(event);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.lines.bytes.extend_from_slice(bytes);
            }
        }
    }
}

/// What has arrived and not been given out.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Takes the first whole event; an empty line ends one. Comments have no data and are passed over.
    fn event(&mut self) -> Option<Event> {
        loop {
            let end = self.bytes.windows(2).position(|two| two == b"\n\n")?;
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block);
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            if let Some(data) = field("data: ") {
                let kind = field("event: ").unwrap_or("message").to_owned();
                return Some(Event { kind, data: data.to_owned() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_at_empty_lines_and_comments_are_passed_over() {
        let mut lines =
            Lines { bytes: b": ping\n\nevent: gap\ndata: {\"missed\":3}\n\nda".to_vec() };
        let gap = Event { kind: "gap".to_owned(), data: "{\"missed\":3}".to_owned() };
        assert_eq!(lines.event(), Some(gap));
        assert_eq!(lines.event(), None);
        lines.bytes.extend_from_slice(b"ta: {}\n\n");
        assert_eq!(lines.event().unwrap().data, "{}");
    }
}
