//! The pod of an infrastructure node. It satisfies the Pod Security Standard *restricted*.

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapProjection, Container, ContainerPort, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, LocalObjectReference, ObjectFieldSelector, PodAffinityTerm,
    PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource,
    ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccount,
    ServiceAccountTokenProjection, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use macula_api::Pods;
use macula_api::names::{self, annotations, ports};
use macula_identity::{Role, enrolment};

use super::Inputs;

/// The template of a role's pods. Another hash rolls them.
pub(super) fn template(
    inputs: &Inputs<'_>,
    role: Role,
    config_hash: &str,
    wishes: &Pods,
) -> PodTemplateSpec {
    let mut all = wishes.annotations.clone();
    all.insert(annotations::CONFIG_HASH.to_owned(), config_hash.to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(inputs.labels(role)),
            annotations: Some(all),
            ..ObjectMeta::default()
        }),
        spec: Some(spec(inputs, role, wishes)),
    }
}

/// Who a role's pods are. Nothing is granted to it; its token proves to the operator what it is.
pub(super) fn service_account(inputs: &Inputs<'_>, role: Role) -> ServiceAccount {
    ServiceAccount {
        metadata: inputs.meta(role),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn spec(inputs: &Inputs<'_>, role: Role, wishes: &Pods) -> PodSpec {
    let secret = |name: &String| LocalObjectReference { name: name.clone() };
    let pull_secrets: Vec<_> = inputs.pull_secrets.iter().map(secret).collect();
    PodSpec {
        service_account_name: Some(inputs.name(role)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        containers: vec![container(inputs, role, wishes.resources.as_ref())],
        volumes: Some(vec![mounted(inputs, role)]),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        node_selector: Some(wishes.node_selector.clone()).filter(|it| !it.is_empty()),
        tolerations: Some(wishes.tolerations.clone()).filter(|it| !it.is_empty()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(names::USER),
            run_as_group: Some(names::USER),
            // The volume belongs to root until the kubelet gives it to this group.
            fs_group: (role == Role::Bootstrap).then_some(names::USER),
            fs_group_change_policy: (role == Role::Bootstrap).then(|| "OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            label_selector: Some(inputs.selector(role)),
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            // Pods of the version before are about to go, and do not count.
            match_label_keys: (role == Role::Gateway).then(|| vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        }]),
        affinity: Some(apart(inputs, role)),
        termination_grace_period_seconds: Some(GRACE),
        ..PodSpec::default()
    }
}

/// Other zones rather than this one, where machines have zones. As a spread constraint this would
/// switch off the one for machines: the scheduler scores only those that have the labels of all.
fn apart(inputs: &Inputs<'_>, role: Role) -> Affinity {
    let zones = PodAffinityTerm {
        label_selector: Some(inputs.selector(role)),
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        ..PodAffinityTerm::default()
    };
    let preferred = WeightedPodAffinityTerm { weight: 100, pod_affinity_term: zones };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![preferred]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn container(
    inputs: &Inputs<'_>,
    role: Role,
    resources: Option<&ResourceRequirements>,
) -> Container {
    let port = |name: &str, number: u16, protocol: &str| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount(names::VOLUME, names::RUN_PATH, true)];
    if role == Role::Bootstrap {
        mounts.push(mount(names::DATA_VOLUME, names::DATA_PATH, false));
    }
    let file = names::run_path(names::NODE_CONFIG);
    let args = ["run", "--config", &file, "--name", "$(POD_NAME)"];
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(inputs.image.to_owned()),
        image_pull_policy: inputs.pull_policy.map(ToOwned::to_owned),
        command: Some(vec![names::NODE_COMMAND.to_owned()]),
        args: Some(args.map(ToOwned::to_owned).into()),
        env: Some(vec![EnvVar {
            name: "POD_NAME".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.name".to_owned(),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }]),
        ports: Some(vec![
            port(ports::QUIC_NAME, ports::QUIC, "UDP"),
            port(ports::ADMIN_NAME, ports::ADMIN, "TCP"),
            port(ports::COUNTS_NAME, ports::COUNTS, "TCP"),
        ]),
        resources: Some(resources.cloned().unwrap_or_else(modest)),
        volume_mounts: Some(mounts),
        // Once a second until it lives: how long a mesh takes to become ready is waited for.
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(60),
            ..probe("/healthz/live")
        }),
        liveness_probe: Some(Probe { period_seconds: Some(10), ..probe("/healthz/live") }),
        readiness_probe: Some(Probe { period_seconds: Some(5), ..probe("/healthz/ready") }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ports::ADMIN_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// Token, trust and configuration in one folder. Everybody may read it: the kubelet gives files to
/// one user only where all containers have the same.
fn mounted(inputs: &Inputs<'_>, role: Role) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: Some(enrolment::audience(&inputs.scope)),
            expiration_seconds: Some(names::TOKEN_SECONDS),
            path: names::TOKEN.to_owned(),
        }),
        ..VolumeProjection::default()
    };
    let map = |name: String, items, optional| VolumeProjection {
        config_map: Some(ConfigMapProjection { name, items, optional }),
        ..VolumeProjection::default()
    };
    let own = KeyToPath {
        key: names::NODE_CONFIG.to_owned(),
        path: names::NODE_CONFIG.to_owned(),
        mode: None,
    };
    Volume {
        name: names::VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o444),
            sources: Some(vec![
                token,
                map(names::TRUST.to_owned(), None, Some(true)),
                map(inputs.name(role), Some(vec![own]), None),
            ]),
        }),
        ..Volume::default()
    }
}

/// Room for a node that serves a few hundred peers; a limit, so that one that leaks is restarted
/// before it takes its machine along.
fn modest() -> ResourceRequirements {
    let quantity = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
    ResourceRequirements {
        requests: Some([quantity("cpu", "25m"), quantity("memory", "48Mi")].into()),
        limits: Some([quantity("memory", "256Mi")].into()),
        ..ResourceRequirements::default()
    }
}

/// A node says goodbye and leaves within a few seconds; the rest is for a slow network.
const GRACE: i64 = 15;
