// What a browser must have, and what is said where it has not.

import { LACKS } from './texts.js';

/** What this browser lacks, in a sentence; null if it has everything. @param {typeof globalThis} scope */
export function lackOf(scope) {
    if (!scope.isSecureContext) {
        return LACKS.secure;
    }
    if (!('WebTransport' in scope)) {
        return LACKS.WebTransport;
    }
    if (!('AudioDecoder' in scope) || !('AudioEncoder' in scope)) {
        return LACKS.WebCodecs;
    }
    return 'AudioWorkletNode' in scope ? null : LACKS.AudioWorklet;
}
