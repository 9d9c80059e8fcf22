//! The operator: makes of MaculaMesh and MaculaRealm objects what they ask for.
//!
//! | module | holds |
//! | --- | --- |
//! | `settings`, `context` | what the chart said, and what every part shares |
//! | `stores` | what is known of the cluster, kept by watches |
//! | `tenancy` | the law: which mesh, realm and member is accepted |
//! | `resources` | the objects of a mesh, built from plain inputs |
//! | `authorities`, `trust`, `certificates` | who signs, and how nodes come to know it |
//! | `census` | who is alive |
//! | `conditions`, `events`, `metrics`, `failure`, `backoff` | how it is told, and tried again |

pub mod admission;
pub mod authorities;
pub mod backoff;
pub mod census;
pub mod certificates;
pub mod conditions;
pub mod context;
pub mod controllers;
pub mod enrolment;
pub mod events;
pub mod failure;
pub mod mesh;
pub mod metrics;
pub mod prune;
pub mod realm;
pub mod resources;
pub mod server;
pub mod settings;
pub mod stores;
pub mod tenancy;
pub mod trust;
pub mod watchdog;
