// What is played, measured at the worklet's output: `hear()` of the last 0.7 s, `follow()` from here on.

/** A node behind the worklet; another one once the page has opened another output. */
function ear(fftSize) {
    const { output } = globalThis.stentor.visitor;
    if (!output) {
        return null;
    }
    const ears = (output.ears ??= new Map());
    if (!ears.has(fftSize)) {
        const node = new AnalyserNode(output.context, { fftSize, smoothingTimeConstant: 0 });
        output.player.connect(node);
        ears.set(fftSize, node);
    }
    return ears.get(fftSize);
}

function rms(node) {
    const samples = new Float32Array(node.fftSize);
    node.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
}

/** Loudness (dB below full scale) and the frequency that stands out. */
globalThis.hear = () => {
    const node = ear(32768);
    if (!node) {
        return { level: -200, hertz: 0 };
    }
    const bins = new Float32Array(node.frequencyBinCount);
    node.getFloatFrequencyData(bins);
    let loudest = 1;
    for (let i = 1; i < bins.length; i++) {
        loudest = bins[i] > bins[loudest] ? i : loudest;
    }
    const level = 20 * Math.log10(Math.max(rms(node), 1e-10));
    return { level, hertz: (loudest * node.context.sampleRate) / node.fftSize };
};

/** Notes every 20 ms whether there is sound, and since when the page says what it says. */
globalThis.follow = () => {
    const told = (globalThis.told = []);
    const trace = (globalThis.trace = []);
    clearInterval(globalThis.following);
    let last = '';
    globalThis.following = setInterval(() => {
        const node = ear(2048);
        trace.push([Date.now(), node ? rms(node) > 0.001 : false]);
        const status = document.querySelector('.join .status')?.textContent ?? '';
        if (status !== last) {
            last = status;
            told.push([Date.now(), status]);
        }
    }, 20);
    return Date.now();
};

/** Of the trace: the longest silence between two sounds, and when sound was heard last (ms). */
globalThis.heard = () => {
    let longest = 0;
    let began = null;
    let last = 0;
    let any = false;
    for (const [at, sound] of globalThis.trace) {
        if (sound) {
            longest = Math.max(longest, any && began !== null ? at - began : 0);
            [began, last, any] = [null, at, true];
        } else {
            began ??= at;
        }
    }
    return { longest, last, any };
};
