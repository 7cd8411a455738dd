//! What a node's shell does: it takes what the machines say where it belongs.

use stentor_proto::Time;
use stentor_proto::fanout::{SessionIx, Variant};
use stentor_proto::node::{ControlEffect, Fanout, ShardEffect, Tick, ToControl, ToShard};
use stentor_proto::wire::Datagram;

use super::events::{End, Event, NodeIx, Spread, What};
use super::node::{Node, Seat};
use super::setup::Planted;
use super::wires::Opener;
use super::world::World;

const VARIANTS: usize = Variant::ALL.len();

impl World {
    /// Takes from control whatever it has to say.
    pub(super) fn pump_control(&mut self, node: NodeIx) {
        if !self.nodes[node].is_running() {
            return;
        }
        while let Some(tick) = self.nodes[node].control.poll_tick() {
            self.pass_tick(node, &tick);
        }
        let mut placed = Vec::new();
        while let Some(effect) = self.nodes[node].control.poll_effect() {
            self.control_effect(node, effect, &mut placed);
        }
        if !placed.is_empty() {
            self.check_placements(placed);
        }
        let due = self.nodes[node].control.poll_timeout();
        if due < self.nodes[node].armed {
            self.nodes[node].armed = due;
            self.events.push(due.max(self.now), Event::ControlTimer(node));
        }
    }

    /// Takes from a shard whatever it has to say.
    pub(super) fn pump_shard(&mut self, node: NodeIx, shard: u16) {
        if !self.nodes[node].is_running() {
            return;
        }
        let at = usize::from(shard);
        while let Some(effect) = self.nodes[node].shards[at].machine.poll_effect() {
            self.shard_effect(node, shard, effect);
        }
        let shard_ = &mut self.nodes[node].shards[at];
        let due = shard_.machine.poll_timeout();
        if due < shard_.armed {
            shard_.armed = due;
            self.events.push(due.max(self.now), Event::ShardTimer(node, shard));
        }
    }

    pub(super) fn on_ticks(&mut self, node: NodeIx, shard: u16) {
        let now = self.now;
        while self.nodes[node].is_running() {
            let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
            let Some(tick) = shard_.ticks.pop(now) else { break };
            if let Some(fanout) = shard_.machine.handle_tick(now, &tick) {
                self.fan_out(node, shard, fanout);
            }
            self.pump_shard(node, shard);
        }
    }

    pub(super) fn on_to_shard(&mut self, node: NodeIx, shard: u16) {
        let now = self.now;
        while self.nodes[node].is_running() {
            let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
            let Some(message) = shard_.messages.pop(now) else { break };
            shard_.machine.handle_message(now, message);
            shard_.dirty = true;
            self.pump_shard(node, shard);
        }
    }

    pub(super) fn on_to_control(&mut self, node: NodeIx) {
        while self.nodes[node].is_running() {
            let Some(message) = self.nodes[node].to_control.pop(self.now) else { break };
            self.counted.message(node, &message);
            if let Some(message) = self.park(node, message) {
                self.nodes[node].control.handle_message(self.now, message);
                self.pump_control(node);
            }
        }
    }

    pub(super) fn on_control_timer(&mut self, node: NodeIx) {
        self.nodes[node].armed = Time::MAX;
        if !self.nodes[node].is_running() {
            return;
        }
        if self.nodes[node].control.poll_timeout() <= self.now {
            self.nodes[node].control.handle_timeout(self.now);
        }
        self.pump_control(node);
    }

    pub(super) fn on_shard_timer(&mut self, node: NodeIx, shard: u16) {
        let (now, at) = (self.now, usize::from(shard));
        self.nodes[node].shards[at].armed = Time::MAX;
        if !self.nodes[node].is_running() {
            return;
        }
        if self.nodes[node].shards[at].machine.poll_timeout() <= now {
            self.nodes[node].shards[at].machine.handle_timeout(now);
            self.nodes[node].shards[at].dirty = true;
            while let Some(fanout) = self.nodes[node].shards[at].machine.poll_beacon(now) {
                self.fan_out(node, shard, fanout);
            }
        }
        self.pump_shard(node, shard);
    }

    /// Everything that waits in a node's queues and timers is looked at again.
    pub(super) fn wake(&mut self, node: NodeIx) {
        self.nodes[node].armed = Time::MAX;
        for shard in 0..self.setup.shards {
            self.nodes[node].shards[usize::from(shard)].armed = Time::MAX;
            self.events.push(self.now, Event::Ticks(node, shard));
            self.events.push(self.now, Event::ToShard(node, shard));
            self.pump_shard(node, shard);
            self.requeue(node, shard);
        }
        self.events.push(self.now, Event::ToControl(node));
        if let Some(at) = self.nodes[node].to_control.due() {
            self.events.push(at.max(self.now), Event::ToControl(node));
        }
        self.pump_control(node);
    }

