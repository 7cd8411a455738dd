//! What one session gets besides the fan-out: replay, repair, catching up; and speech from it.

use std::time::Duration;

use bytes::Bytes;

use super::{Fanout, Kind, NodeShard, ShardEffect, Standing};
use crate::fanout::SessionIx;
use crate::node::messages::ToControl;
use crate::wire::{Framing, RepairRequest, Role, SpeechFrame, ticks_bytes};
use crate::{Time, limits};

impl NodeShard {
    /// Sends a session what it lacks of the ring: what followed the last tick that it has, else
    /// its playout target's worth.
    pub(super) fn replay(
        &mut self,
        _now: Time,
        ix: SessionIx,
        at: usize,
        playout: Duration,
        last: Option<(u32, u32)>,
    ) {
        let found = self.session_mut(ix).map(|session| (session.framing, session.role));
        let Some((framing, role)) = found else {
            return;
        };
        let newcomer = role != Role::Relay && last.is_none();
        let Some(room) = self.rooms[at].as_ref() else {
            return;
        };
        let newest = room.ring.newest();
        if newest == 0 {
            return;
        }
        let ticks = playout.as_millis() / u128::from(room.info.tick_ms);
        let ticks = u32::try_from(ticks).unwrap_or(limits::REPLAY_TICKS);
        let from = match last {
            Some((epoch, number)) if epoch == room.info.epoch && number < newest => number + 1,
            Some((epoch, _)) if epoch == room.info.epoch => return,
            _ => newest.saturating_sub(ticks.saturating_sub(1)),
        };
        let from = from.max(newest.saturating_sub(limits::REPLAY_TICKS - 1)).max(1);
        // While a room comes up, the ring may have holes before this; a newcomer would wait for what
        // fills them, and it goes to nobody.
        let from = if newcomer { from.max(room.since) } else { from };
        let records: Vec<Bytes> =
            (from..=newest).filter_map(|number| room.ring.record(number).cloned()).collect();
        let (id, epoch) = (room.info.id, room.info.epoch);
        self.send_replay(ix, framing, (id, epoch), records);
    }

    /// Packs records into as few datagrams as they fit.
    fn send_replay(
        &mut self,
        ix: SessionIx,
        framing: Framing,
        (room, epoch): (u32, u32),
        records: Vec<Bytes>,
    ) {
        let mut pack: Vec<Bytes> = Vec::new();
        let mut size = limits::DATAGRAM_HEADER_BYTES;
        for record in records {
            let full = size + record.len() > limits::DATAGRAM_BYTES;
            if full || pack.len() == limits::RECORDS_PER_DATAGRAM {
                let bytes = ticks_bytes(framing, room, epoch, true, 0, &pack);
                self.effects.push_back(ShardEffect::SendDatagram { session: ix, bytes });
                pack.clear();
                size = limits::DATAGRAM_HEADER_BYTES;
            }
            size += record.len();
            pack.push(record);
        }
        if !pack.is_empty() {
            let bytes = ticks_bytes(framing, room, epoch, true, 0, &pack);
            self.effects.push_back(ShardEffect::SendDatagram { session: ix, bytes });
        }
    }

    /// Answers a child's request from the ring, within the child's budget.
    pub(super) fn answer_repair(&mut self, now: Time, ix: SessionIx, request: &RepairRequest) {
        let Some(&at) = self.by_id.get(&request.first.room) else {
            self.stats.drop_repair_unknown += 1;
            return;
        };
        let Some(session) = self.sessions.get_mut(ix.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(room) = self.rooms[at].as_ref() else {
            return;
        };
        let member = session.rooms.iter().any(|membership| membership.room == at);
        if !member || room.info.epoch != request.first.epoch {
            self.stats.drop_repair_unknown += 1;
            return;
        }
        if !self.settings.repair {
            self.stats.drop_repair_off += u64::from(request.mask.count_ones());
            return;
        }
        if session.choice.is_full(now) {
            self.stats.drop_repair_full_path += u64::from(request.mask.count_ones());
            return;
        }
        let mut records = Vec::new();
        for bit in (0..32).filter(|bit| request.mask & (1 << bit) != 0) {
            let number = request.first.number.checked_add(bit);
            match number.and_then(|number| room.ring.record(number)) {
                None => self.stats.drop_repair_unknown += 1,
                Some(_) if !session.repairs.spend(now) => self.stats.drop_repair_budget += 1,
                Some(record) => records.push(record.clone()),
            }
        }
        self.stats.repaired += records.len() as u64;
        let (framing, key) = (session.framing, (room.info.id, room.info.epoch));
        self.send_replay(ix, framing, key, records);
    }

    /// Passes a speaker's frames on to control.
    pub(super) fn pass_speech(
        &mut self,
        now: Time,
        ix: SessionIx,
        slot: u16,
        frames: Vec<SpeechFrame>,
    ) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        let Some((room, own)) = session.slot else {
            self.stats.drop_unauthorised += 1;
            return self.blame(now, ix, "speech from a session without a slot");
        };
        if own != slot {
            self.stats.drop_forged_slot += 1;
            return self.blame(now, ix, "speech in a slot that is not the speaker's");
        }
        if !session.speech.spend(now) {
            self.stats.drop_speech_budget += 1;
            return;
        }
        self.tell(ToControl::Speech { room, slot, frames, at: now });
    }

