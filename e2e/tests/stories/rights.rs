//! What the operator may do, as the API server says it, beside `operator/rights.txt`.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use macula_api::names;
use macula_e2e::Story;
use macula_e2e::world::{self, OPERATOR};

/// A resource (with its group), the name it is bound to or `any`, and a verb.
type Right = (String, String, String);

pub(crate) async fn the_operator_may_do_what_the_list_says_and_nothing_else(
    story: &Story,
) -> anyhow::Result<()> {
    let elsewhere = story.namespace("elsewhere").await?;
    let meshes = story.mesh_namespace();
    let operator = story.world.cluster.client_as(OPERATOR, names::OPERATOR).await?;
    let nobody = story.world.cluster.client_as(OPERATOR, "default").await?;
    let list = std::fs::read_to_string(world::root().join("operator/rights.txt"))?;

    // The stories' installation has the operator's own namespace among those for meshes.
    let places = [
        (elsewhere.as_str(), &["cluster"][..]),
        (&meshes, &["cluster", "meshes"]),
        (OPERATOR, &["cluster", "meshes", "operator"]),
    ];
    for (namespace, sections) in places {
        let everybodys = rights(&nobody, namespace).await?;
        let found: BTreeSet<_> =
            rights(&operator, namespace).await?.difference(&everybodys).cloned().collect();
        let listed = listed(&list, sections)?;
        let more: Vec<_> = found.difference(&listed).collect();
        ensure!(more.is_empty(), "in {namespace} it may, and the list does not say so: {more:?}");
        let less: Vec<_> = listed.difference(&found).collect();
        ensure!(
            less.is_empty(),
            "in {namespace} the list says that it may, and it may not: {less:?}"
        );
    }

    // The same asked the other way, for what matters most.
    let asked: &[(&str, &str, &str, &str, &str, bool)] = &[
        (OPERATOR, "", "secrets", "get", "macula-operator-ca", true),
        (&meshes, "", "secrets", "get", "any", false),
        (&elsewhere, "", "secrets", "list", "", false),
        ("kube-system", "", "secrets", "get", "any", false),
        (&meshes, "apps", "statefulsets", "create", "", true),
        (&elsewhere, "apps", "statefulsets", "create", "", false),
        (&elsewhere, "apps", "deployments", "create", "", false),
        (&elsewhere, "", "configmaps", "create", names::TRUST, true),
        (&elsewhere, "", "configmaps", "create", "other", false),
        (&elsewhere, "", "configmaps", "patch", "other", false),
        (&elsewhere, "", "configmaps", "list", "", false),
        (&elsewhere, "", "pods", "delete", "any", false),
        (&elsewhere, "", "pods", "create", "", false),
    ];
    for &(namespace, group, resource, verb, name, expected) in asked {
        let may = may(&operator, namespace, group, resource, verb, name).await?;
        ensure!(may == expected, "{verb} {resource} {name} in {namespace}: {may}");
    }
    Ok(())
}

/// Everything that this client may do in this namespace.
async fn rights(client: &Client, namespace: &str) -> anyhow::Result<BTreeSet<Right>> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let review = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    let status = review.status.context("a review has a status")?;
    ensure!(
        !status.incomplete,
        "the API server does not know all rights: {:?}",
        status.evaluation_error
    );
    let mut rights = BTreeSet::new();
    for rule in status.resource_rules {
        let names = rule.resource_names.filter(|names| !names.is_empty());
        let names = names.unwrap_or_else(|| vec!["any".to_owned()]);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for name in &names {
                    for verb in &rule.verbs {
                        rights.insert((of_group(resource, group), name.clone(), verb.clone()));
                    }
                }
            }
        }
    }
    Ok(rights)
}

/// As `kubectl` writes a resource: its subresource comes after the group.
fn of_group(resource: &str, group: &str) -> String {
    match (resource.split_once('/'), group) {
        (_, "") => resource.to_owned(),
        (Some((resource, sub)), group) => format!("{resource}.{group}/{sub}"),
        (None, group) => format!("{resource}.{group}"),
    }
}

/// The rights of some sections of the list.
fn listed(list: &str, sections: &[&str]) -> anyhow::Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let mut word = || words.next().with_context(|| format!("a word is missing in {line:?}"));
        let (section, resource, name) = (word()?, word()?, word()?);
        if sections.contains(&section) {
            rights
                .extend(words.map(|verb| (resource.to_owned(), name.to_owned(), verb.to_owned())));
        }
    }
    Ok(rights)
}

async fn may(
    client: &Client,
    namespace: &str,
    group: &str,
    resource: &str,
    verb: &str,
    name: &str,
) -> anyhow::Result<bool> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let attributes = ResourceAttributes {
        namespace: some(namespace),
        group: some(group),
        resource: some(resource),
        verb: some(verb),
        name: some(name),
        ..ResourceAttributes::default()
    };
    let spec =
        SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let review = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(review.status.context("a review has a status")?.allowed)
}
