// A visit against an API and nodes of its own making: joining, waiting, coming back, the stage.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Api, Problem, claimsOf } from '../../web/api.js';
import { closeOf } from '../../web/wire/close.js';
import { Visit } from '../../web/session/visit.js';
import { ticksBytes } from './wire.js';

const ROOM = { name: 'hall', id: 7, title: 'Hall', public: true, epoch: 1, newest: 0, tick_ms: 20, redundancy: 2 };
const RELAY = { relay: 'a', address: 'a:1' };
const ORIGIN = { relay: 'origin', address: 'o:1' };

/** An unsigned token: only its claims count here. @param {object} claims */
const token = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`;
const LISTENER = token({ role: 'listener', sub: 'x' });

/** A visit whose clock stands still until `pass`. @param {(path: string, body: any, auth: string | null) => [number, object]} answer @param {string | null} [bearer] */
function world(answer, bearer = null) {
    let now = 0;
    /** @type {{at: number, task: () => void, id: number}[]} */
    let timers = [];
    /** @type {any[]} */
    const news = [];
    /** @type {{place: any, hello: any, handlers: any, sent: any[], left: boolean}[]} */
    const links = [];
    const heard = { ticks: 0, slots: /** @type {(number | null)[]} */ ([]) };
    const api = new Api('', bearer, async (url, init) => {
        const [status, body] = answer(String(url), JSON.parse(String(init?.body)), new Headers(init?.headers).get('Authorization'));
        return new Response(JSON.stringify(body), { status });
    });
    const visit = new Visit({
        now: () => now, random: () => 0, tell: (told) => news.push(told), api,
        open: (place, hello, handlers) => {
            const link = { place, hello, handlers, sent: /** @type {any[]} */ ([]), left: false };
            links.push(link);
            return {
                message: (message) => link.sent.push(message),
                datagram: (bytes) => link.sent.push(bytes),
                leave: () => (link.left = true),
            };
        },
        setTimer: (task, ms) => {
            const id = timers.length === 0 ? 1 : Math.max(...timers.map((timer) => timer.id)) + 1;
            timers.push({ at: now + ms, task, id });
            return id;
        },
        clearTimer: (id) => (timers = timers.filter((timer) => timer.id !== id)),
        tick: () => (heard.ticks += 1),
        epoch: () => {},
        slot: (slot) => heard.slots.push(slot),
    }, { room: 'hall' });
    const settle = () => new Promise((resolve) => setImmediate(resolve));
    return {
        visit, news, links, heard, settle,
        phases: () => news.filter(({ type }) => type === 'state').map(({ state }) => state.phase),
        async pass(/** @type {number} */ ms) {
            const until = now + ms;
            for (;;) {
                const [next] = timers.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
                if (!next) {
                    break;
                }
                now = Math.max(now, next.at);
                timers = timers.filter((timer) => timer !== next);
                next.task();
                await settle();
            }
            now = until;
        },
        welcome(/** @type {number} */ index, more = {}) {
            links[index].handlers.message({
                type: 'welcome', version: 1, features: [], identity: 'x', role: 'listener', room: ROOM,
                alternates: [], ...more,
            });
        },
    };
}

const joined = () => /** @type {[number, object]} */ ([200, { identity: 'x', token: LISTENER, relays: [RELAY], origin: ORIGIN }]);

test('joins by the API, then says hello to the relay with the token', async () => {
    const w = world(joined);
    w.visit.start();
    await w.settle();
    assert.deepEqual([w.links[0].place, w.links[0].hello.token, w.links[0].hello.role], [RELAY, LISTENER, 'listener']);
    w.welcome(0);
    w.links[0].handlers.datagram(ticksBytes({ numbers: [1, 2] }));
    assert.equal(w.heard.ticks, 2);
    assert.deepEqual(w.phases(), ['joining', 'connecting', 'live']);
    w.visit.stop();
    assert.ok(w.links[0].left);
});

test('waits with its ticket, and says place and time', async () => {
    /** @type {any[]} */
    const asked = [];
    const w = world((_, body) => {
        asked.push(body);
        return asked.length < 3
            ? [202, { waiting: { ticket: `t${asked.length}`, place: 900, waiting: 5000, retry_ms: 1000, arrival_ms: 1 } }]
            : joined();
    });
    w.visit.start();
    await w.settle();
    assert.deepEqual(w.news.at(-1).state, { phase: 'waiting', place: 900, waiting: 5000, retryMs: 1000, etaMs: null });
    await w.pass(3_000);
    assert.deepEqual(asked.map(({ ticket }) => ticket), [undefined, 't1', 't2']);
    assert.equal(w.links.length, 1);
});

test('an API that is down or busy is asked again, more and more rarely', async () => {
    let asked = 0;
    const w = world(() => {
        asked += 1;
        return asked < 5 ? [503, { code: 'busy', title: 'Busy' }] : joined();
    });
    w.visit.start();
    await w.settle();
    await w.pass(500);
    assert.equal(asked, 2);
    await w.pass(20_000);
    assert.ok(asked >= 5);
    assert.ok(w.links.length > 0);
});

test('a refusal is told and not repeated', async () => {
    let asked = 0;
    const w = world(() => {
        asked += 1;
        return [403, { code: 'banned', title: 'You are banned from this room.' }];
    });
    w.visit.start();
    await w.settle();
    await w.pass(60_000);
    assert.equal(asked, 1);
    assert.deepEqual(w.news.at(-1).state, { phase: 'ended', name: 'banned', reason: 'You are banned from this room.' });
});

test('an expired token and a sleep of an hour end in a new join', async () => {
    let asked = 0;
    const w = world((_, __, auth) => {
        asked += 1;
        return asked === 2 && auth ? [401, { code: 'token_expired' }] : joined();
    });
    w.visit.start();
    await w.settle();
    w.welcome(0);
    w.links[0].handlers.down(closeOf(0x22, 'expired'));
    await w.pass(2_000);
    assert.equal(asked, 3, 'with the old token first, then as a newcomer');
    w.welcome(1);
    assert.equal(w.phases().at(-1), 'live');
});

test('whoever is replaced, removed or banned stays out', async () => {
    for (const code of [0x01, 0x03, 0x2c, 0x2d]) {
        const w = world(joined);
        w.visit.start();
        await w.settle();
        w.welcome(0);
        w.links[0].handlers.down(closeOf(code, 'why'));
        await w.pass(60_000);
        assert.equal(w.links.length, 1);
        const { name } = closeOf(code, '');
        assert.deepEqual(w.news.at(-1).state, { phase: 'ended', name, reason: 'why' });
    }
});

test('a locked room takes no newcomer, and is not asked again and again', async () => {
    const w = world(joined);
    w.visit.start();
    await w.settle();
    w.links[0].handlers.down(closeOf(0x32, 'locked'));
    await w.pass(60_000);
    assert.equal(w.links.length, 1);
    assert.equal(w.news.at(-1).state.name, 'room_locked');
});

test('whom the host takes from the stage goes on listening, with the pass of before', async () => {
    const stage = token({ role: 'speaker', sub: 'x' });
    const w = world((path) => (path.endsWith('/stage') ? [200, { token: stage, address: 'o:1' }] : joined()));
    w.visit.start();
    await w.settle();
    w.welcome(0, { pass: 'p' });
    w.visit.accept();
    await w.settle();
    w.welcome(1, { slot: 4, role: 'speaker' });
    w.links[1].handlers.down(closeOf(0x06, 'demoted'));
    await w.settle();
    const back = w.links.at(-1);
    assert.deepEqual([back?.hello.role, back?.hello.token, back?.hello.pass], ['listener', LISTENER, 'p']);
    assert.ok(w.news.some(({ type }) => type === 'demoted'));
});

test('who came by a speaker’s link can leave the stage', async () => {
    const speaker = token({ role: 'speaker', sub: 'x' });
    const w = world(joined, speaker);
    w.visit.start();
    await w.settle();
    w.welcome(0, { slot: 4, role: 'speaker' });
    await w.visit.leaveStage();
    assert.deepEqual([w.links[1].hello.role, w.links[1].hello.token], ['listener', LISTENER]);
});

test('a hand is raised under the name that is given, and again after a move', async () => {
    /** @type {any[]} */
    const asked = [];
    const w = world((_, body) => {
        asked.push(body);
        return joined();
    });
    const hands = (/** @type {number} */ index) => w.links[index].sent.filter(({ type }) => type === 'hand');
    w.visit.start();
    await w.settle();
    w.welcome(0);
    w.links[0].handlers.datagram(ticksBytes({ numbers: [1] }));
    w.visit.raiseHand(true, 'Ada');
    await w.settle();
    assert.deepEqual([asked.map(({ name }) => name), w.links[1].hello.name], [[undefined, 'Ada'], 'Ada']);
    w.welcome(1);
    w.links[1].handlers.datagram(ticksBytes({ numbers: [2] }));
    await w.pass(2_000);
    assert.deepEqual([hands(0), hands(1)], [[], [{ type: 'hand', raised: true }]]);
    w.visit.raiseHand(false, 'Ada');
    assert.deepEqual(hands(1).at(-1), { type: 'hand', raised: false });
});

test('an invitation leads to the stage without a break, and back', async () => {
    const stage = token({ role: 'speaker', sub: 'x' });
    const w = world((path) => (path.endsWith('/stage') ? [200, { token: stage, address: 'o:1' }] : joined()));
    w.visit.start();
    await w.settle();
    w.welcome(0);
    w.links[0].handlers.datagram(ticksBytes({ numbers: [1] }));
    w.links[0].handlers.message({ type: 'invited', role: 'speaker' });
    assert.deepEqual(w.news.at(-1), { type: 'invited', role: 'speaker' });
    w.visit.accept();
    await w.settle();
    assert.deepEqual([w.links[1].place.address, w.links[1].hello.role, w.links[1].hello.token], ['o:1', 'speaker', stage]);
    assert.equal(w.links[0].left, false);
    w.welcome(1, { slot: 4, role: 'speaker', frame_bytes: 160 });
    w.links[1].handlers.datagram(ticksBytes({ numbers: [2] }));
    assert.equal(w.links[0].left, true);
    assert.deepEqual(w.heard.slots, [null, 4]);
    w.visit.speak({ level: 20, voice: true, opus: new Uint8Array(60) });
    assert.equal(w.links[1].sent.at(-1)[0], 4);
    w.links[1].handlers.datagram(Uint8Array.of(5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1));
    assert.equal(w.links[1].sent.filter((sent) => sent[0] === 4).length, 2, 'the origin is answered');
    await w.visit.leaveStage();
    assert.equal(w.links[2].hello.role, 'listener');
    w.welcome(2);
    w.links[2].handlers.datagram(ticksBytes({ numbers: [3] }));
    assert.deepEqual([w.links[1].left, w.heard.slots.at(-1)], [true, null]);
});

test('a host goes to the origin at once', async () => {
    const host = token({ role: 'host', sub: 'h' });
    const w = world(joined, host);
    w.visit.start();
    await w.settle();
    assert.deepEqual([w.links[0].place, w.links[0].hello.role, w.links[0].hello.token], [ORIGIN, 'host', host]);
});

test('a token is renewed before its end, on a session beside the present one', async () => {
    let asked = 0;
    const w = world(() => {
        asked += 1;
        const fresh = token({ role: 'listener', exp: Date.now() / 1000 + 300 * asked });
        return [200, { identity: 'x', token: fresh, relays: [RELAY] }];
    });
    w.visit.start();
    await w.settle();
    w.welcome(0);
    w.links[0].handlers.datagram(ticksBytes({ numbers: [1] }));
    await w.pass(239_000);
    assert.equal(asked, 1);
    await w.pass(2_000);
    assert.equal(asked, 2);
    const renewed = w.links.at(-1);
    assert.ok(renewed && renewed.hello.token !== w.links[0].hello.token && renewed.hello.role === 'listener');
});

test('documents replace older ones only', async () => {
    const w = world(joined);
    w.visit.start();
    await w.settle();
    w.welcome(0);
    for (const version of [4, 3, 5]) {
        w.links[0].handlers.message({ type: 'room', room: 'hall', version, title: `v${version}`, stage: [] });
    }
    const titles = w.news.filter(({ type }) => type === 'room').map(({ room }) => room.title);
    assert.deepEqual(titles, ['v4', 'v5']);
});

test('claims and problems of any shape are read', async () => {
    assert.deepEqual(claimsOf('nonsense'), {});
    assert.deepEqual(claimsOf(`a.${Buffer.from('3').toString('base64url')}.b`), {});
    assert.equal(claimsOf(token({ role: 'host' })).role, 'host');
    const api = new Api('', null, async () => new Response('<h1>', { status: 502 }));
    await assert.rejects(api.room('x'), (error) => error instanceof Problem && error.code === 'http_502');
    const down = new Api('', null, async () => Promise.reject(new TypeError('no')));
    await assert.rejects(down.room('x'), (error) => error instanceof Problem && error.code === 'unreachable');
});

test('events are cut at blank lines, wherever the stream is', async () => {
    const text = 'event: hand\ndata: {"identity":"x"}\n\n: ping\n\nevent: stage\ndata: {"a":\ndata: 1}\n\n';
    const body = new ReadableStream({
        start(controller) {
            for (const character of text) {
                controller.enqueue(new TextEncoder().encode(character));
            }
            controller.close();
        },
    });
    const api = new Api('', null, async () => new Response(body));
    /** @type {any[]} */
    const got = [];
    await api.events('x', (event, data) => got.push([event, data]), new AbortController().signal);
    assert.deepEqual(got, [['hand', { identity: 'x' }], ['stage', { a: 1 }]]);
});
