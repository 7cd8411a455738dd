//! Tickets are redeemed by control, for shards share nothing: whichever of them a copy reaches, it is
//! used once.

use super::messages::ToShard;
use super::stats::ControlStats;
use crate::admission::{Spent, SpentError};
use crate::session::SessionKey;
use crate::wire::{Close, CloseCode};

/// Redeems `ticket` for `session`, and answers its shard.
pub(super) fn redeem(
    spent: &mut Spent,
    stats: &mut ControlStats,
    now_unix_s: u64,
    session: SessionKey,
    ticket: u64,
) -> ToShard {
    let refused = match spent.redeem(now_unix_s, ticket) {
        Ok(()) => {
            stats.tickets_redeemed += 1;
            None
        }
        Err(error @ SpentError::Spent) => {
            stats.drop_ticket_spent += 1;
            Some(Close::new(CloseCode::TicketSpent, error.to_string()))
        }
        Err(error @ SpentError::Full) => {
            stats.drop_ticket_table += 1;
            Some(Close::new(CloseCode::Full, error.to_string()))
        }
    };
    ToShard::Redeemed { session, refused }
}
