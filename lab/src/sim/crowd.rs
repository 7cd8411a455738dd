//! The listeners: each joins by the production path; once its reception is that of its cohort, the
//! cohort's stands for it.

use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::fanout::SessionIx;
use stentor_proto::wire::{Close, CloseCode};

use super::chance::{mix, share};
use super::ear::{Ear, Heard, hello};
use super::events::{ConnIx, End, Event, NodeIx, What};
use super::link::{Loss, Passage, arrival};
use super::node::Node;
use super::setup::Setup;
use super::wires::Opener;
use super::world::{BEGIN, OPENS, World};

/// What a listener is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Without a session.
    Outside,
    /// With a session, and a reception of its own.
    Alone,
    /// With a session, and the reception of its cohort.
    Folded,
}

/// A listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) standing: Standing,
    pub(super) class: u8,
    /// A full receiver throughout.
    pub(super) sample: bool,
    pub(super) joined: bool,
    /// It knows of its path what it would know in a cohort.
    apace: bool,
    pub(super) conn: ConnIx,
    pub(super) ear: Option<Box<Ear>>,
    /// When it last heard a new tick, if it was cut off since.
    cut_off: Option<Time>,
    /// What it counted apart from its cohort: its own count is the cohort's and this.
    apart: Tally,
}

/// What a listener has received, and has given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ticks passed on.
    pub received: i64,
    /// Ticks that came after they were asked for.
    pub repaired: i64,
    /// Ticks given up.
    pub lost: i64,
}

/// Listeners of one class on one shard whose receptions are the same.
#[derive(Debug)]
pub(super) struct Cohort {
    pub(super) ear: Ear,
    pub(super) members: u32,
    /// The session that asks for repair, for all.
    pub(super) leader: u32,
}

/// All listeners.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) listeners: Vec<Listener>,
    /// Those who wait to join, and from when on.
    waiting: std::collections::VecDeque<(Time, u32)>,
    /// How many have come so far.
    come: usize,
    hello: Bytes,
    pub(super) joined: usize,
    /// When the last one joined or left.
    pub(super) changed: Time,
    pub(super) seed: u64,
}

/// Listeners come this often.
const JOINS_EVERY: Duration = Duration::from_millis(1);
/// Listeners leave this often.
const CHURN_EVERY: Duration = Duration::from_millis(100);
/// Churn ends this long before the end, so that the sums settle.
const CHURN_ENDS: Duration = Duration::from_secs(13);
/// A listener that was refused or cut off comes again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// What was sent to a newcomer alone has arrived by then, and what it asked for.
const CALM: Duration = Duration::from_millis(500);
/// Ticks in which a reception must be the cohort's before it is folded into it.
const ALIKE: u32 = 64;

impl Crowd {
    pub(super) fn new(setup: &Setup) -> Self {
        let weights: Vec<u32> = setup.classes.iter().map(|class| class.weight).collect();
        let sum = u64::from(weights.iter().sum::<u32>().max(1));
        let listener = |n: usize| {
            let mut drawn = mix(setup.seed, n as u64) % sum;
            let class = weights.iter().position(|&weight| {
                let here = drawn < u64::from(weight);
                drawn = drawn.saturating_sub(u64::from(weight));
                here
            });
            let sample = share(mix(setup.seed ^ 1, n as u64)) < setup.sample;
            Listener {
                standing: Standing::Outside,
                class: class.and_then(|class| u8::try_from(class).ok()).unwrap_or(0),
                sample: sample || !setup.cohorts,
                joined: false,
                apace: false,
                conn: ConnIx::MAX,
                ear: None,
                cut_off: None,
                apart: Tally::default(),
            }
        };
        Self {
            listeners: (0..setup.listeners).map(listener).collect(),
            waiting: std::collections::VecDeque::new(),
            come: 0,
            hello: hello(None),
            joined: 0,
            changed: BEGIN,
            seed: setup.seed,
        }
    }

    /// Listeners for whom a cohort's reception stands.
    pub(super) fn folded(&self) -> usize {
        self.listeners.iter().filter(|l| l.standing == Standing::Folded).count()
    }

    pub(super) fn class_of(&self, listener: u32) -> u8 {
        self.listeners[listener as usize].class
    }
}

impl Ear {
    /// Whether its reception is from here on what a cohort's is.
    fn is_like(&self, cohort: &Self) -> bool {
        cohort.settled() && cohort.had.agrees(&self.had, ALIKE)
    }

