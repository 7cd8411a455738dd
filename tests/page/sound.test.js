// Jitter buffer, concealment, order of decoding and the mix. Times are milliseconds.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Concealer } from '../../web/sound/conceal.js';
import { DelayEstimator } from '../../web/sound/delay.js';
import { JitterBuffer } from '../../web/sound/jitter.js';
import { Activity, dbov, rms } from '../../web/sound/level.js';
import { Limiter } from '../../web/sound/limiter.js';
import { Mixer } from '../../web/sound/mixer.js';
import { Sequencer } from '../../web/sound/sequencer.js';
import { BLOCK, RATE } from '../../web/wire/limits.js';

/** Frame `index` of a sine. @param {number} index */
function sine(index, hertz = 440, amplitude = 0.5) {
    return Float32Array.from({ length: BLOCK }, (_, i) =>
        amplitude * Math.sin((2 * Math.PI * hertz * (index * BLOCK + i)) / RATE));
}

/** The largest step from one sample to the next. @param {Float32Array | number[]} sound */
function steepest(sound) {
    let most = 0;
    for (let i = 1; i < sound.length; i++) {
        most = Math.max(most, Math.abs(sound[i] - sound[i - 1]));
    }
    return most;
}

/** A number between 0 and 1, the same in every run. @param {number} seed */
function randomFrom(seed) {
    let state = seed;
    return () => (state = (state * 48271) % 2147483647) / 2147483647;
}

/** Cycles a second, by the crossings of zero. @param {number[]} sound */
function frequency(sound) {
    let crossings = 0;
    for (let i = 1; i < sound.length; i++) {
        crossings += Number(sound[i - 1] < 0 && sound[i] >= 0);
    }
    return (crossings * RATE) / sound.length;
}

/**
 * Plays a speaker's tone through a mixer: frame i arrives at `arrival(i)`, or never (null).
 * @param {number} count
 * @param {(index: number) => number | null} arrival
 */
function play(count, arrival) {
    const mixer = new Mixer(60);
    const due = Array.from({ length: count }, (_, seq) => ({ seq, at: arrival(seq) }))
        .filter(({ at }) => at !== null)
        .sort((a, b) => Number(a.at) - Number(b.at));
    /** @type {number[]} */
    const heard = [];
    for (let now = 0; now < count * 20; now += 20) {
        while (due.length > 0 && Number(due[0].at) <= now) {
            const { seq, at } = /** @type {{seq: number, at: number}} */ (due.shift());
            mixer.push(at, 3, { seq, clock: 1e12 + seq * 20, pcm: sine(seq) });
        }
        heard.push(...mixer.pull(now));
    }
    return { heard, mixer };
}

test('a steady tone is played as it is', () => {
    const { heard, mixer } = play(100, (i) => i * 20 + 30);
    const steady = heard.slice(RATE / 2);
    assert.ok(Math.abs(frequency(steady) - 440) < 3, `${frequency(steady)}`);
    assert.ok(steepest(heard) < 0.035, `${steepest(heard)}`);
    assert.equal(mixer.stats().concealedMs, 0);
});

test('a fifth of the frames missing is concealed without clicks', () => {
    const random = randomFrom(7);
    const { heard, mixer } = play(500, (i) => (i > 20 && random() < 0.2 ? null : i * 20 + 30));
    const part = heard.slice(RATE / 2, 9 * RATE);
    // The tone's own steepest step is 0.0288; a click would be many times that.
    assert.ok(steepest(part) < 0.06, `${steepest(part)}`);
    assert.ok(Math.abs(frequency(part) - 440) < 12, `${frequency(part)}`);
    assert.ok(mixer.stats().concealedMs > 1_000);
    // Gaps are filled; what is missing for long fades, as it must.
    let quiet = 0;
    for (let at = 0; at < part.length; at += 240) {
        quiet += Number(rms(Float32Array.from(part.slice(at, at + 240))) < 0.1);
    }
    assert.ok(quiet < (0.03 * part.length) / 240, `${quiet} quiet stretches`);
});

test('what does not come back fades out', () => {
    const { heard } = play(100, (i) => (i > 50 ? null : i * 20));
    assert.ok(rms(Float32Array.from(heard.slice(-RATE / 2))) < 1e-6);
    assert.ok(steepest(heard) < 0.06, `${steepest(heard)}`);
});

test('concealment joins what was played and what comes without a step', () => {
    for (const hertz of [100, 180, 440, 1000]) {
        for (let lost = 1; lost <= 4; lost++) {
            const concealer = new Concealer();
            const heard = [];
            for (let i = 0; i < 12; i++) {
                if (i >= 6 && i < 6 + lost) {
                    heard.push(...concealer.conceal());
                } else {
                    const block = sine(i, hertz);
                    concealer.play(block);
                    heard.push(...block);
                }
            }
            const own = (0.5 * 2 * Math.PI * hertz) / RATE;
            assert.ok(steepest(heard) < own * 1.8 + 0.005, `${hertz} Hz, ${lost} lost: ${steepest(heard)} of ${own}`);
        }
    }
});

