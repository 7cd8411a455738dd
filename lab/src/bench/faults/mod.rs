//! What faults cost listeners: each row one fault on real processes, with what shows that it fired.

mod chart;
mod last_hop;
mod own_relay;
mod relays;
mod scene;
mod uplink;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::report::{Report, quantile};

/// What to measure.
#[derive(Clone, Debug)]
pub struct FaultsOptions {
    /// Names of rows; all of them if empty.
    pub only: Vec<String>,
    /// Listeners on a lossy path.
    pub listeners: usize,
    /// Seconds that a lossy path is measured for, after it has settled.
    pub seconds: f64,
    /// Seed of the paths' chance.
    pub seed: u64,
    /// Where the chart goes.
    pub chart: Option<PathBuf>,
}

impl Default for FaultsOptions {
    /// 200 listeners for 11 seconds: 110,000 listener-ticks.
    fn default() -> Self {
        Self { only: Vec::new(), listeners: 200, seconds: 11.0, seed: 1, chart: None }
    }
}

/// How a lossy path settles before it is measured.
const SETTLE: Duration = Duration::from_secs(10);

type Measure = fn(&FaultsOptions, &str) -> Result<Row>;

/// Every row by its name, in the order of measuring.
const ROWS: &[(&str, Measure)] = &[
    ("loss_5", last_hop::loss_5),
    ("loss_10", last_hop::loss_10),
    ("loss_20", last_hop::loss_20),
    ("burst_5", last_hop::burst_5),
    ("bottleneck_64k", last_hop::bottleneck_64k),
    ("rebind", last_hop::rebind),
    ("uplink_loss_5", uplink::loss_5),
    ("loss_hops_2", relays::loss_hops_2),
    ("kill_own_relay", own_relay::kill),
    ("kill_own_relay_in_silence", own_relay::kill_in_silence),
    ("stop_own_relay", own_relay::stop),
    ("blackhole_own_relay", own_relay::black_hole),
    ("drain", own_relay::drain),
    ("kill_other_relay", relays::kill_other),
    ("stop_other_relay", relays::stop_other),
    ("starve_level", relays::starve_level),
];

/// The names of all rows.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|(name, _)| *name)
}

/// One fault and what became of the listeners.
#[derive(Clone, Debug, Default)]
struct Row {
    /// Everyone who listened.
    listeners: usize,
    /// Those whom the fault touches.
    affected: usize,
    /// Whether the fault showed in what is not the listeners' own count.
    fired: bool,
    /// Of those affected, how many heard the room again; 100 if none were affected.
    returned_percent: f64,
    /// The longest time without a new tick of each of those affected.
    gaps_ms: Vec<f64>,
    /// Listener-ticks that never came to those affected.
    missing_after_replay: u64,
    /// Ticks that never came to nodes and listeners whom the fault does not touch.
    lost_elsewhere: u64,
    /// Listener-ticks of those affected that were not there by their playout.
    missing_percent: f64,
    /// The same without redundancy and repair.
    control_missing_percent: f64,
    /// What this fault alone has to say.
    more: Map<String, Value>,
}

impl Row {
    fn json(&self, name: &str) -> Value {
        let mut gaps = self.gaps_ms.clone();
        let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
        let mut row = json!({
            "fault": name,
            "listeners": self.listeners,
            "affected": self.affected,
            "fired": self.fired,
            "returned_percent": round(self.returned_percent),
            "gap_ms_p50": round(gap(&mut gaps, 0.5)),
            "gap_ms_p99": round(gap(&mut gaps, 0.99)),
            "ticks_missing_after_replay": self.missing_after_replay,
            "ticks_lost_elsewhere": self.lost_elsewhere,
            "missing_percent": round(self.missing_percent),
            "control_missing_percent": round(self.control_missing_percent),
        });
        if let Some(object) = row.as_object_mut() {
            object.extend(self.more.clone());
        }
        row
    }

    fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.more.insert(name.to_owned(), value.into());
    }
}

/// A quantile of the gaps of those whom a fault touched; 0 where it touched nobody.
fn gap(gaps: &mut [f64], share: f64) -> f64 {
    quantile(gaps, share).unwrap_or(0.0)
}

/// Runs the bench and returns its report. Progress goes to `say`.
///
/// # Errors
/// When a row could not be measured.
pub fn run(options: &FaultsOptions, say: &mut dyn FnMut(&str)) -> Result<Report> {
    if let Some(unknown) = options.only.iter().find(|name| !names().any(|known| known == *name)) {
        let known: Vec<&str> = names().collect();
        bail!("there is no fault {unknown}; there are {}", known.join(", "));
    }
    if options.listeners == 0 || options.listeners > 2_000 || options.seconds < 1.0 {
        bail!("--listeners must be 1 to 2000, and --seconds 1 or more");
    }
    let mut report = Report::start();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let mut rows = Vec::new();
    for (name, measure) in ROWS.iter().filter(|(name, _)| wanted(name)) {
        say(name);
        let row = measure(options, name).with_context(|| (*name).to_owned())?.json(name);
        say(&summary(&row));
        rows.push(row);
    }
    if let Some(path) = &options.chart {
        chart::draw(path, &rows)?;
        say(&format!("chart: {}", path.display()));
    }
    report.set("faults", rows);
    Ok(report)
}

/// A row in a line for a person.
fn summary(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{}: {} of {} affected, fired {}, back {} %, gap p50 {} p99 {} ms, missing after replay {}, \
         lost elsewhere {}, missing at playout {} % (without protection {} %)",
        text("fault"),
        row["affected"],
        row["listeners"],
        row["fired"],
        row["returned_percent"],
        row["gap_ms_p50"],
        row["gap_ms_p99"],
        row["ticks_missing_after_replay"],
        row["ticks_lost_elsewhere"],
        row["missing_percent"],
        row["control_missing_percent"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_every_field_and_no_field_is_null() {
        let mut row = Row { affected: 3, gaps_ms: vec![1.0, 9.0, 5.0], ..Row::default() };
        row.note("resume_ms_p99", 7);
        let json = row.json("kill_own_relay");
        assert_eq!((&json["gap_ms_p50"], &json["gap_ms_p99"]), (&json!(5.0), &json!(9.0)));
        assert_eq!(json["resume_ms_p99"], 7);
        let object = json.as_object().unwrap();
        assert!(object.len() == 12 && object.values().all(|value| !value.is_null()), "{json}");
        assert!(summary(&json).contains("kill_own_relay"));
    }

    #[test]
    fn unknown_rows_are_refused_by_name() {
        let options = FaultsOptions { only: vec!["loss_7".into()], ..FaultsOptions::default() };
        let error = run(&options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("loss_7") && error.contains("burst_5"), "{error}");
    }
}
