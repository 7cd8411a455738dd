//! What a tick costs the allocator: nothing of ours for each listener.
//!
//! The fan-out runs as a shard runs it, over real connections. Each allocation in it is traced to
//! whoever made it: quinn-proto (which notes every packet until it is acknowledged) or us.
#![allow(unsafe_code, reason = "a counting allocator is a GlobalAlloc, which is an unsafe trait")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stentor_lab::crowd::{Acks, Crowd, CrowdPlan};
use stentor_proto::admission::DoorSettings;
use stentor_proto::fanout::{PathSample, SessionIx};
use stentor_proto::node::{NodeShard, ShardEffect, ShardSettings, Tick, ToShard};
use stentor_proto::token::Verifier;
use stentor_proto::wire::{ALPN, Framing, Subscribed, TickFlags, TickKey, record_bytes};
use stentor_relay::clock::Clock;
use stentor_relay::quic::config::{SharedKeys, TransportSettings, server_config, server_tls};
use stentor_relay::quic::sys::{BindOptions, bind};
use stentor_relay::quic::{Driver, DriverSettings, Event};

/// Counts the allocations of this thread while it is told to.
struct Counting;

thread_local! {
    static TRACING: Cell<bool> = const { Cell::new(false) };
    static OURS: Cell<u64> = const { Cell::new(0) };
    static QUINN: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from `alloc` or `realloc`, that is from the system.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn note() {
    // A thread that ends has no cell any more, and nothing to count.
    if TRACING.try_with(|tracing| tracing.replace(false)) != Ok(true) {
        return;
    }
    let trace = Backtrace::force_capture().to_string();
    let counter = if trace.contains("quinn_proto::") { &QUINN } else { &OURS };
    counter.with(|count| count.set(count.get() + 1));
    TRACING.with(|tracing| tracing.set(true));
}

/// A shard without its thread: the same machine, driver and calls.
struct Server {
    driver: Driver,
    node: NodeShard,
    clock: Clock,
    number: u32,
}

impl Server {
    fn start() -> (Self, SocketAddr, rustls::RootCertStore) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let tls = server_tls(vec![certificate.der().clone()], secret.into(), &[ALPN]).unwrap();
        let keys = SharedKeys::random().unwrap();
        let server = server_config(tls, &keys, &TransportSettings::default()).unwrap();
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default()).unwrap();
        let address = socket.local_addr().unwrap();
        let settings = DriverSettings::server(server, &keys, 0, 1);
        let driver = Driver::new(socket, settings, Instant::now()).unwrap();
        let clock = Clock::start();
        let settings = ShardSettings {
            name: "r".into(),
            shards: 1,
            pass_key: None,
            shard: 0,
            origin: false,
            agent: "test".into(),
            capacity: 1_000,
            open_relays: false,
            unix_us_at_zero: clock.unix_us_at_zero(),
            seed: 1,
            redundancy: true,
            repair: true,
            door: DoorSettings::default(),
            signer: None,
        };
        let mut node = NodeShard::new(settings, Verifier::default(), clock.time(Instant::now()));
        let room = Subscribed {
            name: "hall".into(),
            id: 1,
            title: String::new(),
            public: true,
            epoch: 1,
            newest: 0,
            tick_ms: 20,
            redundancy: 0,
        };
        node.handle_message(clock.time(Instant::now()), ToShard::RoomUp(room));
        (Self { driver, node, clock, number: 0 }, address, roots)
    }

    fn pump(&mut self) {
        let now = Instant::now();
        let time = self.clock.time(now);
        self.driver.handle_timeouts(now);
        self.driver.receive(now, 4_096).unwrap();
        while let Some(event) = self.driver.poll_event() {
            match event {
                Event::Connected { conn, .. } => self.node.handle_open(time, conn, Framing::Quic),
                Event::Control { conn, bytes } => self.node.handle_control(time, conn, &bytes),
                Event::Datagram { conn, bytes, .. } => self.node.handle_datagram(time, conn, bytes),
                Event::Closed { conn, .. } => self.node.handle_closed(time, conn),
                _ => {}
            }
        }
        while let Some(effect) = self.node.poll_effect() {
            match effect {
                ShardEffect::SendControl { session, bytes } => {
                    self.driver.send_control(session, bytes).unwrap();
                }
                ShardEffect::SendDatagram { session, bytes } => {
                    self.driver.send_datagram(now, session, bytes);
                }
                ShardEffect::Close { close, .. } => panic!("a listener was refused: {close}"),
                ShardEffect::AwaitControl { session } => {
                    self.node.handle_control_written(time, session);
                }
                ShardEffect::ToControl(_) => {}
            }
        }
        self.driver.flush(now);
    }

    /// One tick to everyone; returns to how many.
    fn tick(&mut self) -> usize {
        self.number += 1;
        let now = Instant::now();
        let key = TickKey { room: 1, epoch: 1, number: self.number };
        let record = record_bytes(self.number, 0, 20, TickFlags::default(), &[7; 130]);
        let tick = Tick { key, record, tick_ms: 20, pending: 0, replay: false };
        let fanout = self.node.handle_tick(self.clock.time(now), &tick).unwrap();
        let mut sent = 0;
        for (list, bytes) in self.node.fanout(fanout) {
            sent += list.len();
            self.driver.send_to_all(now, list, bytes, &mut |conn, outcome| {
                panic!("{conn:?} could not take its datagram: {outcome:?}");
            });
        }
        self.driver.flush(now);
        // Every path is looked at, as the shard does once a second.
        for conn in (0..sent as u32).map(SessionIx) {
            let path = self.driver.conn_stats(conn).unwrap();
            let (sent, lost) = (path.sent_packets, path.lost_packets);
            let sample = PathSample { sent, lost, rtt: path.rtt, min_rtt: path.min_rtt };
            self.node.handle_path(self.clock.time(now), conn, sample);
        }
        sent
    }
}

