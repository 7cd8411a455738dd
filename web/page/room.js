// A room's page: its views around one visitor.

import { el } from './dom.js';
import { controlsView, headView, listenView, qualityView, stageView } from './listener.js';
import { hostView } from './host.js';
import { stageControls } from './stage.js';
import { lackOf } from './support.js';
import { Visitor } from './visitor.js';

/** What follows the clock is drawn this often, in ms. */
const DRAW_EVERY = 1_000;

/** @param {HTMLElement} app @param {string} room @param {string} fragment */
export function showRoom(app, room, fragment) {
    /** @type {import('./listener.js').View[]} */
    let views = [];
    let due = false;
    // Levels come ten times a second: what changes within a frame is drawn once.
    const draw = () => {
        due = false;
        views.forEach((view) => view.update(visitor.model));
    };
    const visitor = new Visitor(room, fragment, () => {
        if (!due) {
            due = true;
            document.hidden ? setTimeout(draw, 250) : requestAnimationFrame(draw);
        }
    });
    const lack = lackOf(globalThis);
    const head = headView();
    const join = lack === null ? listenView(visitor) : lackView(lack);
    const main = [join, stageControls(visitor), stageView()];
    const side = [controlsView(visitor), hostView(visitor), qualityView()];
    views = [head, ...main, ...side];
    app.replaceChildren(head.node, el('div', { className: 'columns' },
        el('div', { className: 'column' }, ...main.map((view) => view.node)),
        el('div', { className: 'column side' }, ...side.map((view) => view.node))));
    draw();
    // How long it has run goes on by itself.
    setInterval(() => document.hidden || draw(), DRAW_EVERY);
    return visitor;
}

/** @param {string} lack @returns {import('./listener.js').View} */
function lackView(lack) {
    const node = el('section', { className: 'card' }, el('p', { className: 'status trouble', role: 'alert', textContent: lack }));
    return { node, update() {} };
}
