//! A node: its control and its shards, the queues between them, and what its process goes through.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stentor_proto::fanout::{SessionIx, Variant};
use stentor_proto::node::{
    LinkId, NodeControl, NodeShard, OriginControl, OriginSettings, RelayControl, RelaySettings,
    RoomSetup, ShardSettings, Tick, ToControl, ToShard,
};
use stentor_proto::pass::PassKey;
use stentor_proto::room::Profile;
use stentor_proto::token::{Signer, Verifier};
use stentor_proto::tree::PlannerSettings;
use stentor_proto::wire::{Framing, RelayInfo};
use stentor_proto::{Time, limits};

use super::chance::mix;
use super::crowd::Cohort;
use super::events::{ConnIx, NodeIx, Packet};
use super::had::Had;
use super::link::Weather;
use super::queue::Queue;
use super::seats::Fans;
use super::setup::Setup;

/// The wall clock at the start of the world's time, in seconds.
pub(super) const UNIX_S: u64 = 1_700_000_000;
const UNIX_US: u64 = UNIX_S * 1_000_000;
/// What a socket holds for a process that stands still: Linux's default buffer (bytes).
const SOCKET_BYTES: usize = 212_992;
/// The microseconds of a placement's version between two starts of the origin.
const GENERATION: u64 = 1_000_000;

/// What a process goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Not started, or dead.
    Dead,
    Running,
    /// It stands still: what arrives waits in its socket.
    Stopped,
}

/// A parent's session as the reference model sees it.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) parent: NodeIx,
    pub(super) conn: ConnIx,
    /// Since when whatever the parent passes on must arrive; `None` while a fault is on it.
    pub(super) since: Option<Time>,
}

/// A session of a shard, as its shell knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) conn: ConnIx,
    /// Whose it is: a class of listeners, or [`Seat::OTHER`].
    pub(super) class: u8,
    /// The variant of the fan-out that it is sent, or [`Seat::NOWHERE`]; what it was sent before, and
    /// until when.
    pub(super) slice: u8,
    was: u8,
    turned: Time,
    /// Since which fan-out it is in any.
    pub(super) since: Time,
    /// The listener has been welcomed, and has not left.
    pub(super) joined: bool,
    /// The cohort that its listener is in, by its slot; [`Seat::NOWHERE`] for none.
    pub(super) cohort: u8,
    /// What its path had been sent, and had lost, when it came.
    pub(super) path: (u32, u32),
}

impl Seat {
    /// A child relay or a speaker.
    pub(super) const OTHER: u8 = u8::MAX;
    pub(super) const NOWHERE: u8 = u8::MAX;

    /// The variant of what was sent to it then.
    pub(super) fn slice_at(&self, sent: Time) -> u8 {
        if sent >= self.turned { self.slice } else { self.was }
    }

    /// It is sent another variant from here on.
    pub(super) fn turn(&mut self, now: Time, slice: u8) {
        if self.slice != slice {
            (self.was, self.slice, self.turned) = (self.slice, slice, now);
        }
    }
}

/// Cohorts of one class on one shard at most: one for each variant, and one that is changing.
pub(super) const SLOTS: usize = Variant::ALL.len() + 1;

/// A shard and what is around it.
pub(super) struct Shard {
    pub(super) machine: NodeShard,
    pub(super) ticks: Queue<Tick>,
    pub(super) messages: Queue<ToShard>,
    pub(super) seats: Vec<Option<Seat>>,
    free: Vec<u32>,
    /// The fan-out when the seats were last compared with it.
    pub(super) fans: Fans,
    /// Something has happened since that may have changed it.
    pub(super) dirty: bool,
    /// What was sent on the path of each class, and lost.
    pub(super) paths: Vec<(u32, u32)>,
    /// Listeners by class whose receptions are their own, by session.
    pub(super) alone: Vec<BTreeSet<u32>>,
    /// Child relays and speakers, by session.
    pub(super) others: BTreeSet<u32>,
    /// By class and slot.
    pub(super) cohorts: Vec<[Option<Box<Cohort>>; SLOTS]>,
    pub(super) armed: Time,
}

