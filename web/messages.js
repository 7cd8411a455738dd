// What page, worker and worklet say to each other.

/**
 * What the page asks for.
 * @typedef {{type: 'start', room: string, base: string, token: string | null, name?: string,
 *     clientKey: string, ticket?: string, sound: MessagePort}
 *     | {type: 'say', message: {type: string} & {[field: string]: unknown}}
 *     | {type: 'hand', raised: boolean, name?: string}
 *     | {type: 'glitch'}
 *     | {type: 'accept'} | {type: 'leave_stage'} | {type: 'stop'} | {type: 'wake'}
 *     | {type: 'microphone', port: MessagePort} | {type: 'mute', muted: boolean}} Order
 */
/**
 * What the page is told besides the visit's news.
 * @typedef {import('./session/visit.js').News
 *     | {type: 'speaking', voices: {slot: number, level: number, voice: boolean}[]}
 *     | {type: 'stats', stats: Stats}
 *     | {type: 'fault', detail: string}} Told
 * @typedef {{ticks: number, lost: number, late: number, concealedMs: number, delayMs: number | null,
 *     holdMs: number, moved: number, repaired: number, duplicate: number, malformed: number,
 *     decoderErrors: number}} Stats
 */
/**
 * What the worklet tells of what it plays.
 * @typedef {{targets: [number, number][], delay: number | null, played: number,
 *     concealedMs: number, late: number}} Playing
 */

export {};
