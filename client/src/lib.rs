//! A client of a room: what a speaker sends and what a listener plays.
#![warn(missing_docs)]

pub mod audio;
