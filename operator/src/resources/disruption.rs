//! How many nodes of a role a drain may take away at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use macula_identity::Role;

use super::{Inputs, Object};

/// One at a time. With a single replica there is no budget: none could be kept without holding up
/// every drain.
pub(super) fn build(inputs: &Inputs<'_>, role: Role, replicas: i32) -> Option<Object> {
    if replicas < 2 {
        return None;
    }
    Some(Object::PodDisruptionBudget(Box::new(PodDisruptionBudget {
        metadata: inputs.meta(role),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(inputs.selector(role)),
            // A pod that does not work anyway does not hold up a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })))
}
