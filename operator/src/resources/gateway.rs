//! The gateways: a Deployment, and the Service by which they are reached from outside.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use macula_api::Gateway;
use macula_identity::Role;

use super::bootstrap::quic;
use super::pod::template;
use super::{Inputs, Object, config, disruption, pod};

/// A mesh without gateways keeps their Deployment, at no replicas, and so its Service's address.
pub(super) fn build(inputs: &Inputs<'_>) -> Vec<Object> {
    let role = Role::Gateway;
    let spec = &inputs.mesh.spec.gateway;
    let (map, hash) = config::build(inputs, role);
    let mut objects = vec![
        Object::ServiceAccount(Box::new(pod::service_account(inputs, role))),
        Object::ConfigMap(Box::new(map)),
        Object::Service(Box::new(service(inputs, spec))),
        Object::Deployment(Box::new(deployment(inputs, spec, &hash))),
    ];
    objects.extend(disruption::build(inputs, role, spec.replicas));
    objects
}

fn service(inputs: &Inputs<'_>, spec: &Gateway) -> Service {
    let mut metadata = inputs.meta(Role::Gateway);
    metadata.annotations = Some(spec.service.annotations.clone()).filter(|it| !it.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(spec.service.type_.as_str().to_owned()),
            selector: inputs.selector(Role::Gateway).match_labels,
            ports: Some(vec![quic()]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn deployment(inputs: &Inputs<'_>, spec: &Gateway, config_hash: &str) -> Deployment {
    let role = Role::Gateway;
    Deployment {
        metadata: inputs.meta(role),
        spec: Some(DeploymentSpec {
            replicas: Some(spec.replicas),
            selector: inputs.selector(role),
            // None goes before another has come.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            revision_history_limit: Some(3),
            template: template(inputs, role, config_hash, &spec.pods),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}
