//! Faults: what strikes, whom, when and for how long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use stentor_proto::limits;

use super::chance::Chance;

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A relay's process dies without a word (SIGKILL); it starts again when the fault ends.
    Kill,
    /// A relay's process stands still (SIGSTOP) and goes on when the fault ends.
    Stop,
    /// Nothing reaches or leaves a relay.
    BlackHole,
    /// The origin stands still.
    StarveOrigin,
    /// All relays of the first level stand still.
    StarveLevel,
    /// A relay is told to drain.
    Drain,
    /// Half of the relays are cut off from the other half and from the origin.
    Partition,
    /// All that comes to a relay from its parents loses a tenth.
    Loss,
    /// The origin's control neither hears of relays nor places them.
    ControlGone,
    /// The addresses of all listeners of a relay change.
    Rebind,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Stop,
        Self::BlackHole,
        Self::StarveOrigin,
        Self::StarveLevel,
        Self::Drain,
        Self::Partition,
        Self::Loss,
        Self::ControlGone,
        Self::Rebind,
    ];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::BlackHole => "blackhole",
            Self::StarveOrigin => "starve-origin",
            Self::StarveLevel => "starve-level",
            Self::Drain => "drain",
            Self::Partition => "partition",
            Self::Loss => "loss",
            Self::ControlGone => "control-gone",
            Self::Rebind => "rebind",
        }
    }

    /// How long it lasts unless something else is asked for.
    const fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::Kill => 12,
            // A relay that is not heard of for ten seconds is left out.
            Self::ControlGone => 8,
            Self::Rebind => 1,
            Self::Stop | Self::StarveOrigin | Self::StarveLevel => 3,
            Self::BlackHole | Self::Drain | Self::Partition | Self::Loss => 5,
        })
    }

    /// Whether it strikes one relay.
    const fn one(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Stop | Self::BlackHole | Self::Drain | Self::Loss | Self::Rebind
        )
    }
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after the last listener has set out: `@20`.
    Gathered(Duration),
    /// So long after the doors opened, whoever is still to come: `@open:20`.
    Opened(Duration),
}

impl When {
    /// How long after the doors opened that is, where the last listener sets out `gathering` after
    /// it.
    #[must_use]
    pub fn since_opening(self, gathering: Duration) -> Duration {
        match self {
            Self::Gathered(after) => gathering + after,
            Self::Opened(after) => after,
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gathered(after) => write!(f, "@{}", after.as_secs_f64()),
            Self::Opened(after) => write!(f, "@{OPENED}{}", after.as_secs_f64()),
        }
    }
}

/// What stands before seconds that count from the opening of the doors.
const OPENED: &str = "open:";

/// A fault: `kill`, `kill:r12`, `kill@20`, `kill:r12@20+5`, `kill@open:20`: what, whom, from when
/// (seconds after all have set out, or after the doors opened) and for how long. What is not said is
/// chance.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What strikes.
    pub kind: FaultKind,
    /// The relay that it strikes, by its number from 1.
    pub relay: Option<usize>,
    /// When.
    pub at: Option<When>,
    /// For how long.
    pub lasts: Duration,
}

impl Fault {
    /// A fault of this kind, on a relay and at a time that chance decides.
    #[must_use]
    pub const fn new(kind: FaultKind) -> Self {
        Self { kind, relay: None, at: None, lasts: kind.lasts() }
    }

    /// The same, so many seconds after the last listener has set out.
    #[must_use]
    pub const fn at(self, seconds: u64) -> Self {
        Self { at: Some(When::Gathered(Duration::from_secs(seconds))), ..self }
    }

