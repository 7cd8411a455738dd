//! One socket of a storm: its driver, and the guests whose sessions it carries.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::listen::{HomeId, Listen, ListenAction, QueuePlace};
use stentor_proto::wire::{ClientMessage, Close, ControlDecoder, ServerMessage, encode_control};
use stentor_relay::quic::{ConnId, Driver};

/// What opening a session takes.
pub(super) struct Way<'a> {
    pub(super) client: &'a quinn_proto::ClientConfig,
    /// The host that certificates name.
    pub(super) host: &'a str,
}

/// One who is at the door or inside.
pub(super) struct Guest {
    /// Its place among the visits.
    pub(super) visit: usize,
    pub(super) listen: Listen,
    homes: Vec<Home>,
    timer: Option<Time>,
    pub(super) redirects: u32,
    /// When another relay took it over, the last time.
    pub(super) moved: Option<Time>,
    /// Whether any node has said anything to it.
    pub(super) answered: bool,
}

struct Home {
    id: HomeId,
    conn: ConnId,
    address: SocketAddr,
    hello: Option<Bytes>,
    decoder: ControlDecoder,
}

/// What a guest's machine has come to.
#[derive(Debug)]
pub(super) enum News {
    /// It waits.
    Waits(QueuePlace),
    /// It is outside for good.
    Ended(Close),
}

/// One socket and its guests.
pub(super) struct Desk {
    pub(super) driver: Driver,
    guests: Vec<Option<Box<Guest>>>,
    free: Vec<usize>,
    conns: Vec<Option<(usize, HomeId)>>,
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    /// Sessions that were begun.
    pub(super) sessions: u64,
}

impl Guest {
    pub(super) fn new(visit: usize, listen: Listen) -> Self {
        let (homes, timer) = (Vec::new(), None);
        Self { visit, listen, homes, timer, redirects: 0, moved: None, answered: false }
    }

    /// Where it is served.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let current = self.listen.current()?;
        self.homes.iter().find(|home| home.id == current).map(|home| home.address)
    }

    /// The control messages that these bytes of a session complete.
    pub(super) fn messages(&mut self, home: HomeId, bytes: &[u8]) -> Vec<ServerMessage> {
        let Some(home) = self.homes.iter_mut().find(|entry| entry.id == home) else {
            return Vec::new();
        };
        home.decoder.push(bytes);
        std::iter::from_fn(|| home.decoder.next_message().ok().flatten()).collect()
    }
}

impl Desk {
    pub(super) const fn new(driver: Driver) -> Self {
        Self {
            driver,
            guests: Vec::new(),
            free: Vec::new(),
            conns: Vec::new(),
            timers: BinaryHeap::new(),
            sessions: 0,
        }
    }

    pub(super) fn seat(&mut self, guest: Guest) -> usize {
        let guest = Some(Box::new(guest));
        if let Some(ix) = self.free.pop() {
            self.guests[ix] = guest;
            return ix;
        }
        self.guests.push(guest);
        self.guests.len() - 1
    }

    pub(super) fn guest(&mut self, ix: usize) -> Option<&mut Guest> {
        self.guests.get_mut(ix)?.as_deref_mut()
    }

    /// Whose session a connection is, if it is anyone's.
    pub(super) fn owner(&mut self, conn: ConnId) -> Option<(usize, HomeId, &mut Guest)> {
        let (ix, home) = (*self.conns.get(conn.0 as usize)?)?;
        Some((ix, home, self.guests[ix].as_deref_mut()?))
    }

    /// A connection is there: the hello is said.
    pub(super) fn connected(&mut self, conn: ConnId) -> Option<usize> {
        let (_, id, guest) = self.owner(conn)?;
        let visit = guest.visit;
        let home = guest.homes.iter_mut().find(|home| home.id == id);
        let hello = home.and_then(|home| home.hello.take());
        if let Some(hello) = hello {
            // A session that cannot take its hello is closed, and noticed then.
            let _ = self.driver.send_control(conn, hello);
        }
        Some(visit)
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if let Some((_, id, guest)) = self.owner(conn) {
            guest.homes.retain(|home| home.id != id);
        }
        if let Some(owner) = self.conns.get_mut(conn.0 as usize) {
            *owner = None;
        }
    }

