//! The control thread: the uplinks to the origin and the parents, and [`NodeControl`].
//!
//! A thread of its own, not a task: a tick passes through it on its way to the shards, and its
//! delay is the hop's.

mod events;
mod resolve;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use stentor_proto::limits;
use stentor_proto::node::{
    ControlEffect, ControlStats, LinkId, News, NodeControl, NodeView, ToControl, ToShard,
};

pub use self::events::{EventLog, fingerprint};
use tokio::sync::watch;

use self::resolve::{Resolved, Resolver};
use tokio::sync::broadcast;

use crate::clock::Clock;
use crate::command::Command;
use crate::quic::sys::{Waiter, Waker};
use crate::quic::{ConnId, Driver, DriverStats, Event};
use crate::{metrics, observe};

/// Ticks over which the time of collecting is given: ten seconds at 20 ms.
const COLLECTED: usize = 500;

/// The ends of control's queues to one shard.
pub struct ShardLink {
    /// Ticks.
    pub ticks: Sender<stentor_proto::node::Tick>,
    /// Messages.
    pub messages: Sender<ToShard>,
    /// Wakes the shard.
    pub waker: Waker,
}

/// What control tells the rest of its process, four times a second.
#[derive(Debug, Default)]
pub struct ControlReport {
    /// What the node looks like.
    pub view: ArcSwap<NodeView>,
    /// The counters.
    pub stats: ArcSwap<ControlReportStats>,
}

/// Counters of the control thread.
#[derive(Clone, Debug, Default)]
pub struct ControlReportStats {
    /// The machine's own.
    pub control: ControlStats,
    /// Frames that the rooms dropped, at the origin: cause and count.
    pub rooms: Vec<(&'static str, u64)>,
    /// Ticks that a shard's full queue dropped.
    pub drop_tick_queue: u64,
    /// Messages that a shard's full queue dropped.
    pub drop_shard_queue: u64,
    /// Lines of `--events` that were dropped because the disk was slow.
    pub drop_events: u64,
    /// What the uplinks' driver counted.
    pub uplinks: DriverStats,
    /// Ticks with frames, and frames in them, since the start (at the origin).
    pub spoken: (u64, u64),
    /// How long ticks collected: p50 and p99 of the last ten seconds, in microseconds.
    pub collect_us: (u32, u32),
}

/// How uplinks are made: certificates to trust and transport settings.
pub type ClientConfig = quinn_proto::ClientConfig;

/// The control thread of a node.
pub struct Control {
    node: NodeControl,
    clock: Clock,
    /// Absent at an origin, which has no uplinks.
    uplinks: Option<Uplinks>,
    shards: Vec<ShardLink>,
    messages: Receiver<ToControl>,
    commands: Receiver<Command>,
    news: broadcast::Sender<Arc<News>>,
    waiter: Waiter,
    report: Arc<ControlReport>,
    events: Option<EventLog>,
    certificate_hashes: watch::Receiver<Vec<String>>,
    stop: Arc<AtomicBool>,
    drain: Arc<OnceLock<Duration>>,
    #[cfg(feature = "fault-injection")]
    park: Arc<AtomicBool>,
    draining: bool,
    stats: ControlReportStats,
    /// How long the last ticks collected, in microseconds.
    collected: VecDeque<u32>,
    collect_seconds: ::metrics::Histogram,
    report_due: Instant,
}

/// The uplinks' sessions.
pub struct Uplinks {
    driver: Driver,
    client: ClientConfig,
    resolver: Resolver,
    by_link: BTreeMap<LinkId, ConnId>,
    by_conn: BTreeMap<ConnId, LinkId>,
}

impl Uplinks {
    /// Uplinks over `driver`; `waker` wakes the control thread when a name is resolved.
    #[must_use]
    pub fn new(driver: Driver, client: ClientConfig, waker: Waker) -> Self {
        let resolver = Resolver::new(waker);
        Self { driver, client, resolver, by_link: BTreeMap::new(), by_conn: BTreeMap::new() }
    }
}

/// What the control thread is given.
pub struct ControlPorts {
    /// One for each shard, in their order.
    pub shards: Vec<ShardLink>,
    /// Messages from all shards.
    pub messages: Receiver<ToControl>,
    /// Commands of the HTTP API; at a relay there are none.
    pub commands: Receiver<Command>,
    /// Whoever follows what happens in an origin's rooms.
    pub news: broadcast::Sender<Arc<News>>,
    /// What the thread waits on.
    pub waiter: Waiter,
    /// Where it reports.
    pub report: Arc<ControlReport>,
    /// Where it writes its events, if anywhere.
    pub events: Option<EventLog>,
    /// Hashes of the certificate that the node shows.
    pub certificate_hashes: watch::Receiver<Vec<String>>,
    /// Set to end the thread.
    pub stop: Arc<AtomicBool>,
    /// Set to drain the node.
    pub drain: Arc<OnceLock<Duration>>,
    /// Whether the control plane is held still.
    #[cfg(feature = "fault-injection")]
    pub park: Arc<AtomicBool>,
}

impl Control {
    /// The control thread of a node, ready to [`Self::run`].
    #[must_use]
    pub fn new(
        mut node: NodeControl,
        clock: Clock,
        uplinks: Option<Uplinks>,
        ports: ControlPorts,
    ) -> Self {
        let mut certificate_hashes = ports.certificate_hashes;
        node.handle_certificate_hashes(certificate_hashes.borrow_and_update().clone());
        Self {
            node,
            clock,
            uplinks,
            certificate_hashes,
            shards: ports.shards,
            messages: ports.messages,
            commands: ports.commands,
            news: ports.news,
            waiter: ports.waiter,
            report: ports.report,
            events: ports.events,
            stop: ports.stop,
            drain: ports.drain,
            #[cfg(feature = "fault-injection")]
            park: ports.park,
            draining: false,
            stats: ControlReportStats::default(),
            collected: VecDeque::with_capacity(COLLECTED),
            collect_seconds: metrics::COLLECT_SECONDS.histogram(&[]),
            report_due: Instant::now(),
        }
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the socket or the wait fails for good.
    pub fn run(mut self) -> std::io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.turn()?;
            self.wait()?;
        }
        if let Some(uplinks) = &mut self.uplinks {
            uplinks.driver.flush(Instant::now());
        }
        Ok(())
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        let time = self.clock.time(now);
        if let Some(unix_us_at_zero) = self.clock.set(now) {
            tracing::warn!("the machine's clock has been set");
            self.node.handle_clock(unix_us_at_zero);
        }
        #[cfg(feature = "fault-injection")]
        self.node.park(self.park.load(Ordering::Relaxed));
        if let Some(&within) = self.drain.get().filter(|_| !self.draining) {
            self.draining = true;
            self.node.handle_drain(time, within);
        }
        // What is closed has changed for the last time.
        if self.certificate_hashes.has_changed().unwrap_or(false) {
            let hashes = self.certificate_hashes.borrow_and_update().clone();
            self.node.handle_certificate_hashes(hashes);
        }
        if let Some(uplinks) = &mut self.uplinks {
            uplinks.driver.receive(now, limits::PACKETS_PER_TURN)?;
            uplinks.driver.handle_timeouts(now);
        }
        self.link_events(now);
        for _ in 0..limits::CONTROL_MESSAGES_PER_TURN {
            let Ok(message) = self.messages.try_recv() else { break };
            self.node.handle_message(time, message);
            self.pass_ticks(0);
        }
        if let NodeControl::Origin(origin) = &mut self.node {
            for command in self.commands.try_iter().take(limits::COMMANDS_PER_TURN) {
                command(origin, time);
            }
            self.pass_ticks(0);
        }
        if time >= self.node.poll_timeout() {
            self.node.handle_timeout(time);
            self.pass_ticks(0);
        }
        self.effects(now);
        if let Some(uplinks) = &mut self.uplinks {
            uplinks.driver.flush(now);
        }
        if now >= self.report_due {
            self.report_due = now + observe::EVERY;
            self.publish(now);
        }
        Ok(())
    }

