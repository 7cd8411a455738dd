//! Every limit of the protocol, with its unit and the sum behind it.
//!
//! A bound that is not in this file does not exist; a queue, table or message without a bound in
//! this file is a defect.

use std::time::Duration;

// --- Ticks and datagrams ---------------------------------------------------------------------

/// The cadence of a room: one tick per 20 ms, one Opus frame's duration.
pub const TICK: Duration = Duration::from_millis(20);
/// The cadences a room may have, in milliseconds.
pub const TICK_MS: [u8; 3] = [20, 40, 60];
/// Bytes of a datagram's payload at most, redundancy included.
///
/// 1200 (the smallest QUIC path) less 1-RTT overhead of at most 1 + 20 + 4 + 16 bytes, the
/// DATAGRAM frame's 3 and WebTransport's 1 leaves 1155; 1100 leaves room for tunnels.
pub const DATAGRAM_BYTES: usize = 1100;
/// A peer whose datagrams are smaller than this is refused by name (bytes).
pub const PEER_DATAGRAM_BYTES: usize = 1150;
/// What a datagram takes on a path beside its payload (bytes): IPv4 and UDP 28, the packet and its seal at most
/// 41, the DATAGRAM frame 3.
pub const PACKET_OVERHEAD_BYTES: u64 = 72;
/// Bytes of a ticks datagram before its records.
pub const DATAGRAM_HEADER_BYTES: usize = 16;
/// Bytes of a tick record before its payload.
pub const RECORD_HEADER_BYTES: usize = 16;
/// Bytes of a frame's header within a tick's payload.
pub const FRAME_HEADER_BYTES: usize = 9;
/// Bytes of a speech datagram before its frames.
pub const SPEECH_HEADER_BYTES: usize = 5;
/// Bytes of a frame's header within a speech datagram.
pub const SPEECH_FRAME_HEADER_BYTES: usize = 7;
/// Tick records in one datagram: a live one holds at most 3, a replay packs more.
pub const RECORDS_PER_DATAGRAM: usize = 32;
/// Earlier ticks that a live datagram carries at most.
pub const EARLIER_TICKS: usize = 2;
/// Bytes of one tick record at most, header included.
pub const RECORD_BYTES: usize = DATAGRAM_BYTES - DATAGRAM_HEADER_BYTES;
/// Frames in one tick at most (two of each of 16 slots).
pub const FRAMES_PER_TICK: usize = 32;
/// Frames in one speech datagram: the current one and the previous two, or a repair of eight.
pub const FRAMES_PER_SPEECH: usize = 8;
/// Bytes of one Opus frame at most (a `music` frame; RFC 6716 allows 1275).
pub const FRAME_BYTES: usize = 1000;
/// A tick further ahead of the newest than this is refused as forged (ticks; 5 s: as much may wait in
/// the socket of a node that stood still). Below [`WINDOW_TICKS`]: after a forged jump that is just
/// allowed, honest ticks are not too late.
pub const TICKS_AHEAD: u32 = 250;
const _: () = assert!(TICKS_AHEAD < WINDOW_TICKS);

const _: () = assert!(RECORD_HEADER_BYTES + 1 + FRAME_HEADER_BYTES + FRAME_BYTES <= RECORD_BYTES);
const _: () = assert!(DATAGRAM_BYTES < PEER_DATAGRAM_BYTES);
const _: () =
    assert!(SPEECH_HEADER_BYTES + SPEECH_FRAME_HEADER_BYTES + FRAME_BYTES <= DATAGRAM_BYTES);

// --- Control stream --------------------------------------------------------------------------

/// Bytes of one control message at most, its length prefix excluded.
pub const CONTROL_BYTES: usize = 16 * 1024;
/// Control messages that a session may send in a second, and in a burst of the same size.
pub const CONTROL_PER_S: u32 = 20;
/// Control messages that a child relay may send in a second, and in a burst of the same size: it
/// leaves and takes every room at once when it changes parents.
pub const CHILD_CONTROL_PER_S: u32 = 2 * ROOMS_PER_CHILD as u32 + CONTROL_PER_S;
/// Datagrams a second that break the protocol before their session is closed: a path that damages
/// or an old client makes a few, a flood makes more.
pub const BAD_PER_S: u32 = 20;
/// Bytes of a close's reason at most: it may repeat what a peer sent, and goes into one packet.
pub const REASON_BYTES: usize = 256;
/// Bytes of a room's or an identity's name.
pub const NAME_BYTES: usize = 128;
/// Bytes of a room's title and of its topic.
pub const TITLE_BYTES: usize = 200;
/// Bytes of a token (JWT).
pub const TOKEN_BYTES: usize = 4096;
/// Bytes of a re-home pass: a certificate and the relay's word, each with names of
/// [`NAME_BYTES`] that JSON and base64 may make eight times as long.
pub const PASS_BYTES: usize = 4096;
/// How long a certificate for a relay's pass key is good (seconds); it is renewed after half of it.
pub const CERTIFICATE_S: u64 = 24 * 3600;
/// How long a re-home pass is good (seconds): a listener that has lost its relay for longer comes as
/// a newcomer.
pub const PASS_S: u64 = 3600;
/// Verified certificates that a shard remembers: those of all relays that may send it listeners, and
/// their successors.
pub const CERTIFICATES: usize = 1_024;
/// Clocks of those who mint and of those who verify may differ by this much (seconds).
pub const TOKEN_LEEWAY_S: u64 = 30;
/// Public keys that a verifier holds: one in use, its successor, and room for a few origins.
pub const TOKEN_KEYS: usize = 16;

// --- Ingest ----------------------------------------------------------------------------------

