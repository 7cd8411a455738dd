//! What hosts decide, and what listeners say, over a whole tree.

use stentor_proto::admission::DoorTotals;
use stentor_proto::fanout::SessionIx;
use stentor_proto::limits;
use stentor_proto::node::{Act, NewsKind, OriginControl, ToControl};
use stentor_proto::session::SessionKey;
use stentor_proto::wire::{ClientMessage, CloseCode, Hand, Report, Role, RoomState};

use super::hall;
use super::world::{Setup, World, address_of};

fn act(world: &mut World, act: Act) {
    world.ask(|origin, now| origin.act(now, "hall", &act)).unwrap();
}

fn ban(identity: &str, with_address: bool) -> Act {
    Act::Ban { identity: Some(identity.to_owned()), address: None, with_address }
}

fn document(world: &World, listener: usize) -> &RoomState {
    world.listeners[listener].documents.last().unwrap()
}

fn closed(world: &World, listener: usize) -> Option<CloseCode> {
    world.listeners[listener].closed.map(|(_, code)| code)
}

fn origin_messages(world: &World) -> u64 {
    world.nodes[0].shards.iter().map(|shard| shard.stats().control_messages).sum()
}

#[test]
fn a_ban_cuts_at_the_third_level_within_a_second_and_keeps_the_address_out() {
    for shards in [1, 2] {
        let mut world = hall(Setup { shards, ..Setup::default() });
        let identity = world.listeners[5].identity.clone();
        assert!(identity.starts_with("anonymous-"), "{identity}");
        act(&mut world, ban(&identity, true));
        world.step(500);
        assert_eq!(closed(&world, 5), Some(CloseCode::Banned));
        assert!((0..5).all(|other| closed(&world, other).is_none()));
        world.step(500);
        let told = world.ask(|origin, _| origin.participants("hall").unwrap().revoked);
        let address = address_of(world.listeners[5].conn);
        assert_eq!(told.last().unwrap().address, Some(address), "the origin learns the address");
        let mut news = Vec::new();
        world.ask(|origin, _| news.extend(std::iter::from_fn(|| origin.poll_news())));
        assert!(news.iter().any(|news| news.what == NewsKind::AddressBanned(address)));

        // A relay that comes to the room later has the list, too.
        let late = world.relay("late", 3);
        world.step(2_000);
        let same = world.listen(late, "hall");
        world.step(500);
        assert_eq!(closed(&world, same), None, "another address and identity");
        act(&mut world, Act::Unban { identity: Some(identity.clone()), address: Some(address) });
        let revoked = |world: &mut World| world.ask(|o, _| o.participants("hall").unwrap().revoked);
        assert_eq!(revoked(&mut world), []);

        // A second ban of the same person comes to its addresses like the first.
        act(&mut world, ban(&identity, true));
        for n in 0..10_u8 {
            let met = ToControl::Met {
                room: "hall".into(),
                identity: identity.clone(),
                address: [192, 0, 2, n].into(),
            };
            world.ask(|origin, now| origin.handle_message(now, met));
        }
        assert_eq!(revoked(&mut world).len(), 1 + limits::ADDRESSES_PER_BAN);
    }
}

#[test]
fn an_anonymous_listener_is_put_out_and_may_come_back_under_another_identity() {
    let mut world = hall(Setup::default());
    let identity = world.listeners[5].identity.clone();
    act(&mut world, Act::Remove { identity });
    world.step(500);
    assert_eq!(closed(&world, 5), Some(CloseCode::Removed));
    assert!((0..5).all(|other| closed(&world, other).is_none()));
    let again = world.listen(6, "hall");
    world.step(500);
    assert_eq!(closed(&world, again), None, "a removal is no ban");
}

