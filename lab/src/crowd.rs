//! A crowd of real QUIC listeners in one thread, over the relay's own driver.
//!
//! Each has its own handshake, session, token and receive window, and acknowledges what it gets. It
//! does not decode; listeners that do are `stentor-client`'s.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quinn_proto::crypto::rustls::QuicClientConfig;
use stentor_client::patience::{PATIENCE, patient};
use stentor_proto::receive::Reception;
use stentor_proto::wire::{
    ALPN, ClientMessage, ControlDecoder, FEATURES, Framing, Hello, Role, ServerMessage, VERSION,
    encode_control,
};
use stentor_proto::{Time, limits};
use stentor_relay::quic::config::{SharedKeys, TransportSettings, client_config_over, client_tls};
use stentor_relay::quic::sys::{BindOptions, bind};
use stentor_relay::quic::{ConnId, Driver, DriverSettings, Event};

/// Packets read from one socket in one turn.
const PACKETS_PER_TURN: usize = 4_096;
/// How long the thread sleeps between turns: input gathers, as in a busy client.
const TURN: Duration = Duration::from_micros(500);

/// What a crowd is to do.
#[derive(Clone, Debug)]
pub struct CrowdPlan {
    /// The relay.
    pub address: SocketAddr,
    /// The host that its certificate names.
    pub host: String,
    /// Whom to trust.
    pub roots: rustls::RootCertStore,
    /// The room.
    pub room: String,
    /// Tokens, used in turn; none for anonymous listeners.
    pub tokens: Vec<String>,
    /// How they acknowledge.
    pub acks: Acks,
    /// UDP sockets that the listeners share.
    pub sockets: usize,
    /// Handshakes under way at once.
    pub at_once: usize,
}

/// How a listener's client acknowledges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// As `stentor listen` does: it announces that it acknowledges rarely.
    #[default]
    Patient,
    /// As a client on plain quinn does.
    Plain,
}

/// One listener.
struct Member {
    started: Instant,
    decoder: ControlDecoder,
    reception: Option<Reception>,
    joined: Option<Duration>,
    first_tick: Option<Duration>,
    /// Bit i: tick `Crowd::base + i` was received.
    ticks: Vec<u64>,
    closed: Option<String>,
}

struct Desk {
    driver: Driver,
    members: Vec<Option<Member>>,
}

/// A crowd of listeners.
pub struct Crowd {
    plan: CrowdPlan,
    client: quinn_proto::ClientConfig,
    desks: Vec<Desk>,
    zero: Instant,
    hellos: Vec<bytes::Bytes>,
    hello: usize,
    base: Option<u32>,
    newest: u32,
    wanted: usize,
    opened: usize,
    under_way: usize,
    joined: usize,
    failed: Vec<String>,
    /// Tick and kernel receive time of one listener in each `SAMPLE`.
    arrivals: Vec<(u32, u64)>,
    keep_arrivals: bool,
    datagrams: u64,
    /// What those who left had counted.
    done: Vec<Member>,
}

/// One listener in so many notes when its ticks arrive.
const SAMPLE: u32 = 10;

/// How the crowd's joins went.
#[derive(Clone, Debug, Default)]
pub struct Joins {
    /// From the first packet to the welcome, in milliseconds.
    pub join_ms: Vec<f64>,
    /// From the first packet to the first tick, in milliseconds.
    pub first_tick_ms: Vec<f64>,
}

/// What one listener of a crowd received.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// The first tick.
    pub first: u32,
    /// The last tick.
    pub last: u32,
    /// Distinct ticks.
    pub ticks: u64,
    /// From the first packet to the welcome, in milliseconds.
    pub join_ms: f64,
    /// From the first packet to the first tick, in milliseconds.
    pub first_tick_ms: f64,
}