    /// What came through a queue while nobody took it is taken when its time has come.
    fn requeue(&mut self, node: NodeIx, shard: u16) {
        let queues = &self.nodes[node].shards[usize::from(shard)];
        let (ticks, messages) = (queues.ticks.due(), queues.messages.due());
        if let Some(at) = ticks {
            self.events.push(at.max(self.now), Event::Ticks(node, shard));
        }
        if let Some(at) = messages {
            self.events.push(at.max(self.now), Event::ToShard(node, shard));
        }
    }

    /// Control passes a tick on: into every shard's tick queue.
    fn pass_tick(&mut self, node: NodeIx, tick: &Tick) {
        let number = tick.key.number;
        if node == 0 {
            self.model.truth.issue(self.now, number, &tick.record);
        }
        if !self.nodes[node].had.note(number) {
            let name = &self.nodes[node].name;
            self.model.violation(self.now, format!("{name} passed on tick {number} twice"));
        }
        if !self.model.truth.is(number, &tick.record) {
            let name = &self.nodes[node].name;
            self.model.violation(self.now, format!("{name} altered tick {number}"));
        }
        if let Some(issued) = self.model.truth.issued(number)
            && !tick.replay
        {
            self.counted.passed(self.nodes[node].level, self.now.since(issued));
        }
        self.queue_tick(node, tick);
    }

    fn queue_tick(&mut self, node: NodeIx, tick: &Tick) {
        for shard in 0..self.setup.shards {
            let queue = &mut self.nodes[node].shards[usize::from(shard)].ticks;
            if let Ok(at) = queue.push(self.now, tick.clone()) {
                self.events.push(at, Event::Ticks(node, shard));
            }
        }
    }

    fn queue_message(&mut self, node: NodeIx, shard: u16, message: ToShard) {
        let Some(entry) = self.nodes[node].shards.get_mut(usize::from(shard)) else { return };
        if let Ok(at) = entry.messages.push(self.now, message) {
            self.events.push(at, Event::ToShard(node, shard));
        }
    }

    fn control_effect(
        &mut self,
        node: NodeIx,
        effect: ControlEffect,
        placed: &mut Vec<(NodeIx, u8, Vec<NodeIx>)>,
    ) {
        match effect {
            ControlEffect::Connect { link, address } => match Node::at(&address) {
                Some(at) if at < self.nodes.len() => {
                    let conn = self.connect(at, Opener::Uplink(node, link));
                    self.nodes[node].links.insert(link, conn);
                }
                _ => self.model.violation(self.now, format!("nobody is at {address}")),
            },
            ControlEffect::Disconnect { link, close } => {
                if let Some(conn) = self.nodes[node].links.remove(&link) {
                    self.left(node, conn);
                    self.close(conn, End::Opener, close);
                }
            }
            ControlEffect::SendControl { link, bytes } => {
                if let Some(&conn) = self.nodes[node].links.get(&link) {
                    self.overheard_from_child(conn, node, &bytes);
                    self.send(conn, End::Opener, What::Control(bytes));
                }
            }
            ControlEffect::SendDatagram { link, bytes } => {
                if let Some(&conn) = self.nodes[node].links.get(&link) {
                    self.send(conn, End::Opener, What::Datagram(bytes));
                }
            }
            ControlEffect::ToShard { shard, message } => {
                let message = self.placing(message, placed);
                self.queue_message(node, shard, message);
            }
            ControlEffect::ToShards(message) => {
                for shard in 0..self.setup.shards {
                    self.queue_message(node, shard, message.clone());
                }
            }
            ControlEffect::Note { .. } => {}
        }
    }

    fn shard_effect(&mut self, node: NodeIx, shard: u16, effect: ShardEffect) {
        let shard_ = &self.nodes[node].shards[usize::from(shard)];
        let seat = |ix: SessionIx| shard_.seat(ix);
        match effect {
            ShardEffect::SendControl { session, bytes } => {
                // What a room's document says concerns no machine of a listener: where a cohort's
                // stands for many, it is not brought to each of them.
                let idle = |seat: &Seat| seat.cohort != Seat::NOWHERE && is_document(&bytes);
                if let Some(Seat { conn, .. }) = seat(session).filter(|seat| !idle(seat)) {
                    self.send(conn, End::Accepter, What::Control(bytes));
                }
            }
            ShardEffect::SendDatagram { session, bytes } => {
                if let Some(Seat { conn, .. }) = seat(session) {
                    self.send(conn, End::Accepter, What::Datagram(bytes));
                }
            }
            ShardEffect::Close { session, close } => {
                if let Some(Seat { conn, .. }) = seat(session) {
                    self.close(conn, End::Accepter, close);
                }
            }
            // Links of this world take whatever is written.
            ShardEffect::AwaitControl { session } => {
                let now = self.now;
                let shard = &mut self.nodes[node].shards[usize::from(shard)].machine;
                shard.handle_control_written(now, session);
            }
            ShardEffect::ToControl(message) => self.queue_to_control(node, shard, message),
        }
    }

