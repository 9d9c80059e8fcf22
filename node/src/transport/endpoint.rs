//! Dials and accepts: the handshake's order, and the codes with which it is refused
//! (docs/PROTOCOL.md §4).
//!
//! TLS verifies the certificate; then realm, role and id are judged; then Hello and HelloAck are
//! exchanged. Only then is a connection a [`Link`], and only then is any other stream served.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::identity::{Identity, Verdict, tls};
use macula_proto::realm::{self, Expected};
use macula_proto::wire::{self, Frame, message};
use macula_proto::{Code, Fault};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;

use super::link::{Direction, Link};
use super::{socket, stream};
use crate::identity::{Credentials, Source};
use crate::metrics::Metrics;

/// TLS and Hello together: a side that stalls is cut.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first word of the other side: what was lost is sent again after a second (RFC 9002 §6.2.2),
/// and a dead node should not cost a caller its deadline.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes under way at once; from then on a dialler must prove its address first, by a Retry
/// (RFC 9000 §8.1.2).
const HANDSHAKES_BEFORE_RETRY: usize = 64;
/// A connection on which nothing was heard for this long is dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keeps a live connection from looking dead, three times over.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Streams that one connection may open before it is judged; raised when it is.
/// quinn allocates every permitted slot (measured: 31 KiB a connection at 16, 163 at 1000).
const STREAMS_AT_CONNECT: u32 = 16;
/// What one stream may send ahead of its reader.
const STREAM_WINDOW: u32 = 1 << 20;
/// What one connection may make a node hold: the bound of what one peer can pin, each way.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest datagram that MTU discovery tries. Above 6553 with segmentation offload, ten
/// segments pass the 64 KiB of one send, and throughput collapses (measured).
const LARGEST_DATAGRAM: u16 = 6500;

/// One UDP socket that dials and listens.
#[derive(Clone, Debug)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    source: Source,
    incarnation: u64,
    metrics: Arc<Metrics>,
}

/// Why the endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on udp {address}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A handshake that has begun at our side.
#[derive(Debug)]
pub struct Incoming(quinn::Incoming);

