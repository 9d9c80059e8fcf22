//! What the operator knows of the cluster: kept by watches, read by everybody, written by nobody else.
//!
//! Each watch leaves out what nobody here reads, tells [`Change`]s to whoever subscribes, and is not
//! stalled by an object that cannot be read.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use macula_api::names::labels;
use macula_api::{MaculaMesh, MaculaRealm, names};
use macula_identity::MeshName;
use tokio::sync::{Notify, broadcast, watch};
use tracing::info;

use crate::tenancy::{Labels, mesh_ref_of};

mod children;
mod keep;
mod pods;

pub use children::{Child, Children, Key, Kind, fingerprint};
pub use pods::{Sidecar, infrastructure, is_ready, sidecar, trouble};

use keep::{Keeper, Seen};

/// The stores. Clones share them.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Every mesh.
    pub meshes: Store<MaculaMesh>,
    /// Every realm.
    pub realms: Store<MaculaRealm>,
    /// The metadata of every namespace.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Of pods: those that carry our sidecar or should, and the infrastructure of meshes. Names,
    /// labels, our annotations, owners, service account, address and conditions; no containers but
    /// the names of the init containers.
    pub pods: Store<Pod>,
    /// Every ConfigMap `macula-trust`.
    pub trust: Store<ConfigMap>,
    /// The metadata of the Secrets that hold the meshes' authorities.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    /// What we made in the namespaces of meshes.
    pub children: Children,
    changes: broadcast::Sender<Change>,
    filled: Arc<watch::Sender<bool>>,
}

/// Something that is other than before. Whoever falls behind is told [`Everything`](Self::Everything).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A mesh has come or gone, or is wanted otherwise.
    Mesh(ObjectRef<MaculaMesh>),
    /// The status of a mesh says something else.
    MeshStatus(ObjectRef<MaculaMesh>),
    /// A realm has come or gone, or is wanted otherwise; and the mesh that it names.
    Realm(ObjectRef<MaculaRealm>, ObjectRef<MaculaMesh>),
    /// A namespace has come or gone, or has other labels.
    Namespace(String),
    /// A pod with our sidecar, or one that should have it, has come, gone or changed. The realm that
    /// it names, if it names one itself.
    Pod(Option<String>),
    /// A pod of a mesh's infrastructure has come, gone or changed.
    Infrastructure(ObjectRef<MaculaMesh>),
    /// Something that we made for a mesh was changed or deleted.
    Child(ObjectRef<MaculaMesh>),
    /// The trust of a namespace was changed or deleted.
    Trust(String),
    /// The Secret of a mesh was changed or deleted; the mesh's `<namespace>.<name>`.
    Secret(String),
    /// Another number of living nodes was counted in a mesh.
    Census(ObjectRef<MaculaMesh>),
    /// A pod is about to be admitted to this namespace.
    Ensured(String),
    /// The operator's own authority is another.
    OperatorCa,
    /// A watch began anew, or too much changed at once: look at everything.
    Everything,
}

/// How many changes wait for a subscriber before it is told to look at everything instead.
const CHANGES: usize = 1024;

/// How many objects one page of a list holds: pods are large before they are trimmed.
const PAGE: u32 = 100;

