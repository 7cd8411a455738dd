//! The tree of relays: who stands where, and how a relay holds on to its parents.
//!
//! The origin runs the [`Planner`]: it gives every relay a level and, below the first level, two
//! parents on lower levels. A relay runs [`Attach`]: it turns the origin's placements into links,
//! and leaves a parent only when the next one is up. [`Sums`] adds up what children report, along
//! primary parents only, so that nobody is counted twice.

mod attach;
mod paths;
mod place;
mod planner;
mod rooms;
mod sums;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod why;

pub use attach::{Attach, AttachAction, LinkState, ParentLink};
pub use planner::{PlanCounts, PlanError, Planner, PlannerSettings, children_limit};
pub use rooms::RoomSums;
pub use sums::{Sums, SumsError};
pub use view::RelayView;

/// The origin's name where a parent is named; no relay may carry it.
pub const ORIGIN: &str = "origin";
