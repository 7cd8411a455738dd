//! A crowd that wants to come in: an open-loop process of arrivals that follows the path of real
//! listeners, in one thread over the relay's own driver.
//!
//! Whoever comes asks at the HTTP door or goes straight to a relay, completes a QUIC handshake, says hello
//! with what it has (a token, a client key, a ticket), waits politely where it is told to
//! ([`stentor_proto::listen`], the machine of `stentor listen`), follows redirects, decodes its first
//! tick, stays for an exponential time and leaves. Latencies count from the scheduled arrival, so that a
//! generator that is late does not flatter the server.

mod curve;
mod desk;
mod door;
mod figures;
mod flights;
mod heard;
mod serve;
mod visit;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quinn_proto::crypto::rustls::QuicClientConfig;
use stentor_client::audio::FirstSound;
use stentor_client::patience::{PATIENCE, patient};
use stentor_proto::Time;
use stentor_proto::admission::client_key;
use stentor_proto::listen::{Listen, ListenSettings};
use stentor_proto::wire::{FEATURES, Framing, Hello, Role, Secret, VERSION};
use stentor_relay::quic::config::{SharedKeys, TransportSettings, client_config_over};
use stentor_relay::quic::sys::{BindOptions, bind};
use stentor_relay::quic::{Driver, DriverSettings};

use self::curve::{Arrivals, Chance};
use self::desk::{Desk, Guest};
use self::door::{Asked, HttpDoor};
use crate::trust::crowd_tls;

pub use self::curve::Curve;
pub use self::figures::{Figures, NEVER_MS};
pub use self::flights::{FirstFlights, Flood};
pub use self::heard::{Heard, Hearing};
pub use self::visit::Visit;

/// How long the thread sleeps between turns in which nothing was due.
const TURN: Duration = Duration::from_micros(300);
/// Arrivals that are opened in one turn at most: input is read between.
const OPENED_PER_TURN: usize = 32;
/// First flights that are kept for arrivals that the generator has no time for.
const FLIGHTS: usize = 512;

/// What a storm is.
#[derive(Clone, Debug)]
pub struct StormPlan {
    /// Relays that people come straight to, each drawn at random.
    pub entries: Vec<SocketAddr>,
    /// How many of them each knows, and tries in turn.
    pub entries_each: usize,
    /// The HTTP door, and which part of the people asks there first (0 to 1).
    pub http: Option<(SocketAddr, f64)>,
    /// The host that certificates name.
    pub host: String,
    /// Whom to trust.
    pub roots: rustls::RootCertStore,
    /// The room.
    pub room: String,
    /// Tokens, used in turn; without any, everybody is anonymous with a client key of its own.
    pub tokens: Vec<String>,
    /// A waiting ticket that everybody shows, with the client key that it is bound to: what a ticket is
    /// worth that is copied.
    pub shown: Option<(String, String)>,
    /// How long people stay, on average; for good if absent.
    pub dwell: Option<Duration>,
    /// UDP sockets that they share.
    pub sockets: usize,
    /// Sessions that are being opened at once. Whoever comes beyond it is offered as a first packet
    /// alone: the generator has no time for more.
    pub at_once: usize,
    /// Seed of who comes when and stays how long.
    pub seed: u64,
}

impl StormPlan {
    /// Anonymous listeners straight to these relays, who stay for good.
    #[must_use]
    pub fn new(entries: Vec<SocketAddr>, roots: rustls::RootCertStore, room: &str) -> Self {
        let host = entries.first().map_or_else(String::new, |entry| entry.ip().to_string());
        Self {
            entries,
            entries_each: 1,
            http: None,
            host,
            roots,
            room: room.to_owned(),
            tokens: Vec::new(),
            shown: None,
            dwell: None,
            sockets: 4,
            at_once: 3_000,
            seed: 1,
        }
    }
}

/// A storm: who has come, and what became of each.
///
/// [`Self::run`] lets people come; between two calls nobody is served, so they follow each other
/// closely. With a [`Curve`] of nothing, those who are there are served on.
pub struct Storm {
    plan: StormPlan,
    client: quinn_proto::ClientConfig,
    desks: Vec<Desk>,
    door: Option<HttpDoor>,
    zero: Instant,
    chance: Chance,
    visits: Vec<Visit>,
    /// Those who ask at the HTTP door, by visit: with which key and ticket.
    asking: BTreeMap<usize, (String, Option<String>)>,
    /// When they ask again.
    asks: BinaryHeap<Reverse<(Time, usize)>>,
    /// When those inside leave: their desk, chair and visit.
    leaves: BinaryHeap<Reverse<(Time, usize, usize, usize)>>,
    flights: Option<FirstFlights>,
    sound: FirstSound,
    hearing: Option<Hearing>,
    inside: usize,
    /// Sessions that are being opened: those who came and were neither welcomed nor told anything.
    opening: usize,
    opened: usize,
}

