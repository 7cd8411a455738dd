// Puts one speaker's packets in order before they are decoded: a decoder goes from one packet to the
// next, and a packet that comes in its turn by repair is worth a wait until its time to be heard.
// Times are milliseconds.

import { JITTER_FRAMES, TICK_MS } from '../wire/limits.js';

/** @typedef {import('../wire/tick.js').SpeechFrame & {clock: number, arrived: number}} Packet */

/** What decoding and the way to the worklet take. */
const MARGIN = 10;

export class Sequencer {
    /** @type {Map<number, Packet>} */
    #waiting = new Map();
    /** @type {number | null} */
    #next = null;
    /** Packets that came after their turn. */
    late = 0;

    /**
     * Takes a packet; returns whether its turn is yet to come.
     * @param {Packet} packet
     */
    push(packet) {
        const ahead = this.#next === null ? 0 : (packet.seq - this.#next) | 0;
        if (ahead < -JITTER_FRAMES || ahead > JITTER_FRAMES) {
            // The speaker's count has begun anew.
            this.#waiting.clear();
            this.#next = null;
        } else if (ahead < 0) {
            this.late += 1;
            return false;
        }
        this.#waiting.set(packet.seq, packet);
        return true;
    }

    /**
     * The next packet to decode: that whose turn it is, or the one behind a gap that can be waited
     * for no longer.
     * @param {number} now
     * @param {number} earliest the least of arrival less clock
     * @param {number} target how long packets are held
     */
    poll(now, earliest, target) {
        const head = this.#head();
        if (!head || now < this.#due(head, earliest, target)) {
            return null;
        }
        this.#waiting.delete(head.seq);
        this.#next = (head.seq + 1) >>> 0;
        return head;
    }

    /** When `poll` has something; Infinity if nothing waits. @param {number} earliest @param {number} target */
    pollTimeout(earliest, target) {
        const head = this.#head();
        return head ? this.#due(head, earliest, target) : Infinity;
    }

    /** @param {Packet} head @param {number} earliest @param {number} target */
    #due(head, earliest, target) {
        const gap = this.#next === null ? 0 : (head.seq - this.#next) | 0;
        if (gap <= 0) {
            return -Infinity;
        }
        // The last missing packet is heard one frame before this one.
        return head.clock + earliest + target - TICK_MS - MARGIN;
    }

    #head() {
        /** @type {Packet | null} */
        let head = null;
        for (const packet of this.#waiting.values()) {
            if (!head || ((packet.seq - head.seq) | 0) < 0) {
                head = packet;
            }
        }
        return head;
    }
}
