// One speaker's voice as a listener hears it: jitter buffer, concealment, and the clock's correction.

import { BLOCK, RATE } from '../wire/limits.js';
import { Concealer } from './conceal.js';
import { JitterBuffer } from './jitter.js';
import { rms } from './level.js';

/** A frame whose root mean square is below this (−50 dBov) may be left out or played twice. */
const QUIET = 0.003;
/** Frames between two such adjustments: at most 20 ms are put right in half a second. */
const ADJUST_EVERY = 25;
/** Samples that interpolation wants behind the current one. */
const AHEAD = 3;
/** Samples over which sound rises that begins after silence. */
const RISE = 96;

export class Voice {
    /** Samples, the first of which is kept for interpolation only. */
    #samples = [0];
    /** The place in `samples` that is to be played next. */
    #position = 1;
    #silent = true;
    #sinceAdjust = 0;
    #concealer = new Concealer();

    /** @param {number} start the delay to start with, in ms */
    constructor(start) {
        this.buffer = new JitterBuffer(start);
        /** Frames that were invented. */
        this.concealed = 0;
    }

    /** The next 20 ms, whose first sample is heard at `now`, in ms. @param {number} now */
    pull(now) {
        const { rate } = this.buffer;
        const wanted = Math.ceil(this.#position + rate * BLOCK) + AHEAD;
        while (this.#samples.length < wanted) {
            const ahead = Math.max(0, this.#samples.length - this.#position);
            this.#step(now + (ahead * 1000) / RATE);
        }
        const block = new Float32Array(BLOCK);
        for (let i = 0; i < BLOCK; i++) {
            block[i] = interpolate(this.#samples, this.#position);
            this.#position += rate;
        }
        const used = Math.floor(this.#position) - 1;
        this.#samples.splice(0, used);
        this.#position -= used;
        return block;
    }

    /** Whether nobody speaks and no frame waits. */
    get isSilent() {
        return this.#silent && this.buffer.isEmpty;
    }

    /** Takes one more frame, heard at `at`. @param {number} at */
    #step(at) {
        this.#sinceAdjust += 1;
        const block = this.#next(at);
        const { adjust } = this.buffer;
        if (adjust !== 'keep' && this.#sinceAdjust >= ADJUST_EVERY && rms(block) <= QUIET) {
            this.#sinceAdjust = 0;
            if (adjust === 'shrink') {
                return;
            }
            this.#append(block);
        }
        this.#append(block);
    }

    /** @param {number} at */
    #next(at) {
        const playout = this.buffer.pop(at);
        const wasSilent = this.#silent;
        const { pcm } = playout.kind === 'frame' ? playout : { pcm: null };
        this.#silent = playout.kind === 'silence' || (playout.kind === 'frame' && !pcm);
        if (pcm) {
            const block = tame(pcm);
            if (wasSilent) {
                for (let i = 0; i < RISE; i++) {
                    block[i] *= i / RISE;
                }
            }
            this.#concealer.play(block);
            return block;
        }
        if (playout.kind === 'conceal') {
            this.concealed += 1;
            return this.#concealer.conceal();
        }
        if (wasSilent) {
            this.#concealer.silence();
            return new Float32Array(BLOCK);
        }
        // The first frame of a silence runs out.
        return this.#concealer.fadeOut();
    }

    /** @param {Float32Array} block */
    #append(block) {
        for (let i = 0; i < block.length; i++) {
            this.#samples.push(block[i]);
        }
    }
}

/** A forged packet may decode to any number; none of them reaches the mix. @param {Float32Array} pcm */
function tame(pcm) {
    const block = new Float32Array(BLOCK);
    for (let i = 0; i < BLOCK; i++) {
        const sample = pcm[i];
        block[i] = Number.isFinite(sample) ? Math.min(4, Math.max(-4, sample)) : 0;
    }
    return block;
}

/** Cubic (Catmull-Rom) interpolation. @param {number[]} samples @param {number} position at least 1 */
function interpolate(samples, position) {
    const index = Math.floor(position);
    const t = position - index;
    const [a, b, c, d] = [samples[index - 1], samples[index], samples[index + 1], samples[index + 2]];
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
}
