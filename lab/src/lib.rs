//! Measuring: load, comparison, simulation, and whether a listener hears.
#![warn(missing_docs)]

pub mod hears;
