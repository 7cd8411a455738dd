// The receive window and the machine that keeps a session, driven by hand. Times are milliseconds.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { limits } from '../../web/wire/limits.js';
import { Listen } from '../../web/session/listen.js';
import { Silence } from '../../web/session/silence.js';
import { SpeechSender } from '../../web/session/speech.js';
import { Window } from '../../web/session/window.js';
import { parseDatagram } from '../../web/wire/datagram.js';
import { closeOf } from '../../web/wire/close.js';
import { beaconBytes, ticksBytes } from './wire.js';

const ROOM = { name: 'hall', id: 7, title: '', public: true, epoch: 1, newest: 0, tick_ms: 20, redundancy: 2 };
const bytes = (/** @type {number} */ seed) => Uint8Array.of(seed);

function liveWindow() {
    const window = new Window(7, 1);
    window.setLive(0, true);
    return window;
}

test('a gap is asked for once passed, again when overdue, then lost', () => {
    const window = liveWindow();
    window.arrive(0, 0, 10, bytes(1));
    window.arrive(40, 0, 12, bytes(2));
    assert.deepEqual(window.pollRequest(40), { feed: 0, request: { room: 7, epoch: 1, first: 11, mask: 1 } });
    assert.equal(window.pollRequest(41), null);
    const again = window.pollTimeout();
    assert.ok(again > 140 && again < 160, `${again}`);
    assert.equal(window.pollRequest(again)?.request.first, 11);
    assert.equal(window.pollRequest(again + 1), null);
    assert.equal(window.pollRequest(340), null);
    assert.equal(window.stats.lost, 1);
    assert.equal(window.contiguous(), 12);
});

test('what the node waits for itself is not asked for', () => {
    const window = liveWindow();
    window.arrive(0, 0, 10, bytes(1));
    window.pending(0, 12, 0b1);
    window.arrive(40, 0, 12, bytes(2));
    assert.equal(window.pollRequest(60), null);
    window.arrive(70, 0, 13, bytes(3));
    window.pending(0, 13, 0);
    assert.equal(window.pollRequest(70)?.request.first, 11);
});

test('copies are dropped by number, and copies that differ are counted', () => {
    const window = liveWindow();
    assert.equal(window.arrive(0, 0, 10, bytes(1)), 'new');
    assert.equal(window.arrive(0, 0, 10, bytes(1)), 'duplicate');
    assert.equal(window.arrive(0, 0, 10, bytes(2)), 'conflict');
});

test('numbers far ahead are refused, and the window is bounded', () => {
    const { TICKS_AHEAD, WINDOW_TICKS } = limits;
    const most = 10 + TICKS_AHEAD;
    const window = liveWindow();
    window.arrive(0, 0, 10, bytes(1));
    assert.equal(window.arrive(0, 0, most + 1, bytes(2)), 'too_far_ahead');
    assert.equal(window.arrive(0, 0, most, bytes(2)), 'new');
    assert.equal(window.arrive(0, 0, most + 1, bytes(2)), 'too_far_ahead', 'the credit is used up');
    assert.equal(window.arrive(15, 0, most + 1, bytes(2)), 'new', 'and refills with time');
    assert.ok(window.missing.size < WINDOW_TICKS && window.have.size <= WINDOW_TICKS);
    assert.equal(window.arrive(20, 0, 11, bytes(1)), 'new', 'honest ticks are not too late');
    assert.equal(window.arrive(600, 0, most + 40, bytes(2)), 'new');
    assert.equal(window.arrive(600, 0, 12, bytes(1)), 'late');
});

test('a beacon reveals the loss of the last tick', () => {
    const window = liveWindow();
    window.beacon(0, 0, { newest: 9, pending: 0 });
    assert.equal(window.pollTimeout(), Infinity, 'before the first tick nothing is missing');
    window.arrive(0, 0, 10, bytes(1));
    window.beacon(40, 0, { newest: 11, pending: 0 });
    assert.equal(window.pollRequest(60)?.request.first, 11);
});

test('two feeds: a gap waits for the slower one, the second request goes to the other', () => {
    const window = liveWindow();
    window.setLive(1, true);
    window.arrive(0, 0, 10, bytes(1));
    window.arrive(1, 1, 10, bytes(1));
    window.arrive(20, 0, 12, bytes(2));
    assert.equal(window.pollRequest(25), null);
    assert.equal(window.pollRequest(30)?.feed, 0);
    assert.equal(window.pollRequest(window.pollTimeout())?.feed, 1);
});

test('the threshold of silence follows the gaps that the path shows', () => {
    const silence = new Silence(0, 20);
    assert.deepEqual([silence.silentAt(), silence.probeAt(), silence.doubtfulAt()], [150, 75, 100]);
    silence.heard(100);
    assert.equal(silence.silentAt(), 300);
    silence.heard(2_100);
    assert.equal(silence.silentAt(), 2_700, 'never above the most that jitter explains');
    for (let at = 2_120; at < 40_000; at += 20) {
        silence.heard(at);
    }
    assert.equal(silence.silentAt(), 39_980 + 150);
    assert.equal(new Silence(0, 60).silentAt(), 230);
});