#[test]
fn a_host_who_has_left_the_stage_is_still_a_host() {
    let mut world = hall(Setup::default());
    let address = Some("192.0.2.7".parse().unwrap());
    let session = SessionKey { shard: 0, ix: SessionIx(40), generation: 40 };
    let join = ToControl::StageJoin {
        session,
        room: "hall".into(),
        identity: "helen".into(),
        name: String::new(),
        role: Role::Host,
        minted: super::world::UNIX_S,
        jti: Some("t1".into()),
        address,
    };
    world.ask(|origin, now| {
        origin.handle_message(now, join);
        origin.handle_message(now, ToControl::StageLeave { session });
    });
    let by_address = Act::Ban { identity: None, address, with_address: false };
    let acts = [
        ban("helen", true),
        by_address,
        Act::Remove { identity: "helen".into() },
        Act::RevokeToken { jti: "t1".into() },
    ];
    for act in &acts {
        let role = world.ask(|origin, _| origin.falls_on("hall", act));
        assert_eq!(role, Some(Role::Host), "{act:?}");
    }
    let others = [ban("ada", false), Act::RevokeToken { jti: "t2".into() }];
    for act in &others {
        let role = world.ask(|origin, _| origin.falls_on("hall", act));
        assert_ne!(role, Some(Role::Host), "{act:?}");
    }
    act(&mut world, Act::Demote { identity: "helen".into() });
    assert_eq!(world.ask(|origin, _| origin.falls_on("hall", &acts[0])), None, "no longer");
}

#[test]
fn an_address_that_is_banned_is_refused_at_every_relay() {
    let mut world = hall(Setup::default());
    let next = world.listeners.len();
    let conn = world.listeners[next - 1].conn;
    // Connections are numbered; the world's uplinks come before its listeners.
    let address = (1..4).map(|n| address_of(conn + n + 1));
    for address in address {
        act(&mut world, Act::Ban { identity: None, address: Some(address), with_address: false });
    }
    world.step(500);
    let refused: Vec<_> = (1..=3).map(|node| world.listen(node, "hall")).collect();
    world.step(500);
    let codes: Vec<_> = refused.iter().map(|&l| closed(&world, l)).collect();
    assert!(codes.contains(&Some(CloseCode::Banned)), "{codes:?}");
}

#[test]
fn a_muted_speaker_is_not_heard_and_a_demoted_one_is_cut() {
    let mut world = hall(Setup::default());
    let slot = world.speakers[0].slot;
    let frames = |world: &World| world.listeners[5].frames.get(&slot).map_or(0, Vec::len);
    act(&mut world, Act::Mute { identity: "ada".into(), muted: true });
    world.step(300);
    assert!(document(&world, 5).stage[0].muted, "the document says so at once");
    let before = frames(&world);
    world.step(1_000);
    assert_eq!(frames(&world), before, "silence");
    let dropped = world.ask(|origin, _| {
        origin.room_counters().find(|(name, _)| *name == "muted").map_or(0, |(_, count)| count)
    });
    assert!(dropped > 40, "{dropped} counted");
    act(&mut world, Act::Mute { identity: "ada".into(), muted: false });
    world.step(500);
    assert!(frames(&world) > before);
    act(&mut world, Act::Demote { identity: "ada".into() });
    world.step(300);
    assert_eq!(world.speakers[0].closed, Some(CloseCode::Demoted));
    assert!(document(&world, 5).stage.is_empty());
    // The same token comes back in vain; a fresh one may.
    world.speak("hall", "ada");
    world.step(500);
    assert_eq!(world.speakers[1].closed, Some(CloseCode::Demoted));
    let fresh = world.ask(|origin, _| origin.fresh_after("hall", "ada"));
    assert!(fresh > super::world::UNIX_S);
}

