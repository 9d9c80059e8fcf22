//! `macula-node serve`: each call of a procedure runs a command, or goes to a callback.

mod runner;
mod server;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Uri};
use macula_proto::Code;
use macula_proto::name::ProcedureName;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::client::{Ask, Node};
use super::exit::Exit;
use super::failure::{Failure, Stop};
use super::output;
use runner::Runner;
use server::Server;

/// What `serve` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node serve math.add -- examples/add.sh
  macula-node serve text.upper -- tr a-z A-Z
  macula-node serve cart.add --callback http://127.0.0.1:8080/cart

For each call the command gets the body on standard input and MACULA_PROCEDURE, MACULA_CALLER and
CONTENT_TYPE in its environment. Its standard output is the answer; an exit code other than 0 is
an error, with the last of its standard error for the caller. It is killed, with what it started,
when the caller's deadline passes. At most 64 run at once; more are refused.
The procedure is offered again when the node was restarted, and withdrawn on Ctrl-C or SIGTERM.")]
pub(crate) struct Serve {
    /// The procedure, such as math.add
    procedure: ProcedureName,
    /// An application's own loopback address, instead of a command
    #[arg(long, value_name = "URL", required_unless_present = "command", conflicts_with = "command",
        value_parser = callback)]
    callback: Option<String>,
    /// The command that answers each call
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn callback(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("http") if loopback => Ok(text.to_owned()),
        Some("http") => {
            Err("the application must be on this machine: 127.0.0.1 or [::1]".to_owned())
        }
        Some(_) | None => Err("it is written http://127.0.0.1:PORT/PATH".to_owned()),
    }
}

/// Offers the procedure until a signal comes.
pub(crate) async fn run(args: Serve, node: &Node) -> Result<Exit, Stop> {
    let Serve { procedure, callback, command } = args;
    let tried = format!("serve `{procedure}`");
    // From here on a signal is not the end of the process, but of the offer.
    let mut signals = Signals::new()
        .map_err(|error| Failure::new(Code::Internal, &tried, format!("signals: {error}")))?;
    let (callback, server) = match callback {
        Some(url) => (url, None),
        None => {
            let runner = Runner::new(command, procedure.clone()).map_err(|why| {
                Failure::new(Code::InvalidRequest, &tried, why).with_next(
                    "Write the command after `--`, as in `serve math.add -- examples/add.sh`.",
                )
            })?;
            let server = Server::start(Arc::new(runner)).await.map_err(|error| {
                Failure::new(Code::Internal, &tried, format!("listen on loopback: {error}"))
                    .with_next("See whether 127.0.0.1 has a free port.")
            })?;
            (server.url().to_owned(), Some(server))
        }
    };
    let offer = Offer { node: node.clone(), procedure, callback, tried };
    let served = async {
        offer.make().await?;
        output::say(format_args!("serving {} (Ctrl-C ends)", offer.procedure));
        offer.keep().await
    };
    tokio::select! {
        ended = served => match ended {
            Ok(never) => match never {},
            Err(failure) => return Err(failure),
        },
        () = signals.next() => {}
    }
    offer.withdraw().await;
    if let Some(server) = server {
        // The calls that run may end; whoever does not want to wait asks again.
        tokio::select! {
            () = server.stop(DRAIN) => {}
            () = signals.next() => {}
        }
    }
    Ok(Exit::Ok)
}

/// How long running calls may take once the offer is withdrawn.
const DRAIN: Duration = Duration::from_secs(5);
/// How often we look whether the node still knows of the offer.
const LOOK: Duration = Duration::from_secs(3);
/// The longest pause between attempts to offer it again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the node may take to withdraw.
const WITHDRAW: Duration = Duration::from_secs(3);

/// Never made: [`Offer::keep`] ends with a failure or not at all.
#[derive(Debug)]
enum Never {}

/// The procedure as the node is to offer it.
#[derive(Clone, Debug)]
struct Offer {
    node: Node,
    procedure: ProcedureName,
    callback: String,
    tried: String,
}

impl Offer {
    fn path(&self) -> String {
        format!("/v1/advertise/{}", self.procedure)
    }

    async fn put(&self) -> Result<(), Failure> {
        let mut ask = Ask::new(self.tried.clone(), Method::PUT, self.path());
        ask.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        ask.body = json!({ "callback": self.callback }).to_string().into();
        self.node.ask(ask).await.map(drop)
    }

