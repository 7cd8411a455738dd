//! What is said to a person: lines and one line of progress, all on standard error.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Says one line.
pub fn say(text: &str) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// One line at a terminal that is written anew; nothing where standard error is no terminal.
#[derive(Clone, Debug)]
pub struct Meter(ProgressBar);

impl Meter {
    /// A meter without text.
    #[must_use]
    pub fn start() -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}");
        let bar = ProgressBar::new_spinner()
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Shows a text until the next.
    pub fn show(&self, text: String) {
        self.0.set_message(text);
    }

    /// Whether anybody sees it.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Says a line above the meter.
    pub fn say(&self, text: &str) {
        self.0.suspend(|| say(text));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A loudness as a bar of ten.
#[must_use]
pub fn bar(level: u8) -> String {
    let full = filled(level, 10);
    "▮".repeat(full) + &"▯".repeat(10 - full)
}

/// How much of a bar of `width` a loudness in −dBov fills: nothing below −60, all above −10.
#[must_use]
pub fn filled(level: u8, width: usize) -> usize {
    let above = f64::from(60_u8.saturating_sub(level)) / 50.0;
    (above.min(1.0) * width as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_with_loudness() {
        assert_eq!([127, 60, 35, 10, 0].map(|level| filled(level, 10)), [0, 0, 5, 10, 10]);
        assert_eq!(bar(35), "▮▮▮▮▮▯▯▯▯▯");
    }
}
