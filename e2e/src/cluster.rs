//! The cluster at hand, as `make cluster` wrote it down, and the tools to talk to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why there is nothing to run stories on, and what to do about it.
const MISSING: &str = "the stories need a cluster, and there is none: `make cluster` makes one \
    (Linux and root, or docker and kind, or CLUSTER=current for your own). To leave them out: STORIES=none";

/// A cluster that answers.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What `make cluster` wrote down: `CLUSTER`, `KUBECONFIG`, `PATH`, and the images.
    environment: BTreeMap<String, String>,
    state: PathBuf,
}

/// What a tool printed.
#[derive(Debug)]
pub struct Output {
    /// Whether it ended with zero.
    pub ok: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Both, for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Cluster {
    /// The cluster that `make cluster` made.
    ///
    /// `KUBECONFIG` is not looked at: whatever cluster a person works with is left alone.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> anyhow::Result<Self> {
        let name = std::env::var("MACULA_CLUSTER_NAME").unwrap_or_else(|_| "macula".to_owned());
        let mut states = folders().into_iter().map(|folder| folder.join(&name));
        let state = states.find(|state| state.join("env").exists()).context(MISSING)?;
        let text = std::fs::read_to_string(state.join("env"))?;
        Ok(Self { environment: exports(&text), state })
    }

    /// A folder that lives as long as the cluster.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The product's image.
    ///
    /// # Errors
    /// When it has not been loaded.
    pub fn image(&self) -> anyhow::Result<&str> {
        self.loaded("IMAGE")
    }

    /// The image of the stories' application.
    ///
    /// # Errors
    /// When it has not been loaded.
    pub fn app_image(&self) -> anyhow::Result<&str> {
        self.loaded("APP_IMAGE")
    }

    fn loaded(&self, name: &str) -> anyhow::Result<&str> {
        let image = self.environment.get(name).map(String::as_str);
        image.context("the cluster has no images of ours: `make image load` builds and loads them")
    }

    /// A client of the API server, as its administrator.
    ///
    /// # Errors
    /// When the file does not tell how to reach it.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.client_of(None).await
    }

    /// A client that may do what this service account may.
    ///
    /// # Errors
    /// When the file does not tell how to reach the API server.
    pub async fn client_as(&self, namespace: &str, account: &str) -> anyhow::Result<Client> {
        self.client_of(Some((namespace, account))).await
    }

    async fn client_of(&self, account: Option<(&str, &str)>) -> anyhow::Result<Client> {
        let path = self.environment.get("KUBECONFIG").context(MISSING)?;
        let mut file =
            Kubeconfig::read_from(path).with_context(|| format!("cannot read {path}"))?;
        if let Some((namespace, account)) = account {
            for user in file.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
                user.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
                user.impersonate_groups = Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ]);
            }
        }
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Runs `kubectl` and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        succeed("kubectl", arguments, self.try_kubectl(arguments).await?)
    }

    /// Runs `kubectl`, which may fail.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.tool("kubectl", arguments, "").await
    }

    /// Runs `helm`, with this on its standard input.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn helm(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        succeed("helm", arguments, self.tool("helm", arguments, input).await?)
    }

    async fn tool(&self, name: &str, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        // A PATH that is given to the child alone is not searched for the child's own program.
        let outer = std::env::var("PATH").unwrap_or_default();
        let path = self.environment.get("PATH").unwrap_or(&outer);
        let found =
            std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_file());
        let program = found.with_context(|| format!("{name} is missing: it is not in {path}"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(&self.environment)
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        Ok(Output {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn succeed(tool: &str, arguments: &[&str], output: Output) -> anyhow::Result<String> {
    if !output.ok {
        bail!("`{tool} {}` failed: {}", arguments.join(" "), output.text().trim());
    }
    Ok(output.stdout)
}

/// Where `make cluster` keeps what it knows: root's clusters, and those of the user (`e2e/cluster/lib.sh`).
fn folders() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    if let Some(folder) = variable("MACULA_CLUSTER_STATE") {
        return vec![folder];
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let own = cache.map(|cache| cache.join("macula/cluster"));
    [Some(PathBuf::from("/var/lib/macula-cluster")), own].into_iter().flatten().collect()
}

/// Reads lines of `export NAME=VALUE`; a `$PATH` in a value is that of this process.
fn exports(text: &str) -> BTreeMap<String, String> {
    let outer = std::env::var("PATH").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').replace("$PATH", &outer)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_make_cluster_is_read_as_a_shell_would() {
        let read = exports("# a comment\nexport CLUSTER=own\nexport PATH=/parts:$PATH\n");
        assert_eq!(read["CLUSTER"], "own");
        assert!(read["PATH"].starts_with("/parts:/"));
        assert_eq!(read.len(), 2);
    }
}
