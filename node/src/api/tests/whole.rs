//! What the server does around its requests: panics, clients that leave, the stop.

use macula_proto::Code;

use super::*;
use crate::metrics::{Class, Endpoint};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.expect("the condition to come true");
}

#[tokio::test]
async fn a_panic_is_that_requests_alone() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send(get("/panic")).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, &*answer.code()), (500, "internal"));
    client.send(get("/echo")).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(server.tasks.counters().get(Kind::Http).panics, 1);
}

#[tokio::test]
async fn a_foreign_host_is_refused_and_counted() {
    let server = Running::start().await;
    let answer = server.ask("GET /v1/status HTTP/1.1\r\nhost: macula.io\r\n\r\n").await;
    assert_eq!((answer.status, &*answer.code()), (403, "forbidden_host"));
    let metrics = &server.echo.metrics;
    assert_eq!(metrics.http_refused.get(Code::ForbiddenHost), 1);
    assert_eq!(metrics.http_requests.get((Endpoint::Status, Class::Client)), 1);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send(get("/never")).await;
    // Its connection, and its request.
    until(|| server.tasks.alive() == 2).await;
    drop(client);
    until(|| server.tasks.alive() == 0).await;
}

#[tokio::test]
async fn a_request_whose_body_nobody_wants_is_answered() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    for _ in 0..2 {
        client
            .send("POST /ignore HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nhi")
            .await;
        assert_eq!(client.answer().await.unwrap().body, b"ignored");
    }
}

#[tokio::test]
async fn nothing_is_taken_after_the_stop() {
    let server = Running::start().await;
    let mut idle = server.connect().await;
    idle.send(get("/echo")).await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    server.stop.cancel();
    until(|| std::net::TcpStream::connect(server.address).is_err()).await;
}
