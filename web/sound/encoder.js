// The microphone's way to the wire: blocks of 20 ms become Opus packets with their level.

import { BLOCK, RATE } from '../wire/limits.js';
import { Activity, dbov } from './level.js';

/** Bits a second by what a frame may hold: the voice profile (160 bytes) and the music profile. */
const VOICE_BITS = 24_000;
const MUSIC_BITS = 96_000;
const MUSIC_FRAME_BYTES = 480;
/** Blocks without a packet after which a pause has begun (the encoder leaves pauses out, DTX). */
const PAUSE_AFTER = 4;
/** Blocks that the encoder has not answered for; more are dropped. */
const UNDER_WAY = 25;

/** @typedef {{level: number, voice: boolean, opus: Uint8Array}} Packet */

export class Encoder {
    #activity = new Activity();
    /** @type {AudioEncoder | null} */
    #encoder = null;
    #timestamp = 0;
    /** What is known of blocks whose packets are yet to come. @type {Map<number, {level: number, voice: boolean}>} */
    #under = new Map();

    /**
     * @param {{packet: (packet: Packet) => void, pause: () => void, frameBytes: number,
     *     makeEncoder: (init: AudioEncoderInit) => AudioEncoder}} shell `pause` is called when the
     *     encoder has nothing more to say, again and again
     */
    constructor({ packet, pause, frameBytes, makeEncoder }) {
        this.packet = packet;
        this.pause = pause;
        this.bitrate = frameBytes >= MUSIC_FRAME_BYTES ? MUSIC_BITS : VOICE_BITS;
        this.makeEncoder = makeEncoder;
        this.stats = { blocks: 0, packets: 0, encoderErrors: 0, overrun: 0 };
    }

    /**
     * Takes the next 20 ms of the microphone.
     * @param {Float32Array<ArrayBuffer>} block
     */
    push(block) {
        this.stats.blocks += 1;
        for (let i = 0; i < block.length; i++) {
            block[i] = Number.isFinite(block[i]) ? block[i] : 0;
        }
        const level = dbov(block);
        const voice = this.#activity.push(level);
        if (this.#under.size >= UNDER_WAY) {
            const silent = [...this.#under.keys()].filter((at) => at < this.#timestamp - UNDER_WAY * 10_000);
            silent.forEach((at) => this.#under.delete(at));
        }
        const encoder = this.#ready();
        if (encoder.encodeQueueSize >= UNDER_WAY) {
            this.stats.overrun += 1;
            return;
        }
        this.#timestamp += 20_000;
        this.#under.set(this.#timestamp, { level, voice });
        const data = new AudioData({
            format: 'f32-planar', sampleRate: RATE, numberOfFrames: BLOCK, numberOfChannels: 1,
            timestamp: this.#timestamp, data: block,
        });
        encoder.encode(data);
        data.close();
        if (encoder.encodeQueueSize <= 1 && this.#under.size > PAUSE_AFTER) {
            this.pause();
        }
    }

    close() {
        if (this.#encoder && this.#encoder.state !== 'closed') {
            this.#encoder.close();
        }
        this.#encoder = null;
    }

    #ready() {
        if (this.#encoder && this.#encoder.state === 'configured') {
            return this.#encoder;
        }
        this.#under.clear();
        const encoder = this.makeEncoder({
            output: (chunk) => this.#encoded(chunk),
            error: () => {
                this.stats.encoderErrors += 1;
                if (this.#encoder === encoder) {
                    this.#encoder = null;
                }
            },
        });
        const opus = {
            frameDuration: 20_000, application: 'voip', signal: 'voice', usedtx: true,
            useinbandfec: true, packetlossperc: 5,
        };
        const config = { codec: 'opus', sampleRate: RATE, numberOfChannels: 1, bitrate: this.bitrate };
        encoder.configure(/** @type {AudioEncoderConfig} */ ({ ...config, opus }));
        this.#encoder = encoder;
        return encoder;
    }

    /** @param {EncodedAudioChunk} chunk */
    #encoded(chunk) {
        // Encoders may shift timestamps by their delay: the block is the last that began before.
        let known = { level: 127, voice: false };
        for (const [timestamp, of] of this.#under) {
            if (timestamp <= chunk.timestamp + 10_000) {
                known = of;
                this.#under.delete(timestamp);
            }
        }
        const opus = new Uint8Array(chunk.byteLength);
        chunk.copyTo(opus);
        this.stats.packets += 1;
        this.packet({ ...known, opus });
    }
}
