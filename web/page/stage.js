// The speaker's part: an invitation, the microphone and its level, mute, leaving.

import { el, meter, setItems, setText, shareOf } from './dom.js';
import { stageText, text } from './texts.js';

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./visitor.js').Visitor} Visitor */

/** Unmuted so long ago, and still muted by the room's document: it is the host's mute, in ms. */
const SETTLED = 1_500;

/** @param {Visitor} visitor @returns {import('./listener.js').View} */
export function stageControls(visitor) {
    const status = el('p', { className: 'status', role: 'status', 'aria-live': 'polite' });
    const trouble = el('p', { className: 'status trouble', role: 'alert' });
    const level = meter(stageText.level);
    const devices = el('select', { id: 'microphone', onchange: () => visitor.openMicrophone(devices.value) });
    const choice = el('div', { className: 'field' },
        el('label', { for: 'microphone', textContent: stageText.microphone }), devices, level.node);
    const button = (/** @type {string} */ label, /** @type {() => void} */ onclick, className = '') =>
        el('button', { type: 'button', className, textContent: label, onclick });
    const open = button(stageText.open, () => visitor.openMicrophone(), 'primary');
    const join = button(stageText.join, () => visitor.accept(), 'primary');
    const become = button(stageText.become, () => visitor.accept(), 'primary');
    const decline = button(stageText.decline, () => visitor.decline());
    const mute = button('', () => visitor.mute(!visitor.model.microphone.muted), 'primary');
    const leave = button(text.leaving, () => visitor.leaveStage());
    const node = el('section', { className: 'card microphone', 'aria-label': stageText.title },
        el('h2', { textContent: stageText.title }), status, trouble, choice,
        el('div', { className: 'row' }, open, join, become, mute, decline, leave));
    return {
        node,
        update(model) {
            const { microphone, invited, me, tokenRole } = model;
            const onStage = me?.slot != null;
            node.hidden = !onStage && invited === null;
            const coHost = onStage && invited === 'co-host';
            setText(status, statusOf(model));
            const problem = troubleOf(model);
            setText(trouble, problem);
            trouble.hidden = problem === '';
            const has = microphone.phase === 'open' || microphone.phase === 'live';
            choice.hidden = !has;
            open.hidden = has || microphone.phase === 'opening';
            join.hidden = onStage || microphone.phase !== 'open';
            become.hidden = !coHost;
            decline.hidden = invited === null;
            mute.hidden = microphone.phase !== 'live';
            leave.hidden = !onStage || tokenRole === 'host';
            setText(mute, microphone.muted ? stageText.unmute : stageText.mute);
            mute.setAttribute('aria-pressed', String(microphone.muted));
            level.set(shareOf(microphone.level));
            setItems(devices, [{ id: '', label: stageText.defaultDevice }, ...microphone.devices], {
                key: ({ id }) => id,
                make: ({ id, label }) => el('option', { value: id, textContent: label }),
                update: (option, { label }) => setText(option, label),
            });
            if (document.activeElement !== devices) {
                devices.value = microphone.device;
            }
        },
    };
}

/** @param {Model} model */
function statusOf({ microphone, invited, me, room }) {
    if (me?.slot != null && invited !== null) {
        return stageText.invitedAs(invited);
    }
    if (me?.slot == null) {
        return microphone.phase === 'open' ? stageText.check : stageText.invitedAs(invited ?? 'speaker');
    }
    if (microphone.phase !== 'live' || microphone.muted) {
        return stageText.mutedNow;
    }
    return room?.listeners === 0 ? stageText.nobody : stageText.live;
}

/** Why nobody can hear the speaker; empty if they can. @param {Model} model */
function troubleOf({ microphone, me, room, state }) {
    if (microphone.error) {
        return microphone.error;
    }
    if (me?.slot == null || microphone.phase !== 'live' || microphone.muted) {
        return '';
    }
    if (state.phase !== 'live') {
        return stageText.offline;
    }
    if (microphone.lost) {
        return stageText.lost;
    }
    // One's own unmuting takes a moment to come back with the room's document.
    const settled = performance.now() - microphone.mutedAt > SETTLED;
    if (settled && room?.stage.find(({ slot }) => slot === me.slot)?.muted) {
        return stageText.mutedByHost;
    }
    return microphone.silent ? stageText.silent : '';
}
