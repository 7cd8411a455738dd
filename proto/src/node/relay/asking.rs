//! How many new rooms a relay asks its parents for. Whoever makes up names asks them through it, and
//! they would blame the relay; nor may made-up names keep anybody else's room away.

use std::collections::BTreeMap;

use crate::node::messages::Asker;
use crate::session::{Budget, SessionKey};
use crate::{Time, limits};

/// The budgets of those who ask for rooms.
#[derive(Debug)]
pub(super) struct Asking {
    anonymous: Budget,
    children: BTreeMap<SessionKey, Budget>,
    /// All but those with a token.
    all: Budget,
}

impl Asking {
    pub(super) const fn new(now: Time) -> Self {
        Self {
            anonymous: Budget::new(limits::NEW_ROOMS_PER_S, now),
            children: BTreeMap::new(),
            all: Budget::new(limits::NEW_ROOMS_MOST_PER_S, now),
        }
    }

    /// Whether one more room may be asked for. A token is charged to nothing: whoever minted it for
    /// the room says that there is one.
    pub(super) fn spend(&mut self, now: Time, by: Asker) -> bool {
        let own = match by {
            Asker::Token => return true,
            Asker::Anonymous => &mut self.anonymous,
            Asker::Child(session) => {
                if self.children.len() >= limits::SUM_CHILDREN {
                    self.children.clear();
                }
                let new = || Budget::new(limits::NEW_ROOMS_PER_S, now);
                self.children.entry(session).or_insert_with(new)
            }
        };
        own.spend(now) && self.all.spend(now)
    }

    /// A child is gone.
    pub(super) fn left(&mut self, child: SessionKey) {
        self.children.remove(&child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::SessionIx;

    #[test]
    fn nobody_uses_up_what_others_may_ask_for() {
        let now = Time::from_millis(1_000);
        let child = |n| Asker::Child(SessionKey { shard: 0, ix: SessionIx(n), generation: n });
        let mut asking = Asking::new(now);
        let count = |asking: &mut Asking, by| (0..1_000).filter(|_| asking.spend(now, by)).count();
        let own = limits::NEW_ROOMS_PER_S as usize;
        assert_eq!(count(&mut asking, Asker::Anonymous), own);
        assert_eq!(count(&mut asking, child(1)), own);
        assert_eq!(count(&mut asking, child(2)), own);
        assert_eq!(count(&mut asking, Asker::Token), 1_000);
        let rest = (3..20).map(|n| count(&mut asking, child(n))).sum::<usize>();
        assert_eq!(3 * own + rest, limits::NEW_ROOMS_MOST_PER_S as usize);
    }
}
