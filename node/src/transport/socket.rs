//! The UDP socket, with large buffers, and a count of the datagrams that are none of ours.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator};
use socket2::{Domain, Protocol, Socket, Type};

use crate::metrics::{DatagramDrop as Dropped, Metrics};

/// What is asked of the kernel for each direction; less loses datagrams in a burst of handshakes
/// (measured: half the rate at the kernel's default).
const BUFFER: usize = 4 << 20;
/// QUIC version 1 (RFC 9000 §15).
const VERSION_1: u32 = 1;

/// Binds a socket. An IPv6 wildcard takes IPv4 as well.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A kernel that refuses gives what it has; whether that is enough is said below.
    let asked = socket.set_recv_buffer_size(BUFFER).and(socket.set_send_buffer_size(BUFFER));
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    let given = socket.recv_buffer_size()?;
    if asked.is_err() || given < BUFFER {
        tracing::debug!(
            asked = BUFFER,
            given,
            "the kernel gives small UDP buffers; raise net.core.rmem_max and wmem_max",
        );
    }
    Ok(socket.into())
}

/// Counts what quinn drops silently: datagrams that are not QUIC, of another version, or for a
/// connection that this endpoint never had.
#[derive(Debug)]
pub(super) struct CountingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// The key by which the endpoint signs its connection ids.
    cid_key: u64,
    metrics: Arc<Metrics>,
}

impl CountingSocket {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, cid_key: u64, metrics: Arc<Metrics>) -> Self {
        Self { inner, cid_key, metrics }
    }

    /// Why quinn will drop this datagram, if that can be told from its header (RFC 8999).
    fn flaw(&self, datagram: &[u8]) -> Option<Dropped> {
        let first = *datagram.first()?;
        let cids = HashedConnectionIdGenerator::from_key(self.cid_key);
        if first & 0x80 != 0 {
            let version = datagram.get(1..5).map(|v| u32::from_be_bytes([v[0], v[1], v[2], v[3]]));
            return match version {
                None => Some(Dropped::NotQuic),
                Some(VERSION_1) if first & 0x40 == 0 => Some(Dropped::NotQuic),
                Some(VERSION_1 | 0) => None,
                Some(_) => Some(Dropped::UnknownVersion),
            };
        }
        if first & 0x40 == 0 {
            return Some(Dropped::NotQuic);
        }
        match datagram.get(1..=cids.cid_len()) {
            None => Some(Dropped::NotQuic),
            Some(cid) if cids.validate(&ConnectionId::new(cid)).is_err() => {
                Some(Dropped::UnknownConnection)
            }
            Some(_) => None,
        }
    }
}

impl AsyncUdpSocket for CountingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(meta.iter()).take(received) {
            for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                if let Some(flaw) = self.flaw(datagram) {
                    self.metrics.datagrams_dropped.inc(flaw);
                }
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
