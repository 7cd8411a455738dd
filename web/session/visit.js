// A visit to a room: joins by the HTTP API, waits where it must, keeps a session, comes back after
// whatever has ended one, and takes and leaves the stage. It runs in the worker; its shell gives it
// a clock, timers, HTTP, sessions and the decoders.

import { Problem, claimsOf, isStageRole } from '../api.js';
import { RETRY_SPREAD_MS, limits } from '../wire/limits.js';
import { parseDatagram } from '../wire/datagram.js';
import { WireError } from '../wire/bytes.js';
import { Listen } from './listen.js';
import { SpeechSender } from './speech.js';

/** @typedef {import('../wire/close.js').Close} Close */
/** @typedef {import('../wire/control.js').Place} Place */
/** @typedef {import('../wire/control.js').RoomDocument} RoomDocument */
/** @typedef {import('./link.js').Link} Link */
/** @typedef {import('./listen.js').Role} Role */

/**
 * Where a visit stands.
 * @typedef {{phase: 'joining' | 'connecting' | 'live' | 'reconnecting'}
 *     | {phase: 'waiting', place: number, waiting: number, retryMs: number, etaMs: number | null}
 *     | {phase: 'ended', name: string, reason: string}} State
 */
/**
 * What the page is told.
 * @typedef {{type: 'state', state: State}
 *     | {type: 'room', room: RoomDocument}
 *     | {type: 'me', identity: string, role: string, slot: number | null, relay: string}
 *     | {type: 'invited', role: string | null}
 *     | {type: 'hand_lowered'}
 *     | {type: 'stage_refused', reason: string}
 *     | {type: 'stage_token', token: string | null}
 *     | {type: 'demoted'}
 *     | {type: 'token', token: string}
 *     | {type: 'ticket', ticket: string}} News
 */
/**
 * @typedef {{now: () => number, random: () => number, tell: (news: News) => void,
 *     api: import('../api.js').Api, open: typeof import('./link.js').openLink,
 *     setTimer: (task: () => void, ms: number) => number, clearTimer: (timer: number) => void,
 *     tick: (now: number, record: import('../wire/tick.js').Record) => void,
 *     epoch: (room: import('../wire/control.js').Subscribed) => void,
 *     slot: (slot: number | null, frameBytes: number) => void}} Shell
 */

/** Closes after which nobody comes back by itself. */
const OVER = ['room_ended', 'replaced', 'removed', 'banned', 'no_room', 'room_locked', 'token_room', 'token_role'];
/** Problems of the API that no repetition mends. */
const REFUSED = [400, 401, 403, 404, 409, 410, 422];
/** The pause before joining again: the first, doubled up to the longest, a random half of it. */
const AGAIN = 500;
const AGAIN_MOST = 10_000;
/** A token is renewed this long before its end, less a random part of it, in ms. */
const RENEW_BEFORE = 60_000;
/** A shorter life than this is not renewed early: the session is let end. */
const RENEW_LEAST = 5_000;
/** A hand that is up is raised on a new session this much later: the former one has lowered it by then. */
const HAND_AGAIN = 1_500;

export class Visit {
    #shell;
    #room;
    #who;
    /** @type {Listen | null} */
    #listen = null;
    /** @type {Map<number, Link>} */
    #links = new Map();
    /** @type {number | null} */
    #timer = null;
    /** @type {number | null} */
    #renewal = null;
    #failures = 0;
    #over = false;
    /** @type {Place[]} */
    #relays = [];
    /** @type {Place | null} */
    #origin = null;
    /** The listener's token: with it one comes back from the stage. @type {string | null} */
    #listenerToken = null;
    /** The listener's token of somebody who came with a stage role, for leaving the stage. @type {string | null} */
    #spareToken = null;
    #hand = false;
    /** @type {number | null} */
    #handTimer = null;
    /** The number of the join that is under way: an older one's answer is not wanted. */
    #joining = 0;
    /** @type {SpeechSender | null} */
    #speech = null;
    /** @type {number | null} */
    #slot = null;
    #epoch = -1;
    #documentVersion = -1;