#[test]
fn hands_come_in_their_order_and_an_invitation_reaches_its_listener_alone() {
    let mut world = hall(Setup::default());
    for listener in [4, 1, 5] {
        world.say(listener, &ClientMessage::Hand { raised: true });
        world.step(1_000);
    }
    let hands = |world: &mut World| {
        let hands = world.ask(|origin, _| origin.participants("hall").unwrap().hands);
        hands.into_iter().map(|hand| hand.identity).collect::<Vec<_>>()
    };
    let who: Vec<_> = world.listeners.iter().map(|l| l.identity.clone()).collect();
    assert_eq!(hands(&mut world), [who[4].clone(), who[1].clone(), who[5].clone()]);
    assert_eq!(document(&world, 0).hands, 3);
    world.say(1, &ClientMessage::Hand { raised: false });
    world.hang_up(world.listeners[5].conn);
    world.step(1_000);
    assert_eq!(hands(&mut world), [who[4].clone()], "one was lowered, one has left");

    act(&mut world, Act::Invite { identity: who[4].clone(), role: Role::Speaker });
    world.step(500);
    assert_eq!(world.listeners[4].invited, [Some(Role::Speaker)]);
    assert!(world.listeners[..4].iter().all(|listener| listener.invited.is_empty()));
    assert_eq!(hands(&mut world), Vec::<String>::new(), "granted");
    let lowered = |world: &World| world.listeners.iter().map(|l| l.lowered).collect::<Vec<_>>();
    assert_eq!(lowered(&world), [0, 0, 0, 0, 1, 0], "an invitation lowers it");
    act(&mut world, Act::Demote { identity: who[4].clone() });
    world.step(500);
    assert_eq!(world.listeners[4].invited, [Some(Role::Speaker), None]);

    for times in 1..=2 {
        world.say(4, &ClientMessage::Hand { raised: true });
        world.say(2, &ClientMessage::Hand { raised: true });
        world.step(1_000);
        assert_eq!(hands(&mut world).len(), 2, "a hand that was lowered may be raised again");
        for identity in [who[4].clone(), who[2].clone()] {
            act(&mut world, Act::LowerHand { identity });
        }
        world.step(1_000);
        assert_eq!(hands(&mut world), Vec::<String>::new());
        assert_eq!(lowered(&world), [0, 0, times, 0, 1 + times, 0], "their owners alone, once");
    }

    act(&mut world, ban(&who[3], false));
    world.say(3, &ClientMessage::Hand { raised: true });
    world.step(1_000);
    assert_eq!(hands(&mut world), Vec::<String>::new(), "the banned have no hand");
}

#[test]
fn a_hand_that_is_raised_again_on_another_relay_outlives_the_former_session() {
    let mut world = hall(Setup::default());
    world.say(4, &ClientMessage::Hand { raised: true });
    world.step(1_000);
    let first = world.ask(|origin, _| origin.participants("hall").unwrap().hands[0].clone());
    let again = Hand { sequence: first.sequence + 500, ..first };
    world.ask(|origin, now| {
        origin.handle_message(now, ToControl::Hands { hands: vec![again.clone()] });
    });
    world.hang_up(world.listeners[4].conn);
    world.step(1_000);
    let hands = |world: &mut World| world.ask(|o, _| o.participants("hall").unwrap().hands);
    assert_eq!(hands(&mut world), std::slice::from_ref(&again));
    let lowered = Hand { raised: false, ..again };
    world.ask(|origin, now| {
        origin.handle_message(now, ToControl::Hands { hands: vec![lowered.clone()] });
    });
    assert_eq!(hands(&mut world), []);
}

#[test]
fn a_locked_room_takes_no_newcomers() {
    let mut world = hall(Setup::default());
    act(&mut world, Act::Lock(true));
    world.step(500);
    assert!(document(&world, 5).locked);
    let late = world.listen(6, "hall");
    world.step(500);
    assert_eq!(closed(&world, late), Some(CloseCode::RoomLocked));
    assert_eq!(closed(&world, 5), None);
    act(&mut world, Act::Lock(false));
    world.step(500);
    let late = world.listen(6, "hall");
    world.step(500);
    assert_eq!(closed(&world, late), None);
}

#[test]
fn a_locked_room_takes_no_newcomers_at_a_relay_that_brings_it_up_for_them() {
    for shards in [1, 2] {
        let mut world = hall(Setup { shards, ..Setup::default() });
        let late = world.relay("late", 3);
        act(&mut world, Act::Lock(true));
        world.step(2_000);
        let newcomers = [world.listen(late, "hall"), world.listen(late, "hall")];
        world.step(1_000);
        for newcomer in newcomers {
            assert_eq!(closed(&world, newcomer), Some(CloseCode::RoomLocked));
        }
        assert!((0..=5).all(|inside| closed(&world, inside).is_none()));
    }
}

#[test]
fn the_document_says_how_many_wait() {
    let mut world = hall(Setup::default());
    let arrivals = vec![(super::world::UNIX_S, 200_000)];
    let door = DoorTotals { free: 0, arrivals };
    let totals = ToControl::Totals { shard: 0, listeners: 0, children: 0, joins: 0, door };
    world.ask(|origin, now| origin.handle_message(now, totals));
    world.step(1_500);
    let most = world.listeners[5].documents.iter().map(|state| state.waiting).max();
    assert!(most.unwrap() > 180_000, "{most:?}");
}

