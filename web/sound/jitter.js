// The jitter buffer of one speaker: it puts decoded frames in order and holds them just long enough.
// Times are milliseconds.
//
// Hand in frames as they come (`push`); ask every 20 ms of sound what to play (`pop`). The delay
// follows the measured variation of arrival: it grows at once when a frame is late and shrinks
// slowly, by `rate` during speech, by `adjust` where it is quiet, and by the start of playing after
// a pause.

import { JITTER_FRAMES, JITTER_MOST, TICK_MS, limits } from '../wire/limits.js';
import { DelayEstimator } from './delay.js';

/** A frame whose tick closed this much later than its number says begins a new spurt of speech. */
const NEW_SPURT = limits.SURPLUS_WAIT + TICK_MS;
/** Frames concealed in a row at most; what is invented beyond is no speech. */
const CONCEALED_IN_A_ROW = 5;
/** Frames from another place of the count in a row that mean that the count has begun again. */
const STRAYS = 10;
/** The most that speech is stretched: 0.025 %, and clocks that differ by 0.02 % are followed. */
const MOST_STRETCH = 0.00025;
/** A delay wrong by less than this is not corrected; by this more, by the most stretching. */
const GOOD = 5;
const STRETCH = 10;
/** A delay wrong by this is put right where a pause ends; by that, by a whole frame where it is quiet. */
const PAUSE = 25;
const ADJUST = 60;

/**
 * A decoded frame. `pcm` is null for the end marker of a spurt (a pause begins).
 * @typedef {{seq: number, clock: number, pcm: Float32Array | null}} Decoded
 * @typedef {{kind: 'frame', pcm: Float32Array | null} | {kind: 'conceal'} | {kind: 'silence'}} Playout
 * @typedef {{frame: Decoded, media: number, spurt: number}} Entry
 */

export class JitterBuffer {
    /** @type {Map<number, Entry>} */
    #frames = new Map();
    /** The frame that is to be played next, once playing has begun. @type {number | null} */
    #next = null;
    #playing = false;
    /** Frames `next − 1 − i` that were played, not concealed. @type {Set<number>} */
    #played = new Set();
    /** Frames concealed in a row while nothing was in the buffer. */
    #stretched = 0;
    #strays = 0;
    /** Ties the speaker's count to the origin's clock within one spurt. @type {{seq: number, media: number, spurt: number, first: number} | null} */
    #anchor = null;
    /** The newest end marker: what follows is another spurt. */
    #marker = -Infinity;
    #estimator;
    #delay;

    /** @param {number} start the delay to start with */
    constructor(start) {
        this.#estimator = new DelayEstimator(start);
        this.#delay = this.#estimator.target;
        this.stats = {
            pushed: 0, played: 0, late: 0, stretched: 0, duplicate: 0, skipped: 0, concealed: 0,
            resets: 0,
        };
    }

    /**
     * Hands in a frame that arrived at `now`.
     * @param {number} now
     * @param {Decoded} frame
     */
    push(now, frame) {
        this.stats.pushed += 1;
        const seq = this.#place(frame.seq);
        if (seq === null) {
            return;
        }
        const { media, spurt } = this.#media(seq, frame.clock);
        if (!frame.pcm) {
            this.#marker = Math.max(this.#marker, seq);
        }
        this.#estimator.arrived(now, media);
        if (this.#next !== null && seq < this.#next) {
            this.#overdue(now, seq, media);
            return;
        }
        if (this.#frames.has(seq)) {
            this.stats.duplicate += 1;
            return;
        }
        if (this.#playing && this.#stretched > 0 && this.#next === seq) {
            this.stats.stretched += 1;
            this.#estimator.late(now, media);
        }
        this.#frames.set(seq, { frame, media, spurt });
        while (this.#frames.size > JITTER_FRAMES) {
            this.#skipFirst();
        }
    }

    /** A frame came too late to be decoded: grows the delay. @param {number} now @param {number} seq @param {number} clock */
    tooLate(now, seq, clock) {
        const place = this.#place(seq);
        if (place !== null) {
            this.stats.late += 1;
            this.#estimator.late(now, this.#media(place, clock).media);
        }
    }

