//! What is between the nodes: connections whose packets take time, and may be lost.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::wire::Close;

/// A connection, by its number.
pub type Conn = usize;

/// Which end of a connection: who opened it, or who accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Opener,
    Accepter,
}

impl End {
    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Accepter,
            Self::Accepter => Self::Opener,
        }
    }
}

/// What arrives at an end.
#[derive(Clone, Debug)]
pub enum What {
    /// The connection is asked for, or has been accepted.
    Open,
    Control(Bytes),
    Datagram(Bytes),
    Closed(Option<Close>),
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub conn: Conn,
    pub to: End,
    pub what: What,
}

/// The packets under way. Those of one instant arrive in the order in which they were sent.
pub struct Links {
    under_way: BTreeMap<(Time, u64), Packet>,
    count: u64,
    delay: Duration,
    /// How many of 1,000 datagrams are lost; streams lose nothing.
    loss_permille: u64,
    chance: Chance,
    pub lost: u64,
}

impl Links {
    pub fn new(delay: Duration, loss_permille: u64, seed: u64) -> Self {
        let chance = Chance(seed);
        Self { under_way: BTreeMap::new(), count: 0, delay, loss_permille, chance, lost: 0 }
    }

    pub fn send(&mut self, now: Time, packet: Packet) {
        if matches!(packet.what, What::Datagram(_))
            && self.chance.draw() % 1_000 < self.loss_permille
        {
            self.lost += 1;
            return;
        }
        self.count += 1;
        self.under_way.insert((now + self.delay, self.count), packet);
    }

    /// When the next packet arrives.
    pub fn next(&self) -> Time {
        self.under_way.first_key_value().map_or(Time::MAX, |(&(at, _), _)| at)
    }

    /// The next packet that has arrived by `now`.
    pub fn arrived(&mut self, now: Time) -> Option<Packet> {
        (self.next() <= now).then(|| self.under_way.pop_first())?.map(|(_, packet)| packet)
    }
}

/// A small generator (SplitMix64): the same seed makes the same world.
pub struct Chance(pub u64);

impl Chance {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
