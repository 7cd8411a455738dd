//! Whether all copies of a tick are alike.

use std::collections::BTreeMap;

use stentor_proto::limits;
use stentor_relay::uplink::fingerprint;

/// An hour of ticks: what comes beyond it is not compared.
const TICKS: usize = limits::FRAMES_PER_S as usize * 3_600;

/// The fingerprint of the first copy of each tick that reached anyone.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    first: BTreeMap<u32, u64>,
}

impl Copies {
    /// Whether this copy is the first of its tick, or like the first.
    pub(super) fn alike(&mut self, number: u32, record: &[u8]) -> bool {
        if self.first.len() >= TICKS && !self.first.contains_key(&number) {
            return true;
        }
        let this = fingerprint(record);
        *self.first.entry(number).or_insert(this) == this
    }

    pub(super) const fn first(&self) -> &BTreeMap<u32, u64> {
        &self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_differs_in_one_bit_is_seen() {
        let mut copies = Copies::default();
        assert!(copies.alike(7, b"tick") && copies.alike(7, b"tick") && copies.alike(8, b"tock"));
        assert!(!copies.alike(7, b"tici"));
        assert!(copies.alike(7, b"tick"), "the first one stays what others are compared with");
        assert_eq!(copies.first().get(&7), Some(&fingerprint(b"tick")));
        assert_ne!(fingerprint(b"tick"), fingerprint(b"tici"));
    }
}
