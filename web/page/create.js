// Making a room.

import { Api } from '../api.js';
import { el, setText } from './dom.js';
import * as store from './store.js';
import { newText, text } from './texts.js';

/** @param {HTMLElement} app @param {string} fragment holds the key where the page was opened by a link */
export function showCreate(app, fragment) {
    const given = store.tokenOf(fragment) ?? store.apiKey();
    const field = (/** @type {string} */ label, /** @type {HTMLElement} */ input, hint = '') => el('div', { className: 'field' },
        el('label', { for: input.id, textContent: label }), input,
        hint ? el('p', { className: 'quiet', id: `${input.id}-hint`, textContent: hint }) : null);
    const title = el('input', { id: 'title', required: true, maxLength: 200, autocomplete: 'off' });
    const topic = el('input', { id: 'topic', maxLength: 200, autocomplete: 'off' });
    const name = el('input', { id: 'name', maxLength: 60, autocomplete: 'name', value: store.name(), 'aria-describedby': 'name-hint' });
    const open = el('input', { id: 'public', type: 'checkbox', checked: true, 'aria-describedby': 'public-hint' });
    const start = el('input', { id: 'start', type: 'datetime-local', 'aria-describedby': 'start-hint' });
    const key = el('input', { id: 'key', type: 'password', required: true, autocomplete: 'current-password', value: given, 'aria-describedby': 'key-hint' });
    const problem = el('p', { className: 'status trouble', role: 'alert', hidden: true });
    const make = el('button', { type: 'submit', className: 'primary', textContent: newText.make });
    const send = async (/** @type {Event} */ event) => {
        event.preventDefault();
        make.disabled = true;
        problem.hidden = true;
        try {
            const made = await new Api(location.origin, key.value.trim()).create({
                title: title.value.trim(), topic: topic.value.trim(), public: open.checked,
                ...(start.value ? { starts_at: Math.round(new Date(start.value).getTime() / 1000) } : {}),
            });
            store.keepName(name.value.trim());
            store.keepApiKey(key.value.trim());
            location.assign(`/rooms/${encodeURIComponent(made.room)}#token=${encodeURIComponent(made.host_token)}`);
        } catch (error) {
            setText(problem, error instanceof Error ? error.message : String(error));
            problem.hidden = false;
            keyField.hidden = false;
            make.disabled = false;
        }
    };
    const keyField = field(newText.key, key, newText.keyHint);
    keyField.hidden = given !== '';
    app.replaceChildren(
        el('header', { className: 'head' }, el('h1', { textContent: newText.title })),
        el('form', { className: 'card form', onsubmit: send },
            field(newText.name, title), field(newText.topic, topic, newText.topicHint), field(newText.yourName, name, newText.yourNameHint),
            el('div', { className: 'field inline' }, open, el('label', { for: 'public', textContent: newText.public }),
                el('p', { className: 'quiet', id: 'public-hint', textContent: newText.publicHint })),
            field(newText.start, start, newText.startHint), keyField, problem,
            el('div', { className: 'row' }, make, el('a', { className: 'button', href: '/', textContent: newText.cancel }))));
    document.title = `${newText.title} · ${text.brand}`;
    title.focus();
}
