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

/// Listeners whose state is fetched at once: what a core's cache holds.
const FETCHED: usize = 32;

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
        self.spread_to_the_alone(spread, at, class);
    }

    /// The same for those whose receptions are their own. Each has kilobytes of state that no cache
    /// holds until its next tick: what is needed of all is fetched side by side first, and not one
    /// piece after the other.
    fn spread_to_the_alone(&mut self, spread: &Spread, at: usize, class: usize) {
        let mut here = std::mem::take(&mut self.hearers);
        here.clear();
        let shard = &self.nodes[spread.node].shards[at];
        for &ix in &shard.alone[class] {
            if let Some(seat) = shard.seat(SessionIx(ix))
                && seat.slice_at(spread.sent) == spread.slice
                && seat.since <= spread.sent
            {
                here.push((seat.conn, 0));
            }
        }
        here.retain_mut(|(conn, listener)| {
            let conn = &self.wires.conns[*conn as usize];
            let Opener::Listener(of) = conn.opener else { return false };
            *listener = of;
            conn.open[End::Opener as usize] && !conn.stale
        });
        if !self.setup.cohorts {
            // Those who would share a machine hear before the others, as it does.
            here.sort_by_key(|&(conn, _)| {
                self.seat_of(conn).is_none_or(|seat| seat.cohort == Seat::NOWHERE)
            });
        }
        for few in here.chunks(FETCHED) {
            let fetched = few.iter().map(|&(_, listener)| self.crowd.fetch(listener));
            std::hint::black_box(fetched.fold(0, u64::wrapping_add));
            for &(conn, listener) in few {
                self.spread_to_one(spread, conn, listener);
            }
        }
        self.hearers = here;
    }

    fn spread_to_cohort(&mut self, spread: &Spread, slot: usize) {
        let (now, at, class) = (self.now, usize::from(spread.shard), usize::from(spread.class));
        let shard = &mut self.nodes[spread.node].shards[at];
        if let Some(cohort) = &mut shard.cohorts[class][slot]
            && !spread.lost
            && let Some(seat) = shard.seats.get(cohort.leader as usize).copied().flatten()
            && seat.slice_at(spread.sent) == spread.slice
            && let Some(ear) = &mut cohort.ear
            && let Some(home) = ear.listen.current()
        {
            let mut heard = Heard::default();
            ear.datagram(now, home, spread.bytes.clone(), &self.model.truth, &mut heard);
            let members = cohort.members;
            if let Some(listener) = self.wires.listener(seat.conn) {
                self.judge(listener, seat.conn, heard, members);
            }
            self.attend_cohort((spread.node, spread.shard, spread.class), slot);
        }
    }

    fn spread_to_one(&mut self, spread: &Spread, conn: ConnIx, listener: u32) {
        let entry = &mut self.crowd.listeners[listener as usize];
        let Person::Alone(ear) = &mut entry.person else { return };
        let Some(home) = ear.line(conn).map(|line| line.home) else { return };
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
            self.judge(listener, conn, heard, 1);
            self.act(listener);
            self.settle_in(listener);
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

    /// Whether what a listener is told takes it out of its cohort: as
    /// [`stentor_proto::listen::Own`] says.
    pub(super) fn is_its_own(&self, listener: u32, bytes: &[u8]) -> bool {
        let Person::Alone(ear) = &self.crowd.listeners[listener as usize].person else {
            return false;
        };
        let mut own = ear.listen.own();
        let mut decoder = ControlDecoder::default();
        decoder.push(bytes);
        let mut messages = std::iter::from_fn(|| decoder.next_message().ok().flatten());
        messages.any(|message| !own.handle_message(&message))
    }

    fn cohort_takes(&mut self, conn: ConnIx, listener: u32, bytes: Bytes) {
        let class = self.crowd.class_of(listener);
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard_.seat(ix) else { return };
        let slot = usize::from(seat.cohort);
        let cohort = shard_.cohorts[usize::from(class)].get_mut(slot).and_then(Option::as_mut);
        let Some(cohort) = cohort.filter(|cohort| cohort.leader == ix.0) else { return };
        let Some(ear) = &mut cohort.ear else { return };
        let Some(home) = ear.listen.current() else { return };
        let mut heard = Heard::default();
        ear.datagram(self.now, home, bytes, &self.model.truth, &mut heard);
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
            let Some(ear) = &mut cohort.ear else { return };
            match (ear.listen.poll_action(), leader) {
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
        let cohort = &mut shard_.cohorts[usize::from(class)][slot];
        let Some(ear) = cohort.as_mut().and_then(|cohort| cohort.ear.as_mut()) else { return };
        if let Some(due) = ear.listen.poll_timeout()
            && ear.armed.is_none_or(|armed| due < armed)
        {
            ear.armed = Some(due);
            self.events.push(due.max(now), Event::CohortTimer(node, shard, class, slot as u8));
        }
    }

    pub(super) fn on_cohort_timer(&mut self, place: (NodeIx, u16, u8), slot: u8) {
        let (now, (node, shard, class)) = (self.now, place);
        let slot = usize::from(slot);
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let cohort = &mut shard_.cohorts[usize::from(class)][slot];
        let Some(ear) = cohort.as_mut().and_then(|cohort| cohort.ear.as_mut()) else { return };
        ear.armed = None;
        if now >= ear.listen.doubts_at() {
            return self.dissolve(place, slot);
        }
        if ear.listen.poll_timeout().is_some_and(|due| due <= now) {
            ear.listen.handle_timeout(now);
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

    /// Takes a listener into its cohort, if both hear the same from here on: the cohort's machine stands
    /// for its own, or it learns of their path what that one knows and keeps its own.
    pub(super) fn fold(&mut self, listener: u32) {
        let entry = &self.crowd.listeners[listener as usize];
        let class = usize::from(entry.class);
        let Some(conn) = self.crowd.conn_of(listener) else { return };
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard_ = &self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard_.seat(ix) else { return };
        if seat.since == Time::MAX || self.wires.conns[conn as usize].stale {
            return;
        }
        let found = shard_.cohort_in(class, seat.slice);
        let free = || shard_.cohorts[class].iter().position(Option::is_none);
        let Some(slot) = found.or_else(free) else { return };
        let place = (node, shard, class as u8);
        let folded = match self.setup.cohorts {
            true => self.share_machine(listener, place, ix, (slot, found.is_some())),
            false => self.keep_pace(listener, place, ix, (slot, found.is_some())),
        };
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        if let Some(seat) = shard_.seats[ix.0 as usize].as_mut().filter(|_| folded) {
            seat.cohort = slot as u8;
        }
        if folded && found.is_none() {
            self.attend_cohort(place, slot);
        }
    }

    fn share_machine(
        &mut self,
        listener: u32,
        (node, shard, class): (NodeIx, u16, u8),
        ix: SessionIx,
        (slot, found): (usize, bool),
    ) -> bool {
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        let class = usize::from(class);
        let entry = &mut self.crowd.listeners[listener as usize];
        let Person::Alone(ear) = &entry.person else { return false };
        let Some(conn) = ear.conn() else { return false };
        let cohort = &mut shard.cohorts[class][slot];
        if let Some(cohort) = cohort {
            let Some(shared) = cohort.ear.as_ref().filter(|shared| ear.is_like(shared)) else {
                return false;
            };
            cohort.members += 1;
            entry.apart = entry.apart.plus(ear.tally().minus(shared.tally()));
        }
        let own = Box::new(ear.listen.own());
        let person = std::mem::replace(&mut entry.person, Person::Folded(conn, own));
        if let (false, Person::Alone(mut ear)) = (found, person) {
            // The timer of the former owner is not the cohort's.
            ear.armed = None;
            *cohort = Some(Box::new(Cohort { ear: Some(*ear), members: 1, leader: ix.0 }));
        }
        shard.alone[class].remove(&ix.0);
        true
    }

    /// Where each keeps its machine, a listener learns of its path what it would have learned by sharing
    /// its cohort's.
    fn keep_pace(
        &mut self,
        listener: u32,
        (node, at, class): (NodeIx, u16, u8),
        ix: SessionIx,
        (slot, found): (usize, bool),
    ) -> bool {
        let shard = &mut self.nodes[node].shards[usize::from(at)];
        let cohort = &mut shard.cohorts[usize::from(class)][slot];
        let Some(leader) = cohort.as_ref().map(|cohort| cohort.leader).filter(|_| found) else {
            *cohort = Some(Box::new(Cohort { ear: None, members: 1, leader: ix.0 }));
            return true;
        };
        let leader = shard.seat(SessionIx(leader)).and_then(|seat| self.wires.listener(seat.conn));
        let Some(leader) = leader else { return false };
        let person = &mut self.crowd.listeners[listener as usize].person;
        let Person::Alone(mut ear) = std::mem::replace(person, Person::Outside) else {
            return false;
        };
        let alike = self.crowd.ear(leader).is_some_and(|leading| {
            let alike = ear.is_like(leading);
            if alike {
                ear.listen.share_path(&leading.listen);
            }
            alike
        });
        self.crowd.listeners[listener as usize].person = Person::Alone(ear);
        let cohort =
            &mut self.nodes[node].shards[usize::from(at)].cohorts[usize::from(class)][slot];
        if let Some(cohort) = cohort.as_mut().filter(|_| alike) {
            cohort.members += 1;
        }
        alike
    }

    /// Whether a listener is in a cohort, whoever's machine it has.
    pub(super) fn is_in_cohort(&self, listener: u32) -> bool {
        let seat = self.crowd.conn_of(listener).and_then(|conn| self.seat_of(conn));
        seat.is_some_and(|seat| seat.cohort != Seat::NOWHERE)
    }

    /// Takes a listener out of its cohort: it has a machine of its own again.
    pub(super) fn unfold(&mut self, listener: u32) {
        let at = listener as usize;
        let Some(conn) = self.crowd.conn_of(listener) else { return };
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let class = usize::from(self.crowd.listeners[at].class);
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let seat = shard_.seats.get_mut(ix.0 as usize).and_then(Option::as_mut);
        let Some(seat) = seat.filter(|seat| seat.conn == conn && seat.cohort != Seat::NOWHERE)
        else {
            return;
        };
        let slot = usize::from(std::mem::replace(&mut seat.cohort, Seat::NOWHERE));
        if matches!(self.crowd.listeners[at].person, Person::Folded(..)) {
            let settings = self.settings_of(listener);
            let person = std::mem::replace(&mut self.crowd.listeners[at].person, Person::Outside);
            let Person::Folded(_, own) = person else { return };
            let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
            let cohort = shard_.cohorts[class][slot].as_ref();
            let Some(ear) = cohort.and_then(|cohort| cohort.ear.as_ref()) else { return };
            let twin = ear.twin(settings, *own, conn);
            shard_.alone[class].insert(ix.0);
            self.crowd.listeners[at].person = Person::Alone(Box::new(twin));
            self.act_later(listener);
        }
        self.leave_cohort((node, shard, ix), class, slot);
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
