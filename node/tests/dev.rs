//! A whole mesh in this process, as `macula-node dev` makes it: two peers that find each other.

#![allow(clippy::unwrap_used, reason = "in a test's helpers too it is the test that fails")]

use std::time::Duration;

use macula_node::dev::{Mesh, Options};
use macula_node::peer::{Delivery, Peer, Request};
use macula_node::{Code, Fault, Payload};

const PATIENCE: Duration = Duration::from_secs(10);

async fn mesh() -> Mesh {
    let free = "127.0.0.1:0".parse().unwrap();
    let join_file = tempfile::tempdir().unwrap().keep().join("join.json");
    let options = Options { apis: [free, free], join_file: Some(join_file), ..Options::default() };
    Mesh::start(options).await.unwrap()
}

async fn echo(request: Request) -> Result<Payload, Fault> {
    Ok(request.payload)
}

async fn next(subscription: &mut macula_node::peer::Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap().unwrap()
}

fn body(delivery: Delivery) -> String {
    match delivery {
        Delivery::Message(message) => String::from_utf8(message.payload.body.to_vec()).unwrap(),
        Delivery::Gap { missed } => panic!("{missed} messages were lost"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_and_a_call_cross_from_one_peer_to_the_other() {
    let mesh = mesh().await;
    let [one, two] = mesh.peers();
    let mut subscription = two.subscribe("sensor.**".parse().unwrap()).await.unwrap();
    let count = one.publish("sensor.temp".parse().unwrap(), Payload::bytes("21.5")).await.unwrap();
    assert_eq!(count, 1);
    assert_eq!(body(next(&mut subscription).await), "21.5");

    let _serving = two.advertise("echo".parse().unwrap(), echo).await.unwrap();
    let answer = one.call("echo".parse().unwrap(), Payload::bytes("hi"), PATIENCE).await.unwrap();
    assert_eq!(answer.body, "hi");
    assert!(one.metrics().connections_dialled.get() > 0, "over QUIC");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_no_error_and_nobody_serving_is() {
    let mesh = mesh().await;
    let [one, _] = mesh.peers();
    let count = one.publish("no.body".parse().unwrap(), Payload::bytes("x")).await.unwrap();
    assert_eq!(count, 0);
    let none = one.call("no.such".parse().unwrap(), Payload::bytes("x"), PATIENCE).await;
    assert_eq!(none.unwrap_err().code, Code::NoProvider);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_hears_its_own_messages_and_calls_itself() {
    let mesh = mesh().await;
    let [one, _] = mesh.peers();
    let mut subscription = one.subscribe("a.*".parse().unwrap()).await.unwrap();
    let count = one.publish("a.b".parse().unwrap(), Payload::bytes("self")).await.unwrap();
    assert_eq!((count, body(next(&mut subscription).await)), (1, "self".to_owned()));
    let _serving = one.advertise("echo".parse().unwrap(), echo).await.unwrap();
    let answer = one.call("echo".parse().unwrap(), Payload::bytes("hi"), PATIENCE).await.unwrap();
    assert_eq!(answer.body, "hi");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_joins_by_the_join_file() {
    let mesh = mesh().await;
    let [one, _] = mesh.peers();
    let joined = Peer::join(mesh.join_file()).await.unwrap();
    let mut subscription = joined.subscribe("**".parse().unwrap()).await.unwrap();
    one.publish("to.the.newcomer".parse().unwrap(), Payload::bytes("welcome")).await.unwrap();
    assert_eq!(body(next(&mut subscription).await), "welcome");
    joined.leave().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_panic_is_that_calls_error_and_nothing_elses() {
    let mesh = mesh().await;
    let [one, two] = mesh.peers();
    let handler = |request: Request| async move {
        assert_ne!(request.payload.body, "panic", "as asked");
        Ok(request.payload)
    };
    let _serving = two.advertise("fragile".parse().unwrap(), handler).await.unwrap();
    let call =
        |body: &'static str| one.call("fragile".parse().unwrap(), Payload::bytes(body), PATIENCE);
    assert_eq!(call("panic").await.unwrap_err().code, Code::HandlerError);
    assert_eq!(call("fine").await.unwrap().body, "fine");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_call() {
    let mesh = mesh().await;
    let [one, two] = mesh.peers();
    let never = |_| std::future::pending::<Result<Payload, Fault>>();
    let _serving = two.advertise("never".parse().unwrap(), never).await.unwrap();
    let timeout = Duration::from_millis(200);
    let late = one.call("never".parse().unwrap(), Payload::bytes("x"), timeout).await;
    assert_eq!(late.unwrap_err().code, Code::Timeout);
    mesh.stop().await;
}
