//! `docs/PROTOCOL.md` says what the code does: its close codes, limits and examples are read here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use stentor_proto::limits;
use stentor_proto::wire::{
    ALPN, ALPN_WEBTRANSPORT, ClientMessage, CloseCode, ControlDecoder, Datagram, FEATURES, Framing,
    Record, ServerMessage, VERSION, WEBTRANSPORT_PATH, beacon_bytes, frames, probe_bytes,
    repair_bytes, speech_bytes, speech_request_bytes, ticks_bytes,
};

const PAGE: &str = include_str!("../../docs/PROTOCOL.md");

/// A section's text, by the start of its heading.
fn section(heading: &str) -> &'static str {
    let start = PAGE.find(&format!("\n{heading} ")).expect("the page has the section") + 1;
    let level = heading.split(' ').next().unwrap();
    let rest = &PAGE[start..];
    let end = rest[level.len()..].find(&format!("\n{level} ")).map_or(rest.len(), |at| at + 3);
    &rest[..end]
}

/// The cells of a section's tables, without backquotes, heads and rules.
fn rows(section: &str) -> Vec<Vec<String>> {
    let cell = |cell: &str| cell.trim().replace('`', "");
    let row = |line: &str| line.trim_matches('|').split('|').map(cell).collect::<Vec<_>>();
    let lines = section.lines().filter(|line| line.starts_with('|'));
    lines.map(row).filter(|row| !row[0].starts_with("---")).collect()
}

/// The page's blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let parts = PAGE.split(fence.as_str()).skip(1);
    parts.map(|part| part.split("```").next().unwrap()).collect()
}

