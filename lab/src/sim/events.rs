//! What is to happen, in the order of time; of one instant, in the order in which it was decided.

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

/// What is to happen.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Entry>>,
    count: u64,
    /// Events that have happened.
    pub(super) happened: u64,
}

impl Events {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        if at == Time::MAX {
            return;
        }
        self.count += 1;
        self.heap.push(Reverse(Entry { at, nth: self.count, event }));
    }

    /// The next event up to `end`.
    pub(super) fn pop(&mut self, end: Time) -> Option<(Time, Event)> {
        if self.heap.peek()?.0.at > end {
            return None;
        }
        self.happened += 1;
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}
