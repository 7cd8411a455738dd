//! What a room counts.

macro_rules! room_stats {
    ($($(#[$doc:meta])* $name:ident,)* ; drops: $($(#[$drop_doc:meta])* $drop:ident,)*) => {
        /// A room's counters since it began. Frames unless said otherwise.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct RoomStats {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$drop_doc])* pub $drop: u64,)*
        }

        impl std::ops::AddAssign for RoomStats {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
                $(self.$drop += other.$drop;)*
            }
        }

        impl RoomStats {
            /// Every counter by its name, for the operator's view.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter().chain(self.causes())
            }

            /// Frames (for `unpolled`: ticks) that were dropped, by cause, for metrics.
            pub fn causes(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($drop), self.$drop),)*].into_iter()
            }
        }
    };
}

room_stats! {
    /// Frames accepted from speakers, each once.
    frames_in,
    /// Frames that left in ticks.
    frames_out,
    /// Ticks closed, heartbeats included (ticks).
    ticks,
    /// Ticks without a frame (ticks).
    heartbeats,
    /// Frames whose own datagram was lost and that a later datagram carried along.
    recovered,
    /// Frames that came because they were asked for.
    repaired,
    /// Requests sent to speakers (requests).
    requests,
    /// Times that a speaker's count began anew (restarts).
    restarts,
    ;
    drops:
    /// Frames lost on the way from a speaker: neither redundancy nor repair brought them in time.
    lost,
    /// Copies that a datagram carried along and that were not needed: the price of redundancy.
    redundant,
    /// Frames that were had already, though they came as a datagram's newest.
    duplicate,
    /// Frames older than the window, or given up for lost before they came.
    old,
    /// Frames whose number is far from the speaker's count.
    jumped,
    /// Frames above the speaker's rate of 50 a second.
    too_fast,
    /// Frames above the profile's bit rate.
    over_rate,
    /// Frames larger than the profile allows.
    oversized,
    /// Frames that are not well-formed Opus packets of 20 ms.
    bad_opus,
    /// Frames for a slot that nobody holds.
    unknown_slot,
    /// Frames of a muted speaker.
    muted,
    /// Frames of speakers who were not audible.
    not_audible,
    /// Frames that found no place in a tick in time.
    surplus_expired,
    /// Frames beyond what may wait for a tick.
    surplus_full,
    /// Ticks that nobody polled (ticks).
    unpolled,
}
