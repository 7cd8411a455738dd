//! Cohorts: who hears the same shares one machine, and has its own again as soon as anything is to
//! be done that is its own.

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::fanout::SessionIx;
use stentor_proto::listen::ListenAction;
use stentor_proto::wire::ControlDecoder;

use super::chance::mix;
use super::crowd::{Cohort, Person};
use super::ear::{Ear, Heard};
use super::events::{ConnIx, End, Event, NodeIx, Spread, What};
use super::node::{SLOTS, Seat};
use super::wires::Opener;
use super::world::World;

/// Ticks in which a reception must be the cohort's before it is folded into it.
const ALIKE: u32 = 64;

impl Ear {
    /// Whether what it hears is from here on what a cohort hears.
    fn is_like(&self, cohort: &Self) -> bool {
        cohort.settled() && cohort.had.agrees(&self.had, ALIKE)
    }
}

impl World {
    /// A tick or beacon reaches the listeners of a class on a shard.
    pub(super) fn spread(&mut self, spread: &Spread) {
        let (at, class) = (usize::from(spread.shard), usize::from(spread.class));
        for slot in 0..SLOTS {
            self.spread_to_cohort(spread, slot);
        }
        let mut alone = std::mem::take(&mut self.scratch);
        alone.clear();
        alone.extend(self.nodes[spread.node].shards[at].alone[class].iter().copied());
        for &ix in &alone {
            self.spread_to_one(spread, ix);
        }
        self.scratch = alone;
    }

    fn spread_to_cohort(&mut self, spread: &Spread, slot: usize) {
        let (now, at, class) = (self.now, usize::from(spread.shard), usize::from(spread.class));
        let shard = &mut self.nodes[spread.node].shards[at];
        if let Some(cohort) = &mut shard.cohorts[class][slot]
            && !spread.lost
            && let Some(seat) = shard.seats.get(cohort.leader as usize).copied().flatten()
            && seat.slice_at(spread.sent) == spread.slice
            && let Some(home) = cohort.ear.listen.current()
        {
            let mut heard = Heard::default();
            cohort.ear.datagram(now, home, spread.bytes.clone(), &self.model.truth, &mut heard);
            let members = cohort.members;
            if let Some(listener) = self.wires.listener(seat.conn) {
                self.judge(listener, seat.conn, heard, members);
            }
            self.attend_cohort((spread.node, spread.shard, spread.class), slot);
        }
    }

    fn spread_to_one(&mut self, spread: &Spread, ix: u32) {
        let shard = &self.nodes[spread.node].shards[usize::from(spread.shard)];
        let Some(seat) = shard.seat(SessionIx(ix)) else { return };
        if seat.slice_at(spread.sent) != spread.slice || seat.since > spread.sent {
            return;
        }
        let conn = &self.wires.conns[seat.conn as usize];
        let Opener::Listener(listener) = conn.opener else { return };
        if !conn.open[End::Opener as usize] || conn.stale {
            return;
        }
        let entry = &mut self.crowd.listeners[listener as usize];
        let Person::Alone(ear) = &mut entry.person else { return };
        let Some(home) = ear.line(seat.conn).map(|line| line.home) else { return };
        let lost = match entry.sample && self.setup.own_paths {
            true => {
                let key = mix(self.crowd.seed ^ 2, u64::from(listener));
                let loss = self.setup.classes[usize::from(entry.class)].line.loss;
                let lost = ear.weather[0].loses(loss, key, spread.sent, 0);
                ear.path = (ear.path.0 + 1, ear.path.1 + u32::from(lost));
                lost
            }
            false => spread.lost,
        };
        if !lost {
            let mut heard = Heard::default();
            ear.datagram(self.now, home, spread.bytes.clone(), &self.model.truth, &mut heard);
            self.judge(listener, seat.conn, heard, 1);
            self.act(listener);
        }
    }

    /// What arrives for one of a cohort: what its leader asked for is for all, and what is its own
    /// is kept for it.
    pub(super) fn folded_takes(&mut self, conn: ConnIx, listener: u32, what: What) {
        match what {
            What::Control(bytes) => self.folded_told(conn, listener, &bytes),
            What::Datagram(bytes) => self.cohort_takes(conn, listener, bytes),
            What::Open | What::Closed(_) => {}
        }
    }

    fn folded_told(&mut self, conn: ConnIx, listener: u32, bytes: &[u8]) {
        let mut decoder = ControlDecoder::default();
        decoder.push(bytes);
        while let Ok(Some(message)) = decoder.next_message() {
            if let Person::Folded(_, own) = &mut self.crowd.listeners[listener as usize].person
                && own.handle_message(&message)
            {
                continue;
            }
            self.unfold(listener);
            let now = self.now;
            let Some(ear) = self.crowd.ear(listener) else { return };
            let Some(home) = ear.line(conn).map(|line| line.home) else { return };
            let mut heard = Heard::default();
            ear.message(now, home, message, &mut heard);
            self.judge(listener, conn, heard, 1);
            self.act(listener);
        }
    }

