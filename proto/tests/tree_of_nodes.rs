//! Whole trees: an origin, relays on three levels, listeners and speakers in one virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "the world is a module of its test")]

#[path = "world/people_tests.rs"]
mod people;
mod world;

use stentor_proto::limits;
use stentor_proto::node::{Tick, ToShard};
use stentor_proto::wire::{CloseCode, TickFlags, TickKey, record_bytes};

use world::{Setup, World};

/// Nodes of `World::tree(_, 3, 2)` by level.
const LEVEL_1: [usize; 2] = [1, 2];
const LEVEL_2: [usize; 2] = [3, 4];
const LEVEL_3: [usize; 2] = [5, 6];

/// Three levels of two relays, a listener on each relay, and a speaker in the hall.
fn hall(setup: Setup) -> World {
    let mut world = World::tree(setup, 3, 2);
    for node in 1..=6 {
        assert_eq!(world.listen(node, "hall"), node - 1);
    }
    world.step(500);
    world.speak("hall", "ada");
    world.step(500);
    world
}

/// Whether a listener had every tick of the epoch exactly once, from its first to its newest,
/// which is at most 100 ms behind the origin's.
fn assert_complete(world: &World, listener: usize, room: u32, epoch: u32) {
    let heard = &world.listeners[listener].heard;
    assert!(heard.values().all(|&times| times == 1), "{listener} heard a tick twice");
    let numbers: Vec<u32> = heard.keys().filter(|k| k.0 == epoch).map(|k| k.1).collect();
    let mut sent = world.sent(room, *numbers.first().expect("some tick came"));
    let behind = sent.len() - numbers.len();
    assert!(behind <= 6, "listener {listener} lacks {behind} ticks");
    sent.truncate(numbers.len());
    assert_eq!(numbers, sent, "listener {listener}");
}

fn stats(world: &World, node: usize) -> stentor_proto::node::ControlStats {
    world.nodes[node].control.stats()
}

#[test]
fn every_relay_gets_its_place_and_both_parents() {
    for shards in [1, 2] {
        let world = World::tree(Setup { shards, ..Setup::default() }, 3, 2);
        for (level, nodes) in (1..).zip([LEVEL_1, LEVEL_2, LEVEL_3]) {
            for node in nodes {
                let view = world.view(node);
                assert_eq!(view.level, Some(level), "{}", view.why);
                let mut parents: Vec<&str> =
                    view.parents.iter().filter(|p| p.up).map(|p| p.relay.as_str()).collect();
                parents.sort_unstable();
                let expected = match level {
                    1 => vec!["origin"],
                    2 => vec!["r11", "r12"],
                    _ => vec!["r21", "r22"],
                };
                assert_eq!(parents, expected, "{}", view.node);
                assert_eq!(view.not_ready, None);
            }
        }
        assert_eq!(world.view(0).relays.len(), 6);
    }
}

#[test]
fn a_listener_at_level_3_hears_every_tick_once_in_spite_of_two_feeds() {
    for shards in [1, 2] {
        let mut world = hall(Setup { shards, ..Setup::default() });
        world.step(10_000);
        for listener in 0..6 {
            assert_complete(&world, listener, 1, 1);
            let frames = &world.listeners[listener].frames[&world.speakers[0].slot];
            assert!(frames.is_sorted_by(|a, b| a + 1 == *b), "every frame once and in order");
            assert!(frames.len() >= 500);
            assert_eq!(world.listeners[listener].stats().window.requested, 0);
        }
        for node in LEVEL_2.into_iter().chain(LEVEL_3) {
            let stats = stats(&world, node);
            assert!(stats.duplicate + 60 >= stats.ticks, "both feeds deliver: {stats:?}");
            assert_eq!((stats.lost, stats.repair_requested, stats.feeds_silent), (0, 0, 0));
        }
    }
}

#[test]
fn the_death_of_one_first_level_relay_loses_no_tick_elsewhere() {
    for black_hole in [false, true] {
        let mut world = hall(Setup::default());
        match black_hole {
            true => world.black_hole(LEVEL_1[0]),
            false => world.kill(LEVEL_1[0]),
        }
        world.step(5_000);
        for listener in 1..6 {
            assert_complete(&world, listener, 1, 1);
            assert_eq!(world.listeners[listener].stats().window.lost, 0);
        }
        if black_hole {
            let silent: u64 = LEVEL_2.iter().map(|&node| stats(&world, node).feeds_silent).sum();
            assert_eq!(silent, 2, "both children noticed, once each");
        }
    }
}

