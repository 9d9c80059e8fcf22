//! Keeps `macula-trust` in every namespace that has nodes or may get some, and in no other.
//!
//! It holds the roots of every mesh and the CA of enrolment, whoever is admitted in the namespace:
//! so that a pod that is refused can start, and its sidecar say why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use macula_api::names::{self, labels, managers};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::authorities::only;
use crate::backoff::{Backoff, jittered};
use crate::context::Context;
use crate::failure::{explain, is_conflict, is_not_found};
use crate::resources::trust::{build, is_ours};
use crate::stores::{Change, Stores, opted_in, sidecar};
use crate::tenancy::judge_mesh;

/// What `macula-trust` should hold, by key. Nothing in the place of what cannot be found out now:
/// there what was known before stays.
type Content = BTreeMap<String, Option<String>>;

/// Makes sure that a namespace has the trust, as it should be, before a pod is admitted to it.
///
/// # Errors
/// [`Error`] if it cannot be applied.
pub async fn ensure(ctx: &Context, namespace: &str) -> Result<(), Error> {
    ctx.stores.tell(Change::Ensured(namespace.to_owned()));
    put_now(ctx, namespace).await
}

/// Makes sure that a namespace has the trust, as it should be.
///
/// # Errors
/// [`Error`] if it cannot be applied.
pub(crate) async fn put_now(ctx: &Context, namespace: &str) -> Result<(), Error> {
    put(ctx, namespace, &content(ctx).await).await
}

/// Why a namespace does not have the trust that it should have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what was asked of it.
    #[error(
        "cannot {what} the ConfigMap {} in the namespace {namespace}: {}",
        names::TRUST,
        explain(source)
    )]
    Api {
        /// What was tried.
        what: &'static str,
        /// The namespace.
        namespace: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error(
        "the ConfigMap {} in the namespace {namespace}: no answer within {} s",
        names::TRUST,
        DEADLINE.as_secs()
    )]
    Silence {
        /// The namespace.
        namespace: String,
    },
}

/// How long one namespace may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How many namespaces are written at the same time.
const AT_ONCE: usize = 4;

/// How long a namespace keeps its trust after the last reason for it: a pod that was admitted may
/// not be there yet.
const LINGER: Duration = Duration::from_secs(30);

/// How often everything is looked at without a reason.
const EVERY: Duration = Duration::from_mins(5);

/// How long changes are gathered before they are acted upon.
const GATHER: Duration = Duration::from_millis(200);

