//! The IO shell of every node.

pub mod quic;
