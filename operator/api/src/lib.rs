//! The two kinds of the operator, [`MaculaMesh`] and [`MaculaRealm`] (`macula.io/v1alpha1`), as Rust
//! types, and every name that the operator, its chart, its nodes and its users agree on.
//!
//! | module | holds |
//! | --- | --- |
//! | [`mesh`] | `MaculaMesh`: the infrastructure, and which realms it serves |
//! | [`realm`] | `MaculaRealm`: a tenant, and which pods belong to it |
//! | [`reasons`] | types and reasons of conditions |
//! | [`names`] | names of objects, ports, paths; [`names::labels`] and [`names::annotations`] |
//! | [`lifetime`] | a length of time as it is written in YAML |
//!
//! Doc comments of fields are the descriptions that `kubectl explain` shows. `crds/`, the chart's
//! copies and `docs/REFERENCE.md` are printed from here (`make crds`).

mod crd;
pub mod lifetime;
pub mod mesh;
pub mod names;
pub mod realm;
pub mod reasons;
mod schema;

pub use crd::crds;
pub use lifetime::Lifetime;
pub use mesh::{
    AllowedNamespaces, AllowedRealms, Bootstrap, Certificates, From, Gateway, GatewayService,
    MaculaMesh, MaculaMeshSpec, MaculaMeshStatus, NodeCount, Pods, ServiceType, Storage,
};
pub use realm::{MaculaRealm, MaculaRealmSpec, MaculaRealmStatus, Member, MeshRef, Sidecar};
