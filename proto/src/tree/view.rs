//! What others see of the tree: the topology page, and the relays a listener may go to.

use serde::Serialize;

use super::planner::children_limit;
use super::table::{Index, Node, Table};
use crate::limits;
use crate::random::Random;
use crate::wire::{Alternate, Load};

/// One relay, for `/topology`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RelayView<'a> {
    /// Its name.
    pub id: &'a str,
    /// Where children and listeners reach it.
    pub address: &'a str,
    /// Hashes of its certificate, in development mode.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub certificate_hashes: &'a [String],
    /// Where it stands in the world.
    pub region: &'a str,
    /// 1 stands under the origin.
    pub level: u8,
    /// Its parents by plan, the primary first; empty on level 1.
    pub parents: Vec<&'a str>,
    /// Child relays by plan.
    pub children: u32,
    /// Child relays that it may carry.
    pub children_limit: u32,
    /// Sessions that it may carry.
    pub capacity: u32,
    /// Whether it gives its children away.
    pub draining: bool,
    /// Whether it wants for a parent.
    pub wanting: bool,
    /// Its last report; `load.parents` are the parents in force.
    pub load: &'a Load,
    /// Why it stands there.
    pub why: &'a str,
}

pub(super) fn relay_view(table: &Table, index: Index) -> RelayView<'_> {
    let node = table.node(index);
    let parents = node.parents.iter().map(|&p| table.node(p).info.id.as_str());
    RelayView {
        id: &node.info.id,
        address: &node.info.address,
        certificate_hashes: &node.info.certificate_hashes,
        region: &node.info.region,
        level: node.level,
        parents: parents.collect(),
        children: u32::try_from(node.children.len()).unwrap_or(u32::MAX),
        children_limit: children_limit(node.info.capacity, table.settings.children_one_in),
        capacity: node.info.capacity,
        draining: node.draining,
        wanting: table.wanting.contains(&index),
        load: &node.load,
        why: &node.why,
    }
}

/// At most `n` fed relays with free sessions, of the relay's region first, drawn without
/// replacement in proportion to their free sessions.
///
/// Of a large tree a random stretch of [`limits::ALTERNATES_SEEN`] relays stands for all, so
/// that a listener's join costs the same in any tree.
pub(super) fn alternates(table: &Table, id: &str, n: usize, seed: u64) -> Vec<Alternate> {
    drawn(table, id, n, seed, Node::free)
}

/// The same for somebody who comes from outside, drawn in proportion to `room`.
pub(super) fn entrances(
    table: &Table,
    n: usize,
    seed: u64,
    room: impl Fn(&str, &Load, u32) -> u32,
) -> Vec<Alternate> {
    drawn(table, "", n, seed, |node| room(&node.info.id, &node.load, node.free()))
}

fn drawn(
    table: &Table,
    id: &str,
    n: usize,
    seed: u64,
    room: impl Fn(&Node) -> u32,
) -> Vec<Alternate> {
    let own = table.find(id);
    let region = own.map(|i| table.node(i).info.region.as_str());
    let span = table.span().max(1) as u64;
    let start = Random::at(seed, Index::MAX.into()) % span;
    let mut drawn: Vec<(bool, u64, Index)> = Vec::new();
    for step in 0..span.min(limits::ALTERNATES_SEEN as u64) {
        let index = Index::try_from((start + step) % span).unwrap_or(Index::MAX);
        let Some(node) = table.slot(index) else {
            continue;
        };
        let room = room(node);
        if Some(index) != own && !node.draining && room > 0 && table.reached(index) {
            let other = region.is_some_and(|r| r != node.info.region);
            drawn.push((other, arrival(Random::at(seed, index.into()), room), index));
        }
    }
    drawn.sort_unstable();
    let to_alternate = |(_, _, index): (bool, u64, Index)| {
        let info = &table.node(index).info;
        Alternate {
            relay: info.id.clone(),
            address: info.address.clone(),
            certificate_hashes: info.certificate_hashes.clone(),
        }
    };
    drawn.into_iter().take(n).map(to_alternate).collect()
}

/// When the first event of a Poisson process of rate `weight` comes: the smallest of several is
/// each one's in proportion to its weight. Order of the bits is order of the numbers, for both
/// factors are positive.
fn arrival(random: u64, weight: u32) -> u64 {
    let uniform = ((random >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    (-uniform.ln() / f64::from(weight)).to_bits()
}
