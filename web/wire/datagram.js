// Datagrams (PROTOCOL section 4), as WebTransport carries them: it adds and removes the prefix of
// section 11 itself.

import { Reader, WireError, Writer } from './bytes.js';
import { limits } from './limits.js';
import { SPEECH_FRAME_HEADER, readRecord, readSpeechFrame, writeSpeechFrame } from './tick.js';

/**
 * @typedef {{kind: 'ticks', room: number, epoch: number, replay: boolean, pending: number,
 *     records: import('./tick.js').Record[]}} Ticks
 * @typedef {{kind: 'beacon', room: number, epoch: number, newest: number, pending: number,
 *     upstreamSilentMs: number}} Beacon
 * @typedef {{kind: 'repair', room: number, epoch: number, first: number, mask: number}} Repair
 * @typedef {{kind: 'speech', slot: number, frames: import('./tick.js').SpeechFrame[]}} Speech
 * @typedef {{kind: 'speech_request', slot: number, first: number, mask: number}} SpeechRequest
 * @typedef {{kind: 'probe'}} Probe
 * @typedef {Ticks | Beacon | Repair | Speech | SpeechRequest | Probe} Datagram
 */

const KIND = { ticks: 1, beacon: 2, repair: 3, speech: 4, speechRequest: 5, probe: 6 };
const REPLAY = 0x01;
const SPEECH_HEADER = 5;

/**
 * Reads a datagram. What the records of ticks hold is read by `framesOf`.
 * @param {Uint8Array} bytes
 * @returns {Datagram}
 */
export function parseDatagram(bytes) {
    if (bytes.length > limits.DATAGRAM_BYTES) {
        throw new WireError('oversized');
    }
    const reader = new Reader(bytes);
    switch (reader.u8()) {
        case KIND.ticks:
            return readTicks(reader);
        case KIND.beacon:
            return readBeacon(reader);
        case KIND.repair:
            return readRepair(reader);
        case KIND.speech:
            return readSpeech(reader);
        case KIND.speechRequest:
            return readSpeechRequest(reader);
        case KIND.probe:
            reader.skip(3);
            return { kind: 'probe' };
        default:
            throw new WireError('unknown_kind');
    }
}

/** "Are you there?" */
export function probeBytes() {
    return Uint8Array.of(KIND.probe, 0, 0, 0);
}

/**
 * @param {{room: number, epoch: number, first: number, mask: number}} request
 */
export function repairBytes({ room, epoch, first, mask }) {
    const writer = new Writer(20);
    writer.u32(KIND.repair * 2 ** 24);
    writer.u32(room);
    writer.u32(epoch);
    writer.u32(first);
    writer.u32(mask);
    return writer.bytes;
}

/**
 * A speech datagram of as many of `frames` as fit; the first always does.
 * @param {number} slot
 * @param {import('./tick.js').SpeechFrame[]} frames the newest first
 */
export function speechBytes(slot, frames) {
    let size = SPEECH_HEADER;
    let count = 0;
    for (const frame of frames.slice(0, limits.FRAMES_PER_SPEECH)) {
        const more = size + SPEECH_FRAME_HEADER + frame.opus.length;
        if (count > 0 && more > limits.DATAGRAM_BYTES) {
            break;
        }
        size = more;
        count += 1;
    }
    const writer = new Writer(size);
    writer.u16(KIND.speech * 256);
    writer.u16(slot);
    writer.u8(count);
    for (const frame of frames.slice(0, count)) {
        writeSpeechFrame(writer, frame);
    }
    return writer.bytes;
}

/** @param {Reader} reader @returns {Ticks} */
function readTicks(reader) {
    const flags = reader.u8();
    const count = reader.u8();
    reader.skip(1);
    const room = reader.u32();
    const epoch = reader.u32();
    const pending = reader.u32();
    if (count === 0) {
        throw new WireError('malformed');
    }
    if (count > limits.RECORDS_PER_DATAGRAM) {
        throw new WireError('oversized');
    }
    const records = [];
    for (let i = 0; i < count; i++) {
        records.push(readRecord(reader));
    }
    if (reader.left > 0) {
        throw new WireError('malformed');
    }
    return { kind: 'ticks', room, epoch, replay: (flags & REPLAY) !== 0, pending, records };
}

/** @param {Reader} reader @returns {Beacon} */
function readBeacon(reader) {
    reader.skip(3);
    const room = reader.u32();
    const epoch = reader.u32();
    const newest = reader.u32();
    const pending = reader.u32();
    return { kind: 'beacon', room, epoch, newest, pending, upstreamSilentMs: reader.u32() };
}

/** @param {Reader} reader @returns {Repair} */
function readRepair(reader) {
    reader.skip(3);
    const room = reader.u32();
    const epoch = reader.u32();
    const first = reader.u32();
    return { kind: 'repair', room, epoch, first, mask: readMask(reader) };
}

/** @param {Reader} reader @returns {Speech} */
function readSpeech(reader) {
    reader.skip(1);
    const slot = reader.u16();
    const count = reader.u8();
    if (count === 0) {
        throw new WireError('malformed');
    }
    if (count > limits.FRAMES_PER_SPEECH) {
        throw new WireError('oversized');
    }
    const frames = [];
    for (let i = 0; i < count; i++) {
        frames.push(readSpeechFrame(reader));
    }
    if (reader.left > 0) {
        throw new WireError('malformed');
    }
    return { kind: 'speech', slot, frames };
}

/** @param {Reader} reader @returns {SpeechRequest} */
function readSpeechRequest(reader) {
    reader.skip(1);
    const slot = reader.u16();
    const first = reader.u32();
    return { kind: 'speech_request', slot, first, mask: readMask(reader) };
}

/** The mask of what is asked for: its first bit is always set. @param {Reader} reader */
function readMask(reader) {
    const mask = reader.u32();
    if ((mask & 1) === 0) {
        throw new WireError('malformed');
    }
    return mask;
}
