//! What an infrastructure node reads: its `node.yaml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use macula_api::names::{self, ports};
use macula_config::{Admin, Api, Config, Counts, Discovery, Enrolment, Host, Identity, Seed};
use macula_identity::Role;

use super::Inputs;

/// The configuration of a role, and a text that changes when it does.
pub(super) fn build(inputs: &Inputs<'_>, role: Role) -> (ConfigMap, String) {
    let yaml = config(inputs, role).to_yaml();
    let hash = format!("{:016x}", super::digest(&yaml));
    let map = ConfigMap {
        metadata: inputs.meta(role),
        data: Some([(names::NODE_CONFIG.to_owned(), yaml)].into()),
        ..ConfigMap::default()
    };
    (map, hash)
}

fn config(inputs: &Inputs<'_>, role: Role) -> Config {
    let Inputs { mesh, scope, operator_namespace, .. } = inputs;
    let file = |name: &str| PathBuf::from(names::run_path(name));
    let (namespace, name) = (inputs.namespace(), mesh.name_any());
    let everywhere = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let enrolment = Enrolment {
        url: names::enrolment_url(operator_namespace)
            .parse()
            .expect("made of a namespace, which is a DNS label"),
        ca: file(names::ENROLMENT_CA),
        token: file(names::TOKEN),
    };
    let seed = Host::Name(names::seed(&namespace, &name));
    Config {
        trust_domain: scope.trust_domain.clone(),
        mesh: scope.mesh.clone(),
        role,
        realm: None,
        name: None,
        identity: Identity {
            key: None,
            certificate: None,
            bundle: file(&names::roots(&namespace, &name)),
            enrolment: Some(enrolment),
        },
        // A bootstrap comes back with its key and certificate, also while the operator is away, and
        // with the records that it kept.
        data_dir: (role == Role::Bootstrap).then(|| PathBuf::from(names::DATA_PATH)),
        listen: everywhere(ports::QUIC),
        seeds: vec![Seed { host: seed, port: ports::QUIC }],
        discovery: Discovery::default(),
        // On loopback, for `kubectl exec POD -- /macula-node status`.
        api: Some(Api::default()),
        admin: Admin { listen: everywhere(ports::ADMIN) },
        counts: Some(Counts { listen: everywhere(ports::COUNTS), ca: file(names::ENROLMENT_CA) }),
        log: mesh.spec.log.clone(),
    }
}
