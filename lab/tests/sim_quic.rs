//! The small simulation: what the large world holds, through real QUIC packets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use stentor_lab::sim::{Line, Loss, QuicOutcome, QuicSetup, run_quic};

fn run(listeners: usize, loss: Loss) -> QuicOutcome {
    let line = Line {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(3),
        loss,
        rate: None,
    };
    // Ticks of the last ten seconds are told apart.
    let virtual_time = Duration::from_secs(9);
    run_quic(&QuicSetup { seed: 1, listeners, line, virtual_time }).unwrap()
}

#[test]
fn without_loss_every_listener_has_every_tick() {
    let outcome = run(60, Loss::None);
    assert_eq!((outcome.joined, outcome.missing, outcome.wrong), (60, 0, 0), "{outcome:?}");
    assert_eq!((outcome.repaired, outcome.packets.1), (0, 0), "{outcome:?}");
    assert!(outcome.due > 60 * 350, "{outcome:?}");
}

#[test]
fn through_lost_packets_all_join_and_repair_brings_what_is_missing() {
    let outcome = run(60, Loss::Random(0.05));
    assert_eq!((outcome.joined, outcome.wrong), (60, 0), "{outcome:?}");
    let (sent, lost) = outcome.packets;
    assert!(lost * 100 > sent * 4, "the loss is there: {outcome:?}");
    assert!(outcome.repaired * 100 > outcome.due * 3, "{outcome:?}");
    // Two tries of which a tenth fails each: what is left is about one in a hundred of the lost.
    assert!(outcome.missing * 500 <= outcome.due, "{outcome:?}");
}
