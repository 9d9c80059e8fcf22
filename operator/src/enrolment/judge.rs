//! The judgements of enrolment, over facts: no client, no clock.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use macula_api::{MaculaMesh, MaculaRealm, names};
use macula_identity::Place;
use macula_proto::Code;

use crate::tenancy::{self, Denied};

/// Why somebody gets no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable name.
    pub code: Code,
    /// Why, this time.
    pub detail: String,
}

impl Refusal {
    /// A refusal for this reason.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Whose token it is: one pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The pod's namespace.
    pub namespace: String,
    /// Its service account.
    pub account: String,
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
}

/// What the API server says of a token for this audience.
pub(super) fn token(status: &TokenReviewStatus, audience: &str) -> Result<Bearer, Refusal> {
    let refused = |why: String| Refusal::new(Code::TokenRefused, why);
    if status.authenticated != Some(true) {
        let why = status.error.clone().unwrap_or_else(|| "it is not known".to_owned());
        return Err(refused(format!("the API server refuses the token: {why}")));
    }
    if !status.audiences.iter().flatten().any(|it| it == audience) {
        return Err(refused(format!("the token is not for the audience {audience}")));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|it| it.split_once(':'));
    let (namespace, account) =
        account.ok_or_else(|| refused(format!("the token is of {name:?}, no service account")))?;
    let extra = user.extra.unwrap_or_default();
    let bound = |key: &str| {
        let values = extra.get(&format!("authentication.kubernetes.io/{key}"));
        match values.map(Vec::as_slice) {
            Some([one]) => Ok(one.clone()),
            _ => Err(refused("the token is not bound to a pod".to_owned())),
        }
    };
    Ok(Bearer {
        namespace: namespace.to_owned(),
        account: account.to_owned(),
        pod: bound("pod-name")?,
        uid: bound("pod-uid")?,
    })
}

/// A bound token outlives its pod: the pod must live, and be the same one.
pub(super) fn alive(live: Option<&Pod>, bearer: &Bearer) -> Result<(), Refusal> {
    let gone = |why: &str| {
        let Bearer { namespace, pod, .. } = bearer;
        Err(Refusal::new(Code::PodGone, format!("the pod {namespace}/{pod} {why}")))
    };
    match live {
        None => gone("is no more"),
        Some(live) if live.metadata.uid.as_ref() != Some(&bearer.uid) => {
            gone("is another one than that of the token")
        }
        Some(live) if live.metadata.deletion_timestamp.is_some() => gone("is being deleted"),
        Some(_) => Ok(()),
    }
}

/// Whether a realm admits a pod.
pub(super) fn member(
    realm: &MaculaRealm,
    namespace_labels: &BTreeMap<String, String>,
    bearer: &Bearer,
) -> Result<(), Refusal> {
    let Bearer { namespace, account, .. } = bearer;
    if tenancy::admits(realm, namespace, namespace_labels, account) {
        return Ok(());
    }
    let why = format!(
        "the realm {} admits no pods of the service account {account} in the namespace {namespace}",
        realm.spec.name
    );
    Err(Refusal::new(Code::NotAMember, why))
}

/// Why no realm was found, as a refusal.
pub(super) fn denied(denied: Denied) -> Refusal {
    let code = match &denied {
        Denied::UnknownMesh(_) => Code::UnknownMesh,
        Denied::UnknownRealm { .. } | Denied::Ambiguous { .. } => Code::UnknownRealm,
        Denied::NotAccepted { .. } => Code::RealmNotAccepted,
    };
    Refusal::new(code, denied.to_string())
}

/// What everything of this role is called.
pub(super) fn own_name(mesh: &MaculaMesh, place: &Place) -> String {
    let name = mesh.name_any();
    if *place == Place::Bootstrap { names::bootstrap(&name) } else { names::gateway(&name) }
}

/// Whether the token is of the service account that we made for a role.
pub(super) fn own_account(namespace: &str, account: &str, bearer: &Bearer) -> Result<(), Refusal> {
    if bearer.namespace == namespace && bearer.account == account {
        return Ok(());
    }
    let Bearer { namespace: ns, account: other, .. } = bearer;
    Err(stranger(&format!("its service account is {ns}/{other}, not {namespace}/{account}")))
}

