//! What one client, and all of them together, may make the API hold or wait for. docs/API.md has
//! the same table.

use std::time::Duration;

use macula_proto::wire::MAX_PAYLOAD;

/// The most bytes of a request's body, and of a callback's answer: what the mesh carries.
pub(super) const BODY: usize = MAX_PAYLOAD;
/// The most bytes of a request line and its headers. Twice the 32 headers that a payload may carry,
/// at the usual length; browsers' cookies do not come here.
pub(super) const HEAD_BYTES: usize = 16 << 10;
/// The most headers of a request: the 32 of a payload and those of the client's own.
pub(super) const HEADERS: usize = 64;
/// How much of what it reads and writes hyper may buffer for a connection. A larger frame of a body
/// is buffered alone.
pub(super) const BUFFER: usize = 64 << 10;
/// How many connections the application may have open, each subscription being one: 256 sockets
/// leave room under a limit of 1,024 files.
pub(super) const CONNECTIONS: usize = 256;
/// How many connections the admin listener takes: the kubelet, a scraper or two, a person.
pub(super) const ADMIN_CONNECTIONS: usize = 32;
/// How many connections beyond the limit are told so at a time; more are closed without a word.
pub(super) const REFUSALS: usize = 32;
/// How much is written of a subscription at a time, unless one message alone is longer.
pub(super) const EVENTS_BYTES: usize = 32 << 10;
/// How much of an error that a callback answers is passed on.
pub(super) const ERROR_TEXT: usize = 1 << 10;
/// How many idle connections to one callback are kept.
pub(super) const CALLBACK_IDLE: usize = 32;
/// How long a call takes at most when the caller does not say.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a caller may ask for.
pub(super) const LONGEST_CALL: Duration = Duration::from_secs(3600);

/// When the listener stops: how long the first byte of a connection that was just taken is awaited.
pub(super) const ARRIVAL: Duration = Duration::from_millis(100);

/// How long the API waits. Tests wait less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// From a connection's start, or the first byte of a later request, to the end of its headers.
    pub(super) head: Duration,
    /// From the headers to the end of the body: 1 MiB at 35 KiB/s, which loopback does in a blink.
    pub(super) body: Duration,
    /// Between two requests of a connection. Longer than the minute that clients' pools keep one.
    pub(super) idle: Duration,
    /// Without the client taking a byte of the answer.
    pub(super) write: Duration,
    /// Between two comments that keep a quiet subscription alive; below the usual 30 s of proxies.
    pub(super) ping: Duration,
    /// For a refused client to read its refusal, which closing at once might destroy.
    pub(super) linger: Duration,
    /// For the requests under way when the node stops.
    pub(super) drain: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
            ping: Duration::from_secs(15),
            linger: Duration::from_secs(1),
            drain: Duration::from_secs(2),
        }
    }
}
