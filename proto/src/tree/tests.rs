//! The planner, by example; `properties` holds what is true of any tree.

mod attach;
mod properties;

use std::collections::BTreeMap;

use super::*;
use crate::Time;
use crate::limits;
use crate::wire::{Load, Placement, RelayInfo};

const MS: fn(u64) -> Time = Time::from_millis;

fn info(id: &str, capacity: u32, level: Option<u8>) -> RelayInfo {
    RelayInfo {
        id: id.to_owned(),
        address: format!("{id}:4433"),
        region: String::new(),
        capacity,
        level,
        incarnation: 1,
        pass_key: None,
        certificate_hashes: Vec::new(),
    }
}

fn planner(origin_children: u32) -> Planner {
    Planner::new(PlannerSettings { origin_children, ..PlannerSettings::default() })
}

/// What relays were told, the newest placement of each.
#[derive(Default)]
struct Told(BTreeMap<String, Placement>);

impl Told {
    /// Drains the planner and returns the names of those that were told something.
    fn drain(&mut self, planner: &mut Planner) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((name, placement)) = planner.poll_placement() {
            if let Some(before) = self.0.get(&name) {
                assert!(placement.version > before.version, "versions rise");
            }
            assert!(!placement.why.is_empty());
            self.0.insert(name.clone(), placement);
            names.push(name);
        }
        names
    }

    fn parents(&self, id: &str) -> Vec<&str> {
        let parents = self.0[id].parents.iter();
        parents.map(|p| p.relay.as_str()).collect()
    }
}

fn join_all(planner: &mut Planner, ids: &[(&str, Option<u8>)]) -> Told {
    for (id, level) in ids {
        planner.join(MS(0), info(id, 1_000, *level)).unwrap();
    }
    let mut told = Told::default();
    told.drain(planner);
    told
}

#[test]
fn the_first_level_fills_before_anything_goes_deeper() {
    let mut planner = planner(2);
    let told = join_all(&mut planner, &[("a", None), ("b", None), ("c", None)]);
    assert_eq!(told.0["a"].level, 1);
    assert_eq!(told.0["b"].level, 1);
    assert_eq!(told.0["c"].level, 2);
    assert_eq!(told.parents("c"), ["a", "b"]);
    let why = &told.0["c"].why;
    assert!(why.contains("`a`") && why.contains("share no relay"), "{why}");
}

#[test]
fn pinned_levels_are_honoured_in_whatever_order_relays_come() {
    let pins = [("e", 3), ("c", 2), ("a", 1), ("f", 3), ("b", 1), ("d", 2)];
    let pins: Vec<(&str, Option<u8>)> = pins.iter().map(|&(id, l)| (id, Some(l))).collect();
    for turn in 0..pins.len() {
        let mut order = pins.clone();
        order.rotate_left(turn);
        let mut planner = planner(64);
        let told = join_all(&mut planner, &order);
        for (id, level) in &order {
            assert_eq!(Some(told.0[*id].level), *level);
        }
        for (child, parents) in [("c", ["a", "b"]), ("d", ["a", "b"]), ("e", ["c", "d"])] {
            let mut has = told.parents(child);
            has.sort_unstable();
            assert_eq!(has, parents, "turn {turn}: {}", told.0[child].why);
        }
    }
}

#[test]
fn a_pinned_relay_waits_for_parents_and_says_so() {
    let mut planner = planner(64);
    let mut told = join_all(&mut planner, &[("c", Some(2))]);
    assert_eq!(told.parents("c"), [""; 0]);
    assert!(told.0["c"].why.contains("waits for a parent"));
    planner.join(MS(1), info("a", 1_000, Some(1))).unwrap();
    told.drain(&mut planner);
    assert_eq!(told.parents("c"), ["a"]);
    assert!(told.0["c"].why.contains("waits for a second parent"));
    planner.join(MS(2), info("b", 1_000, None)).unwrap();
    told.drain(&mut planner);
    assert_eq!(told.parents("c"), ["a", "b"]);
    assert!(!planner.relay("c").unwrap().wanting);
}

