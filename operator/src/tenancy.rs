//! Who may be where: which meshes are looked after, which realms a mesh accepts, whom a realm admits.
//!
//! The law is pure, over objects as they are; [`find`] asks it about what is known now.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use kube::runtime::reflector::ObjectRef;
use macula_api::names::labels;
use macula_api::{AllowedNamespaces, From, MaculaMesh, MaculaRealm, MeshRef, reasons};
use macula_identity::{MeshName, RealmName, Scope, name};

use crate::stores::Stores;

/// The longest value of a label (Kubernetes, *Labels and Selectors*).
const LABEL_VALUE: usize = 63;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Why a mesh or a realm is not accepted, as its condition says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotAccepted {
    /// The stable name.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

impl NotAccepted {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// A realm, with the labels of the namespace that it lives in.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The realm.
    pub realm: &'a MaculaRealm,
    /// The labels of its namespace.
    pub namespace_labels: &'a Labels,
}

/// Whether a mesh is looked after: only in the namespaces that the operator was given, and when pods can
/// name it in a label.
///
/// # Errors
/// [`NotAccepted`], with those namespaces, or the lengths.
pub fn judge_mesh(mesh: &MaculaMesh, managed: &BTreeSet<String>) -> Result<(), NotAccepted> {
    let namespace = mesh.namespace().unwrap_or_default();
    if managed.contains(&namespace) {
        let name = mesh.mesh_name();
        if name.len() <= LABEL_VALUE {
            return Ok(());
        }
        let message = format!(
            "pods name their mesh in a label, which holds {LABEL_VALUE} characters, and {name} has {}; \
             make it again under a shorter name, or in a namespace that has one",
            name.len()
        );
        return Err(NotAccepted::new(reasons::NAME_TOO_LONG, message));
    }
    let list = managed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let message = format!(
        "the operator runs meshes in these namespaces alone: {list}; move the mesh, or add \
         {namespace} to the chart's meshNamespaces"
    );
    Err(NotAccepted::new(reasons::NAMESPACE_NOT_MANAGED, message))
}

/// Whether a realm is accepted by the mesh that it names. `rivals` are other realms of that mesh
/// (the realm itself among them does not matter).
///
/// Of several that the mesh allows under one name the oldest has it, and of equally old ones the
/// first by namespace and name. One that is not allowed keeps the name from nobody.
///
/// # Errors
/// [`NotAccepted`], the first reason.
pub fn judge(
    mesh: Option<&MaculaMesh>,
    managed: &BTreeSet<String>,
    candidate: Candidate<'_>,
    rivals: &[Candidate<'_>],
) -> Result<(), NotAccepted> {
    let Candidate { realm, .. } = candidate;
    let MeshRef { namespace, name } = &realm.spec.mesh_ref;
    let Some(mesh) = mesh else {
        let message = format!("there is no MaculaMesh {name} in the namespace {namespace}");
        return Err(NotAccepted::new(reasons::MESH_NOT_FOUND, message));
    };
    judge_mesh(mesh, managed).map_err(|not| {
        let message = format!("the mesh {namespace}/{name} is not accepted: {}", not.message);
        NotAccepted::new(reasons::MESH_NOT_ACCEPTED, message)
    })?;
    allows(mesh, candidate)?;
    let older = rivals
        .iter()
        .filter(|rival| rival.realm.spec.name == realm.spec.name)
        .filter(|rival| same_mesh(rival.realm, realm) && allows(mesh, **rival).is_ok())
        .map(|rival| rival.realm)
        .filter(|rival| seniority(rival, realm) == Ordering::Less)
        .min_by(|a, b| seniority(a, b));
    match older {
        None => Ok(()),
        Some(older) => {
            let (namespace, name) = (older.namespace().unwrap_or_default(), older.name_any());
            let message = format!(
                "the name {} on this mesh belongs to the MaculaRealm {namespace}/{name}, which is \
                 older",
                realm.spec.name
            );
            Err(NotAccepted::new(reasons::NAME_TAKEN, message))
        }
    }
}

/// Whether a realm admits pods of this service account in this namespace.
#[must_use]
pub fn admits(
    realm: &MaculaRealm,
    namespace: &str,
    namespace_labels: &Labels,
    service_account: &str,
) -> bool {
    realm.spec.members.iter().any(|member| {
        selects(&member.namespace_selector, namespace, namespace_labels)
            && member.service_accounts.iter().any(|name| name == "*" || name == service_account)
    })
}

/// A realm that is accepted, and its mesh.
#[derive(Clone, Debug)]
pub struct Found {
    /// The mesh.
    pub mesh: Arc<MaculaMesh>,
    /// The realm.
    pub realm: Arc<MaculaRealm>,
}

/// Why no realm was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The mesh that was named is not there.
    #[error("there is no mesh {0}; it is written <namespace>.<name>")]
    UnknownMesh(String),
    /// No realm has this name, on this mesh or anywhere.
    #[error("no MaculaRealm has the name {realm} on {}", on(mesh.as_deref()))]
    UnknownRealm {
        /// The name that was asked for.
        realm: String,
        /// The mesh that was named.
        mesh: Option<String>,
    },
    /// No mesh was named, and several have a realm of this name.
    #[error(
        "several meshes have a realm {realm}: {}; say which with the label macula.io/mesh",
        meshes.join(", ")
    )]
    Ambiguous {
        /// The name that was asked for.
        realm: String,
        /// Their names.
        meshes: Vec<String>,
    },
    /// The realm is there, and its mesh does not accept it.
    #[error("the realm {realm} is not accepted: {why}")]
    NotAccepted {
        /// The name that was asked for.
        realm: String,
        /// Why not.
        why: NotAccepted,
    },
}