test('a speaker sends the two frames before each and answers what it keeps', () => {
    const sender = new SpeechSender(3, 160);
    const seqs = (/** @type {Uint8Array | null} */ datagram) => {
        const read = datagram ? parseDatagram(datagram) : null;
        return read?.kind === 'speech' ? read.frames.map(({ seq }) => seq) : null;
    };
    const packet = (size = 80) => ({ level: 20, voice: true, opus: new Uint8Array(size).fill(8) });
    assert.equal(sender.pause(), null, 'who has not spoken does not pause');
    assert.deepEqual([0, 1, 2, 3].map(() => seqs(sender.push(packet()))), [[0], [1, 0], [2, 1, 0], [3, 2, 1]]);
    assert.deepEqual(seqs(sender.answer({ slot: 3, first: 0, mask: 0b1011 })), [3, 1, 0]);
    assert.equal(sender.answer({ slot: 4, first: 0, mask: 1 }), null);
    assert.equal(sender.answer({ slot: 3, first: 900, mask: 1 }), null);
    assert.equal(sender.push(packet(161)), null);
    assert.equal(sender.oversized, 1);
    assert.deepEqual(seqs(sender.pause()), [4, 3, 2]);
    assert.equal(sender.pause(), null, 'a pause has one marker');
});

// --- The machine -----------------------------------------------------------------------------------

const place = (/** @type {string} */ relay) => ({ relay, address: `${relay}:4433` });
const role = (/** @type {string[]} */ ...relays) => ({
    hello: { role: 'listener', room: 'hall' }, entries: relays.map(place), fixed: false,
});

/** @param {string[]} alternates @param {object} [more] @returns {import('../../web/wire/control.js').Welcome} */
const welcome = (alternates = [], more = {}) => ({
    type: 'welcome', version: 1, features: ['probe'], identity: 'x', role: 'listener', room: ROOM,
    alternates: alternates.map(place), pass: 'pass-1', ...more,
});

/** @param {Listen} listen */
function actions(listen) {
    const all = [];
    for (let action = listen.pollAction(); action; action = listen.pollAction()) {
        all.push(action);
    }
    return all;
}

/** A listener on relay `a` that has heard tick 1 at time 0. */
function joined() {
    const listen = new Listen({ role: role('a'), random: () => 0.5 }, 0);
    const [connect] = actions(listen);
    assert.equal(connect.type, 'connect');
    listen.handleMessage(0, 0, welcome(['b', 'c']));
    listen.datagram(0, 0, ticksBytes({ numbers: [1] }));
    assert.deepEqual(actions(listen).map(({ type }) => type), ['arrived']);
    return listen;
}

/** Lets time pass up to `until`; ticks come every 20 ms on the sessions named. @param {Listen} listen @param {number} from @param {number} until @param {number[]} homes */
function pass(listen, from, until, homes = []) {
    const all = [];
    for (let now = from; now <= until; now += 5) {
        if (now % 20 === 0) {
            for (const home of homes) {
                listen.datagram(now, home, ticksBytes({ numbers: [1 + now / 20] }));
            }
        }
        if (listen.pollTimeout() <= now) {
            listen.handleTimeout(now);
        }
        all.push(...actions(listen).map((action) => ({ ...action, at: now })));
    }
    return all;
}

test('a silent session is probed, and left for an alternate with last and pass', () => {
    const listen = joined();
    pass(listen, 20, 200, [0]);
    const silent = pass(listen, 205, 500);
    const probe = silent.find(({ type }) => type === 'send');
    assert.ok(probe && probe.at >= 275 && probe.at <= 280, JSON.stringify(probe));
    const connect = silent.find(({ type }) => type === 'connect');
    assert.ok(connect?.type === 'connect');
    assert.deepEqual([connect.place.relay, connect.hello.last, connect.hello.pass], ['b', [1, 11], 'pass-1']);
    assert.ok(connect.at <= 200 + 100 + 40 + 5, `${connect.at}`);
    listen.handleMessage(505, connect.home, welcome(['a']));
    assert.deepEqual(actions(listen), [], 'before its first datagram it plays nothing');
    const fresh = listen.datagram(510, connect.home, ticksBytes({ numbers: [12, 13], replay: true }));
    assert.deepEqual(fresh.map(({ number }) => number), [12, 13]);
    assert.deepEqual(actions(listen)[0].type, 'arrived');
    assert.equal(listen.current, connect.home);
});

test('a session that is heard again is kept', () => {
    const listen = joined();
    pass(listen, 20, 200, [0]);
    const doubt = pass(listen, 205, 340);
    assert.ok(doubt.some(({ type }) => type === 'connect'));
    listen.datagram(345, 0, beaconBytes({ newest: 11 }));
    assert.deepEqual(actions(listen).map(({ type }) => type), ['leave', 'resumed']);
    assert.equal(listen.current, 0);
});

