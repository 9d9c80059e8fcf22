//! What a mesh's status says. Pure: from what was found to the words for it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use macula_api::names::{components, labels};
use macula_api::reasons::conditions::{ACCEPTED, READY};
use macula_api::{MaculaMesh, MaculaMeshStatus, NodeCount, reasons};
use macula_identity::Authority;

use crate::census::Count;
use crate::conditions::{Finding, find};
use crate::tenancy::NotAccepted;

/// What was found out about a mesh.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    /// Whether we look after it.
    pub(super) accepted: Result<(), &'a NotAccepted>,
    /// Whether everything that it asks for could be made.
    pub(super) made: Result<(), &'a str>,
    /// Its authority, once it has one.
    pub(super) authority: Option<&'a Authority>,
    /// What was counted last; nothing if nobody has been asked since the operator started.
    pub(super) count: Option<&'a Count>,
    /// How many realms it accepts.
    pub(super) realms: usize,
    /// How many pods of gateways there are.
    pub(super) gateway_pods: usize,
    /// Why one of its pods does not run.
    pub(super) pod_trouble: Option<String>,
}

/// For how long a mesh is new: its nodes' image is pulled, its volumes are made.
const NEW: Duration = Duration::from_mins(3);

/// The status of a mesh, after the one that it has.
pub(super) fn of(mesh: &MaculaMesh, facts: &Facts<'_>, now: Timestamp) -> MaculaMeshStatus {
    let before = mesh.status.clone().unwrap_or_default();
    let generation = mesh.metadata.generation;
    let condition =
        |type_, finding: &Finding| finding.condition(type_, &before.conditions, generation, now);
    if let Err(NotAccepted { reason, message }) = facts.accepted {
        let accepted = Finding::no(reason, message.as_str());
        let ready = Finding::no(reasons::NOT_ACCEPTED, message.as_str());
        return MaculaMeshStatus {
            observed_generation: generation,
            conditions: vec![condition(ACCEPTED, &accepted), condition(READY, &ready)],
            ..MaculaMeshStatus::default()
        };
    }
    let accepted = Finding::yes(reasons::ALLOWED, "the operator looks after this mesh");
    let ready = match (facts.made, facts.count, find(&before.conditions, READY)) {
        (Err(why), _, _) => condition(READY, &Finding::no(reasons::RECONCILE_FAILED, why)),
        (Ok(()), Some(count), _) => condition(READY, &readiness(mesh, count, facts, now)),
        // The operator has just started: what was said last stands until it has counted.
        (Ok(()), None, Some(said)) if said.reason != reasons::NOT_ACCEPTED => said.clone(),
        (Ok(()), None, _) => {
            condition(READY, &Finding::no(reasons::STARTING, "no node has been counted yet"))
        }
    };
    let (bootstraps, gateways, peers) = match facts.count {
        None => (before.bootstraps, before.gateways, before.peers),
        Some(Count { trouble: Some(_), .. }) => (None, None, None),
        Some(count) => (
            Some(NodeCount::new(number(count.bootstraps), mesh.spec.bootstrap.replicas)),
            Some(NodeCount::new(number(count.gateways), mesh.spec.gateway.replicas)),
            Some(number(count.all_peers())),
        ),
    };
    let ca_not_after = facts.authority.and_then(|authority| {
        let second = i64::try_from(authority.root().not_after()).ok()?;
        Timestamp::from_second(second).ok().map(Time)
    });
    MaculaMeshStatus {
        observed_generation: generation,
        conditions: vec![condition(ACCEPTED, &accepted), ready],
        bootstraps,
        gateways,
        gateway_replicas: Some(number(facts.gateway_pods)),
        gateway_selector: Some(gateway_selector(mesh)),
        realms: Some(number(facts.realms)),
        peers,
        ca_not_after: ca_not_after.or(before.ca_not_after),
    }
}

fn readiness(mesh: &MaculaMesh, count: &Count, facts: &Facts<'_>, now: Timestamp) -> Finding {
    if let Some(why) = &count.trouble {
        let message = format!("no node says who is alive: {why}");
        return Finding::unknown(reasons::NOT_COUNTED, message);
    }
    let (bootstraps, gateways) = (mesh.spec.bootstrap.replicas, mesh.spec.gateway.replicas);
    let said = format!(
        "{} of {bootstraps} bootstraps and {} of {gateways} gateways are alive",
        count.bootstraps, count.gateways
    );
    if number(count.bootstraps) >= bootstraps && number(count.gateways) >= gateways {
        return Finding::yes(reasons::ALL_ALIVE, said);
    }
    let reason = if is_new(mesh, now) { reasons::STARTING } else { reasons::NODES_MISSING };
    match &facts.pod_trouble {
        Some(why) => Finding::no(reason, format!("{said}; {why}")),
        None => Finding::no(reason, said),
    }
}

/// Whether a mesh is young and has never been ready.
fn is_new(mesh: &MaculaMesh, now: Timestamp) -> bool {
    let said = mesh.status.as_ref().map(|status| status.conditions.as_slice());
    let never_ready = find(said.unwrap_or_default(), READY)
        .is_none_or(|Condition { reason, .. }| reason == reasons::STARTING);
    let born = mesh.creation_timestamp().map_or(now, |born| born.0);
    never_ready && now.duration_since(born).unsigned_abs() < NEW
}

