// The speaker's side of the first hop (PROTOCOL section 7): redundancy with every frame, and answers
// to the origin.

import { speechBytes } from '../wire/datagram.js';
import { limits } from '../wire/limits.js';

/** @typedef {import('../wire/tick.js').SpeechFrame} SpeechFrame */

/** Frames that a speaker keeps for the origin's requests: 320 ms, five times as long as it asks. */
const KEPT = 16;
/** SILK, wide band, 20 ms, mono, without a frame: "not transmitting" (RFC 6716 section 3.1). */
const EMPTY_PACKET = Uint8Array.of(9 << 3);
const SILENT = 127;

export class SpeechSender {
    /** The newest first. @type {SpeechFrame[]} */
    #kept = [];
    #seq = 0;
    #paused = true;

    /**
     * @param {number} slot
     * @param {number} frameBytes bytes of one frame at most
     */
    constructor(slot, frameBytes) {
        this.slot = slot;
        this.frameBytes = frameBytes;
        this.frames = 0;
        this.repaired = 0;
        /** Frames above the room's profile, not sent. */
        this.oversized = 0;
    }

    /**
     * The datagram for a new packet and as many of the two frames before it as fit; null if the
     * room does not take it.
     * @param {{level: number, voice: boolean, opus: Uint8Array}} frame
     */
    push({ level, voice, opus }) {
        if (opus.length > this.frameBytes) {
            this.oversized += 1;
            return null;
        }
        this.#paused = opus.length <= limits.PAUSE_BYTES;
        this.frames += 1;
        this.#kept.unshift({ seq: this.#seq, level, voice: voice && !this.#paused, opus });
        this.#kept.length = Math.min(this.#kept.length, KEPT);
        this.#seq = (this.#seq + 1) >>> 0;
        return speechBytes(this.slot, this.#kept.slice(0, 1 + limits.EARLIER_FRAMES));
    }

    /** The end marker of a pause; null in a pause, which has its marker already. */
    pause() {
        return this.#paused ? null : this.push({ level: SILENT, voice: false, opus: EMPTY_PACKET });
    }

    /**
     * The datagram that answers the origin, if any of what it asks for is still kept.
     * @param {{slot: number, first: number, mask: number}} request
     */
    answer({ slot, first, mask }) {
        const found = this.#kept.filter((frame) => {
            const offset = (frame.seq - first) >>> 0;
            return offset < 32 && ((mask >>> offset) & 1) === 1;
        }).slice(0, limits.FRAMES_PER_SPEECH);
        if (slot !== this.slot || found.length === 0) {
            return null;
        }
        this.repaired += found.length;
        return speechBytes(slot, found);
    }
}
