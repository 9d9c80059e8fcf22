//! Asks one node for its counts.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use macula_config::counts::{self, Counts};
use macula_identity::operator::{OperatorAuthority, Pair, counts_client_config};
use macula_identity::{Bundle, Scope, TrustDomain, UnixTime, Verdict};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::failure::chain;

/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes: that of a node with more than 100,000 connections.
pub(super) const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How long a certificate of ours is valid. It is made anew from half of it, and never stored.
const LIFETIME: Duration = Duration::from_hours(1);

/// The operator's certificate in each trust domain.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    made: HashMap<TrustDomain, Made>,
}

#[derive(Debug)]
struct Made {
    pair: Arc<Pair>,
    /// The root that it is of.
    root: String,
}

impl Certificates {
    /// The certificate by which the nodes of this trust domain know the operator.
    pub(super) fn of(
        &mut self,
        operator: &OperatorAuthority,
        trust_domain: &TrustDomain,
    ) -> Result<Arc<Pair>, String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if let Some(Made { pair, root }) = self.made.get(trust_domain)
            && root == operator.ca_cert_pem()
            && now + LIFETIME / 2 < Duration::from_secs(pair.not_after)
        {
            return Ok(Arc::clone(pair));
        }
        let pair = operator
            .client(trust_domain, LIFETIME, UnixTime::since_unix_epoch(now))
            .map_err(|error| chain(&error))?;
        let pair = Arc::new(pair);
        let made = Made { pair: Arc::clone(&pair), root: operator.ca_cert_pem().to_owned() };
        self.made.insert(trust_domain.clone(), made);
        Ok(pair)
    }
}

/// The counts of the node at this address, if it is infrastructure of this mesh and speaks for itself.
pub(super) async fn ask(
    address: IpAddr,
    pair: &Pair,
    bundle: &Arc<Bundle>,
    mesh: &Scope,
) -> Result<Counts, String> {
    let verdict = Verdict::new();
    let config = counts_client_config(pair, Arc::clone(bundle), mesh.clone(), verdict.clone())
        .map_err(|error| chain(&error))?;
    let answer = timeout(DEADLINE, fetch(address, config)).await;
    let body = match answer {
        Ok(Ok(body)) => body,
        Ok(Err(why)) => {
            return Err(verdict.get().and_then(Result::err).map_or(why, |it| it.to_string()));
        }
        Err(_) => return Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    let who = verdict.outcome().map_err(|refusal| refusal.to_string())?;
    let counts: Counts = serde_json::from_slice(&body)
        .map_err(|error| format!("its answer cannot be read: {error}"))?;
    if counts.node.id != who.id.to_string() || counts.node.role != who.subject.role() {
        return Err("it answers for another than its certificate is about".to_owned());
    }
    if !counts.node.role.is_infrastructure() {
        return Err(format!("a {} answers, and no infrastructure", counts.node.role));
    }
    Ok(counts)
}

async fn fetch(address: IpAddr, config: rustls::ClientConfig) -> Result<Bytes, String> {
    let failed = |what: &str, error: &dyn std::error::Error| format!("{what}: {}", chain(error));
    let stream = TcpStream::connect(SocketAddr::new(address, counts::PORT))
        .await
        .map_err(|error| failed("no connection", &error))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::IpAddress(address.into()), stream)
        .await
        .map_err(|error| failed("no handshake", &error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed("no HTTP", &error))?;
    let request = http::Request::get(counts::PATH)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed("no request", &error))?;
    let exchange = async {
        let response =
            sender.send_request(request).await.map_err(|error| failed("no answer", &error))?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| failed("no whole answer", &*error))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    // The connection is driven here, so that nothing of it is left when this is dropped.
    let mut is_open = true;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            _ended = &mut connection, if is_open => is_open = false,
        }
    }
}
