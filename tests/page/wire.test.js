// The page reads and writes the same golden bytes as the Rust (proto/vectors/README.md).

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { WireError } from '../../web/wire/bytes.js';
import { CLOSE_CODES } from '../../web/wire/close.js';
import { ControlError, MessageReader, helloMessage, messageBytes, parseMessage } from '../../web/wire/control.js';
import { parseDatagram, probeBytes, repairBytes, speechBytes } from '../../web/wire/datagram.js';
import { limits } from '../../web/wire/limits.js';
import { isOpus20Ms } from '../../web/wire/opus.js';
import { framesOf } from '../../web/wire/tick.js';

const root = new URL('../../', import.meta.url);
const vectors = (/** @type {string} */ name) =>
    JSON.parse(readFileSync(new URL(`proto/vectors/${name}.json`, root), 'utf8'));
const bytesOf = (/** @type {string} */ hex) => Uint8Array.from(Buffer.from(hex, 'hex'));
const hexOf = (/** @type {Uint8Array} */ bytes) => Buffer.from(bytes).toString('hex');

/** The datagram without what WebTransport adds. @param {{framing?: string, bytes: string}} vector */
function datagramOf({ framing, bytes }) {
    return bytesOf(framing === 'webtransport' ? bytes.slice(2) : bytes);
}

/** @param {import('../../web/wire/tick.js').SpeechFrame} frame */
const frameFields = (frame) => ({ ...frame, opus: hexOf(frame.opus) });

/** @param {any} datagram what `parseDatagram` gave, in the words of the vectors */
function fieldsOf(datagram) {
    const { kind, ...rest } = datagram;
    switch (kind) {
        case 'ticks': {
            const records = rest.records.map((/** @type {any} */ { number, clockUs, tickMs, flags, payload }) => ({
                number, clock_us: clockUs, tick_ms: tickMs, flags, frames: framesOf(payload).map(frameFields),
            }));
            return { ...rest, records };
        }
        case 'beacon': {
            const { room, epoch, newest, pending, upstreamSilentMs } = rest;
            return { newest: { room, epoch, number: newest }, pending, upstream_silent_ms: upstreamSilentMs };
        }
        case 'repair': {
            const { room, epoch, first, mask } = rest;
            return { first: { room, epoch, number: first }, mask };
        }
        case 'speech':
            return { slot: rest.slot, frames: rest.frames.map(frameFields) };
        default:
            return rest;
    }
}

for (const kind of ['ticks', 'beacon', 'repair', 'speech', 'speech_request', 'probe']) {
    const { valid, invalid = [], invalid_payload = [] } = vectors(kind);
    for (const vector of valid) {
        test(`${kind}: ${vector.name}`, () => {
            assert.deepEqual(fieldsOf(parseDatagram(datagramOf(vector))), vector.fields);
        });
    }
    for (const vector of [...invalid, ...invalid_payload]) {
        test(`${kind} refused: ${vector.name}`, () => {
            const read = invalid.includes(vector) ? parseDatagram : framesOf;
            assert.throws(() => read(bytesOf(vector.bytes)), (/** @type {unknown} */ error) =>
                error instanceof WireError && error.kind === vector.error);
        });
    }
}

test('what a client sends has the golden bytes', () => {
    const exact = (/** @type {string} */ kind) =>
        vectors(kind).valid.filter((/** @type {any} */ vector) => !vector.accepted_only);
    for (const vector of exact('repair')) {
        const { first, mask } = vector.fields;
        const { room, epoch, number } = first;
        assert.deepEqual(repairBytes({ room, epoch, first: number, mask }), datagramOf(vector));
    }
    for (const vector of exact('speech')) {
        const { slot, frames } = vector.fields;
        const packets = frames.map((/** @type {any} */ frame) => ({ ...frame, opus: bytesOf(frame.opus) }));
        assert.deepEqual(speechBytes(slot, packets), datagramOf(vector));
    }
    for (const vector of exact('probe')) {
        assert.deepEqual(probeBytes(), datagramOf(vector));
    }
});

test('hellos of listeners and of the stage have the golden bytes', () => {
    let checked = 0;
    for (const { message, bytes, accepted_only } of vectors('control_client').valid) {
        if (message.type === 'leave' && !accepted_only) {
            assert.equal(hexOf(messageBytes({ type: 'leave' })), bytes);
        }
        if (message.type === 'hello' && !message.relay && !accepted_only) {
            assert.equal(hexOf(messageBytes(helloMessage(message))), bytes, message);
            checked += 1;
        }
    }
    assert.ok(checked >= 6);
});

/** Fields of messages that are not for this client. */
const NOT_READ = new Set(['agent', 'keys', 'captions']);

