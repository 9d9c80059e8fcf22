//! Reconciles one realm: it makes nothing, it is judged and told.

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use macula_api::names::managers;
use macula_api::reasons::conditions::{ACCEPTED, INJECTION_HEALTHY, READY};
use macula_api::{MaculaMesh, MaculaRealm, MaculaRealmStatus, reasons};
use serde_json::json;

use crate::census::Count;
use crate::conditions::{Finding, find, is_true};
use crate::context::Context;
use crate::controllers::Memory;
use crate::failure::{explain, is_not_found};
use crate::tenancy::{Candidate, NotAccepted, judge, mesh_ref_of};
use crate::watchdog;

/// Judges a realm, and says what came of it.
///
/// # Errors
/// A sentence: the status could not be written.
pub(crate) async fn reconcile(
    ctx: &Context,
    memory: &Memory,
    reference: &ObjectRef<MaculaRealm>,
) -> Result<(), String> {
    let Some(realm) = ctx.stores.realms.get(reference) else { return Ok(()) };
    if realm.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let mesh = ctx.stores.mesh_of(&realm);
    let count = mesh.as_deref().and_then(|mesh| memory.census.of(mesh));
    let facts = Facts {
        accepted: accepted(ctx, &realm, mesh.as_deref()),
        mesh: mesh.as_deref(),
        count: count.as_deref(),
        pods: ctx.stores.pods_of(&realm).len(),
        without_sidecar: watchdog::missing(&ctx.stores, &realm),
    };
    let after = status_of(&realm, &facts, Timestamp::now());
    report(ctx, &realm, after).await
}

fn accepted(
    ctx: &Context,
    realm: &MaculaRealm,
    mesh: Option<&MaculaMesh>,
) -> Result<(), NotAccepted> {
    let rivals = ctx.stores.realms_with_labels(&mesh_ref_of(realm));
    let rivals: Vec<_> = rivals
        .iter()
        .map(|(realm, namespace_labels)| Candidate { realm, namespace_labels })
        .collect();
    let namespace_labels = ctx.stores.namespace_labels(&realm.namespace().unwrap_or_default());
    let candidate = Candidate { realm, namespace_labels: &namespace_labels };
    judge(mesh, &ctx.settings.mesh_namespaces, candidate, &rivals)
}

/// What was found out about a realm.
#[derive(Clone, Debug)]
struct Facts<'a> {
    accepted: Result<(), NotAccepted>,
    mesh: Option<&'a MaculaMesh>,
    /// What was counted last in its mesh.
    count: Option<&'a Count>,
    /// How many pods carry a sidecar of it.
    pods: usize,
    /// The pods that should carry one and do not.
    without_sidecar: Vec<String>,
}

fn status_of(realm: &MaculaRealm, facts: &Facts<'_>, now: Timestamp) -> MaculaRealmStatus {
    let before = realm.status.clone().unwrap_or_default();
    let generation = realm.metadata.generation;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let (accepted, ready, peers, pods) = match &facts.accepted {
        Err(NotAccepted { reason, message }) => (
            Finding::no(reason, message.as_str()),
            Finding::no(reasons::NOT_ACCEPTED, message.as_str()),
            Some(0),
            0,
        ),
        Ok(()) => (
            Finding::yes(reasons::ALLOWED, "the mesh allows it"),
            readiness(facts.mesh),
            match facts.count {
                // Nobody has been asked since the operator started.
                None => before.peers,
                Some(Count { trouble: Some(_), .. }) => None,
                Some(count) => {
                    Some(number(count.peers.get(&realm.spec.name).copied().unwrap_or(0)))
                }
            },
            facts.pods,
        ),
    };
    let findings = [
        (ACCEPTED, accepted),
        (READY, ready),
        (INJECTION_HEALTHY, injection(&facts.without_sidecar)),
    ];
    let condition = |(type_, finding): (&str, Finding)| {
        finding.condition(type_, &before.conditions, generation, now)
    };
    MaculaRealmStatus {
        observed_generation: generation,
        conditions: findings.map(condition).into(),
        peers,
        pods: Some(number(pods)),
    }
}

fn readiness(mesh: Option<&MaculaMesh>) -> Finding {
    let status = mesh.and_then(|mesh| mesh.status.as_ref());
    let said = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    if is_true(said, READY) {
        return Finding::yes(reasons::MEMBERS_ADMITTED, "the pods of its members can join");
    }
    let why = find(said, READY).map_or("nothing is known of it yet", |it| it.message.as_str());
    Finding::no(reasons::MESH_NOT_READY, format!("its mesh is not ready: {why}"))
}

fn injection(without_sidecar: &[String]) -> Finding {
    match without_sidecar {
        [] => Finding::yes(reasons::ALL_INJECTED, "every pod that asked for a sidecar has one"),
        [one] => {
            let message = format!("{one} asked for a sidecar and runs without one; make it again");
            Finding::no(reasons::SIDECARS_MISSING, message)
        }
        [first, others @ ..] => {
            let message = format!(
                "{first} and {} others asked for a sidecar and run without one; make them again",
                others.len()
            );
            Finding::no(reasons::SIDECARS_MISSING, message)
        }
    }
}

