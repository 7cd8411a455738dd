// A client's side of its sessions, without IO: it joins, notices when its relay falls silent, goes to
// another without losing a tick, and takes and leaves the stage in the same way (PROTOCOL sections
// 6.7 and 6.9).
//
//            welcome                 silent, lost or asked to move           plays
//   joining ────────▶ on one node ────────────────────────────────▶ moving ───────▶ on another
//                          ▲                 heard again              │
//                          └──────────────────────────────────────────┘
//
// Drive it so: `handle*` and `datagram` with what came; after each, drain `pollAction`;
// `handleTimeout` at `pollTimeout`. Times are milliseconds of one clock that never goes back.

import { closeOf, isFinal } from '../wire/close.js';
import { probeBytes, repairBytes } from '../wire/datagram.js';
import { ASLEEP_MS, FEEDS, RETRY_SPREAD_MS, STARVED_MS, limits } from '../wire/limits.js';
import { Moving, targets } from './moving.js';
import { Reception } from './reception.js';
import { Silence } from './silence.js';

/** @typedef {import('../wire/close.js').Close} Close */
/** @typedef {import('../wire/control.js').Hello} Hello */
/** @typedef {import('../wire/control.js').Place} Place */
/** @typedef {import('../wire/control.js').ServerMessage} ServerMessage */
/** @typedef {import('../wire/control.js').Welcome} Welcome */
/** @typedef {import('../wire/control.js').Subscribed} Subscribed */
/** @typedef {import('../wire/tick.js').Record} Record */
/** @typedef {import('./moving.js').Cause} Cause */

/**
 * What the client is: `fixed` keeps it at `entries` (a stage role is at home at the origin alone).
 * @typedef {{hello: Hello, entries: Place[], fixed: boolean}} Role
 */

/**
 * What the shell is asked to do. No answer follows `leave`; nothing follows `ended`.
 * @typedef {{type: 'connect', home: number, place: Place, hello: Hello}
 *     | {type: 'send', home: number, bytes: Uint8Array}
 *     | {type: 'leave', home: number}
 *     | {type: 'arrived', home: number, place: Place, cause: Cause, welcome: Welcome}
 *     | {type: 'looking', cause: Cause}
 *     | {type: 'resumed'}
 *     | {type: 'waiting', place: number, waiting: number, retryMs: number, etaMs: number}
 *     | {type: 'role_refused', close: Close}
 *     | {type: 'ended', close: Close}} Action
 */

/**
 * @typedef {{id: number, place: Place, opened: number, feed: number | null,
 *     welcome: Welcome | null, newest: number, role: Role}} Home
 */

export class Listen {
    /** @type {Role} */
    #role;
    /** The role to fall back to while another one is being taken. @type {Role | null} */
    #formerRole = null;
    #random;
    /** The one that serves, then those that are tried. @type {Home[]} */
    #homes = [];
    /** @type {Home | null} */
    #current = null;
    #nextHome = 0;
    #silence;
    #probes = 0;
    #probed;
    /** When anything was last handled. */
    #awake;
    /** @type {Place[]} */
    #alternates = [];
    /** The waiting ticket, and the address at which it is good. @type {{text: string, address: string} | null} */
    #ticket = null;
    /** @type {Moving | null} */
    #moving = null;
    #ended = false;
    /** @type {Action[]} */
    #actions = [];

    /**
     * A client that is about to join.
     * @param {{role: Role, random: () => number, reception?: Reception | null}} settings a reception
     *     that is given goes on where it was
     * @param {number} now
     */
    constructor({ role, random, reception = null }, now) {
        this.#role = role;
        this.#random = random;
        this.reception = reception;
        /** The room as the client was told of it last. @type {Subscribed | null} */
        this.room = null;
        this.pass = role.hello.pass;
        /** @type {number} */
        this.playout = limits.PLAYOUT;
        this.stats = {
            moved: 0, resumed: 0, attempts: 0, attemptsFailed: 0, probes: 0,
        };
        this.#silence = new Silence(now, 20);
        this.#probed = now;
        this.#awake = now;
        for (let feed = 0; feed < FEEDS; feed++) {
            reception?.window.setLive(feed, false);
        }
        this.#moving = new Moving(now, now, 'join');
        this.#follow(now);
    }

