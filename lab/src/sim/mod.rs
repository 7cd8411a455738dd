//! The simulator: a deterministic world of the production machines in virtual time.
//!
//! A [`World`] holds an origin and relays (`NodeControl` and `NodeShard` of `stentor-proto`, the
//! very code that a relay runs), the queues between them, links, and listeners. Nothing is modelled
//! that production code does; what is modelled is what is around it: the network, processes that
//! die or stand still, and who comes when. One seed and one commit replay any failure.
//!
//! Every listener joins, waits, moves and returns by the production machine of a listener
//! ([`Listen`]). While it hears what the others of its class and variant on its shard hear, one
//! machine stands for all of them (a cohort); as soon as their relay falls silent, or tells one of
//! them anything, each has its own again. A part of the listeners stay full receivers throughout. A
//! reference model says who must have received which ticks.
//!
//! [`Listen`]: stentor_proto::listen::Listen

mod access;
mod arrivals;
mod chance;
mod cohort;
mod crowd;
mod ear;
mod events;
mod fault;
mod figures;
mod had;
mod link;
mod listening;
mod model;
mod node;
mod queue;
mod quic;
mod quic_ends;
mod seats;
mod serve;
mod setup;
mod speaker;
mod strike;
mod tree;
mod wires;
mod world;
mod worlds;

pub use crowd::Tally;
pub use stentor_proto::admission::DoorSettings as Door;

pub use fault::{Fault, FaultKind, When, all as all_faults, span as fault_span};
pub use figures::{ClassLoss, Doors, LevelDelay, Moves, Outcome, Second};
pub use link::{Line, Loss};
pub use model::Violation;
pub use quic::{QuicOutcome, QuicSetup, run_quic};
pub use setup::{Class, Planted, Setup, classes, door};
pub use world::World;
pub use worlds::Worlds;

/// The room that everybody is in.
const ROOM: &str = "hall";

/// Lets a world live, and says what became of it.
///
/// # Errors
/// When the setup asks for what cannot be.
pub fn run(setup: Setup) -> Result<Outcome, String> {
    let mut world = World::new(setup)?;
    world.run();
    Ok(world.outcome())
}
