//! The child's side, by example and by random life.

use proptest::prelude::*;

use super::MS;
use crate::limits;
use crate::tree::{Attach, AttachAction, LinkState, ORIGIN};
use crate::wire::{Parent, Placement};

fn placement(version: u64, level: u8, parents: &[&str]) -> Placement {
    let parent = |name: &&str| Parent { relay: (*name).to_owned(), address: format!("{name}:1") };
    Placement { version, level, parents: parents.iter().map(parent).collect(), why: String::new() }
}

fn actions(attach: &mut Attach) -> Vec<String> {
    let text = |action| match action {
        AttachAction::Open { relay, primary, .. } => {
            format!("open {relay}{}", if primary { " first" } else { "" })
        }
        AttachAction::Close { relay } => format!("close {relay}"),
    };
    std::iter::from_fn(|| attach.poll_action()).map(text).collect()
}

/// A relay on level 2 with `a` and `b` up.
fn attached() -> Attach {
    let mut attach = Attach::new("origin:1");
    assert!(attach.handle_placement(MS(0), &placement(5, 2, &["a", "b"])));
    assert_eq!(actions(&mut attach), ["open a first", "open b"]);
    assert!(!attach.has_feed());
    attach.handle_up(MS(1), "a");
    attach.handle_up(MS(1), "b");
    assert_eq!(attach.in_force(), ["a", "b"]);
    attach
}

#[test]
fn an_older_or_invalid_placement_is_ignored() {
    let mut attach = attached();
    assert!(!attach.handle_placement(MS(2), &placement(5, 2, &["c", "d"])));
    assert!(!attach.handle_placement(MS(2), &placement(6, 2, &["c", "c"])));
    assert!(!attach.handle_placement(MS(2), &placement(6, 0, &["c", "d"])));
    assert!(!attach.handle_placement(MS(2), &placement(6, 2, &["c", ORIGIN])));
    assert_eq!(actions(&mut attach), [""; 0]);
}

#[test]
fn a_former_parent_is_left_when_the_new_one_is_up() {
    let mut attach = attached();
    attach.handle_placement(MS(2), &placement(6, 2, &["a", "c"]));
    assert_eq!(actions(&mut attach), ["open c"]);
    assert_eq!(attach.in_force(), ["a", "b"]);
    attach.handle_up(MS(9), "c");
    assert_eq!(actions(&mut attach), ["close b"]);
    assert_eq!(attach.in_force(), ["a", "c"]);
}

#[test]
fn a_former_parent_is_left_after_its_time_only_if_another_feeds() {
    let mut attach = attached();
    attach.handle_placement(MS(2), &placement(6, 2, &["c", "d"]));
    let _ = actions(&mut attach);
    let late = MS(2) + limits::FORMER_PARENT_HOLD;
    attach.handle_timeout(late, 0);
    assert_eq!(attach.in_force(), ["a", "b"]);
    let again = attach.poll_timeout().unwrap();
    attach.handle_timeout(again, 0);
    let _ = actions(&mut attach);
    attach.handle_up(again, "c");
    assert_eq!(actions(&mut attach), ["close a", "close b"]);
    assert_eq!(attach.in_force(), ["c"]);
}

#[test]
fn the_first_level_is_fed_by_the_origin_and_changes_over_without_a_gap() {
    let mut attach = Attach::new("origin:1");
    attach.handle_placement(MS(0), &placement(1, 1, &[]));
    assert_eq!(actions(&mut attach), ["open origin first"]);
    attach.handle_up(MS(1), ORIGIN);
    attach.handle_placement(MS(2), &placement(2, 2, &["a", "b"]));
    assert_eq!(actions(&mut attach), ["open a first", "open b"]);
    attach.handle_up(MS(3), "b");
    assert!(attach.has_feed());
    assert_eq!(actions(&mut attach), [""; 0]);
    attach.handle_up(MS(4), "a");
    assert_eq!(actions(&mut attach), ["close origin"]);
}

#[test]
fn a_placement_that_says_wait_takes_nothing_away() {
    let mut attach = attached();
    assert!(attach.handle_placement(MS(2), &placement(6, 2, &[])));
    assert_eq!(actions(&mut attach), [""; 0]);
    assert_eq!(attach.in_force(), ["a", "b"]);
}

