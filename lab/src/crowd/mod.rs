//! A crowd of real QUIC listeners in one thread, over the relay's own driver.
//!
//! Each has its own handshake, session, token and receive window, and acknowledges what it gets. It
//! does not decode; listeners that do are `stentor-client`'s.

mod figures;
mod member;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quinn_proto::crypto::rustls::QuicClientConfig;
use stentor_client::patience::{PATIENCE, patient};
use stentor_proto::Time;
use stentor_proto::wire::{
    ALPN, ClientMessage, FEATURES, Hello, Role, ServerMessage, VERSION, encode_control,
};
use stentor_relay::quic::config::{SharedKeys, TransportSettings, client_config_over, client_tls};
use stentor_relay::quic::sys::{BindOptions, bind};
use stentor_relay::quic::{ConnId, Driver, DriverSettings, Event};

pub use self::figures::{Count, Joins};
use self::member::{Member, Ticks};

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

struct Desk {
    driver: Driver,
    members: Vec<Option<Member>>,
    /// Who is to be looked at for a request, and when.
    timers: BinaryHeap<Reverse<(Time, u32)>>,
}

/// A crowd of listeners.
pub struct Crowd {
    plan: CrowdPlan,
    client: quinn_proto::ClientConfig,
    desks: Vec<Desk>,
    zero: Instant,
    hellos: Vec<bytes::Bytes>,
    hello: usize,
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

impl Desk {
    /// Sends the requests of those whose time has come.
    fn repairs(&mut self, now: Instant, time: Time) {
        while let Some(&Reverse((at, ix))) = self.timers.peek() {
            if at > time {
                return;
            }
            self.timers.pop();
            if let Some(Some(member)) = self.members.get_mut(ix as usize)
                && member.timer == Some(at)
            {
                member.timer = None;
                self.repair(now, time, ConnId(ix));
            }
        }
    }

    /// Sends a listener's requests, and notes when it is to be looked at again.
    fn repair(&mut self, now: Instant, time: Time, conn: ConnId) {
        let Some(member) = self.members[conn.0 as usize].as_mut() else { return };
        let Some(reception) = member.reception.as_mut() else { return };
        while let Some(request) = reception.poll_request(time) {
            self.driver.send_datagram(now, conn, request);
        }
        if let Some(at) = reception.poll_timeout()
            && member.timer.is_none_or(|noted| at < noted)
        {
            member.timer = Some(at);
            self.timers.push(Reverse((at, conn.0)));
        }
    }
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
            desks.push(Desk { driver, members: Vec::new(), timers: BinaryHeap::new() });
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

    /// Everyone leaves.
    pub fn leave(&mut self) {
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
            self.desks[desk].repairs(now, Time::ZERO + (now - self.zero));
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
            desk.members[ix] = Some(Member::new(now));
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
                        member.welcomed(&room);
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
        let brought = member.datagram(time, bytes, received_ns);
        if let Some(newest) = brought.newest {
            self.newest = self.newest.max(newest);
            member.first_tick.get_or_insert(now - member.started);
        }
        if let Some(number) = brought.live.filter(|_| self.keep_arrivals)
            && conn.0.is_multiple_of(SAMPLE)
        {
            self.arrivals.push((number, received_ns));
        }
        desk.repair(now, time, conn);
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
        member.ticks = Ticks::default();
        member.in_time = Ticks::default();
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
