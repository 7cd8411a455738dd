//! A crowd of real QUIC listeners in one thread, over the relay's own driver.
//!
//! Each has its own handshake, session, token and receive window, and acknowledges what it gets. It
//! does not decode; listeners that do are `stentor-client`'s.

mod copies;
mod desk;
mod figures;
mod member;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use quinn_proto::crypto::rustls::QuicClientConfig;
use stentor_client::patience::{PATIENCE, patient};
use stentor_proto::listen::{ListenSettings, Played};
use stentor_proto::wire::{
    Close, CloseCode, FEATURES, Framing, Hello, Role, Secret, ServerMessage, VERSION,
};
use stentor_proto::{Time, limits};
use stentor_relay::quic::config::{SharedKeys, TransportSettings, client_config_over};
use stentor_relay::quic::sys::{BindOptions, bind};
use stentor_relay::quic::{CloseReason, ConnId, Driver, DriverSettings, Event};

use self::copies::Copies;
use self::desk::{Desk, Door};
pub use self::figures::{Count, Joins};
pub(crate) use self::member::Ticks;
use self::member::{Member, Watch};
use crate::trust::crowd_tls;

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
    /// Whether a listener whose relay fails goes to another one, as `stentor listen` does; a listener
    /// that does not is lost with its session.
    pub rehomes: bool,
    /// Whether they report what they hear, as `stentor listen` does. Who does not decode knows only of
    /// what was lost.
    pub reports: bool,
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

/// A crowd of listeners.
pub struct Crowd {
    plan: CrowdPlan,
    client: quinn_proto::ClientConfig,
    desks: Vec<Desk>,
    zero: Instant,
    hellos: Vec<Hello>,
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
    /// How long ticks took from the origin's clock to the kernel of the listeners (µs), if it is watched.
    delays: Option<Histogram<u64>>,
    /// The ticks' copies, if they are compared.
    copies: Option<Copies>,
    /// How long those who left had waited for the welcome and for their first tick.
    done: Vec<(Option<Duration>, Option<Duration>)>,
}

/// One listener in so many notes when its ticks arrive.
const SAMPLE: u32 = 10;

