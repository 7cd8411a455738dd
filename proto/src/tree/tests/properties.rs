//! What holds after any sequence of joins, deaths, drains and reports.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{MS, Told, info};
use crate::limits;
use crate::tree::{Planner, PlannerSettings, RelayView};
use crate::wire::Load;

#[derive(Clone, Debug)]
enum Step {
    Join { n: u8, capacity: u32, level: Option<u8>, region: u8 },
    Leave(u8),
    Drain(u8),
    Load { n: u8, listeners: u32, round_trips: Vec<(u8, u32)> },
    Expire,
}

fn step(pins: bool) -> impl Strategy<Value = Step> {
    let level = if pins {
        prop_oneof![Just(None), (1..5_u8).prop_map(Some)].boxed()
    } else {
        Just(None).boxed()
    };
    let trips = prop::collection::vec((0..24_u8, 0..200_000_u32), 0..6);
    prop_oneof![
        6 => (0..24_u8, 0..60_u32, level, 0..3_u8)
            .prop_map(|(n, capacity, level, region)| Step::Join { n, capacity, level, region }),
        2 => (0..24_u8).prop_map(Step::Leave),
        1 => (0..24_u8).prop_map(Step::Drain),
        2 => (0..24_u8, 0..60_u32, trips)
            .prop_map(|(n, listeners, round_trips)| Step::Load { n, listeners, round_trips }),
        1 => Just(Step::Expire),
    ]
}

/// A planner with its time and its own sequence numbers.
struct World {
    planner: Planner,
    told: Told,
    at: u64,
}

impl World {
    fn new(origin_children: u32) -> Self {
        let settings = PlannerSettings {
            origin_children,
            children_one_in: 8,
            generation: 7,
            ..PlannerSettings::default()
        };
        Self { planner: Planner::new(settings), told: Told::default(), at: 0 }
    }

    /// Runs a step, drains the placements, and returns who was told something.
    fn run(&mut self, step: &Step) -> Vec<String> {
        self.at += 1;
        let now = MS(self.at * 400);
        let name = |n: &u8| format!("r{n}");
        match step {
            Step::Join { n, capacity, level, region } => {
                let mut relay = info(&name(n), *capacity, *level);
                relay.region = region.to_string();
                let _ = self.planner.join(now, relay);
            }
            Step::Leave(n) => drop(self.planner.leave(now, &name(n))),
            Step::Drain(n) => drop(self.planner.drain(now, &name(n))),
            Step::Load { n, listeners, round_trips } => {
                let load = Load {
                    incarnation: 1,
                    sequence: self.at,
                    listeners: *listeners,
                    round_trips: round_trips.iter().map(|(n, us)| (name(n), *us)).collect(),
                    ..Load::default()
                };
                let _ = self.planner.load(now, &name(n), &load);
            }
            Step::Expire => drop(self.planner.expire(now)),
        }
        let told = self.told.drain(&mut self.planner);
        let here: BTreeSet<String> = self.planner.topology().map(|r| r.id.to_owned()).collect();
        self.told.0.retain(|id, _| here.contains(id));
        told
    }

    fn relays(&self) -> BTreeMap<&str, RelayView<'_>> {
        self.planner.topology().map(|r| (r.id, r)).collect()
    }
}

type Tree<'a> = BTreeMap<&'a str, RelayView<'a>>;

/// A relay and all of its ancestors.
fn above<'a>(tree: &Tree<'a>, id: &'a str) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::from([id]);
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        stack.extend(tree[id].parents.iter().filter(|p| all.insert(p)));
    }
    all
}

/// Whether ticks reach `id` while `dead` is dead.
fn reached(tree: &Tree<'_>, id: &str, dead: &str) -> bool {
    id != dead && (tree[id].level == 1 || tree[id].parents.iter().any(|p| reached(tree, p, dead)))
}

fn fully_apart<'a>(tree: &Tree<'a>, a: &'a str, b: &'a str) -> bool {
    above(tree, a).is_disjoint(&above(tree, b))
}

fn survives<'a>(tree: &Tree<'a>, a: &'a str, b: &'a str) -> bool {
    let mut dead = above(tree, a).into_iter().chain(above(tree, b));
    dead.all(|dead| reached(tree, a, dead) || reached(tree, b, dead))
}

fn has_room(tree: &Tree<'_>, relay: &RelayView<'_>) -> bool {
    let children = relay.children.max(relay.load.children);
    reached(tree, relay.id, "")
        && !relay.draining
        && relay.children < relay.children_limit
        && relay.load.listeners + children < relay.capacity
}

