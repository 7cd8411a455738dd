//! The ends of the small simulation: the origin's machines, a speaker and listeners, each behind a
//! real QUIC connection.

use stentor_proto::Time;
use stentor_proto::fanout::SessionIx;
use stentor_proto::listen::{Listen, ListenAction};
use stentor_proto::node::{ControlEffect, Fanout, NodeControl, ShardEffect};
use stentor_proto::token::{Signer, private_pem};
use stentor_proto::wire::{ClientMessage, Framing, encode_control};

use super::arrivals::listener_settings;
use super::ear::{Ear, Heard, Line};
use super::model::Truth;
use super::node::Node;
use super::quic::{Brought, Peer, QuicOutcome};
use super::setup::Setup;
use super::speaker::Speaker;

/// The origin's control and its one shard.
pub(super) struct Core {
    node: Node,
    truth: Truth,
}

impl Core {
    pub(super) fn new(now: Time) -> Result<Self, String> {
        let setup = Setup { shards: 1, ..Setup::new(1) };
        let mut core =
            Self { node: Node::origin(&setup, &signer()?, now)?, truth: Truth::default() };
        core.pump(now, None);
        Ok(core)
    }

    pub(super) const fn truth(&self) -> &Truth {
        &self.truth
    }

    pub(super) fn timeout(&self) -> Time {
        self.node.control.poll_timeout().min(self.node.shards[0].machine.poll_timeout())
    }

    pub(super) fn handle_timeout(&mut self, now: Time, peer: &mut Peer) {
        if self.node.control.poll_timeout() <= now {
            self.node.control.handle_timeout(now);
        }
        let shard = &mut self.node.shards[0].machine;
        if shard.poll_timeout() <= now {
            shard.handle_timeout(now);
            while let Some(fanout) = self.node.shards[0].machine.poll_beacon(now) {
                self.fan_out(fanout, peer);
            }
        }
        self.pump(now, Some(peer));
    }

    /// Takes what a client's connection brought.
    pub(super) fn handle(&mut self, now: Time, peer: &mut Peer, conn: usize, brought: Brought) {
        let ix = session(conn);
        let shard = &mut self.node.shards[0].machine;
        match brought {
            Brought::Connected => shard.handle_open(now, ix, Framing::Quic),
            Brought::Control(bytes) => shard.handle_control(now, ix, &bytes),
            Brought::Datagram(bytes) => shard.handle_datagram(now, ix, bytes),
            Brought::Unblocked => self.catch_up(ix, peer),
            Brought::Closed => shard.handle_closed(now, ix),
        }
        self.pump(now, Some(peer));
    }

    /// Serves a session that lagged from the ring, until its connection is full again.
    fn catch_up(&mut self, ix: SessionIx, peer: &mut Peer) {
        let shard = &mut self.node.shards[0].machine;
        while let Some((number, bytes)) = shard.handle_ready(ix) {
            let conn = peer.conns.get_mut(&(ix.0 as usize));
            if !conn.is_some_and(|conn| conn.datagram(bytes)) {
                return shard.handle_unsent(ix, number);
            }
        }
    }

    /// Hands on what control and shard have to say, until they are silent.
    fn pump(&mut self, now: Time, mut peer: Option<&mut Peer>) {
        loop {
            let mut any = false;
            while let Some(tick) = self.node.control.poll_tick() {
                any = true;
                self.truth.issue(now, tick.key.number, &tick.record);
                let fanout = self.node.shards[0].machine.handle_tick(now, &tick);
                if let (Some(fanout), Some(peer)) = (fanout, peer.as_deref_mut()) {
                    self.fan_out(fanout, peer);
                }
            }
            while let Some(effect) = self.node.control.poll_effect() {
                any = true;
                if let ControlEffect::ToShard { message, .. } | ControlEffect::ToShards(message) =
                    effect
                {
                    self.node.shards[0].machine.handle_message(now, message);
                }
            }
            while let Some(effect) = self.node.shards[0].machine.poll_effect() {
                any = true;
                self.effect(now, effect, peer.as_deref_mut());
            }
            if !any {
                return;
            }
        }
    }

    fn effect(&mut self, now: Time, effect: ShardEffect, peer: Option<&mut Peer>) {
        let shard = &mut self.node.shards[0].machine;
        match (effect, peer) {
            (ShardEffect::ToControl(message), _) => {
                let NodeControl::Origin(control) = &mut self.node.control else { return };
                control.handle_message(now, message);
            }
            (ShardEffect::AwaitControl { session }, _) => {
                shard.handle_control_written(now, session);
            }
            (ShardEffect::SendControl { session, bytes }, Some(peer)) => {
                if let Some(conn) = peer.conns.get_mut(&(session.0 as usize)) {
                    conn.control(&bytes);
                }
            }
            (ShardEffect::SendDatagram { session, bytes }, Some(peer)) => {
                let conn = peer.conns.get_mut(&(session.0 as usize));
                if !conn.is_some_and(|conn| conn.datagram(bytes)) {
                    shard.handle_shed();
                }
            }
            (ShardEffect::Close { session, close }, Some(peer)) => {
                if let Some(conn) = peer.conns.get_mut(&(session.0 as usize)) {
                    conn.close(close);
                }
            }
            (_, None) => {}
        }
    }

    fn fan_out(&mut self, fanout: Fanout, peer: &mut Peer) {
        let mut full = Vec::new();
        for (list, bytes) in self.node.shards[0].machine.fanout(fanout) {
            for &ix in list {
                let conn = peer.conns.get_mut(&(ix.0 as usize));
                if !conn.is_some_and(|conn| conn.datagram(bytes.clone())) {
                    full.push(ix);
                }
            }
        }
        for ix in full {
            self.node.shards[0].machine.handle_busy(ix, fanout, fanout.number);
        }
    }
}

