//! What one story has for itself. Everything goes when it ends; when it fails, what was there is told first.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::core::TypeMeta;
use macula_api::names;
use serde_json::Value;

use crate::manifests::{self, App};
use crate::pod::Pod;
use crate::wait;
use crate::world::{self, OPERATOR, World};

/// How long a mesh may take until it is ready, on a machine that is busy.
pub const READY: Duration = Duration::from_secs(90);
/// How long the operator may take to say something about an object.
pub const SOON: Duration = Duration::from_secs(30);
/// The mesh of a story.
const MESH: &str = "main";
/// How many of the last lines of a log are shown when a story fails.
const LINES: &str = "--tail=25";

/// One story, under way.
#[derive(Debug)]
pub struct Story {
    /// What it shares with all others.
    pub world: Arc<World>,
    number: usize,
    namespaces: Mutex<Vec<String>>,
}

impl Story {
    /// Begins a story; each has a number of its own, from one.
    #[must_use]
    pub fn begin(world: &Arc<World>, number: usize) -> Self {
        assert!(
            (1..=world::MESH_NAMESPACES).contains(&number),
            "there are namespaces for fewer stories"
        );
        let namespaces = Mutex::new(vec![world::mesh_namespace(number)]);
        Self { world: world.clone(), number, namespaces }
    }

    /// The namespace that is its own to make meshes in.
    #[must_use]
    pub fn mesh_namespace(&self) -> String {
        world::mesh_namespace(self.number)
    }

