//! Enrolment: a pod proves who it is with a token, and gets a certificate for its own key.
//!
//! What goes into the certificate is what was found out here, in this order, and nothing that was
//! asked for: the token is good for this mesh alone; its pod lives; and the realm admits the pod, or
//! the pod is one of the mesh's own. Each refusal has a code, a log line, a count and, once it is
//! known which pod it is about, an Event on that pod.

mod judge;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use macula_api::{MaculaMesh, names};
use macula_identity::enrolment::{self, Issued, MAX_REQUEST, Refused, Request};
use macula_identity::{Grants, Order, Place};
use macula_proto::Code;
use tokio::sync::Semaphore;
use tracing::{info, warn};

pub use judge::{Bearer, Refusal};

use crate::certificates::now;
use crate::context::Context;
use crate::failure::explain;
use crate::metrics::Outcome;
use crate::tenancy::{self, scope_of};

/// How many requests are judged at a time; more are told to come back.
const AT_A_TIME: usize = 64;

/// How long one may take, the questions to the API server included.
const DEADLINE: Duration = Duration::from_secs(8);

/// The same refusal of the same pod is an Event again after this long.
const REPEAT: Duration = Duration::from_mins(10);

/// Of how many pods the last refusal is remembered.
const REMEMBERED: usize = 4096;

/// The server's state.
#[derive(Debug)]
struct Enrolment {
    ctx: Arc<Context>,
    room: Semaphore,
    told: Mutex<HashMap<String, (Code, Instant)>>,
}

/// The server's routes.
pub fn routes(ctx: Arc<Context>) -> Router {
    let state = Enrolment { ctx, room: Semaphore::new(AT_A_TIME), told: Mutex::default() };
    Router::new()
        .route(enrolment::PATH, post(enrol))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Arc::new(state))
}

async fn enrol(State(state): State<Arc<Enrolment>>, headers: HeaderMap, body: Bytes) -> Response {
    let mut bearer = None;
    let outcome = match state.room.try_acquire() {
        Ok(_permit) => {
            let judged = tokio::time::timeout(DEADLINE, state.judge(&headers, &body, &mut bearer));
            judged.await.unwrap_or_else(|_| {
                Err(Refusal::new(
                    Code::EnrolmentUnavailable,
                    "the API server did not answer in time",
                ))
            })
        }
        Err(_) => Err(Refusal::new(Code::Overloaded, "too many pods enrol at the same time")),
    };
    let result = outcome.as_ref().map_or_else(|refusal| refusal.code.name(), |_| "ok");
    state.ctx.metrics.enrolments.get_or_create(&Outcome { result }).inc();
    match outcome {
        Ok(issued) => axum::Json(issued).into_response(),
        Err(refusal) => {
            state.tell(&refusal, bearer.as_ref()).await;
            problem(&refusal)
        }
    }
}

impl Enrolment {
    /// `bearer` is set as soon as it is known.
    async fn judge(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        bearer: &mut Option<Bearer>,
    ) -> Result<Issued, Refusal> {
        let request =
            Request::from_json(body).map_err(|why| Refusal::new(Code::InvalidRequest, why))?;
        let place =
            request.place().map_err(|why| Refusal::new(Code::InvalidRequest, why.to_owned()))?;
        let csr = request.csr_der().map_err(|why| Refusal::new(Code::BadCsr, why))?;
        let mesh = self.mesh(&request)?;
        let scope = scope_of(&mesh).map_err(internal)?;
        let found = self.bearer(headers, &enrolment::audience(&scope)).await?;
        let pod = bearer.insert(found);

        let pods: Api<Pod> = Api::namespaced(self.ctx.client.clone(), &pod.namespace);
        let live = pods.get_opt(&pod.pod).await.map_err(unavailable)?;
        judge::alive(live.as_ref(), pod)?;
        let name = match &place {
            Place::Realm(realm) => {
                let stores = &self.ctx.stores;
                let managed = &self.ctx.settings.mesh_namespaces;
                let found = tenancy::find(stores, managed, Some(&request.mesh), realm)
                    .map_err(judge::denied)?;
                judge::member(&found.realm, &stores.namespace_labels(&pod.namespace), pod)?;
                names::peer(&pod.namespace, &pod.pod)
            }
            Place::Bootstrap | Place::Gateway => {
                self.infrastructure(&mesh, &place, live.as_ref(), pod).await?;
                pod.pod.clone()
            }
        };
        let name = name.parse().map_err(internal)?;
        let subject = scope.subject(place, name);
        let authority = self.ctx.authorities.of(&mesh).await.map_err(internal)?;
        let lifetime = mesh.spec.certificates.lifetime.duration();
        let order = Order { grants: Grants::default(), lifetime, ..Order::new(subject) };
        let chain = authority
            .issue(&csr, &order, now())
            .map_err(|error| Refusal::new(Code::BadCsr, error.to_string()))?;
        info!(subject = %order.subject, seconds = lifetime.as_secs(), "a certificate was issued");
        Ok(Issued::new(&chain))
    }