    /**
     * @param {Shell} shell
     * @param {{room: string, name?: string, clientKey?: string, ticket?: string}} who
     */
    constructor(shell, { room, name, clientKey, ticket }) {
        this.#shell = shell;
        this.#room = room;
        this.#who = { name, client_key: clientKey, ticket };
        if (shell.api.token && !isStageRole(claimsOf(shell.api.token).role)) {
            this.#listenerToken = shell.api.token;
        }
    }

    start() {
        this.#tellState({ phase: 'joining' });
        this.#join();
    }

    /** Leaves the room. */
    stop() {
        this.#over = true;
        this.#drop();
    }

    get stats() {
        const window = this.#listen?.reception?.stats() ?? null;
        return { ...this.#listen?.stats, window, slot: this.#slot };
    }

    /** What the worklet holds frames for: repairs that would come later are not asked for. @param {number} ms */
    setPlayout(ms) {
        this.#listen?.setPlayout(ms);
    }

    /** Sends a control message on the session that serves. @param {{type: string} & {[field: string]: unknown}} message */
    say(message) {
        const id = this.#listen?.current ?? null;
        const link = id === null ? undefined : this.#links.get(id);
        link?.message(message);
        return link !== undefined;
    }

    /** A packet of the microphone. @param {import('../sound/encoder.js').Packet} packet */
    speak(packet) {
        this.#sendSpeech(this.#speech?.push(packet) ?? null);
    }

    /** The microphone is silent. */
    pause() {
        this.#sendSpeech(this.#speech?.pause() ?? null);
    }

    /** Raises or lowers the hand; under another name than before, on a session of that name. @param {boolean} raised @param {string} [name] */
    raiseHand(raised, name) {
        this.#hand = raised;
        if (raised && name && name !== this.#who.name) {
            this.#who.name = name;
            this.#renew();
        } else {
            this.#sayHand();
        }
    }

    /** Takes the stage as invited, without a break in what is heard. */
    async accept() {
        try {
            const { token, ...place } = await this.#shell.api.accept(this.#room);
            this.#shell.tell({ type: 'stage_token', token });
            const origin = { relay: 'origin', ...place };
            this.#origin = origin;
            this.#listen?.become(this.#shell.now(), this.#stageRole(token, origin));
            this.#drain();
        } catch (error) {
            this.#shell.tell({ type: 'stage_refused', reason: reasonOf(error) });
        }
    }

    /** Leaves the stage and goes on listening. */
    async leaveStage() {
        this.pause();
        this.#listenerToken ??= this.#spareToken;
        if (!this.#listenerToken) {
            return;
        }
        this.#shell.api.token = this.#listenerToken;
        this.#shell.tell({ type: 'token', token: this.#listenerToken });
        this.#shell.tell({ type: 'stage_token', token: null });
        this.#listen?.become(this.#shell.now(), this.#listenerRole(this.#listenerToken));
        this.#drain();
    }

    /** The page was woken: looks at once what has become of the session. */
    wake() {
        this.#pump();
    }

    /** Only a listener has a hand. */
    #sayHand() {
        if (this.#slot === null) {
            this.say({ type: 'hand', raised: this.#hand });
        }
    }

    #join() {
        const joining = ++this.#joining;
        const { api } = this.#shell;
        if (this.#listenerToken) {
            // A stage token that has been accepted is spent once its session has ended.
            api.token = this.#listenerToken;
        }
        api.join(this.#room, this.#who).then(
            (answer) => {
                if (joining === this.#joining && !this.#over) {
                    this.#joined(answer);
                }
            },
            (error) => {
                if (joining === this.#joining && !this.#over) {
                    this.#notJoined(error);
                }
            },
        );
    }

    /** @param {Awaited<ReturnType<import('../api.js').Api['join']>>} answer */
    #joined(answer) {
        if ('waiting' in answer) {
            const { ticket, place, waiting, retry_ms, eta_ms = null } = answer.waiting;
            if (ticket) {
                this.#who.ticket = ticket;
                this.#shell.tell({ type: 'ticket', ticket });
            }
            const retryMs = retry_ms + this.#shell.random() * Math.min(retry_ms / 16, RETRY_SPREAD_MS);
            this.#tellState({ phase: 'waiting', place, waiting, retryMs, etaMs: eta_ms });
            this.#after(retryMs, () => this.#join());
            return;
        }
        const { api } = this.#shell;
        this.#who.ticket = undefined;
        this.#relays = answer.relays;
        this.#origin = answer.origin ? { ...answer.origin, relay: 'origin' } : null;
        const stage = isStageRole(claimsOf(api.token ?? '').role) && this.#origin;
        const token = stage ? api.token ?? answer.token : answer.token;
        if (stage) {
            this.#spareToken = answer.token;
        } else if (token) {
            this.#listenerToken = token;
            api.token = token;
            this.#shell.tell({ type: 'token', token });
        }
        const role = stage && this.#origin ? this.#stageRole(token, this.#origin) : this.#listenerRole(token);
        this.#tellState({ phase: this.#failures > 0 ? 'reconnecting' : 'connecting' });
        this.#renewBefore(token);
        const { reception = null, pass } = this.#listen ?? {};
        role.hello.pass ??= pass;
        this.#listen = new Listen({ role, random: this.#shell.random, reception }, this.#shell.now());
        this.#drain();
    }

