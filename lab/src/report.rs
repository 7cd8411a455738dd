//! What every measurement prints: one JSON object on standard output, with where it was made.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// One measurement's figures, in the order in which they were given.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    /// Asked before a bench pins its thread, which would make it one.
    cores: usize,
    fields: Map<String, Value>,
}

/// The median of several rounds and their extremes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Report {
    /// A report whose `seconds` count from this moment.
    #[must_use]
    pub fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { started: Instant::now(), cores, fields: Map::new() }
    }

    /// Adds a field, with three decimals or three significant digits, whichever are more. A figure that
    /// is not a number becomes 0: no field is NaN or null.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = match value.into() {
            Value::Null => Value::from(0),
            Value::Number(n) => match n.as_f64() {
                Some(f) if n.is_f64() => Value::from(rounded(f)),
                _ => Value::Number(n),
            },
            other => other,
        };
        self.fields.insert(name.to_owned(), value);
    }

    /// A field that was added.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// The fields that were added, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.fields.iter()
    }

    /// Adds a figure with its spread, as `name`, `name_min` and `name_max`.
    pub fn spread(&mut self, name: &str, spread: Spread) {
        self.set(name, spread.median);
        self.set(&format!("{name}_min"), spread.min);
        self.set(&format!("{name}_max"), spread.max);
    }

    /// The whole object, with `commit`, `cores`, `kernel` and `seconds`.
    #[must_use]
    pub fn finish(mut self) -> Value {
        let seconds = self.started.elapsed().as_secs_f64();
        self.set("commit", env!("STENTOR_COMMIT"));
        self.set("cores", self.cores);
        self.set("kernel", kernel());
        self.set("seconds", seconds);
        Value::Object(self.fields)
    }

    /// The whole object as a table for a person: a line for each field.
    #[must_use]
    pub fn table(self) -> String {
        let value = self.finish();
        let fields = || value.as_object().into_iter().flatten();
        let width = fields().map(|(name, _)| name.len()).max().unwrap_or(0);
        let line = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name:<width$}  {value}")
        };
        fields().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Writes the object to standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print(self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{:#}", self.finish())?;
        out.flush()
    }
}

impl Spread {
    /// The median and the extremes of `rounds`; zeros where there are none.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted: Vec<f64> = rounds.iter().copied().filter(|f| f.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let Some((&min, &max)) = sorted.first().zip(sorted.last()) else { return Self::default() };
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Self { median, min, max }
    }
}

/// The value below which `share` (0 to 1) of the samples lie.
///
/// # Errors
/// Without a sample: then nothing was measured.
pub fn quantile(samples: &mut [f64], share: f64) -> Result<f64> {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1) as f64;
    let sample = samples.get((last * share).round() as usize).copied();
    sample.context("there is nothing to take a quantile of")
}

/// Writes one JSON line for each event, for those who analyse further.
#[derive(Debug)]
pub struct Events {
    out: Option<BufWriter<File>>,
}

impl Events {
    /// Events to `path`, or nowhere.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn to(path: Option<&Path>) -> std::io::Result<Self> {
        Ok(Self { out: path.map(File::create).transpose()?.map(BufWriter::new) })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, event: &Value) -> std::io::Result<()> {
        match &mut self.out {
            Some(out) => writeln!(out, "{event}"),
            None => Ok(()),
        }
    }

    /// Writes what is buffered: a full disk is an error, not a file that ends early.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.out.take().map_or(Ok(()), |mut out| out.flush())
    }
}

/// Three decimals, or three significant digits where those are more.
fn rounded(figure: f64) -> f64 {
    let zeros = -figure.abs().log10().floor();
    // Beyond 300 decimals nothing is left of any figure.
    let decimals = (zeros + 2.0).clamp(3.0, 300.0);
    let scale = 10_f64.powi(decimals as i32);
    let rounded = (figure * scale).round() / scale;
    // So large that it has no decimals.
    if rounded.is_finite() { rounded } else { figure }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| std::env::consts::OS.to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_nan_or_null_and_every_report_says_where_it_was_made() {
        let mut report = Report::start();
        report.set("nan", f64::NAN);
        report.set("null", Value::Null);
        report.set("third", 1.0 / 3.0);
        report.set("small", 0.000_612_34);
        report.set("large", 123_456.789_12);
        report.spread("x", Spread::of(&[3.0, 1.0, 2.0]));
        let value = report.finish();
        let object = value.as_object().unwrap();
        assert!(object.values().all(|v| !v.is_null()));
        assert_eq!(value["third"], 0.333);
        assert_eq!((&value["small"], &value["large"]), (&0.000_612.into(), &123_456.789.into()));
        for (figure, shown) in [(0.0, 0.0), (-0.000_1, -0.000_1), (1e300, 1e300), (5e-320, 0.0)] {
            assert_eq!(rounded(figure), shown);
        }
        assert_eq!(
            (&value["x"], &value["x_min"], &value["x_max"]),
            (&2.0.into(), &1.0.into(), &3.0.into())
        );
        for name in ["commit", "cores", "kernel", "seconds"] {
            assert!(object.contains_key(name), "{name}");
        }
    }

    #[test]
    fn quantiles_lie_within_the_samples() {
        let mut samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(quantile(&mut samples, 0.5).unwrap(), 3.0);
        assert_eq!(quantile(&mut samples, 0.99).unwrap(), 5.0);
        assert!(quantile(&mut [], 0.5).is_err());
    }
}