#[test]
fn a_death_moves_its_children_only_and_a_return_moves_nobody() {
    let mut planner = planner(4);
    for n in 0..40 {
        planner.join(MS(0), info(&format!("r{n}"), 64, None)).unwrap();
    }
    let mut told = Told::default();
    told.drain(&mut planner);
    let is_child = |p: &Placement| p.parents.iter().any(|parent| parent.relay == "r1");
    let mut children: Vec<String> =
        told.0.iter().filter(|(_, p)| is_child(p)).map(|(n, _)| n.clone()).collect();
    assert!(!children.is_empty());
    let kept: BTreeMap<String, String> = children
        .iter()
        .map(|c| {
            let other = told.parents(c).into_iter().find(|p| *p != "r1").unwrap();
            (c.clone(), other.to_owned())
        })
        .collect();
    assert!(planner.leave(MS(1), "r1"));
    let mut moved = told.drain(&mut planner);
    moved.sort_unstable();
    children.sort_unstable();
    assert_eq!(moved, children);
    for child in &moved {
        assert!(told.0[child].why.starts_with("parent `r1` left"));
        let level = told.0[child].level;
        assert!(level == 1 || told.parents(child).contains(&kept[child].as_str()));
    }
    planner.join(MS(2), info("r1", 64, None)).unwrap();
    assert_eq!(told.drain(&mut planner), ["r1"]);
}

#[test]
fn a_restarted_relay_keeps_its_place_and_is_told_it_again() {
    let mut planner = planner(2);
    let mut told = join_all(&mut planner, &[("a", None), ("b", None), ("c", None)]);
    let mut reborn = info("a", 1_000, None);
    reborn.incarnation = 2;
    planner.join(MS(1), reborn.clone()).unwrap();
    assert_eq!(told.drain(&mut planner), ["a"]);
    reborn.incarnation = 3;
    reborn.address = "elsewhere:1".into();
    planner.join(MS(2), reborn.clone()).unwrap();
    assert_eq!(told.drain(&mut planner), ["a", "c"]);
    assert_eq!(told.0["c"].parents[0].address, "elsewhere:1");
    reborn.incarnation = 2;
    let refused = planner.join(MS(3), reborn).unwrap_err();
    assert!(refused.to_string().contains("`a`: incarnation 2 is older than 3"));
}

#[test]
fn a_drain_gives_the_children_away_and_a_return_ends_it() {
    let mut planner = planner(3);
    let mut told = join_all(&mut planner, &[("a", None), ("b", None), ("c", None), ("d", None)]);
    assert_eq!(told.parents("d"), ["a", "b"]);
    assert!(planner.drain(MS(1), "a"));
    assert_eq!(told.drain(&mut planner), ["d"]);
    assert_eq!(told.parents("d"), ["b", "c"]);
    assert!(told.0["d"].why.starts_with("parent `a` drains"));
    // No third relay is left: the draining parent is kept as long as it lasts.
    assert!(planner.drain(MS(2), "b"));
    told.drain(&mut planner);
    let mut has = told.parents("d");
    has.sort_unstable();
    assert!(planner.relay("d").unwrap().level == 1 || has == ["b", "c"]);
    planner.join(MS(3), info("a", 1_000, None)).unwrap();
    assert!(!planner.relay("a").unwrap().draining);
}

#[test]
fn a_relay_that_finds_no_parents_on_its_level_goes_no_deeper_than_it_must() {
    let mut planner = planner(2);
    let tree = [
        ("a", Some(1)),
        ("b", Some(1)),
        ("c", Some(2)),
        ("d", Some(2)),
        ("e", Some(3)),
        ("f", Some(3)),
        ("g", Some(4)),
        ("h", Some(4)),
        ("x", None),
    ];
    for (id, level) in tree {
        // Three children each.
        planner.join(MS(0), info(id, 24, level)).unwrap();
    }
    let mut told = Told::default();
    told.drain(&mut planner);
    assert_eq!((told.0["x"].level, told.parents("x")), (2, vec!["a", "b"]));
    planner.drain(MS(1), "a");
    told.drain(&mut planner);
    assert_eq!((told.0["x"].level, told.parents("x")), (3, vec!["b", "c"]));
}

