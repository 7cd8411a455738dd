//! Benches: each measures one thing on real processes, prints its figures and judges nothing.

pub mod fanout;
pub mod faults;
pub mod join;
pub mod page;
