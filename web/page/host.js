// The host's part: the link, raised hands, who is on stage, the audience.

import { el, plain, said, setItems, setSaid, setText } from './dom.js';
import { isHost } from './model.js';
import { ROLES, count, hostText } from './texts.js';

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('../api.js').Person} Person */
/** @typedef {import('./visitor.js').Visitor} Visitor */

/** @param {Visitor} visitor @returns {import('./listener.js').View} */
export function hostView(visitor) {
    const parts = [shareView(visitor), handsView(visitor), peopleView(visitor), audienceView(), roomView(visitor)];
    const error = el('p', { className: 'status trouble', role: 'alert' });
    const node = el('section', { className: 'card host', 'aria-label': hostText.title },
        el('h2', { textContent: hostText.title }), error, ...parts.map((part) => part.node));
    return {
        node,
        update(model) {
            node.hidden = !isHost(model);
            setText(error, model.host.error);
            error.hidden = model.host.error === '';
            parts.forEach((part) => part.update(model));
        },
    };
}

/** @param {Visitor} visitor */
function shareView({ model: { name } }) {
    const link = `${location.origin}/rooms/${encodeURIComponent(name)}`;
    const field = el('input', { id: 'share', readOnly: true, value: link, onfocus: () => field.select() });
    const done = el('span', { role: 'status', className: 'quiet' });
    const copy = async () => {
        field.select();
        await navigator.clipboard.writeText(link);
        setText(done, hostText.copied);
    };
    const node = el('div', { className: 'field' }, el('label', { for: 'share', textContent: hostText.share }),
        el('div', { className: 'row' }, field, el('button', { type: 'button', textContent: hostText.copy, onclick: copy })), done);
    return { node, update() {} };
}

/** @param {Visitor} visitor */
function handsView(visitor) {
    const list = el('ol', { className: 'people' });
    const none = el('p', { className: 'quiet', textContent: hostText.noHands });
    const node = el('div', {}, el('h3', { textContent: hostText.hands }), list, none);
    return {
        node,
        /** @param {Model} model */
        update({ host: { participants } }) {
            const hands = participants?.hands ?? [];
            const invited = new Set(participants?.invitations.map(({ identity }) => identity));
            none.hidden = hands.length > 0;
            setItems(list, hands, {
                key: ({ identity }) => identity,
                make: (person) => row(person, [
                    [hostText.bring, () => visitor.act({ action: 'invite', identity: person.identity }), 'primary'],
                    [hostText.lower, () => visitor.act({ action: 'lower_hand', identity: person.identity }), ''],
                    [hostText.ban, () => ban(visitor, person), 'danger'],
                ]),
                update: (item, { identity }) => {
                    const bring = /** @type {HTMLButtonElement} */ (item.querySelector('button'));
                    bring.disabled = invited.has(identity);
                    setText(bring, invited.has(identity) ? hostText.withdraw : hostText.bring);
                },
            });
        },
    };
}

/** @param {Visitor} visitor */
function peopleView(visitor) {
    const list = el('ul', { className: 'people' });
    const bans = el('ul', { className: 'people' });
    const banned = el('div', {}, el('h3', { textContent: hostText.bans }), bans);
    const node = el('div', {}, el('h3', { textContent: hostText.people }), list, banned);
    return {
        node,
        /** @param {Model} model */
        update({ room, me, host: { participants } }) {
            const others = (room?.stage ?? []).filter(({ slot }) => slot !== me?.slot);
            setItems(list, others, {
                key: ({ slot }) => String(slot),
                make: (person) => {
                    const { identity } = person;
                    const act = (/** @type {string} */ action) => () => visitor.act({ action, identity });
                    const isMuted = () => visitor.model.room?.stage.find(({ slot }) => slot === person.slot)?.muted;
                    return row(person, [
                        [hostText.mute, () => visitor.act({ action: isMuted() ? 'unmute' : 'mute', identity }), ''],
                        [hostText.demote, act('demote'), ''],
                        [hostText.coHost, act('make_co_host'), ''],
                        [hostText.remove, act('remove'), 'danger'],
                        [hostText.ban, () => ban(visitor, person), 'danger'],
                    ]);
                },
                update: (item, { muted, role }) => {
                    const [mute, , coHost] = item.querySelectorAll('button');
                    setText(mute, muted ? hostText.unmute : hostText.mute);
                    coHost.hidden = role !== 'speaker';
                    setText(/** @type {Node} */ (item.querySelector('.role')), ROLES[role] ?? role);
                },
            });
            const out = participants?.bans ?? [];
            banned.hidden = out.length === 0;
            setItems(bans, out, {
                key: ({ identity }) => identity,
                make: (person) => row(person, [
                    [hostText.unban, () => visitor.act({ action: 'unban', identity: person.identity }), ''],
                ]),
                update: () => {},
            });
        },
    };
}

