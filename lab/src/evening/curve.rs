//! The two evenings as curves: who came when, as far as anybody knows (`docs/decisions/0017`).

/// An evening on which a platform could not keep up with those who wanted to listen.
#[derive(Clone, Debug, PartialEq)]
pub struct Evening {
    /// Its name on the command line.
    pub name: &'static str,
    /// Listeners at its peak, as was reported.
    pub listening: u32,
    /// Those who tried to get in: more than were reported as listening, by an assumption.
    pub tried: u32,
    /// Minutes before and after the hour on which the speech was to begin, and how many came in
    /// relation to each other; a line between two points.
    shape: &'static [(f64, f64)],
}

/// The evenings, by their year.
pub const EVENINGS: [Evening; 2] = [
    Evening {
        name: "2023",
        listening: 678_000,
        tried: 978_000,
        shape: &[
            (-15.0, 0.05),
            (-3.0, 0.15),
            (-0.5, 0.4),
            (0.0, 1.0),
            (1.0, 1.0),
            (3.0, 0.5),
            (8.0, 0.2),
            (20.0, 0.06),
            (45.0, 0.0),
        ],
    },
    Evening {
        name: "2024",
        listening: 1_330_000,
        tried: 1_830_000,
        shape: &[
            (-15.0, 0.05),
            (-3.0, 0.15),
            (-0.5, 0.3),
            (0.0, 1.0),
            (2.0, 1.0),
            (6.0, 0.5),
            (15.0, 0.3),
            (45.0, 0.05),
        ],
    },
];

impl Evening {
    /// The evening of a year.
    #[must_use]
    pub fn of(year: &str) -> Option<Self> {
        EVENINGS.into_iter().find(|evening| evening.name == year)
    }

    /// When the first come and when it is over, in minutes from the hour.
    #[must_use]
    pub fn span(&self) -> (f64, f64) {
        let minute = |point: Option<&(f64, f64)>| point.map_or(0.0, |&(minute, _)| minute);
        (minute(self.shape.first()), minute(self.shape.last()))
    }

    /// People who come in a minute, at a minute from the hour.
    #[must_use]
    pub fn rate(&self, minute: f64) -> f64 {
        let between = |pair: &&[(f64, f64)]| pair[0].0 <= minute && minute <= pair[1].0;
        let Some(pair) = self.shape.windows(2).find(between) else { return 0.0 };
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        let weight = low + (high - low) * (minute - from) / (to - from);
        weight * f64::from(self.tried) / self.weights()
    }

    /// The points of the curve: minutes from the hour, and people a minute.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.shape.iter().map(|&(minute, _)| (minute, self.rate(minute)))
    }

    /// The area below the shape.
    fn weights(&self) -> f64 {
        let part =
            |pair: &[(f64, f64)]| (pair[1].0 - pair[0].0) * f64::midpoint(pair[0].1, pair[1].1);
        self.shape.windows(2).map(part).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_in_an_evening_as_tried() {
        for evening in EVENINGS {
            let (from, to) = evening.span();
            assert_eq!((from, to), (-15.0, 45.0));
            let steps = ((to - from) * 100.0) as u32;
            let at = |step: u32| from + (f64::from(step) + 0.5) / 100.0;
            let came: f64 = (0..steps).map(|step| evening.rate(at(step)) / 100.0).sum();
            let tried = f64::from(evening.tried);
            assert!((came - tried).abs() < tried / 1_000.0, "{}: {came}", evening.name);
            let first = evening.rate(-10.0);
            assert!(evening.rate(0.5) > 5.0 * first && evening.rate(99.0) == 0.0);
        }
        assert!(Evening::of("2023").is_some() && Evening::of("1066").is_none());
    }
}
