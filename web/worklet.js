// The worklet: what comes from the worker is held, concealed where it is missing, mixed and played;
// what the microphone brings goes to the worker in blocks of 20 ms.

import { Mixer } from './sound/mixer.js';
import { dbov, rms } from './sound/level.js';
import { BLOCK } from './wire/limits.js';

/** The delay that voices start with, in ms. */
const START_MS = 60;
/** Blocks of 20 ms between two messages of what is played. */
const TELL_EVERY = 5;
/** Louder than this (−60 dBov) is sound. */
const SOUND = 0.001;

class Player extends AudioWorkletProcessor {
    #mixer = new Mixer(START_MS);
    #block = new Float32Array(BLOCK);
    #at = BLOCK;
    #blocks = 0;
    #sounded = false;
    /** @type {MessagePort | null} */
    #worker = null;

    constructor() {
        super();
        this.port.onmessage = ({ data }) => {
            this.#worker = data.worker;
            if (this.#worker) {
                this.#worker.onmessage = ({ data: message }) => this.#take(message);
            }
        };
    }

    /**
     * @param {Float32Array[][]} _inputs
     * @param {Float32Array[][]} outputs
     */
    process(_inputs, [output]) {
        const [first, ...others] = output;
        for (let i = 0; i < first.length; i++) {
            if (this.#at === BLOCK) {
                this.#next(i);
            }
            first[i] = this.#block[this.#at++];
        }
        for (const channel of others) {
            channel.set(first);
        }
        return true;
    }

    /** Mixes the next 20 ms, whose first sample is the i-th of this turn. @param {number} i */
    #next(i) {
        this.#block = this.#mixer.pull(((currentFrame + i) * 1000) / sampleRate);
        this.#at = 0;
        this.#blocks += 1;
        if (!this.#sounded && rms(this.#block) > SOUND) {
            this.#sounded = true;
            this.port.postMessage({ type: 'sound', time: currentTime });
        }
        if (this.#blocks % TELL_EVERY === 0) {
            const targets = this.#mixer.targets();
            this.#worker?.postMessage({ targets, delay: this.#mixer.delay, ...this.#mixer.stats() });
        }
    }

    /** @param {import('./sound/mixer.js').ToWorklet | {type: 'own', slot: number | null} | {type: 'clear'}} message */
    #take(message) {
        const now = currentTime * 1000;
        if (message.type === 'frame') {
            const { slot, seq, clock, age, pcm } = message;
            this.#mixer.push(now - age, slot, { seq, clock, pcm });
        } else if (message.type === 'late') {
            this.#mixer.tooLate(now, message.slot, message.seq, message.clock);
        } else if (message.type === 'own') {
            this.#mixer.own = message.slot;
        } else {
            this.#mixer.clear();
        }
    }
}

class Microphone extends AudioWorkletProcessor {
    #block = new Float32Array(BLOCK);
    #at = 0;
    #blocks = 0;
    /** @type {MessagePort | null} */
    #worker = null;

    constructor() {
        super();
        this.port.onmessage = ({ data }) => {
            this.#worker = data.worker;
        };
    }

    /** @param {Float32Array[][]} inputs */
    process([input]) {
        const [samples] = input;
        for (let i = 0; samples && i < samples.length; i++) {
            this.#block[this.#at++] = samples[i];
            if (this.#at === BLOCK) {
                this.#send();
            }
        }
        return true;
    }

    #send() {
        this.#blocks += 1;
        if (this.#blocks % TELL_EVERY === 0) {
            this.port.postMessage({ type: 'level', level: dbov(this.#block) });
        }
        const block = this.#block;
        this.#block = new Float32Array(BLOCK);
        this.#at = 0;
        this.#worker?.postMessage(block, [block.buffer]);
    }
}

registerProcessor('stentor-player', Player);
registerProcessor('stentor-microphone', Microphone);
