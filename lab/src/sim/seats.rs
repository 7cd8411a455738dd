//! Who is in which slice of a shard's fan-out, compared with who must be.

use stentor_proto::Time;
use stentor_proto::fanout::{SessionIx, Variant};
use stentor_proto::node::Fanout;

use super::crowd::Cohort;
use super::events::{ConnIx, NodeIx};
use super::node::{SLOTS, Seat, Shard};
use super::wires::Opener;
use super::world::World;

const VARIANTS: usize = Variant::ALL.len();
/// Sessions of a slice that are compared at a stroke.
const STRIDE: usize = 64;

/// A shard's fan-out as it was when its sessions were last compared with it: what is as it was then has
/// been compared, what differs is compared anew.
#[derive(Debug, Default)]
pub(super) struct Fans {
    /// The slices, in the order of sending, by variant.
    lists: Vec<(u8, Vec<SessionIx>)>,
    /// Where each session was found.
    found: Vec<Found>,
    /// Listeners in the fan-out, by class and variant.
    counts: Vec<[u32; VARIANTS]>,
    /// Sessions that came, went, or were welcomed since.
    touched: Vec<u32>,
    /// The variant of each cohort that stays one, by class and slot.
    leading: Vec<[Option<u8>; SLOTS]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// In how many places, and in which slice the last of them.
    places: u8,
    slice: u8,
    /// Under which class and variant it is counted.
    counted: Option<(u8, u8)>,
}

impl Fans {
    pub(super) fn new(classes: usize) -> Self {
        Self { counts: vec![[0; VARIANTS]; classes], ..Self::default() }
    }

    /// A session is another one, or something else is expected of it.
    pub(super) fn touch(&mut self, ix: SessionIx) {
        self.touched.push(ix.0);
    }

    /// The length of a slice as it was.
    pub(super) fn size(&self, nth: usize) -> Option<(u8, usize)> {
        self.lists.get(nth).map(|(slice, list)| (*slice, list.len()))
    }

    /// Which variants listeners of a class are sent: a bit for each.
    pub(super) fn slices(&self, class: usize) -> u32 {
        let bit = |(at, &n): (usize, &u32)| u32::from(n > 0) << at;
        self.counts[class].iter().enumerate().map(bit).sum()
    }

