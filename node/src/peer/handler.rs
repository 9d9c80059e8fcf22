//! What answers calls.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use macula_proto::Fault;
use macula_proto::identity::NodeId;
use macula_proto::name::{NodeName, ProcedureName};
use macula_proto::payload::Payload;

/// Who calls, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The calling node.
    pub id: NodeId,
    /// Its name within the realm.
    pub name: NodeName,
}

/// One call, as a handler gets it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is called.
    pub procedure: ProcedureName,
    /// With what.
    pub payload: Payload,
    /// By whom.
    pub caller: Caller,
    /// What is left of the caller's deadline. The handler's task is dropped when it has passed, or
    /// when the caller gives up.
    pub timeout: Duration,
}

/// The answer, when it is there.
pub type Answer = Pin<Box<dyn Future<Output = Result<Payload, Fault>> + Send>>;

/// Answers the calls of one procedure; any `Fn(Request) -> impl Future` is one.
///
/// An error of its own making is `handler_error`, with a sentence for the caller.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call.
    fn call(&self, request: Request) -> Answer;
}

impl<F, A> Handler for F
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Payload, Fault>> + Send + 'static,
{
    fn call(&self, request: Request) -> Answer {
        Box::pin(self(request))
    }
}
