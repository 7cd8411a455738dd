// Which page it is: the front page, a room, or making one.

import { showCreate } from './create.js';
import { showLobby } from './lobby.js';
import { showRoom } from './room.js';

const app = /** @type {HTMLElement} */ (document.getElementById('app'));
const [, place, name] = /^\/(rooms|new)?\/?(.*)$/.exec(location.pathname) ?? [];

if (place === 'rooms' && name) {
    const { hash } = location;
    // A token does not stay in the address bar, in the history or in a picture of the screen.
    history.replaceState(null, '', location.pathname);
    const visitor = showRoom(app, decodeURIComponent(name), hash);
    // What is played, for measurements from outside.
    Object.assign(globalThis, { stentor: { visitor } });
} else if (place === 'new') {
    showCreate(app);
} else {
    showLobby(app);
}
