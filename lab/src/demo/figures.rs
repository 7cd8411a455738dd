//! The demo's figures, and what stands against success.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::audience::{Memories, Stay};
use super::court::Files;
use super::hops::Journal;
use super::{DemoOptions, Outcome};
use crate::bed::Bed;
use crate::report::{Events, Report, quantile};

/// What a listener has played must be this much of its stay, less the last block's time.
const PLAYED_SHARE: f64 = 0.98;
/// Ticks by which a listener's last one may be behind the others': on a busy machine not all leave
/// in the same second.
const BEHIND_MOST: u32 = 100;
/// Failures that are told one by one.
const TOLD: usize = 5;

/// What the nodes know at the end.
pub(super) struct Tree {
    journal: Journal,
    /// The parents of each relay that still answers.
    parents: BTreeMap<String, Vec<String>>,
    levels: BTreeMap<String, u64>,
    collect_ms_p50: f64,
}

impl Tree {
    /// Reads the nodes' events and asks the origin.
    pub(super) fn read(bed: &Bed) -> Result<Self> {
        let said = bed.origin.topology()?;
        let mut tree = Self {
            journal: Journal::default(),
            parents: BTreeMap::new(),
            levels: BTreeMap::new(),
            collect_ms_p50: said["collect_ms_p50"].as_f64().unwrap_or_default(),
        };
        tree.journal.read(ORIGIN, &bed.events(ORIGIN))?;
        for relay in &bed.relays {
            // A relay that was killed says nothing more.
            let Ok(said) = relay.topology() else { continue };
            tree.journal.read(&relay.name, &bed.events(&relay.name))?;
            let level = said["level"].as_u64().unwrap_or_default();
            let parents = said["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
            let parents = match level {
                1 => vec![ORIGIN.to_owned()],
                _ => {
                    parents.iter().filter_map(|p| p["relay"].as_str()).map(str::to_owned).collect()
                }
            };
            tree.parents.insert(relay.name.clone(), parents);
            tree.levels.insert(relay.name.clone(), level);
        }
        Ok(tree)
    }

    /// Milliseconds of each hop from relay to relay, or from the origin where there is no other.
    fn hops(&self, from: u32, events: &mut Events) -> Result<Vec<f64>> {
        let above = self.levels.values().any(|level| *level > 1).into();
        let mut hops = Vec::new();
        for (child, parents) in &self.parents {
            if self.levels.get(child).is_none_or(|level| *level <= above) {
                continue;
            }
            for hop in self.journal.hops(child, parents, from) {
                hops.push(hop.ms);
                events.write(&json!({
                    "event": "hop", "child": hop.child, "number": hop.number, "ms": hop.ms,
                }))?;
            }
        }
        Ok(hops)
    }
}

/// The origin's name in the bed.
const ORIGIN: &str = "origin";

/// Sums up.
pub(super) fn outcome(
    options: &DemoOptions,
    mut report: Report,
    tree: &Tree,
    memories: &[Memories],
    files: &Files,
    events: &mut Events,
) -> Result<Outcome> {
    let mut stays: Vec<Stay> = memories.iter().flat_map(|memory| by_bytes(memory, tree)).collect();
    stays.sort_by_key(|stay| stay.listener);
    let first = stays.iter().filter(|stay| stay.ticks > 0).map(|stay| stay.first).min();
    let (first, last) = (first.unwrap_or(0), stays.iter().map(|stay| stay.last).max().unwrap_or(0));
    let mut failures = Vec::new();
    let mut hearing = 0;
    for stay in &stays {
        let fault = fault(stay, last, files);
        hearing += usize::from(fault.is_none());
        note(stay, fault.as_deref(), files, events)?;
        failures.extend(
            fault.map(|why| format!("listener {} on {}: {why}", stay.listener + 1, stay.relay)),
        );
    }
    let untold = failures.len().saturating_sub(TOLD);
    failures.truncate(TOLD);
    if untold > 0 {
        failures.push(format!("{untold} further listeners"));
    }
    if files.control_passed() {
        failures.push("the control passed: the verdict cannot be trusted".to_owned());
    }
    report.set("listeners", options.listeners);
    report.set("listeners_hearing", hearing);
    report.set("decoded", stays.iter().filter(|stay| stay.decoded).count());
    report.set("control_passed", files.control_passed());
    report.set("levels", options.levels);
    report.set("relays", usize::from(options.levels) * options.relays_per_level);
    report.set("speakers", options.speakers);
    report.set("ticks_sent", tree.journal.count(ORIGIN, first, last));
    report.set("ticks_altered", stays.iter().map(|stay| stay.altered).sum::<u64>());
    report.set("ticks_lost", stays.iter().map(|stay| stay.lost()).sum::<u64>());
    let column = |pick: fn(&Stay) -> f64| stays.iter().map(pick).collect::<Vec<f64>>();
    let mut unmeasured = Vec::new();
    let mut both = |report: &mut Report, name: &str, samples: &mut [f64]| {
        unmeasured.extend(quantiles(report, name, samples).err().map(|why| format!("{why:#}")));
    };
    both(&mut report, "join_ms", &mut column(|stay| stay.join_ms));
    both(&mut report, "first_tick_ms", &mut column(|stay| stay.first_tick_ms));
    let one_way = one_way(memories)?;
    report.set("one_way_ms_p50", one_way.value_at_quantile(0.5) as f64 / 1_000.0);
    report.set("one_way_ms_p99", one_way.value_at_quantile(0.99) as f64 / 1_000.0);
    both(&mut report, "per_hop_ms", &mut tree.hops(first, events)?);
    report.set("collect_ms_p50", tree.collect_ms_p50);
    let lags = files.listeners.values().flatten().filter(|hearing| hearing.windows_heard > 0);
    both(
        &mut report,
        "mouth_to_ear_ms",
        &mut lags.map(|hearing| hearing.lag_ms).collect::<Vec<_>>(),
    );
    failures.append(&mut unmeasured);
    report.set("windows_masked_share", files.masked_share());
    Ok(Outcome { report, failures })
}

/// The stays of one thread. What was compared among its listeners is compared with what the origin
/// sent: if the first copy of a tick was another, nobody heard it.
fn by_bytes(memory: &Memories, tree: &Tree) -> impl Iterator<Item = Stay> {
    let altered = tree.journal.altered(ORIGIN, &memory.copies);
    memory.stays.iter().cloned().map(move |mut stay| {
        stay.altered += altered;
        stay
    })
}

/// Why a listener does not hear, if so.
fn fault(stay: &Stay, last: u32, files: &Files) -> Option<String> {
    if let Some(error) = &stay.error {
        return Some(error.clone());
    }
    if stay.ticks == 0 {
        return Some("no tick arrived".to_owned());
    }
    if stay.lost() > 0 && !stay.decoded {
        return Some(format!("{} ticks were lost", stay.lost()));
    }
    if stay.altered > 0 {
        return Some(format!("{} ticks came with other bytes than were sent", stay.altered));
    }
    if last - stay.last > BEHIND_MOST {
        return Some(format!("its last tick is {} behind", last - stay.last));
    }
    if !stay.decoded {
        return None;
    }
    let played = stay.played.as_secs_f64() + 0.04;
    if played < PLAYED_SHARE * stay.stayed.as_secs_f64() {
        return Some(format!("played {played:.1} s in {:.1} s", stay.stayed.as_secs_f64()));
    }
    if !files.hears(stay.listener) {
        let speakers = files.listeners.get(&stay.listener).map(Vec::as_slice).unwrap_or_default();
        let heard = |hearing: &crate::hears::Hearing| {
            let masked = hearing.windows_masked;
            format!("{} of {} windows ({masked} masked)", hearing.windows_heard, hearing.windows)
        };
        let speakers: Vec<String> = speakers.iter().map(heard).collect();
        return Some(format!("heard too little: {}", speakers.join(", ")));
    }
    None
}

/// One event for each listener.
fn note(stay: &Stay, fault: Option<&str>, files: &Files, events: &mut Events) -> Result<()> {
    let speakers = files.listeners.get(&stay.listener).map(Vec::as_slice).unwrap_or_default();
    let hearing = |hearing: &crate::hears::Hearing| {
        json!({
            "windows": hearing.windows,
            "windows_heard": hearing.windows_heard,
            "windows_masked": hearing.windows_masked,
            "lag_ms": hearing.lag_ms,
        })
    };
    events.write(&json!({
        "event": "listener",
        "listener": stay.listener + 1,
        "relay": stay.relay,
        "decoded": stay.decoded,
        "hears": fault.is_none(),
        "fault": fault.unwrap_or_default(),
        "join_ms": stay.join_ms,
        "first_tick_ms": stay.first_tick_ms,
        "ticks": stay.ticks,
        "first": stay.first,
        "last": stay.last,
        "ticks_lost": stay.lost(),
        "ticks_altered": stay.altered,
        "missing": stay.missing,
        "stayed_s": stay.stayed.as_secs_f64(),
        "played_s": stay.played.as_secs_f64(),
        "speakers": speakers.iter().map(hearing).collect::<Vec<Value>>(),
    }))?;
    Ok(())
}

fn quantiles(report: &mut Report, name: &str, samples: &mut [f64]) -> Result<()> {
    for (share, at) in [("p50", 0.5), ("p99", 0.99)] {
        let value = quantile(samples, at).with_context(|| format!("{name} was not measured"))?;
        report.set(&format!("{name}_{share}"), value);
    }
    Ok(())
}

fn one_way(memories: &[Memories]) -> Result<Histogram<u64>> {
    let mut all = Histogram::new(3)?;
    for memory in memories {
        all.add(&memory.one_way)?;
    }
    Ok(all)
}