/// Frames a second that a speaker may send.
pub const FRAMES_PER_S: u32 = 50;
/// Frames a speaker may send at once above its rate (a burst after a stall: 200 ms).
pub const FRAME_BURST: u32 = 10;
/// Speech datagrams a second that a speaker may send: one for each frame, and as many repairs.
pub const SPEECH_DATAGRAMS_PER_S: u32 = 2 * FRAMES_PER_S;
/// A tick closes this long after its first frame whatever is missing.
pub const CLOSE_AFTER: Duration = Duration::from_millis(25);
/// Two ticks never close within this.
pub const CLOSE_APART: Duration = Duration::from_millis(15);
/// Ticks are made to begin with another speaker if each then waits this much less: more than a
/// phase shifts from tick to tick …
pub const REGROUP_GAIN: Duration = Duration::from_millis(5);
/// … and this many ticks would have (2 s): the one extra tick that it takes is 1 % of them.
pub const REGROUP_AFTER: u32 = 100;
/// A surplus frame waits this long for a later tick, then it is dropped and counted.
pub const SURPLUS_WAIT: Duration = Duration::from_millis(60);
/// The origin asks a speaker for a missing frame for this long.
pub const FIRST_HOP_REPAIR: Duration = Duration::from_millis(60);
/// What a speaker's frame rate may exceed [`FRAMES_PER_S`] by over a long time (per mille): its
/// clock and ours differ.
pub const FRAME_RATE_MARGIN_PERMILLE: u32 = 10;
/// Frames behind a speaker's newest that are told apart as had, missing or lost (one `u64`).
pub const SEQ_WINDOW: u32 = 64;
/// A frame number further than this from a speaker's newest is not a gap but another count
/// (frames; 5 s).
pub const SEQ_AHEAD: u32 = 250;
/// Datagrams in a row that a new count must show before it is taken for the speaker's own: as many
/// as one datagram repeats, so that a restart costs no frame.
pub const SEQ_JUMP_PROOFS: u8 = 3;
/// Earlier frames that a speech datagram carries where they fit.
pub const EARLIER_FRAMES: u32 = 2;
/// Missing frames of one speaker that the origin keeps asking for (two answers).
pub const FIRST_HOP_MISSING: usize = 2 * FRAMES_PER_SPEECH;
/// Requests for one missing frame at most.
pub const FIRST_HOP_TRIES: u8 = 3;
/// A request that has brought nothing is repeated after this: a second one is answered within
/// [`FIRST_HOP_REPAIR`] even at a round trip of 45 ms.
pub const FIRST_HOP_RETRY: Duration = Duration::from_millis(15);
/// A gap that a following datagram may still fill becomes a request after this at the latest:
/// one frame's time and 5 ms of jitter.
pub const FIRST_HOP_PATIENCE: Duration = Duration::from_millis(25);
/// Frames of one speaker that wait for a tick at most: [`FRAME_BURST`], what comes within
/// [`SURPLUS_WAIT`], and [`PRE_ROLL`], rounded up.
pub const PENDING_FRAMES: usize = 16;
/// An Opus packet of at most this many bytes says that a pause begins (DTX, RFC 6716 section 2.1.9;
/// the size is what libopus documents for `opus_encode`).
pub const PAUSE_BYTES: usize = 2;
/// Ticks that a room keeps for a caller that does not poll.
pub const TICKS_UNPOLLED: usize = 8;
/// Microphones in one room.
pub const SLOTS_PER_ROOM: usize = 64;
/// Speakers in one tick by default.
pub const AUDIBLE: usize = 3;
/// Speakers in one tick at most.
pub const AUDIBLE_MOST: usize = 16;
/// Frames kept from before someone becomes audible.
pub const PRE_ROLL: usize = 2;
/// Voiced frames in a row before someone becomes audible; fewer than [`PRE_ROLL`] and one, so that
/// no voiced frame is cut off.
pub const AUDIBLE_ATTACK: u8 = 2;
/// Someone audible keeps the place this long after the last voiced frame: a pause between words.
pub const AUDIBLE_HOLD: Duration = Duration::from_millis(400);
/// A challenger must be louder than the quietest audible speaker by this (dB) …
pub const CHALLENGE_DB: u8 = 6;
/// … for this many voiced frames in a row (200 ms).
pub const CHALLENGE_FRAMES: u8 = 10;
/// Heartbeat ticks follow the end of speech after these, then every [`HEARTBEAT_EVERY`].
///
/// Speech ends a tick's length after the tick that holds it closed: a speaker whose next frame is
/// a little late is not taken for silent.
pub const HEARTBEATS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(40), Duration::from_millis(80)];
/// The steady spacing of heartbeat ticks in silence.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);
/// Bytes of a room's document at most as JSON: a control message less its envelope, the digits that
/// its counters may grow by (200), and its reactions (8 kinds of 33 bytes). 64 slots of 128-byte names exceed it, so the document is measured
/// at each join.
pub const ROOM_DOCUMENT_BYTES: usize = CONTROL_BYTES - 512;

const _: () = assert!((AUDIBLE_ATTACK as usize) <= PRE_ROLL + 1);
const _: () = assert!(FRAME_BURST as usize + 3 + PRE_ROLL <= PENDING_FRAMES);
const _: () = assert!(SEQ_WINDOW == u64::BITS && FIRST_HOP_MISSING < SEQ_WINDOW as usize);

// --- People in a room ------------------------------------------------------------------------

/// Kinds of reactions: a fixed set, so that the sums of a room have a size.
pub const REACTIONS: [&str; 8] =
    ["clap", "heart", "laugh", "wow", "hundred", "agree", "disagree", "sad"];
