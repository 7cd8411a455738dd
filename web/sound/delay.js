// How long to wait for frames: measured from how their arrival varies. Times are milliseconds.
//
// Clocks of two machines differ by an unknown amount, so a delay is relative: arrival less media
// time, above the least that was seen of late. Round trips do not enter.

import { JITTER_LEAST, JITTER_MOST } from '../wire/limits.js';

const BUCKET = 5;
const BUCKETS = JITTER_MOST / BUCKET + 1;
/** The share of frames that are to be in time. */
const QUANTILE = 0.97;
/** What a frame's share is worth after the next one: half of it is forgotten in 4 s. */
const FORGET = 0.9965;
/** The delay shrinks by half of its excess in about 7 s. */
const SHRINK = 10_000;
/** What the player's own pace may vary by. */
const MARGIN = 5;
/** The least arrival is that of the last SPANS spans. */
const SPAN = 2_000;
const SPANS = 6;

/** The variation of arrival, and the delay that covers nearly all of it. */
export class DelayEstimator {
    /** The least of each span, the newest last. @type {{span: number, least: number}[]} */
    #minima = [];
    #shares = new Float64Array(BUCKETS);
    /** @type {number | null} */
    #last = null;

    /** @param {number} start */
    constructor(start) {
        /** How long after the earliest possible arrival a frame is to be played. */
        this.target = clamp(start, JITTER_LEAST, JITTER_MOST);
        this.#shares[bucket(this.target - MARGIN - BUCKET)] = 1;
    }

    /** Notes a frame of a media time that arrived at `now`. @param {number} now @param {number} media */
    arrived(now, media) {
        const relative = now - media;
        this.#noteLeast(now, relative);
        for (let i = 0; i < BUCKETS; i++) {
            this.#shares[i] *= FORGET;
        }
        this.#shares[bucket(relative - this.#least())] += 1 - FORGET;
        const wanted = this.#wanted();
        const elapsed = this.#last === null ? 0 : Math.max(0, now - this.#last);
        this.#last = now;
        if (wanted >= this.target) {
            this.target = wanted;
        } else {
            this.target -= (this.target - wanted) * Math.min(1, elapsed / SHRINK);
        }
    }

    /** A frame came after its turn: grows at once. @param {number} now @param {number} media */
    late(now, media) {
        const variation = this.delay(now, media);
        if (variation <= JITTER_MOST) {
            this.target = Math.max(this.target, variation + MARGIN);
        }
        this.target = Math.min(this.target, JITTER_MOST);
    }

    /** The delay that a frame of a media time has when it is played at `at`. @param {number} at @param {number} media */
    delay(at, media) {
        return at - media - this.#least();
    }

    /** Forgets which arrival was the earliest: the media's clock is another. */
    newClock() {
        this.#minima = [];
    }

    #least() {
        let least = Infinity;
        for (const span of this.#minima) {
            least = Math.min(least, span.least);
        }
        return least === Infinity ? 0 : least;
    }

    /** @param {number} now @param {number} relative */
    #noteLeast(now, relative) {
        const span = Math.floor(now / SPAN);
        const last = this.#minima.at(-1);
        if (last?.span === span) {
            last.least = Math.min(last.least, relative);
            return;
        }
        this.#minima.push({ span, least: relative });
        if (this.#minima.length > SPANS) {
            this.#minima.shift();
        }
    }

    #wanted() {
        const total = this.#shares.reduce((sum, share) => sum + share, 0);
        let sum = 0;
        let index = 0;
        for (; index < BUCKETS - 1; index++) {
            sum += this.#shares[index];
            if (sum >= QUANTILE * total) {
                break;
            }
        }
        return clamp((index + 1) * BUCKET + MARGIN, JITTER_LEAST, JITTER_MOST);
    }
}

/** @param {number} variation */
function bucket(variation) {
    return clamp(Math.floor(variation / BUCKET), 0, BUCKETS - 1);
}

/** @param {number} value @param {number} least @param {number} most */
function clamp(value, least, most) {
    return Math.min(most, Math.max(least, value));
}