    /// Makes a namespace that enforces Pod Security *restricted*.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<String> {
        self.namespace_of("restricted", name).await
    }

    /// Makes a namespace that enforces this level of Pod Security.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace_of(&self, level: &str, name: &str) -> anyhow::Result<String> {
        let name = self.world.unique(&format!("{}-{name}", self.number));
        self.world.make_namespace(&name, level).await?;
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Ok(name)
    }

    /// The API of the kind that a manifest is of, in its namespace.
    ///
    /// # Errors
    /// When the manifest names no kind.
    pub fn api_of(&self, manifest: &Value) -> anyhow::Result<Api<DynamicObject>> {
        let types: TypeMeta = serde_json::from_value(manifest.clone())?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let client = self.world.client.clone();
        Ok(match manifest["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        })
    }

    /// What `kubectl apply` does.
    ///
    /// # Errors
    /// What the API server says against it.
    pub async fn apply(&self, manifest: &Value) -> anyhow::Result<DynamicObject> {
        let name = manifest["metadata"]["name"].as_str().context("a manifest has a name")?;
        let manager = PatchParams::apply("e2e").force();
        Ok(self.api_of(manifest)?.patch(name, &manager, &Patch::Apply(manifest)).await?)
    }

    /// What `kubectl delete` does.
    ///
    /// # Errors
    /// What the API server says against it.
    pub async fn delete(&self, manifest: &Value) -> anyhow::Result<()> {
        let name = manifest["metadata"]["name"].as_str().context("a manifest has a name")?;
        self.api_of(manifest)?.delete(name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// Makes a mesh `main` in the story's own namespace, waits until it is ready, and gives its manifest.
    ///
    /// # Errors
    /// When it is refused, or does not become ready.
    pub async fn mesh(&self, spec: Value) -> anyhow::Result<Value> {
        let mesh = manifests::mesh(&self.mesh_namespace(), MESH, spec);
        self.apply(&mesh).await?;
        self.becomes(&mesh, "Ready", "True").await?;
        Ok(mesh)
    }

    /// The mesh of [`Story::mesh`], as realms and pods name it.
    #[must_use]
    pub fn main(&self) -> (String, String) {
        (self.mesh_namespace(), MESH.to_owned())
    }

    /// Makes a realm on the story's own mesh, whose members are these namespaces, waits until it is ready, and
    /// gives its manifest.
    ///
    /// # Errors
    /// When it is refused, or does not become ready.
    pub async fn realm(&self, name: &str, members: &[&str]) -> anyhow::Result<Value> {
        let namespace = self.mesh_namespace();
        let realm = manifests::realm(&namespace, name, (&namespace, MESH), members);
        self.apply(&realm).await?;
        self.becomes(&realm, "Ready", "True").await?;
        Ok(realm)
    }

    /// Waits until a mesh or a realm has this condition, and gives it.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn becomes(
        &self,
        manifest: &Value,
        kind: &str,
        status: &str,
    ) -> anyhow::Result<Value> {
        self.until_status(manifest, &format!("becomes {kind}={status}"), READY, |seen| {
            let conditions = seen["conditions"].as_array();
            let found =
                conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
            match found {
                Some(condition) if condition["status"] == status => Ok(condition.clone()),
                _ => Err(format!("its status is {seen}")),
            }
        })
        .await
    }

    /// Watches the status of a mesh or a realm until it is as it should be.
    ///
    /// # Errors
    /// When that takes too long; with the reason that `judge` gave last.
    pub async fn until_status<T>(
        &self,
        manifest: &Value,
        what: &str,
        within: Duration,
        mut judge: impl FnMut(&Value) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let name = manifest["metadata"]["name"].as_str().context("a manifest has a name")?;
        let what = format!("{} {name} {what}", manifest["kind"].as_str().unwrap_or_default());
        wait::until(&what, within, self.api_of(manifest)?, wait::named(name), |seen| match seen {
            [object] => judge(&object.data["status"]),
            _ => Err("there is no such object".to_owned()),
        })
        .await
    }

    /// Makes a pod of the stories' application, as a user's `kubectl create` does.
    ///
    /// # Errors
    /// What the API server, or our webhook, says against it.
    pub async fn create(&self, app: &App) -> anyhow::Result<Pod> {
        let pod = app.pod(self.world.cluster.app_image()?);
        self.api_of(&pod)?.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let (namespace, name) = app.place();
        Ok(Pod::new(&self.world, namespace, name))
    }

    /// Makes pods, and waits until all are ready.
    ///
    /// # Errors
    /// When one is refused, or does not become ready.
    pub async fn run<const N: usize>(&self, apps: [App; N]) -> anyhow::Result<[Pod; N]> {
        let mut pods = Vec::new();
        for app in &apps {
            pods.push(self.create(app).await?);
        }
        for pod in &pods {
            pod.ready().await?;
        }
        pods.try_into().ok().context("as many pods as applications")
    }

    /// The pods that this label selects.
    ///
    /// # Errors
    /// When there is none, or `kubectl` fails.
    pub async fn pods(&self, namespace: &str, label: &str) -> anyhow::Result<Vec<Pod>> {
        let pods = ["get", "pods", "-n", namespace, "-l", label, "-o", "name"];
        let pods = self.world.cluster.kubectl(&pods).await?;
        let names = pods.lines().filter_map(|line| line.strip_prefix("pod/"));
        let pods: Vec<_> = names.map(|name| Pod::new(&self.world, namespace, name)).collect();
        ensure!(!pods.is_empty(), "no pod in {namespace} has the label {label}");
        Ok(pods)
    }

    /// The bootstrap of the story's mesh with this number, from zero.
    #[must_use]
    pub fn bootstrap(&self, number: usize) -> Pod {
        Pod::new(
            &self.world,
            &self.mesh_namespace(),
            &format!("{}-{number}", names::bootstrap(MESH)),
        )
    }

    /// What a person would look at who wants to know why it failed.
    pub async fn tell(&self) -> String {
        let mut text = String::new();
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for namespace in &namespaces {
            let of = ["-n", namespace];
            let all = "maculameshes,macularealms,statefulsets,deployments,jobs,pods";
            self.show(&mut text, &[&["get", all, "-o", "wide"][..], &of].concat()).await;
            self.show(&mut text, &[&["describe", "maculameshes,macularealms"][..], &of].concat())
                .await;
            let events = ["get", "events", "--sort-by=.metadata.creationTimestamp"];
            self.show(&mut text, &[&events[..], &of].concat()).await;
            let pods =
                self.world.cluster.kubectl(&["get", "pods", "-n", namespace, "-o", "name"]).await;
            for pod in pods.unwrap_or_default().lines() {
                let log = ["logs", "-n", namespace, pod, "--all-containers", "--prefix", LINES];
                self.show(&mut text, &log).await;
                if let Ok(before) =
                    self.world.cluster.try_kubectl(&[&log[..], &["--previous"]].concat()).await
                    && before.ok
                {
                    let _ = write!(text, "before its restart:\n{}", before.stdout);
                }
            }
        }
        let deployment = format!("deployment/{}", names::OPERATOR);
        let log = ["logs", "-n", OPERATOR, &deployment, "--tail=500"];
        let log =
            self.world.cluster.kubectl(&log).await.unwrap_or_else(|error| format!("{error:#}"));
        let ours = log
            .lines()
            .filter(|line| namespaces.iter().any(|namespace| line.contains(namespace.as_str())));
        let _ = writeln!(text, "\nthe operator's log about these namespaces:");
        for line in ours {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    async fn show(&self, text: &mut String, arguments: &[&str]) {
        // Writing into a String does not fail.
        let _ = writeln!(text, "\n$ kubectl {}", arguments.join(" "));
        match self.world.cluster.try_kubectl(arguments).await {
            Ok(output) => text.push_str(&output.text()),
            Err(error) => {
                let _ = writeln!(text, "{error:#}");
            }
        }
    }

    /// Ends it: its pods, realms and meshes go. The namespace for meshes itself stays until the end of the run,
    /// because the chart's rights are bound there.
    ///
    /// # Errors
    /// What the API server says against it.
    pub async fn end(self) -> anyhow::Result<()> {
        let own = self.mesh_namespace();
        let everything = "macularealms,maculameshes,pods,jobs";
        let wait = "--wait=false";
        self.world.cluster.kubectl(&["delete", everything, "--all", "-n", &own, wait]).await?;
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for namespace in namespaces.iter().filter(|namespace| **namespace != own) {
            self.world.cluster.kubectl(&["delete", "namespace", namespace, wait]).await?;
        }
        Ok(())
    }
}
