//! What is to happen, in the order of time; of one instant, in the order in which it was decided, the
//! timers of listeners last.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::wire::Close;

/// A node, by its number: 0 is the origin.
pub(super) type NodeIx = usize;
/// A connection, by its number.
pub(super) type ConnIx = u32;

/// Which end of a connection: who opened it, or who accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Opener,
    Accepter,
}

impl End {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Opener => Self::Accepter,
            Self::Accepter => Self::Opener,
        }
    }
}

/// What arrives at an end of a connection.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// The connection is asked for, or has been accepted.
    Open,
    /// Bytes of the control stream: whole messages.
    Control(Bytes),
    Datagram(Bytes),
    Closed(Box<Close>),
}

impl What {
    /// Bytes on the wire: those of the packet's head are alike for all.
    pub(super) fn size(&self) -> usize {
        const HEAD: usize = 45;
        HEAD + match self {
            Self::Control(bytes) | Self::Datagram(bytes) => bytes.len(),
            Self::Open => 1_200,
            Self::Closed(close) => close.reason.len(),
        }
    }
}

/// A packet under way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) conn: ConnIx,
    pub(super) to: End,
    pub(super) what: What,
}

/// A tick or beacon on its way to all listeners of one class on one shard, who share its bytes.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    pub(super) node: NodeIx,
    pub(super) shard: u16,
    pub(super) class: u8,
    /// Whose slice of the fan-out it is.
    pub(super) slice: u8,
    pub(super) bytes: Bytes,
    pub(super) sent: Time,
    /// Whether it is lost for those who share the class's path.
    pub(super) lost: bool,
}

/// What happens at an instant.
#[derive(Debug)]
pub(super) enum Event {
    Arrive(Packet),
    Spread(Box<Spread>),
    /// The head of a shard's tick queue has come through.
    Ticks(NodeIx, u16),
    /// The head of a shard's message queue has come through.
    ToShard(NodeIx, u16),
    /// The head of control's message queue has come through.
    ToControl(NodeIx),
    ControlTimer(NodeIx),
    ShardTimer(NodeIx, u16),
    ListenerTimer(u32),
    /// Of a class and a slot.
    CohortTimer(NodeIx, u16, u8, u8),
    /// A shard samples the paths of its sessions.
    Paths(NodeIx, u16),
    SpeakerTimer(usize),
    /// A relay's process starts.
    Start(NodeIx),
    /// A connection may have been idle for too long.
    Idle(ConnIx),
    /// Listeners join.
    Joins,
    /// Some listeners leave, and others come.
    Churn,
    /// A fault strikes.
    Strike(usize),
    /// A fault ends.
    Lift(usize),
    /// The reference model is compared.
    Check,
    /// What is inside and outside is noted.
    Second,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    nth: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.nth == other.nth
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.nth).cmp(&(other.at, other.nth))
    }
}

/// Of one instant, the timers of listeners come last and in the order of the listeners: when they were
/// set is no listener's concern.
const TIMERS: u64 = 1 << 63;

/// One turn of the wheel covers this much: 2^18 µs, a quarter of a second.
const SLOTS: usize = 1_024;
/// A slot holds this much time: 2^8 µs.
const SLOT_BITS: u32 = 8;

/// What is to happen: a wheel of slots for what comes soon, for nearly all of it does, and a heap for
/// what comes later. The slot that is being emptied is a heap of its own.
#[derive(Debug)]
pub(super) struct Events {
    near: BinaryHeap<Reverse<Entry>>,
    wheel: Vec<Vec<Entry>>,
    far: BinaryHeap<Reverse<Entry>>,
    /// The slot that `near` is of, counted from time zero.
    slot: u64,
    /// Entries in the wheel.
    turning: usize,
    count: u64,
    /// Events that have happened.
    pub(super) happened: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            near: BinaryHeap::new(),
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            far: BinaryHeap::new(),
            slot: 0,
            turning: 0,
            count: 0,
            happened: 0,
        }
    }
}

impl Events {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        if at == Time::MAX {
            return;
        }
        self.count += 1;
        let nth = match event {
            Event::ListenerTimer(listener) => TIMERS | u64::from(listener),
            _ => self.count,
        };
        self.put(Entry { at, nth, event });
    }

    /// The next event up to `end`.
    pub(super) fn pop(&mut self, end: Time) -> Option<(Time, Event)> {
        while self.near.is_empty() {
            self.turn()?;
        }
        if self.near.peek()?.0.at > end {
            return None;
        }
        self.happened += 1;
        self.near.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }

    fn put(&mut self, entry: Entry) {
        let slot = entry.at.as_micros() >> SLOT_BITS;
        if slot <= self.slot {
            self.near.push(Reverse(entry));
        } else if slot - self.slot < SLOTS as u64 {
            self.turning += 1;
            self.wheel[slot as usize % SLOTS].push(entry);
        } else {
            self.far.push(Reverse(entry));
        }
    }

    /// Goes on to the next slot; `None` if nothing is to happen.
    fn turn(&mut self) -> Option<()> {
        if self.turning == 0 {
            self.slot = self.far.peek()?.0.at.as_micros() >> SLOT_BITS;
        } else {
            self.slot += 1;
        }
        while let Some(Reverse(first)) = self.far.peek()
            && (first.at.as_micros() >> SLOT_BITS) < self.slot + SLOTS as u64
            && let Some(Reverse(entry)) = self.far.pop()
        {
            self.put(entry);
        }
        let slot = &mut self.wheel[self.slot as usize % SLOTS];
        self.turning -= slot.len();
        self.near.extend(slot.drain(..).map(Reverse));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::chance::mix;
    use super::*;

    #[test]
    fn events_happen_in_the_order_of_time_and_then_of_their_decision() {
        let mut events = Events::default();
        let mut decided = Vec::new();
        let push = |events: &mut Events, decided: &mut Vec<u64>, at: u64| {
            events.push(Time::from_micros(at), Event::Strike(decided.len()));
            decided.push(at);
        };
        for n in 0..2_000 {
            // Now, soon, within a turn and turns later.
            let at = mix(n, 1) % [200, 3_000, 200_000, 9_000_000][n as usize % 4];
            push(&mut events, &mut decided, at);
        }
        let mut happened: Vec<(u64, usize)> = Vec::new();
        while let Some((at, Event::Strike(nth))) = events.pop(Time::from_micros(20_000_000)) {
            if nth < 2_000 && nth % 3 == 0 {
                let after = mix(nth as u64, 2) % 500_000;
                push(&mut events, &mut decided, at.as_micros() + after);
            }
            happened.push((at.as_micros(), nth));
        }
        assert_eq!((happened.len() as u64, happened.len()), (events.happened, decided.len()));
        assert!(happened.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(happened.iter().all(|&(at, nth)| decided[nth] == at));
        push(&mut events, &mut decided, 30_000_000);
        assert!(events.pop(Time::from_micros(29_999_999)).is_none(), "not before its time");
    }
}
