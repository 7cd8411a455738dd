//! Connections: who is at their ends, what goes over them, and how they end.

use std::collections::BTreeMap;
use std::time::Duration;

use stentor_proto::fanout::SessionIx;
use stentor_proto::node::LinkId;
use stentor_proto::wire::{Close, CloseCode, ControlDecoder, ServerMessage};
use stentor_proto::{Time, limits};

use super::chance::mix;
use super::events::{ConnIx, End, Event, NodeIx, Packet, What};
use super::link::{Line, Link, Passage};
use super::node::{Condition, Hop, Seat};
use super::setup::{Planted, Setup};
use super::world::World;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    Uplink(NodeIx, LinkId),
    Listener(u32),
    Speaker(usize),
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conn {
    pub(super) opener: Opener,
    /// Who is asked for.
    pub(super) node: NodeIx,
    /// Which of its lives accepted it.
    life: u32,
    pub(super) session: Option<(u16, SessionIx)>,
    /// Whether each end still has it open: the opener's, the accepter's.
    pub(super) open: [bool; 2],
    /// When the last bytes of the stream arrive at each end: a stream keeps its order.
    order: [Time; 2],
    /// Whether a child wants the room of it: it may have given it back before the answer came.
    wanted: bool,
    /// The opener's address has changed, and the accepter does not know: what it sends goes astray.
    pub(super) stale: bool,
}

/// All connections, and the links between nodes.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) conns: Vec<Conn>,
    pub(super) links: BTreeMap<(NodeIx, NodeIx), Link>,
    /// What streams hold back while their link is cut.
    stalled: Vec<Packet>,
    backbone: Line,
    seed: u64,
}

impl Wires {
    pub(super) fn new(setup: &Setup) -> Self {
        let (backbone, seed) = (setup.backbone, setup.seed);
        Self { conns: Vec::new(), links: BTreeMap::new(), stalled: Vec::new(), backbone, seed }
    }

    /// The link from one node to another; its delay, from a quarter of the most on, is the same in
    /// both directions.
    pub(super) fn link(&mut self, from: NodeIx, to: NodeIx) -> &mut Link {
        let (backbone, seed) = (self.backbone, self.seed);
        self.links.entry((from, to)).or_insert_with(|| {
            let pair = mix(seed, mix(from.min(to) as u64, from.max(to) as u64));
            let far = 0.25 + 0.75 * super::chance::share(pair);
            let line = Line { delay: backbone.delay.mul_f64(far), ..backbone };
            Link::new(line, mix(pair, u64::from(from < to)))
        })
    }
}

/// Tell messages of a child from others without reading all of them.
const SUBSCRIBE: &[u8] = b"{\"type\":\"subscribe\"";
const UNSUBSCRIBE: &[u8] = b"{\"type\":\"unsubscribe\"";

impl World {
    pub(super) fn connect(&mut self, node: NodeIx, opener: Opener) -> ConnIx {
        let conn = ConnIx::try_from(self.wires.conns.len()).expect("connections count in 32 bits");
        let (life, order) = (self.nodes[node].life, [Time::ZERO; 2]);
        let open = [true, true];
        self.wires.conns.push(Conn {
            opener,
            node,
            life,
            session: None,
            open,
            order,
            wanted: false,
            stale: false,
        });
        self.send(conn, End::Opener, What::Open);
        conn
    }

    /// Sends from one end to the other.
    pub(super) fn send(&mut self, conn: ConnIx, from: End, what: What) {
        let connection = self.wires.conns[conn as usize];
        if !connection.open[from as usize] {
            return;
        }
        let to = from.other();
        let astray = from == End::Accepter && connection.stale;
        if matches!(what, What::Datagram(_)) {
            if astray {
                return;
            }
            if let Passage::Arrives(at) = self.datagram_passes(conn, from, what.size()) {
                self.events.push(at, Event::Arrive(Packet { conn, to, what }));
            }
            return;
        }
        match self.stream_passes(conn, from, what.size()) {
            _ if astray && matches!(what, What::Closed(_)) => self.watch_idle(conn),
            _ if astray => self.wires.stalled.push(Packet { conn, to, what }),
            Some(at) => {
                let order = &mut self.wires.conns[conn as usize].order[to as usize];
                *order = at.max(*order);
                self.events.push(*order, Event::Arrive(Packet { conn, to, what }));
            }
            // Nobody sends a close again: the other end learns it from silence.
            None if matches!(what, What::Closed(_)) => self.watch_idle(conn),
            None => self.wires.stalled.push(Packet { conn, to, what }),
        }
    }

