// Which page it is: the front page, a room, or making one.

import { showCreate } from './create.js';
import { showLobby } from './lobby.js';
import { showRoom } from './room.js';

const app = /** @type {HTMLElement} */ (document.getElementById('app'));
const [, place, name] = /^\/(rooms|new)?\/?(.*)$/.exec(location.pathname) ?? [];

// A link with a token that is opened in the tab of its room changes nothing but the fragment.
addEventListener('hashchange', () => location.hash && location.reload());

const { hash } = location;
if (hash) {
    // A token does not stay in the address bar, in the history or in a picture of the screen.
    history.replaceState(null, '', location.pathname);
}

if (place === 'rooms' && name) {
    const visitor = showRoom(app, decoded(name), hash);
    // What is played, for measurements from outside.
    Object.assign(globalThis, { stentor: { visitor } });
} else if (place === 'new') {
    showCreate(app, hash);
} else {
    showLobby(app);
}

/** A name in a link; one that is no escaped text names no room, and is shown as it is. @param {string} escaped */
function decoded(escaped) {
    try {
        return decodeURIComponent(escaped);
    } catch {
        return escaped;
    }
}
