// What is played in place of a frame that is missing: the last pitch periods again, fading out.
// The decoder of a browser has no concealment of its own. The method is that of ITU-T G.711
// Appendix I, at 48 kHz and without its delay.

import { BLOCK, RATE } from '../wire/limits.js';

/** Samples of what was played that are kept. */
const HISTORY = 0.05 * RATE;
/** Periods that are looked for, and the stretch that is compared. */
const PERIOD_LEAST = 0.0025 * RATE;
const PERIOD_MOST = 0.016 * RATE;
const COMPARED = 0.02 * RATE;
/** The coarse search looks at every so many samples. */
const STEP = 4;
/** Samples over which what is invented turns into what has come. */
const MERGE = 0.005 * RATE;
/** What the gain falls by in a frame: silence after five. */
const FALL = 0.2;

export class Concealer {
    #history = new Float32Array(HISTORY);
    /** One period, whose end leads back to its start. @type {Float32Array | null} */
    #period = null;
    #phase = 0;
    #gain = 1;
    /** What the first sample invented differs by from where the sound was, and how it is faded. */
    #offset = 0;
    #offsetLeft = 0;

    /**
     * Notes a frame that has come, and turns the end of what was invented into its start.
     * @param {Float32Array} block changed in place
     */
    play(block) {
        if (this.#period) {
            const tail = this.#invent(MERGE, this.#gain, Math.max(0, this.#gain - FALL));
            for (let i = 0; i < MERGE; i++) {
                const share = (i + 0.5) / MERGE;
                block[i] = block[i] * share + tail[i] * (1 - share);
            }
            this.#period = null;
        }
        this.#remember(block);
    }

    /** The next frame of what is invented. */
    conceal() {
        if (!this.#period) {
            this.#start();
        }
        const end = Math.max(0, this.#gain - FALL);
        const block = this.#invent(BLOCK, this.#gain, end);
        this.#gain = end;
        this.#remember(block);
        return block;
    }

    /** A last frame that runs out: silence begins without a click. */
    fadeOut() {
        if (!this.#period) {
            this.#start();
        }
        const block = this.#invent(BLOCK, this.#gain, 0);
        this.silence();
        return block;
    }

    /** Nothing is played: what comes next begins from zero. */
    silence() {
        this.#history.fill(0);
        this.#period = null;
    }

    /** Whether what was played last is silence. */
    get isSilent() {
        return this.#history.every((sample) => sample === 0);
    }

    /** @param {Float32Array} block */
    #remember(block) {
        this.#history.copyWithin(0, block.length);
        this.#history.set(block, HISTORY - block.length);
    }

    #start() {
        const history = this.#history;
        const length = findPeriod(history);
        const overlap = length >> 2;
        const period = history.slice(HISTORY - length);
        // The end of the period becomes what was before its start, so that it may be repeated.
        for (let i = 0; i < overlap; i++) {
            const share = (i + 1) / overlap;
            const at = length - overlap + i;
            period[at] = period[at] * (1 - share) + history[HISTORY - length - overlap + i] * share;
        }
        this.#period = period;
        this.#phase = 0;
        this.#gain = 1;
        this.#offset = history[HISTORY - 1] - history[HISTORY - length - 1];
        this.#offsetLeft = overlap;
    }

    /** @param {number} count @param {number} from the gain at the start @param {number} to */
    #invent(count, from, to) {
        const block = new Float32Array(count);
        const period = this.#period;
        if (!period) {
            return block;
        }
        const overlap = period.length >> 2;
        for (let i = 0; i < count; i++) {
            let sample = period[this.#phase];
            if (this.#offsetLeft > 0) {
                sample += (this.#offset * this.#offsetLeft) / overlap;
                this.#offsetLeft -= 1;
            }
            block[i] = sample * (from + ((to - from) * i) / count);
            this.#phase = (this.#phase + 1) % period.length;
        }
        return block;
    }
}

/**
 * The distance at which the end of a sound is most like itself.
 * @param {Float32Array} sound
 */
function findPeriod(sound) {
    let best = PERIOD_MOST;
    let most = -Infinity;
    for (let lag = PERIOD_LEAST; lag <= PERIOD_MOST; lag += STEP) {
        const likeness = correlate(sound, lag, STEP);
        if (likeness > most) {
            [best, most] = [lag, likeness];
        }
    }
    const [from, to] = [Math.max(PERIOD_LEAST, best - STEP), Math.min(PERIOD_MOST, best + STEP)];
    most = -Infinity;
    for (let lag = from; lag <= to; lag++) {
        const likeness = correlate(sound, lag, 1);
        if (likeness > most) {
            [best, most] = [lag, likeness];
        }
    }
    return best;
}

/** @param {Float32Array} sound @param {number} lag @param {number} step */
function correlate(sound, lag, step) {
    let product = 0;
    let energy = 1e-9;
    for (let i = HISTORY - COMPARED; i < HISTORY; i += step) {
        product += sound[i] * sound[i - lag];
        energy += sound[i - lag] * sound[i - lag];
    }
    return product / Math.sqrt(energy);
}
