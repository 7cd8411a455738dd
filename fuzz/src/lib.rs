//! Fuzz targets: whatever a peer sends, nothing panics and what was understood is kept.
//!
//! A target is a function of bytes that panics when a property does not hold. Two engines drive
//! the same targets: `fuzz-run` (seeded mutation, any toolchain) and `fuzz-coverage` (libFuzzer).
//! `README.md` beside this crate says how to add a target.
#![warn(missing_docs)]

mod machines;
mod mutate;
mod nodes;
mod token;
mod webtransport;
mod wire;

use std::path::PathBuf;

pub use machines::{planner, reception, room, window};
pub use mutate::Mutator;
pub use nodes::{origin, relay, shard};
pub use token::token;
pub use webtransport::webtransport;
pub use wire::{control, datagram, frames, record};

/// A named property of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name on the command line, and of the folder in `corpus/`.
    pub name: &'static str,
    /// Panics when the property does not hold.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name },)*];
    };
}

targets![
    datagram,
    frames,
    record,
    control,
    token,
    window,
    reception,
    room,
    planner,
    shard,
    relay,
    origin,
    webtransport,
];

impl Target {
    /// The target of that name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.iter().copied().find(|target| target.name == name)
    }

    /// Where the target's seeds lie.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        directory().join("corpus").join(self.name)
    }

    /// The target's seeds in the order of their names.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read.
    pub fn seeds(&self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(self.corpus())? {
            paths.push(entry?.path());
        }
        paths.sort();
        paths.into_iter().map(std::fs::read).collect()
    }
}

/// The folder of this package: seeds are read and failures are kept below it.
#[must_use]
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
