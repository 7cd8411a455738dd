//! Receiving ticks.
