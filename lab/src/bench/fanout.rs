//! What a relay's fan-out costs, beside the floor, in one run.

mod chart;
mod rounds;
mod stages;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bed::{Bed, Choir, RelayPlan};
use crate::crowd::{Acks, Crowd, CrowdPlan};
use crate::report::{Events, Report, Spread};

use self::rounds::Round;

/// The relay that is measured.
const RELAY: &str = "relay-1";
/// The relay below it, on the other core: what a hop takes is measured there.
const CHILD: &str = "relay-2";
const RELAY_CORE: usize = 0;
const OTHER_CORE: usize = 1;
/// UDP sockets that the listeners share, and the floor's receivers too.
const SOCKETS: usize = 16;

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The delay of a hop between two relays, and to the listeners.
    Hop,
    /// CPU for each delivered tick, beside the floor.
    Cost,
    /// The same with listeners that acknowledge as plain quinn does.
    PlainAcks,
    /// Joins in a CPU second of the relay, anonymous and with a token each.
    Joins,
    /// Memory for each listener.
    Memory,
}

impl Stage {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 5] = [Self::Hop, Self::Cost, Self::PlainAcks, Self::Joins, Self::Memory];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hop => "hop",
            Self::Cost => "cost",
            Self::PlainAcks => "plain-acks",
            Self::Joins => "joins",
            Self::Memory => "memory",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct FanoutOptions {
    /// Listeners in the cost rounds.
    pub listeners: usize,
    /// Ticks a second: 50, 25 or 16 (20, 40 or 60 ms).
    pub rate_hz: u32,
    /// Speakers in a tick; several numbers alternate.
    pub speakers: Vec<usize>,
    /// Seconds of one measurement within a round.
    pub seconds: f64,
    /// Rounds.
    pub rounds: usize,
    /// What is measured.
    pub stages: Vec<Stage>,
    /// Where the chart goes.
    pub chart: Option<PathBuf>,
    /// Where events go.
    pub events: Option<PathBuf>,
}

/// The bench's bed with all that runs on it.
struct Rig {
    bed: Bed,
    crowd: Crowd,
    choir: Choir,
}

/// Runs the bench and returns its report. Progress goes to `say`.
///
/// # Errors
/// When it could not measure.
pub fn run(options: &FanoutOptions, say: &mut dyn FnMut(&str)) -> Result<Report> {
    check(options)?;
    let mut report = Report::start();
    let mut events = Events::to(options.events.as_deref())?;
    stentor_relay::quic::sys::pin_to_core(OTHER_CORE).context("the bench needs two cores")?;
    say("starting an origin and two relays");
    let mut rig = set_up(options)?;
    report.set("listeners", options.listeners);
    report.set("rate_hz", options.rate_hz);
    report.set("speakers", options.speakers.iter().copied().map(Value::from).collect::<Vec<_>>());
    report.set("frame_bytes", 120);
    for stage in Stage::ALL.into_iter().filter(|stage| options.stages.contains(stage)) {
        match stage {
            Stage::Hop => stages::hop(&mut rig, say, &mut report)?,
            Stage::Cost => rounds_of_cost(options, &mut rig, say, &mut events, &mut report)?,
            Stage::PlainAcks => plain_acks(options, &mut rig, say, &mut events, &mut report)?,
            Stage::Joins => stages::joins(&mut rig, say, &mut report)?,
            Stage::Memory => stages::memory(&mut rig, say, &mut report)?,
        }
    }
    rig.choir.finish()?;
    events.finish().context("the file of events")?;
    Ok(report)
}

fn check(options: &FanoutOptions) -> Result<()> {
    if cadence(options.rate_hz).is_none() {
        bail!("--rate must be 50, 25 or 16: a room's cadence is 20, 40 or 60 ms");
    }
    if options.speakers.is_empty() || !options.speakers.iter().all(|n| (1..=4).contains(n)) {
        bail!("--speakers must be 1 to 4");
    }
    if options.listeners == 0 || options.listeners > 4_000 || options.rounds == 0 {
        bail!("--listeners must be 1 to 4000, and there must be a round");
    }
    if options.stages.is_empty() {
        bail!("--stages names nothing to measure");
    }
    if options.chart.is_some() && !options.stages.contains(&Stage::Cost) {
        bail!("--chart shows the stage `cost`, which --stages leaves out");
    }
    Ok(())
}

/// The room's cadence in milliseconds for a rate.
fn cadence(rate_hz: u32) -> Option<u32> {
    match rate_hz {
        50 => Some(20),
        25 => Some(40),
        16 | 17 => Some(60),
        _ => None,
    }
}

fn set_up(options: &FanoutOptions) -> Result<Rig> {
    let tick_ms = cadence(options.rate_hz).context("checked before")?;
    // 120-byte frames are outside of the profile `voice`: the room has its own.
    let profile = "custom = { kbit_s = 48, frame_bytes = 120, tick_bytes = 560, redundancy = 0 }";
    let room = |name: &str, tick_ms: u32| {
        format!(
            "[[rooms]]\nname = \"{name}\"\npublic = true\naudible = 4\ntick_ms = {tick_ms}\n\
             profile = {{ {profile} }}\n"
        )
    };
    let rooms = room("bench", tick_ms) + &room("slow", 60);
    let mut bed = Bed::start("fanout", &rooms, Some(OTHER_CORE))?;
    bed.add_relay(&relay(RELAY, 1, RELAY_CORE))?;
    bed.add_relay(&relay(CHILD, 2, OTHER_CORE))?;
    bed.wait_ready()?;
    let most = options.speakers.iter().max().copied().unwrap_or(1);
    let joins = (0..most).map(|_| bed.stage("bench")).collect::<Result<Vec<_>>>()?;
    let settings = stentor_client::audio::EncoderSettings::bench();
    let choir = Choir::start(bed.trust(), joins, settings, Some(OTHER_CORE))?;
    let crowd = crowd(&bed, 0, "bench", Acks::Patient, Vec::new())?;
    Ok(Rig { bed, crowd, choir })
}

