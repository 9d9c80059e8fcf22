//! What is too much, too slow or not HTTP, beside its accepted neighbour.

use super::*;
use crate::api::limits::{BODY, HEAD_BYTES, HEADERS};

const OK: &str = "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nhi";

fn post(length: usize) -> String {
    format!("POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n")
}

fn chunk(length: usize) -> Vec<u8> {
    [format!("{length:x}\r\n").into_bytes(), vec![b'x'; length], b"\r\n".to_vec()].concat()
}

#[tokio::test]
async fn answers_one_request_after_the_other() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.send(OK).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hi"[..]));
    }
    client.send([OK, OK].concat()).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn takes_a_body_of_a_mebibyte_and_no_byte_more() {
    let server = Running::start().await;
    let body = vec![b'x'; BODY];
    let answer = server.ask([post(BODY).into_bytes(), body].concat()).await;
    assert_eq!((answer.status, answer.body.len()), (200, BODY));

    // Refused before a byte of it has come.
    let answer = server.ask(post(BODY + 1)).await;
    assert_eq!((answer.status, &*answer.code()), (413, "too_large"));
    assert!(answer.head.contains("connection: close\r\n"));
}

#[tokio::test]
async fn a_client_that_sends_its_two_megabytes_anyway_reads_the_refusal() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send(post(2 << 20)).await;
    // The server may close before all of it is written.
    let _ = client.stream.write_all(&vec![b'x'; 2 << 20]).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.code(), "too_large");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn counts_a_chunked_body_too() {
    let server = Running::start().await;
    let head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let end = b"0\r\n\r\n".to_vec();
    let most = [head.to_vec(), chunk(BODY / 2), chunk(BODY / 2), end.clone()].concat();
    assert_eq!(server.ask(most).await.body.len(), BODY);
    let more = [head.to_vec(), chunk(BODY / 2), chunk(BODY / 2), chunk(1), end].concat();
    assert_eq!(server.ask(more).await.code(), "too_large");
}

#[tokio::test]
async fn bounds_the_bytes_of_the_headers() {
    let server = Running::start().await;
    let request = |length: usize| {
        let rest = "GET /echo HTTP/1.1\r\nhost: localhost\r\nx: \r\n\r\n".len();
        let value = "x".repeat(length - rest);
        format!("GET /echo HTTP/1.1\r\nhost: localhost\r\nx: {value}\r\n\r\n")
    };
    assert_eq!(server.ask(request(HEAD_BYTES)).await.status, 200);
    let answer = server.ask(request(HEAD_BYTES + 1)).await;
    assert_eq!((answer.status, &*answer.code()), (431, "headers_too_large"));
    let endless = format!("GET /{} HTTP/1.1\r\nhost: localhost", "x".repeat(1 << 20));
    assert_eq!(server.ask(endless).await.code(), "headers_too_large");
}

#[tokio::test]
async fn bounds_the_number_of_headers() {
    let server = Running::start().await;
    let request = |headers: usize| {
        let others: String = (1..headers).map(|n| format!("x-{n}: y\r\n")).collect();
        format!("GET /echo HTTP/1.1\r\nhost: localhost\r\n{others}\r\n")
    };
    assert_eq!(server.ask(request(HEADERS)).await.status, 200);
    assert_eq!(server.ask(request(HEADERS + 1)).await.code(), "headers_too_large");
}

#[tokio::test]
async fn what_is_not_http_is_an_invalid_request() {
    let server = Running::start().await;
    for bytes in [
        "GARBAGE\r\n\r\n",
        "GET /echo HTTP/9.9\r\n\r\n",
        "GET /echo HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        "GET /echo HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = server.ask(bytes).await;
        assert_eq!((answer.status, &*answer.code()), (400, "invalid_request"), "{bytes:?}");
    }
}

/// RFC 9112 §6.1 lets a server go by the chunks alone when it closes the connection, so that nothing
/// can follow. hyper does, and hides the other length.
#[tokio::test]
async fn a_body_with_two_lengths_is_the_last_of_its_connection() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    let head =
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\ntransfer-encoding: chunked";
    client.send(format!("{head}\r\n\r\n2\r\nhi\r\n0\r\n\r\n{OK}")).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hi"[..]));
    assert!(answer.head.contains("connection: close\r\n"));
    assert!(client.answer().await.is_none());
}

#[tokio::test]
async fn a_second_request_that_is_not_http_is_refused_by_name_after_the_first_is_answered() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send([OK, "GARBAGE\r\n\r\n"].concat()).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(client.answer().await.unwrap().code(), "invalid_request");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_answer_that_looks_like_a_bare_refusal_is_passed_on() {
    let server = Running::start().await;
    let body = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(4000);
    let answer = server.ask([post(body.len()), body.clone()].concat()).await;
    assert_eq!((answer.status, answer.body), (200, body.into_bytes()));
}

#[tokio::test]
async fn a_head_that_does_not_end_in_time_is_a_slow_client() {
    let server = Running::start().await;
    for beginning in ["", "GET /echo HTTP/1.1\r\nhost: loc"] {
        let answer = server.ask(beginning).await;
        assert_eq!((answer.status, &*answer.code()), (408, "slow_client"), "{beginning:?}");
    }
    // A byte now and then does not help.
    let mut client = server.connect().await;
    for byte in OK.bytes().take(8) {
        if client.stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(TIMES.head / 5).await;
    }
    assert_eq!(client.answer().await.unwrap().code(), "slow_client");
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_a_slow_client() {
    let server = Running::start().await;
    let answer = server.ask(post(5) + "hi").await;
    assert_eq!((answer.status, &*answer.code()), (408, "slow_client"));
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send(OK).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    tokio::time::sleep(TIMES.head + TIMES.head / 2).await;
    client.send(OK).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert!(client.answer().await.is_none());
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_incomplete() {
    let server = Running::start().await;
    for (head, body) in [
        (post(5), "hi"),
        (
            "POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned(),
            "2\r\nhi\r\n",
        ),
    ] {
        let mut client = server.connect().await;
        client.send(head + body).await;
        client.half_close().await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, &*answer.code()), (400, "incomplete_body"));
    }
}

#[tokio::test]
async fn a_head_that_breaks_off_is_an_invalid_request() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send("GET /echo HTTP/1.1\r\nhost").await;
    client.half_close().await;
    assert_eq!(client.answer().await.unwrap().code(), "invalid_request");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status, 100);
    client.send("hi").await;
    assert_eq!(client.answer().await.unwrap().body, b"hi");
}

#[tokio::test]
async fn one_connection_more_than_the_limit_is_told_so() {
    let server = Running::with_connections(2).await;
    let mut open = [server.connect().await, server.connect().await];
    for client in &mut open {
        client.send(OK).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let answer = server.ask(OK).await;
    assert_eq!((answer.status, &*answer.code()), (503, "too_many_connections"));
    assert!(answer.head.contains("retry-after: 1\r\n"));
    assert_eq!(server.echo.metrics.http_connections.get(), 2);

    drop(open);
    while server.echo.metrics.http_connections.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.ask(OK).await.status, 200);
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_cut_off() {
    let server = Running::start().await;
    let mut client = server.connect().await;
    client.send("GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let cut = async {
        while server.echo.metrics.http_requests.total() == 0
            || server.echo.metrics.http_connections.get() > 0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), cut).await.expect("the connection to be cut off");
}
