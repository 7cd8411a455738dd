// Every text of the page, in plain English.

const number = new Intl.NumberFormat('en');

/** @param {number} value */
export const count = (value) => number.format(value);

const compact = new Intl.NumberFormat('en', { notation: 'compact' });

/** A number in little room. @param {number} value */
export const shortCount = (value) => compact.format(value);

/** @param {number} value @param {string} one @param {string} many */
export const counted = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

/** A time that has passed or will, as people say it. @param {number} ms */
export function span(ms) {
    const minutes = Math.round(ms / 60_000);
    if (ms < 60_000) {
        return counted(Math.max(1, Math.round(ms / 1000)), 'second', 'seconds');
    }
    if (minutes < 60) {
        return counted(minutes, 'minute', 'minutes');
    }
    const [hours, rest] = [Math.floor(minutes / 60), minutes % 60];
    return counted(hours, 'hour', 'hours') + (rest > 0 ? ` ${count(rest)} min` : '');
}

/** @param {number} seconds since 1970 */
export function moment(seconds) {
    return new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'short' })
        .format(new Date(seconds * 1000));
}

/**
 * A state of a visit in words.
 * @param {import('./model.js').ListenState} state
 * @param {number | null} waitMs how long the wait will be, where that is known
 */
export function stateText(state, waitMs = null) {
    switch (state.phase) {
        case 'idle':
            return 'Press Listen to hear the room.';
        case 'joining':
        case 'connecting':
            return 'Connecting…';
        case 'live':
            return 'You are listening live.';
        case 'reconnecting':
            return 'The connection was lost. Reconnecting by itself…';
        case 'waiting': {
            const line = `The room is full at the moment. You are number ${count(state.place)}` +
                `${state.waiting > state.place ? ` of ${count(state.waiting)}` : ''} in line`;
            return `${line}; about ${span(waitMs ?? state.retryMs)}. You keep your place, and sound starts by itself.`;
        }
        case 'ended':
            return endText(state.name, state.reason);
    }
}

/** @type {{[name: string]: string}} */
const ENDS = {
    stopped: 'You have stopped listening.',
    room_ended: 'The room has ended. Thank you for listening.',
    replaced: 'You have joined from another tab or device with the same link. Sound goes on there. To go on here, press Listen.',
    removed: 'The host has removed you from this room.',
    banned: 'The host has banned you from this room.',
    no_room: 'There is no room of this name, or it has ended. Check the link.',
    room_locked: 'The host has locked the room: nobody new can come in at the moment. Try again later.',
    token_missing: 'This room is by invitation. Open it with the link that you were sent.',
    token_expired: 'Your link has expired. Ask the host for a new one.',
    token_invalid: 'Your link is not valid. Check that you have copied all of it, or ask the host for a new one.',
    token_room: 'Your link is for another room. Ask the host for the right one.',
    demoted: 'The host has taken you from the stage. Open the room’s link again to listen.',
    token_role: 'Your link does not allow this. Ask the host for another one.',
};

/** Why a visit has ended, and what to do. @param {string} name @param {string} reason */
export function endText(name, reason) {
    return ENDS[name] ?? `The server has ended the visit: ${reason || name}. Press Listen to try again.`;
}

export const text = Object.freeze({
    brand: 'Stentor',
    listen: 'Listen',
    stop: 'Stop listening',
    leaveLine: 'Leave the line',
    liveOnStage: 'You are connected.',
    liveBefore: 'You are connected. Nobody is on stage yet; sound starts by itself.',
    goOn: 'Listen here',
    stage: 'On stage',
    nobodyOnStage: 'Nobody is on stage yet.',
    nobodySpeaks: 'Nobody is speaking at the moment.',
    speakingNow: 'Speaking now: ',
    muted: 'muted',
    you: 'you',
    level: 'Loudness of ',
    volume: 'Volume',
    raise: 'Raise hand',
    lower: 'Lower hand',
    raised: 'Your hand is raised. The host can see it.',
    lowered: 'Your hand is down.',
    handLowered: 'The host has lowered your hand.',
    name: 'Your name',
    nameHint: 'Shown to the host with your hand, and to everyone on stage',
    reactions: 'Reactions',
    glitch: 'I hear a glitch',
    glitchThanks: 'Thank you. The host sees where listeners hear glitches.',
    quality: 'Sound and connection',
    delay: 'Delay of playback',
    loss: 'Lost',
    concealed: 'Filled in',
    moves: 'Changes of relay',
    relay: 'Relay',
    privateRoom: 'By invitation',
    locked: 'Locked',
    live: 'Live',
    scheduled: 'Starts',
    noScript: 'This page needs JavaScript.',
    leaving: 'Leave the stage',
});

/** @type {{[role: string]: string}} */
export const ROLES = { host: 'Host', 'co-host': 'Co-host', speaker: 'Speaker', listener: 'Listener' };

/** Kinds of reactions, each with an icon of its name. @type {readonly [kind: string, name: string][]} */
export const REACTIONS = Object.freeze([
    ['clap', 'Applause'],
    ['agree', 'Agreement'],
    ['heart', 'Heart'],
    ['laugh', 'Laughter'],
    ['wow', 'Surprise'],
]);