impl Endpoint {
    /// Binds the socket. Must be called on the runtime that will drive it.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(
        address: SocketAddr,
        source: Source,
        incarnation: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Bind { address, source };
        let cid_key = rand::random();
        let runtime: Arc<dyn quinn::Runtime> = Arc::new(quinn::TokioRuntime);
        let socket = socket::bind(address).map_err(failed)?;
        let socket = runtime.wrap_udp_socket(socket).map_err(failed)?;
        let socket = Arc::new(socket::CountingSocket::new(socket, cid_key, metrics.clone()));
        let mut config = quinn::EndpointConfig::default();
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
        // Greased, a packet of ours could not be told from what is not QUIC (RFC 9287 §3).
        config.grease_quic_bit(false);
        config.max_udp_payload_size(LARGEST_DATAGRAM).expect("above the least of RFC 9000 §18.2");
        // The configuration of a server makes quinn accept at all; each handshake gets its own.
        let placeholder = server_config(&source.borrow(), Verdict::new());
        let quinn =
            quinn::Endpoint::new_with_abstract_socket(config, Some(placeholder), socket, runtime)
                .map_err(failed)?;
        Ok(Self { quinn, source, incarnation, metrics })
    }

    /// The address of the socket.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.quinn.local_addr().expect("a bound socket has an address")
    }

    /// Dials, and returns when the other side has answered Hello: only then has it judged us.
    ///
    /// # Errors
    /// `unreachable` when nothing answers; the code of a refused certificate, of the realm table or
    /// of the other side's close.
    pub async fn dial(&self, address: SocketAddr, expected: Expected) -> Result<Link, Fault> {
        let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.dial_now(address, expected))
            .await
            .unwrap_or_else(|_| {
                Err(unreachable(address, "the handshake did not end within five seconds"))
            });
        match &result {
            Ok(_) => self.metrics.connections_dialled.inc(),
            Err(fault) => self.metrics.handshakes_refused.inc(fault.code),
        }
        result
    }

    async fn dial_now(&self, address: SocketAddr, expected: Expected) -> Result<Link, Fault> {
        let me = self.source.borrow().clone();
        let verdict = Verdict::new();
        let config = client_config(&me, verdict.clone());
        let address = self.reachable(address);
        // The name is not looked at: nodes are known by their SPIFFE ID, and pinned by NodeId.
        let mut connecting = self
            .quinn
            .connect_with(config, address, "macula.invalid")
            .map_err(|error| unreachable(address, &error.to_string()))?;
        tokio::time::timeout(FIRST_WORD_TIMEOUT, connecting.handshake_data())
            .await
            .map_err(|_| unreachable(address, "no answer within two seconds"))?
            .map_err(|error| refused(&verdict, &error, address))?;
        let connection = connecting.await.map_err(|error| refused(&verdict, &error, address))?;
        let identity = outcome(&verdict, &connection)?;
        close_if_refused(&connection, realm::judge(&me.identity, &identity, expected))?;
        let (mut send, mut recv) =
            connection.open_bi().await.map_err(|error| refused(&verdict, &error, address))?;
        let hello = message::Hello { version: wire::VERSION, incarnation: self.incarnation };
        // What breaks a stream off here is how the other side refuses: the connection says why.
        let why = |fault| ended(&connection, &verdict, address, fault);
        stream::write(&mut send, &Frame::Hello(hello)).await.map_err(why)?;
        let Frame::HelloAck(ack) = stream::read_one(&mut recv).await.map_err(why)? else {
            return Err(close(&connection, Fault::new(Code::Protocol, "expected HelloAck")));
        };
        let link = Link::new(
            connection,
            Arc::new(identity),
            &me.identity,
            Direction::Dialled,
            ack.incarnation,
            (send, recv),
        );
        Ok(link)
    }

    /// The next handshake that somebody begins; `None` when the endpoint is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.quinn.accept().await?;
            let busy = self.quinn.open_connections() >= HANDSHAKES_BEFORE_RETRY
                && self.metrics.handshakes_under_way.get() >= HANDSHAKES_BEFORE_RETRY as u64;
            if busy && !incoming.remote_address_validated() && incoming.may_retry() {
                // It fails only for an incoming that may not be retried, which was just asked.
                let _ = incoming.retry();
                continue;
            }
            return Some(Incoming(incoming));
        }
    }

    /// Completes a handshake that somebody began.
    ///
    /// # Errors
    /// Why it was refused; the other side has been told, as far as it can be.
    pub async fn greet(&self, incoming: Incoming) -> Result<Link, Fault> {
        self.metrics.handshakes_under_way.inc();
        let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.greet_now(incoming)).await;
        self.metrics.handshakes_under_way.dec();
        let result = result.unwrap_or_else(|_| {
            Err(Fault::new(Code::Timeout, "the handshake was not completed within five seconds"))
        });
        match &result {
            Ok(_) => self.metrics.connections_accepted.inc(),
            Err(fault) => self.metrics.handshakes_refused.inc(fault.code),
        }
        result
    }

    async fn greet_now(&self, Incoming(incoming): Incoming) -> Result<Link, Fault> {
        let me = self.source.borrow().clone();
        let verdict = Verdict::new();
        let address = incoming.remote_address();
        let config = Arc::new(server_config(&me, verdict.clone()));
        let connection = incoming
            .accept_with(config)
            .map_err(|error| refused(&verdict, &error, address))?
            .await
            .map_err(|error| refused(&verdict, &error, address))?;
        let identity = outcome(&verdict, &connection)?;
        close_if_refused(&connection, realm::judge(&me.identity, &identity, Expected::Anyone))?;
        let (mut send, mut recv) =
            connection.accept_bi().await.map_err(|error| refused(&verdict, &error, address))?;
        let why = |fault| ended(&connection, &verdict, address, fault);
        let Frame::Hello(hello) = stream::read_one(&mut recv).await.map_err(why)? else {
            return Err(close(&connection, Fault::new(Code::Protocol, "expected Hello")));
        };
        if hello.version == 0 {
            let because = "the dialler speaks no version that this node does";
            return Err(close(&connection, Fault::new(Code::VersionMismatch, because)));
        }
        let ack = message::HelloAck {
            version: hello.version.min(wire::VERSION),
            incarnation: self.incarnation,
            observed: Some(address.into()),
        };
        stream::write(&mut send, &Frame::HelloAck(ack)).await.map_err(why)?;
        let link = Link::new(
            connection,
            Arc::new(identity),
            &me.identity,
            Direction::Accepted,
            hello.incarnation,
            (send, recv),
        );
        Ok(link)
    }

    /// Closes every connection with this code, and waits until the other sides have been told.
    pub async fn close(&self, code: Code) {
        self.quinn.close(VarInt::from_u32(code.number()), code.name().as_bytes());
        // Three times the longest probe timeout of a local network; a lost close costs an idle
        // timeout at the other side.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.quinn.wait_idle()).await;
    }

    /// A dual-stack socket dials IPv4 in its mapped form; an IPv4 socket cannot dial IPv6.
    fn reachable(&self, address: SocketAddr) -> SocketAddr {
        match (self.local_address(), address) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (SocketAddr::V4(_), SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => SocketAddr::new(v4.into(), v6.port()),
                None => address,
            },
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                address
            }
        }
    }
}

