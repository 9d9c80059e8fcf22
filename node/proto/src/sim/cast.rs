//! Who takes part: nodes with real certificates, whose ids follow from the seed.

use std::sync::Arc;

use macula_identity::{Authority, Grants, NodeKey, NodeName, Order, Place};

use crate::dht::Me;
use crate::record::Trust;
use crate::time::Now;

/// Signs for one simulated mesh. Its root and its nodes' keys are new in each run; the ids are not.
#[derive(Debug)]
pub(crate) struct Cast {
    authority: Authority,
    trust: Trust,
}

impl Cast {
    pub(crate) fn new(seed: u64, now: Now) -> Self {
        let scope = macula_identity::Scope {
            trust_domain: "sim.test".parse().expect("a trust domain"),
            mesh: "macula-system.sim".parse().expect("a mesh name"),
        };
        let any = Authority::new(scope.clone(), now.unix_time());
        let (root, key) = (any.ca_cert_pem(), any.ca_key_pem());
        let authority = Authority::from_parts(scope, &root, &key, &format!("{seed:064x}"))
            .expect("the parts of an authority and 64 digits");
        let trust = Trust { bundle: Arc::new(authority.bundle()), mesh: authority.scope().clone() };
        Self { authority, trust }
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// Who signs.
    #[cfg(feature = "fuzz")]
    pub(crate) const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A node with a certificate of this authority, judged as the other end of a handshake would.
    pub(crate) fn node(&self, now: Now, place: Place, name: &str, server: bool) -> Arc<Me> {
        let name: NodeName = name.parse().expect("names here are made of letters and digits");
        let subject = self.authority.scope().subject(place, name);
        let order = Order { grants: Grants { server }, ..Order::new(subject) };
        let key = NodeKey::generate();
        let chain = self
            .authority
            .issue(&key.csr_der(), &order, now.unix_time())
            .expect("an honest order is signed");
        let Trust { bundle, mesh } = &self.trust;
        let identity =
            chain.verify(bundle, mesh, now.unix_time()).expect("the authority's own is believed");
        Arc::new(Me { identity, key: Arc::new(key), chain, incarnation: now.unix_ms })
    }
}
