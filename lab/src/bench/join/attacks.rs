//! Those who mean harm, while a crowd is inside: spoofed first packets, bad tokens, bad tickets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use quinn_proto::crypto::rustls::QuicClientConfig;
use serde_json::{Value, json};
use stentor_client::patience::{PATIENCE, patient};
use stentor_proto::admission::{Ticket, bearer, client_key};
use stentor_proto::limits;
use stentor_proto::token::{Signer, private_pem};
use stentor_relay::quic::config::{TransportSettings, client_config_over};

use super::inside::Inside;
use super::rig::{Budgets, ROOM, Rig, relay};
use super::{JoinOptions, SERVER_CORE};
use crate::nodes::Node;
use crate::storm::{Curve, Figures, FirstFlights, Flood};
use crate::trust::crowd_tls;

/// First packets a second, from how many sources, for how long.
const SPOOFED: (f64, u16, Duration) = (10_000.0, 1_000, Duration::from_secs(6));
/// Different first packets: all that come within a second or so.
const FLIGHTS: usize = 10_000;
/// Honest people who come meanwhile, in a second.
const HONEST_PER_S: f64 = 10.0;
/// Retry goes off within this.
const CALM_WITHIN: Duration = Duration::from_secs(10);
/// Bad tokens for so long, this many at once.
const TOKENS: (Duration, usize) = (Duration::from_secs(5), 64);
/// Copies of one ticket.
const COPIES: usize = 1_000;

/// Spoofed first packets and bad tokens over those inside.
pub(super) fn run(options: &JoinOptions, say: &mut dyn FnMut(&str)) -> Result<Vec<Value>> {
    let budgets = Budgets {
        joins_per_s: options.join_budget,
        returns_per_s: 200,
        tickets_per_s: options.tickets_per_s(),
        admission: true,
    };
    let rig = Rig::start("attacks", &[relay("edge-1", options.capacity, budgets)])?;
    let half = (options.capacity / 2) as usize;
    let mut inside = Inside::start(&rig.bed, 0, ROOM, half, SERVER_CORE)?;
    inside.mark()?;
    std::thread::sleep(Duration::from_secs(4));
    inside.mark()?;
    let mut spoofed = spoofed(&rig, say)?;
    inside.mark()?;
    let mut tokens = bad_tokens(&rig, say)?;
    let windows = inside.finish()?;
    for (row, window) in [&mut spoofed, &mut tokens].into_iter().zip(windows.iter().skip(1)) {
        row["inside_ticks_lost"] = json!(window.lost);
        row["inside_delay_ms_p99"] = json!(window.delay_ms_p99);
        row["inside_delay_ms_p99_quiet"] = json!(windows.first().map_or(0.0, |w| w.delay_ms_p99));
        say(&row.to_string());
    }
    rig.end()?;
    Ok(vec![spoofed, tokens])
}

fn spoofed(rig: &Rig, say: &mut dyn FnMut(&str)) -> Result<Value> {
    let (per_s, sources, time) = SPOOFED;
    let node = &rig.bed.relays[0];
    say("spoofed: making first packets");
    let tls = QuicClientConfig::try_from(crowd_tls(rig.bed.roots()?)?)?;
    let client = client_config_over(patient(tls, PATIENCE), &TransportSettings::default())?;
    let flights = FirstFlights::make(FLIGHTS, &client, &node.address.ip().to_string())?;
    let mut storm = rig.storm(&[0], |storm| storm.dwell = Some(Duration::from_secs(1)))?;
    let before = node.rss_kib()?;
    say(&format!("spoofed: {per_s:.0} first packets a second from {sources} addresses"));
    let begun = Instant::now();
    let flood = Flood::start(flights, node.address, per_s, sources)?;
    let (mut on_after, mut most) = (None, before);
    let from = storm.now();
    while begun.elapsed() < time {
        storm.run(&Curve::steady(HONEST_PER_S), Duration::from_millis(250))?;
        most = most.max(node.rss_kib()?);
        if on_after.is_none() && node.metric("stentor_retry_on")? > 0.0 {
            on_after = Some(begun.elapsed());
        }
    }
    let until = storm.now();
    let sent = flood.finish()?;
    let ended = Instant::now();
    storm.until(Duration::from_secs(2), |_| false)?;
    let honest = Figures::over(storm.visits(), from, until);
    let mut off_after = None;
    while ended.elapsed() < CALM_WITHIN && off_after.is_none() {
        storm.until(Duration::from_millis(100), |_| false)?;
        off_after = (node.metric("stentor_retry_on")? == 0.0).then(|| ended.elapsed());
    }
    storm.leave();
    let ms = |time: Option<Duration>| time.map_or(crate::storm::NEVER_MS, super::rig::ms);
    Ok(json!({
        "row": "spoofed",
        "sent_per_s": sent as f64 / time.as_secs_f64(),
        "retry_on_after_ms": ms(on_after),
        "retry_off_after_ms": ms(off_after),
        "retries": node.metric("stentor_retries_total")?,
        "rss_kib_before": before,
        "rss_kib_most": most,
        "honest_arrivals": honest.arrivals,
        "honest_admitted": honest.admitted,
        "honest_never_answered": honest.never_answered,
        "honest_first_sound_ms_p99": honest.first_sound_ms.1,
    }))
}