/// The unspecified address of the family that this machine has.
#[must_use]
pub fn any_address(port: u16) -> SocketAddr {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => v6,
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(LARGEST_DATAGRAM);
    transport
        .max_concurrent_bidi_streams(STREAMS_AT_CONNECT.into())
        .max_concurrent_uni_streams(STREAMS_AT_CONNECT.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("ten seconds fit a VarInt")));
    Arc::new(transport)
}

fn server_config(me: &Credentials, verdict: Verdict) -> quinn::ServerConfig {
    let tls = tls::server_config(
        &tls::Credentials::new(&me.chain, &me.key),
        me.bundle.clone(),
        me.mesh.clone(),
        wire::ALPN,
        verdict,
    )
    .expect("credentials were checked when they were loaded");
    let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 with an initial cipher suite");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    config.max_incoming(1024).incoming_buffer_size(64 << 10).incoming_buffer_size_total(8 << 20);
    // A pod's address does not change under a connection; less for an attacker to try.
    config.migration(false);
    config
}

fn client_config(me: &Credentials, verdict: Verdict) -> quinn::ClientConfig {
    let tls = tls::client_config(
        &tls::Credentials::new(&me.chain, &me.key),
        me.bundle.clone(),
        me.mesh.clone(),
        wire::ALPN,
        verdict,
    )
    .expect("credentials were checked when they were loaded");
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 with an initial cipher suite");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    config
}

/// Whom the verifier met. Without a verdict the session was resumed, and nobody was verified.
fn outcome(verdict: &Verdict, connection: &quinn::Connection) -> Result<Identity, Fault> {
    verdict.outcome().map_err(|refusal| {
        let fault = Fault::new(Code::of_refusal(&refusal), refusal.to_string());
        close(connection, fault)
    })
}

fn close_if_refused(
    connection: &quinn::Connection,
    result: Result<(), Fault>,
) -> Result<(), Fault> {
    result.map_err(|fault| close(connection, fault))
}

fn close(connection: &quinn::Connection, fault: Fault) -> Fault {
    connection.close(VarInt::from_u32(fault.code.number()), fault.because.as_bytes());
    fault
}

/// Why a stream of a handshake broke off: what ended the connection, else its own fault.
fn ended(
    connection: &quinn::Connection,
    verdict: &Verdict,
    address: SocketAddr,
    fault: Fault,
) -> Fault {
    match connection.close_reason() {
        Some(error) => refused(verdict, &error, address),
        None => close(connection, fault),
    }
}

/// Why a handshake ended: our own verdict if there is one, else what the other side said.
fn refused(verdict: &Verdict, error: &ConnectionError, address: SocketAddr) -> Fault {
    if let Some(Err(refusal)) = verdict.get() {
        return Fault::new(Code::of_refusal(&refusal), refusal.to_string());
    }
    fault_of(error, address)
}

/// What the end of a connection means.
pub(super) fn fault_of(error: &ConnectionError, address: SocketAddr) -> Fault {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = Code::from_number(close.error_code.into_inner()).unwrap_or(Code::Protocol);
            let reason = String::from_utf8_lossy(&close.reason);
            let because: String = reason.chars().filter(|c| !c.is_control()).take(256).collect();
            Fault::new(code, format!("{address} said: {because}"))
        }
        ConnectionError::ConnectionClosed(close) => alert(close.error_code, address, "refused us"),
        ConnectionError::TransportError(error) => alert(error.code, address, "was refused"),
        ConnectionError::TimedOut => unreachable(address, "nothing was heard for ten seconds"),
        ConnectionError::Reset => unreachable(address, "it does not know the connection any more"),
        ConnectionError::LocallyClosed => {
            Fault::new(Code::Draining, "this node closed the connection")
        }
        ConnectionError::VersionMismatch => {
            Fault::new(Code::VersionMismatch, format!("{address} speaks no QUIC version 1"))
        }
        ConnectionError::CidsExhausted => Fault::new(Code::Overloaded, "no connection ids left"),
    }
}

/// RFC 9001 §4.8: a TLS alert travels as transport error 0x100 + the alert's number.
fn alert(code: quinn_proto::TransportErrorCode, address: SocketAddr, what: &str) -> Fault {
    match u64::from(code) {
        error @ 0x100..0x200 => {
            let alert = u8::try_from(error - 0x100).expect("below 256");
            let name = tls::code_of_alert(alert);
            let code = Code::from_name(name).unwrap_or(Code::BadCertificate);
            Fault::new(code, format!("{address} {what} during TLS: alert {alert}"))
        }
        other => Fault::new(Code::Protocol, format!("{address} {what}: QUIC error {other:#x}")),
    }
}

fn unreachable(address: SocketAddr, because: &str) -> Fault {
    Fault::new(Code::Unreachable, format!("{address}: {because}"))
}
