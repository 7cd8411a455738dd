//! Targets for the bytes on the wire.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stentor_proto::limits;
use stentor_proto::wire::{
    self, ClientMessage, ControlDecoder, Datagram, Frame, Framing, Record, ServerMessage,
};

/// A datagram: what parses is within its limits and is read back equal once rebuilt.
pub fn datagram(data: &[u8]) {
    let Ok(datagram) = Datagram::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    if let Datagram::Ticks { records, .. } = &datagram {
        assert!((1..=limits::RECORDS_PER_DATAGRAM).contains(&records.len()));
        for record in records {
            frames(&record.payload);
        }
    }
    for framing in Framing::ALL {
        let built = rebuilt(framing, &datagram);
        let body =
            built.strip_prefix(framing.prefix()).expect("a builder writes its framing's prefix");
        assert!(body.len() <= limits::DATAGRAM_BYTES);
        let again = Datagram::parse(built.slice_ref(body));
        assert_eq!(again.as_ref(), Ok(&datagram));
    }
}

fn rebuilt(framing: Framing, datagram: &Datagram) -> Bytes {
    match datagram {
        Datagram::Ticks { room, epoch, replay, pending, records } => {
            let records: Vec<Bytes> = records.iter().map(|record| record.bytes.clone()).collect();
            wire::ticks_bytes(framing, *room, *epoch, *replay, *pending, &records)
        }
        Datagram::Beacon(beacon) => wire::beacon_bytes(framing, beacon),
        Datagram::Repair(request) => wire::repair_bytes(framing, request),
        Datagram::Speech { slot, frames } => wire::speech_bytes(framing, *slot, frames.iter()),
        Datagram::SpeechRequest(request) => wire::speech_request_bytes(framing, request),
        Datagram::Probe => wire::probe_bytes(framing),
    }
}

/// A tick's payload: what parses encodes to the bytes that were read.
pub fn frames(data: &[u8]) {
    let Ok(frames) = wire::frames(&Bytes::copy_from_slice(data)) else {
        return;
    };
    assert!(frames.len() <= limits::FRAMES_PER_TICK);
    // Bytes after the last frame are a later release's; those before it are all accounted for.
    assert!(data.starts_with(&Frame::payload(&frames)));
    for frame in &frames {
        assert!((1..=limits::FRAME_BYTES).contains(&frame.speech.opus.len()));
        assert!(frame.speech.level <= 127);
    }
}

/// Records one after another: each covers exactly the bytes that it takes, and rebuilds to them.
pub fn record(data: &[u8]) {
    let mut rest = Bytes::copy_from_slice(data);
    let mut read = 0;
    while let Ok(record) = Record::parse(&mut rest) {
        let end = read + record.bytes.len();
        assert_eq!(record.bytes, data[read..end]);
        assert_eq!(rest, data[end..]);
        let again = wire::record_bytes(
            record.number,
            record.clock_us,
            record.tick_ms,
            record.flags,
            &record.payload,
        );
        assert_eq!(again, record.bytes);
        read = end;
    }
}

/// A control stream that arrives in pieces, their size in the first byte: the messages and the
/// close are those of the same stream in one piece, and no more than one message is held.
pub fn control(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let piece = usize::from(piece) + 1;
    assert_eq!(
        messages::<ClientMessage>(stream, piece),
        messages::<ClientMessage>(stream, usize::MAX)
    );
    assert_eq!(
        messages::<ServerMessage>(stream, piece),
        messages::<ServerMessage>(stream, usize::MAX)
    );
}

fn messages<M>(stream: &[u8], piece: usize) -> (Vec<M>, Option<wire::Close>)
where
    M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut decoder = ControlDecoder::default();
    let mut read = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next_message::<M>() {
                Ok(Some(message)) => {
                    survives_encoding(&message);
                    read.push(message);
                }
                Ok(None) => break,
                Err(close) => return (read, Some(close)),
            }
        }
        assert!(decoder.held() < 2 + limits::CONTROL_BYTES);
    }
    (read, None)
}

fn survives_encoding<M>(message: &M)
where
    M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    // A message near the bound may grow beyond it: fields that were absent are written out.
    let json = serde_json::to_vec(message).expect("control messages hold only plain data");
    if json.len() > limits::CONTROL_BYTES {
        return;
    }
    let mut decoder = ControlDecoder::default();
    decoder.push(&wire::encode_control(message));
    assert_eq!(decoder.next_message::<M>().as_ref().map(Option::as_ref), Ok(Some(message)));
    assert_eq!(decoder.held(), 0);
}
