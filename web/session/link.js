// One WebTransport session: a control stream and datagrams (PROTOCOL sections 2 and 11).

import { closeOf } from '../wire/close.js';
import { ControlError, MessageReader, helloMessage, messageBytes } from '../wire/control.js';

/** @typedef {import('../wire/close.js').Close} Close */
/** @typedef {import('../wire/control.js').Hello} Hello */
/** @typedef {import('../wire/control.js').Place} Place */
/** @typedef {import('../wire/control.js').ServerMessage} ServerMessage */

/**
 * Who is told what a session brings. `down` comes once, and nothing after it.
 * @typedef {{message: (message: ServerMessage) => void, datagram: (bytes: Uint8Array) => void,
 *     down: (close: Close | null) => void}} Handlers
 */
/** @typedef {{message: (message: {type: string}) => void, datagram: (bytes: Uint8Array) => void,
 *     leave: () => void}} Link */

/** Datagrams that wait for the script: two seconds of a room. The browsers' default holds one. */
const INCOMING = 128;
/** A datagram that has waited for so long in the browser is not sent, in ms. */
const OUTGOING_AGE = 200;

/**
 * Opens a session and says hello.
 * @param {Place} place
 * @param {Hello} hello
 * @param {Handlers} handlers
 * @returns {Link}
 */
export function openLink(place, hello, handlers) {
    return new Session(place, hello, handlers);
}

/** @implements {Link} */
class Session {
    #handlers;
    #transport;
    #over = false;
    /** @type {WritableStreamDefaultWriter<Uint8Array> | null} */
    #control = null;
    /** @type {WritableStreamDefaultWriter<Uint8Array> | null} */
    #datagrams = null;

    /** @param {Place} place @param {Hello} hello @param {Handlers} handlers */
    constructor(place, hello, handlers) {
        this.#handlers = handlers;
        try {
            this.#transport = new WebTransport(`https://${place.address}/v1/session`, {
                requireUnreliable: true,
                congestionControl: 'low-latency',
                ...hashesOf(place),
            });
        } catch {
            // An address that is no URL, or a browser that refuses the options.
            this.#transport = null;
            queueMicrotask(() => this.#down(null));
            return;
        }
        const transport = this.#transport;
        raiseQueues(transport.datagrams);
        transport.closed.then(
            ({ closeCode = 0, reason = '' }) => this.#down(closeOf(closeCode, reason)),
            () => this.#down(null),
        );
        this.#open(transport, hello).catch((error) => this.#failed(error));
    }

    /** @param {{type: string}} message */
    message(message) {
        this.#control?.write(messageBytes(message)).catch(() => {});
    }

    /** @param {Uint8Array} bytes */
    datagram(bytes) {
        this.#datagrams?.write(bytes).catch(() => {});
    }

    leave() {
        this.#over = true;
        this.#close(0, '');
    }

    /** @param {WebTransport} transport @param {Hello} hello */
    async #open(transport, hello) {
        await transport.ready;
        const { readable, writable } = await transport.createBidirectionalStream();
        this.#control = writable.getWriter();
        this.#datagrams = transport.datagrams.writable.getWriter();
        this.message(helloMessage(hello));
        this.#readDatagrams(transport).catch((error) => this.#failed(error));
        const messages = new MessageReader();
        await eachChunk(readable, (bytes) => {
            for (const message of messages.push(bytes)) {
                if (!this.#over) {
                    this.#handlers.message(message);
                }
            }
        });
    }

    /** @param {WebTransport} transport */
    async #readDatagrams(transport) {
        await eachChunk(transport.datagrams.readable, (bytes) => {
            if (!this.#over) {
                this.#handlers.datagram(bytes);
            }
        });
    }

    /** A message that breaks the protocol ends the session; a broken stream ends with it. @param {unknown} error */
    #failed(error) {
        if (error instanceof ControlError) {
            const code = error.close === 'protocol' ? 0x10 : 0x11;
            this.#down(null);
            this.#close(code, error.message);
        } else if (!(error instanceof DOMException) && !(error instanceof TypeError)) {
            throw error;
        }
    }

    /** @param {number} closeCode @param {string} reason */
    #close(closeCode, reason) {
        try {
            this.#transport?.close({ closeCode, reason });
        } catch {
            // It has not been opened yet, or is closed: there is nobody to tell.
        }
    }

    /** @param {Close | null} close */
    #down(close) {
        if (!this.#over) {
            this.#over = true;
            this.#handlers.down(close);
        }
    }
}

/** @param {ReadableStream<Uint8Array>} stream @param {(bytes: Uint8Array) => void} take */
async function eachChunk(stream, take) {
    const reader = stream.getReader();
    for (;;) {
        const { value, done } = await reader.read();
        if (done) {
            return;
        }
        take(value);
    }
}

/** Makes room for what comes while the script is busy; the name differs between browsers. @param {any} datagrams */
function raiseQueues(datagrams) {
    for (const name of ['incomingMaxBufferedDatagrams', 'incomingHighWaterMark']) {
        if (name in datagrams) {
            datagrams[name] = INCOMING;
        }
    }
    if ('outgoingMaxAge' in datagrams) {
        datagrams.outgoingMaxAge = OUTGOING_AGE;
    }
}

/** @param {Place} place */
function hashesOf({ certificate_hashes: hashes }) {
    if (!hashes || hashes.length === 0) {
        return {};
    }
    const serverCertificateHashes = hashes.map((hash) => ({
        algorithm: 'sha-256',
        value: fromBase64Url(hash),
    }));
    return { serverCertificateHashes };
}

/** @param {string} text */
function fromBase64Url(text) {
    const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
    return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}