/// The labels of the gateways' pods, as the scale subresource has them.
fn gateway_selector(mesh: &MaculaMesh) -> String {
    let pairs = [
        (labels::NAME, labels::NAME_VALUE),
        (labels::INSTANCE, &mesh.name_any()),
        (labels::COMPONENT, components::GATEWAY),
    ];
    pairs.map(|(key, value)| format!("{key}={value}")).join(",")
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenancy::tests::mesh;

    fn facts(count: Option<&Count>) -> Facts<'_> {
        Facts {
            accepted: Ok(()),
            made: Ok(()),
            authority: None,
            count,
            realms: 1,
            gateway_pods: 2,
            pod_trouble: None,
        }
    }

    fn count(bootstraps: usize, gateways: usize) -> Count {
        let peers = [("a".to_owned(), 2), ("b".to_owned(), 3)].into();
        Count { bootstraps, gateways, peers, trouble: None }
    }

    /// So long after the mesh of the tests was made.
    fn later(seconds: i64) -> Timestamp {
        let born = mesh("macula-system", "main").creation_timestamp().unwrap().0;
        Timestamp::from_second(born.as_second() + seconds).unwrap()
    }

    fn ready(status: &MaculaMeshStatus) -> (&str, &str, &str) {
        let Condition { status, reason, message, .. } =
            find(&status.conditions, READY).expect("every status has it");
        (status, reason, message)
    }

    #[test]
    fn a_mesh_is_ready_when_as_many_nodes_live_as_it_wants() {
        let mesh = mesh("macula-system", "main");
        let status = of(&mesh, &facts(Some(&count(3, 2))), later(600));
        let message = "3 of 3 bootstraps and 2 of 2 gateways are alive";
        assert_eq!(ready(&status), ("True", "AllAlive", message));
        assert_eq!(status.bootstraps.unwrap().summary, "3/3");
        assert_eq!(
            (status.peers, status.realms, status.gateway_replicas),
            (Some(5), Some(1), Some(2))
        );
        assert_eq!(
            status.gateway_selector.as_deref(),
            Some(
                "app.kubernetes.io/name=macula,app.kubernetes.io/instance=main,\
                 app.kubernetes.io/component=gateway"
            )
        );
        // One more than wanted is on its way out.
        assert_eq!(ready(&of(&mesh, &facts(Some(&count(3, 3))), later(600))).0, "True");
    }

    #[test]
    fn one_that_lacks_nodes_says_which_and_why() {
        let mesh = mesh("macula-system", "main");
        let count = count(2, 2);
        let mut facts = facts(Some(&count));
        facts.pod_trouble = Some("main-bootstrap-2: ErrImagePull".to_owned());
        let status = of(&mesh, &facts, later(600));
        let message =
            "2 of 3 bootstraps and 2 of 2 gateways are alive; main-bootstrap-2: ErrImagePull";
        assert_eq!(ready(&status), ("False", "NodesMissing", message));
        assert_eq!(status.bootstraps.unwrap().summary, "2/3");
    }

    #[test]
    fn one_that_is_new_is_starting_until_it_was_ready_once() {
        let mut mesh = mesh("macula-system", "main");
        let none = count(0, 0);
        let first = of(&mesh, &facts(None), later(1));
        assert_eq!(ready(&first).1, "Starting");
        mesh.status = Some(first);
        assert_eq!(ready(&of(&mesh, &facts(Some(&none)), later(2))).1, "Starting");
        assert_eq!(ready(&of(&mesh, &facts(Some(&none)), later(181))).1, "NodesMissing");
        mesh.status = Some(of(&mesh, &facts(Some(&count(3, 2))), later(10)));
        assert_eq!(ready(&of(&mesh, &facts(Some(&none)), later(20))).1, "NodesMissing");
    }

    #[test]
    fn an_operator_that_has_just_started_lets_stand_what_was_said() {
        let mut mesh = mesh("macula-system", "main");
        let said = of(&mesh, &facts(Some(&count(3, 2))), later(600));
        mesh.status = Some(said.clone());
        assert_eq!(of(&mesh, &facts(None), later(700)), said);
    }

    #[test]
    fn what_cannot_be_counted_is_unknown_and_not_none() {
        let mesh = mesh("macula-system", "main");
        let count = Count { trouble: Some("b: no answer".to_owned()), ..Count::default() };
        let status = of(&mesh, &facts(Some(&count)), later(600));
        assert_eq!(
            ready(&status),
            ("Unknown", "NotCounted", "no node says who is alive: b: no answer")
        );
        assert_eq!((status.bootstraps, status.peers), (None, None));
    }

    #[test]
    fn what_failed_is_said_in_place_of_the_numbers() {
        let mesh = mesh("macula-system", "main");
        let count = count(3, 2);
        let mut facts = facts(Some(&count));
        facts.made = Err("forbidden");
        let status = of(&mesh, &facts, later(600));
        assert_eq!(ready(&status), ("False", "ReconcileFailed", "forbidden"));
        assert_eq!(status.gateways.unwrap().summary, "2/2");
    }

    #[test]
    fn one_that_is_not_accepted_has_no_numbers() {
        let mesh = mesh("elsewhere", "main");
        let not = NotAccepted { reason: "NamespaceNotManaged", message: "not here".to_owned() };
        let mut facts = facts(None);
        facts.accepted = Err(&not);
        let status = of(&mesh, &facts, later(600));
        assert_eq!(ready(&status), ("False", "NotAccepted", "not here"));
        assert_eq!(find(&status.conditions, ACCEPTED).unwrap().reason, "NamespaceNotManaged");
        assert_eq!((status.bootstraps, status.gateway_selector), (None, None));
    }
}
