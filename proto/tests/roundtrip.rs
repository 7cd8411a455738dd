//! Properties of the wire: what is built is read back equal, whatever the pieces in which it
//! arrives, and no bytes whatever make a parser panic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use stentor_proto::limits;
use stentor_proto::wire::{
    self, Admission, Alternate, Beacon, ClientMessage, ControlDecoder, Datagram, DoorLoad, Frame,
    Framing, Hello, Load, Parent, Placement, Record, RelayInfo, RepairRequest, Role, RoomState,
    Secret, ServerMessage, SpeechFrame, SpeechRequest, StageEntry, Subscribed, TickFlags, TickKey,
    Waiting, Welcome,
};

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Quic), Just(Framing::WebTransport)]
}

fn key() -> impl Strategy<Value = TickKey> {
    any::<(u32, u32, u32)>().prop_map(|(room, epoch, number)| TickKey { room, epoch, number })
}

fn speech_frame(bytes: usize) -> impl Strategy<Value = SpeechFrame> {
    (any::<u32>(), 0..=127_u8, any::<bool>(), vec(any::<u8>(), 1..=bytes))
        .prop_map(|(seq, level, voice, opus)| SpeechFrame { seq, level, voice, opus: opus.into() })
}

fn frame() -> impl Strategy<Value = Frame> {
    (any::<u16>(), speech_frame(20)).prop_map(|(slot, speech)| Frame { slot, speech })
}

/// A record's bytes with the frames in it; at most 293 bytes, so that three fit a datagram.
fn record() -> impl Strategy<Value = (Bytes, Vec<Frame>)> {
    let cadence = prop_oneof![Just(20_u8), Just(40), Just(60)];
    let header = (1..=u32::MAX, any::<u64>(), cadence, any::<u8>());
    (header, vec(frame(), 0..=8)).prop_map(|((number, clock_us, tick_ms, flags), frames)| {
        let payload = Frame::payload(&frames);
        let bytes = wire::record_bytes(number, clock_us, tick_ms, TickFlags(flags), &payload);
        (bytes, frames)
    })
}

fn parse(framing: Framing, bytes: &Bytes) -> Datagram {
    let body = bytes.strip_prefix(framing.prefix()).expect("the prefix is there");
    Datagram::parse(bytes.slice_ref(body)).expect("what is built is valid")
}

/// No shorter form of a datagram is valid.
fn cut_short_is_refused(framing: Framing, bytes: &Bytes) -> Result<(), TestCaseError> {
    let body = bytes.slice(framing.prefix().len()..);
    for len in 0..body.len() {
        prop_assert!(Datagram::parse(body.slice(..len)).is_err(), "{} bytes", len);
    }
    Ok(())
}

fn name() -> impl Strategy<Value = String> {
    "\\PC{0,24}"
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Host),
        Just(Role::CoHost),
        Just(Role::Speaker),
        Just(Role::Listener),
        Just(Role::Relay),
        Just(Role::Recorder),
    ]
}

