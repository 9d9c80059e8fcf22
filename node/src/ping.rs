//! `macula-node ping`: dials a node as a node would, and says the round trip, or by name why not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use macula_proto::identity::NodeId;
use macula_proto::realm::Expected;
use macula_proto::wire::message::{FindNode, Ping, request, response};
use macula_proto::{Code, Fault, wire};

use crate::discovery::{Discovery, Resolver, Schedule};
use crate::identity::Source;
use crate::mesh::{Pong, Target, exchange};
use crate::metrics::Metrics;
use crate::transport::{Endpoint, Link};

/// A connection of its own, beside whatever runs under the same identity.
#[derive(Debug)]
pub struct Pinger {
    endpoint: Endpoint,
    link: Link,
}

impl Pinger {
    /// Connects to the target; a node that is known by its id alone is asked for at the seeds.
    ///
    /// # Errors
    /// The code with which either side refused; `unreachable`.
    pub async fn connect(
        target: Target,
        source: Source,
        seeds: &[macula_config::Seed],
    ) -> Result<Self, Fault> {
        let any = match target {
            Target::Address(SocketAddr::V4(_)) => SocketAddr::from(([0, 0, 0, 0], 0)),
            Target::Address(SocketAddr::V6(_)) | Target::Node(_) => {
                crate::transport::any_address(0)
            }
        };
        // Incarnation zero: the other side keeps the connection of the node itself, if there is one.
        let endpoint = Endpoint::bind(any, source, 0, Arc::<Metrics>::default())
            .map_err(|error| Fault::new(Code::Internal, error.to_string()))?;
        let link = match target {
            Target::Address(address) => endpoint.dial(address, Expected::Anyone).await?,
            Target::Node(node) => find(&endpoint, node, seeds).await?,
        };
        Ok(Self { endpoint, link })
    }

    /// One round trip.
    ///
    /// # Errors
    /// `interrupted`, or what the other side refused it with.
    pub async fn ping(&self) -> Result<Pong, Fault> {
        let since = Instant::now();
        match exchange(&self.link, request::Body::Ping(Ping {})).await? {
            response::Body::Pong(_) => {}
            _ => return Err(Fault::new(Code::Protocol, "a ping was not answered by a pong")),
        }
        Ok(Pong {
            id: self.link.identity().id.to_string(),
            subject: self.link.identity().subject.to_string(),
            address: self.link.address().to_string(),
            rtt_us: u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.endpoint.close(Code::Goodbye).await;
    }
}

/// Asks the seeds for a serving node, and dials where they have met it.
async fn find(
    endpoint: &Endpoint,
    node: NodeId,
    seeds: &[macula_config::Seed],
) -> Result<Link, Fault> {
    let mut last = Fault::new(Code::Unreachable, "no seed could be asked for the node");
    for seed in resolve(seeds).await? {
        let link = match endpoint.dial(seed, Expected::Bootstrap).await {
            Ok(link) if link.identity().id == node => return Ok(link),
            Ok(link) => link,
            Err(fault) => {
                last = fault;
                continue;
            }
        };
        let realm = String::new();
        let target = node.as_bytes().to_vec().into();
        let ask = request::Body::FindNode(FindNode { target, realm });
        let response::Body::Nodes(nodes) = exchange(&link, ask).await? else { continue };
        let found = nodes
            .closest
            .into_iter()
            .filter_map(|contact| wire::Contact::try_from(contact).ok())
            .find(|contact| contact.id == node);
        last = Fault::new(
            Code::Unreachable,
            "the seeds know no serving node of this id; ping a peer by its address",
        );
        for address in found.into_iter().flat_map(|contact| contact.addresses) {
            match endpoint.dial(address, Expected::Node(node)).await {
                Ok(link) => return Ok(link),
                Err(fault) => last = fault,
            }
        }
    }
    Err(last)
}

async fn resolve(seeds: &[macula_config::Seed]) -> Result<Vec<SocketAddr>, Fault> {
    let failed = |error: crate::discovery::Error| Fault::new(Code::Unreachable, error.to_string());
    let resolver = Resolver::from_system().map_err(failed)?;
    let (discovery, handle) = Discovery::new(seeds, resolver, Schedule::default());
    let mut found = handle.found();
    let known = async {
        let found = found.wait_for(|found| !found.seeds.is_empty()).await;
        found.map(|found| found.seeds.clone()).unwrap_or_default()
    };
    tokio::select! {
        () = discovery.run() => Ok(Vec::new()),
        seeds = known => Ok(seeds),
        () = tokio::time::sleep(Duration::from_secs(5)) => {
            Err(Fault::new(Code::Unreachable, "no seed's name resolved within five seconds"))
        }
    }
}