    fn cohort_takes(&mut self, conn: ConnIx, listener: u32, bytes: Bytes) {
        let class = self.crowd.class_of(listener);
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard_.seat(ix) else { return };
        let slot = usize::from(seat.cohort);
        let cohort = shard_.cohorts[usize::from(class)].get_mut(slot).and_then(Option::as_mut);
        let Some(cohort) = cohort.filter(|cohort| cohort.leader == ix.0) else { return };
        let Some(home) = cohort.ear.listen.current() else { return };
        let mut heard = Heard::default();
        cohort.ear.datagram(self.now, home, bytes, &self.model.truth, &mut heard);
        let members = cohort.members;
        self.judge(listener, conn, heard, members);
        self.attend_cohort((node, shard, class), slot);
    }

    /// Does what a cohort's machine asks for: its leader asks for repair and probes, for all.
    fn attend_cohort(&mut self, (node, shard, class): (NodeIx, u16, u8), slot: usize) {
        let (now, at) = (self.now, usize::from(shard));
        loop {
            let shard_ = &mut self.nodes[node].shards[at];
            let Some(cohort) = &mut shard_.cohorts[usize::from(class)][slot] else { return };
            let leader = shard_.seats.get(cohort.leader as usize).copied().flatten();
            match (cohort.ear.listen.poll_action(), leader) {
                (Some(ListenAction::SendDatagram { bytes, .. }), Some(seat)) => {
                    self.send(seat.conn, End::Opener, What::Datagram(bytes));
                }
                (Some(other), _) => {
                    let what = format!("a cohort does what is one listener's own: {other:?}");
                    self.model.violation(now, what);
                }
                (None, _) => break,
            }
        }
        let shard_ = &mut self.nodes[node].shards[at];
        let Some(cohort) = &mut shard_.cohorts[usize::from(class)][slot] else { return };
        if let Some(due) = cohort.ear.listen.poll_timeout()
            && cohort.ear.armed.is_none_or(|armed| due < armed)
        {
            cohort.ear.armed = Some(due);
            self.events.push(due.max(now), Event::CohortTimer(node, shard, class, slot as u8));
        }
    }

    pub(super) fn on_cohort_timer(&mut self, place: (NodeIx, u16, u8), slot: u8) {
        let (now, (node, shard, class)) = (self.now, place);
        let slot = usize::from(slot);
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(cohort) = &mut shard_.cohorts[usize::from(class)][slot] else { return };
        cohort.ear.armed = None;
        if now >= cohort.ear.listen.doubts_at() {
            return self.dissolve(place, slot);
        }
        if cohort.ear.listen.poll_timeout().is_some_and(|due| due <= now) {
            cohort.ear.listen.handle_timeout(now);
        }
        self.attend_cohort(place, slot);
    }

    /// Gives everyone in a cohort a machine of their own: its relay has fallen silent, and from here
    /// on each of them acts for itself.
    fn dissolve(&mut self, (node, shard, class): (NodeIx, u16, u8), slot: usize) {
        for listener in self.members(node, shard, usize::from(class), slot) {
            self.unfold(listener);
        }
    }

    /// The listeners of a cohort.
    fn members(&self, node: NodeIx, shard: u16, class: usize, slot: usize) -> Vec<u32> {
        let seats = self.nodes[node].shards[usize::from(shard)].seats.iter().flatten();
        let members = seats
            .filter(|seat| usize::from(seat.class) == class && usize::from(seat.cohort) == slot);
        members.filter_map(|seat| self.wires.listener(seat.conn)).collect()
    }

