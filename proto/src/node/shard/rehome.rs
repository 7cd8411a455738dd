//! Where listeners go when this node fails or drains: alternates, passes, the room kept for those
//! who return (`docs/PROTOCOL.md` sections 3.11 to 3.13).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{NodeShard, Session};
use crate::fanout::SessionIx;
use crate::pass::Pass;
use crate::random::Random;
use crate::session::{SessionKey, State, Step};
use crate::token::Claims;
use crate::wire::{
    Alternate, Beacon, Hello, Role, Secret, ServerMessage, Siblings, TickKey, beacon_bytes,
};
use crate::{Time, limits};

/// Sessions that are to be told of their alternates or asked to move, spread over time.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    queue: std::collections::VecDeque<SessionKey>,
    each_turn: usize,
    due: Option<Time>,
}

impl Pushes {
    /// Those who wait from an earlier change still do: lists change again while they are told.
    fn start(&mut self, now: Time, mut keys: Vec<SessionKey>, over: Duration) {
        let new: BTreeSet<SessionKey> = keys.iter().copied().collect();
        keys.extend(self.queue.iter().filter(|key| !new.contains(key)));
        let turns = usize::try_from(over.as_micros() / limits::PUSH_EVERY.as_micros()).unwrap_or(1);
        self.each_turn = keys.len().div_ceil(turns.max(1)).max(limits::PUSHES_LEAST);
        // A step later, so that no input asks for the same instant again.
        self.due = (!keys.is_empty()).then(|| now + limits::PUSH_EVERY);
        self.queue = keys.into();
    }

    /// One more is to be told, behind those who wait.
    fn add(&mut self, now: Time, key: SessionKey) {
        self.queue.push_back(key);
        self.each_turn = self.each_turn.max(limits::PUSHES_LEAST);
        self.due.get_or_insert(now + limits::PUSH_EVERY);
    }
}

impl NodeShard {
    /// Control tells where this node's listeners may go.
    pub(super) fn siblings(&mut self, now: Time, siblings: Siblings) {
        self.door.siblings(&siblings);
        let former = std::mem::replace(&mut self.siblings, siblings);
        // Headroom and free places change every second while a crowd comes; that moves nobody.
        if self.draining || former.relays == self.siblings.relays {
            return;
        }
        let changed = |session: &&Session| {
            session.role == Role::Listener
                && session.state == State::Joined
                && chosen(&former.relays, session.key) != chosen(&self.siblings.relays, session.key)
        };
        let keys = self.sessions.iter().flatten().filter(changed).map(|s| s.key).collect();
        self.pushes.start(now, keys, limits::DRAIN_SPREAD);
    }

    /// Takes no newcomers, and asks the listeners to go elsewhere, spread over half of `within` at
    /// most; those inside are served until they have left.
    pub(super) fn drain(&mut self, now: Time, within: Duration) {
        self.draining = true;
        let mut keys = Vec::new();
        for session in self.sessions.iter_mut().flatten() {
            if let Some(state) = session.state.after(Step::Drain) {
                session.state = state;
                if matches!(session.role, Role::Listener | Role::Recorder) {
                    keys.push(session.key);
                }
            }
        }
        self.pushes.start(now, keys, limits::DRAIN_SPREAD.min(within / 2));
    }

    /// A session that was under way when the node began to drain has come in: it is served, and asked
    /// to move like the others.
    pub(super) fn joined_while_draining(&mut self, now: Time, key: SessionKey) {
        if !self.draining {
            return;
        }
        let Some(session) = self.by_key(key) else { return };
        session.state = session.state.after(Step::Drain).unwrap_or(session.state);
        if matches!(session.role, Role::Listener | Role::Recorder) {
            self.pushes.add(now, key);
        }
    }

    pub(super) fn push_due(&self) -> Time {
        self.pushes.due.unwrap_or(Time::MAX)
    }

    /// Tells the next few sessions.
    pub(super) fn push(&mut self, now: Time) {
        if now < self.push_due() {
            return;
        }
        for _ in 0..self.pushes.each_turn {
            let Some(key) = self.pushes.queue.pop_front() else { break };
            if self.by_key(key).is_none() {
                continue;
            }
            let alternates = self.alternates_of(key);
            let message = if self.draining {
                self.stats.asked_to_move += 1;
                let reason = "this node is draining; it serves you until you have moved".to_owned();
                ServerMessage::Move { alternates, reason }
            } else {
                ServerMessage::Alternates { alternates }
            };
            self.send(key.ix, &message);
        }
        self.pushes.due = (!self.pushes.queue.is_empty()).then(|| now + limits::PUSH_EVERY);
    }

    /// The relays that a session is told to go to when this node fails.
    pub(super) fn alternates_of(&self, key: SessionKey) -> Vec<Alternate> {
        let relays = chosen(&self.siblings.relays, key);
        relays.into_iter().flatten().cloned().collect()
    }

    /// Signs a pass for a listener, where the origin has certified this relay.
    pub(super) fn pass_for(
        &mut self,
        now: Time,
        room: &str,
        identity: &str,
        anonymous: bool,
    ) -> Option<Secret> {
        let (key, certificate) =
            (self.settings.pass_key.as_ref()?, self.siblings.certificate.as_ref()?);
        // By the origin's clock, by which passes are taken back.
        let iat = self.door.origin_s(now);
        let pass = Pass {
            sub: identity.to_owned(),
            room: room.to_owned(),
            relay: self.settings.name.clone(),
            iat,
            exp: iat.saturating_add(limits::PASS_S),
            anonymous,
        };
        key.give(certificate, &pass).ok().map(Secret)
    }

