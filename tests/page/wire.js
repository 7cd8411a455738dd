// What nodes send, for tests: the page itself only reads it.

import { Writer } from '../../web/wire/bytes.js';
import { writeSpeechFrame } from '../../web/wire/tick.js';

/**
 * A ticks datagram.
 * @param {{numbers: number[], epoch?: number, replay?: boolean, tickMs?: number, clockUs?: number,
 *     frames?: import('../../web/wire/tick.js').Frame[]}} what all ticks hold the same frames
 */
export function ticksBytes({ numbers, epoch = 1, replay = false, tickMs = 20, clockUs = 0, frames = [] }) {
    const payload = frames.reduce((sum, { opus }) => sum + 9 + opus.length, 1);
    const writer = new Writer(16 + numbers.length * (16 + payload));
    writer.u8(1);
    writer.u8(replay ? 1 : 0);
    writer.u16(numbers.length * 256);
    writer.u32(7);
    writer.u32(epoch);
    writer.u32(0);
    for (const number of numbers) {
        writer.u32(number);
        writer.u64(clockUs);
        writer.u8(tickMs);
        writer.u8(frames.length === 0 ? 1 : 0);
        writer.u16(payload);
        writer.u8(frames.length);
        for (const frame of frames) {
            writer.u16(frame.slot);
            writeSpeechFrame(writer, frame);
        }
    }
    return writer.bytes;
}

/** @param {{newest: number, epoch?: number, silentMs?: number}} what */
export function beaconBytes({ newest, epoch = 1, silentMs = 0 }) {
    const writer = new Writer(24);
    for (const field of [2 * 2 ** 24, 7, epoch, newest, 0, silentMs]) {
        writer.u32(field);
    }
    return writer.bytes;
}
