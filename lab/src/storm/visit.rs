//! What became of each who came.

use std::net::SocketAddr;
use std::time::Duration;

use stentor_proto::Time;

/// One who came, once or again and again, until it was let in, refused, or gave up.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    /// When it was to come: every latency counts from here.
    pub scheduled: Time,
    /// Whether it asked at the HTTP door first.
    pub http: bool,
    /// When its first packet left.
    pub sent: Option<Time>,
    /// Whether it was offered as a first packet alone, for the generator had no time for more.
    pub flight_only: bool,
    /// Whether its first handshake was completed.
    pub connected: bool,
    /// When it was first told to wait.
    pub told: Option<Time>,
    /// How often it was told so.
    pub waits: u32,
    /// Its place when it was first told.
    pub place: u64,
    /// When it was to come the last time.
    pub due: Time,
    /// How often it was sent to another relay.
    pub redirects: u32,
    /// When it was welcomed, and where.
    pub joined: Option<(Time, SocketAddr)>,
    /// When its first tick was there and decoded.
    pub sound: Option<Time>,
    /// When another relay took it over, the last time.
    pub moved: Option<Time>,
    /// When it left, by itself or not.
    pub left: Option<Time>,
    /// Why it is outside for good, by the close's name; `none` where nobody answered it.
    pub refused: Option<String>,
}

impl Visit {
    /// Whether anything was said to it: a welcome, a place, or a refusal by name.
    #[must_use]
    pub fn answered(&self) -> bool {
        let refused = self.refused.as_ref().is_some_and(|why| why != UNANSWERED);
        self.joined.is_some() || self.told.is_some() || refused
    }

    /// From when it was to come, the last time, to its welcome.
    #[must_use]
    pub fn join(&self) -> Option<Duration> {
        self.joined.map(|(at, _)| at.since(self.due))
    }

    /// From when it was to come, the last time, to its first sound.
    #[must_use]
    pub fn first_sound(&self) -> Option<Duration> {
        self.sound.map(|at| at.since(self.due))
    }
}

/// Why somebody is outside whom nobody answered.
pub(super) const UNANSWERED: &str = "none";
