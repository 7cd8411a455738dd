//! What a shard counted: every drop by its cause, every close by its code.

use crate::wire::CloseCode;

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl std::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }

        impl $name {
            /// Every counter by its name.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// What a shard counted since it started.
    ShardStats {
        /// Sessions that joined, in any role.
        joined,
        /// Sessions that left or were closed.
        left,
        /// Ticks handed to this shard.
        ticks,
        /// Datagrams that the fan-out offered to connections.
        offered,
        /// Ticks of another epoch than the room's, or of a room that this shard does not have.
        drop_foreign_tick,
        /// Old ticks of a replay that were kept for those who ask, and sent to nobody.
        replays_kept,
        /// Ticks that a lagging session skipped because they were stale.
        drop_stale,
        /// Late-join and replay datagrams that were shed because the connection was busy.
        drop_replay_shed,
        /// Beacons sent.
        beacons,
        /// Ticks sent as answers to repair requests.
        repaired,
        /// Repair requests for a tick that is not kept, or pending here.
        drop_repair_unknown,
        /// Repair requests beyond a child's budget.
        drop_repair_budget,
        /// Repair requests over a path that is full: the answers would push out ticks.
        drop_repair_full_path,
        /// Probes answered.
        probed,
        /// Listeners that came with a good re-home pass.
        returned,
        /// Re-home passes refused: their bearers came as newcomers.
        drop_bad_pass,
        /// Listeners that a pass would have let in, but for a spent budget: they came as newcomers.
        returns_over_budget,
        /// Times that somebody was told to wait.
        waited,
        /// Of them, those who could prove nothing of themselves, and got no ticket.
        waited_without_ticket,
        /// Times that somebody was sent to another relay.
        redirected,
        /// Tickets accepted for a relay that is gone.
        tickets_exchanged,
        /// Tickets refused: forged, expired, another's, of another relay.
        drop_bad_ticket,
        /// Listeners asked to move because this node drains.
        asked_to_move,
        /// Repair requests on a node whose operator has switched repair off.
        drop_repair_off,
        /// Times that a session was sent more redundancy, for its path loses.
        variant_up,
        /// Times that a session was sent less redundancy, for its path is clean.
        variant_down,
        /// Times that a session was sent less redundancy, for its path is full.
        variant_queueing,
        /// Datagrams that break the protocol.
        drop_bad_datagram,
        /// Datagrams of a session that may not send them.
        drop_unauthorised,
        /// Speech in a slot that is not the speaker's.
        drop_forged_slot,
        /// Speech beyond a session's datagram budget.
        drop_speech_budget,
        /// Control messages that this release does not know.
        unknown_messages,
        /// Control messages read from sessions.
        control_messages,
        /// Hands raised or lowered more often than allowed.
        drop_hand,
        /// Reactions of an unknown kind, or more than allowed.
        drop_reaction,
        /// Reports of what is heard that say nothing, or come more often than allowed.
        drop_report,
        /// Control messages longer than allowed that were not sent: a defect of this node.
        drop_oversize_message,
        /// Hellos refused, for whatever reason.
        refused,
        /// Messages to control that did not fit into the queue.
        drop_to_control,
    }
}

counters! {
    /// What control counted since it started.
    ControlStats {
        /// Ticks passed on to the shards.
        ticks,
        /// Second copies of a tick, from the other parent.
        duplicate,
        /// Ticks that came when they were given up already.
        drop_late,
        /// Ticks and beacons further ahead than an honest parent can be.
        drop_too_far_ahead,
        /// Two different copies of one tick: one parent forges.
        conflict,
        /// Ticks asked for.
        repair_requested,
        /// Ticks that came after they were asked for.
        repaired,
        /// Ticks given up.
        lost,
        /// Times that one parent's feed fell silent while another one delivered.
        feeds_silent,
        /// Ticks of a room or an epoch that this node does not follow.
        drop_foreign_tick,
        /// Datagrams of a parent that break the protocol.
        drop_bad_datagram,
        /// Messages of a parent that break the protocol or that this release does not know.
        bad_messages,
        /// Rooms refused because the table is full.
        drop_room_table,
        /// Rooms refused because too many new ones were asked for.
        drop_room_budget,
        /// Times that an uplink was opened.
        uplinks_opened,
        /// Times that an uplink was lost.
        uplinks_lost,
        /// Raised hands beyond what a queue or a room holds, or of somebody who may not be there.
        drop_hands,
        /// Words on people met at their banned addresses that were not said up the tree: said of late, or
        /// too many.
        drop_meets,
        /// What happened in rooms, and nobody took note of in time.
        drop_news,
        /// Messages from children about a session that is gone.
        stale_messages,
        /// Tickets redeemed: their bearers came in or were sent to another relay.
        tickets_redeemed,
        /// Tickets refused because they had been redeemed.
        drop_ticket_spent,
        /// Tickets refused because no more can be remembered as redeemed.
        drop_ticket_table,
    }
}

/// Sessions that a shard closed, by code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closes([u64; CloseCode::ALL.len()]);

impl Closes {
    /// Every code's name with its count.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        CloseCode::ALL.iter().map(|code| code.name()).zip(self.0)
    }

    pub(super) fn count(&mut self, code: CloseCode) {
        let at = CloseCode::ALL.binary_search(&code).expect("all codes are listed, in order");
        self.0[at] += 1;
    }
}

impl Default for Closes {
    fn default() -> Self {
        Self([0; CloseCode::ALL.len()])
    }
}

impl std::ops::AddAssign for Closes {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_count_of_its_own() {
        let mut closes = Closes::default();
        for &code in CloseCode::ALL {
            closes.count(code);
        }
        closes.count(CloseCode::Full);
        closes += closes;
        let counted = |(name, count)| count == if name == CloseCode::Full.name() { 4 } else { 2 };
        assert!(closes.entries().all(counted));
    }
}