/// Reactions of one listener in a second; the rest is dropped and counted.
pub const REACTIONS_PER_S: u32 = 10;
/// Raised hands of one room that the origin keeps in their order; further ones are dropped.
pub const HANDS_PER_ROOM: usize = 256;
/// Hands that wait in a relay for their turn up the tree: one of each of its busiest rooms' listeners
/// for some seconds. Further ones are dropped.
pub const HANDS_QUEUE: usize = 256;
/// Hands in one message up the tree: names of [`NAME_BYTES`] fit [`CONTROL_BYTES`] even escaped.
pub const HANDS_PER_MESSAGE: usize = 8;
/// Messages with hands leave a relay this often at most: 32 hands a second.
pub const HANDS_EVERY: Duration = Duration::from_millis(250);
/// Hands that a host has lowered and that the tree is told of, all in one message: names of
/// [`NAME_BYTES`] fit [`CONTROL_BYTES`] even escaped. Whoever lowers more within the time of one
/// message leaves the others to find out.
pub const LOWERED_HANDS: usize = 16;
/// A listener raises and lowers its hand this often at most.
pub const HAND_APART: Duration = Duration::from_millis(500);
/// A listener reports what it hears this often at most.
pub const REPORT_APART: Duration = Duration::from_secs(2);
/// A listener reports what it hears so often, [`REPORT_SPREAD`] more or less by chance.
pub const REPORT_EVERY: Duration = Duration::from_secs(5);
/// See [`REPORT_EVERY`]: a million listeners make 200,000 reports in each second, evenly.
pub const REPORT_SPREAD: Duration = Duration::from_secs(1);
/// "I hear a glitch" is counted over this time and half of it more, at least.
pub const GLITCHES_OVER: Duration = Duration::from_secs(30);
/// Buckets of what listeners hear.
pub const HEARD_BUCKETS: usize = 6;
/// Upper bounds of the buckets of loss and concealment (per mille); the last bucket has none.
pub const HEARD_PERMILLE: [u32; HEARD_BUCKETS - 1] = [0, 5, 10, 30, 100];
/// Upper bounds of the buckets of delay (milliseconds).
pub const HEARD_DELAY_MS: [u32; HEARD_BUCKETS - 1] = [100, 200, 400, 800, 1_600];
/// A listener hears well with at most so much of the sound made up (per mille): one frame in a
/// second and a half is not noticed.
pub const HEARS_WELL_PERMILLE: u32 = 10;
/// Rooms in one report of load: each about 450 bytes, so that the report fits [`CONTROL_BYTES`]
/// beside its round trips. More rooms take turns.
pub const LOAD_ROOMS: usize = 16;
/// A child's word on a room counts this long: its turn comes every [`ROOMS`] / [`LOAD_ROOMS`] s.
pub const ROOM_SUM_EXPIRY: Duration = Duration::from_secs(20);
/// People, tokens and addresses that one room refuses; bans never give way.
pub const REVOKED_PER_ROOM: usize = 1_024;
/// Entries that are no bans and give way to new ones at once, when the list is full.
pub const REVOKED_GIVE_WAY: usize = 128;
/// Of them in one message: names of [`NAME_BYTES`] fit [`CONTROL_BYTES`] even escaped.
pub const REVOKED_PER_PAGE: usize = 16;
/// Invitations of one room at once, all in one message.
pub const INVITATIONS: usize = 16;
/// Rooms that are not there and whose bans are remembered all the same.
pub const ABSENT_ROOMS: usize = 4 * ROOMS;
/// Hosts and co-hosts of one room that are remembered when they are not on stage.
pub const HOSTS_PER_ROOM: usize = SLOTS_PER_ROOM;
/// Tokens of one of them that are remembered, and networks.
pub const HOST_TRACES: usize = 8;
/// Addresses that one ban of a person may come to.
pub const ADDRESSES_PER_BAN: usize = 4;
/// Words of a relay on people whom it met a second: a ban comes to [`ADDRESSES_PER_BAN`] addresses,
/// and the parent counts each word as a control message.
pub const MEETS_PER_S: u32 = 8;
/// The same word on the same person is said again after this at the earliest.
pub const MET_AGAIN: Duration = Duration::from_secs(30);
/// Words that a relay remembers of one room: all of [`MET_AGAIN`].
pub const MEETS_PER_ROOM: usize = 256;
/// Things that happened in rooms and wait to be told to those who follow.
pub const NEWS: usize = 1_024;
/// A room's document goes to its listeners on one shard over this: thousands of messages at once would
/// hold up the next ticks.
pub const DOCUMENT_SPREAD: Duration = Duration::from_millis(400);
/// What a session is owed is written in pieces of this and at most one message more: it fits the
/// backlog of a connection beside whatever else it is told.
pub const OWED_BYTES: usize = 8 * 1024;
// A piece, a document and the answer to a subscription before it.
const _: () = assert!(OWED_BYTES + CONTROL_BYTES + 4_096 <= CONTROL_BACKLOG_BYTES);
/// Counts in a room's document change at most this often.
pub const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// JSON of one entry beside its name at most: keys, a number of 20 digits, an address.
const REVOKED_ENTRY_BYTES: usize = 128;
// A page whose names are all escaped, behind a room's name and two numbers.
const _: () = assert!(
    REVOKED_PER_PAGE * (6 * NAME_BYTES + REVOKED_ENTRY_BYTES) + 6 * NAME_BYTES + 256
        <= CONTROL_BYTES
);
const _: () =
    assert!(REPORT_EVERY.as_millis() >= (REPORT_APART.as_millis() + REPORT_SPREAD.as_millis()));
const _: () = assert!(ROOM_SUM_EXPIRY.as_secs() > (ROOMS / LOAD_ROOMS) as u64);

// --- Delivery --------------------------------------------------------------------------------

