//! A queue inside a node: what is put in comes out in its order, a little later.

use std::collections::VecDeque;
use std::time::Duration;

use stentor_proto::Time;

use super::chance::Chance;

/// A bounded queue between control and a shard. Each queue keeps its own order, as a channel does;
/// two queues do not wait for each other.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: VecDeque<(Time, T)>,
    most: usize,
    /// A queue's own: what one node does changes no other's turns.
    chance: Chance,
    /// While held, nothing comes out.
    pub(super) held: bool,
    /// What did not fit.
    pub(super) dropped: u64,
}

/// What a thread's turn takes: nearly always under a millisecond…
const TURN: Duration = Duration::from_micros(300);
/// …and now and then as long as a burst of handshakes or the kernel's scheduler makes it.
const STALL: Duration = Duration::from_millis(15);
/// How often that is.
const STALLS: f64 = 0.01;

impl<T> Queue<T> {
    pub(super) fn new(most: usize, seed: u64) -> Self {
        let chance = Chance::new(seed);
        Self { waiting: VecDeque::new(), most, chance, held: false, dropped: 0 }
    }

    /// Puts a message in; says when it comes out, or gives it back if the queue is full.
    pub(super) fn push(&mut self, now: Time, item: T) -> Result<Time, T> {
        if self.waiting.len() >= self.most {
            self.dropped += 1;
            return Err(item);
        }
        let most = if self.chance.happens(STALLS) { STALL } else { TURN };
        let takes = self.chance.within(most);
        let after = self.waiting.back().map_or(Time::ZERO, |&(at, _)| at);
        let at = after.max(now + takes);
        self.waiting.push_back((at, item));
        Ok(at)
    }

    /// The next message that has come through.
    pub(super) fn pop(&mut self, now: Time) -> Option<T> {
        if self.held || self.waiting.front()?.0 > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, item)| item)
    }

    /// When the next message comes out.
    pub(super) fn due(&self) -> Option<Time> {
        self.waiting.front().map(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_keeps_its_order_and_its_bound() {
        let mut queue = Queue::new(1_000, 1);
        for n in 0..1_000 {
            queue.push(Time::from_micros(n), n).unwrap();
        }
        assert_eq!(queue.push(Time::ZERO, 1_000), Err(1_000));
        assert_eq!(queue.dropped, 1);
        let out: Vec<u64> = std::iter::from_fn(|| queue.pop(Time::from_millis(100))).collect();
        assert!(out.iter().copied().eq(0..1_000));
    }

    #[test]
    fn nothing_comes_out_before_its_time_or_while_held() {
        let mut queue = Queue::new(1, 2);
        let at = queue.push(Time::from_millis(5), 'x').unwrap();
        assert_eq!(queue.pop(Time::from_millis(5)), None);
        queue.held = true;
        assert_eq!(queue.pop(at), None);
        queue.held = false;
        assert_eq!(queue.pop(at), Some('x'));
    }
}
