//! Those who have come are served: what sockets and the HTTP door bring, and what follows from it.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use anyhow::Result;
use stentor_client::audio::FirstSound;
use stentor_proto::Time;
use stentor_proto::wire::{Close, CloseCode, Record, ServerMessage, frames};
use stentor_relay::quic::{CloseReason, ConnId, Event};

use super::desk::{News, Way};
use super::door::{Answered, GoTo, HttpDoor};
use super::visit::UNANSWERED;
use super::{Storm, Visit};

/// Packets read from one socket in one turn.
const PACKETS_PER_TURN: usize = 1_024;

impl Storm {
    /// One turn of everything; whether anything was done.
    pub(super) fn turn(&mut self) -> Result<bool> {
        let mut busy = false;
        for at in 0..self.desks.len() {
            let now = Instant::now();
            self.desks[at].driver.handle_timeouts(now);
            let received = self.desks[at].driver.receive(now, PACKETS_PER_TURN)?;
            busy |= received.packets > 0;
            self.events(at, now);
            let time = self.time_at(now);
            while let Some(ix) = self.desks[at].next_due(time) {
                self.act(at, now, ix);
            }
            self.desks[at].driver.flush(now);
            self.events(at, now);
        }
        self.answers();
        self.departures();
        Ok(busy)
    }

    fn answers(&mut self) {
        while let Some((visit, answered)) = self.door.as_ref().and_then(HttpDoor::answer) {
            let time = self.now();
            let Some((_, ticket)) = self.asking.get_mut(&visit) else { continue };
            let record = &mut self.visits[visit];
            match answered {
                Answered::GoTo(GoTo { token, relays, ticket }) => {
                    record.connected = true;
                    self.asking.remove(&visit);
                    let entries = relays.into_iter().map(|relay| relay.address).collect();
                    self.enter(visit, entries, Some(token), ticket, None);
                }
                Answered::Wait { retry_ms, place, ticket: next } => {
                    *ticket = next;
                    let spread =
                        Duration::from_millis(retry_ms / 16).min(Duration::from_millis(250));
                    let retry =
                        Duration::from_millis(retry_ms) + spread.mul_f64(self.chance.part());
                    waits(record, time, place, retry);
                    self.asks.push(Reverse((time + retry, visit)));
                }
                Answered::Refused(code) => {
                    record.connected = true;
                    record.refused = Some(code);
                    self.asking.remove(&visit);
                }
                Answered::Silent => {
                    record.refused = Some(UNANSWERED.into());
                    self.asking.remove(&visit);
                }
            }
        }
        let time = self.now();
        while self.asks.peek().is_some_and(|Reverse((at, _))| *at <= time) {
            if let Some(Reverse((_, visit))) = self.asks.pop() {
                self.ask(visit);
            }
        }
    }

    /// Those leave who have stayed for as long as they wanted.
    fn departures(&mut self) {
        let (now, time) = (Instant::now(), self.now());
        while let Some(&Reverse((at, desk, ix, visit))) = self.leaves.peek() {
            if at > time {
                return;
            }
            self.leaves.pop();
            if self.desks[desk].guest(ix).is_some_and(|guest| guest.visit == visit) {
                self.desks[desk].dismiss(now, ix);
                self.visits[visit].left = Some(time);
                self.inside -= 1;
                if let Some(hearing) = &mut self.hearing {
                    hearing.leaves(visit);
                }
            }
        }
    }

    fn events(&mut self, at: usize, now: Instant) {
        while let Some(event) = self.desks[at].driver.poll_event() {
            match event {
                Event::Connected { conn, .. } => {
                    if let Some(visit) = self.desks[at].connected(conn) {
                        self.visits[visit].connected = true;
                    }
                }
                Event::Control { conn, bytes } => self.control(at, now, conn, &bytes),
                Event::Datagram { conn, bytes, received_ns } => {
                    self.datagram(at, now, conn, bytes, received_ns);
                }
                Event::Closed { conn, reason } => self.closed(at, now, conn, &reason),
                Event::ControlFinished { .. }
                | Event::ControlWritten { .. }
                | Event::Unblocked { .. }
                | Event::Foreign { .. } => {}
            }
        }
    }