/// Ticks that a shard keeps for each room: 1 s of replay at 20 ms, rounded up to a power of two.
pub const RING_TICKS: usize = 64;
/// Ticks that a receive window spans; older ones are late (5 s at 20 ms).
pub const WINDOW_TICKS: u32 = 256;
/// Feeds that a window merges: two parents, two more while they are being replaced, and the origin.
pub const FEEDS: usize = PARENTS + FORMER_PARENTS + 1;
/// A node says that its upstream is silent after this long without tick or beacon, at 20 ms:
/// two beacons and a half.
pub const UPSTREAM_SILENT: Duration = Duration::from_millis(100);
/// A hop is silent that long before its parent sends a beacon, at a cadence of 20 ms.
pub const BEACON_AFTER: Duration = Duration::from_millis(40);
/// A missing tick is asked for until it is this old, then it is lost (one constant per room).
pub const REPAIR_DEADLINE: Duration = Duration::from_millis(300);
/// A gap waits at least this long for the other feed before it becomes a request.
pub const REPAIR_SKEW: Duration = Duration::from_millis(10);
/// Requests for one tick at most, one to each parent.
pub const REPAIR_TRIES: u8 = 2;
/// Repaired ticks that one child may be sent in a second, and in a burst of the same size.
pub const REPAIRS_PER_S: u32 = 50;
/// What a listener's datagram may be late inside this node before it is skipped and counted.
pub const STALE: Duration = Duration::from_millis(200);
/// Late-join burst: default and most of what a client may ask for.
pub const PLAYOUT: Duration = Duration::from_millis(100);
/// The longest playout target that a late-join burst fills.
pub const PLAYOUT_MOST: Duration = Duration::from_millis(200);
/// Ticks replayed to a client that names the last one it had (1 s).
pub const REPLAY_TICKS: u32 = 50;

const _: () = assert!(RING_TICKS.is_power_of_two() && RING_TICKS >= REPLAY_TICKS as usize);

/// New packets that a sample of a path needs to count: 200 ms of a room that speaks.
pub const PATH_PACKETS: u64 = 10;
/// Loss from which a session is sent the previous tick, too (per mille): at 1 % a listener misses a
/// tick every two seconds.
pub const LOSS_PREVIOUS_PERMILLE: u32 = 10;
/// Loss from which a session is sent t−1 and t−3 (per mille): at 3 % every thousandth tick is lost
/// together with the one that repeats it.
pub const LOSS_SPREAD_PERMILLE: u32 = 30;
/// Each session's path is looked at about this often: a second of a room holds several samples of
/// [`PATH_PACKETS`], and a loss is answered before a listener has missed two ticks.
pub const PATH_SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Paths that a shard looks at in one turn at most: about 0.1 ms, for each is a look into cold memory.
pub const PATHS_PER_TURN: usize = 128;
/// Redundancy is taken back by one step after this long with half the loss that called for it.
pub const CLEAN_HOLD: Duration = Duration::from_secs(10);
/// A round trip this far above that of the idle path is a queue, or half as much again where that
/// is more: several times what a busy receiver's delay varies by.
pub const QUEUE_STEP: Duration = Duration::from_millis(30);
/// No more redundancy within this after a queue was seen.
pub const QUEUE_HOLD: Duration = Duration::from_secs(10);

// --- Re-homing -------------------------------------------------------------------------------

/// Alternates that one listener is told.
pub const ALTERNATES: usize = 2;
/// Relays that one relay's listeners are spread over when it fails.
pub const SIBLINGS: usize = 8;
/// A session is silent if nothing came for this long and two cadences on top: at 20 ms a listener
/// looks for another relay after 150 ms, three beacons and a half.
pub const SILENT_AFTER: Duration = Duration::from_millis(110);
/// The longest silence that a path's own jitter may explain.
pub const SILENT_MOST: Duration = Duration::from_millis(600);
/// The longest gap of the last so long counts as the path's jitter.
pub const JITTER_MEMORY: Duration = Duration::from_secs(15);
/// The longest round trip that the answer to a listener's probe is waited for: one that a busy moment
/// made longer keeps nobody on a dead relay.
pub const ROUND_TRIP_MOST: Duration = Duration::from_millis(100);
/// A silent session is probed this often.
pub const PROBE_EVERY: Duration = Duration::from_millis(40);
/// A relay probes a silent parent this often, for as long as it is silent.
pub const PARENT_PROBE_EVERY: Duration = Duration::from_millis(100);
/// Probes that one session is sent while it is silent: it is left after them.
pub const PROBES: u8 = 16;
/// Listeners of a dead relay start within this of each other: 500 of them are 12,500 handshakes a
/// second for all alternates together.
pub const REHOME_SPREAD: Duration = Duration::from_millis(40);
/// An attempt without a welcome for this long is joined by a second one.
pub const REHOME_NEXT: Duration = Duration::from_millis(250);
/// An attempt without a welcome for this long is given up.
pub const REHOME_ATTEMPT: Duration = Duration::from_secs(5);
/// Datagrams that a listener keeps of a session whose welcome has not come yet, and a relay of a parent
/// whose answer to a subscription has not: a replay of
/// [`REPLAY_TICKS`] of a `voice` room in packets that overtook it, and the live ticks of a round trip.
pub const EARLY_DATAGRAMS: usize = 24;
/// Attempts under way at once.
pub const REHOME_ATTEMPTS: usize = 2;
/// The first pause after every known relay has failed; it doubles …
pub const REHOME_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
pub const REHOME_PAUSE_MOST: Duration = Duration::from_secs(5);
/// A listener that found no relay for this long ends.
pub const REHOME_GIVE_UP: Duration = Duration::from_secs(300);
/// How far behind the newest tick another relay's feed may be and still take over.
pub const REHOME_BEHIND: u32 = 5;
/// A relay that is behind takes over from a silent one after this.
pub const REHOME_STARVED: Duration = Duration::from_secs(1);
/// Lists of siblings are looked at in turn this often, for loads change …
pub const SIBLINGS_EVERY: Duration = Duration::from_secs(1);
/// … so many relays at once: a tree of 16,384 relays within 256 s, and those that a change touches
/// at once.
pub const SIBLINGS_TURN: usize = 64;
/// Places that were kept for a relay's listeners are kept for so long after it has gone: those whose
/// first alternate did not answer either come back after [`REHOME_ATTEMPT`].
pub const HEADROOM_HELD: Duration = Duration::from_secs(10);
/// A relay whose children say that it is silent has left when it has not reported for this long:
/// five reports. Longer than a node may stand still without losing its place.
pub const SUSPECT_EXPIRY: Duration = Duration::from_secs(5);
/// A listener whose timers come this late was asleep, and judges nobody by what it missed.
pub const ASLEEP: Duration = Duration::from_secs(1);
/// Entry addresses that a listener is given at most.
pub const ENTRIES: usize = 16;
/// Listeners of a draining relay are asked to move over this long, and its moves spread over it.
pub const DRAIN_SPREAD: Duration = Duration::from_secs(5);
/// Messages about moves and alternates that one shard sends in a turn of [`PUSH_EVERY`].
pub const PUSHES_LEAST: usize = 8;
/// Pushes to many are spread in steps of this.
pub const PUSH_EVERY: Duration = Duration::from_millis(20);