test('a node that says that its own feeds are silent is not left', () => {
    const listen = joined();
    for (let now = 40; now < 3_000; now += 40) {
        listen.datagram(now, 0, beaconBytes({ newest: 1, silentMs: now }));
        assert.deepEqual(actions(listen), []);
    }
});

test('a lost session is replaced, and refusals make the round go on', () => {
    const listen = joined();
    listen.handleDown(20, 0, closeOf(0x02, 'draining'));
    const tried = pass(listen, 20, 60).filter(({ type }) => type === 'connect');
    assert.equal(tried.length, 1);
    assert.ok(tried[0].type === 'connect');
    listen.handleDown(60, tried[0].home, closeOf(0x40, 'full'));
    const next = actions(listen).find(({ type }) => type === 'connect');
    assert.equal(next?.type === 'connect' && next.place.relay, 'c');
});

test('a close at the listener\'s own fault ends it', () => {
    const listen = joined();
    listen.handleDown(20, 0, closeOf(0x22, 'expired'));
    const [ended] = actions(listen);
    assert.ok(ended.type === 'ended' && ended.close.name === 'token_expired');
    assert.equal(listen.pollTimeout(), Infinity);
});

test('an hour asleep is no silence of the node', () => {
    const listen = joined();
    listen.handleTimeout(3_600_000);
    assert.deepEqual(actions(listen).filter(({ type }) => type !== 'send'), []);
    assert.ok(pass(listen, 3_600_005, 3_600_400).some(({ type }) => type === 'connect'));
});

test('the stage is taken without a break: the origin plays before the relay is left', () => {
    const listen = joined();
    pass(listen, 20, 100, [0]);
    listen.become(100, { hello: { role: 'speaker', room: 'hall', token: 't' }, entries: [place('origin')], fixed: true });
    const [connect] = actions(listen);
    assert.ok(connect.type === 'connect' && connect.place.relay === 'origin' && connect.hello.role === 'speaker');
    assert.deepEqual([connect.hello.last, connect.hello.pass], [[1, 6], undefined]);
    pass(listen, 105, 140, [0]);
    assert.equal(listen.current, 0);
    listen.handleMessage(140, connect.home, welcome([], { slot: 4, role: 'speaker', pass: undefined }));
    listen.datagram(145, connect.home, ticksBytes({ numbers: [8] }));
    const [arrived, leave] = actions(listen);
    assert.ok(arrived.type === 'arrived' && arrived.welcome.slot === 4 && arrived.cause === 'role');
    assert.ok(leave.type === 'leave' && leave.home === 0);
    listen.become(160, role('b'));
    const back = actions(listen).find(({ type }) => type === 'connect');
    assert.ok(back?.type === 'connect' && back.place.relay === 'b' && back.hello.role === 'listener');
});

test('a stage that is refused leaves the listener where it was', () => {
    const listen = joined();
    listen.become(20, { hello: { role: 'speaker', room: 'hall', token: 't' }, entries: [place('origin')], fixed: true });
    const [connect] = actions(listen);
    assert.ok(connect.type === 'connect');
    listen.handleDown(30, connect.home, closeOf(0x22, 'expired'));
    const [refused] = actions(listen);
    assert.ok(refused.type === 'role_refused' && refused.close.name === 'token_expired');
    assert.equal(listen.current, 0);
    assert.deepEqual(pass(listen, 40, 400, [0]).filter(({ type }) => type !== 'send'), []);
});

test('who is told to wait keeps its ticket and comes when told', () => {
    const listen = new Listen({ role: role('a'), random: () => 0 }, 0);
    actions(listen);
    listen.handleMessage(10, 0, { type: 'waiting', ticket: 't1', place: 1204, waiting: 5000, retry_ms: 2000, arrival_ms: 1 });
    const told = actions(listen);
    assert.deepEqual(told.map(({ type }) => type), ['leave', 'waiting']);
    assert.deepEqual(pass(listen, 15, 2_000), []);
    const [again] = pass(listen, 2_005, 2_020);
    assert.ok(again.type === 'connect' && again.hello.ticket === 't1' && again.place.relay === 'a');
    listen.handleDown(2_015, again.home, closeOf(0x27, 'expired'));
    const [newcomer] = actions(listen);
    assert.ok(newcomer.type === 'connect' && newcomer.hello.ticket === undefined && newcomer.place.relay === 'a');
    listen.handleMessage(2_020, newcomer.home, { type: 'redirect', relays: [place('d')], ticket: 't2' });
    const next = actions(listen).find(({ type }) => type === 'connect');
    assert.ok(next?.type === 'connect' && next.hello.ticket === 't2' && next.place.relay === 'd');
});

test('another epoch needs the room\'s word', () => {
    const listen = joined();
    assert.deepEqual(listen.datagram(20, 0, ticksBytes({ numbers: [5], epoch: 2 })), []);
    listen.handleMessage(20, 0, { type: 'subscribed', ...ROOM, epoch: 2 });
    assert.equal(listen.datagram(20, 0, ticksBytes({ numbers: [5], epoch: 2 })).length, 1);
    assert.equal(listen.reception?.stats().received, 2);
});
