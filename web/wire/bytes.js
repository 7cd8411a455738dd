// Reading and writing big-endian bytes.

/** Bytes that are no message of the protocol, and how they are wrong. */
export class WireError extends Error {
    /** @param {'truncated' | 'oversized' | 'unknown_kind' | 'malformed'} kind */
    constructor(kind) {
        super(kind);
        this.kind = kind;
    }
}

/** A place in bytes that moves on as they are read; every read past the end throws. */
export class Reader {
    /** @param {Uint8Array} bytes */
    constructor(bytes) {
        this.bytes = bytes;
        this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
        this.at = 0;
    }

    get left() {
        return this.bytes.length - this.at;
    }

    /** @param {number} count */
    #advance(count) {
        if (this.left < count) {
            throw new WireError('truncated');
        }
        const at = this.at;
        this.at += count;
        return at;
    }

    u8() {
        return this.view.getUint8(this.#advance(1));
    }

    u16() {
        return this.view.getUint16(this.#advance(2));
    }

    u32() {
        return this.view.getUint32(this.#advance(4));
    }

    /** Exact below 2^53; beyond, no clock of this millennium. */
    u64() {
        const at = this.#advance(8);
        return this.view.getUint32(at) * 2 ** 32 + this.view.getUint32(at + 4);
    }

    /** @param {number} count */
    skip(count) {
        this.#advance(count);
    }

    /** The next bytes, not copied. @param {number} count */
    take(count) {
        const at = this.#advance(count);
        return this.bytes.subarray(at, at + count);
    }
}

/** Bytes that are written one after the other into a room of known size. */
export class Writer {
    /** @param {number} size */
    constructor(size) {
        this.bytes = new Uint8Array(size);
        this.view = new DataView(this.bytes.buffer);
        this.at = 0;
    }

    /** @param {number} value */
    u8(value) {
        this.view.setUint8(this.at, value);
        this.at += 1;
    }

    /** @param {number} value */
    u16(value) {
        this.view.setUint16(this.at, value);
        this.at += 2;
    }

    /** @param {number} value */
    u32(value) {
        this.view.setUint32(this.at, value);
        this.at += 4;
    }

    /** @param {number} value below 2^53 */
    u64(value) {
        this.u32(Math.floor(value / 2 ** 32));
        this.u32(value % 2 ** 32);
    }

    /** @param {Uint8Array} bytes */
    put(bytes) {
        this.bytes.set(bytes, this.at);
        this.at += bytes.length;
    }
}