// --- Admission -------------------------------------------------------------------------------

/// Bytes of a waiting ticket: a certificate and the relay's word, as a pass has them.
pub const TICKET_BYTES: usize = 4096;
/// How long a ticket is good (seconds): whoever comes as told has it renewed long before.
pub const TICKET_S: u64 = 300;
/// A ticket older than this is renewed when it is shown (seconds): twice the longest wait.
pub const TICKET_RENEW_S: u64 = 60;
/// Tickets that one node remembers as redeemed: 1,700 a second for [`TICKET_S`], at about 40 bytes
/// (21 MB). Beyond it tickets wait, counted.
pub const SPENT_TICKETS: usize = 524_288;
/// Stretches of time by which those who wait are remembered: the last minutes by the second, what is
/// older coarser.
pub const ARRIVAL_STRETCHES: usize = 512;
/// Seconds of arrivals that reports of load carry: the newest are still being counted, and a report
/// may be lost.
pub const ARRIVALS_S: usize = 10;
/// Tickets that count of one second in one report: what 200 relays of 5,000 handshakes a second could
/// issue. A report that says more is cut to it, so that no relay's word alone fills the queue.
pub const ARRIVALS_PER_S: u64 = 1_000_000;
/// … and to this for each relay of the tree: some sixteen cores that do nothing but handshakes.
pub const ARRIVALS_PER_RELAY_S: u64 = 50_000;
/// Points of the curve of those who wait that relays are told.
pub const CURVE_POINTS: usize = 32;
/// The watermark moves, and is told, this often at most; so are reports while somebody waits.
pub const ADMISSION_EVERY: Duration = Duration::from_millis(250);
/// A relay that has heard nothing of the watermark for this long calls its own tickets in their
/// order: whoever has waited for so long is called.
pub const ADMISSION_STALE: Duration = Duration::from_secs(5);
/// Whoever was called and has not come within this is not waited for.
pub const ALLOWANCE: Duration = Duration::from_secs(4);
/// Calls that may be unanswered at once, in time of the whole tree's join budget.
pub const ALLOWANCES: Duration = Duration::from_secs(3);
/// Calls that may be unanswered at once at least: a small budget is not held up by one who left.
pub const ALLOWANCES_LEAST: u64 = 4;
/// The rate at which people come in is averaged over about this.
pub const ADMISSION_RATE_OVER: Duration = Duration::from_secs(5);
/// Whoever waits comes again after this at the latest, for there may be room that nobody foresaw.
pub const RETRY_MOST: Duration = Duration::from_secs(30);
/// Whoever is called and finds the budget spent comes again after this at the earliest …
pub const RETRY_LEAST: Duration = Duration::from_millis(200);
/// … and within this more.
pub const RETRY_SPREAD: Duration = Duration::from_millis(300);
/// A client adds a sixteenth of its wait at random, and this much at most.
pub const RETRY_JITTER: Duration = Duration::from_millis(250);
/// Redirects that a client follows in a row: each relay sent it on for want of room.
pub const REDIRECTS: u8 = 4;
/// Nobody is sent from relay to relay more often than this (seconds).
pub const REDIRECT_APART_S: u64 = 2;
/// Redirects count against a relay's free places for this long: its own report comes later.
pub const REDIRECT_MEMORY: Duration = Duration::from_secs(2);
/// A clock that drifts from the origin's is followed over this.
pub const CLOCK_MEMORY: Duration = Duration::from_secs(60);

const _: () = assert!(TICKET_RENEW_S + 2 * RETRY_MOST.as_secs() < TICKET_S);

// --- Tables and queues -----------------------------------------------------------------------

