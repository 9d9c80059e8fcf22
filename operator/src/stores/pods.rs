//! Which pods matter, what is kept of them, and what they say about themselves.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, Pod, PodSpec, PodStatus,
};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use macula_api::names::{annotations, labels};
use macula_api::{MaculaMesh, names};

use super::{Change, Stores, opted_in};
use crate::tenancy::Labels;

/// Whose sidecar a pod carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sidecar {
    /// The mesh, `<namespace>.<name>`.
    pub mesh: String,
    /// The realm's `spec.name`.
    pub realm: String,
}

/// The sidecar of a pod, if it carries ours: an init container of our name, and the annotation with
/// its configuration.
#[must_use]
pub fn sidecar(pod: &Pod) -> Option<Sidecar> {
    if !has_container(pod) {
        return None;
    }
    // Written by our webhook with each key on a line of its own.
    let config = pod.annotations().get(annotations::CONFIG)?;
    let value = |key: &str| {
        let line = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    Some(Sidecar { mesh: value("mesh")?, realm: value("realm")? })
}

/// The mesh whose infrastructure a pod is.
#[must_use]
pub fn infrastructure(pod: &Pod) -> Option<ObjectRef<MaculaMesh>> {
    owner(pod.labels(), &pod.namespace()?)
}

/// The mesh that an object with these labels, in this namespace, was made for.
pub(super) fn owner(all: &Labels, namespace: &str) -> Option<ObjectRef<MaculaMesh>> {
    if all.get(labels::MANAGED_BY)? != names::OPERATOR {
        return None;
    }
    Some(ObjectRef::new(all.get(labels::INSTANCE)?).within(namespace))
}

/// Whether the kubelet finds a pod ready, and it is not about to go.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
}

pub(super) fn change(pod: &Pod) -> Change {
    match infrastructure(pod) {
        Some(mesh) => Change::Infrastructure(mesh),
        None => {
            let carried = sidecar(pod).map(|sidecar| sidecar.realm);
            Change::Pod(carried.or_else(|| pod.labels().get(labels::REALM).cloned()))
        }
    }
}

pub(super) fn matters(pod: &Pod, stores: &Stores) -> bool {
    infrastructure(pod).is_some()
        || has_container(pod)
        || pod.labels().contains_key(labels::INJECT)
        || opted_in(&stores.namespace_labels(&pod.namespace().unwrap_or_default()))
}

fn has_container(pod: &Pod) -> bool {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.into_iter().any(|container| container.name == names::CONTAINER)
}

/// Leaves of a pod what [`Stores::pods`] promises. Two that are equal afterwards are the same to us.
pub(super) fn trim(pod: &mut Pod) {
    let meta = &mut pod.metadata;
    meta.managed_fields = None;
    meta.resource_version = None;
    meta.finalizers = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| key.starts_with(OURS));
    }
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        service_account_name: spec.service_account_name,
        node_name: spec.node_name,
        host_network: spec.host_network,
        init_containers: spec.init_containers.map(|all| all.into_iter().map(named).collect()),
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        conditions: status.conditions.map(|all| {
            let told = |type_: &str| matches!(type_, "Ready" | "PodScheduled");
            let mut kept: Vec<_> = all.into_iter().filter(|it| told(&it.type_)).collect();
            for condition in &mut kept {
                condition.last_probe_time = None;
                condition.last_transition_time = None;
            }
            kept
        }),
        container_statuses: status
            .container_statuses
            .map(|all| all.into_iter().filter_map(waiting).collect()),
        ..PodStatus::default()
    });
}

/// What our annotations begin with.
const OURS: &str = "macula.io/";

fn named(container: Container) -> Container {
    let Container { name, restart_policy, .. } = container;
    Container { name, restart_policy, ..Container::default() }
}

/// A container that waits, and for what.
fn waiting(status: ContainerStatus) -> Option<ContainerStatus> {
    let waiting = status.state?.waiting?;
    let state = ContainerState { waiting: Some(waiting), ..ContainerState::default() };
    Some(ContainerStatus { name: status.name, state: Some(state), ..ContainerStatus::default() })
}

/// Why a pod does not run, if Kubernetes says so.
#[must_use]
pub fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find_map(|condition| {
        // "0/3 nodes are available: ...". Anything else is the scheduler's own trouble, and passes.
        let message = condition.message.clone().filter(|message| message.starts_with("0/"))?;
        (condition.type_ == "PodScheduled" && condition.status == "False").then_some(message)
    });
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        // What every pod passes through.
        let harmless = matches!(reason, "ContainerCreating" | "PodInitializing");
        (!harmless).then(|| match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        })
    });
    let why = unscheduled.or(waiting)?;
    Some(format!("{}: {why}", pod.name_any()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn injected() -> Pod {
        pod(json!({
            "metadata": {
                "name": "shop-1", "namespace": "shop",
                "annotations": {
                    "macula.io/config": "trustDomain: cluster.local\nmesh: macula-system.main\n\
                                         role: peer\nrealm: com.example.shop\n",
                    "other": "x",
                },
            },
            "spec": {
                "serviceAccountName": "default",
                "initContainers": [{"name": "macula", "image": "i", "restartPolicy": "Always"}],
                "containers": [{"name": "app", "image": "large"}],
            },
        }))
    }

    #[test]
    fn a_sidecar_is_known_by_its_container_and_its_configuration() {
        let mut pod = injected();
        let expected =
            Sidecar { mesh: "macula-system.main".to_owned(), realm: "com.example.shop".to_owned() };
        assert_eq!(sidecar(&pod), Some(expected.clone()));
        trim(&mut pod);
        assert_eq!(sidecar(&pod), Some(expected));
        assert_eq!(pod.annotations().len(), 1);

        let mut bare = injected();
        bare.spec.as_mut().unwrap().init_containers = None;
        assert_eq!(sidecar(&bare), None);
        let mut bare = injected();
        bare.annotations_mut().clear();
        assert_eq!(sidecar(&bare), None);
    }

    #[test]
    fn two_versions_of_a_pod_are_the_same_when_what_we_read_is() {
        let (mut one, mut two) = (injected(), injected());
        two.metadata.resource_version = Some("7".to_owned());
        two.spec.as_mut().unwrap().containers.clear();
        trim(&mut one);
        trim(&mut two);
        assert_eq!(one, two);
        two.status = Some(PodStatus { pod_ip: Some("10.0.0.1".to_owned()), ..Default::default() });
        assert_ne!(one, two);
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_said_and_what_is_normal_is_not() {
        let waiting = |reason: &str| {
            let mut pod = pod(json!({
                "metadata": {"name": "main-bootstrap-0"},
                "status": {"containerStatuses": [{
                    "name": "macula", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": reason, "message": "no such image"}},
                }]},
            }));
            trim(&mut pod);
            trouble(&pod)
        };
        let said = "main-bootstrap-0: ErrImagePull: no such image";
        assert_eq!(waiting("ErrImagePull").as_deref(), Some(said));
        assert_eq!(waiting("ContainerCreating"), None);

        let mut unscheduled = pod(json!({
            "metadata": {"name": "main-bootstrap-0"},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"},
            ]},
        }));
        trim(&mut unscheduled);
        let said = "main-bootstrap-0: 0/2 nodes are available";
        assert_eq!(trouble(&unscheduled).as_deref(), Some(said));
        let conditions = unscheduled.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].message = Some("running PreBind plugin: try again".to_owned());
        assert_eq!(trouble(&unscheduled), None);
        assert!(!is_ready(&unscheduled));
    }
}
