//! Calls to whoever provides a procedure (docs/PROTOCOL.md §7).
//!
//! Providers are found in the DHT, chosen by power of two choices on latency, and called directly.
//! One that cannot be reached is skipped; a call that was sent is not sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use macula_identity::NodeId;
use rand::Rng;
use rand::rngs::StdRng;

use crate::directory::{Ask, Directory, News, Ticket};
use crate::error::{Code, Fault};
use crate::name::ProcedureName;
use crate::payload::{self, Payload};
use crate::time::{Deadline, Now};
use crate::wire::{Contact, message};

/// The most procedures that one node advertises.
pub const MAX_ADVERTISED: usize = 1024;
/// The most calls of this node under way; one more is `overloaded`.
pub const MAX_CALLS: usize = 4096;
/// The longest deadline: what a node remembers of a call ends.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// The most nodes whose latency is remembered.
pub(crate) const MAX_LATENCIES: usize = 4096;
/// What a provider that was not measured lately is taken to answer in: it wins against any that
/// was, so that one that came later, or was slow once, gets its share.
const UNKNOWN_LATENCY: Duration = Duration::ZERO;
/// A measurement older than this says nothing any more.
const LATELY: Duration = Duration::from_secs(10);
/// How long a provider that could not be reached is passed over while others are known.
const PENALTY: Duration = Duration::from_secs(5);

/// One call of this node, until it is [`Output::Returned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// One attempt of a call at one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// What the shell does.
#[derive(Debug)]
pub enum Output {
    /// Find who provides this procedure, and tell of it by [`Rpc::handle_news`]; or tell no longer.
    Ask(Ask),
    /// Announce that this node provides it.
    Announce(ProcedureName),
    /// Withdraw that.
    Withdraw(ProcedureName),
    /// Send this call to that provider; answer with [`Rpc::handle_answer`].
    Attempt {
        /// Names the attempt in the answer.
        id: AttemptId,
        /// The provider; this node itself when it provides the procedure.
        to: Contact,
        /// The request.
        call: message::Call,
    },
    /// The answer of this attempt is not wanted any more.
    Cancel(AttemptId),
    /// A call is over.
    Returned {
        /// Which one.
        id: CallId,
        /// The answer, or what failed.
        result: Result<Payload, Fault>,
    },
}

/// Counters that only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls begun here.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Attempts at a further provider.
    pub failovers: u64,
}

/// The procedures and calls of this node, and its cached knowledge of providers.
///
/// Drive it as [`crate::pubsub::PubSub`].
#[derive(Debug)]
pub struct Rpc {
    me: NodeId,
    rng: StdRng,
    advertised: BTreeSet<ProcedureName>,
    /// Where to reach each, as the DHT said it.
    providers: Directory<Contact>,
    latency: BTreeMap<NodeId, Latency>,
    calls: BTreeMap<CallId, Call>,
    attempts: BTreeMap<AttemptId, CallId>,
    next_attempt: u64,
    outputs: VecDeque<Output>,
    counters: Counters,
}

#[derive(Debug)]
struct Latency {
    smoothed: Duration,
    measured: Instant,
    avoid_until: Option<Instant>,
}

#[derive(Debug)]
struct Call {
    procedure: ProcedureName,
    payload: Payload,
    deadline: Instant,
    wire_id: [u8; 16],
    tried: BTreeMap<NodeId, Tried>,
    /// The look that was begun for this very call, or after the last provider failed.
    ticket: Option<Ticket>,
    state: State,
}

/// A provider that did not take a call.
#[derive(Debug)]
struct Tried {
    fault: Fault,
    /// Where it was looked for.
    at: Vec<SocketAddr>,
}

impl Tried {
    /// Whether the same again would be in vain: it was there, or nobody knows another place.
    fn is_final(&self, known: &Contact) -> bool {
        !is_elsewhere(self.fault.code) || known.addresses.iter().all(|it| self.at.contains(it))
    }
}

#[derive(Debug)]
enum State {
    /// For somebody who was not tried yet: the look that was begun goes on.
    Finding,
    /// For one provider's answer.
    Asking { attempt: AttemptId, provider: Contact, since: Instant },
}