/// A clock below this was never set (microseconds since 1970; 1 January 2020).
pub const CLOCK_SET_US: u64 = 1_577_836_800_000_000;
/// Epochs, and the numbers of lists, begin as their origin's clock; one that is further ahead of this
/// node's is forged (microseconds; one day).
pub const CLOCK_AHEAD_US: u64 = 86_400_000_000;
/// A relay tells its sessions of a room's title, and of who may listen, this often at most.
pub const DESCRIBED_APART: Duration = Duration::from_secs(1);
/// A relay passes a room's document on this often at most: a stage changes at once, and no parent makes
/// more of it than listeners read.
pub const DOCUMENT_APART: Duration = Duration::from_millis(100);
/// Rooms on one node.
pub const ROOMS: usize = 256;
/// Rooms that one child relay may follow on one session: all of them.
pub const ROOMS_PER_CHILD: usize = ROOMS;
/// Sessions that one relay may say it carries, by default: those of 64 cores.
pub const RELAY_CAPACITY: u32 = 131_072;
/// Relays in one tree.
pub const RELAYS: usize = 16_384;
/// Levels of relays.
pub const LEVELS: u8 = 12;
/// Sessions on one shard by default (the slab never grows beyond it).
pub const SESSIONS_PER_SHARD: u32 = 16_384;
/// Sessions of one shard that wait for a room to be brought up.
pub const PENDING_JOINS: usize = 4_096;
/// A join that waits for its room longer than this is refused.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(5);
/// A connection that has not said hello by then is closed.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// A control message whose bytes are not all there this long after its first is taken for one that
/// does not end.
pub const MESSAGE_DEADLINE: Duration = Duration::from_secs(5);
/// Messages in the queue from a shard to control.
pub const TO_CONTROL: usize = 8_192;
/// Messages in the queue from control to a shard.
pub const TO_SHARD: usize = 8_192;
/// Ticks in the queue from control to a shard: 1 s of 20 rooms. A full queue drops the tick.
pub const TICK_QUEUE: usize = 1_024;
/// Packets in the queue to another shard of the node, whose connection IDs they carry: a burst of
/// 10 ms at 100,000 a second. A full queue drops them.
pub const FOREIGN_QUEUE: usize = 1_024;
/// Lines of `--events` that wait for the disk: ten seconds of ten rooms. A full queue drops them.
pub const EVENT_QUEUE: usize = 5_000;
/// Packets read in one turn of a loop: they take well under a millisecond to work on.
pub const PACKETS_PER_TURN: usize = 256;
/// Ticks that a shard sends before it looks at its input again: acknowledgements that are not read
/// fill the windows.
pub const TICKS_PER_TURN: usize = 4;
/// Messages from control that a shard works on in one turn.
pub const SHARD_MESSAGES_PER_TURN: usize = 256;
/// Messages from shards that control works on in one turn.
pub const CONTROL_MESSAGES_PER_TURN: usize = 1_024;
/// Ticks that a shard keeps of rooms that control has not told it of yet: ticks wait for no message,
/// so the first of a room may overtake it (1 s of one room and some).
pub const EARLY_TICKS: usize = 64;
/// Commands of the HTTP API that wait for an origin's control thread. A full queue answers "busy".
pub const COMMANDS: usize = 1_024;
/// Commands that control works on in one turn: ticks come first again after them.
pub const COMMANDS_PER_TURN: usize = 64;
/// Verified tokens that a shard remembers.
pub const TOKEN_CACHE: usize = 4_096;
/// Sessions that a relay holds upwards: the origin, two parents, and two being replaced.
pub const UPLINKS: usize = 8;
/// A shard tells control this often what it carries: as fresh as the reports of load are.
pub const TOTALS_EVERY: Duration = LOAD_EVERY;
/// Reports of load go up this often.
pub const LOAD_EVERY: Duration = Duration::from_secs(1);
/// A parent that refused a room is asked again after this long: it may have found it since.
pub const RESUBSCRIBE: Duration = Duration::from_secs(5);
/// New rooms that one child, or all who have no token together, may have a relay ask its parents for in a
/// second, and in a burst of the same size.
pub const NEW_ROOMS_PER_S: u32 = 50;
/// The same for all of them together: with each of these rooms given back again, well under
/// [`CHILD_CONTROL_PER_S`], by which parents judge the relay.
pub const NEW_ROOMS_MOST_PER_S: u32 = 4 * NEW_ROOMS_PER_S;
const _: () = assert!(2 * NEW_ROOMS_MOST_PER_S + 100 < CHILD_CONTROL_PER_S);
/// A room that no parent has is not asked for again within this.
pub const ABSENT_ROOM: Duration = Duration::from_secs(1);
/// A room without children is given back after this long.
pub const ROOM_LINGER: Duration = Duration::from_secs(10);
/// A room that was made on first use ends when nobody was in it for this long: as long as a listener
/// looks for its relay.
pub const ROOM_UNUSED: Duration = REHOME_GIVE_UP;

// The largest sum of the tables above, per shard:
//   rings      256 rooms × 64 ticks × 1,084 bytes          =  17.8 MB
//   queues     (8,192 + 8,192) messages × ~200 bytes        =   3.3 MB
//   sessions   16,384 × (18 KB quinn-proto + 0.3 KB ours)   = 300   MB
//   tokens     4,096 × ~0.4 KB                              =   1.6 MB
// Each ended room raises the origin's epoch, which counts seconds when it starts.
const _: () = assert!((ROOMS as u64) < ROOM_UNUSED.as_secs());
const _: () = assert!(ROOMS * RING_TICKS * RECORD_BYTES < 20_000_000);

// --- QUIC driver -----------------------------------------------------------------------------

/// Packets that one `sendmmsg` or `recvmmsg` carries at most.
pub const PACKET_BATCH: usize = 64;
/// Events that wait in a driver before it stops reading its socket.
///
/// One packet raises a handful at most, so the queue ends a batch of packets above this.
pub const DRIVER_EVENTS: usize = 4_096;
/// Bytes of control messages that wait behind a peer's flow control; more closes the session.
pub const CONTROL_BACKLOG_BYTES: usize = 32 * 1024;
/// Flow-control window of a session's streams: two control messages (bytes).
pub const CONTROL_WINDOW_BYTES: u32 = 32 * 1024;
/// Handshakes that a shard starts in one turn of its loop: about 1 ms at 160 µs each.
pub const HANDSHAKES_PER_TURN: usize = 6;
/// First packets of clients that a shard answers in one turn without a handshake (Retry) or ignores:
/// about 0.3 ms at 5 µs each.
pub const INCOMING_PER_TURN: usize = 64;
/// A peer's handshake that has not ended by then is closed: meanwhile it holds as much as a listener.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// First packets of clients that wait for their handshake on one shard.
pub const INCOMING: usize = 1_024;
/// Bytes buffered for one client that waits for its handshake: a large first flight.
pub const INCOMING_BYTES: u64 = 6 * 1024;
/// Bytes buffered for all clients that wait for their handshake on one shard.
pub const INCOMING_BYTES_TOTAL: u64 = 2 * 1024 * 1024;
/// Bytes of datagrams that wait inside one connection: one of the largest size.
pub const DATAGRAM_WAIT_BYTES: usize = 1_280;
/// Bytes of received datagrams that one connection holds until they are read.
pub const DATAGRAM_RECEIVE_BYTES: usize = 64 * 1024;
/// Congestion window at the start and at most (bytes).
pub const WINDOW_START_BYTES: u64 = 32 * 1024;
/// The congestion window never exceeds this (bytes): 5 s of a `voice` room.
pub const WINDOW_MOST_BYTES: u64 = 64 * 1024;
/// A connection that hears nothing for this long is dead.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(DATAGRAM_WAIT_BYTES > PEER_DATAGRAM_BYTES);
const _: () = assert!(CONTROL_BACKLOG_BYTES >= 2 * CONTROL_BYTES);
const _: () = assert!(WINDOW_START_BYTES <= WINDOW_MOST_BYTES);