/// The accepted realm of this name: on this mesh, or on the only one that has it.
///
/// # Errors
/// [`Denied`], in words for whoever labelled the pod.
pub fn find(
    stores: &Stores,
    managed: &BTreeSet<String>,
    mesh: Option<&MeshName>,
    realm: &RealmName,
) -> Result<Found, Denied> {
    let realms = stores.realms.state_filter(|known| known.spec.name == realm.as_str());
    let labels: Vec<Labels> = realms
        .iter()
        .map(|realm| stores.namespace_labels(&realm.namespace().unwrap_or_default()))
        .collect();
    let rooms: Vec<Room<'_>> = realms
        .iter()
        .zip(&labels)
        .map(|(realm, labels)| Room {
            mesh: stores.mesh_of(realm),
            realm: Arc::clone(realm),
            namespace_labels: labels,
        })
        .collect();
    let named = mesh.map(|mesh| (mesh, stores.mesh_named(mesh).is_some()));
    choose(&rooms, managed, named, realm)
}

/// A realm of the name that is sought, with everything that decides about it.
#[derive(Clone, Debug)]
struct Room<'a> {
    mesh: Option<Arc<MaculaMesh>>,
    realm: Arc<MaculaRealm>,
    namespace_labels: &'a Labels,
}

/// `named` is the mesh that was asked for, and whether it is there.
fn choose(
    rooms: &[Room<'_>],
    managed: &BTreeSet<String>,
    named: Option<(&MeshName, bool)>,
    realm: &RealmName,
) -> Result<Found, Denied> {
    let candidates: Vec<_> = rooms
        .iter()
        .map(|room| Candidate { realm: &room.realm, namespace_labels: room.namespace_labels })
        .collect();
    let mut found = Vec::new();
    let mut refused = None;
    for (room, candidate) in rooms.iter().zip(&candidates) {
        let on_it = |(mesh, _): (&MeshName, bool)| room.realm.mesh_name() == mesh.as_str();
        if !named.is_none_or(on_it) {
            continue;
        }
        match (judge(room.mesh.as_deref(), managed, *candidate, &candidates), &room.mesh) {
            (Ok(()), Some(mesh)) => {
                found.push(Found { mesh: Arc::clone(mesh), realm: Arc::clone(&room.realm) });
            }
            (Ok(()), None) => {}
            (Err(why), _) => refused = Some(why),
        }
    }
    let asked = || realm.to_string();
    match (found.pop(), found.is_empty(), named, refused) {
        (Some(only), true, _, _) => Ok(only),
        (Some(last), false, _, _) => {
            found.push(last);
            let mut meshes: Vec<_> = found.iter().map(|found| found.realm.mesh_name()).collect();
            meshes.sort_unstable();
            Err(Denied::Ambiguous { realm: asked(), meshes })
        }
        (None, _, Some((mesh, false)), _) => Err(Denied::UnknownMesh(mesh.to_string())),
        (None, _, _, Some(why)) => Err(Denied::NotAccepted { realm: asked(), why }),
        (None, _, named, None) => {
            let mesh = named.map(|(mesh, _)| mesh.to_string());
            Err(Denied::UnknownRealm { realm: asked(), mesh })
        }
    }
}

/// The name of a mesh within its trust domain.
///
/// # Errors
/// [`name::Error`] for what the schema should have refused.
pub fn scope_of(mesh: &MaculaMesh) -> Result<Scope, name::Error> {
    Ok(Scope { trust_domain: mesh.spec.trust_domain.parse()?, mesh: mesh.mesh_name().parse()? })
}

/// The mesh that a realm names.
#[must_use]
pub fn mesh_ref_of(realm: &MaculaRealm) -> ObjectRef<MaculaMesh> {
    let MeshRef { namespace, name } = &realm.spec.mesh_ref;
    ObjectRef::new(name).within(namespace)
}

/// Whether a label selector selects this namespace. One that cannot be understood selects nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, namespace: &str, known: &Labels) -> bool {
    let Ok(selector) = Selector::try_from(selector.clone()) else { return false };
    // The API server sets it on every namespace; here it does not depend on the store.
    let mut all = known.clone();
    all.insert(labels::NAMESPACE_NAME.to_owned(), namespace.to_owned());
    selector.matches(&all)
}