    /** @param {unknown} error */
    #notJoined(error) {
        const { status = 0, code = 'failed', retryAfter = null } = error instanceof Problem ? error : {};
        const stale = status === 401 && this.#shell.api.token === this.#listenerToken && this.#listenerToken;
        if (stale) {
            // The token has expired while the page slept: comes as a newcomer.
            this.#listenerToken = null;
            this.#shell.api.token = null;
            this.#join();
        } else if (code === 'demoted' && this.#shell.api.token) {
            // The stage role of the link is taken back; anyone may listen to a public room.
            this.#shell.api.token = null;
            this.#shell.tell({ type: 'demoted' });
            this.#join();
        } else if (REFUSED.includes(status)) {
            this.#end(code, reasonOf(error));
        } else {
            this.#again(retryAfter === null ? 0 : retryAfter * 1000);
        }
    }

    /** Joins again after a pause. @param {number} least in ms */
    #again(least = 0) {
        const most = Math.min(AGAIN_MOST, AGAIN * 2 ** Math.min(this.#failures, 8));
        this.#failures += 1;
        this.#tellState({ phase: 'reconnecting' });
        this.#after(Math.max(least, most / 2) + (this.#shell.random() * most) / 2, () => this.#join());
    }

    /** @param {string} token @param {Place} origin @returns {Role} */
    #stageRole(token, origin) {
        const role = claimsOf(token).role ?? 'speaker';
        return { hello: this.#hello(role, token), entries: [origin], fixed: true };
    }

    /** @param {string} token @returns {Role} */
    #listenerRole(token) {
        return { hello: this.#hello('listener', token), entries: this.#relays, fixed: false };
    }

    /** @param {string} role @param {string} token */
    #hello(role, token) {
        const { name, client_key } = this.#who;
        const hello = { role, room: this.#room, token, name, agent: 'stentor-page', playout_ms: limits.PLAYOUT };
        return role === 'listener' ? { ...hello, client_key } : hello;
    }

    /** Fetches a fresh token in time and says hello with it, on a session beside the present one. @param {string} token */
    #renewBefore(token) {
        if (this.#renewal !== null) {
            this.#shell.clearTimer(this.#renewal);
            this.#renewal = null;
        }
        const { exp, role } = claimsOf(token);
        const left = exp === undefined ? Infinity : exp * 1000 - Date.now();
        if (left === Infinity || isStageRole(role) || left < RENEW_LEAST) {
            return;
        }
        const early = Math.min(RENEW_BEFORE, left / 2) * (1 - this.#shell.random() / 4);
        // A timer holds 2^31 ms at most.
        const wait = Math.min(left - early, 2 ** 31 - 1);
        this.#renewal = this.#shell.setTimer(() => this.#renew(), wait);
    }

    #renew() {
        this.#renewal = null;
        this.#shell.api.join(this.#room, this.#who).then((answer) => {
            if (this.#over || this.#speech || 'waiting' in answer || !this.#listen) {
                this.#sayHand();
                return;
            }
            this.#relays = answer.relays;
            this.#listenerToken = answer.token;
            this.#shell.api.token = answer.token;
            this.#shell.tell({ type: 'token', token: answer.token });
            this.#renewBefore(answer.token);
            this.#listen.become(this.#shell.now(), this.#listenerRole(answer.token));
            this.#drain();
        }, () => {
            // The session lives until the token's end; then the visit joins anew.
            this.#sayHand();
        });
    }

    /** Lets the machine do what its time has come for. */
    #pump() {
        this.#listen?.handleTimeout(this.#shell.now());
        this.#drain();
    }

    /** Does what the machine asks for, and sets the timer for its next time. */
    #drain() {
        const listen = this.#listen;
        if (!listen) {
            return;
        }
        for (let action = listen.pollAction(); action; action = listen.pollAction()) {
            this.#act(listen, action);
            if (this.#listen !== listen) {
                return;
            }
        }
        const due = listen.pollTimeout();
        if (due !== Infinity) {
            this.#after(Math.max(0, due - this.#shell.now()), () => this.#pump());
        }
    }

    /** @param {Listen} listen @param {import('./listen.js').Action} action */
    #act(listen, action) {
        switch (action.type) {
            case 'connect':
                this.#connect(listen, action.home, action.place, action.hello);
                break;
            case 'send':
                this.#links.get(action.home)?.datagram(action.bytes);
                break;
            case 'leave':
                this.#links.get(action.home)?.leave();
                this.#links.delete(action.home);
                break;
            case 'arrived':
                this.#arrived(action.place, action.welcome);
                break;
            case 'looking':
                // A session that is only in doubt still plays.
                if (action.cause === 'lost') {
                    this.#tellState({ phase: 'reconnecting' });
                }
                break;
            case 'resumed':
                this.#tellState({ phase: 'live' });
                break;
            case 'waiting': {
                const { place, waiting, retryMs, etaMs } = action;
                this.#tellState({ phase: 'waiting', place, waiting, retryMs, etaMs });
                break;
            }
            case 'role_refused':
                this.#shell.tell({ type: 'stage_refused', reason: action.close.reason });
                break;
            case 'ended':
                this.#ended(action.close);
        }
    }

    /** @param {Listen} listen @param {number} home @param {Place} place @param {import('../wire/control.js').Hello} hello */
    #connect(listen, home, place, hello) {
        const mine = () => this.#listen === listen && this.#links.get(home) === link;
        const link = this.#shell.open(place, hello, {
            message: (message) => {
                if (mine()) {
                    listen.handleMessage(this.#shell.now(), home, message);
                    this.#note(listen, message);
                    this.#drain();
                }
            },
            datagram: (bytes) => {
                if (mine()) {
                    this.#datagram(listen, home, bytes);
                }
            },
            down: (close) => {
                if (mine()) {
                    this.#links.delete(home);
                    listen.handleDown(this.#shell.now(), home, close);
                    this.#drain();
                }
            },
        });
        this.#links.set(home, link);
    }

    /** @param {Listen} listen @param {number} home @param {Uint8Array} bytes */
    #datagram(listen, home, bytes) {
        const now = this.#shell.now();
        if (bytes[0] === 5) {
            this.#answerOrigin(home, bytes);
            return;
        }
        for (const record of listen.datagram(now, home, bytes)) {
            this.#shell.tick(now, record);
        }
        this.#drain();
    }

    /** The origin asks for lost speech. @param {number} home @param {Uint8Array} bytes */
    #answerOrigin(home, bytes) {
        try {
            const request = parseDatagram(bytes);
            const answer = request.kind === 'speech_request' ? this.#speech?.answer(request) : null;
            if (answer) {
                this.#links.get(home)?.datagram(answer);
            }
        } catch (error) {
            if (!(error instanceof WireError)) {
                throw error;
            }
        }
    }

    /** What the machine does not keep. @param {Listen} listen @param {import('../wire/control.js').ServerMessage} message */
    #note(listen, message) {
        if (message.type === 'room' && message.room === this.#room) {
            this.#document(message);
        } else if (message.type === 'invited') {
            this.#shell.tell({ type: 'invited', role: message.role });
        } else if (message.type === 'invitation_withdrawn') {
            this.#shell.tell({ type: 'invited', role: null });
        } else if (message.type === 'hand_lowered') {
            this.#hand = false;
            this.#shell.tell({ type: 'hand_lowered' });
        } else if (message.type === 'subscribed' || message.type === 'welcome') {
            this.#followEpoch(listen);
        }
    }

    /** A document replaces the former one of its epoch if its version is higher. @param {RoomDocument} room */
    #document(room) {
        if (room.version > this.#documentVersion) {
            this.#documentVersion = room.version;
            this.#shell.tell({ type: 'room', room });
        }
    }

    /** @param {Listen} listen */
    #followEpoch(listen) {
        const { room } = listen;
        if (room && room.epoch !== this.#epoch) {
            this.#epoch = room.epoch;
            this.#documentVersion = -1;
            this.#shell.epoch(room);
        }
    }

    /** @param {Place} place @param {import('../wire/control.js').Welcome} welcome */
    #arrived(place, welcome) {
        this.#failures = 0;
        const { identity, role, slot = null, frame_bytes = limits.FRAME_BYTES } = welcome;
        this.#slot = slot;
        this.#speech = slot === null ? null : new SpeechSender(slot, frame_bytes);
        this.#shell.slot(slot, frame_bytes);
        this.#shell.tell({ type: 'me', identity, role, slot, relay: place.relay });
        this.#tellState({ phase: 'live' });
        this.#hand &&= slot === null;
        if (this.#hand) {
            this.#handTimer ??= this.#shell.setTimer(() => {
                this.#handTimer = null;
                this.#sayHand();
            }, HAND_AGAIN);
        }
    }

    /** @param {Close} close */
    #ended(close) {
        const stage = this.#speech !== null;
        this.#drop();
        if (close.name === 'demoted') {
            this.#backToAudience(close);
            return;
        }
        if (OVER.includes(close.name) && !(stage && close.name === 'token_role')) {
            this.#end(close.name, close.reason);
            return;
        }
        if (close.name === 'token_expired' || close.name === 'token_invalid') {
            if (!this.#listenerToken) {
                // Whoever holds a host's link gets no other token.
                this.#end(close.name, close.reason);
                return;
            }
        }
        this.#again();
    }

    /** The host has taken the stage role: goes on listening. @param {Close} close */
    #backToAudience(close) {
        this.#listenerToken ??= this.#spareToken;
        if (!this.#listenerToken) {
            this.#end(close.name, close.reason);
            return;
        }
        this.#shell.tell({ type: 'demoted' });
        this.#tellState({ phase: 'reconnecting' });
        this.#join();
    }

    /** @param {string} name @param {string} reason */
    #end(name, reason) {
        this.#over = true;
        this.#drop();
        this.#tellState({ phase: 'ended', name, reason });
    }

    #drop() {
        this.#joining += 1;
        for (const link of this.#links.values()) {
            link.leave();
        }
        this.#links.clear();
        for (const timer of [this.#timer, this.#renewal, this.#handTimer]) {
            if (timer !== null) {
                this.#shell.clearTimer(timer);
            }
        }
        this.#timer = null;
        this.#renewal = null;
        this.#handTimer = null;
        if (this.#speech) {
            this.#speech = null;
            this.#slot = null;
            this.#shell.slot(null, 0);
        }
    }

    /** @param {Uint8Array | null} bytes */
    #sendSpeech(bytes) {
        const id = this.#listen?.current ?? null;
        if (bytes && id !== null) {
            this.#links.get(id)?.datagram(bytes);
        }
    }

    /** @param {number} ms @param {() => void} task */
    #after(ms, task) {
        if (this.#timer !== null) {
            this.#shell.clearTimer(this.#timer);
        }
        this.#timer = this.#shell.setTimer(() => {
            this.#timer = null;
            task();
        }, ms);
    }

    /** @param {State} state */
    #tellState(state) {
        this.#shell.tell({ type: 'state', state });
    }
}

/** @param {unknown} error */
function reasonOf(error) {
    return error instanceof Error ? error.message : 'The server did not say why.';
}