// --- HTTP API at the origin ------------------------------------------------------------------

/// Connections at once; each costs about 60 KB with TLS, 240 MB together.
pub const HTTP_CONNECTIONS: usize = 4_096;
/// Bytes of a request's head at most: a token, a path, and what browsers add.
pub const HTTP_HEAD_BYTES: usize = 16 * 1024;
/// Header fields of a request at most.
pub const HTTP_HEADERS: usize = 64;
/// Bytes of a request's body at most.
pub const HTTP_BODY_BYTES: usize = 64 * 1024;
/// TLS and a request's head have arrived by then; a connection without a request is closed.
pub const HTTP_HEAD_TIME: Duration = Duration::from_secs(10);
/// A request is answered by then, its body's arrival included; streams of events are not bound.
pub const HTTP_REQUEST_TIME: Duration = Duration::from_secs(15);
/// A connection is closed by then, whatever it is doing: a stream of events is opened again.
pub const HTTP_CONNECTION_TIME: Duration = Duration::from_secs(6 * 3_600);
/// Requests that change something, from one address in a second and in a burst of the same size.
pub const HTTP_WRITES_PER_S: u32 = 50;
/// Calls that only read, for each of those that an address may make in the same time: pages behind one
/// address look at their room every 10 s, so this is enough for 5,000 of them.
pub const HTTP_READS_PER_WRITE: u32 = 10;
/// Addresses are told apart by this many counters, each 24 bytes; two that share one share its
/// budget.
pub const HTTP_ADDRESSES: usize = 16 * 1024;
/// Changes that wait for the store's disk. A full queue answers "busy".
pub const STORE_QUEUE: usize = 1_024;
/// Changes in one transaction of the store.
pub const STORE_BATCH: usize = 64;
/// What the tree found out by itself and could not be kept is tried again after this long.
pub const STORE_AGAIN: Duration = Duration::from_secs(5);
/// Answers to calls with an idempotency key that are kept: about 2 KB each.
pub const IDEMPOTENT: usize = 1_024;
/// Those who follow rooms by server-sent events at once.
pub const FOLLOWERS: usize = 512;
/// Webhooks of one room, and of all rooms.
pub const WEBHOOKS_PER_ROOM: usize = 8;
/// See [`WEBHOOKS_PER_ROOM`].
pub const WEBHOOKS: usize = 256;
/// Messages that wait for one webhook; further ones are dropped.
pub const WEBHOOK_QUEUE: usize = 64;
/// Times that one message is tried, the pause doubling from [`WEBHOOK_PAUSE`]: half an hour together.
pub const WEBHOOK_TRIES: u32 = 11;
/// See [`WEBHOOK_TRIES`].
pub const WEBHOOK_PAUSE: Duration = Duration::from_secs(1);
/// A webhook answers by then.
pub const WEBHOOK_TIME: Duration = Duration::from_secs(10);
/// Rooms whose audience a node's metrics show: those with the most listeners.
pub const METRIC_ROOMS: usize = 16;
/// Regions of one room that metrics and statistics name; the others are one.
pub const STATS_REGIONS: usize = 32;
/// Relays that a host's statistics name: those with the most trouble.
pub const STATS_RELAYS: usize = 64;
/// Rooms in one answer.
pub const ROOMS_PER_PAGE: usize = 64;
/// Relays that a newcomer is told.
pub const JOIN_RELAYS: usize = 4;
/// How long a listener's token of the HTTP door is good (seconds).
pub const JOIN_TOKEN_S: u64 = 4 * 3_600;
/// How long a token that a host mints is good by default, and at most (seconds).
pub const MINT_TOKEN_S: u64 = 4 * 3_600;
/// See [`MINT_TOKEN_S`].
pub const MINT_TOKEN_MOST_S: u64 = 30 * 24 * 3_600;
/// How long a removal is kept, and what a room that has ended took no longer (seconds): longer than any
/// token that an operator mints for people should live.
pub const REVOKED_KEPT_S: u64 = 400 * 24 * 3_600;

// --- WebTransport ----------------------------------------------------------------------------

/// Unidirectional streams that a browser has open: HTTP/3's control stream and QPACK's two (RFC 9114
/// section 6.2 asks for no fewer). They are granted to raw QUIC, too, for a peer's ALPN is not known
/// when its connection begins: 3 entries of a table that are never filled.
pub const H3_UNI_STREAMS: u32 = 3;
/// Bytes of a CONNECT request: browsers send about 300, and pages may add headers.
pub const H3_REQUEST_BYTES: usize = 4 * 1024;
/// Bytes of a client's SETTINGS: a browser's are some 40.
pub const H3_SETTINGS_BYTES: usize = 1024;
/// Bytes of one capsule: a close with the longest reason (1,024 bytes), its code and its header.
pub const H3_CAPSULE_BYTES: usize = 1024 + 4 + 16;
/// Bytes that a client sends in a session's life beside its control stream and datagrams: the request,
/// SETTINGS, and what HTTP/3 makes everyone skip (GREASE, QPACK, unknown frames and capsules).
pub const H3_OTHER_BYTES: usize = 16 * 1024;
/// Hashes of certificates that a relay names: one in use, and its successor's.
pub const CERTIFICATE_HASHES: usize = 2;
/// Bytes of such a hash: SHA-256 in base64url.
pub const CERTIFICATE_HASH_BYTES: usize = 43;
/// A page has this long to take the reason of a close before its connection ends.
pub const H3_FAREWELL: Duration = Duration::from_secs(3);

