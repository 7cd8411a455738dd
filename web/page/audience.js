// What a host sees of the audience: how many, how well they hear, and where the trouble is.

import { el, setItems, setSaid, setText } from './dom.js';
import { count, hostText } from './texts.js';

/** @typedef {import('./model.js').Model} Model */

/** Relays that are shown at most. */
const SHOWN = 8;

export function audienceView() {
    const figures = [hostText.listeners, hostText.waiting, hostText.well, hostText.glitches];
    const values = figures.map(() => el('dd'));
    const list = el('dl', { className: 'figures' }, ...figures.map((name, i) => el('div', {}, el('dt', { textContent: name }), values[i])));
    const rows = el('tbody');
    const head = hostText.columns.map((name) => el('th', { scope: 'col', textContent: name }));
    const table = el('table', {}, el('caption', { textContent: hostText.trouble }), el('thead', {}, el('tr', {}, ...head)), rows);
    const none = el('p', { className: 'quiet' });
    const node = el('div', {}, el('h3', { textContent: hostText.audience }), list, el('div', { className: 'table' }, table), none);
    return {
        node,
        /** @param {Model} model */
        update({ room, host: { stats } }) {
            const well = stats?.well_percent;
            const shown = [count(room?.listeners ?? 0), count(room?.waiting ?? 0), well === undefined ? '–' : percent(well), stats ? count(stats.glitches) : '–'];
            shown.forEach((value, i) => setText(values[i], value));
            const parts = [
                ...(stats?.regions ?? []).filter(({ name }) => name).map((part) => ({ ...part, kind: hostText.region })),
                ...(stats?.relays ?? []).map((part) => ({ ...part, kind: hostText.relay })),
            ];
            const worst = parts.filter(({ reporting, well: good }) => good < reporting)
                .sort((a, b) => (b.reporting - b.well) - (a.reporting - a.well)).slice(0, SHOWN);
            table.hidden = worst.length === 0;
            none.hidden = worst.length > 0;
            setText(none, (stats?.reporting ?? 0) > 0 ? hostText.noTrouble : hostText.noReports);
            setItems(rows, worst, {
                key: ({ kind, name }) => `${kind} ${name}`,
                make: () => el('tr', {}, ...head.map(() => el('td'))),
                update: (tr, { kind, name, listeners, reporting, well: good }) => {
                    const cells = /** @type {HTMLElement[]} */ ([...tr.children]);
                    [`${kind} ${name}`, count(listeners), percent((100 * good) / reporting)]
                        .forEach((value, i) => setSaid(cells[i], value));
                },
            });
        },
    };
}

/** @param {number} value */
function percent(value) {
    return `${Math.round(value)} %`;
}