/// The refusal of a pod that is none of the mesh's own.
pub(super) fn stranger(why: &str) -> Refusal {
    Refusal::new(Code::NotInfrastructure, format!("the pod is none of the mesh's own: {why}"))
}

/// What controls an object.
pub(super) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const AUDIENCE: &str = "spiffe://cluster.local/mesh/ns.main";

    fn review(change: impl FnOnce(&mut serde_json::Value)) -> Result<Bearer, Refusal> {
        let mut status = json!({
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": "system:serviceaccount:shop:cart",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["cart-0"],
                    "authentication.kubernetes.io/pod-uid": ["u1"],
                },
            },
        });
        change(&mut status);
        token(&serde_json::from_value(status).unwrap(), AUDIENCE)
    }

    fn bearer() -> Bearer {
        review(|_| {}).unwrap()
    }

    #[test]
    fn a_token_of_a_pod_for_this_audience_is_believed() {
        let Bearer { namespace, account, pod, uid } = bearer();
        assert_eq!([namespace, account, pod, uid], ["shop", "cart", "cart-0", "u1"]);
    }

    #[test]
    fn every_other_token_is_refused() {
        type Change = fn(&mut serde_json::Value);
        let changes: [(Change, &str); 6] = [
            (|it| it["authenticated"] = json!(false), "refuses the token"),
            (|it| it["audiences"] = json!(["api"]), "not for the audience"),
            (|it| it["audiences"] = json!(null), "not for the audience"),
            (|it| it["user"]["username"] = json!("jane"), "no service account"),
            (|it| it["user"]["extra"] = json!({}), "not bound to a pod"),
            (
                |it| {
                    it["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["a", "b"])
                },
                "not bound to a pod",
            ),
        ];
        for (change, why) in changes {
            let refusal = review(change).unwrap_err();
            assert_eq!(refusal.code, Code::TokenRefused);
            assert!(refusal.detail.contains(why), "{refusal:?}");
        }
    }

    #[test]
    fn a_token_outlives_its_pod_and_is_then_refused() {
        let pod = |meta| serde_json::from_value::<Pod>(json!({ "metadata": meta })).unwrap();
        assert_eq!(alive(Some(&pod(json!({ "uid": "u1" }))), &bearer()), Ok(()));
        let leaving = json!({ "uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z" });
        for live in [None, Some(pod(json!({ "uid": "u2" }))), Some(pod(leaving))] {
            assert_eq!(alive(live.as_ref(), &bearer()).unwrap_err().code, Code::PodGone);
        }
    }

    #[test]
    fn a_realm_admits_its_members_and_nobody_else() {
        let realm = |account: &str| {
            serde_json::from_value::<MaculaRealm>(json!({
                "apiVersion": "macula.io/v1alpha1", "kind": "MaculaRealm", "metadata": { "name": "r" },
                "spec": {
                    "name": "com.example", "meshRef": { "namespace": "ns", "name": "main" },
                    "members": [{ "namespaceSelector": { "matchLabels": { "team": "shop" } }, "serviceAccounts": [account] }],
                },
            }))
            .unwrap()
        };
        let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
        assert_eq!(member(&realm("cart"), &labels, &bearer()), Ok(()));
        for (realm, labels) in [(realm("other"), labels), (realm("cart"), BTreeMap::new())] {
            assert_eq!(member(&realm, &labels, &bearer()).unwrap_err().code, Code::NotAMember);
        }
    }

    #[test]
    fn infrastructure_has_our_service_account_in_the_meshs_namespace() {
        assert_eq!(own_account("shop", "cart", &bearer()), Ok(()));
        for (namespace, account) in [("other", "cart"), ("shop", "main-bootstrap")] {
            let refusal = own_account(namespace, account, &bearer()).unwrap_err();
            assert_eq!(refusal.code, Code::NotInfrastructure);
        }
    }
}
