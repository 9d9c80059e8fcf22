//! The floor: the same bytes over raw quinn, without a mesh.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use macula_identity::authority::{Authority, Order};
use macula_identity::{Chain, NodeKey, Place, Scope, UnixTime, Verdict, tls};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TransportConfig,
};

use super::{CALL_BYTES, Calls, LASTS, measure};

/// A stream a request, echoed.
pub(crate) async fn calls() -> anyhow::Result<Calls> {
    let (connection, server) = connect(|connection| async move {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            tokio::spawn(async move {
                let request = recv.read_to_end(1 << 20).await?;
                send.write_all(&request).await?;
                send.finish()?;
                anyhow::Ok(())
            });
        }
    })
    .await?;
    let asked = connection.clone();
    let calls = measure(move || {
        let connection = asked.clone();
        async move {
            let (mut send, mut recv) = connection.open_bi().await?;
            send.write_all(&[b'x'; CALL_BYTES]).await?;
            send.finish()?;
            recv.read_to_end(1 << 20).await?;
            Ok(())
        }
    })
    .await?;
    connection.close(0_u32.into(), b"");
    drop(server);
    Ok(calls)
}

/// Frames of a length and a payload, in batches of 64 KiB; with a channel for each message at both
/// ends when that is asked for, as any interface for one message at a time has.
pub(crate) async fn messages(bytes: usize, channels: bool) -> anyhow::Result<f64> {
    let (counted, mut counts) = tokio::sync::mpsc::channel(1);
    let (connection, server) = connect(move |connection| {
        let counted = counted.clone();
        async move {
            let Ok(mut recv) = connection.accept_uni().await else { return };
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(8192);
            let reader = tokio::spawn(async move {
                let mut count = 0_u64;
                while receiver.recv().await.is_some() {
                    count += 1;
                }
                count
            });
            let (mut pending, mut count) = (BytesMut::new(), 0_u64);
            while let Ok(Some(chunk)) = recv.read_chunk(1 << 20, true).await {
                pending.extend_from_slice(&chunk.bytes);
                while let Some(frame) = next_frame(&mut pending) {
                    count += 1;
                    if channels && sender.send(frame).await.is_err() {
                        return;
                    }
                }
            }
            drop(sender);
            let read = reader.await.unwrap_or_default();
            let _ = counted.send(if channels { read } else { count }).await;
        }
    })
    .await?;
    let since = Instant::now();
    let mut send = connection.open_uni().await?;
    let payload = Bytes::from(vec![b'x'; bytes]);
    let mut batch = BytesMut::with_capacity(80 << 10);
    if channels {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(8192);
        let writer = tokio::spawn(async move {
            let mut waiting = Vec::new();
            while receiver.recv_many(&mut waiting, 4096).await > 0 {
                for message in waiting.drain(..) {
                    put_frame(&message, &mut batch);
                    if batch.len() >= 64 << 10 {
                        send.write_chunk(batch.split().freeze()).await?;
                    }
                }
                send.write_chunk(batch.split().freeze()).await?;
            }
            send.finish()?;
            send.stopped().await?;
            anyhow::Ok(())
        });
        while since.elapsed() < LASTS {
            for _ in 0..64 {
                sender.send(payload.clone()).await?;
            }
        }
        drop(sender);
        writer.await??;
    } else {
        while since.elapsed() < LASTS {
            while batch.len() < 64 << 10 {
                put_frame(&payload, &mut batch);
            }
            send.write_chunk(batch.split().freeze()).await?;
        }
        send.finish()?;
        send.stopped().await?;
    }
    let count = counts.recv().await.unwrap_or_default();
    let took = since.elapsed();
    drop(server);
    Ok(count as f64 / took.as_secs_f64())
}

fn put_frame(payload: &[u8], batch: &mut BytesMut) {
    let length = u32::try_from(payload.len()).expect("a small message");
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(payload);
}

fn next_frame(pending: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(pending.get(..4)?.try_into().ok()?) as usize;
    if pending.len() < 4 + length {
        return None;
    }
    let frame = pending.split_to(4 + length).freeze();
    Some(frame.slice(4..))
}

/// The thread of one end; it ends when this is dropped.
pub(crate) struct Server {
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Two endpoints, the server on a current_thread runtime of its own, as a node's data plane.
async fn connect<F, S>(serve: S) -> anyhow::Result<(Connection, Server)>
where
    S: FnOnce(Connection) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let now = UnixTime::since_unix_epoch(
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
    );
    let scope = Scope { trust_domain: "bench.local".parse()?, mesh: "bench.floor".parse()? };
    let authority = Arc::new(Authority::new(scope, now));
    let issue = |name: &str| -> anyhow::Result<(Chain, NodeKey)> {
        let key = NodeKey::generate();
        let subject = authority.scope().subject(Place::Gateway, name.parse()?);
        Ok((authority.issue(&key.csr_der(), &Order::new(subject), now)?, key))
    };
    let (chain, key) = issue("server")?;
    let bundle = Arc::new(authority.bundle());
    let credentials = tls::Credentials::new(&chain, &key);
    let scope = authority.scope().clone();
    let tls =
        tls::server_config(&credentials, bundle.clone(), scope.clone(), b"floor", Verdict::new())?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let (address_in, address) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let endpoint = endpoint(Some(config))?;
            let _ = address_in.send(endpoint.local_addr()?);
            let accept = async {
                if let Some(incoming) = endpoint.accept().await
                    && let Ok(connection) = incoming.await
                {
                    serve(connection).await;
                }
            };
            accept.await;
            let _ = stopped.await;
            anyhow::Ok(())
        })
    });
    let (chain, key) = issue("client")?;
    let credentials = tls::Credentials::new(&chain, &key);
    let tls = tls::client_config(&credentials, bundle, scope, b"floor", Verdict::new())?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = endpoint(None)?;
    let connection = endpoint.connect_with(config, address.await?, "floor")?.await?;
    Ok((connection, Server { _stop: stop }))
}

/// The largest datagram that a node tries.
const DATAGRAM: u16 = 6500;

fn endpoint(server: Option<ServerConfig>) -> anyhow::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM)?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

/// As a node has it.
fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM);
    transport
        .max_concurrent_bidi_streams(256_u32.into())
        .mtu_discovery_config(Some(discovery))
        .max_idle_timeout(Some(Duration::from_secs(10).try_into().expect("fits")));
    Arc::new(transport)
}
