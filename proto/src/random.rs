//! A sequence of numbers from a seed that the caller drew: it spreads what must not happen to many
//! at once. Not for secrets.

/// `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The number at a place of the sequence, counted from 0.
    pub(crate) fn at(seed: u64, place: u64) -> u64 {
        Self(seed.wrapping_add(place.wrapping_mul(STEP))).next()
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time from nothing to `most`.
    pub(crate) fn up_to(&mut self, most: std::time::Duration) -> std::time::Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        std::time::Duration::from_micros(self.next() % micros.saturating_add(1))
    }
}

/// The fractional part of the golden ratio, odd: a place comes twice only after 2^64 others.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
