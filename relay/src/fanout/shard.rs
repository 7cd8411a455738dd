//! One shard: a plain thread with one socket, its sessions and its copy of every room.
//!
//! Each turn: ticks that are due, then timers, then what control says, then input, then effects.
//! A tick that is due is sent before new handshakes are worked on.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use stentor_proto::fanout::{PathSample, SessionIx};
use stentor_proto::limits;
use stentor_proto::node::{
    Closes, Fanout, NodeShard, ShardEffect, ShardStats, Tick, ToControl, ToShard,
};
use stentor_proto::wire::{ALPN_WEBTRANSPORT, CloseCode, Framing};

use crate::clock::Clock;
use crate::observe;
use crate::quic::sys::{Waiter, Waker};
use crate::quic::{Driver, DriverStats, Event, Outcome, Packet};

/// Each so many sessions let input wait a millisecond longer before it is drained, for most of it
/// is acknowledgements, and waking for each costs more than it brings. A handshake is several
/// packets in a few milliseconds and counts for sixteen.
const SESSIONS_PER_MS: usize = 200;
/// The longest that input waits.
const INPUT_WAIT: Duration = Duration::from_millis(5);
/// Rounds of events and effects in one turn.
const ROUNDS: usize = 4;

/// The ends of a shard's queues.
pub struct ShardPorts {
    /// Ticks from control.
    pub ticks: Receiver<Tick>,
    /// Messages from control.
    pub messages: Receiver<ToShard>,
    /// Messages to control.
    pub to_control: Sender<ToControl>,
    /// Wakes control.
    pub control: Waker,
    /// Packets that another shard received and that belong here.
    pub foreign: Receiver<Packet>,
    /// Where packets go that belong to another shard, by its number.
    pub others: Vec<(Sender<Packet>, Waker)>,
    /// Another certificate for those who connect from here on.
    pub tls: Receiver<Arc<quinn_proto::ServerConfig>>,
}

/// What a shard tells the rest of its process, four times a second.
#[derive(Debug, Default)]
pub struct ShardReport {
    figures: std::sync::Mutex<ShardFigures>,
    /// Packets for another shard that did not fit into its queue.
    pub drop_foreign: AtomicU64,
}

/// A shard's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardFigures {
    /// What its machine counted.
    pub shard: ShardStats,
    /// What its driver counted.
    pub driver: DriverStats,
    /// Sessions that it closed, by code.
    pub closes: Closes,
    /// Listeners, child relays, open sessions.
    pub carried: (u32, u32, u32),
    /// Listeners by variant.
    pub by_variant: [u32; 3],
}

impl ShardReport {
    /// The figures as of the last report.
    #[must_use]
    pub fn figures(&self) -> ShardFigures {
        self.figures.lock().map(|figures| *figures).unwrap_or_default()
    }
}

/// One shard.
pub struct Shard {
    driver: Driver,
    node: NodeShard,
    clock: Clock,
    ports: ShardPorts,
    waiter: Waiter,
    report: Arc<ShardReport>,
    stop: Arc<AtomicBool>,
    /// Messages that found the queue to control full.
    kept: VecDeque<ToControl>,
    /// Connections that are up.
    open: BTreeSet<SessionIx>,
    /// Connections that could not take the datagram at hand.
    busy: Vec<(SessionIx, Outcome)>,
    /// Input is not read before this.
    input_due: Instant,
    report_due: Instant,
    /// The session whose path was looked at last, and when.
    sampled: (SessionIx, Instant),
    /// Whether the last turn left something to do.
    unsettled: bool,
}

