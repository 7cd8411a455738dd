// Control messages (PROTOCOL section 3): a 16-bit length and one JSON object.

import { limits } from './limits.js';

/** A message that breaks the protocol; `close` is the name of the close code that follows. */
export class ControlError extends Error {
    /**
     * @param {'protocol' | 'message_too_large'} close
     * @param {string} detail
     */
    constructor(close, detail) {
        super(detail);
        this.close = close;
    }
}

/**
 * A node that a session can be opened to. `certificate_hashes` are SHA-256 in base64url, in
 * development mode alone.
 * @typedef {{relay: string, address: string, certificate_hashes?: string[]}} Place
 */

/**
 * @typedef {{name: string, id: number, title: string, public: boolean, epoch: number,
 *     newest: number, tick_ms: number, redundancy: number}} Subscribed
 * @typedef {{slot: number, identity: string, name: string, role: string, muted: boolean}} OnStage
 * @typedef {{type: 'welcome', version: number, features: string[], identity: string, role: string,
 *     room?: Subscribed, slot?: number, frame_bytes?: number, repair_ms?: number,
 *     alternates: Place[], pass?: string}} Welcome
 * @typedef {{type: 'room', room: string, version: number, title: string, stage: OnStage[],
 *     listeners: number, waiting: number, hands: number, reactions: {[kind: string]: number},
 *     locked: boolean, started_ms?: number}} RoomDocument
 * @typedef {{type: 'closing', code: number, name: string, reason: string}} Closing
 * @typedef {{type: 'waiting', ticket?: string, place: number, waiting: number, retry_ms: number,
 *     arrival_ms: number, eta_ms?: number}} Waiting
 * @typedef {{type: 'redirect', relays: Place[], ticket?: string}} Redirect
 * @typedef {Welcome | ({type: 'subscribed'} & Subscribed) | RoomDocument | Closing
 *     | {type: 'alternates', alternates: Place[]}
 *     | {type: 'move', alternates: Place[], reason: string}
 *     | Waiting | Redirect
 *     | {type: 'invited', role: string} | {type: 'invitation_withdrawn'} | {type: 'hand_lowered'}
 *     | {type: 'unknown'}} ServerMessage
 */

/**
 * What a client says first; fields without a value are left out.
 * @typedef {{role: string, room: string, token?: string, name?: string, agent?: string,
 *     playout_ms?: number, last?: [number, number], pass?: string, ticket?: string,
 *     client_key?: string, features?: string[]}} Hello
 */

/** What this client can do beyond version 1. */
export const FEATURES = Object.freeze(['ticks', 'repair', 'replay', 'probe', 'move']);

const encoder = new TextEncoder();
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * A message with its length before it.
 * @param {{type: string} & {[field: string]: unknown}} message
 */
export function messageBytes(message) {
    const json = encoder.encode(JSON.stringify(message));
    if (json.length > limits.CONTROL_BYTES) {
        throw new ControlError('message_too_large', 'a message to send is too large');
    }
    const bytes = new Uint8Array(2 + json.length);
    new DataView(bytes.buffer).setUint16(0, json.length);
    bytes.set(json, 2);
    return bytes;
}

/**
 * The hello of this client, its fields in the protocol's order.
 * @param {Hello} hello
 */
export function helloMessage(hello) {
    const { role, room, token, name, agent, playout_ms, last, pass, ticket, client_key } = hello;
    const features = hello.features ?? [...FEATURES];
    const message = { type: 'hello', version: 1, features, role, room, token, name, agent };
    return { ...message, playout_ms, last, pass, ticket, client_key };
}

/** Cuts the bytes of a control stream into messages. */
export class MessageReader {
    #kept = new Uint8Array(0);

