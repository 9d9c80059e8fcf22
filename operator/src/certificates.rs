//! The operator's own certificates: its authority, kept in a Secret; the certificate of its servers,
//! made in memory and renewed; and the webhook configuration's `caBundle`, which must be the authority's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum_server::tls_rustls::RustlsConfig;
use futures_util::TryStreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use macula_api::names::{self, components, managers};
use macula_identity::{OperatorAuthority, UnixTime, operator};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::context::Context;
use crate::failure::{explain, is_conflict};
use crate::metrics::{Certificate, Metrics};
use crate::resources::labels_of;

/// How long the certificate of the servers lives. It is renewed at half of that.
const LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The wall clock, as certificates count.
#[must_use]
pub fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}

/// The operator's authority: as its Secret says, else a new one. It is created once and never
/// overwritten, because running nodes know it.
///
/// # Errors
/// [`Error`] if the Secret cannot be read, used or created.
pub async fn authority(client: &Client, namespace: &str) -> Result<OperatorAuthority, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |what| move |source: kube::Error| Error::Secret { what, source: Box::new(source) };
    if let Some(secret) =
        secrets.get_opt(names::OPERATOR_CA_SECRET).await.map_err(failed("read"))?
    {
        return read(&secret);
    }
    let authority = OperatorAuthority::new(now());
    match secrets.create(&PostParams::default(), &write(namespace, &authority)).await {
        Ok(_) => {
            info!(secret = names::OPERATOR_CA_SECRET, "the operator has made its authority");
            Ok(authority)
        }
        // Another operator was first.
        Err(error) if is_conflict(&error) => {
            read(&secrets.get(names::OPERATOR_CA_SECRET).await.map_err(failed("read"))?)
        }
        Err(error) => Err(failed("create")(error)),
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what was asked of it.
    #[error(
        "cannot {what} the Secret {}, which holds the operator's authority: {}",
        names::OPERATOR_CA_SECRET,
        explain(source)
    )]
    Secret {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// A part is missing, or is not text.
    #[error("the Secret {secret} lacks {0}; restore it, or delete it and restart every node", secret = names::OPERATOR_CA_SECRET)]
    Lacks(&'static str),
    /// What it holds is not an authority.
    #[error("the Secret {secret} cannot be used; restore it, or delete it and restart every node: {0}", secret = names::OPERATOR_CA_SECRET)]
    Unusable(#[from] operator::Error),
}

fn read(secret: &Secret) -> Result<OperatorAuthority, Error> {
    let part = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(Error::Lacks(key))?;
        str::from_utf8(&bytes.0).map_err(|_| Error::Lacks(key))
    };
    Ok(OperatorAuthority::from_parts(part(names::CA_CERTIFICATE)?, part(names::CA_KEY)?)?)
}

fn write(namespace: &str, authority: &OperatorAuthority) -> Secret {
    let data = BTreeMap::from([
        (names::CA_CERTIFICATE.to_owned(), ByteString(authority.ca_cert_pem().into())),
        (names::CA_KEY.to_owned(), ByteString(authority.ca_key_pem().into_bytes())),
    ]);
    Secret {
        metadata: ObjectMeta {
            name: Some(names::OPERATOR_CA_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels_of(names::OPERATOR, components::OPERATOR)),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The certificate of the servers, which is replaced without a restart.
#[derive(Clone, Debug)]
pub struct Serving {
    config: RustlsConfig,
    renew_in: Duration,
}

impl Serving {
    /// The first one.
    ///
    /// # Errors
    /// When the authority does not sign.
    pub fn new(
        authority: &OperatorAuthority,
        namespace: &str,
        metrics: &Metrics,
    ) -> Result<Self, operator::Error> {
        let (config, renew_in) = issue(authority, namespace, metrics)?;
        Ok(Self { config: RustlsConfig::from_config(config), renew_in })
    }

    /// What a server presents from now on.
    #[must_use]
    pub fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Renews it for ever.
    pub async fn run(self, ctx: &Context) {
        let mut wait = self.renew_in;
        loop {
            sleep(wait).await;
            match issue(&ctx.operator_ca, &ctx.settings.namespace, &ctx.metrics) {
                Ok((config, renew_in)) => {
                    info!("the certificate of the operator's servers was renewed");
                    self.config.reload_from_config(config);
                    wait = renew_in;
                }
                Err(error) => {
                    warn!(%error, "the certificate of the operator's servers cannot be renewed");
                    wait = Duration::from_mins(1);
                }
            }
        }
    }
}

fn issue(
    authority: &OperatorAuthority,
    namespace: &str,
    metrics: &Metrics,
) -> Result<(Arc<rustls::ServerConfig>, Duration), operator::Error> {
    let now = now();
    let pair = authority.serving(&names::operator_hosts(namespace), LIFETIME, now)?;
    let config = pair.server_config().map_err(|error| operator::Error::Key(error.to_string()))?;
    let expiry = |certificate, at| {
        metrics.certificate_expiry.get_or_create(&Certificate { certificate }).set(at);
    };
    expiry("operator_ca", authority.not_after());
    expiry("serving", pair.not_after);
    let remaining = pair.not_after.saturating_sub(now.as_secs());
    Ok((Arc::new(config), Duration::from_secs(remaining / 2)))
}

/// Keeps the `caBundle` of the webhook configuration what it must be, and says whether it was seen to
/// be. A chart's upgrade or a person may reset it: the watch sees it at once.
pub async fn keep_ca_bundle(ctx: &Context, seen: &watch::Sender<bool>) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(ctx.client.clone());
    let only = watcher::Config::default().fields(&format!("metadata.name={}", names::OPERATOR));
    let wanted = ByteString(ctx.operator_ca.ca_cert_pem().into());
    let changes = watcher(api.clone(), only).default_backoff();
    let mut changes = std::pin::pin!(changes);
    loop {
        let event = match changes.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "the webhook configuration cannot be watched; trying again");
                continue;
            }
        };
        match event {
            watcher::Event::Apply(found) | watcher::Event::InitApply(found) => {
                let right = is_right(&found, &wanted);
                seen.send_replace(right);
                if right {
                    continue;
                }
                let patch = Patch::Apply(bundle(&found, &wanted));
                let params = PatchParams::apply(managers::WEBHOOK).force();
                match api.patch(&found.name_any(), &params, &patch).await {
                    Ok(_) => info!("the webhook configuration has the operator's CA"),
                    Err(error) => {
                        let why = explain(&error);
                        warn!(why, "the webhook configuration cannot be given the operator's CA");
                        sleep(Duration::from_secs(2)).await;
                        // The watch begins anew and shows it again.
                        changes.set(
                            watcher(
                                api.clone(),
                                watcher::Config::default()
                                    .fields(&format!("metadata.name={}", names::OPERATOR)),
                            )
                            .default_backoff(),
                        );
                    }
                }
            }
            watcher::Event::Delete(_) => {
                seen.send_replace(false);
                warn!(
                    "the webhook configuration was deleted: no pod gets a sidecar until the chart is installed again"
                );
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }
}

fn is_right(found: &MutatingWebhookConfiguration, wanted: &ByteString) -> bool {
    let webhooks = found.webhooks.as_deref().unwrap_or_default();
    !webhooks.is_empty()
        && webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(wanted))
}

/// The fields that are ours, and no others.
fn bundle(found: &MutatingWebhookConfiguration, wanted: &ByteString) -> serde_json::Value {
    let webhooks = found
        .webhooks
        .iter()
        .flatten()
        .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": wanted } }));
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": found.name_any() },
        "webhooks": webhooks.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_read_back_from_its_secret_and_a_damaged_one_is_told() {
        let authority = OperatorAuthority::new(now());
        let mut secret = write("ns", &authority);
        assert_eq!(read(&secret).unwrap().ca_cert_pem(), authority.ca_cert_pem());
        secret.data.as_mut().unwrap().remove(names::CA_KEY);
        assert!(read(&secret).unwrap_err().to_string().contains("lacks ca.key"));
    }

    #[test]
    fn a_webhook_configuration_is_right_when_every_entry_has_the_bundle() {
        let wanted = ByteString(b"pem".to_vec());
        let parse = |webhooks| {
            let value = json!({ "metadata": { "name": "macula-operator" }, "webhooks": webhooks });
            serde_json::from_value::<MutatingWebhookConfiguration>(value).unwrap()
        };
        let entry = |bundle: Option<&str>| {
            json!({
                "name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": { "caBundle": bundle },
            })
        };
        assert!(is_right(&parse(json!([entry(Some("cGVt"))])), &wanted));
        for wrong in
            [json!([]), json!([entry(None)]), json!([entry(Some("cGVt")), entry(Some("eA=="))])]
        {
            assert!(!is_right(&parse(wrong), &wanted));
        }
        let patch = bundle(&parse(json!([entry(None)])), &wanted);
        assert_eq!(
            patch["webhooks"],
            json!([{ "name": "a.b.c", "clientConfig": { "caBundle": "cGVt" } }])
        );
    }
}