const _: () = assert!(
    H3_REQUEST_BYTES + H3_SETTINGS_BYTES + H3_CAPSULE_BYTES <= H3_OTHER_BYTES
        && H3_OTHER_BYTES <= CONTROL_WINDOW_BYTES as usize
);

// --- The tree --------------------------------------------------------------------------------

/// First-level relays that the origin feeds by default: 16 × 50 ticks/s is 800 datagrams/s for each
/// room, which leaves the origin to its speakers.
pub const ORIGIN_CHILDREN: u32 = 16;
/// The least that the origin's limit may be: below one relay there are no two paths.
pub const ORIGIN_CHILDREN_LEAST: u32 = 2;
/// One session in this many of a relay's capacity is for child relays by default.
///
/// A child takes two sessions (one on each parent), so the tree widens by capacity / 16 a level:
/// 16,384 sessions are 2,048 for children, and 64 first-level relays carry 65,536 on level 2.
pub const CHILDREN_ONE_IN: u32 = 8;
/// Child relays of any relay that has the sessions for them, however small its share is.
pub const CHILDREN_LEAST: u32 = 2;
/// Parents of a relay below the first level.
pub const PARENTS: usize = 2;
/// The best candidates that the planner looks at for one relay, by region, round trip, headroom.
pub const PLAN_CANDIDATES: usize = 128;
/// Pairs of candidates that the planner compares for one relay: every pair of 45 candidates.
pub const PLAN_PAIRS: usize = 1_024;
/// Relays that the planner places anew within one call; the rest follows at its next timeout.
pub const PLAN_STEPS: usize = 256;
/// Relays that the planner looks at for one listener's alternates.
pub const ALTERNATES_SEEN: usize = 256;
/// Two parents' round trips count as equal within this (microseconds).
pub const ROUND_TRIP_STEP_US: u32 = 5_000;
/// What a round trip counts as that nobody measured (microseconds).
pub const ROUND_TRIP_UNKNOWN_US: u32 = 50_000;
/// Round trips kept of one relay's report.
pub const ROUND_TRIPS: usize = 32;
/// A parent is exchanged for a nearer one only if it is at least this many times as far…
pub const NEARER_TIMES: u32 = 2;
/// …and further by this (microseconds)…
pub const NEARER_BY_US: u32 = 20_000;
/// …and the relay was not moved for this long.
pub const NEARER_APART: Duration = Duration::from_secs(60);
/// A relay with a pinned level may still be moved to parents right above it for this long after
/// it joined: relays of a starting tree do not register in the order of their levels.
pub const SETTLING: Duration = Duration::from_secs(30);
/// A relay without a report for this long has left (reports come every second).
pub const REPORT_EXPIRY: Duration = Duration::from_secs(10);
/// Child states in a relay's sums: its most children, all of one shard's sessions.
pub const SUM_CHILDREN: usize = 16_384;
/// Former parents that a relay holds beside its two while it moves.
pub const FORMER_PARENTS: usize = 2;
/// A former parent is left after this long if any new one is up.
pub const FORMER_PARENT_HOLD: Duration = Duration::from_secs(5);
/// A link to a parent that is neither up nor refused by then is given up and tried again.
pub const PARENT_CONNECT: Duration = Duration::from_secs(5);
/// The first wait before a parent is tried again; it doubles with each failure.
pub const PARENT_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait before a parent is tried again.
pub const PARENT_BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A parent counts as out of reach after this many attempts in a row that failed.
pub const PARENT_TRIES: u32 = 3;
/// A child that says for this long that it does not hear a parent, who is well by its own reports, is
/// given another one: the path between the two is broken. Longer than a node may stand still.
pub const BLAME_AFTER: Duration = Duration::from_secs(5);
/// And it is not given the same one again for this long.
pub const SHUN_FOR: Duration = Duration::from_secs(60);
/// Parents that one relay is kept from at once.
pub const SHUNNED: usize = 4;
/// A link that was up for this long ends the back-off.
pub const PARENT_STABLE: Duration = Duration::from_secs(5);

// The planner's table: 16,384 relays × (~0.5 KB facts + 0.3 KB why + 32 × ~40 bytes round trips)
// = 34 MB; its edges: 2 × 16,384 × 16 bytes.
const _: () = assert!(CHILDREN_LEAST as usize >= PARENTS && ORIGIN_CHILDREN_LEAST >= 2);

// --- A client's audio ------------------------------------------------------------------------

/// Frames that the jitter buffer of one speaker holds: a replay of 1 s and what arrives with it.
pub const JITTER_FRAMES: usize = 64;
/// The least that a jitter buffer waits for late frames: one frame.
pub const JITTER_LEAST: Duration = TICK;
/// The most that a jitter buffer waits for late frames: beyond a repair's deadline.
pub const JITTER_MOST: Duration = Duration::from_millis(400);
/// Speakers that one listener decodes at once: those of a tick, twice over for those who fade out.
pub const VOICES: usize = 2 * AUDIBLE_MOST;
/// A speaker that has sent nothing for this long gives its decoder back.
pub const VOICE_LINGER: Duration = Duration::from_secs(5);
/// Seconds of audio that are read into memory at once (one hour: 691 MB of samples).
pub const LOAD_SECONDS: usize = 3_600;

const _: () = assert!(JITTER_FRAMES >= REPLAY_TICKS as usize && JITTER_FRAMES.is_power_of_two());
const _: () = assert!(JITTER_MOST.as_millis() > REPAIR_DEADLINE.as_millis());
