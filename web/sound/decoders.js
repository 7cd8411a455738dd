// The speakers' packets on their way to the worklet: in order, decoded by WebCodecs, one decoder a
// speaker. What one speaker sends never stops another.

import { BLOCK, RATE, VOICES, VOICE_LINGER, limits } from '../wire/limits.js';
import { framesOf } from '../wire/tick.js';
import { isOpus20Ms } from '../wire/opus.js';
import { Sequencer } from './sequencer.js';

/** @typedef {import('./sequencer.js').Packet} Packet */
/** @typedef {import('./mixer.js').ToWorklet} ToWorklet */
/**
 * @typedef {{sequencer: Sequencer, decoder: AudioDecoder | null, heard: number, index: number,
 *     under: Map<number, Packet>, target: number, level: number, voice: boolean}} Speaker
 */

/** What a packet lasts, in µs. */
const FRAME_US = 20_000;
/** Packets that a decoder has not answered for: half a second. */
const UNDER_WAY = 25;
/** The least arrival is looked for among those of so long, in ms. */
const EARLIEST_SPAN = 5_000;

export class Decoders {
    /** @type {Map<number, Speaker>} */
    #speakers = new Map();
    /** The least of arrival less clock, of the present and the former span. */
    #earliest = [Infinity, Infinity];
    #turned = 0;

    /**
     * @param {{send: (message: ToWorklet) => void, now: () => number,
     *     makeDecoder: (init: AudioDecoderInit) => AudioDecoder, start: number}} shell
     */
    constructor({ send, now, makeDecoder, start }) {
        this.send = send;
        this.now = now;
        this.makeDecoder = makeDecoder;
        this.start = start;
        /** The listener's own slot, which is not decoded. @type {number | null} */
        this.own = null;
        this.stats = { decoded: 0, malformed: 0, decoderErrors: 0, overrun: 0, late: 0 };
    }

    /** Takes a tick that arrived at `now`. @param {number} now @param {import('../wire/tick.js').Record} record */
    push(now, record) {
        const clock = record.clockUs / 1000;
        this.#noteArrival(now, clock);
        let frames;
        try {
            frames = framesOf(record.payload);
        } catch {
            this.stats.malformed += 1;
            return;
        }
        for (const frame of frames) {
            if (frame.slot === this.own) {
                continue;
            }
            const speaker = this.#speaker(now, frame.slot);
            speaker.heard = now;
            speaker.level = frame.level;
            speaker.voice = frame.voice;
            if (!speaker.sequencer.push({ ...frame, clock, arrived: now })) {
                this.stats.late += 1;
                this.send({ type: 'late', slot: frame.slot, seq: frame.seq, clock });
            }
        }
        this.poll(now);
    }