impl Rpc {
    /// No procedures and no calls.
    #[must_use]
    pub fn new(me: NodeId, rng: StdRng) -> Self {
        Self {
            me,
            rng,
            advertised: BTreeSet::new(),
            providers: Directory::new(),
            latency: BTreeMap::new(),
            calls: BTreeMap::new(),
            attempts: BTreeMap::new(),
            next_attempt: 1,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Offers a procedure to the realm.
    ///
    /// # Errors
    /// `too_many` at [`MAX_ADVERTISED`].
    pub fn advertise(&mut self, procedure: ProcedureName) -> Result<(), Fault> {
        if self.advertised.len() >= MAX_ADVERTISED {
            let because = format!("{MAX_ADVERTISED} procedures are advertised");
            return Err(Fault::new(Code::TooMany, because));
        }
        if self.advertised.insert(procedure.clone()) {
            self.outputs.push_back(Output::Announce(procedure));
        }
        Ok(())
    }

    /// Takes a procedure back.
    pub fn withdraw(&mut self, procedure: &ProcedureName) {
        if self.advertised.remove(procedure) {
            self.outputs.push_back(Output::Withdraw(procedure.clone()));
        }
    }

    /// Reads a call that arrived from another node.
    ///
    /// # Errors
    /// `invalid_name`; `no_provider` when this node does not advertise the procedure; `too_large`.
    pub fn handle_call(&self, call: message::Call) -> Result<Incoming, Fault> {
        let procedure: ProcedureName = call
            .procedure
            .parse()
            .map_err(|error| Fault::new(Code::InvalidName, format!("{error}")))?;
        if !self.advertised.contains(&procedure) {
            let because = format!("this node does not advertise {procedure}");
            return Err(Fault::new(Code::NoProvider, because));
        }
        let payload = Payload {
            body: call.payload,
            content_type: call.content_type.into(),
            headers: payload::from_wire(call.headers),
        };
        payload.check()?;
        let timeout = Duration::from_millis(call.timeout_ms.into()).min(MAX_TIMEOUT);
        Ok(Incoming { procedure, payload, timeout })
    }

    /// Calls; ends with [`Output::Returned`], at the deadline at the latest.
    pub fn call(
        &mut self,
        now: Now,
        id: CallId,
        procedure: ProcedureName,
        payload: Payload,
        timeout: Duration,
    ) {
        self.counters.calls += 1;
        let refused = payload.check().err().or_else(|| {
            let because = format!("{MAX_CALLS} calls are under way");
            (self.calls.len() >= MAX_CALLS).then(|| Fault::new(Code::Overloaded, because))
        });
        if let Some(fault) = refused {
            self.counters.failed += 1;
            self.outputs.push_back(Output::Returned { id, result: Err(fault) });
            return;
        }
        let known = self.providers.is_known(now, procedure.as_str());
        let wire_id = self.rng.random();
        let call = Call {
            deadline: now.instant + timeout.min(MAX_TIMEOUT),
            wire_id,
            tried: BTreeMap::new(),
            ticket: (!known).then(|| self.providers.ask(now, procedure.as_str())),
            state: State::Finding,
            procedure,
            payload,
        };
        self.calls.insert(id, call);
        self.try_next(now, id);
    }

    /// The caller gave up.
    pub fn cancel(&mut self, id: CallId) {
        if let Some(Call { state: State::Asking { attempt, .. }, .. }) = self.calls.remove(&id) {
            self.attempts.remove(&attempt);
            self.outputs.push_back(Output::Cancel(attempt));
        }
    }

    /// What an attempt came to.
    pub fn handle_answer(
        &mut self,
        now: Now,
        id: AttemptId,
        result: Result<message::Answer, Fault>,
    ) {
        let Some(call_id) = self.attempts.remove(&id) else { return };
        let Some(call) = self.calls.get_mut(&call_id) else { return };
        let State::Asking { provider, since, .. } =
            std::mem::replace(&mut call.state, State::Finding)
        else {
            return;
        };
        match result {
            Ok(answer) => {
                self.measure(now, provider.id, now.instant.saturating_duration_since(since));
                let payload = Payload {
                    body: answer.payload,
                    content_type: answer.content_type.into(),
                    headers: Vec::new(),
                };
                let result = payload.check().map(|()| payload);
                self.finish(call_id, result);
            }
            Err(fault) if was_not_run(fault.code) => {
                if fault.code == Code::NoProvider {
                    self.providers.forget(provider.id, call.procedure.as_str());
                }
                let before = call.tried.remove(&provider.id).map(|tried| tried.at);
                let at = before.into_iter().flatten().chain(provider.addresses).collect();
                call.tried.insert(provider.id, Tried { fault, at });
                self.counters.failovers += 1;
                self.avoid(now, provider.id);
                self.try_next(now, call_id);
            }
            Err(fault) => {
                if fault.code == Code::Interrupted {
                    self.avoid(now, provider.id);
                }
                self.finish(call_id, Err(fault));
            }
        }
    }

    /// There is news about a procedure.
    pub fn handle_news(&mut self, now: Now, procedure: &str, news: News<Contact>) {
        let looked = news.looked;
        // Nobody waits for the end of a look who can be served with what it has shown so far.
        if !self.providers.on_news(procedure, news) && !looked {
            return;
        }
        let waiting = self.calls.iter().filter(|(_, call)| match call.state {
            State::Finding => call.procedure.as_str() == procedure,
            State::Asking { .. } => false,
        });
        let waiting: Vec<CallId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.try_next(now, id);
        }
    }

    /// Ends calls whose deadline has passed, and forgets what is not in use.
    pub fn handle_timeout(&mut self, now: Now) {
        self.providers.handle_timeout(now);
        let late: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, call)| call.deadline <= now.instant)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let Some(call) = self.calls.get(&id) else { continue };
            let because = match &call.state {
                State::Finding => "the deadline passed while providers were looked for".to_owned(),
                State::Asking { provider, attempt, .. } => {
                    self.attempts.remove(attempt);
                    self.outputs.push_back(Output::Cancel(*attempt));
                    format!("provider {} did not answer before the deadline", provider.id.short())
                }
            };
            self.finish(id, Err(Fault::new(Code::Timeout, because)));
        }
    }

    /// When to call [`Rpc::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let calls = self.calls.values().map(|call| call.deadline).min();
        let call = calls.map(|at| Deadline { at, reason: "call deadline" });
        Deadline::earliest([call, self.providers.poll_timeout()])
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.providers.poll_ask().map(Output::Ask).or_else(|| self.outputs.pop_front())
    }

    /// The procedures that this node offers, in order.
    pub fn advertised(&self) -> impl Iterator<Item = &ProcedureName> {
        self.advertised.iter()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Asks the best provider that was not tried. Without one it waits for the look that was begun for
    /// it, or begins one; after that it gives up.
    fn try_next(&mut self, now: Now, id: CallId) {
        let call = &self.calls[&id];
        let (tried, ticket, procedure) = (&call.tried, call.ticket, call.procedure.clone());
        let known = self.providers.get(procedure.as_str());
        let mut candidates: Vec<Contact> = known.map(|(_, contact)| contact.clone()).collect();
        candidates.retain(|contact| contact.id != self.me);
        if self.advertised.contains(&procedure) {
            candidates.push(Contact { id: self.me, addresses: Vec::new() });
        }
        candidates.retain(|contact| tried.get(&contact.id).is_none_or(|it| !it.is_final(contact)));
        let Some(to) = self.choose(now, candidates) else {
            let ticket = ticket.unwrap_or_else(|| self.providers.ask(now, procedure.as_str()));
            if ticket == Ticket::NONE || self.providers.has_completed(procedure.as_str(), ticket) {
                let fault = self.nobody(id);
                return self.finish(id, Err(fault));
            }
            self.calls.get_mut(&id).expect("looked up above").ticket = Some(ticket);
            return;
        };
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let call = self.calls.get_mut(&id).expect("looked up above");
        let left = call.deadline.saturating_duration_since(now.instant);
        let request = message::Call {
            procedure: procedure.to_string(),
            payload: call.payload.body.clone(),
            content_type: call.payload.content_type.to_string(),
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            id: call.wire_id.to_vec().into(),
            headers: payload::to_wire(&call.payload.headers),
        };
        call.state = State::Asking { attempt, provider: to.clone(), since: now.instant };
        self.attempts.insert(attempt, id);
        self.outputs.push_back(Output::Attempt { id: attempt, to, call: request });
    }

    /// The better of two at random (Mitzenmacher, 2001), among those not lately unreachable if any.
    fn choose(&mut self, now: Now, mut candidates: Vec<Contact>) -> Option<Contact> {
        let avoided = |contact: &Contact| {
            let known = self.latency.get(&contact.id).and_then(|latency| latency.avoid_until);
            known.is_some_and(|until| now.instant < until)
        };
        if candidates.iter().any(|contact| !avoided(contact)) {
            candidates.retain(|contact| !avoided(contact));
        }
        if candidates.is_empty() {
            return None;
        }
        let one = candidates.swap_remove(self.rng.random_range(0..candidates.len()));
        if candidates.is_empty() {
            return Some(one);
        }
        let other = candidates.swap_remove(self.rng.random_range(0..candidates.len()));
        let latency = |contact: &Contact| {
            let known = self.latency.get(&contact.id);
            let known = known.filter(|known| now.instant < known.measured + LATELY);
            known.map_or(UNKNOWN_LATENCY, |known| known.smoothed)
        };
        Some(if latency(&other) < latency(&one) { other } else { one })
    }

    fn nobody(&self, id: CallId) -> Fault {
        let call = &self.calls[&id];
        if call.tried.is_empty() {
            return Fault::new(
                Code::NoProvider,
                format!("no peer of this realm advertises {}", call.procedure),
            );
        }
        let tried: Vec<String> = call
            .tried
            .iter()
            .take(5)
            .map(|(node, tried)| format!("{}: {}", node.short(), tried.fault.because))
            .collect();
        let count = call.tried.len();
        let because = format!("{count} known, none could take it ({})", tried.join("; "));
        Fault::new(Code::NoProvider, because)
    }

    fn finish(&mut self, id: CallId, result: Result<Payload, Fault>) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.counters.failed += u64::from(result.is_err());
        let result = result.map_err(|fault| fault.tried(format!("call {}", call.procedure)));
        self.outputs.push_back(Output::Returned { id, result });
    }

    fn measure(&mut self, now: Now, node: NodeId, took: Duration) {
        self.bound_latencies();
        let fresh = Latency { smoothed: took, measured: now.instant, avoid_until: None };
        let latency = self.latency.entry(node).or_insert(fresh);
        let is_recovered = latency.avoid_until.take().is_some();
        // RFC 6298 §2: smoothed by an eighth.
        latency.smoothed = if is_recovered { took } else { (latency.smoothed * 7 + took) / 8 };
        latency.measured = now.instant;
    }

    fn avoid(&mut self, now: Now, node: NodeId) {
        self.bound_latencies();
        let avoid_until = Some(now.instant + PENALTY);
        let latency = Latency { smoothed: PENALTY, measured: now.instant, avoid_until };
        self.latency.insert(node, latency);
    }

    fn bound_latencies(&mut self) {
        if self.latency.len() >= MAX_LATENCIES {
            self.latency.clear();
        }
    }
}

/// A call that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// What is called; this node advertises it.
    pub procedure: ProcedureName,
    /// With what.
    pub payload: Payload,
    /// What is left of the caller's deadline.
    pub timeout: Duration,
}

/// Whether a provider that answered so has certainly not run the handler.
fn was_not_run(code: Code) -> bool {
    matches!(
        code,
        Code::Unreachable
            | Code::NoProvider
            | Code::Draining
            | Code::Starting
            | Code::NodeMismatch
            | Code::HandlerUnavailable
    )
}

/// Whether the provider may be at another address than those where it was looked for.
fn is_elsewhere(code: Code) -> bool {
    matches!(code, Code::Unreachable | Code::NodeMismatch)
}

#[cfg(test)]
mod tests;
