//! What a world is made of.

use std::time::Duration;

use stentor_proto::admission::DoorSettings;

use super::fault::Fault;
use super::link::{Line, Loss};

/// How listeners of one kind are connected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    /// Its name in reports.
    pub name: &'static str,
    /// Its last hop, in either direction.
    pub line: Line,
    /// Its share of the listeners; shares are taken in relation to their sum.
    pub weight: u32,
}

/// A bug that is planted into a world, so that it is seen to be found. The machines are the
/// production machines in any case: what they are told or say is changed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A relay passes on the second copy of a tick too.
    SecondCopy,
    /// The planner gives a relay a parent of its own level.
    EqualLevels,
    /// A relay leaves a parent that says that it is starved.
    StarvedLeaves,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SecondCopy, Self::EqualLevels, Self::StarvedLeaves];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SecondCopy => "second-copy",
            Self::EqualLevels => "equal-levels",
            Self::StarvedLeaves => "starved-leaves",
        }
    }
}

/// What a world is made of. The same setup makes the same world.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// What decides all chance.
    pub seed: u64,
    /// Relays below the origin.
    pub relays: usize,
    /// Shards of each node.
    pub shards: u16,
    /// Relays that the origin feeds; any other relay has twice as many children, of which each has
    /// two parents.
    pub fan_out: u32,
    /// Listeners in all.
    pub listeners: usize,
    /// Within how long they join, evenly.
    pub join: Duration,
    /// How they join instead, if it says anything: seconds since the doors opened, and listeners a
    /// second at that time; between two of them the rate changes evenly, after the last all who are
    /// left come at once.
    pub curve: Vec<(f64, f64)>,
    /// What each relay lets in.
    pub door: DoorSettings,
    /// Sessions that a relay may carry; `None` for those that fall to it twice over.
    pub places: Option<u32>,
    /// The share of the listeners that leaves, and comes anew, in a second.
    pub churn: f64,
    /// How they are connected.
    pub classes: Vec<Class>,
    /// The share of listeners that are full receivers throughout.
    pub sample: f64,
    /// Whether the others share a cohort's reception once theirs is the same.
    pub cohorts: bool,
    /// Whether each of the full receivers has a last hop of its own, instead of its class's.
    pub own_paths: bool,
    /// What the hops between nodes are like; the delay is the most of a hop.
    pub backbone: Line,
    /// What strikes.
    pub faults: Vec<Fault>,
    /// How long the world lives.
    pub virtual_time: Duration,
    /// A bug to be found.
    pub planted: Option<Planted>,
}

