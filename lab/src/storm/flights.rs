//! First packets of QUIC clients that nobody follows up: what a generator offers that has no time for
//! more, and what an attacker sends from addresses that are not its own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};

/// First packets, each of a connection of its own.
pub struct FirstFlights {
    packets: Vec<Vec<u8>>,
    socket: UdpSocket,
    next: usize,
}

impl FirstFlights {
    /// Makes `count` of them, as a client of this configuration begins a session with `host`.
    ///
    /// # Errors
    /// When the client cannot begin one.
    pub fn make(count: usize, client: &ClientConfig, host: &str) -> Result<Self> {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let mut packets = Vec::with_capacity(count);
        for _ in 0..count {
            let mut endpoint =
                Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
            let now = Instant::now();
            let (_, mut quic) = endpoint.connect(now, client.clone(), nowhere, host)?;
            let mut packet = Vec::new();
            let transmit = quic.poll_transmit(now, 1, &mut packet);
            packet.truncate(transmit.context("a client says nothing at first")?.size);
            packets.push(packet);
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self { packets, socket, next: 0 })
    }

    /// Sends the next one; whether it left.
    ///
    /// # Errors
    /// When the socket fails.
    pub(super) fn offer(&mut self, to: SocketAddr) -> Result<bool> {
        let packet = &self.packets[self.next % self.packets.len()];
        self.next += 1;
        sent(self.socket.send_to(packet, to))
    }
}

fn sent(result: std::io::Result<usize>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        // What came back to an address that nobody reads.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// First packets from many sources that never answer, in a thread of its own, until it is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

/// A flood pauses so long between two bursts.
const BURST_EVERY: Duration = Duration::from_millis(1);

impl Flood {
    /// Sends `per_s` of these first packets a second to `to`, from `sources` addresses of 127.0.0.0/8,
    /// none of which reads what is sent back to it: to the server they are spoofed.
    ///
    /// # Errors
    /// When sockets or a thread cannot be had.
    pub fn start(flights: FirstFlights, to: SocketAddr, per_s: f64, sources: u16) -> Result<Self> {
        let (stop, sent_sum) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut sockets = Vec::new();
        for n in 0..sources {
            let [high, low] = n.to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 32, high, low.max(1)), 0))?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
        let (ended, count) = (stop.clone(), sent_sum.clone());
        let flood = move || -> Result<()> {
            let begun = Instant::now();
            let mut n = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                let due = (begun.elapsed().as_secs_f64() * per_s) as u64;
                while n < due {
                    let at = n as usize;
                    let packet = &flights.packets[at % flights.packets.len()];
                    // The same connection ID comes from another address each time.
                    let socket = &sockets[at % sockets.len()];
                    if sent(socket.send_to(packet, to))? {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    n += 1;
                }
                std::thread::sleep(BURST_EVERY);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("flood".into()).spawn(flood)?;
        Ok(Self { stop, sent: sent_sum, thread: Some(thread) })
    }

    /// Packets that left so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; packets that left in all.
    ///
    /// # Errors
    /// What ended it before.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the flood panicked"))??;
        }
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What ended it before has been told by whoever finished it.
            let _ = thread.join();
        }
    }
}
