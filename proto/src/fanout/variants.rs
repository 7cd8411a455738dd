//! Variants: which earlier ticks a live datagram carries.

use bytes::Bytes;

use super::ring::Ring;
use crate::limits;
use crate::wire::{Framing, ticks_bytes};

/// How much redundancy a session is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// The current tick alone.
    #[default]
    Plain,
    /// The current tick and the previous one.
    Previous,
    /// The current tick, t−1 and t−3: losses come in bursts.
    Spread,
}

impl Variant {
    /// All variants, in the order of [`Variant::index`].
    pub const ALL: [Self; 3] = [Self::Plain, Self::Previous, Self::Spread];

    /// 0 to 2, to index a table by.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// This variant, or the richest that a room allows whose datagrams carry `redundancy` earlier
    /// ticks at most.
    #[must_use]
    pub fn at_most(self, redundancy: u8) -> Self {
        self.min(Self::ALL[usize::from(redundancy).min(Self::ALL.len() - 1)])
    }

    const fn earlier(self) -> &'static [u32] {
        match self {
            Self::Plain => &[],
            Self::Previous => &[1],
            Self::Spread => &[1, 3],
        }
    }
}

/// The datagrams of one tick, each built once for all who get it.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    built: [[Bytes; Variant::ALL.len()]; Framing::ALL.len()],
}

impl Variants {
    /// Builds the datagrams of tick `number`; `wanted(framing, variant)` says which are needed.
    ///
    /// Earlier ticks that are not in the ring, or do not fit into [`limits::DATAGRAM_BYTES`], are
    /// omitted.
    pub fn build(
        &mut self,
        (room, epoch, number): (u32, u32, u32),
        replay: bool,
        pending: u32,
        ring: &Ring,
        wanted: impl Fn(Framing, Variant) -> bool,
    ) {
        let Some(current) = ring.record(number) else {
            return;
        };
        for framing in Framing::ALL {
            for variant in Variant::ALL {
                if !wanted(framing, variant) {
                    continue;
                }
                let mut records = [const { Bytes::new() }; 1 + limits::EARLIER_TICKS];
                records[0] = current.clone();
                let mut count = 1;
                let mut left =
                    limits::DATAGRAM_BYTES - limits::DATAGRAM_HEADER_BYTES - current.len();
                for back in variant.earlier() {
                    let earlier = number.checked_sub(*back).and_then(|n| ring.record(n));
                    if let Some(record) = earlier.filter(|record| record.len() <= left) {
                        left -= record.len();
                        records[count] = record.clone();
                        count += 1;
                    }
                }
                self.built[framing.index()][variant.index()] =
                    ticks_bytes(framing, room, epoch, replay, pending, &records[..count]);
            }
        }
    }

    /// The datagram for a framing and a variant, as last built.
    #[must_use]
    pub const fn datagram(&self, framing: Framing, variant: Variant) -> &Bytes {
        &self.built[framing.index()][variant.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Datagram, TickFlags, record_bytes};

    fn numbers(ring: &Ring, number: u32, variant: Variant) -> Vec<u32> {
        let mut variants = Variants::default();
        variants.build((1, 1, number), false, 0, ring, |_, _| true);
        let bytes = variants.datagram(Framing::Quic, variant).clone();
        assert_eq!(
            variants.datagram(Framing::WebTransport, variant)[1..],
            bytes[..],
            "WebTransport's datagram is the same behind one zero byte"
        );
        match Datagram::parse(bytes).unwrap() {
            Datagram::Ticks { records, .. } => records.iter().map(|r| r.number).collect(),
            other => panic!("not ticks: {other:?}"),
        }
    }

    fn ring(payload: usize) -> Ring {
        let mut ring = Ring::default();
        for number in 1..=5 {
            let flags = TickFlags::default();
            ring.insert(number, record_bytes(number, 9, 20, flags, &vec![0; payload]));
        }
        ring
    }

    #[test]
    fn variants_carry_their_earlier_ticks() {
        let ring = ring(200);
        assert_eq!(numbers(&ring, 5, Variant::Plain), [5]);
        assert_eq!(numbers(&ring, 5, Variant::Previous), [5, 4]);
        assert_eq!(numbers(&ring, 5, Variant::Spread), [5, 4, 2]);
        assert_eq!(numbers(&ring, 1, Variant::Spread), [1], "nothing came before");
    }

    #[test]
    fn what_does_not_fit_is_omitted() {
        let ring = ring(500);
        assert_eq!(numbers(&ring, 5, Variant::Spread), [5, 4]);
    }
}