fn relay(name: &str, level: u8, core: usize) -> RelayPlan {
    // What a join costs is measured, not what the door lets in.
    let config = "[limits]\njoins_per_s = 1000000\n".to_owned();
    RelayPlan { core: Some(core), events: true, config, ..RelayPlan::new(name, level) }
}

/// A crowd at one relay.
fn crowd(bed: &Bed, relay: usize, room: &str, acks: Acks, tokens: Vec<String>) -> Result<Crowd> {
    let address = bed.relays[relay].address;
    Crowd::new(CrowdPlan {
        address,
        host: address.ip().to_string(),
        roots: bed.roots()?,
        room: room.into(),
        tokens,
        acks,
        sockets: SOCKETS,
        at_once: 32,
        rehomes: false,
        reports: false,
    })
}

/// The rounds that the bench is named for, and their chart.
fn rounds_of_cost(
    options: &FanoutOptions,
    rig: &mut Rig,
    say: &mut dyn FnMut(&str),
    events: &mut Events,
    report: &mut Report,
) -> Result<()> {
    say(&format!("{} listeners join", options.listeners));
    rig.crowd.grow(options.listeners, Duration::from_secs(60))?;
    let rounds = rounds::run(options, rig, say, events)?;
    cost(report, options, &rounds);
    if let Some(path) = &options.chart {
        chart::draw(path, options, &rounds)?;
        say(&format!("chart: {}", path.display()));
    }
    Ok(())
}

/// The same with listeners that acknowledge as plain quinn does: what a stranger's client costs.
fn plain_acks(
    options: &FanoutOptions,
    rig: &mut Rig,
    say: &mut dyn FnMut(&str),
    events: &mut Events,
    report: &mut Report,
) -> Result<()> {
    say("the same with listeners on plain quinn");
    rig.crowd.leave();
    rig.crowd.listen(Duration::from_millis(500))?;
    rig.crowd = crowd(&rig.bed, 0, "bench", Acks::Plain, Vec::new())?;
    rig.crowd.grow(options.listeners, Duration::from_secs(60))?;
    let first = vec![options.speakers[0]];
    let options = FanoutOptions { speakers: first, rounds: 3, ..options.clone() };
    let rounds = rounds::run(&options, rig, say, events)?;
    let ratios: Vec<f64> = rounds.iter().map(|r| r.cpu_us / r.floor_us).collect();
    report.spread("ratio_to_floor_plain_acks", Spread::of(&ratios));
    let lost: u64 = rounds.iter().map(|r| r.sent.saturating_sub(r.received)).sum();
    report.set("lost_plain_acks", lost);
    Ok(())
}

fn cost(report: &mut Report, options: &FanoutOptions, rounds: &[Round]) {
    let first = options.speakers[0];
    let of = |speakers: usize| rounds.iter().filter(move |round| round.speakers == speakers);
    let column = |pick: fn(&Round) -> f64| Spread::of(&of(first).map(pick).collect::<Vec<_>>());
    report.spread("cpu_us_per_datagram", column(|r| r.cpu_us));
    report.spread("floor_us_per_datagram", column(|r| r.floor_us));
    report.spread("ratio_to_floor", column(|r| r.cpu_us / r.floor_us));
    report.set("packet_bytes", column(|r| r.packet_bytes).median);
    report.set("frames_per_tick", column(|r| r.frames_per_tick).median);
    report.set("ticks_per_s", column(|r| r.ticks_per_s).median);
    report.set("sent", rounds.iter().map(|r| r.sent).sum::<u64>());
    report.set("received", rounds.iter().map(|r| r.received).sum::<u64>());
    report.set("lost", rounds.iter().map(|r| r.sent.saturating_sub(r.received)).sum::<u64>());
    report.set("floor_lost", rounds.iter().map(|r| r.floor_lost).sum::<u64>());
    report.set("rounds", rounds.len() / options.speakers.len());
    for &speakers in &options.speakers[1..] {
        let frames: Vec<f64> = of(speakers).map(|r| r.frames_per_tick).collect();
        let ticks: Vec<f64> = of(speakers).map(|r| r.ticks_per_s).collect();
        let pairs = of(first).zip(of(speakers)).map(|(one, more)| more.cpu_us / one.cpu_us);
        let ratios: Vec<f64> = pairs.collect();
        report.set(&format!("frames_per_tick_{speakers}"), Spread::of(&frames).median);
        report.set(&format!("ticks_per_s_{speakers}"), Spread::of(&ticks).median);
        let name = match (first, speakers) {
            (1, 4) => "four_to_one".to_owned(),
            _ => format!("ratio_{speakers}_to_{first}"),
        };
        report.spread(&name, Spread::of(&ratios));
    }
}
