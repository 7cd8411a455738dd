//! A relay's uplinks: one to the origin, one to each parent.

use bytes::Bytes;

use super::RelayControl;
use crate::admission::clock_step_ms;
use crate::node::control::{ControlEffect, LinkId};
use crate::node::messages::ToShard;
use crate::receive::FeedIx;
use crate::tree::{AttachAction, LinkState, ORIGIN};
use crate::wire::{
    Admission, ClientMessage, Close, CloseCode, ControlDecoder, FEATURES, Hello, Placement, Role,
    ServerMessage, Siblings, VERSION, encode_control,
};
use crate::{Time, limits};
use std::time::Duration;

/// Whose session an uplink is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    Origin,
    Parent(String),
}

impl To {
    /// The parent's name in the tree.
    pub(super) fn relay(&self) -> &str {
        match self {
            Self::Origin => ORIGIN,
            Self::Parent(relay) => relay,
        }
    }
}

/// One uplink.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) to: To,
    pub(super) address: String,
    /// Whether the other side has said welcome.
    pub(super) up: bool,
    /// Whether the other side answers probes.
    pub(super) probed: bool,
    /// The index of this link's feed in every window.
    pub(super) feed: FeedIx,
    /// Datagrams of rooms that have been asked for, which overtook the answer.
    pub(super) early: Vec<Bytes>,
    decoder: ControlDecoder,
}

/// The session with the origin, which is opened again for as long as the relay lives.
#[derive(Debug, Default)]
pub(super) struct OriginLink {
    link: Option<LinkId>,
    up: bool,
    tries: u32,
    retry: Option<Time>,
}

impl OriginLink {
    pub(super) fn up(&self) -> Option<LinkId> {
        self.link.filter(|_| self.up)
    }

    pub(super) fn timeout(&self) -> Time {
        self.retry.unwrap_or(Time::MAX)
    }
}

/// The first wait before the origin is called again; doubled with each failure.
const RETRY: Duration = Duration::from_millis(250);
/// An origin's clock that goes back further than this was set.
const CLOCK_STEP_MS: u64 = 5_000;
/// The longest wait.
const RETRY_MOST: Duration = Duration::from_secs(5);

impl RelayControl {
    /// An uplink is connected: hello.
    pub fn handle_link_up(&mut self, _now: Time, link: LinkId) {
        if !self.links.contains_key(&link) {
            return;
        }
        let hello = Hello {
            version: VERSION,
            features: FEATURES.map(str::to_owned).to_vec(),
            role: Role::Relay,
            room: String::new(),
            token: self.settings.token.clone(),
            name: None,
            agent: Some(self.settings.agent.clone()),
            playout_ms: None,
            last: None,
            pass: None,
            ticket: None,
            client_key: None,
            relay: Some(self.settings.info.clone()),
        };
        let bytes = encode_control(&ClientMessage::Hello(hello));
        self.effects.push_back(ControlEffect::SendControl { link, bytes });
    }

    /// An uplink is gone or could not be opened.
    pub fn handle_link_down(&mut self, now: Time, link: LinkId, reason: &str) {
        let Some(gone) = self.links.remove(&link) else { return };
        self.stats.uplinks_lost += 1;
        let who = gone.name();
        let text = format!("the uplink to {who} at {} is down: {reason}", gone.address);
        self.effects.push_back(ControlEffect::Note { warn: true, text });
        self.feed_down(gone.feed);
        if gone.to == To::Origin {
            self.origin_down(now);
        }
        let random = self.random.next();
        self.attach.handle_down(now, gone.to.relay(), reason, random);
        self.follow_attach(now);
    }

