//! What a listener says of what it hears: every few seconds, what has happened since the last time
//! (`docs/PROTOCOL.md` section 3.16).

use std::time::Duration;

use crate::random::Random;
use crate::receive::ReceptionStats;
use crate::wire::Report;
use crate::{Time, limits};

/// What only the client's player knows; each counts from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Ticks or frames that came too late to be played.
    pub late: u64,
    /// Milliseconds of sound that were made up.
    pub concealed_ms: u64,
    /// How long what is heard has been held.
    pub delay: Duration,
}

/// When to report, and what.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    due: Time,
    played: Played,
    glitches: u32,
    /// The sums at the last report.
    told: Sums,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    received: u64,
    lost: u64,
    late: u64,
    concealed_ms: u64,
}

impl Reporter {
    pub(super) fn new(now: Time, random: &mut Random) -> Self {
        let (played, told) = (Played::default(), Sums::default());
        Self { due: next(now, random), played, glitches: 0, told }
    }

    pub(super) const fn due(&self) -> Time {
        self.due
    }

    pub(super) const fn set_played(&mut self, played: Played) {
        self.played = played;
    }

    pub(super) const fn glitch(&mut self) {
        self.glitches = self.glitches.saturating_add(1);
    }

    /// The report, if it is time; reports of a million listeners are spread by chance. One that
    /// tells of no tick is left out.
    pub(super) fn poll(
        &mut self,
        now: Time,
        random: &mut Random,
        reception: &ReceptionStats,
    ) -> Option<Report> {
        if now < self.due {
            return None;
        }
        self.due = next(now, random);
        let window = &reception.window;
        let sums = Sums {
            received: window.received,
            lost: window.lost,
            late: self.played.late,
            concealed_ms: self.played.concealed_ms,
        };
        let told = std::mem::replace(&mut self.told, sums);
        let since =
            |sum: u64, told: u64| u32::try_from(sum.saturating_sub(told)).unwrap_or(u32::MAX);
        let lost = since(sums.lost, told.lost);
        let ticks = since(sums.received, told.received).saturating_add(lost);
        let delay_ms = u32::try_from(self.played.delay.as_millis()).unwrap_or(u32::MAX);
        (ticks > 0).then(|| Report {
            ticks,
            lost,
            late: since(sums.late, told.late),
            concealed_ms: since(sums.concealed_ms, told.concealed_ms),
            delay_ms,
            glitches: std::mem::take(&mut self.glitches),
        })
    }
}

fn next(now: Time, random: &mut Random) -> Time {
    now + (limits::REPORT_EVERY - limits::REPORT_SPREAD) + random.up_to(2 * limits::REPORT_SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(received: u64, lost: u64) -> ReceptionStats {
        let mut stats = ReceptionStats::default();
        stats.window.received = received;
        stats.window.lost = lost;
        stats
    }

    #[test]
    fn a_report_tells_what_has_happened_since_the_last_one() {
        let mut random = Random::new(7);
        let mut reporter = Reporter::new(Time::ZERO, &mut random);
        assert_eq!(reporter.poll(Time::ZERO, &mut random, &heard(9, 0)), None, "it is not time");
        let first = reporter.due();
        assert!((4_000..=6_000).contains(&(first.as_micros() / 1_000)), "{first:?}");
        let played =
            |late, concealed_ms| Played { late, concealed_ms, delay: Duration::from_millis(80) };
        reporter.set_played(played(1, 40));
        reporter.glitch();
        let report = reporter.poll(first, &mut random, &heard(240, 10)).unwrap();
        let wanted =
            Report { ticks: 250, lost: 10, late: 1, concealed_ms: 40, delay_ms: 80, glitches: 1 };
        assert_eq!(report, wanted);
        reporter.set_played(played(3, 100));
        let report = reporter.poll(reporter.due(), &mut random, &heard(490, 10)).unwrap();
        let wanted =
            Report { ticks: 250, lost: 0, late: 2, concealed_ms: 60, glitches: 0, ..wanted };
        assert_eq!(report, wanted);
        assert_eq!(reporter.poll(reporter.due(), &mut random, &heard(490, 10)), None, "no tick");
    }

    #[test]
    fn reports_of_many_are_spread() {
        let due = |seed| Reporter::new(Time::ZERO, &mut Random::new(seed)).due().as_micros();
        let mut times: Vec<u64> = (0..1_000).map(due).collect();
        times.sort_unstable();
        assert!(times[0] < 4_100_000 && times[999] > 5_900_000, "{} {}", times[0], times[999]);
        let most = (0..20).map(|n| {
            let from = 4_000_000 + n * 100_000;
            times.iter().filter(|&&at| (from..from + 100_000).contains(&at)).count()
        });
        assert!(most.max().unwrap() < 100, "no tenth of a second has a tenth of them");
    }
}
