//! Rooms at the origin.
