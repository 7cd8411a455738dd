//! The tree of relays.
