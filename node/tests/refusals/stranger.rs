//! The other side: bare quinn with whatever credentials a test forges. It obeys the protocol in all
//! else, and tells what it heard.

use std::net::SocketAddr;
use std::sync::Arc;

use macula_identity::tls::{Credentials, client_config, code_of_alert, server_config};
use macula_identity::{Authority, Verdict};
use macula_node::Code;
use macula_proto::wire::{ALPN, Frame, FrameDecoder, VERSION, message};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};

use super::world::{LOOPBACK, scope};

/// What became of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// Hello and HelloAck were exchanged.
    Welcome,
    /// TLS ended with an alert, which stands for this code.
    Alert(&'static str),
    /// The connection was closed with this code.
    Close(Code),
    /// Neither.
    Other(ConnectionError),
}

/// A connection of a stranger; open for as long as this is held.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) heard: Heard,
    _open: Option<(Connection, SendStream, RecvStream)>,
}

/// Listens on a port of its own.
pub(crate) struct Stranger(quinn::Endpoint);

impl Stranger {
    /// One that presents these, to one dialler.
    pub(crate) fn presenting(authority: &Authority, credentials: &Credentials) -> Self {
        let bundle = Arc::new(authority.bundle());
        let tls = server_config(credentials, bundle, scope(), ALPN, Verdict::new()).unwrap();
        Self::with(tls)
    }

    pub(crate) fn with(tls: rustls::ServerConfig) -> Self {
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        Self(quinn::Endpoint::server(config, LOOPBACK).unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Answers the next that dials.
    pub(crate) async fn listen(&self) -> Met {
        let greet = async {
            let connection = self.0.accept().await.unwrap().await?;
            let (send, recv) = connection.accept_bi().await?;
            Ok((connection, send, recv))
        };
        let ack = message::HelloAck { version: VERSION, incarnation: 1, observed: None };
        match greet.await {
            Err(error) => Met { heard: heard(error), _open: None },
            Ok((connection, mut send, mut recv)) => match read(&mut recv).await {
                Some(Frame::Hello(_)) => {
                    send.write_chunk(Frame::HelloAck(ack).to_bytes().unwrap()).await.unwrap();
                    Met { heard: Heard::Welcome, _open: Some((connection, send, recv)) }
                }
                _ => Met { heard: heard(connection.closed().await), _open: None },
            },
        }
    }
}

/// Dials with these credentials.
pub(crate) async fn dial(
    authority: &Authority,
    credentials: &Credentials,
    address: SocketAddr,
) -> Met {
    let bundle = Arc::new(authority.bundle());
    let tls = client_config(credentials, bundle, scope(), ALPN, Verdict::new()).unwrap();
    dial_with(tls, address).await
}

pub(crate) async fn dial_with(tls: rustls::ClientConfig, address: SocketAddr) -> Met {
    let endpoint = quinn::Endpoint::client(LOOPBACK).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let open = async {
        let connection = endpoint.connect_with(config, address, "macula.invalid").unwrap().await?;
        let (send, recv) = connection.open_bi().await?;
        Ok((connection, send, recv))
    };
    let hello = message::Hello { version: VERSION, incarnation: 1 };
    match open.await {
        Err(error) => Met { heard: heard(error), _open: None },
        Ok((connection, mut send, mut recv)) => {
            // A client of TLS 1.3 believes itself connected before the server has judged it, so
            // this may still fail; the reading tells.
            let _ = send.write_chunk(Frame::Hello(hello).to_bytes().unwrap()).await;
            match read(&mut recv).await {
                Some(Frame::HelloAck(_)) => {
                    Met { heard: Heard::Welcome, _open: Some((connection, send, recv)) }
                }
                _ => Met { heard: heard(connection.closed().await), _open: None },
            }
        }
    }
}

/// The first frame; none when the stream ends before.
async fn read(recv: &mut RecvStream) -> Option<Frame> {
    let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
    while frames.is_empty() {
        let chunk = recv.read_chunk(4096, true).await.ok()??;
        decoder.feed(chunk.bytes, &mut frames).unwrap();
    }
    frames.pop()
}

fn heard(error: ConnectionError) -> Heard {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            Heard::Close(Code::from_number(close.error_code.into_inner()).unwrap())
        }
        // RFC 9001 §4.8: an alert travels as 0x100 + its number.
        ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            error @ 0x100..0x200 => {
                Heard::Alert(code_of_alert(u8::try_from(error - 0x100).unwrap()))
            }
            _ => Heard::Other(ConnectionError::ConnectionClosed(close)),
        },
        other => Heard::Other(other),
    }
}