/** @param {Visitor} visitor @param {Person} person */
function ban(visitor, { identity, name }) {
    if (confirm(hostText.surelyBan(plain(name || identity)))) {
        visitor.act({ action: 'ban', identity, address: true });
    }
}

/** @param {Person} person @param {[label: string, act: () => void, className: string][]} actions */
function row({ identity, name, role }, actions) {
    const shown = name || identity;
    const buttons = actions.map(([label, onclick, className]) =>
        el('button', { type: 'button', className, textContent: label, 'aria-description': plain(shown), onclick }));
    return el('li', {}, el('span', { className: 'name' }, said(shown)),
        el('span', { className: 'role', textContent: role ? ROLES[role] ?? role : '' }),
        el('span', { className: 'row' }, ...buttons));
}

function audienceView() {
    const names = [hostText.listeners, hostText.waiting, hostText.well];
    const values = names.map(() => el('dd'));
    const list = el('dl', { className: 'figures' }, ...names.map((name, i) => el('div', {}, el('dt', { textContent: name }), values[i])));
    const rows = el('tbody');
    const head = ['Relay', 'Region', 'Listening', 'Hear well', 'Glitches'].map((name) => el('th', { scope: 'col', textContent: name }));
    const table = el('table', {}, el('caption', { textContent: hostText.trouble }), el('thead', {}, el('tr', {}, ...head)), rows);
    const none = el('p', { className: 'quiet', textContent: hostText.noTrouble });
    const node = el('div', {}, el('h3', { textContent: hostText.audience }), list, el('div', { className: 'table' }, table), none);
    return {
        node,
        /** @param {Model} model */
        update({ room, host: { stats } }) {
            const well = stats?.hearing_well_percent;
            const shown = [room?.listeners ?? 0, room?.waiting ?? 0].map(count);
            [...shown, typeof well === 'number' ? `${Math.round(well)} %` : '–'].forEach((value, i) => setText(values[i], value));
            /** @type {any[]} */
            const relays = Array.isArray(stats?.relays) ? stats.relays : [];
            const worst = relays.filter(({ hearing_well_percent: share }) => typeof share === 'number' && share < 100)
                .sort((a, b) => a.hearing_well_percent - b.hearing_well_percent).slice(0, 8);
            table.hidden = worst.length === 0;
            none.hidden = worst.length > 0;
            setItems(rows, worst, {
                key: ({ relay }) => String(relay),
                make: () => el('tr', {}, ...head.map(() => el('td'))),
                update: (tr, relay) => {
                    const cells = /** @type {HTMLElement[]} */ ([...tr.children]);
                    const { region = '', listeners = 0, hearing_well_percent: share, glitches = 0 } = relay;
                    [String(relay.relay), String(region), count(Number(listeners)), `${Math.round(share)} %`, count(Number(glitches))]
                        .forEach((value, i) => setSaid(cells[i], value));
                },
            });
        },
    };
}

/** @param {Visitor} visitor */
function roomView(visitor) {
    const lock = el('button', { type: 'button', onclick: () => visitor.act({ action: visitor.model.room?.locked ? 'unlock' : 'lock' }) });
    const ask = el('dialog', { 'aria-label': hostText.surely }, el('p', { textContent: hostText.surely }),
        el('div', { className: 'row' },
            el('button', { type: 'button', className: 'danger', textContent: hostText.yes, onclick: () => { ask.close(); visitor.endRoom(); } }),
            el('button', { type: 'button', textContent: hostText.no, onclick: () => ask.close() })));
    const end = el('button', { type: 'button', className: 'danger', textContent: hostText.end, onclick: () => ask.showModal() });
    const node = el('div', { className: 'row' }, lock, end, ask);
    return {
        node,
        /** @param {Model} model */
        update({ room, tokenRole }) {
            setText(lock, room?.locked ? hostText.unlock : hostText.lock);
            end.hidden = tokenRole !== 'host';
        },
    };
}
