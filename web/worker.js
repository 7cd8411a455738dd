// The worker: sessions, codecs and what the page is told of them. It goes on while the page's own
// thread is busy. Sound goes to the worklet by a port of its own.

import { Api } from './api.js';
import { openLink } from './session/link.js';
import { Visit } from './session/visit.js';
import { Decoders } from './sound/decoders.js';
import { Encoder } from './sound/encoder.js';

/** @typedef {import('./messages.js').Order} Order */
/** @typedef {import('./messages.js').Told} Told */
/** @typedef {import('./messages.js').Playing} Playing */

/** The delay that voices start with, in ms. */
const START_MS = 60;
/** Between two looks at who speaks, two readouts, and two reports of experience, in ms. */
const SPEAKING_EVERY = 100;
const STATS_EVERY = 1_000;
const REPORT_EVERY = 5_000;
/** Who was heard within this counts as speaking, in ms. */
const SPEAKING_MS = 300;

const scope = /** @type {DedicatedWorkerGlobalScope} */ (/** @type {unknown} */ (self));

class Room {
    /** @type {Playing} */
    #playing = { targets: [], delay: null, played: 0, concealedMs: 0, late: 0 };
    #glitches = 0;
    /** The sums at the last report: what is reported is what has happened since. */
    #reported = { ticks: 0, lost: 0, late: 0, concealedMs: 0 };
    /** @type {Encoder | null} */
    #encoder = null;
    /** @type {MessagePort | null} */
    #microphone = null;
    #muted = true;
    #spoke = '';
    /** @type {number | null} */
    #decodeTimer = null;

    /** @param {Extract<Order, {type: 'start'}>} order */
    constructor({ room, base, token, name, clientKey, ticket, sound }) {
        this.sound = sound;
        sound.onmessage = ({ data }) => this.#heardOf(data);
        const now = () => performance.now();
        this.decoders = new Decoders({
            now, start: START_MS, makeDecoder: (init) => new AudioDecoder(init),
            send: (message) => {
                const moved = message.type === 'frame' && message.pcm ? [message.pcm.buffer] : [];
                sound.postMessage(message, moved);
            },
        });
        this.visit = new Visit({
            now, random: Math.random, tell, open: openLink,
            api: new Api(base, token),
            setTimer: (task, ms) => scope.setTimeout(task, ms),
            clearTimer: (timer) => scope.clearTimeout(timer),
            tick: (at, record) => {
                this.decoders.push(at, record);
                this.#armDecoding();
            },
            epoch: () => {
                this.decoders.clear();
                sound.postMessage({ type: 'clear' });
            },
            slot: (slot, frameBytes) => this.#setSlot(slot, frameBytes),
        }, { room, name, clientKey, ticket });
        this.visit.start();
        scope.setInterval(() => this.#tellSpeaking(), SPEAKING_EVERY);
        scope.setInterval(() => this.#tellStats(), STATS_EVERY);
        this.#reportLater();
    }

    glitch() {
        this.#glitches += 1;
    }

    /** Takes blocks of the microphone from a worklet's port. @param {MessagePort} port */
    listenTo(port) {
        this.#microphone?.close();
        this.#microphone = port;
        port.onmessage = ({ data }) => {
            if (!this.#muted) {
                this.#encoder?.push(data);
            }
        };
    }

    /** @param {boolean} muted */
    mute(muted) {
        this.#muted = muted;
        if (muted) {
            this.visit.pause();
        }
        this.visit.say({ type: 'mute', muted });
    }

    /** @param {number | null} slot @param {number} frameBytes */
    #setSlot(slot, frameBytes) {
        this.decoders.own = slot;
        this.sound.postMessage({ type: 'own', slot });
        this.#encoder?.close();
        this.#encoder = slot === null ? null : new Encoder({
            frameBytes, makeEncoder: (init) => new AudioEncoder(init),
            packet: (packet) => this.visit.speak(packet),
            pause: () => this.visit.pause(),
        });
        if (slot !== null) {
            this.visit.say({ type: 'mute', muted: this.#muted });
        }
    }

    /** @param {Playing} playing */
    #heardOf(playing) {
        this.#playing = playing;
        this.decoders.setTargets(playing.targets);
        this.visit.setPlayout(this.#holdMs());
    }

    #holdMs() {
        return Math.max(START_MS, ...this.#playing.targets.map(([, target]) => target));
    }

    /** Decodes what was held back for a missing packet when it can wait no longer. */
    #armDecoding() {
        const due = this.decoders.pollTimeout();
        if (this.#decodeTimer !== null || due === Infinity) {
            return;
        }
        this.#decodeTimer = scope.setTimeout(() => {
            this.#decodeTimer = null;
            this.decoders.poll(performance.now());
            this.#armDecoding();
        }, Math.max(0, due - performance.now()));
    }

    #tellSpeaking() {
        const voices = this.decoders.speaking(performance.now(), SPEAKING_MS);
        const text = JSON.stringify(voices);
        if (text !== this.#spoke) {
            this.#spoke = text;
            tell({ type: 'speaking', voices });
        }
    }

    #sums() {
        const { window } = this.visit.stats;
        return {
            ticks: window?.received ?? 0,
            lost: window?.lost ?? 0,
            late: this.#playing.late,
            concealedMs: this.#playing.concealedMs,
        };
    }

    #tellStats() {
        const { window, moved = 0 } = this.visit.stats;
        const { malformed, decoderErrors } = this.decoders.stats;
        tell({
            type: 'stats',
            stats: {
                ...this.#sums(), delayMs: this.#playing.delay, holdMs: this.#holdMs(), moved,
                repaired: window?.repaired ?? 0, duplicate: window?.duplicate ?? 0,
                malformed, decoderErrors,
            },
        });
    }

    /** Reports are spread, so that a million listeners do not report at once. */
    #reportLater() {
        const wait = REPORT_EVERY * (0.8 + 0.4 * Math.random());
        scope.setTimeout(() => {
            this.#report();
            this.#reportLater();
        }, wait);
    }

    #report() {
        const sums = this.#sums();
        const before = this.#reported;
        const since = (/** @type {keyof typeof sums} */ name) => Math.max(0, sums[name] - before[name]);
        const sent = this.visit.say({
            type: 'report', ticks: since('ticks'), lost: since('lost'), late: since('late'),
            concealed_ms: since('concealedMs'), delay_ms: Math.round(this.#playing.delay ?? this.#holdMs()),
            glitches: this.#glitches,
        });
        if (sent) {
            this.#reported = sums;
            this.#glitches = 0;
        }
    }
}

/** @param {Told} told */
function tell(told) {
    scope.postMessage(told);
}

/** @type {Room | null} */
let room = null;

scope.onmessage = ({ data }) => {
    const order = /** @type {Order} */ (data);
    if (order.type === 'start') {
        room ??= new Room(order);
        return;
    }
    switch (order.type) {
        case 'say':
            room?.visit.say(order.message);
            break;
        case 'hand':
            room?.visit.raiseHand(order.raised, order.name);
            break;
        case 'glitch':
            room?.glitch();
            break;
        case 'accept':
            room?.visit.accept();
            break;
        case 'leave_stage':
            room?.visit.leaveStage();
            break;
        case 'microphone':
            room?.listenTo(order.port);
            break;
        case 'mute':
            room?.mute(order.muted);
            break;
        case 'wake':
            room?.visit.wake();
            break;
        case 'stop':
            room?.visit.stop();
            break;
    }
};

scope.addEventListener('unhandledrejection', ({ reason }) => {
    tell({ type: 'fault', detail: reason instanceof Error ? reason.message : String(reason) });
});