fn hex(text: &str) -> Bytes {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn ms(duration: Duration) -> u128 {
    assert_eq!(duration.subsec_nanos() % 1_000_000, 0, "the page counts in whole milliseconds");
    duration.as_millis()
}

#[test]
fn the_close_codes_are_those_of_the_code() {
    let page: Vec<Vec<String>> =
        rows(section("## 9")).into_iter().skip(1).map(|row| row[..3].to_vec()).collect();
    let row = |code: &CloseCode| {
        vec![format!("{:#04x}", *code as u32), code.name().into(), code.side().to_string()]
    };
    assert_eq!(page, CloseCode::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_limits_are_those_of_the_code() {
    macro_rules! limits {
        ($($name:ident)*; $($time:ident)*) => {
            [$((stringify!($name), limits::$name as u128),)* $((stringify!($time), ms(limits::$time)),)*]
        };
    }
    let code = limits![
        DATAGRAM_BYTES PEER_DATAGRAM_BYTES DATAGRAM_HEADER_BYTES RECORD_HEADER_BYTES
        FRAME_HEADER_BYTES RECORD_BYTES FRAME_BYTES RECORDS_PER_DATAGRAM EARLIER_TICKS
        FRAMES_PER_TICK FRAMES_PER_SPEECH EARLIER_FRAMES SEQ_AHEAD SEQ_JUMP_PROOFS PAUSE_BYTES TICKS_AHEAD WINDOW_TICKS RING_TICKS REPLAY_TICKS
        CONTROL_BYTES CONTROL_PER_S CHILD_CONTROL_PER_S BAD_PER_S REASON_BYTES NAME_BYTES TITLE_BYTES TOKEN_BYTES
        TOKEN_LEEWAY_S PASS_BYTES H3_REQUEST_BYTES H3_SETTINGS_BYTES H3_CAPSULE_BYTES H3_OTHER_BYTES
        CERTIFICATE_S PASS_S TICKET_BYTES TICKET_S ARRIVALS_S CURVE_POINTS
        ALTERNATES SIBLINGS CERTIFICATE_HASHES CERTIFICATE_HASH_BYTES REHOME_BEHIND
        REHOME_ATTEMPTS PROBES
        FRAMES_PER_S SPEECH_DATAGRAMS_PER_S FRAME_BURST
        SLOTS_PER_ROOM AUDIBLE AUDIBLE_MOST PRE_ROLL REPAIR_TRIES REPAIRS_PER_S
        ROOMS_PER_CHILD LEVELS;
        CLOSE_AFTER CLOSE_APART SURPLUS_WAIT FIRST_HOP_REPAIR HEARTBEAT_EVERY BEACON_AFTER
        UPSTREAM_SILENT REPAIR_SKEW
        SILENT_AFTER SILENT_MOST JITTER_MEMORY ROUND_TRIP_MOST PROBE_EVERY PARENT_PROBE_EVERY REHOME_SPREAD REHOME_NEXT
        REHOME_ATTEMPT REHOME_PAUSE REHOME_PAUSE_MOST REHOME_GIVE_UP RETRY_LEAST RETRY_MOST ADMISSION_EVERY ADMISSION_STALE ALLOWANCE SUSPECT_EXPIRY REPAIR_DEADLINE STALE PLAYOUT PLAYOUT_MOST HELLO_DEADLINE
        HANDSHAKE_DEADLINE MESSAGE_DEADLINE JOIN_DEADLINE LOAD_EVERY ROOM_LINGER ROOM_UNUSED H3_FAREWELL IDLE_TIMEOUT
    ];
    let page: Vec<(String, u128)> = rows(section("## 10"))
        .into_iter()
        .skip(1)
        .map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect();
    let code: Vec<_> = code.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(page, code);
}

#[test]
fn version_alpn_and_features_are_named() {
    let page = section("## 2");
    assert!(page.contains(&format!("the protocol version, {VERSION}.")));
    assert!(page.contains(&format!("ALPN is `{}`", std::str::from_utf8(ALPN).unwrap())));
    let h3 = std::str::from_utf8(ALPN_WEBTRANSPORT).unwrap();
    assert!(page.contains(&format!("ALPN `{h3}` on the same port")));
    assert!(page.contains(&format!("`https://HOST:PORT{WEBTRANSPORT_PATH}`")));
    assert!(FEATURES.iter().all(|feature| page.contains(&format!("`{feature}`"))));
}

#[test]
fn every_json_example_is_a_message_and_every_message_has_one() {
    let mut seen = Vec::new();
    for line in blocks("json").into_iter().flat_map(str::lines) {
        let mut bytes = BytesMut::new();
        bytes.put_u16(u16::try_from(line.len()).unwrap());
        bytes.put_slice(line.as_bytes());
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut decoder = ControlDecoder::default();
        decoder.push(&bytes);
        // What the code writes for the message it read is the example: no field is misspelt.
        let written = match decoder.next_message::<ClientMessage>() {
            Ok(Some(message)) if message != ClientMessage::Unknown => serde_json::to_value(message),
            _ => {
                let mut decoder = ControlDecoder::default();
                decoder.push(&bytes);
                let message = decoder.next_message::<ServerMessage>().unwrap().unwrap();
                assert_ne!(message, ServerMessage::Unknown, "{line}");
                serde_json::to_value(message)
            }
        };
        let mut written = written.unwrap();
        without_defaults(&mut written, &value);
        assert_eq!(written, value, "{line}");
        seen.push(value["type"].as_str().unwrap().to_owned());
    }
    for kind in [
        "hello",
        "subscribe",
        "unsubscribe",
        "load",
        "hand",
        "react",
        "report",
        "mute",
        "hands",
        "met",
        "invited",
        "invitation_withdrawn",
        "invitations",
        "revoked",
        "welcome",
        "subscribed",
        "refused",
        "room",
        "placement",
        "siblings",
        "alternates",
        "move",
        "waiting",
        "redirect",
        "admission",
        "closing",
    ] {
        assert!(seen.iter().any(|s| s == kind), "{kind} has an example");
    }
}

/// Takes out what an example may leave out: text that is empty.
fn without_defaults(written: &mut serde_json::Value, example: &serde_json::Value) {
    if let Some(fields) = written.as_object_mut() {
        fields.retain(|name, value| *value != "" || example.get(name).is_some());
    }
}

#[test]
fn the_framed_control_message_is_read() {
    let bytes = blocks("text").into_iter().find(|block| block.starts_with("00 10 ")).unwrap();
    let mut decoder = ControlDecoder::default();
    decoder.push(&hex(bytes));
    assert_eq!(decoder.next_message().unwrap(), Some(ClientMessage::Leave));
    assert_eq!(decoder.held(), 0);
}

#[test]
fn every_datagram_has_an_example_that_is_read_and_written_alike() {
    let raw = Framing::Quic;
    let mut kinds = Vec::new();
    for bytes in blocks("hex").into_iter().map(hex) {
        let written = match Datagram::parse(bytes.clone()).unwrap() {
            Datagram::Ticks { room, epoch, replay, pending, records } => {
                let count = |record: &Record| frames(&record.payload).unwrap().len();
                assert_eq!(records.iter().map(count).collect::<Vec<_>>(), [1, 0]);
                assert!(records[1].flags.is_heartbeat());
                let records: Vec<_> = records.into_iter().map(|record| record.bytes).collect();
                ticks_bytes(raw, room, epoch, replay, pending, &records)
            }
            Datagram::Beacon(beacon) => beacon_bytes(raw, &beacon),
            Datagram::Repair(request) => repair_bytes(raw, &request),
            Datagram::Speech { slot, frames } => speech_bytes(raw, slot, frames.iter()),
            Datagram::SpeechRequest(request) => speech_request_bytes(raw, &request),
            Datagram::Probe => probe_bytes(raw),
        };
        assert_eq!(written, bytes);
        kinds.push(bytes[0]);
    }
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6]);
}
