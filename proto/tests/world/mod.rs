//! A small world: the real machines of every node, driven by one virtual clock over links that
//! take time and lose datagrams. The same seed makes the same world.

mod client;
mod link;
mod node;

use std::collections::BTreeMap;
use std::time::Duration;

use stentor_proto::Time;
use stentor_proto::fanout::SessionIx;
use stentor_proto::node::{LinkId, NodeControl, NodeView, OriginControl, Tick};
use stentor_proto::token::{Signer, private_pem};
use stentor_proto::wire::{ClientMessage, Close, CloseCode, encode_control};

pub use self::client::{Listener, Speaker};
use self::link::{Conn, End, Links, Packet, What};
use self::node::Out;
pub use self::node::{Node, UNIX_S, address_of};

/// Rounds of one instant after which the world takes a machine for one that spins.
const ROUNDS: u32 = 1_000;

/// What a world is made of.
#[derive(Clone, Copy)]
pub struct Setup {
    pub shards: u16,
    pub delay: Duration,
    pub loss_permille: u64,
    pub seed: u64,
    pub epoch: u32,
    /// Whether a room is made by the first one to ask for it.
    pub first_use: bool,
    pub rooms: &'static [&'static str],
    /// Sessions that a relay may carry.
    pub capacity: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            shards: 1,
            delay: Duration::from_millis(5),
            loss_permille: 0,
            seed: 7,
            epoch: 1,
            first_use: false,
            rooms: &["hall"],
            capacity: 64,
        }
    }
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug)]
enum Opener {
    Uplink(usize, LinkId),
    Listener(usize),
    Speaker(usize),
}

/// Who accepted a connection.
#[derive(Clone, Copy, Debug)]
enum Accepter {
    /// Under way.
    Nobody,
    Session(u16, SessionIx),
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    opener: Opener,
    node: usize,
    accepter: Accepter,
    /// Whether each end still has it open: the opener's, the accepter's.
    open: [bool; 2],
}

pub struct World {
    pub now: Time,
    setup: Setup,
    signer: Signer,
    links: Links,
    connections: Vec<Connection>,
    pub nodes: Vec<Node>,
    pub listeners: Vec<Listener>,
    pub speakers: Vec<Speaker>,
    /// What the origin sent, by room.
    pub ticks: BTreeMap<u32, Vec<Tick>>,
}

impl World {
    /// A world with an origin, which is node 0.
    pub fn new(setup: Setup) -> Self {
        let now = Time::from_millis(1_000);
        let signer = Signer::from_pkcs8_pem(&private_pem([1; 32]), None).unwrap();
        let mut world = Self {
            now,
            setup,
            links: Links::new(setup.delay, setup.loss_permille, setup.seed),
            connections: Vec::new(),
            nodes: vec![Node::origin(&setup, &signer, now)],
            signer,
            listeners: Vec::new(),
            speakers: Vec::new(),
            ticks: BTreeMap::new(),
        };
        world.pump(0);
        world
    }

