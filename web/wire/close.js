// Close codes (PROTOCOL section 9).

/** @typedef {'peer' | 'node' | 'nobody'} Side whose fault a close is */
/** @typedef {{code: number, name: string, reason: string}} Close */

/** @type {ReadonlyMap<number, [name: string, side: Side]>} */
export const CLOSE_CODES = new Map([
    [0x00, ['done', 'nobody']],
    [0x01, ['room_ended', 'nobody']],
    [0x02, ['draining', 'nobody']],
    [0x03, ['replaced', 'nobody']],
    [0x04, ['waiting', 'nobody']],
    [0x05, ['redirect', 'nobody']],
    [0x06, ['demoted', 'nobody']],
    [0x10, ['protocol', 'peer']],
    [0x11, ['message_too_large', 'peer']],
    [0x12, ['too_many_messages', 'peer']],
    [0x13, ['no_hello', 'peer']],
    [0x14, ['version', 'peer']],
    [0x15, ['datagrams_too_small', 'peer']],
    [0x16, ['too_many_bad_datagrams', 'peer']],
    [0x20, ['token_missing', 'peer']],
    [0x21, ['token_invalid', 'peer']],
    [0x22, ['token_expired', 'peer']],
    [0x23, ['token_room', 'peer']],
    [0x24, ['token_role', 'peer']],
    [0x25, ['origin_only', 'peer']],
    [0x26, ['ticket_invalid', 'peer']],
    [0x27, ['ticket_expired', 'peer']],
    [0x28, ['ticket_identity', 'peer']],
    [0x29, ['ticket_spent', 'peer']],
    [0x2a, ['ticket_place', 'peer']],
    [0x2b, ['stage_only', 'peer']],
    [0x2c, ['removed', 'peer']],
    [0x2d, ['banned', 'peer']],
    [0x30, ['no_room', 'peer']],
    [0x31, ['stage_full', 'nobody']],
    [0x32, ['room_locked', 'nobody']],
    [0x40, ['full', 'node']],
    [0x41, ['no_parent', 'node']],
    [0x42, ['room_timeout', 'node']],
    [0x43, ['internal', 'node']],
]);

/**
 * @param {number} code
 * @param {string} reason
 * @returns {Close}
 */
export function closeOf(code, reason) {
    return { code, name: CLOSE_CODES.get(code)?.[0] ?? `code ${code}`, reason };
}

/** Whose fault a close is; an unknown code goes by its range. @param {number} code @returns {Side} */
export function sideOf(code) {
    const known = CLOSE_CODES.get(code);
    if (known) {
        return known[1];
    }
    return code < 0x10 ? 'nobody' : code < 0x40 ? 'peer' : 'node';
}

/**
 * Whether a close ends the visit in this role and not only the session: the client is at fault, the
 * room is over, or the host has decided so.
 * @param {Close} close
 */
export function isFinal(close) {
    return sideOf(close.code) === 'peer' || ['done', 'room_ended', 'replaced', 'demoted', 'room_locked'].includes(close.name);
}
