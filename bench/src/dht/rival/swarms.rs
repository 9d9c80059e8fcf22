//! 50 swarms, each with its own thread and socket as our nodes have: 49 servers, and a client that
//! looks for the providers of keys which nobody provides.
//!
//! Each is told the addresses of all the others, since without a second protocol (identify) a server
//! does not learn where those who dial it listen. So their tables are as full as they can be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{Behaviour, Event, Mode, QueryResult, RecordKey};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder};
use tokio::sync::{mpsc, oneshot};

use crate::dht::NODES;
use crate::dht::lookups::{LASTS, Lookups, MOST, WARM_UP, drive};
use crate::{clock, report};

/// Ends with how many requests it took, or why it did not end well.
type Ask = (RecordKey, oneshot::Sender<anyhow::Result<u32>>);

pub(crate) async fn lookups() -> anyhow::Result<Option<Lookups>> {
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for _ in 1..NODES {
        let (node, address) = Node::start(Mode::Server)?;
        addresses.push(address.await?);
        nodes.push(node);
    }
    for node in &nodes {
        node.know(&addresses).await?;
    }
    let (client, _) = Node::start(Mode::Client)?;
    client.know(&addresses).await?;
    // A table that grows is looked over half a second later.
    tokio::time::sleep(Duration::from_secs(3)).await;

    let requests = Arc::new(AtomicU64::new(0));
    let ask = |prefix: &'static str| {
        let (asks, requests) = (client.asks.clone(), requests.clone());
        move |number: usize| {
            let (asks, requests) = (asks.clone(), requests.clone());
            async move {
                let (reply, answer) = oneshot::channel();
                asks.send((RecordKey::new(&format!("{prefix}.n{number}")), reply)).await?;
                requests.fetch_add(answer.await??.into(), Relaxed);
                Ok(())
            }
        }
    };
    drive(WARM_UP, Duration::from_secs(10), ask("warm")).await?;
    requests.store(0, Relaxed);
    let cpu = clock::process();
    let (took, lasted) = drive(MOST, LASTS, ask("cold")).await?;
    let cpu = clock::process().saturating_sub(cpu);
    Ok(Some(Lookups {
        per_second: report::rate(took.len(), lasted),
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        requests: requests.load(Relaxed) as f64 / took.len() as f64,
        cpu: cpu / u32::try_from(took.len())?,
    }))
}

/// A swarm on a thread of its own; it ends when this is dropped.
struct Node {
    asks: mpsc::Sender<Ask>,
    know: mpsc::Sender<Vec<(PeerId, Multiaddr)>>,
}

impl Node {
    /// Gives also where it will listen.
    fn start(mode: Mode) -> anyhow::Result<(Self, oneshot::Receiver<(PeerId, Multiaddr)>)> {
        let ((asks, asked), (know, known)) = (mpsc::channel(64), mpsc::channel(4));
        let (listening, address) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(run(mode, asked, known, listening)));
        Ok((Self { asks, know }, address))
    }

    async fn know(&self, others: &[(PeerId, Multiaddr)]) -> anyhow::Result<()> {
        Ok(self.know.send(others.to_vec()).await?)
    }
}

fn swarm(mode: Mode) -> anyhow::Result<Swarm<Behaviour<MemoryStore>>> {
    let mut swarm = SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_quic()
        .with_behaviour(|key| {
            let me = key.public().to_peer_id();
            Behaviour::new(me, MemoryStore::new(me))
        })?
        // Connections stay, as ours do.
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(120)))
        .build();
    swarm.behaviour_mut().set_mode(Some(mode));
    swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
    Ok(swarm)
}

async fn run(
    mode: Mode,
    mut asked: mpsc::Receiver<Ask>,
    mut known: mpsc::Receiver<Vec<(PeerId, Multiaddr)>>,
    listening: oneshot::Sender<(PeerId, Multiaddr)>,
) -> anyhow::Result<()> {
    let mut swarm = swarm(mode)?;
    let me = *swarm.local_peer_id();
    let mut listening = Some(listening);
    let mut waiting = HashMap::new();
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some((key, reply)) = ask else { return Ok(()) };
                let id = swarm.behaviour_mut().get_providers(key);
                waiting.insert(id, reply);
            }
            Some(others) = known.recv() => {
                for (peer, address) in others.into_iter().filter(|(peer, _)| *peer != me) {
                    swarm.behaviour_mut().add_address(&peer, address);
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    if let Some(listening) = listening.take() {
                        let _ = listening.send((me, address));
                    }
                }
                SwarmEvent::Behaviour(Event::OutboundQueryProgressed {
                    id,
                    result: QueryResult::GetProviders(result),
                    stats,
                    step,
                }) if step.last => {
                    if let Some(reply) = waiting.remove(&id) {
                        let result = result.map(|_| stats.num_requests());
                        let _ = reply.send(result.map_err(Into::into));
                    }
                }
                _ => {}
            },
        }
    }
}