fn allows(mesh: &MaculaMesh, candidate: Candidate<'_>) -> Result<(), NotAccepted> {
    let Candidate { realm, namespace_labels } = candidate;
    let allowed = &mesh.spec.allowed_realms;
    let namespace = realm.namespace().unwrap_or_default();
    let mesh_namespace = mesh.namespace().unwrap_or_default();
    let AllowedNamespaces { from, selector } = &allowed.namespaces;
    let (inside, which) = match from {
        From::All => (true, String::new()),
        From::Same => {
            (namespace == mesh_namespace, format!("its own namespace, {mesh_namespace}, alone"))
        }
        From::Selector => (
            selector.as_ref().is_some_and(|it| selects(it, &namespace, namespace_labels)),
            "the namespaces that its selector matches".to_owned(),
        ),
    };
    if !inside {
        let message = format!(
            "the mesh allows realms from {which}, and this one is in {namespace} \
             (spec.allowedRealms.namespaces of the mesh)"
        );
        return Err(NotAccepted::new(reasons::NOT_ALLOWED, message));
    }
    let name = realm.spec.name.as_str();
    if allowed.names.iter().any(|pattern| fits(pattern, name)) {
        return Ok(());
    }
    let message = format!(
        "the mesh allows realms named {}, and this one is named {name} \
         (spec.allowedRealms.names of the mesh)",
        allowed.names.join(", ")
    );
    Err(NotAccepted::new(reasons::NOT_ALLOWED, message))
}

/// `*`, a whole name, or a beginning and `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

fn same_mesh(a: &MaculaRealm, b: &MaculaRealm) -> bool {
    a.spec.mesh_ref == b.spec.mesh_ref
}

/// Who came first.
fn seniority(a: &MaculaRealm, b: &MaculaRealm) -> Ordering {
    let key = |realm: &MaculaRealm| {
        let born = realm.creation_timestamp().map(|time| time.0);
        (born, realm.namespace(), realm.name_any())
    };
    let (a, b) = (key(a), key(b));
    // One without a time of creation is not yet in the cluster.
    (a.0.is_none(), a).cmp(&(b.0.is_none(), b))
}

fn on(mesh: Option<&str>) -> String {
    mesh.map_or_else(|| "any mesh".to_owned(), |mesh| format!("the mesh {mesh}"))
}

#[cfg(test)]
pub(crate) mod tests;
