//! The webhook: puts the sidecar into pods that ask for it, or says why not.

mod inject;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use macula_api::names::{labels, webhooks};
use serde_json::Value;
use tracing::{debug, info, warn};

pub use inject::{Denied, Wish, inject};

use crate::context::Context;
use crate::metrics::Outcome;
use crate::tenancy::{Labels, find};
use crate::trust;

/// The longest review that is read: twice what the API server takes for an object.
const MAX_REVIEW: usize = 6 * 1024 * 1024;

/// How long the trust of a namespace may take; the API server waits five seconds in all.
const TRUST: Duration = Duration::from_secs(2);

/// The server's routes.
pub fn routes(ctx: Arc<Context>) -> Router {
    Router::new()
        .route(webhooks::PATH, post(review))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
        .with_state(ctx)
}

async fn review(
    State(ctx): State<Arc<Context>>,
    Json(review): Json<AdmissionReview<DynamicObject>>,
) -> Json<AdmissionReview<DynamicObject>> {
    let begin = Instant::now();
    let (response, result) = match review.try_into() {
        Ok(request) => answer(&ctx, &request).await,
        Err(error) => {
            warn!(%error, "a review cannot be read");
            (AdmissionResponse::invalid(error), "invalid")
        }
    };
    ctx.metrics.injections.get_or_create(&Outcome { result }).inc();
    ctx.metrics.injection_seconds.observe(begin.elapsed().as_secs_f64());
    Json(response.into_review())
}

async fn answer(
    ctx: &Context,
    request: &AdmissionRequest<DynamicObject>,
) -> (AdmissionResponse, &'static str) {
    let response = AdmissionResponse::from(request);
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let Some(pod) = request.object.as_ref().and_then(|pod| serde_json::to_value(pod).ok()) else {
        return (response.deny("the review has no pod"), "invalid");
    };
    let wish = match wish(ctx, namespace, &pod) {
        Ok(Some(wish)) => wish,
        Ok(None) => return (response, "declined"),
        Err(denied) => return deny(response, namespace, &denied),
    };
    match inject(&pod, &wish) {
        Ok(patch) => {
            if !request.dry_run
                && let Err(why) = trusted(ctx, namespace).await
            {
                // The volume is optional: the sidecar waits for it, and says so.
                warn!(namespace, why, "a namespace does not have the trust yet");
            }
            let operations = patch.0.len();
            debug!(namespace, operations, "a pod gets its sidecar");
            match response.clone().with_patch(patch) {
                Ok(patched) => (patched, "injected"),
                Err(error) => (response.deny(error.to_string()), "invalid"),
            }
        }
        Err(denied) => deny(response, namespace, &denied),
    }
}

fn deny(
    response: AdmissionResponse,
    namespace: &str,
    denied: &Denied,
) -> (AdmissionResponse, &'static str) {
    info!(namespace, reason = denied.reason, message = denied.message, "a pod was denied");
    (response.deny(format!("macula: {}", denied.message)), denied.reason)
}

async fn trusted(ctx: &Context, namespace: &str) -> Result<(), String> {
    match tokio::time::timeout(TRUST, trust::ensure(ctx, namespace)).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}

/// What the pod, or else its namespace, asks for; nothing if it declines.
fn wish(ctx: &Context, namespace: &str, pod: &Value) -> Result<Option<Wish>, Denied> {
    let own = pod["metadata"]["labels"].as_object();
    let of_namespace: Labels = ctx.stores.namespace_labels(namespace);
    let label = |key: &str| {
        let own = own.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        own.or_else(|| of_namespace.get(key).map(String::as_str))
    };
    if label(labels::INJECT) != Some(labels::ENABLED) {
        return Ok(None);
    }
    let name = label(labels::REALM).ok_or_else(|| {
        let why = format!(
            "a sidecar was asked for, and no realm: label the pod or its namespace {}=<spec.name of a \
             MaculaRealm>",
            labels::REALM
        );
        Denied::new("no_realm", why)
    })?;
    let realm = name.parse().map_err(|error| {
        Denied::new("no_realm", format!("the label {}: {error}", labels::REALM))
    })?;
    let mesh = label(labels::MESH).map(|mesh| {
        mesh.parse()
            .map_err(|error| Denied::new("no_mesh", format!("the label {}: {error}", labels::MESH)))
    });
    let mesh = mesh.transpose()?;
    let managed = &ctx.settings.mesh_namespaces;
    let found = find(&ctx.stores, managed, mesh.as_ref(), &realm)
        .map_err(|denied| Denied::new("unknown_realm", denied.to_string()))?;
    Wish::new(&found.mesh, &found.realm, &ctx.settings)
        .map(Some)
        .map_err(|error| Denied::new("invalid", error))
}
