//! What a session's path is like decides how much redundancy it is sent.

use super::{NodeShard, Standing};
use crate::Time;
use crate::fanout::{Change, PathSample, SessionIx, Targets};

impl NodeShard {
    /// Takes a sample of a session's path. The shell samples each session about once a second, a
    /// few in each turn; nothing is allocated unless the session changes its list.
    pub fn handle_path(&mut self, now: Time, ix: SessionIx, sample: PathSample) {
        if !self.settings.redundancy {
            return;
        }
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        let change = session.choice.sample(now, sample);
        let (variant, count) = (session.choice.variant(), session.rooms.len());
        match change {
            Change::None => {}
            Change::Up => self.stats.variant_up += 1,
            Change::Down => self.stats.variant_down += 1,
            Change::Queueing => self.stats.variant_queueing += 1,
        }
        for nth in 0..count {
            let membership =
                self.session_mut(ix).and_then(|session| session.rooms.get(nth).copied());
            let Some(membership) = membership else { return };
            let Some(room) = self.rooms[membership.room].as_ref() else { continue };
            // Who lags is put into its list by its variant once it has caught up.
            if let Standing::Live(place) = membership.standing
                && Targets::variant(place) != variant.at_most(room.info.redundancy)
            {
                self.off_the_list(membership);
                self.on_the_list(ix, membership.room);
            }
        }
    }
}
