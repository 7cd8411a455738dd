//! Well-behaved listeners beside whom others misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use stentor_lab::crowd::{Acks, Crowd, CrowdPlan};

use crate::scene::{ROOM, Scene};

const LISTENERS: usize = 10;

/// Listeners at the level-2 relay, in a thread of their own.
pub(crate) struct Bystanders {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Heard>>,
}

/// What they heard.
pub(crate) struct Heard {
    pub(crate) listeners: usize,
    /// Ticks of the window, each of which every listener should have.
    pub(crate) ticks: u32,
    /// Distinct ticks of the window that reached them, in sum.
    pub(crate) distinct: u64,
    pub(crate) lost: Vec<String>,
}

impl Bystanders {
    /// Everyone has joined when this returns.
    pub(crate) fn start(scene: &Scene) -> Result<Self> {
        let address = scene.level_2();
        let mut crowd = Crowd::new(CrowdPlan {
            address,
            host: address.ip().to_string(),
            roots: scene.bed.roots()?,
            room: ROOM.into(),
            tokens: Vec::new(),
            acks: Acks::Patient,
            sockets: 1,
            at_once: LISTENERS,
            rehomes: false,
            reports: false,
        })?;
        crowd.grow(LISTENERS, Duration::from_secs(60))?;
        crowd.listen(Duration::from_secs(1))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::Builder::new().name("bystanders".into());
        let thread = thread.spawn(move || listen(&mut crowd, &ended))?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn finish(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("they panicked"))?
    }
}

fn listen(crowd: &mut Crowd, stop: &AtomicBool) -> Result<Heard> {
    let after = crowd.newest();
    while !stop.load(Ordering::Relaxed) {
        crowd.listen(Duration::from_millis(50))?;
    }
    let last = crowd.newest();
    // The last ticks are still on their way, or are being repaired.
    crowd.listen(Duration::from_secs(1))?;
    Ok(Heard {
        listeners: LISTENERS,
        ticks: last - after,
        distinct: crowd.distinct(after, last),
        lost: crowd.lost().to_vec(),
    })
}
