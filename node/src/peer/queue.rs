//! The bounded queue between the mesh and one subscriber. When it is full, what arrives is counted,
//! and the count stands in the queue at the very place of what is missing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::Delivery;

/// How many messages wait for one subscriber; then they are dropped and counted.
pub(crate) const QUEUE_MESSAGES: usize = 4096;
/// How many bytes they may hold.
pub(crate) const QUEUE_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Delivery>,
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    messages: usize,
    bytes: usize,
    state: Mutex<State>,
    arrived: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the queue")
    }
}

/// A queue of at most so many messages and bytes.
pub(crate) fn channel(messages: usize, bytes: usize) -> (Sender, Receiver) {
    let state = Mutex::default();
    let shared = Arc::new(Shared { messages, bytes, state, arrived: Notify::new() });
    (Sender(shared.clone()), Receiver(shared))
}

/// The mesh's end. Dropping it ends the subscriber's stream.
#[derive(Debug)]
pub(crate) struct Sender(Arc<Shared>);

impl Sender {
    /// Appends, or counts when the queue is full. Gives how many messages were dropped.
    pub(crate) fn push(&self, delivery: Delivery) -> u64 {
        let mut state = self.0.state();
        let dropped = match delivery {
            Delivery::Gap { missed } => {
                add_gap(&mut state.waiting, missed);
                0
            }
            Delivery::Message(message) => {
                let bytes = message.payload.body.len();
                let full = state.waiting.len() >= self.0.messages
                    || (state.bytes + bytes > self.0.bytes && !state.waiting.is_empty());
                if full {
                    add_gap(&mut state.waiting, 1);
                    1
                } else {
                    state.bytes += bytes;
                    state.waiting.push_back(Delivery::Message(message));
                    0
                }
            }
        };
        drop(state);
        self.0.arrived.notify_one();
        dropped
    }
}

/// Gaps that follow each other are one.
fn add_gap(waiting: &mut VecDeque<Delivery>, more: u64) {
    match waiting.back_mut() {
        Some(Delivery::Gap { missed }) => *missed = missed.saturating_add(more),
        Some(Delivery::Message(_)) | None => waiting.push_back(Delivery::Gap { missed: more }),
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.arrived.notify_one();
    }
}

/// The subscriber's end.
#[derive(Debug)]
pub(crate) struct Receiver(Arc<Shared>);

impl Receiver {
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(delivery) = state.waiting.pop_front() {
                    if let Delivery::Message(message) = &delivery {
                        state.bytes -= message.payload.body.len();
                    }
                    return Some(delivery);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    pub(crate) async fn next_batch(&mut self) -> Vec<Delivery> {
        loop {
            {
                let mut state = self.0.state();
                if !state.waiting.is_empty() {
                    state.bytes = 0;
                    return std::mem::take(&mut state.waiting).into();
                }
                if state.closed {
                    return Vec::new();
                }
            }
            self.0.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use macula_proto::identity::NodeId;
    use macula_proto::payload::Payload;
    use macula_proto::pubsub::Message;

    fn message(sequence: u64) -> Delivery {
        Delivery::Message(Arc::new(Message {
            publisher: NodeId::from_bytes([1; 20]),
            incarnation: 1,
            sequence,
            topic: "a".parse().unwrap(),
            payload: Payload::bytes(vec![0; 10]),
        }))
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_at_its_place() {
        let (sender, mut receiver) = channel(2, 1000);
        let dropped: u64 = (1..=5).map(|n| sender.push(message(n))).sum();
        assert_eq!(dropped, 3);
        assert_eq!(receiver.next().await, Some(message(1)));
        assert_eq!(receiver.next().await, Some(message(2)));
        sender.push(message(6));
        assert_eq!(receiver.next().await, Some(Delivery::Gap { missed: 3 }));
        assert_eq!(receiver.next().await, Some(message(6)));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_and_one_large_message_always_fits() {
        let (sender, mut receiver) = channel(100, 15);
        assert_eq!((sender.push(message(1)), sender.push(message(2))), (0, 1));
        receiver.next_batch().await;
        let (sender, _receiver) = channel(100, 5);
        assert_eq!(sender.push(message(1)), 0);
    }

    #[tokio::test]
    async fn ends_after_the_last_message_when_the_mesh_is_gone() {
        let (sender, mut receiver) = channel(2, 1000);
        sender.push(message(1));
        drop(sender);
        assert_eq!(receiver.next().await, Some(message(1)));
        assert_eq!(receiver.next().await, None);
    }
}
