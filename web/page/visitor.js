// The visitor of a room: keeps the model up to date, and does what the views ask for. It owns the
// worker, the sound and the API.

import { Api, Problem, claimsOf, isStageRole } from '../api.js';
import { infoOfApi, infoOfSession, isHost, isListening, newModel } from './model.js';
import { plain } from './dom.js';
import { Input, Output, microphones } from './sound.js';
import * as store from './store.js';
import { limits } from '../wire/limits.js';
import { endText, stageText, text } from './texts.js';

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('../messages.js').Told} Told */
/** @typedef {import('../messages.js').Order} Order */

/** Between two looks at a room that one does not listen to, in ms. */
const LOOK_EVERY = 10_000;
/** A microphone without any sound for so long is silent, in ms. */
const SILENT_AFTER = 5_000;
/** Nothing louder than this (−dBov) is no sound. */
const SOUND = 75;

/** Ends after which there is no room to look at. */
const OVER = ['room_ended', 'no_room', 'removed', 'banned'];
/** Ends after which the kept tokens are good for nothing. */
const FORGET = ['token_expired', 'token_invalid', 'removed', 'demoted'];

export class Visitor {
    #api;
    /** @type {Worker | null} */
    #worker = null;
    /** @type {Output | null} */
    #output = null;
    /** @type {Input | null} */
    #input = null;
    #heardAt = 0;
    /** @type {AbortController | null} */
    #events = null;
    /** @type {string | null} */
    #listenerToken = null;
    #refreshing = false;
    /** Whether the host is ending the room: there will be nothing to ask for. */
    #ending = false;
    /** Whether the room's document is not for this person. */
    #refused = false;
    /** Counts openings: what an older one was waiting for is not wanted. */
    #opening = 0;

