//! Counts what travels, by what it is for, with what QUIC, UDP and IP put around it.

use std::time::Duration;

/// What bytes travel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Questions for servers and records, and their answers.
    Lookup,
    /// Records on their way to storers.
    Store,
    /// What storers push to those who watch, and the answers.
    Watch,
    /// Pings of the DHT, and before calls.
    Ping,
    /// Calls and their answers.
    Call,
    /// Messages.
    Publish,
    /// Connections that come up, and dials that nobody answers.
    Handshake,
    /// What keeps idle connections open.
    KeepAlive,
    /// What was lost and sent again.
    Resent,
}

impl Cause {
    /// All of them, in the order in which they are printed.
    pub const ALL: [Self; 9] = [
        Self::Lookup,
        Self::Store,
        Self::Watch,
        Self::Ping,
        Self::Call,
        Self::Publish,
        Self::Handshake,
        Self::KeepAlive,
        Self::Resent,
    ];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookups",
            Self::Store => "stores",
            Self::Watch => "watch",
            Self::Ping => "pings",
            Self::Call => "calls",
            Self::Publish => "messages",
            Self::Handshake => "handshakes",
            Self::KeepAlive => "keep-alives",
            Self::Resent => "sent again",
        }
    }
}

/// How much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub messages: u64,
    /// Bytes on the wire, IP headers included.
    pub bytes: u64,
}

/// Everything that was sent since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter([Traffic; Cause::ALL.len()]);

impl Meter {
    /// What was sent for this.
    #[must_use]
    pub const fn of(&self, cause: Cause) -> Traffic {
        self.0[cause as usize]
    }

    /// What was sent in all.
    #[must_use]
    pub fn total(&self) -> Traffic {
        let add = |sum: Traffic, it: &Traffic| Traffic {
            messages: sum.messages + it.messages,
            bytes: sum.bytes + it.bytes,
        };
        self.0.iter().fold(Traffic::default(), add)
    }

    /// What was sent since then.
    #[must_use]
    pub fn since(&self, then: &Self) -> Self {
        Self(std::array::from_fn(|at| Traffic {
            messages: self.0[at].messages - then.0[at].messages,
            bytes: self.0[at].bytes - then.0[at].bytes,
        }))
    }

    pub(super) const fn count(&mut self, cause: Cause, messages: u64, bytes: u64) {
        let traffic = &mut self.0[cause as usize];
        traffic.messages += messages;
        traffic.bytes += bytes;
    }
}

/// IP (20), UDP (8), the short header with an eight-byte connection id and a two-byte packet number (11), the
/// AEAD's tag (16), and the header of a stream's frame (5): RFC 9000 §17.3, §19.8.
const AROUND_A_PACKET: u64 = 60;
/// What of a stream fits into one packet of 1,452 bytes.
const IN_A_PACKET: u64 = 1_392;
/// A packet that only acknowledges: the same around an ACK frame of a few bytes.
const ACK: u64 = 60;
/// One end's part of keeping a link open: the PING or its ACK, in a packet.
pub(super) const KEEP_ALIVE_BYTES: u64 = 58;
/// An idle link is kept open this often (`macula-node`'s `transport::endpoint`).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// One end's part of a handshake: a padded Initial of 1,200 bytes (RFC 9000 §14.1), a certificate of some 500
/// and its signature, Hello, and headers.
pub(super) const HANDSHAKE_BYTES: u64 = 2_400;
/// A dial that nobody answers: Initials at 0 and at 1 s.
pub(super) const VAIN_DIAL_BYTES: u64 = 2 * 1_228;

/// What bytes of a stream cost on the wire, acknowledgement included.
pub(super) const fn on_the_wire(bytes: usize) -> u64 {
    let packets = (bytes as u64).div_ceil(IN_A_PACKET);
    // RFC 9000 §13.2.2: one acknowledgement for two packets.
    bytes as u64 + packets * AROUND_A_PACKET + packets.div_ceil(2) * ACK
}
