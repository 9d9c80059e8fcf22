//! A living pod: what it answers to `kubectl exec`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use serde_json::Value;

use crate::World;
use crate::cluster::Output;
use crate::wait;

/// How long a pod may take from its creation until it is ready, on a machine that is busy.
pub const START: Duration = Duration::from_secs(90);

/// A pod, by its name.
#[derive(Clone, Debug)]
pub struct Pod {
    world: Arc<World>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Pod {
    /// The pod of this name, whether or not there is one.
    #[must_use]
    pub fn new(world: &Arc<World>, namespace: &str, name: &str) -> Self {
        Self { world: world.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The API of its namespace.
    #[must_use]
    pub fn api(&self) -> Api<Object> {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// As the API server has it.
    ///
    /// # Errors
    /// When it has none.
    pub async fn get(&self) -> anyhow::Result<Object> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Watches it until it is as it should be.
    ///
    /// # Errors
    /// When that takes too long; with the reason that `judge` gave last.
    pub async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut judge: impl FnMut(&Object) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let what = format!("{}/{} {what}", self.namespace, self.name);
        wait::until(&what, within, self.api(), wait::named(&self.name), |seen| match seen {
            [pod] => judge(pod),
            _ => Err("there is no such pod".to_owned()),
        })
        .await
    }

    /// Waits until it is ready, and gives it.
    ///
    /// # Errors
    /// When that takes too long; with what its containers wait for.
    pub async fn ready(&self) -> anyhow::Result<Object> {
        self.until(
            "is ready",
            START,
            |pod| {
                if is_ready(pod) { Ok(pod.clone()) } else { Err(state(pod)) }
            },
        )
        .await
    }

    /// Waits until it has ended well.
    ///
    /// # Errors
    /// When it ended otherwise, or that takes too long.
    pub async fn succeeded(&self) -> anyhow::Result<()> {
        self.until("has ended well", START, |pod| match phase(pod) {
            "Succeeded" => Ok(()),
            _ => Err(state(pod)),
        })
        .await
    }

    /// Runs a command in one of its containers, which may fail.
    ///
    /// # Errors
    /// When `kubectl` cannot be run.
    pub async fn exec(&self, container: &str, command: &[&str]) -> anyhow::Result<Output> {
        let fixed = ["exec", "-n", &self.namespace, &self.name, "-c", container, "--"];
        self.world.cluster.try_kubectl(&[&fixed[..], command].concat()).await
    }

    /// Runs `macula-node` in its sidecar, or in what it is itself.
    ///
    /// # Errors
    /// When `kubectl` cannot be run.
    pub async fn node(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.exec("macula", &[&["/macula-node"], arguments].concat()).await
    }

    /// What its node says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let answer = self.node(&["status", "-o", "json"]).await?;
        if !answer.ok {
            bail!("{}/{} has no status: {}", self.namespace, self.name, answer.text().trim());
        }
        Ok(serde_json::from_str(&answer.stdout)?)
    }

    /// Runs the stories' application in it once more, and gives the lines of JSON that it printed.
    ///
    /// # Errors
    /// When `kubectl` cannot be run, or what was printed is not JSON.
    pub async fn app(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let answer = self.exec("app", &[&["/app"], arguments].concat()).await?;
        let lines: Result<Vec<_>, _> = answer.stdout.lines().map(serde_json::from_str).collect();
        lines.with_context(|| format!("the application printed {}", answer.text()))
    }

    /// Calls a procedure until it is answered, and gives the answer.
    ///
    /// # Errors
    /// When it is not answered in time; with the code of the last failure.
    pub async fn call(&self, procedure: &str, body: &str, within: &str) -> anyhow::Result<Value> {
        match &self.app(&["call", procedure, body, "--within", within]).await?[..] {
            [line] if !line["answer"].is_null() => Ok(line["answer"].clone()),
            lines => bail!("{} called {procedure} within {within}: {lines:?}", self.name),
        }
    }

    /// Calls a procedure once, which must fail, and gives the code.
    ///
    /// # Errors
    /// When it is answered.
    pub async fn refused(&self, procedure: &str) -> anyhow::Result<String> {
        match &self.app(&["call", procedure, "--within", "0s"]).await?[..] {
            [line] if line["failed"].is_string() => {
                Ok(line["failed"].as_str().unwrap_or_default().to_owned())
            }
            lines => bail!("{} called {procedure} and was not refused: {lines:?}", self.name),
        }
    }

    /// Listens until so many messages came, and gives them.
    ///
    /// # Errors
    /// When fewer came in time.
    pub async fn hear(
        &self,
        pattern: &str,
        count: usize,
        within: &str,
    ) -> anyhow::Result<Vec<Value>> {
        let number = count.to_string();
        let heard = self.app(&["hear", pattern, "--count", &number, "--within", within]).await?;
        if heard.len() < count {
            bail!(
                "{} heard {} of {count} messages of {pattern} within {within}",
                self.name,
                heard.len()
            );
        }
        Ok(heard)
    }

    /// The tallies of the application.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn tallies(&self) -> anyhow::Result<Value> {
        self.app(&["tallies"]).await?.pop().with_context(|| format!("{} has no tallies", self.name))
    }

    /// Waits until the tallies are as they should be, and gives them.
    ///
    /// # Errors
    /// When that takes too long; with the reason that `judge` gave last.
    pub async fn until_tallies(
        &self,
        what: &str,
        within: Duration,
        mut judge: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let what = format!("{}/{}: {what}", self.namespace, self.name);
        wait::poll(&what, within, async || {
            let tallies = self.tallies().await?;
            Ok(if judge(&tallies) { Ok(tallies) } else { Err(tallies.to_string()) })
        })
        .await
    }
}

/// Whether it has the condition Ready.
#[must_use]
pub fn is_ready(pod: &Object) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}

/// Its phase.
#[must_use]
pub fn phase(pod: &Object) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

/// In a few words, what it and its containers do or wait for.
#[must_use]
pub fn state(pod: &Object) -> String {
    let mut words = vec![format!("it is {}", phase(pod))];
    let status = pod.status.clone().unwrap_or_default();
    for condition in
        status.conditions.iter().flatten().filter(|condition| condition.status != "True")
    {
        words.extend(condition.message.clone());
    }
    let containers = status.init_container_statuses.into_iter().flatten();
    for container in containers.chain(status.container_statuses.into_iter().flatten()) {
        let state = container.state.unwrap_or_default();
        if let Some(waiting) = state.waiting {
            let message = waiting.message.unwrap_or_default();
            words.push(format!(
                "{} waits: {} {message}",
                container.name,
                waiting.reason.unwrap_or_default()
            ));
        }
        if let Some(ended) = state.terminated {
            words.push(format!("{} ended with {}", container.name, ended.exit_code));
        }
    }
    words.join("; ")
}
