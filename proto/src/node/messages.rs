//! What control and shards say to each other, over bounded queues.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Time;
use crate::admission::DoorTotals;
use crate::revoked::Revoked;
use crate::session::SessionKey;
use crate::wire::{
    Admission, Close, Hand, Invitations, Load, LoweredHands, Placement, RelayInfo, Role, RoomState,
    Siblings, SpeechFrame, SpeechRequest, Subscribed, Tally, TickKey,
};

/// A tick on its way from control to every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its name.
    pub key: TickKey,
    /// The record as it goes on the wire.
    pub record: Bytes,
    /// The room's cadence in milliseconds.
    pub tick_ms: u8,
    /// Bit i: this node itself still waits for tick `key.number − 1 − i`.
    pub pending: u32,
    /// It came as an answer to a repair request or as a replay, and goes on as such.
    pub replay: bool,
}

/// Who asks for a room that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The bearer of a token of that room, which exists by whoever minted it.
    Token,
    /// Somebody without a token, who may make names up.
    Anonymous,
    /// A child relay, for people whom this node does not see.
    Child(SessionKey),
}

/// What a shard tells control.
#[derive(Clone, Debug, PartialEq)]
pub enum ToControl {
    /// Someone joins a room that this shard does not have.
    WantRoom {
        /// The room's name.
        room: String,
        /// Who asks.
        by: Asker,
    },
    /// The last session of a room left this shard.
    RoomIdle {
        /// The shard.
        shard: u16,
        /// The room's name.
        room: String,
    },
    /// A session of the shard is in the room.
    RoomBusy {
        /// The shard.
        shard: u16,
        /// The room's name.
        room: String,
    },
    /// A stage role wants a slot (at the origin).
    StageJoin {
        /// The session.
        session: SessionKey,
        /// The room's name.
        room: String,
        /// Who it is, by the token.
        identity: String,
        /// The name to show.
        name: String,
        /// Host, co-host or speaker.
        role: Role,
        /// When the token was minted (seconds since 1970, UTC).
        minted: u64,
        /// The token's own name.
        jti: Option<String>,
        /// Where it comes from.
        address: Option<IpAddr>,
    },
    /// Somebody on stage mutes or unmutes itself.
    SelfMute {
        /// The session.
        session: SessionKey,
        /// Which.
        muted: bool,
    },
    /// Hands of listeners here, or passed on by a child.
    Hands {
        /// Raised or lowered.
        hands: Vec<Hand>,
    },
    /// Somebody was met whose ban covers the address.
    Met {
        /// The room's name.
        room: String,
        /// Who.
        identity: String,
        /// Where.
        address: IpAddr,
    },
    /// What this shard's rooms carry, once a second: by the room's number.
    Rooms {
        /// The shard.
        shard: u16,
        /// Rooms with listeners.
        tallies: Vec<(u32, Tally)>,
    },
    /// A stage session ended.
    StageLeave {
        /// The session.
        session: SessionKey,
    },
    /// A speaker's frames (at the origin), the newest first.
    Speech {
        /// The room's number.
        room: u32,
        /// The speaker's slot, which the shard has checked.
        slot: u16,
        /// The frames.
        frames: Vec<SpeechFrame>,
        /// When the shard took them from its socket.
        at: Time,
    },
    /// A relay registers (at the origin) or becomes a child.
    RelayJoin {
        /// The session.
        session: SessionKey,
        /// What it says of itself.
        info: RelayInfo,
    },
    /// A relay's load.
    RelayLoad {
        /// The session.
        session: SessionKey,
        /// The state.
        load: Load,
    },
    /// A relay's session ended.
    RelayLeave {
        /// The session.
        session: SessionKey,
    },
    /// What this shard carries, once a second.
    Totals {
        /// The shard.
        shard: u16,
        /// Listeners.
        listeners: u32,
        /// Child relays.
        children: u32,
        /// Joins in a second, by those since the last totals.
        joins: u32,
        /// Its door.
        door: DoorTotals,
    },
    /// Somebody is let in with a ticket, or sent elsewhere with it: is it used for the first time?
    Redeem {
        /// The session.
        session: SessionKey,
        /// The ticket's number.
        ticket: u64,
        /// Whether its bearer waited, and takes its place here.
        admits: bool,
    },
}

/// What control tells a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum ToShard {
    /// A room is there, or its epoch or cadence changed.
    RoomUp(Subscribed),
    /// A room cannot be had.
    RoomRefused {
        /// The room's name.
        room: String,
        /// What those who wait for it are told.
        close: Close,
    },
    /// A room that nobody wants is given back; a shard that has someone in it answers
    /// [`ToControl::RoomBusy`].
    RoomForget {
        /// The room's number.
        room: u32,
    },
    /// A room has ended.
    RoomDown {
        /// The room's number.
        room: u32,
        /// What those who are in it are told.
        close: Close,
    },
    /// The room's document changed.
    RoomState {
        /// The room's number.
        room: u32,
        /// The document.
        state: RoomState,
    },
    /// How a room's feeds are, for beacons.
    Feed {
        /// The newest tick, its number 0 before the first.
        newest: TickKey,
        /// Bit i: this node still waits for tick `newest − 1 − i`.
        pending: u32,
        /// How long the feeds have been silent, in milliseconds; 0 if they are not.
        upstream_silent_ms: u32,
    },
    /// A stage role has its slot.
    StageJoined {
        /// The session.
        session: SessionKey,
        /// The room.
        room: Subscribed,
        /// The slot.
        slot: u16,
        /// Bytes of one frame at most.
        frame_bytes: u16,
    },
    /// A session is closed by control.
    Close {
        /// The session.
        session: SessionKey,
        /// What it is told.
        close: Close,
    },
    /// The origin asks a speaker for frames.
    SpeechRequest {
        /// The session.
        session: SessionKey,
        /// What is asked for.
        request: SpeechRequest,
    },
    /// Where a relay is to stand.
    Placement {
        /// The relay's session.
        session: SessionKey,
        /// Its place.
        placement: Placement,
    },
    /// The origin's public keys: key id and Ed25519 key (base64url).
    Keys(Vec<(String, String)>),
    /// Where a child relay's listeners may go.
    RelaySiblings {
        /// The relay's session.
        session: SessionKey,
        /// What it is told.
        siblings: Siblings,
    },
    /// Whom a room takes no longer; it comes after the room itself.
    Revoked {
        /// The room's number.
        room: u32,
        /// All of them.
        list: Arc<Revoked>,
    },
    /// Who may come on stage.
    Invitations {
        /// The room's number.
        room: u32,
        /// All of them.
        list: Arc<Invitations>,
    },
    /// Whose hands a host has lowered.
    LoweredHands {
        /// The room's number.
        room: u32,
        /// The latest of them.
        list: Arc<LoweredHands>,
    },
    /// Where this node's listeners may go.
    Siblings(Siblings),
    /// How far the queue has been called.
    Admission {
        /// The origin's word.
        admission: Admission,
        /// How far this node's wall clock is ahead of the origin's (milliseconds).
        ahead_ms: i64,
        /// Whether child relays are told too.
        pass_on: bool,
    },
    /// One child relay is told how far the queue has been called.
    RelayAdmission {
        /// The relay's session.
        session: SessionKey,
        /// The origin's word.
        admission: Admission,
    },
    /// The answer to [`ToControl::Redeem`].
    Redeemed {
        /// The session.
        session: SessionKey,
        /// Why the ticket is refused, if it is.
        refused: Option<Close>,
    },
    /// Take no newcomers, and ask the listeners to move within this time.
    Drain {
        /// When the node will end.
        within: Duration,
    },
}