    /**
     * What to play at `at`, the time at which its first sample will be heard.
     * @param {number} at
     * @returns {Playout}
     */
    pop(at) {
        if (!this.#playing && !this.#begin(at)) {
            return { kind: 'silence' };
        }
        this.#catchUp(at);
        const head = this.#head();
        if (head === null) {
            return this.#starve();
        }
        let next = this.#next ?? head;
        // What was concealed while waiting counts for what turns out to be missing.
        next += Math.min(head - next, this.#stretched);
        this.#stretched = 0;
        const gap = head - next;
        const early = this.#estimator.target - this.#headDelay(at, head);
        if (gap > 0 && early > gap * TICK_MS + NEW_SPURT) {
            // The end marker was lost: what follows is another spurt, whose time has not come.
            this.#playing = false;
            this.#advanceTo(head);
            return { kind: 'silence' };
        }
        if (gap > CONCEALED_IN_A_ROW) {
            next = head;
        }
        this.#advanceTo(next);
        if (next === head) {
            return this.#play(at, head);
        }
        this.#advanceTo(next + 1);
        this.stats.concealed += 1;
        return { kind: 'conceal' };
    }

    /** How fast to play: samples of the speaker per sample played. */
    get rate() {
        if (!this.#playing) {
            return 1;
        }
        const error = this.#error;
        const beyond = Math.min(STRETCH, Math.max(0, Math.abs(error) - GOOD));
        return 1 + (Math.sign(error) * MOST_STRETCH * beyond) / STRETCH;
    }

    /** What to do with the frame just played if it is quiet. @returns {'keep' | 'shrink' | 'grow'} */
    get adjust() {
        if (!this.#playing || Math.abs(this.#error) <= ADJUST) {
            return 'keep';
        }
        return this.#error > 0 ? 'shrink' : 'grow';
    }

    /** How long the last frame was held, above the least that its way took of late. */
    get delay() {
        return Math.max(0, this.#delay);
    }

    /** The delay that is aimed at. */
    get target() {
        return this.#estimator.target;
    }

    get isEmpty() {
        return this.#frames.size === 0;
    }

    get #error() {
        return this.#delay - this.#estimator.target;
    }

    /** The place of a frame in a count that does not wrap; null for a stray. @param {number} seq */
    #place(seq) {
        if (!this.#anchor) {
            return seq;
        }
        const newest = this.#anchor.seq;
        const ahead = (seq - (newest % 2 ** 32)) | 0;
        if (ahead < -JITTER_FRAMES) {
            this.#strays += 1;
            if (this.#strays < STRAYS) {
                this.stats.late += 1;
                return null;
            }
        }
        if (Math.abs(ahead) > JITTER_FRAMES) {
            this.#restart();
            return seq;
        }
        this.#strays = 0;
        return newest + ahead;
    }

