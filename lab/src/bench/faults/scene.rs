//! What a fault happens to: a tree with one voice, and stands of listeners in threads of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use stentor_client::audio::EncoderSettings;

use crate::bed::{Bed, Choir, RelayPlan};
use crate::crowd::{Acks, Crowd, CrowdPlan};

/// The room of every row: profile `voice`, two earlier ticks at most.
pub(super) const ROOM: &str = "faults";
const ROOMS: &str = "[[rooms]]\nname = \"faults\"\npublic = true\n";
/// Listeners join within this.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// What is late is waited for, so that late and lost are told apart.
const TAIL: Duration = Duration::from_secs(1);
/// Who heard nothing new for this long at the end of a watch has not returned.
const SERVED: Duration = Duration::from_millis(500);
/// A stand looks this often whether it is to do something else.
const LOOK: Duration = Duration::from_millis(10);
/// Ticks of a batch: loss comes in clusters, and batches of a second are nearly independent.
const BATCH: u32 = 50;

/// A tree in which somebody speaks without a pause.
pub(super) struct Scene {
    pub(super) bed: Bed,
    choir: Choir,
}

impl Scene {
    /// An origin, these relays, and one voice.
    pub(super) fn start(what: &str, relays: &[RelayPlan]) -> Result<Self> {
        let mut bed = Bed::start(what, ROOMS, None)?;
        // In the order of their levels, so that each finds its parents.
        for relay in relays {
            bed.add_relay(relay)?;
            bed.wait_ready()?;
        }
        let joins = vec![bed.stage(ROOM)?];
        let choir = Choir::start(bed.trust(), joins, voice(), None)?;
        choir.speak(1);
        Ok(Self { bed, choir })
    }

    /// The voice pauses.
    pub(super) fn hush(&self) {
        self.choir.speak(0);
    }

    /// Ends the voice and the tree.
    pub(super) fn end(self) -> Result<()> {
        self.choir.finish().map(drop)
    }

    /// The sum of a counter in every relay's topology but those named.
    pub(super) fn relays_sum(&self, counter: &str, without: &[&str]) -> Result<f64> {
        let others = self.bed.relays.iter().filter(|r| !without.contains(&r.name.as_str()));
        others.map(|relay| Ok(relay.topology()?[counter].as_f64().unwrap_or(0.0))).sum()
    }

    /// The sum of a metric over every relay but those named.
    pub(super) fn metrics_sum(&self, metric: &str, without: &[&str]) -> Result<f64> {
        let others = self.bed.relays.iter().filter(|r| !without.contains(&r.name.as_str()));
        others.map(|relay| relay.metric(metric)).sum()
    }
}

/// 28 kbit/s without pauses, a speaker's default: every tick holds a frame.
pub(super) fn voice() -> EncoderSettings {
    EncoderSettings { bitrate: 28_000, constant: true, dtx: false, ..EncoderSettings::default() }
}

/// Where and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) listeners: usize,
    /// Whether each has a socket of its own, and so a path of its own.
    pub(super) apart: bool,
    /// Whether they go to another relay when theirs falls silent. Where the path is the fault, they
    /// would go round it.
    pub(super) rehomes: bool,
}

/// Listeners at one address, in a thread of their own.
pub(super) struct Stand {
    order: Arc<AtomicU8>,
    joined: Arc<AtomicBool>,
    thread: JoinHandle<Result<Heard>>,
}

/// What the listeners of a stand are to do.
const LISTEN: u8 = 0;
const WATCH: u8 = 1;
const SLEEP: u8 = 2;
const END: u8 = 3;

/// What a stand heard while it watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Listeners who were there when it began to watch.
    pub(super) listeners: usize,
    /// Ticks that each of them should have; of several stands, those of the first.
    pub(super) ticks: u32,
    /// Listener-ticks that there should be.
    pub(super) expected: u64,
    /// Listener-ticks that came, sooner or later.
    pub(super) arrived: u64,
    /// Listener-ticks that came by their playout.
    pub(super) in_time: u64,
    /// Missing at playout in each second, in percent.
    pub(super) batches: Vec<f64>,
    /// The longest time that each listener was without a new tick.
    pub(super) gaps_ms: Vec<f64>,
    /// Listeners who heard something new within the last half second of the watch.
    pub(super) served: usize,
    /// Times that one of them went to another relay.
    pub(super) moves: u64,
    /// Listeners who were told that their node itself hears nothing.
    pub(super) starved: usize,
}

