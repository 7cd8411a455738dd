//! Anything at any time: nothing panics and everything stays bounded.

use proptest::prelude::*;

use super::*;
use crate::limits;

#[derive(Clone, Debug)]
enum Input {
    Join(u8, u8),
    Leave(u16),
    Mute(u16, bool),
    Speech(u16, Vec<SpeechFrame>),
    Nothing,
}

fn any_frame() -> impl Strategy<Value = SpeechFrame> {
    let seq = prop_oneof![
        8 => 0..60_u32,
        1 => any::<u32>(),
        1 => Just(0),
        1 => Just(u32::MAX),
        1 => u32::MAX - 20..u32::MAX,
    ];
    let opus = prop_oneof![
        4 => (0..60_usize).prop_map(|len| [&[31 << 3][..], &vec![0; len]].concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..1_200),
    ];
    (seq, any::<u8>(), any::<bool>(), opus).prop_map(|(seq, level, voice, opus)| SpeechFrame {
        seq,
        level,
        voice,
        opus: Bytes::from(opus),
    })
}

fn any_input() -> impl Strategy<Value = Input> {
    let slot = 0..8_u16;
    let frames = proptest::collection::vec(any_frame(), 0..12);
    prop_oneof![
        1 => (0..6_u8, 0..6_u8).prop_map(|(id, role)| Input::Join(id, role)),
        1 => slot.clone().prop_map(Input::Leave),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, muted)| Input::Mute(slot, muted)),
        12 => (slot, frames).prop_map(|(slot, frames)| Input::Speech(slot, frames)),
        4 => Just(Input::Nothing),
    ]
}

fn apply(room: &mut Room, now: Time, input: Input) {
    const ROLES: [Role; 6] =
        [Role::Host, Role::CoHost, Role::Speaker, Role::Speaker, Role::Listener, Role::Relay];
    match input {
        Input::Join(id, role) => {
            let _ = room.join(now, &id.to_string(), "", ROLES[usize::from(role)]);
        }
        Input::Leave(slot) => room.leave(now, slot),
        Input::Mute(slot, muted) => room.set_muted(now, slot, muted),
        Input::Speech(slot, frames) => room.handle_speech(now, slot, frames),
        Input::Nothing => room.handle_timeout(now),
    }
}

fn steps() -> impl Strategy<Value = Vec<(u64, Input)>> {
    let wait = prop_oneof![8 => 0..30_000_u64, 1 => Just(0), 1 => any::<u64>()];
    proptest::collection::vec((wait, any_input()), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_input_is_survived(
        steps in steps(),
        tick_ms in prop::sample::select(&limits::TICK_MS[..]),
        audible in 1..4_usize,
        polls: bool,
    ) {
        let mut settings = settings(audible, tick_ms);
        settings.profile = Profile::voice();
        let mut room = room(settings, 3);
        let (mut now, mut last) = (Time::ZERO, None::<u64>);
        let frames_most = usize::from(tick_ms) / 20 * 350;
        for (wait, input) in steps {
            now += std::time::Duration::from_micros(wait);
            apply(&mut room, now, input);
            prop_assert!(room.ticks.len() <= limits::TICKS_UNPOLLED);
            prop_assert!(room.audible().len() <= audible);
            prop_assert!(room.audible().iter().all(|&slot| !room.is_muted(slot)));
            if !polls {
                continue;
            }
            while let Some(tick) = room.poll_tick() {
                prop_assert_eq!(frames(&tick).len(), usize::from(tick.frames));
                prop_assert!(tick.record.bytes.len() <= frames_most);
                let apart = u64::from(tick_ms) / 20 * 15_000;
                let clock = tick.record.clock_us;
                prop_assert!(last.is_none_or(|last| clock == u64::MAX || clock - last >= apart));
                last = Some(clock);
            }
            let requests = std::iter::from_fn(|| room.poll_request()).count();
            prop_assert!(requests <= limits::SLOTS_PER_ROOM * limits::FIRST_HOP_MISSING);
            prop_assert!(now == Time::MAX || room.poll_timeout() > Some(now));
        }
        accounts(&room)?;
    }
}

/// Every frame that was accepted has left, waits, or has a cause.
fn accounts(room: &Room) -> Result<(), TestCaseError> {
    let stats = room.stats();
    let waiting = room.collector.waiting() as u64;
    let kept: usize = room.speakers.values().map(|speaker| speaker.pre_roll.len()).sum();
    let gone = stats.surplus_expired + stats.surplus_full + stats.not_audible + stats.muted;
    prop_assert_eq!(stats.frames_in, stats.frames_out + waiting + kept as u64 + gone);
    Ok(())
}

#[test]
fn a_caller_that_sleeps_is_not_made_to_catch_up() {
    let mut room = room(settings(3, 20), 1);
    room.handle_timeout(Time::from_millis(3_600_000));
    assert_eq!(std::iter::from_fn(|| room.poll_tick()).count(), 1);
    assert_eq!(room.poll_timeout(), Some(Time::from_millis(3_600_100)));
}
