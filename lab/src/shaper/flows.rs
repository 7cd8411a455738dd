//! The thread of a shaper: its sockets, and the packets under way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lane::{Chance, Fate, Lane};
use super::{Command, Path, ShaperCounts};

/// The thread sleeps for this long between turns: packets take that much longer, at most.
const TURN: Duration = Duration::from_micros(300);
/// Flows that a shaper carries at most.
const FLOWS: usize = 4_096;
/// Packets read from one socket in one turn at most.
const PACKETS_PER_TURN: usize = 256;
/// The longest packet that is carried (bytes).
const PACKET_BYTES: usize = 2_048;

/// One client address.
struct Flow {
    client: SocketAddr,
    /// Connected to the server.
    back: UdpSocket,
    up: Lane,
    down: Lane,
    /// Rises with each rebinding: what was under way on the old address is lost.
    binding: u32,
}

/// A packet under way: when it arrives, in which order it was sent, whose it is.
struct UnderWay {
    at: u64,
    order: u64,
    flow: usize,
    up: bool,
    binding: u32,
    bytes: Vec<u8>,
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A shaper's work.
pub(super) struct Proxy {
    front: UdpSocket,
    server: SocketAddr,
    path: Path,
    chance: Chance,
    flows: Vec<Flow>,
    by_client: HashMap<SocketAddr, usize>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    order: u64,
    black_hole: bool,
    zero: Instant,
    counts: ShaperCounts,
    shown: Arc<Mutex<ShaperCounts>>,
    spare: Vec<Vec<u8>>,
}

impl Proxy {
    pub(super) fn new(
        front: UdpSocket,
        server: SocketAddr,
        path: Path,
        seed: u64,
        shown: Arc<Mutex<ShaperCounts>>,
    ) -> Self {
        Self {
            front,
            server,
            path,
            chance: Chance(seed),
            flows: Vec::new(),
            by_client: HashMap::new(),
            under_way: BinaryHeap::new(),
            order: 0,
            black_hole: false,
            zero: Instant::now(),
            counts: ShaperCounts::default(),
            shown,
            spare: Vec::new(),
        }
    }

    /// Carries packets until it is told to stop.
    pub(super) fn run(mut self, orders: &Receiver<Command>) {
        loop {
            loop {
                match orders.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            self.take_up();
            for flow in 0..self.flows.len() {
                self.take_down(flow);
            }
            self.deliver();
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.counts;
            std::thread::sleep(TURN);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Path(path) => self.path = path,
            Command::BlackHole(on) => self.black_hole = on,
            Command::Rebind => {
                for flow in &mut self.flows {
                    // A flow for which there is no other socket keeps its own, and is not counted.
                    if let Ok(back) = back(self.server) {
                        flow.back = back;
                        flow.binding += 1;
                        self.counts.rebound += 1;
                    }
                }
            }
            // The loop ends before.
            Command::Stop => {}
        }
    }

    fn take_up(&mut self) {
        let mut buffer = [0; PACKET_BYTES];
        for _ in 0..PACKETS_PER_TURN {
            // An error is the end of what waits, or an ICMP message about a client that has gone.
            let Ok((length, client)) = self.front.recv_from(&mut buffer) else { return };
            match self.flow(client) {
                Some(flow) => self.packet(flow, true, &buffer[..length]),
                None => self.counts.refused += 1,
            }
        }
    }

    fn take_down(&mut self, flow: usize) {
        let mut buffer = [0; PACKET_BYTES];
        for _ in 0..PACKETS_PER_TURN {
            let Ok(length) = self.flows[flow].back.recv(&mut buffer) else { return };
            self.packet(flow, false, &buffer[..length]);
        }
    }

    /// The flow of a client, made with its first packet.
    fn flow(&mut self, client: SocketAddr) -> Option<usize> {
        if let Some(&flow) = self.by_client.get(&client) {
            return Some(flow);
        }
        if self.flows.len() >= FLOWS {
            return None;
        }
        let back = back(self.server).ok()?;
        let (up, down) = (Lane::new(self.chance.draw()), Lane::new(self.chance.draw()));
        let flow = self.flows.len();
        self.flows.push(Flow { client, back, up, down, binding: 0 });
        self.by_client.insert(client, flow);
        self.counts.flows += 1;
        Some(flow)
    }

    fn packet(&mut self, flow: usize, up: bool, bytes: &[u8]) {
        if self.black_hole {
            self.counts.black_holed += 1;
            return;
        }
        self.counts.up.0 += u64::from(up);
        let now = self.now();
        let entry = &mut self.flows[flow];
        let (lane, way) = match up {
            true => (&mut entry.up, &self.path.up),
            false => (&mut entry.down, &self.path.down),
        };
        match lane.packet(way, now, bytes.len()) {
            Fate::Lost => {
                self.counts.lost += 1;
                self.counts.up.1 += u64::from(up);
            }
            Fate::QueueFull => self.counts.queue_full += 1,
            Fate::Arrives(at) => {
                let mut copy = self.spare.pop().unwrap_or_default();
                copy.clear();
                copy.extend_from_slice(bytes);
                self.order += 1;
                let (order, binding) = (self.order, entry.binding);
                let packet = UnderWay { at, order, flow, up, binding, bytes: copy };
                self.under_way.push(Reverse(packet));
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now();
        while self.under_way.peek().is_some_and(|packet| packet.0.at <= now) {
            let Some(Reverse(packet)) = self.under_way.pop() else { return };
            let flow = &self.flows[packet.flow];
            if self.black_hole {
                self.counts.black_holed += 1;
            } else {
                let sent = match packet.up {
                    true => flow.back.send(&packet.bytes),
                    false if packet.binding == flow.binding => {
                        self.front.send_to(&packet.bytes, flow.client)
                    }
                    false => Err(io::ErrorKind::NotConnected.into()),
                };
                match sent {
                    Ok(_) => self.counts.passed += 1,
                    Err(_) => self.counts.refused += 1,
                }
            }
            self.spare.push(packet.bytes);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A socket towards the server.
fn back(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    Ok(socket)
}
