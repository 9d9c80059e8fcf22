//! The authority of each mesh: kept in a Secret of the operator's namespace, made once, never replaced.
//!
//! Whoever loses an authority loses its mesh: every node would have to be told of another root. So a
//! Secret is only ever created, one that cannot be read is an error and not a reason for a new one,
//! and one that somebody deletes while the operator still knows what was in it is put back.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use macula_api::names::{components, labels};
use macula_api::{MaculaMesh, names};
use macula_identity::{Authority, Scope, UnixTime, authority, name};
use tracing::{info, warn};

use crate::failure::{chain, explain, is_conflict, is_not_found};
use crate::stores::Stores;
use crate::tenancy::scope_of;

/// The authorities of the meshes, by the UID of the mesh. Holds only those of living meshes.
pub struct Authorities {
    client: Client,
    secrets: Api<Secret>,
    namespace: String,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    authority: Arc<Authority>,
    /// The version of the Secret that it was read from, or written to.
    version: Option<String>,
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authorities({})", self.namespace)
    }
}

impl Authorities {
    /// Authorities whose Secrets lie in this namespace, the operator's.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            client,
            namespace: namespace.to_owned(),
            known: Mutex::default(),
        }
    }

    /// The authority of a mesh: as it is known, else as its Secret says, else a new one.
    ///
    /// # Errors
    /// [`Error`] if the Secret cannot be read, used or created.
    pub async fn of(&self, mesh: &MaculaMesh) -> Result<Arc<Authority>, Error> {
        match self.known(mesh) {
            Some(authority) => Ok(authority),
            None => self.checked(mesh).await,
        }
    }

    /// The authority of a mesh, read again if the stores know another version of its Secret, or none.
    ///
    /// # Errors
    /// [`Error`] if the Secret cannot be read, used or created.
    pub async fn current(
        &self,
        mesh: &MaculaMesh,
        stores: &Stores,
    ) -> Result<Arc<Authority>, Error> {
        let secret = ObjectRef::new(&secret_name(mesh)).within(&self.namespace);
        let seen = stores.secrets.get(&secret).and_then(|secret| secret.resource_version());
        let known = {
            let all = self.lock();
            let known = mesh.metadata.uid.as_deref().and_then(|uid| all.get(uid));
            known.filter(|it| it.version == seen).map(|it| Arc::clone(&it.authority))
        };
        match known {
            Some(authority) if seen.is_some() => Ok(authority),
            _ => self.checked(mesh).await,
        }
    }

    /// The authority of a mesh as its Secret says now. A Secret that is gone is put back as it was
    /// known; one of a mesh of the same name that is gone is removed.
    ///
    /// # Errors
    /// [`Error`] if the Secret cannot be read, used or created.
    pub async fn checked(&self, mesh: &MaculaMesh) -> Result<Arc<Authority>, Error> {
        let scope = scope_of(mesh)?;
        let name = secret_name(mesh);
        let failed =
            |what, source| Error::Secret { what, name: name.clone(), source: Box::new(source) };
        let uid = mesh.uid().unwrap_or_default();
        // Once more after another has created it, or after one of a mesh that is gone was removed.
        for _ in 0..3 {
            match self.secrets.get_opt(&name).await.map_err(|error| failed("read", error))? {
                Some(secret) if owner_uid(&secret) == Some(&uid) => {
                    let authority = read(&secret, scope)
                        .map_err(|why| Error::Unusable { name: name.clone(), why })?;
                    return Ok(self.keep(uid, authority, secret.resource_version()));
                }
                Some(secret) if owner_uid(&secret).is_some() => {
                    self.lives(mesh).await?;
                    info!(secret = name, "the authority of a mesh that is gone is removed");
                    let removed = self.secrets.delete(&name, &only(&secret)).await;
                    if let Err(error) = removed
                        && !is_not_found(&error)
                        && !is_conflict(&error)
                    {
                        return Err(failed("remove", error));
                    }
                }
                Some(_) => return Err(Error::Foreign { name }),
                None => {
                    self.lives(mesh).await?;
                    let known = self.known(mesh);
                    match &known {
                        Some(_) => {
                            warn!(secret = name, "the authority was deleted, and is put back")
                        }
                        None => info!(secret = name, "a mesh gets its authority"),
                    }
                    let now = UnixTime::since_unix_epoch(
                        SystemTime::now()
                            .duration_since(SystemTime::UNIX_EPOCH)
                            .unwrap_or_default(),
                    );
                    let authority =
                        known.unwrap_or_else(|| Arc::new(Authority::new(scope.clone(), now)));
                    let secret = write(&self.namespace, mesh, &authority);
                    match self.secrets.create(&PostParams::default(), &secret).await {
                        Ok(made) => {
                            return Ok(self.remember(uid, authority, made.resource_version()));
                        }
                        Err(error) if is_conflict(&error) => {}
                        Err(error) => return Err(failed("create", error)),
                    }
                }
            }
        }
        Err(Error::Contended { name })
    }

    /// Forgets every authority but those of these meshes, by UID.
    pub fn retain(&self, lives: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| lives(uid));
    }

    /// Asks the API server, because stores are late: nothing is made or removed for a mesh that is
    /// gone, or has come back as another.
    async fn lives(&self, mesh: &MaculaMesh) -> Result<(), Error> {
        let meshes: Api<MaculaMesh> =
            Api::namespaced(self.client.clone(), &mesh.namespace().unwrap_or_default());
        let failed = |source| Error::Mesh { mesh: mesh.mesh_name(), source: Box::new(source) };
        match meshes.get_metadata_opt(&mesh.name_any()).await.map_err(failed)? {
            Some(now)
                if now.metadata.uid == mesh.metadata.uid
                    && now.metadata.deletion_timestamp.is_none() =>
            {
                Ok(())
            }
            _ => Err(Error::Leaving { mesh: mesh.mesh_name() }),
        }
    }

    fn known(&self, mesh: &MaculaMesh) -> Option<Arc<Authority>> {
        self.lock().get(mesh.metadata.uid.as_deref()?).map(|known| Arc::clone(&known.authority))
    }

    /// The one that is known already, if it is the same: it is shared.
    fn keep(&self, uid: String, read: Authority, version: Option<String>) -> Arc<Authority> {
        let known = self.lock().get(&uid).map(|known| Arc::clone(&known.authority));
        let is_same = |known: &Arc<Authority>| {
            known.root().id() == read.root().id() && known.node_id_key() == read.node_id_key()
        };
        match known.filter(is_same) {
            Some(known) => self.remember(uid, known, version),
            None => self.remember(uid, Arc::new(read), version),
        }
    }

    fn remember(
        &self,
        uid: String,
        authority: Arc<Authority>,
        version: Option<String>,
    ) -> Arc<Authority> {
        self.lock().insert(uid, Known { authority: Arc::clone(&authority), version });
        authority
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mesh's names are not names; the schema should have refused them.
    #[error("the mesh cannot have an authority: {0}")]
    Name(#[from] name::Error),
    /// The API server did not do what was asked of it.
    #[error(
        "cannot {what} the Secret {name}, which holds the mesh's authority: {}",
        explain(source)
    )]
    Secret {
        /// What was tried.
        what: &'static str,
        /// The Secret.
        name: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// It cannot be said whether the mesh is still there.
    #[error("cannot read the mesh {mesh}: {}", explain(source))]
    Mesh {
        /// The mesh.
        mesh: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// The Secret is there, and what it holds is not an authority.
    #[error(
        "the Secret {name} does not hold the mesh's authority: {why}. Restore it from a backup. Only \
         if there is none, delete it: the mesh then gets a new authority, and every node that is \
         running must be restarted"
    )]
    Unusable {
        /// The Secret.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The Secret is there, and we did not make it.
    #[error(
        "the Secret {name} is in the way: it was not made by the operator; rename or delete it"
    )]
    Foreign {
        /// The Secret.
        name: String,
    },
    /// Others create and delete it at the same time.
    #[error("the Secret {name} is created and deleted by others at the same time")]
    Contended {
        /// The Secret.
        name: String,
    },
    /// The mesh is being deleted, and its Secret with it.
    #[error("the mesh {mesh} is gone, or about to go")]
    Leaving {
        /// The mesh.
        mesh: String,
    },
}

