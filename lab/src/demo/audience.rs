//! The demo's listeners: those who decode and record, and the crowd that only counts ticks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use hdrhistogram::Histogram;
use stentor_client::audio::Block;
use stentor_client::listen::{Ear, ListenSettings, Listener};
use stentor_client::session::{Connector, Join, Trust};
use stentor_proto::wire::{Record, Role};
use stentor_proto::{Time, limits};
use tokio::sync::{Semaphore, watch};

use super::ROOM;
use super::court::{Court, Recording};
use super::stage::ended;
use crate::crowd::{Acks, Crowd, CrowdPlan};

/// Listeners that share a UDP socket.
const PER_SOCKET: usize = 10;
/// Listeners that decode in one thread.
const PER_THREAD: usize = 25;
/// Joins under way at once in one thread.
const AT_ONCE: usize = 8;
/// The crowd's part of a turn, between two looks at whether the demo is over.
const TURN: Duration = Duration::from_millis(50);
/// How long a crowd may take to join.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// Delays beyond this are counted as this, in microseconds.
const DELAY_MOST_US: u64 = 60_000_000;

/// What all listeners share.
#[derive(Clone)]
pub(super) struct House {
    /// Whom they trust.
    pub(super) trust: Trust,
    /// The same for the crowd.
    pub(super) roots: rustls::RootCertStore,
    /// Zero of the demo's clock.
    pub(super) zero: Instant,
    /// Where what was played goes.
    pub(super) court: Arc<Court>,
    /// Listeners inside.
    pub(super) inside: Arc<AtomicUsize>,
    /// Listeners that could not join or were lost.
    pub(super) gone: Arc<AtomicUsize>,
}

/// What became of one listener.
#[derive(Clone, Debug, Default)]
pub(super) struct Stay {
    /// Its number, from 0.
    pub(super) listener: usize,
    /// The relay that it was on.
    pub(super) relay: String,
    /// Whether it decoded.
    pub(super) decoded: bool,
    /// From the call to the welcome.
    pub(super) join_ms: f64,
    /// From the call to the first tick.
    pub(super) first_tick_ms: f64,
    /// The first tick.
    pub(super) first: u32,
    /// The last tick.
    pub(super) last: u32,
    /// Distinct ticks.
    pub(super) ticks: u64,
    /// Ticks that came with other bytes than to other listeners of the relay, where they are compared.
    pub(super) altered: u64,
    /// Some of the ticks between that did not come.
    pub(super) missing: BTreeSet<u32>,
    /// From its welcome to its leave.
    pub(super) stayed: Duration,
    /// How much it played.
    pub(super) played: Duration,
    /// What ended it before its time.
    pub(super) error: Option<String>,
}

/// Missing ticks that are noted by number.
const MISSING_NOTED: usize = 64;

impl Stay {
    fn tick(&mut self, number: u32) {
        if self.ticks == 0 {
            (self.first, self.last) = (number, number);
        }
        if number > self.last {
            let room = MISSING_NOTED.saturating_sub(self.missing.len());
            self.missing.extend((self.last + 1..number).take(room));
        }
        self.missing.remove(&number);
        self.first = self.first.min(number);
        self.last = self.last.max(number);
        self.ticks += 1;
    }

    /// Ticks that did not come between the first and the last that did.
    pub(super) fn lost(&self) -> u64 {
        if self.ticks == 0 {
            return 0;
        }
        (u64::from(self.last) + 1 - u64::from(self.first)).saturating_sub(self.ticks)
    }
}

/// What the listeners of one thread bring home.
pub(super) struct Memories {
    /// One for each listener.
    pub(super) stays: Vec<Stay>,
    /// From the origin's clock in the tick to the listener, in microseconds.
    pub(super) one_way: Histogram<u64>,
    /// What came of each tick, by fingerprint, where it is compared.
    pub(super) copies: BTreeMap<u32, u64>,
}

/// The threads of all listeners.
pub(super) struct Audience {
    stop: watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<Result<Memories>>>,
}

/// A relay that takes listeners.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Its name.
    pub(super) relay: String,
    /// Where it is.
    pub(super) address: SocketAddr,
}

