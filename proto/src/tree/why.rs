//! Why a relay stands where it stands, in words.

use std::fmt::Write as _;

use super::paths::Apart;
use super::planner::children_limit;
use super::table::{Index, Table};

/// What made the planner place a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It joined.
    Joined,
    /// It joined; the operator wants level 1, which is full.
    OriginFull,
    /// This parent of it is gone.
    ParentLeft(String),
    /// This parent of it drains.
    ParentDrains(String),
    /// It does not reach this parent, who is well otherwise.
    Unreached(String),
    /// Room appeared for a parent that it wants for.
    Room,
    /// Two relays stand right above its pinned level while the tree starts.
    RightAbove,
    /// It measured a parent that is much nearer.
    Nearer {
        /// The round trip to the former parent (microseconds).
        was_us: u32,
        /// The round trip to the new one (microseconds).
        is_us: u32,
    },
}

/// One sentence: the cause, the place, and what is known of the parents.
pub(super) fn sentence(table: &Table, index: Index, cause: &Cause, apart: Apart) -> String {
    let node = table.node(index);
    let mut out = match cause {
        Cause::Joined => "joined".to_owned(),
        Cause::OriginFull => "joined; the operator wants level 1, which is full".to_owned(),
        Cause::ParentLeft(id) => format!("parent `{id}` left"),
        Cause::ParentDrains(id) => format!("parent `{id}` drains"),
        Cause::Unreached(id) => format!("parent `{id}` is well and not reached from here"),
        Cause::Room => "a relay above has room".to_owned(),
        Cause::RightAbove => "two relays stand on the level right above".to_owned(),
        Cause::Nearer { was_us, is_us } => {
            let (was, is) = (f64::from(*was_us) / 1e3, f64::from(*is_us) / 1e3);
            format!("measured {is:.1} ms to a new parent instead of {was:.1} ms")
        }
    };
    let wish = if node.info.level == Some(node.level) { " as the operator wants" } else { "" };
    // Writing to a string does not fail.
    let _ = write!(out, ": level {}{wish}", node.level);
    if node.level == 1 {
        let (has, most) = (table.first_level(), table.settings.origin_children);
        let _ = write!(out, ", under the origin, which feeds {has} of {most} relays");
        return out;
    }
    for (at, &parent) in node.parents.iter().enumerate() {
        let joint = if at == 0 { ", under" } else { " and" };
        let _ = write!(out, "{joint} {}", describe(table, index, parent));
    }
    let end = match (node.parents.len(), apart) {
        (0, _) => "; no relay with room stands on a lower level: waits for a parent",
        (1, _) => "; no other relay with room stands on a lower level: waits for a second parent",
        (_, Apart::Fully) => "; their paths share no relay",
        (_, Apart::AnyOne) => "; their paths share relays, but any one may die",
        (_, Apart::Shared | Apart::Single) => {
            "; one relay above carries both: no other choice has room"
        }
    };
    out.push_str(end);
    out
}

/// A parent with what speaks for it.
fn describe(table: &Table, index: Index, parent: Index) -> String {
    let (node, to) = (table.node(index), table.node(parent));
    let region = if node.info.region == to.info.region { "same region" } else { "another region" };
    let measured = node.load.round_trips.iter();
    let round_trip = measured
        .filter(|(id, _)| *id == to.info.id)
        .map(|(_, us)| format!(", {:.1} ms", f64::from(*us) / 1e3))
        .next()
        .unwrap_or_default();
    let drains = if to.draining { ", drains" } else { "" };
    let has = to.children.len();
    let most = children_limit(to.info.capacity, table.settings.children_one_in);
    let id = &to.info.id;
    format!("`{id}` ({region}{round_trip}, {has} of {most} children{drains})")
}