/// Keeps the trust for ever.
pub(crate) async fn run(ctx: &Context) {
    let mut changes = ctx.stores.changes();
    let mut keeper = Keeper::default();
    ctx.stores.ready().await;
    loop {
        let next = keeper.pass(ctx).await;
        let wait = sleep(next);
        tokio::pin!(wait);
        loop {
            let change = tokio::select! {
                () = &mut wait => break,
                change = changes.recv() => change,
            };
            match change {
                Ok(change) if !keeper.note(&change) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    sleep(GATHER).await;
                    break;
                }
                Err(RecvError::Closed) => return,
            }
        }
        loop {
            match changes.try_recv() {
                Ok(change) => {
                    keeper.note(&change);
                }
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }
}

/// What is remembered between two passes.
#[derive(Debug, Default)]
struct Keeper {
    /// Until when a namespace keeps its trust although nothing is known that wants it.
    lingering: HashMap<String, Instant>,
    /// Namespaces in which it failed, and when to try again.
    waiting: HashMap<String, Instant>,
    backoff: Backoff<String>,
}

impl Keeper {
    /// Takes note of a change. Whether the trust of some namespace may have to change.
    fn note(&mut self, change: &Change) -> bool {
        match change {
            Change::Ensured(namespace) => {
                self.lingering.insert(namespace.clone(), Instant::now() + LINGER);
                false
            }
            Change::Namespace(namespace) | Change::Trust(namespace) => {
                self.waiting.remove(namespace);
                true
            }
            Change::Mesh(_)
            | Change::Pod(_)
            | Change::Secret(_)
            | Change::OperatorCa
            | Change::Everything => true,
            Change::MeshStatus(_)
            | Change::Realm(..)
            | Change::Infrastructure(_)
            | Change::Child(_)
            | Change::Census(_) => false,
        }
    }

    /// Looks at every namespace once. How long to wait before the next time.
    async fn pass(&mut self, ctx: &Context) -> Duration {
        let content = content(ctx).await;
        let wanted = wanted(&ctx.stores, &ctx.settings.mesh_namespaces);
        let now = Instant::now();
        self.waiting.retain(|_, until| *until > now);
        let puts = wanted.iter().filter(|namespace| !self.waiting.contains_key(*namespace));
        let puts = puts
            .map(|namespace| async { (namespace.clone(), put(ctx, namespace, &content).await) });
        let puts: Vec<_> = puts.collect();
        let results: Vec<_> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
        for (namespace, result) in results {
            self.settle(ctx, namespace, result).await;
        }
        self.prune(ctx, &wanted).await;
        let soonest = self.waiting.values().chain(self.lingering.values()).min();
        let until = soonest.map(|until| until.saturating_duration_since(Instant::now()) + GATHER);
        until.unwrap_or(EVERY).min(jittered(EVERY))
    }

    async fn settle(&mut self, ctx: &Context, namespace: String, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.backoff.forget(&namespace);
            }
            Err(error) => {
                let why = error.to_string();
                warn!(namespace, why, "a namespace does not have its trust");
                if let Some(about) = ctx.stores.namespaces.get(&ObjectRef::new(&namespace)) {
                    let about = about.object_ref(&());
                    ctx.events.warning(&about, "Trust", "TrustNotApplied", &why).await;
                }
                let until = Instant::now() + self.backoff.failed(namespace.clone());
                self.waiting.insert(namespace, until);
            }
        }
    }

    /// Removes what nobody has wanted for a while.
    async fn prune(&mut self, ctx: &Context, wanted: &BTreeSet<String>) {
        let now = Instant::now();
        let maps = ctx.stores.trust.state();
        let unwanted: BTreeMap<String, Arc<ConfigMap>> = maps
            .into_iter()
            .filter(|map| is_ours(map))
            .filter_map(|map| Some((map.namespace()?, map)))
            .filter(|(namespace, _)| !wanted.contains(namespace))
            .collect();
        self.lingering.retain(|namespace, until| unwanted.contains_key(namespace) || *until > now);
        for (namespace, map) in unwanted {
            let until = *self.lingering.entry(namespace.clone()).or_insert(now + LINGER);
            if until > now {
                continue;
            }
            match remove(ctx, &namespace, &map).await {
                Ok(()) => {
                    self.lingering.remove(&namespace);
                }
                Err(error) => {
                    warn!(namespace, why = error.to_string(), "trust that nobody wants stays");
                    self.lingering.insert(namespace, now + LINGER);
                }
            }
        }
    }
}

/// What every namespace should have now.
async fn content(ctx: &Context) -> Content {
    let mut content = Content::new();
    for mesh in ctx.stores.meshes.state() {
        if judge_mesh(&mesh, &ctx.settings.mesh_namespaces).is_err()
            || mesh.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        let key = names::roots(&mesh.namespace().unwrap_or_default(), &mesh.name_any());
        // The mesh's own status says what is wrong with its authority.
        let root = ctx.authorities.of(&mesh).await.ok().map(|authority| authority.ca_cert_pem());
        content.insert(key, root);
    }
    let enrolment = ctx.operator_ca.ca_cert_pem().to_owned();
    content.insert(names::ENROLMENT_CA.to_owned(), Some(enrolment));
    content
}

/// The content, with what was known in the place of what is not known now.
fn filled(content: &Content, known: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let before = |key: &String| known.and_then(|known| known.get(key)).cloned();
    content
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.clone().or_else(|| before(key))?)))
        .collect()
}

/// Whether what is there differs from what should be. What others have added, and we do not know the
/// meaning of, does not matter.
fn differs(known: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    let is_missing = wanted.iter().any(|(key, value)| known.get(key) != Some(value));
    is_missing || known.keys().any(|key| key.ends_with(".pem") && !wanted.contains_key(key))
}

