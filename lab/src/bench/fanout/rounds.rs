//! The rounds: the floor and the relay in turn, so that both meet the same machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{FanoutOptions, OTHER_CORE, RELAY_CORE, Rig, SOCKETS};
use crate::floor::{self, FloorPlan};
use crate::nodes::{Node, signal};
use crate::report::Events;

/// What one round measured for one number of speakers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) speakers: usize,
    pub(super) cpu_us: f64,
    pub(super) floor_us: f64,
    pub(super) floor_lost: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) packet_bytes: f64,
    pub(super) frames_per_tick: f64,
    pub(super) ticks_per_s: f64,
}

/// The listeners settle for this long after the floor before anything counts.
const SETTLE: Duration = Duration::from_millis(1_500);

pub(super) fn run(
    options: &FanoutOptions,
    rig: &mut Rig,
    say: &mut dyn FnMut(&str),
    events: &mut Events,
) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    let time = Duration::from_secs_f64(options.seconds);
    // The first measurement only says how large the packets are.
    let mut bytes = options
        .speakers
        .iter()
        .map(|&n| Ok(measure(rig, n, Duration::from_secs(1))?.packet_bytes))
        .collect::<Result<Vec<_>>>()?;
    for number in 1..=options.rounds {
        for (at, &speakers) in options.speakers.iter().enumerate() {
            let floor = quiet_floor(options, rig, bytes[at], time)?;
            let mut round = measure(rig, speakers, time)?;
            round.floor_us = floor.cpu_us;
            round.floor_lost = floor.sent.saturating_sub(floor.received);
            bytes[at] = round.packet_bytes;
            say(&format!(
                "round {number} of {}: {speakers} speaking: {:.2} µs a datagram, floor {:.2}, ratio {:.2}, lost {}",
                options.rounds,
                round.cpu_us,
                round.floor_us,
                round.cpu_us / round.floor_us,
                round.sent.saturating_sub(round.received),
            ));
            events.write(&json!({
                "event": "round", "round": number, "speakers": speakers,
                "cpu_us_per_datagram": round.cpu_us, "floor_us_per_datagram": round.floor_us,
                "sent": round.sent, "received": round.received,
                "packet_bytes": round.packet_bytes, "frames_per_tick": round.frames_per_tick,
            }))?;
            rounds.push(round);
        }
    }
    Ok(rounds)
}

/// The floor, while the relay and the speakers stand still.
fn quiet_floor(
    options: &FanoutOptions,
    rig: &mut Rig,
    packet_bytes: f64,
    time: Duration,
) -> Result<floor::FloorCost> {
    rig.choir.speak(0);
    rig.crowd.listen(Duration::from_millis(300))?;
    let pauses = rig.bed.relays.iter().map(Pause::of).collect::<Result<Vec<_>>>()?;
    let cost = floor::run(FloorPlan {
        listeners: options.listeners,
        sockets: SOCKETS,
        rate_hz: f64::from(options.rate_hz),
        packet_bytes: packet_bytes.round() as usize,
        time,
        core: RELAY_CORE,
        receiver_core: OTHER_CORE,
    });
    drop(pauses);
    cost
}

/// What the relay spends on the listeners for `time`, with `speakers` speaking.
fn measure(rig: &mut Rig, speakers: usize, time: Duration) -> Result<Round> {
    rig.choir.speak(speakers);
    rig.crowd.listen(SETTLE)?;
    rig.choir.check()?;
    let spoken = spoken(&rig.bed.origin)?;
    let (packets, bytes) = rig.crowd.input();
    let newest = rig.crowd.newest();
    let relay = &rig.bed.relays[0];
    let (started, before) = (Instant::now(), relay.cpu_seconds()?);
    rig.crowd.listen(time)?;
    let relay = &rig.bed.relays[0];
    let (after, elapsed) = (relay.cpu_seconds()?, started.elapsed());
    let last = rig.crowd.newest();
    let (packets_after, bytes_after) = rig.crowd.input();
    // The last ticks are still on their way, or are being repaired.
    rig.crowd.listen(Duration::from_millis(400))?;
    let spoken_after = self::spoken(&rig.bed.origin)?;
    if let Some(why) = rig.crowd.lost().first() {
        bail!("a listener was lost: {why}");
    }
    let sent = u64::from(last - newest) * rig.crowd.joined() as u64;
    let received = rig.crowd.distinct(newest, last);
    let ticks = f64::from(last - newest);
    Ok(Round {
        speakers,
        cpu_us: (after - before) * 1e6 / received.max(1) as f64,
        floor_us: f64::NAN,
        floor_lost: 0,
        sent,
        received,
        packet_bytes: (bytes_after - bytes) as f64 / (packets_after - packets).max(1) as f64,
        frames_per_tick: (spoken_after.1 - spoken.1) / (spoken_after.0 - spoken.0).max(1.0),
        ticks_per_s: ticks / elapsed.as_secs_f64(),
    })
}

/// Ticks with frames, and frames in them, at the origin.
fn spoken(origin: &Node) -> Result<(f64, f64)> {
    let topology = origin.topology()?;
    let number = |name: &str| topology[name].as_f64().with_context(|| format!("no {name}"));
    Ok((number("spoken_ticks")?, number("spoken_frames")?))
}

/// A process that stands still until this is dropped.
struct Pause(u32);

impl Pause {
    fn of(node: &Node) -> Result<Self> {
        signal(node.pid(), "STOP")?;
        Ok(Self(node.pid()))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // A process that is gone needs no waking.
        let _ = signal(self.0, "CONT");
    }
}