impl Storm {
    /// A storm in which nobody has come yet.
    ///
    /// # Errors
    /// When TLS or a socket is not to be had.
    pub fn new(plan: StormPlan) -> Result<Self> {
        if plan.entries.is_empty() && plan.http.is_none() {
            bail!("a storm needs a door");
        }
        let tls = QuicClientConfig::try_from(crowd_tls(plan.roots.clone())?)?;
        let client = client_config_over(patient(tls, PATIENCE), &TransportSettings::default())?;
        let zero = Instant::now();
        let mut desks = Vec::new();
        for _ in 0..plan.sockets.max(1) {
            let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default())?;
            let keys = SharedKeys::random()?;
            desks.push(Desk::new(Driver::new(socket, DriverSettings::client(&keys), zero)?));
        }
        let door = match plan.http {
            Some((address, _)) => Some(HttpDoor::open(address, &plan.room, plan.roots.clone())?),
            None => None,
        };
        let flights = match plan.entries.is_empty() {
            true => None,
            false => Some(FirstFlights::make(FLIGHTS, &client, &plan.host)?),
        };
        Ok(Self {
            chance: Chance::new(plan.seed),
            plan,
            client,
            desks,
            door,
            zero,
            visits: Vec::new(),
            asking: BTreeMap::new(),
            asks: BinaryHeap::new(),
            leaves: BinaryHeap::new(),
            flights,
            sound: FirstSound::default(),
            hearing: None,
            inside: 0,
            opening: 0,
            opened: 0,
        })
    }

    /// The UDP ports of its sockets.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let address = |desk: &Desk| desk.driver.local_addr();
        self.desks.iter().filter_map(|desk| address(desk).ok()).map(|at| at.port()).collect()
    }

    /// Lets people come for `time`, as many as the curve says (its zero is this moment). Returns from
    /// when to when they were to come.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn run(&mut self, curve: &Curve, time: Duration) -> Result<(Time, Time)> {
        let from = self.now();
        let mut arrivals = Arrivals::new(curve.clone(), from, Chance::new(self.chance.next()));
        let until = from + time;
        loop {
            let now = self.now();
            let mut more = true;
            for _ in 0..OPENED_PER_TURN {
                let Some(at) = arrivals.due(now.min(until)) else {
                    more = false;
                    break;
                };
                self.arrive(at)?;
            }
            if now >= until && !more {
                return Ok((from, until));
            }
            let busy = self.turn()?;
            if !more && !busy {
                std::thread::sleep(TURN);
            }
        }
    }

    /// Serves those who are there, and lets nobody else come, until `done` or for `most`. Returns
    /// whether it was done.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn until(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<bool> {
        let until = self.now() + most;
        while self.now() < until {
            if done(self) {
                return Ok(true);
            }
            if !self.turn()? {
                std::thread::sleep(TURN);
            }
        }
        Ok(done(self))
    }

    /// Lets somebody come now.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn come(&mut self) -> Result<()> {
        self.arrive(self.now())
    }

    /// Everybody leaves, those who wait too.
    pub fn leave(&mut self) {
        let (now, time) = (Instant::now(), self.now());
        for desk in &mut self.desks {
            let guests = desk.guests().count();
            let mut ix = 0;
            for _ in 0..guests {
                while desk.guest(ix).is_none() {
                    ix += 1;
                }
                if let Some(guest) = desk.dismiss(now, ix) {
                    self.visits[guest.visit].left.get_or_insert(time);
                }
            }
            desk.driver.flush(now);
        }
        self.asks.clear();
        self.asking.clear();
        self.leaves.clear();
        (self.inside, self.opening) = (0, 0);
    }

    /// Everyone who has come so far.
    #[must_use]
    pub fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// Those who are inside.
    #[must_use]
    pub const fn inside(&self) -> usize {
        self.inside
    }

    /// Those who have come and were neither welcomed nor told anything yet.
    #[must_use]
    pub const fn opening(&self) -> usize {
        self.opening
    }

    /// Those who were told to wait and are not inside.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let quic = self.desks.iter().flat_map(Desk::guests);
        let quic = quic.filter(|guest| guest.listen.current().is_none());
        quic.filter(|guest| self.visits[guest.visit].told.is_some()).count() + self.asking.len()
    }

    /// Those who are inside, by the relay that serves them.
    #[must_use]
    pub fn inside_by_relay(&self) -> BTreeMap<SocketAddr, usize> {
        let mut sums = BTreeMap::new();
        for address in self.desks.iter().flat_map(Desk::guests).filter_map(Guest::address) {
            *sums.entry(address).or_default() += 1;
        }
        sums
    }

    /// The relay that serves the guest of a visit at present.
    #[must_use]
    pub fn address_of(&self, visit: usize) -> Option<SocketAddr> {
        let mut guests = self.desks.iter().flat_map(Desk::guests);
        guests.find(|guest| guest.visit == visit).and_then(Guest::address)
    }

    /// The visits of those whom a relay serves.
    #[must_use]
    pub fn guests_at(&self, relay: SocketAddr) -> Vec<usize> {
        let guests = self.desks.iter().flat_map(Desk::guests);
        guests.filter(|guest| guest.address() == Some(relay)).map(|guest| guest.visit).collect()
    }

    /// From here on, notes what everybody hears who is inside.
    ///
    /// # Errors
    /// Never: the bounds of its histogram are in order.
    pub fn watch_hearing(&mut self) -> Result<()> {
        self.hearing = Some(Hearing::new()?);
        Ok(())
    }

    /// What everybody hears, where it is watched.
    pub const fn hearing(&mut self) -> Option<&mut Hearing> {
        self.hearing.as_mut()
    }

    /// The storm's time: microseconds since it was made.
    #[must_use]
    pub fn now(&self) -> Time {
        self.time_at(Instant::now())
    }

    /// Lets people come to these relays from here on.
    pub fn set_entries(&mut self, entries: Vec<SocketAddr>) {
        self.plan.entries = entries;
    }

    fn arrive(&mut self, scheduled: Time) -> Result<()> {
        let visit = self.visits.len();
        let asks = self.plan.http.is_some_and(|(_, share)| self.chance.part() < share);
        self.visits.push(Visit { scheduled, due: scheduled, http: asks, ..Visit::default() });
        let key = client_key(self.chance.bytes()).0;
        if asks {
            self.asking.insert(visit, (key, None));
            self.ask(visit);
            return Ok(());
        }
        let entry = self.chance.next() as usize % self.plan.entries.len();
        let address = self.plan.entries[entry];
        if self.opening >= self.plan.at_once
            && let Some(flights) = &mut self.flights
        {
            let left = flights.offer(address)?;
            let sent = left.then(|| self.now());
            let record = &mut self.visits[visit];
            (record.flight_only, record.sent) = (true, sent);
            return Ok(());
        }
        let token = match self.plan.tokens.as_slice() {
            [] => None,
            tokens => Some(tokens[visit % tokens.len()].clone()),
        };
        let (ticket, key) = match &self.plan.shown {
            Some((ticket, key)) => (Some(ticket.clone()), key.clone()),
            None => (None, key),
        };
        let key = token.is_none().then_some(Secret(key));
        let entries = self.known_with(entry);
        self.enter(visit, entries, token, ticket, key);
        Ok(())
    }

    /// The addresses that somebody knows who was given this one first.
    fn known_with(&mut self, first: usize) -> Vec<String> {
        let all = self.plan.entries.len();
        let each = self.plan.entries_each.clamp(1, all);
        // Steps through all of them, so that none comes twice.
        let step = if each > 1 { 1 + self.chance.next() as usize % (all - 1) } else { 1 };
        let mut known = Vec::with_capacity(each);
        let mut at = first;
        while known.len() < each {
            let address = self.plan.entries[at % all].to_string();
            match known.contains(&address) {
                true => at += 1,
                false => {
                    known.push(address);
                    at += step;
                }
            }
        }
        known
    }

    /// Goes to a relay.
    fn enter(
        &mut self,
        visit: usize,
        entries: Vec<String>,
        token: Option<String>,
        ticket: Option<String>,
        client_key: Option<Secret>,
    ) {
        let ticket = ticket.map(Secret);
        let hello = Hello { token, ticket, client_key, ..hello(&self.plan.room) };
        let seed = self.chance.next();
        let settings =
            ListenSettings { hello, entries, framing: Framing::Quic, repair: true, seed };
        let now = Instant::now();
        let time = self.time_at(now);
        let at = self.opened % self.desks.len();
        self.opened += 1;
        self.opening += 1;
        let ix = self.desks[at].seat(Guest::new(visit, Listen::new(settings, time)));
        self.act(at, now, ix);
        self.visits[visit].sent.get_or_insert(time);
    }

    /// Asks at the HTTP door.
    fn ask(&mut self, visit: usize) {
        let time = self.now();
        let (Some(door), Some((client_key, ticket))) = (&self.door, self.asking.get(&visit)) else {
            return;
        };
        door.ask(Asked { visit, client_key: client_key.clone(), ticket: ticket.clone() });
        self.visits[visit].sent.get_or_insert(time);
    }

    fn time_at(&self, now: Instant) -> Time {
        Time::ZERO + now.saturating_duration_since(self.zero)
    }
}

fn hello(room: &str) -> Hello {
    Hello {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        role: Role::Listener,
        room: room.to_owned(),
        token: None,
        name: None,
        agent: Some("stentor-storm".into()),
        playout_ms: Some(100),
        last: None,
        pass: None,
        ticket: None,
        client_key: None,
        relay: None,
    }
}