    /** The session that serves the client, if any does. */
    get current() {
        return this.#current?.id ?? null;
    }

    get moving() {
        return this.#moving?.cause ?? null;
    }

    /** Says how long after its turn a tick is played. @param {number} playout */
    setPlayout(playout) {
        this.playout = Math.min(playout, limits.REPAIR_DEADLINE);
        if (this.reception) {
            this.reception.window.playout = this.playout;
        }
    }

    /**
     * Takes another role: connects as told, and leaves the former session when the new one plays.
     * @param {number} now
     * @param {Role} role
     */
    become(now, role) {
        if (this.#ended) {
            return;
        }
        this.#leaveAttempts();
        this.#formerRole ??= this.#role;
        this.#role = role;
        this.#moving = new Moving(now, now, 'role');
        this.#follow(now);
    }

    /** A control message of a session. @param {number} now @param {number} id @param {ServerMessage} message */
    handleMessage(now, id, message) {
        const home = this.#home(id);
        if (!home) {
            return;
        }
        switch (message.type) {
            case 'welcome':
                this.#welcomed(now, home, message);
                break;
            case 'closing':
                this.handleDown(now, id, closeOf(message.code, message.reason));
                return;
            case 'waiting':
                this.#wait(now, home, message);
                break;
            case 'redirect':
                this.#redirected(now, home, message);
                break;
            default:
                if (home === this.#current) {
                    this.#told(now, message);
                }
        }
        this.#follow(now);
    }

    /**
     * A datagram of a session. Returns the ticks that are new, in order.
     * @param {number} now
     * @param {number} id
     * @param {Uint8Array} bytes
     * @returns {Record[]}
     */
    datagram(now, id, bytes) {
        const home = this.#home(id);
        if (!home || home.feed === null || !this.reception) {
            return [];
        }
        const got = this.reception.datagram(now, home.feed, bytes);
        if (!got) {
            return [];
        }
        home.newest = Math.max(home.newest, got.newest);
        if (home === this.#current) {
            this.#heard(now);
        }
        this.#follow(now);
        return got.fresh;
    }

    /**
     * A session has ended or could not be opened: with the node's close, or without one.
     * @param {number} now
     * @param {number} id
     * @param {Close | null} close
     */
    handleDown(now, id, close) {
        const home = this.#home(id);
        if (!home) {
            return;
        }
        const served = home === this.#current;
        this.#dropHome(home);
        if (!served && this.#ticket && close?.name.startsWith('ticket_')) {
            // Comes again as a newcomer.
            this.#ticket = null;
            this.#tryAgain(now, now);
        } else if (!served) {
            this.stats.attemptsFailed += 1;
            this.#moving?.refused(close);
        } else {
            if (close && isFinal(close) && !this.#formerRole) {
                this.#end(close);
                return;
            }
            // A relay that says goodbye to all leaves them no more time than this.
            this.#moveAt(now, now + this.#random() * limits.REHOME_SPREAD, 'lost');
        }
        this.#follow(now);
    }

    /** Time has come to `pollTimeout`. @param {number} now */
    handleTimeout(now) {
        // The page itself was asleep: what came meanwhile has not been read yet.
        if (now - this.#awake > ASLEEP_MS) {
            this.#silence.restart(now);
        }
        for (const home of this.#attempts()) {
            if (now >= home.opened + limits.REHOME_ATTEMPT) {
                this.#dropHome(home);
                this.stats.attemptsFailed += 1;
                this.#actions.push({ type: 'leave', home: home.id });
                this.#moving?.refused(null);
            }
        }
        this.#follow(now);
    }

