//! A WebTransport session on a connection: quinn-proto's streams on one side, the machine of
//! [`webtransport`](crate::quic::webtransport) on the other.

use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, Side, StreamEvent, StreamId, VarInt};
use stentor_proto::limits::H3_FAREWELL;
use stentor_proto::wire::ALPN_WEBTRANSPORT;

use super::{Entry, Outbox, State, read};
use crate::quic::event::{CloseReason, ClosedBy, ConnId};
use crate::quic::webtransport::{Breach, NO_ERROR, Step, WebTransport, application_code};

/// The CONNECT stream, and the session's control stream.
const BIDI_STREAMS: u32 = 2;

/// What a WebTransport session has beside its control stream.
pub(super) struct H3 {
    machine: WebTransport,
    settings: Outgoing,
    connect: Outgoing,
}

/// What this side sends on one of the session's other streams: little, and seldom.
#[derive(Default)]
struct Outgoing {
    stream: Option<StreamId>,
    bytes: Vec<Bytes>,
    /// The stream ends behind them.
    finish: bool,
}

impl H3 {
    fn new() -> Self {
        let settings = Outgoing { bytes: vec![WebTransport::settings()], ..Outgoing::default() };
        Self { machine: WebTransport::new(), settings, connect: Outgoing::default() }
    }

    /// Bytes of the control stream without its header.
    pub(super) fn control(&mut self, bytes: Bytes) -> Result<Option<Bytes>, Breach> {
        self.machine.handle_control(bytes)
    }
}

impl Outgoing {
    /// Writes what the peer's flow control takes.
    fn write(&mut self, quic: &mut Connection) {
        let Some(id) = self.stream else { return };
        while let Some(front) = self.bytes.first_mut() {
            // A stream that the peer has stopped takes nothing more, which is what it wanted.
            let Ok(_) = quic.send_stream(id).write_chunks(std::slice::from_mut(front)) else {
                return;
            };
            if front.is_empty() {
                self.bytes.remove(0);
            }
        }
        if std::mem::take(&mut self.finish) {
            // It fails on a stream that is closed already.
            let _ = quic.send_stream(id).finish();
        }
    }
}

