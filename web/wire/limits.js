// The bounds of PROTOCOL section 10 that a client keeps; a test compares them with that table.
// Durations are milliseconds for a cadence of 20 ms.

export const limits = Object.freeze({
    DATAGRAM_BYTES: 1100,
    DATAGRAM_HEADER_BYTES: 16,
    RECORD_HEADER_BYTES: 16,
    RECORD_BYTES: 1084,
    FRAME_BYTES: 1000,
    RECORDS_PER_DATAGRAM: 32,
    FRAMES_PER_TICK: 32,
    FRAMES_PER_SPEECH: 8,
    EARLIER_FRAMES: 2,
    PAUSE_BYTES: 2,
    TICKS_AHEAD: 250,
    WINDOW_TICKS: 256,
    CONTROL_BYTES: 16384,
    NAME_BYTES: 128,
    PASS_BYTES: 4096,
    TICKET_BYTES: 4096,
    SIBLINGS: 8,
    REHOME_BEHIND: 5,
    REHOME_ATTEMPTS: 2,
    PROBES: 16,
    REPAIR_TRIES: 2,
    CLOSE_APART: 15,
    SURPLUS_WAIT: 60,
    REPAIR_SKEW: 10,
    SILENT_AFTER: 110,
    SILENT_MOST: 600,
    JITTER_MEMORY: 15000,
    PROBE_EVERY: 40,
    REHOME_SPREAD: 40,
    REHOME_NEXT: 250,
    REHOME_ATTEMPT: 5000,
    REHOME_PAUSE: 250,
    REHOME_PAUSE_MOST: 5000,
    REHOME_GIVE_UP: 300000,
    REPAIR_DEADLINE: 300,
    PLAYOUT: 100,
});

/** One tick, and one frame, at the usual cadence. */
export const TICK_MS = 20;
/** The cadences that a room may have. */
export const CADENCES = Object.freeze([20, 40, 60]);
/** The rate of all sound, in samples a second, and the samples of one frame. */
export const RATE = 48000;
export const BLOCK = 960;
/** Whoever was not called for so long was asleep: what came meanwhile has not been read yet. */
export const ASLEEP_MS = 1000;
/** A session that is welcomed but starved takes over from a silent one after so long. */
export const STARVED_MS = 1000;
/** Who waits comes again a random time later than told: a sixteenth, and this at most. */
export const RETRY_SPREAD_MS = 250;
/** Sessions at once: the one that serves, and two attempts. */
export const FEEDS = 3;
/** Frames that wait for one speaker at most, and the least and longest that they are held, in ms. */
export const JITTER_FRAMES = 64;
export const JITTER_LEAST = 20;
export const JITTER_MOST = 400;
/** Speakers that are decoded at once, and how long one is kept that is not heard, in ms. */
export const VOICES = 32;
export const VOICE_LINGER = 5000;
