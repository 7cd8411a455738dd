// When a session counts as silent: by what came on it, and by the gaps that its path has shown
// (PROTOCOL section 6.7).

import { limits } from '../wire/limits.js';

export class Silence {
    #heard;
    #tickMs;
    /** The longest gap of the present and of the former stretch of JITTER_MEMORY. */
    #gaps = [0, 0];
    #turned;

    /** @param {number} now @param {number} tickMs */
    constructor(now, tickMs) {
        this.#heard = now;
        this.#turned = now;
        this.#tickMs = tickMs;
    }

    /** @param {number} tickMs */
    setCadence(tickMs) {
        this.#tickMs = tickMs;
    }

    /** Something came. @param {number} now */
    heard(now) {
        if (now - this.#turned >= limits.JITTER_MEMORY) {
            this.#gaps = [0, this.#gaps[0]];
            this.#turned = now;
        }
        this.#gaps[0] = Math.max(this.#gaps[0], now - this.#heard);
        this.#heard = Math.max(this.#heard, now);
    }

    /**
     * Another session is listened to from here on; its path is as jittery as the last one's, for
     * most of the jitter is the listener's own.
     * @param {number} now
     */
    restart(now) {
        this.#heard = now;
    }

    /** When the session becomes silent. */
    silentAt() {
        return this.#heard + this.#threshold();
    }

    /** When another relay is looked for: a probe has had some time, and a handshake takes some. */
    doubtfulAt() {
        return this.#heard + (this.#threshold() * 2) / 3;
    }

    /** When the node is to be asked for a sign of life. */
    probeAt() {
        return this.#heard + this.#threshold() / 2;
    }

    #threshold() {
        const least = limits.SILENT_AFTER + 2 * this.#tickMs;
        const worst = 2 * Math.max(...this.#gaps);
        return Math.max(least, Math.min(worst, limits.SILENT_MOST));
    }
}
