//! What the operator is told by its chart: flags, or variables of the same meaning.

use std::collections::BTreeSet;

use clap::Parser;

/// Runs meshes and realms of Macula on Kubernetes: makes what MaculaMesh and MaculaRealm objects ask
/// for, gives nodes their certificates, and injects sidecars.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    after_help = "\
It runs in a pod, as the Helm chart charts/macula installs it. To try one from a shell, against the
cluster of your kubeconfig:
  macula-operator --namespace macula-system --node-image macula:dev

Addresses: :8443 webhook, :7783 enrolment, :7781 health and metrics."
)]
pub struct Settings {
    /// The namespace that the operator runs in, where its Secrets lie
    #[arg(long, env = "POD_NAMESPACE", default_value = macula_api::names::OPERATOR_NAMESPACE)]
    pub namespace: String,
    /// The name of the operator's pod, for Events
    #[arg(long, env = "POD_NAME")]
    pub pod: Option<String>,
    /// The image of bootstraps, gateways and sidecars
    #[arg(long, env = "MACULA_NODE_IMAGE", value_name = "IMAGE")]
    pub node_image: String,
    /// When the kubelet pulls it: Always, IfNotPresent or Never
    #[arg(long, env = "MACULA_IMAGE_PULL_POLICY", value_parser = ["Always", "IfNotPresent", "Never", ""])]
    pub pull_policy: Option<String>,
    /// The Secrets with which bootstraps and gateways are pulled
    #[arg(long, env = "MACULA_IMAGE_PULL_SECRETS", value_delimiter = ',', value_name = "NAME,...")]
    pub pull_secrets: Vec<String>,
    /// The namespaces in which meshes are run; the operator's own when left out
    #[arg(
        long = "mesh-namespaces",
        env = "MACULA_MESH_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACE,..."
    )]
    given_mesh_namespaces: Vec<String>,
    /// Which events are logged, such as info or info,macula_operator=debug
    #[arg(long, env = "MACULA_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Logs text for people rather than JSON
    #[arg(long, env = "MACULA_LOG_TEXT")]
    pub log_text: bool,
    /// What `--mesh-namespaces` comes to.
    #[arg(skip)]
    pub mesh_namespaces: BTreeSet<String>,
}

impl Settings {
    /// What the process was told; ends it with the usage where that is wrong.
    #[must_use]
    pub fn from_process() -> Self {
        Self::parse().settled()
    }

    /// Empty words of a variable are none, and nothing given is the own namespace.
    #[must_use]
    fn settled(mut self) -> Self {
        self.pull_secrets.retain(|name| !name.is_empty());
        self.pull_policy = self.pull_policy.filter(|policy| !policy.is_empty());
        self.mesh_namespaces =
            self.given_mesh_namespaces.iter().filter(|name| !name.is_empty()).cloned().collect();
        if self.mesh_namespaces.is_empty() {
            self.mesh_namespaces.insert(self.namespace.clone());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &[&str]) -> Settings {
        let fixed = ["macula-operator", "--namespace", "ns", "--node-image", "macula:1"];
        Settings::try_parse_from(fixed.iter().chain(more)).unwrap().settled()
    }

    #[test]
    fn meshes_are_run_in_the_own_namespace_unless_others_are_given() {
        assert_eq!(settings(&[]).mesh_namespaces, ["ns".to_owned()].into());
        let given = settings(&["--mesh-namespaces", "b,a,"]).mesh_namespaces;
        assert_eq!(given, ["a".to_owned(), "b".to_owned()].into());
    }

    #[test]
    fn empty_variables_are_as_none() {
        let settings = settings(&["--pull-secrets", "", "--pull-policy", ""]);
        assert_eq!((settings.pull_policy, settings.pull_secrets), (None, vec![]));
    }
}
