//! The last hop: what becomes of packets between a listener and its relay, and what a relay's
//! transport learns of that.

use std::time::Duration;

use stentor_proto::fanout::{PathSample, SessionIx};
use stentor_proto::{Time, limits};

use super::chance::{mix, share};
use super::crowd::Person;
use super::events::{End, Event, NodeIx};
use super::link::{Loss, Passage, arrival};
use super::world::World;

impl World {
    /// When what is sent to or by the listeners of a class arrives, and whether it is lost: those
    /// of a class on one relay share a path.
    pub(super) fn class_path(&mut self, node: NodeIx, class: usize, from: End) -> (Time, bool) {
        let key = mix(self.crowd.seed ^ 3, mix(node as u64, class as u64 * 2 + from as u64));
        let line = self.setup.classes[class].line;
        let weather = &mut self.nodes[node].weather[class][from as usize];
        (arrival(&line, key, self.now, 0), weather.loses(line.loss, key, self.now, 0))
    }

    /// A datagram between a listener and its relay.
    pub(super) fn access(&mut self, listener: u32, node: NodeIx, from: End) -> Passage {
        let now = self.now;
        let entry = &mut self.crowd.listeners[listener as usize];
        let class = usize::from(entry.class);
        if entry.sample && self.setup.own_paths {
            let key = mix(self.crowd.seed ^ 2, u64::from(listener)) ^ (from as u64);
            let line = self.setup.classes[class].line;
            let lost = match &mut entry.person {
                Person::Alone(ear) => {
                    let weather = &mut ear.weather[usize::from(from == End::Opener)];
                    weather.loses(line.loss, key, now, 0)
                }
                Person::Outside | Person::Folded(..) => false,
            };
            return match lost {
                true => Passage::Lost,
                false => Passage::Arrives(arrival(&line, key, now, 0)),
            };
        }
        match self.class_path(node, class, from) {
            (_, true) => Passage::Lost,
            (at, false) => Passage::Arrives(at),
        }
    }

    /// Bytes of a stream between a listener and its relay: what is lost is sent again.
    pub(super) fn access_stream(&mut self, listener: u32, node: NodeIx, from: End) -> Time {
        let class = usize::from(self.crowd.class_of(listener));
        let line = self.setup.classes[class].line;
        let key = mix(self.crowd.seed ^ 4, mix(node as u64, class as u64 * 2 + from as u64));
        let mut sent = self.now;
        while line.loss != Loss::None && share(mix(key, sent.as_micros())) < line.loss.share() {
            sent += 2 * (line.delay + line.jitter) + Duration::from_millis(25);
        }
        arrival(&line, key, sent, 0)
    }

    /// A shard's transport samples its sessions' paths, as the driver does once a second. A path that
    /// loses nothing is sampled for full receivers and leaders alone: a clean sample changes nothing,
    /// whoever has it.
    pub(super) fn on_paths(&mut self, node: NodeIx, shard: u16) {
        self.events.push(self.now + limits::PATH_SAMPLE_EVERY, Event::Paths(node, shard));
        if !self.nodes[node].is_running() {
            return;
        }
        for class in 0..self.setup.classes.len() {
            let line = self.setup.classes[class].line;
            let sample = self.path_samples(node, shard, class);
            let rtt = line.round_trip();
            let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
            for (ix, sent, lost) in sample {
                let (sent, lost) = (u64::from(sent), u64::from(lost));
                let sample = PathSample { sent, lost, rtt, min_rtt: 2 * line.delay };
                shard_.machine.handle_path(self.now, SessionIx(ix), sample);
            }
            shard_.dirty = true;
        }
        self.pump_shard(node, shard);
    }

    /// What was sent to sessions of a class, and lost.
    fn path_samples(&self, node: NodeIx, shard: u16, class: usize) -> Vec<(u32, u32, u32)> {
        let shard = &self.nodes[node].shards[usize::from(shard)];
        let (sent, lost) = shard.paths[class];
        let one = |ix: u32| {
            let seat = shard.seat(SessionIx(ix)).filter(|seat| seat.joined)?;
            let listener = self.wires.listener(seat.conn)?;
            let entry = &self.crowd.listeners[listener as usize];
            Some(match &entry.person {
                Person::Alone(ear) if entry.sample && self.setup.own_paths => {
                    let (sent, lost) = ear.path;
                    (ix, sent.saturating_sub(seat.path.0), lost.saturating_sub(seat.path.1))
                }
                _ => (ix, sent - seat.path.0, lost - seat.path.1),
            })
        };
        if self.setup.classes[class].line.loss == Loss::None {
            let leaders = shard.cohorts[class].iter().flatten().map(|cohort| cohort.leader);
            return shard.alone[class].iter().copied().chain(leaders).filter_map(one).collect();
        }
        let here = |(ix, seat): (usize, &Option<super::node::Seat>)| {
            let seat = seat.as_ref().filter(|seat| usize::from(seat.class) == class)?;
            seat.joined.then_some(ix as u32)
        };
        shard.seats.iter().enumerate().filter_map(here).filter_map(one).collect()
    }
}
