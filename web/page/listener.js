// What everyone in a room sees: title, stage, who speaks, the Listen button, hand and reactions.

import { el, meter, plain, said, setItems, setSaid, setText, shareOf } from './dom.js';
import { isListening } from './model.js';
import * as store from './store.js';
import { REACTIONS, ROLES, count, counted, moment, shortCount, span, stateText, text } from './texts.js';

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./visitor.js').Visitor} Visitor */
/** @typedef {{node: HTMLElement, update: (model: Model) => void}} View */

/** Quieter than this (−dBov) is not speaking. */
const SPEAKS = 50;

/** Title, facts and state. @returns {View} */
export function headView() {
    const title = el('h1');
    const badge = el('span', { className: 'badge' });
    const facts = el('p', { className: 'facts' });
    const topic = el('p', { className: 'topic' });
    const node = el('header', { className: 'head' }, el('div', { className: 'title-line' }, badge, title), topic, facts);
    return {
        node,
        update({ name, room }) {
            const shown = room?.title || name;
            setSaid(title, shown);
            setText(/** @type {Node} */ (document.querySelector('title')), `${plain(shown)} · ${text.brand}`);
            const live = room?.startedMs != null;
            const later = !live && room?.startsAt != null && room.startsAt * 1000 > Date.now();
            badge.hidden = !live && !later;
            badge.className = live ? 'badge live' : 'badge';
            setText(badge, live ? text.live : later && room?.startsAt != null ? `${text.scheduled} ${moment(room.startsAt)}` : '');
            topic.hidden = !room?.topic;
            setSaid(topic, room?.topic ?? '');
            setText(facts, room ? factsOf(room).join(' · ') : '');
        },
    };
}

/** @param {import('./model.js').RoomInfo} room */
function factsOf(room) {
    const facts = [`${count(room.listeners)} listening`];
    if (room.startedMs !== null) {
        facts.push(`running for ${span(Math.max(0, Date.now() - room.startedMs))}`);
    }
    if (room.waiting > 0) {
        facts.push(`${count(room.waiting)} waiting`);
    }
    if (room.hands > 0) {
        facts.push(counted(room.hands, 'hand raised', 'hands raised'));
    }
    if (!room.public) {
        facts.push(text.privateRoom);
    }
    if (room.locked) {
        facts.push(text.locked);
    }
    return facts;
}

/** The large button, and where the visit stands. @param {Visitor} visitor @returns {View} */
export function listenView(visitor) {
    const status = el('p', { className: 'status', role: 'status', 'aria-live': 'polite' });
    const notice = el('p', { className: 'notice', role: 'status', 'aria-live': 'polite' });
    const sign = el('span', { className: 'sign', 'aria-hidden': 'true' });
    const label = el('span');
    const button = el('button', {
        type: 'button', className: 'listen',
        onclick: () => (isListening(visitor.model) ? visitor.stop() : visitor.listen()),
    }, sign, label);
    const node = el('section', { className: 'card join' }, button, status, notice);
    return {
        node,
        update(model) {
            const on = isListening(model);
            const { state } = model;
            setText(label, labelOf(model));
            button.classList.toggle('on', on);
            node.dataset.phase = state.phase;
            const onStage = state.phase === 'live' && model.me?.slot != null;
            const empty = state.phase === 'live' && model.room?.stage.length === 0;
            const words = onStage ? text.liveOnStage : empty ? text.liveBefore : stateText(state, model.waitMs);
            setText(status, model.problem || words);
            status.classList.toggle('trouble', model.problem !== '' || state.phase === 'reconnecting');
            setText(notice, model.notice);
            notice.hidden = model.notice === '';
        },
    };
}

/** @param {Model} model */
function labelOf(model) {
    const { state } = model;
    if (state.phase === 'waiting') {
        return text.leaveLine;
    }
    if (isListening(model)) {
        return text.stop;
    }
    return state.phase === 'ended' && state.name === 'replaced' ? text.goOn : text.listen;
}

/** How loud everybody on stage is; one hears oneself by the microphone. @param {Model} model */
function levelsOf({ voices, me, microphone }) {
    const levels = new Map(voices.map(({ slot, level }) => [slot, level]));
    if (me?.slot != null && microphone.phase === 'live' && !microphone.muted) {
        levels.set(me.slot, microphone.level);
    }
    return levels;
}

/** Who is on stage, and who speaks. @returns {View} */
export function stageView() {
    const list = el('ul', { className: 'stage' });
    const nobody = el('p', { className: 'quiet', textContent: text.nobodyOnStage });
    const now = el('p', { className: 'now' });
    const captions = el('section', { className: 'captions', hidden: true });
    const node = el('section', { className: 'card' }, el('h2', { textContent: text.stage }), now, list, nobody, captions);
    /** @type {Map<HTMLElement, ReturnType<typeof meter>>} */
    const meters = new Map();
    return {
        node,
        update(model) {
            const stage = model.room?.stage ?? [];
            nobody.hidden = stage.length > 0;
            const levels = levelsOf(model);
            const speaking = stage.filter(({ slot, muted }) => !muted && (levels.get(slot) ?? 127) < SPEAKS);
            now.hidden = stage.length === 0 || model.state.phase !== 'live';
            if (speaking.length === 0) {
                setText(now, text.nobodySpeaks);
                delete now.dataset.names;
            } else {
                const names = speaking.map(({ name, identity }) => name || identity);
                if (now.dataset.names !== names.join('\n')) {
                    now.replaceChildren(text.speakingNow, ...names.flatMap((name, i) => (i > 0 ? [', ', said(name)] : [said(name)])));
                }
                now.dataset.names = names.join('\n');
            }
            setItems(list, stage, {
                key: ({ slot }) => String(slot),
                make: (person) => makePerson(person, meters),
                update: (item, person) => {
                    const level = levels.get(person.slot) ?? 127;
                    item.classList.toggle('speaking', level < SPEAKS && !person.muted);
                    meters.get(item)?.set(person.muted ? 0 : shareOf(level));
                    const own = person.slot === model.me?.slot;
                    const role = ROLES[person.role] ?? person.role;
                    const facts = [role, own ? text.you : '', person.muted ? text.muted : ''];
                    setText(/** @type {Node} */ (item.querySelector('.role')), facts.filter(Boolean).join(' · '));
                },
            });
        },
    };
}