impl Setup {
    /// Some forty relays on three levels with twenty thousand listeners, for a minute.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            relays: 40,
            shards: 2,
            fan_out: 4,
            listeners: 20_000,
            join: Duration::from_secs(5),
            curve: Vec::new(),
            door: door(),
            places: None,
            churn: 0.001,
            classes: classes(),
            sample: 0.01,
            cohorts: true,
            own_paths: true,
            backbone: Line {
                delay: Duration::from_millis(20),
                jitter: Duration::from_millis(2),
                loss: Loss::None,
                rate: Some((1_000_000_000, 1_000_000)),
            },
            faults: Vec::new(),
            virtual_time: Duration::from_secs(60),
            planted: None,
        }
    }

    /// Sessions that a relay may carry: the listeners that fall to it twice over, for the largest
    /// of its siblings may die, and its children.
    pub(super) fn capacity(&self) -> u32 {
        if let Some(places) = self.places {
            return places.max(self.children() + 64);
        }
        let listeners = 2 * self.listeners.div_ceil(self.relays.max(1));
        u32::try_from(listeners).unwrap_or(u32::MAX).saturating_add(self.children() + 64)
    }

    /// How long it takes until all have set out.
    #[must_use]
    pub fn gathering(&self) -> Duration {
        let last = self.curve.last().map(|&(seconds, _)| seconds);
        last.map_or(self.join, |s| Duration::try_from_secs_f64(s).unwrap_or(self.join))
    }

    /// One shard's part of what a relay lets in.
    pub(super) fn door_of(&self, shard: u16) -> DoorSettings {
        let share = |whole: u32| {
            let shards = u32::from(self.shards);
            (whole / shards + u32::from(u32::from(shard) < whole % shards)).max(1)
        };
        DoorSettings {
            listeners: share(self.door.listeners),
            joins_per_s: share(self.door.joins_per_s),
            returns_per_s: share(self.door.returns_per_s),
            tickets_per_s: share(self.door.tickets_per_s),
            ..self.door
        }
    }

    /// Children that a relay may have.
    pub(super) const fn children(&self) -> u32 {
        2 * self.fan_out
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// A sentence for whoever asked for it.
    pub fn check(&self) -> Result<(), String> {
        use stentor_proto::limits;
        let within = |what: &str, value: usize, least: usize, most: usize| match value {
            v if (least..=most).contains(&v) => Ok(()),
            v => Err(format!("{v} {what}; {least} to {most} are possible")),
        };
        within("relays", self.relays, 2, limits::RELAYS)?;
        within("shards", usize::from(self.shards), 1, 64)?;
        within("listeners", self.listeners, 0, 16_000_000)?;
        within("children of the origin", self.fan_out as usize, 2, 1_024)?;
        let rising = self.curve.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !rising || self.curve.iter().any(|&(at, rate)| !(at >= 0.0 && rate >= 0.0)) {
            return Err("the times of arrivals rise from 0, and no rate is below 0".into());
        }
        within("classes", self.classes.len(), 1, 8)?;
        let seconds = self.virtual_time.as_secs() as usize;
        within("virtual seconds", seconds, 10, 86_400)?;
        for share in [self.sample, self.churn].into_iter().chain(self.losses()) {
            if !(0.0..1.0).contains(&share) && share != 1.0 {
                return Err(format!("{share} is no share: 0 to 1"));
            }
        }
        Ok(())
    }

    /// The command that makes this world again.
    #[must_use]
    pub fn command(&self) -> String {
        let list = |items: Vec<String>| match items.is_empty() {
            true => "none".to_owned(),
            false => items.join(","),
        };
        let faults = list(self.faults.iter().map(ToString::to_string).collect());
        let Self { seed, relays, fan_out, shards, listeners, churn, sample, .. } = self;
        let (join, seconds) = (self.join.as_secs_f64(), self.virtual_time.as_secs_f64());
        let loss = self.backbone.loss.share();
        let mut command = format!(
            "stentor sim --seed {seed} --relays {relays} --fan-out {fan_out} --shards {shards} \
             --listeners {listeners} --join-s {join} --churn {churn} --sample {sample} \
             --loss {loss} --faults {faults} --virtual-s {seconds}",
        );
        if !self.curve.is_empty() {
            let points = self.curve.iter().map(|(at, rate)| format!("{at}:{rate}"));
            command.push_str(&format!(" --arrivals {}", list(points.collect())));
        }
        if self.door.joins_per_s != door().joins_per_s {
            command.push_str(&format!(" --joins-per-s {}", self.door.joins_per_s));
        }
        if let Some(places) = self.places {
            command.push_str(&format!(" --places {places}"));
        }
        command
    }

    fn losses(&self) -> impl Iterator<Item = f64> {
        let lines = self.classes.iter().map(|class| &class.line).chain([&self.backbone]);
        lines.map(|line| line.loss.share())
    }
}

/// The door of a relay as it is configured by default.
#[must_use]
pub fn door() -> DoorSettings {
    DoorSettings {
        joins_per_s: 2_000,
        returns_per_s: 2_000,
        tickets_per_s: 1_000,
        ..DoorSettings::default()
    }
}

/// Fibre without loss, mobile with random loss, and a train with bursts.
#[must_use]
pub fn classes() -> Vec<Class> {
    let class = |name, delay_ms, jitter_ms, loss, weight| Class {
        name,
        line: Line {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::from_millis(jitter_ms),
            loss,
            rate: None,
        },
        weight,
    };
    vec![
        class("fibre", 5, 1, Loss::None, 80),
        class("mobile", 25, 10, Loss::Random(0.01), 15),
        class("train", 40, 15, Loss::Bursts { share: 0.02, mean: 5.0 }, 5),
    ]
}
