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
    (ticket, admits): (u64, bool),
) -> ToShard {
    let refused = redeemed(spent, stats, now_unix_s, ticket, admits).err();
    ToShard::Redeemed { session, refused }
}

/// Redeems `ticket`; `admits` as [`Spent::redeem`] has it.
///
/// # Errors
/// When it has been redeemed, or cannot be remembered.
pub(super) fn redeemed(
    spent: &mut Spent,
    stats: &mut ControlStats,
    now_unix_s: u64,
    ticket: u64,
    admits: bool,
) -> Result<(), Close> {
    spent.redeem(now_unix_s, ticket, admits).map_err(|error| {
        let code = match error {
            SpentError::Spent => {
                stats.drop_ticket_spent += 1;
                CloseCode::TicketSpent
            }
            SpentError::Full => {
                stats.drop_ticket_table += 1;
                CloseCode::Full
            }
        };
        Close::new(code, error.to_string())
    })?;
    stats.tickets_redeemed += 1;
    Ok(())
}
