//! Golden vectors: the same bytes for every language (`proto/vectors/README.md`).
//!
//! Each vector is read in both directions: its bytes decode to its fields, and its fields encode
//! to its bytes. A vector that is `accepted_only` is read in the first direction alone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use stentor_proto::admission;
use stentor_proto::pass::PassVerifier;
use stentor_proto::token::Verifier;
use stentor_proto::wire::{
    self, Beacon, ClientMessage, Close, CloseCode, ControlDecoder, Datagram, DatagramError, Frame,
    Framing, Record, RepairRequest, ServerMessage, SpeechFrame, SpeechRequest, TickFlags, TickKey,
};

/// Every file in `proto/vectors`; a file that no test reads is a defect.
const FILES: [&str; 11] = [
    "beacon",
    "close",
    "control_client",
    "control_server",
    "probe",
    "repair",
    "speech",
    "speech_request",
    "ticket",
    "ticks",
    "token",
];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn file(name: &str) -> Value {
    let path = directory().join(format!("{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("{field} of {vector}"))
}

fn bytes(vector: &Value, field: &str) -> Bytes {
    hex::decode(text(vector, field)).unwrap().into()
}

fn number<T: TryFrom<u64>>(value: &Value) -> T {
    let n = value.as_u64().unwrap_or_else(|| panic!("{value} is no number"));
    T::try_from(n).unwrap_or_else(|_| panic!("{value} is out of range"))
}

/// The vectors of one list; an empty list would prove nothing.
fn list<'a>(file: &'a Value, field: &str) -> &'a [Value] {
    let vectors = file[field].as_array().unwrap();
    assert!(!vectors.is_empty(), "no {field} vectors");
    vectors
}

fn accepted_only(vector: &Value) -> bool {
    vector.get("accepted_only").is_some_and(|v| v.as_bool().unwrap())
}

fn framing(vector: &Value) -> Framing {
    match text(vector, "framing") {
        "quic" => Framing::Quic,
        "webtransport" => Framing::WebTransport,
        other => panic!("the framing {other}"),
    }
}

fn error_name(error: DatagramError) -> &'static str {
    match error {
        DatagramError::Truncated => "truncated",
        DatagramError::Oversized => "oversized",
        DatagramError::UnknownKind(_) => "unknown_kind",
        DatagramError::Malformed(_) => "malformed",
    }
}

fn key_json(key: TickKey) -> Value {
    json!({ "room": key.room, "epoch": key.epoch, "number": key.number })
}

fn key(fields: &Value) -> TickKey {
    TickKey {
        room: number(&fields["room"]),
        epoch: number(&fields["epoch"]),
        number: number(&fields["number"]),
    }
}

fn speech_json(frame: &SpeechFrame) -> Map<String, Value> {
    let fields = json!({
        "seq": frame.seq, "level": frame.level, "voice": frame.voice,
        "opus": hex::encode(&frame.opus),
    });
    fields.as_object().unwrap().clone()
}

fn speech(fields: &Value) -> SpeechFrame {
    SpeechFrame {
        seq: number(&fields["seq"]),
        level: number(&fields["level"]),
        voice: fields["voice"].as_bool().unwrap(),
        opus: bytes(fields, "opus"),
    }
}

fn record_json(record: &Record) -> Value {
    let frames = wire::frames(&record.payload).unwrap();
    let frames = frames.iter().map(|frame| {
        let mut fields = speech_json(&frame.speech);
        fields.insert("slot".into(), frame.slot.into());
        Value::Object(fields)
    });
    json!({
        "number": record.number, "clock_us": record.clock_us, "tick_ms": record.tick_ms,
        "flags": record.flags.0, "frames": frames.collect::<Vec<_>>(),
    })
}