    /// Closes a guest's sessions and lets go of the guest.
    pub(super) fn dismiss(&mut self, now: Instant, ix: usize) -> Option<Box<Guest>> {
        let guest = self.guests.get_mut(ix)?.take()?;
        self.free.push(ix);
        for home in &guest.homes {
            self.conns[home.conn.0 as usize] = None;
            self.driver.close(now, home.conn, 0, "goodbye");
        }
        Some(guest)
    }

    /// The next guest whose time has come, after its machine has been told.
    pub(super) fn next_due(&mut self, time: Time) -> Option<usize> {
        loop {
            let &Reverse((at, ix)) = self.timers.peek()?;
            if at > time {
                return None;
            }
            self.timers.pop();
            if let Some(Some(guest)) = self.guests.get_mut(ix)
                && guest.timer == Some(at)
            {
                guest.timer = None;
                if guest.listen.poll_timeout().is_some_and(|due| due <= time) {
                    guest.listen.handle_timeout(time);
                }
                return Some(ix);
            }
        }
    }

    /// Does what a guest's machine asks for, and notes when it is to be looked at again.
    pub(super) fn act(
        &mut self,
        now: Instant,
        time: Time,
        ix: usize,
        way: &Way<'_>,
    ) -> Option<News> {
        let mut news = None;
        while let Some(action) = self.guest(ix)?.listen.poll_action() {
            match action {
                ListenAction::Connect { home, address, hello } => {
                    let hello = encode_control(&ClientMessage::Hello(*hello));
                    if !self.connect(now, (ix, home), &address, hello, way) {
                        self.guest(ix)?.listen.handle_down(time, home, None);
                    }
                }
                ListenAction::SendDatagram { home, bytes } => {
                    let guest = self.guests[ix].as_ref()?;
                    if let Some(home) = guest.homes.iter().find(|entry| entry.id == home) {
                        self.driver.send_datagram(now, home.conn, bytes);
                    }
                }
                ListenAction::Say { home, message } => {
                    let guest = self.guests[ix].as_ref()?;
                    if let Some(home) = guest.homes.iter().find(|entry| entry.id == home) {
                        // A session that cannot take it is closed, and counted then.
                        let _ = self.driver.send_control(home.conn, encode_control(&*message));
                    }
                }
                ListenAction::Leave { home } => {
                    let guest = self.guests[ix].as_ref()?;
                    let conn = guest.homes.iter().find(|e| e.id == home).map(|e| e.conn);
                    if let Some(conn) = conn {
                        self.forget(conn);
                        self.driver.close(now, conn, 0, "goodbye");
                    }
                }
                ListenAction::Moved { .. } => self.guest(ix)?.moved = Some(time),
                ListenAction::Waiting(place) => news = Some(News::Waits(place)),
                ListenAction::Ended(close) => return Some(News::Ended(close)),
            }
        }
        let guest = self.guest(ix)?;
        if let Some(at) = guest.listen.poll_timeout()
            && guest.timer.is_none_or(|noted| at < noted)
        {
            guest.timer = Some(at);
            self.timers.push(Reverse((at, ix)));
        }
        news
    }

    /// Those who are at the door or inside.
    pub(super) fn guests(&self) -> impl Iterator<Item = &Guest> {
        self.guests.iter().flatten().map(|guest| &**guest)
    }

    fn connect(
        &mut self,
        now: Instant,
        owner: (usize, HomeId),
        address: &str,
        hello: Bytes,
        way: &Way<'_>,
    ) -> bool {
        let Ok(remote) = address.parse() else { return false };
        let Ok(conn) = self.driver.connect(now, way.client.clone(), remote, way.host) else {
            return false;
        };
        self.sessions += 1;
        let Some(guest) = self.guests[owner.0].as_mut() else { return false };
        let (hello, decoder) = (Some(hello), ControlDecoder::default());
        guest.homes.push(Home { id: owner.1, conn, address: remote, hello, decoder });
        let at = conn.0 as usize;
        if at >= self.conns.len() {
            self.conns.resize(at + 1, None);
        }
        self.conns[at] = Some(owner);
        true
    }
}
