//! A node: its control and its shards, as a shell would hold them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use stentor_proto::Time;
use stentor_proto::admission::DoorSettings;
use stentor_proto::fanout::SessionIx;
use stentor_proto::node::{
    ControlEffect, Fanout, LinkId, NodeControl, NodeShard, OriginControl, OriginSettings,
    RelayControl, RelaySettings, RoomSetup, ShardEffect, ShardSettings, Tick,
};
use stentor_proto::room::Profile;
use stentor_proto::token::{Signer, Verifier};
use stentor_proto::tree::PlannerSettings;
use stentor_proto::wire::{Close, Framing, RelayInfo};

use super::Setup;
use super::link::{Conn, What};

/// The wall clock at the start of the world's time, in seconds and in microseconds.
pub const UNIX_S: u64 = 1_700_000_000;
const UNIX_US: u64 = UNIX_S * 1_000_000;

/// What a node wants done outside of itself.
pub enum Out {
    /// To whoever opened a connection to this node.
    Send(Conn, What),
    Close(Conn, Close),
    Connect(LinkId, String),
    Disconnect(LinkId, Close),
    /// On an uplink.
    Up(LinkId, What),
    /// A tick has left control; its datagrams follow by themselves.
    Tick(Tick),
}

impl Out {
    pub fn as_tick(&mut self) -> Option<Tick> {
        match self {
            Self::Tick(tick) => Some(tick.clone()),
            _ => None,
        }
    }
}

pub struct Node {
    pub address: String,
    pub control: NodeControl,
    pub shards: Vec<NodeShard>,
    /// The connection of each session, by shard and index.
    sessions: Vec<Vec<Option<Conn>>>,
    pub links: BTreeMap<LinkId, Conn>,
    pub dead: bool,
    pub cut_off: bool,
    /// What control noted for the operator.
    pub notes: Vec<String>,
    accepted: usize,
}

/// Where the opener of a connection is: no two in one network.
pub fn address_of(conn: Conn) -> IpAddr {
    IpAddr::from([10, (conn >> 16) as u8, (conn >> 8) as u8, conn as u8])
}

impl Node {
    pub fn origin(setup: &Setup, signer: &Signer, now: Time) -> Self {
        let room = |name: &str| RoomSetup {
            name: name.into(),
            title: String::new(),
            public: true,
            profile: Profile::voice(),
            audible: 3,
            tick_ms: 20,
        };
        let settings = OriginSettings {
            signer: None,
            name: "origin".into(),
            rooms: setup.rooms.iter().map(|name| room(name)).collect(),
            first_use: setup.first_use.then(|| room("any")),
            planner: PlannerSettings {
                generation: u64::from(setup.epoch) * 1_000_000,
                ..PlannerSettings::default()
            },
            epoch: setup.epoch,
            capacity: 100,
            keys: vec![signer.published()],
            unix_us_at_zero: UNIX_US,
            joins_per_s: None,
        };
        let control = OriginControl::new(settings, now).unwrap();
        Self::new(setup, "origin", NodeControl::Origin(Box::new(control)), now)
    }

    pub fn relay(setup: &Setup, name: &str, level: u8, now: Time) -> Self {
        let settings = RelaySettings {
            info: RelayInfo {
                id: name.into(),
                address: format!("{name}:1"),
                region: String::new(),
                capacity: setup.capacity,
                level: Some(level),
                incarnation: 1,
                pass_key: None,
                certificate_hashes: Vec::new(),
            },
            token: None,
            origin: "origin:1".into(),
            agent: "world".into(),
            unix_us_at_zero: UNIX_US,
            seed: setup.seed,
            joins_per_s: Some(1_000),
        };
        let control = RelayControl::new(settings, now);
        Self::new(setup, name, NodeControl::Relay(Box::new(control)), now)
    }

    fn new(setup: &Setup, name: &str, control: NodeControl, now: Time) -> Self {
        let shard = |shard: u16| {
            let settings = ShardSettings {
                name: "r".into(),
                shards: 1,
                pass_key: None,
                shard,
                origin: name == "origin",
                agent: "world".into(),
                capacity: setup.capacity,
                open_relays: true,
                unix_us_at_zero: UNIX_US,
                // Every shard makes up identities of its own.
                seed: name.bytes().fold(setup.seed + u64::from(shard), |seed, byte| {
                    seed.wrapping_mul(131).wrapping_add(byte.into())
                }),
                redundancy: true,
                repair: true,
                door: DoorSettings::default(),
                signer: None,
            };
            NodeShard::new(settings, Verifier::default(), now)
        };
        Self {
            address: format!("{name}:1"),
            control,
            shards: (0..setup.shards).map(shard).collect(),
            sessions: vec![Vec::new(); usize::from(setup.shards)],
            links: BTreeMap::new(),
            dead: false,
            cut_off: false,
            notes: Vec::new(),
            accepted: 0,
        }
    }

