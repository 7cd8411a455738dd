//! Receiving ticks: order, duplicates, gaps, repair, and the merge of two feeds.

mod reception;
mod window;

pub use reception::{Reception, ReceptionStats};
pub use window::{Arrival, FeedIx, Window, WindowStats};
