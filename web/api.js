// The origin's HTTP API (docs/API.md), as far as the page uses it.

/** @typedef {import('./wire/control.js').Place} Place */

/**
 * @typedef {{identity: string, token: string, relays: Place[],
 *     origin?: {address: string, certificate_hashes?: string[]}}} Joined
 * @typedef {{ticket?: string, place: number, waiting: number, retry_ms: number, eta_ms?: number}} Waiting
 * @typedef {{room: string, title: string, topic?: string, public?: boolean,
 *     state?: 'live' | 'scheduled' | 'open', starts_at?: number | null, started_ms?: number | null,
 *     version?: number, stage?: import('./wire/control.js').OnStage[], listeners?: number,
 *     waiting?: number, hands?: number, locked?: boolean}} Room
 * @typedef {{identity: string, name?: string, role?: string, since_ms?: number}} Person
 * @typedef {{identity?: string, address?: string}} Ban
 * @typedef {{hands: Person[], invitations: Person[], bans: Ban[]}} Participants
 * @typedef {{name: string, listeners: number, reporting: number, well: number}} Part
 * @typedef {{listeners: number, reporting: number, well_percent?: number, glitches: number,
 *     regions: Part[], relays: Part[]}} Statistics
 */

/**
 * What a host decides; of a ban, whether the person's address is banned with it, or which one is.
 * @typedef {{action: string, identity?: string, address?: boolean | string}} Decision
 */

/** Pages of the list of rooms that are asked for. */
const ROOM_PAGES = 5;

/** What the API answers when it does not do what it was asked (RFC 9457). */
export class Problem extends Error {
    /** @param {{status: number, code: string, title: string, detail: string, retryAfter: number | null}} what */
    constructor({ status, code, title, detail, retryAfter }) {
        super(detail || title);
        this.status = status;
        this.code = code;
        this.title = title;
        this.retryAfter = retryAfter;
    }
}

export class Api {
    /**
     * @param {string} base where the API is: a URL without a slash at its end
     * @param {string | null} token
     * @param {typeof fetch} fetcher
     */
    constructor(base, token = null, fetcher = (...request) => fetch(...request)) {
        this.base = base;
        this.token = token;
        this.fetcher = fetcher;
    }

    /** Public rooms, live and to come: as many pages of them as are shown at most. @returns {Promise<Room[]>} */
    async rooms() {
        /** @type {Room[]} */
        const all = [];
        let after = '';
        for (let page = 0; page < ROOM_PAGES; page++) {
            const query = new URLSearchParams({ state: 'live,scheduled', ...(after && { after }) });
            const { rooms = [], next } = await this.#json('GET', `/v1/rooms?${query}`);
            all.push(...rooms);
            if (!next) {
                break;
            }
            after = next;
        }
        return all;
    }

    /** @param {string} room @returns {Promise<Room>} */
    room(room) {
        return this.#json('GET', roomPath(room));
    }

    /**
     * @param {{title: string, topic?: string, public?: boolean, starts_at?: number}} wanted
     * @returns {Promise<{room: string, links: {page: string, host_page: string}, host_token: string}>}
     */
    create(wanted) {
        const headers = { 'Idempotency-Key': crypto.randomUUID() };
        return this.#json('POST', '/v1/rooms', wanted, headers);
    }

    /** @param {string} room @param {{[field: string]: unknown}} change */
    change(room, change) {
        return this.#json('PATCH', roomPath(room), change);
    }

    /** Ends a room. @param {string} room */
    end(room) {
        return this.#json('DELETE', roomPath(room));
    }

    /**
     * @param {string} room
     * @param {{name?: string, client_key?: string, ticket?: string}} who
     * @returns {Promise<Joined | {waiting: Waiting}>}
     */
    join(room, who) {
        return this.#json('POST', `${roomPath(room)}/join`, who);
    }

    /**
     * Accepts an invitation to the stage.
     * @param {string} room
     * @returns {Promise<{token: string, address: string, certificate_hashes?: string[]}>}
     */
    accept(room) {
        return this.#json('POST', `${roomPath(room)}/stage`, {});
    }

    /** Mints a token for somebody. @param {string} room @param {{role: string, name?: string}} whose @returns {Promise<{token: string}>} */
    mint(room, whose) {
        return this.#json('POST', `${roomPath(room)}/tokens`, whose);
    }