    /// Lets the cohort's machine stand for a listener's, if both hear the same from here on.
    pub(super) fn fold(&mut self, listener: u32) {
        let entry = &mut self.crowd.listeners[listener as usize];
        let class = usize::from(entry.class);
        let Person::Alone(ear) = &entry.person else { return };
        let Some(conn) = ear.conn() else { return };
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard_.seat(ix) else { return };
        if seat.since == Time::MAX || self.wires.conns[conn as usize].stale {
            return;
        }
        let found = shard_.cohort_in(class, seat.slice);
        let entry = &mut self.crowd.listeners[listener as usize];
        let Person::Alone(ear) = &entry.person else { return };
        let slot = match found {
            Some(slot) => {
                let Some(cohort) = &mut shard_.cohorts[class][slot] else { return };
                if !ear.is_like(&cohort.ear) {
                    return;
                }
                cohort.members += 1;
                entry.apart = entry.apart.plus(ear.tally().minus(cohort.ear.tally()));
                slot
            }
            None => {
                let Some(slot) = shard_.cohorts[class].iter().position(Option::is_none) else {
                    return;
                };
                slot
            }
        };
        let own = Box::new(ear.listen.own());
        let person = std::mem::replace(&mut entry.person, Person::Folded(conn, own));
        if let (None, Person::Alone(mut ear)) = (found, person) {
            // The timer of the former owner is not the cohort's.
            ear.armed = None;
            shard_.cohorts[class][slot] =
                Some(Box::new(Cohort { ear: *ear, members: 1, leader: ix.0 }));
        }
        if let Some(seat) = &mut shard_.seats[ix.0 as usize] {
            seat.cohort = slot as u8;
        }
        shard_.alone[class].remove(&ix.0);
        if found.is_none() {
            self.attend_cohort((node, shard, class as u8), slot);
        }
    }

    /// Where there are no cohorts but their paths, a listener learns of its path what it would have
    /// learned by being folded.
    pub(super) fn keep_pace(&mut self, listener: u32) {
        let class = usize::from(self.crowd.class_of(listener));
        let Some(conn) = self.crowd.conn_of(listener) else { return };
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard = &self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard.seat(ix).filter(|seat| seat.since != Time::MAX) else { return };
        if self.wires.conns[conn as usize].stale {
            return;
        }
        let leads = |&ix: &u32| {
            let other = shard.seat(SessionIx(ix)).filter(|other| other.slice == seat.slice)?;
            let other_listener = self.wires.listener(other.conn)?;
            let entry = &self.crowd.listeners[other_listener as usize];
            let serves = self.crowd.conn_of(other_listener) == Some(other.conn);
            (entry.apace && serves).then_some(other_listener)
        };
        let first = shard.alone[class].iter().find_map(leads);
        let person = &mut self.crowd.listeners[listener as usize].person;
        let Person::Alone(mut ear) = std::mem::replace(person, Person::Outside) else { return };
        let alike = match first.and_then(|first| self.crowd.ear(first)) {
            None => true,
            Some(leading) => {
                let alike = ear.is_like(leading);
                if alike {
                    ear.listen.share_path(&leading.listen);
                }
                alike
            }
        };
        let entry = &mut self.crowd.listeners[listener as usize];
        entry.apace = alike;
        entry.person = Person::Alone(ear);
    }

    /// Gives a listener of a cohort a machine of its own again.
    pub(super) fn unfold(&mut self, listener: u32) {
        let at = listener as usize;
        let Person::Folded(conn, _) = self.crowd.listeners[at].person else { return };
        let settings = self.settings_of(listener);
        let person = std::mem::replace(&mut self.crowd.listeners[at].person, Person::Outside);
        let Person::Folded(_, own) = person else { return };
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let class = usize::from(self.crowd.listeners[at].class);
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard_.seats.get_mut(ix.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let slot = usize::from(std::mem::replace(&mut seat.cohort, Seat::NOWHERE));
        let Some(Some(cohort)) = shard_.cohorts[class].get(slot) else { return };
        let twin = cohort.ear.twin(settings, *own, conn);
        shard_.alone[class].insert(ix.0);
        self.crowd.listeners[at].person = Person::Alone(Box::new(twin));
        self.leave_cohort((node, shard, ix), class, slot);
        self.act_later(listener);
    }

    /// Sets the timer of a listener that has a machine of its own again.
    fn act_later(&mut self, listener: u32) {
        let now = self.now;
        let Some(ear) = self.crowd.ear(listener) else { return };
        if let Some(due) = ear.listen.poll_timeout() {
            ear.armed = Some(due);
            self.events.push(due.max(now), Event::ListenerTimer(listener));
        }
    }

    /// A cohort loses a member; if that was its leader, another one leads.
    fn leave_cohort(
        &mut self,
        (node, shard, ix): (NodeIx, u16, SessionIx),
        class: usize,
        slot: usize,
    ) {
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(cohort) = &mut shard.cohorts[class][slot] else { return };
        cohort.members -= 1;
        if cohort.members == 0 {
            shard.cohorts[class][slot] = None;
        } else if cohort.leader == ix.0 {
            let member = |seat: &Option<Seat>| {
                seat.is_some_and(|seat| {
                    usize::from(seat.class) == class && usize::from(seat.cohort) == slot
                })
            };
            if let Some(next) = shard.seats.iter().position(member) {
                cohort.leader = next as u32;
            }
        }
    }
}
