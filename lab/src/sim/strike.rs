//! Faults strike, and end.

use bytes::Bytes;
use stentor_proto::node::ToControl;
use stentor_proto::wire::{Close, CloseCode, Datagram};

use super::events::{ConnIx, End, Event, NodeIx, What};
use super::fault::FaultKind;
use super::link::Loss;
use super::model::SETTLES;
use super::node::{Condition, Node};
use super::wires::Opener;
use super::world::World;

/// What a relay's links lose under [`FaultKind::Loss`].
const LOSS: Loss = Loss::Random(0.1);

/// A fault that is on.
#[derive(Clone, Debug, Default)]
pub(super) struct Struck {
    nodes: Vec<NodeIx>,
    /// It found whom to strike.
    pub(super) fired: bool,
}

impl World {
    /// A fault strikes.
    pub(super) fn strike(&mut self, at: usize) {
        let fault = self.setup.faults[at].clone();
        let nodes = self.targets(fault.kind, fault.relay);
        if nodes.is_empty() {
            return;
        }
        self.quiet_since = None;
        self.active += 1;
        for &node in &nodes {
            match fault.kind {
                FaultKind::Kill => self.kill(node),
                FaultKind::Stop | FaultKind::StarveOrigin | FaultKind::StarveLevel => {
                    self.nodes[node].condition = Condition::Stopped;
                }
                FaultKind::BlackHole => self.nodes[node].cuts += 1,
                FaultKind::Drain => {
                    self.nodes[node].draining = true;
                    self.nodes[node].control.handle_drain(self.now, fault.lasts);
                    self.pump_control(node);
                }
                FaultKind::Partition => self.nodes[node].side ^= 1,
                FaultKind::Loss => self.lossy(node, LOSS),
                FaultKind::ControlGone => self.parked = Some(Vec::new()),
                FaultKind::Rebind => self.rebind(node),
            }
        }
        self.struck[at] = Struck { nodes, fired: true };
        self.refresh_all();
        self.events.push(self.now + fault.lasts, Event::Lift(at));
    }

    /// A fault ends.
    pub(super) fn lift(&mut self, at: usize) {
        let kind = self.setup.faults[at].kind;
        for node in std::mem::take(&mut self.struck[at].nodes) {
            match kind {
                FaultKind::Kill => self.start(node),
                FaultKind::Stop | FaultKind::StarveOrigin | FaultKind::StarveLevel => {
                    self.go_on(node);
                }
                FaultKind::BlackHole => self.nodes[node].cuts -= 1,
                FaultKind::Drain => {
                    self.end_in_order(node);
                    self.start(node);
                }
                FaultKind::Partition => self.nodes[node].side ^= 1,
                FaultKind::Loss => {
                    self.lossy(node, self.setup.backbone.loss);
                    // What was sent until now may have been lost.
                    let since = self.now + SETTLES;
                    let hops = self.nodes[node].hops.iter_mut().filter_map(|h| h.since.as_mut());
                    hops.for_each(|hop| *hop = since.max(*hop));
                }
                FaultKind::ControlGone => self.unpark(),
                FaultKind::Rebind => {}
            }
        }
        self.flush_stalled();
        self.active -= 1;
        if self.active == 0 {
            self.quiet_since = Some(self.now);
        }
        self.refresh_all();
    }

    /// Whom a fault strikes.
    fn targets(&mut self, kind: FaultKind, relay: Option<usize>) -> Vec<NodeIx> {
        let well: Vec<NodeIx> = (1..self.nodes.len())
            .filter(|&node| self.nodes[node].is_well() && self.nodes[node].level > 0)
            .collect();
        match kind {
            FaultKind::StarveOrigin | FaultKind::ControlGone => vec![0],
            FaultKind::StarveLevel => {
                well.into_iter().filter(|&node| self.nodes[node].level == 1).collect()
            }
            FaultKind::Partition => {
                let seed = self.chance.draw();
                let drawn = |node: &NodeIx| super::chance::mix(seed, *node as u64) & 1 == 1;
                well.into_iter().filter(drawn).collect()
            }
            FaultKind::Kill
            | FaultKind::Stop
            | FaultKind::BlackHole
            | FaultKind::Drain
            | FaultKind::Rebind
            | FaultKind::Loss => {
                let drawn = self.chance.below(well.len());
                let named = relay.filter(|number| well.contains(number));
                let chosen = if relay.is_some() { named } else { well.get(drawn).copied() };
                chosen.into_iter().collect()
            }
        }
    }

