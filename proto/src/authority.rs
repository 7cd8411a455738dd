//! Who may do what: the table of role and action (`docs/AUTHORITY.md`) as one function.

use crate::token::Claims;
use crate::wire::Role;

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody without a token.
    Anonymous,
    /// The bearer of a listener's or recorder's token.
    Listener,
    /// The bearer of a speaker's token.
    Speaker,
    /// The bearer of a co-host's token.
    CoHost,
    /// The bearer of a host's token.
    Host,
    /// The bearer of a host's token for every room.
    ApiKey,
}

impl Actor {
    /// Every actor, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Anonymous, Self::Listener, Self::Speaker, Self::CoHost, Self::Host, Self::ApiKey];

    /// The bearer of a token; a relay's is nobody in a room.
    #[must_use]
    pub fn of(claims: Option<&Claims>) -> Self {
        match claims {
            None => Self::Anonymous,
            Some(claims) if claims.is_api_key() => Self::ApiKey,
            Some(claims) => match claims.role {
                Role::Host => Self::Host,
                Role::CoHost => Self::CoHost,
                Role::Speaker => Self::Speaker,
                Role::Listener | Role::Recorder => Self::Listener,
                Role::Relay => Self::Anonymous,
            },
        }
    }

    /// The actor's name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Listener => "listener",
            Self::Speaker => "speaker",
            Self::CoHost => "co-host",
            Self::Host => "host",
            Self::ApiKey => "API key",
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What is done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// Every action, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The action's name in the table and in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

actions! {
    /// See the public rooms.
    ListRooms = "list_rooms",
    /// Read a public room's document and its relays.
    ReadPublicRoom = "read_public_room",
    /// Read a private room's document, with a token of it.
    ReadRoom = "read_room",
    /// Come in as a listener of a public room.
    JoinPublicRoom = "join_public_room",
    /// Come in as a listener of a private room.
    JoinRoom = "join_room",
    /// Raise one's hand (on a listener's session).
    RaiseHand = "raise_hand",
    /// React, and report what one hears (on a session).
    React = "react",
    /// Come on stage when invited.
    AcceptInvitation = "accept_invitation",
    /// Send frames in one's own slot.
    Speak = "speak",
    /// Mute and unmute oneself.
    MuteSelf = "mute_self",
    /// Make the room that the token names.
    CreateRoom = "create_room",
    /// Change title, topic, lock, who may listen.
    ChangeRoom = "change_room",
    /// End the room.
    End = "end",
    /// Lock the room against newcomers.
    Lock = "lock",
    /// Unlock it.
    Unlock = "unlock",
    /// See stage, raised hands, invitations and bans.
    SeeParticipants = "see_participants",
    /// See live statistics.
    SeeStats = "see_stats",
    /// Follow what happens.
    FollowEvents = "follow_events",
    /// Invite onto the stage.
    Invite = "invite",
    /// Grant a raised hand.
    Promote = "promote",
    /// Take from the stage.
    Demote = "demote",
    /// Mute somebody.
    Mute = "mute",
    /// Lift that mute.
    Unmute = "unmute",
    /// Lower somebody's hand.
    LowerHand = "lower_hand",
    /// Put somebody out.
    Remove = "remove",
    /// Put somebody out for good.
    Ban = "ban",
    /// Lift a ban.
    Unban = "unban",
    /// Make somebody a co-host.
    MakeCoHost = "make_co_host",
    /// Mint a listener's token.
    MintListener = "mint_listener",
    /// Mint a speaker's token.
    MintSpeaker = "mint_speaker",
    /// Mint a co-host's token.
    MintCoHost = "mint_co_host",
    /// Mint a host's token.
    MintHost = "mint_host",
    /// Name, list and remove webhooks.
    Webhooks = "webhooks",
}

/// Whether `actor` may do `action` in the room of its token.
#[must_use]
#[rustfmt::skip]
pub const fn allows(actor: Actor, action: Action) -> bool {
    use Action::*;
    use Actor::{Anonymous, ApiKey, CoHost, Host, Listener, Speaker};
    match action {
        ListRooms | ReadPublicRoom | JoinPublicRoom => true,
        ReadRoom | JoinRoom => !matches!(actor, Anonymous),
        RaiseHand | React => !matches!(actor, ApiKey),
        AcceptInvitation => matches!(actor, Listener | Speaker | CoHost),
        Speak | MuteSelf => matches!(actor, Speaker | CoHost | Host),
        CreateRoom | End | MakeCoHost | MintCoHost | MintHost | Webhooks => matches!(actor, Host | ApiKey),
        ChangeRoom | Lock | Unlock | SeeParticipants | SeeStats | FollowEvents | Invite | Promote | Demote | Mute | Unmute | LowerHand | Remove | Ban | Unban | MintListener | MintSpeaker => matches!(actor, CoHost | Host | ApiKey),
    }
}

/// Whether `actor` may do `action` to somebody who is `target` on stage (a listener if not there).
#[must_use]
pub const fn allows_to(actor: Actor, action: Action, target: Role) -> bool {
    let against = matches!(
        action,
        Action::Demote | Action::Mute | Action::Unmute | Action::Remove | Action::Ban
    );
    let spared = match target {
        Role::Host | Role::CoHost => matches!(actor, Actor::CoHost),
        _ => false,
    };
    allows(actor, action) && !(against && spared)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/AUTHORITY.md");

    #[test]
    fn every_cell_is_that_of_the_page() {
        let lines = PAGE.lines().filter(|line| line.starts_with('|'));
        let cells = |line: &'static str| {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
            cells.collect::<Vec<_>>()
        };
        let rows: Vec<_> = lines.map(cells).collect();
        assert_eq!(rows[0][2..], Actor::ALL.map(|actor| actor.name().to_owned()));
        let written: Vec<_> =
            rows[2..].iter().map(|row| (row[0].clone(), row[2..].to_vec())).collect();
        let cell = |allowed| if allowed { "yes" } else { "no" }.to_owned();
        let row = |&action: &Action| {
            let cells = Actor::ALL.map(|actor| cell(allows(actor, action)));
            (action.name().to_owned(), cells.to_vec())
        };
        assert_eq!(written, Action::ALL.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn a_co_host_does_nothing_to_hosts() {
        use Action::{Ban, Demote, Invite, LowerHand, Mute, Remove, Unmute};
        for action in [Ban, Demote, Mute, Remove, Unmute] {
            for target in [Role::Host, Role::CoHost] {
                assert!(!allows_to(Actor::CoHost, action, target), "{}", action.name());
                assert!(allows_to(Actor::Host, action, target), "{}", action.name());
                assert!(allows_to(Actor::ApiKey, action, target), "{}", action.name());
            }
            for target in [Role::Speaker, Role::Listener] {
                assert!(allows_to(Actor::CoHost, action, target), "{}", action.name());
                assert!(!allows_to(Actor::Speaker, action, target), "{}", action.name());
            }
        }
        for action in [Invite, LowerHand] {
            assert!(allows_to(Actor::CoHost, action, Role::CoHost), "{}", action.name());
        }
    }
}