/// A node.
pub(super) struct Node {
    pub(super) name: String,
    /// Where it is reached.
    pub(super) address: String,
    pub(super) control: NodeControl,
    pub(super) shards: Vec<Shard>,
    pub(super) to_control: Queue<ToControl>,
    pub(super) links: BTreeMap<LinkId, ConnIx>,
    pub(super) condition: Condition,
    /// How many faults hold all of its links cut.
    pub(super) cuts: u32,
    /// Which side of a partition it is on.
    pub(super) side: u8,
    /// Since when no fault is on it.
    pub(super) well_since: Time,
    pub(super) draining: bool,
    pub(super) life: u32,
    pub(super) armed: Time,
    /// The ticks that control has passed to the shards.
    pub(super) had: Had,
    pub(super) level: u8,
    /// The parents of the placement that it was told last.
    pub(super) planned: Vec<NodeIx>,
    pub(super) hops: Vec<Hop>,
    /// What arrived while the process stood still.
    pub(super) backlog: VecDeque<Packet>,
    backlog_bytes: usize,
    /// The paths to its listeners: good and bad times by class, down and up.
    pub(super) weather: Vec<[Weather; 2]>,
    accepted: usize,
}

impl Node {
    /// The origin.
    pub(super) fn origin(setup: &Setup, signer: &Signer, now: Time) -> Result<Self, String> {
        let room = RoomSetup {
            name: super::ROOM.into(),
            title: "A room of the simulator".into(),
            public: true,
            profile: Profile::voice(),
            audible: limits::AUDIBLE,
            tick_ms: 20,
        };
        let settings = OriginSettings {
            name: "origin".into(),
            rooms: vec![room],
            first_use: None,
            planner: PlannerSettings {
                origin_children: setup.fan_out,
                children_one_in: (setup.capacity() / setup.children()).max(1),
                generation: GENERATION,
                ..PlannerSettings::default()
            },
            epoch: 1,
            capacity: limits::SESSIONS_PER_SHARD,
            keys: vec![signer.published()],
            unix_us_at_zero: UNIX_US,
            signer: Some(signer.clone()),
            joins_per_s: setup.door.on.then_some(setup.door.joins_per_s),
        };
        let control = OriginControl::new(settings, now).map_err(|close| close.to_string())?;
        let control = NodeControl::Origin(Box::new(control));
        Ok(Self::new(setup, (0, 0), control, Some(signer), now))
    }

    /// A relay that has not started.
    pub(super) fn relay(setup: &Setup, number: NodeIx, life: u32, now: Time) -> Self {
        let settings = RelaySettings {
            info: RelayInfo {
                id: format!("r{number}"),
                address: format!("r{number}:1"),
                region: String::new(),
                capacity: setup.capacity(),
                level: None,
                incarnation: u64::from(life) + 1,
                pass_key: Some(pass_key(setup, number, life).published()),
                certificate_hashes: Vec::new(),
            },
            token: None,
            origin: "origin:1".into(),
            agent: "sim".into(),
            unix_us_at_zero: UNIX_US,
            seed: mix(setup.seed ^ u64::from(life), number as u64),
            joins_per_s: setup.door.on.then_some(setup.door.joins_per_s),
        };
        let control = NodeControl::Relay(Box::new(RelayControl::new(settings, now)));
        Self::new(setup, (number, life), control, None, now)
    }

    fn new(
        setup: &Setup,
        (number, life): (NodeIx, u32),
        control: NodeControl,
        signer: Option<&Signer>,
        now: Time,
    ) -> Self {
        let origin = number == 0;
        let name = if origin { "origin".into() } else { format!("r{number}") };
        let shard = |shard: u16| {
            let settings = ShardSettings {
                name: name.clone(),
                shard,
                shards: setup.shards,
                origin,
                agent: "sim".into(),
                capacity: match origin {
                    true => limits::SESSIONS_PER_SHARD,
                    false => setup.capacity().div_ceil(u32::from(setup.shards)),
                },
                open_relays: true,
                unix_us_at_zero: UNIX_US,
                pass_key: (!origin).then(|| pass_key(setup, number, life)),
                seed: mix(setup.seed ^ u64::from(life), (number as u64) << 16 | u64::from(shard)),
                redundancy: true,
                repair: true,
                door: setup.door_of(shard),
                signer: signer.cloned(),
            };
            let machine = NodeShard::new(settings, Verifier::default(), now);
            Shard::new(machine, setup.classes.len(), mix(setup.seed ^ 11, seed_of(number, shard)))
        };
        Self {
            control,
            shards: (0..setup.shards).map(shard).collect(),
            address: format!("{name}:1"),
            name,
            to_control: Queue::new(limits::TO_CONTROL, mix(setup.seed ^ 12, seed_of(number, 0))),
            links: BTreeMap::new(),
            condition: Condition::Dead,
            cuts: 0,
            side: 0,
            well_since: Time::MAX,
            draining: false,
            life,
            armed: Time::MAX,
            had: Had::default(),
            level: 0,
            planned: Vec::new(),
            hops: Vec::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            weather: vec![Default::default(); setup.classes.len()],
            accepted: 0,
        }
    }