/// Levels, parents, counts and limits agree, and what relays were told is what is planned.
fn check(world: &World, origin_children: usize) {
    let tree = world.relays();
    let mut edges: BTreeMap<&str, u32> = BTreeMap::new();
    for relay in tree.values() {
        assert!((1..=limits::LEVELS).contains(&relay.level));
        assert!(relay.level > 1 || relay.parents.is_empty());
        assert!(relay.parents.len() <= limits::PARENTS);
        for parent in &relay.parents {
            assert!(tree[parent].level < relay.level, "{relay:?}");
            *edges.entry(parent).or_default() += 1;
        }
        if let [a, b] = relay.parents[..] {
            assert_ne!(a, b);
        }
        let told: Vec<&str> = world.told.parents(relay.id);
        assert_eq!((world.told.0[relay.id].level, told), (relay.level, relay.parents.clone()));
    }
    for relay in tree.values() {
        assert_eq!(relay.children, edges.get(relay.id).copied().unwrap_or(0));
        assert!(relay.children <= relay.children_limit);
    }
    assert!(tree.values().filter(|r| r.level == 1).count() <= origin_children);
}

/// Whoever has fewer than two well parents has no other choice.
fn check_complete(world: &World) {
    let tree = world.relays();
    for relay in tree.values().filter(|r| r.level > 1) {
        let well = relay.parents.iter().filter(|p| !tree[*p].draining).count();
        let other = |r: &&RelayView<'_>| {
            r.level < relay.level && has_room(&tree, r) && !relay.parents.contains(&r.id)
        };
        let others: Vec<&str> = tree.values().filter(other).map(|r| r.id).collect();
        assert!(well >= limits::PARENTS || others.is_empty(), "{relay:?}: {others:?}");
    }
}

/// Compares a fresh placement with every pair that had room before it.
fn check_choice(before: &World, after: &World, id: &str) {
    let (was, is) = (before.relays(), after.relays());
    let Some(relay) = is.get(id).filter(|r| r.level > 1) else {
        return;
    };
    let open: Vec<&RelayView<'_>> =
        was.values().filter(|r| r.level < relay.level && has_room(&was, r)).collect();
    let pairs = || {
        let seconds = |(at, a)| open[at + 1..].iter().map(move |b| (a, b));
        open.iter().enumerate().flat_map(seconds)
    };
    let [a, b] = relay.parents[..] else {
        assert_eq!(pairs().count(), 0, "{relay:?}");
        return;
    };
    if pairs().any(|(x, y)| survives(&was, x.id, y.id)) {
        assert!(survives(&was, a, b), "{relay:?}");
    }
    let near = |r: &RelayView<'_>| r.level + 1 == relay.level;
    if pairs().any(|(x, y)| near(x) && near(y) && fully_apart(&was, x.id, y.id)) {
        assert!(fully_apart(&was, a, b), "{relay:?}");
    }
}

fn replay(steps: &[Step], origin_children: u32) -> World {
    let mut world = World::new(origin_children);
    for step in steps {
        world.run(step);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_tree_is_sound_after_every_step(
        steps in prop::collection::vec(step(true), 1..60),
        origin_children in 2..6_u32,
    ) {
        let mut world = World::new(origin_children);
        for step in &steps {
            world.run(step);
            check(&world, origin_children as usize);
            check_complete(&world);
        }
    }

    #[test]
    fn a_new_relay_gets_the_parents_furthest_apart(
        steps in prop::collection::vec(step(false), 1..40),
        origin_children in 2..5_u32,
        capacity in 0..60_u32,
    ) {
        let before = replay(&steps, origin_children);
        let mut after = replay(&steps, origin_children);
        after.run(&Step::Join { n: 99, capacity, level: None, region: 0 });
        check_choice(&before, &after, "r99");
    }

    #[test]
    fn a_death_moves_only_children_and_a_return_moves_nobody_well(
        steps in prop::collection::vec(step(false), 1..60),
        n in 0..24_u8,
    ) {
        let id = format!("r{n}");
        let before = replay(&steps, 3);
        let mut world = replay(&steps, 3);
        let told = world.run(&Step::Leave(n));
        for name in &told {
            let was = before.relays();
            let well = was[name.as_str()].parents.iter().filter(|p| !was[*p].draining);
            // A child of the dead; or one that wanted for a parent and gets the room set free.
            let child = was[name.as_str()].parents.contains(&id.as_str());
            prop_assert!(child || well.count() < limits::PARENTS, "{name}");
            if child && world.relays()[name.as_str()].level > 1 {
                let kept = was[name.as_str()].parents.iter()
                    .filter(|p| **p != id && !was[*p].draining);
                for parent in kept {
                    prop_assert!(world.relays()[name.as_str()].parents.contains(parent));
                }
            }
        }
        let wanting: BTreeSet<String> = world.planner.topology()
            .filter(|r| r.wanting).map(|r| r.id.to_owned()).collect();
        let told = world.run(&Step::Join { n, capacity: 40, level: None, region: 0 });
        for name in told {
            prop_assert!(name == id || wanting.contains(&name), "{name} moved on a return");
        }
    }

    #[test]
    fn the_same_steps_make_the_same_tree(
        steps in prop::collection::vec(step(true), 1..60),
    ) {
        let (one, two) = (replay(&steps, 3), replay(&steps, 3));
        prop_assert_eq!(one.told.0, two.told.0);
    }
}