    /// A process dies without a word: its peers learn it from silence, or when it starts again and
    /// does not know them.
    fn kill(&mut self, node: NodeIx) {
        for conn in self.ends_of(node) {
            self.watch_idle(conn);
        }
        self.reborn(node);
    }

    /// A process ends in good order: its peers are told.
    fn end_in_order(&mut self, node: NodeIx) {
        for conn in self.ends_of(node) {
            let ours = self.end_at(conn, node);
            let close = Close::new(CloseCode::Draining, "this node goes away; join another");
            self.send(conn, ours, What::Closed(Box::new(close)));
        }
        self.reborn(node);
    }

    /// Another life of a node, which has not started: nothing of the former one is left.
    fn reborn(&mut self, node: NodeIx) {
        for conn in self.ends_of(node) {
            if let Some(listener) = self.wires.listener(conn)
                && self.crowd.conn_of(listener) == Some(conn)
            {
                self.unfold(listener);
            }
            let ours = self.end_at(conn, node);
            self.wires.conns[conn as usize].open[ours as usize] = false;
            if let Opener::Uplink(child, _) = self.wires.conns[conn as usize].opener {
                self.unhop(child, conn);
            }
        }
        let was = &self.nodes[node];
        let (life, cuts, side) = (was.life + 1, was.cuts, was.side);
        let mut relay = Node::relay(&self.setup, node, life, self.now);
        (relay.cuts, relay.side) = (cuts, side);
        self.nodes[node] = relay;
    }

    fn go_on(&mut self, node: NodeIx) {
        self.nodes[node].condition = Condition::Running;
        for packet in self.nodes[node].kept() {
            self.arrive(packet);
        }
        self.wake(node);
    }

    /// The open connections of which a node has an end.
    fn ends_of(&self, node: NodeIx) -> Vec<ConnIx> {
        let conns = self.wires.conns.iter().enumerate();
        let here = conns.filter(|(_, conn)| {
            let ours = match conn.opener {
                Opener::Uplink(child, _) if child == node => End::Opener,
                _ if conn.node == node => End::Accepter,
                _ => return false,
            };
            conn.open[ours as usize]
        });
        here.map(|(at, _)| at as ConnIx).collect()
    }

    fn end_at(&self, conn: ConnIx, node: NodeIx) -> End {
        match self.wires.conns[conn as usize].opener {
            Opener::Uplink(child, _) if child == node => End::Opener,
            _ => End::Accepter,
        }
    }

    /// The addresses of a relay's listeners change, as when a network's NAT forgets its bindings: the
    /// relay learns it from the next packet of each.
    fn rebind(&mut self, node: NodeIx) {
        for conn in self.ends_of(node) {
            if let Some(listener) = self.wires.listener(conn) {
                if self.crowd.conn_of(listener) == Some(conn) {
                    self.unfold(listener);
                }
                self.wires.conns[conn as usize].stale = true;
                self.counted.rebound += 1;
            }
        }
    }

    /// Sets what the links from a node's parents lose.
    fn lossy(&mut self, node: NodeIx, loss: Loss) {
        let parents: Vec<NodeIx> = self.nodes[node].hops.iter().map(|hop| hop.parent).collect();
        for parent in parents {
            self.wires.link(parent, node).line.loss = loss;
        }
        if loss == self.setup.backbone.loss {
            for ((_, to), link) in &mut self.wires.links {
                if *to == node {
                    link.line.loss = loss;
                }
            }
        }
    }

    /// While the origin's control hears of no relay, what is said of relays waits.
    pub(super) fn park(&mut self, node: NodeIx, message: ToControl) -> Option<ToControl> {
        let of_relays = matches!(
            message,
            ToControl::RelayJoin { .. }
                | ToControl::RelayLoad { .. }
                | ToControl::RelayLeave { .. }
        );
        match &mut self.parked {
            Some(parked) if node == 0 && of_relays => {
                parked.push(message);
                None
            }
            _ => Some(message),
        }
    }

    fn unpark(&mut self) {
        for message in self.parked.take().unwrap_or_default() {
            self.nodes[0].control.handle_message(self.now, message);
            self.pump_control(0);
        }
    }

    /// Whether a datagram says that its sender is starved.
    pub(super) fn starved(&self, bytes: &Bytes) -> bool {
        let parsed = Datagram::parse(bytes.clone());
        matches!(parsed, Ok(Datagram::Beacon(beacon)) if beacon.upstream_silent_ms > 0)
    }
}