/// Writes the status if it says something else than before, and an Event for each transition.
async fn report(
    ctx: &Context,
    realm: &MaculaRealm,
    after: MaculaRealmStatus,
) -> Result<(), String> {
    let before = realm.status.clone().unwrap_or_default();
    if after == before {
        return Ok(());
    }
    let api: Api<MaculaRealm> =
        Api::namespaced(ctx.client.clone(), &realm.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": MaculaRealm::api_version(&()), "kind": MaculaRealm::kind(&()), "status": after,
    });
    let params = PatchParams::apply(managers::REALM_STATUS).force();
    match api.patch_status(&realm.name_any(), &params, &Patch::Apply(patch)).await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) => return Ok(()),
        Err(error) => return Err(format!("cannot write the realm's status: {}", explain(&error))),
    }
    ctx.events.transitions(&realm.object_ref(&()), &before.conditions, &after.conditions).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenancy::tests::{mesh, realm};

    fn facts<'a>(mesh: &'a MaculaMesh, count: Option<&'a Count>) -> Facts<'a> {
        Facts { accepted: Ok(()), mesh: Some(mesh), count, pods: 4, without_sidecar: Vec::new() }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn said(status: &MaculaRealmStatus, type_: &str) -> (String, String, String) {
        let condition = find(&status.conditions, type_).expect("every status has it");
        (condition.status.clone(), condition.reason.clone(), condition.message.clone())
    }

    /// A mesh whose `Ready` says this.
    fn mesh_saying(ready: &Finding) -> MaculaMesh {
        let mut mesh = mesh("macula-system", "main");
        let conditions = vec![ready.condition(READY, &[], None, now())];
        mesh.status = Some(macula_api::MaculaMeshStatus { conditions, ..Default::default() });
        mesh
    }

    #[test]
    fn a_realm_is_ready_when_it_is_accepted_and_its_mesh_is_ready() {
        let shop = realm("shop", "shop", "com.example.shop", 0);
        let well = mesh_saying(&Finding::yes("AllAlive", ""));
        let peers = [("com.example.shop".to_owned(), 3), ("other".to_owned(), 9)].into();
        let count = Count { peers, ..Count::default() };
        let status = status_of(&shop, &facts(&well, Some(&count)), now());
        assert_eq!(said(&status, READY).0, "True");
        assert_eq!((status.peers, status.pods), (Some(3), Some(4)));

        let short = mesh_saying(&Finding::no("NodesMissing", "2 of 3 bootstraps are alive"));
        let status = status_of(&shop, &facts(&short, Some(&count)), now());
        let (holds, reason, message) = said(&status, READY);
        assert_eq!((holds.as_str(), reason.as_str()), ("False", "MeshNotReady"));
        assert_eq!(message, "its mesh is not ready: 2 of 3 bootstraps are alive");
        assert_eq!(said(&status, ACCEPTED).0, "True");
    }

    #[test]
    fn one_that_is_not_accepted_has_no_peers_and_no_pods() {
        let shop = realm("shop", "shop", "com.example.shop", 0);
        let well = mesh_saying(&Finding::yes("AllAlive", ""));
        let peers = [("com.example.shop".to_owned(), 3)].into();
        let count = Count { peers, ..Count::default() };
        let mut facts = facts(&well, Some(&count));
        facts.accepted =
            Err(NotAccepted { reason: "NameTaken", message: "a/b is older".to_owned() });
        let status = status_of(&shop, &facts, now());
        assert_eq!(said(&status, ACCEPTED).1, "NameTaken");
        assert_eq!(said(&status, READY).1, "NotAccepted");
        // They are the other's.
        assert_eq!((status.peers, status.pods), (Some(0), Some(0)));
    }

    #[test]
    fn numbers_that_are_not_known_are_not_made_up() {
        let mut shop = realm("shop", "shop", "com.example.shop", 0);
        let well = mesh_saying(&Finding::yes("AllAlive", ""));
        shop.status = Some(MaculaRealmStatus { peers: Some(7), ..Default::default() });
        assert_eq!(status_of(&shop, &facts(&well, None), now()).peers, Some(7));
        let silent = Count { trouble: Some("no answer".to_owned()), ..Count::default() };
        assert_eq!(status_of(&shop, &facts(&well, Some(&silent)), now()).peers, None);
    }

    #[test]
    fn pods_without_their_sidecar_are_named() {
        assert_eq!(injection(&[]).reason, "AllInjected");
        let [one, two, three] = ["a/1", "a/2", "a/3"].map(ToOwned::to_owned);
        let message = injection(std::slice::from_ref(&one)).message;
        assert_eq!(message, "a/1 asked for a sidecar and runs without one; make it again");
        let message = injection(&[one, two, three]).message;
        assert!(message.starts_with("a/1 and 2 others asked"), "{message}");
    }
}
