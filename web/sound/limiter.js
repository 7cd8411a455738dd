// Keeps a mix within full scale: gain 1 unless it is too loud. It works block by block, and
// therefore knows a peak before it comes.

/** Peaks up to here pass unchanged. */
const THRESHOLD = 0.95;
/** Samples over which the gain falls before a peak: 1 ms. */
const ATTACK = 48;
/** What the gain regains of its distance to 1 in a block: half in about 140 ms. */
const RELEASE = 0.1;

export class Limiter {
    #gain = 1;

    /** Brings every sample within ±1. @param {Float32Array} block changed in place */
    apply(block) {
        let peak = 0;
        for (let i = 0; i < block.length; i++) {
            peak = Math.max(peak, Math.abs(block[i]));
        }
        const needed = peak > THRESHOLD ? THRESHOLD / peak : 1;
        const start = this.#gain;
        if (start >= 1 && needed >= 1) {
            return;
        }
        const falls = needed < start;
        const end = falls ? needed : Math.min(needed, start + (1 - start) * RELEASE);
        const over = falls ? ATTACK : block.length;
        for (let i = 0; i < block.length; i++) {
            const share = Math.min(1, (i + 1) / over);
            block[i] = roundOff(block[i] * (start + (end - start) * share));
        }
        this.#gain = end > 0.9999 ? 1 : end;
    }
}

/** What is above the threshold while the gain falls is bent below 1. @param {number} sample */
function roundOff(sample) {
    const over = Math.abs(sample) - THRESHOLD;
    if (over <= 0) {
        return sample;
    }
    const room = 1 - THRESHOLD;
    return Math.sign(sample) * Math.min(1, THRESHOLD + room * Math.tanh(over / room));
}
