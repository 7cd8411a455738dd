//! A listener's ear: the production machine of a listener's sessions, the connections under them,
//! and the reference model's own count of what it heard.

use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::listen::{HomeId, Listen, ListenSettings, Own};
use stentor_proto::wire::{ControlDecoder, ServerMessage};

use super::events::ConnIx;
use super::had::Had;
use super::link::Weather;
use super::model::Truth;

/// A listener's sessions and reception: its own, or those of all in a cohort.
pub(super) struct Ear {
    pub(super) listen: Listen,
    pub(super) lines: Vec<Line>,
    pub(super) had: Had,
    /// When its timer is set for.
    pub(super) armed: Option<Time>,
    /// The good and bad times of a path of its own, down and up.
    pub(super) weather: [Weather; 2],
    /// Datagrams that were sent on that path, and those of them that it lost.
    pub(super) path: (u32, u32),
    /// When the last new tick came.
    pub(super) heard: Option<Time>,
    /// When the listener set out; until its first tick has come.
    pub(super) came: Option<Time>,
    /// Since when the present session serves it.
    pub(super) since: Time,
    /// Moves that have been seen to end, and whether the last one has.
    moves: u64,
    moving: bool,
}

/// One session: its name in the machine, and the connection under it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) home: HomeId,
    pub(super) conn: ConnIx,
    /// What is said once the connection is there.
    pub(super) hello: Option<Bytes>,
    pub(super) decoder: ControlDecoder,
}

/// What an ear has to say of what arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The node let the session in.
    pub(super) welcomed: bool,
    /// Ticks passed on that had been passed on before.
    pub(super) twice: u32,
    /// Ticks passed on that are not what the origin sent.
    pub(super) altered: u32,
    /// The server breaks the protocol.
    pub(super) broken: bool,
    /// A time without new ticks has ended that was longer than any silence is.
    pub(super) gap: Option<Duration>,
    /// The time without new ticks that a move to another relay cost.
    pub(super) moved: Option<Duration>,
    /// From setting out to the first tick.
    pub(super) first: Option<Duration>,
}

/// In silence a tick comes every 100 ms.
const GAP: Duration = Duration::from_millis(200);

impl Line {
    pub(super) fn new(home: HomeId, conn: ConnIx, hello: Option<Bytes>) -> Self {
        Self { home, conn, hello, decoder: ControlDecoder::default() }
    }
}

impl Ear {
    /// Somebody who sets out.
    pub(super) fn new(listen: Listen, now: Time) -> Self {
        Self {
            listen,
            lines: Vec::new(),
            had: Had::default(),
            armed: None,
            weather: Default::default(),
            path: (0, 0),
            heard: None,
            came: Some(now),
            since: now,
            moves: 0,
            moving: false,
        }
    }

    /// Another one that has heard the same, with a session of its own.
    pub(super) fn twin(&self, settings: ListenSettings, own: Own, conn: ConnIx) -> Self {
        let listen = self.listen.twin(settings, own);
        let lines = listen.current().map(|home| Line::new(home, conn, None));
        Self {
            moves: moves(&listen),
            listen,
            lines: lines.into_iter().collect(),
            had: self.had.clone(),
            armed: None,
            ..*self
        }
    }

    /// Reads what a tick will touch: see [`super::crowd::Crowd::fetch`].
    pub(super) fn fetch(&self) -> u64 {
        let lines = self.lines.first().map_or(0, |line| line.conn);
        let listen = self.listen.newest() ^ self.had.newest() ^ lines;
        u64::from(listen) ^ self.listen.doubts_at().as_micros() ^ self.moves
    }

    pub(super) fn line(&mut self, conn: ConnIx) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.conn == conn)
    }

    /// The connection of the session that serves the listener.
    pub(super) fn conn(&self) -> Option<ConnIx> {
        let current = self.listen.current()?;
        self.lines.iter().find(|line| line.home == current).map(|line| line.conn)
    }

    /// Takes bytes of a session's control stream.
    pub(super) fn control(&mut self, now: Time, conn: ConnIx, bytes: &[u8]) -> Heard {
        let mut heard = Heard::default();
        let Some(line) = self.line(conn) else { return heard };
        let home = line.home;
        line.decoder.push(bytes);
        loop {
            let Some(line) = self.line(conn) else { return heard };
            match line.decoder.next_message() {
                Ok(Some(message)) => self.message(now, home, message, &mut heard),
                Ok(None) => return heard,
                Err(_) => {
                    heard.broken = true;
                    return heard;
                }
            }
        }
    }

    /// Takes a control message of a session.
    pub(super) fn message(
        &mut self,
        now: Time,
        home: HomeId,
        message: ServerMessage,
        heard: &mut Heard,
    ) {
        match &message {
            ServerMessage::Welcome(welcome) if welcome.room.is_some() => heard.welcomed = true,
            ServerMessage::Welcome(_)
            | ServerMessage::Refused { .. }
            | ServerMessage::Placement(_)
            | ServerMessage::Siblings(_)
            | ServerMessage::Admission(_)
            | ServerMessage::Revoked(_)
            | ServerMessage::Invitations(_) => heard.broken = true,
            _ => {}
        }
        self.listen.handle_message(now, home, message);
        self.noticed(None, heard);
    }

    /// Takes a datagram of a session.
    pub(super) fn datagram(
        &mut self,
        now: Time,
        home: HomeId,
        bytes: Bytes,
        truth: &Truth,
        heard: &mut Heard,
    ) {
        let had = &mut self.had;
        let mut fresh = false;
        self.listen.datagram(now, home, bytes, |record, _| {
            fresh = true;
            heard.twice += u32::from(!had.note(record.number));
            heard.altered += u32::from(!truth.is(record.number, &record.bytes));
        });
        if fresh {
            heard.first = heard.first.or(self.came.take().map(|came| now.since(came)));
            let gap = self.heard.replace(now).map(|heard| now.since(heard));
            heard.gap = heard.gap.max(gap.filter(|&gap| gap > GAP));
            self.noticed(gap, heard);
        } else {
            self.noticed(None, heard);
        }
    }

    /// Notes that a move has ended, once a tick has come after it.
    fn noticed(&mut self, gap: Option<Duration>, heard: &mut Heard) {
        let moves = moves(&self.listen);
        if std::mem::replace(&mut self.moves, moves) != moves {
            self.moving = true;
        }
        if let Some(gap) = gap.filter(|_| self.moving) {
            self.moving = false;
            heard.moved = Some(gap);
        }
    }

    /// Whether nothing is missing or under way.
    pub(super) fn settled(&self) -> bool {
        let newest = self.had.newest();
        newest > 0 && self.listen.newest() == newest && self.listen.is_calm()
    }
}

fn moves(listen: &Listen) -> u64 {
    let stats = listen.stats();
    stats.moved_silent + stats.moved_lost + stats.moved_asked
}