    /// A connection is accepted by the next shard in turn.
    pub fn accept(&mut self, now: Time, conn: Conn) -> (u16, SessionIx) {
        let shard = self.accepted % self.shards.len();
        self.accepted += 1;
        let sessions = &mut self.sessions[shard];
        let at = sessions.iter().position(Option::is_none).unwrap_or(sessions.len());
        if at == sessions.len() {
            sessions.push(None);
        }
        sessions[at] = Some(conn);
        let ix = SessionIx(u32::try_from(at).unwrap());
        self.shards[shard].handle_open(now, ix, Framing::Quic);
        self.shards[shard].handle_address(ix, address_of(conn));
        (u16::try_from(shard).unwrap(), ix)
    }

    pub fn handle_closed(&mut self, now: Time, shard: u16, ix: SessionIx) {
        self.sessions[usize::from(shard)][ix.0 as usize] = None;
        self.shards[usize::from(shard)].handle_closed(now, ix);
    }

    pub fn timeout(&self) -> Time {
        let shards = self.shards.iter().map(NodeShard::poll_timeout);
        shards.min().unwrap_or(Time::MAX).min(self.control.poll_timeout())
    }

    /// Timers, and the beacons that are due.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<Out> {
        let mut out = Vec::new();
        if self.control.poll_timeout() <= now {
            self.control.handle_timeout(now);
        }
        for shard in 0..self.shards.len() {
            if self.shards[shard].poll_timeout() <= now {
                self.shards[shard].handle_timeout(now);
                while let Some(fanout) = self.shards[shard].poll_beacon(now) {
                    self.fan_out(shard, fanout, &mut out);
                }
            }
        }
        out
    }

    /// What the machines have to say; to be called until nothing is.
    pub fn drain(&mut self, now: Time) -> Vec<Out> {
        let mut out = Vec::new();
        while self.round(now, &mut out) {}
        out
    }

    /// One round of hand-overs between control and shards; whether there was any.
    fn round(&mut self, now: Time, out: &mut Vec<Out>) -> bool {
        let mut any = false;
        while let Some(tick) = self.control.poll_tick() {
            any = true;
            for shard in 0..self.shards.len() {
                if let Some(fanout) = self.shards[shard].handle_tick(now, &tick) {
                    self.fan_out(shard, fanout, out);
                }
            }
            out.push(Out::Tick(tick));
        }
        while let Some(effect) = self.control.poll_effect() {
            any = true;
            self.effect(now, effect, out);
        }
        for shard in 0..self.shards.len() {
            while let Some(effect) = self.shards[shard].poll_effect() {
                any = true;
                self.shard_effect(now, shard, effect, out);
            }
        }
        any
    }

    fn effect(&mut self, now: Time, effect: ControlEffect, out: &mut Vec<Out>) {
        match effect {
            ControlEffect::Connect { link, address } => out.push(Out::Connect(link, address)),
            ControlEffect::Disconnect { link, close } => out.push(Out::Disconnect(link, close)),
            ControlEffect::SendControl { link, bytes } => {
                out.push(Out::Up(link, What::Control(bytes)));
            }
            ControlEffect::SendDatagram { link, bytes } => {
                out.push(Out::Up(link, What::Datagram(bytes)));
            }
            ControlEffect::ToShard { shard, message } => {
                self.shards[usize::from(shard)].handle_message(now, message);
            }
            ControlEffect::ToShards(message) => {
                for shard in &mut self.shards {
                    shard.handle_message(now, message.clone());
                }
            }
            ControlEffect::Note { text, .. } => self.notes.push(text),
        }
    }

    fn shard_effect(&mut self, now: Time, shard: usize, effect: ShardEffect, out: &mut Vec<Out>) {
        let conn = |session: SessionIx| self.sessions[shard][session.0 as usize];
        match effect {
            ShardEffect::SendControl { session, bytes } => {
                out.extend(conn(session).map(|conn| Out::Send(conn, What::Control(bytes))));
            }
            ShardEffect::SendDatagram { session, bytes } => {
                out.extend(conn(session).map(|conn| Out::Send(conn, What::Datagram(bytes))));
            }
            ShardEffect::Close { session, close } => {
                out.extend(conn(session).map(|conn| Out::Close(conn, close)));
            }
            ShardEffect::AwaitControl { session } => {
                self.shards[shard].handle_control_written(now, session);
            }
            ShardEffect::ToControl(message) => self.control.handle_message(now, message),
        }
    }

    fn fan_out(&self, shard: usize, fanout: Fanout, out: &mut Vec<Out>) {
        for (list, bytes) in self.shards[shard].fanout(fanout) {
            for session in list {
                let conn = self.sessions[shard][session.0 as usize];
                let conn = conn.expect("the fan-out speaks to open sessions alone");
                out.push(Out::Send(conn, What::Datagram(bytes.clone())));
            }
        }
    }
}
