// What a listener hears: all voices, mixed, never above full scale.

import { BLOCK, VOICES, VOICE_LINGER } from '../wire/limits.js';
import { Limiter } from './limiter.js';
import { Voice } from './voice.js';

/**
 * What the worklet is sent: a decoded frame (or an end marker), or the news that one came too late.
 * `age` is how long ago its packet arrived, in ms.
 * @typedef {{type: 'frame', slot: number, seq: number, clock: number, age: number,
 *     pcm: Float32Array<ArrayBuffer> | null}
 *     | {type: 'late', slot: number, seq: number, clock: number}} ToWorklet
 */

export class Mixer {
    /** @type {Map<number, {voice: Voice, heard: number}>} */
    #voices = new Map();
    #limiter = new Limiter();
    #left = { played: 0, concealedMs: 0, late: 0, skipped: 0 };

    /** @param {number} start the delay that voices start with, in ms */
    constructor(start) {
        this.start = start;
        /** The listener's own slot, left out. @type {number | null} */
        this.own = null;
    }

    /**
     * Hands in a decoded frame that arrived at `now`.
     * @param {number} now
     * @param {number} slot
     * @param {import('./jitter.js').Decoded} frame
     */
    push(now, slot, frame) {
        if (slot !== this.own) {
            this.#speaker(now, slot).voice.buffer.push(now, frame);
        }
    }

    /** A frame came too late to be decoded. @param {number} now @param {number} slot @param {number} seq @param {number} clock */
    tooLate(now, slot, seq, clock) {
        if (slot !== this.own) {
            this.#speaker(now, slot).voice.buffer.tooLate(now, seq, clock);
        }
    }

    /** Forgets all voices: slots of another epoch are other people. */
    clear() {
        for (const slot of [...this.#voices.keys()]) {
            this.#remove(slot);
        }
    }

    /** Mixes the next 20 ms, whose first sample is heard at `now`. @param {number} now */
    pull(now) {
        const mix = new Float32Array(BLOCK);
        for (const [slot, { voice, heard }] of this.#voices) {
            if (now - heard > VOICE_LINGER || slot === this.own) {
                this.#remove(slot);
                continue;
            }
            const block = voice.pull(now);
            for (let i = 0; i < BLOCK; i++) {
                mix[i] += block[i];
            }
        }
        this.#limiter.apply(mix);
        return mix;
    }

    /** How long frames of each speaker are held, as aimed at, in ms. @returns {[number, number][]} */
    targets() {
        return [...this.#voices].map(([slot, { voice }]) => [slot, voice.buffer.target]);
    }

    /** The longest delay of the voices that speak, in ms; null while nobody does. */
    get delay() {
        const speaking = [...this.#voices.values()].filter(({ voice }) => !voice.isSilent);
        return speaking.length === 0 ? null : Math.max(...speaking.map(({ voice }) => voice.buffer.delay));
    }

    stats() {
        const stats = { ...this.#left };
        for (const { voice } of this.#voices.values()) {
            add(stats, voice);
        }
        return stats;
    }

    /** @param {number} now @param {number} slot */
    #speaker(now, slot) {
        let speaker = this.#voices.get(slot);
        if (!speaker) {
            if (this.#voices.size >= VOICES) {
                const [[longest]] = [...this.#voices].sort(([, a], [, b]) => a.heard - b.heard);
                this.#remove(longest);
            }
            speaker = { voice: new Voice(this.start), heard: now };
            this.#voices.set(slot, speaker);
        }
        speaker.heard = now;
        return speaker;
    }

    /** @param {number} slot */
    #remove(slot) {
        const speaker = this.#voices.get(slot);
        if (speaker) {
            add(this.#left, speaker.voice);
            this.#voices.delete(slot);
        }
    }
}

/** @param {{played: number, concealedMs: number, late: number, skipped: number}} stats @param {Voice} voice */
function add(stats, voice) {
    const { played, late, skipped } = voice.buffer.stats;
    stats.played += played;
    stats.late += late;
    stats.skipped += skipped;
    stats.concealedMs += voice.concealed * 20;
}
