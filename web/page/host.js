// The host's part: links, the room itself; people and audience have files of their own.

import { audienceView } from './audience.js';
import { el, setText } from './dom.js';
import { isHost, roleOf } from './model.js';
import { handsView, peopleView } from './people.js';
import { hostText } from './texts.js';

/** @typedef {import('./model.js').Model} Model */
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
            const over = model.state.phase === 'ended' && model.state.name === 'room_ended';
            node.hidden = over || !isHost(model);
            setText(error, model.host.error);
            error.hidden = model.host.error === '';
            parts.forEach((part) => part.update(model));
        },
    };
}

/** The link for everyone, and links for single people. @param {Visitor} visitor */
function shareView(visitor) {
    const everyone = linkField('share', hostText.share);
    everyone.show(`${location.origin}/rooms/${encodeURIComponent(visitor.model.name)}`);
    const own = linkField('own-link', hostText.ownLink);
    own.node.hidden = true;
    const name = el('input', { id: 'guest-name', maxLength: 60, autocomplete: 'off' });
    const role = el('select', { id: 'guest-role' },
        el('option', { value: 'listener', textContent: hostText.asListener }),
        el('option', { value: 'speaker', textContent: hostText.asSpeaker }));
    const make = async (/** @type {Event} */ event) => {
        event.preventDefault();
        const link = await visitor.linkFor(role.value, name.value);
        own.node.hidden = link === null;
        own.show(link ?? '');
    };
    const form = el('form', { className: 'guest', onsubmit: make },
        el('div', { className: 'field' }, el('label', { for: 'guest-name', textContent: hostText.guestName }), name),
        el('div', { className: 'field' }, el('label', { for: 'guest-role', textContent: hostText.guestRole }), role),
        el('button', { type: 'submit', textContent: hostText.makeLink }));
    const lead = el('p', { className: 'quiet' });
    const node = el('div', {}, everyone.node,
        el('details', {}, el('summary', { textContent: hostText.oneLink }), lead, form, own.node));
    return {
        node,
        /** @param {Model} model */
        update({ room }) {
            const isPublic = room?.public !== false;
            everyone.node.hidden = !isPublic;
            setText(lead, isPublic ? hostText.oneLinkHint : hostText.privateHint);
        },
    };
}

/** A link to be copied. @param {string} id @param {string} label */
function linkField(id, label) {
    const field = el('input', { id, readOnly: true, onfocus: () => field.select() });
    const done = el('span', { role: 'status', className: 'quiet' });
    const copy = async () => {
        field.select();
        try {
            await navigator.clipboard.writeText(field.value);
            setText(done, hostText.copied);
        } catch {
            setText(done, hostText.notCopied);
        }
    };
    const node = el('div', { className: 'field' }, el('label', { for: id, textContent: label }),
        el('div', { className: 'row' }, field, el('button', { type: 'button', textContent: hostText.copy, 'aria-label': `${hostText.copy}: ${label}`, onclick: copy })), done);
    return {
        node,
        /** @param {string} link */
        show(link) {
            field.value = link;
            setText(done, '');
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
        update(model) {
            const { room } = model;
            setText(lock, room?.locked ? hostText.unlock : hostText.lock);
            end.hidden = roleOf(model) !== 'host';
        },
    };
}