    /** @param {string} room @param {string} fragment @param {(model: Model) => void} changed */
    constructor(room, fragment, changed) {
        const token = store.tokenFor(room, fragment);
        this.#api = new Api(location.origin, token);
        this.model = newModel(room, token ? claimsOf(token).role : undefined);
        this.model.volume = store.volume();
        this.changed = () => changed(this.model);
        this.#look();
        setInterval(() => this.#look(), LOOK_EVERY);
        for (const event of ['visibilitychange', 'pageshow', 'online', 'resume']) {
            (event === 'online' || event === 'pageshow' ? window : document)
                .addEventListener(event, () => this.#wake());
        }
        if (isHost(this.model)) {
            this.#follow();
        }
    }

    /** The output's end, for measurements. */
    get output() {
        return this.#output;
    }

    async listen() {
        performance.mark('stentor:click');
        this.#ending = false;
        const opening = ++this.#opening;
        this.#set({ state: { phase: 'joining' }, notice: '', problem: '' });
        const { port1, port2 } = new MessageChannel();
        const worker = new Worker(new URL('../worker.js', import.meta.url), { type: 'module' });
        this.#worker = worker;
        worker.onmessage = ({ data }) => this.#told(data);
        worker.onerror = () => this.#fail('The page’s worker could not be started. Reload the page.');
        const name = store.name() || undefined;
        this.#order({
            type: 'start', room: this.model.name, base: location.origin, token: this.#api.token, name,
            clientKey: store.clientKey(), ticket: store.ticketFor(this.model.name), sound: port2,
        }, [port2]);
        try {
            const output = await Output.open(this.model.volume, (time) => this.#sounded(time));
            if (opening === this.#opening) {
                this.#output = output;
                output.attach(port1);
            } else {
                await output.close();
            }
        } catch {
            this.#fail('The browser could not start its sound. Check that a loudspeaker is there, then press Listen again.');
        }
    }

    stop() {
        this.#close();
        this.#set({ state: { phase: 'ended', name: 'stopped', reason: '' } });
    }

    /** @param {number} volume from 0 to 1 */
    setVolume(volume) {
        store.keepVolume(volume);
        this.#output?.setVolume(volume);
        this.#set({ volume });
    }

    /** @param {boolean} raised @param {string} [name] what the host is to see */
    raiseHand(raised, name) {
        const shown = name === undefined ? undefined : chosenName(name);
        if (shown !== undefined) {
            store.keepName(shown);
        }
        this.#order({ type: 'hand', raised, name: shown });
        this.#set({ hand: raised, notice: raised ? text.raised : text.lowered });
    }

    /** @param {string} kind */
    react(kind) {
        this.#order({ type: 'say', message: { type: 'react', kind, count: 1 } });
    }

    glitch() {
        this.#order({ type: 'glitch' });
        this.#set({ notice: text.glitchThanks });
    }

    /** Opens a microphone, or another one; nobody hears it yet. @param {string} device */
    async openMicrophone(device = this.model.microphone.device) {
        if (!this.#output) {
            return;
        }
        this.#closeMicrophone();
        this.#setMicrophone({ phase: 'opening', error: '', lost: false, device });
        try {
            const input = await Input.open(this.#output, device, {
                level: (level) => this.#spoke(level),
                ended: () => this.#setMicrophone({ lost: true }),
            });
            this.#input = input;
            this.#heardAt = performance.now();
            const live = this.model.me?.slot !== null && this.model.me !== null;
            const { port1, port2 } = new MessageChannel();
            input.attach(port1);
            this.#order({ type: 'microphone', port: port2 }, [port2]);
            this.#setMicrophone({ phase: live ? 'live' : 'open' });
            if (live) {
                this.mute(this.model.microphone.muted);
            }
            // Firefox names its devices only to a window that is in front: nobody waits for that.
            microphones().then((devices) => this.#setMicrophone({ devices }), () => {});
        } catch (error) {
            this.#setMicrophone({ phase: 'closed', error: microphoneError(error) });
        }
    }

    closeMicrophone() {
        this.#closeMicrophone();
        this.#setMicrophone({ phase: 'closed', level: 127 });
    }

    /** @param {boolean} muted */
    mute(muted) {
        this.#order({ type: 'mute', muted });
        this.#heardAt = performance.now();
        this.#setMicrophone({ muted, silent: false, mutedAt: performance.now() });
    }

    /** Goes on stage as invited. */
    accept() {
        if (this.model.me?.slot == null) {
            this.#setMicrophone({ muted: false });
            this.#set({ notice: stageText.joining });
        }
        this.#order({ type: 'accept' });
    }

    decline() {
        if (this.model.me?.slot == null) {
            this.closeMicrophone();
        }
        this.#set({ invited: null });
    }

    leaveStage() {
        this.closeMicrophone();
        this.#order({ type: 'leave_stage' });
    }

    /** Does what a host does; a refusal is shown. @param {import('../api.js').Decision} action */
    async act(action) {
        await this.#asHost(() => this.#api.act(this.model.name, action));
    }

    /** A link with a token of its own, for one person; null if it was refused. @param {string} role @param {string} name */
    async linkFor(role, name) {
        /** @type {string | null} */
        let link = null;
        await this.#asHost(async () => {
            const { token } = await this.#api.mint(this.model.name, { role, name: chosenName(name) });
            link = `${location.origin}/rooms/${encodeURIComponent(this.model.name)}#token=${encodeURIComponent(token)}`;
        });
        return link;
    }

    async endRoom() {
        this.#ending = true;
        try {
            await this.#api.end(this.model.name);
        } catch (error) {
            this.#ending = false;
            this.#setHost({ error: error instanceof Error ? error.message : String(error) });
        }
    }

    /** @param {() => Promise<unknown>} task */
    async #asHost(task) {
        try {
            await task();
            this.#setHost({ error: '' });
        } catch (error) {
            this.#setHost({ error: error instanceof Error ? error.message : String(error) });
        }
        await this.#refresh();
    }

    /** @param {Told} told */
    #told(told) {
        switch (told.type) {
            case 'state':
                this.#state(told.state);
                break;
            case 'room':
                this.#set({ room: infoOfSession(this.model.room, told.room) });
                break;
            case 'hand_lowered':
                // An invitation lowers it, too, and says so itself.
                if (this.model.hand) {
                    this.#set({ hand: false, notice: text.handLowered });
                }
                break;
            case 'me':
                this.#arrived(told);
                break;
            case 'invited':
                this.#set({ invited: told.role, hand: false, notice: told.role ? '' : this.model.notice });
                break;
            case 'stage_token':
                this.#useToken(told.token ?? this.#listenerToken);
                break;
            case 'demoted':
                store.forgetStage(this.model.name);
                this.#useToken(this.#listenerToken);
                this.closeMicrophone();
                this.#set({ notice: stageText.demoted });
                break;
            case 'stage_refused':
                this.#useToken(this.#listenerToken ?? this.#api.token);
                this.#set({ notice: stageText.failed + told.reason });
                this.#setMicrophone({ muted: true });
                break;
            case 'speaking':
                this.#set({ voices: told.voices });
                break;
            case 'stats':
                this.#set({ stats: told.stats });
                break;
            case 'token':
                store.keepListenerToken(this.model.name, told.token);
                store.keepTicket(this.model.name, null);
                this.#listenerToken = told.token;
                if (!isStageRole(this.model.tokenRole)) {
                    this.#useToken(told.token);
                }
                break;
            case 'ticket':
                store.keepTicket(this.model.name, told.ticket);
                break;
            case 'fault':
                console.error(told.detail);
        }
    }

    /** @param {import('../session/visit.js').State} state */
    #state(state) {
        if (state.phase === 'ended') {
            this.#close();
            if (FORGET.includes(state.name)) {
                store.forgetTokens(this.model.name);
                this.#listenerToken = null;
                this.#useToken(null);
            }
        } else if (state.phase === 'waiting') {
            this.#estimate(state.place, state.etaMs);
        }
        this.#set({ state });
    }

    /** What the person may do from here on. @param {string | null} token */
    #useToken(token) {
        this.#api.token = token;
        this.#set({ tokenRole: token ? claimsOf(token).role : undefined });
    }

    /** How long the wait will be, by the pace at which the room takes people in. @param {number} place @param {number | null} etaMs */
    async #estimate(place, etaMs) {
        if (etaMs !== null) {
            this.#set({ waitMs: etaMs });
            return;
        }
        try {
            const watermark = await this.#api.watermark();
            const rate = Number(watermark.rate_per_s);
            this.#set({ waitMs: rate > 0 ? (place / rate) * 1000 : null });
        } catch {
            this.#set({ waitMs: null });
        }
    }

    /** @param {{identity: string, role: string, slot: number | null, relay: string}} me */
    #arrived({ identity, role, slot, relay }) {
        this.#set({ me: { identity, role, slot, relay }, invited: slot === null ? this.model.invited : null });
        if (slot !== null && this.model.microphone.phase === 'open') {
            this.#setMicrophone({ phase: 'live' });
            this.mute(this.model.microphone.muted);
            this.#set({ notice: '', hand: false });
        }
        if (isHost(this.model)) {
            this.#follow();
        }
    }

    /** @param {number} level */
    #spoke(level) {
        if (level < SOUND) {
            this.#heardAt = performance.now();
        }
        const { phase, muted } = this.model.microphone;
        const silent = phase === 'live' && !muted && performance.now() - this.#heardAt > SILENT_AFTER;
        this.#setMicrophone({ level, silent });
    }

    /** The first sound has been played. @param {number} time on the context's clock */
    #sounded(time) {
        performance.mark('stentor:first-sound', { detail: { time } });
        performance.measure('stentor:first-sound', 'stentor:click', 'stentor:first-sound');
    }

    /** Looks at a room that one does not listen to. */
    async #look() {
        const { state } = this.model;
        const over = this.#refused || state.phase === 'ended' && OVER.includes(state.name);
        if (isListening(this.model) || over || document.hidden && this.model.room) {
            return;
        }
        try {
            const room = await this.#api.room(this.model.name);
            if (!isListening(this.model)) {
                this.#set({ room: infoOfApi(room), problem: '' });
            }
        } catch (error) {
            const { code, message, status } = error instanceof Problem ? error : { code: 'failed', message: '', status: 0 };
            // Without another token the answer stays the same.
            this.#refused = status === 401 || status === 403;
            if (this.model.room === null) {
                this.#set({ problem: endText(code, message) });
            }
        }
    }

    #wake() {
        if (!document.hidden) {
            this.#output?.context.resume().catch(() => {});
            this.#order({ type: 'wake' });
        }
    }

    /** Follows what happens in a host's room. */
    async #follow() {
        if (this.#events) {
            return;
        }
        const events = new AbortController();
        this.#events = events;
        for (let pause = 1_000; !events.signal.aborted; pause = Math.min(pause * 2, 15_000)) {
            await this.#refresh();
            try {
                await this.#api.events(this.model.name, (event, data) => {
                    pause = 1_000;
                    if (event === 'ended') {
                        events.abort();
                    } else if (event === 'stats') {
                        this.#setHost({ stats: data });
                    } else {
                        this.#refresh();
                    }
                }, events.signal);
            } catch (error) {
                if (error instanceof Problem && [401, 403, 404].includes(error.status)) {
                    this.#events = null;
                    return;
                }
            }
            await new Promise((resolve) => setTimeout(resolve, pause));
        }
    }

    /** Asks for all that a host sees. What happens meanwhile is asked for once more. */
    async #refresh() {
        if (this.#refreshing) {
            return;
        }
        this.#refreshing = true;
        // Events come in bursts.
        await new Promise((resolve) => setTimeout(resolve, 150));
        this.#refreshing = false;
        const { state } = this.model;
        if (this.#ending || state.phase === 'ended' && OVER.includes(state.name)) {
            return;
        }
        try {
            const [participants, stats] = await Promise.all([
                this.#api.participants(this.model.name), this.#api.stats(this.model.name),
            ]);
            this.#setHost({ participants, stats });
        } catch (error) {
            this.#setHost({ error: error instanceof Error ? error.message : String(error) });
        }
    }

    /** @param {string} problem */
    #fail(problem) {
        this.#close();
        this.#set({ state: { phase: 'ended', name: 'failed', reason: problem }, problem });
    }

    #close() {
        this.#opening += 1;
        this.#order({ type: 'stop' });
        const worker = this.#worker;
        // It says goodbye to its node first.
        setTimeout(() => worker?.terminate(), 500);
        this.#worker = null;
        this.#closeMicrophone();
        this.#output?.close().catch(() => {});
        this.#output = null;
        this.model = {
            ...this.model, me: null, voices: [], stats: null, invited: null, hand: false, waitMs: null,
        };
        this.model.microphone = { ...this.model.microphone, phase: 'closed', muted: true, level: 127 };
    }

    #closeMicrophone() {
        this.#input?.close();
        this.#input = null;
    }

    /** @param {Order} order @param {Transferable[]} [transfer] */
    #order(order, transfer = []) {
        this.#worker?.postMessage(order, transfer);
    }

    /** @param {Partial<Model>} change */
    #set(change) {
        this.model = { ...this.model, ...change };
        this.changed();
    }

    /** @param {Partial<Model['microphone']>} change */
    #setMicrophone(change) {
        this.#set({ microphone: { ...this.model.microphone, ...change } });
    }

    /** @param {Partial<Model['host']>} change */
    #setHost(change) {
        this.#set({ host: { ...this.model.host, ...change } });
    }
}

/** A name as the server takes it: without control characters, in its bound. @param {string} name */
function chosenName(name) {
    let kept = '';
    for (const letter of plain(name).replace(/\p{Cc}/gu, ' ').trim()) {
        if (new TextEncoder().encode(kept + letter).length > limits.NAME_BYTES) {
            break;
        }
        kept += letter;
    }
    return kept;
}

/** @param {unknown} error */
function microphoneError(error) {
    const name = error instanceof DOMException ? error.name : '';
    if (name === 'NotAllowedError' || name === 'SecurityError') {
        return stageText.denied;
    }
    return name === 'NotFoundError' || name === 'OverconstrainedError' ? stageText.none : stageText.busy;
}
