//! Faults between a speaker and the origin.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::scene::{Place, ROOM, Scene, Stand, joined, voice};
use super::{FaultsOptions, Row};
use crate::bed::Choir;
use crate::shaper::{Loss, Path, Shaper, Way};

/// Speakers behind the lossy path, beside the scene's own.
const SPEAKERS: usize = 8;
/// How long they are listened to: 50 frames a second of each, 12,000 in all.
const TIME: Duration = Duration::from_secs(30);
/// One way, as on the last hop.
const DELAY: Duration = Duration::from_millis(20);

/// 5 % loss from speakers to the origin. What is counted is what the origin found missing for good:
/// a frame that neither redundancy nor repair brought in time for a tick.
pub(super) fn loss_5(options: &FaultsOptions, name: &str) -> Result<Row> {
    let mut scene = Scene::start(name, &[])?;
    let way = Way { delay: DELAY, loss: Loss::Random(0.05), ..Way::default() };
    let path = Shaper::start(scene.bed.origin.address, Path::both(way), options.seed)?;
    let join = |scene: &mut Scene| -> Result<_> {
        let mut join = scene.bed.stage(ROOM)?;
        join.address = path.address().to_string();
        Ok(join)
    };
    let joins = (0..SPEAKERS).map(|_| join(&mut scene)).collect::<Result<Vec<_>>>()?;
    let choir = Choir::start(scene.bed.trust(), joins, voice(), None)?;
    choir.speak(SPEAKERS);
    let address = scene.bed.origin.address;
    let stand =
        Stand::start(&scene.bed, Place { address, listeners: 20, apart: false, rehomes: true })?;
    joined(&[&stand])?;
    sleep(Duration::from_secs(5));
    stand.watch();
    let (before, sent) = (Frames::at(&scene)?, path.counts().up);
    sleep(TIME);
    let (after, sent_after) = (Frames::at(&scene)?, path.counts().up);
    let heard = stand.finish()?;
    choir.finish()?;
    let (packets, lost) = (sent_after.0 - sent.0, sent_after.1 - sent.1);
    let frames = after.had - before.had + (after.lost - before.lost);
    let missing = after.lost - before.lost + (after.late - before.late);
    let mut row = Row {
        listeners: heard.listeners,
        affected: heard.listeners,
        fired: lost > 0,
        returned_percent: 100.0,
        lost_elsewhere: heard.lost(),
        missing_percent: 100.0 * missing as f64 / frames.max(1) as f64,
        control_missing_percent: 100.0 * lost as f64 / packets.max(1) as f64,
        ..Row::default()
    };
    row.note("frames", frames);
    row.note("frames_missing", missing);
    row.note("frames_recovered", after.recovered - before.recovered);
    row.note("frames_repaired", after.repaired - before.repaired);
    row.note("lost_packets", lost);
    scene.end()?;
    Ok(row)
}

/// The origin's counts of frames.
struct Frames {
    had: u64,
    lost: u64,
    late: u64,
    recovered: u64,
    repaired: u64,
}

impl Frames {
    fn at(scene: &Scene) -> Result<Self> {
        let topology = scene.bed.origin.topology()?;
        let rooms = topology["rooms"].as_array().context("the origin names no rooms")?;
        let room =
            rooms.iter().find(|room| room["room"] == ROOM).context("the room is not there")?;
        let counters = room["counters"].as_array().context("the room has no counters")?;
        let count = |name: &str| {
            let found = counters.iter().find(|counter| counter[0] == name);
            found.and_then(|counter| counter[1].as_u64()).with_context(|| format!("no {name}"))
        };
        Ok(Self {
            had: count("frames_in")?,
            lost: count("lost")?,
            late: count("surplus_expired")? + count("surplus_full")?,
            recovered: count("recovered")?,
            repaired: count("repaired")?,
        })
    }
}