    /// Offers it for the first time; waits while the node starts.
    async fn make(&self) -> Result<(), Failure> {
        let mut pause = Duration::from_millis(250);
        loop {
            match self.put().await {
                Err(failure) if failure.code == Code::Starting.name() => {
                    output::say("the node is starting; waiting for it");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOOK);
                }
                done => return done,
            }
        }
    }

    /// Offers it again whenever the node has forgotten it.
    async fn keep(&self) -> Result<Never, Stop> {
        let mut pause = LOOK;
        loop {
            tokio::time::sleep(pause).await;
            let healthy = pause == LOOK;
            match self.look().await {
                Ok(Look::Offered) => pause = LOOK,
                Ok(Look::OfferedAgain) => {
                    output::say(format_args!("serving {} again", self.procedure));
                    pause = LOOK;
                }
                Err(failure) if failure.exit == Exit::Refused || failure.exit == Exit::Usage => {
                    return Err(failure.into());
                }
                Err(failure) => {
                    if healthy {
                        output::say(format_args!("{}; trying again", failure.because));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// One look, and one attempt when it is needed.
    async fn look(&self) -> Result<Look, Failure> {
        let status = self.node.status().await?;
        if status.advertisements.iter().any(|name| name == self.procedure.as_str()) {
            return Ok(Look::Offered);
        }
        self.put().await?;
        Ok(Look::OfferedAgain)
    }

    async fn withdraw(&self) {
        let mut ask = Ask::new(self.tried.clone(), Method::DELETE, self.path());
        ask.within = WITHDRAW;
        match self.node.ask(ask).await {
            Ok(_) => output::say(format_args!("{} is withdrawn", self.procedure)),
            Err(failure) => output::say(format_args!(
                "{} could not be withdrawn: {}",
                self.procedure, failure.because
            )),
        }
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// The node offers it.
    Offered,
    /// The node had forgotten it.
    OfferedAgain,
}

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering_each, response};
    use super::super::status::tests::serving;
    use super::*;

    fn offer(node: Node) -> Offer {
        let (procedure, callback) = ("math.add".parse().unwrap(), "http://127.0.0.1:1/".to_owned());
        Offer { node, procedure, callback, tried: "serve `math.add`".to_owned() }
    }

    fn status(procedures: &[&str]) -> String {
        let body = serde_json::to_string(&serving(procedures)).unwrap();
        response("200 OK", "application/json", &body)
    }

    fn no_content() -> String {
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
    }

    #[tokio::test]
    async fn offers_its_callback_and_withdraws_it() {
        let (node, server) = answering_each(vec![no_content(), no_content()]).await;
        let offer = offer(node);
        offer.make().await.unwrap();
        offer.withdraw().await;
        let requests = server.await.unwrap();
        assert!(requests[0].starts_with("PUT /v1/advertise/math.add HTTP/1.1\r\n"));
        assert!(requests[0].ends_with("\r\n\r\n{\"callback\":\"http://127.0.0.1:1/\"}"));
        assert!(requests[1].starts_with("DELETE /v1/advertise/math.add HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn offers_it_again_to_a_node_that_has_forgotten_it() {
        let answers = vec![status(&["math.add"]), status(&["other"]), no_content()];
        let (node, server) = answering_each(answers).await;
        let offer = offer(node);
        assert_eq!(offer.look().await, Ok(Look::Offered));
        assert_eq!(offer.look().await, Ok(Look::OfferedAgain));
        assert!(server.await.unwrap()[2].starts_with("PUT "));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_node_that_starts() {
        let starting = r#"{"code":"starting","detail":"no seed yet"}"#;
        let starting = response("503 Service Unavailable", "application/problem+json", starting);
        let (node, server) = answering_each(vec![starting, no_content()]).await;
        offer(node).make().await.unwrap();
        assert_eq!(server.await.unwrap().len(), 2);
    }

    #[test]
    fn a_callback_is_on_this_machine() {
        for url in ["http://127.0.0.1:8080/cart", "http://[::1]:1", "http://localhost:1/"] {
            assert_eq!(callback(url).as_deref(), Ok(url));
        }
        for url in ["https://127.0.0.1:1/", "http://10.0.0.1/", "127.0.0.1:1", "", "http://a.b/"] {
            assert!(callback(url).is_err(), "{url}");
        }
    }
}