    /** @param {string} room @param {Decision} action */
    act(room, action) {
        return this.#json('POST', `${roomPath(room)}/actions`, action);
    }

    /** @param {string} room @returns {Promise<Participants>} */
    async participants(room) {
        const { hands = [], invitations = [], bans = [] } =
            await this.#json('GET', `${roomPath(room)}/participants`);
        return { hands, invitations, bans };
    }

    /** How far the line has come, and how fast it moves. @returns {Promise<{rate_per_s?: number, waiting?: number}>} */
    watermark() {
        return this.#json('GET', '/v1/watermark');
    }

    /** @param {string} room @returns {Promise<Statistics>} */
    stats(room) {
        return this.#json('GET', `${roomPath(room)}/stats`);
    }

    /**
     * Reads the room's events until they end.
     * @param {string} room
     * @param {(event: string, data: any) => void} take
     * @param {AbortSignal} signal
     */
    async events(room, take, signal) {
        const response = await this.#request('GET', `${roomPath(room)}/events`, undefined, {}, signal);
        if (!response.body) {
            return;
        }
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = '';
        for (;;) {
            const { value, done } = await reader.read();
            if (done) {
                return;
            }
            const blocks = (text + value).split('\n\n');
            text = blocks.pop() ?? '';
            for (const block of blocks) {
                const field = (/** @type {string} */ name) => block.split('\n')
                    .filter((line) => line.startsWith(`${name}:`))
                    .map((line) => line.slice(name.length + 1).trimStart()).join('\n');
                const data = field('data');
                if (data) {
                    take(field('event') || 'message', JSON.parse(data));
                }
            }
        }
    }

    /** @param {string} method @param {string} path @param {unknown} [body] @param {{[name: string]: string}} [headers] @returns {Promise<any>} */
    async #json(method, path, body, headers = {}) {
        const response = await this.#request(method, path, body, headers);
        const text = await response.text();
        return text ? JSON.parse(text) : {};
    }

    /** @param {string} method @param {string} path @param {unknown} body @param {{[name: string]: string}} headers @param {AbortSignal} [signal] */
    async #request(method, path, body, headers, signal) {
        const fields = new Headers(headers);
        if (this.token) {
            fields.set('Authorization', `Bearer ${this.token}`);
        }
        if (body !== undefined) {
            fields.set('Content-Type', 'application/json');
        }
        let response;
        try {
            response = await this.fetcher(this.base + path, {
                method, headers: fields, cache: 'no-store', signal: signal ?? null,
                body: body === undefined ? null : JSON.stringify(body),
            });
        } catch {
            throw new Problem({
                status: 0, code: 'unreachable', title: 'The server cannot be reached.',
                detail: '', retryAfter: null,
            });
        }
        if (!response.ok) {
            throw await problemOf(response);
        }
        return response;
    }
}

/** What a token says of its bearer; it is the nodes that verify it. @param {string} token @returns {{room?: string, role?: string, sub?: string, exp?: number, name?: string}} */
export function claimsOf(token) {
    try {
        const payload = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
        const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
        const claims = JSON.parse(new TextDecoder().decode(bytes));
        return typeof claims === 'object' && claims !== null ? claims : {};
    } catch {
        return {};
    }
}

/** Whether a role speaks at the origin. @param {string | undefined} role */
export function isStageRole(role) {
    return role === 'host' || role === 'co-host' || role === 'speaker';
}

/** @param {string} room */
function roomPath(room) {
    return `/v1/rooms/${encodeURIComponent(room)}`;
}

/** @param {Response} response */
async function problemOf(response) {
    let body;
    try {
        body = await response.json();
    } catch {
        body = {};
    }
    const text = (/** @type {unknown} */ value, /** @type {string} */ absent) =>
        typeof value === 'string' ? value : absent;
    const seconds = Number(response.headers.get('Retry-After') ?? NaN);
    return new Problem({
        status: response.status,
        code: text(body?.code, `http_${response.status}`),
        title: text(body?.title, `The server answered ${response.status}.`),
        detail: text(body?.detail, ''),
        retryAfter: Number.isFinite(seconds) ? seconds : null,
    });
}
