// The receive window: the merge of the sessions that bring one room in one epoch.
//
// A tick is passed on the first time it arrives; its second copy is dropped by number. A gap becomes
// a request only when every live feed has passed it, or the skew between the feeds has gone by; a
// tick that the node itself still waits for is not asked for (PROTOCOL sections 6.1 to 6.4).

import { FEEDS, limits } from '../wire/limits.js';

/** @typedef {{live: boolean, newest: number, pendingFrom: number, pending: number}} Feed */
/**
 * @typedef {{since: number, asked: number, askedAt: number, next: number, lastFeed: number}} Missing
 */
/** @typedef {'new' | 'duplicate' | 'late' | 'too_far_ahead' | 'conflict'} Arrival */

export class Window {
    /**
     * @param {number} room
     * @param {number} epoch
     */
    constructor(room, epoch) {
        this.room = room;
        this.epoch = epoch;
        /** The newest tick seen or announced; 0 before the first. */
        this.newest = 0;
        this.stats = {
            received: 0, duplicate: 0, late: 0, tooFarAhead: 0, conflict: 0,
            repaired: 0, requested: 0, lost: 0,
        };
        /** What the newest may run ahead by, when it last advanced. @type {number} */
        this.ahead = limits.TICKS_AHEAD;
        this.advancedAt = 0;
        /** A missing tick is played when it is this old. @type {number} */
        this.playout = limits.REPAIR_DEADLINE;
        /** How long requests take to be answered; null before the first answer. @type {number | null} */
        this.answer = null;
        this.skew = 0;
        /** The first copies, by number. @type {Map<number, Uint8Array>} */
        this.have = new Map();
        /** In rising order of number. @type {Map<number, Missing>} */
        this.missing = new Map();
        /** @type {Feed[]} */
        this.feeds = Array.from({ length: FEEDS }, () => newFeed(false));
        /** When a new tick was first seen, and on which feed. */
        this.firstSeen = Array.from({ length: 4 }, () => ({ number: 0, at: 0, feed: 0 }));
    }

    /** Says whether a feed is connected. @param {number} feed @param {boolean} live */
    setLive(feed, live) {
        this.feeds[feed] = newFeed(live);
    }

    /** The last tick before the first gap; 0 before the first. */
    contiguous() {
        const [first] = this.missing.keys();
        return first === undefined ? this.newest : first - 1;
    }

    /**
     * Notes that a tick comes in an answer or replay, before it is given to `arrive`.
     * @param {number} now
     * @param {number} number
     */
    answered(now, number) {
        const missing = this.missing.get(number);
        if (missing?.asked !== 1) {
            return;
        }
        const took = now - missing.askedAt;
        this.answer = this.answer === null ? took : this.answer * 0.75 + took * 0.25;
    }

    /**
     * Takes the bitmap of what a node itself waits for.
     * @param {number} feed
     * @param {number} current the tick that bit 0 speaks of, plus one
     * @param {number} pending
     */
    pending(feed, current, pending) {
        const known = this.feeds[feed];
        if (current >= known.pendingFrom) {
            known.pendingFrom = current;
            known.pending = pending;
        }
    }

    /**
     * Takes a tick from a feed and says what becomes of it.
     * @param {number} now
     * @param {number} feed
     * @param {number} number
     * @param {Uint8Array} bytes the record
     * @returns {Arrival}
     */
    arrive(now, feed, number, bytes) {
        if (!this.#plausible(now, number)) {
            this.stats.tooFarAhead += 1;
            return 'too_far_ahead';
        }
        this.#heard(feed, number);
        if (this.newest - number >= limits.WINDOW_TICKS) {
            this.stats.late += 1;
            return 'late';
        }
        this.#advance(now, number);
        const first = this.have.get(number);
        if (first) {
            if (!same(first, bytes)) {
                this.stats.conflict += 1;
                return 'conflict';
            }
            this.stats.duplicate += 1;
            this.#measureSkew(now, feed, number);
            return 'duplicate';
        }
        if ((this.missing.get(number)?.asked ?? 0) > 0) {
            this.stats.repaired += 1;
        }
        this.missing.delete(number);
        this.have.set(number, bytes);
        this.stats.received += 1;
        this.firstSeen[number % 4] = { number, at: now, feed };
        return 'new';
    }

    /**
     * Takes a beacon: it may announce ticks that were lost at the end of speech.
     * @param {number} now
     * @param {number} feed
     * @param {{newest: number, pending: number}} beacon
     */
    beacon(now, feed, { newest, pending }) {
        if (!this.#plausible(now, newest)) {
            this.stats.tooFarAhead += 1;
            return;
        }
        this.#heard(feed, newest);
        if (newest === 0) {
            return;
        }
        this.pending(feed, newest, pending);
        // Before the first tick a beacon sets no expectation: the window starts with a tick.
        if (this.newest !== 0 && newest > this.newest) {
            this.#advance(now, newest);
            this.#expect(now, newest);
        }
    }

    /**
     * The next request to send, and the feed to ask; null if there is none at this time.
     * @param {number} now
     */
    pollRequest(now) {
        this.#giveUp(now);
        for (const first of this.missing.keys()) {
            const feed = this.#askWhom(now, first);
            if (feed === null) {
                continue;
            }
            let mask = 0;
            for (let offset = 0; offset < 32; offset++) {
                if (this.#askWhom(now, first + offset) === feed) {
                    mask += 2 ** offset;
                    this.#asked(now, first + offset, feed);
                }
            }
            return { feed, request: { room: this.room, epoch: this.epoch, first, mask } };
        }
        return null;
    }