    /// One end closes; the other is told.
    pub(super) fn close(&mut self, conn: ConnIx, by: End, close: Close) {
        self.send(conn, by, What::Closed(Box::new(close)));
        self.ended(conn, by, None);
    }

    /// A packet arrives.
    pub(super) fn arrive(&mut self, packet: Packet) {
        let connection = self.wires.conns[packet.conn as usize];
        let process = match (packet.to, connection.opener) {
            (End::Accepter, _) => Some(connection.node),
            (End::Opener, Opener::Uplink(node, _)) => Some(node),
            (End::Opener, _) => None,
        };
        if let Some(node) = process {
            match self.nodes[node].condition {
                Condition::Dead => return,
                Condition::Stopped => return self.nodes[node].keep(packet),
                Condition::Running => {}
            }
        }
        if !connection.open[packet.to as usize] {
            return self.reset(packet.conn, packet.to);
        }
        if packet.to == End::Accepter && connection.stale {
            self.found_again(packet.conn);
        }
        match (packet.to, packet.what) {
            (to, What::Closed(close)) => self.ended(packet.conn, to, Some(*close)),
            (End::Accepter, what) => self.accepter_takes(packet.conn, connection, what),
            (End::Opener, what) => self.opener_takes(packet.conn, connection, what),
        }
    }

    /// A packet from a listener's new address: its relay answers there from here on, and what the
    /// stream held back is sent again.
    fn found_again(&mut self, conn: ConnIx) {
        self.wires.conns[conn as usize].stale = false;
        let (ours, others): (Vec<Packet>, Vec<Packet>) =
            std::mem::take(&mut self.wires.stalled).into_iter().partition(|p| p.conn == conn);
        self.wires.stalled = others;
        for packet in ours {
            self.send(packet.conn, packet.to.other(), packet.what);
        }
    }

    /// A process that does not know a connection says so (a stateless reset, RFC 9000 section 10.3).
    fn reset(&mut self, conn: ConnIx, end: End) {
        if self.wires.conns[conn as usize].open[end.other() as usize] {
            let gone = Close::new(CloseCode::Internal, "the other side does not know the session");
            let what = What::Closed(Box::new(gone));
            if let Some(at) = self.stream_passes(conn, end, what.size()) {
                self.events.push(at, Event::Arrive(Packet { conn, to: end.other(), what }));
            }
        }
    }

    /// A connection is over at one end.
    pub(super) fn ended(&mut self, conn: ConnIx, end: End, close: Option<Close>) {
        let connection = &mut self.wires.conns[conn as usize];
        if !std::mem::take(&mut connection.open[end as usize]) {
            return;
        }
        let connection = *connection;
        match (end, connection.opener) {
            (End::Opener, Opener::Uplink(node, link)) => {
                self.unhop(node, conn);
                if self.nodes[node].links.remove(&link).is_some()
                    && let Some(close) = close
                {
                    let reason = close.to_string();
                    self.nodes[node].control.handle_link_down(self.now, link, &reason);
                    self.pump_control(node);
                }
            }
            (End::Opener, Opener::Listener(listener)) => {
                self.listener_closed(conn, listener, close)
            }
            (End::Opener, Opener::Speaker(_)) => {}
            (End::Accepter, opener) => {
                match opener {
                    Opener::Uplink(node, _) => self.unhop(node, conn),
                    // Nobody stands for one whose session is gone, though it has not heard of it.
                    Opener::Listener(listener) if self.crowd.conn_of(listener) == Some(conn) => {
                        self.unfold(listener);
                    }
                    Opener::Listener(_) | Opener::Speaker(_) => {}
                }
                let node = connection.node;
                if let Some((shard, ix)) = connection.session
                    && connection.life == self.nodes[node].life
                {
                    self.nodes[node].closed(self.now, shard, ix);
                    self.pump_shard(node, shard);
                }
            }
        }
    }

