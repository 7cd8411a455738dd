//! What the demo shows while it runs: each node's own `/topology`, asked twice a second.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::nodes;

/// How often each node is asked.
const EVERY: Duration = Duration::from_millis(500);

/// Rates are taken over up to this time: a node counts in steps of half a second.
const RATED_OVER: Duration = Duration::from_secs(3);

/// One node as the view shows it.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// 0 for the origin.
    pub level: u8,
    /// Whether it answers.
    pub up: bool,
    /// Why it would take no listener; empty if it would.
    pub not_ready: String,
    /// Listeners on it.
    pub listeners: u64,
    /// Child relays on it.
    pub children: u64,
    /// Its parents, the primary first, and whether each is connected.
    pub parents: Vec<(String, bool)>,
    /// Ticks that came in, a second.
    pub ticks_in: f64,
    /// Ticks that went out, a second.
    pub ticks_out: f64,
    /// The newest tick.
    pub newest: u64,
    /// From the origin's clock to this node, in milliseconds.
    pub delay_ms: f64,
    /// Ticks lost here since the start.
    pub lost: u64,
}

/// One speaker as the view shows it.
#[derive(Clone, Debug, Default)]
pub struct VoiceState {
    /// The name.
    pub name: String,
    /// The loudness in −dBov: 0 is the loudest, 127 silence.
    pub level: u8,
    /// Whether the origin makes it audible at the moment.
    pub audible: bool,
}

/// The demo at a moment.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What goes on.
    pub phase: String,
    /// Since all listeners joined.
    pub elapsed: Duration,
    /// How long the demo is to run; without it until it is ended by hand.
    pub seconds: Option<Duration>,
    /// The nodes, by level.
    pub nodes: Vec<NodeState>,
    /// The speakers.
    pub voices: Vec<VoiceState>,
    /// Listeners that were sent.
    pub listeners: usize,
    /// Listeners inside.
    pub inside: usize,
    /// Listeners that could not join or were lost.
    pub gone: usize,
}

/// What a node said, and when.
struct Answer {
    at: Instant,
    ticks_in: u64,
    ticks_out: u64,
}

/// Asks the nodes, on a thread of its own.
pub(super) struct Watch {
    states: Arc<Mutex<Vec<NodeState>>>,
    /// Slots that the origin makes audible.
    audible: Arc<Mutex<Vec<u16>>>,
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Watches nodes: name, level and admin address of each, the origin first.
    pub(super) fn start(nodes: Vec<(String, u8, SocketAddr)>) -> Result<Self> {
        let first = |(name, level, _): &(String, u8, SocketAddr)| NodeState {
            name: name.clone(),
            level: *level,
            ..NodeState::default()
        };
        let states = Arc::new(Mutex::new(nodes.iter().map(first).collect()));
        let audible = Arc::default();
        let (stop, stopped) = channel();
        let (shown, heard) = (Arc::clone(&states), Arc::clone(&audible));
        let watch = move || watch(&nodes, &shown, &heard, &stopped);
        let thread = std::thread::Builder::new().name("watch".into()).spawn(watch)?;
        Ok(Self { states, audible, stop: Some(stop), thread: Some(thread) })
    }

    /// The nodes as they answered last.
    pub(super) fn states(&self) -> Vec<NodeState> {
        lock(&self.states).clone()
    }

    /// The slots that were audible last.
    pub(super) fn audible(&self) -> Vec<u16> {
        lock(&self.audible).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A watch that panicked has nothing left to show.
            let _ = thread.join();
        }
    }
}

fn watch(
    nodes: &[(String, u8, SocketAddr)],
    states: &Mutex<Vec<NodeState>>,
    audible: &Mutex<Vec<u16>>,
    stop: &Receiver<()>,
) {
    let mut before: Vec<Option<Answer>> = nodes.iter().map(|_| None).collect();
    loop {
        for (number, (_, level, admin)) in nodes.iter().enumerate() {
            let said = nodes::topology(*admin);
            let mut states = lock(states);
            let state = &mut states[number];
            match said {
                Ok(said) => {
                    let answer = state.take(&said, before[number].as_ref());
                    let kept = before[number].as_ref();
                    if kept.is_none_or(|kept| kept.at.elapsed() >= RATED_OVER) {
                        before[number] = Some(answer);
                    }
                    if *level == 0 {
                        *lock(audible) = audible_slots(&said);
                    }
                }
                Err(_) => {
                    let (name, level) = (state.name.clone(), state.level);
                    *state = NodeState { name, level, ..NodeState::default() };
                }
            }
        }
        if stop.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

impl NodeState {
    fn take(&mut self, said: &Value, before: Option<&Answer>) -> Answer {
        let number = |name: &str| said[name].as_u64().unwrap_or_default();
        let answer = Answer {
            at: Instant::now(),
            ticks_in: number("ticks_in"),
            ticks_out: number("ticks_out"),
        };
        self.up = true;
        self.not_ready = said["not_ready"].as_str().unwrap_or_default().to_owned();
        self.listeners = number("listeners");
        self.children = number("children");
        let parents = said["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parent = |parent: &Value| {
            let name = parent["relay"].as_str().unwrap_or_default().to_owned();
            (name, parent["up"].as_bool().unwrap_or(false))
        };
        self.parents = parents.iter().map(parent).collect();
        let room = &said["rooms"][0];
        self.newest = room["newest"].as_u64().unwrap_or_default();
        self.delay_ms = room["delay_ms"].as_f64().unwrap_or_default();
        self.lost = room["lost"].as_u64().unwrap_or_default();
        if let Some(before) = before {
            let seconds = (answer.at - before.at).as_secs_f64().max(0.001);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.ticks_in = rate(answer.ticks_in, before.ticks_in);
            self.ticks_out = rate(answer.ticks_out, before.ticks_out);
        }
        answer
    }
}

/// `stage` is a list of slot, identity, audible.
fn audible_slots(said: &Value) -> Vec<u16> {
    let stage = said["rooms"][0]["stage"].as_array().map(Vec::as_slice).unwrap_or_default();
    let slot = |entry: &Value| entry[0].as_u64().and_then(|slot| u16::try_from(slot).ok());
    stage.iter().filter(|entry| entry[2] == true).filter_map(slot).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each state is whole before the lock is given back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_topology_becomes_a_state() {
        let said = json!({
            "node": "relay-2-1", "level": 2, "listeners": 3, "children": 1, "ticks_in": 150,
            "ticks_out": 300,
            "parents": [{"relay": "relay-1-1", "address": "a:1", "up": true}],
            "rooms": [{"room": "hall", "newest": 77, "delay_ms": 1.5, "lost": 2,
                       "stage": [[0, "speaker-1", true], [1, "speaker-2", false]]}],
        });
        let mut state = NodeState::default();
        let at = Instant::now() - Duration::from_secs(1);
        state.take(&said, Some(&Answer { at, ticks_in: 100, ticks_out: 0 }));
        assert!((49.0..=50.0).contains(&state.ticks_in), "{state:?}");
        assert_eq!((state.newest, state.lost, state.listeners), (77, 2, 3));
        assert_eq!(state.parents, [("relay-1-1".to_owned(), true)]);
        assert_eq!(audible_slots(&said), [0]);
        // A node that says less than that is shown all the same.
        NodeState::default().take(&json!({}), None);
    }
}