impl Entry {
    /// The peer's choice of protocol is known. HTTP/3 gets SETTINGS with the first flight, and a
    /// second bidirectional stream; raw QUIC has no use for unidirectional ones.
    pub(super) fn protocol_known(&mut self) {
        if self.quic.side() != Side::Server || self.h3.is_some() {
            return;
        }
        if self.alpn() == ALPN_WEBTRANSPORT {
            self.quic.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(BIDI_STREAMS));
            self.h3 = Some(Box::new(H3::new()));
            self.write_h3();
        } else {
            self.quic.set_max_concurrent_streams(Dir::Uni, VarInt::from_u32(0));
        }
    }

    /// An event of a stream that is not the session's control stream.
    pub(super) fn h3_stream(
        &mut self,
        now: Instant,
        conn: ConnId,
        event: StreamEvent,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        let Some(h3) = &self.h3 else { return Ok(()) };
        let (settings, connect) = (h3.settings.stream, h3.connect.stream);
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    self.h3_accept(now, conn, id, outbox)?;
                }
            }
            StreamEvent::Readable { id } if connect == Some(id) => {
                self.read_connect(now, conn, id, outbox)?;
            }
            StreamEvent::Readable { id } => self.read_uni(now, conn, id, outbox)?,
            StreamEvent::Writable { .. } | StreamEvent::Available { .. } => self.write_h3(),
            StreamEvent::Stopped { id, .. } if settings == Some(id) => {
                return Err(Breach::Critical);
            }
            StreamEvent::Stopped { id, .. } if connect == Some(id) => {
                self.end_by_peer(now, conn, 0, String::new(), outbox);
            }
            StreamEvent::Stopped { .. } | StreamEvent::Finished { .. } => {}
        }
        Ok(())
    }

    /// Tells an open WebTransport session why it ends, and whether there is one. The connection goes
    /// on until the peer has answered or `due` has come.
    pub(super) fn say_farewell(&mut self, now: Instant, code: u32, reason: &str) -> bool {
        let Some(h3) = self.h3.as_mut().filter(|_| self.state == State::Open) else {
            return false;
        };
        h3.connect.bytes.push(WebTransport::farewell(code, reason));
        h3.connect.finish = true;
        h3.connect.write(&mut self.quic);
        self.due = Some(now + H3_FAREWELL);
        true
    }

    /// Whether the caller has been told of the end, and the peer is still being told.
    pub(in crate::quic) fn lingers(&self) -> bool {
        self.state == State::Closed && !self.quic.is_closed()
    }

    /// Ends the connection of a session that is over.
    pub(in crate::quic) fn end(&mut self, now: Instant) {
        self.quic.close(now, wide(NO_ERROR), Bytes::new());
    }

    /// Closes the connection of a peer that breaks HTTP/3.
    pub(super) fn breach(
        &mut self,
        now: Instant,
        conn: ConnId,
        breach: Breach,
        outbox: &mut Outbox,
    ) {
        outbox.stats.breaches[breach.index()] += 1;
        let text = breach.name();
        self.quic.close(now, wide(breach.code()), Bytes::from_static(text.as_bytes()));
        let code = Some(breach.code());
        self.closed(conn, CloseReason { code, text: text.to_owned(), by: ClosedBy::Local }, outbox);
    }

    /// The code on the wire of one of the application's: HTTP/3 has codes of its own below.
    pub(super) fn wire_code(&self, code: u32) -> VarInt {
        match self.h3 {
            Some(_) => wide(application_code(code)),
            None => VarInt::from_u32(code),
        }
    }

    fn h3_accept(
        &mut self,
        now: Instant,
        conn: ConnId,
        id: StreamId,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        let Some(h3) = &mut self.h3 else { return Ok(()) };
        match id.dir() {
            Dir::Uni => self.read_uni(now, conn, id, outbox),
            Dir::Bi if h3.connect.stream.is_none() => {
                h3.connect.stream = Some(id);
                self.read_connect(now, conn, id, outbox)
            }
            Dir::Bi if self.control.is_none() => self.accept_control(conn, id, outbox),
            Dir::Bi => {
                self.refuse_stream(id, outbox);
                Ok(())
            }
        }
    }

    fn read_uni(
        &mut self,
        now: Instant,
        conn: ConnId,
        id: StreamId,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        let Some(h3) = &mut self.h3 else { return Ok(()) };
        let (machine, mut steps) = (&mut h3.machine, Vec::new());
        let finished = read(&mut self.quic, id, |bytes| {
            if !matches!(steps.last(), Some(Step::Refuse)) {
                steps.push(machine.handle_uni(id.into(), &bytes)?);
            }
            Ok(())
        })?;
        if finished {
            machine.handle_uni_finished(id.into())?;
        }
        self.act(now, conn, id, steps, outbox)
    }

    fn read_connect(
        &mut self,
        now: Instant,
        conn: ConnId,
        id: StreamId,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        let Some(h3) = &mut self.h3 else { return Ok(()) };
        let (machine, mut steps) = (&mut h3.machine, Vec::new());
        let finished = read(&mut self.quic, id, |bytes| {
            steps.push(machine.handle_connect(&bytes)?);
            Ok(())
        })?;
        if finished {
            steps.push(machine.handle_connect_finished()?);
        }
        self.act(now, conn, id, steps, outbox)
    }

    /// Does what the machine says about bytes of stream `id`.
    fn act(
        &mut self,
        now: Instant,
        conn: ConnId,
        id: StreamId,
        steps: Vec<Step>,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        for step in steps {
            match step {
                Step::Nothing => {}
                Step::Refuse => self.refuse_stream(id, outbox),
                Step::Answer { accepted, bytes } => {
                    let Some(h3) = &mut self.h3 else { return Ok(()) };
                    h3.connect.bytes.push(bytes);
                    h3.connect.finish = !accepted;
                    h3.connect.write(&mut self.quic);
                    outbox.stats.webtransport_not_found += u64::from(!accepted);
                    if accepted && self.state == State::Handshaking {
                        self.open(conn, outbox);
                        self.read_control(conn, outbox)?;
                    }
                }
                Step::Ended { code, reason } => {
                    self.end_by_peer(now, conn, code, reason, outbox);
                }
            }
        }
        Ok(())
    }

    /// The peer has ended the session, or has answered the farewell.
    fn end_by_peer(
        &mut self,
        now: Instant,
        conn: ConnId,
        code: u32,
        text: String,
        outbox: &mut Outbox,
    ) {
        if self.lingers() {
            // A browser that has answered has not handed the reason to its page yet; a connection that
            // ends under it takes the reason along. It ends the connection itself, or `due` does.
            return;
        }
        let reason = CloseReason { code: Some(code.into()), text, by: ClosedBy::Peer };
        self.closed(conn, reason, outbox);
        self.end(now);
    }

    fn write_h3(&mut self) {
        let Some(h3) = &mut self.h3 else { return };
        if h3.settings.stream.is_none() {
            h3.settings.stream = self.quic.streams().open(Dir::Uni);
        }
        h3.settings.write(&mut self.quic);
        h3.connect.write(&mut self.quic);
    }
}

fn wide(code: u64) -> VarInt {
    VarInt::from_u64(code).expect("an error code of HTTP/3 has 48 bits")
}
