//! The child's side of the tree: placements become links, make before break.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::ORIGIN;
use crate::Time;
use crate::limits;
use crate::wire::{Parent, Placement};

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachAction {
    /// Open a link to a parent and subscribe; answer with [`Attach::handle_up`] or
    /// [`Attach::handle_down`].
    Open {
        /// The parent's name; [`ORIGIN`] for the origin.
        relay: String,
        /// Its `host:port`.
        address: String,
        /// Whether it is the primary by plan.
        primary: bool,
    },
    /// Close the link, or give the attempt up; nothing is to be answered.
    Close {
        /// The parent's name.
        relay: String,
    },
}

/// How a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Asked for, not up.
    Connecting {
        /// Since when.
        since: Time,
    },
    /// Ticks may come.
    Up {
        /// Since when.
        since: Time,
    },
    /// Waits before the next attempt.
    BackingOff {
        /// When it failed.
        since: Time,
        /// When it is tried again.
        till: Time,
    },
}

/// One link, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentLink<'a> {
    /// The parent's name.
    pub relay: &'a str,
    /// Its `host:port`.
    pub address: &'a str,
    /// How the link stands.
    pub state: LinkState,
    /// Whether it is the primary by plan.
    pub primary: bool,
    /// Whether it is a former parent, held until the new ones are up.
    pub former: bool,
    /// Failures since it was last stable.
    pub failures: u32,
    /// Why it was last down, in words; empty if it never was.
    pub reason: &'a str,
}

/// Turns placements into links: opens new ones first, and leaves a former parent only when every
/// new one is up, or after [`limits::FORMER_PARENT_HOLD`] if at least one is.
///
/// While nothing comes from the origin, the last placement holds and its parents are tried again
/// for ever, with back-off. A placement without parents below level 1 ("wait") takes nothing away.
///
/// After each `handle_*`, drain [`poll_action`](Self::poll_action) and ask
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Attach {
    origin: String,
    version: u64,
    level: u8,
    why: String,
    /// The parents by plan, the primary first.
    wanted: Vec<Parent>,
    /// By the parent's name; at most PARENTS + FORMER_PARENTS.
    links: BTreeMap<String, Link>,
    actions: VecDeque<AttachAction>,
}

#[derive(Debug)]
struct Link {
    address: String,
    state: LinkState,
    /// Set on a former parent: when it is to be left.
    leave_at: Option<Time>,
    failures: u32,
    reason: String,
}

impl Link {
    fn is_up(&self) -> bool {
        matches!(self.state, LinkState::Up { .. })
    }

    /// Whether the shell holds a session or an attempt for it.
    fn is_open(&self) -> bool {
        !matches!(self.state, LinkState::BackingOff { .. })
    }
}