    /** Decodes whatever's turn it is. @param {number} now */
    poll(now) {
        const earliest = Math.min(...this.#earliest);
        for (const [slot, speaker] of this.#speakers) {
            for (;;) {
                const packet = speaker.sequencer.poll(now, earliest, speaker.target);
                if (!packet) {
                    break;
                }
                this.#decode(slot, speaker, packet);
            }
            if (now - speaker.heard > VOICE_LINGER) {
                this.#remove(slot, speaker);
            }
        }
    }

    /** When `poll` is to be called again. */
    pollTimeout() {
        const earliest = Math.min(...this.#earliest);
        const due = [...this.#speakers.values()]
            .map(({ sequencer, target }) => sequencer.pollTimeout(earliest, target));
        return Math.min(Infinity, ...due);
    }

    /** How long the worklet holds each speaker's frames. @param {[number, number][]} targets */
    setTargets(targets) {
        for (const [slot, target] of targets) {
            const speaker = this.#speakers.get(slot);
            if (speaker) {
                speaker.target = target;
            }
        }
    }

    /** Who was heard within the last `ms`, with level and voice flag. @param {number} now @param {number} ms */
    speaking(now, ms) {
        return [...this.#speakers].filter(([, speaker]) => now - speaker.heard <= ms)
            .map(([slot, { level, voice }]) => ({ slot, level, voice }));
    }

    /** Forgets all speakers: another epoch has begun. */
    clear() {
        for (const [slot, speaker] of this.#speakers) {
            this.#remove(slot, speaker);
        }
        this.#earliest = [Infinity, Infinity];
    }

    /** @param {number} now @param {number} clock */
    #noteArrival(now, clock) {
        if (now - this.#turned > EARLIEST_SPAN) {
            this.#earliest = [Infinity, this.#earliest[0]];
            this.#turned = now;
        }
        this.#earliest[0] = Math.min(this.#earliest[0], now - clock);
    }

    /** @param {number} now @param {number} slot @returns {Speaker} */
    #speaker(now, slot) {
        const known = this.#speakers.get(slot);
        if (known) {
            return known;
        }
        if (this.#speakers.size >= VOICES) {
            const [longest] = [...this.#speakers].sort(([, a], [, b]) => a.heard - b.heard);
            this.#remove(...longest);
        }
        const speaker = {
            sequencer: new Sequencer(), decoder: null, heard: now, index: 0,
            under: new Map(), target: this.start, level: 127, voice: false,
        };
        this.#speakers.set(slot, speaker);
        return speaker;
    }

    /** @param {number} slot @param {Speaker} speaker */
    #remove(slot, speaker) {
        this.#speakers.delete(slot);
        if (speaker.decoder && speaker.decoder.state !== 'closed') {
            speaker.decoder.close();
        }
    }

    /** @param {number} slot @param {Speaker} speaker @param {Packet} packet */
    #decode(slot, speaker, packet) {
        if (packet.opus.length <= limits.PAUSE_BYTES) {
            this.#deliver(slot, packet, null);
            return;
        }
        // A malformed packet would close the decoder.
        if (!isOpus20Ms(packet.opus)) {
            this.stats.malformed += 1;
            return;
        }
        const decoder = this.#decoder(slot, speaker);
        if (decoder.decodeQueueSize >= UNDER_WAY) {
            this.stats.overrun += 1;
            return;
        }
        const index = ++speaker.index;
        speaker.under.set(index, packet);
        decoder.decode(new EncodedAudioChunk({
            type: 'key', timestamp: index * FRAME_US, duration: FRAME_US, data: packet.opus,
        }));
    }

    /** The speaker's decoder; another one if it has broken. @param {number} slot @param {Speaker} speaker */
    #decoder(slot, speaker) {
        if (speaker.decoder && speaker.decoder.state === 'configured') {
            return speaker.decoder;
        }
        speaker.under.clear();
        const decoder = this.makeDecoder({
            output: (data) => this.#decoded(slot, speaker, decoder, data),
            error: () => {
                this.stats.decoderErrors += 1;
                if (speaker.decoder === decoder) {
                    speaker.decoder = null;
                }
            },
        });
        decoder.configure({ codec: 'opus', sampleRate: RATE, numberOfChannels: 1 });
        speaker.decoder = decoder;
        return decoder;
    }

    /** @param {number} slot @param {Speaker} speaker @param {AudioDecoder} decoder @param {AudioData} data */
    #decoded(slot, speaker, decoder, data) {
        // Browsers count in fractions of seconds: a timestamp comes back some microseconds off.
        const index = Math.round(data.timestamp / FRAME_US);
        const packet = speaker.under.get(index);
        // A packet that a decoder has passed over in silence has no output.
        for (const older of speaker.under.keys()) {
            if (older <= index) {
                speaker.under.delete(older);
            }
        }
        if (packet && speaker.decoder === decoder) {
            const pcm = new Float32Array(BLOCK);
            const frameCount = Math.min(BLOCK, data.numberOfFrames);
            const whole = pcm.subarray(0, frameCount);
            data.copyTo(whole, { planeIndex: 0, format: 'f32-planar', frameCount });
            this.stats.decoded += 1;
            this.#deliver(slot, packet, pcm);
        }
        data.close();
    }

    /** @param {number} slot @param {Packet} packet @param {Float32Array<ArrayBuffer> | null} pcm */
    #deliver(slot, { seq, clock, arrived }, pcm) {
        const age = this.now() - arrived;
        this.send({ type: 'frame', slot, seq, clock, age, pcm });
    }
}