fn secret_name(mesh: &MaculaMesh) -> String {
    names::mesh_secret(&mesh.namespace().unwrap_or_default(), &mesh.name_any())
}

/// Deletes an object only if it is still this one.
pub(crate) fn only<K: Resource>(object: &K) -> DeleteParams {
    let preconditions = Preconditions {
        uid: object.meta().uid.clone(),
        resource_version: object.meta().resource_version.clone(),
    };
    DeleteParams::default().preconditions(preconditions)
}

fn owner_uid(secret: &Secret) -> Option<&String> {
    secret.labels().get(labels::OWNER_UID)
}

fn read(secret: &Secret, scope: Scope) -> Result<Authority, String> {
    let part = |key: &str| {
        let ByteString(bytes) = secret
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .ok_or_else(|| format!("the key {key} is missing"))?;
        str::from_utf8(bytes).map_err(|_| format!("the key {key} is not text"))
    };
    let [certificate, key, id_key] = KEYS;
    let (certificate, key, id_key) = (part(certificate)?, part(key)?, part(id_key)?);
    Authority::from_parts(scope, certificate, key, id_key)
        .map_err(|error: authority::Error| chain(&error))
}

fn write(namespace: &str, mesh: &MaculaMesh, authority: &Authority) -> Secret {
    let mut all = crate::resources::labels_of(&mesh.name_any(), components::AUTHORITY);
    all.insert(labels::OWNER_UID.to_owned(), mesh.uid().unwrap_or_default());
    let [certificate, key, id_key] = KEYS.map(ToOwned::to_owned);
    let data = BTreeMap::from([
        (certificate, ByteString(authority.ca_cert_pem().into_bytes())),
        (key, ByteString(authority.ca_key_pem().into_bytes())),
        (id_key, ByteString(authority.node_id_key().into_bytes())),
    ]);
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(mesh)),
            namespace: Some(namespace.to_owned()),
            labels: Some(all),
            annotations: Some([(labels::MESH.to_owned(), mesh.mesh_name())].into()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

const KEYS: [&str; 3] = [names::CA_CERTIFICATE, names::CA_KEY, names::NODE_ID_KEY];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenancy::tests::mesh;

    fn made() -> (MaculaMesh, Authority, Secret) {
        let mesh = mesh("macula-system", "main");
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_000_000_000));
        let authority = Authority::new(scope_of(&mesh).unwrap(), now);
        let secret = write("macula-system", &mesh, &authority);
        (mesh, authority, secret)
    }

    #[test]
    fn an_authority_is_read_back_from_its_secret() {
        let (mesh, authority, secret) = made();
        let again = read(&secret, scope_of(&mesh).unwrap()).unwrap();
        assert_eq!(again.ca_cert_pem(), authority.ca_cert_pem());
        assert_eq!(again.node_id_key(), authority.node_id_key());
        assert_eq!(secret.name_any(), "macula-mesh-macula-system.main");
        assert_eq!(owner_uid(&secret), mesh.metadata.uid.as_ref());
    }

    #[test]
    fn a_secret_that_lacks_something_is_told_and_not_replaced() {
        let (mesh, _, secret) = made();
        for (key, value, why) in [
            ("ca.crt", None, "the key ca.crt is missing"),
            ("ca.key", Some(vec![0xff]), "the key ca.key is not text"),
            ("node-id.key", Some(b"short".to_vec()), "64 hexadecimal digits"),
        ] {
            let mut secret = secret.clone();
            let data = secret.data.as_mut().unwrap();
            match value {
                Some(value) => data.insert(key.to_owned(), ByteString(value)),
                None => data.remove(key),
            };
            let said = read(&secret, scope_of(&mesh).unwrap()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
