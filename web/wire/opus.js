// The shape of an Opus packet (RFC 6716 section 3), without decoding it. A malformed packet closes
// the browser's decoder, so none is handed to it.

/** Bytes of one Opus frame within a packet at most (RFC 6716 section 3.4, R2). */
const FRAME_MOST = 1275;
/** What every packet of a speaker lasts, in units of 2.5 ms. */
const TWENTY_MS = 8;

/**
 * Whether a packet is a well-formed Opus packet of 20 ms in total (R1 to R7). A packet of one byte
 * (a pause) is well formed.
 * @param {Uint8Array} packet
 */
export function isOpus20Ms(packet) {
    if (packet.length === 0) {
        return false;
    }
    const body = packet.subarray(1);
    const count = [oneFrame, twoEqual, twoFrames, manyFrames][packet[0] & 0x03](body);
    return count * frameUnits(packet[0] >> 3) === TWENTY_MS;
}

/** What one frame of a configuration lasts, in units of 2.5 ms. @param {number} config */
function frameUnits(config) {
    if (config < 12) {
        return [4, 8, 16, 24][config & 3];
    }
    return config < 16 ? [4, 8][config & 1] : [1, 2, 4, 8][config & 3];
}

/** @param {Uint8Array} body @returns {number} the count of frames, 0 for a malformed packet */
function oneFrame(body) {
    return body.length <= FRAME_MOST ? 1 : 0;
}

/** @param {Uint8Array} body */
function twoEqual(body) {
    return body.length % 2 === 0 && body.length / 2 <= FRAME_MOST ? 2 : 0;
}

/** @param {Uint8Array} body */
function twoFrames(body) {
    const first = frameLength(body);
    const second = first ? body.length - first.bytes - first.length : -1;
    return second >= 0 && second <= FRAME_MOST ? 2 : 0;
}

/** @param {Uint8Array} body */
function manyFrames(body) {
    if (body.length === 0) {
        return 0;
    }
    const count = body[0] & 0x3f;
    /** @type {Uint8Array | null} */
    let rest = body.subarray(1);
    if ((body[0] & 0x40) !== 0) {
        rest = withoutPadding(rest);
    }
    if (count === 0 || !rest) {
        return 0;
    }
    if ((body[0] & 0x80) === 0) {
        return rest.length % count === 0 && rest.length / count <= FRAME_MOST ? count : 0;
    }
    let taken = 0;
    for (let i = 1; i < count; i++) {
        const frame = frameLength(rest);
        if (!frame) {
            return 0;
        }
        taken += frame.length;
        rest = rest.subarray(frame.bytes);
    }
    const last = rest.length - taken;
    return last >= 0 && last <= FRAME_MOST ? count : 0;
}

/** @param {Uint8Array} rest */
function withoutPadding(rest) {
    let padding = 0;
    for (let at = 0; at < rest.length; at++) {
        if (rest[at] < 255) {
            const end = rest.length - padding - rest[at];
            return end >= at + 1 ? rest.subarray(at + 1, end) : null;
        }
        padding += 254;
    }
    return null;
}

/** A frame's length of one or two bytes (RFC 6716 section 3.2.1). @param {Uint8Array} body */
function frameLength(body) {
    if (body.length === 0) {
        return null;
    }
    if (body[0] < 252) {
        return { length: body[0], bytes: 1 };
    }
    return body.length < 2 ? null : { length: 4 * body[1] + body[0], bytes: 2 };
}