    fn control(&mut self, at: usize, now: Instant, conn: ConnId, bytes: &[u8]) {
        let time = self.time_at(now);
        let Some((ix, home, guest)) = self.desks[at].owner(conn) else { return };
        for message in guest.messages(home, bytes) {
            guest.answered |= matches!(message, ServerMessage::Closing { .. });
            guest.redirects += u32::from(matches!(message, ServerMessage::Redirect { .. }));
            guest.listen.handle_message(time, home, message);
        }
        self.act(at, now, ix);
    }

    fn datagram(
        &mut self,
        at: usize,
        now: Instant,
        conn: ConnId,
        bytes: bytes::Bytes,
        received_ns: u64,
    ) {
        let time = self.time_at(now);
        let Some((ix, home, guest)) = self.desks[at].owner(conn) else { return };
        let number = guest.visit;
        let visit = &mut self.visits[number];
        let (sound, silent) = (&mut self.sound, visit.sound.is_none());
        let hearing = &mut self.hearing;
        guest.listen.datagram(time, home, bytes, |record, replay| {
            if let Some(hearing) = hearing {
                hearing.note(number, time, received_ns, (&record, replay));
            }
            if visit.sound.is_none() && plays(sound, &record) {
                visit.sound = Some(time);
            }
        });
        // Nobody leaves before having heard anything.
        if let Some(dwell) = self.plan.dwell.filter(|_| silent && visit.sound.is_some()) {
            let stays = dwell.mul_f64(self.chance.exponential());
            self.leaves.push(Reverse((time + stays, at, ix, number)));
        }
        self.act(at, now, ix);
    }

    fn closed(&mut self, at: usize, now: Instant, conn: ConnId, reason: &CloseReason) {
        let time = self.time_at(now);
        let Some((ix, home, guest)) = self.desks[at].owner(conn) else { return };
        let code = reason.code.and_then(CloseCode::from_code);
        guest.answered |= code.is_some();
        let close = code.map(|code| Close::new(code, reason.text.clone()));
        guest.listen.handle_down(time, home, close);
        self.desks[at].forget(conn);
        self.act(at, now, ix);
    }

    /// Does what a guest's machine asks for, and notes what has become of the guest.
    pub(super) fn act(&mut self, at: usize, now: Instant, ix: usize) {
        let time = self.time_at(now);
        let way = Way { client: &self.client, host: &self.plan.host };
        let news = self.desks[at].act(now, time, ix, &way);
        let Some(guest) = self.desks[at].guest(ix) else { return };
        let record = &mut self.visits[guest.visit];
        record.redirects = guest.redirects;
        record.moved = guest.moved.or(record.moved);
        let outside = record.joined.is_none();
        if outside && let Some(address) = guest.address() {
            self.opening -= usize::from(record.waits == 0 || record.http);
            record.joined = Some((time, address));
            self.inside += 1;
        }
        match news {
            None => {}
            Some(News::Waits(place)) => {
                let first = record.waits == 0;
                self.opening -= usize::from(first && !record.http);
                waits(record, time, place.place, place.retry);
            }
            Some(News::Ended(close)) => {
                let answered = guest.answered;
                self.ended(at, now, ix, close, answered);
            }
        }
    }

    /// A guest is outside for good.
    fn ended(&mut self, at: usize, now: Instant, ix: usize, close: Close, answered: bool) {
        let time = self.time_at(now);
        let Some(guest) = self.desks[at].dismiss(now, ix) else { return };
        if let Some(hearing) = &mut self.hearing {
            hearing.leaves(guest.visit);
        }
        let record = &mut self.visits[guest.visit];
        record.left = Some(time);
        if record.joined.is_some() {
            self.inside -= 1;
        } else {
            self.opening -= usize::from(record.waits == 0 || record.http);
        }
        let why = if answered { close.code.name() } else { UNANSWERED };
        record.refused = Some(why.to_owned());
    }
}

/// Somebody is told to wait.
fn waits(record: &mut Visit, time: Time, place: u64, retry: Duration) {
    if record.told.is_none() {
        (record.told, record.place) = (Some(time), place);
    }
    record.connected = true;
    record.waits += 1;
    record.due = time + retry;
}

/// Whether a tick can be decoded: one with speech by its first frame, one of silence as it is.
fn plays(sound: &mut FirstSound, record: &Record) -> bool {
    match frames(&record.payload) {
        Ok(frames) => frames.first().is_none_or(|frame| sound.hears(&frame.speech.opus)),
        Err(_) => record.flags.is_heartbeat(),
    }
}