#[test]
fn bad_facts_are_refused_by_name() {
    let mut planner = planner(2);
    let refused = |planner: &mut Planner, info| planner.join(MS(0), info).unwrap_err().to_string();
    assert!(refused(&mut planner, info("", 1, None)).contains("name"));
    assert!(refused(&mut planner, info(ORIGIN, 1, None)).contains("reserved"));
    assert!(refused(&mut planner, info(&"ä".repeat(100), 1, None)).contains("name"));
    assert!(refused(&mut planner, info("a", 1, Some(0))).contains("level 0"));
    assert!(refused(&mut planner, info("a", 1, Some(13))).contains("level 13"));
    planner.join(MS(0), info("a", 0, None)).unwrap();
    planner.join(MS(0), info("b", 1, None)).unwrap();
    planner.join(MS(0), info("c", 0, None)).unwrap();
    assert_eq!(planner.relay("c").unwrap().parents, ["b"]);
    assert!(refused(&mut planner, info("d", 9, None)).contains("no"));
    assert_eq!(planner.counts().refused, 6);
    assert_eq!(planner.len(), 3);
    let unknown = planner.load(MS(1), "x", &Load::default()).unwrap_err();
    assert_eq!(unknown.to_string(), "relay `x` is not in the tree");
}

/// A second passes: everyone reports, `c` says that it does not hear `silent`.
fn second(planner: &mut Planner, at: u64, ids: &[&str], silent: &[&str]) {
    for id in ids {
        let silent = if *id == "c" { silent } else { &[] };
        let silent = silent.iter().map(|&id| id.to_owned()).collect();
        let load = Load { incarnation: 1, sequence: at, silent, ..Load::default() };
        planner.load(MS(at * 1_000), id, &load).unwrap();
    }
    planner.expire(MS(at * 1_000));
}

#[test]
fn a_child_that_does_not_reach_a_parent_who_is_well_gets_another() {
    let mut planner = planner(3);
    let all = ["a", "b", "x", "c", "d"];
    let mut told = join_all(&mut planner, &all.map(|id| (id, None)));
    let former: Vec<String> = told.parents("c").into_iter().map(str::to_owned).collect();
    for at in 1..=5 {
        second(&mut planner, at, &all, &[&former[0]]);
        assert!(told.drain(&mut planner).is_empty(), "it may be a short interruption");
    }
    second(&mut planner, 6, &all, &[&former[0]]);
    assert_eq!(told.drain(&mut planner), ["c"], "nobody else moves");
    let parents = told.parents("c");
    assert!(parents.contains(&former[1].as_str()) && !parents.contains(&former[0].as_str()));
    assert!(told.0["c"].why.contains("not reached"), "{}", told.0["c"].why);
    // The path is whole again: it keeps what it has.
    for at in 7..=80 {
        second(&mut planner, at, &all, &[]);
        assert!(told.drain(&mut planner).is_empty());
    }
}

#[test]
fn a_child_that_blames_everybody_moves_no_more_than_there_are_relays() {
    let mut planner = planner(2);
    let all = ["a", "b", "c"];
    let mut told = join_all(&mut planner, &all.map(|id| (id, None)));
    let mut moves = 0;
    for at in 1..=50 {
        let parents: Vec<String> = told.parents("c").into_iter().map(str::to_owned).collect();
        let silent: Vec<&str> = parents.iter().map(String::as_str).collect();
        second(&mut planner, at, &all, &silent);
        moves += told.drain(&mut planner).len();
    }
    assert!(moves <= 2, "{moves} moves");
    assert_eq!(told.parents("c").len(), 2, "parents that are not heard are better than none");
}

#[test]
fn a_silent_relay_expires_but_not_after_the_planners_own_sleep() {
    let mut planner = planner(2);
    join_all(&mut planner, &[("a", None), ("b", None)]);
    let mut now = MS(0);
    let mut sequence = 0;
    let mut gone = Vec::new();
    while now < MS(12_000) {
        now = planner.poll_timeout().unwrap().max(now + limits::TICK);
        sequence += 1;
        let load = Load { incarnation: 1, sequence, ..Load::default() };
        planner.load(now, "a", &load).unwrap();
        gone.extend(planner.expire(now));
    }
    assert_eq!(gone, ["b"]);
    let asleep = now + limits::REPORT_EXPIRY * 6;
    assert_eq!(planner.expire(asleep), [""; 0]);
    let mut now = asleep;
    while planner.len() == 1 {
        now = planner.poll_timeout().unwrap().max(now + limits::TICK);
        gone.extend(planner.expire(now));
    }
    assert_eq!(now, asleep + limits::REPORT_EXPIRY);
    assert_eq!(planner.poll_timeout(), None);
    assert_eq!(planner.counts().expired, 2);
}

