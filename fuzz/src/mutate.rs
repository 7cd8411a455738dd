//! Mutation without coverage: seeds are flipped, cut, spliced, repeated and given odd integers.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Bytes of an input at most: a control message beyond its bound, with room to spare.
const INPUT_BYTES: usize = 20 * 1024;
/// Mutations of one input at most.
const STACKED: usize = 8;
/// Integers at which a length, a count or a sequence number is likely to go wrong.
const INTERESTING: [u64; 24] = [
    0,
    1,
    2,
    3,
    8,
    9,
    20,
    32,
    33,
    60,
    127,
    128,
    255,
    256,
    1000,
    1001,
    1100,
    0x4000,
    0x4001,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Makes inputs from seeds; the same seed number makes the same inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: SmallRng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator over `seeds`; an empty input is added, so that there is always one.
    #[must_use]
    pub fn new(mut seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        seeds.push(Vec::new());
        Self { rng: SmallRng::seed_from_u64(seed), seeds }
    }

    /// Writes the next input into `input`, in place of what is there.
    pub fn next_input(&mut self, input: &mut Vec<u8>) {
        let start = self.rng.random_range(0..self.seeds.len());
        input.clear();
        input.extend_from_slice(&self.seeds[start]);
        for _ in 0..self.rng.random_range(1..=STACKED) {
            self.mutate(input);
        }
        input.truncate(INPUT_BYTES);
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        if input.is_empty() {
            let len = self.rng.random_range(1..=64);
            input.extend((0..len).map(|_| self.rng.random::<u8>()));
            return;
        }
        match self.rng.random_range(0..10) {
            0 => {
                let at = self.position(input);
                input[at] ^= 1 << self.rng.random_range(0..8);
            }
            1 => {
                let at = self.position(input);
                input[at] = self.rng.random();
            }
            2 => {
                let at = self.position(input);
                input[at] = input[at].wrapping_add(self.rng.random_range(1..=16));
            }
            3 => {
                let at = self.position(input);
                input[at] = input[at].wrapping_sub(self.rng.random_range(1..=16));
            }
            4 => self.put_interesting(input),
            5 => self.splice(input),
            6 => {
                let (from, to) = self.span(input);
                input.drain(from..to);
            }
            7 => {
                let (from, to) = self.span(input);
                let at = self.position(input);
                let piece = input[from..to].to_vec();
                insert(input, at, &piece);
            }
            8 => {
                let at = self.position(input);
                input.truncate(at);
            }
            _ => {
                let at = self.rng.random_range(0..=input.len());
                let (byte, len) = (self.rng.random::<u8>(), self.rng.random_range(1..=16));
                insert(input, at, &vec![byte; len]);
            }
        }
    }

    fn position(&mut self, input: &[u8]) -> usize {
        // Headers are at the front: half of the positions are among the first 32 bytes.
        let near = self.rng.random::<bool>();
        let end = if near { input.len().min(32) } else { input.len() };
        self.rng.random_range(0..end)
    }

    fn span(&mut self, input: &[u8]) -> (usize, usize) {
        let from = self.position(input);
        let most = (input.len() - from).min(if self.rng.random_range(0..16) == 0 {
            input.len()
        } else {
            64
        });
        (from, from + self.rng.random_range(1..=most))
    }

    /// Overwrites 1, 2, 4 or 8 bytes with an interesting integer, big-endian.
    fn put_interesting(&mut self, input: &mut [u8]) {
        let at = self.position(input);
        let value = INTERESTING[self.rng.random_range(0..INTERESTING.len())].to_be_bytes();
        let width = (1_usize << self.rng.random_range(0..4)).min(input.len() - at);
        input[at..at + width].copy_from_slice(&value[8 - width..]);
    }

    /// Puts a piece of another seed over, or into, the input.
    fn splice(&mut self, input: &mut Vec<u8>) {
        let index = self.rng.random_range(0..self.seeds.len());
        let other = self.seeds[index].clone();
        if other.is_empty() {
            return;
        }
        let (from, to) = self.span(&other);
        let at = self.position(input);
        if self.rng.random() {
            insert(input, at, &other[from..to]);
        } else {
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(seed: u64) -> Vec<Vec<u8>> {
        let mut mutator = Mutator::new(vec![vec![7; 100], vec![9; 3]], seed);
        let mut input = Vec::new();
        let mut inputs = Vec::new();
        for _ in 0..2_000 {
            mutator.next_input(&mut input);
            inputs.push(input.clone());
        }
        inputs
    }

    #[test]
    fn a_seed_makes_the_same_inputs_again() {
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }

    #[test]
    fn inputs_differ_in_length_and_stay_bounded() {
        let inputs = inputs(3);
        let lengths: std::collections::BTreeSet<usize> = inputs.iter().map(Vec::len).collect();
        assert!(lengths.len() > 50);
        assert!(lengths.iter().all(|&len| len <= INPUT_BYTES));
    }
}
