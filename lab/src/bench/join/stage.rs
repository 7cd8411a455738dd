//! Speakers who come in by the stage's address while the crowd is at the other one.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use stentor_client::session::{Connector, Join, Trust};
use stentor_relay::quic::sys::pin_to_core;

use crate::storm::NEVER_MS;

/// Joins of stage roles at a steady rate, in a thread of their own.
pub(super) struct StageJoins(std::thread::JoinHandle<Result<Vec<f64>>>);

impl StageJoins {
    /// Lets each of `joins` come in at its time, `every` after the one before, and leave again.
    pub(super) fn start(
        trust: Trust,
        joins: Vec<Join>,
        every: Duration,
        core: usize,
    ) -> Result<Self> {
        let come = move || -> Result<Vec<f64>> {
            pin_to_core(core)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(come(trust, joins, every)))
        };
        Ok(Self(std::thread::Builder::new().name("stage".into()).spawn(come)?))
    }

    /// From each one's scheduled time to its welcome (milliseconds), once all have come.
    pub(super) fn finish(self) -> Result<Vec<f64>> {
        self.0.join().map_err(|_| anyhow!("the stage joins panicked"))?
    }
}

async fn come(trust: Trust, joins: Vec<Join>, every: Duration) -> Result<Vec<f64>> {
    let connector = Connector::new(&trust)?;
    let took = Rc::new(RefCell::new(Vec::new()));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, join) in joins.into_iter().enumerate() {
        let at = begun + every * u32::try_from(number)?;
        tokio::time::sleep_until(at.into()).await;
        let (connector, took) = (connector.clone(), took.clone());
        tasks.spawn_local(async move {
            let joined = connector.join(&join).await;
            let ms = match &joined {
                Ok(_) => at.elapsed().as_secs_f64() * 1_000.0,
                Err(_) => NEVER_MS,
            };
            took.borrow_mut().push(ms);
            if let Ok(session) = joined {
                session.leave();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    connector.finish().await;
    Ok(took.take())
}
