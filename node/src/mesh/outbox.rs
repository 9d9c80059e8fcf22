//! Messages that wait for a flow to one node: bounded, and what does not fit is counted where it is
//! missing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::BytesMut;
use macula_proto::pubsub::{Message, flow};
use tokio::sync::Notify;

/// Messages that wait; at a million a second this is eight milliseconds.
const MESSAGES: usize = 8192;
/// Bytes of payload that wait.
const BYTES: usize = 4 << 20;
/// What is encoded into one write: unbatched small messages are sixty times slower (measured).
const BATCH: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    arrived: Notify,
    /// Held by the task that writes. A newer link's writer waits until the older has ended its
    /// flow, so that the publisher's order survives the change.
    pub(super) turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Message>>,
    bytes: usize,
    /// Dropped since the last message that was taken.
    dropped: u64,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the outbox")
    }

    /// Appends; gives false when it is full and the message was dropped.
    pub(super) fn push(&self, message: Arc<Message>) -> bool {
        let mut state = self.state();
        let bytes = message.payload.body.len();
        if state.waiting.len() >= MESSAGES
            || (state.bytes + bytes > BYTES && !state.waiting.is_empty())
        {
            state.dropped += 1;
            return false;
        }
        state.bytes += bytes;
        state.waiting.push_back(message);
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// Forgets what waits; gives how much that was.
    pub(super) fn clear(&self) -> u64 {
        let mut state = self.state();
        let count = state.waiting.len() as u64;
        *state = State { dropped: state.dropped + count, ..State::default() };
        count
    }

    /// Counts messages that were taken and then lost.
    pub(super) fn on_lost(&self, count: u64) {
        self.state().dropped += count;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Waits until something is there.
    pub(super) async fn filled(&self) {
        while self.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Encodes what waits, one batch at most; gives the number of messages.
    pub(super) fn take(&self, writer: &mut flow::Writer, batch: &mut BytesMut) -> u64 {
        let mut state = self.state();
        let mut count = 0;
        while batch.len() < BATCH {
            let Some(message) = state.waiting.pop_front() else { break };
            state.bytes -= message.payload.body.len();
            let dropped = std::mem::take(&mut state.dropped);
            writer.write(&message, dropped, batch).expect("payloads are checked when published");
            count += 1;
        }
        count
    }
}