impl Crowd {
    /// A crowd without listeners.
    ///
    /// # Errors
    /// When TLS or a socket is not to be had.
    pub fn new(plan: CrowdPlan) -> Result<Self> {
        let tls = QuicClientConfig::try_from(crowd_tls(plan.roots.clone())?)?;
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
            desks.push(Desk::new(driver));
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
            delays: None,
            copies: None,
            done: Vec::new(),
        })
    }

    /// Those who join from here on show this re-home pass, and come in as those who return do.
    pub fn show_pass(&mut self, pass: &str) {
        for hello in &mut self.hellos {
            hello.pass = Some(Secret(pass.to_owned()));
        }
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
            self.dismiss(|member| member.joined.is_some());
        }
        self.wanted = 0;
        if let Some(why) = self.failed.first() {
            bail!("a listener was refused: {why}");
        }
        Ok(self.joined + self.done.len() - before)
    }

    /// Everyone leaves, and nobody comes in their place.
    pub fn leave(&mut self) {
        self.wanted = 0;
        self.dismiss(|_| true);
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.desks.iter().flat_map(|desk| desk.members.iter().flatten())
    }

    fn turn(&mut self) -> Result<()> {
        self.open();
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
            // After the input: a listener is not taken for silent by what waits to be read.
            let time = self.time_at(now);
            while let Some(ix) = self.desks[desk].next_due(time) {
                self.act(desk, now, ix);
            }
            self.desks[desk].driver.flush(now);
            self.events(desk, now);
        }
        std::thread::sleep(TURN);
        Ok(())
    }

    fn open(&mut self) {
        while self.under_way < self.plan.at_once && self.joined + self.under_way < self.wanted {
            let now = Instant::now();
            let at = self.opened % self.desks.len();
            let settings = ListenSettings {
                hello: self.hellos[self.opened % self.hellos.len()].clone(),
                entries: vec![self.plan.address.to_string()],
                framing: Framing::Quic,
                repair: true,
                seed: (u64::from(std::process::id()) << 32) | self.opened as u64,
            };
            self.opened += 1;
            self.under_way += 1;
            let mut member = Member::new(now, self.time_at(now), settings);
            if self.plan.reports {
                let played = Played { delay: limits::PLAYOUT, ..Played::default() };
                member.listen.set_played(self.time_at(now), played);
            }
            let ix = self.desks[at].seat(member);
            self.act(at, now, ix);
        }
    }

    fn events(&mut self, at: usize, now: Instant) {
        while let Some(event) = self.desks[at].driver.poll_event() {
            match event {
                Event::Connected { conn, .. } => {
                    let desk = &mut self.desks[at];
                    let hello = desk.owner(conn).and_then(|(_, home, member)| member.hello(home));
                    if let Some(hello) = hello {
                        // A session that cannot take its hello is closed, and counted then.
                        let _ = desk.driver.send_control(conn, hello);
                    }
                }
                Event::Control { conn, bytes } => self.control(at, now, conn, &bytes),
                Event::Datagram { conn, bytes, received_ns } => {
                    self.datagram(at, now, conn, bytes, received_ns);
                }
                Event::Closed { conn, reason } => self.closed(at, now, conn, &reason),
                Event::ControlFinished { .. }
                | Event::ControlWritten { .. }
                | Event::Unblocked { .. }
                | Event::Foreign { .. } => {}
            }
        }
    }

    /// Does what a listener's machine asks for.
    fn act(&mut self, at: usize, now: Instant, ix: usize) {
        let time = self.time_at(now);
        let (client, host) = (&self.client, self.plan.host.as_str());
        let door = Door { client, host, rehomes: self.plan.rehomes };
        if let Some(close) = self.desks[at].act(now, time, ix, &door) {
            self.fail(at, now, ix, format!("{}: {}", close.code.name(), close.reason));
        }
    }

    fn control(&mut self, at: usize, now: Instant, conn: ConnId, bytes: &[u8]) {
        let time = self.time_at(now);
        let Some((ix, home, member)) = self.desks[at].owner(conn) else { return };
        for message in member.messages(home, bytes) {
            if let ServerMessage::Closing { name, reason, .. } = &message
                && !self.plan.rehomes
            {
                return self.fail(at, now, ix, format!("{name}: {reason}"));
            }
            member.listen.handle_message(time, home, message);
        }
        if member.joined.is_none() && member.listen.current().is_some() {
            member.joined = Some(now - member.started);
            self.joined += 1;
            self.under_way -= 1;
        }
        self.act(at, now, ix);
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
        let time = self.time_at(now);
        let watch = Watch { copies: self.copies.as_mut(), delays: self.delays.as_mut() };
        let desk = &mut self.desks[at];
        let Some((ix, home, member)) = desk.owner(conn) else { return };
        let brought = member.datagram(time, home, bytes, received_ns, watch);
        if let Some(newest) = brought.newest {
            self.newest = self.newest.max(newest);
            member.first_tick.get_or_insert(now - member.started);
        }
        if let Some(number) = brought.live.filter(|_| self.keep_arrivals)
            && conn.0.is_multiple_of(SAMPLE)
        {
            self.arrivals.push((number, received_ns));
        }
        self.act(at, now, ix);
    }

    fn closed(&mut self, at: usize, now: Instant, conn: ConnId, reason: &CloseReason) {
        let time = self.time_at(now);
        let Some((ix, home, member)) = self.desks[at].owner(conn) else { return };
        if !self.plan.rehomes {
            return self.fail(at, now, ix, reason.to_string());
        }
        let code = reason.code.and_then(CloseCode::from_code);
        let close = code.map(|code| Close::new(code, reason.text.clone()));
        member.listen.handle_down(time, home, close);
        self.desks[at].forget(conn);
        self.act(at, now, ix);
    }

    /// A listener is outside for good.
    fn fail(&mut self, at: usize, now: Instant, ix: usize, why: String) {
        self.failed.push(why);
        self.let_go(at, now, ix);
    }

    fn let_go(&mut self, at: usize, now: Instant, ix: usize) {
        let Some(member) = self.desks[at].dismiss(now, ix) else { return };
        match member.joined {
            Some(_) => self.joined -= 1,
            None => self.under_way -= 1,
        }
        self.done.push((member.joined, member.first_tick));
    }

    /// Lets those go who are told to.
    fn dismiss(&mut self, who: impl Fn(&Member) -> bool) {
        let now = Instant::now();
        for at in 0..self.desks.len() {
            for ix in 0..self.desks[at].members.len() {
                if self.desks[at].members[ix].as_ref().is_some_and(&who) {
                    self.let_go(at, now, ix);
                }
            }
            self.desks[at].driver.flush(now);
            self.events(at, now);
        }
    }

    fn time_at(&self, now: Instant) -> Time {
        Time::ZERO + now.saturating_duration_since(self.zero)
    }
}

fn hello(room: &str, token: Option<&String>) -> Hello {
    Hello {
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
        ticket: None,
        client_key: None,
        relay: None,
    }
}
