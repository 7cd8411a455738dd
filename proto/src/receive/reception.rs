//! A client's reception of one room: datagrams in, new ticks and repair requests out.

use std::time::Duration;

use bytes::Bytes;

use super::window::{Arrival, FeedIx, Window, WindowStats};
use crate::Time;
use crate::wire::{Datagram, Framing, Record, Subscribed, repair_bytes};

/// What a reception counted besides its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceptionStats {
    /// The window's counts.
    pub window: WindowStats,
    /// Datagrams.
    pub datagrams: u64,
    /// Beacons.
    pub beacons: u64,
    /// Of them, those that say that the node's own feeds are silent.
    pub starved: u64,
    /// Datagrams that break the protocol, or are of another room or epoch.
    pub bad: u64,
}

/// A client's reception of one room on one session.
///
/// Drive it so: [`Self::datagram`] for each datagram, then [`Self::poll_request`] until `None`;
/// that again at [`Self::poll_timeout`].
#[derive(Clone, Debug)]
pub struct Reception {
    framing: Framing,
    room: u32,
    window: Window,
    stats: ReceptionStats,
}

impl Reception {
    /// The reception of a room that the session has joined.
    #[must_use]
    pub fn new(framing: Framing, room: &Subscribed) -> Self {
        let mut window = Window::new(room.id, room.epoch);
        window.set_live(0, true);
        Self { framing, room: room.id, window, stats: ReceptionStats::default() }
    }

    /// Takes the room's news: another epoch starts another window, with feed 0 alone. Returns
    /// whether it does.
    pub fn renew(&mut self, room: &Subscribed) -> bool {
        let other = room.id != self.room || room.epoch > self.window.epoch();
        if other {
            let stats = self.stats();
            let playout = self.window.playout();
            *self = Self { stats, ..Self::new(self.framing, room) };
            self.window.set_playout(playout);
        }
        other
    }

    /// Says whether a session brings the room: feed 0 does from the start, others while a listener
    /// goes from one relay to another.
    pub fn set_feed(&mut self, feed: FeedIx, live: bool) {
        self.window.set_live(feed, live);
    }

    /// Notes that a feed brings nothing while another does.
    pub fn set_silent(&mut self, feed: FeedIx) {
        self.window.set_silent(feed);
    }

    /// Where a replay is to go on, as epoch and number: at the last tick before the first gap.
    #[must_use]
    pub fn last(&self) -> Option<(u32, u32)> {
        let last = self.window.contiguous();
        (last > 0).then(|| (self.window.epoch(), last))
    }

    /// Says how long after its turn a tick is played: what would come later is not asked for.
    pub fn set_playout(&mut self, playout: Duration) {
        self.window.set_playout(playout);
    }

    /// Takes over what another reception has learned of the path that both share.
    pub fn share_path(&mut self, other: &Self) {
        self.window.share_path(&other.window);
    }

    /// Takes a datagram as the transport delivered it; hands each tick that is new to `pass`, in
    /// the order of arrival, with whether it is a replay.
    pub fn datagram(&mut self, now: Time, bytes: Bytes, pass: impl FnMut(Record, bool)) {
        self.feed_datagram(now, 0, bytes, pass);
    }