impl Attach {
    /// A relay without a place. `origin` is the `host:port` that feeds the first level.
    #[must_use]
    pub fn new(origin: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            version: 0,
            level: 0,
            why: String::new(),
            wanted: Vec::new(),
            links: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// The origin places this relay; false if the placement is not newer than the one in force,
    /// or is not valid (two parents of one name, a level that does not exist).
    pub fn handle_placement(&mut self, now: Time, placement: &Placement) -> bool {
        if placement.version <= self.version || !is_valid(placement) {
            return false;
        }
        self.version = placement.version;
        self.level = placement.level;
        self.why.clone_from(&placement.why);
        if placement.level == 1 {
            self.wanted = vec![Parent { relay: ORIGIN.to_owned(), address: self.origin.clone() }];
        } else if !placement.parents.is_empty() {
            self.wanted.clone_from(&placement.parents);
        }
        self.align(now);
        true
    }

    /// A link is up: the parent has accepted the session and ticks may come. Ignored for a link
    /// that is not being opened, except the origin's: the session that registers a relay comes
    /// back on its own.
    pub fn handle_up(&mut self, now: Time, relay: &str) {
        if let Some(link) = self.links.get_mut(relay)
            && !link.is_up()
            && (link.is_open() || relay == ORIGIN)
        {
            link.state = LinkState::Up { since: now };
        }
        self.leave_former(now);
    }

    /// A link went down, or an attempt failed. `random` spreads the next attempts of many
    /// children of one parent.
    pub fn handle_down(&mut self, now: Time, relay: &str, reason: &str, random: u64) {
        if let Some(link) = self.links.get_mut(relay) {
            if link.leave_at.is_some() {
                self.links.remove(relay);
            } else {
                back_off(link, now, reason, random);
            }
        }
        self.leave_former(now);
    }

    /// Tries again what has waited, gives up what hangs, and leaves former parents.
    pub fn handle_timeout(&mut self, now: Time, random: u64) {
        for at in 0..self.wanted.len() {
            let name = self.wanted[at].relay.clone();
            let Some(link) = self.links.get_mut(&name) else {
                continue;
            };
            match link.state {
                LinkState::Connecting { since } if now >= since + limits::PARENT_CONNECT => {
                    let salt = random.rotate_left(u32::try_from(at).unwrap_or(0) * 32);
                    back_off(link, now, "no answer", salt);
                    self.actions.push_back(AttachAction::Close { relay: name });
                }
                LinkState::BackingOff { till, .. } if now >= till => {
                    link.state = LinkState::Connecting { since: now };
                    let address = link.address.clone();
                    self.actions.push_back(AttachAction::Open {
                        relay: name,
                        address,
                        primary: at == 0,
                    });
                }
                _ => {}
            }
        }
        self.leave_former(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let fed = self.any_wanted_up();
        let times = self.links.values().filter_map(|link| match link.state {
            LinkState::Connecting { since } => Some(since + limits::PARENT_CONNECT),
            LinkState::BackingOff { till, .. } => Some(till),
            LinkState::Up { .. } => link.leave_at.filter(|_| fed),
        });
        times.min()
    }

    /// What to do next; drain it after each `handle_*`.
    pub fn poll_action(&mut self) -> Option<AttachAction> {
        self.actions.pop_front()
    }

    /// The level by the placement in force; 0 before the first.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The version of the placement in force; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Why the planner chose the placement in force.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Whether any link is up: the node has no feed otherwise and is not ready.
    #[must_use]
    pub fn has_feed(&self) -> bool {
        self.links.values().any(Link::is_up)
    }

    /// Every link: the parents by plan in their order, then former ones.
    pub fn parents(&self) -> impl Iterator<Item = ParentLink<'_>> {
        let planned = self.wanted.iter().map(|parent| parent.relay.as_str());
        let is_former = |(_, link): &(&String, &Link)| link.leave_at.is_some();
        let former = self.links.iter().filter(is_former).map(|(name, _)| name.as_str());
        planned.chain(former).filter_map(|name| {
            let (relay, link) = self.links.get_key_value(name)?;
            Some(ParentLink {
                relay,
                address: &link.address,
                state: link.state,
                primary: self.wanted.first().is_some_and(|p| p.relay == *relay),
                former: link.leave_at.is_some(),
                failures: link.failures,
                reason: &link.reason,
            })
        })
    }

    /// The parents whose links are up, the primary in force first: [`crate::wire::Load::parents`].
    #[must_use]
    pub fn in_force(&self) -> Vec<String> {
        let up = |link: &ParentLink<'_>| matches!(link.state, LinkState::Up { .. });
        self.parents().filter(up).map(|link| link.relay.to_owned()).collect()
    }

    /// Parents by plan that could not be reached in [`limits::PARENT_TRIES`] attempts.
    pub fn unreached(&self) -> impl Iterator<Item = &str> {
        let parents = self.parents().filter(|link| {
            let down = !matches!(link.state, LinkState::Up { .. });
            down && !link.former && link.failures >= limits::PARENT_TRIES
        });
        parents.map(|link| link.relay)
    }

    /// Brings the links in step with the plan.
    fn align(&mut self, now: Time) {
        let wanted = std::mem::take(&mut self.wanted);
        for (at, parent) in wanted.iter().enumerate() {
            if let Some(link) = self.links.get_mut(&parent.relay) {
                link.leave_at = None;
                if link.address == parent.address {
                    continue;
                }
                // The parent stands at another address: the former one is dead or not it.
                if link.is_open() {
                    let relay = parent.relay.clone();
                    self.actions.push_back(AttachAction::Close { relay });
                }
            }
            self.links.insert(parent.relay.clone(), connecting(now, parent));
            self.actions.push_back(AttachAction::Open {
                relay: parent.relay.clone(),
                address: parent.address.clone(),
                primary: at == 0,
            });
        }
        for (name, link) in &mut self.links {
            if wanted.iter().all(|parent| parent.relay != *name) {
                let hold = now + limits::FORMER_PARENT_HOLD;
                link.leave_at.get_or_insert(hold);
            }
        }
        self.wanted = wanted;
        self.leave_former(now);
    }

    /// Leaves former parents: those not up at once, all when every parent by plan is up, those
    /// past their time when one is, and the oldest beyond [`limits::FORMER_PARENTS`].
    fn leave_former(&mut self, now: Time) {
        let all = !self.wanted.is_empty() && self.wanted.iter().all(|p| self.is_up(&p.relay));
        let any = self.any_wanted_up();
        let mut former: Vec<(Time, String, bool)> = Vec::new();
        for (name, link) in &self.links {
            if let Some(leave_at) = link.leave_at {
                let leave = !link.is_up() || all || (any && now >= leave_at);
                former.push((leave_at, name.clone(), leave));
            }
        }
        former.sort_unstable();
        let held = former.iter().filter(|(_, _, leave)| !leave).count();
        let mut beyond = held.saturating_sub(limits::FORMER_PARENTS);
        for (_, relay, leave) in former {
            if leave || beyond > 0 {
                beyond -= usize::from(!leave);
                let link = self.links.remove(&relay);
                if link.is_some_and(|link| link.is_open()) {
                    self.actions.push_back(AttachAction::Close { relay });
                }
            }
        }
    }

    fn is_up(&self, relay: &str) -> bool {
        self.links.get(relay).is_some_and(Link::is_up)
    }

    fn any_wanted_up(&self) -> bool {
        self.wanted.iter().any(|parent| self.is_up(&parent.relay))
    }
}

fn is_valid(placement: &Placement) -> bool {
    let fits = |s: &str| !s.is_empty() && s.len() <= limits::NAME_BYTES;
    let named = |p: &Parent| fits(&p.relay) && fits(&p.address) && p.relay != ORIGIN;
    let twice = |[a, b]: &[Parent; 2]| a.relay == b.relay;
    (1..=limits::LEVELS).contains(&placement.level)
        && placement.parents.len() <= limits::PARENTS
        && placement.parents.iter().all(named)
        && !placement.parents.first_chunk().is_some_and(twice)
}

fn connecting(now: Time, parent: &Parent) -> Link {
    Link {
        address: parent.address.clone(),
        state: LinkState::Connecting { since: now },
        leave_at: None,
        failures: 0,
        reason: String::new(),
    }
}

/// Puts a link into back-off: the wait doubles with each failure since the link was last stable,
/// up to its limit; a random half of it spreads many children.
fn back_off(link: &mut Link, now: Time, reason: &str, random: u64) {
    if let LinkState::BackingOff { .. } = link.state {
        return;
    }
    if let LinkState::Up { since } = link.state
        && now.since(since) >= limits::PARENT_STABLE
    {
        link.failures = 0;
    }
    link.reason = reason.chars().take(limits::NAME_BYTES).collect();
    link.state = LinkState::BackingOff { since: now, till: now + wait(link.failures, random) };
    link.failures = link.failures.saturating_add(1);
}

/// Between half of the doubled wait and all of it.
fn wait(failures: u32, random: u64) -> Duration {
    let doubled = limits::PARENT_BACKOFF.saturating_mul(1 << failures.min(16));
    let half = doubled.min(limits::PARENT_BACKOFF_MOST) / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    half + Duration::from_micros(random % (micros + 1))
}
