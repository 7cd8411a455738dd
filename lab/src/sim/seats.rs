//! Who is in which slice of a shard's fan-out, compared with who must be.

use stentor_proto::Time;
use stentor_proto::fanout::SessionIx;
use stentor_proto::node::Fanout;

use super::crowd::Cohort;
use super::events::{ConnIx, NodeIx};
use super::node::{SLOTS, Seat, Shard};
use super::wires::Opener;
use super::world::World;

impl World {
    /// Compares a shard's whole fan-out with its sessions: every listener that was welcomed is in
    /// one slice and in one only, and nobody is in any who has no session.
    pub(super) fn seat_all(&mut self, node: NodeIx, shard: u16, fanout: Fanout) {
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        shard.dirty = false;
        let wrong = shard.take_seats(self.now, fanout);
        let missing = shard.unseated();
        let moved = shard.strangers();
        self.counted.full_checks += 1;
        for what in wrong {
            self.model.violation(self.now, format!("{}: {what}", self.nodes[node].name));
        }
        let listener = |world: &Self, conn: ConnIx| match world.wires.conns[conn as usize].opener {
            Opener::Listener(listener) => Some(listener),
            Opener::Uplink(..) | Opener::Speaker(_) => None,
        };
        for conn in missing {
            if let Some(listener) = listener(self, conn) {
                let name = &self.nodes[node].name;
                let what = format!("{name}: listener {listener} is not in the fan-out");
                self.model.violation(self.now, what);
            }
        }
        for conn in moved {
            if let Some(listener) = listener(self, conn) {
                self.unfold(listener);
            }
        }
    }
}

impl Shard {
    /// Notes which variant each session is sent; returns what cannot be.
    fn take_seats(&mut self, now: Time, fanout: Fanout) -> Vec<String> {
        let Self { machine, seats, sizes, slices, seen, .. } = self;
        let mut wrong = Vec::new();
        slices.fill(0);
        sizes.clear();
        seen.clear();
        seen.resize(seats.len(), false);
        for (variant, list, _) in machine.fanout_by_variant(fanout) {
            let slice = variant.index() as u8;
            sizes.push((slice, list.len()));
            for ix in list {
                let Some(seat) = seats.get_mut(ix.0 as usize).and_then(Option::as_mut) else {
                    wrong.push(format!("the fan-out speaks to session {} that is closed", ix.0));
                    continue;
                };
                if std::mem::replace(&mut seen[ix.0 as usize], true) {
                    wrong.push(format!("session {} is in the fan-out twice", ix.0));
                }
                seat.turn(now, slice);
                seat.since = seat.since.min(now);
                if let Some(held) = slices.get_mut(usize::from(seat.class)) {
                    *held |= 1 << slice;
                }
            }
        }
        wrong
    }

    /// The connections of listeners that were welcomed and are sent nothing.
    fn unseated(&mut self) -> Vec<ConnIx> {
        let mut unseated = Vec::new();
        for (seat, seen) in self.seats.iter_mut().zip(&self.seen) {
            if let Some(seat) = seat.as_mut().filter(|_| !seen) {
                (seat.slice, seat.since) = (Seat::NOWHERE, Time::MAX);
                if seat.joined {
                    unseated.push(seat.conn);
                }
            }
        }
        unseated
    }

    /// The connections of those in a cohort that are not sent what their leader is sent, and of all
    /// in a cohort that has come to the variant of a larger one.
    fn strangers(&self) -> Vec<ConnIx> {
        let leads = |cohort: &Option<Box<Cohort>>| {
            let cohort = cohort.as_ref()?;
            Some((self.seat(SessionIx(cohort.leader))?.slice, cohort.members))
        };
        let leading: Vec<[Option<u8>; SLOTS]> = self
            .cohorts
            .iter()
            .map(|slots| {
                let leads = slots.each_ref().map(leads);
                std::array::from_fn(|at| {
                    let (slice, members) = leads[at]?;
                    let larger = |(other, lead): (usize, &Option<(u8, u32)>)| {
                        other != at
                            && lead.is_some_and(|(s, m)| s == slice && (m, at) > (members, other))
                    };
                    (!leads.iter().enumerate().any(larger)).then_some(slice)
                })
            })
            .collect();
        let strange = |seat: &Option<Seat>| {
            let seat = seat.as_ref().filter(|seat| seat.cohort != Seat::NOWHERE)?;
            let slice = leading[usize::from(seat.class)][usize::from(seat.cohort)];
            (slice != Some(seat.slice)).then_some(seat.conn)
        };
        self.seats.iter().filter_map(strange).collect()
    }
}
