//! The tickets that have been redeemed here.

use std::collections::{BTreeSet, VecDeque};

use crate::limits;

/// Why a ticket is not redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpentError {
    /// It has been.
    #[error("the ticket has been used")]
    Spent,
    /// [`limits::SPENT_TICKETS`] are remembered: what cannot be remembered is not redeemed.
    #[error("too many tickets have been used of late; come again")]
    Full,
}

/// Tickets redeemed at one node, each remembered for as long as any copy of it may be good.
#[derive(Debug, Default)]
pub struct Spent {
    known: BTreeSet<u64>,
    /// In the order of their ends (seconds since 1970), for all are remembered equally long.
    ends: VecDeque<(u64, u64)>,
    admitted: u64,
}

impl Spent {
    /// Redeems the ticket `jti` at `now_unix_s`; `admits` says whether its bearer waited for its place
    /// and takes it now, rather than being sent to another relay.
    ///
    /// # Errors
    /// When it has been redeemed before, or cannot be remembered.
    pub fn redeem(&mut self, now_unix_s: u64, jti: u64, admits: bool) -> Result<(), SpentError> {
        while let Some(&(ends, old)) = self.ends.front()
            && ends <= now_unix_s
        {
            self.ends.pop_front();
            self.known.remove(&old);
        }
        if self.known.contains(&jti) {
            return Err(SpentError::Spent);
        }
        if self.known.len() >= limits::SPENT_TICKETS {
            return Err(SpentError::Full);
        }
        self.known.insert(jti);
        // A copy that was renewed just now ends so much later.
        let ends = now_unix_s + limits::TICKET_S + 2 * limits::TOKEN_LEEWAY_S;
        self.ends.push_back((ends, jti));
        self.admitted += u64::from(admits);
        Ok(())
    }

    /// Those who waited and were admitted, since the start: each was called once, wherever it was sent.
    #[must_use]
    pub const fn admitted(&self) -> u64 {
        self.admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_redeemed_once_for_as_long_as_a_copy_is_good() {
        let mut spent = Spent::default();
        assert_eq!(spent.redeem(1_000, 7, true), Ok(()));
        for now in [1_000, 1_000 + limits::TICKET_S + limits::TOKEN_LEEWAY_S] {
            assert_eq!(spent.redeem(now, 7, true), Err(SpentError::Spent));
        }
        assert_eq!(spent.redeem(1_000, 8, false), Ok(()));
        assert_eq!(spent.admitted(), 1);
        let later = 1_000 + limits::TICKET_S + 3 * limits::TOKEN_LEEWAY_S;
        spent.redeem(later, 9, false).unwrap();
        assert_eq!((spent.known.len(), spent.ends.len()), (1, 1), "nothing is kept for ever");
    }

    #[test]
    fn what_cannot_be_remembered_is_not_redeemed() {
        let mut spent = Spent::default();
        for jti in 0..limits::SPENT_TICKETS as u64 {
            spent.redeem(1_000, jti, false).unwrap();
        }
        assert_eq!(spent.redeem(1_000, u64::MAX, false), Err(SpentError::Full));
        let later = 1_000 + 2 * limits::TICKET_S;
        assert_eq!(spent.redeem(later, u64::MAX, false), Ok(()));
    }
}