impl Stores {
    /// The stores, empty, and what keeps them until it is dropped. `managed` are the namespaces in
    /// which meshes are looked after, `own` is the operator's.
    pub fn start(
        client: &Client,
        own: &str,
        managed: &BTreeSet<String>,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (changes, _) = broadcast::channel(CHANGES);
        let (meshes, meshes_writer) = store();
        let (realms, realms_writer) = store();
        let (namespaces, namespaces_writer) = store();
        let (pods, pods_writer) = store();
        let (trust, trust_writer) = store();
        let (secrets, secrets_writer) = store();
        let children = Children::default();
        let filled = Arc::default();
        let stores =
            Self { meshes, realms, namespaces, pods, trust, secrets, children, changes, filled };

        let own_changes = || stores.changes.clone();
        let ours = format!("{}={}", labels::MANAGED_BY, names::OPERATOR);
        let paged = |size| watcher::Config::default().page_size(size);

        let mesh_keeper = Keeper {
            trim: unmanaged::<MaculaMesh>,
            matters: Box::new(|_| true),
            change: Box::new(|seen| {
                let reference = ObjectRef::from_obj(seen.object());
                match seen {
                    Seen::Came(_) | Seen::Went(_) => Some(Change::Mesh(reference)),
                    Seen::Changed(old, new) if wants_the_same(old, new) => {
                        (old.status != new.status).then_some(Change::MeshStatus(reference))
                    }
                    Seen::Changed(..) => Some(Change::Mesh(reference)),
                }
            }),
            changes: own_changes(),
            again: Arc::default(),
        };
        let begin =
            keep::objects(Api::all(client.clone()), paged(PAGE), Arc::clone(&mesh_keeper.again));
        let meshes = mesh_keeper.keep(meshes_writer, begin);

        let realm_keeper = Keeper {
            trim: unmanaged::<MaculaRealm>,
            matters: Box::new(|_| true),
            change: Box::new(|seen| {
                let realm = seen.object();
                let change = Change::Realm(ObjectRef::from_obj(realm), mesh_ref_of(realm));
                match seen {
                    Seen::Came(_) | Seen::Went(_) => Some(change),
                    Seen::Changed(old, new) => (!wants_the_same(old, new)).then_some(change),
                }
            }),
            changes: own_changes(),
            again: Arc::default(),
        };
        let begin =
            keep::objects(Api::all(client.clone()), paged(PAGE), Arc::clone(&realm_keeper.again));
        let realms = realm_keeper.keep(realms_writer, begin);

        // Notified when the labels of a namespace say that other pods matter now.
        let pods_again = Arc::<Notify>::default();
        let list_pods_again = Arc::clone(&pods_again);
        let namespace_keeper = Keeper {
            trim: unmanaged::<PartialObjectMeta<Namespace>>,
            matters: Box::new(|_| true),
            change: Box::new(move |seen| {
                let change = Change::Namespace(seen.object().name_any());
                match seen {
                    Seen::Came(_) | Seen::Went(_) => Some(change),
                    Seen::Changed(old, new) if old.labels() == new.labels() => None,
                    Seen::Changed(old, new) => {
                        if opted_in(old.labels()) != opted_in(new.labels()) {
                            list_pods_again.notify_one();
                        }
                        Some(change)
                    }
                }
            }),
            changes: own_changes(),
            again: Arc::default(),
        };
        let begin = keep::metadata(Api::all(client.clone()), paged(500));
        let namespaces = namespace_keeper.keep(namespaces_writer, begin);

        let known_namespaces = stores.clone();
        let pod_keeper = Keeper {
            trim: pods::trim,
            matters: Box::new(move |pod| pods::matters(pod, &known_namespaces)),
            change: Box::new(|seen| match seen {
                Seen::Changed(old, new) if old == new => None,
                seen => Some(pods::change(seen.object())),
            }),
            changes: own_changes(),
            again: Arc::clone(&pods_again),
        };
        let begin = keep::objects(Api::all(client.clone()), paged(PAGE), pods_again);
        let pods = pod_keeper.keep(pods_writer, begin);

        let trust_keeper = Keeper {
            trim: unmanaged::<ConfigMap>,
            matters: Box::new(|_| true),
            change: Box::new(|seen| {
                Some(Change::Trust(seen.object().namespace().unwrap_or_default()))
            }),
            changes: own_changes(),
            again: Arc::default(),
        };
        let begin = keep::objects(
            Api::all(client.clone()),
            paged(PAGE).fields(&format!("metadata.name={}", names::TRUST)),
            Arc::clone(&trust_keeper.again),
        );
        let trust = trust_keeper.keep(trust_writer, begin);

        let secret_keeper = Keeper {
            trim: unmanaged::<PartialObjectMeta<Secret>>,
            matters: Box::new(|_| true),
            change: Box::new(|seen| {
                let mesh = seen.object().annotations().get(labels::MESH)?;
                Some(Change::Secret(mesh.clone()))
            }),
            changes: own_changes(),
            again: Arc::default(),
        };
        let begin = keep::metadata(
            Api::namespaced(client.clone(), own),
            paged(PAGE).labels(&format!("{ours},{}", labels::OWNER_UID)),
        );
        let secrets = secret_keeper.keep(secrets_writer, begin);
        let children = children::run(client.clone(), stores.clone(), managed.clone(), ours);

        let known = stores.clone();
        let keep = async move {
            let fill = known.fill();
            tokio::join!(meshes, realms, namespaces, pods, trust, secrets, children, fill);
        };
        (stores, keep)
    }

