//! Questions and orders for an origin's control, from tasks that may wait for the answer.
//!
//! A command is a closure over [`OriginControl`] that the control thread runs between two messages.
//! The queue is bounded and never waited for: who finds it full is told so at once. Commands work
//! on what is in memory; whoever has to wait for a disk does so before or after.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use stentor_proto::node::OriginControl;
use stentor_proto::{Time, limits};
use tokio::sync::oneshot;

use crate::quic::sys::Waker;

/// What the control thread runs.
pub type Command = Box<dyn FnOnce(&mut OriginControl, Time) + Send>;

/// Why there is no answer. The node is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// As many commands wait as may.
    #[error("the origin is busy; try again in a moment")]
    Busy,
    /// The node is going down, or is no origin.
    #[error("the origin is going down")]
    Gone,
}

/// The way to an origin's control.
#[derive(Clone, Debug)]
pub struct Commands {
    queue: Sender<Command>,
    waker: Waker,
}

impl Commands {
    /// A way, and the end that the control thread reads.
    #[must_use]
    pub fn new(waker: Waker) -> (Self, Receiver<Command>) {
        let (queue, commands) = bounded(limits::COMMANDS);
        (Self { queue, waker }, commands)
    }

    /// Has the control thread run `command`, and waits for what it returns.
    ///
    /// # Errors
    /// When the queue is full, or the node does not answer.
    pub async fn ask<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut OriginControl, Time) -> R + Send + 'static,
    ) -> Result<R, AskError> {
        let (answer, answered) = oneshot::channel();
        let run: Command = Box::new(move |origin, now| {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(command(origin, now));
        });
        self.queue.try_send(run).map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Gone,
        })?;
        self.waker.wake();
        answered.await.map_err(|_| AskError::Gone)
    }
}