    /// The same for a datagram of one of several feeds. Returns the newest tick that it speaks of;
    /// `None` for what is not of this room.
    pub fn feed_datagram(
        &mut self,
        now: Time,
        feed: FeedIx,
        mut bytes: Bytes,
        mut pass: impl FnMut(Record, bool),
    ) -> Option<u32> {
        self.stats.datagrams += 1;
        let prefix = self.framing.prefix();
        if !bytes.starts_with(prefix) {
            self.stats.bad += 1;
            return None;
        }
        match Datagram::parse(bytes.split_off(prefix.len())) {
            Ok(Datagram::Ticks { room, epoch, replay, pending, records })
                if room == self.room && epoch == self.window.epoch() =>
            {
                if !replay {
                    self.window.pending(feed, records[0].number, pending);
                }
                let newest = records.iter().map(|record| record.number).max();
                for record in records {
                    if replay {
                        self.window.answered(now, record.number);
                    }
                    if self.window.arrive(now, feed, &record) == Arrival::New {
                        pass(record, replay);
                    }
                }
                newest
            }
            Ok(Datagram::Beacon(beacon))
                if (beacon.newest.room, beacon.newest.epoch)
                    == (self.room, self.window.epoch()) =>
            {
                self.stats.beacons += 1;
                self.stats.starved += u64::from(beacon.upstream_silent_ms > 0);
                self.window.beacon(now, feed, &beacon);
                self.window.pending(feed, beacon.newest.number, beacon.pending);
                Some(beacon.newest.number)
            }
            Ok(_) | Err(_) => {
                self.stats.bad += 1;
                None
            }
        }
    }

    /// The next repair request to send, as a datagram.
    pub fn poll_request(&mut self, now: Time) -> Option<Bytes> {
        self.poll_feed_request(now).map(|(_, bytes)| bytes)
    }

    /// The next repair request to send, and the feed to ask.
    pub fn poll_feed_request(&mut self, now: Time) -> Option<(FeedIx, Bytes)> {
        let (feed, request) = self.window.poll_request(now)?;
        Some((feed, repair_bytes(self.framing, &request)))
    }

    /// When [`Self::poll_request`] is to be called again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.window.poll_timeout()
    }

    /// The newest tick seen or announced; 0 before the first.
    #[must_use]
    pub const fn newest(&self) -> u32 {
        self.window.newest()
    }

    /// What was counted, earlier epochs included.
    #[must_use]
    pub fn stats(&self) -> ReceptionStats {
        let (before, window) = (&self.stats.window, self.window.stats());
        let window = WindowStats {
            received: before.received + window.received,
            duplicate: before.duplicate + window.duplicate,
            late: before.late + window.late,
            too_far_ahead: before.too_far_ahead + window.too_far_ahead,
            conflict: before.conflict + window.conflict,
            repaired: before.repaired + window.repaired,
            requested: before.requested + window.requested,
            lost: before.lost + window.lost,
        };
        ReceptionStats { window, ..self.stats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{TickFlags, record_bytes, ticks_bytes};

    fn room(epoch: u32) -> Subscribed {
        Subscribed {
            name: "hall".into(),
            id: 7,
            title: String::new(),
            public: true,
            epoch,
            newest: 0,
            tick_ms: 20,
            redundancy: 2,
        }
    }

    fn ticks(framing: Framing, epoch: u32, numbers: &[u32]) -> Bytes {
        let record = |&n: &u32| record_bytes(n, 0, 20, TickFlags::default(), &[0]);
        let records: Vec<Bytes> = numbers.iter().map(record).collect();
        ticks_bytes(framing, 7, epoch, false, 0, &records)
    }

    #[test]
    fn redundancy_fills_a_gap_before_it_is_asked_for() {
        for framing in Framing::ALL {
            let mut reception = Reception::new(framing, &room(1));
            let mut got = Vec::new();
            for (at, numbers) in [(0, &[1][..]), (40, &[3, 2])] {
                let bytes = ticks(framing, 1, numbers);
                reception.datagram(Time::from_millis(at), bytes, |r, _| got.push(r.number));
            }
            assert_eq!(got, [1, 3, 2]);
            assert_eq!(reception.poll_request(Time::from_millis(60)), None);
        }
    }

    #[test]
    fn another_epoch_needs_the_rooms_word() {
        let mut reception = Reception::new(Framing::Quic, &room(1));
        let mut got = 0;
        reception.datagram(Time::ZERO, ticks(Framing::Quic, 2, &[9]), |_, _| got += 1);
        assert_eq!((got, reception.stats().bad), (0, 1));
        reception.renew(&room(2));
        reception.datagram(Time::ZERO, ticks(Framing::Quic, 2, &[9]), |_, _| got += 1);
        assert_eq!((got, reception.stats().window.received), (1, 1));
    }
}
