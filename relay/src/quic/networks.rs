//! How much of a gate one network has: handshakes started in this second, and under way.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Counters of one row. Each network has one in each of two rows, and what counts is the smaller: two
/// networks that share one of them do not share the other.
const COUNTERS: usize = 1_024;
/// Handshakes started are counted for so long.
const WINDOW: Duration = Duration::from_secs(1);

/// The counters of a network, for as long as a handshake of it is under way.
pub(super) type Network = [u16; 2];

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    started: u32,
    under_way: u32,
}

/// Handshakes by network, in a table of a fixed size that no peer can aim at.
#[derive(Debug)]
pub(super) struct Networks {
    seed: RandomState,
    counters: Box<[Counter]>,
    begun: Instant,
    started: u32,
}

impl Networks {
    pub(super) fn new(now: Instant) -> Self {
        let counters = vec![Counter::default(); 2 * COUNTERS].into_boxed_slice();
        Self { seed: RandomState::new(), counters, begun: now, started: 0 }
    }

    /// The network of an address: what one customer has at least. IPv4 is handed out by the /24, IPv6 by
    /// the /48; whoever has several of them has several shares.
    pub(super) fn of(&self, address: IpAddr) -> Network {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => u128::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => (v6.to_bits() >> 80) | 1 << 64,
        };
        let hash = self.seed.hash_one(bits);
        let row = |row: usize| (row * COUNTERS + (hash >> (32 * row)) as usize % COUNTERS) as u16;
        [row(0), row(1)]
    }

    /// Handshakes started in this second: by all, and by one network.
    pub(super) fn started(&mut self, now: Instant, network: Network) -> (u32, u32) {
        if now.saturating_duration_since(self.begun) >= WINDOW {
            self.begun = now;
            self.started = 0;
            self.counters.iter_mut().for_each(|counter| counter.started = 0);
        }
        (self.started, self.least(network, |counter| counter.started))
    }

    /// Handshakes of a network that are under way.
    pub(super) fn under_way(&self, network: Network) -> u32 {
        self.least(network, |counter| counter.under_way)
    }

    /// A handshake begins.
    pub(super) fn begins(&mut self, network: Network) {
        self.started = self.started.saturating_add(1);
        for at in network {
            let counter = &mut self.counters[usize::from(at)];
            counter.started = counter.started.saturating_add(1);
            counter.under_way = counter.under_way.saturating_add(1);
        }
    }

    /// A handshake has ended, well or not.
    pub(super) fn ended(&mut self, network: Network) {
        for at in network {
            let counter = &mut self.counters[usize::from(at)];
            counter.under_way = counter.under_way.saturating_sub(1);
        }
    }

    fn least(&self, network: Network, of: fn(&Counter) -> u32) -> u32 {
        let [one, other] = network.map(|at| of(&self.counters[usize::from(at)]));
        one.min(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_counted_apart_and_for_as_long_as_their_handshakes_last() {
        let now = Instant::now();
        let mut networks = Networks::new(now);
        let of = |networks: &Networks, text: &str| networks.of(text.parse().unwrap());
        let one = of(&networks, "192.0.2.7");
        assert_eq!(one, of(&networks, "::ffff:192.0.2.200"), "the same /24, however it is written");
        assert_eq!(of(&networks, "2001:db8:1::1"), of(&networks, "2001:db8:1:ffff::2"));
        for _ in 0..10 {
            networks.begins(one);
        }
        // Of a thousand other networks none shares both counters, but by a chance of one in a million.
        let others = (0..1_000_u32).map(|n| IpAddr::V4((0x0a00_0000 + (n << 8)).into()));
        let shared = others.filter(|&other| networks.under_way(networks.of(other)) > 0).count();
        assert!(shared <= 1, "{shared}");
        networks.ended(one);
        assert_eq!((networks.started(now, one), networks.under_way(one)), ((10, 10), 9));
        assert_eq!(networks.started(now + WINDOW, one), (0, 0));
        assert_eq!(networks.under_way(one), 9);
    }
}