    /// Bytes of an uplink's control stream, in order.
    pub fn handle_link_control(&mut self, now: Time, link: LinkId, bytes: &[u8]) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        entry.decoder.push(bytes);
        loop {
            let Some(entry) = self.links.get_mut(&link) else { return };
            match entry.decoder.next_message() {
                Ok(None) => return,
                Ok(Some(message)) => self.link_message(now, link, message),
                Err(close) => {
                    self.stats.bad_messages += 1;
                    let reason = close.to_string();
                    self.effects.push_back(ControlEffect::Disconnect { link, close });
                    return self.handle_link_down(now, link, &reason);
                }
            }
        }
    }

    fn link_message(&mut self, now: Time, link: LinkId, message: ServerMessage) {
        match message {
            ServerMessage::Welcome(welcome) => {
                // Only the origin says whose tokens are good.
                let from_origin = self.links.get(&link).is_some_and(|l| l.to == To::Origin);
                if from_origin && !welcome.keys.is_empty() {
                    self.effects.push_back(ControlEffect::ToShards(ToShard::Keys(welcome.keys)));
                }
                let probed = welcome.features.iter().any(|feature| feature == "probe");
                if let Some(entry) = self.links.get_mut(&link) {
                    entry.probed = probed;
                }
                self.link_welcomed(now, link);
            }
            // The answer to a subscription that was given back meanwhile: nothing comes of it.
            ServerMessage::Subscribed(_) | ServerMessage::Refused { .. } if !self.feeds(link) => {}
            ServerMessage::Subscribed(info) => self.room_subscribed(now, link, info),
            ServerMessage::Refused { room, code, reason, .. } => {
                let code = CloseCode::from_code(code.into()).unwrap_or(CloseCode::NoRoom);
                self.room_refused(now, link, &room, &Close::new(code, reason));
            }
            ServerMessage::Room(state) => self.room_document(now, state),
            ServerMessage::Placement(placement) => self.placed(now, link, placement),
            ServerMessage::Siblings(siblings) => self.siblings(link, siblings),
            ServerMessage::Admission(admission) => self.admission(now, link, admission),
            ServerMessage::Revoked(page) => self.room_revoked(now, link, page),
            ServerMessage::Invitations(list) => self.room_invitations(now, link, list),
            ServerMessage::LoweredHands(list) => self.room_lowered_hands(now, link, list),
            // They are for listeners.
            ServerMessage::Alternates { .. }
            | ServerMessage::Move { .. }
            | ServerMessage::Waiting(_)
            | ServerMessage::Redirect { .. }
            | ServerMessage::Invited { .. }
            | ServerMessage::InvitationWithdrawn
            | ServerMessage::HandLowered => {}
            ServerMessage::Closing { name, reason, .. } => {
                let Some(entry) = self.links.get(&link) else { return };
                let text = format!("{} closes the session: {name}: {reason}", entry.name());
                self.effects.push_back(ControlEffect::Note { warn: true, text });
            }
            ServerMessage::Unknown => self.stats.bad_messages += 1,
        }
    }

    fn link_welcomed(&mut self, now: Time, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        entry.up = true;
        let text = format!("the uplink to {} at {} is up", entry.name(), entry.address);
        let to = entry.to.clone();
        self.effects.push_back(ControlEffect::Note { warn: false, text });
        if to == To::Origin {
            self.origin.up = true;
            self.origin.tries = 0;
        }
        if self.feeds(link) {
            self.subscribe_all(link);
        }
        self.attach.handle_up(now, to.relay());
        self.follow_attach(now);
    }

    /// The origin says where this relay's listeners may go.
    fn siblings(&mut self, link: LinkId, siblings: Siblings) {
        let fits = |s: &str| !s.is_empty() && s.len() <= limits::NAME_BYTES;
        let sound = siblings.relays.len() <= limits::SIBLINGS
            && siblings.relays.iter().all(|a| fits(&a.relay) && fits(&a.address))
            && siblings.certificate.as_ref().is_none_or(|c| c.len() <= limits::TOKEN_BYTES);
        if !sound || self.links.get(&link).is_none_or(|entry| entry.to != To::Origin) {
            self.stats.bad_messages += 1;
            return;
        }
        self.headroom = siblings.headroom;
        self.effects.push_back(ControlEffect::ToShards(ToShard::Siblings(siblings)));
    }

    /// How far the queue has been called: from whichever parent says it first.
    fn admission(&mut self, now: Time, link: LinkId, admission: Admission) {
        let known = self.queue.as_ref().map_or(0, |queue| queue.now_ms);
        if !admission.is_sound() || self.links.get(&link).is_none_or(|entry| !entry.up) {
            self.stats.bad_messages += 1;
            return;
        }
        // An origin that was started again counts on with its own clock.
        if admission.now_ms <= known && known - admission.now_ms < CLOCK_STEP_MS {
            return;
        }
        let own_ms = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000;
        let ahead_ms = self.clock.sample(now, own_ms, admission.now_ms);
        self.queue = Some(admission.clone());
        let message = ToShard::Admission { admission, ahead_ms, pass_on: true };
        self.effects.push_back(ControlEffect::ToShards(message));
    }

    /// The origin gives the relay its place.
    fn placed(&mut self, now: Time, link: LinkId, placement: Placement) {
        if self.links.get(&link).is_none_or(|entry| entry.to != To::Origin) {
            self.stats.bad_messages += 1;
            return;
        }
        let level = placement.level;
        let parents: Vec<&str> = placement.parents.iter().map(|p| p.relay.as_str()).collect();
        let text = format!("placed on level {level} under {parents:?}: {}", placement.why);
        if self.attach.handle_placement(now, &placement) {
            self.effects.push_back(ControlEffect::Note { warn: false, text });
            self.follow_attach(now);
        }
    }

    /// Opens and closes the uplinks that the attachment asks for.
    pub(super) fn follow_attach(&mut self, now: Time) {
        while let Some(action) = self.attach.poll_action() {
            match action {
                // The session with the origin is there for as long as the relay lives; on level 1
                // it brings the ticks too.
                AttachAction::Open { relay, .. } if relay == ORIGIN => {
                    if let Some(link) = self.origin.up() {
                        self.subscribe_all(link);
                        self.attach.handle_up(now, ORIGIN);
                    }
                }
                AttachAction::Close { relay } if relay == ORIGIN => {
                    if let Some(link) = self.origin.up() {
                        self.unsubscribe_all(link);
                        self.feed_down(limits::FEEDS - 1);
                    }
                }
                AttachAction::Open { relay, address, .. } => {
                    if self.open(To::Parent(relay.clone()), address).is_none() {
                        let random = self.random.next();
                        self.attach.handle_down(now, &relay, "too many uplinks", random);
                    }
                }
                AttachAction::Close { relay } => {
                    let to = To::Parent(relay);
                    let found = self.links.iter().find(|(_, entry)| entry.to == to);
                    let Some(link) = found.map(|(&link, _)| link) else { continue };
                    let close = Close::new(CloseCode::Done, "another parent has taken over");
                    self.effects.push_back(ControlEffect::Disconnect { link, close });
                    if let Some(gone) = self.links.remove(&link) {
                        self.feed_down(gone.feed);
                    }
                }
            }
        }
    }

    pub(super) fn call_origin(&mut self, _now: Time) {
        let address = self.settings.origin.clone();
        self.origin.link = self.open(To::Origin, address);
        self.origin.retry = None;
    }

    pub(super) fn origin_timeout(&mut self, now: Time) {
        if self.origin.retry.is_some_and(|at| at <= now) {
            self.call_origin(now);
        }
    }

    fn origin_down(&mut self, now: Time) {
        let wait = (RETRY * 2u32.saturating_pow(self.origin.tries.min(8))).min(RETRY_MOST);
        // A spread of half the wait, so that a tree does not come back in one instant.
        let spread = wait.mul_f64((self.random.next() % 1024) as f64 / 2048.0);
        self.origin.link = None;
        self.origin.up = false;
        self.origin.tries = self.origin.tries.saturating_add(1);
        self.origin.retry = Some(now + wait + spread);
    }

    fn open(&mut self, to: To, address: String) -> Option<LinkId> {
        if self.links.len() >= limits::UPLINKS {
            return None;
        }
        let used = |feed: &FeedIx| self.links.values().any(|entry| entry.feed == *feed);
        // The origin's feed is the last; parents take the lowest free one.
        let feed = match to {
            To::Origin => limits::FEEDS - 1,
            To::Parent(_) => (0..limits::FEEDS - 1).find(|feed| !used(feed))?,
        };
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let effect = ControlEffect::Connect { link, address: address.clone() };
        let decoder = ControlDecoder::default();
        let (up, probed, early) = (false, false, Vec::new());
        self.links.insert(link, Link { to, address, up, probed, feed, early, decoder });
        self.stats.uplinks_opened += 1;
        self.effects.push_back(effect);
        Some(link)
    }

    /// The parents as the operator sees them: name, address, whether connected.
    pub(super) fn parents(&self) -> Vec<(String, String, bool)> {
        let up = |state: LinkState| matches!(state, LinkState::Up { .. });
        let links = self.attach.parents();
        links.map(|l| (l.relay.to_owned(), l.address.to_owned(), up(l.state))).collect()
    }

    /// The links that bring ticks, the primary parent's first.
    pub(super) fn feeding_links(&self) -> impl Iterator<Item = (LinkId, FeedIx)> {
        self.attach.parents().filter_map(|parent| {
            let named = |(_, entry): &(&LinkId, &Link)| entry.to.relay() == parent.relay;
            let (&link, entry) = self.links.iter().find(named).filter(|(_, entry)| entry.up)?;
            Some((link, entry.feed))
        })
    }

    /// Whether a link is one that brings ticks.
    pub(super) fn feeds(&self, link: LinkId) -> bool {
        let name = self.links.get(&link).map(|entry| entry.to.relay());
        name.is_some_and(|name| self.attach.parents().any(|parent| parent.relay == name))
    }
}

