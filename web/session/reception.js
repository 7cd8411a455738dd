// A client's reception of one room: datagrams in, new ticks and repair requests out.

import { WireError } from '../wire/bytes.js';
import { parseDatagram } from '../wire/datagram.js';
import { Window } from './window.js';

/** @typedef {import('../wire/tick.js').Record} Record */
/** @typedef {import('../wire/control.js').Subscribed} Subscribed */

export class Reception {
    #room;
    /** Counts of the windows of earlier epochs. @type {Window['stats'] | null} */
    #before = null;

    /** @param {Subscribed} room */
    constructor(room) {
        this.#room = room.id;
        this.window = new Window(room.id, room.epoch);
        this.datagrams = 0;
        this.beacons = 0;
        /** Beacons that say that the node's own feeds are silent. */
        this.starved = 0;
        /** Datagrams that break the protocol, or are of another room or epoch. */
        this.bad = 0;
    }

    /**
     * Takes the room's news: another epoch starts another window, with no feed live.
     * @param {Subscribed} room
     * @returns {boolean} whether it does
     */
    renew(room) {
        if (room.id === this.#room && room.epoch <= this.window.epoch) {
            return false;
        }
        const { playout } = this.window;
        this.#before = this.stats();
        this.#room = room.id;
        this.window = new Window(room.id, room.epoch);
        this.window.playout = playout;
        return true;
    }

    /** Where a replay is to go on: the last tick before the first gap. @returns {[number, number] | undefined} */
    last() {
        const number = this.window.contiguous();
        return number > 0 ? [this.window.epoch, number] : undefined;
    }

    /**
     * Takes a datagram of a session. Returns what it is: new ticks in the order of their numbers,
     * and the newest tick that it speaks of; null for what is not of this room.
     * @param {number} now
     * @param {number} feed
     * @param {Uint8Array} bytes
     * @returns {{newest: number, fresh: Record[], starved: boolean} | null}
     */
    datagram(now, feed, bytes) {
        this.datagrams += 1;
        const datagram = this.#parse(bytes);
        if (!datagram) {
            this.bad += 1;
            return null;
        }
        if (datagram.kind === 'beacon') {
            this.beacons += 1;
            const starved = datagram.upstreamSilentMs > 0;
            this.starved += Number(starved);
            this.window.beacon(now, feed, datagram);
            return { newest: datagram.newest, fresh: [], starved };
        }
        const { replay, records, pending } = datagram;
        if (!replay) {
            this.window.pending(feed, records[0].number, pending);
        }
        const fresh = [];
        let newest = 0;
        for (const record of records) {
            newest = Math.max(newest, record.number);
            if (replay) {
                this.window.answered(now, record.number);
            }
            if (this.window.arrive(now, feed, record.number, record.bytes) === 'new') {
                fresh.push(record);
            }
        }
        fresh.sort((a, b) => a.number - b.number);
        return { newest, fresh, starved: false };
    }

    /** What was counted, earlier epochs included. */
    stats() {
        const sum = { ...this.window.stats };
        for (const name of /** @type {(keyof typeof sum)[]} */ (Object.keys(sum))) {
            sum[name] += this.#before?.[name] ?? 0;
        }
        return sum;
    }

    /** A datagram of this room and epoch that a listener takes. @param {Uint8Array} bytes */
    #parse(bytes) {
        try {
            const datagram = parseDatagram(bytes);
            const ours = (datagram.kind === 'ticks' || datagram.kind === 'beacon') &&
                datagram.room === this.#room && datagram.epoch === this.window.epoch;
            return ours ? datagram : null;
        } catch (error) {
            if (error instanceof WireError) {
                return null;
            }
            throw error;
        }
    }
}
