//! Measuring: load, benches, simulation, and whether a listener hears.
//!
//! A bench stands on a [`bed`] (an origin and relays as processes), sends a [`crowd`] of listeners or a
//! [`storm`] of those who want to come in, and prints a [`report`].
#![warn(missing_docs)]

pub mod bed;
pub mod bench;
pub mod browser;
pub mod crowd;
pub mod demo;
pub mod evening;
pub mod floor;
pub mod hears;
pub mod nodes;
pub mod report;
pub mod shaper;
pub mod sim;
pub mod storm;
pub mod trust;