#[test]
fn a_gap_does_not_wait_for_a_silent_feed() {
    let mut world = hall(Setup { loss_permille: 20, ..Setup::default() });
    world.black_hole(LEVEL_1[0]);
    world.step(10_000);
    for listener in 1..6 {
        let stats = world.listeners[listener].stats().window;
        assert!(stats.lost <= 1, "{stats:?}");
    }
}

#[test]
fn a_relay_that_joins_late_finds_its_place_and_its_feeds() {
    let mut world = hall(Setup::default());
    let late = world.relay("late", 3);
    world.step(500);
    let listener = world.listen(late, "hall");
    world.step(2_000);
    assert_eq!(world.view(late).level, Some(3));
    assert_eq!(world.view(late).parents.iter().filter(|p| p.up).count(), 2);
    assert_complete(&world, listener, 1, 1);
}

#[test]
fn a_room_that_nobody_wants_is_given_back_and_comes_again() {
    let mut world = World::tree(Setup { shards: 2, ..Setup::default() }, 3, 2);
    let leaf = LEVEL_3[0];
    let listener = world.listen(leaf, "hall");
    world.step(500);
    let rooms = |world: &World, node: usize| world.view(node).rooms.len();
    assert!([LEVEL_1, LEVEL_2].iter().flatten().all(|&node| rooms(&world, node) == 1));
    world.hang_up(world.listeners[listener].conn);
    world.step(limits::ROOM_LINGER.as_millis() as u64 - 500);
    assert_eq!(rooms(&world, leaf), 1);
    world.step(1_000);
    assert_eq!(rooms(&world, leaf), 0);
    // Each level keeps it for as long again.
    world.step(2 * limits::ROOM_LINGER.as_millis() as u64 + 1_000);
    assert!((1..=6).all(|node| rooms(&world, node) == 0));
    let again = world.listen(leaf, "hall");
    world.step(1_000);
    assert!((1..=5).all(|node| rooms(&world, node) == 1));
    assert_complete(&world, again, 1, 1);
}

#[test]
fn a_room_made_on_first_use_ends_when_nobody_is_in_it_and_begins_anew() {
    let setup = Setup { shards: 2, first_use: true, ..Setup::default() };
    let mut world = World::tree(setup, 3, 2);
    let unused = limits::ROOM_UNUSED.as_millis() as u64;
    let rooms = |world: &World| -> Vec<(String, u32)> {
        world.view(0).rooms.iter().map(|room| (room.room.clone(), room.epoch)).collect()
    };
    let (hall, yard) = (("hall".to_owned(), 1), ("yard".to_owned(), 1));
    let listener = world.listen(LEVEL_3[0], "yard");
    world.step(unused + 20_000);
    assert_eq!(rooms(&world), [hall.clone(), yard.clone()], "someone is in it");
    world.hang_up(world.listeners[listener].conn);
    // Each level keeps it for as long as it lingers there.
    let linger = 3 * limits::ROOM_LINGER.as_millis() as u64;
    world.step(unused);
    assert_eq!(rooms(&world), [hall.clone(), yard]);
    world.step(linger + 1_000);
    assert_eq!(rooms(&world), std::slice::from_ref(&hall), "a configured room stays");
    let again = world.listen(LEVEL_3[0], "yard");
    world.step(2_000);
    assert_eq!(rooms(&world), [hall, ("yard".to_owned(), 2)]);
    assert_complete(&world, again, 3, 2);
}

#[test]
fn rooms_on_first_use_do_not_use_up_the_table() {
    let mut world = World::tree(Setup { first_use: true, ..Setup::default() }, 1, 1);
    for n in 1..limits::ROOMS {
        let listener = world.listen(0, &format!("room-{n}"));
        world.step(20);
        world.hang_up(world.listeners[listener].conn);
    }
    let refused = world.listen(0, "one-more");
    world.step(100);
    assert_eq!(world.listeners[refused].closed.map(|(_, code)| code), Some(CloseCode::Full));
    assert_eq!(stats(&world, 0).drop_room_table, 1);
    world.step(limits::ROOM_UNUSED.as_millis() as u64 + 200);
    let admitted = world.listen(0, "one-more");
    world.step(500);
    assert_complete(&world, admitted, limits::ROOMS as u32 + 1, limits::ROOMS as u32);
}

