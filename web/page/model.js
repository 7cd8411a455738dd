// What a room's page knows. Views read it; the room's controller changes it and says so.

/**
 * @typedef {import('../session/visit.js').State | {phase: 'idle'}} ListenState
 * @typedef {import('../wire/control.js').OnStage} OnStage
 * @typedef {import('../messages.js').Stats} Stats
 * @typedef {{slot: number, level: number, voice: boolean}} SpeakingVoice
 */

/**
 * The room as it is known, by the API before one listens, by the session from then on.
 * @typedef {{title: string, topic: string, stage: OnStage[], listeners: number, waiting: number,
 *     hands: number, locked: boolean, public: boolean, startedMs: number | null,
 *     startsAt: number | null, reactions: {[kind: string]: number}}} RoomInfo
 */

/**
 * The microphone: `closed` until it is asked for, `open` when its level is shown, `live` when it is
 * sent.
 * @typedef {{phase: 'closed' | 'opening' | 'open' | 'live', muted: boolean, mutedAt: number, level: number,
 *     silent: boolean, lost: boolean, error: string, device: string,
 *     devices: {id: string, label: string}[]}} Microphone
 */

/**
 * What only hosts see.
 * @typedef {{participants: import('../api.js').Participants | null, stats: import('../api.js').Statistics | null, error: string}} HostInfo
 */

/**
 * @typedef {{name: string, room: RoomInfo | null, problem: string, state: ListenState,
 *     waitMs: number | null, me: {identity: string, role: string, slot: number | null, relay: string} | null,
 *     tokenRole: string | undefined, voices: SpeakingVoice[], stats: Stats | null, volume: number,
 *     invited: string | null, hand: boolean, notice: string, microphone: Microphone, host: HostInfo}} Model
 */

/** @param {string} name @param {string | undefined} tokenRole @returns {Model} */
export function newModel(name, tokenRole) {
    return {
        name, tokenRole, room: null, problem: '', state: { phase: 'idle' }, waitMs: null, me: null,
        voices: [], stats: null, volume: 1, invited: null, hand: false, notice: '',
        microphone: {
            phase: 'closed', muted: true, mutedAt: 0, level: 127, silent: false, lost: false, error: '',
            device: '', devices: [],
        },
        host: { participants: null, stats: null, error: '' },
    };
}

/** Whether the person runs the room. @param {Model} model */
export function isHost({ tokenRole, me }) {
    return [tokenRole, me?.role].some((role) => role === 'host' || role === 'co-host');
}

/** As what the person acts, where it is more than listening. @param {Model} model */
export function roleOf({ tokenRole, me }) {
    return tokenRole ?? me?.role ?? 'listener';
}

/** Whether the session is there or being sought. @param {Model} model */
export function isListening({ state }) {
    return state.phase !== 'idle' && state.phase !== 'ended';
}

/** @param {import('../api.js').Room} room @returns {RoomInfo} */
export function infoOfApi(room) {
    return {
        title: room.title, topic: room.topic ?? '', stage: room.stage ?? [],
        listeners: room.listeners ?? 0, waiting: room.waiting ?? 0, hands: room.hands ?? 0,
        locked: room.locked ?? false, public: room.public ?? true,
        startedMs: room.started_ms ?? null, startsAt: room.starts_at ?? null, reactions: {},
    };
}

/** @param {RoomInfo | null} before @param {import('../wire/control.js').RoomDocument} document @returns {RoomInfo} */
export function infoOfSession(before, document) {
    const { title, stage, listeners, waiting, hands, locked, reactions, started_ms } = document;
    return {
        title, stage, listeners, waiting, hands, locked, reactions,
        startedMs: started_ms ?? before?.startedMs ?? null,
        topic: before?.topic ?? '', public: before?.public ?? true, startsAt: before?.startsAt ?? null,
    };
}