    fn mesh(&self, request: &Request) -> Result<Arc<MaculaMesh>, Refusal> {
        let mesh = &request.mesh;
        let unknown = || Refusal::new(Code::UnknownMesh, format!("there is no mesh {mesh}"));
        let found = self.ctx.stores.mesh_named(mesh).ok_or_else(unknown)?;
        tenancy::judge_mesh(&found, &self.ctx.settings.mesh_namespaces)
            .map_err(|not| Refusal::new(Code::UnknownMesh, not.message))?;
        Ok(found)
    }

    /// Whose token it is, as the API server says: for exactly this audience, without a fallback.
    async fn bearer(&self, headers: &HeaderMap, audience: &str) -> Result<Bearer, Refusal> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or_else(|| Refusal::new(Code::TokenRefused, "the request has no bearer token"))?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.ctx.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await.map_err(unavailable)?;
        judge::token(&review.status.unwrap_or_default(), audience)
    }

    /// Only the mesh's own pods are infrastructure: of our service account, and controlled by what we
    /// made for this very mesh.
    async fn infrastructure(
        &self,
        mesh: &MaculaMesh,
        place: &Place,
        live: Option<&Pod>,
        pod: &Bearer,
    ) -> Result<(), Refusal> {
        let namespace = mesh.namespace().unwrap_or_default();
        let name = judge::own_name(mesh, place);
        judge::own_account(&namespace, &name, pod)?;
        let client = self.ctx.client.clone();
        let owner = live.and_then(|live| judge::controller(&live.metadata));
        let owner = owner.ok_or_else(|| judge::stranger("it has no controller"))?;
        let made = if *place == Place::Bootstrap {
            let sets: Api<StatefulSet> = Api::namespaced(client, &namespace);
            let set = sets.get_opt(&name).await.map_err(unavailable)?;
            set.filter(|set| owner.kind == "StatefulSet" && set.uid() == Some(owner.uid.clone()))
                .and_then(|set| judge::controller(&set.metadata).cloned())
        } else {
            let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &namespace);
            let set = sets.get_opt(&owner.name).await.map_err(unavailable)?;
            let set = set
                .filter(|set| owner.kind == "ReplicaSet" && set.uid() == Some(owner.uid.clone()));
            let deployment = set.and_then(|set| judge::controller(&set.metadata).cloned());
            match deployment.filter(|owner| owner.kind == "Deployment" && owner.name == name) {
                Some(owner) => {
                    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
                        Api::namespaced(client, &namespace);
                    let deployment = deployments.get_opt(&name).await.map_err(unavailable)?;
                    deployment
                        .filter(|deployment| deployment.uid() == Some(owner.uid.clone()))
                        .and_then(|deployment| judge::controller(&deployment.metadata).cloned())
                }
                None => None,
            }
        };
        match made {
            Some(owner) if Some(&owner.uid) == mesh.metadata.uid.as_ref() => Ok(()),
            _ => Err(judge::stranger("what controls it was not made for this mesh")),
        }
    }

    /// Once for each pod and reason: a sidecar that is refused comes again and again.
    async fn tell(&self, refusal: &Refusal, bearer: Option<&Bearer>) {
        let Refusal { code, detail } = refusal;
        let Some(Bearer { namespace, pod, uid, account: _ }) = bearer else {
            warn!(%code, detail, "somebody was refused a certificate");
            return;
        };
        if !self.is_news(uid, *code) {
            return;
        }
        warn!(%code, detail, namespace, pod, "a pod was refused a certificate");
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(pod.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        };
        let note = format!("{code}: {detail}. {}", code.next());
        self.ctx.events.warning(&about, "Enrol", "EnrolmentRefused", &note).await;
    }

    fn is_news(&self, uid: &str, code: Code) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |(known, at): &(Code, Instant)| *known == code && at.elapsed() < REPEAT;
        if told.get(uid).is_some_and(fresh) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.retain(|_, (_, at)| at.elapsed() < REPEAT);
        }
        if told.len() < REMEMBERED {
            told.insert(uid.to_owned(), (code, Instant::now()));
        }
        true
    }
}

fn problem(refusal: &Refusal) -> Response {
    let Refusal { code, detail } = refusal;
    let document = Refused {
        code: code.name().to_owned(),
        title: code.title().to_owned(),
        status: code.status(),
        detail: detail.clone(),
        retryable: code.is_retryable(),
    };
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(document)).into_response();
    let content = header::HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    response
}

fn unavailable(error: kube::Error) -> Refusal {
    Refusal::new(Code::EnrolmentUnavailable, format!("the API server: {}", explain(&error)))
}

fn internal(error: impl std::error::Error) -> Refusal {
    Refusal::new(Code::EnrolmentUnavailable, crate::failure::chain(&error))
}