    fn accepter_takes(&mut self, conn: ConnIx, connection: Conn, what: What) {
        let (node, now) = (connection.node, self.now);
        match (connection.session, what) {
            (None, What::Open) => {
                let class = match connection.opener {
                    Opener::Listener(listener) => self.crowd.class_of(listener),
                    Opener::Uplink(..) | Opener::Speaker(_) => Seat::OTHER,
                };
                let session = self.nodes[node].accept(now, conn, class);
                let connection = &mut self.wires.conns[conn as usize];
                connection.session = Some(session);
                connection.life = self.nodes[node].life;
                self.send(conn, End::Accepter, What::Open);
                self.pump_shard(node, session.0);
            }
            (Some((shard, ix)), What::Control(bytes)) => {
                let entry = &mut self.nodes[node].shards[usize::from(shard)];
                entry.machine.handle_control(now, ix, &bytes);
                entry.dirty = true;
                self.pump_shard(node, shard);
            }
            (Some((shard, ix)), What::Datagram(bytes)) => {
                let machine = &mut self.nodes[node].shards[usize::from(shard)].machine;
                machine.handle_datagram(now, ix, bytes);
                self.pump_shard(node, shard);
            }
            _ => {}
        }
    }

    fn opener_takes(&mut self, conn: ConnIx, connection: Conn, what: What) {
        match connection.opener {
            Opener::Uplink(node, link) => self.uplink_takes(conn, node, link, what),
            Opener::Listener(listener) => self.listener_takes(conn, listener, what),
            Opener::Speaker(speaker) => self.speaker_takes(conn, speaker, what),
        }
    }

    fn uplink_takes(&mut self, conn: ConnIx, node: NodeIx, link: LinkId, what: What) {
        let now = self.now;
        let control = &mut self.nodes[node].control;
        match what {
            What::Open => control.handle_link_up(now, link),
            What::Control(bytes) => {
                control.handle_link_control(now, link, &bytes);
                self.overheard(conn, node, &bytes);
            }
            What::Datagram(bytes) => {
                if self.setup.planted == Some(Planted::StarvedLeaves) && self.starved(&bytes) {
                    let close = Close::new(CloseCode::Done, "the parent is starved");
                    self.left(node, conn);
                    self.nodes[node].links.remove(&link);
                    self.close(conn, End::Opener, close);
                    let control = &mut self.nodes[node].control;
                    control.handle_link_down(now, link, "the parent is starved");
                } else {
                    if self.setup.planted == Some(Planted::SecondCopy) {
                        self.plant_second_copy(node, &bytes);
                    }
                    self.nodes[node].control.handle_link_datagram(now, link, bytes);
                }
            }
            What::Closed(_) => {}
        }
        self.pump_control(node);
    }

    fn speaker_takes(&mut self, conn: ConnIx, speaker: usize, what: What) {
        let answer = match what {
            What::Open => self.speakers[speaker].hello(&self.signer).map(What::Control),
            What::Control(bytes) => {
                if self.speakers[speaker].control(&bytes) {
                    self.events.push(self.now, Event::SpeakerTimer(speaker));
                }
                None
            }
            What::Datagram(bytes) => self.speakers[speaker].datagram(bytes).map(What::Datagram),
            What::Closed(_) => None,
        };
        if let Some(what) = answer {
            self.send(conn, End::Opener, what);
        }
    }

    pub(super) fn on_speaker_timer(&mut self, speaker: usize) {
        let Some(conn) = self.speakers[speaker].conn else {
            let conn = self.connect(0, Opener::Speaker(speaker));
            self.speakers[speaker].conn = Some(conn);
            return;
        };
        if let Some(bytes) = self.speakers[speaker].frame() {
            self.send(conn, End::Opener, What::Datagram(bytes));
        }
        self.events.push(self.speakers[speaker].next(self.now), Event::SpeakerTimer(speaker));
    }

