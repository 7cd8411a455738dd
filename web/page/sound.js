// The audio graph: the worklet's player into the loudspeaker, the microphone into the worklet.

import { RATE } from '../wire/limits.js';

const assets = new URL('..', import.meta.url);

/** Sound going out. Made by a press of a button: browsers play nothing before. */
export class Output {
    /** @param {AudioContext} context @param {AudioWorkletNode} player @param {GainNode} gain */
    constructor(context, player, gain) {
        this.context = context;
        this.player = player;
        this.gain = gain;
    }

    /** @param {number} volume @param {(time: number) => void} sounded the first sound has been played */
    static async open(volume, sounded) {
        const context = new AudioContext({ sampleRate: RATE, latencyHint: 'interactive' });
        const resumed = context.resume();
        await context.audioWorklet.addModule(new URL('worklet.js', assets));
        const player = new AudioWorkletNode(context, 'stentor-player', {
            numberOfInputs: 0, outputChannelCount: [1],
        });
        const gain = new GainNode(context, { gain: loudness(volume) });
        player.connect(gain).connect(context.destination);
        player.port.onmessage = ({ data }) => {
            if (data.type === 'sound') {
                sounded(data.time);
            }
        };
        await resumed;
        return new Output(context, player, gain);
    }

    /** Lets the player hear of a worker by this port. @param {MessagePort} port */
    attach(port) {
        this.player.port.postMessage({ worker: port }, [port]);
    }

    /** @param {number} volume */
    setVolume(volume) {
        this.gain.gain.setTargetAtTime(loudness(volume), this.context.currentTime, 0.03);
    }

    close() {
        return this.context.close();
    }
}

/** A slider's place as a gain: ears hear ratios. @param {number} volume */
function loudness(volume) {
    return volume * volume;
}

/** A microphone, its level, and its way to the worker. */
export class Input {
    #stream;
    #source;
    #node;

    /** @param {MediaStream} stream @param {MediaStreamAudioSourceNode} source @param {AudioWorkletNode} node */
    constructor(stream, source, node) {
        this.#stream = stream;
        this.#source = source;
        this.#node = node;
    }

    /**
     * Asks for the microphone.
     * @param {Output} output
     * @param {string} device its id, or '' for the system's choice
     * @param {{level: (level: number) => void, ended: () => void}} handlers
     */
    static async open({ context }, device, { level, ended }) {
        const stream = await navigator.mediaDevices.getUserMedia({
            audio: {
                echoCancellation: true, noiseSuppression: true, autoGainControl: true,
                channelCount: 1, ...(device ? { deviceId: { exact: device } } : {}),
            },
        });
        const source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
        const node = new AudioWorkletNode(context, 'stentor-microphone', {
            channelCount: 1, channelCountMode: 'explicit', outputChannelCount: [1],
        });
        // A node that leads nowhere is not run; this one's output is silent.
        source.connect(node).connect(context.destination);
        node.port.onmessage = ({ data }) => level(data.level);
        stream.getAudioTracks()[0].addEventListener('ended', ended);
        return new Input(stream, source, node);
    }

    /** Sends blocks of sound by this port. @param {MessagePort} port */
    attach(port) {
        this.#node.port.postMessage({ worker: port }, [port]);
    }

    close() {
        this.#source.disconnect();
        this.#node.disconnect();
        this.#node.port.postMessage({ worker: null });
        this.#stream.getTracks().forEach((track) => track.stop());
    }
}

/** The microphones that there are; they have names once one has been allowed. */
export async function microphones() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter(({ kind, deviceId }) => kind === 'audioinput' && deviceId !== 'default')
        .map(({ deviceId, label }, index) => ({ id: deviceId, label: label || `${index + 1}` }));
}