    /** When `pollRequest` is to be called again; Infinity if nothing is missing. */
    pollTimeout() {
        let at = Infinity;
        for (const [number, missing] of this.missing) {
            at = Math.min(at, this.#due(number, missing));
        }
        return at;
    }

    /**
     * Whether a number may come next: numbers advance at the room's cadence and no faster; what a
     * sender runs ahead is taken from a credit that refills with time.
     * @param {number} now
     * @param {number} number
     */
    #plausible(now, number) {
        return this.newest === 0 || number - this.newest <= this.#credit(now);
    }

    /** @param {number} now */
    #credit(now) {
        return this.ahead + Math.floor(Math.max(0, now - this.advancedAt) / limits.CLOSE_APART);
    }

    /** @param {number} feed @param {number} number */
    #heard(feed, number) {
        const known = this.feeds[feed];
        known.newest = Math.max(known.newest, number);
    }

    /** Moves the window so that a number lies in it. @param {number} now @param {number} number */
    #advance(now, number) {
        if (number <= this.newest) {
            return;
        }
        const most = limits.TICKS_AHEAD;
        const used = number - this.newest;
        this.ahead = this.newest === 0 ? most : Math.min(most, Math.max(0, this.#credit(now) - used));
        this.advancedAt = now;
        if (this.newest === 0) {
            this.newest = number;
            return;
        }
        const lowest = Math.max(0, number - (limits.WINDOW_TICKS - 1));
        // What the window leaves behind unseen is lost; so is what it jumps over.
        this.stats.lost += Math.max(0, lowest - (this.newest + 1));
        for (const left of this.missing.keys()) {
            if (left >= lowest) {
                break;
            }
            this.missing.delete(left);
            this.stats.lost += 1;
        }
        for (const old of this.have.keys()) {
            if (old < lowest) {
                this.have.delete(old);
            }
        }
        for (let gap = Math.max(this.newest + 1, lowest); gap < number; gap++) {
            this.#expect(now, gap);
        }
        this.newest = number;
    }

    /** @param {number} now @param {number} number */
    #expect(now, number) {
        this.missing.set(number, { since: now, asked: 0, askedAt: now, next: now, lastFeed: 0 });
    }

    #patience() {
        return Math.max(limits.REPAIR_SKEW, this.skew + 5);
    }

    /** When something is next to be done about a missing tick. @param {number} number @param {Missing} missing */
    #due(number, missing) {
        const lost = missing.since + limits.REPAIR_DEADLINE;
        const live = this.feeds.filter((feed) => feed.live);
        let ask = missing.since;
        if (missing.asked >= limits.REPAIR_TRIES || live.length === 0) {
            return lost;
        } else if (missing.asked > 0) {
            ask = missing.next;
        } else if (live.some((feed) => feed.newest <= number)) {
            ask += this.#patience();
        }
        // A tick that every node waits for itself stays unasked; so does one whose answer would
        // come too late.
        const silent = live.every((feed) => waitsFor(feed, number));
        const late = missing.asked === 0 && this.answer !== null &&
            ask + this.answer > missing.since + this.playout;
        return silent || late ? lost : ask;
    }

    /** @param {number} now @param {number} number @returns {number | null} */
    #askWhom(now, number) {
        const missing = this.missing.get(number);
        if (!missing || missing.asked >= limits.REPAIR_TRIES) {
            return null;
        }
        const due = this.#due(number, missing);
        if (due > now || due >= missing.since + limits.REPAIR_DEADLINE) {
            return null;
        }
        const able = this.feeds.map((_, ix) => ix)
            .filter((ix) => this.feeds[ix].live && !waitsFor(this.feeds[ix], number));
        // The second request goes to another node where there is one.
        if (missing.asked > 0 && able[0] === missing.lastFeed && able.length > 1) {
            return able[1];
        }
        return able[0] ?? null;
    }

    /** @param {number} now @param {number} number @param {number} feed */
    #asked(now, number, feed) {
        const missing = this.missing.get(number);
        if (missing) {
            // A third of the deadline is a round trip of most paths, until one has been measured.
            const answer = this.answer === null ? limits.REPAIR_DEADLINE / 3 : this.answer * 1.25;
            missing.asked += 1;
            missing.lastFeed = feed;
            missing.askedAt = now;
            missing.next = now + this.#patience() + answer;
            this.stats.requested += 1;
        }
    }

    /** @param {number} now */
    #giveUp(now) {
        for (const [number, missing] of this.missing) {
            if (now < missing.since + limits.REPAIR_DEADLINE) {
                continue;
            }
            // What was not asked for because answers take too long lets that be tried again.
            if (this.answer !== null && missing.asked === 0) {
                this.answer -= this.answer / 16;
            }
            this.missing.delete(number);
            this.stats.lost += 1;
        }
    }

    /** @param {number} now @param {number} feed @param {number} number */
    #measureSkew(now, feed, number) {
        const seen = this.firstSeen[number % 4];
        if (seen.number !== number || seen.feed === feed) {
            return;
        }
        const sample = Math.min(now - seen.at, limits.REPAIR_DEADLINE);
        // A peak that forgets by 1/256 a tick stays near the p99 of the last seconds.
        this.skew = sample > this.skew ? sample : this.skew - (this.skew - sample) / 256;
    }
}

/** @param {boolean} live @returns {Feed} */
function newFeed(live) {
    return { live, newest: 0, pendingFrom: 0, pending: 0 };
}

/** Whether a node itself waits for a tick. @param {Feed} feed @param {number} number */
function waitsFor(feed, number) {
    const behind = feed.pendingFrom - number - 1;
    return behind >= 0 && behind < 32 && ((feed.pending >>> behind) & 1) === 1;
}

/** @param {Uint8Array} a @param {Uint8Array} b */
function same(a, b) {
    return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
