// Put into a page by `stentor bench page`: notes when sound begins and ends at a place of the page's
// audio graph, on the clock that all pages of a machine share.

(() => {
    /** Louder than this (−26 dBov) is a burst of the microphone's. */
    const LOUD = 0.05;
    /** A burst begins after this much quiet, in ms. */
    const QUIET = 15;
    /** Samples that are loud or quiet together: 1.3 ms. */
    const GRAIN = 64;
    /** Samples that an analyser holds: two thirds of a second. */
    const HELD = 32_768;
    const LOOK_EVERY = 20;
    /** The page's clock and the sound card's drift apart by less than this, in ms between two looks. */
    const DRIFT = 0.004;

    const clock = () => performance.timeOrigin + performance.now();

    class Tap {
        #context;
        #analyser;
        #samples = new Float32Array(HELD);
        #seen = -1;
        #offset = Infinity;

        /** @param {BaseAudioContext} context @param {AudioNode} node */
        constructor(context, node) {
            this.#context = context;
            this.#analyser = new AnalyserNode(context, { fftSize: HELD });
            node.connect(this.#analyser);
            /** When bursts began. @type {number[]} */
            this.begins = [];
            /** When sound was last heard. */
            this.last = 0;
            /** Samples that went by unseen. */
            this.missed = 0;
            setInterval(() => this.look(), LOOK_EVERY);
        }

        look() {
            const { sampleRate: rate, currentTime } = this.#context;
            this.#analyser.getFloatTimeDomainData(this.#samples);
            const end = Math.round(currentTime * rate);
            if (this.#seen < 0 || end <= this.#seen) {
                this.#seen = Math.max(this.#seen, end);
                return;
            }
            // Sound is made in turns of some ms: the least offset is that of a turn that was just made.
            this.#offset = Math.min(this.#offset + DRIFT, clock() - currentTime * 1000);
            this.missed += Math.max(0, end - this.#seen - HELD);
            const from = Math.max(this.#seen, end - HELD);
            for (let at = from; at + GRAIN <= end; at += GRAIN) {
                this.#note(this.#offset + (at * 1000) / rate, HELD - (end - at));
                this.#seen = at + GRAIN;
            }
        }

        /** @param {number} time @param {number} index */
        #note(time, index) {
            if (!this.#samples.subarray(index, index + GRAIN).some((sample) => Math.abs(sample) > LOUD)) {
                return;
            }
            if (time - this.last > QUIET) {
                this.begins.push(time);
            }
            this.last = time + (GRAIN * 1000) / this.#context.sampleRate;
        }
    }

    const measured = { clock, ear: /** @type {Tap | null} */ (null), mouth: /** @type {Tap | null} */ (null) };
    Object.assign(globalThis, { measured });

    const waiting = setInterval(() => {
        const output = /** @type {any} */ (globalThis).stentor.visitor.output;
        if (output) {
            clearInterval(waiting);
            measured.ear = new Tap(output.context, output.player);
        }
    }, 2);

    globalThis.MediaStreamAudioSourceNode = class extends MediaStreamAudioSourceNode {
        /** @param {AudioContext} context @param {MediaStreamAudioSourceOptions} options */
        constructor(context, options) {
            super(context, options);
            measured.mouth = new Tap(context, this);
        }
    };
})();
