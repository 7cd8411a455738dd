//! Who gets a tick.