for (const { name, bytes, message } of vectors('control_server').valid) {
    test(`control: ${name}`, () => {
        const [read, ...more] = new MessageReader().push(bytesOf(bytes));
        assert.equal(more.length, 0);
        if (read.type === 'unknown') {
            assert.ok(['unknown', 'placement', 'siblings', 'refused', 'revoked', 'invitations', 'lowered_hands', 'admission']
                .includes(message.type), `${message.type} is not read`);
            return;
        }
        const fields = /** @type {any} */ (read);
        for (const [field, value] of Object.entries(message)) {
            if (!NOT_READ.has(field)) {
                assert.deepEqual(fields[field], value, field);
            }
        }
    });
}

// Placements are for relays alone.
const refused = vectors('control_server').invalid
    .filter((/** @type {any} */ { name }) => !name.startsWith('a parent'));
for (const { name, bytes, close } of refused) {
    test(`control refused: ${name}`, () => {
        assert.throws(() => new MessageReader().push(bytesOf(bytes)), (/** @type {unknown} */ error) =>
            error instanceof ControlError && error.close === close);
    });
}

test('messages are cut wherever the stream is', () => {
    const { valid } = vectors('control_server');
    const all = bytesOf(valid.map((/** @type {any} */ vector) => vector.bytes).join(''));
    for (const step of [1, 7, 1000]) {
        const reader = new MessageReader();
        let count = 0;
        for (let at = 0; at < all.length; at += step) {
            count += reader.push(all.subarray(at, at + step)).length;
        }
        assert.equal(count, valid.length);
    }
});

test('names of object members are no way into the page', () => {
    const read = (/** @type {string} */ json) => parseMessage(new TextEncoder().encode(json));
    assert.deepEqual(read('{"type":"__proto__"}'), { type: 'unknown' });
    assert.deepEqual(read('{"type":"constructor"}'), { type: 'unknown' });
    assert.throws(() => read('{"type":"toString","__proto__":{"type":"leave"}'), ControlError);
    assert.throws(() => read('{"__proto__":{"type":"closing"}}'), ControlError);
});

test('close codes are those of the vector', () => {
    const known = [...CLOSE_CODES].map(([code, [name, side]]) => ({ code, name, side }));
    assert.deepEqual(known, vectors('close').codes);
});

test('limits are those of the protocol page', () => {
    const page = readFileSync(new URL('docs/PROTOCOL.md', root), 'utf8');
    const table = new Map([...page.matchAll(/^\| `([A-Z_]+)` \| (\d+) \|/gm)].map(([, name, value]) => [name, Number(value)]));
    for (const [name, value] of Object.entries(limits)) {
        assert.equal(value, table.get(name), name);
    }
});

test('only Opus packets of 20 ms are taken', () => {
    const toc = (/** @type {number} */ config, /** @type {number} */ code) => (config << 3) | code;
    const good = [
        ...[1, 5, 9, 13, 15, 19, 23, 27, 31].flatMap((config) => [[toc(config, 0), 1, 2, 3], [toc(config, 0)]]),
        [toc(30, 1), 1, 2, 3, 4], [toc(30, 2), 1, 9, 8, 8], [toc(30, 3), 2, 1, 2],
        [toc(28, 3), 0x88, 0, 0, 0, 0, 0, 0, 1, 9, 7], [toc(31, 3), 0x41, 2, 7, 0, 0],
    ];
    const bad = [
        [], [toc(0, 0), 1], [toc(2, 0), 1], [toc(3, 0), 1], [toc(31, 1), 1, 2], [toc(30, 1), 1, 2, 3],
        [toc(30, 2)], [toc(30, 2), 252], [toc(30, 2), 5, 1, 2], [toc(31, 3)], [toc(31, 3), 0],
        [toc(31, 3), 0x41], [toc(31, 3), 0x41, 9, 1], [toc(31, 3), 0x41, 255, 255],
        [toc(30, 3), 2, 1, 2, 3], [toc(28, 3), 0x88, 0, 0], [toc(31, 0), ...new Array(1300).fill(0)],
    ];
    for (const packet of good) {
        assert.ok(isOpus20Ms(Uint8Array.from(packet)), `${packet}`);
    }
    for (const packet of bad) {
        assert.ok(!isOpus20Ms(Uint8Array.from(packet)), `${packet}`);
    }
});

test('no bytes do more than throw the error of the wire', () => {
    let seed = 1;
    const next = () => (seed = (seed * 48271) % 2147483647);
    for (let round = 0; round < 20_000; round++) {
        const bytes = Uint8Array.from({ length: next() % 60 }, () => next());
        bytes[0] = next() % 8;
        for (const read of [parseDatagram, framesOf]) {
            try {
                read(bytes);
            } catch (error) {
                assert.ok(error instanceof WireError, String(error));
            }
        }
        isOpus20Ms(bytes);
    }
});