    /// A connection could not take what `fanout` sends: from here on its session is served that
    /// room from the ring, beginning with tick `next`, until it has caught up. A beacon that cannot
    /// go out at once is worth nothing later, and changes nothing.
    pub fn handle_busy(&mut self, ix: SessionIx, fanout: Fanout, next: u32) {
        if fanout.kind == Kind::Beacon {
            return;
        }
        // A repaired tick that finds the connection busy sends nothing again that went out before.
        let newest = self.rooms[fanout.room].as_ref().map_or(0, |room| room.ring.newest());
        let next = if fanout.number < newest { newest.saturating_add(1) } else { next };
        let Some(session) = self.session_mut(ix) else { return };
        let here = |m: &&mut super::Membership| {
            m.room == fanout.room && matches!(m.standing, Standing::Live(_))
        };
        let Some(membership) = session.rooms.iter_mut().find(here) else { return };
        let was = *membership;
        membership.standing = Standing::Lagging { next };
        self.off_the_list(was);
    }

    /// The connection of a lagging session can take a datagram: the next tick for it, or `None`
    /// once it has caught up. Ticks older than [`limits::STALE`] are skipped and counted.
    pub fn handle_ready(&mut self, ix: SessionIx) -> Option<(u32, Bytes)> {
        loop {
            let session = self.session_mut(ix)?;
            let framing = session.framing;
            let lagging = session.rooms.iter().find_map(|m| match m.standing {
                Standing::Lagging { next } => Some((m.room, next)),
                Standing::Live(_) => None,
            });
            let (at, next) = lagging?;
            let room = self.rooms[at].as_ref()?;
            let newest = room.ring.newest();
            if next > newest {
                self.on_the_list(ix, at);
                continue;
            }
            let keep = limits::STALE.as_millis() / u128::from(room.info.tick_ms);
            let oldest = newest.saturating_sub(u32::try_from(keep).unwrap_or(0));
            let from = next.max(oldest);
            let found = (from..=newest).find_map(|n| room.ring.record(n).map(|r| (n, r.clone())));
            let (number, bytes) = match found {
                Some((number, record)) => {
                    let (id, epoch) = (room.info.id, room.info.epoch);
                    (number, Some(ticks_bytes(framing, id, epoch, false, 0, &[record])))
                }
                None => (newest, None),
            };
            self.stats.drop_stale += u64::from(number - next);
            self.lag_from(ix, at, number.saturating_add(1));
            if let Some(bytes) = bytes {
                return Some((number, bytes));
            }
        }
    }

    /// A datagram that the connection could not take after all is sent again later.
    pub fn handle_unsent(&mut self, ix: SessionIx, number: u32) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        let lagging = |m: &&mut super::Membership| matches!(m.standing, Standing::Lagging { .. });
        if let Some(membership) = session.rooms.iter_mut().find(lagging) {
            membership.standing = Standing::Lagging { next: number };
        }
    }

    /// Counts what the shell shed of a late-join or replay burst.
    pub fn handle_shed(&mut self) {
        self.stats.drop_replay_shed += 1;
    }

    /// Counts what the fan-out offered to connections: datagrams, and their payload.
    pub fn handle_offered(&mut self, now: Time, datagrams: u64, bytes: u64) {
        self.stats.offered += datagrams;
        let bytes = bytes.saturating_add(datagrams.saturating_mul(limits::PACKET_OVERHEAD_BYTES));
        self.egress.left(now, bytes, self.listeners);
    }

    /// Counts a message that did not fit into the queue to control.
    pub fn handle_control_full(&mut self) {
        self.stats.drop_to_control += 1;
    }

    fn lag_from(&mut self, ix: SessionIx, at: usize, next: u32) {
        if let Some(session) = self.session_mut(ix)
            && let Some(m) = session.rooms.iter_mut().find(|m| m.room == at)
        {
            m.standing = Standing::Lagging { next };
        }
    }
}