#[test]
fn the_depth_is_the_logarithm_and_ten_thousand_relays_find_their_place() {
    // 64 sessions are 8 children, and each child takes two: the tree widens by 4 a level.
    for (relays, depth) in [(64, 1), (64 + 256, 2), (1_000, 3), (10_000, 5)] {
        let mut planner = planner(64);
        for n in 0..relays {
            planner.join(MS(n), info(&format!("r{n}"), 64, None)).unwrap();
        }
        let deepest = planner.topology().map(|r| r.level).max().unwrap();
        assert_eq!(deepest, depth, "{relays} relays");
        assert!(planner.topology().all(|r| !r.wanting && r.children <= r.children_limit));
    }
}

#[test]
fn the_same_region_and_the_shorter_way_are_preferred() {
    let mut planner = planner(6);
    for (n, region) in ["eu", "us", "eu", "us", "us", "eu"].iter().enumerate() {
        let mut relay = info(&format!("r{n}"), 1_000, None);
        relay.region = (*region).to_owned();
        planner.join(MS(0), relay).unwrap();
    }
    let mut child = info("c", 1_000, None);
    child.region = "us".into();
    planner.join(MS(0), child).unwrap();
    assert_eq!(planner.relay("c").unwrap().parents, ["r1", "r3"]);
    let mut report = |now, sequence, far: u32| {
        let round_trips = [("r1", far), ("r3", 9_000), ("r4", 8_000)];
        let load = Load {
            incarnation: 1,
            sequence,
            round_trips: round_trips.map(|(id, us)| (id.to_owned(), us)).to_vec(),
            ..Load::default()
        };
        planner.load(now, "c", &load).unwrap();
        planner.relay("c").unwrap().parents.join(" ")
    };
    let later = MS(0) + limits::NEARER_APART;
    assert_eq!(report(MS(1), 1, 90_000), "r1 r3", "too soon");
    assert_eq!(report(later, 2, 20_000), "r1 r3", "not worth it");
    assert_eq!(report(later, 3, 90_000), "r4 r3");
    let counts = planner.counts();
    assert_eq!((counts.moved, counts.stale_loads), (1, 0));
    assert!(planner.relay("c").unwrap().why.contains("8.0 ms"));
}

#[test]
fn alternates_are_spread_by_free_sessions() {
    let mut planner = planner(64);
    for n in 0..20 {
        let capacity = if n < 10 { 3_000 } else { 1_000 };
        planner.join(MS(0), info(&format!("r{n:02}"), capacity, None)).unwrap();
    }
    let full = Load { incarnation: 1, sequence: 1, listeners: 3_000, ..Load::default() };
    planner.load(MS(1), "r05", &full).unwrap();
    let mut drawn: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..2_000 {
        let alternates = planner.alternates("r00", 2, seed);
        assert_eq!(alternates.len(), 2);
        assert_ne!(alternates[0], alternates[1]);
        for alternate in alternates {
            *drawn.entry(alternate.relay).or_default() += 1;
        }
    }
    assert!(!drawn.contains_key("r00") && !drawn.contains_key("r05"));
    let large: u32 = (1..10).filter_map(|n| drawn.get(&format!("r{n:02}"))).sum();
    let small: u32 = (10..20).filter_map(|n| drawn.get(&format!("r{n:02}"))).sum();
    // 8 × 3,000 against 10 × 1,000 sessions: 2.4 to 1, a little less without replacement.
    assert!((2.0..2.6).contains(&(f64::from(large) / f64::from(small))), "{large} {small}");
    assert!(drawn.values().all(|&n| n > 80 && n < 500), "{drawn:?}");
}