    fn link_events(&mut self, now: Instant) {
        let time = self.clock.time(now);
        while let Some(uplinks) = &mut self.uplinks {
            let Some(event) = uplinks.driver.poll_event() else { return };
            match event {
                Event::Connected { conn, .. } => {
                    if let Some(&link) = uplinks.by_conn.get(&conn) {
                        self.node.handle_link_up(time, link);
                    }
                }
                Event::Control { conn, bytes } => {
                    if let Some(&link) = uplinks.by_conn.get(&conn) {
                        self.node.handle_link_control(time, link, &bytes);
                    }
                }
                Event::Datagram { conn, bytes, received_ns } => {
                    if let Some(&link) = uplinks.by_conn.get(&conn) {
                        self.node.handle_link_datagram(time, link, bytes);
                        self.pass_ticks(received_ns);
                    }
                }
                Event::Closed { conn, reason } => {
                    if let Some(link) = uplinks.by_conn.remove(&conn) {
                        uplinks.by_link.remove(&link);
                        self.node.handle_link_down(time, link, &reason.to_string());
                    }
                }
                Event::ControlFinished { .. }
                | Event::ControlWritten { .. }
                | Event::Unblocked { .. }
                | Event::Foreign { .. } => {}
            }
        }
    }

    /// Hands the ticks that control let through to every shard, and wakes them.
    fn pass_ticks(&mut self, received_ns: u64) {
        let mut passed = false;
        while let Some(tick) = self.node.poll_tick() {
            passed = true;
            if let Some(events) = &self.events {
                events.tick(&tick, received_ns);
            }
            for shard in &self.shards {
                if shard.ticks.try_send(tick.clone()).is_err() {
                    self.stats.drop_tick_queue += 1;
                }
            }
        }
        if passed {
            for shard in &self.shards {
                shard.waker.wake();
            }
        }
        if let NodeControl::Origin(origin) = &mut self.node {
            while let Some((waited_us, frames)) = origin.poll_collected() {
                self.stats.spoken.0 += 1;
                self.stats.spoken.1 += u64::from(frames);
                if self.collected.len() == COLLECTED {
                    self.collected.pop_front();
                }
                self.collected.push_back(waited_us);
                self.collect_seconds.record(f64::from(waited_us) / 1e6);
            }
        }
    }

