//! The same between two peers of a mesh, by the library and through HTTP.

use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use macula_node::dev::{Mesh, Options};
use macula_node::peer::{Advertisement, Delivery};
use macula_node::{Fault, Payload};
use std::time::Duration;

use super::{CALL_BYTES, Calls, IN_FLIGHT, LASTS, measure};

/// A whole mesh in this process, and two peers of it.
pub(crate) struct Pair {
    mesh: Mesh,
    _echo: Advertisement,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Pair {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let free = "127.0.0.1:0".parse()?;
        let join_file =
            Some(std::env::temp_dir().join(format!("macula-bench-{}.json", std::process::id())));
        let mesh =
            Mesh::start(Options { apis: [free, free], join_file, ..Options::default() }).await?;
        let echo =
            |request: macula_node::peer::Request| async move { Ok::<_, Fault>(request.payload) };
        let _echo = mesh.peers()[1].advertise("echo".parse()?, echo).await?;
        Ok(Self { mesh, _echo, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    pub(crate) async fn calls(&self) -> anyhow::Result<Calls> {
        let (peer, procedure) = (self.mesh.peers()[0].clone(), "echo".parse()?);
        measure(move || {
            let (peer, procedure) = (peer.clone(), Clone::clone(&procedure));
            async move {
                let payload = Payload::bytes(vec![b'x'; CALL_BYTES]);
                peer.call(procedure, payload, Duration::from_secs(5)).await?;
                Ok(())
            }
        })
        .await
    }

    pub(crate) async fn calls_by_http(&self) -> anyhow::Result<Calls> {
        let (client, url) = (self.client.clone(), format!("{}/v1/call/echo", self.mesh.urls()[0]));
        measure(move || {
            let (client, url) = (client.clone(), url.clone());
            async move { post(&client, &url, CALL_BYTES, StatusCode::OK).await }
        })
        .await
    }

    /// Messages a second that arrived, and how many the mesh said were lost.
    pub(crate) async fn messages(&self, bytes: usize) -> anyhow::Result<(f64, u64)> {
        let [one, two] = self.mesh.peers();
        let mut subscription = two.subscribe("bench.one.*".parse()?).await?;
        let topic = "bench.one.way".parse()?;
        let payload = Payload::bytes(vec![b'x'; bytes]);
        one.publish(Clone::clone(&topic), payload.clone()).await?;
        let since = Instant::now();
        let reader = tokio::spawn(async move {
            let (mut arrived, mut lost) = (0_u64, 0);
            loop {
                let idle = Duration::from_millis(500);
                let batch = tokio::time::timeout(idle, subscription.next_batch()).await;
                let Ok(batch) = batch else { return (arrived, lost, since.elapsed() - idle) };
                for delivery in batch {
                    match delivery {
                        Delivery::Message(_) => arrived += 1,
                        Delivery::Gap { missed } => lost += missed,
                    }
                }
            }
        });
        while since.elapsed() < LASTS {
            for _ in 0..64 {
                one.send(&topic, payload.clone()).await?;
            }
        }
        let (arrived, lost, took) = reader.await?;
        Ok((arrived as f64 / took.as_secs_f64(), lost))
    }

    /// Publishes by `POST`, many in flight; they are counted where they arrive.
    pub(crate) async fn messages_by_http(&self, bytes: usize) -> anyhow::Result<f64> {
        let mut subscription = self.mesh.peers()[1].subscribe("bench.http.*".parse()?).await?;
        let url = format!("{}/v1/publish/bench.http.way", self.mesh.urls()[0]);
        post(&self.client, &url, bytes, StatusCode::ACCEPTED).await?;
        let since = Instant::now();
        let reader = tokio::spawn(async move {
            let mut arrived = 0_u64;
            while since.elapsed() < LASTS {
                let batch = tokio::time::timeout(
                    LASTS.saturating_sub(since.elapsed()),
                    subscription.next_batch(),
                );
                arrived += batch.await.map_or(0, |batch| batch.len() as u64);
            }
            arrived
        });
        let writers: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (client, url) = (self.client.clone(), url.clone());
                tokio::spawn(async move {
                    while since.elapsed() < LASTS {
                        post(&client, &url, bytes, StatusCode::ACCEPTED).await?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let arrived = reader.await?;
        let rate = arrived as f64 / since.elapsed().as_secs_f64();
        for writer in writers {
            writer.await??;
        }
        Ok(rate)
    }

    pub(crate) async fn stop(self) {
        self.mesh.stop().await;
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    url: &str,
    bytes: usize,
    expected: StatusCode,
) -> anyhow::Result<()> {
    let body = Full::new(Bytes::from(vec![b'x'; bytes]));
    let request = Request::builder().method(Method::POST).uri(url).body(body)?;
    let response = client.request(request).await.context("the API does not answer")?;
    anyhow::ensure!(response.status() == expected, "the API answered {}", response.status());
    response.into_body().collect().await?;
    Ok(())
}