impl Audience {
    /// Sends `decoding` listeners who decode and `counting` who do not, spread over the doors.
    pub(super) fn start(
        house: &House,
        doors: &[Door],
        decoding: usize,
        counting: usize,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = decoding.div_ceil(PER_THREAD).clamp(1, cores);
        for thread in 0..count {
            let mine = (thread..decoding).step_by(count);
            let seats: Vec<(usize, Door)> =
                mine.map(|n| (n, doors[n % doors.len()].clone())).collect();
            let (house, stopped) = (house.clone(), stopped.clone());
            let sit = move || sit(&house, seats, &stopped);
            threads.push(std::thread::Builder::new().name("listeners".into()).spawn(sit)?);
        }
        for (number, door) in doors.iter().enumerate() {
            // The crowd goes on where those who decode have ended.
            let mine = (0..counting).filter(|n| (decoding + n) % doors.len() == number);
            let numbers: Vec<usize> = mine.map(|n| decoding + n).collect();
            if numbers.is_empty() {
                continue;
            }
            let (house, stopped, door) = (house.clone(), stopped.clone(), door.clone());
            let stand = move || stand(&house, &door, &numbers, &stopped);
            threads.push(std::thread::Builder::new().name("crowd".into()).spawn(stand)?);
        }
        Ok(Self { stop, threads })
    }

    /// Lets everyone leave and gathers what they brought.
    pub(super) fn finish(mut self) -> Result<Vec<Memories>> {
        self.stop.send_replace(true);
        let join = |thread: std::thread::JoinHandle<Result<Memories>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of listeners panicked"))?
        };
        std::mem::take(&mut self.threads).into_iter().map(join).collect()
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // An audience that is dropped on an error has an error to report already.
            let _ = thread.join();
        }
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, DELAY_MOST_US, 3)?)
}

/// Listeners that decode, in one thread.
fn sit(house: &House, seats: Vec<(usize, Door)>, stop: &watch::Receiver<bool>) -> Result<Memories> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let one_way = Rc::new(RefCell::new(histogram()?));
    let stays = runtime.block_on(local.run_until(async {
        let gate = Rc::new(Semaphore::new(AT_ONCE));
        let mut tasks = tokio::task::JoinSet::new();
        let mut connectors = Vec::new();
        for group in seats.chunks(PER_SOCKET) {
            let connector = Connector::new(&house.trust)?;
            connectors.push(connector.clone());
            for (number, door) in group.iter().cloned() {
                let seat = Seat {
                    house: house.clone(),
                    connector: connector.clone(),
                    door,
                    number,
                    gate: gate.clone(),
                    one_way: one_way.clone(),
                    stop: stop.clone(),
                };
                tasks.spawn_local(seat.listen());
            }
        }
        let mut stays = Vec::new();
        while let Some(stay) = tasks.join_next().await {
            stays.push(stay?);
        }
        for connector in connectors {
            connector.finish().await;
        }
        anyhow::Ok(stays)
    }))?;
    let one_way = one_way.borrow().clone();
    Ok(Memories { stays, one_way, copies: BTreeMap::new() })
}

/// One listener that decodes.
struct Seat {
    house: House,
    connector: Connector,
    door: Door,
    number: usize,
    gate: Rc<Semaphore>,
    one_way: Rc<RefCell<Histogram<u64>>>,
    stop: watch::Receiver<bool>,
}

impl Seat {
    async fn listen(self) -> Stay {
        let mut stay = Stay {
            listener: self.number,
            relay: self.door.relay.clone(),
            decoded: true,
            ..Stay::default()
        };
        if let Err(error) = self.stay(&mut stay).await {
            self.house.gone.fetch_add(1, Ordering::Relaxed);
            stay.error = Some(error.to_string());
        }
        stay
    }