#[test]
fn back_off_doubles_is_bounded_and_ends_with_a_stable_link() {
    let mut attach = attached();
    let mut now = MS(10);
    let mut waits = Vec::new();
    for random in 0..12 {
        attach.handle_down(now, "a", "reset", random * 7_777);
        let till = attach.poll_timeout().unwrap();
        waits.push(till.since(now));
        now = till;
        attach.handle_timeout(now, 0);
        assert_eq!(actions(&mut attach), ["open a first"]);
    }
    for (n, wait) in waits.iter().enumerate() {
        let full = (limits::PARENT_BACKOFF * (1 << n)).min(limits::PARENT_BACKOFF_MOST);
        assert!(*wait >= full / 2 && *wait <= full, "{n}: {wait:?}");
    }
    attach.handle_up(now, "a");
    now += limits::PARENT_STABLE;
    attach.handle_down(now, "a", "reset", 0);
    assert!(attach.poll_timeout().unwrap().since(now) <= limits::PARENT_BACKOFF);
}

#[test]
fn an_attempt_that_hangs_is_given_up_and_tried_again() {
    let mut attach = attached();
    attach.handle_placement(MS(2), &placement(6, 2, &["a", "c"]));
    let _ = actions(&mut attach);
    let now = MS(2) + limits::PARENT_CONNECT;
    attach.handle_timeout(now, 3);
    let done = actions(&mut attach);
    assert!(done.contains(&"close c".to_owned()), "{done:?}");
    let till = attach.poll_timeout().unwrap();
    attach.handle_timeout(till, 3);
    assert!(actions(&mut attach).contains(&"open c".to_owned()));
}

#[test]
fn a_parent_at_another_address_is_opened_anew() {
    let mut attach = attached();
    let mut next = placement(6, 2, &["a", "b"]);
    next.parents[1].address = "b:2".into();
    attach.handle_placement(MS(2), &next);
    assert_eq!(actions(&mut attach), ["close b", "open b"]);
    assert_eq!(attach.in_force(), ["a"]);
}

#[test]
fn links_stay_bounded_under_many_placements() {
    let mut attach = attached();
    for version in 6..50 {
        let (a, b) = (format!("x{version}"), format!("y{version}"));
        attach.handle_placement(MS(version), &placement(version, 2, &[&a, &b]));
        attach.handle_up(MS(version), &a);
        let most = limits::PARENTS + limits::FORMER_PARENTS;
        assert!(attach.parents().count() <= most && attach.has_feed());
        let _ = actions(&mut attach);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Place(u8, Vec<u8>),
    Up(u8),
    Down(u8),
    Wait(u16),
    Timeout,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..4_u8, prop::collection::vec(0..6_u8, 0..3)).prop_map(|(l, p)| Event::Place(l, p)),
        (0..7_u8).prop_map(Event::Up),
        (0..7_u8).prop_map(Event::Down),
        (0..9_000_u16).prop_map(Event::Wait),
        Just(Event::Timeout),
    ]
}

fn name(n: u8) -> String {
    if n == 6 { ORIGIN.to_owned() } else { format!("r{n}") }
}

proptest! {
    #[test]
    fn no_decision_of_its_own_takes_the_last_feed_away(
        events in prop::collection::vec(event(), 1..80),
        random in any::<u64>(),
    ) {
        let mut attach = Attach::new("origin:1");
        let mut now = MS(0);
        let mut open = std::collections::BTreeSet::new();
        for (version, event) in (1..).zip(events) {
            let fed = attach.has_feed();
            let mut may_starve = false;
            match event {
                Event::Place(level, parents) => {
                    let names: Vec<String> = parents.iter().map(|&n| name(n)).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    attach.handle_placement(now, &placement(version, level, &names));
                }
                Event::Up(n) => {
                    // The registering session is there without having been asked for.
                    if attach.parents().any(|link| n == 6 && link.relay == ORIGIN) {
                        open.insert(name(n));
                    }
                    attach.handle_up(now, &name(n));
                }
                Event::Down(n) => {
                    may_starve = true;
                    open.remove(&name(n));
                    attach.handle_down(now, &name(n), "gone", random);
                }
                Event::Wait(ms) => now += std::time::Duration::from_millis(ms.into()),
                Event::Timeout => {
                    now = attach.poll_timeout().map_or(now, |at| at.max(now));
                    attach.handle_timeout(now, random);
                    prop_assert!(attach.poll_timeout().is_none_or(|at| at > now));
                }
            }
            prop_assert!(attach.has_feed() || !fed || may_starve);
            while let Some(action) = attach.poll_action() {
                // The shell holds exactly one attempt or session for each link.
                match action {
                    AttachAction::Open { relay, .. } => prop_assert!(open.insert(relay)),
                    AttachAction::Close { relay } => prop_assert!(open.remove(&relay)),
                }
            }
            let links: Vec<_> = attach.parents().collect();
            prop_assert!(links.len() <= limits::PARENTS + limits::FORMER_PARENTS);
            for link in links {
                let waits = matches!(link.state, LinkState::BackingOff { .. });
                prop_assert_eq!(open.contains(link.relay), !waits);
            }
        }
    }
}
