//! One request to the operator, over one connection of its own.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use macula_config::Enrolment;
use macula_identity::Chain;
use macula_identity::enrolment::{self, Issued, MAX_ANSWER, Refused};
use macula_identity::operator::enrolment_client_config;
use macula_proto::{Code, Fault};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::unavailable;
use crate::discovery::Resolver;

/// How long the server's name may take.
const LOOKUP: Duration = Duration::from_secs(4);

/// The most that is read of a token or a CA.
const LONGEST: u64 = 256 * 1024;

/// Sends the request, and gives the certificate that came.
pub(super) async fn ask(
    config: &Enrolment,
    resolver: &Resolver,
    request: &enrolment::Request,
) -> Result<Chain, Fault> {
    let Enrolment { url, ca, token } = config;
    let failed =
        |what: &str, error: &dyn std::error::Error| unavailable(format!("{url}: {what}: {error}"));
    let tls = enrolment_client_config(&read("the operator's CA", ca)?)
        .map_err(|error| failed("the CA", &error))?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", read("the token", token)?.trim()))
        .map_err(|error| failed("the token", &error))?;
    bearer.set_sensitive(true);

    let addresses = resolver.addresses(url.host(), LOOKUP).await;
    let addresses = addresses.map_err(|error| failed("its name", &error))?;
    let addresses: Vec<_> = addresses.into_iter().map(|ip| (ip, url.port()).into()).collect();
    let stream = TcpStream::connect(addresses.as_slice()).await;
    let stream = stream.map_err(|error| failed("cannot connect", &error))?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|e| failed("its name", &e))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    let stream = stream.map_err(|error| failed("TLS", &error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed("HTTP", &error))?;

    let body = serde_json::to_vec(request).expect("a request can be written as JSON");
    let request = Request::post(enrolment::PATH)
        .header(HOST, url.host())
        .header(AUTHORIZATION, bearer)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::<bytes::Bytes>::from(body))
        .expect("every part was checked");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| failed("HTTP", &e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| unavailable(format!("{url}: its answer: {error}")))?;
        Ok::<_, Fault>((status, body.to_bytes()))
    };
    // The connection is driven while the exchange lasts, and dropped with it. What has arrived before
    // its end is still there to be read.
    let mut exchange = pin!(exchange);
    let (status, body) = tokio::select! {
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }?;
    if status == StatusCode::OK {
        let issued: Issued =
            serde_json::from_slice(&body).map_err(|error| failed("its answer", &error))?;
        return issued.chain().map_err(|error| failed("its certificate", &error));
    }
    match serde_json::from_slice::<Refused>(&body) {
        Ok(refused) => {
            let code = Code::from_name(&refused.code).unwrap_or(Code::EnrolmentUnavailable);
            Err(Fault::new(code, refused.detail))
        }
        Err(_) => Err(unavailable(format!("{url}: it answered {status}"))),
    }
}

/// Reads a file that somebody else writes and replaces.
pub(super) fn read(what: &str, path: &Path) -> Result<String, Fault> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error: std::io::Error| {
        unavailable(format!("cannot read {what}, {}: {error}", path.display()))
    })
}