    /// Takes the fan-out as it is; returns the sessions whose places in it are not what they were.
    fn take(&mut self, fanout: &[(u8, &[SessionIx])]) -> Vec<u32> {
        let mut changed = std::mem::take(&mut self.touched);
        let mut former = std::mem::take(&mut self.lists);
        for &(slice, list) in fanout {
            let same = former.iter().position(|(former, _)| *former == slice);
            let mut kept = same.map_or_else(Vec::new, |at| former.remove(at).1);
            self.differences(slice, &kept, list, &mut changed);
            kept.clear();
            kept.extend_from_slice(list);
            self.lists.push((slice, kept));
        }
        for (slice, gone) in former {
            self.differences(slice, &gone, &[], &mut changed);
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    fn differences(
        &mut self,
        slice: u8,
        was: &[SessionIx],
        is: &[SessionIx],
        changed: &mut Vec<u32>,
    ) {
        let stride = |list: &[SessionIx], from: usize| {
            let upto = list.len().min(from + STRIDE);
            from.min(upto)..upto
        };
        for from in (0..was.len().max(is.len())).step_by(STRIDE) {
            let (was, is) = (&was[stride(was, from)], &is[stride(is, from)]);
            if was == is {
                continue;
            }
            for at in 0..was.len().max(is.len()) {
                let (was, is) = (was.get(at), is.get(at));
                if was == is {
                    continue;
                }
                if let Some(&ix) = was {
                    let found = self.found(ix.0);
                    found.places = found.places.wrapping_sub(1);
                    changed.push(ix.0);
                }
                if let Some(&ix) = is {
                    let found = self.found(ix.0);
                    (found.places, found.slice) = (found.places.wrapping_add(1), slice);
                    changed.push(ix.0);
                }
            }
        }
    }

    fn found(&mut self, ix: u32) -> &mut Found {
        let at = ix as usize;
        if at >= self.found.len() {
            self.found.resize(at + 1, Found::default());
        }
        &mut self.found[at]
    }

    /// Counts a session of this class where it was found; under no class if it is no listener's.
    fn count(&mut self, ix: u32, class: Option<u8>) {
        let found = self.found(ix);
        let counts = class.filter(|_| found.places > 0).map(|class| (class, found.slice));
        let former = std::mem::replace(&mut found.counted, counts);
        for (counted, sign) in [(former, -1), (counts, 1)] {
            if let Some((class, slice)) = counted {
                let count = &mut self.counts[usize::from(class)][usize::from(slice)];
                *count = count.saturating_add_signed(sign);
            }
        }
    }
}

impl World {
    /// Compares a shard's fan-out with its sessions: every listener that was welcomed is in one slice
    /// and in one only, and nobody is in any who has no session.
    pub(super) fn seat_all(&mut self, node: NodeIx, shard: u16, fanout: Fanout) {
        let shard = &mut self.nodes[node].shards[usize::from(shard)];
        shard.dirty = false;
        let Compared { wrong, missing, strange } = shard.compare(self.now, fanout);
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
        for conn in strange {
            if let Some(listener) = listener(self, conn) {
                self.unfold(listener);
            }
        }
    }
}

/// What a comparison has found.
#[derive(Debug, Default)]
struct Compared {
    /// What cannot be.
    wrong: Vec<String>,
    /// The connections of listeners that were welcomed and are sent nothing.
    missing: Vec<ConnIx>,
    /// The connections of those in a cohort that are not sent what their leader is sent, and of all in
    /// a cohort that has come to the variant of a larger one.
    strange: Vec<ConnIx>,
}

impl Shard {
    fn compare(&mut self, now: Time, fanout: Fanout) -> Compared {
        let slice = |(variant, list, _): (Variant, _, _)| (variant.index() as u8, list);
        let lists: Vec<(u8, &[SessionIx])> =
            self.machine.fanout_by_variant(fanout).map(slice).collect();
        let changed = self.fans.take(&lists);
        let mut compared = Compared::default();
        for &ix in &changed {
            self.compare_one(now, ix, &mut compared);
        }
        let leading = self.leading();
        let all = leading != self.fans.leading;
        self.fans.leading = leading;
        let strange = |seat: &Option<Seat>| {
            let seat = seat.as_ref().filter(|seat| seat.cohort != Seat::NOWHERE)?;
            let slice = self.fans.leading[usize::from(seat.class)][usize::from(seat.cohort)];
            (slice != Some(seat.slice)).then_some(seat.conn)
        };
        compared.strange = match all {
            true => self.seats.iter().filter_map(strange).collect(),
            false => {
                let seats = changed.iter().filter_map(|&ix| self.seats.get(ix as usize));
                seats.filter_map(strange).collect()
            }
        };
        compared
    }

    /// Compares one session with its places in the fan-out, and notes which variant it is sent.
    fn compare_one(&mut self, now: Time, ix: u32, compared: &mut Compared) {
        let Found { places, slice, .. } = *self.fans.found(ix);
        let seat = self.seats.get_mut(ix as usize).and_then(Option::as_mut);
        let class = seat.as_ref().map(|seat| seat.class).filter(|&class| class != Seat::OTHER);
        self.fans.count(ix, class);
        if places > 1 {
            compared.wrong.push(format!("session {ix} is in the fan-out {places} times"));
        }
        match seat {
            Some(seat) if places > 0 => {
                seat.turn(now, slice);
                seat.since = seat.since.min(now);
            }
            Some(seat) => {
                (seat.slice, seat.since) = (Seat::NOWHERE, Time::MAX);
                if seat.joined {
                    compared.missing.push(seat.conn);
                }
            }
            None if places > 0 => {
                compared.wrong.push(format!("the fan-out speaks to session {ix} that is closed"));
            }
            None => {}
        }
    }

    /// The variants of cohorts that stay: of two that have come to one variant the larger does.
    fn leading(&self) -> Vec<[Option<u8>; SLOTS]> {
        let leads = |cohort: &Option<Box<Cohort>>| {
            let cohort = cohort.as_ref()?;
            Some((self.seat(SessionIx(cohort.leader))?.slice, cohort.members))
        };
        self.cohorts
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
            .collect()
    }
}