    /// The node that an address is of.
    pub(super) fn at(address: &str) -> Option<NodeIx> {
        match address.strip_suffix(":1")? {
            "origin" => Some(0),
            relay => relay.strip_prefix('r')?.parse().ok(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.condition == Condition::Running
    }

    /// Whether no fault is on it.
    pub(super) fn is_well(&self) -> bool {
        self.is_running() && self.cuts == 0
    }

    /// A connection is accepted by the next shard in turn.
    pub(super) fn accept(&mut self, now: Time, conn: ConnIx, class: u8) -> (u16, SessionIx) {
        let at = self.accepted % self.shards.len();
        self.accepted += 1;
        let shard = &mut self.shards[at];
        let ix = shard.free.pop().unwrap_or_else(|| {
            shard.seats.push(None);
            u32::try_from(shard.seats.len() - 1).expect("sessions are counted in 32 bits")
        });
        let seat = Seat {
            conn,
            class,
            slice: Seat::NOWHERE,
            was: Seat::NOWHERE,
            turned: Time::ZERO,
            since: Time::MAX,
            joined: false,
            cohort: Seat::NOWHERE,
            path: shard.paths.get(usize::from(class)).copied().unwrap_or_default(),
        };
        shard.seats[ix as usize] = Some(seat);
        if class == Seat::OTHER {
            shard.others.insert(ix);
        } else {
            shard.alone[usize::from(class)].insert(ix);
        }
        shard.fans.touch(SessionIx(ix));
        shard.machine.handle_open(now, SessionIx(ix), Framing::Quic);
        (u16::try_from(at).expect("shards are counted in 16 bits"), SessionIx(ix))
    }

    /// A session's connection is gone.
    pub(super) fn closed(&mut self, now: Time, shard: u16, ix: SessionIx) {
        let shard = &mut self.shards[usize::from(shard)];
        let Some(seat) = shard.seats[ix.0 as usize].take() else { return };
        shard.free.push(ix.0);
        shard.fans.touch(ix);
        shard.dirty = true;
        match shard.alone.get_mut(usize::from(seat.class)) {
            Some(alone) => alone.remove(&ix.0),
            None => shard.others.remove(&ix.0),
        };
        shard.machine.handle_closed(now, ix);
    }

    /// Keeps a packet for a process that stands still; a datagram beyond the socket's buffer is
    /// dropped, a stream's bytes are sent again until they fit.
    pub(super) fn keep(&mut self, packet: Packet) {
        let size = packet.what.size();
        let datagram = matches!(packet.what, super::events::What::Datagram(_));
        if datagram && self.backlog_bytes + size > SOCKET_BYTES {
            return;
        }
        self.backlog_bytes += size;
        self.backlog.push_back(packet);
    }

    /// What arrived meanwhile.
    pub(super) fn kept(&mut self) -> VecDeque<Packet> {
        self.backlog_bytes = 0;
        std::mem::take(&mut self.backlog)
    }
}

impl Shard {
    fn new(machine: NodeShard, classes: usize, seed: u64) -> Self {
        Self {
            machine,
            ticks: Queue::new(limits::TICK_QUEUE, seed),
            messages: Queue::new(limits::TO_SHARD, seed ^ 1),
            seats: Vec::new(),
            free: Vec::new(),
            fans: Fans::new(classes),
            dirty: false,
            paths: vec![(0, 0); classes],
            alone: vec![BTreeSet::new(); classes],
            others: BTreeSet::new(),
            cohorts: (0..classes).map(|_| Default::default()).collect(),
            armed: Time::MAX,
        }
    }

    pub(super) fn seat(&self, ix: SessionIx) -> Option<Seat> {
        self.seats.get(ix.0 as usize).copied().flatten()
    }

    /// The slot of the cohort of a class that is sent this variant.
    pub(super) fn cohort_in(&self, class: usize, slice: u8) -> Option<usize> {
        self.cohorts[class].iter().position(|cohort| {
            let leader = cohort.as_ref().and_then(|cohort| self.seat(SessionIx(cohort.leader)));
            leader.is_some_and(|leader| leader.slice == slice)
        })
    }
}

fn seed_of(number: NodeIx, shard: u16) -> u64 {
    (number as u64) << 16 | u64::from(shard)
}

/// A relay's key for re-home passes: another one in each of its lives.
fn pass_key(setup: &Setup, number: NodeIx, life: u32) -> PassKey {
    let mut seed = [0; 32];
    let drawn = mix(setup.seed ^ 13, mix(number as u64, u64::from(life)));
    seed[..8].copy_from_slice(&drawn.to_be_bytes());
    PassKey::from_seed(seed)
}
