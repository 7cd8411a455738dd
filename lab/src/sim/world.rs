//! The world: one clock, what is to happen, and everything that it happens to.

use std::time::Duration;

use stentor_proto::node::ToControl;
use stentor_proto::token::{Signer, private_pem};
use stentor_proto::{Time, limits};

use super::chance::Chance;
use super::crowd::Crowd;
use super::events::{Event, Events, NodeIx};
use super::fault::When;
use super::figures::Counted;
use super::model::Model;
use super::node::Node;
use super::setup::Setup;
use super::speaker::Speaker;
use super::strike::Struck;
use super::tree::Tree;
use super::wires::Wires;

/// When the world begins: time zero is a time that no machine is to see as its past.
pub(super) const BEGIN: Time = Time::from_millis(1_000);
/// Relays start within this.
pub(super) const STARTS: Duration = Duration::from_millis(1_000);
/// Speakers speak, and then listeners join, this long after the beginning.
pub(super) const OPENS: Duration = Duration::from_millis(3_000);
/// The reference model is compared this often.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// Events of one instant after which a machine is taken for one that spins.
const SPINS: u32 = 20_000_000;

/// A deterministic world: the production machines of every node, in virtual time.
pub struct World {
    pub(super) now: Time,
    pub(super) end: Time,
    pub(super) setup: Setup,
    pub(super) events: Events,
    pub(super) chance: Chance,
    pub(super) signer: Signer,
    pub(super) wires: Wires,
    pub(super) nodes: Vec<Node>,
    pub(super) speakers: Vec<Speaker>,
    pub(super) crowd: Crowd,
    pub(super) model: Model,
    pub(super) tree: Tree,
    pub(super) counted: Counted,
    /// What each fault has struck.
    pub(super) struck: Vec<Struck>,
    /// Faults that are on.
    pub(super) active: u32,
    /// Since when none is.
    pub(super) quiet_since: Option<Time>,
    /// What the origin's control has not heard of relays, while it hears nothing of them.
    pub(super) parked: Option<Vec<ToControl>>,
    /// Sessions that are being looked at, kept so that none is allocated.
    pub(super) scratch: Vec<u32>,
    /// The same for connections of listeners that hear something.
    pub(super) hearers: Vec<(super::events::ConnIx, u32)>,
}

impl World {
    /// A world before its beginning.
    ///
    /// # Errors
    /// When the setup asks for what cannot be.
    pub fn new(setup: Setup) -> Result<Self, String> {
        setup.check()?;
        let signer = Signer::from_pkcs8_pem(&private_pem([1; 32]), None);
        let signer = signer.map_err(|error| error.to_string())?;
        let mut nodes = vec![Node::origin(&setup, &signer, BEGIN)?];
        nodes.extend((1..=setup.relays).map(|n| Node::relay(&setup, n, 0, BEGIN)));
        let mut world = Self {
            now: BEGIN,
            end: BEGIN + setup.virtual_time,
            events: Events::default(),
            chance: Chance::new(setup.seed),
            signer,
            wires: Wires::new(&setup),
            nodes,
            speakers: vec![Speaker::new("ada", 0), Speaker::new("bob", 1)],
            crowd: Crowd::new(&setup),
            model: Model::default(),
            tree: Tree::default(),
            counted: Counted::default(),
            struck: vec![Struck::default(); setup.faults.len()],
            active: 0,
            quiet_since: Some(BEGIN),
            parked: None,
            scratch: Vec::new(),
            hearers: Vec::new(),
            setup,
        };
        world.plan();
        Ok(world)
    }

    /// Lets the world live to its end.
    pub fn run(&mut self) {
        self.run_to(self.end.since(BEGIN));
        self.last_check();
    }

    /// Lets the world live until this long after its beginning.
    pub fn run_to(&mut self, until: Duration) {
        let until = BEGIN + until;
        let mut spins = 0;
        while let Some((at, event)) = self.events.pop(until) {
            spins = if at > self.now { 0 } else { spins + 1 };
            if spins > SPINS {
                self.model
                    .violation(self.now, "a machine asks for the same instant for ever".into());
                return;
            }
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = self.now.max(until);
    }

    /// What will happen whatever happens.
    fn plan(&mut self) {
        self.start(0);
        for node in 1..self.nodes.len() {
            let at = self.now + self.chance.within(STARTS);
            self.events.push(at, Event::Start(node));
        }
        let opens = self.now + OPENS;
        for speaker in 0..self.speakers.len() {
            self.events.push(opens - OPENS / 4, Event::SpeakerTimer(speaker));
        }
        self.events.push(opens, Event::Joins);
        if self.setup.churn > 0.0 {
            self.events.push(opens + self.setup.gathering(), Event::Churn);
        }
        self.events.push(opens, Event::Second);
        for node in 0..self.nodes.len() {
            for shard in 0..self.setup.shards {
                let after = self.chance.within(limits::PATH_SAMPLE_EVERY);
                self.events.push(opens + after, Event::Paths(node, shard));
            }
        }
        self.events.push(opens, Event::Check);
        for at in 0..self.setup.faults.len() {
            let fault = &self.setup.faults[at];
            let gathering = self.setup.gathering();
            let spare = self.end.since(opens + gathering);
            let drawn = |chance: &mut Chance| When::Gathered(chance.within(spare / 2));
            let when = fault.at.unwrap_or_else(|| drawn(&mut self.chance));
            self.events.push(opens + when.since_opening(gathering), Event::Strike(at));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(packet) => self.arrive(packet),
            Event::Spread(spread) => self.spread(&spread),
            Event::Ticks(node, shard) => self.on_ticks(node, shard),
            Event::ToShard(node, shard) => self.on_to_shard(node, shard),
            Event::ToControl(node) => self.on_to_control(node),
            Event::ControlTimer(node) => self.on_control_timer(node),
            Event::ShardTimer(node, shard) => self.on_shard_timer(node, shard),
            Event::ListenerTimer(listener) => self.on_listener_timer(listener),
            Event::CohortTimer(node, shard, class, slot) => {
                self.on_cohort_timer((node, shard, class), slot);
            }
            Event::Paths(node, shard) => self.on_paths(node, shard),
            Event::Second => self.on_second(),
            Event::SpeakerTimer(speaker) => self.on_speaker_timer(speaker),
            Event::Start(node) => self.start(node),
            Event::Idle(conn) => self.on_idle(conn),
            Event::Joins => self.on_joins(),
            Event::Churn => self.on_churn(),
            Event::Strike(fault) => self.strike(fault),
            Event::Lift(fault) => self.lift(fault),
            Event::Check => {
                self.check();
                self.events.push(self.now + CHECK_EVERY, Event::Check);
            }
        }
    }

    /// A node's process starts.
    pub(super) fn start(&mut self, node: NodeIx) {
        self.nodes[node].condition = super::node::Condition::Running;
        self.nodes[node].well_since = self.now;
        self.pump_control(node);
        for shard in 0..self.setup.shards {
            self.pump_shard(node, shard);
        }
    }
}
