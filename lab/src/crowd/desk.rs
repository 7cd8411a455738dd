//! One socket of a crowd: its driver, the listeners on it, and whose session each connection is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use stentor_proto::Time;
use stentor_proto::listen::{HomeId, ListenAction};
use stentor_proto::wire::{ClientMessage, Close, encode_control};
use stentor_relay::quic::{ConnId, Driver};

use super::member::{Home, Member};

/// What opening a session takes.
pub(super) struct Door<'a> {
    pub(super) client: &'a quinn_proto::ClientConfig,
    /// The host that certificates name.
    pub(super) host: &'a str,
    /// Whether listeners go to another relay when theirs fails.
    pub(super) rehomes: bool,
}

/// One socket and the listeners on it.
pub(super) struct Desk {
    pub(super) driver: Driver,
    pub(super) members: Vec<Option<Member>>,
    /// Whose session a connection is.
    conns: Vec<Option<(usize, HomeId)>>,
    /// Who is to be looked at, and when.
    timers: BinaryHeap<Reverse<(Time, usize)>>,
}

impl Desk {
    pub(super) const fn new(driver: Driver) -> Self {
        Self { driver, members: Vec::new(), conns: Vec::new(), timers: BinaryHeap::new() }
    }

    /// Puts a listener on a free chair.
    pub(super) fn seat(&mut self, member: Member) -> usize {
        let free = self.members.iter().position(Option::is_none);
        let ix = free.unwrap_or(self.members.len());
        if ix == self.members.len() {
            self.members.push(None);
        }
        self.members[ix] = Some(member);
        ix
    }

    /// Whose session a connection is, if it is anyone's.
    pub(super) fn owner(&mut self, conn: ConnId) -> Option<(usize, HomeId, &mut Member)> {
        let (ix, home) = (*self.conns.get(conn.0 as usize)?)?;
        Some((ix, home, self.members[ix].as_mut()?))
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if let Some((_, home, member)) = self.owner(conn) {
            member.homes.retain(|entry| entry.id != home);
        }
        if let Some(owner) = self.conns.get_mut(conn.0 as usize) {
            *owner = None;
        }
    }

    /// Closes a listener's sessions and lets go of the listener.
    pub(super) fn dismiss(&mut self, now: Instant, ix: usize) -> Option<Member> {
        let member = self.members[ix].take()?;
        for home in &member.homes {
            self.conns[home.conn.0 as usize] = None;
            self.driver.close(now, home.conn, 0, "goodbye");
        }
        Some(member)
    }

    /// The next listener whose time has come, after its machine has been told.
    pub(super) fn next_due(&mut self, time: Time) -> Option<usize> {
        loop {
            let &Reverse((at, ix)) = self.timers.peek()?;
            if at > time {
                return None;
            }
            self.timers.pop();
            if let Some(Some(member)) = self.members.get_mut(ix)
                && member.timer == Some(at)
            {
                member.timer = None;
                if member.listen.poll_timeout().is_some_and(|due| due <= time) {
                    member.listen.handle_timeout(time);
                }
                return Some(ix);
            }
        }
    }

    /// Does what a listener's machine asks for, and notes when it is to be looked at again. Returns
    /// why it ended, if it did.
    pub(super) fn act(
        &mut self,
        now: Instant,
        time: Time,
        ix: usize,
        door: &Door<'_>,
    ) -> Option<Close> {
        while let Some(action) = self.members[ix].as_mut()?.listen.poll_action() {
            match action {
                ListenAction::Connect { home, address, hello } => {
                    let hello = encode_control(&ClientMessage::Hello(*hello));
                    let opened = self.connect(now, (ix, home), &address, hello, door);
                    if !opened {
                        self.members[ix].as_mut()?.listen.handle_down(time, home, None);
                    }
                }
                ListenAction::SendDatagram { home, bytes } => {
                    let member = self.members[ix].as_ref()?;
                    if let Some(home) = member.homes.iter().find(|entry| entry.id == home) {
                        self.driver.send_datagram(now, home.conn, bytes);
                    }
                }
                ListenAction::Say { home, message } => {
                    let member = self.members[ix].as_ref()?;
                    if let Some(home) = member.homes.iter().find(|entry| entry.id == home) {
                        // A session that cannot take it is closed, and counted then.
                        let _ = self.driver.send_control(home.conn, encode_control(&*message));
                    }
                }
                ListenAction::Leave { home } => {
                    let member = self.members[ix].as_ref()?;
                    let conn = member.homes.iter().find(|e| e.id == home).map(|e| e.conn);
                    if let Some(conn) = conn {
                        self.forget(conn);
                        self.driver.close(now, conn, 0, "goodbye");
                    }
                }
                ListenAction::Moved { .. } | ListenAction::Waiting(_) => {}
                ListenAction::Ended(close) => return Some(close),
            }
        }
        let member = self.members[ix].as_mut()?;
        if let Some(at) = member.listen.poll_timeout()
            && member.timer.is_none_or(|noted| at < noted)
        {
            member.timer = Some(at);
            self.timers.push(Reverse((at, ix)));
        }
        None
    }

    /// Opens a session; a listener that does not re-home opens one in its life.
    fn connect(
        &mut self,
        now: Instant,
        owner: (usize, HomeId),
        address: &str,
        hello: bytes::Bytes,
        door: &Door<'_>,
    ) -> bool {
        let Some(member) = self.members[owner.0].as_mut() else { return false };
        if member.sessions > 0 && !door.rehomes {
            return false;
        }
        let Ok(remote) = address.parse() else { return false };
        let Ok(conn) = self.driver.connect(now, door.client.clone(), remote, door.host) else {
            return false;
        };
        member.sessions += 1;
        member.homes.push(Home::new(owner.1, conn, hello));
        let at = conn.0 as usize;
        if at >= self.conns.len() {
            self.conns.resize(at + 1, None);
        }
        self.conns[at] = Some(owner);
        true
    }
}