    /// The pass that a hello shows, if it is good for whoever shows it. One that is not makes its
    /// bearer a newcomer, and is counted.
    pub(super) fn returning(
        &mut self,
        now: Time,
        hello: &Hello,
        claims: Option<&Claims>,
    ) -> Option<Pass> {
        let text = hello.pass.as_ref()?;
        let unix_s = self.unix_s(now);
        let seen = self.passes.verify(&self.verifier, &text.0, &hello.room, unix_s);
        let own = |pass: &Pass| match claims {
            Some(claims) => !pass.anonymous && claims.sub == pass.sub,
            None => pass.anonymous,
        };
        let pass = seen.ok().filter(own);
        match pass {
            Some(_) => self.stats.returned += 1,
            None => self.stats.drop_bad_pass += 1,
        }
        pass
    }

    /// Answers a probe with a beacon of the session's room.
    pub(super) fn answer_probe(&mut self, now: Time, ix: SessionIx) {
        let Some(session) = self.sessions.get_mut(ix.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(at) = session.rooms.first().map(|membership| membership.room) else { return };
        if !session.repairs.spend(now) {
            self.stats.drop_repair_budget += 1;
            return;
        }
        let framing = session.framing;
        let Some(room) = self.rooms[at].as_ref() else { return };
        let bytes = beacon_bytes(framing, &room.beacon());
        self.stats.probed += 1;
        self.effects.push_back(super::ShardEffect::SendDatagram { session: ix, bytes });
    }

    /// The wall clock (seconds since 1970).
    pub(super) fn unix_s(&self, now: Time) -> u64 {
        (self.settings.unix_us_at_zero + now.as_micros()) / 1_000_000
    }
}

impl super::ShardRoom {
    pub(super) fn beacon(&self) -> Beacon {
        let number = self.ring.newest().max(self.announced);
        Beacon {
            newest: TickKey { room: self.info.id, epoch: self.info.epoch, number },
            pending: self.pending,
            upstream_silent_ms: self.upstream_silent_ms,
        }
    }
}

/// The relays that one session is told, by rendezvous hashing (Thaler, Ravishankar 1998): another
/// list changes the choice of those alone whose relay is gone.
fn chosen(relays: &[Alternate], key: SessionKey) -> [Option<&Alternate>; limits::ALTERNATES] {
    let mut best = [None; limits::ALTERNATES];
    let mut weights = [0; limits::ALTERNATES];
    for relay in relays.iter().take(limits::SIBLINGS) {
        let mut hasher = DefaultHasher::new();
        (relay.relay.as_str(), key).hash(&mut hasher);
        let weight = Random::new(hasher.finish()).next().max(1);
        let Some(at) = weights.iter().position(|&w| weight > w) else { continue };
        best[at..].rotate_right(1);
        weights[at..].rotate_right(1);
        (best[at], weights[at]) = (Some(relay), weight);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relays(names: &[&str]) -> Vec<Alternate> {
        let named = |n: &&str| Alternate {
            relay: (*n).to_owned(),
            address: (*n).to_owned(),
            certificate_hashes: Vec::new(),
        };
        names.iter().map(named).collect()
    }

    #[test]
    fn whoever_waits_to_be_told_is_told_though_the_list_changes_again() {
        let key = |n| SessionKey { shard: 0, ix: SessionIx(n), generation: n };
        let mut pushes = Pushes::default();
        pushes.start(Time::ZERO, (0..1_000).map(key).collect(), limits::DRAIN_SPREAD);
        pushes.queue.drain(..pushes.each_turn);
        let told = pushes.each_turn as u32;
        pushes.start(Time::ZERO, vec![key(999), key(2_000)], limits::DRAIN_SPREAD);
        let waiting: BTreeSet<SessionKey> = pushes.queue.iter().copied().collect();
        assert_eq!(waiting.len(), pushes.queue.len(), "nobody waits twice");
        assert_eq!(waiting, (told..1_000).chain([2_000]).map(key).collect());
        pushes.start(Time::ZERO, Vec::new(), limits::DRAIN_SPREAD);
        assert_eq!(waiting.len(), pushes.queue.len());
        assert!(pushes.due.is_some());
    }

    #[test]
    fn a_relays_listeners_are_spread_and_only_those_of_a_dead_one_move() {
        let all = relays(&["a", "b", "c", "d"]);
        let fewer = relays(&["a", "b", "d"]);
        let (mut first, mut moved) = (std::collections::BTreeMap::new(), 0);
        for n in 0..4_000 {
            let key = SessionKey { shard: 0, ix: SessionIx(n), generation: n };
            let [one, two] = chosen(&all, key);
            assert_ne!(one, two);
            *first.entry(one.unwrap().relay.clone()).or_insert(0) += 1;
            let named_c = [one, two].iter().flatten().any(|relay| relay.relay == "c");
            let same = chosen(&fewer, key) == [one, two];
            assert_eq!(same, !named_c);
            moved += u32::from(!same);
        }
        assert!(first.values().all(|n| (850..1_150).contains(n)), "{first:?}");
        assert!((1_850..2_150).contains(&moved), "{moved} of 4000 named the relay that is gone");
        assert_eq!(
            chosen(&relays(&["a"]), SessionKey { shard: 0, ix: SessionIx(0), generation: 0 })[1],
            None
        );
    }
}
