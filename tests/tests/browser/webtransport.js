// A listener in a page: joins a room over WebTransport, by docs/PROTOCOL.md.

/** Opens a session to `relay`, whose certificate has this SHA-256 hash (a list of bytes). */
export async function open(relay, hash, path = "/v1/session") {
    const hashes = [{ algorithm: "sha-256", value: new Uint8Array(hash) }];
    const options = { serverCertificateHashes: hashes, congestionControl: "low-latency" };
    const transport = new WebTransport(`https://${relay}${path}`, options);
    transport.datagrams.incomingHighWaterMark = 500;
    await transport.ready;
    return transport;
}

/** Says hello on the control stream; returns its reader. */
export async function hello(transport, room, token) {
    const control = await transport.createBidirectionalStream();
    const message = { type: "hello", version: 1, role: "listener", room, token };
    const json = new TextEncoder().encode(JSON.stringify(message));
    const writer = control.writable.getWriter();
    await writer.write(new Uint8Array([json.length >> 8, json.length & 255, ...json]));
    return control.readable.getReader();
}

/** The first control message of that type. */
export async function message(reader, type) {
    let bytes = [];
    for (;;) {
        while (bytes.length >= 2 && bytes.length >= 2 + bytes[0] * 256 + bytes[1]) {
            const end = 2 + bytes[0] * 256 + bytes[1];
            const found = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes.slice(2, end))));
            if (found.type === type) {
                return found;
            }
            bytes = bytes.slice(end);
        }
        const { value, done } = await reader.read();
        if (done) {
            throw new Error(`the stream ended before ${type}`);
        }
        bytes.push(...value);
    }
}

/** The numbers of the live ticks that come within so long, each once. */
export async function ticks(transport, milliseconds) {
    const reader = transport.datagrams.readable.getReader();
    const over = new Promise((resolve) => setTimeout(resolve, milliseconds, null));
    const numbers = new Set();
    for (;;) {
        const next = await Promise.race([reader.read(), over]);
        if (next === null || next.done) {
            return [...numbers];
        }
        const view = new DataView(next.value.buffer, next.value.byteOffset, next.value.byteLength);
        if (view.getUint8(0) === 1 && (view.getUint8(1) & 1) === 0) {
            numbers.add(view.getUint32(16));
        }
    }
}
