//! What pods trust: one ConfigMap of a fixed name in every namespace that has nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use macula_api::names::{self, components, labels};

/// The ConfigMap of a namespace with this content. It belongs to nobody in particular, so it has no
/// owner.
#[must_use]
pub fn build(namespace: &str, data: BTreeMap<String, String>) -> ConfigMap {
    let all = [
        (labels::NAME, labels::NAME_VALUE),
        (labels::COMPONENT, components::TRUST),
        (labels::MANAGED_BY, names::OPERATOR),
    ];
    let all = all.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::TRUST.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(all.into()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Whether a ConfigMap is ours: one that somebody else made is never deleted.
#[must_use]
pub fn is_ours(map: &ConfigMap) -> bool {
    let all = map.metadata.labels.as_ref();
    all.and_then(|all| all.get(labels::MANAGED_BY)).is_some_and(|by| by == names::OPERATOR)
}
