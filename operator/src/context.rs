//! What every part of the operator shares.

use std::sync::Arc;

use kube::Client;
use macula_identity::OperatorAuthority;

use crate::authorities::Authorities;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::stores::Stores;

/// One for the process.
pub struct Context {
    /// The way to the API server.
    pub client: Client,
    /// What the chart said.
    pub settings: Settings,
    /// What is known of the cluster.
    pub stores: Stores,
    /// The authorities of the meshes.
    pub authorities: Authorities,
    /// The operator's own authority.
    pub operator_ca: Arc<OperatorAuthority>,
    /// What is counted.
    pub metrics: Metrics,
    /// Writes Events.
    pub events: Events,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.settings.namespace)
    }
}