    fn effects(&mut self, now: Instant) {
        if let NodeControl::Origin(origin) = &mut self.node {
            while let Some(news) = origin.poll_news() {
                // Where nobody follows, nobody is told.
                let _ = self.news.send(Arc::new(news));
            }
        }
        self.resolved(now);
        while let Some(effect) = self.node.poll_effect() {
            match effect {
                ControlEffect::ToShard { shard, message } => {
                    self.send_to_shard(usize::from(shard), message);
                }
                ControlEffect::ToShards(message) => {
                    for shard in 0..self.shards.len() {
                        self.send_to_shard(shard, message.clone());
                    }
                }
                ControlEffect::Note { warn: true, text } => tracing::warn!("{text}"),
                ControlEffect::Note { warn: false, text } => tracing::info!("{text}"),
                ControlEffect::Connect { link, address } => {
                    if let Some(uplinks) = &mut self.uplinks {
                        uplinks.resolver.resolve(link, address);
                    }
                    self.resolved(now);
                }
                ControlEffect::Disconnect { link, close } => {
                    if let Some(uplinks) = &mut self.uplinks
                        && let Some(conn) = uplinks.by_link.remove(&link)
                    {
                        uplinks.by_conn.remove(&conn);
                        uplinks.driver.close(now, conn, close.code as u32, &close.reason);
                    }
                }
                ControlEffect::SendControl { link, bytes } => self.send_control(now, link, bytes),
                ControlEffect::SendDatagram { link, bytes } => {
                    if let Some(uplinks) = &mut self.uplinks
                        && let Some(&conn) = uplinks.by_link.get(&link)
                    {
                        uplinks.driver.send_datagram(now, conn, bytes);
                    }
                }
            }
        }
    }

    fn send_control(&mut self, now: Instant, link: LinkId, bytes: bytes::Bytes) {
        let Some(uplinks) = &mut self.uplinks else { return };
        let Some(&conn) = uplinks.by_link.get(&link) else { return };
        if uplinks.driver.send_control(conn, bytes).is_err() {
            let code = stentor_proto::wire::CloseCode::Internal as u32;
            uplinks.driver.close(now, conn, code, "the parent does not read its control stream");
        }
    }

    /// Opens the sessions whose addresses are known by now.
    fn resolved(&mut self, now: Instant) {
        let time = self.clock.time(now);
        while let Some(uplinks) = &mut self.uplinks {
            let Some(Resolved { link, host, address }) = uplinks.resolver.poll() else { return };
            let connected = address.and_then(|address| {
                uplinks
                    .driver
                    .connect(now, uplinks.client.clone(), address, &host)
                    .map_err(|error| error.to_string())
            });
            match connected {
                Ok(conn) => {
                    uplinks.by_link.insert(link, conn);
                    uplinks.by_conn.insert(conn, link);
                }
                Err(reason) => self.node.handle_link_down(time, link, &reason),
            }
        }
    }

    fn send_to_shard(&mut self, shard: usize, message: ToShard) {
        let Some(link) = self.shards.get(shard) else { return };
        if link.messages.try_send(message).is_err() {
            self.stats.drop_shard_queue += 1;
        }
        link.waker.wake();
    }

    fn publish(&mut self, now: Instant) {
        let mut sorted: Vec<u32> = self.collected.iter().copied().collect();
        sorted.sort_unstable();
        let at = |share: usize| sorted.get(sorted.len().saturating_sub(1) * share / 100).copied();
        self.stats.collect_us = (at(50).unwrap_or(0), at(99).unwrap_or(0));
        self.stats.control = self.node.stats();
        self.stats.drop_events = self.events.as_ref().map_or(0, EventLog::dropped);
        self.stats.uplinks = self.uplinks.as_ref().map(|u| *u.driver.stats()).unwrap_or_default();
        if let NodeControl::Origin(origin) = &self.node {
            self.stats.rooms = origin.room_counters().collect();
        }
        self.report.stats.store(Arc::new(self.stats.clone()));
        self.report.view.store(Arc::new(self.node.view(self.clock.time(now))));
    }

    fn wait(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        let node = self.clock.instant(self.node.poll_timeout());
        let driver = self.uplinks.as_mut().and_then(|uplinks| uplinks.driver.next_timeout());
        let due = [node, driver, Some(self.report_due)].into_iter().flatten().min();
        let due = due.unwrap_or(self.report_due);
        // The waker was reset for all that waits: what one turn did not reach is the next one's.
        let due = if self.messages.is_empty() && self.commands.is_empty() { due } else { now };
        let timeout = Some(due.saturating_duration_since(now));
        match &self.uplinks {
            Some(uplinks) => self.waiter.wait(&[uplinks.driver.socket()], timeout)?,
            None => self.waiter.wait(&[], timeout)?,
        };
        Ok(())
    }
}