async fn put(ctx: &Context, namespace: &str, content: &Content) -> Result<(), Error> {
    let known = ctx.stores.trust.get(&ObjectRef::new(names::TRUST).within(namespace));
    let data = filled(content, known.as_ref().and_then(|map| map.data.as_ref()));
    if let Some(map) = &known
        && is_ours(map)
        && !differs(map.data.as_ref().unwrap_or(&BTreeMap::new()), &data)
    {
        return Ok(());
    }
    let map = build(namespace, data);
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let params = PatchParams::apply(managers::TRUST).force();
    let patch = Patch::Apply(&map);
    match timeout(DEADLINE, api.patch(names::TRUST, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(failed("apply", namespace, source)),
        Err(_) => Err(Error::Silence { namespace: namespace.to_owned() }),
    }
}

/// Removes it, unless the API server knows of a pod that wants it.
async fn remove(ctx: &Context, namespace: &str, map: &ConfigMap) -> Result<(), Error> {
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(ctx.client.clone(), namespace);
    let labelled = ListParams::default().labels(&format!("{}={}", labels::INJECT, labels::ENABLED));
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let removal = async {
        let pods = pods.list(&labelled.limit(1)).await;
        let pods = pods.map_err(|source| failed("check who wants", namespace, source))?;
        if !pods.items.is_empty() {
            return Ok(());
        }
        info!(namespace, "trust that nobody wants any more is removed");
        match maps.delete(names::TRUST, &only(map)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(source) => Err(failed("remove", namespace, source)),
        }
    };
    let silence = || Error::Silence { namespace: namespace.to_owned() };
    timeout(DEADLINE, removal).await.unwrap_or_else(|_| Err(silence()))
}

fn failed(what: &'static str, namespace: &str, source: kube::Error) -> Error {
    Error::Api { what, namespace: namespace.to_owned(), source: Box::new(source) }
}

fn wanted(stores: &Stores, managed: &BTreeSet<String>) -> BTreeSet<String> {
    let meshes = stores.meshes.state();
    let meshes = meshes
        .iter()
        .filter(|mesh| judge_mesh(mesh, managed).is_ok())
        .filter_map(|mesh| mesh.namespace());
    wanted_by(&stores.namespaces.state(), &stores.pods.state(), meshes)
}

/// The namespaces that want the trust: labelled ones, those with a pod that is labelled or has a
/// sidecar, and those of meshes. None that is being deleted.
fn wanted_by(
    namespaces: &[Arc<PartialObjectMeta<Namespace>>],
    pods: &[Arc<Pod>],
    meshes: impl Iterator<Item = String>,
) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = namespaces
        .iter()
        .filter(|namespace| opted_in(namespace.labels()))
        .map(|namespace| namespace.name_any())
        .chain(meshes)
        .collect();
    let pods = pods.iter().filter(|pod| opted_in(pod.labels()) || sidecar(pod).is_some());
    wanted.extend(pods.filter_map(|pod| pod.namespace()));
    for namespace in namespaces {
        if namespace.metadata.deletion_timestamp.is_some() {
            wanted.remove(&namespace.name_any());
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(value: serde_json::Value) -> Arc<PartialObjectMeta<Namespace>> {
        Arc::new(serde_json::from_value(json!({ "metadata": value })).unwrap())
    }

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn trust_is_wanted_where_pods_are_or_may_come() {
        let namespaces = [
            namespace(json!({ "name": "labelled", "labels": { "macula.io/inject": "enabled" } })),
            namespace(json!({ "name": "refusing", "labels": { "macula.io/inject": "disabled" } })),
            namespace(json!({
                "name": "leaving", "labels": { "macula.io/inject": "enabled" },
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            })),
            namespace(json!({ "name": "plain" })),
        ];
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "one", "namespace": "pods", "labels": { "macula.io/inject": "enabled" },
            },
        }))
        .unwrap();
        let meshes = ["macula-system".to_owned()].into_iter();
        let wanted = wanted_by(&namespaces, &[Arc::new(pod)], meshes);
        assert_eq!(Vec::from_iter(wanted), ["labelled", "macula-system", "pods"]);
    }

    #[test]
    fn a_root_that_cannot_be_read_now_stays_as_it_was_known() {
        let content = Content::from([
            ("a.main.pem".to_owned(), None),
            ("b.main.pem".to_owned(), Some("B".to_owned())),
        ]);
        let known = map(&[("a.main.pem", "A"), ("c.main.pem", "C")]);
        assert_eq!(
            filled(&content, Some(&known)),
            map(&[("a.main.pem", "A"), ("b.main.pem", "B")])
        );
        assert_eq!(filled(&content, None), map(&[("b.main.pem", "B")]));
    }

    #[test]
    fn what_others_added_does_not_make_it_different_unless_it_is_a_root() {
        let wanted = map(&[("a.main.pem", "A")]);
        assert!(!differs(&wanted, &wanted));
        assert!(differs(&map(&[]), &wanted));
        assert!(differs(&map(&[("a.main.pem", "X")]), &wanted));
        assert!(!differs(&map(&[("a.main.pem", "A"), ("note", "x")]), &wanted));
        assert!(differs(&map(&[("a.main.pem", "A"), ("gone.main.pem", "G")]), &wanted));
    }

    #[test]
    fn a_namespace_that_was_ensured_is_left_alone_for_a_while() {
        let mut keeper = Keeper::default();
        let begin = Instant::now();
        assert!(!keeper.note(&Change::Ensured("shop".to_owned())));
        assert!(keeper.lingering["shop"] >= begin + LINGER);
        assert!(keeper.note(&Change::Everything));
    }
}
