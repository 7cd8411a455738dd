//! System calls: batched sends and receives, sleeping and waking, sockets, CPU pinning.
//!
//! Nothing in here knows QUIC; the load generator's floor measurement stands on the same
//! [`SendBatch`] as the driver, so that both pay the kernel in the same way.
//!
//! Architecture invariant: this is the one module of the workspace that holds `unsafe`. All of it
//! is system calls on buffers that the calling object owns, and every public item is safe.
#![allow(
    unsafe_code,
    reason = "sendmmsg, recvmmsg, ppoll, eventfd and sched_setaffinity have no safe wrapper that \
              reuses its buffers"
)]
#![allow(
    clippy::unnecessary_cast,
    reason = "the kernel's lengths have other integer types in other C libraries"
)]

mod address;
mod receive;
mod send;
mod socket;
mod source;
mod wait;

pub use receive::{Arrival, ReceiveBatch};
pub use send::{Flushed, Marks, SendBatch};
pub use socket::{BindOptions, Family, bind, family, mark_ecn};
pub use source::SourceProbe;
pub use wait::{Waiter, Waker, Woken, pin_to_core, thread_cpu_time};
