// The front page: rooms that anyone may listen to, live and to come.

import { Api } from '../api.js';
import { el, said, setItems, setText } from './dom.js';
import { count, lobbyText, moment, text } from './texts.js';

/** Between two looks, in ms. */
const LOOK_EVERY = 15_000;

/** @param {HTMLElement} app */
export function showLobby(app) {
    const api = new Api(location.origin);
    const topics = el('select', { id: 'topic', onchange: () => show() });
    const filter = el('div', { className: 'field inline' }, el('label', { for: 'topic', textContent: lobbyText.topic }), topics);
    const status = el('p', { className: 'status', role: 'status', 'aria-live': 'polite' });
    const lists = [lobbyText.live, lobbyText.scheduled].map((title) => {
        const list = el('ul', { className: 'rooms' });
        return { list, node: el('section', { hidden: true }, el('h2', { textContent: title }), list) };
    });
    const create = el('a', { href: '/new', className: 'button primary', textContent: lobbyText.create });
    app.replaceChildren(
        el('header', { className: 'head' }, el('h1', { textContent: lobbyText.title }), el('p', { className: 'facts', textContent: lobbyText.lead })),
        el('div', { className: 'row spread' }, filter, create), status, ...lists.map(({ node }) => node));
    document.title = `${lobbyText.title} · ${text.brand}`;

    /** @type {import('../api.js').Room[]} */
    let rooms = [];
    const show = () => {
        const known = [...new Set(rooms.map(({ topic }) => topic ?? '').filter(Boolean))].sort();
        setItems(topics, ['', ...known], {
            key: (topic) => topic,
            make: (topic) => el('option', { value: topic, textContent: topic || lobbyText.all }),
            update: () => {},
        });
        filter.hidden = known.length === 0;
        const wanted = rooms.filter(({ topic }) => topics.value === '' || topic === topics.value);
        const live = wanted.filter(({ state }) => state !== 'scheduled')
            .sort((a, b) => (b.listeners ?? 0) - (a.listeners ?? 0));
        const later = wanted.filter(({ state }) => state === 'scheduled')
            .sort((a, b) => (a.starts_at ?? 0) - (b.starts_at ?? 0));
        [live, later].forEach((some, i) => {
            lists[i].node.hidden = some.length === 0;
            setItems(lists[i].list, some, { key: ({ room }) => room, make: makeRoom, update: updateRoom });
        });
        setText(status, wanted.length === 0 ? lobbyText.none : '');
        status.hidden = wanted.length > 0;
    };
    const look = async () => {
        try {
            rooms = await api.rooms();
            show();
        } catch (error) {
            setText(status, lobbyText.failed + (error instanceof Error ? error.message : ''));
            status.hidden = false;
        }
    };
    look();
    setInterval(() => document.hidden || look(), LOOK_EVERY);
}

/** @param {import('../api.js').Room} room */
function makeRoom({ room }) {
    return el('li', {}, el('a', { className: 'card room', href: `/rooms/${encodeURIComponent(room)}` },
        el('span', { className: 'name' }), el('span', { className: 'role' })));
}

/** @param {HTMLElement} item @param {import('../api.js').Room} room */
function updateRoom(item, { room, title, topic, state, starts_at, listeners = 0, stage = [] }) {
    const [name, facts] = /** @type {HTMLElement[]} */ ([...item.querySelectorAll('.name, .role')]);
    name.replaceChildren(said(title || room));
    const when = state === 'scheduled' && starts_at != null ? `${text.scheduled} ${moment(starts_at)}` : `${count(listeners)} listening`;
    const people = stage.slice(0, 3).map(({ name: who, identity }) => said(who || identity));
    facts.replaceChildren(when, ...(topic ? [' · ', said(topic)] : []), ...people.flatMap((who) => [' · ', who]));
}
