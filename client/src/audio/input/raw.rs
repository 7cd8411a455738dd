//! Raw samples: 16-bit little-endian, mono, 48 kHz.

use std::io::{ErrorKind, Read};

use super::{Decode, InputProblem};
use crate::audio::BLOCK;

/// Reads at most a block at once, so that a live pipe is never waited for longer than needed.
pub(super) struct Raw<R> {
    reader: R,
    /// The first half of a sample whose second half has not come.
    half: Option<u8>,
}

impl<R: Read> Raw<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, half: None }
    }
}

impl<R: Read + Send> Decode for Raw<R> {
    fn decode(&mut self, out: &mut Vec<f32>) -> Result<(), InputProblem> {
        let before = out.len();
        let mut bytes = [0; 2 * BLOCK];
        while out.len() == before {
            let len = match self.reader.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            for &byte in &bytes[..len] {
                match self.half.take() {
                    None => self.half = Some(byte),
                    Some(low) => out.push(f32::from(i16::from_le_bytes([low, byte])) / 32_768.0),
                }
            }
        }
        Ok(())
    }
}