    fn tally(&self) -> Tally {
        let window = self.stats().window;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Tally {
            received: count(window.received),
            repaired: count(window.repaired),
            lost: count(window.lost),
        }
    }
}

impl Tally {
    const fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            repaired: self.repaired + other.repaired,
            lost: self.lost + other.lost,
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            received: self.received - other.received,
            repaired: self.repaired - other.repaired,
            lost: self.lost - other.lost,
        }
    }
}

impl World {
    /// What every listener has received, in the order of their numbers.
    #[must_use]
    pub fn tallies(&self) -> Vec<Tally> {
        (0..self.crowd.listeners.len()).map(|at| self.tally(at)).collect()
    }

    fn tally(&self, at: usize) -> Tally {
        let listener = &self.crowd.listeners[at];
        let shared = match (&listener.ear, self.cohort_of(at)) {
            (Some(ear), _) => ear.tally(),
            (None, Some(cohort)) => cohort.ear.tally(),
            (None, None) => Tally::default(),
        };
        listener.apart.plus(shared)
    }

    fn cohort_of(&self, at: usize) -> Option<&Cohort> {
        let listener = &self.crowd.listeners[at];
        if listener.standing != Standing::Folded {
            return None;
        }
        let (node, shard, _) = self.place(listener.conn)?;
        let shard = &self.nodes[node].shards[usize::from(shard)];
        shard.cohorts[usize::from(listener.class)].as_deref()
    }

    /// Where a connection's session is.
    pub(super) fn place(&self, conn: ConnIx) -> Option<(NodeIx, u16, SessionIx)> {
        let conn = self.wires.conns.get(conn as usize)?;
        conn.session.map(|(shard, ix)| (conn.node, shard, ix))
    }

    /// Those join whose time has come.
    pub(super) fn on_joins(&mut self) {
        let since = self.now.since(BEGIN + OPENS);
        let all = self.crowd.listeners.len();
        let due = match since >= self.setup.join {
            true => all,
            false => (all as f64 * since.as_secs_f64() / self.setup.join.as_secs_f64()) as usize,
        };
        while self.crowd.come < due {
            let listener = self.crowd.come as u32;
            self.crowd.come += 1;
            self.join(listener);
        }
        while self.crowd.waiting.front().is_some_and(|&(at, _)| at <= self.now) {
            if let Some((_, listener)) = self.crowd.waiting.pop_front() {
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
                let listener = at as u32;
                let conn = self.crowd.listeners[at].conn;
                self.forget(listener);
                self.close(conn, End::Opener, Close::new(CloseCode::Done, "goodbye"));
                self.crowd.waiting.push_back((self.now + AGAIN, listener));
            }
        }
        if self.now + CHURN_EVERY + CHURN_ENDS < self.end {
            self.events.push(self.now + CHURN_EVERY, Event::Churn);
        }
    }

    fn join(&mut self, listener: u32) {
        let Some(node) = self.door() else {
            self.crowd.waiting.push_back((self.now + AGAIN, listener));
            return;
        };
        self.nodes[node].listeners += 1;
        let conn = self.connect(node, Opener::Listener(listener));
        let entry = &mut self.crowd.listeners[listener as usize];
        entry.conn = conn;
        entry.standing = Standing::Alone;
        let heard = entry.cut_off.take();
        entry.ear = Some(Box::new(Ear::silent_since(heard)));
    }

    /// A relay with places; whoever sends listeners there knows no more of it than its load.
    fn door(&mut self) -> Option<NodeIx> {
        let relays = self.setup.relays;
        let places = self.setup.listeners.div_ceil(relays) * 3 / 2 + 8;
        let open = |node: &Node| {
            node.is_well() && node.level > 0 && !node.draining && node.listeners < places
        };
        let from = self.chance.below(relays);
        (0..relays).map(|step| 1 + (from + step) % relays).find(|&node| open(&self.nodes[node]))
    }

