//! The library: a peer that publishes, subscribes, calls and serves (docs/LIBRARY.md).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use macula_node::{Payload, Peer};
//!
//! let peer = Peer::join("join.json".as_ref()).await?;
//! let mut sensors = peer.subscribe("sensor.**".parse()?).await?;
//! peer.publish("sensor.temp".parse()?, Payload::bytes("21.5")).await?;
//! println!("{:?}", sensors.next().await);
//! peer.leave().await;
//! # Ok(())
//! # }
//! ```

mod handler;
mod queue;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::name::{ProcedureName, TopicName, TopicPattern};
use macula_proto::payload::Payload;
use macula_proto::pubsub::Message;
use macula_proto::{Code, Fault};
use tokio::sync::oneshot;

use crate::mesh::{self, Command};
use crate::status::Status;

pub use crate::mesh::{Pong, Target};
pub use handler::{Answer, Caller, Handler, Request};
pub(crate) use queue::{QUEUE_BYTES, QUEUE_MESSAGES, Sender as QueueSender, channel as queue};

/// One node's membership in a realm. Cheap to clone; all clones are the same node.
#[derive(Clone, Debug)]
pub struct Peer {
    mesh: mesh::Handle,
}

/// What a subscription gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A message, in its publisher's order.
    Message(Arc<Message>),
    /// This many messages were lost here, because a bounded queue was full.
    Gap {
        /// How many.
        missed: u64,
    },
}

impl Peer {
    /// A peer whose node is driven by this mesh actor.
    pub(crate) fn new(mesh: mesh::Handle) -> Self {
        Self { mesh }
    }

    /// Publishes. Returns when the message was handed to the flows of every subscriber known now,
    /// with their number; zero is no error. Best effort: that is not an acknowledgement.
    ///
    /// # Errors
    /// `too_large`, `overloaded`, `starting`, `draining`.
    pub async fn publish(&self, topic: TopicName, payload: Payload) -> Result<usize, Fault> {
        let tried = format!("publish to {topic}");
        let (reply, answer) = oneshot::channel();
        self.mesh.send(Command::Publish { topic, payload, reply: Some(reply) }).await?;
        answer.await.unwrap_or_else(|_| Err(gone())).map_err(|fault| fault.tried(tried))
    }

    /// Publishes without waiting to hear how many subscribers there are: waits only while the
    /// node's own queue is full. For many messages a second; in order for each topic.
    ///
    /// # Errors
    /// `too_large`, `draining`.
    pub async fn send(&self, topic: &TopicName, payload: Payload) -> Result<(), Fault> {
        payload.check()?;
        self.mesh.send(Command::Publish { topic: topic.clone(), payload, reply: None }).await
    }

    /// Subscribes. Returns when the subscription can be found by publishers. It ends when dropped.
    ///
    /// # Errors
    /// `too_many`, `unsupported` on infrastructure, `draining`.
    pub async fn subscribe(&self, pattern: TopicPattern) -> Result<Subscription, Fault> {
        let tried = format!("subscribe to {pattern}");
        let (sender, queue) = queue(QUEUE_MESSAGES, QUEUE_BYTES);
        let (reply, answer) = oneshot::channel();
        self.mesh.send(Command::Subscribe { pattern, queue: sender, reply }).await?;
        let token =
            answer.await.unwrap_or_else(|_| Err(gone())).map_err(|fault| fault.tried(tried))?;
        Ok(Subscription { token, queue, mesh: self.mesh.clone() })
    }

    /// Calls a procedure. Dropping the future cancels the call.
    ///
    /// # Errors
    /// `no_provider`, `timeout`, `interrupted`, what the handler answered (`handler_error`), …
    pub async fn call(
        &self,
        procedure: ProcedureName,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Payload, Fault> {
        let (reply, answer) = oneshot::channel();
        let id = self.mesh.next_call();
        self.mesh.send(Command::Call { id, procedure, payload, timeout, reply }).await?;
        let cancel = mesh::CancelOnDrop::new(self.mesh.clone(), id);
        let result = answer.await.unwrap_or_else(|_| Err(gone()));
        cancel.disarm();
        result
    }

    /// Serves a procedure. Returns when callers can find it. It ends when dropped. A second handler
    /// for the same procedure replaces the first.
    ///
    /// Each call runs in a task of its own, on the runtime from which this was called; a panic is
    /// that call's `handler_error` and nothing else's.
    ///
    /// # Errors
    /// `too_many`, `unsupported` on infrastructure, `draining`.
    pub async fn advertise(
        &self,
        procedure: ProcedureName,
        handler: impl Handler,
    ) -> Result<Advertisement, Fault> {
        let tried = format!("advertise {procedure}");
        let (reply, answer) = oneshot::channel();
        let command = Command::Advertise {
            procedure: procedure.clone(),
            handler: Arc::new(handler),
            runtime: tokio::runtime::Handle::current(),
            reply,
        };
        self.mesh.send(command).await?;
        let token =
            answer.await.unwrap_or_else(|_| Err(gone())).map_err(|fault| fault.tried(tried))?;
        Ok(Advertisement { procedure, token, mesh: self.mesh.clone() })
    }

    /// What this node knows of itself.
    ///
    /// # Errors
    /// `draining` when it has stopped.
    pub async fn status(&self) -> Result<Status, Fault> {
        self.mesh.status().await
    }

    /// The round trip to a node, connecting to it if need be.
    ///
    /// # Errors
    /// The close code with which it, or this node, refused the connection; `unreachable`.
    pub async fn ping(&self, target: Target) -> Result<Pong, Fault> {
        self.mesh.ping(target).await
    }

    /// The UDP address of this node, once it is bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.mesh.address()
    }

    /// The counters and gauges of this node.
    #[must_use]
    pub fn metrics(&self) -> &crate::metrics::Metrics {
        self.mesh.metrics()
    }

    /// Whether the node has joined its mesh once, and is not stopping.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.mesh.is_ready()
    }

    /// Waits until the node has joined its mesh.
    ///
    /// # Errors
    /// `draining` when it stops before.
    pub async fn ready(&self) -> Result<(), Fault> {
        self.mesh.ready().await
    }

    /// Says goodbye to every node and stops. Open subscriptions end.
    pub async fn leave(self) {
        self.mesh.stop().await;
    }
}

/// Messages as they arrive. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    token: u64,
    queue: queue::Receiver,
    mesh: mesh::Handle,
}

impl Subscription {
    /// The next message or gap; `None` when the node has stopped. May be dropped half way: nothing
    /// is lost.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.queue.next().await
    }

    /// Everything that waits, at least one; empty when the node has stopped.
    pub async fn next_batch(&mut self) -> Vec<Delivery> {
        self.queue.next_batch().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.mesh.send_later(Command::Unsubscribe { token: self.token });
    }
}

/// A procedure that is offered. Dropping it takes the procedure back.
#[derive(Debug)]
pub struct Advertisement {
    procedure: ProcedureName,
    /// Which handler: one that has been replaced must not take its successor back.
    token: u64,
    mesh: mesh::Handle,
}

impl Advertisement {
    /// What is offered.
    #[must_use]
    pub fn procedure(&self) -> &ProcedureName {
        &self.procedure
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        let (procedure, token) = (self.procedure.clone(), self.token);
        self.mesh.send_later(Command::Withdraw { procedure, token });
    }
}

fn gone() -> Fault {
    Fault::new(Code::Draining, "the node has stopped")
}
