//! Deaths under traffic: a task of every kind panics in a node of this process, while real processes
//! around it publish and call; and a process whose budget is exhausted says so and ends.

#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]
#![cfg(feature = "failpoints")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use macula_config::Config;
use macula_node::peer::{Delivery, Peer, Request};
use macula_node::supervise::{FAILPOINTS, Kind, Strategy, arm};
use macula_node::{Fault, Node, Payload};
use support::{Answer, Mesh, PATIENCE, Place, Role, eventually, metric, paced};

const REALM: &str = "com.example.shop";

/// The node in this process: the only one whose tasks the failpoints reach.
async fn victim(place: &Place) -> Node {
    let text = fs::read_to_string(&place.config).unwrap();
    // A name that never resolves keeps discovery at work.
    let text = text.replace("seeds: [", "seeds: [\"nowhere.invalid\", ");
    let text = format!("{text}discovery: {{ every: 1s, server: \"127.0.0.1:9\" }}\n");
    let config = Config::from_yaml(&text, "victim.yaml").unwrap();
    let config = config.relative_to(place.config.parent().unwrap());
    macula_node::run::start(&config).await.unwrap()
}

/// What went through the victim, by way.
#[derive(Debug, Default)]
struct Traffic {
    stop: AtomicBool,
    messages: AtomicU64,
    messages_over_http: AtomicU64,
    calls: AtomicU64,
    calls_of_the_callback: AtomicU64,
    own_calls: AtomicU64,
}