    /// Something arrives for a listener.
    pub(super) fn listener_takes(&mut self, listener: u32, what: What) {
        let at = listener as usize;
        let conn = self.crowd.listeners[at].conn;
        if let What::Open = what {
            let hello = self.crowd.hello.clone();
            return self.send(conn, End::Opener, What::Control(hello));
        }
        let folded = self.crowd.listeners[at].standing == Standing::Folded;
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let heard = if folded {
            self.cohort_takes((node, shard, ix), self.crowd.listeners[at].class, what)
        } else {
            let now = self.now;
            let Some(ear) = &mut self.crowd.listeners[at].ear else { return };
            match what {
                What::Control(bytes) => ear.control(now, &bytes, &self.model.truth),
                What::Datagram(bytes) => {
                    let mut heard = Heard::default();
                    ear.datagram(now, bytes, &self.model.truth, &mut heard);
                    heard
                }
                What::Open | What::Closed(_) => return,
            }
        };
        if heard.welcomed {
            self.crowd.listeners[at].joined = true;
            self.crowd.joined += 1;
            self.crowd.changed = self.now;
            self.counted.joins += 1;
            if let Some(seat) =
                &mut self.nodes[node].shards[usize::from(shard)].seats[ix.0 as usize]
            {
                seat.joined = true;
            }
        }
        self.judge(listener, heard, 1);
        if !folded {
            self.attend(listener);
        }
    }

    /// What arrives for one of a cohort: what its leader asked for is for all.
    fn cohort_takes(&mut self, place: (NodeIx, u16, SessionIx), class: u8, what: What) -> Heard {
        let (node, shard, ix) = place;
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(cohort) = &mut shard_.cohorts[usize::from(class)] else { return Heard::default() };
        if cohort.leader != ix.0 {
            return Heard::default();
        }
        let mut heard = Heard::default();
        match what {
            What::Control(bytes) => heard = cohort.ear.control(self.now, &bytes, &self.model.truth),
            What::Datagram(bytes) => {
                cohort.ear.datagram(self.now, bytes, &self.model.truth, &mut heard);
            }
            What::Open | What::Closed(_) => {}
        }
        self.attend_cohort(node, shard, class);
        heard
    }

    /// A tick or beacon reaches the listeners of a class on a shard.
    pub(super) fn spread(&mut self, spread: &super::events::Spread) {
        let (now, at, class) = (self.now, usize::from(spread.shard), usize::from(spread.class));
        let shard = &mut self.nodes[spread.node].shards[at];
        if let Some(cohort) = &mut shard.cohorts[class]
            && !spread.lost
            && let Some(seat) = shard.seats.get(cohort.leader as usize).copied().flatten()
            && seat.slice == spread.slice
        {
            let mut heard = Heard::default();
            cohort.ear.datagram(now, spread.bytes.clone(), &self.model.truth, &mut heard);
            let leader = seat.conn;
            let members = cohort.members;
            if let Opener::Listener(listener) = self.wires.conns[leader as usize].opener {
                self.judge(listener, heard, members);
            }
            self.attend_cohort(spread.node, spread.shard, spread.class);
        }
        let alone: Vec<u32> =
            self.nodes[spread.node].shards[at].alone[class].iter().copied().collect();
        for ix in alone {
            self.spread_to_one(spread, ix);
        }
    }

    fn spread_to_one(&mut self, spread: &super::events::Spread, ix: u32) {
        let shard = &self.nodes[spread.node].shards[usize::from(spread.shard)];
        let Some(seat) = shard.seat(SessionIx(ix)) else { return };
        if seat.slice != spread.slice || seat.since > spread.sent {
            return;
        }
        let conn = &self.wires.conns[seat.conn as usize];
        let Opener::Listener(listener) = conn.opener else { return };
        if !conn.open[End::Opener as usize] {
            return;
        }
        let entry = &mut self.crowd.listeners[listener as usize];
        let Some(ear) = &mut entry.ear else { return };
        let lost = match entry.sample && self.setup.own_paths {
            true => {
                let key = mix(self.crowd.seed ^ 2, u64::from(listener));
                let loss = self.setup.classes[usize::from(entry.class)].line.loss;
                ear.weather[0].loses(loss, key, spread.sent, 0)
            }
            false => spread.lost,
        };
        if !lost {
            let mut heard = Heard::default();
            ear.datagram(self.now, spread.bytes.clone(), &self.model.truth, &mut heard);
            self.judge(listener, heard, 1);
            self.attend(listener);
        }
    }