fn relay_info() -> impl Strategy<Value = RelayInfo> {
    let numbers = (any::<u32>(), option::of(any::<u8>()), any::<u64>());
    let keys = (option::of(name()), vec(name(), 0..3));
    (name(), name(), name(), numbers, keys).prop_map(
        |(id, address, region, (capacity, level, incarnation), keys)| RelayInfo {
            id,
            address,
            region,
            capacity,
            level,
            incarnation,
            pass_key: keys.0,
            certificate_hashes: keys.1,
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let texts = (name(), option::of(name()), option::of(name()), option::of(name()));
    let last = option::of(any::<(u32, u32)>());
    (
        any::<u32>(),
        vec(name(), 0..4),
        role(),
        texts,
        option::of(any::<u32>()),
        last,
        (option::of(relay_info()), vec(option::of(name().prop_map(Secret)), 3)),
    )
        .prop_map(|(version, features, role, texts, playout_ms, last, (relay, secrets))| {
            let (room, token, name, agent) = texts;
            let mut secrets = secrets.into_iter();
            let [pass, ticket, client_key] = [(); 3].map(|()| secrets.next().flatten());
            Hello {
                version,
                features,
                role,
                room,
                token,
                name,
                agent,
                playout_ms,
                last,
                pass,
                ticket,
                client_key,
                relay,
            }
        })
}

fn load() -> impl Strategy<Value = Load> {
    let counts = any::<(u64, u64, u32, u64, u32, u32)>();
    let hashes = vec(name(), 0..3);
    let parents = (vec(name(), 0..3), vec(name(), 0..3), any::<bool>(), hashes);
    let door = option::of(any::<(u32, u32, u64)>());
    let arrivals = vec(any::<(u64, u64)>(), 0..limits::ARRIVALS_S);
    (counts, vec((name(), any::<u32>()), 0..4), parents, (arrivals, door)).prop_map(
        |(
            counts,
            round_trips,
            (parents, silent, draining, certificate_hashes),
            (arrivals, door),
        )| Load {
            incarnation: counts.0,
            sequence: counts.1,
            listeners: counts.2,
            listeners_below: counts.3,
            children: counts.4,
            joins_per_s: counts.5,
            round_trips,
            parents,
            silent,
            draining,
            arrivals,
            door: door.map(|(free, joins_per_s, admitted)| DoorLoad {
                free,
                joins_per_s,
                admitted,
            }),
            certificate_hashes,
            rooms: Vec::new(),
        },
    )
}

fn client_message() -> impl Strategy<Value = ClientMessage> {
    prop_oneof![
        hello().prop_map(ClientMessage::Hello),
        name().prop_map(|room| ClientMessage::Subscribe { room }),
        name().prop_map(|room| ClientMessage::Unsubscribe { room }),
        load().prop_map(ClientMessage::Load),
        Just(ClientMessage::Leave),
    ]
}

fn subscribed() -> impl Strategy<Value = Subscribed> {
    (name(), name(), any::<(u32, bool, u32, u32)>(), any::<(u8, u8)>()).prop_map(
        |(name, title, (id, public, epoch, newest), (tick_ms, redundancy))| Subscribed {
            name,
            id,
            title,
            public,
            epoch,
            newest,
            tick_ms,
            redundancy,
        },
    )
}

fn alternate() -> impl Strategy<Value = Alternate> {
    (name(), name(), vec(name(), 0..3)).prop_map(|(relay, address, certificate_hashes)| Alternate {
        relay,
        address,
        certificate_hashes,
    })
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let texts = (name(), name(), vec(name(), 0..4));
    let numbers = (option::of(any::<u16>()), option::of(any::<u16>()), option::of(any::<u32>()));
    let lists =
        (vec(alternate(), 0..3), vec((name(), name()), 0..3), option::of(name().prop_map(Secret)));
    (any::<u32>(), texts, role(), option::of(subscribed()), numbers, lists).prop_map(
        |(
            version,
            (agent, identity, features),
            role,
            room,
            (slot, frame_bytes, repair_ms),
            (alternates, keys, pass),
        )| {
            Welcome {
                version,
                features,
                agent,
                identity,
                role,
                room,
                slot,
                frame_bytes,
                repair_ms,
                alternates,
                pass,
                keys,
            }
        },
    )
}

fn room_state() -> impl Strategy<Value = RoomState> {
    let entry = (any::<u16>(), name(), name(), role()).prop_map(|(slot, identity, name, role)| {
        StageEntry { slot, identity, name, role, muted: slot % 2 == 0 }
    });
    let counts = (any::<[u64; 3]>(), any::<bool>(), option::of(any::<u64>()), 0..9_usize);
    (name(), any::<u64>(), name(), vec(entry, 0..6), counts).prop_map(
        |(
            room,
            version,
            title,
            stage,
            ([listeners, waiting, hands], locked, started_ms, kinds),
        )| {
            let reactions = limits::REACTIONS.iter().take(kinds);
            RoomState {
                room,
                version,
                title,
                stage,
                listeners,
                waiting,
                hands,
                reactions: reactions.map(|&kind| (kind.to_owned(), listeners)).collect(),
                locked,
                started_ms,
            }
        },
    )
}

fn placement() -> impl Strategy<Value = Placement> {
    let parent = (name(), name()).prop_map(|(relay, address)| Parent { relay, address });
    (any::<u64>(), any::<u8>(), vec(parent, 0..3), name())
        .prop_map(|(version, level, parents, why)| Placement { version, level, parents, why })
}

fn waiting() -> impl Strategy<Value = ServerMessage> {
    let numbers = (any::<(u64, u64, u32, u64)>(), option::of(any::<u64>()));
    (option::of(name().prop_map(Secret)), numbers).prop_map(
        |(ticket, ((place, waiting, retry_ms, arrival_ms), eta_ms))| {
            ServerMessage::Waiting(Waiting { ticket, place, waiting, retry_ms, arrival_ms, eta_ms })
        },
    )
}

fn admission() -> impl Strategy<Value = ServerMessage> {
    let curve = vec(any::<(u64, u64)>(), 0..limits::CURVE_POINTS);
    (any::<(u64, u64, u32, u64)>(), curve).prop_map(
        |((now_ms, watermark_ms, rate_per_s, waiting), curve)| {
            let said = Admission { now_ms, watermark_ms, rate_per_s, waiting, curve };
            ServerMessage::Admission(said)
        },
    )
}

fn server_message() -> impl Strategy<Value = ServerMessage> {
    let refusal = (name(), any::<u32>(), name(), name());
    let closing = (any::<u32>(), name(), name());
    let alternate = alternate();
    let redirect = (vec(alternate, 0..3), option::of(name().prop_map(Secret)));
    prop_oneof![
        waiting(),
        admission(),
        redirect.prop_map(|(relays, ticket)| ServerMessage::Redirect { relays, ticket }),
        welcome().prop_map(ServerMessage::Welcome),
        subscribed().prop_map(ServerMessage::Subscribed),
        refusal.prop_map(|(room, code, name, reason)| ServerMessage::Refused {
            room,
            code,
            name,
            reason
        }),
        room_state().prop_map(ServerMessage::Room),
        placement().prop_map(ServerMessage::Placement),
        closing.prop_map(|(code, name, reason)| ServerMessage::Closing { code, name, reason }),
    ]
}

/// Messages written one after another and read in pieces of `piece` bytes.
fn survives_the_stream<M>(messages: &[M], piece: usize) -> Result<(), TestCaseError>
where
    M: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let stream: Vec<u8> = messages.iter().flat_map(wire::encode_control).collect();
    let mut decoder = ControlDecoder::default();
    let mut read = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(piece);
        while let Some(message) = decoder.next_message::<M>().unwrap() {
            read.push(message);
        }
        prop_assert!(decoder.held() < 2 + limits::CONTROL_BYTES);
    }
    prop_assert_eq!(read.as_slice(), messages);
    prop_assert_eq!(decoder.held(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks(
        framing in framing(),
        header in any::<(u32, u32, bool, u32)>(),
        built in vec(record(), 1..=1 + limits::EARLIER_TICKS),
    ) {
        let (room, epoch, replay, pending) = header;
        let bytes: Vec<Bytes> = built.iter().map(|(bytes, _)| bytes.clone()).collect();
        let wire = wire::ticks_bytes(framing, room, epoch, replay, pending, &bytes);
        let Datagram::Ticks { records, .. } = parse(framing, &wire) else {
            panic!("ticks are read as ticks");
        };
        prop_assert_eq!(records.len(), built.len());
        for (record, (bytes, frames)) in records.iter().zip(&built) {
            prop_assert_eq!(&record.bytes, bytes, "a relay passes on what it received");
            prop_assert_eq!(&wire::frames(&record.payload).unwrap(), frames);
            prop_assert_eq!(&Record::parse(&mut bytes.clone()).unwrap(), record);
            let again = wire::record_bytes(
                record.number, record.clock_us, record.tick_ms, record.flags, &record.payload,
            );
            prop_assert_eq!(&again, bytes);
        }
        let expected = Datagram::Ticks { room, epoch, replay, pending, records };
        prop_assert_eq!(parse(framing, &wire), expected);
        cut_short_is_refused(framing, &wire)?;
    }

    #[test]
    fn beacons(framing in framing(), newest in key(), rest in any::<(u32, u32)>()) {
        let beacon = Beacon { newest, pending: rest.0, upstream_silent_ms: rest.1 };
        let wire = wire::beacon_bytes(framing, &beacon);
        prop_assert_eq!(parse(framing, &wire), Datagram::Beacon(beacon));
        cut_short_is_refused(framing, &wire)?;
    }

    #[test]
    fn repair_requests(framing in framing(), first in key(), mask in any::<u32>()) {
        let request = RepairRequest { first, mask: mask | 1 };
        let wire = wire::repair_bytes(framing, &request);
        prop_assert_eq!(parse(framing, &wire), Datagram::Repair(request));
        cut_short_is_refused(framing, &wire)?;
    }

    #[test]
    fn speech(
        framing in framing(),
        slot in any::<u16>(),
        frames in vec(speech_frame(120), 1..=limits::FRAMES_PER_SPEECH),
    ) {
        let wire = wire::speech_bytes(framing, slot, frames.iter());
        prop_assert_eq!(parse(framing, &wire), Datagram::Speech { slot, frames });
        cut_short_is_refused(framing, &wire)?;
    }

    #[test]
    fn speech_requests(framing in framing(), slot in any::<u16>(), rest in any::<(u32, u32)>()) {
        let request = SpeechRequest { slot, first: rest.0, mask: rest.1 | 1 };
        let wire = wire::speech_request_bytes(framing, &request);
        prop_assert_eq!(parse(framing, &wire), Datagram::SpeechRequest(request));
        cut_short_is_refused(framing, &wire)?;
    }

    #[test]
    fn messages_of_clients(messages in vec(client_message(), 1..5), piece in 1..200_usize) {
        survives_the_stream(&messages, piece)?;
    }

    #[test]
    fn messages_of_servers(messages in vec(server_message(), 1..5), piece in 1..200_usize) {
        survives_the_stream(&messages, piece)?;
    }

    #[test]
    fn random_bytes_panic_no_parser(bytes in vec(any::<u8>(), 0..1200), kind in 0..7_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(Datagram::Ticks { records, .. }) = Datagram::parse(bytes.clone()) {
            for record in records {
                let _ = wire::frames(&record.payload);
            }
        }
        let _ = wire::frames(&bytes);
        let mut decoder = ControlDecoder::default();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_message::<ClientMessage>() {}
    }
}
