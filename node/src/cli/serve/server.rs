//! The loopback address to which the node hands each call (docs/API.md, "Callbacks").

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use macula_config::period;
use macula_proto::wire::MAX_PAYLOAD;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::runner::{Call, Error, Runner};
use crate::cli::body;
use crate::cli::failure::printable;
use crate::cli::output;

/// How many commands run at once; more calls are refused with 503.
const CALLS: usize = 64;
/// How many connections are open at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 128;
/// The deadline of a call whose node says none.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request's head and body may take: the node sends both at once.
const ARRIVAL: Duration = Duration::from_secs(10);

/// A server of one procedure.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    runner: Arc<Runner>,
    /// Unguessable, so that no web page and no other user of this machine calls the command.
    path: String,
    calls: Semaphore,
}

impl Server {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn start(runner: Arc<Runner>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let path = format!("/{:032x}", rand::random::<u128>());
        let url = format!("http://{}{path}", listener.local_addr()?);
        let shared = Arc::new(Shared { runner, path, calls: Semaphore::new(CALLS) });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(accept(listener, shared, tasks.clone(), stop.clone()));
        Ok(Self { url, tasks, stop })
    }

    /// Where calls go.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Stops accepting, and waits so long for the calls that run. What is left then ends with the
    /// runtime.
    pub(crate) async fn stop(self, within: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(within, self.tasks.wait()).await;
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let serve = serve(stream, Arc::clone(&shared), stop.clone());
                tasks.spawn(async move {
                    serve.await;
                    drop(permit);
                });
            }
            // Out of descriptors, or a connection that died in the backlog: the next may be fine.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection. When its other end closes it, the command that runs is killed.
async fn serve(stream: TcpStream, shared: Arc<Shared>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVAL)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is its own matter.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

async fn handle(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, incoming) = request.into_parts();
    if head.uri.path() != shared.path {
        return refuse(StatusCode::NOT_FOUND, "no such callback");
    }
    if head.method != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "a call is a POST");
    }
    let Ok(_permit) = shared.calls.try_acquire() else {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "64 calls run already, and that is the most",
        );
    };
    let text = |name: &str| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let body = Limited::new(incoming, MAX_PAYLOAD).collect();
    let body = match tokio::time::timeout(ARRIVAL, body).await {
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body has more than 1 MiB");
        }
        Ok(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the body ended too early"),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let call = Call {
        body,
        content_type: text("content-type").to_owned(),
        caller: text("macula-caller").to_owned(),
        timeout: period::parse(text("macula-timeout")).unwrap_or(USUAL_TIMEOUT),
    };
    let caller = printable(&call.caller);
    match shared.runner.run(call).await {
        Ok(answer) => {
            let content_type = body::content_type(&answer);
            respond(StatusCode::OK, content_type, answer.into())
        }
        Err(error) => {
            output::say(format_args!(
                "a call by {caller} failed: {}",
                output::visible(&error.to_string())
            ));
            let status = match error {
                Error::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
                Error::Io(_) | Error::Status { .. } | Error::TooLarge => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
            refuse(status, &error.to_string())
        }
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(why.as_bytes()))
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use http::HeaderName;

    use super::*;
    use crate::cli::client::{Ask, Node};
    use crate::cli::failure::Failure;

    async fn server(script: &str) -> (Server, Node, String) {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        let runner = Runner::new(command, "math.add".parse().unwrap()).unwrap();
        let server = Server::start(Arc::new(runner)).await.unwrap();
        let (origin, path) = server.url().rsplit_once('/').unwrap();
        let (node, path) = (Node::new(origin.parse().unwrap()), format!("/{path}"));
        (server, node, path)
    }

    fn post(path: &str, timeout: &'static str) -> Ask {
        let mut ask = Ask::new("call back", Method::POST, path);
        let header = |name| HeaderName::from_static(name);
        ask.headers = vec![
            (header("macula-timeout"), HeaderValue::from_static(timeout)),
            (header("macula-caller"), HeaderValue::from_static("cart")),
        ];
        ask.body = "body".into();
        ask
    }

    fn status_of(answer: Result<(Bytes, String), Failure>) -> String {
        answer.unwrap_err().because.clone()
    }

    #[tokio::test]
    async fn a_call_is_answered_with_what_the_command_wrote() {
        let (server, node, path) =
            server(r#"printf '{"%s":"%s"}' "$MACULA_CALLER" "$(cat)""#).await;
        let (answer, content_type) = node.ask(post(&path, "10s")).await.unwrap();
        assert_eq!(
            (&answer[..], content_type.as_str()),
            (&br#"{"cart":"body"}"#[..], "application/json")
        );
        drop(node);
        server.stop(Duration::from_secs(30)).await;
    }

    #[tokio::test]
    async fn a_failure_and_a_passed_deadline_are_no_answers() {
        let (_server, node, path) = server("exit 1").await;
        assert!(status_of(node.ask(post(&path, "10s")).await).contains(" answered 500 "));
        let (_server, node, path) = server("sleep 300").await;
        assert!(status_of(node.ask(post(&path, "50ms")).await).contains(" answered 504 "));
    }

    #[tokio::test]
    async fn whoever_does_not_know_the_path_runs_nothing() {
        let (_server, node, path) = server("cat").await;
        assert!(status_of(node.ask(post("/", "1s")).await).contains(" answered 404 "));
        let get = Ask::new("call back", Method::GET, path);
        assert!(status_of(node.ask(get).await).contains(" answered 405 "));
    }

    #[tokio::test]
    async fn calls_beyond_the_limit_are_refused_at_once() {
        let command = vec![OsString::from("cat")];
        let runner = Runner::new(command, "a".parse().unwrap()).unwrap();
        let calls = Semaphore::new(0);
        let shared = Arc::new(Shared { runner: Arc::new(runner), path: "/x".to_owned(), calls });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, shared, TaskTracker::new(), stop));
        let node = Node::new(url.parse().unwrap());
        assert!(status_of(node.ask(post("/x", "1s")).await).contains(" answered 503 "));
    }
}
