//! A path that delays, loses and limits packets: a UDP proxy on loopback, in a thread of its own.
//!
//! Each client address is a flow with a socket of its own towards the server, and draws from a
//! sequence of its own: the same seed and the same packets meet the same fate. Every fault is
//! counted, so that a measurement can say that it fired.

mod flows;
mod lane;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use stentor_relay::quic::sys::{BindOptions, bind};

use self::flows::Proxy;
pub use self::lane::{Loss, Rate, Way};

/// Both directions of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Path {
    /// From the client to the server.
    pub up: Way,
    /// From the server to the client.
    pub down: Way,
}

impl Path {
    /// The same in both directions.
    #[must_use]
    pub const fn both(way: Way) -> Self {
        Self { up: way, down: way }
    }
}

/// What a shaper did to packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShaperCounts {
    /// Client addresses seen.
    pub flows: u64,
    /// Packets delivered, in both directions.
    pub passed: u64,
    /// Packets lost at random or in bursts, in both directions.
    pub lost: u64,
    /// Packets that clients sent, and how many of them were lost.
    pub up: (u64, u64),
    /// Packets that found the queue of the bottleneck full.
    pub queue_full: u64,
    /// Packets that met the black hole.
    pub black_holed: u64,
    /// Flows whose address towards the server changed.
    pub rebound: u64,
    /// Packets that the kernel did not take, or of flows beyond the bound.
    pub refused: u64,
}

/// What a shaper is told while it runs.
#[derive(Clone, Copy, Debug)]
enum Command {
    Path(Path),
    BlackHole(bool),
    Rebind,
    Stop,
}

/// A running shaper; dropping it ends it, and with it the path.
#[derive(Debug)]
pub struct Shaper {
    address: SocketAddr,
    commands: Sender<Command>,
    counts: Arc<Mutex<ShaperCounts>>,
    thread: Option<JoinHandle<()>>,
}

impl Shaper {
    /// A path to `server`, on a port of its own on the loopback address.
    ///
    /// # Errors
    /// When no socket or no thread is to be had.
    pub fn start(server: SocketAddr, path: Path, seed: u64) -> Result<Self> {
        let front = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default())?;
        let address = front.local_addr()?;
        let (commands, orders) = channel();
        let counts = Arc::<Mutex<ShaperCounts>>::default();
        let proxy = Proxy::new(front, server, path, seed, counts.clone());
        let thread = std::thread::Builder::new()
            .name("shaper".into())
            .spawn(move || proxy.run(&orders))
            .context("no thread for the shaper")?;
        Ok(Self { address, commands, counts, thread: Some(thread) })
    }

    /// Where clients find the server through this path.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the path for packets that come from here on.
    pub fn set(&self, path: Path) {
        self.tell(Command::Path(path));
    }

    /// Swallows everything in both directions, what is under way too; or lets packets pass again.
    pub fn black_hole(&self, on: bool) {
        self.tell(Command::BlackHole(on));
    }

    /// Gives every flow another address towards the server, as a NAT that forgot its bindings does;
    /// what the server sends to the old one is lost.
    pub fn rebind(&self) {
        self.tell(Command::Rebind);
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> ShaperCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, command: Command) {
        // A thread that has ended shapes nothing any more, and its counts show it.
        let _ = self.commands.send(command);
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;

    /// A client and a server with a path between them.
    struct Ends {
        client: UdpSocket,
        server: UdpSocket,
        shaper: Shaper,
    }

    impl Ends {
        fn new(path: Path) -> Self {
            let socket = || {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                socket
            };
            let (client, server) = (socket(), socket());
            let shaper = Shaper::start(server.local_addr().unwrap(), path, 7).unwrap();
            client.connect(shaper.address()).unwrap();
            Self { client, server, shaper }
        }

        /// What of `count` numbered packets reached the server, and who sent the last.
        fn up(&self, count: u8) -> (Vec<u8>, Option<SocketAddr>) {
            for number in 0..count {
                self.client.send(&[number]).unwrap();
            }
            let mut buffer = [0; 8];
            let mut got = Vec::new();
            let mut from = None;
            while let Ok((_, peer)) = self.server.recv_from(&mut buffer) {
                got.push(buffer[0]);
                from = Some(peer);
            }
            (got, from)
        }
    }

    #[test]
    fn packets_pass_both_ways_after_their_delay() {
        let delay = Duration::from_millis(40);
        let ends = Ends::new(Path::both(Way { delay, ..Way::default() }));
        let sent = Instant::now();
        ends.client.send(b"ping").unwrap();
        let mut buffer = [0; 8];
        let (length, peer) = ends.server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"ping");
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
        ends.server.send_to(b"pong", peer).unwrap();
        assert_eq!(ends.client.recv(&mut buffer).unwrap(), 4);
        assert!(sent.elapsed() >= 2 * delay, "{:?}", sent.elapsed());
        let counts = ends.shaper.counts();
        assert_eq!((counts.flows, counts.lost), (1, 0));
    }

    #[test]
    fn loss_is_counted_and_the_rest_stays_in_order() {
        let way = Way { loss: Loss::Random(0.5), ..Way::default() };
        let ends = Ends::new(Path { up: way, down: Way::default() });
        let (got, _) = ends.up(100);
        let lost = ends.shaper.counts().lost;
        assert_eq!(got.len() as u64 + lost, 100);
        assert!((30..70).contains(&lost), "{lost}");
        assert!(got.is_sorted(), "{got:?}");
    }

    #[test]
    fn a_black_hole_swallows_everything_until_it_is_closed() {
        let ends = Ends::new(Path::default());
        ends.shaper.black_hole(true);
        assert_eq!(ends.up(10).0.len(), 0);
        assert_eq!(ends.shaper.counts().black_holed, 10);
        ends.shaper.black_hole(false);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(ends.up(10).0.len(), 10);
    }

    #[test]
    fn a_rebinding_changes_the_address_and_keeps_the_flow() {
        let ends = Ends::new(Path::default());
        let before = ends.up(3).1.unwrap();
        ends.shaper.rebind();
        std::thread::sleep(Duration::from_millis(20));
        let (got, after) = ends.up(3);
        let after = after.unwrap();
        assert_eq!(got, [0, 1, 2]);
        assert_ne!(before, after);
        ends.server.send_to(b"x", before).unwrap();
        ends.server.send_to(b"yz", after).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(ends.client.recv(&mut buffer).unwrap(), 2, "the old address leads nowhere");
        assert_eq!(ends.shaper.counts().rebound, 1);
    }
}
