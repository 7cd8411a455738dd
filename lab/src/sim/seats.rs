//! Who is in which slice of a shard's fan-out, compared with who must be.

use stentor_proto::Time;
use stentor_proto::node::Fanout;

use super::events::{ConnIx, NodeIx};
use super::node::{Seat, Shard};
use super::wires::Opener;
use super::world::World;

impl World {
    /// Compares a shard's whole fan-out with its sessions: every listener that was welcomed is in
    /// one slice and in one only, and nobody is in any who has no session.
    pub(super) fn seat_all(&mut self, node: NodeIx, shard: u16, fanout: Fanout) {
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        shard.dirty = false;
        shard.name_slices(fanout);
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
    /// Gives each slice of the fan-out a name that it keeps while others come and go: the one that
    /// its first session knew. The largest choose first, for who changes slices comes to a small
    /// one.
    fn name_slices(&mut self, fanout: Fanout) {
        let mut firsts: Vec<(usize, usize, u8)> = Vec::new();
        for (at, (list, _)) in self.machine.fanout(fanout).enumerate() {
            let seat = list.first().and_then(|&ix| self.seat(ix));
            firsts.push((list.len(), at, seat.map_or(Seat::NOWHERE, |seat| seat.slice)));
        }
        self.sizes = firsts.iter().map(|&(size, ..)| size).collect();
        self.names = vec![Seat::NOWHERE; firsts.len()];
        firsts.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, at, known) in firsts {
            let taken = |name: u8| self.names.contains(&name);
            self.names[at] = match known == Seat::NOWHERE || taken(known) {
                true => (0..Seat::NOWHERE).find(|&name| !taken(name)).unwrap_or(0),
                false => known,
            };
        }
    }

    /// Notes which slice each session is in; returns what cannot be.
    fn take_seats(&mut self, now: Time, fanout: Fanout) -> Vec<String> {
        let Self { machine, seats, names, slices, .. } = self;
        let mut wrong = Vec::new();
        slices.fill(0);
        for seat in seats.iter_mut().flatten() {
            seat.slice = Seat::NOWHERE;
        }
        for (at, (list, _)) in machine.fanout(fanout).enumerate() {
            for ix in list {
                let Some(seat) = seats.get_mut(ix.0 as usize).and_then(Option::as_mut) else {
                    wrong.push(format!("the fan-out speaks to session {} that is closed", ix.0));
                    continue;
                };
                if seat.slice != Seat::NOWHERE {
                    wrong.push(format!("session {} is in the fan-out twice", ix.0));
                }
                seat.slice = names[at];
                seat.since = seat.since.min(now);
                if let Some(held) = slices.get_mut(usize::from(seat.class)) {
                    *held |= 1 << names[at];
                }
            }
        }
        wrong
    }

    /// The connections of listeners that were welcomed and are in no slice.
    fn unseated(&mut self) -> Vec<ConnIx> {
        let mut unseated = Vec::new();
        for seat in self.seats.iter_mut().flatten().filter(|seat| seat.slice == Seat::NOWHERE) {
            seat.since = Time::MAX;
            if seat.joined {
                unseated.push(seat.conn);
            }
        }
        unseated
    }

    /// The connections of those in a cohort that are not in their leader's slice.
    fn strangers(&self) -> Vec<ConnIx> {
        let leaders = self.cohorts.iter().map(|cohort| {
            let leader = cohort.as_ref()?.leader;
            self.seats.get(leader as usize).copied().flatten().map(|seat| seat.slice)
        });
        let leaders: Vec<Option<u8>> = leaders.collect();
        let strange = |(ix, seat): (usize, &Option<Seat>)| {
            let seat = seat.as_ref().filter(|seat| seat.joined)?;
            let slice = leaders.get(usize::from(seat.class)).copied().flatten()?;
            let alone = || self.alone[usize::from(seat.class)].contains(&(ix as u32));
            (seat.slice != slice && !alone()).then_some(seat.conn)
        };
        self.seats.iter().enumerate().filter_map(strange).collect()
    }
}