    /// What the reference model learns from what a parent or the origin says.
    fn overheard(&mut self, conn: ConnIx, node: NodeIx, bytes: &[u8]) {
        let mut decoder = ControlDecoder::default();
        decoder.push(bytes);
        while let Ok(Some(message)) = decoder.next_message() {
            match message {
                ServerMessage::Subscribed(_) if self.wires.conns[conn as usize].wanted => {
                    let parent = self.wires.conns[conn as usize].node;
                    let hops = &mut self.nodes[node].hops;
                    hops.retain(|hop| hop.conn != conn);
                    hops.push(Hop { parent, conn, since: None });
                    self.refresh_hops(node, Duration::ZERO);
                    self.check_edges(node);
                }
                ServerMessage::Placement(placement) => self.told(node, &placement),
                _ => {}
            }
        }
    }

    /// What the reference model learns from what a child says: whether it wants the room.
    pub(super) fn overheard_from_child(&mut self, conn: ConnIx, node: NodeIx, bytes: &[u8]) {
        let json = bytes.get(2..).unwrap_or_default();
        let wanted = &mut self.wires.conns[conn as usize].wanted;
        if json.starts_with(SUBSCRIBE) {
            *wanted = true;
        } else if json.starts_with(UNSUBSCRIBE) {
            *wanted = false;
            self.unhop(node, conn);
        }
    }

    /// Sends what streams held back, where the link is whole again.
    pub(super) fn flush_stalled(&mut self) {
        for packet in std::mem::take(&mut self.wires.stalled) {
            self.send(packet.conn, packet.to.other(), packet.what);
        }
    }

    /// Notes that a connection may hear nothing from here on.
    pub(super) fn watch_idle(&mut self, conn: ConnIx) {
        self.events.push(self.now + limits::IDLE_TIMEOUT, Event::Idle(conn));
    }

    /// A connection over which nothing can come any more times out at the ends that have it.
    pub(super) fn on_idle(&mut self, conn: ConnIx) {
        let connection = self.wires.conns[conn as usize];
        // An end that is there no more says nothing, nor does a path that is cut.
        if !self.passes(conn) || connection.open != [true, true] {
            for end in [End::Opener, End::Accepter] {
                let close = Close::new(CloseCode::Internal, "timed out");
                self.ended(conn, end, Some(close));
            }
        }
    }

    /// Whether packets pass between the ends of a connection, and both can take them.
    pub(super) fn passes(&self, conn: ConnIx) -> bool {
        let Conn { opener, node, .. } = self.wires.conns[conn as usize];
        let running = match opener {
            Opener::Uplink(child, _) => self.nodes[child].is_running(),
            Opener::Listener(_) | Opener::Speaker(_) => true,
        };
        running && self.nodes[node].is_running() && !self.is_cut(conn)
    }

    fn is_cut(&self, conn: ConnIx) -> bool {
        let Conn { opener, node, .. } = self.wires.conns[conn as usize];
        let node = &self.nodes[node];
        match opener {
            Opener::Uplink(child, _) => {
                let child = &self.nodes[child];
                node.cuts + child.cuts > 0 || node.side != child.side
            }
            Opener::Listener(_) | Opener::Speaker(_) => node.cuts > 0,
        }
    }

    fn datagram_passes(&mut self, conn: ConnIx, from: End, bytes: usize) -> Passage {
        let Conn { opener, node, .. } = self.wires.conns[conn as usize];
        if self.is_cut(conn) {
            return Passage::Cut;
        }
        match opener {
            Opener::Uplink(child, _) => {
                let now = self.now;
                let (a, b) = if from == End::Opener { (child, node) } else { (node, child) };
                self.wires.link(a, b).datagram(now, bytes)
            }
            Opener::Listener(listener) => self.access(listener, node, from),
            Opener::Speaker(_) => Passage::Arrives(self.now + SPEAKER),
        }
    }

    fn stream_passes(&mut self, conn: ConnIx, from: End, bytes: usize) -> Option<Time> {
        let Conn { opener, node, .. } = self.wires.conns[conn as usize];
        if self.is_cut(conn) {
            return None;
        }
        match opener {
            Opener::Uplink(child, _) => {
                let now = self.now;
                let (a, b) = if from == End::Opener { (child, node) } else { (node, child) };
                Some(self.wires.link(a, b).stream(now, bytes))
            }
            Opener::Listener(listener) => Some(self.access_stream(listener, node, from)),
            Opener::Speaker(_) => Some(self.now + SPEAKER),
        }
    }
}

/// A speaker's way to the origin.
const SPEAKER: Duration = Duration::from_millis(10);
