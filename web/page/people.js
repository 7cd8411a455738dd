// Whom a host decides about: raised hands, the stage, those who are banned.

import { el, plain, said, setItems, setText } from './dom.js';
import { roleOf } from './model.js';
import { ROLES, hostText, span } from './texts.js';

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('../api.js').Person} Person */
/** @typedef {import('./visitor.js').Visitor} Visitor */

/** Raised hands, the first one first. @param {Visitor} visitor */
export function handsView(visitor) {
    const list = el('ol', { className: 'people' });
    const none = el('p', { className: 'quiet', textContent: hostText.noHands });
    const ban = banDialog(visitor);
    const node = el('div', {}, el('h3', { textContent: hostText.hands }), list, none, ban.node);
    return {
        node,
        /** @param {Model} model */
        update({ host: { participants } }) {
            const hands = participants?.hands ?? [];
            // Who was invited from a raised hand has none any more, and is shown until on stage.
            const invited = (participants?.invitations ?? []).filter(({ role }) => role !== 'co-host');
            const shown = [...hands, ...invited.filter(({ identity }) => hands.every((hand) => hand.identity !== identity))];
            none.hidden = shown.length > 0;
            setItems(list, shown, {
                key: ({ identity }) => identity,
                make: (person) => row(person, [
                    [hostText.bring, () => visitor.act({ action: 'invite', identity: person.identity }), 'primary'],
                    [hostText.lower, () => visitor.act({ action: isInvited(visitor, person) ? 'demote' : 'lower_hand', identity: person.identity }), ''],
                    [hostText.ban, () => ban.ask(person), 'danger'],
                ]),
                update: (item, { identity, since_ms }) => {
                    const [bring, lower] = item.querySelectorAll('button');
                    const waits = invited.some((one) => one.identity === identity);
                    bring.disabled = waits;
                    setText(bring, waits ? hostText.invited : hostText.bring);
                    setText(lower, waits ? hostText.withdraw : hostText.lower);
                    const since = since_ms === undefined || waits ? '' : hostText.since(span(Math.max(0, Date.now() - since_ms)));
                    setText(/** @type {Node} */ (item.querySelector('.role')), since);
                },
            });
        },
    };
}

/** @param {Visitor} visitor @param {Person} person */
function isInvited({ model: { host: { participants } } }, { identity }) {
    return participants?.invitations.some((one) => one.identity === identity) ?? false;
}

/** The others on stage, and who is banned. @param {Visitor} visitor */
export function peopleView(visitor) {
    const list = el('ul', { className: 'people' });
    const nobody = el('p', { className: 'quiet', textContent: hostText.nobodyElse });
    const bans = el('ul', { className: 'people' });
    const banned = el('div', {}, el('h3', { textContent: hostText.bans }), bans);
    const ban = banDialog(visitor);
    const node = el('div', {}, el('h3', { textContent: hostText.people }), list, nobody, banned, ban.node);
    return {
        node,
        /** @param {Model} model */
        update(model) {
            const { room, me, host: { participants } } = model;
            const others = (room?.stage ?? []).filter(({ slot }) => slot !== me?.slot);
            nobody.hidden = others.length > 0;
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
                        [hostText.ban, () => ban.ask(person), 'danger'],
                    ]);
                },
                update: (item, { identity, muted, role }) => {
                    const [mute, demote, coHost, ...others] = item.querySelectorAll('button');
                    const mayAll = roleOf(model) === 'host';
                    [mute, demote, ...others].forEach((button) => {
                        button.hidden = !mayAll && role !== 'speaker';
                    });
                    const waits = isInvited(visitor, { identity });
                    setText(mute, muted ? hostText.unmute : hostText.mute);
                    coHost.hidden = role !== 'speaker' || !mayAll;
                    coHost.disabled = waits;
                    setText(coHost, waits ? hostText.coHostInvited : hostText.coHost);
                    const facts = [ROLES[role] ?? role, muted ? hostText.muted : ''];
                    setText(/** @type {Node} */ (item.querySelector('.role')), facts.filter(Boolean).join(' · '));
                },
            });
            const out = participants?.bans ?? [];
            banned.hidden = out.length === 0;
            setItems(bans, out, {
                key: ({ identity, address }) => `${identity ?? ''} ${address ?? ''}`,
                make: ({ identity, address }) => row({ identity: identity ?? address ?? '' }, [
                    [hostText.unban, () => visitor.act({ action: 'unban', ...(identity ? { identity } : { address }) }), ''],
                ]),
                update: (item, { identity }) => setText(/** @type {Node} */ (item.querySelector('.role')), identity ? '' : hostText.address),
            });
        },
    };
}

/** Asks once more before somebody is banned, and whether the address is to be banned too. @param {Visitor} visitor */
function banDialog(visitor) {
    /** @type {Person | null} */
    let whom = null;
    const title = el('p', { className: 'status' });
    const address = el('input', { type: 'checkbox' });
    const close = () => node.close();
    const yes = () => {
        close();
        if (whom) {
            visitor.act({ action: 'ban', identity: whom.identity, address: address.checked });
        }
    };
    const node = el('dialog', { 'aria-label': hostText.ban }, title,
        el('label', { className: 'check' }, address, el('span', { textContent: hostText.banAddress })),
        el('div', { className: 'row' }, el('button', { type: 'button', className: 'danger', textContent: hostText.banYes, onclick: yes }),
            el('button', { type: 'button', textContent: hostText.no, onclick: close })));
    return {
        node,
        /** @param {Person} person */
        ask(person) {
            whom = person;
            address.checked = false;
            title.replaceChildren(hostText.surelyBan[0], said(person.name || person.identity), hostText.surelyBan[1]);
            node.showModal();
        },
    };
}

/** @param {Person} person @param {[label: string, act: () => void, className: string][]} actions */
function row({ identity, name }, actions) {
    const shown = name || identity;
    const buttons = actions.map(([label, onclick, className]) => {
        const button = el('button', { type: 'button', className, textContent: label, onclick });
        // The same words stand at every row: who is meant is said with them.
        button.setAttribute('aria-description', plain(shown));
        return button;
    });
    return el('li', {}, el('span', { className: 'name' }, said(shown)), el('span', { className: 'role' }), el('div', { className: 'row' }, ...buttons));
}