    #restart() {
        this.stats.resets += 1;
        this.stats.skipped += this.#frames.size;
        this.#frames.clear();
        this.#next = null;
        this.#playing = false;
        this.#played.clear();
        this.#stretched = 0;
        this.#strays = 0;
        this.#anchor = null;
        this.#marker = -Infinity;
    }

    /**
     * When the frame was made, on the origin's clock, and to which spurt it belongs. A frame cannot
     * be in a tick that closed before it was made, so the earliest tick counts; a slow leak the
     * other way follows a speaker whose clock is slow.
     * @param {number} seq
     * @param {number} clock
     */
    #media(seq, clock) {
        const anchor = this.#anchor;
        if (!anchor) {
            this.#estimator.newClock();
            this.#anchor = { seq, media: clock, spurt: 0, first: seq };
            return { media: clock, spurt: 0 };
        }
        const predicted = anchor.media + (seq - anchor.seq) * TICK_MS;
        const off = clock - predicted;
        const marked = this.#marker >= anchor.first && seq > this.#marker;
        if (Math.abs(off) > NEW_SPURT || marked) {
            if (seq > anchor.seq) {
                const spurt = anchor.spurt + 1;
                this.#anchor = { seq, media: clock, spurt, first: seq };
                return { media: clock, spurt };
            }
            // A straggler of the spurt before.
            return { media: clock, spurt: anchor.spurt - 1 };
        }
        const media = predicted + (off < 0 ? off : off / 256);
        const newest = Math.max(seq, anchor.seq);
        this.#anchor = { ...anchor, seq: newest, media: media + (newest - seq) * TICK_MS };
        return { media, spurt: anchor.spurt };
    }

    /** A waiting frame's time, which later frames of its spurt may have put right. @param {number} seq @param {Entry} entry */
    #entryMedia(seq, entry) {
        const anchor = this.#anchor;
        return anchor?.spurt === entry.spurt
            ? anchor.media + (seq - anchor.seq) * TICK_MS
            : entry.media;
    }

    /** @param {number} now @param {number} seq @param {number} media */
    #overdue(now, seq, media) {
        if (this.#played.has(seq)) {
            this.stats.duplicate += 1;
        } else {
            this.stats.late += 1;
            this.#estimator.late(now, media);
        }
    }

    /** Begins to play if the first frame's time has come. @param {number} at */
    #begin(at) {
        const head = this.#head();
        if (head === null) {
            return false;
        }
        // A delay that is nearly right stays as it is: the next frame's end is then nearest to it.
        const near = this.#next !== null && Math.abs(this.#error) <= PAUSE;
        const due = near ? this.#delay - TICK_MS / 2 : this.#estimator.target;
        if (this.#headDelay(at, head) < due) {
            return false;
        }
        this.#playing = true;
        this.#stretched = 0;
        this.#skipUntil(at, due + TICK_MS);
        this.#advanceTo(this.#head() ?? head);
        return true;
    }

    /** Leaves out what is so old that no stretching would catch up. @param {number} at */
    #catchUp(at) {
        const head = this.#head();
        if (head !== null && this.#headDelay(at, head) > JITTER_MOST + 5 * TICK_MS) {
            this.#skipUntil(at, this.#estimator.target + TICK_MS);
        }
    }

    /** @param {number} at @param {number} delay */
    #skipUntil(at, delay) {
        for (;;) {
            const head = this.#head();
            if (this.#frames.size <= 1 || head === null || this.#headDelay(at, head) < delay) {
                return;
            }
            this.#skipFirst();
        }
    }

    #skipFirst() {
        const head = this.#head();
        if (head === null) {
            return;
        }
        this.#frames.delete(head);
        this.stats.skipped += 1;
        if (this.#next !== null && this.#next <= head) {
            this.#advanceTo(head + 1);
        }
    }

    /** The oldest frame that waits. */
    #head() {
        let head = null;
        for (const seq of this.#frames.keys()) {
            head = head === null ? seq : Math.min(head, seq);
        }
        return head;
    }

    /** @param {number} at @param {number} head */
    #headDelay(at, head) {
        const entry = this.#frames.get(head);
        return entry ? this.#estimator.delay(at, this.#entryMedia(head, entry)) : 0;
    }

    /** Nothing is there: conceals without advancing, for what is late is waited for. @returns {Playout} */
    #starve() {
        if (this.#stretched >= CONCEALED_IN_A_ROW) {
            this.#playing = false;
            this.#stretched = 0;
            return { kind: 'silence' };
        }
        this.#stretched += 1;
        this.stats.concealed += 1;
        return { kind: 'conceal' };
    }

    /** @param {number} at @param {number} head @returns {Playout} */
    #play(at, head) {
        this.#delay = this.#headDelay(at, head);
        const pcm = this.#frames.get(head)?.frame.pcm ?? null;
        this.#frames.delete(head);
        this.#advanceTo(head + 1);
        this.#played.add(head);
        this.stats.played += 1;
        if (!pcm) {
            this.#playing = false;
        }
        return { kind: 'frame', pcm };
    }

    /** Moves on; what is passed over counts as not played. @param {number} seq */
    #advanceTo(seq) {
        this.#next = seq;
        for (const old of this.#played) {
            if (old < seq - JITTER_FRAMES) {
                this.#played.delete(old);
            }
        }
    }
}
