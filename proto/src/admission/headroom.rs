//! Places that are kept for the listeners of a relay that may die.

/// The listeners that a relay with `capacity` places sends each of its `siblings` when it dies, at most.
/// It keeps as many places itself, so that it never holds more than `siblings` such shares.
///
/// The share follows the capacity and not the load: who has come in cannot be sent away again, so
/// places that are given to newcomers while a sibling is empty are missing when it has filled.
#[must_use]
pub const fn share(capacity: u32, siblings: usize) -> u32 {
    match siblings {
        0 => 0,
        // More relays than a u32 counts have shares of one.
        siblings if siblings >= u32::MAX as usize => 1,
        siblings => capacity.div_ceil(siblings as u32 + 1),
    }
}

/// Places that a relay with `capacity` of them keeps free of newcomers, if the largest share that it may
/// be sent is `share`. The dead relay's listeners choose among its siblings by chance: two
/// standard deviations are kept on top, and who finds even those taken goes on to its second
/// alternate. Half of a relay is for newcomers, however large its siblings are.
#[must_use]
pub const fn headroom(capacity: u32, share: u32) -> u32 {
    let kept = share.saturating_add(2 * share.isqrt());
    let most = capacity / 2;
    if kept < most { kept } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Relays that know nothing of each other's loads, filled in any order up to what newcomers get.
    #[test]
    fn the_death_of_any_relay_is_survived_at_every_instant_of_any_fill() {
        let mut random = Random::new(7);
        let mut below = |n: usize| (random.next() % n as u64) as usize;
        for (relays, capacity) in [(3, 300), (4, 50), (6, 300), (9, 7_600)] {
            let siblings = relays - 1;
            let kept = headroom(capacity, share(capacity, siblings));
            let mut loads = vec![0; relays];
            // One relay is ahead of the others, as it is while a list of addresses names it first.
            let ahead = below(relays);
            loop {
                let open: Vec<usize> =
                    (0..relays).filter(|&n| loads[n] < capacity - kept).collect();
                let Some(&any) = open.get(below(open.len().max(1))) else { break };
                let at = if open.contains(&ahead) && below(3) > 0 { ahead } else { any };
                loads[at] += 1;
                let largest: u32 = *loads.iter().max().unwrap();
                let fair = largest.div_ceil(siblings as u32);
                let least = loads.iter().map(|load| capacity - load).min().unwrap();
                assert!(fair <= least && fair <= kept, "{loads:?} of {capacity}");
            }
            let inside: u32 = loads.iter().sum();
            assert_eq!(inside, (capacity - kept) * relays as u32, "nothing more is kept");
        }
    }

    #[test]
    fn the_places_for_newcomers_are_those_of_the_runbook() {
        // capacity × s / (s + 1), less two standard deviations.
        assert_eq!((share(7_600, 8), headroom(7_600, share(7_600, 8))), (845, 845 + 58));
        assert_eq!(headroom(300, share(300, 2)), 120);
        assert_eq!((share(1_000, 1), headroom(1_000, share(1_000, 1))), (500, 500));
        assert_eq!((share(1_000, 0), headroom(1_000, 0)), (0, 0), "a relay alone keeps nothing");
        assert_eq!(headroom(100, share(10_000, 3)), 50, "half is for newcomers");
    }

    /// What chance makes of a dead relay's listeners, each of which has two alternates.
    #[test]
    fn nearly_all_find_a_place_at_their_own_two_alternates() {
        let mut random = Random::new(1);
        for (relays, capacity) in [(3_usize, 300_u32), (6, 300), (9, 7_600)] {
            let siblings = relays - 1;
            let kept = headroom(capacity, share(capacity, siblings));
            let mut loads = vec![capacity - kept; siblings];
            let mut outside = 0_u32;
            for _ in 0..capacity - kept {
                let first = (random.next() % siblings as u64) as usize;
                let second =
                    (first + 1 + (random.next() % (siblings as u64 - 1)) as usize) % siblings;
                match [first, second].into_iter().find(|&at| loads[at] < capacity) {
                    Some(at) => loads[at] += 1,
                    None => outside += 1,
                }
            }
            assert_eq!(outside, 0, "of {relays} relays of {capacity}");
        }
    }
}
