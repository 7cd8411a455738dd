//! Sums of what children report, along primary parents only.

use std::collections::BTreeMap;

use crate::Time;
use crate::limits;
use crate::wire::Load;

/// Why a child's report does not enter the sums; each is counted by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    /// It is of a former incarnation, or not newer than the last one.
    #[error("the report is older than the one that is held")]
    Stale,
    /// [`limits::SUM_CHILDREN`] children are held.
    #[error("{} children report, the limit", limits::SUM_CHILDREN)]
    TooMany,
    /// The child's name is empty or too long.
    #[error("the child's name is empty or too long")]
    Name,
}

/// One node's sums. A report is a state: it replaces the child's former one, and expires.
///
/// Two parents make a graph, so a child counts only at the first of its parents in force
/// ([`Load::parents`]). A child sends its load to all of its parents: the former primary learns
/// from it that it is that no longer, and stops counting at once.
#[derive(Clone, Debug)]
pub struct Sums {
    own: String,
    children: BTreeMap<String, State>,
    /// No child expires before this: most turns look no further.
    due: Option<Time>,
}

#[derive(Clone, Debug)]
struct State {
    incarnation: u64,
    sequence: u64,
    /// Zero while another parent is the child's primary.
    listeners: u64,
    /// Tickets by second of arrival; none while another parent is the child's primary.
    arrivals: Vec<(u64, u64)>,
    expires: Time,
}

impl Sums {
    /// The sums of relay `own`, or of the origin with [`super::ORIGIN`].
    #[must_use]
    pub fn new(own: impl Into<String>) -> Self {
        Self { own: own.into(), children: BTreeMap::new(), due: None }
    }

    /// Takes a child's report.
    ///
    /// # Errors
    /// When it is stale, its sender has no valid name, or too many children report.
    pub fn handle(&mut self, now: Time, child: &str, load: &Load) -> Result<(), SumsError> {
        if child.is_empty() || child.len() > limits::NAME_BYTES {
            return Err(SumsError::Name);
        }
        if let Some(state) = self.children.get(child) {
            let known = (state.incarnation, state.sequence);
            if now < state.expires && (load.incarnation, load.sequence) <= known {
                return Err(SumsError::Stale);
            }
        } else if self.children.len() >= limits::SUM_CHILDREN {
            return Err(SumsError::TooMany);
        }
        let is_primary = load.parents.first() == Some(&self.own);
        let state = State {
            incarnation: load.incarnation,
            sequence: load.sequence,
            listeners: if is_primary { load.listeners_below } else { 0 },
            arrivals: match is_primary {
                true => load.arrivals.iter().copied().take(limits::ARRIVALS_S).collect(),
                false => Vec::new(),
            },
            expires: now + limits::REPORT_EXPIRY,
        };
        self.due = Some(self.due.map_or(state.expires, |due| due.min(state.expires)));
        self.children.insert(child.to_owned(), state);
        Ok(())
    }

    /// Forgets a child whose session ended.
    pub fn remove(&mut self, child: &str) {
        self.children.remove(child);
    }