/// How far this node's wall clock is ahead of the origin's: the least that any message showed, for
/// each was under way for a while.
#[derive(Debug, Default)]
pub(super) struct OriginClock {
    /// The least of the present and of the former stretch of [`limits::CLOCK_MEMORY`].
    least: [Option<i64>; 2],
    turned: Time,
}

impl OriginClock {
    /// How far this node's clock is ahead of the origin's (milliseconds), as far as that is known.
    pub(super) fn ahead(&self) -> i64 {
        self.least.into_iter().flatten().min().unwrap_or(0)
    }

    /// This node's own clock has been set: the origin's has not.
    pub(super) fn set(&mut self, former_us: u64, us: u64) {
        let by = clock_step_ms(former_us, us);
        self.least = self.least.map(|least| least.map(|ahead| ahead.saturating_add(by)));
    }

    fn sample(&mut self, now: Time, own_ms: u64, origin_ms: u64) -> i64 {
        if now.since(self.turned) >= limits::CLOCK_MEMORY {
            self.least = [None, self.least[0]];
            self.turned = now;
        }
        let ahead = i64::try_from(i128::from(own_ms) - i128::from(origin_ms)).unwrap_or(0);
        self.least[0] = Some(self.least[0].map_or(ahead, |least| least.min(ahead)));
        self.ahead()
    }
}

impl Link {
    /// The parent's name in the tree.
    pub(super) fn relay(&self) -> &str {
        self.to.relay()
    }

    fn name(&self) -> &str {
        match &self.to {
            To::Origin => "the origin",
            To::Parent(relay) => relay,
        }
    }
}
