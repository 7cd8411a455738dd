// Loudness as RFC 6464 writes it, and whether a block is voice.

/** The level of silence, in −dBov. */
export const SILENT = 127;

/** The root of the mean square. @param {Float32Array} samples */
export function rms(samples) {
    let sum = 0;
    for (let i = 0; i < samples.length; i++) {
        sum += samples[i] * samples[i];
    }
    return Math.sqrt(sum / Math.max(1, samples.length));
}

/** The level of samples against full scale, in −dBov: 0 (loudest) to 127. @param {Float32Array} samples */
export function dbov(samples) {
    const level = -20 * Math.log10(rms(samples));
    return Number.isFinite(level) ? Math.min(SILENT, Math.max(0, Math.round(level))) : SILENT;
}

/** Louder than the background by this is voice, in dB. */
const ABOVE = 9;
/** Nothing quieter than this is voice, in −dBov. */
const QUIETEST = 60;
/** The background rises by this in a block: 3 dB a second, far slower than speech does. */
const RISE = 0.06;
/** 200 ms: the gaps between words are part of the voice. */
const HANG_OVER = 10;

/** Tells voice from background by level. */
export class Activity {
    #floor = QUIETEST;
    #hangOver = 0;

    /** @param {number} level in −dBov */
    push(level) {
        this.#floor = Math.max(this.#floor - RISE, Math.min(level, QUIETEST));
        if (level < this.#floor - ABOVE) {
            this.#hangOver = HANG_OVER;
            return true;
        }
        this.#hangOver = Math.max(0, this.#hangOver - 1);
        return this.#hangOver > 0;
    }
}