    /** When `handleTimeout` is to be called; Infinity for never. */
    pollTimeout() {
        if (this.#ended) {
            return Infinity;
        }
        const later = (/** @type {number} */ at) => (at > this.#awake ? at : Infinity);
        const attempts = this.#attempts();
        const welcomed = attempts.filter((home) => home.feed !== null);
        return Math.min(
            this.reception?.window.pollTimeout() ?? Infinity,
            this.#current ? this.#silenceDue() : Infinity,
            this.#moving?.due(attempts.length) ?? Infinity,
            ...attempts.map((home) => home.opened + limits.REHOME_ATTEMPT),
            ...welcomed.map((home) => later(home.opened + STARVED_MS)),
            // An attempt that plays already takes over as soon as the former session is silent.
            welcomed.length > 0 ? later(this.#silence.silentAt()) : Infinity,
        );
    }

    /** The next thing to do. @returns {Action | undefined} */
    pollAction() {
        return this.#actions.shift();
    }

    /** @param {number} now @param {Home} home @param {Welcome} welcome */
    #welcomed(now, home, welcome) {
        const { room } = welcome;
        const feed = Array.from({ length: FEEDS }, (_, ix) => ix)
            .find((ix) => this.#homes.every((one) => one.feed !== ix));
        if (!room || feed === undefined || home.feed !== null) {
            return;
        }
        home.feed = feed;
        home.welcome = welcome;
        this.#takeAlternates(welcome.alternates);
        if (welcome.pass && welcome.pass.length <= limits.PASS_BYTES) {
            this.pass = welcome.pass;
        }
        this.reception ??= new Reception(room);
        this.reception.window.playout = this.playout;
        this.#renewed(room);
        this.reception.window.setLive(feed, true);
        if (!this.#current) {
            this.#arrive(now, home);
        }
    }

    /** A message of the session that serves. @param {number} now @param {ServerMessage} message */
    #told(now, message) {
        if (message.type === 'subscribed') {
            this.#renewed(message);
        } else if (message.type === 'alternates') {
            this.#takeAlternates(message.alternates);
        } else if (message.type === 'move') {
            this.#takeAlternates(message.alternates);
            this.#moveAt(now, now, 'asked');
        }
    }

    /** @param {Subscribed} room */
    #renewed(room) {
        this.#silence.setCadence(room.tick_ms);
        if (this.reception?.renew(room)) {
            for (const { feed } of this.#homes) {
                if (feed !== null) {
                    this.reception.window.setLive(feed, true);
                }
            }
        }
        this.room = room;
    }