/// Allocations of ours and of quinn-proto in `ticks` ticks to `listeners` listeners.
fn count(listeners: usize, ticks: u64) -> (u64, u64) {
    let (mut server, address, roots) = Server::start();
    let (joined, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let crowd = {
        let (joined, stop) = (joined.clone(), stop.clone());
        std::thread::spawn(move || {
            let plan = CrowdPlan {
                address,
                host: "127.0.0.1".into(),
                roots,
                room: "hall".into(),
                tokens: Vec::new(),
                acks: Acks::Patient,
                sockets: 2,
                at_once: 16,
                rehomes: false,
                reports: false,
            };
            let mut crowd = Crowd::new(plan).unwrap();
            crowd.grow(listeners, Duration::from_secs(60)).unwrap();
            joined.store(true, Ordering::Relaxed);
            while !stop.load(Ordering::Relaxed) {
                crowd.listen(Duration::from_millis(10)).unwrap();
            }
            crowd.datagrams()
        })
    };
    while !joined.load(Ordering::Relaxed) {
        assert!(!crowd.is_finished(), "the crowd ended before it had joined");
        server.pump();
        std::thread::sleep(Duration::from_millis(1));
    }
    let pause = |server: &mut Server| {
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            server.pump();
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    // Buffers that are kept grow during the first ticks.
    for _ in 0..10 {
        assert_eq!(server.tick(), listeners);
        pause(&mut server);
    }
    OURS.set(0);
    QUINN.set(0);
    for _ in 0..ticks {
        TRACING.set(true);
        let sent = server.tick();
        TRACING.set(false);
        assert_eq!(sent, listeners);
        pause(&mut server);
    }
    stop.store(true, Ordering::Relaxed);
    let datagrams = crowd.join().unwrap();
    assert!(datagrams >= ticks * listeners as u64, "the ticks really went out: {datagrams}");
    (OURS.get(), QUINN.get())
}

#[test]
fn a_listeners_tick_costs_no_allocation_of_ours() {
    let ticks = 40;
    let (few_ours, few_quinn) = count(8, ticks);
    let (many_ours, many_quinn) = count(40, ticks);
    let per_tick = |n: u64| n as f64 / ticks as f64;
    println!(
        "allocations a tick: ours {:.2} with 8 listeners, {:.2} with 40; \
         quinn-proto {:.2} and {:.2}, that is {:.3} a listener",
        per_tick(few_ours),
        per_tick(many_ours),
        per_tick(few_quinn),
        per_tick(many_quinn),
        per_tick(many_quinn.saturating_sub(few_quinn)) / 32.0,
    );
    assert!(few_ours > 0, "the tick itself is built: a count of nothing would prove nothing");
    assert_eq!(many_ours, few_ours, "what is ours does not grow with the listeners");
}
