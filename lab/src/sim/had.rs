//! Which ticks someone has had: the reference model's own count, beside the production window's.

/// Ticks that are told apart behind the newest: 10 s at 20 ms.
const SPAN: u32 = 512;
const WORDS: usize = SPAN as usize / 64;

/// The ticks that a node, a cohort or a listener has had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Had {
    /// The first that came, which may not be the oldest; 0 before it.
    first: u32,
    newest: u32,
    count: u64,
    bits: [u64; WORDS],
}

impl Had {
    /// Notes a tick; false if it was had before.
    pub(super) fn note(&mut self, number: u32) -> bool {
        if self.first == 0 {
            (self.first, self.newest) = (number, number);
        }
        if number > self.newest {
            let from = (self.newest + 1).max(number.saturating_sub(SPAN - 1));
            for skipped in from..=number {
                self.bits[Self::word(skipped)] &= !Self::bit(skipped);
            }
            self.newest = number;
        } else if self.newest - number >= SPAN {
            // Whoever counts on it asks within the span.
            return true;
        }
        let word = &mut self.bits[Self::word(number)];
        let fresh = *word & Self::bit(number) == 0;
        *word |= Self::bit(number);
        self.count += u64::from(fresh);
        fresh
    }

    /// Whether a tick was had; false for one that lies outside of the span.
    pub(super) const fn has(&self, number: u32) -> bool {
        let within = number <= self.newest && self.newest - number < SPAN;
        within && self.bits[Self::word(number)] & Self::bit(number) != 0
    }

    /// The first tick that came; 0 before it.
    pub(super) const fn first(&self) -> u32 {
        self.first
    }

    /// The newest tick; 0 before the first.
    pub(super) const fn newest(&self) -> u32 {
        self.newest
    }

    /// Ticks had.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Whether both have the same of the last `span` ticks, as far as both count.
    pub(super) fn agrees(&self, other: &Self, span: u32) -> bool {
        let from = self.first.max(other.first).max(self.newest.saturating_sub(span));
        self.newest == other.newest && (from..=self.newest).all(|n| self.has(n) == other.has(n))
    }

    const fn word(number: u32) -> usize {
        (number % SPAN / 64) as usize
    }

    const fn bit(number: u32) -> u64 {
        1 << (number % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_had_is_told_from_what_was_not() {
        let mut had = Had::default();
        assert!(had.note(10) && had.note(12) && had.note(11) && had.note(9));
        assert!(!had.note(11), "a second time");
        assert!(had.note(700));
        assert_eq!((had.first(), had.newest(), had.count()), (10, 700, 5));
        assert!(had.has(700) && !had.has(699) && !had.has(12), "12 left the span");
        assert!((189..700).all(|n| !had.has(n)), "what the span wraps over is not had");
    }

    #[test]
    fn two_agree_on_what_both_count() {
        let (mut one, mut two) = (Had::default(), Had::default());
        for n in [5, 6, 8] {
            one.note(n);
        }
        for n in [6, 8] {
            two.note(n);
        }
        assert!(one.agrees(&two, 64));
        two.note(7);
        assert!(!one.agrees(&two, 64));
    }
}
