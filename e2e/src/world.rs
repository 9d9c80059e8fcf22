//! What all stories of one run share: the cluster, and one installation of the chart.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use macula_api::names;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock};

use crate::cluster::Cluster;
use crate::wait;

/// Where the operator lives.
pub const OPERATOR: &str = "macula-system";
/// The release, and the operator's Deployment and ServiceAccount.
const RELEASE: &str = "macula";
/// The operator's pods.
const OPERATOR_PODS: &str = "app.kubernetes.io/name=macula,app.kubernetes.io/component=operator";
/// How many namespaces the operator is given for meshes. Each story takes one for itself.
pub const MESH_NAMESPACES: usize = 24;
/// The label on every namespace that the stories make.
const LABEL: &str = "macula.io/e2e";
/// Long enough for images that are there already, on a machine that is busy.
const INSTALL: &str = "120s";

/// The cluster and what is installed on it, for one run.
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// A client of its API server, as the administrator.
    pub client: Client,
    /// Whoever only uses the installation reads; whoever takes it away for a while writes.
    pub installation: RwLock<()>,
    installed: OnceCell<()>,
    /// Sets the names of this run apart from those of an earlier one that still goes away.
    run: String,
    /// One run at a time: they would share the installation. Released when the process ends.
    _alone: File,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("cluster", &self.cluster)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Finds the cluster, waits for another run to end, and clears away what an earlier one left.
    ///
    /// # Errors
    /// When there is no cluster, or it does not answer.
    pub async fn find() -> anyhow::Result<Self> {
        let cluster = Cluster::find()?;
        let alone = File::create(cluster.state().join("stories.lock"))?;
        if let Err(TryLockError::WouldBlock) = alone.try_lock() {
            eprintln!("another run of the stories is under way: waiting for its end");
            alone.lock()?;
        }
        let client = cluster.client().await?;
        client
            .apiserver_version()
            .await
            .context("the cluster of `make cluster` does not answer")?;
        let world = Self {
            cluster,
            client,
            installation: RwLock::new(()),
            installed: OnceCell::new(),
            run: run(),
            _alone: alone,
        };
        world.sweep().await?;
        Ok(world)
    }

    /// The installation of the chart, made when it is first asked for.
    ///
    /// # Errors
    /// When helm fails, or the operator does not become ready.
    pub async fn installed(&self) -> anyhow::Result<()> {
        self.installed
            .get_or_try_init(async || {
                for number in 1..=MESH_NAMESPACES {
                    self.make_namespace(&mesh_namespace(number), "baseline").await?;
                }
                self.install(&[]).await
            })
            .await
            .copied()
    }

    /// Installs or upgrades the chart, with these settings (`--set`) beside the usual ones.
    ///
    /// # Errors
    /// When helm fails, or the operator does not become ready.
    pub async fn install(&self, settings: &[&str]) -> anyhow::Result<()> {
        let chart = root().join("charts/macula");
        let chart = chart.to_str().context("the checkout's path is not UTF-8")?;
        let mut arguments =
            vec!["upgrade", "--install", RELEASE, chart, "-n", OPERATOR, "--create-namespace"];
        arguments.extend(["--wait", "--timeout", INSTALL, "--values", "-"]);
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        self.cluster.helm(&arguments, &self.values()?.to_string()).await?;
        Ok(())
    }

    /// Takes the chart away, as a user would.
    ///
    /// # Errors
    /// When helm fails.
    pub async fn uninstall(&self) -> anyhow::Result<()> {
        let arguments = ["uninstall", RELEASE, "-n", OPERATOR, "--wait", "--timeout", INSTALL];
        self.cluster.helm(&arguments, "").await.map(drop)
    }

    /// Has so many operators run, and waits until it is so.
    ///
    /// # Errors
    /// When `kubectl` fails, or it takes too long.
    pub async fn operators(&self, replicas: usize) -> anyhow::Result<()> {
        let of = ["-n", OPERATOR, &format!("deployment/{}", names::OPERATOR)];
        let replicas = format!("--replicas={replicas}");
        self.cluster.kubectl(&[&["scale", &replicas][..], &of].concat()).await?;
        if replicas == "--replicas=0" {
            let pods = [
                "wait",
                "--for=delete",
                "pods",
                "-l",
                OPERATOR_PODS,
                "-n",
                OPERATOR,
                "--timeout=60s",
            ];
            return self.cluster.kubectl(&pods).await.map(drop);
        }
        self.cluster
            .kubectl(&[&["rollout", "status", "--timeout=60s"][..], &of].concat())
            .await
            .map(drop)
    }

    /// Puts the installation back as it was, whatever a story has done to it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restore(&self) -> anyhow::Result<()> {
        if self.operators(1).await.is_err() {
            self.install(&[]).await?;
        }
        Ok(())
    }

    fn values(&self) -> anyhow::Result<Value> {
        let image = self.cluster.image()?;
        let (repository, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
        let mut namespaces = vec![OPERATOR.to_owned()];
        namespaces.extend((1..=MESH_NAMESPACES).map(mesh_namespace));
        Ok(json!({
            "image": { "repository": repository, "tag": tag, "pullPolicy": "IfNotPresent" },
            "meshNamespaces": namespaces,
        }))
    }

    /// Makes a namespace that enforces this Pod Security level; an earlier one of the name has gone first.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn make_namespace(&self, name: &str, level: &str) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let gone = |seen: &[&Namespace]| match seen {
            [one] if one.metadata.deletion_timestamp.is_some() => {
                Err("it is being deleted".to_owned())
            }
            _ => Ok(()),
        };
        let what = format!("namespace {name} of an earlier run goes away");
        wait::until(&what, Duration::from_secs(60), api.clone(), wait::named(name), gone).await?;
        let labels = BTreeMap::from([
            (LABEL, "story"),
            ("pod-security.kubernetes.io/enforce", level),
            ("pod-security.kubernetes.io/warn", level),
        ]);
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(namespace)).await?;
        Ok(())
    }

    /// A name that no other run uses.
    #[must_use]
    pub fn unique(&self, name: &str) -> String {
        format!("e2e-{}-{name}", self.run)
    }

    /// Takes away everything that this run made. What it installed stays for the next one, which is then faster.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn sweep(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        for left in api.list(&ListParams::default().labels(&format!("{LABEL}=story"))).await? {
            if left.metadata.deletion_timestamp.is_none() {
                api.delete(&left.name_any(), &DeleteParams::background()).await?;
            }
        }
        Ok(())
    }
}

/// The name of a namespace in which the operator may make a mesh.
#[must_use]
pub fn mesh_namespace(number: usize) -> String {
    format!("macula-mesh-{number}")
}

/// The checkout.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// A few letters that are others each second.
fn run() -> String {
    let mut seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut letters = String::new();
    for _ in 0..5 {
        let digit = u32::try_from(seconds % 36).unwrap_or_default();
        letters.extend(char::from_digit(digit, 36));
        seconds /= 36;
    }
    letters
}