    /// Forgets children that have not reported for [`limits::REPORT_EXPIRY`].
    pub fn expire(&mut self, now: Time) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.children.retain(|_, state| now < state.expires);
        self.due = self.children.values().map(|state| state.expires).min();
    }

    /// When [`Self::expire`] is to be called: never later than the next child expires.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Time> {
        self.due
    }

    /// Listeners below the children; with the node's own it is [`Load::listeners_below`].
    #[must_use]
    pub fn total(&self) -> u64 {
        let below = self.children.values().map(|state| state.listeners);
        below.fold(0, u64::saturating_add)
    }

    /// Adds the tickets below the children to `own`, by second of arrival; what is left are the
    /// newest [`limits::ARRIVALS_S`] seconds that are not after `newest` (the origin's clock), so that
    /// one child's made-up future does not push out the others' present.
    #[must_use]
    pub fn arrivals(
        &self,
        own: impl IntoIterator<Item = (u64, u64)>,
        newest: u64,
    ) -> BTreeMap<u64, u64> {
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        let below = self.children.values().flat_map(|state| state.arrivals.iter().copied());
        for (second, count) in below.chain(own).filter(|(second, _)| *second <= newest) {
            let sum = sums.entry(second).or_default();
            *sum = sum.saturating_add(count).min(limits::ARRIVALS_PER_S);
            if sums.len() > limits::ARRIVALS_S {
                sums.pop_first();
            }
        }
        sums
    }

    /// Children whose states are held.
    #[must_use]
    pub fn children(&self) -> usize {
        self.children.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(sequence: u64, below: u64, parents: &[&str]) -> Load {
        Load {
            incarnation: 1,
            sequence,
            listeners_below: below,
            parents: parents.iter().map(|&p| p.to_owned()).collect(),
            ..Load::default()
        }
    }

    #[test]
    fn a_report_replaces_the_former_one() {
        let mut sums = Sums::new("a");
        assert_eq!(sums.handle(Time::ZERO, "c", &load(1, 10, &["a", "b"])), Ok(()));
        assert_eq!(sums.handle(Time::ZERO, "c", &load(2, 7, &["a", "b"])), Ok(()));
        assert_eq!(sums.handle(Time::ZERO, "c", &load(1, 10, &["a", "b"])), Err(SumsError::Stale));
        assert_eq!(sums.total(), 7);
    }

    #[test]
    fn a_child_counts_at_its_primary_alone_also_while_it_changes() {
        let (mut a, mut b) = (Sums::new("a"), Sums::new("b"));
        for (sequence, parents) in [(1, ["a", "b"]), (2, ["b", "a"]), (3, ["a", "b"])] {
            let report = load(sequence, 10, &parents);
            a.handle(Time::ZERO, "c", &report).unwrap();
            b.handle(Time::ZERO, "c", &report).unwrap();
            assert_eq!(a.total() + b.total(), 10, "{parents:?}");
        }
    }

    #[test]
    fn a_silent_child_expires_and_a_new_incarnation_starts_over() {
        let mut sums = Sums::new("a");
        sums.handle(Time::ZERO, "c", &load(9, 10, &["a"])).unwrap();
        let mut reborn = load(1, 3, &["a"]);
        reborn.incarnation = 2;
        sums.handle(Time::ZERO, "c", &reborn).unwrap();
        assert_eq!(sums.total(), 3);
        let timeout = sums.poll_timeout().unwrap();
        assert_eq!(timeout, Time::ZERO + limits::REPORT_EXPIRY);
        sums.expire(timeout);
        assert_eq!((sums.total(), sums.children()), (0, 0));
    }

    #[test]
    fn tickets_are_summed_by_their_second_of_arrival() {
        let mut sums = Sums::new("a");
        let second = |n: u64| (100 + n, 1);
        let mut c = load(1, 0, &["a", "b"]);
        c.arrivals = (0..limits::ARRIVALS_S as u64).map(second).collect();
        sums.handle(Time::ZERO, "c", &c).unwrap();
        let elsewhere = Load { arrivals: vec![(101, 9)], ..load(1, 0, &["b", "a"]) };
        sums.handle(Time::ZERO, "d", &elsewhere).unwrap();
        let flood = Load { arrivals: vec![(110, u64::MAX); 1_000], ..load(1, 0, &["a"]) };
        sums.handle(Time::ZERO, "e", &flood).unwrap();
        let future = (0..limits::ARRIVALS_S as u64).map(|n| (1_000 + n, 1)).collect();
        let future = Load { arrivals: future, ..load(1, 0, &["a"]) };
        sums.handle(Time::ZERO, "f", &future).unwrap();
        let arrivals = sums.arrivals([(109, 5)], 110);
        assert_eq!(arrivals.len(), limits::ARRIVALS_S);
        assert_eq!((arrivals.get(&100), arrivals[&101], arrivals[&109]), (None, 1, 6));
        assert_eq!(arrivals[&110], limits::ARRIVALS_PER_S);
    }

    #[test]
    fn hostile_totals_do_not_overflow() {
        let mut sums = Sums::new("a");
        sums.handle(Time::ZERO, "c", &load(1, u64::MAX, &["a"])).unwrap();
        sums.handle(Time::ZERO, "d", &load(1, u64::MAX, &["a"])).unwrap();
        assert_eq!(sums.total(), u64::MAX);
        assert_eq!(sums.handle(Time::ZERO, "", &load(1, 1, &[])), Err(SumsError::Name));
    }
}
