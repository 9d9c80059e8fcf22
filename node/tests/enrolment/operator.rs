//! The operator's side of enrolment for nodes of one mesh, in the test's process: HTTPS with a
//! certificate of the operator's own authority. It believes a token to be the name of who has it.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use macula_identity::enrolment::{Issued, MAX_REQUEST, PATH, Refused, Request};
use macula_identity::{Authority, Grants, OperatorAuthority, Order, Scope, UnixTime};
use macula_proto::Code;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::support::{Node, Place, free_address};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// What is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// A certificate that lives so long.
    Issue(Duration),
    /// This refusal, with this detail.
    Refuse(Code, &'static str),
}

/// The operator, its mesh, and the files that its nodes read.
pub(crate) struct Operator {
    pub(crate) authority: OperatorAuthority,
    judge: Arc<Judge>,
    folder: TempDir,
    seed: SocketAddr,
    address: SocketAddr,
    serving: Option<Runtime>,
}

struct Judge {
    mesh: Authority,
    rule: Mutex<Rule>,
    asked: Mutex<Vec<Instant>>,
}

pub(crate) fn scope() -> Scope {
    Scope { trust_domain: "macula.local".parse().unwrap(), mesh: "demo.main".parse().unwrap() }
}

impl Operator {
    pub(crate) fn start(rule: Rule) -> Self {
        let authority = OperatorAuthority::new(UnixTime::now());
        let mesh = Authority::new(scope(), UnixTime::now());
        let judge = Judge { mesh, rule: Mutex::new(rule), asked: Mutex::default() };
        let mut operator = Self {
            authority,
            judge: Arc::new(judge),
            folder: tempfile::tempdir().unwrap(),
            seed: free_address(),
            address: free_address(),
            serving: None,
        };
        operator.come_back();
        operator.publish_trust();
        operator
    }

    /// Listens where it did before.
    pub(crate) fn come_back(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let names = ["localhost".to_owned()];
        let serving = self.authority.serving(&names, DAY, UnixTime::now()).unwrap();
        let tls = TlsAcceptor::from(Arc::new(serving.server_config().unwrap()));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.address.port()));
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        runtime.spawn(serve(listener, tls, self.judge.clone()));
        self.serving = Some(runtime);
    }

    pub(crate) fn go_away(&mut self) {
        if let Some(runtime) = self.serving.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Changes what is answered from now on.
    pub(crate) fn rule(&self, rule: Rule) {
        *self.judge.rule.lock().unwrap() = rule;
    }

    /// When it was asked.
    pub(crate) fn asked(&self) -> Vec<Instant> {
        self.judge.asked.lock().unwrap().clone()
    }

    pub(crate) fn mesh(&self) -> &Authority {
        &self.judge.mesh
    }

    /// Puts its CA and the mesh's roots where the nodes look for them.
    pub(crate) fn publish_trust(&self) {
        fs::write(self.path("ca.pem"), self.authority.ca_cert_pem()).unwrap();
        fs::write(self.path("bundle.pem"), self.mesh().bundle().to_pem()).unwrap();
    }

    pub(crate) fn hide_trust(&self) {
        for name in ["ca.pem", "bundle.pem"] {
            fs::remove_file(self.path(name)).unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn bootstrap(&self, name: &str) -> Node {
        let counts = free_address();
        fs::write(self.path("counts"), counts.to_string()).unwrap();
        let more = format!("counts: {{ listen: \"{counts}\", ca: ca.pem }}\ndataDir: data\n");
        self.node(name, "bootstrap", &more)
    }

    /// Where the bootstrap tells its counts.
    pub(crate) fn counts(&self) -> SocketAddr {
        fs::read_to_string(self.path("counts")).unwrap().parse().unwrap()
    }

    pub(crate) fn gateway(&self, name: &str) -> Node {
        self.node(name, "gateway", "")
    }

    pub(crate) fn peer(&self, name: &str, realm: &str) -> Node {
        self.node(name, "peer", &format!("realm: {realm}\n"))
    }

    /// Starts a node that has nothing but a token, and does not wait for it.
    fn node(&self, name: &str, role: &str, more: &str) -> Node {
        let (api, admin) = (free_address(), free_address());
        let (udp, more) = match role {
            "bootstrap" => (self.seed, more.to_owned()),
            "peer" => {
                let api = format!("api: {{ listen: \"{api}\" }}\n");
                (free_address(), format!("{more}{api}seeds: [\"{}\"]\n", self.seed))
            }
            _ => (free_address(), format!("{more}seeds: [\"{}\"]\n", self.seed)),
        };
        let url = format!("https://localhost:{}", self.address.port());
        fs::write(self.path(&format!("{name}.token")), format!("{name}\n")).unwrap();
        let text = format!(
            "trustDomain: macula.local\nmesh: demo.main\nrole: {role}\n\
             identity:\n  bundle: bundle.pem\n  enrolment: {{ url: \"{url}\", ca: ca.pem, \
             token: {name}.token }}\n\
             listen: {udp}\nadmin: {{ listen: \"{admin}\" }}\n{more}",
        );
        let config = self.path(&format!("{name}.yaml"));
        fs::write(&config, text).unwrap();
        Place { name: name.to_owned(), udp, api, admin, config }.start(&[])
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.go_away();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, judge: Arc<Judge>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, judge) = (tls.clone(), judge.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| answer(&judge, request));
            // A client that leaves is its own affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    judge: &Judge,
    request: http::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    assert_eq!((head.method.as_str(), head.uri.path()), ("POST", PATH));
    let bearer = head.headers["authorization"].to_str().unwrap();
    let name = bearer.strip_prefix("Bearer ").unwrap().to_owned();
    let body = Limited::new(body, MAX_REQUEST).collect().await.unwrap().to_bytes();
    judge.asked.lock().unwrap().push(Instant::now());
    let rule = *judge.rule.lock().unwrap();
    let (status, content_type, body) = match rule {
        Rule::Refuse(code, detail) => {
            let refused = Refused {
                code: code.name().to_owned(),
                title: code.title().to_owned(),
                status: code.status(),
                detail: detail.to_owned(),
                retryable: code.is_retryable(),
            };
            (code.status(), "application/problem+json", serde_json::to_vec(&refused))
        }
        Rule::Issue(lifetime) => {
            let request = Request::from_json(&body).unwrap();
            let subject = scope().subject(request.place().unwrap(), name.parse().unwrap());
            let order = Order { subject, grants: Grants::default(), lifetime };
            let csr = request.csr_der().unwrap();
            let chain = judge.mesh.issue(&csr, &order, UnixTime::now()).unwrap();
            (200, "application/json", serde_json::to_vec(&Issued::new(&chain)))
        }
    };
    let mut response = Response::new(Full::from(body.unwrap()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", content_type.parse().unwrap());
    Ok(response)
}
