//! The three kinds of stream, as frames.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use macula_proto::wire::{Frame, FrameDecoder, message};
use macula_proto::{Code, Fault};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

/// How long a request may take to arrive whole, once its stream is open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Chunks that are taken from a flow at once.
const CHUNKS: usize = 32;

/// Writes one frame.
pub(super) async fn write(send: &mut SendStream, frame: &Frame) -> Result<(), Fault> {
    send.write_chunk(frame.to_bytes()?).await.map_err(|error| on_write(&error))
}

/// Reads exactly one frame; what follows it stays in the stream or is an error.
pub(super) async fn read_one(recv: &mut RecvStream) -> Result<Frame, Fault> {
    let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
    loop {
        let chunk = recv.read_chunk(64 << 10, true).await.map_err(|error| on_read(&error))?;
        let Some(chunk) = chunk else {
            return Err(Fault::new(Code::Interrupted, "the stream ended before its frame"));
        };
        decoder.feed(chunk.bytes, &mut frames)?;
        match frames.pop() {
            Some(frame) if frames.is_empty() && decoder.is_between_frames() => return Ok(frame),
            Some(_) => return Err(Fault::new(Code::Protocol, "more than one frame")),
            None => {}
        }
    }
}

/// A request and its response.
#[derive(Debug)]
pub(crate) struct RequestStream {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
}

impl RequestStream {
    pub(super) fn new(send: SendStream, recv: RecvStream) -> Self {
        Self { send, recv, finished: false }
    }

    /// Sends the request. Dropping the stream before the response resets it, which cancels.
    pub(crate) async fn ask(
        &mut self,
        body: message::request::Body,
    ) -> Result<message::response::Body, Fault> {
        let request = Frame::Request(message::Request { body: Some(body) });
        write(&mut self.send, &request).await?;
        // Fails only when it was reset, which the read below says better.
        let _ = self.send.finish();
        match read_one(&mut self.recv).await? {
            Frame::Response(message::Response { body: Some(body) }) => {
                self.finished = true;
                Ok(body)
            }
            Frame::Response(message::Response { body: None }) => {
                Err(Fault::new(Code::Protocol, "a response of an unknown kind"))
            }
            _ => Err(Fault::new(Code::Protocol, "expected a response")),
        }
    }

    /// Reads the request.
    pub(crate) async fn request(&mut self) -> Result<message::Request, Fault> {
        let read = tokio::time::timeout(REQUEST_TIMEOUT, read_one(&mut self.recv)).await;
        match read.unwrap_or_else(|_| Err(Fault::new(Code::Timeout, "the request stalled")))? {
            Frame::Request(request) => Ok(request),
            _ => Err(Fault::new(Code::Protocol, "expected a request")),
        }
    }

    /// Sends the response.
    pub(crate) async fn respond(&mut self, body: message::response::Body) -> Result<(), Fault> {
        let response = Frame::Response(message::Response { body: Some(body) });
        write(&mut self.send, &response).await?;
        self.finished = self.send.finish().is_ok();
        Ok(())
    }

    /// Waits until the asker gives up.
    pub(crate) async fn cancelled(&mut self) {
        // Without a code it is the end of the connection, which is as good as cancelled.
        let _ = self.send.stopped().await;
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.finished {
            let code = VarInt::from_u32(Code::Cancelled.number());
            // Both fail only on streams that have ended, which is what is wanted.
            let _ = self.send.reset(code);
            let _ = self.recv.stop(code);
        }
    }
}

/// The sending end of a flow.
#[derive(Debug)]
pub(crate) struct FlowWriter(SendStream);

impl FlowWriter {
    pub(super) fn new(send: SendStream) -> Self {
        Self(send)
    }

    /// Writes a batch of encoded frames; waits while the receiver's window is full.
    pub(crate) async fn write(&mut self, batch: &mut BytesMut) -> Result<(), Fault> {
        self.0.write_chunk(batch.split().freeze()).await.map_err(|error| on_write(&error))
    }

    /// Ends the flow, and waits until the receiver has everything.
    pub(crate) async fn finish(mut self) -> Result<(), Fault> {
        if self.0.finish().is_ok() {
            self.0
                .stopped()
                .await
                .map_err(|error| Fault::new(Code::Interrupted, error.to_string()))?;
        }
        Ok(())
    }
}

/// The receiving end of a flow.
#[derive(Debug)]
pub(crate) struct FlowReader {
    recv: RecvStream,
    decoder: FrameDecoder,
    chunks: Vec<Bytes>,
}

impl FlowReader {
    pub(super) fn new(recv: RecvStream) -> Self {
        Self { recv, decoder: FrameDecoder::default(), chunks: vec![Bytes::new(); CHUNKS] }
    }

    /// The frames that have arrived, at least one; `None` at the end of the flow.
    pub(crate) async fn read(&mut self) -> Result<Option<Vec<Frame>>, Fault> {
        let mut frames = Vec::new();
        while frames.is_empty() {
            let read = self.recv.read_chunks(&mut self.chunks).await;
            let Some(count) = read.map_err(|error| on_read(&error))? else { return Ok(None) };
            for chunk in &mut self.chunks[..count] {
                self.decoder.feed(std::mem::take(chunk), &mut frames)?;
            }
        }
        Ok(Some(frames))
    }

    /// Refuses the rest of the flow.
    pub(crate) fn refuse(mut self, code: Code) {
        // Fails only when the flow has ended by itself.
        let _ = self.recv.stop(VarInt::from_u32(code.number()));
    }
}

fn on_write(error: &WriteError) -> Fault {
    match error {
        WriteError::Stopped(code) => {
            let code = Code::from_number(code.into_inner()).unwrap_or(Code::Interrupted);
            Fault::new(code, "the other side stopped the stream")
        }
        WriteError::ConnectionLost(error) => Fault::new(Code::Interrupted, error.to_string()),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            Fault::new(Code::Interrupted, "the stream is closed")
        }
    }
}

fn on_read(error: &ReadError) -> Fault {
    match error {
        ReadError::Reset(code) => {
            let code = Code::from_number(code.into_inner()).unwrap_or(Code::Interrupted);
            Fault::new(code, "the other side reset the stream")
        }
        ReadError::ConnectionLost(error) => Fault::new(Code::Interrupted, error.to_string()),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            Fault::new(Code::Interrupted, "the stream is closed")
        }
    }
}
