//! Looks for pods that should carry a sidecar and do not: labelled after they were made, or made while
//! the labels were elsewhere. It tells, and evicts nobody.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use macula_api::names::labels;
use macula_api::{MaculaRealm, reasons};
use tokio::time::{MissedTickBehavior, interval};

use crate::context::Context;
use crate::stores::{Stores, opted_in, sidecar};

/// How often everybody is looked at.
const EVERY: Duration = Duration::from_secs(10);

/// The running pods that asked for a sidecar of this realm and have none, `<namespace>/<name>`.
#[must_use]
pub fn missing(stores: &Stores, realm: &MaculaRealm) -> Vec<String> {
    let mut found: Vec<_> = pods(stores)
        .into_iter()
        .filter(|pod| wanted(stores, pod, labels::REALM).as_deref() == Some(&realm.spec.name))
        .filter(|pod| {
            let mesh = wanted(stores, pod, labels::MESH);
            mesh.is_none_or(|mesh| mesh == realm.mesh_name())
        })
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    found.sort_unstable();
    found
}

/// Writes an Event on each such pod, once.
pub async fn run(ctx: &Context) {
    ctx.stores.ready().await;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: HashSet<String> = HashSet::new();
    loop {
        ticks.tick().await;
        let missing = pods(&ctx.stores);
        ctx.metrics.sidecars_missing.set(missing.len() as u64);
        let now: HashSet<String> = missing.iter().filter_map(|pod| pod.uid()).collect();
        for pod in &missing {
            if pod.uid().is_none_or(|uid| told.contains(&uid)) {
                continue;
            }
            let about = pod.object_ref(&());
            let note = "the pod asked for a sidecar and runs without one; make it again";
            ctx.events.warning(&about, "Watch", reasons::SIDECARS_MISSING, note).await;
        }
        told = now;
    }
}

/// The running pods that asked for a sidecar and have none.
fn pods(stores: &Stores) -> Vec<Arc<Pod>> {
    let asked = |pod: &Pod| match pod.labels().get(labels::INJECT).map(String::as_str) {
        Some(own) => own == labels::ENABLED,
        None => opted_in(&stores.namespace_labels(&pod.namespace().unwrap_or_default())),
    };
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
    };
    stores.pods.state_filter(|pod| {
        !ended(pod)
            && asked(pod)
            && sidecar(pod).is_none()
            && crate::stores::infrastructure(pod).is_none()
            && ObjectRef::from_obj(pod).namespace.as_deref() != Some("kube-system")
    })
}

/// What a pod's label says, or else its namespace's.
fn wanted(stores: &Stores, pod: &Pod, label: &str) -> Option<String> {
    pod.labels().get(label).cloned().or_else(|| {
        stores.namespace_labels(&pod.namespace().unwrap_or_default()).get(label).cloned()
    })
}
