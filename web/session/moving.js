// A client that looks for a node: where it tries next, and when (PROTOCOL section 6.9).

import { isFinal } from '../wire/close.js';
import { limits } from '../wire/limits.js';

/** @typedef {import('../wire/close.js').Close} Close */
/** @typedef {import('../wire/control.js').Place} Place */

/**
 * Why a client goes to another node: it joins, its session fell silent or ended, the node asked for
 * it, or the client takes another role.
 * @typedef {'join' | 'silent' | 'lost' | 'asked' | 'role'} Cause
 */

export class Moving {
    tried = 0;
    round = 0;
    /** What the last one that refused said. @type {Close | null} */
    refusal = null;
    refusedForGood = 0;

    /**
     * @param {number} now
     * @param {number} next when the first attempt may begin
     * @param {Cause} cause
     */
    constructor(now, next, cause) {
        this.since = now;
        this.next = next;
        this.cause = cause;
    }

    /** Another reason to move came up: it begins as soon as either says. @param {number} at @param {Cause} cause */
    hurry(at, cause) {
        if (this.tried === 0) {
            this.next = Math.min(this.next, at);
        }
        // A session that is lost cannot be heard again.
        if (this.cause === 'silent' || (cause === 'lost' && this.cause === 'asked')) {
            this.cause = cause;
        }
    }

    /** An attempt came to nothing: the next one need not wait. @param {Close | null} close */
    refused(close) {
        this.next = 0;
        this.refusedForGood += Number(close !== null && isFinal(close));
        this.refusal = close ?? this.refusal;
    }

    /** When something is to be done, with so many attempts under way. @param {number} attempts */
    due(attempts) {
        const giveUp = this.since + limits.REHOME_GIVE_UP;
        return attempts >= limits.REHOME_ATTEMPTS ? giveUp : Math.min(this.next, giveUp);
    }

    /** All known places have been tried: pauses. @param {number} now @param {() => number} random */
    pause(now, random) {
        const doubled = limits.REHOME_PAUSE * 2 ** Math.min(this.round, 8);
        const most = Math.min(doubled, limits.REHOME_PAUSE_MOST);
        this.round += 1;
        this.tried = 0;
        this.refusedForGood = 0;
        this.next = now + most / 2 + (random() * most) / 2;
    }
}

/**
 * Where to try, in order, each address once.
 * @param {Place[]} places
 * @param {string | undefined} left an address that is left out
 */
export function targets(places, left) {
    /** @type {Map<string, Place>} */
    const known = new Map();
    for (const place of places) {
        const before = known.get(place.address);
        // Whoever names the certificate's hash goes before who does not.
        if (place.address !== left && (!before || (!before.certificate_hashes && place.certificate_hashes))) {
            known.set(place.address, place);
        }
    }
    return [...known.values()];
}