/** @param {import('./model.js').OnStage} person @param {Map<HTMLElement, ReturnType<typeof meter>>} meters */
function makePerson({ slot, name, identity }, meters) {
    const shown = name || identity;
    const level = meter(text.level + plain(shown));
    const [first = '?'] = /[\p{L}\p{N}]/u.exec(shown) ?? [];
    const face = el('span', { className: `face hue-${slot % 8}`, 'aria-hidden': 'true' }, said(first.toUpperCase()));
    const item = el('li', { className: 'person' }, face, el('span', { className: 'name' }, said(shown)),
        el('span', { className: 'role' }), level.node);
    meters.set(item, level);
    return item;
}

/** Volume, hand, reactions, glitch. @param {Visitor} visitor @returns {View} */
export function controlsView(visitor) {
    const slider = el('input', {
        id: 'volume', type: 'range', min: '0', max: '1', step: '0.05',
        oninput: () => visitor.setVolume(Number(slider.value)),
    });
    const name = el('input', { id: 'name', autocomplete: 'name', maxLength: 60, value: store.name(), 'aria-describedby': 'name-hint' });
    const who = el('div', { className: 'field who' }, el('label', { for: 'name', textContent: text.name }), name,
        el('p', { className: 'quiet', id: 'name-hint', textContent: text.nameHint }));
    const hand = el('button', {
        type: 'button', className: 'wide', onclick: () => visitor.raiseHand(!visitor.model.hand, name.value),
    });
    const glitch = el('button', { type: 'button', textContent: text.glitch, onclick: () => visitor.glitch() });
    /** @type {Map<string, HTMLElement>} */
    const counts = new Map();
    const reactions = REACTIONS.map(([kind, name]) => {
        const number = el('span', { className: 'number' });
        counts.set(kind, number);
        return el('button', { type: 'button', className: 'reaction', 'aria-label': name, title: name, onclick: () => visitor.react(kind) },
            el('img', { src: new URL(`../icons/${kind}.svg`, import.meta.url).href, alt: '', width: 24, height: 24 }), number);
    });
    const node = el('section', { className: 'card controls' },
        el('div', { className: 'field' }, el('label', { for: 'volume', textContent: text.volume }), slider),
        el('div', { className: 'row', role: 'group', 'aria-label': text.reactions }, ...reactions),
        who, el('div', { className: 'row' }, hand, glitch));
    return {
        node,
        update(model) {
            node.hidden = model.state.phase !== 'live' && model.state.phase !== 'reconnecting';
            if (document.activeElement !== slider) {
                slider.value = String(model.volume);
            }
            const onStage = model.me?.slot != null;
            hand.hidden = onStage;
            who.hidden = onStage || model.hand;
            setText(hand, model.hand ? text.lower : text.raise);
            hand.setAttribute('aria-pressed', String(model.hand));
            for (const [kind, number] of counts) {
                const value = model.room?.reactions[kind] ?? 0;
                setText(number, value > 0 ? shortCount(value) : '');
            }
        },
    };
}

/** Delay, loss and where the sound comes from. @returns {View} */
export function qualityView() {
    /** @type {[string, (model: Model) => string][]} */
    const rows = [
        [text.delay, ({ stats }) => (stats ? `${Math.round(stats.delayMs ?? stats.holdMs)} ms` : '–')],
        [text.loss, ({ stats }) => (stats ? percent(stats.lost, stats.ticks + stats.lost) : '–')],
        [text.concealed, ({ stats }) => (stats ? percent(stats.concealedMs, (stats.ticks + stats.lost) * 20) : '–')],
        [text.moves, ({ stats }) => (stats ? count(stats.moved) : '–')],
        [text.relay, ({ me }) => me?.relay ?? '–'],
    ];
    const values = rows.map(() => el('dd'));
    const list = el('dl', {}, ...rows.flatMap(([name], i) => [el('dt', { textContent: name }), values[i]]));
    const node = el('details', { className: 'card quality' }, el('summary', { textContent: text.quality }), list);
    return {
        node,
        update(model) {
            node.hidden = !isListening(model);
            rows.forEach(([, value], i) => setSaid(values[i], value(model)));
        },
    };
}

/** @param {number} part @param {number} whole */
function percent(part, whole) {
    return whole === 0 ? '–' : `${((100 * part) / whole).toFixed(1)} %`;
}