#[test]
fn an_unknown_room_is_refused_by_name_all_the_way_down() {
    let mut world = World::tree(Setup { shards: 2, ..Setup::default() }, 3, 2);
    let asked = world.now;
    let listeners = LEVEL_3.map(|node| world.listen(node, "nowhere"));
    world.step(limits::JOIN_DEADLINE.as_millis() as u64);
    for listener in listeners {
        let (at, code) = world.listeners[listener].closed.unwrap();
        assert_eq!(code, CloseCode::NoRoom);
        assert!(at < asked + limits::JOIN_DEADLINE / 10);
    }
    assert!((1..=6).all(|node| world.view(node).rooms.is_empty()));
}

#[test]
fn listeners_go_on_when_the_origin_starts_again_with_a_higher_epoch() {
    let first = Setup { first_use: true, rooms: &["hall", "yard"], ..Setup::default() };
    let mut world = hall(first);
    let yard = world.listen(LEVEL_3[1], "yard");
    world.step(2_000);
    // The rooms are numbered in another order.
    world.restart_origin(Setup { epoch: 2, rooms: &["yard", "hall"], ..first });
    world.step(3_000);
    world.speak("hall", "ada");
    world.step(3_000);
    for listener in 0..6 {
        let listener_ = &world.listeners[listener];
        assert_eq!(listener_.closed, None);
        let news: Vec<_> = listener_.subscribed.iter().map(|s| (s.epoch, s.id)).collect();
        assert_eq!(news, [(1, 1), (2, 2)]);
        assert_complete(&world, listener, 2, 2);
        assert!(listener_.frames[&world.speakers[1].slot].len() > 100);
        let document = listener_.documents.last().unwrap();
        assert_eq!(document.stage[0].identity, "ada", "the new epoch's document came");
    }
    assert_complete(&world, yard, 1, 2);
    assert!(world.listeners[yard].frames.is_empty());
}

#[test]
fn with_repair_two_per_cent_of_loss_on_every_hop_does_not_add_up() {
    let mut world = hall(Setup { loss_permille: 20, ..Setup::default() });
    world.step(20_000);
    let lost = |listener: usize| world.listeners[listener].stats().window.lost;
    let sent = world.sent(1, 1).len() as u64;
    for listener in 0..6 {
        let stats = world.listeners[listener].stats().window;
        assert!(stats.repaired > 0, "the loss is there: {stats:?}");
        assert!(lost(listener) * 1_000 <= sent, "{} of {sent} lost: {stats:?}", lost(listener));
    }
    for node in LEVEL_3 {
        let stats = stats(&world, node);
        assert_eq!((stats.lost, stats.conflict), (0, 0), "two feeds and repair: {stats:?}");
    }
}

#[test]
fn a_slot_is_freed_when_its_speaker_leaves_and_is_not_given_again() {
    let mut world = hall(Setup::default());
    let slot = world.speakers[0].slot;
    assert_eq!(world.view(0).rooms[0].stage.len(), 1);
    world.hang_up(world.speakers[0].conn);
    world.step(200);
    assert_eq!(world.view(0).rooms[0].stage, []);
    let bob = world.speak("hall", "bob");
    world.step(200);
    assert_ne!(world.speakers[bob].slot, slot);
    let again = world.speak("hall", "bob");
    world.step(200);
    assert_eq!(world.speakers[bob].closed, Some(CloseCode::Replaced));
    assert_eq!(world.view(0).rooms[0].stage.len(), 1);
    assert_eq!(world.speakers[again].closed, None);
}

#[test]
fn the_document_goes_down_to_the_leaves_and_the_sums_come_up() {
    let mut world = hall(Setup { shards: 2, ..Setup::default() });
    world.step(5_000);
    for listener in &world.listeners {
        let document = listener.documents.last().unwrap();
        assert_eq!(document.room, "hall");
        assert_eq!(document.stage.len(), 1);
        assert_eq!(document.stage[0].identity, "ada");
        assert!(listener.documents.is_sorted_by(|a, b| a.version < b.version));
    }
    assert_eq!(world.view(0).listeners_below, 6);
    world.hang_up(world.listeners[5].conn);
    // A shard tells control, and each of three levels its parent, once a second.
    world.step(4_500);
    assert_eq!(world.view(0).listeners_below, 5);
}

#[test]
fn silence_has_heartbeats_and_nobody_takes_it_for_death() {
    let mut world = hall(Setup::default());
    world.speakers[0].talks = false;
    world.step(1_000);
    let before = world.listeners[5].heartbeats;
    world.step(10_000);
    let beats = world.listeners[5].heartbeats - before;
    assert!((95..=105).contains(&beats), "every 100 ms: {beats}");
    assert_complete(&world, 5, 1, 1);
    for node in 1..=6 {
        assert_eq!((stats(&world, node).feeds_silent, stats(&world, node).lost), (0, 0));
    }
}