    pub(super) fn queue_to_control(&mut self, node: NodeIx, shard: u16, message: ToControl) {
        match self.nodes[node].to_control.push(self.now, message) {
            Ok(at) => self.events.push(at, Event::ToControl(node)),
            Err(_) => self.nodes[node].shards[usize::from(shard)].machine.handle_control_full(),
        }
    }

    /// Sends a tick or a beacon to everyone it is for: to child relays and speakers one by one, to
    /// listeners class by class.
    fn fan_out(&mut self, node: NodeIx, shard: u16, fanout: Fanout) {
        let at = usize::from(shard);
        let mut bytes: [Option<bytes::Bytes>; VARIANTS] = Default::default();
        let shard_ = &mut self.nodes[node].shards[at];
        let (mut offered, mut size, mut lists, mut same) = (0, 0, 0, true);
        for (variant, list, datagram) in shard_.machine.fanout_by_variant(fanout) {
            offered += list.len() as u64;
            size += (list.len() * datagram.len()) as u64;
            same &= shard_.fans.size(lists) == Some((variant.index() as u8, list.len()));
            lists += 1;
            bytes[variant.index()].get_or_insert_with(|| datagram.clone());
        }
        same &= shard_.fans.size(lists).is_none();
        shard_.machine.handle_offered(self.now, offered, size);
        self.counted.offered += offered;
        if shard_.dirty || !same {
            self.seat_all(node, shard, fanout);
        }
        let mut others = std::mem::take(&mut self.scratch);
        others.clear();
        others.extend(self.nodes[node].shards[at].others.iter().copied());
        for &ix in &others {
            if let Some(seat) = self.nodes[node].shards[at].seat(SessionIx(ix))
                && let Some(Some(datagram)) = bytes.get(usize::from(seat.slice))
            {
                self.send(seat.conn, End::Accepter, What::Datagram(datagram.clone()));
            }
        }
        self.scratch = others;
        if self.nodes[node].cuts > 0 {
            return;
        }
        for class in 0..self.setup.classes.len() {
            if self.nodes[node].shards[at].fans.slices(class) != 0 {
                self.spread_to(node, shard, class, &bytes);
            }
        }
    }

    fn spread_to(
        &mut self,
        node: NodeIx,
        shard: u16,
        class: usize,
        bytes: &[Option<bytes::Bytes>; VARIANTS],
    ) {
        let (arrives, lost) = self.class_path(node, class, End::Accepter);
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let path = &mut shard_.paths[class];
        *path = (path.0 + 1, path.1 + u32::from(lost));
        let held = shard_.fans.slices(class);
        for (slice, datagram) in bytes.iter().enumerate() {
            let Some(datagram) = datagram.as_ref().filter(|_| held & (1 << slice) != 0) else {
                continue;
            };
            let spread = Spread {
                node,
                shard,
                class: u8::try_from(class).expect("there are 8 classes at most"),
                slice: slice as u8,
                bytes: datagram.clone(),
                sent: self.now,
                lost,
            };
            self.events.push(arrives, Event::Spread(Box::new(spread)));
        }
    }

    /// The planted bug of a merge that keeps second copies: what has been passed on goes on again.
    pub(super) fn plant_second_copy(&mut self, node: NodeIx, bytes: &bytes::Bytes) {
        debug_assert_eq!(self.setup.planted, Some(Planted::SecondCopy));
        let Ok(Datagram::Ticks { room, epoch, replay, records, .. }) =
            Datagram::parse(bytes.clone())
        else {
            return;
        };
        for record in records {
            let number = record.number;
            if self.nodes[node].had.has(number) {
                let key = stentor_proto::wire::TickKey { room, epoch, number };
                let (record, tick_ms) = (record.bytes, record.tick_ms);
                self.pass_tick(node, &Tick { key, record, tick_ms, pending: 0, replay });
            }
        }
    }
}

/// Whether a control message is a room's document.
fn is_document(bytes: &[u8]) -> bool {
    const DOCUMENT: &[u8] = b"{\"type\":\"room\",";
    bytes.get(2..).is_some_and(|json| json.starts_with(DOCUMENT))
}