/** What a browser lacks, and what to do. @type {{[what: string]: string}} */
export const LACKS = {
    secure: 'This page was opened over an insecure connection, so the browser does not let it play live sound. Open it with https:// at its start.',
    WebTransport: 'This browser has no WebTransport, by which the sound comes. Use a current Chrome, Edge, Firefox or Opera.',
    WebCodecs: 'This browser cannot decode the sound (it has no WebCodecs for audio). Use a current Chrome, Edge, Firefox or Opera.',
    AudioWorklet: 'This browser has no AudioWorklet, by which the sound is played. Use a current Chrome, Edge, Firefox or Opera.',
    modules: 'This browser is too old for this page. Use a current Chrome, Edge, Firefox or Opera.',
};

export const stageText = Object.freeze({
    title: 'Your microphone',
    invited: 'The host invites you to the stage.',
    invitedAs: (/** @type {string} */ role) => `The host invites you to the stage as ${(ROLES[role] ?? role).toLowerCase()}.`,
    check: 'Choose a microphone and say a few words. Nobody hears you yet.',
    open: 'Set up the microphone',
    join: 'Go on stage and speak',
    decline: 'Not now',
    microphone: 'Microphone',
    level: 'Level of your microphone',
    mute: 'Mute',
    unmute: 'Speak',
    joining: 'Going on stage…',
    live: 'You are on stage, and you can be heard.',
    mutedNow: 'You are on stage and muted. Nobody hears you.',
    mutedByHost: 'The host has muted you. Nobody hears you.',
    silent: 'Your microphone is silent. Nobody hears you: check that it is the right one and that it is switched on.',
    lost: 'Your microphone has gone. Nobody hears you: connect it again, or choose another.',
    offline: 'The connection was lost. Nobody hears you until it is back.',
    nobody: 'Nobody is listening yet.',
    denied: 'The browser does not let this page use a microphone. Allow it in the address bar, then try again.',
    none: 'There is no microphone. Connect one, then try again.',
    busy: 'The microphone cannot be opened; another program may be using it.',
    failed: 'The stage could not be taken: ',
    become: 'Become co-host',
    demoted: 'The host has taken you back to the audience.',
    defaultDevice: 'The system’s choice',
});

export const hostText = Object.freeze({
    title: 'Your room',
    share: 'Link for everyone',
    copy: 'Copy',
    copied: 'Copied.',
    notCopied: 'The browser does not let the page copy. Press Ctrl+C.',
    oneLink: 'Invite one person by a link',
    oneLinkHint: 'A link of their own, for example to come straight on stage. Whoever has it is that person.',
    privateHint: 'The room is by invitation: everyone needs a link of their own. Whoever has it is that person.',
    guestName: 'Their name',
    guestRole: 'They come as',
    asListener: 'Listener',
    asSpeaker: 'Speaker',
    makeLink: 'Make a link',
    ownLink: 'Their link',
    hands: 'Raised hands',
    noHands: 'No hand is raised.',
    since: (/** @type {string} */ time) => `for ${time}`,
    bring: 'Bring on stage',
    invited: 'Invited',
    withdraw: 'Take back',
    lower: 'Lower',
    people: 'Others on stage',
    nobodyElse: 'Nobody else is on stage.',
    muted: 'muted',
    mute: 'Mute',
    unmute: 'Unmute',
    demote: 'Back to the audience',
    coHost: 'Make co-host',
    coHostInvited: 'Invited as co-host',
    remove: 'Remove',
    ban: 'Ban',
    banYes: 'Yes, ban',
    banAddress: 'Their internet address, too: nobody comes in from there',
    surelyBan: ['Ban ', ' from this room?'],
    unban: 'Lift the ban',
    bans: 'Banned',
    address: 'Address',
    audience: 'Audience',
    listeners: 'Listening',
    waiting: 'Waiting',
    well: 'Hear well',
    glitches: 'Glitches in the last minute',
    trouble: 'Where the trouble is',
    columns: ['Where', 'Listening', 'Hear well'],
    region: 'Region',
    relay: 'Relay',
    noTrouble: 'Nobody reports trouble.',
    noReports: 'Nobody has reported yet how they hear.',
    lock: 'Lock the room',
    unlock: 'Unlock the room',
    end: 'End the room',
    surely: 'End the room for everyone?',
    yes: 'Yes, end it',
    no: 'No',
});

export const lobbyText = Object.freeze({
    title: 'Live audio rooms',
    lead: 'Rooms that anyone may listen to.',
    live: 'Live now',
    scheduled: 'To come',
    none: 'There is no public room at the moment.',
    all: 'All topics',
    topic: 'Topic',
    create: 'Start a room',
    failed: 'The rooms cannot be shown: ',
});

export const newText = Object.freeze({
    title: 'Start a room',
    name: 'Title',
    topic: 'Topic',
    topicHint: 'One or two words; visitors choose rooms by it.',
    yourName: 'Your name',
    yourNameHint: 'Everyone in the room sees it when you are on stage.',
    public: 'Anyone may listen',
    publicHint: 'It is listed on the front page. Otherwise people need a link with a key.',
    start: 'Starts at',
    startHint: 'Leave it empty to start now.',
    key: 'Key',
    keyHint: 'Whoever runs this server gives it to hosts.',
    make: 'Create the room',
    cancel: 'Back',
});