fn record(fields: &Value) -> Bytes {
    let frames: Vec<Frame> = fields["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fields| Frame { slot: number(&fields["slot"]), speech: speech(fields) })
        .collect();
    wire::record_bytes(
        number(&fields["number"]),
        number(&fields["clock_us"]),
        number(&fields["tick_ms"]),
        TickFlags(number(&fields["flags"])),
        &Frame::payload(&frames),
    )
}

fn datagram_json(datagram: &Datagram) -> (&'static str, Value) {
    match datagram {
        Datagram::Ticks { room, epoch, replay, pending, records } => {
            let records: Vec<Value> = records.iter().map(record_json).collect();
            let fields = json!({
                "room": room, "epoch": epoch, "replay": replay, "pending": pending,
                "records": records,
            });
            ("ticks", fields)
        }
        Datagram::Beacon(beacon) => {
            let fields = json!({
                "newest": key_json(beacon.newest), "pending": beacon.pending,
                "upstream_silent_ms": beacon.upstream_silent_ms,
            });
            ("beacon", fields)
        }
        Datagram::Repair(request) => {
            ("repair", json!({ "first": key_json(request.first), "mask": request.mask }))
        }
        Datagram::Speech { slot, frames } => {
            let frames: Vec<_> = frames.iter().map(speech_json).collect();
            ("speech", json!({ "slot": slot, "frames": frames }))
        }
        Datagram::SpeechRequest(request) => (
            "speech_request",
            json!({ "slot": request.slot, "first": request.first, "mask": request.mask }),
        ),
        Datagram::Probe => ("probe", json!({})),
    }
}

fn datagram_bytes(kind: &str, framing: Framing, fields: &Value) -> Bytes {
    match kind {
        "ticks" => {
            let records = fields["records"].as_array().unwrap();
            let records: Vec<Bytes> = records.iter().map(record).collect();
            wire::ticks_bytes(
                framing,
                number(&fields["room"]),
                number(&fields["epoch"]),
                fields["replay"].as_bool().unwrap(),
                number(&fields["pending"]),
                &records,
            )
        }
        "beacon" => wire::beacon_bytes(
            framing,
            &Beacon {
                newest: key(&fields["newest"]),
                pending: number(&fields["pending"]),
                upstream_silent_ms: number(&fields["upstream_silent_ms"]),
            },
        ),
        "repair" => wire::repair_bytes(
            framing,
            &RepairRequest { first: key(&fields["first"]), mask: number(&fields["mask"]) },
        ),
        "speech" => {
            let frames = fields["frames"].as_array().unwrap();
            let frames: Vec<SpeechFrame> = frames.iter().map(speech).collect();
            wire::speech_bytes(framing, number(&fields["slot"]), frames.iter())
        }
        "speech_request" => wire::speech_request_bytes(
            framing,
            &SpeechRequest {
                slot: number(&fields["slot"]),
                first: number(&fields["first"]),
                mask: number(&fields["mask"]),
            },
        ),
        "probe" => wire::probe_bytes(framing),
        other => panic!("the kind {other}"),
    }
}

fn check_datagrams(kind: &str) {
    let file = file(kind);
    assert_eq!(text(&file, "kind"), kind);
    for vector in list(&file, "valid") {
        let name = text(vector, "name");
        let (framing, wire) = (framing(vector), bytes(vector, "bytes"));
        let body = wire
            .strip_prefix(framing.prefix())
            .unwrap_or_else(|| panic!("{kind}: {name}: no prefix"));
        let datagram = Datagram::parse(wire.slice_ref(body));
        let datagram = datagram.unwrap_or_else(|e| panic!("{kind}: {name}: {e}"));
        let (decoded, fields) = datagram_json(&datagram);
        assert_eq!(decoded, kind, "{name}");
        assert_eq!(fields, vector["fields"], "{kind}: {name}");
        if !accepted_only(vector) {
            let built = datagram_bytes(kind, framing, &vector["fields"]);
            assert_eq!(
                hex::encode(built),
                text(vector, "bytes"),
                "{kind}: {name}: the bytes that its fields encode to"
            );
        }
    }
    for vector in list(&file, "invalid") {
        let name = text(vector, "name");
        let error = Datagram::parse(bytes(vector, "bytes")).expect_err(name);
        assert_eq!(error_name(error), text(vector, "error"), "{kind}: {name}");
    }
}

#[test]
fn ticks() {
    check_datagrams("ticks");
    for vector in list(&file("ticks"), "invalid_payload") {
        let name = text(vector, "name");
        let error = wire::frames(&bytes(vector, "bytes")).expect_err(name);
        assert_eq!(error_name(error), text(vector, "error"), "{name}");
    }
}

#[test]
fn beacons() {
    check_datagrams("beacon");
}

#[test]
fn repair_requests() {
    check_datagrams("repair");
}

#[test]
fn speech_datagrams() {
    check_datagrams("speech");
}

#[test]
fn probes() {
    check_datagrams("probe");
}

#[test]
fn speech_requests() {
    check_datagrams("speech_request");
}

fn check_control<M>(kind: &str)
where
    M: DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let file = file(kind);
    assert_eq!(text(&file, "kind"), kind);
    for vector in list(&file, "valid") {
        let name = text(vector, "name");
        let wire = bytes(vector, "bytes");
        assert_eq!(&wire[2..], text(vector, "json").as_bytes(), "{name}");
        let mut decoder = ControlDecoder::default();
        decoder.push(&wire);
        let message: M = decoder.next_message().expect(name).expect(name);
        assert_eq!(decoder.held(), 0, "{kind}: {name}");
        let fields = serde_json::to_value(&message).unwrap();
        assert_eq!(fields, vector["message"], "{kind}: {name}");
        if !accepted_only(vector) {
            let message: M = serde_json::from_value(vector["message"].clone()).expect(name);
            let built = wire::encode_control(&message);
            assert_eq!(
                String::from_utf8_lossy(&built[2..]),
                text(vector, "json"),
                "{kind}: {name}: the text that its fields encode to"
            );
            assert_eq!(built, wire, "{kind}: {name}");
        }
    }
    for vector in list(&file, "invalid") {
        let name = text(vector, "name");
        let mut decoder = ControlDecoder::default();
        decoder.push(&bytes(vector, "bytes"));
        let close = decoder.next_message::<M>().expect_err(name);
        assert_eq!(close.code.name(), text(vector, "close"), "{kind}: {name}");
    }
}