    async fn stay(&self, stay: &mut Stay) -> Result<()> {
        let join = Join {
            address: self.door.address.to_string(),
            room: ROOM.into(),
            role: Role::Listener,
            token: None,
            name: None,
            playout: limits::PLAYOUT,
            last: None,
        };
        let permit = self.gate.acquire().await?;
        let session = self.connector.join(&join).await?;
        drop(permit);
        stay.join_ms = ms(session.joined_in);
        self.house.inside.fetch_add(1, Ordering::Relaxed);
        let mut listener = Listener::new(session, ListenSettings::default())?;
        let begun = Instant::now();
        let mut ear = Recorder {
            zero: self.house.zero,
            unix_us_at_zero: unix_us_at(self.house.zero),
            one_way: self.one_way.clone(),
            recording: Recording::new(self.number, self.house.court.clone()),
            stay,
        };
        let result = listener.run(&mut ear, ended(self.stop.clone())).await;
        let played = ear.recording.finish();
        self.house.inside.fetch_sub(1, Ordering::Relaxed);
        stay.stayed = begun.elapsed();
        stay.played = played;
        stay.first_tick_ms = listener.stats().first_tick_in.map_or(0.0, ms);
        Ok(result?)
    }
}

/// What a listener that decodes notes.
struct Recorder<'a> {
    zero: Instant,
    unix_us_at_zero: u64,
    one_way: Rc<RefCell<Histogram<u64>>>,
    recording: Recording,
    stay: &'a mut Stay,
}

impl Ear for Recorder<'_> {
    fn tick(&mut self, at: Instant, record: &Record, replay: bool) {
        self.stay.tick(record.number);
        if !replay {
            let since = at.saturating_duration_since(self.zero).as_micros() as u64;
            let delay = (self.unix_us_at_zero + since).saturating_sub(record.clock_us);
            self.one_way.borrow_mut().saturating_record(delay.max(1));
        }
    }

    fn block(&mut self, at: Instant, block: &Block) -> Result<(), String> {
        let at = Time::ZERO + at.saturating_duration_since(self.zero);
        self.recording.push(at, block);
        Ok(())
    }
}

/// Listeners that count, in one thread, on one relay.
fn stand(
    house: &House,
    door: &Door,
    numbers: &[usize],
    stop: &watch::Receiver<bool>,
) -> Result<Memories> {
    let mut crowd = Crowd::new(CrowdPlan {
        address: door.address,
        host: door.address.ip().to_string(),
        roots: house.roots.clone(),
        room: ROOM.into(),
        tokens: Vec::new(),
        acks: Acks::Patient,
        sockets: numbers.len().div_ceil(PER_SOCKET).min(16),
        at_once: AT_ONCE,
        rehomes: true,
        reports: true,
    })?;
    crowd.compare_copies();
    crowd.grow(numbers.len(), JOIN_WITHIN)?;
    house.inside.fetch_add(numbers.len(), Ordering::Relaxed);
    let begun = Instant::now();
    while !*stop.borrow() {
        crowd.listen(TURN)?;
    }
    let stayed = begun.elapsed();
    let counts = crowd.counts();
    house.inside.fetch_sub(numbers.len(), Ordering::Relaxed);
    crowd.leave();
    crowd.listen(TURN)?;
    let lost = crowd.lost().first().cloned().unwrap_or_else(|| "its session ended".into());
    let stay = |(at, listener): (usize, &usize)| {
        let count = counts.get(at).copied().unwrap_or_default();
        Stay {
            listener: *listener,
            relay: door.relay.clone(),
            decoded: false,
            join_ms: count.join_ms,
            first_tick_ms: count.first_tick_ms,
            first: count.first,
            last: count.last,
            ticks: count.ticks,
            altered: count.altered,
            missing: BTreeSet::new(),
            stayed,
            played: Duration::ZERO,
            error: (at >= counts.len()).then(|| lost.clone()),
        }
    };
    let stays: Vec<Stay> = numbers.iter().enumerate().map(stay).collect();
    let gone = stays.iter().filter(|stay| stay.error.is_some()).count();
    house.gone.fetch_add(gone, Ordering::Relaxed);
    Ok(Memories { stays, one_way: histogram()?, copies: crowd.first_copies() })
}

/// The wall clock at a point of the monotonic one, in microseconds since the Unix epoch.
fn unix_us_at(at: Instant) -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    unix.saturating_sub(at.elapsed()).as_micros() as u64
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_not_missing() {
        let mut stay = Stay::default();
        assert_eq!(stay.lost(), 0);
        for number in [10, 9, 14, 12, 15] {
            stay.tick(number);
        }
        assert_eq!((stay.first, stay.last, stay.lost()), (9, 15, 2));
        assert_eq!(stay.missing.into_iter().collect::<Vec<_>>(), [11, 13]);
    }
}
