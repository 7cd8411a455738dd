//! Whether an evening went as it must.

/// What an evening came to, as far as the verdict asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Ticks that those inside never had, after replay.
    pub inside_ticks_lost: u64,
    /// Of those whose relay was killed, how many heard the room again.
    pub returned_percent: f64,
    /// Seconds after the hour at which 99 of 100 of those inside heard speech.
    pub late_start_s: f64,
    /// From when somebody was to come in to the first decoded tick.
    pub first_sound_ms_p99: f64,
    /// From the arrival to the first word on a place in the queue.
    pub told_ms_p99: f64,
    /// Those whom nobody answered.
    pub never_answered: u64,
    /// Those who were turned away.
    pub refused: u64,
    /// Those who came in.
    pub admitted: u64,
    /// Those who were on the relay that was killed.
    pub on_the_killed: u64,
}

/// The most that the figures may be.
const LATE_START_S: f64 = 1.0;
const FIRST_SOUND_MS: f64 = 1_000.0;
const TOLD_MS: f64 = 1_000.0;

impl Outcome {
    /// What was not as it must be, a sentence each; nothing where the evening passed.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut must = |holds: bool, otherwise: String| {
            if !holds {
                failures.push(otherwise);
            }
        };
        must(self.admitted > 0, "nobody came in".into());
        must(self.on_the_killed > 0, "nobody was on the relay that was killed".into());
        let lost = self.inside_ticks_lost;
        must(lost == 0, format!("those inside never had {lost} ticks"));
        let percent = self.returned_percent;
        let back = format!("{percent:.1} % of those whose relay died heard the room again");
        must(percent >= 100.0, back);
        let late = self.late_start_s;
        must(late <= LATE_START_S, format!("the speech was heard {late:.1} s after the hour"));
        let first = self.first_sound_ms_p99;
        must(first <= FIRST_SOUND_MS, format!("first sound took {first:.0} ms (p99)"));
        let told = self.told_ms_p99;
        must(told <= TOLD_MS, format!("people were told their place after {told:.0} ms (p99)"));
        let silent = self.never_answered;
        must(silent == 0, format!("{silent} people were never answered"));
        let refused = self.refused;
        must(refused == 0, format!("{refused} people were turned away"));
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Outcome = Outcome {
        inside_ticks_lost: 0,
        returned_percent: 100.0,
        late_start_s: 0.1,
        first_sound_ms_p99: 90.0,
        told_ms_p99: 80.0,
        never_answered: 0,
        refused: 0,
        admitted: 500,
        on_the_killed: 80,
    };

    #[test]
    fn each_figure_alone_fails_the_evening() {
        assert!(GOOD.failures().is_empty());
        for (bad, word) in [
            (Outcome { inside_ticks_lost: 1, ..GOOD }, "1 ticks"),
            (Outcome { returned_percent: 98.7, ..GOOD }, "98.7 %"),
            (Outcome { late_start_s: 1_200.0, ..GOOD }, "1200.0 s"),
            (Outcome { first_sound_ms_p99: 1e9, ..GOOD }, "first sound"),
            (Outcome { told_ms_p99: 1_001.0, ..GOOD }, "1001 ms"),
            (Outcome { never_answered: 7, ..GOOD }, "7 people were never"),
            (Outcome { refused: 3, ..GOOD }, "3 people were turned"),
            (Outcome { admitted: 0, ..GOOD }, "nobody came"),
            (Outcome { on_the_killed: 0, ..GOOD }, "nobody was on"),
        ] {
            let failures = bad.failures();
            assert!(failures.len() == 1 && failures[0].contains(word), "{failures:?}");
        }
    }
}
