//! The timers of a driver's connections: a wheel with lazy entries.
//!
//! A connection's deadline moves with every packet, nearly always to later. The wheel keeps one
//! entry for each connection and leaves it where it is when the deadline moves away; when the entry
//! comes up too early it is put where the deadline has gone meanwhile. So a datagram every 20 ms
//! costs one comparison, and what is compared lies in a compact table, not in the connection.
//!
//! A slot is a list through the table itself, so that entering one allocates nothing.

use std::time::{Duration, Instant};

/// The wheel.
pub(super) struct Timers {
    base: Instant,
    /// The last millisecond whose slot was emptied.
    current: u64,
    /// The first entry of each slot.
    slots: Vec<u32>,
    /// One bit for each slot that holds entries.
    filled: [u64; SLOTS / 64],
    table: Vec<Timer>,
}

/// One connection's timer, in milliseconds since `base`.
#[derive(Clone, Copy)]
struct Timer {
    deadline: u64,
    /// The millisecond whose slot holds its entry.
    entry: u64,
    /// Its neighbours in that slot's list.
    next: u32,
    previous: u32,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            current: 0,
            slots: vec![NONE; SLOTS],
            filled: [0; SLOTS / 64],
            table: Vec::new(),
        }
    }

    /// Sets or clears the deadline of `index`.
    #[inline]
    pub(super) fn set(&mut self, index: u32, deadline: Option<Instant>) {
        let deadline = deadline.map_or(NEVER, |at| self.millis_up(at));
        if index as usize >= self.table.len() {
            let never = Timer { deadline: NEVER, entry: NEVER, next: NONE, previous: NONE };
            self.table.resize(index as usize + 1, never);
        }
        let timer = &mut self.table[index as usize];
        timer.deadline = deadline;
        if deadline < timer.entry {
            self.leave(index);
            self.enter(index, deadline);
        }
    }

    /// Takes the connections whose deadline has come, into `due`.
    pub(super) fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        let now = millis(now.saturating_duration_since(self.base));
        // One turn of the wheel visits every slot.
        let (from, to) = (self.current + 1, now.min(self.current + SLOTS as u64));
        self.current = self.current.max(now);
        for tick in from..=to {
            let slot = (tick % SLOTS as u64) as usize;
            if self.filled[slot / 64] & (1 << (slot % 64)) == 0 {
                continue;
            }
            // Taken off first: an entry that is put back may come into the same slot.
            self.filled[slot / 64] &= !(1 << (slot % 64));
            let mut index = std::mem::replace(&mut self.slots[slot], NONE);
            while index != NONE {
                let next = self.table[index as usize].next;
                self.visit(index, now, due);
                index = next;
            }
        }
    }

    /// When [`expire`](Self::expire) is to be called next: not after the first deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        let start = ((self.current + 1) % SLOTS as u64) as usize;
        let mut word = start / 64;
        let mut bits = self.filled[word] & (u64::MAX << (start % 64));
        for _ in 0..=self.filled.len() {
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                let at = self.current + 1 + ahead as u64;
                return Some(self.base + Duration::from_millis(at));
            }
            word = (word + 1) % self.filled.len();
            bits = self.filled[word];
        }
        None
    }

    /// An entry whose slot has come up: due, or put where its deadline has gone.
    fn visit(&mut self, index: u32, now: u64, due: &mut Vec<u32>) {
        let timer = &mut self.table[index as usize];
        timer.entry = NEVER;
        match timer.deadline {
            NEVER => {}
            deadline if deadline <= now => {
                timer.deadline = NEVER;
                due.push(index);
            }
            deadline => self.enter(index, deadline),
        }
    }

    /// Puts an entry where `deadline` is, or as far ahead as the wheel reaches.
    fn enter(&mut self, index: u32, deadline: u64) {
        let at = deadline.clamp(self.current + 1, self.current + SLOTS as u64 - 1);
        let slot = (at % SLOTS as u64) as usize;
        let first = std::mem::replace(&mut self.slots[slot], index);
        self.filled[slot / 64] |= 1 << (slot % 64);
        let timer = &mut self.table[index as usize];
        (timer.entry, timer.next, timer.previous) = (at, first, NONE);
        if first != NONE {
            self.table[first as usize].previous = index;
        }
    }

    /// Takes an entry out of its slot, if it is in one.
    fn leave(&mut self, index: u32) {
        let Timer { entry, next, previous, .. } = self.table[index as usize];
        if entry == NEVER {
            return;
        }
        if next != NONE {
            self.table[next as usize].previous = previous;
        }
        if previous != NONE {
            self.table[previous as usize].next = next;
            return;
        }
        let slot = (entry % SLOTS as u64) as usize;
        self.slots[slot] = next;
        if next == NONE {
            self.filled[slot / 64] &= !(1 << (slot % 64));
        }
    }

    fn millis_up(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        millis(since) + u64::from(!since.subsec_nanos().is_multiple_of(1_000_000))
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_secs() * 1_000 + u64::from(duration.subsec_millis())
}

