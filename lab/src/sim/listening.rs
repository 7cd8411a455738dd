//! The shell of a listener: it does what the machine asks for, and brings it what arrives.

use std::time::Duration;

use stentor_proto::listen::{HomeId, ListenAction, MoveCause};
use stentor_proto::wire::{ClientMessage, Close, CloseCode, Side, encode_control};

use super::arrivals::AGAIN;
use super::crowd::Person;
use super::ear::{Heard, Line};
use super::events::{ConnIx, End, Event, What};
use super::node::Node;
use super::wires::Opener;
use super::world::World;

/// What was sent to a newcomer alone has arrived by then, and what it asked for.
const CALM: Duration = Duration::from_millis(250);

impl World {
    /// Something arrives for a listener.
    pub(super) fn listener_takes(&mut self, conn: ConnIx, listener: u32, what: What) {
        if let Person::Folded(own, _) = self.crowd.listeners[listener as usize].person {
            if own == conn {
                self.folded_takes(conn, listener, what);
            }
            return;
        }
        if let What::Control(bytes) = &what
            && !self.setup.cohorts
            && self.is_its_own(listener, bytes)
        {
            self.unfold(listener);
        }
        let now = self.now;
        let Some(ear) = self.crowd.ear(listener) else { return };
        let Some(line) = ear.line(conn) else { return };
        let home = line.home;
        let heard = match what {
            What::Open => {
                if let Some(hello) = line.hello.take() {
                    self.send(conn, End::Opener, What::Control(hello));
                }
                return;
            }
            What::Control(bytes) => ear.control(now, conn, &bytes),
            What::Datagram(bytes) => {
                let mut heard = Heard::default();
                let Person::Alone(ear) = &mut self.crowd.listeners[listener as usize].person else {
                    return;
                };
                ear.datagram(now, home, bytes, &self.model.truth, &mut heard);
                heard
            }
            What::Closed(_) => return,
        };
        self.welcomed(conn, listener, heard);
        self.judge(listener, conn, heard, 1);
        self.act(listener);
    }

    /// A session that was let in is in the fan-out from here on.
    fn welcomed(&mut self, conn: ConnIx, listener: u32, heard: Heard) {
        let place = self.place(conn).filter(|_| heard.welcomed);
        let own = self.crowd.listeners[listener as usize].sample && self.setup.own_paths;
        let path = self.crowd.ear(listener).map(|ear| ear.path).filter(|_| own);
        let Some((node, shard, ix)) = place else { return };
        let entry = &mut self.nodes[node].shards[usize::from(shard)];
        if let Some(seat) = &mut entry.seats[ix.0 as usize]
            && seat.conn == conn
        {
            seat.joined = true;
            seat.path = path.unwrap_or(seat.path);
            entry.fans.touch(ix);
            entry.dirty = true;
            let class = usize::from(self.crowd.class_of(listener));
            if let Some(ear) = self.crowd.ear(listener) {
                ear.listen.set_round_trip(self.setup.classes[class].line.round_trip());
            }
        }
    }

    /// A session is left: nothing is expected of it.
    pub(super) fn unseat(&mut self, conn: ConnIx) {
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let seats = &mut self.nodes[node].shards[usize::from(shard)].seats;
        if let Some(seat) = seats.get_mut(ix.0 as usize).and_then(Option::as_mut)
            && seat.conn == conn
        {
            seat.joined = false;
        }
    }

    /// Whether what a listener, and `members` with it, heard is what it must be.
    pub(super) fn judge(&mut self, listener: u32, conn: ConnIx, heard: Heard, members: u32) {
        if heard == Heard::default() {
            return;
        }
        if let Some(gap) = heard.gap {
            self.counted.gap(gap, members);
        }
        if let Some(gap) = heard.moved {
            self.counted.moved(gap);
        }
        if let Some(first) = heard.first {
            self.counted.first_sound(first);
        }
        let node = || self.place(conn).map_or("?", |(node, ..)| &self.nodes[node].name);
        let mut wrong = Vec::new();
        if heard.twice > 0 {
            wrong.push(format!("listener {listener} on {} heard a tick twice", node()));
        }
        if heard.altered > 0 {
            wrong.push(format!("listener {listener} on {} heard an altered tick", node()));
        }
        if heard.broken {
            wrong.push(format!("{} breaks the protocol towards listener {listener}", node()));
        }
        for what in wrong {
            self.model.violation(self.now, what);
        }
    }

    /// Does what a listener's machine asks for, and sets its timer.
    pub(super) fn act(&mut self, listener: u32) {
        while let Some(action) = self.crowd.ear(listener).and_then(|ear| ear.listen.poll_action()) {
            self.action(listener, action);
        }
        self.note_standing(listener);
        let now = self.now;
        let Some(ear) = self.crowd.ear(listener) else { return };
        if let Some(due) = ear.listen.poll_timeout()
            && ear.armed.is_none_or(|armed| due < armed)
        {
            ear.armed = Some(due);
            self.events.push(due.max(now), Event::ListenerTimer(listener));
        }
    }

    /// Takes a listener that has heard what all of its class were sent into its cohort, if it hears the
    /// same. At no other moment: when its timers come, they come for a listener alone.
    pub(super) fn settle_in(&mut self, listener: u32) {
        let now = self.now;
        let entry = &self.crowd.listeners[listener as usize];
        let Person::Alone(ear) = &entry.person else { return };
        if entry.joined
            && !entry.sample
            && ear.since + CALM <= now
            && ear.settled()
            && (self.setup.cohorts || !self.is_in_cohort(listener))
        {
            self.fold(listener);
        }
    }

