//! Who comes when, where they are sent, and who leaves.

use std::time::Duration;

use stentor_proto::admission::client_key;
use stentor_proto::listen::{Listen, ListenSettings};
use stentor_proto::node::{Answer, Asking, NodeControl};
use stentor_proto::wire::{Close, CloseCode, FEATURES, Framing, Hello, Role, VERSION};

use super::chance::mix;
use super::crowd::{ENTRIES, Person};
use super::ear::Ear;
use super::events::{End, Event};
use super::node::Node;
use super::world::{BEGIN, OPENS, World};

/// Listeners come this often.
const JOINS_EVERY: Duration = Duration::from_millis(1);
/// Listeners leave this often.
const CHURN_EVERY: Duration = Duration::from_millis(100);
/// Churn ends this long before the end, so that the sums settle.
const CHURN_ENDS: Duration = Duration::from_secs(13);
/// Who has left, or was told that nobody takes them, comes again after this.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// Listeners that have come after so long: the integral of a line of rates (seconds, a second).
pub(super) fn arrived(curve: &[(f64, f64)], seconds: f64) -> f64 {
    let part = |pair: &[(f64, f64)]| {
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        let until = seconds.clamp(from, to);
        let rate = low + (high - low) * (until - from) / (to - from).max(1e-9);
        (until - from) * (low + rate) / 2.0
    };
    curve.windows(2).map(part).sum()
}

/// What the machine of an anonymous listener is told, whose secret `key` decides.
pub(super) fn listener_settings(key: u64, entries: Vec<String>) -> ListenSettings {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&key.to_be_bytes());
    ListenSettings {
        hello: Hello {
            version: VERSION,
            features: FEATURES.map(str::to_owned).to_vec(),
            role: Role::Listener,
            room: super::ROOM.into(),
            token: None,
            pass: None,
            ticket: None,
            client_key: Some(client_key(secret)),
            name: None,
            agent: None,
            playout_ms: None,
            last: None,
            relay: None,
        },
        entries,
        framing: Framing::Quic,
        repair: true,
        seed: key,
    }
}

impl World {
    /// Those join whose time has come.
    pub(super) fn on_joins(&mut self) {
        let since = self.now.since(BEGIN + OPENS);
        let all = self.crowd.listeners.len();
        let due = match (self.setup.curve.is_empty(), since >= self.setup.gathering()) {
            (_, true) => all,
            (true, false) => {
                (all as f64 * since.as_secs_f64() / self.setup.join.as_secs_f64()) as usize
            }
            (false, false) => (arrived(&self.setup.curve, since.as_secs_f64()) as usize).min(all),
        };
        while self.crowd.come < due {
            let listener = self.crowd.come as u32;
            self.crowd.come += 1;
            self.join(listener);
        }
        while self.crowd.again.front().is_some_and(|&(at, _)| at <= self.now) {
            if let Some((_, listener)) = self.crowd.again.pop_front() {
                self.join(listener);
            }
        }
        self.events.push(self.now + JOINS_EVERY, Event::Joins);
    }

    /// Some leave and come again as newcomers.
    pub(super) fn on_churn(&mut self) {
        let share = self.setup.churn * CHURN_EVERY.as_secs_f64();
        let exact = self.crowd.joined as f64 * share;
        let leave = exact as usize + usize::from(self.chance.happens(exact.fract()));
        for _ in 0..leave {
            let at = self.chance.below(self.crowd.listeners.len());
            if self.crowd.listeners[at].joined {
                self.leave(at as u32);
                self.crowd.again.push_back((self.now + AGAIN, at as u32));
            }
        }
        if self.now + CHURN_EVERY + CHURN_ENDS < self.end {
            self.events.push(self.now + CHURN_EVERY, Event::Churn);
        }
    }

    /// Somebody sets out, to the relays that the origin names to those who ask it.
    fn join(&mut self, listener: u32) {
        self.crowd.listeners[listener as usize].entries = self.entries(listener);
        let listen = Listen::new(self.settings_of(listener), self.now);
        let ear = Ear::new(listen, self.now);
        self.crowd.listeners[listener as usize].person = Person::Alone(Box::new(ear));
        self.counted.set_out += 1;
        self.act(listener);
    }

    /// What a listener's machine is told when it starts.
    pub(super) fn settings_of(&self, listener: u32) -> ListenSettings {
        let entries = self.crowd.listeners[listener as usize].entries;
        let name = |at: u16| self.nodes[usize::from(at)].address.clone();
        let entries = entries.into_iter().filter(|&at| at > 0).map(name).collect();
        listener_settings(mix(self.setup.seed ^ 7, u64::from(listener)), entries)
    }

    /// The relays that the origin's HTTP door names; where it does not answer, or has a queue of its
    /// own, those of a list that somebody kept.
    fn entries(&mut self, listener: u32) -> [u16; ENTRIES] {
        let mut entries = [0; ENTRIES];
        let asking = Asking {
            room: super::ROOM.into(),
            identity: String::new(),
            ticket: None,
            most: ENTRIES,
            seed: mix(self.setup.seed ^ self.now.as_micros(), u64::from(listener)),
        };
        let (now, well) = (self.now, self.nodes[0].is_well() && self.parked.is_none());
        if let NodeControl::Origin(origin) = &mut self.nodes[0].control
            && well
            && origin.queue(now).waiting == 0
            && let Ok(Answer::GoTo { relays, .. }) = origin.ask_in(now, &asking)
        {
            let named = relays.iter().filter_map(|relay| Node::at(&relay.address));
            for (entry, node) in entries.iter_mut().zip(named) {
                *entry = node as u16;
            }
        }
        if entries[0] == 0 {
            let drawn = |nth: usize| {
                let drawn = mix(asking.seed, nth as u64) as usize % self.setup.relays;
                1 + drawn as u16
            };
            entries = std::array::from_fn(drawn);
        }
        entries
    }

    /// A listener leaves all of its sessions; what it had is kept in its count.
    pub(super) fn leave(&mut self, listener: u32) {
        self.unfold(listener);
        let at = listener as usize;
        self.crowd.listeners[at].apart = self.tally(listener);
        let person = std::mem::replace(&mut self.crowd.listeners[at].person, Person::Outside);
        if let Person::Alone(ear) = person {
            for line in &ear.lines {
                self.unseat(line.conn);
                self.close(line.conn, End::Opener, Close::new(CloseCode::Done, "goodbye"));
            }
        }
        self.note_standing(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::arrived;

    #[test]
    fn arrivals_are_the_integral_of_their_rates() {
        let curve = [(0.0, 0.0), (10.0, 100.0), (20.0, 100.0), (30.0, 0.0)];
        for (seconds, all) in
            [(0.0, 0.0), (5.0, 125.0), (10.0, 500.0), (15.0, 1_000.0), (99.0, 2_000.0)]
        {
            assert!((arrived(&curve, seconds) - all).abs() < 1e-6, "{seconds}");
        }
    }
}
