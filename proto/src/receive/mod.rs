//! Receiving ticks: order, duplicates, gaps, repair, and the merge of two feeds.

mod window;

pub use window::{Arrival, FeedIx, Window, WindowStats};
