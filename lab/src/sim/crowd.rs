//! The listeners: each joins by the production path and holds the production machine of a listener;
//! once it hears what its cohort hears, the cohort's machine stands for it.

use stentor_proto::Time;
use stentor_proto::listen::Own;

use super::chance::{mix, share};
use super::ear::Ear;
use super::events::{ConnIx, NodeIx};
use super::node::Seat;
use super::setup::Setup;
use super::world::{BEGIN, World};
use stentor_proto::fanout::SessionIx;

/// Where a listener's machine is.
pub(super) enum Person {
    /// Not here: not come yet, or gone.
    Outside,
    /// Its own.
    Alone(Box<Ear>),
    /// Its cohort's; the session, and what is its own.
    Folded(ConnIx, Box<Own>),
}

/// Relays that a listener knows of when it sets out.
pub(super) const ENTRIES: usize = 3;

/// A listener.
pub(super) struct Listener {
    pub(super) person: Person,
    pub(super) class: u8,
    /// A full receiver throughout.
    pub(super) sample: bool,
    /// A session serves it.
    pub(super) joined: bool,
    /// It has been told to wait.
    pub(super) waits: bool,
    /// The relays that it was sent to; 0 for none.
    pub(super) entries: [u16; ENTRIES],
    /// What it counted apart from its cohort: its own count is the cohort's and this.
    pub(super) apart: Tally,
}

/// What a listener has received, and has given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ticks passed on.
    pub received: i64,
    /// Ticks that came after they were asked for.
    pub repaired: i64,
    /// Ticks given up.
    pub lost: i64,
}

/// Listeners of one class and variant on one shard whose receptions are the same.
pub(super) struct Cohort {
    /// The machine that stands for all; `None` in a world that shares none, where each keeps its own and
    /// the cohort says who would share.
    pub(super) ear: Option<Ear>,
    pub(super) members: u32,
    /// The session that asks for repair and probes, for all.
    pub(super) leader: u32,
}

/// All listeners.
pub(super) struct Crowd {
    pub(super) listeners: Vec<Listener>,
    /// Those who come again later, and when.
    pub(super) again: std::collections::VecDeque<(Time, u32)>,
    /// How many have come so far.
    pub(super) come: usize,
    /// Those whom a session serves, and those who were told to wait.
    pub(super) joined: usize,
    pub(super) waiting: usize,
    /// When the last one joined, left or moved.
    pub(super) changed: Time,
    pub(super) seed: u64,
}

impl Crowd {
    pub(super) fn new(setup: &Setup) -> Self {
        let weights: Vec<u32> = setup.classes.iter().map(|class| class.weight).collect();
        let sum = u64::from(weights.iter().sum::<u32>().max(1));
        let listener = |n: usize| {
            let mut drawn = mix(setup.seed, n as u64) % sum;
            let class = weights.iter().position(|&weight| {
                let here = drawn < u64::from(weight);
                drawn = drawn.saturating_sub(u64::from(weight));
                here
            });
            let sample = share(mix(setup.seed ^ 1, n as u64)) < setup.sample;
            Listener {
                person: Person::Outside,
                class: class.and_then(|class| u8::try_from(class).ok()).unwrap_or(0),
                sample,
                joined: false,
                waits: false,
                entries: [0; ENTRIES],
                apart: Tally::default(),
            }
        };
        Self {
            listeners: (0..setup.listeners).map(listener).collect(),
            again: std::collections::VecDeque::new(),
            come: 0,
            joined: 0,
            waiting: 0,
            changed: BEGIN,
            seed: setup.seed,
        }
    }

    /// Listeners for whom a cohort's machine stands.
    pub(super) fn folded(&self) -> usize {
        let folded = |l: &&Listener| matches!(l.person, Person::Folded(..));
        self.listeners.iter().filter(folded).count()
    }

    pub(super) fn class_of(&self, listener: u32) -> u8 {
        self.listeners[listener as usize].class
    }

    /// The machine of a listener who has one.
    pub(super) fn ear(&mut self, listener: u32) -> Option<&mut Ear> {
        match &mut self.listeners[listener as usize].person {
            Person::Alone(ear) => Some(ear),
            Person::Outside | Person::Folded(..) => None,
        }
    }

    /// Reads what a tick will touch of a listener's machine, so that it is in the cache.
    pub(super) fn fetch(&self, listener: u32) -> u64 {
        match &self.listeners[listener as usize].person {
            Person::Alone(ear) => ear.fetch(),
            Person::Outside | Person::Folded(..) => 0,
        }
    }

    /// The connection of the session that serves a listener.
    pub(super) fn conn_of(&self, listener: u32) -> Option<ConnIx> {
        match &self.listeners[listener as usize].person {
            Person::Outside => None,
            Person::Alone(ear) => ear.conn(),
            Person::Folded(conn, _) => Some(*conn),
        }
    }
}

impl Ear {
    pub(super) fn tally(&self) -> Tally {
        let window = self.listen.reception().window;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Tally {
            received: count(window.received),
            repaired: count(window.repaired),
            lost: count(window.lost),
        }
    }
}

impl Tally {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            repaired: self.repaired + other.repaired,
            lost: self.lost + other.lost,
        }
    }

    pub(super) const fn minus(self, other: Self) -> Self {
        Self {
            received: self.received - other.received,
            repaired: self.repaired - other.repaired,
            lost: self.lost - other.lost,
        }
    }
}

impl World {
    /// What every listener has received, in the order of their numbers.
    #[must_use]
    pub fn tallies(&self) -> Vec<Tally> {
        (0..self.crowd.listeners.len() as u32).map(|listener| self.tally(listener)).collect()
    }

    pub(super) fn tally(&self, listener: u32) -> Tally {
        let entry = &self.crowd.listeners[listener as usize];
        let shared = match &entry.person {
            Person::Outside => Tally::default(),
            Person::Alone(ear) => ear.tally(),
            Person::Folded(..) => {
                let ear = self.cohort_of(listener).and_then(|cohort| cohort.ear.as_ref());
                ear.map(Ear::tally).unwrap_or_default()
            }
        };
        entry.apart.plus(shared)
    }

    /// The cohort whose machine stands for a listener.
    pub(super) fn cohort_of(&self, listener: u32) -> Option<&Cohort> {
        let entry = &self.crowd.listeners[listener as usize];
        let Person::Folded(conn, _) = entry.person else { return None };
        let (node, shard, ix) = self.place(conn)?;
        let shard = &self.nodes[node].shards[usize::from(shard)];
        let seat = shard.seat(ix)?;
        shard.cohorts[usize::from(entry.class)].get(usize::from(seat.cohort))?.as_deref()
    }

    /// The seat of a connection's session.
    pub(super) fn seat_of(&self, conn: ConnIx) -> Option<Seat> {
        let (node, shard, ix) = self.place(conn)?;
        let shard = self.nodes[node].shards.get(usize::from(shard))?;
        shard.seat(ix).filter(|seat| seat.conn == conn)
    }

    /// Where a connection's session is.
    pub(super) fn place(&self, conn: ConnIx) -> Option<(NodeIx, u16, SessionIx)> {
        let conn = self.wires.conns.get(conn as usize)?;
        conn.session.map(|(shard, ix)| (conn.node, shard, ix))
    }
}