#[test]
fn messages_of_clients() {
    check_control::<ClientMessage>("control_client");
}

#[test]
fn messages_of_servers() {
    check_control::<ServerMessage>("control_server");
}

#[test]
fn close_codes() {
    let file = file("close");
    let codes = CloseCode::ALL.iter().map(
        |code| json!({ "code": *code as u32, "name": code.name(), "side": code.side().to_string() }),
    );
    assert_eq!(
        Value::Array(codes.collect()),
        file["codes"],
        "a code is stable once released; a new one is added to the table"
    );
}

#[test]
fn tickets() {
    let file = file("ticket");
    let origin =
        Verifier::from_published(&[(text(&file, "kid").into(), text(&file, "public").into())]);
    let read = |vector: &Value| {
        let (ticket, now) = (text(vector, "ticket"), number(&vector["now_unix_s"]));
        admission::read(&mut PassVerifier::default(), &origin, ticket, text(&file, "room"), now)
    };
    for vector in list(&file, "valid") {
        let name = text(vector, "name");
        let ticket = read(vector).expect(name);
        assert_eq!(serde_json::to_value(&ticket).unwrap(), vector["claims"], "{name}");
        let bearer = admission::bearer(vector["identity"].as_str(), vector["client_key"].as_str());
        assert_eq!(ticket.check_bearer(bearer.as_deref()), Ok(()), "{name}");
    }
    for vector in list(&file, "invalid") {
        let close = Close::from(read(vector).expect_err(text(vector, "name")));
        assert_eq!(close.code.name(), text(vector, "close"), "{}", text(vector, "name"));
    }
}

#[test]
fn every_file_is_read() {
    let mut names: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, FILES);
}