impl Traffic {
    fn counts(&self) -> [u64; 5] {
        let Self { stop: _, messages, messages_over_http, calls, calls_of_the_callback, own_calls } =
            self;
        [messages, messages_over_http, calls, calls_of_the_callback, own_calls]
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Does this over and over, and counts its successes.
    fn keep(
        self: &Arc<Self>,
        count: fn(&Self) -> &AtomicU64,
        mut work: impl FnMut() -> bool + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let traffic = self.clone();
        thread::spawn(move || {
            paced(&traffic.stop, || {
                if work() {
                    count(&traffic).fetch_add(1, Ordering::Relaxed);
                }
            });
        })
    }
}

/// One event of a subscription over HTTP, opening a new stream when the one before has ended.
fn next_event(at: SocketAddr, open: &mut Option<BufReader<TcpStream>>) -> Option<()> {
    if open.is_none() {
        let mut stream = TcpStream::connect(at).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let head = format!("GET /v1/subscribe?topic=tick.** HTTP/1.1\r\nHost: {at}\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        *open = Some(BufReader::new(stream));
    }
    let mut line = String::new();
    let read = open.as_mut()?.read_line(&mut line);
    if !matches!(read, Ok(count) if count > 0) {
        *open = None;
    }
    line.starts_with("event: message").then_some(())
}

async fn echo(request: Request) -> Result<Payload, Fault> {
    Ok(request.payload)
}

async fn call(peer: &Peer) -> bool {
    let procedure = "echo.over.http".parse().unwrap();
    let answer = peer.call(procedure, Payload::bytes("x"), Duration::from_secs(2)).await;
    answer.is_ok()
}

#[test]
fn a_task_of_every_kind_panics_under_traffic_and_the_traffic_recovers() {
    // What the node of this process logs is shown when the test fails.
    tracing_subscriber::fmt().with_test_writer().init();
    let mesh = Mesh::new(1);
    let mut bootstrap = mesh.start("boot-0", Role::Bootstrap);
    bootstrap.ready();
    let (_gateway, other) = (mesh.start("gate-0", Role::Gateway), mesh.peer("shop.one", REALM));
    let place = mesh.place("shop.victim", Role::Peer(REALM));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut node = runtime.block_on(victim(&place));
    let peer = node.peer().clone();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, peer.ready()).await.unwrap().unwrap() });

    // To the victim: messages to its library and to its HTTP API, calls of a handler and of a
    // callback. From it: calls. All of it as long as the test runs.
    let traffic = Arc::<Traffic>::default();
    let mut subscription = runtime.block_on(peer.subscribe("tick.**".parse().unwrap())).unwrap();
    let heard = traffic.clone();
    runtime.spawn(async move {
        while let Some(delivery) = subscription.next().await {
            if matches!(delivery, Delivery::Message(_)) {
                heard.messages.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let _echo = runtime.block_on(peer.advertise("echo.in.process".parse().unwrap(), echo)).unwrap();
    let callback = other.start(&["serve", "echo.of.other", "--", "cat"]);
    let victims = support::start(&["serve", "echo.over.http", "--url", &place.url(), "--", "cat"]);
    let [_callback, _victims] = [callback, victims].map(|mut serve| {
        serve.until_it_says("serving");
        serve
    });
    let (from, to) = (other.place.api, place.api);
    let posts = |path: &'static str| {
        let succeeds = |answer: Answer| (200..300).contains(&answer.status);
        move || Answer::post(from, path, b"x").is_some_and(succeeds)
    };
    let publish = posts("/v1/publish/tick.tock");
    let mut stream = None;
    let publishing = {
        // What counts is what arrives.
        let stop = traffic.clone();
        thread::spawn(move || {
            paced(&stop.stop, || {
                publish();
            });
        })
    };
    let own = {
        let (handle, peer) = (runtime.handle().clone(), peer);
        move || handle.block_on(call(&peer))
    };
    let workers = [
        publishing,
        traffic.keep(|it| &it.messages_over_http, move || next_event(to, &mut stream).is_some()),
        traffic.keep(|it| &it.calls, posts("/v1/call/echo.in.process")),
        traffic.keep(|it| &it.calls_of_the_callback, posts("/v1/call/echo.over.http")),
        traffic.keep(|it| &it.own_calls, own),
    ];
    let flows = |after: [u64; 5]| {
        let now = traffic.counts();
        now.iter().zip(after).all(|(now, before)| *now >= before + 5).then_some(())
    };
    let recovers = |what: &str| {
        let before = traffic.counts();
        let since = std::time::Instant::now();
        eventually(&format!("traffic of each way {what}; {before:?} before"), || flows(before));
        eprintln!("traffic {what}: within {:?}", since.elapsed());
    };
    recovers("begins");

    // Of the disk, which only infrastructure has, tests/disk.rs tells.
    for &kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Disk) {
        let counter = |name: &str| {
            let name = format!("macula_tasks_{name}_total{{kind=\"{kind}\"}}");
            // The admin listener may be what has died: ask until it answers.
            eventually("metrics", || {
                Answer::try_get(place.admin, "/healthz/live")?;
                Some(metric(place.admin, &name))
            })
        };
        let before = (counter("panicked"), counter("restarted"));
        arm(kind, 1);
        eventually(&format!("a panic of a {kind} task is counted"), || {
            // The API's listener turns with each new connection.
            Answer::try_get(place.api, "/healthz/live");
            (counter("panicked") == before.0 + 1).then_some(())
        });
        recovers(&format!("after the death of a {kind} task"));
        let restarts = u64::from(kind.on_death() != Strategy::Ignore);
        assert_eq!(counter("panicked"), before.0 + 1, "{kind}");
        let restarted = (counter("restarted"), counter("failed"));
        assert_eq!(restarted, (before.1 + restarts, 0), "{kind}: restarts, and deaths by error");
    }

    // What was asked for before the deaths is still there, and counted once.
    let status = Answer::get(place.api, "/v1/status").json();
    let names = |key: &str| {
        let mut names: Vec<_> =
            status[key].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(names("advertisements"), "echo.in.process echo.over.http");
    assert!(names("subscriptions").contains("tick.**"), "{status}");
    traffic.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    runtime.block_on(async {
        let early = tokio::time::timeout(Duration::ZERO, node.ended()).await;
        assert!(early.is_err(), "the node gave up: {early:?}");
        node.stop().await.unwrap();
    });
}

#[test]
fn a_node_whose_task_keeps_dying_ends_with_a_code_and_says_which() {
    let mesh = Mesh::new(1);
    let mut bootstrap = mesh.start("boot-0", Role::Bootstrap);
    bootstrap.ready();
    for (kind, name) in [(Kind::Mesh, "shop.one"), (Kind::Renewal, "shop.two")] {
        let environment = [(FAILPOINTS, &*format!("{kind}=100"))];
        let dying = mesh.place(name, Role::Peer(REALM)).start(&environment);
        let outcome = dying.process.outcome(Duration::from_secs(5)).exits(1);
        let panic = format!("failpoint {kind}");
        let death = format!("({kind}) died, death 6 within 60s");
        outcome.says(&["the node gave up", &panic, &death]);
    }
}

#[test]
fn a_failpoint_of_no_kind_is_refused() {
    let mesh = Mesh::new(1);
    let place = mesh.place("boot-0", Role::Bootstrap);
    let node = place.start(&[(FAILPOINTS, "mash=1")]);
    node.process.outcome(PATIENCE).exits(2).says(&[FAILPOINTS, "mash=1"]);
}