    /**
     * Takes bytes as they come; returns the messages that are whole.
     * @param {Uint8Array} bytes
     * @returns {ServerMessage[]}
     */
    push(bytes) {
        const all = new Uint8Array(this.#kept.length + bytes.length);
        all.set(this.#kept);
        all.set(bytes, this.#kept.length);
        const messages = [];
        let at = 0;
        while (all.length - at >= 2) {
            const length = all[at] * 256 + all[at + 1];
            if (length > limits.CONTROL_BYTES) {
                throw new ControlError('message_too_large', 'a message is too large');
            }
            if (all.length - at - 2 < length) {
                break;
            }
            messages.push(parseMessage(all.subarray(at + 2, at + 2 + length)));
            at += 2 + length;
        }
        this.#kept = all.slice(at);
        return messages;
    }
}

/**
 * Reads one message of a node. Unknown types and fields are passed over.
 * @param {Uint8Array} json
 * @returns {ServerMessage}
 */
export function parseMessage(json) {
    let value;
    try {
        value = JSON.parse(strict.decode(json));
    } catch {
        throw new ControlError('protocol', 'a message is not JSON');
    }
    const fields = new Fields(value);
    const read = READERS[fields.text('type')];
    return read ? read(fields) : { type: 'unknown' };
}

const U16 = 2 ** 16 - 1;
const U32 = 2 ** 32 - 1;

/** The members of an object; each accessor throws where the member is not what it must be. */
class Fields {
    /** @param {unknown} value */
    constructor(value) {
        if (typeof value !== 'object' || value === null || Array.isArray(value)) {
            throw new ControlError('protocol', 'a message is not an object');
        }
        this.value = /** @type {{[name: string]: unknown}} */ (value);
    }

    /** @param {string} name */
    has(name) {
        return Object.hasOwn(this.value, name) && this.value[name] !== null;
    }

    /** @param {string} name @param {string} [absent] */
    text(name, absent) {
        if (!this.has(name) && absent !== undefined) {
            return absent;
        }
        const value = this.has(name) ? this.value[name] : undefined;
        if (typeof value !== 'string') {
            throw new ControlError('protocol', `${name} is not a text`);
        }
        return value;
    }

    /** @param {string} name @param {boolean} absent */
    truth(name, absent) {
        const value = this.has(name) ? this.value[name] : absent;
        if (typeof value !== 'boolean') {
            throw new ControlError('protocol', `${name} is neither true nor false`);
        }
        return value;
    }

    /** @param {string} name @param {number} most @param {number} [absent] */
    whole(name, most, absent) {
        const value = this.has(name) ? this.value[name] : absent;
        if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > most) {
            throw new ControlError('protocol', `${name} is not a whole number in its range`);
        }
        return value;
    }

    /** @param {string} name @returns {unknown[]} */
    list(name) {
        const value = this.has(name) ? this.value[name] : [];
        if (!Array.isArray(value)) {
            throw new ControlError('protocol', `${name} is not a list`);
        }
        return value;
    }

    /** @param {string} name */
    texts(name) {
        return this.list(name).map((text) => {
            if (typeof text !== 'string') {
                throw new ControlError('protocol', `${name} holds something that is not a text`);
            }
            return text;
        });
    }

    /** A member only where it is there. @template T @param {string} name @param {() => T} read */
    maybe(name, read) {
        return this.has(name) ? { [name]: read() } : {};
    }
}

/** @type {{[type: string]: (fields: Fields) => ServerMessage}} */
const READERS = {
    __proto__: /** @type {any} */ (null),
    welcome: readWelcome,
    subscribed: (fields) => ({ type: 'subscribed', ...readSubscribed(fields) }),
    room: readRoom,
    closing: (fields) => ({
        type: 'closing',
        code: fields.whole('code', U32),
        name: fields.text('name'),
        reason: fields.text('reason'),
    }),
    alternates: (fields) => ({ type: 'alternates', alternates: readPlaces(fields, 'alternates') }),
    move: (fields) => ({
        type: 'move',
        alternates: readPlaces(fields, 'alternates'),
        reason: fields.text('reason', ''),
    }),
    waiting: (fields) => ({
        type: 'waiting',
        ...fields.maybe('ticket', () => fields.text('ticket')),
        ...fields.maybe('eta_ms', () => fields.whole('eta_ms', Number.MAX_SAFE_INTEGER)),
        place: fields.whole('place', Number.MAX_SAFE_INTEGER),
        waiting: fields.whole('waiting', Number.MAX_SAFE_INTEGER, 0),
        retry_ms: fields.whole('retry_ms', U32),
        arrival_ms: fields.whole('arrival_ms', Number.MAX_SAFE_INTEGER, 0),
    }),
    redirect: (fields) => ({
        type: 'redirect',
        relays: readPlaces(fields, 'relays'),
        ...fields.maybe('ticket', () => fields.text('ticket')),
    }),
    invited: (fields) => ({ type: 'invited', role: fields.text('role') }),
    invitation_withdrawn: () => ({ type: 'invitation_withdrawn' }),
    hand_lowered: () => ({ type: 'hand_lowered' }),
};

/** @param {Fields} fields @returns {Welcome} */
function readWelcome(fields) {
    const room = () => readSubscribed(new Fields(fields.value.room));
    return {
        type: 'welcome',
        version: fields.whole('version', U32),
        features: fields.texts('features'),
        identity: fields.text('identity'),
        role: fields.text('role'),
        alternates: readPlaces(fields, 'alternates'),
        ...fields.maybe('room', room),
        ...fields.maybe('slot', () => fields.whole('slot', U16)),
        ...fields.maybe('frame_bytes', () => fields.whole('frame_bytes', U32)),
        ...fields.maybe('repair_ms', () => fields.whole('repair_ms', U32)),
        ...fields.maybe('pass', () => fields.text('pass')),
    };
}

/** @param {Fields} fields @returns {Subscribed} */
function readSubscribed(fields) {
    return {
        name: fields.text('name'),
        id: fields.whole('id', U32),
        title: fields.text('title', ''),
        public: fields.truth('public', false),
        epoch: fields.whole('epoch', U32),
        newest: fields.whole('newest', U32),
        tick_ms: fields.whole('tick_ms', 255),
        redundancy: fields.whole('redundancy', 255),
    };
}

/** @param {Fields} fields @returns {RoomDocument} */
function readRoom(fields) {
    return {
        type: 'room',
        room: fields.text('room'),
        version: fields.whole('version', Number.MAX_SAFE_INTEGER),
        title: fields.text('title', ''),
        stage: fields.list('stage').map((one) => readOnStage(new Fields(one))),
        listeners: fields.whole('listeners', Number.MAX_SAFE_INTEGER, 0),
        waiting: fields.whole('waiting', Number.MAX_SAFE_INTEGER, 0),
        hands: fields.whole('hands', Number.MAX_SAFE_INTEGER, 0),
        reactions: readCounts(fields, 'reactions'),
        locked: fields.truth('locked', false),
        ...fields.maybe('started_ms', () => fields.whole('started_ms', Number.MAX_SAFE_INTEGER)),
    };
}

/** @param {Fields} fields @returns {OnStage} */
function readOnStage(fields) {
    return {
        slot: fields.whole('slot', U16),
        identity: fields.text('identity'),
        name: fields.text('name', ''),
        role: fields.text('role'),
        muted: fields.truth('muted', false),
    };
}

/** @param {Fields} fields @param {string} name @returns {{[kind: string]: number}} */
function readCounts(fields, name) {
    if (!fields.has(name)) {
        return {};
    }
    const counts = new Fields(fields.value[name]);
    const kinds = Object.keys(counts.value);
    return Object.fromEntries(
        kinds.map((kind) => [kind, counts.whole(kind, Number.MAX_SAFE_INTEGER)]),
    );
}

/** @param {Fields} fields @param {string} name @returns {Place[]} */
function readPlaces(fields, name) {
    return fields.list(name).map((one) => {
        const place = new Fields(one);
        const hashes = () => place.texts('certificate_hashes');
        return {
            relay: place.text('relay'),
            address: place.text('address'),
            ...place.maybe('certificate_hashes', hashes),
        };
    });
}
