//! Who gets a tick: sessions by class, framing and variant, as plain lists.

use super::variants::Variant;
use crate::wire::Framing;

/// A session's place in its shard's slab; the shell's connections have the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIx(pub u32);

/// The order in which a tick is sent: child relays first, then the stage, then listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A child relay.
    Relay,
    /// A host, co-host or speaker who hears the room.
    Stage,
    /// A listener or recorder.
    Listener,
}

impl Class {
    const ALL: [Self; 3] = [Self::Relay, Self::Stage, Self::Listener];
}

/// Where a session stands in the lists; handed back to move or remove it in constant time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The list's number.
    list: u8,
    /// The position within the list.
    at: u32,
}

const VARIANTS: usize = Variant::ALL.len();
const FRAMINGS: usize = Framing::ALL.len();
const LISTS: usize = Class::ALL.len() * FRAMINGS * VARIANTS;

/// The sessions that get a room's ticks.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    lists: [Vec<SessionIx>; LISTS],
}

impl Targets {
    /// Adds a session and says where it stands.
    pub fn add(
        &mut self,
        session: SessionIx,
        class: Class,
        framing: Framing,
        variant: Variant,
    ) -> Place {
        let list = Self::list_index(class, framing, variant);
        let at = u32::try_from(self.lists[list].len()).expect("sessions are counted in 32 bits");
        self.lists[list].push(session);
        Place { list: u8::try_from(list).expect("there are 18 lists"), at }
    }

    /// Removes the session at `place`. The session returned, if any, stands at `place` from here
    /// on: its own record of its place is to be updated.
    pub fn remove(&mut self, place: Place) -> Option<SessionIx> {
        let list = &mut self.lists[usize::from(place.list)];
        list.swap_remove(place.at as usize);
        list.get(place.at as usize).copied()
    }

    /// The variant that the session at `place` is sent.
    #[must_use]
    pub const fn variant(place: Place) -> Variant {
        Variant::ALL[place.list as usize % VARIANTS]
    }

    /// Sessions of one class by variant, in the order of [`Variant::ALL`].
    #[must_use]
    pub fn by_variant(&self, class: Class) -> [u32; VARIANTS] {
        Variant::ALL.map(|variant| {
            let lists = Framing::ALL.iter().map(|&f| Self::list_index(class, f, variant));
            lists.map(|list| self.lists[list].len() as u32).sum()
        })
    }

    /// The lists that are not empty, in the order of sending.
    pub fn lists(&self) -> impl Iterator<Item = (Framing, Variant, &[SessionIx])> {
        self.lists.iter().enumerate().filter(|(_, list)| !list.is_empty()).map(|(ix, list)| {
            let framing = Framing::ALL[ix / VARIANTS % FRAMINGS];
            (framing, Variant::ALL[ix % VARIANTS], list.as_slice())
        })
    }

    /// Whether any class has a session with this framing and variant.
    #[must_use]
    pub fn wants(&self, framing: Framing, variant: Variant) -> bool {
        Class::ALL
            .iter()
            .any(|&class| !self.lists[Self::list_index(class, framing, variant)].is_empty())
    }

    /// Whether nobody gets the room's ticks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.iter().all(Vec::is_empty)
    }

    /// Sessions of one class.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        let from = Self::list_index(class, Framing::Quic, Variant::Plain);
        self.lists[from..from + FRAMINGS * VARIANTS].iter().map(Vec::len).sum()
    }

    const fn list_index(class: Class, framing: Framing, variant: Variant) -> usize {
        (class as usize * FRAMINGS + framing.index()) * VARIANTS + variant.index()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_come_first_and_removal_keeps_places_true() {
        let mut targets = Targets::default();
        let mut places: Vec<Place> = (0..5)
            .map(|n| targets.add(SessionIx(n), Class::Listener, Framing::Quic, Variant::Plain))
            .collect();
        targets.add(SessionIx(9), Class::Relay, Framing::Quic, Variant::Plain);
        let order: Vec<u32> = targets.lists().flat_map(|(_, _, l)| l).map(|s| s.0).collect();
        assert_eq!(order, [9, 0, 1, 2, 3, 4]);
        if let Some(moved) = targets.remove(places[1]) {
            places[moved.0 as usize] = places[1];
        }
        assert_eq!(targets.remove(places[4]), Some(SessionIx(3)), "4 stood where 1 was");
        assert_eq!(targets.count(Class::Listener), 3);
    }

    #[test]
    fn a_list_keeps_its_framing_and_variant() {
        let mut targets = Targets::default();
        targets.add(SessionIx(1), Class::Listener, Framing::WebTransport, Variant::Spread);
        let (framing, variant, list) = targets.lists().next().unwrap();
        assert_eq!(
            (framing, variant, list),
            (Framing::WebTransport, Variant::Spread, &[SessionIx(1)][..])
        );
        assert!(targets.wants(Framing::WebTransport, Variant::Spread));
        assert!(!targets.wants(Framing::Quic, Variant::Plain));
    }
}
