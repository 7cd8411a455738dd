// What is kept in the browser: a host's token until it is forgotten, a listener's for the tab, so
// that a reload is the same person. A browser that keeps nothing is no hindrance.

const HOST = 'stentor.host.';
const LISTENER = 'stentor.listener.';
const TICKET = 'stentor.ticket.';
const KEY = 'stentor.client-key';
const VOLUME = 'stentor.volume';
const NAME = 'stentor.name';
const API_KEY = 'stentor.api-key';

/** @param {() => Storage} where @param {string} name */
function get(where, name) {
    try {
        return where().getItem(name);
    } catch {
        return null;
    }
}

/** @param {() => Storage} where @param {string} name @param {string | null} value */
function set(where, name, value) {
    try {
        if (value === null) {
            where().removeItem(name);
        } else {
            where().setItem(name, value);
        }
    } catch {
        // The browser keeps nothing for this page.
    }
}

const tab = () => sessionStorage;
const browser = () => localStorage;

/** The token in a link's fragment. @param {string} fragment */
export function tokenOf(fragment) {
    return new URLSearchParams(fragment.replace(/^#/, '')).get('token');
}

/** The token to come with: that of the link, else the host's, else the tab's. @param {string} room @param {string} fragment */
export function tokenFor(room, fragment) {
    const given = tokenOf(fragment);
    if (given) {
        set(browser, HOST + room, given);
        return given;
    }
    return get(browser, HOST + room) ?? get(tab, LISTENER + room);
}

/** Forgets a token that the server does not take. @param {string} room */
export function forgetTokens(room) {
    set(browser, HOST + room, null);
    set(tab, LISTENER + room, null);
}

/** @param {string} room @param {string} token */
export function keepListenerToken(room, token) {
    set(tab, LISTENER + room, token);
}

/** @param {string} room */
export const ticketFor = (room) => get(tab, TICKET + room) ?? undefined;

/** @param {string} room @param {string | null} ticket */
export const keepTicket = (room, ticket) => set(tab, TICKET + room, ticket);

/** The secret that a waiting ticket is bound to: 32 random bytes. */
export function clientKey() {
    const known = get(tab, KEY);
    if (known) {
        return known;
    }
    const bytes = crypto.getRandomValues(new Uint8Array(32));
    const key = btoa(String.fromCharCode(...bytes))
        .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
    set(tab, KEY, key);
    return key;
}

/** Forgets the link's token, whose role has been taken back. @param {string} room */
export const forgetStage = (room) => set(browser, HOST + room, null);

/** The key with which this tab makes rooms. */
export const apiKey = () => get(tab, API_KEY) ?? '';

/** @param {string} key */
export const keepApiKey = (key) => set(tab, API_KEY, key);

export const name = () => get(browser, NAME) ?? '';

/** @param {string} value */
export const keepName = (value) => set(browser, NAME, value);

export const volume = () => Number(get(browser, VOLUME) ?? '1');

/** @param {number} value */
export const keepVolume = (value) => set(browser, VOLUME, String(value));