impl Shard {
    /// A shard, ready to [`Self::run`] on a thread of its own.
    #[must_use]
    pub fn new(
        driver: Driver,
        node: NodeShard,
        clock: Clock,
        ports: ShardPorts,
        waiter: Waiter,
        report: Arc<ShardReport>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            driver,
            node,
            clock,
            ports,
            waiter,
            report,
            stop,
            kept: VecDeque::new(),
            open: BTreeSet::new(),
            busy: Vec::new(),
            input_due: now,
            report_due: now,
            sampled: (SessionIx(u32::MAX), now),
            unsettled: false,
        }
    }

    /// Runs until it is told to stop. The error is the socket's.
    ///
    /// # Errors
    /// When the socket or the wait fails for good.
    pub fn run(mut self) -> std::io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.turn()?;
            self.wait()?;
        }
        self.leave();
        Ok(())
    }

    /// Tells everyone who is still here that this node goes away.
    fn leave(&mut self) {
        let now = Instant::now();
        for conn in std::mem::take(&mut self.open) {
            let code = CloseCode::Draining as u32;
            self.driver.close(now, conn, code, "this node goes away; join another");
        }
        self.driver.flush(now);
    }

    fn turn(&mut self) -> std::io::Result<()> {
        self.unsettled = false;
        self.send_kept();
        self.ticks(Instant::now());
        let now = Instant::now();
        if let Some(unix_us_at_zero) = self.clock.set(now) {
            self.node.handle_clock(unix_us_at_zero);
        }
        self.timers(now);
        self.sample_paths(now);
        for message in self.ports.messages.try_iter().take(limits::SHARD_MESSAGES_PER_TURN) {
            self.node.handle_message(self.clock.time(now), message);
        }
        if now >= self.input_due {
            let received = self.driver.receive(now, limits::PACKETS_PER_TURN)?;
            self.unsettled |= !received.drained;
            if received.drained {
                let packets = self.driver.connections() + 16 * self.driver.handshaking();
                let wait = packets / SESSIONS_PER_MS;
                let wait = Duration::from_millis(wait as u64).min(INPUT_WAIT);
                self.input_due = now + wait;
            }
        }
        if let Ok(config) = self.ports.tls.try_recv() {
            self.driver.set_server_config(Some(config));
        }
        for packet in self.ports.foreign.try_iter().take(limits::PACKETS_PER_TURN) {
            self.driver.inject(now, packet);
        }
        // What is sent may end a wait, and what is closed is an event: a few rounds settle it, and
        // what is left is the next turn's.
        let mut settled = false;
        for _ in 0..ROUNDS {
            let events = self.events(now);
            let effects = self.effects(now);
            self.driver.flush(now);
            settled = events + effects == 0;
            if settled {
                break;
            }
        }
        self.unsettled |=
            !settled || !self.ports.messages.is_empty() || !self.ports.foreign.is_empty();
        Ok(())
    }

    fn ticks(&mut self, now: Instant) {
        for _ in 0..limits::TICKS_PER_TURN {
            let Ok(tick) = self.ports.ticks.try_recv() else { return };
            let now = Instant::now().max(now);
            if let Some(fanout) = self.node.handle_tick(self.clock.time(now), &tick) {
                self.send(now, fanout);
            }
        }
        self.unsettled |= !self.ports.ticks.is_empty();
    }

    fn timers(&mut self, now: Instant) {
        self.driver.handle_timeouts(now);
        let time = self.clock.time(now);
        if time >= self.node.poll_timeout() {
            self.node.handle_timeout(time);
            while let Some(fanout) = self.node.poll_beacon(time) {
                self.send(now, fanout);
            }
        }
        if now >= self.report_due {
            self.report_due = now + observe::EVERY;
            if let Ok(mut figures) = self.report.figures.lock() {
                *figures = ShardFigures {
                    shard: *self.node.stats(),
                    closes: *self.node.closes(),
                    driver: *self.driver.stats(),
                    carried: self.node.carried(),
                    by_variant: self.node.listeners_by_variant(),
                };
            }
        }
    }

    /// Looks at the paths of as many sessions as the time since the last look is worth, in turn: each
    /// session's own loss decides how much redundancy it is sent.
    fn sample_paths(&mut self, now: Instant) {
        let (mut last, at) = self.sampled;
        let every = limits::PATH_SAMPLE_EVERY;
        let since = now.saturating_duration_since(at).min(every);
        let due = self.open.len() as u128 * since.as_micros() / every.as_micros();
        let due = usize::try_from(due)
            .map_or(limits::PATHS_PER_TURN, |due| due.min(limits::PATHS_PER_TURN));
        if due == 0 {
            return;
        }
        let time = self.clock.time(now);
        for _ in 0..due {
            let after = (Bound::Excluded(last), Bound::Unbounded);
            let next = self.open.range(after).next().or_else(|| self.open.first());
            let Some(&conn) = next else { break };
            last = conn;
            if let Some(path) = self.driver.conn_stats(conn) {
                let (sent, lost) = (path.sent_packets, path.lost_packets);
                let sample = PathSample { sent, lost, rtt: path.rtt, min_rtt: path.min_rtt };
                self.node.handle_path(time, conn, sample);
            }
        }
        self.sampled = (last, now);
    }

    /// Sends a tick or a beacon to everyone it is for: one copy of its bytes for all.
    fn send(&mut self, now: Instant, fanout: Fanout) {
        let busy = &mut self.busy;
        let (mut offered, mut size) = (0, 0);
        for (list, bytes) in self.node.fanout(fanout) {
            offered += list.len() as u64;
            size += (list.len() * bytes.len()) as u64;
            self.driver.send_to_all(now, list, bytes, &mut |ix, outcome| busy.push((ix, outcome)));
        }
        self.driver.flush(now);
        self.node.handle_offered(self.clock.time(now), offered, size);
        for (ix, outcome) in self.busy.drain(..) {
            let number = fanout.number;
            match outcome {
                Outcome::Full => self.node.handle_busy(ix, fanout, number),
                Outcome::Waiting => self.node.handle_busy(ix, fanout, number.saturating_add(1)),
                Outcome::Sent | Outcome::Closed | Outcome::TooLarge => {}
            }
        }
    }

    fn events(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some(event) = self.driver.poll_event() {
            count += 1;
            let time = self.clock.time(now);
            match event {
                Event::Connected { conn, peer, alpn } => {
                    self.open.insert(conn);
                    let framing = match alpn.as_ref() == ALPN_WEBTRANSPORT {
                        true => Framing::WebTransport,
                        false => Framing::Quic,
                    };
                    self.node.handle_open(time, conn, framing);
                    self.node.handle_address(conn, peer.ip());
                }
                Event::Control { conn, bytes } => self.node.handle_control(time, conn, &bytes),
                Event::ControlFinished { conn } => self.node.handle_control_finished(conn),
                Event::Datagram { conn, bytes, .. } => {
                    self.node.handle_datagram(time, conn, bytes);
                }
                Event::ControlWritten { conn } => self.node.handle_control_written(time, conn),
                Event::Unblocked { conn } => self.catch_up(now, conn),
                Event::Closed { conn, .. } => {
                    self.open.remove(&conn);
                    self.node.handle_closed(time, conn);
                }
                Event::Foreign { shard, packet } => self.pass_on(shard, packet),
            }
        }
        count
    }

    fn effects(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some(effect) = self.node.poll_effect() {
            count += 1;
            match effect {
                ShardEffect::SendControl { session, bytes } => {
                    if self.driver.send_control(session, bytes).is_err() {
                        // Its path may be slow: another node may serve it.
                        let code = CloseCode::Full as u32;
                        self.driver.close(now, session, code, "control messages are not read");
                    }
                }
                ShardEffect::AwaitControl { session } => self.driver.await_control(session),
                ShardEffect::SendDatagram { session, bytes } => {
                    if !matches!(
                        self.driver.send_datagram(now, session, bytes),
                        Outcome::Sent | Outcome::Waiting
                    ) {
                        self.node.handle_shed();
                    }
                }
                ShardEffect::Close { session, close } => {
                    self.driver.close(now, session, close.code as u32, &close.reason);
                }
                ShardEffect::ToControl(message) => self.tell(message),
            }
        }
        count
    }

    /// Serves a session that lagged from the ring, until its connection is full again.
    fn catch_up(&mut self, now: Instant, conn: SessionIx) {
        while let Some((number, bytes)) = self.node.handle_ready(conn) {
            match self.driver.send_datagram(now, conn, bytes) {
                Outcome::Sent => {}
                Outcome::Full => return self.node.handle_unsent(conn, number),
                Outcome::Waiting | Outcome::Closed | Outcome::TooLarge => return,
            }
        }
    }

    /// Puts a message into the queue to control. Speech that does not fit is dropped, as on the
    /// network; what says who came and who left waits for its turn.
    fn tell(&mut self, message: ToControl) {
        if !self.kept.is_empty() && !matches!(message, ToControl::Speech { .. }) {
            self.keep(message);
            return;
        }
        match self.ports.to_control.try_send(message) {
            Ok(()) => self.ports.control.wake(),
            Err(TrySendError::Full(message)) if !matches!(message, ToControl::Speech { .. }) => {
                self.keep(message);
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.node.handle_control_full();
            }
        }
    }

    fn keep(&mut self, message: ToControl) {
        if self.kept.len() < limits::TO_CONTROL {
            self.kept.push_back(message);
        } else {
            self.node.handle_control_full();
        }
    }

    /// Sends what waited for a place in the queue to control.
    fn send_kept(&mut self) {
        while let Some(message) = self.kept.pop_front() {
            if let Err(TrySendError::Full(message)) = self.ports.to_control.try_send(message) {
                self.kept.push_front(message);
                return;
            }
            self.ports.control.wake();
        }
    }

    fn pass_on(&self, shard: u16, packet: Packet) {
        let sent = self.ports.others.get(usize::from(shard)).is_some_and(|(queue, waker)| {
            let sent = queue.try_send(packet).is_ok();
            waker.wake();
            sent
        });
        if !sent {
            self.report.drop_foreign.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wait(&mut self) -> std::io::Result<()> {
        let node = self.clock.instant(self.node.poll_timeout());
        let now = Instant::now();
        let paused = self.input_due > now;
        let input = paused.then_some(self.input_due);
        let deadlines = [node, self.driver.next_timeout(), input, Some(self.report_due)];
        let due = deadlines.into_iter().flatten().min().unwrap_or(self.report_due);
        let due = if self.unsettled { now } else { due };
        let socket = [self.driver.socket()];
        let watched = if paused { &[][..] } else { &socket[..] };
        self.waiter.wait(watched, Some(due.saturating_duration_since(now)))?;
        Ok(())
    }
}
