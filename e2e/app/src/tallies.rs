//! What has happened so far, as numbers; and each thing that happens, as a line of JSON.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::sidecar::Failure;

/// How many messages are kept to be shown: enough for a story to find its own.
const KEPT: usize = 200;

/// The tallies, which every task writes.
#[derive(Clone, Debug)]
pub(crate) struct Tallies {
    name: String,
    quiet: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    heard: Heard,
    calls: Attempts,
    published: Attempts,
    answered: u64,
    /// What `run` was asked to do and has not brought about yet.
    pending: usize,
}

#[derive(Debug, Default)]
struct Heard {
    count: u64,
    missed: u64,
    first: Option<u128>,
    last: VecDeque<Value>,
}

/// Attempts of one kind. They count from the first that succeeded: before it, the application starts.
#[derive(Debug, Default)]
struct Attempts {
    ok: u64,
    first: Option<u128>,
    last_ok: Option<Instant>,
    longest_gap: Duration,
    last_answer: Value,
    failed: BTreeMap<String, u64>,
    last_failure: Value,
}

impl Tallies {
    pub(crate) fn new(name: &str, quiet: bool, pending: usize) -> Self {
        let inner = Inner { pending, ..Inner::default() };
        Self { name: name.to_owned(), quiet, inner: Arc::new(Mutex::new(inner)) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: &Value) {
        if !self.quiet {
            println!("{event}");
        }
    }

    /// One thing that `run` was asked to do is in place.
    pub(crate) fn in_place(&self, event: &str, what: &str) {
        let mut inner = self.lock();
        inner.pending = inner.pending.saturating_sub(1);
        println!("{}", json!({ "event": event, "what": what }));
    }

    /// Whether everything that `run` was asked to do is in place.
    pub(crate) fn ready(&self) -> bool {
        self.lock().pending == 0
    }

    pub(crate) fn waits(&self, what: &str, failure: &Failure) {
        println!(
            "{}",
            json!({ "event": "waits", "what": what, "code": failure.code, "detail": failure.detail })
        );
    }

    pub(crate) fn heard(&self, message: Value) {
        self.tell(&json!({ "event": "heard", "topic": message["topic"], "text": message["text"] }));
        let heard = &mut self.lock().heard;
        heard.count += 1;
        heard.first.get_or_insert_with(now_ms);
        if heard.last.len() == KEPT {
            heard.last.pop_front();
        }
        heard.last.push_back(message);
    }

    pub(crate) fn missed(&self, count: u64) {
        println!("{}", json!({ "event": "gap", "missed": count }));
        self.lock().heard.missed += count;
    }

    pub(crate) fn answered(&self, procedure: &str, caller: &str, answer: &Value) {
        self.tell(&json!({ "event": "served", "procedure": procedure, "caller": caller, "answer": answer }));
        self.lock().answered += 1;
    }

    pub(crate) fn called(&self, procedure: &str, outcome: Result<Value, Failure>) {
        let line = outcome
            .map(|answer| json!({ "event": "answer", "procedure": procedure, "answer": answer }));
        self.attempted(|inner| &mut inner.calls, procedure, line);
    }

    pub(crate) fn published(&self, topic: &str, text: &str, outcome: Result<u64, Failure>) {
        let line = outcome.map(|subscribers| {
            json!({ "event": "published", "topic": topic, "text": text, "subscribers": subscribers })
        });
        self.attempted(|inner| &mut inner.published, topic, line);
    }

    fn attempted(
        &self,
        which: impl Fn(&mut Inner) -> &mut Attempts,
        what: &str,
        outcome: Result<Value, Failure>,
    ) {
        let mut inner = self.lock();
        let attempts = which(&mut inner);
        match outcome {
            Ok(line) => {
                let now = Instant::now();
                if let Some(before) = attempts.last_ok.replace(now) {
                    attempts.longest_gap = attempts.longest_gap.max(now - before);
                }
                attempts.ok += 1;
                attempts.first.get_or_insert_with(now_ms);
                attempts.last_answer = line["answer"].clone();
                self.tell(&line);
            }
            Err(failure) if attempts.ok == 0 => self.waits(what, &failure),
            Err(failure) => {
                let line = json!({ "event": "failed", "what": what, "code": failure.code,
                    "detail": failure.detail, "unix_ms": now_ms() });
                println!("{line}");
                attempts.last_failure = line;
                *attempts.failed.entry(failure.code).or_default() += 1;
            }
        }
    }

    /// The tallies as they are told.
    pub(crate) fn to_json(&self) -> Value {
        let inner = self.lock();
        let Inner { heard, calls, published, answered, pending } = &*inner;
        json!({
            "name": self.name,
            "pending": pending,
            "heard": {
                "count": heard.count, "missed": heard.missed, "first_unix_ms": heard.first, "last": heard.last,
            },
            "calls": calls.to_json(),
            "published": published.to_json(),
            "answered": answered,
        })
    }
}

impl Attempts {
    fn to_json(&self) -> Value {
        let Self { ok, first, last_ok: _, longest_gap, last_answer, failed, last_failure } = self;
        json!({
            "ok": ok, "first_unix_ms": first, "longest_gap_ms": longest_gap.as_millis(),
            "last_answer": last_answer, "failed": failed, "last_failure": last_failure,
        })
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
