//! The callback contract, with a small application at the other end.

use macula_proto::identity::NodeId;
use macula_proto::payload::Payload;
use macula_proto::{Code, Fault};

use super::*;
use crate::api::callback::{Callbacks, parse};
use crate::peer::{self, Caller, Handler};

/// An application that answers each request with these bytes; gives what it was asked.
async fn application(answer: Vec<u8>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, asked) = (answer.clone(), asked.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"ping") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let _ = asked.send(String::from_utf8_lossy(&request).into_owned());
                // The client may hang up in the middle of a long answer.
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    (address, requests)
}

fn respond(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn call(address: SocketAddr, timeout: Duration) -> Result<Payload, Fault> {
    let tasks = Tree::new(Settings::default(), CancellationToken::new()).spawner();
    let uri = format!("http://{address}/add?x=1").parse().unwrap();
    let mut payload = Payload::new("ping", "text/plain");
    payload.headers.push(("traceparent".to_owned(), "00-1-2-01".to_owned()));
    let request = peer::Request {
        procedure: "math.add".parse().unwrap(),
        payload,
        caller: Caller { id: NodeId::from_bytes([7; 20]), name: "cart".parse().unwrap() },
        timeout,
    };
    Callbacks::new(tasks).handler(uri).call(request).await
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_call_is_a_post_and_its_answer_comes_back_verbatim() {
    let answer = respond("200 OK\r\ncontent-type: image/png\r\nce-id: 9\r\nserver: x", b"\x00\xff");
    let (address, mut requests) = application(answer).await;
    let answer = call(address, SOON).await.unwrap();
    assert_eq!((&*answer.content_type, &*answer.body), ("image/png", &b"\x00\xff"[..]));
    assert_eq!(answer.headers, [("ce-id".to_owned(), "9".to_owned())]);

    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /add?x=1 HTTP/1.1\r\n"), "{request}");
    for line in [
        "content-type: text/plain".to_owned(),
        "traceparent: 00-1-2-01".to_owned(),
        "macula-procedure: math.add".to_owned(),
        format!("macula-caller: {}", "07".repeat(20)),
        "macula-caller-name: cart".to_owned(),
        "macula-timeout: 5000ms".to_owned(),
        format!("host: {address}"),
    ] {
        assert!(request.lines().any(|have| have == line), "no {line:?} in\n{request}");
    }
}

#[tokio::test]
async fn an_error_status_is_a_handler_error_with_the_beginning_of_its_text() {
    let (address, _requests) = application(respond("422 Unprocessable", b" no such item\n")).await;
    let fault = call(address, SOON).await.unwrap_err();
    assert_eq!(fault.code, Code::HandlerError);
    assert_eq!(fault.because, "the callback answered 422 Unprocessable Entity: no such item");

    let (address, _requests) = application(respond("500 Oh", &[b'x'; 5000])).await;
    let fault = call(address, SOON).await.unwrap_err();
    assert_eq!(fault.because.matches('x').count(), 1024);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (address, _requests) =
        application(respond("307 Elsewhere\r\nlocation: http://macula.io/", b"")).await;
    let fault = call(address, SOON).await.unwrap_err();
    assert_eq!(fault.code, Code::HandlerError);
    assert!(fault.because.ends_with("redirects are not followed"), "{fault}");
}

#[tokio::test]
async fn a_callback_that_is_down_is_unavailable() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(call(closed, SOON).await.unwrap_err().code, Code::HandlerUnavailable);
}

/// It may have run, so it must not be run again by another provider.
#[tokio::test]
async fn a_callback_that_breaks_off_is_interrupted() {
    let (hangs_up, mut requests) = application(Vec::new()).await;
    assert_eq!(call(hangs_up, SOON).await.unwrap_err().code, Code::Interrupted);
    requests.recv().await.unwrap();
    assert!(requests.try_recv().is_err(), "it was asked once");
    let broken = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec();
    let (breaks_off, _requests) = application(broken).await;
    assert_eq!(call(breaks_off, SOON).await.unwrap_err().code, Code::Interrupted);
}

#[tokio::test]
async fn a_callback_that_does_not_answer_in_time_is_a_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let fault = call(address, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(fault.code, Code::Timeout);
}

#[tokio::test]
async fn an_answer_is_a_mebibyte_at_most() {
    let (address, _requests) = application(respond("200 OK", &vec![0; 1 << 20])).await;
    assert_eq!(call(address, SOON).await.unwrap().body.len(), 1 << 20);
    let (address, _requests) = application(respond("200 OK", &vec![0; (1 << 20) + 1])).await;
    assert_eq!(call(address, SOON).await.unwrap_err().code, Code::TooLarge);
}

#[test]
fn a_callback_is_plain_http_on_this_machine_and_not_this_api() {
    let offer = |url: &str| {
        let body = serde_json::json!({ "callback": url }).to_string();
        parse(body.as_bytes(), 7780).map_err(|problem| problem.code())
    };
    for url in [
        "http://127.0.0.1:8080/add",
        "http://127.1.2.3/",
        "http://[::1]:8080",
        "http://localhost:8080/add?x=1",
    ] {
        assert!(offer(url).is_ok(), "{url}");
    }
    for url in [
        "https://127.0.0.1:8080/",
        "http://10.0.0.1:8080/",
        "http://macula.io/",
        "http://localhost.macula.io/",
        "http://user@127.0.0.1:8080/",
        "http://user:word@localhost/",
        "http://127.0.0.1:7780/v1/call/a",
        "http://localhost:0/",
        "unix:/run/app",
        "/add",
        "",
    ] {
        assert_eq!(offer(url), Err(Code::InvalidRequest), "{url}");
    }
    for body in [&b"{}"[..], b"", br#"{"callback":"http://localhost:1/","more":1}"#, b"\xff"] {
        assert_eq!(parse(body, 7780).unwrap_err().code(), Code::InvalidRequest);
    }
}
