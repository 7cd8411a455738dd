//! What is measured once, beside the rounds: a hop's delay, joins, memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stentor_proto::wire::Role;

use super::{CHILD, RELAY, Rig, crowd};
use crate::bed::Choir;
use crate::crowd::Acks;
use crate::report::{Report, quantile};

/// Listeners on the relay while a hop is measured.
const HOP_LISTENERS: usize = 200;
const HOP_TIME: Duration = Duration::from_secs(8);
/// How long listeners join and leave as fast as they can.
const CHURN: Duration = Duration::from_secs(3);
/// Different tokens in the join stage: none is verified twice.
const TOKENS: usize = 30_000;
/// Listeners between which memory is measured.
const MEMORY: (usize, usize) = (1_000, 4_000);
const MEMORY_TIME: Duration = Duration::from_secs(10);

/// The delay of a hop between two relays, and of the hop to the listeners.
pub(super) fn hop(rig: &mut Rig, say: &mut dyn FnMut(&str), report: &mut Report) -> Result<()> {
    say("measuring the delay of a hop with 200 listeners");
    let mut below = crowd(&rig.bed, 1, "bench", Acks::Patient, Vec::new())?;
    rig.crowd.grow(HOP_LISTENERS, Duration::from_secs(30))?;
    below.grow(1, Duration::from_secs(30))?;
    rig.choir.speak(1);
    rig.crowd.listen(Duration::from_secs(2))?;
    rig.crowd.note_arrivals(true);
    rig.crowd.listen(HOP_TIME)?;
    rig.crowd.note_arrivals(false);
    let arrivals = rig.crowd.take_arrivals();
    let from = arrivals.iter().map(|(number, _)| *number).min().context("nobody heard a tick")?;
    // The relays write their events once a second or so.
    rig.crowd.listen(Duration::from_millis(500))?;
    let above = received(&rig.bed.events(RELAY), from)?;
    let child = received(&rig.bed.events(CHILD), from)?;
    let ms = |later: u64, sooner: u64| (later as f64 - sooner as f64) / 1e6;
    let pairs = child.iter().filter_map(|(n, at)| above.get(n).map(|before| ms(*at, *before)));
    let mut hops: Vec<f64> = pairs.collect();
    let pairs = arrivals.iter().filter_map(|(n, at)| above.get(n).map(|before| ms(*at, *before)));
    let mut last_hops: Vec<f64> = pairs.collect();
    if hops.len() < 100 || last_hops.len() < 100 {
        bail!("too few ticks passed the hop: {} and {}", hops.len(), last_hops.len());
    }
    report.set("hop_ms_p50", quantile(&mut hops, 0.5)?);
    report.set("hop_ms_p99", quantile(&mut hops, 0.99)?);
    report.set("last_hop_ms_p50", quantile(&mut last_hops, 0.5)?);
    report.set("last_hop_ms_p99", quantile(&mut last_hops, 0.99)?);
    let collect = &rig.bed.origin.topology()?["collect_ms_p50"];
    let collect = collect.as_f64().context("the origin tells no collect_ms_p50")?;
    report.set("collect_ms_p50", collect);
    let mut joins = rig.crowd.joins();
    report.set("first_tick_ms_p50", quantile(&mut joins.first_tick_ms, 0.5)?);
    below.leave();
    below.listen(Duration::from_millis(200))
}

/// When the kernel received each tick, by a node's events.
fn received(path: &Path, from: u32) -> Result<BTreeMap<u32, u64>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut ticks = BTreeMap::new();
    for line in text.lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let number = event["number"].as_u64().and_then(|n| u32::try_from(n).ok());
        if let (Some(number), Some(at)) = (number, event["received_ns"].as_u64())
            && number >= from
            && at > 0
        {
            ticks.insert(number, at);
        }
    }
    Ok(ticks)
}

/// How many joins a CPU second of the relay completes, anonymous and with a token each.
pub(super) fn joins(rig: &mut Rig, say: &mut dyn FnMut(&str), report: &mut Report) -> Result<()> {
    rig.choir.speak(0);
    rig.crowd.leave();
    rig.crowd.listen(Duration::from_secs(1))?;
    say("joins without a token");
    let anonymous = churn(rig, Vec::new(), say)?;
    say("joins with a token each");
    let tokens = (0..TOKENS).map(|_| rig.bed.token("bench", Role::Listener));
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    let with_token = churn(rig, tokens, say)?;
    report.set("handshakes_per_core_s", anonymous);
    report.set("joins_with_token_per_core_s", with_token);
    Ok(())
}

fn churn(rig: &Rig, tokens: Vec<String>, say: &mut dyn FnMut(&str)) -> Result<f64> {
    let mut crowd = crowd(&rig.bed, 0, "bench", Acks::Patient, tokens)?;
    let before = rig.bed.relays[0].cpu_seconds()?;
    let joined = crowd.churn(CHURN)?;
    let cpu = rig.bed.relays[0].cpu_seconds()? - before;
    if joined < 100 {
        bail!("only {joined} joins completed");
    }
    let busy = 100.0 * cpu / CHURN.as_secs_f64();
    say(&format!("{joined} joins, the relay was busy {busy:.0} % of the time"));
    Ok(joined as f64 / cpu)
}

/// Memory of a listener, from the difference of two sizes of crowd at 60 ms ticks.
pub(super) fn memory(rig: &mut Rig, say: &mut dyn FnMut(&str), report: &mut Report) -> Result<()> {
    let join = rig.bed.stage("slow")?;
    let settings = stentor_client::audio::EncoderSettings::bench();
    let choir = Choir::start(rig.bed.trust(), vec![join], settings, Some(super::OTHER_CORE))?;
    choir.speak(1);
    let mut crowd = crowd(&rig.bed, 0, "slow", Acks::Patient, Vec::new())?;
    let mut sizes = Vec::new();
    for listeners in [MEMORY.0, MEMORY.1] {
        say(&format!("memory with {listeners} listeners at 60 ms ticks"));
        crowd.grow(listeners, Duration::from_secs(60))?;
        crowd.listen(MEMORY_TIME)?;
        if let Some(why) = crowd.lost().first() {
            bail!("a listener was lost: {why}");
        }
        let relay = &rig.bed.relays[0];
        sizes.push((relay.rss_kib()?, relay.descriptors()?, crowd.hearing()));
    }
    let per_listener = (sizes[1].0 - sizes[0].0) / (MEMORY.1 - MEMORY.0) as f64;
    report.set("rss_kib_per_listener", per_listener);
    report.set("hearing_at_4000", sizes[1].2);
    report.set("descriptors_at_1000", sizes[0].1);
    report.set("descriptors_at_4000", sizes[1].1);
    choir.finish()?;
    crowd.leave();
    crowd.listen(Duration::from_millis(500))
}