    fn action(&mut self, listener: u32, action: ListenAction) {
        let conn_of = |world: &mut Self, home: HomeId| {
            let lines = &world.crowd.ear(listener)?.lines;
            lines.iter().find(|line| line.home == home).map(|line| line.conn)
        };
        match action {
            ListenAction::Connect { home, address, hello } => {
                let hello = encode_control(&ClientMessage::Hello(*hello));
                let Some(node) = Node::at(&address).filter(|&node| node < self.nodes.len()) else {
                    self.model.violation(self.now, format!("nobody is at {address}"));
                    return;
                };
                self.counted.attempts += 1;
                let conn = self.connect(node, Opener::Listener(listener));
                if let Some(ear) = self.crowd.ear(listener) {
                    ear.lines.push(Line::new(home, conn, Some(hello)));
                }
            }
            ListenAction::SendDatagram { home, bytes } => {
                if let Some(conn) = conn_of(self, home) {
                    self.send(conn, End::Opener, What::Datagram(bytes));
                }
            }
            ListenAction::Say { home, message } => {
                if let Some(conn) = conn_of(self, home) {
                    self.send(conn, End::Opener, What::Control(encode_control(&*message)));
                }
            }
            ListenAction::Leave { home } => {
                let Some(conn) = conn_of(self, home) else { return };
                if let Some(ear) = self.crowd.ear(listener) {
                    ear.lines.retain(|line| line.home != home);
                }
                self.unseat(conn);
                self.close(conn, End::Opener, Close::new(CloseCode::Done, "goodbye"));
            }
            ListenAction::Moved { cause, .. } => {
                match cause {
                    MoveCause::Silent => self.counted.moved_silent += 1,
                    MoveCause::Lost => self.counted.moved_lost += 1,
                    MoveCause::Asked => self.counted.moved_asked += 1,
                }
                let now = self.now;
                self.crowd.changed = now;
                if let Some(ear) = self.crowd.ear(listener) {
                    ear.since = now;
                }
            }
            ListenAction::Waiting(_) => {
                self.counted.told_to_wait += 1;
                let waits = &mut self.crowd.listeners[listener as usize].waits;
                self.crowd.waiting += usize::from(!std::mem::replace(waits, true));
            }
            ListenAction::Ended(close) => self.given_up(listener, &close),
        }
    }

    /// A listener's machine has ended: nobody takes it. Whoever sits before it tries again.
    fn given_up(&mut self, listener: u32, close: &Close) {
        let inside = self.crowd.ear(listener).is_some_and(|ear| ear.came.is_none());
        self.counted.gave_up(close.code, inside);
        let tickets = close.code == CloseCode::StageOnly;
        if close.code.side() == Side::Peer && !tickets {
            let what = format!("listener {listener} is refused as if it were at fault: {close}");
            self.model.violation(self.now, what);
        }
        self.leave(listener);
        self.crowd.again.push_back((self.now + AGAIN, listener));
    }

    pub(super) fn on_listener_timer(&mut self, listener: u32) {
        let now = self.now;
        let Some(ear) = self.crowd.ear(listener) else { return };
        ear.armed = None;
        // From here on it acts for itself: a cohort would dissolve.
        let doubts = now >= ear.listen.doubts_at();
        if doubts && !self.setup.cohorts {
            self.unfold(listener);
        }
        let Some(ear) = self.crowd.ear(listener) else { return };
        if ear.listen.poll_timeout().is_some_and(|due| due <= now) {
            ear.listen.handle_timeout(now);
        }
        self.act(listener);
    }

    /// A listener's connection was closed by its relay, or timed out.
    pub(super) fn listener_closed(&mut self, conn: ConnIx, listener: u32, close: Option<Close>) {
        let Some(close) = close else { return };
        if self.crowd.conn_of(listener) == Some(conn) {
            self.unfold(listener);
        }
        let now = self.now;
        let Some(ear) = self.crowd.ear(listener) else { return };
        let Some(at) = ear.lines.iter().position(|line| line.conn == conn) else { return };
        let home = ear.lines.remove(at).home;
        let served = ear.listen.current() == Some(home);
        ear.listen.handle_down(now, home, Some(close));
        self.counted.cut_off += u64::from(served);
        self.unseat(conn);
        self.act(listener);
    }

    /// Keeps count of who is inside and who waits.
    pub(super) fn note_standing(&mut self, listener: u32) {
        let entry = &mut self.crowd.listeners[listener as usize];
        let inside = match &entry.person {
            Person::Outside => false,
            Person::Alone(ear) => ear.listen.current().is_some(),
            Person::Folded(..) => true,
        };
        if std::mem::replace(&mut entry.joined, inside) != inside {
            self.crowd.changed = self.now;
            match inside {
                true => self.crowd.joined += 1,
                false => self.crowd.joined -= 1,
            }
            if let (true, Person::Alone(ear)) = (inside, &mut entry.person) {
                ear.since = self.now;
                self.counted.joins += u64::from(ear.came.is_some());
            }
        }
        let outside = matches!(entry.person, Person::Outside);
        if (inside || outside) && std::mem::take(&mut entry.waits) {
            self.crowd.waiting -= 1;
        }
    }
}
