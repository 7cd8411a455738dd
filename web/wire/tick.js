// Ticks and frames (PROTOCOL section 5).

import { Reader, WireError } from './bytes.js';
import { CADENCES, limits } from './limits.js';

/**
 * One Opus packet with what its speaker says of it.
 * @typedef {{seq: number, level: number, voice: boolean, opus: Uint8Array}} SpeechFrame
 * @typedef {SpeechFrame & {slot: number}} Frame
 */

/**
 * One tick as it lies in a datagram. `bytes` is the whole record, header included.
 * @typedef {{number: number, clockUs: number, tickMs: number, flags: number,
 *     payload: Uint8Array, bytes: Uint8Array}} Record
 */

/** Tick flag: nobody speaks. */
export const HEARTBEAT = 0x01;
const VOICE = 0x80;

/**
 * Reads the record at the reader's place.
 * @param {Reader} reader
 * @returns {Record}
 */
export function readRecord(reader) {
    const start = reader.at;
    const number = reader.u32();
    const clockUs = reader.u64();
    const tickMs = reader.u8();
    const flags = reader.u8();
    const length = reader.u16();
    if (number === 0 || !CADENCES.includes(tickMs)) {
        throw new WireError('malformed');
    }
    if (length > limits.RECORD_BYTES - limits.RECORD_HEADER_BYTES) {
        throw new WireError('oversized');
    }
    const payload = reader.take(length);
    const bytes = reader.bytes.subarray(start, reader.at);
    return { number, clockUs, tickMs, flags, payload, bytes };
}

/**
 * The frames of a tick's payload. Bytes after the last are skipped.
 * @param {Uint8Array} payload
 * @returns {Frame[]}
 */
export function framesOf(payload) {
    const reader = new Reader(payload);
    const count = reader.u8();
    if (count > limits.FRAMES_PER_TICK) {
        throw new WireError('oversized');
    }
    const frames = [];
    for (let i = 0; i < count; i++) {
        const slot = reader.u16();
        frames.push({ slot, ...readSpeechFrame(reader) });
    }
    return frames;
}

/**
 * Reads a frame behind its slot.
 * @param {Reader} reader
 * @returns {SpeechFrame}
 */
export function readSpeechFrame(reader) {
    const seq = reader.u32();
    const loudness = reader.u8();
    const length = reader.u16();
    if (length === 0 || length > limits.FRAME_BYTES) {
        throw new WireError(length === 0 ? 'malformed' : 'oversized');
    }
    const opus = reader.take(length);
    return { seq, level: loudness & 0x7f, voice: (loudness & VOICE) !== 0, opus };
}

/**
 * @param {import('./bytes.js').Writer} writer
 * @param {SpeechFrame} frame
 */
export function writeSpeechFrame(writer, frame) {
    writer.u32(frame.seq);
    writer.u8((frame.level & 0x7f) | (frame.voice ? VOICE : 0));
    writer.u16(frame.opus.length);
    writer.put(frame.opus);
}

/** Bytes of a frame behind its slot, besides its packet. */
export const SPEECH_FRAME_HEADER = 7;
