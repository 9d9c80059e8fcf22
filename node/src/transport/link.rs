//! A connection whose other end is known, judged and greeted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use macula_proto::identity::{Identity, NodeId};
use macula_proto::{Code, Fault};
use quinn::{RecvStream, SendStream, VarInt};

use super::endpoint;
use super::stream::{FlowReader, FlowWriter, RequestStream};

/// Requests that a judged connection may have under way; more wait at the sender.
const REQUESTS: u32 = 256;

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This node.
    Dialled,
    /// The other.
    Accepted,
}

/// A connection to a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: quinn::Connection,
    identity: Arc<Identity>,
    /// Until when both certificates hold, in seconds since 1970: the earlier, and the later.
    valid_until: (u64, u64),
    /// Until when the certificate holds that this end has shown.
    own_until: u64,
    dialled_by: NodeId,
    direction: Direction,
    incarnation: u64,
    born: Instant,
    /// Milliseconds after `born` when the other end was last heard, and when it was last used.
    heard_ms: AtomicU64,
    used_ms: AtomicU64,
    /// Requests and flows under way.
    busy: Arc<AtomicUsize>,
    /// Why this end closed it, if it did: quinn says only that it was here.
    closed_with: OnceLock<Code>,
    /// Kept open for as long as the connection lives.
    _control: tokio::sync::Mutex<(SendStream, RecvStream)>,
}

impl Link {
    pub(super) fn new(
        connection: quinn::Connection,
        identity: Arc<Identity>,
        me: &Identity,
        direction: Direction,
        incarnation: u64,
        control: (SendStream, RecvStream),
    ) -> Self {
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(REQUESTS));
        let ends = (me.not_after, identity.not_after);
        Self(Arc::new(Inner {
            valid_until: (ends.0.min(ends.1), ends.0.max(ends.1)),
            own_until: me.not_after,
            dialled_by: match direction {
                Direction::Dialled => me.id,
                Direction::Accepted => identity.id,
            },
            connection,
            identity,
            direction,
            incarnation,
            born: Instant::now(),
            heard_ms: AtomicU64::new(0),
            used_ms: AtomicU64::new(0),
            busy: Arc::default(),
            closed_with: OnceLock::new(),
            _control: tokio::sync::Mutex::new(control),
        }))
    }

    /// The node at the other end, from its certificate.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    /// Where the other end is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let address = self.0.connection.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Who dialled.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.0.direction
    }

    /// When the other end started, in milliseconds since 1970.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// When the first of both certificates ends, in seconds since 1970.
    #[must_use]
    pub fn valid_until(&self) -> u64 {
        self.0.valid_until.0
    }

    /// When the certificate ends that this end has shown, in seconds since 1970.
    #[must_use]
    pub(crate) fn own_until(&self) -> u64 {
        self.0.own_until
    }

    /// The smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// Whether this is the same connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Which of two connections to one node stays. Both ends decide alike: the one to the later
    /// incarnation; of the certificates that end later, so that a renewal replaces; dialled by the
    /// lower id; at last the newer.
    #[must_use]
    pub fn is_better_than(&self, other: &Self) -> bool {
        let rank = |link: &Self| {
            let Inner { incarnation, valid_until, dialled_by, .. } = &*link.0;
            (*incarnation, *valid_until, std::cmp::Reverse(*dialled_by))
        };
        rank(self) >= rank(other)
    }

    /// Notes that the other end said something.
    pub(crate) fn on_heard(&self) {
        let ms = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.heard_ms.store(ms, Ordering::Relaxed);
        self.0.used_ms.store(ms, Ordering::Relaxed);
    }

    /// Notes that it is in use.
    pub(crate) fn on_used(&self) {
        let ms = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.used_ms.store(ms, Ordering::Relaxed);
    }

    /// How long ago the other end was heard.
    pub(crate) fn silent_for(&self) -> Duration {
        let heard = Duration::from_millis(self.0.heard_ms.load(Ordering::Relaxed));
        self.0.born.elapsed().saturating_sub(heard)
    }

    /// How long ago it was in use.
    pub(crate) fn unused_for(&self) -> Duration {
        let used = Duration::from_millis(self.0.used_ms.load(Ordering::Relaxed));
        self.0.born.elapsed().saturating_sub(used)
    }

    /// How many requests and flows are under way.
    pub(crate) fn busy(&self) -> Arc<AtomicUsize> {
        self.0.busy.clone()
    }

    /// Opens a request; waits while the other end allows no more.
    pub(crate) async fn open_request(&self) -> Result<RequestStream, Fault> {
        let (send, recv) = self.0.connection.open_bi().await.map_err(|error| self.fault(&error))?;
        Ok(RequestStream::new(send, recv))
    }

    /// The next request of the other end.
    pub(crate) async fn accept_request(&self) -> Result<RequestStream, Fault> {
        let accepted = self.0.connection.accept_bi().await;
        let (send, recv) = accepted.map_err(|error| self.fault(&error))?;
        Ok(RequestStream::new(send, recv))
    }

    /// Opens a flow.
    pub(crate) async fn open_flow(&self) -> Result<FlowWriter, Fault> {
        let send = self.0.connection.open_uni().await.map_err(|error| self.fault(&error))?;
        Ok(FlowWriter::new(send))
    }

    /// The next flow of the other end.
    pub(crate) async fn accept_flow(&self) -> Result<FlowReader, Fault> {
        let recv = self.0.connection.accept_uni().await.map_err(|error| self.fault(&error))?;
        Ok(FlowReader::new(recv))
    }

    /// Closes with a code and a reason; the first counts.
    pub fn close(&self, code: Code, because: &str) {
        self.0.closed_with.get_or_init(|| code);
        self.0.connection.close(VarInt::from_u32(code.number()), because.as_bytes());
    }

    /// Waits for the end, and says why it came.
    pub async fn closed(&self) -> Fault {
        let error = self.0.connection.closed().await;
        self.fault(&error)
    }

    fn fault(&self, error: &quinn::ConnectionError) -> Fault {
        if let (quinn::ConnectionError::LocallyClosed, Some(code)) =
            (error, self.0.closed_with.get())
        {
            return Fault::new(*code, "this node closed the connection");
        }
        endpoint::fault_of(error, self.address())
    }
}