impl Heard {
    /// What several stands heard.
    pub(super) fn sum(stands: Vec<Self>) -> Self {
        let add = |mut sum: Self, other: Self| {
            sum.listeners += other.listeners;
            sum.expected += other.expected;
            sum.arrived += other.arrived;
            sum.in_time += other.in_time;
            sum.batches.extend(other.batches);
            sum.gaps_ms.extend(other.gaps_ms);
            sum.served += other.served;
            sum.moves += other.moves;
            sum.starved += other.starved;
            sum
        };
        stands.into_iter().reduce(add).unwrap_or_default()
    }

    /// How many heard the room at the end, in percent.
    pub(super) fn returned_percent(&self) -> f64 {
        100.0 * self.served as f64 / self.listeners.max(1) as f64
    }

    /// Listener-ticks that never came.
    pub(super) fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.arrived)
    }

    /// Listener-ticks that were not there by their playout, in percent.
    pub(super) fn missing_percent(&self) -> f64 {
        let missing = self.expected.saturating_sub(self.in_time) as f64;
        100.0 * missing / self.expected.max(1) as f64
    }
}

impl Stand {
    /// Lets listeners join; [`joined`] waits for them.
    pub(super) fn start(bed: &Bed, place: Place) -> Result<Self> {
        let plan = CrowdPlan {
            address: place.address,
            host: place.address.ip().to_string(),
            roots: bed.roots()?,
            room: ROOM.into(),
            tokens: Vec::new(),
            acks: Acks::Patient,
            sockets: if place.apart { place.listeners } else { 8.min(place.listeners) },
            at_once: 64,
            rehomes: place.rehomes,
            reports: false,
        };
        let (order, joined) = (Arc::new(AtomicU8::new(LISTEN)), Arc::new(AtomicBool::new(false)));
        let (orders, inside) = (order.clone(), joined.clone());
        let thread = std::thread::Builder::new().name("stand".into()).spawn(move || {
            let mut crowd = Crowd::new(plan)?;
            crowd.grow(place.listeners, JOIN_WITHIN)?;
            inside.store(true, Ordering::Release);
            follow(&mut crowd, &orders)
        })?;
        Ok(Self { order, joined, thread })
    }

    /// Begins to count.
    pub(super) fn watch(&self) {
        self.order.store(WATCH, Ordering::Release);
    }

    /// Neither reads nor acknowledges for a while; the counting goes on with [`Self::watch`].
    pub(super) fn sleep(&self) {
        self.order.store(SLEEP, Ordering::Release);
    }

    /// Stops counting, waits for what is late, and says what was heard.
    pub(super) fn finish(self) -> Result<Heard> {
        self.order.store(END, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("a stand panicked"))?
    }
}

/// What each of several stands heard.
pub(super) fn finish_all(stands: Vec<Stand>) -> Result<Vec<Heard>> {
    // All at once, so that none of them goes on counting while another one waits for what is late.
    stands.iter().for_each(|stand| stand.order.store(END, Ordering::Release));
    stands.into_iter().map(Stand::finish).collect()
}

/// Waits until everyone of every stand is inside.
pub(super) fn joined(stands: &[&Stand]) -> Result<()> {
    let until = Instant::now() + JOIN_WITHIN;
    while !stands.iter().all(|stand| stand.joined.load(Ordering::Acquire)) {
        if stands.iter().any(|stand| stand.thread.is_finished()) || Instant::now() > until {
            bail!("not every listener has joined");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn follow(crowd: &mut Crowd, orders: &AtomicU8) -> Result<Heard> {
    let mut watching = None;
    loop {
        match orders.load(Ordering::Acquire) {
            WATCH if watching.is_none() => {
                watching = Some((crowd.newest(), crowd.joined(), crowd.moves()));
                crowd.watch_gaps();
            }
            SLEEP => {
                std::thread::sleep(LOOK);
                continue;
            }
            END => break,
            _ => {}
        }
        crowd.listen(LOOK)?;
    }
    let (after, listeners, moves) = watching.context("a stand ends after it has watched")?;
    let last = crowd.newest();
    let (gaps_ms, served) = (crowd.gaps_ms(), crowd.served(SERVED));
    crowd.listen(TAIL)?;
    let batch = |from: u32| {
        let due = f64::from(BATCH) * listeners as f64;
        100.0 * (1.0 - crowd.in_time(from, from + BATCH) as f64 / due)
    };
    let whole = last.saturating_sub(after) / BATCH;
    Ok(Heard {
        listeners,
        ticks: last.saturating_sub(after),
        expected: u64::from(last.saturating_sub(after)) * listeners as u64,
        arrived: crowd.distinct(after, last),
        in_time: crowd.in_time(after, last),
        batches: (0..whole).map(|n| batch(after + n * BATCH)).collect(),
        gaps_ms,
        served,
        moves: crowd.moves() - moves,
        starved: crowd.starved(),
    })
}