/// Milliseconds that the wheel spans; a deadline further ahead is looked at once a turn.
const SLOTS: usize = 1_024;
const NEVER: u64 = u64::MAX;
/// No connection.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn expired(timers: &mut Timers, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        timers.expire(now, &mut due);
        due
    }

    #[test]
    fn a_deadline_fires_once_and_never_early() {
        let base = Instant::now();
        let mut timers = Timers::new(base);
        assert_eq!(timers.next(), None);
        timers.set(3, Some(base + ms(20) + Duration::from_nanos(1)));
        assert_eq!(timers.next(), Some(base + ms(21)));
        assert!(expired(&mut timers, base + ms(20)).is_empty());
        assert_eq!(expired(&mut timers, base + ms(21)), [3]);
        assert!(expired(&mut timers, base + ms(5_000)).is_empty());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_later_deadline_keeps_the_entry_and_an_earlier_one_adds_one() {
        let base = Instant::now();
        let mut timers = Timers::new(base);
        timers.set(0, Some(base + ms(50)));
        timers.set(0, Some(base + ms(90)));
        assert_eq!(timers.next(), Some(base + ms(50)));
        assert!(expired(&mut timers, base + ms(60)).is_empty());
        assert_eq!(timers.next(), Some(base + ms(90)));
        timers.set(0, Some(base + ms(70)));
        assert_eq!(timers.next(), Some(base + ms(70)));
        assert_eq!(expired(&mut timers, base + ms(70)), [0]);
        // The entry at 90 is left over and means nothing.
        assert!(expired(&mut timers, base + ms(100)).is_empty());
        timers.set(0, Some(base + ms(130)));
        timers.set(0, None);
        assert!(expired(&mut timers, base + ms(200)).is_empty());
    }

    #[test]
    fn deadlines_beyond_the_wheel_and_in_the_past() {
        let base = Instant::now();
        let mut timers = Timers::new(base);
        timers.set(0, Some(base + ms(30_000)));
        let mut now = base;
        let mut turns = 0;
        loop {
            now = timers.next().unwrap().max(now + ms(1));
            turns += 1;
            if !expired(&mut timers, now).is_empty() {
                break;
            }
        }
        assert_eq!(now, base + ms(30_000));
        assert!(turns < 40, "{turns} looks at one far deadline");
        timers.set(7, Some(base));
        assert_eq!(timers.next(), Some(now + ms(1)));
        assert_eq!(expired(&mut timers, now + ms(1)), [7]);
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let base = Instant::now();
        let mut timers = Timers::new(base);
        for index in 0..3_000 {
            timers.set(index, Some(base + ms(u64::from(index) * 7 + 1)));
        }
        let mut due = expired(&mut timers, base + ms(100_000));
        due.sort_unstable();
        assert_eq!(due, (0..3_000).collect::<Vec<_>>());
    }
}