#[test]
fn one_client_counts_for_no_more_than_one() {
    let mut world = hall(Setup::default());
    for _ in 0..10 {
        let count = 1_000_000;
        world.say(5, &ClientMessage::React { kind: "clap".into(), count });
        world.say(5, &ClientMessage::React { kind: "spam".into(), count: 1 });
    }
    let mut most = 0;
    for _ in 0..70 {
        world.step(100);
        let state = document(&world, 0);
        most = most.max(state.reactions.get("clap").copied().unwrap_or(0));
        assert!(!state.reactions.contains_key("spam"));
    }
    assert_eq!(most, u64::from(limits::REACTIONS_PER_S));
    assert_eq!(closed(&world, 5), None);
}

#[test]
fn glitches_are_counted_where_they_are_heard() {
    let mut world = hall(Setup::default());
    world.step(2_000);
    for _ in 0..3 {
        let report = Report { ticks: 100, glitches: 7, ..Report::default() };
        world.say(5, &ClientMessage::Report(report));
        world.step(2_500);
    }
    let parts = world.ask(|origin, _| origin.audience("hall").unwrap().1);
    let heard: Vec<u32> = parts.iter().map(|part| part.glitches).filter(|&n| n > 0).collect();
    assert_eq!(heard, [3], "one of each report, at the listener's own relay: {parts:?}");
    assert!(parts.iter().all(|part| part.glitches == 0 || part.listeners > 0), "{parts:?}");
}

/// Messages that the origin reads in a second from a tree with so many listeners, who all report
/// and react, and what it knows of them.
fn cost(listeners: usize) -> (f64, u64, OriginSums) {
    let setup = Setup { capacity: 1_000, ..Setup::default() };
    let mut world = World::tree(setup, 2, 2);
    for at in 0..listeners {
        world.listen(1 + at % 4, "hall");
        if at % 50 == 49 {
            world.step(20);
        }
    }
    world.step(2_000);
    let before = origin_messages(&world);
    let seconds = 6;
    for second in 0..seconds {
        for listener in 0..listeners {
            if (listener + second) % 3 == 0 {
                let report = Report { ticks: 100, delay_ms: 150, ..Report::default() };
                world.say(listener, &ClientMessage::Report(report));
            }
            world.say(listener, &ClientMessage::React { kind: "heart".into(), count: 1 });
        }
        world.step(1_000);
    }
    let messages = origin_messages(&world) - before;
    world.step(2_500);
    let sums = world.ask(|origin, _| OriginSums::of(origin));
    (
        messages as f64 / seconds as f64,
        u64::from(document(&world, 0).listeners == listeners as u64),
        sums,
    )
}

#[derive(Debug, PartialEq)]
struct OriginSums {
    listeners: u32,
    reporting: u32,
    well: u32,
    by_relay: Vec<u32>,
}

impl OriginSums {
    fn of(origin: &OriginControl) -> Self {
        let (tally, parts) = origin.audience("hall").unwrap();
        Self {
            listeners: tally.listeners,
            reporting: tally.experience.reporting,
            well: tally.experience.well,
            by_relay: parts.iter().map(|part| part.listeners).collect(),
        }
    }
}

#[test]
fn the_origins_cost_does_not_grow_with_listeners() {
    let rates = [10_usize, 100, 1_000].map(|listeners| {
        let (rate, agrees, sums) = cost(listeners);
        let n = u32::try_from(listeners).unwrap();
        assert_eq!((sums.listeners, sums.reporting, sums.well), (n, n, n), "{sums:?}");
        assert_eq!(sums.by_relay.iter().sum::<u32>(), n, "{sums:?}");
        assert_eq!(agrees, 1, "the document counts them");
        rate
    });
    println!("control messages at the origin a second, 10, 100, 1000 listeners: {rates:?}");
    // Four relays report once a second; the measurement may begin or end within a report.
    assert!(rates.iter().all(|&rate| (3.0..=5.0).contains(&rate)), "{rates:?}");
}