#[test]
fn two_rooms_at_once_do_not_mix() {
    let setup = Setup { rooms: &["hall", "yard"], shards: 2, ..Setup::default() };
    let mut world = hall(setup);
    let yard = LEVEL_3.map(|node| world.listen(node, "yard"));
    world.speak("yard", "bob");
    world.speak("yard", "eve");
    world.step(3_000);
    let of_hall = world.speakers[0].slot;
    for listener in 0..6 {
        assert_complete(&world, listener, 1, 1);
        assert!(world.listeners[listener].frames.keys().eq([&of_hall]));
    }
    for listener in yard {
        assert_complete(&world, listener, 2, 1);
        assert_eq!(world.listeners[listener].frames.len(), 2);
        assert_eq!(world.listeners[listener].stats().bad, 0);
    }
}

#[test]
fn a_draining_node_takes_no_newcomers_and_goes_on_serving() {
    let mut world = hall(Setup { shards: 2, ..Setup::default() });
    let node = LEVEL_3[0];
    world.drain(node);
    let late = world.listen(node, "hall");
    world.step(2_000);
    let asked = world.listeners.iter().map(|l| (l.alternates.len(), l.asked_to_move));
    let nobody_else = |n: usize| if n == node - 1 { (2, 1) } else { (2, 0) };
    assert_eq!(asked.take(6).collect::<Vec<_>>(), (0..6).map(nobody_else).collect::<Vec<_>>());
    assert_eq!(world.listeners[late].closed.unwrap().1, CloseCode::Draining);
    assert_eq!(world.view(node).not_ready.as_deref(), Some("draining"));
    assert_complete(&world, 4, 1, 1);
}

#[test]
fn a_tick_of_a_room_that_a_shard_does_not_have_is_counted_and_dropped() {
    let mut world = World::tree(Setup::default(), 1, 1);
    let record = record_bytes(1, 0, 20, TickFlags::default(), &[0]);
    let key = TickKey { room: 9, epoch: 1, number: 1 };
    let tick = Tick { key, record, tick_ms: 20, pending: 0, replay: false };
    let now = world.now;
    let shard = &mut world.nodes[1].shards[0];
    // Its room may still be on its way, so a few are kept.
    for _ in 0..=limits::EARLY_TICKS {
        assert!(shard.handle_tick(now, &tick).is_none());
    }
    assert_eq!(shard.stats().drop_foreign_tick, 1);
    shard.handle_message(now, ToShard::RoomForget { room: 9 });
    assert!(shard.poll_effect().is_none());
}

#[test]
fn a_relay_that_was_left_out_for_its_silence_registers_again() {
    let mut world = hall(Setup::default());
    world.black_hole(LEVEL_3[0]);
    world.step(limits::REPORT_EXPIRY.as_millis() as u64 + 3_000);
    assert_eq!(world.view(0).relays.len(), 5);
    world.nodes[LEVEL_3[0]].cut_off = false;
    world.step(5_000);
    assert_eq!(world.view(0).relays.len(), 6);
    assert_eq!(world.view(LEVEL_3[0]).parents.iter().filter(|p| p.up).count(), 2);
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let run = || {
        let mut world = hall(Setup { loss_permille: 20, ..Setup::default() });
        world.step(3_000);
        world.listeners.iter().map(|l| l.stats()).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// The tree stands without its planner: ticks flow, relays keep the parents that they have, and a
/// relay's death still costs nobody else a tick.
#[cfg(feature = "fault-injection")]
#[test]
fn media_does_not_depend_on_the_control_plane() {
    let mut world = hall(Setup::default());
    let parents = |world: &World, node| world.view(node).parents;
    let before: Vec<_> = (1..=6).map(|node| parents(&world, node)).collect();
    world.nodes[0].control.park(true);
    world.step(limits::REPORT_EXPIRY.as_millis() as u64 * 3);
    assert_eq!((1..=6).map(|node| parents(&world, node)).collect::<Vec<_>>(), before);
    world.kill(LEVEL_1[0]);
    world.step(5_000);
    for listener in 1..6 {
        assert_complete(&world, listener, 1, 1);
        assert_eq!(world.listeners[listener].stats().window.lost, 0);
    }
    // Once it goes on, nobody has been left out for the reports that it did not hear.
    world.nodes[0].control.park(false);
    world.step(5_000);
    for listener in 1..6 {
        assert_complete(&world, listener, 1, 1);
    }
    assert!(LEVEL_3.iter().all(|&node| parents(&world, node).iter().all(|parent| parent.up)));
}
