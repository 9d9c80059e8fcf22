//! The bootstraps: a StatefulSet with a volume for each, and the name by which they are found.

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Service, ServicePort, ServiceSpec,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use macula_api::Bootstrap;
use macula_api::names::{self, ports};
use macula_identity::Role;

use super::pod::template;
use super::{Inputs, Object, config, disruption, pod};

pub(super) fn build(inputs: &Inputs<'_>) -> Vec<Object> {
    let role = Role::Bootstrap;
    let spec = &inputs.mesh.spec.bootstrap;
    let (map, hash) = config::build(inputs, role);
    let mut objects = vec![
        Object::ServiceAccount(Box::new(pod::service_account(inputs, role))),
        Object::ConfigMap(Box::new(map)),
        Object::Service(Box::new(service(inputs))),
        Object::StatefulSet(Box::new(stateful_set(inputs, spec, &hash))),
    ];
    objects.extend(disruption::build(inputs, role, spec.replicas));
    objects
}

/// Headless, and with the addresses of nodes that are not ready: they must find each other before
/// they are.
fn service(inputs: &Inputs<'_>) -> Service {
    Service {
        metadata: inputs.meta(Role::Bootstrap),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: inputs.selector(Role::Bootstrap).match_labels,
            ports: Some(vec![quic()]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The one port of the mesh.
pub(super) fn quic() -> ServicePort {
    ServicePort {
        name: Some(ports::QUIC_NAME.to_owned()),
        port: ports::QUIC.into(),
        protocol: Some("UDP".to_owned()),
        target_port: Some(IntOrString::String(ports::QUIC_NAME.to_owned())),
        ..ServicePort::default()
    }
}

fn stateful_set(inputs: &Inputs<'_>, spec: &Bootstrap, config_hash: &str) -> StatefulSet {
    let role = Role::Bootstrap;
    StatefulSet {
        metadata: inputs.meta(role),
        spec: Some(StatefulSetSpec {
            replicas: Some(spec.replicas),
            service_name: Some(inputs.name(role)),
            selector: inputs.selector(role),
            // After all were lost at once none waits for another. It can never be changed.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            // A bootstrap's id comes from its name, so that one that returns after a scaling down
            // needs nothing of what it left behind.
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some("Delete".to_owned()),
                    when_scaled: Some("Delete".to_owned()),
                },
            ),
            template: template(inputs, role, config_hash, &spec.pods),
            volume_claim_templates: Some(vec![claim(inputs, spec)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn claim(inputs: &Inputs<'_>, spec: &Bootstrap) -> PersistentVolumeClaim {
    let size = [("storage".to_owned(), spec.storage.size.clone())];
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::DATA_VOLUME.to_owned()),
            labels: Some(inputs.labels(Role::Bootstrap)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: spec.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(size.into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