impl Crowd {
    /// A crowd without listeners.
    ///
    /// # Errors
    /// When TLS or a socket is not to be had.
    pub fn new(plan: CrowdPlan) -> Result<Self> {
        let tls = client_tls(plan.roots.clone(), &[ALPN])?;
        let tls = QuicClientConfig::try_from(tls)?;
        let crypto: Arc<dyn quinn_proto::crypto::ClientConfig> = match plan.acks {
            Acks::Patient => patient(tls, PATIENCE),
            Acks::Plain => Arc::new(tls),
        };
        let client = client_config_over(crypto, &TransportSettings::default())?;
        let now = Instant::now();
        let mut desks = Vec::new();
        for _ in 0..plan.sockets.max(1) {
            let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default())?;
            let keys = SharedKeys::random()?;
            let driver = Driver::new(socket, DriverSettings::client(&keys), now)?;
            desks.push(Desk { driver, members: Vec::new() });
        }
        let hellos = match plan.tokens.as_slice() {
            [] => vec![hello(&plan.room, None)],
            tokens => tokens.iter().map(|token| hello(&plan.room, Some(token))).collect(),
        };
        Ok(Self {
            client,
            desks,
            zero: now,
            hellos,
            hello: 0,
            plan,
            base: None,
            newest: 0,
            wanted: 0,
            opened: 0,
            under_way: 0,
            joined: 0,
            failed: Vec::new(),
            arrivals: Vec::new(),
            keep_arrivals: false,
            datagrams: 0,
            done: Vec::new(),
        })
    }

    /// Brings the crowd to `listeners`, each with its own handshake, within `deadline`.
    ///
    /// # Errors
    /// When one is refused or the time runs out.
    pub fn grow(&mut self, listeners: usize, deadline: Duration) -> Result<()> {
        self.wanted = listeners;
        let until = Instant::now() + deadline;
        while self.joined < self.wanted {
            self.turn()?;
            if let Some(why) = self.failed.first() {
                bail!("a listener was lost: {why}");
            }
            if Instant::now() > until {
                bail!("{} of {} listeners joined in {deadline:?}", self.joined, self.wanted);
            }
        }
        Ok(())
    }

    /// Listens for `time`.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn listen(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    /// Joins, leaves and joins again for `time`, as fast as handshakes complete, with `at_once`
    /// under way. Returns how many joins completed.
    ///
    /// # Errors
    /// When a socket fails or a listener is refused.
    pub fn churn(&mut self, time: Duration) -> Result<usize> {
        let until = Instant::now() + time;
        let before = self.joined + self.done.len();
        self.wanted = usize::MAX;
        while Instant::now() < until {
            self.turn()?;
            self.leave_joined();
        }
        self.wanted = 0;
        if let Some(why) = self.failed.first() {
            bail!("a listener was refused: {why}");
        }
        Ok(self.joined + self.done.len() - before)
    }

    /// Listeners inside.
    #[must_use]
    pub const fn joined(&self) -> usize {
        self.joined
    }

    /// Whether each listener heard anything at all, and how many did.
    #[must_use]
    pub fn hearing(&self) -> usize {
        self.members().filter(|m| m.first_tick.is_some() && m.closed.is_none()).count()
    }

    /// Datagrams that reached the crowd.
    #[must_use]
    pub const fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// The newest tick that reached anyone.
    #[must_use]
    pub const fn newest(&self) -> u32 {
        self.newest
    }

    /// Packets and bytes that the crowd's sockets received.
    #[must_use]
    pub fn input(&self) -> (u64, u64) {
        let stats = self.desks.iter().map(|desk| *desk.driver.stats());
        stats.fold((0, 0), |sum, s| (sum.0 + s.packets_in, sum.1 + s.bytes_in))
    }

    /// Distinct ticks with numbers above `after` up to `last` that reached the listeners, in sum.
    #[must_use]
    pub fn distinct(&self, after: u32, last: u32) -> u64 {
        let Some(base) = self.base else { return 0 };
        let count = |member: &Member| -> u64 {
            (after + 1..=last).filter(|&number| has(&member.ticks, base, number)).count() as u64
        };
        self.members().map(count).sum()
    }

    /// What each listener that is inside received.
    #[must_use]
    pub fn counts(&self) -> Vec<Count> {
        let base = self.base.unwrap_or_default();
        let ms = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1_000.0);
        let count = |member: &Member| {
            let words = || member.ticks.iter().enumerate().filter(|(_, word)| **word != 0);
            let first = words().next().map(|(at, word)| at as u32 * 64 + word.trailing_zeros());
            let last =
                words().next_back().map(|(at, word)| at as u32 * 64 + 63 - word.leading_zeros());
            Count {
                first: first.map_or(0, |bit| base + bit),
                last: last.map_or(0, |bit| base + bit),
                ticks: member.ticks.iter().map(|word| u64::from(word.count_ones())).sum(),
                join_ms: ms(member.joined),
                first_tick_ms: ms(member.first_tick),
            }
        };
        let inside = |member: &&Member| member.joined.is_some() && member.closed.is_none();
        self.members().filter(inside).map(count).collect()
    }

    /// From here on, notes for some listeners when the kernel received their ticks.
    pub fn note_arrivals(&mut self, note: bool) {
        self.keep_arrivals = note;
    }

    /// Ticks and the kernel's receive times (ns of the realtime clock), as noted.
    pub fn take_arrivals(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.arrivals)
    }

    /// How the joins went so far.
    #[must_use]
    pub fn joins(&self) -> Joins {
        let ms = |d: Duration| d.as_secs_f64() * 1_000.0;
        let all = || self.members().chain(&self.done);
        Joins {
            join_ms: all().filter_map(|m| m.joined).map(ms).collect(),
            first_tick_ms: all().filter_map(|m| m.first_tick).map(ms).collect(),
        }
    }

    /// Listeners that were closed, and why.
    #[must_use]
    pub fn lost(&self) -> &[String] {
        &self.failed
    }

    /// Everyone leaves, and nobody comes in their place.
    pub fn leave(&mut self) {
        self.wanted = 0;
        let now = Instant::now();
        for desk in &mut self.desks {
            for ix in 0..desk.members.len() {
                if desk.members[ix].is_some() {
                    desk.driver.close(now, ConnId(ix as u32), 0, "goodbye");
                }
            }
            desk.driver.flush(now);
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.desks.iter().flat_map(|desk| desk.members.iter().flatten())
    }

    fn turn(&mut self) -> Result<()> {
        self.open()?;
        let now = Instant::now();
        for desk in 0..self.desks.len() {
            self.desks[desk].driver.handle_timeouts(now);
            loop {
                let received = self.desks[desk].driver.receive(now, PACKETS_PER_TURN)?;
                self.events(desk, now);
                if received.drained {
                    break;
                }
            }
            self.desks[desk].driver.flush(now);
            self.events(desk, now);
        }
        std::thread::sleep(TURN);
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        while self.under_way < self.plan.at_once && self.joined + self.under_way < self.wanted {
            let now = Instant::now();
            let at = self.opened % self.desks.len();
            self.opened += 1;
            let desk = &mut self.desks[at];
            let (address, host) = (self.plan.address, self.plan.host.as_str());
            let conn = desk.driver.connect(now, self.client.clone(), address, host);
            let ix = conn.context("no connection can be opened")?.0 as usize;
            if ix >= desk.members.len() {
                desk.members.resize_with(ix + 1, || None);
            }
            desk.members[ix] = Some(Member {
                started: now,
                decoder: ControlDecoder::default(),
                reception: None,
                joined: None,
                first_tick: None,
                ticks: Vec::new(),
                closed: None,
            });
            self.under_way += 1;
        }
        Ok(())
    }

    fn events(&mut self, at: usize, now: Instant) {
        while let Some(event) = self.desks[at].driver.poll_event() {
            match event {
                Event::Connected { conn, .. } => {
                    let hello = self.hellos[self.hello % self.hellos.len()].clone();
                    self.hello += 1;
                    // A session that cannot take its hello is closed, and counted then.
                    let _ = self.desks[at].driver.send_control(conn, hello);
                }
                Event::Control { conn, bytes } => self.control(at, now, conn, &bytes),
                Event::Datagram { conn, bytes, received_ns } => {
                    self.datagram(at, now, conn, bytes, received_ns);
                }
                Event::Closed { conn, reason } => self.closed(at, conn, &reason.to_string()),
                Event::ControlFinished { .. } | Event::Unblocked { .. } | Event::Foreign { .. } => {
                }
            }
        }
    }

    fn control(&mut self, at: usize, now: Instant, conn: ConnId, bytes: &[u8]) {
        let Some(member) = self.desks[at].members[conn.0 as usize].as_mut() else { return };
        member.decoder.push(bytes);
        while let Ok(Some(message)) = member.decoder.next_message::<ServerMessage>() {
            match message {
                ServerMessage::Welcome(welcome) => {
                    member.joined = Some(now - member.started);
                    self.joined += 1;
                    self.under_way -= 1;
                    if let Some(room) = welcome.room {
                        member.reception = Some(Reception::new(Framing::Quic, &room));
                    }
                }
                ServerMessage::Closing { name, reason, .. } => {
                    member.closed = Some(format!("{name}: {reason}"));
                }
                _ => {}
            }
        }
    }

    fn datagram(
        &mut self,
        at: usize,
        now: Instant,
        conn: ConnId,
        bytes: bytes::Bytes,
        received_ns: u64,
    ) {
        self.datagrams += 1;
        let time = Time::ZERO + (now - self.zero);
        let desk = &mut self.desks[at];
        let Some(member) = desk.members[conn.0 as usize].as_mut() else { return };
        let Some(reception) = member.reception.as_mut() else { return };
        let (base, ticks) = (&mut self.base, &mut member.ticks);
        let note = self.keep_arrivals && conn.0.is_multiple_of(SAMPLE);
        let (arrivals, newest) = (&mut self.arrivals, &mut self.newest);
        let mut any = false;
        reception.datagram(time, bytes, |record, replay| {
            any = true;
            *newest = record.number.max(*newest);
            mark(ticks, *base.get_or_insert(record.number.saturating_sub(100)), record.number);
            if note && !replay {
                arrivals.push((record.number, received_ns));
            }
        });
        while let Some(request) = reception.poll_request(time) {
            desk.driver.send_datagram(now, conn, request);
        }
        if any && member.first_tick.is_none() {
            member.first_tick = Some(now - member.started);
        }
    }

    fn closed(&mut self, at: usize, conn: ConnId, reason: &str) {
        let Some(mut member) = self.desks[at].members[conn.0 as usize].take() else { return };
        match member.joined {
            Some(_) => self.joined -= 1,
            None => self.under_way -= 1,
        }
        if member.closed.as_deref() != Some(LEFT) {
            self.failed.push(member.closed.take().unwrap_or_else(|| reason.to_owned()));
        }
        member.ticks = Vec::new();
        member.reception = None;
        self.done.push(member);
    }

    fn leave_joined(&mut self) {
        let now = Instant::now();
        for desk in &mut self.desks {
            for ix in 0..desk.members.len() {
                let joined = |member: &&mut Member| member.joined.is_some();
                if let Some(member) = desk.members[ix].as_mut().filter(joined) {
                    member.closed = Some(LEFT.into());
                    desk.driver.close(now, ConnId(ix as u32), 0, "goodbye");
                }
            }
            desk.driver.flush(now);
        }
        for at in 0..self.desks.len() {
            self.events(at, now);
        }
    }
}

