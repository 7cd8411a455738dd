//! A crowd that reports what it hears: the origin knows it by relay, and its work does not grow with the
//! crowd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stentor_client::audio::EncoderSettings;
use stentor_lab::bed::{Bed, Choir, RelayPlan};
use stentor_lab::crowd::{Acks, Crowd, CrowdPlan};

const ROOMS: &str = "[[rooms]]\nname = \"hall\"\npublic = true\n";
/// Everyone reports within 6 s, and a sum travels one hop a second.
const TOLD: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(6);

#[test]
fn the_origin_knows_what_a_crowd_hears_at_a_cost_that_does_not_grow() -> Result<()> {
    let mut bed = Bed::start("audience", ROOMS, None)?;
    for (name, level) in [("relay-1", 1), ("relay-2", 2)] {
        bed.add_relay(&RelayPlan::new(name, level))?;
        bed.wait_ready()?;
    }
    let joins = vec![bed.stage("hall")?];
    // Without pauses: every tick holds a frame.
    let voice =
        EncoderSettings { bitrate: 28_000, constant: true, dtx: false, ..Default::default() };
    let choir = Choir::start(bed.trust(), joins, voice, None)?;
    choir.speak(1);
    let relay = &bed.relays[1];
    let mut crowd = Crowd::new(CrowdPlan {
        address: relay.address,
        host: "127.0.0.1".into(),
        roots: bed.roots()?,
        room: "hall".into(),
        tokens: Vec::new(),
        acks: Acks::Patient,
        sockets: 2,
        at_once: 32,
        rehomes: false,
        reports: true,
    })?;
    let mut rates = Vec::new();
    for listeners in [10, 100, 500] {
        crowd.grow(listeners, Duration::from_secs(60))?;
        crowd.listen(TOLD)?;
        let (began, before) = (Instant::now(), messages(&bed)?);
        crowd.listen(MEASURED)?;
        rates.push((messages(&bed)? - before) / began.elapsed().as_secs_f64());
        let reported = relay.metric("stentor_control_messages_total")?;
        ensure!(reported >= listeners as f64, "the relay itself reads the reports: {reported}");
        for state in ["all", "reporting"] {
            let known = known(&bed, state)?;
            ensure!(known == listeners as f64, "{state}: {known} of {listeners}");
        }
    }
    println!("control messages at the origin a second, 10, 100, 500 listeners: {rates:.1?}");
    // Two relays say their load once a second; a measurement may begin or end within a report.
    ensure!(rates.iter().all(|rate| (1.0..=4.0).contains(rate)), "{rates:?}");
    choir.finish()?;
    Ok(())
}

fn messages(bed: &Bed) -> Result<f64> {
    bed.origin.metric("stentor_control_messages_total")
}

/// Listeners of the relay as the origin's metrics show them.
fn known(bed: &Bed, state: &str) -> Result<f64> {
    let (_, text) = bed.origin.admin_get("/metrics")?;
    let labels = format!("room=\"hall\",region=\"\",relay=\"relay-2\",state=\"{state}\"");
    let line = format!("stentor_audience_relay_listeners{{{labels}}} ");
    let value = text.lines().find_map(|other| other.strip_prefix(&line));
    Ok(value.context("the origin's metrics name the relay")?.parse()?)
}
