//! Events on the objects of others: what `kubectl describe` shows beneath them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use macula_api::reasons;
use tracing::warn;

use crate::conditions::{cut, news};

/// Writes Events.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
    /// Remembers for six minutes what was said.
    recorder: Recorder,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Events from the operator; `instance` is the name of its pod.
    #[must_use]
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: REPORTER.to_owned(), instance };
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, recorder }
    }

    /// Something happened as it should. Said again soon, it counts up the Event that is there, and
    /// leaves its note as it was.
    pub async fn normal(&self, about: &ObjectReference, action: &str, reason: &str, note: &str) {
        self.publish(EventType::Normal, about, action, reason, note).await;
    }

    /// Somebody should look. Said again soon, it counts up the Event that is there, and leaves its
    /// note as it was.
    pub async fn warning(&self, about: &ObjectReference, action: &str, reason: &str, note: &str) {
        self.publish(EventType::Warning, about, action, reason, note).await;
    }

    /// What has changed in an object's conditions: one Event each, with the numbers of the moment.
    pub async fn transitions(
        &self,
        about: &ObjectReference,
        before: &[Condition],
        after: &[Condition],
    ) {
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let events = Self { recorder, ..self.clone() };
        for Condition { status, reason, message, .. } in news(before, after) {
            match (status.as_str(), reason.as_str()) {
                // Said already: by the condition that it is not accepted.
                (_, reasons::NOT_ACCEPTED) => {}
                ("True", _) | (_, reasons::STARTING | reasons::MESH_NOT_READY) => {
                    events.normal(about, ACTION, reason, message).await;
                }
                _ => events.warning(about, ACTION, reason, message).await,
            }
        }
    }

    /// An Event that cannot be written is logged and forgotten: what it says stands in a status too.
    async fn publish(
        &self,
        type_: EventType,
        about: &ObjectReference,
        action: &str,
        reason: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note, MAX_NOTE).to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        let why = match tokio::time::timeout(DEADLINE, self.recorder.publish(&event, about)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => crate::failure::explain(&error),
            Err(_) => format!("no answer within {} s", DEADLINE.as_secs()),
        };
        let name = about.name.as_deref().unwrap_or_default();
        let namespace = about.namespace.as_deref().unwrap_or_default();
        warn!(namespace, name, reason, why, "an Event could not be written");
    }
}

/// What was done that led to a transition.
const ACTION: &str = "Reconcile";

/// Who says it.
const REPORTER: &str = "macula-operator";

/// How long a reconcile waits for an Event.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest note that the API server takes (`events.k8s.io/v1`).
const MAX_NOTE: usize = 1024;
