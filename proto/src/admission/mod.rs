//! Admission: who comes in at once, who is sent to another relay, who waits, and in which order
//! (`docs/PROTOCOL.md` section 3.14, `docs/decisions/0012-admission.md`).
//!
//! ```text
//!   a shard's Door ── tickets issued per second of arrival ──▶ the origin's Watermark
//!        ▲                                                          │
//!        └── how far the queue has been called, and the curve ◀─────┘
//! ```
//!
//! A [`Ticket`] orders and never admits: whoever comes in is charged to the [`Door`]'s budgets.
//! Sums alone travel, so that the work of everybody but the shard that somebody stands before does
//! not grow with the number of those who wait.

mod arrivals;
mod door;
mod egress;
mod headroom;
mod spent;
mod ticket;
mod watermark;

pub use arrivals::Arrivals;
pub(crate) use door::clock_step_ms;
pub use door::{Door, DoorSettings, DoorTotals, Verdict, Wait};
pub(crate) use egress::Egress;
pub use headroom::{headroom, share};
pub use spent::{Spent, SpentError};
pub(crate) use ticket::AUDIENCE as TICKET_AUDIENCE;
pub use ticket::{Ticket, TicketError, bearer, client_key, read, thumbprint};
pub use watermark::{DoorReport, Watermark};