test('the target covers the variation and shrinks slowly', () => {
    const estimator = new DelayEstimator(100);
    const feed = (/** @type {number} */ from, /** @type {number} */ count, jitter = (/** @type {number} */ _) => 0) => {
        for (let i = from; i < from + count; i++) {
            estimator.arrived(5_000 + i * 20 + jitter(i), i * 20);
        }
    };
    feed(0, 3_000);
    assert.ok(estimator.target <= 25, `${estimator.target}`);
    feed(3_000, 100, (i) => (i * 7_919) % 60);
    assert.ok(estimator.target >= 55 && estimator.target < 75, `${estimator.target}`);
    feed(3_100, 100);
    assert.ok(estimator.target > 45);
    estimator.late(5_000 + 3_200 * 20 + 200, 3_200 * 20);
    assert.ok(estimator.target >= 200, 'a late frame grows it at once');
    estimator.late(1e9, 0);
    assert.ok(estimator.target <= 400, 'within its bound');
});

test('frames that come late, twice, out of order and from another count', () => {
    const buffer = new JitterBuffer(40);
    const push = (/** @type {number} */ now, /** @type {number} */ seq) =>
        buffer.push(now, { seq, clock: seq * 20, pcm: sine(seq) });
    push(0, 0);
    push(41, 2);
    push(42, 1);
    push(43, 2);
    assert.equal(buffer.stats.duplicate, 1);
    const kinds = [45, 65, 85, 105].map((at) => buffer.pop(at).kind);
    assert.deepEqual(kinds, ['frame', 'frame', 'frame', 'conceal']);
    push(110, 3);
    assert.equal(buffer.pop(125).kind, 'frame');
    push(150, 3);
    assert.equal(buffer.stats.duplicate, 2);
    for (let i = 0; i < 12; i++) {
        push(160 + i * 20, 2 ** 31 + i);
    }
    assert.equal(buffer.stats.resets, 1);
});

test('a pause is no loss', () => {
    const buffer = new JitterBuffer(40);
    for (let seq = 0; seq < 5; seq++) {
        buffer.push(seq * 20, { seq, clock: seq * 20, pcm: seq === 4 ? null : sine(seq) });
    }
    const kinds = Array.from({ length: 12 }, (_, i) => buffer.pop(40 + i * 20).kind);
    assert.deepEqual(kinds.slice(5), new Array(7).fill('silence'));
    assert.equal(buffer.stats.concealed, 0);
    buffer.push(1_000, { seq: 5, clock: 1_000, pcm: sine(5) });
    assert.equal(buffer.pop(1_002).kind, 'silence', 'another spurt waits for its time');
    assert.equal(buffer.pop(1_062).kind, 'frame');
});

test('the buffer is bounded', () => {
    const buffer = new JitterBuffer(40);
    for (let seq = 0; seq < 60_000; seq += 60) {
        buffer.push(0, { seq, clock: seq * 20, pcm: sine(0) });
    }
    assert.ok(buffer.stats.skipped >= 900);
});

test('packets are decoded in order; a gap is waited for while there is time', () => {
    const sequencer = new Sequencer();
    const packet = (/** @type {number} */ seq) =>
        ({ seq, level: 0, voice: true, opus: new Uint8Array(9), clock: seq * 20, arrived: 0 });
    const poll = (/** @type {number} */ now) => sequencer.poll(now, 100, 60)?.seq ?? null;
    sequencer.push(packet(1));
    assert.equal(poll(120), 1);
    sequencer.push(packet(3));
    assert.equal(poll(160), null, 'the second may still come');
    sequencer.push(packet(2));
    assert.deepEqual([poll(165), poll(165), poll(165)], [2, 3, null]);
    sequencer.push(packet(5));
    assert.equal(sequencer.pollTimeout(100, 60), 230);
    assert.deepEqual([poll(229), poll(230)], [null, 5]);
    assert.equal(sequencer.push(packet(4)), false, 'too late');
    assert.equal(sequencer.late, 1);
    assert.equal(sequencer.push(packet(2 ** 32 - 1)), false);
    assert.equal(sequencer.push(packet(900)), true, 'another count');
    assert.equal(poll(0), 900);
});

test('the mix stays within full scale and passes what is not too loud', () => {
    const limiter = new Limiter();
    const quiet = sine(0, 440, 0.94);
    const same = Float32Array.from(quiet);
    limiter.apply(same);
    assert.deepEqual(same, quiet);
    for (let i = 0; i < 100; i++) {
        const block = sine(i, 440, i < 10 ? 3 : 0.5);
        limiter.apply(block);
        assert.ok(block.every((sample) => Math.abs(sample) <= 1));
    }
});

test('the listener\'s own slot is left out, and garbage does not reach the mix', () => {
    const mixer = new Mixer(20);
    mixer.own = 3;
    for (let seq = 0; seq < 10; seq++) {
        mixer.push(seq * 20, 3, { seq, clock: seq * 20, pcm: sine(seq) });
        mixer.push(seq * 20, 4, { seq, clock: seq * 20, pcm: new Float32Array(BLOCK).fill(NaN) });
    }
    for (let i = 0; i < 10; i++) {
        assert.equal(rms(mixer.pull(40 + i * 20)), 0);
    }
});

test('levels are those of RFC 6464', () => {
    assert.deepEqual([0, 1, 9, 0.1].map((value) => dbov(new Float32Array(BLOCK).fill(value))), [127, 0, 0, 20]);
    const activity = new Activity();
    for (let i = 0; i < 50; i++) {
        assert.equal(activity.push(70), false);
    }
    assert.equal(activity.push(30), true);
    assert.equal(activity.push(70), true, 'a gap between words is part of the voice');
});
