//! Meshes, realms and pods as a user writes them.

use serde_json::{Map, Value, json};

/// A mesh of one bootstrap and no gateway, which any namespace may use: the least that carries traffic.
/// What `spec` says beside it, or otherwise, goes in.
#[must_use]
pub fn mesh(namespace: &str, name: &str, spec: Value) -> Value {
    let mut whole = json!({
        "bootstrap": { "replicas": 1 },
        "gateway": { "replicas": 0 },
        "allowedRealms": { "namespaces": { "from": "All" } },
    });
    merge(&mut whole, spec);
    json!({
        "apiVersion": "macula.io/v1alpha1", "kind": "MaculaMesh",
        "metadata": { "namespace": namespace, "name": name },
        "spec": whole,
    })
}

/// A realm on a mesh, whose members are every service account of these namespaces.
#[must_use]
pub fn realm(namespace: &str, realm: &str, mesh: (&str, &str), members: &[&str]) -> Value {
    let name = realm.rsplit('.').next().unwrap_or(realm);
    json!({
        "apiVersion": "macula.io/v1alpha1", "kind": "MaculaRealm",
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "name": realm,
            "meshRef": { "namespace": mesh.0, "name": mesh.1 },
            "members": members.iter().map(|member| json!({ "namespaceSelector": in_namespace(member) }))
                .collect::<Vec<_>>(),
        },
    })
}

/// The selector of one namespace, by the label that Kubernetes gives it.
#[must_use]
pub fn in_namespace(name: &str) -> Value {
    json!({ "matchLabels": { "kubernetes.io/metadata.name": name } })
}

/// The stories' application as a pod, written as Pod Security *restricted* wants it.
#[derive(Clone, Debug)]
pub struct App {
    namespace: String,
    name: String,
    labels: Map<String, Value>,
    arguments: Vec<String>,
    extra: Value,
}

impl App {
    /// The application, which does what these arguments of its `run` say, and does not know of a mesh.
    #[must_use]
    pub fn new(namespace: &str, name: &str, arguments: &[&str]) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: Map::new(),
            arguments: [&["run"], arguments].concat().into_iter().map(str::to_owned).collect(),
            extra: json!({}),
        }
    }

    /// Labelled: it wants to be in this realm of this mesh.
    #[must_use]
    pub fn of(mut self, realm: &str, mesh: (&str, &str)) -> Self {
        let labels = [
            ("macula.io/inject", "enabled".to_owned()),
            ("macula.io/realm", realm.to_owned()),
            ("macula.io/mesh", format!("{}.{}", mesh.0, mesh.1)),
        ];
        self.labels.extend(labels.map(|(key, value)| (key.to_owned(), Value::from(value))));
        self
    }

    /// Does something else than `run`.
    #[must_use]
    pub fn doing(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// With this in its manifest beside, or instead of, what is there.
    #[must_use]
    pub fn with(mut self, extra: Value) -> Self {
        merge(&mut self.extra, extra);
        self
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// The manifest.
    #[must_use]
    pub fn pod(&self, image: &str) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": self.namespace, "name": self.name, "labels": self.labels },
            "spec": self.spec(image),
        });
        merge(&mut pod, self.extra.clone());
        pod
    }

    /// The manifest of a Job that makes it once.
    #[must_use]
    pub fn job(&self, image: &str) -> Value {
        let mut spec = self.spec(image);
        merge(&mut spec, json!({ "restartPolicy": "Never" }));
        if let Some(Value::Array(containers)) = spec.get_mut("containers") {
            for container in containers.iter_mut().filter_map(Value::as_object_mut) {
                container.remove("readinessProbe");
            }
        }
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "namespace": self.namespace, "name": self.name },
            "spec": { "backoffLimit": 0, "template": { "metadata": { "labels": self.labels }, "spec": spec } },
        })
    }

    fn spec(&self, image: &str) -> Value {
        json!({
            "terminationGracePeriodSeconds": 5,
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "app",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": self.arguments,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1 },
            }],
        })
    }
}

/// Lays one document over another: objects are merged, everything else is replaced.
pub fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_over_a_document_replaces_its_leaves_alone() {
        let mut document = json!({ "a": { "b": 1, "c": 2 } });
        merge(&mut document, json!({ "a": { "b": 3 }, "d": [4] }));
        assert_eq!(document, json!({ "a": { "b": 3, "c": 2 }, "d": [4] }));
    }

    #[test]
    fn the_pod_of_a_job_has_no_readiness_and_is_not_restarted() {
        let job = App::new("n", "j", &[]).doing(&["call", "sum"]).job("image");
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Never");
        assert!(pod["containers"][0].get("readinessProbe").is_none());
        assert_eq!(pod["containers"][0]["args"], json!(["call", "sum"]));
    }
}
