//! One JSON line for each tick, for those who analyse further.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use ring::digest::{SHA256, digest};
use stentor_proto::limits;
use stentor_proto::node::Tick;

/// Writes events on a thread of its own, so that a slow disk delays no tick.
#[derive(Debug)]
pub struct EventLog {
    queue: Option<Sender<Line>>,
    dropped: Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Line {
    room: u32,
    epoch: u32,
    number: u32,
    clock_us: u64,
    flags: u8,
    received_ns: u64,
    fingerprint: u64,
}

/// The first eight bytes of a record's SHA-256: what is sent, and what arrives, is compared by it.
#[must_use]
pub fn fingerprint(record: &[u8]) -> u64 {
    digest(&SHA256, record).as_ref().iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

impl EventLog {
    /// Opens `path` for appending.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub fn open(node: &str, path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let (queue, lines) = bounded::<Line>(limits::EVENT_QUEUE);
        let node = serde_json::Value::from(node).to_string();
        let name = path.display().to_string();
        let write = move || {
            let mut out = BufWriter::new(file);
            while let Ok(line) = lines.recv() {
                let written = line
                    .write(&mut out, &node)
                    .and_then(|()| if lines.is_empty() { out.flush() } else { Ok(()) });
                if let Err(error) = written {
                    tracing::error!("events are not written to {name} any further: {error}");
                    return;
                }
            }
        };
        let writer = std::thread::Builder::new().name("events".into()).spawn(write)?;
        Ok(Self { queue: Some(queue), dropped: Arc::default(), writer: Some(writer) })
    }

    /// Notes a tick that this node passed on. `received_ns` is the kernel's receive time
    /// (nanoseconds since the Unix epoch); 0 at the origin.
    pub fn tick(&self, tick: &Tick, received_ns: u64) {
        let clock =
            tick.record.get(4..12).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        let line = Line {
            room: tick.key.room,
            epoch: tick.key.epoch,
            number: tick.key.number,
            clock_us: clock,
            flags: tick.record.get(13).copied().unwrap_or(0),
            received_ns,
            fingerprint: fingerprint(&tick.record),
        };
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(line).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were dropped because the disk was slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

impl Line {
    fn write(&self, out: &mut impl Write, node: &str) -> std::io::Result<()> {
        let Self { room, epoch, number, clock_us, flags, received_ns, fingerprint } = self;
        writeln!(
            out,
            r#"{{"event":"tick","node":{node},"room":{room},"epoch":{epoch},"number":{number},"clock_us":{clock_us},"flags":{flags},"received_ns":{received_ns},"fingerprint":"{fingerprint:016x}"}}"#
        )
    }
}