    /** Takes a list of alternates, unless it is longer than allowed. @param {Place[]} alternates */
    #takeAlternates(alternates) {
        const fits = (/** @type {string} */ text) => text.length > 0 && text.length <= limits.NAME_BYTES;
        const sound = alternates.every((place) => fits(place.relay) && fits(place.address));
        if (sound && alternates.length <= limits.SIBLINGS) {
            this.#alternates = alternates;
        }
    }

    /** A node has no place now: comes again when it says. @param {number} now @param {Home} home @param {import('../wire/control.js').Waiting} message */
    #wait(now, home, { ticket, place, waiting, retry_ms, eta_ms }) {
        this.#takeTicket(ticket, home.place.address);
        this.#dropHome(home);
        this.#actions.push({ type: 'leave', home: home.id });
        const retryMs = retry_ms + this.#random() * Math.min(retry_ms / 16, RETRY_SPREAD_MS);
        const moving = this.#tryAgain(now, now + retryMs);
        // Who waits as told is not without a relay.
        moving.since = now;
        this.#actions.push({ type: 'waiting', place, waiting, retryMs, etaMs: eta_ms ?? retryMs });
    }

    /** The node tried last is tried again. @param {number} now @param {number} at */
    #tryAgain(now, at) {
        this.#moving ??= new Moving(now, now, 'lost');
        this.#moving.tried = Math.max(0, this.#moving.tried - 1);
        this.#moving.next = at;
        return this.#moving;
    }

    /** @param {string | undefined} text @param {string} address */
    #takeTicket(text, address) {
        this.#ticket = text !== undefined && text.length <= limits.TICKET_BYTES ? { text, address } : null;
    }

    /** A node names others to go to. @param {number} now @param {Home} home @param {import('../wire/control.js').Redirect} message */
    #redirected(now, home, { relays, ticket }) {
        this.#takeTicket(ticket, relays[0]?.address ?? '');
        this.#dropHome(home);
        this.#actions.push({ type: 'leave', home: home.id });
        this.#takeAlternates(relays);
        this.#moving ??= new Moving(now, now, 'lost');
        this.#moving.tried = 0;
        this.#moving.next = now;
    }

    /** The session that serves the client has brought something. @param {number} now */
    #heard(now) {
        const inTime = now < this.#silence.silentAt();
        this.#silence.heard(now);
        this.#probes = 0;
        // Once it was silent, whoever has been welcomed elsewhere goes there: it is done in a moment.
        const outside = inTime || this.#attempts().every((home) => home.feed === null);
        if (this.#moving?.cause === 'silent' && outside) {
            this.#moving = null;
            this.stats.resumed += Number(this.#attempts().length > 0);
            this.#leaveAttempts();
            this.#actions.push({ type: 'resumed' });
        }
    }

    /** Everything that follows from a change: probes, a move, a switch, repair. @param {number} now */
    #follow(now) {
        this.#awake = now;
        if (this.#ended) {
            return;
        }
        this.#watch(now);
        this.#switch(now);
        this.#tryNext(now);
        for (;;) {
            const asked = this.reception?.window.pollRequest(now);
            if (!asked) {
                return;
            }
            const home = this.#homes.find((one) => one.feed === asked.feed);
            if (home) {
                const bytes = repairBytes(asked.request);
                this.#actions.push({ type: 'send', home: home.id, bytes });
            }
        }
    }

    /** Probes a session that falls silent, and looks for another when no answer comes. @param {number} now */
    #watch(now) {
        if (!this.#current) {
            return;
        }
        if (now >= this.#silenceDue() && this.#probes < limits.PROBES) {
            this.#probes += 1;
            this.#probed = now;
            if (this.#current.welcome?.features.includes('probe')) {
                this.stats.probes += 1;
                this.#actions.push({ type: 'send', home: this.#current.id, bytes: probeBytes() });
            }
        }
        if (now >= this.#silence.doubtfulAt() && !this.#moving) {
            this.#moveAt(now, now + this.#random() * limits.REHOME_SPREAD, 'silent');
        }
    }

    #silenceDue() {
        const probe = this.#probes === 0 ? this.#silence.probeAt()
            : this.#probes < limits.PROBES ? this.#probed + limits.PROBE_EVERY : Infinity;
        return this.#moving ? probe : Math.min(probe, this.#silence.doubtfulAt());
    }

    /** @param {number} now @param {number} at @param {Cause} cause */
    #moveAt(now, at, cause) {
        if (this.#moving) {
            this.#moving.hurry(at, cause);
        } else {
            this.#moving = new Moving(now, at, cause);
        }
        if (cause !== 'asked') {
            this.#actions.push({ type: 'looking', cause });
        }
    }

    /**
     * Goes over to an attempt that plays: it has been welcomed, and it knows of the newest tick or
     * nearly so. A starved relay does not take over from one that is not, but from one that does not
     * answer.
     * @param {number} now
     */
    #switch(now) {
        const silent = this.#moving?.cause === 'silent';
        if (silent && now < this.#silence.silentAt()) {
            return;
        }
        const newest = this.reception?.window.newest ?? 0;
        const plays = (/** @type {Home} */ home) => (home.newest > 0 || newest === 0) &&
            home.newest + limits.REHOME_BEHIND >= newest;
        const waited = (/** @type {Home} */ home) => silent && now >= home.opened + STARVED_MS;
        const found = this.#attempts()
            .find((home) => home.feed !== null && (plays(home) || waited(home)));
        if (found) {
            this.#arrive(now, found);
        }
    }

    /** The session serves the client from here on. @param {number} now @param {Home} home */
    #arrive(now, home) {
        const former = this.#current;
        const cause = this.#moving?.cause ?? 'join';
        this.#current = home;
        if (home.welcome) {
            const { id, place, welcome } = home;
            this.#actions.push({ type: 'arrived', home: id, place, cause, welcome });
        }
        if (former) {
            this.#dropHome(former);
            this.#actions.push({ type: 'leave', home: former.id });
        }
        this.#leaveAttempts();
        this.#silence.restart(now);
        this.#probes = 0;
        this.#moving = null;
        this.#formerRole = null;
        this.#ticket = null;
        this.stats.moved += Number(cause !== 'join' && cause !== 'role');
    }

    /** Begins the next attempt when its time has come. @param {number} now */
    #tryNext(now) {
        for (;;) {
            const moving = this.#moving;
            const attempts = this.#attempts().length;
            if (!moving) {
                return;
            }
            if (now >= moving.since + limits.REHOME_GIVE_UP) {
                this.#end(moving.refusal ?? nowhere());
                return;
            }
            if (now < moving.next || attempts >= limits.REHOME_ATTEMPTS) {
                return;
            }
            const place = this.#targets(moving.round)[moving.tried];
            if (place) {
                moving.tried += 1;
                const tried = this.#homes.some((home) => home.place.address === place.address && home.role === this.#role);
                moving.next = tried ? now : now + limits.REHOME_NEXT;
                if (!tried) {
                    this.#attempt(now, place);
                }
            } else if (attempts > 0) {
                // The round ends when its last attempt has.
                moving.next = now + limits.REHOME_NEXT;
            } else {
                this.#endRound(now, moving);
                return;
            }
        }
    }

    /** @param {number} now @param {Place} place */
    #attempt(now, place) {
        const id = this.#nextHome++;
        const role = this.#role;
        this.#homes.push({ id, place, opened: now, feed: null, welcome: null, newest: 0, role });
        this.stats.attempts += 1;
        const last = this.reception?.last();
        const ticket = this.#ticket?.address === place.address ? this.#ticket.text : undefined;
        const hello = { ...role.hello, last, pass: role.fixed ? undefined : this.pass, ticket };
        this.#actions.push({ type: 'connect', home: id, place, hello });
    }

    /** Every place that is known has been tried. @param {number} now @param {Moving} moving */
    #endRound(now, moving) {
        const places = this.#targets(1).length;
        const allForGood = moving.tried > 0 && moving.refusedForGood === moving.tried;
        const lost = places === 0 && !this.#current;
        if (this.#formerRole && (allForGood || places === 0 || moving.round >= 2)) {
            // The other role cannot be had: stays what it was.
            this.#role = this.#formerRole;
            this.#formerRole = null;
            this.#actions.push({ type: 'role_refused', close: moving.refusal ?? nowhere() });
            this.#moving = this.#current ? null : new Moving(now, now, 'lost');
            return;
        }
        if (moving.cause === 'join' || allForGood || lost) {
            this.#end(moving.refusal ?? nowhere());
            return;
        }
        moving.pause(now, this.#random);
    }

    /**
     * Where to try, in order: the alternates, then the entries. In the first round the node that is
     * being left is not among them.
     * @param {number} round
     */
    #targets(round) {
        const { fixed, entries } = this.#role;
        const left = round === 0 && this.#current?.role === this.#role ? this.#current.place.address : undefined;
        if (fixed) {
            return targets(entries, left);
        }
        // A role is offered with the places to take it at.
        const role = this.#moving?.cause === 'role';
        return targets(role ? [...entries, ...this.#alternates] : [...this.#alternates, ...entries], left);
    }

    /** Forgets a session; its feed is not waited for. @param {Home} home */
    #dropHome(home) {
        this.#homes = this.#homes.filter((one) => one !== home);
        if (this.#current === home) {
            this.#current = null;
        }
        if (home.feed !== null) {
            this.reception?.window.setLive(home.feed, false);
        }
    }

    #leaveAttempts() {
        for (const home of this.#attempts()) {
            this.#dropHome(home);
            this.#actions.push({ type: 'leave', home: home.id });
        }
    }

    /** @param {Close} close */
    #end(close) {
        for (const { id } of this.#homes) {
            this.#actions.push({ type: 'leave', home: id });
        }
        this.#homes = [];
        this.#current = null;
        this.#moving = null;
        this.#ended = true;
        this.#actions.push({ type: 'ended', close });
    }

    /** @param {number} id */
    #home(id) {
        return this.#homes.find((home) => home.id === id);
    }

    /** The sessions that do not serve the client yet. */
    #attempts() {
        return this.#homes.filter((home) => home !== this.#current);
    }
}

/** What a client ends with that found no node. */
function nowhere() {
    return closeOf(0x41, 'no relay could be reached');
}