    async fn fill(self) {
        let Self { meshes, realms, namespaces, pods, trust, secrets, .. } = &self;
        let all = tokio::join!(
            meshes.wait_until_ready(),
            realms.wait_until_ready(),
            namespaces.wait_until_ready(),
            pods.wait_until_ready(),
            trust.wait_until_ready(),
            secrets.wait_until_ready(),
        );
        if let (Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(())) = all {
            info!(meshes = meshes.len(), realms = realms.len(), "the cluster is known");
            self.filled.send_replace(true);
        }
    }

    /// Waits until each store has been filled once.
    pub async fn ready(&self) {
        // One waits for the stores, and tells all others: a store wakes only one of several.
        if self.filled.subscribe().wait_for(|filled| *filled).await.is_err() {
            // Those who keep the stores were dropped: the operator stops.
            std::future::pending::<()>().await;
        }
    }

    /// The changes from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Says that something is other than before.
    pub fn tell(&self, change: Change) {
        let _nobody_listens = self.changes.send(change);
    }

    /// The labels of a namespace; none of one that is not known.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> Labels {
        self.namespaces
            .get(&ObjectRef::new(namespace))
            .map(|namespace| namespace.labels().clone())
            .unwrap_or_default()
    }

    /// The mesh that a realm names.
    #[must_use]
    pub fn mesh_of(&self, realm: &MaculaRealm) -> Option<Arc<MaculaMesh>> {
        self.meshes.get(&mesh_ref_of(realm))
    }

    /// The mesh of this name.
    #[must_use]
    pub fn mesh_named(&self, mesh: &MeshName) -> Option<Arc<MaculaMesh>> {
        // A namespace has no dot in its name.
        let (namespace, name) = mesh.as_str().split_once('.')?;
        self.meshes.get(&ObjectRef::new(name).within(namespace))
    }

    /// The realms that name this mesh.
    #[must_use]
    pub fn realms_of(&self, mesh: &ObjectRef<MaculaMesh>) -> Vec<Arc<MaculaRealm>> {
        self.realms.state_filter(|realm| mesh_ref_of(realm) == *mesh)
    }

    /// The realms that name this mesh, each with the labels of its namespace.
    #[must_use]
    pub fn realms_with_labels(
        &self,
        mesh: &ObjectRef<MaculaMesh>,
    ) -> Vec<(Arc<MaculaRealm>, Labels)> {
        let labels =
            |realm: &MaculaRealm| self.namespace_labels(&realm.namespace().unwrap_or_default());
        self.realms_of(mesh).into_iter().map(|realm| (Arc::clone(&realm), labels(&realm))).collect()
    }

    /// The pods of a mesh's infrastructure.
    #[must_use]
    pub fn infrastructure_of(&self, mesh: &ObjectRef<MaculaMesh>) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| infrastructure(pod).as_ref() == Some(mesh))
    }

    /// The pods that carry a sidecar of this realm.
    #[must_use]
    pub fn pods_of(&self, realm: &MaculaRealm) -> Vec<Arc<Pod>> {
        let wanted = Sidecar { mesh: realm.mesh_name(), realm: realm.spec.name.clone() };
        self.pods.state_filter(|pod| sidecar(pod).as_ref() == Some(&wanted))
    }
}

/// Leaves out who wrote which field.
fn unmanaged<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Whether labels of a namespace or a pod ask for the sidecar.
#[must_use]
pub fn opted_in(all: &Labels) -> bool {
    all.get(labels::INJECT).is_some_and(|value| value == labels::ENABLED)
}

/// Whether two versions of an object differ in their status alone.
fn wants_the_same<K: kube::Resource>(old: &K, new: &K) -> bool {
    let key = |object: &K| {
        let meta = object.meta().clone();
        (meta.uid, meta.generation, meta.labels, meta.deletion_timestamp)
    };
    key(old) == key(new)
}