    /// The same, so long after the doors opened.
    #[must_use]
    pub const fn opened(self, after: Duration) -> Self {
        Self { at: Some(When::Opened(after)), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(relay) = self.relay {
            write!(f, ":r{relay}")?;
        }
        if let Some(at) = self.at {
            at.fmt(f)?;
        }
        match self.lasts == self.kind.lasts() {
            true => Ok(()),
            false => write!(f, "+{}", self.lasts.as_secs_f64()),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, lasts) = split(text, '+');
        let (rest, at) = split(rest, '@');
        let (name, relay) = split(rest, ':');
        let kind =
            FaultKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let names = FaultKind::ALL.map(FaultKind::name).join(", ");
                format!("there is no fault {name}; there are {names}")
            })?;
        let relay = match relay {
            Some(_) if !kind.one() => return Err(format!("{name} does not strike one relay")),
            Some(name) => {
                let number = name.strip_prefix('r').and_then(|number| number.parse().ok());
                Some(number.filter(|&n| n > 0).ok_or("a relay is named r1, r2, …")?)
            }
            None => None,
        };
        let when = |text: &str| match text.strip_prefix(OPENED) {
            Some(text) => seconds(text).map(When::Opened),
            None => seconds(text).map(When::Gathered),
        };
        let at = at.map(when).transpose()?;
        let lasts = lasts.map(seconds).transpose()?.unwrap_or(kind.lasts());
        Ok(Self { kind, relay, at, lasts })
    }
}

/// One fault of each kind, in an order and at times that the seed decides: the next one strikes
/// when what the last one did has settled.
#[must_use]
pub fn all(seed: u64) -> Vec<Fault> {
    let mut chance = Chance::new(seed ^ 0xfa_17);
    let mut kinds = FaultKind::ALL.to_vec();
    for at in (1..kinds.len()).rev() {
        kinds.swap(at, chance.below(at + 1));
    }
    let mut at = Duration::from_secs(2);
    let mut faults = Vec::new();
    for kind in kinds {
        let fault = Fault { at: Some(When::Gathered(at)), ..Fault::new(kind) };
        // A relay that comes back has its parents within seconds, one that vanished is missed
        // after ten.
        at += fault.lasts + Duration::from_secs(6) + chance.within(Duration::from_secs(2));
        at = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0));
        faults.push(fault);
    }
    faults
}

/// How long after the doors opened all listeners have set out, the last of these faults has ended, and
/// all has settled.
#[must_use]
pub fn span(faults: &[Fault], gathering: Duration) -> Duration {
    // Whom a relay leaves without a word learns it after an idle timeout, and comes again.
    let over = |fault: &Fault| match fault.kind {
        FaultKind::Kill => fault.lasts.max(limits::IDLE_TIMEOUT + Duration::from_secs(2)),
        _ => fault.lasts,
    };
    let end =
        |fault: &Fault| fault.at.map_or(gathering, |at| at.since_opening(gathering)) + over(fault);
    faults.iter().map(end).max().unwrap_or_default().max(gathering) + SETTLED
}

/// A tree has settled this long after a fault: those that were missed have been, everybody has
/// tried the new parents, and reports have come up from the deepest level.
pub(super) const SETTLED: Duration = Duration::from_secs(10);

fn split(text: &str, by: char) -> (&str, Option<&str>) {
    text.split_once(by).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
    parsed.ok_or_else(|| format!("{text} is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_what_it_is_written_as() {
        for text in ["kill", "stop:r12", "starve-origin@20", "loss:r3@1.5+0.5", "kill:r2@open:7"] {
            let fault: Fault = text.parse().unwrap();
            assert_eq!(fault.to_string(), text);
        }
        for bad in
            ["", "kil", "kill:12", "kill:r0", "starve-level:r1", "kill@x", "kill@open:", "kill+-1"]
        {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_seed_strikes_with_every_kind_once() {
        let kinds = |seed| {
            let mut kinds: Vec<FaultKind> = all(seed).iter().map(|f| f.kind).collect();
            kinds.sort_unstable();
            kinds
        };
        assert_eq!(kinds(1), FaultKind::ALL);
        assert_ne!(all(1), all(2));
    }
}