    /// Whether what a listener, and `members` with it, heard is what it must be.
    fn judge(&mut self, listener: u32, heard: Heard, members: u32) {
        if let Some(gap) = heard.gap {
            self.counted.gap(gap, members);
        }
        let (now, conn) = (self.now, self.crowd.listeners[listener as usize].conn);
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
            self.model.violation(now, what);
        }
    }

    /// Sends what an ear asks for, sets its timer, and folds it into its cohort if it is alike.
    fn attend(&mut self, listener: u32) {
        let (now, at) = (self.now, listener as usize);
        loop {
            let entry = &mut self.crowd.listeners[at];
            let conn = entry.conn;
            let Some(request) = entry.ear.as_mut().and_then(|ear| ear.request(now)) else { break };
            self.send(conn, End::Opener, What::Datagram(request));
        }
        let entry = &mut self.crowd.listeners[at];
        let Some(ear) = &mut entry.ear else { return };
        if let Some(due) = ear.timeout()
            && ear.armed.is_none_or(|armed| due < armed)
        {
            ear.armed = Some(due);
            self.events.push(due.max(now), Event::ListenerTimer(listener));
        }
        let calm = ear.welcomed.is_some_and(|at| at + CALM <= now);
        if entry.joined && calm && ear.settled() {
            if !entry.sample {
                self.fold(listener);
            } else if !self.setup.own_paths && !entry.apace {
                self.keep_pace(listener);
            }
        }
    }

    pub(super) fn on_listener_timer(&mut self, listener: u32) {
        let Some(ear) = &mut self.crowd.listeners[listener as usize].ear else { return };
        ear.armed = None;
        self.attend(listener);
    }

    fn attend_cohort(&mut self, node: NodeIx, shard: u16, class: u8) {
        let (now, at) = (self.now, usize::from(shard));
        loop {
            let shard_ = &mut self.nodes[node].shards[at];
            let Some(cohort) = &mut shard_.cohorts[usize::from(class)] else { return };
            let leader = shard_.seats.get(cohort.leader as usize).copied().flatten();
            match (cohort.ear.request(now), leader) {
                (Some(request), Some(seat)) => {
                    self.send(seat.conn, End::Opener, What::Datagram(request));
                }
                _ => break,
            }
        }
        let shard_ = &mut self.nodes[node].shards[at];
        let Some(cohort) = &mut shard_.cohorts[usize::from(class)] else { return };
        if let Some(due) = cohort.ear.timeout()
            && cohort.ear.armed.is_none_or(|armed| due < armed)
        {
            cohort.ear.armed = Some(due);
            self.events.push(due.max(now), Event::CohortTimer(node, shard, class));
        }
    }

    pub(super) fn on_cohort_timer(&mut self, node: NodeIx, shard: u16, class: u8) {
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(cohort) = &mut shard_.cohorts[usize::from(class)] else { return };
        cohort.ear.armed = None;
        self.attend_cohort(node, shard, class);
    }

    /// Lets the cohort's reception stand for a listener's, if both are the same from here on.
    fn fold(&mut self, listener: u32) {
        let entry = &mut self.crowd.listeners[listener as usize];
        let conn = entry.conn;
        let class = entry.class;
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard_ = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard_.seat(ix) else { return };
        if seat.since == Time::MAX {
            return;
        }
        let entry = &mut self.crowd.listeners[listener as usize];
        let Some(ear) = entry.ear.take() else { return };
        let cohort = &mut shard_.cohorts[usize::from(class)];
        match cohort {
            None => *cohort = Some(Box::new(Cohort { ear: *ear, members: 1, leader: ix.0 })),
            Some(cohort) => {
                let leader = shard_.seats.get(cohort.leader as usize).copied().flatten();
                let alike = leader.is_some_and(|leader| leader.slice == seat.slice)
                    && ear.is_like(&cohort.ear);
                if !alike {
                    entry.ear = Some(ear);
                    return;
                }
                cohort.members += 1;
                entry.apart = entry.apart.plus(ear.tally().minus(cohort.ear.tally()));
            }
        }
        entry.standing = Standing::Folded;
        shard_.alone[usize::from(class)].remove(&ix.0);
    }

    /// Where there are no cohorts but their paths, a listener learns of its path what it would have
    /// learned by being folded.
    fn keep_pace(&mut self, listener: u32) {
        let at = listener as usize;
        let (conn, class) = (self.crowd.listeners[at].conn, self.crowd.listeners[at].class);
        let Some((node, shard, ix)) = self.place(conn) else { return };
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(seat) = shard.seat(ix).filter(|seat| seat.since != Time::MAX) else { return };
        let first = *shard.firsts[usize::from(class)].get_or_insert(ix.0);
        let Some(other) = shard.seat(SessionIx(first)) else { return };
        let Some(first) = self.wires.listener(other.conn) else { return };
        let Some(mut ear) = self.crowd.listeners[at].ear.take() else { return };
        let entry = &self.crowd.listeners[first as usize];
        let alike = first == listener
            || entry.ear.as_ref().is_some_and(|leading| {
                let alike = other.slice == seat.slice && ear.is_like(leading);
                if alike {
                    ear.share_path(leading);
                }
                alike
            });
        self.crowd.listeners[at].apace = alike;
        self.crowd.listeners[at].ear = Some(ear);
    }

    /// Gives a listener of a cohort a reception of its own again.
    pub(super) fn unfold(&mut self, listener: u32) {
        let at = listener as usize;
        let Some((node, shard, ix)) = self.place(self.crowd.listeners[at].conn) else { return };
        let Some(twin) = self.cohort_of(at).map(|cohort| cohort.ear.twin()) else { return };
        let class = usize::from(self.crowd.listeners[at].class);
        self.crowd.listeners[at].ear = Some(Box::new(twin));
        self.crowd.listeners[at].standing = Standing::Alone;
        self.nodes[node].shards[usize::from(shard)].alone[class].insert(ix.0);
        self.leave_cohort((node, shard, ix), class);
        let entry = &mut self.crowd.listeners[at];
        if let Some(due) = entry.ear.as_ref().and_then(|ear| ear.timeout()) {
            self.events.push(due.max(self.now), Event::ListenerTimer(listener));
        }
    }

    /// A cohort loses a member; if that was its leader, another one leads.
    fn leave_cohort(&mut self, (node, shard, ix): (NodeIx, u16, SessionIx), class: usize) {
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        let Some(cohort) = &mut shard.cohorts[class] else { return };
        cohort.members -= 1;
        if cohort.members == 0 {
            shard.cohorts[class] = None;
        } else if cohort.leader == ix.0 {
            let alone = &shard.alone[class];
            let mut members = shard.seats.iter().enumerate().filter(|(at, seat)| {
                let session = *at as u32;
                session != ix.0
                    && !alone.contains(&session)
                    && seat.is_some_and(|seat| usize::from(seat.class) == class && seat.joined)
            });
            if let Some((at, _)) = members.next() {
                cohort.leader = at as u32;
            }
        }
    }

    /// A listener's session is over, for whatever reason; what it had is kept in its count.
    fn forget(&mut self, listener: u32) {
        let at = listener as usize;
        let tally = self.tally(at);
        let (conn, class) = {
            let entry = &self.crowd.listeners[at];
            (entry.conn, usize::from(entry.class))
        };
        if let Some((node, shard, ix)) = self.place(conn) {
            if self.crowd.listeners[at].standing == Standing::Folded {
                self.leave_cohort((node, shard, ix), class);
            }
            let seats = &mut self.nodes[node].shards[usize::from(shard)].seats;
            if let Some(seat) = seats.get_mut(ix.0 as usize).and_then(Option::as_mut)
                && seat.conn == conn
            {
                seat.joined = false;
            }
        }
        if let Some(conn) = self.wires.conns.get(conn as usize) {
            let node = &mut self.nodes[conn.node];
            node.listeners = node.listeners.saturating_sub(1);
        }
        let entry = &mut self.crowd.listeners[at];
        entry.apart = tally;
        entry.ear = None;
        self.crowd.joined -= usize::from(std::mem::take(&mut entry.joined));
        entry.standing = Standing::Outside;
        self.crowd.changed = self.now;
    }

    /// A listener's connection was closed by its relay, or timed out: it comes again.
    pub(super) fn listener_closed(&mut self, listener: u32, close: Option<Close>) {
        if close.is_some() && self.crowd.listeners[listener as usize].standing != Standing::Outside
        {
            let at = listener as usize;
            let alone = self.crowd.listeners[at].ear.as_ref().map(|ear| ear.heard);
            let heard = alone.or_else(|| self.cohort_of(at).map(|cohort| cohort.ear.heard));
            self.crowd.listeners[at].cut_off = heard.flatten();
            self.forget(listener);
            self.counted.cut_off += 1;
            self.crowd.waiting.push_back((self.now + AGAIN, listener));
        }
    }

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
        let entry = &mut self.crowd.listeners[listener as usize];
        let class = usize::from(entry.class);
        if entry.sample && self.setup.own_paths {
            let key = mix(self.crowd.seed ^ 2, u64::from(listener)) ^ (from as u64);
            let line = self.setup.classes[class].line;
            let lost = entry.ear.as_mut().is_some_and(|ear| {
                let weather = &mut ear.weather[usize::from(from == End::Opener)];
                weather.loses(line.loss, key, self.now, 0)
            });
            return match lost {
                true => Passage::Lost,
                false => Passage::Arrives(arrival(&line, key, self.now, 0)),
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
}