fn bad_tokens(rig: &Rig, say: &mut dyn FnMut(&str)) -> Result<Value> {
    let (time, at_once) = TOKENS;
    say("bad tokens at the generator's full rate");
    let node = &rig.bed.relays[0];
    let stranger =
        Signer::from_pkcs8_pem(&private_pem([9; 32]), Some(rig.bed.dev().signer().kid()))?;
    let tokens = (0..256).map(|n| {
        let request = stentor_origin::mint::Request {
            room: ROOM.into(),
            role: stentor_proto::wire::Role::Listener,
            identity: format!("stranger-{n}"),
            name: None,
            ttl: Duration::from_secs(600),
        };
        Ok(stentor_origin::mint::mint(&stranger, &request, unix_s())?)
    });
    let tokens = tokens.collect::<Result<Vec<String>>>()?;
    let mut storm = rig.storm(&[0], |storm| storm.tokens = tokens)?;
    let (joined, refused) = (closes(node, "joined")?, closes(node, "token_invalid")?);
    let (begun, from) = (Instant::now(), storm.now());
    let mut came = 0;
    while begun.elapsed() < time {
        let under_way = |s: &crate::storm::Storm| s.opening() < at_once;
        storm.until(Duration::from_secs(2), under_way)?;
        for _ in storm.opening()..at_once {
            storm.come()?;
            came += 1;
        }
    }
    storm.until(Duration::from_secs(2), |s| s.opening() == 0)?;
    let figures = Figures::over(storm.visits(), from, storm.now());
    Ok(json!({
        "row": "bad_tokens",
        "tried_per_s": f64::from(came) / time.as_secs_f64(),
        "refused": figures.refusals(),
        "refused_by_name": figures.refused,
        "admitted": figures.admitted,
        "never_answered": figures.never_answered,
        "relay_refused": closes(node, "token_invalid")? - refused,
        "relay_admitted": closes(node, "joined")? - joined,
    }))
}

/// Bad tickets, each refused by its name, and a good one that a thousand show.
pub(super) fn tickets(say: &mut dyn FnMut(&str)) -> Result<Value> {
    say("tickets: forged, another's, expired, and one that a thousand show");
    let budgets = Budgets {
        joins_per_s: 10_000,
        returns_per_s: 1_000,
        tickets_per_s: 2_000,
        admission: true,
    };
    let rig = Rig::start("tickets", &[relay("edge-1", 5_000, budgets)])?;
    let (signer, node) = (rig.bed.dev().signer(), &rig.bed.relays[0]);
    let stranger = Signer::from_pkcs8_pem(&private_pem([7; 32]), Some(signer.kid()))?;
    let good = ticket(&node.name);
    let another = Ticket { sub: "sub:ann".into(), ..good.clone() };
    let expired = Ticket { iat: 1, exp: unix_s() - 3_600, ..good.clone() };
    let mut row = json!({ "row": "tickets" });
    for (name, text, code, count) in [
        ("forged", good.by_origin(&stranger)?, "ticket_invalid", 10),
        ("anothers", another.by_origin(signer)?, "ticket_identity", 10),
        ("expired", expired.by_origin(signer)?, "ticket_expired", 10),
        ("copied", good.by_origin(signer)?, "ticket_spent", COPIES),
    ] {
        let shown = (text, client_key(KEY).0);
        let mut storm = rig.storm(&[0], |storm| storm.shown = Some(shown))?;
        let (before, redeemed) = (closes(node, code)?, tickets_of(node, "redeemed")?);
        for _ in 0..count {
            storm.come()?;
            storm.until(Duration::from_secs(2), |s| s.opening() < 50)?;
        }
        storm.until(Duration::from_secs(10), |s| s.inside() == s.visits().len())?;
        // The relay's figures are a quarter of a second old.
        storm.until(Duration::from_millis(600), |_| false)?;
        row[format!("{name}_shown")] = json!(count);
        row[format!("{name}_refused")] = json!(closes(node, code)? - before);
        row[format!("{name}_admitted")] = json!(tickets_of(node, "redeemed")? - redeemed);
        storm.leave();
        storm.until(Duration::from_millis(100), |_| false)?;
    }
    say(&row.to_string());
    rig.end()?;
    Ok(row)
}

const KEY: [u8; 32] = [1; 32];

fn ticket(place: &str) -> Ticket {
    let now = unix_s();
    Ticket {
        room: ROOM.into(),
        sub: bearer(None, Some(&client_key(KEY).0)).unwrap_or_default(),
        arrival_ms: now * 1_000,
        place: place.to_owned(),
        jti: "00000000000000ff".into(),
        iat: now,
        exp: now + limits::TICKET_S,
        by: "origin".into(),
        waits: true,
        moved: 0,
    }
}

fn closes(node: &Node, label: &str) -> Result<f64> {
    let name = if label == "joined" { "stentor_joins_total" } else { "stentor_closes_total" };
    labelled(node, name, label)
}

fn tickets_of(node: &Node, event: &str) -> Result<f64> {
    labelled(node, "stentor_tickets_total", event)
}

/// A metric's value with this label.
pub(super) fn labelled(node: &Node, name: &str, label: &str) -> Result<f64> {
    let (_, body) = node.admin_get("/metrics")?;
    let (name, label) = (format!("{name}{{"), format!("\"{label}\""));
    let line = body.lines().find(|line| line.starts_with(&name) && line.contains(&label));
    match line.and_then(|line| line.rsplit_once(' ')) {
        Some((_, value)) => value.parse().context("a metric is no number"),
        None => Ok(0.0),
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
