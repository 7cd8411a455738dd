//! The last ticks of a room, for redundancy, repair, late join and replay.

use bytes::Bytes;

use crate::limits;

/// The last [`limits::RING_TICKS`] ticks of one room and epoch, as records shared by all readers.
#[derive(Clone, Debug)]
pub struct Ring {
    slots: Vec<Option<(u32, Bytes)>>,
    newest: u32,
}

impl Default for Ring {
    fn default() -> Self {
        Self { slots: vec![None; limits::RING_TICKS], newest: 0 }
    }
}

impl Ring {
    /// Keeps a record. One that is older than the ring's span is not kept.
    pub fn insert(&mut self, number: u32, record: Bytes) {
        if self.newest.saturating_sub(number) >= limits::RING_TICKS as u32 {
            return;
        }
        self.newest = self.newest.max(number);
        self.slots[Self::index(number)] = Some((number, record));
    }

    /// The record of a tick, while it is kept.
    #[must_use]
    pub fn record(&self, number: u32) -> Option<&Bytes> {
        match &self.slots[Self::index(number)] {
            Some((kept, record)) if *kept == number => Some(record),
            _ => None,
        }
    }

    /// The newest tick; 0 before the first.
    #[must_use]
    pub const fn newest(&self) -> u32 {
        self.newest
    }

    /// The oldest number that can still be kept.
    #[must_use]
    pub const fn oldest(&self) -> u32 {
        self.newest.saturating_sub(limits::RING_TICKS as u32 - 1)
    }

    /// Forgets everything: another epoch begins.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    const fn index(number: u32) -> usize {
        number as usize % limits::RING_TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_its_span_and_no_more() {
        let mut ring = Ring::default();
        for number in 1..=200 {
            ring.insert(number, Bytes::copy_from_slice(&number.to_be_bytes()));
        }
        ring.insert(1, Bytes::new());
        assert_eq!(ring.oldest(), 137);
        assert!(ring.record(136).is_none() && ring.record(1).is_none() && ring.record(0).is_none());
        for number in ring.oldest()..=ring.newest() {
            assert_eq!(ring.record(number).unwrap()[..], number.to_be_bytes());
        }
    }
}