fn hello(room: &str, token: Option<&String>) -> bytes::Bytes {
    encode_control(&ClientMessage::Hello(Hello {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        role: Role::Listener,
        room: room.to_owned(),
        token: token.cloned(),
        name: None,
        agent: Some("stentor-crowd".into()),
        playout_ms: Some(100),
        last: None,
        pass: None,
        relay: None,
    }))
}

/// Why a listener is gone that left by itself.
const LEFT: &str = "left";

fn mark(ticks: &mut Vec<u64>, base: u32, number: u32) {
    let Some(bit) = number.checked_sub(base) else { return };
    let (word, bit) = (bit as usize / 64, bit % 64);
    // An hour of ticks: what is further ahead is not this run's.
    if word >= limits::FRAMES_PER_S as usize * 3_600 / 64 {
        return;
    }
    if word >= ticks.len() {
        ticks.resize(word + 1, 0);
    }
    ticks[word] |= 1 << bit;
}

fn has(ticks: &[u64], base: u32, number: u32) -> bool {
    let Some(bit) = number.checked_sub(base) else { return false };
    ticks.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_counted_once_however_often_it_comes() {
        let mut ticks = Vec::new();
        for number in [105, 105, 300, 99] {
            mark(&mut ticks, 100, number);
        }
        let all = (90..400).filter(|&n| has(&ticks, 100, n)).collect::<Vec<u32>>();
        assert_eq!(all, [105, 300]);
    }
}