    /// Another relay, on that level.
    pub fn relay(&mut self, name: &str, level: u8) -> usize {
        self.nodes.push(Node::relay(&self.setup, name, level, self.now));
        self.pump(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// The origin, and `relays` relays on each of `levels` levels: nodes 1, 2, … from the top.
    pub fn tree(setup: Setup, levels: u8, relays: u8) -> Self {
        let mut world = Self::new(setup);
        for level in 1..=levels {
            for n in 1..=relays {
                world.relay(&format!("r{level}{n}"), level);
            }
        }
        world.step(1_000);
        world
    }

    /// A listener on a node.
    pub fn listen(&mut self, node: usize, room: &str) -> usize {
        let listener = self.listeners.len();
        let conn = self.connect(node, Opener::Listener(listener));
        self.listeners.push(Listener::new(conn, room));
        listener
    }

    /// A speaker at the origin, who talks from the start.
    pub fn speak(&mut self, room: &str, identity: &str) -> usize {
        let speaker = self.speakers.len();
        let conn = self.connect(0, Opener::Speaker(speaker));
        self.speakers.push(Speaker::new(conn, room, identity, self.now));
        speaker
    }

    /// A listener says something on its control stream.
    pub fn say(&mut self, listener: usize, message: &ClientMessage) {
        let conn = self.listeners[listener].conn;
        self.send(conn, End::Opener, What::Control(encode_control(message)));
    }

    /// What the HTTP API does: a question or an order to the origin's control.
    pub fn ask<R>(&mut self, ask: impl FnOnce(&mut OriginControl, Time) -> R) -> R {
        let NodeControl::Origin(origin) = &mut self.nodes[0].control else {
            panic!("node 0 is the origin")
        };
        let answer = ask(origin, self.now);
        self.pump(0);
        answer
    }

    /// A listener or speaker leaves.
    pub fn hang_up(&mut self, conn: usize) {
        self.close(conn, End::Opener, Close::new(CloseCode::Done, "goodbye"));
    }

    /// A node's process ends: every peer is told.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].dead = true;
        for conn in 0..self.connections.len() {
            let connection = self.connections[conn];
            if connection.node == node {
                self.close(conn, End::Accepter, Close::new(CloseCode::Done, "the node ends"));
            }
            if matches!(connection.opener, Opener::Uplink(n, _) if n == node) {
                self.close(conn, End::Opener, Close::new(CloseCode::Done, "the node ends"));
            }
        }
    }

    /// Nothing reaches or leaves a node, and nobody is told.
    pub fn black_hole(&mut self, node: usize) {
        self.nodes[node].cut_off = true;
    }

    /// The origin starts again with another epoch.
    pub fn restart_origin(&mut self, setup: Setup) {
        self.kill(0);
        self.setup = setup;
        self.ticks.clear();
        self.nodes[0] = Node::origin(&setup, &self.signer, self.now);
        self.pump(0);
    }

    pub fn drain(&mut self, node: usize) {
        self.nodes[node].control.handle_drain(self.now, Duration::from_secs(10));
        self.pump(node);
    }

    pub fn view(&self, node: usize) -> NodeView {
        self.nodes[node].control.view(self.now)
    }

    /// The numbers of the ticks that the origin sent of a room, from one on.
    pub fn sent(&self, room: u32, from: u32) -> Vec<u32> {
        let numbers = self.ticks[&room].iter().map(|tick| tick.key.number);
        numbers.filter(|&number| number >= from).collect()
    }

    /// Lets time pass.
    pub fn step(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let mut rounds = 0;
        loop {
            let next = self.next();
            if next > end {
                break;
            }
            rounds = if next > self.now { 0 } else { rounds + 1 };
            assert!(rounds < ROUNDS, "a machine asks for the same instant again and again");
            self.now = self.now.max(next);
            self.turn();
        }
        self.now = end;
    }

    fn next(&self) -> Time {
        let nodes = self.nodes.iter().filter(|node| !node.dead).map(Node::timeout);
        let listeners = self.listeners.iter().filter(|l| l.closed.is_none()).map(Listener::timeout);
        let speakers = self.speakers.iter().filter(|s| s.closed.is_none()).map(Speaker::timeout);
        nodes.chain(listeners).chain(speakers).min().unwrap_or(Time::MAX).min(self.links.next())
    }

    /// Everything that is due.
    fn turn(&mut self) {
        while let Some(packet) = self.links.arrived(self.now) {
            self.deliver(packet);
        }
        for node in 0..self.nodes.len() {
            if !self.nodes[node].dead && self.nodes[node].timeout() <= self.now {
                let sent = self.nodes[node].handle_timeout(self.now);
                self.send_all(node, sent);
                self.pump(node);
            }
        }
        for at in 0..self.listeners.len() {
            let conn = self.listeners[at].conn;
            for bytes in self.listeners[at].requests(self.now) {
                self.send(conn, End::Opener, What::Datagram(bytes));
            }
        }
        for at in 0..self.speakers.len() {
            let conn = self.speakers[at].conn;
            if let Some(bytes) = self.speakers[at].frame(self.now) {
                self.send(conn, End::Opener, What::Datagram(bytes));
            }
        }
    }

    fn connect(&mut self, node: usize, opener: Opener) -> Conn {
        let accepter = Accepter::Nobody;
        self.connections.push(Connection { opener, node, accepter, open: [true, true] });
        let conn = self.connections.len() - 1;
        self.send(conn, End::Opener, What::Open);
        conn
    }

    /// Sends from one end to the other.
    fn send(&mut self, conn: Conn, from: End, what: What) {
        let connection = &self.connections[conn];
        let opener = match connection.opener {
            Opener::Uplink(node, _) => self.nodes[node].cut_off,
            Opener::Listener(_) | Opener::Speaker(_) => false,
        };
        if connection.open[from as usize] && !opener && !self.nodes[connection.node].cut_off {
            self.links.send(self.now, Packet { conn, to: from.other(), what });
        }
    }

    /// One end closes; the other is told.
    fn close(&mut self, conn: Conn, by: End, close: Close) {
        self.send(conn, by, What::Closed(Some(close)));
        self.ended(conn, by, None);
    }

    /// A connection is over at one end.
    fn ended(&mut self, conn: Conn, end: End, close: Option<Close>) {
        let connection = &mut self.connections[conn];
        if !std::mem::take(&mut connection.open[end as usize]) {
            return;
        }
        let (connection, now) = (*connection, self.now);
        match (end, connection.opener, connection.accepter) {
            (End::Opener, Opener::Uplink(node, link), _) if !self.nodes[node].dead => {
                if let Some(close) = close {
                    self.nodes[node].links.remove(&link);
                    self.nodes[node].control.handle_link_down(now, link, &close.to_string());
                    self.pump(node);
                }
            }
            (End::Opener, Opener::Listener(at), _) => self.listeners[at].closed(now, close),
            (End::Opener, Opener::Speaker(at), _) => {
                self.speakers[at].closed = Some(close.map_or(CloseCode::Done, |c| c.code));
            }
            (End::Accepter, _, Accepter::Session(shard, ix)) => {
                self.nodes[connection.node].handle_closed(now, shard, ix);
                self.pump(connection.node);
            }
            _ => {}
        }
    }

    fn deliver(&mut self, Packet { conn, to, what }: Packet) {
        let connection = self.connections[conn];
        if !connection.open[to as usize] {
            return;
        }
        match (to, what) {
            (_, What::Closed(close)) => self.ended(conn, to, close),
            (End::Accepter, what) => self.accepter_takes(conn, connection, what),
            (End::Opener, what) => self.opener_takes(conn, connection, what),
        }
    }

    fn accepter_takes(&mut self, conn: Conn, connection: Connection, what: What) {
        let (at, now) = (connection.node, self.now);
        let node = &mut self.nodes[at];
        match (connection.accepter, what) {
            (_, What::Open) if node.dead => {
                let close = Close::new(CloseCode::Internal, "nobody is there");
                return self.close(conn, End::Accepter, close);
            }
            (_, What::Open) => {
                let (shard, ix) = node.accept(now, conn);
                self.connections[conn].accepter = Accepter::Session(shard, ix);
                self.send(conn, End::Accepter, What::Open);
            }
            (Accepter::Session(shard, ix), What::Control(bytes)) => {
                node.shards[usize::from(shard)].handle_control(now, ix, &bytes);
            }
            (Accepter::Session(shard, ix), What::Datagram(bytes)) => {
                node.shards[usize::from(shard)].handle_datagram(now, ix, bytes);
            }
            (_, what) => panic!("nobody takes {what:?}"),
        }
        self.pump(at);
    }

    fn opener_takes(&mut self, conn: Conn, connection: Connection, what: What) {
        let now = self.now;
        match (connection.opener, what) {
            (Opener::Uplink(node, link), what) if !self.nodes[node].dead => {
                let control = &mut self.nodes[node].control;
                match what {
                    What::Open => control.handle_link_up(now, link),
                    What::Control(bytes) => control.handle_link_control(now, link, &bytes),
                    What::Datagram(bytes) => control.handle_link_datagram(now, link, bytes),
                    What::Closed(_) => {}
                }
                self.pump(node);
            }
            (Opener::Listener(at), What::Open) => {
                let hello = self.listeners[at].hello();
                self.send(conn, End::Opener, What::Control(hello));
            }
            (Opener::Speaker(at), What::Open) => {
                let hello = self.speakers[at].hello(&self.signer);
                self.send(conn, End::Opener, What::Control(hello));
            }
            (Opener::Speaker(at), What::Control(bytes)) => self.speakers[at].control(now, &bytes),
            (Opener::Speaker(at), What::Datagram(bytes)) => {
                if let Some(bytes) = self.speakers[at].datagram(bytes) {
                    self.send(conn, End::Opener, What::Datagram(bytes));
                }
            }
            (Opener::Listener(at), What::Control(bytes)) => {
                self.listeners[at].control(now, &bytes);
            }
            (Opener::Listener(at), What::Datagram(bytes)) => {
                for bytes in self.listeners[at].datagram(now, bytes) {
                    self.send(conn, End::Opener, What::Datagram(bytes));
                }
            }
            _ => {}
        }
    }

    /// Takes from a node's machines whatever they have to say, until they are silent.
    fn pump(&mut self, at: usize) {
        while !self.nodes[at].dead {
            let mut out = self.nodes[at].drain(self.now);
            if out.is_empty() {
                return;
            }
            if at == 0 {
                for tick in out.iter_mut().filter_map(Out::as_tick) {
                    self.ticks.entry(tick.key.room).or_default().push(tick);
                }
            }
            self.send_all(at, out);
        }
    }

    fn send_all(&mut self, at: usize, out: Vec<Out>) {
        for out in out {
            match out {
                Out::Send(conn, what) => self.send(conn, End::Accepter, what),
                Out::Close(conn, close) => self.close(conn, End::Accepter, close),
                Out::Connect(link, address) => {
                    let found = self.nodes.iter().position(|node| node.address == address);
                    let node = found.expect("addresses are of this world");
                    let conn = self.connect(node, Opener::Uplink(at, link));
                    self.nodes[at].links.insert(link, conn);
                }
                Out::Disconnect(link, close) => {
                    if let Some(conn) = self.nodes[at].links.remove(&link) {
                        self.close(conn, End::Opener, close);
                    }
                }
                Out::Up(link, what) => {
                    if let Some(&conn) = self.nodes[at].links.get(&link) {
                        self.send(conn, End::Opener, what);
                    }
                }
                Out::Tick(_) => {}
            }
        }
    }
}