/// Whoever is at the other end.
pub(super) struct Client {
    /// The first one speaks.
    speaker: Option<Speaker>,
    at: usize,
    /// A listener's, once its connection is there.
    ear: Option<Ear>,
    welcomed: bool,
    /// When it connects, and then when its next frame is due.
    due: Time,
    connected: bool,
    wrong: u64,
}

impl Client {
    pub(super) fn new(at: usize, due: Time) -> Self {
        let speaker = (at == 0).then(|| Speaker::new("ada", 0));
        Self { speaker, at, ear: None, welcomed: false, due, connected: false, wrong: 0 }
    }

    pub(super) const fn is_due_to_connect(&self) -> bool {
        !self.connected
    }

    pub(super) fn timeout(&self) -> Time {
        let listen = self.ear.as_ref().and_then(|ear| ear.listen.poll_timeout());
        self.due.min(listen.unwrap_or(Time::MAX))
    }

    pub(super) fn handle_timeout(&mut self, now: Time, peer: &mut Peer) {
        if !std::mem::replace(&mut self.connected, true) {
            self.due = Time::MAX;
            return;
        }
        if self.due <= now
            && let Some(speaker) = &mut self.speaker
        {
            self.due = speaker.next(now);
            let frame = speaker.frame();
            if let (Some(bytes), Some(conn)) = (frame, peer.conns.values_mut().next()) {
                conn.datagram(bytes);
            }
        }
        if let Some(ear) = &mut self.ear
            && ear.listen.poll_timeout().is_some_and(|due| due <= now)
        {
            ear.listen.handle_timeout(now);
        }
        self.act(now, peer);
    }

    pub(super) fn handle(&mut self, now: Time, peer: &mut Peer, brought: Brought, truth: &Truth) {
        let Some(conn) = peer.conns.values_mut().next() else { return };
        match (brought, &mut self.speaker) {
            (Brought::Connected, None) => {
                let settings = listener_settings(self.at as u64, vec!["origin:1".into()]);
                self.ear = Some(Ear::new(Listen::new(settings, now), now));
            }
            (Brought::Connected, Some(speaker)) => {
                if let Some(bytes) = signer().ok().and_then(|signer| speaker.hello(&signer)) {
                    conn.control(&bytes);
                }
            }
            (Brought::Control(bytes), None) => {
                let heard = self.ear.as_mut().map(|ear| ear.control(now, CONN, &bytes));
                self.count(heard.unwrap_or_default());
            }
            (Brought::Control(bytes), Some(speaker)) => {
                if speaker.control(&bytes) {
                    self.due = now;
                }
            }
            (Brought::Datagram(bytes), None) => {
                let mut heard = Heard::default();
                if let Some(ear) = &mut self.ear
                    && let Some(home) = ear.line(CONN).map(|line| line.home)
                {
                    ear.datagram(now, home, bytes, truth, &mut heard);
                }
                self.count(heard);
            }
            (Brought::Datagram(bytes), Some(speaker)) => {
                if let Some(answer) = speaker.datagram(bytes) {
                    conn.datagram(answer);
                }
            }
            (Brought::Unblocked | Brought::Closed, _) => {}
        }
        self.act(now, peer);
    }

    /// Counts what is due to a listener, and what of it never came.
    pub(super) fn count_into(&self, outcome: &mut QuicOutcome, truth: &Truth, till: Time) {
        if self.speaker.is_some() {
            return;
        }
        outcome.joined += usize::from(self.welcomed);
        outcome.wrong += self.wrong;
        let Some(ear) = &self.ear else { return };
        outcome.repaired += ear.listen.reception().window.repaired;
        let first = ear.had.first().max(1);
        let old = |&number: &u32| truth.issued(number).is_some_and(|at| at <= till);
        for number in (first..=truth.newest()).filter(old) {
            outcome.due += 1;
            outcome.missing += u64::from(!ear.had.has(number));
        }
    }

    fn count(&mut self, heard: Heard) {
        self.welcomed |= heard.welcomed;
        self.wrong += u64::from(heard.twice + heard.altered) + u64::from(heard.broken);
    }

    /// Does what the machine asks for. There is one node, so that the first session is the only one.
    fn act(&mut self, now: Time, peer: &mut Peer) {
        while let Some(action) = self.ear.as_mut().and_then(|ear| ear.listen.poll_action()) {
            let (Some(conn), Some(ear)) = (peer.conns.values_mut().next(), &mut self.ear) else {
                return;
            };
            match action {
                ListenAction::Connect { home, hello, .. } if ear.lines.is_empty() => {
                    ear.lines.push(Line::new(home, CONN, None));
                    conn.control(&encode_control(&ClientMessage::Hello(*hello)));
                }
                ListenAction::Connect { home, .. } => ear.listen.handle_down(now, home, None),
                ListenAction::SendDatagram { bytes, .. } => {
                    conn.datagram(bytes);
                }
                ListenAction::Say { message, .. } => conn.control(&encode_control(&*message)),
                ListenAction::Ended(_) => self.wrong += 1,
                ListenAction::Leave { .. }
                | ListenAction::Moved { .. }
                | ListenAction::Waiting(_) => {}
            }
        }
    }
}

/// A client's connection.
const CONN: u32 = 0;

fn session(conn: usize) -> SessionIx {
    SessionIx(u32::try_from(conn).expect("there are 200 connections at most"))
}

fn signer() -> Result<Signer, String> {
    Signer::from_pkcs8_pem(&private_pem([1; 32]), None).map_err(|error| error.to_string())
}
