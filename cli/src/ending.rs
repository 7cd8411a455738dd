//! The end of a command: Ctrl-C, SIGTERM, SIGHUP, or the time that was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stentor_relay::exit::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a command in good order.
pub(crate) struct Signals([Signal; 3]);

impl Signals {
    /// Takes the signals over; from here on they no more end the process by themselves.
    pub(crate) fn new() -> Result<Self, Error> {
        let take = |kind| signal(kind).map_err(|error| Error::runtime(format!("signals: {error}")));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(take);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    /// Waits for one of them, or until `seconds` have passed.
    pub(crate) async fn end(&mut self, seconds: Option<f64>) {
        let [interrupt, terminate, hangup] = &mut self.0;
        let time = async {
            match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = time => {}
        }
    }
}

/// A flag that rises with the first signal, for what does not run on tokio. A second signal ends
/// the process as it stands.
pub(crate) fn flag() -> Result<Arc<AtomicBool>, Error> {
    let raised = Arc::new(AtomicBool::new(false));
    let flag = raised.clone();
    let runtime = runtime()?;
    let signals = runtime.block_on(async { Signals::new() });
    let mut signals = signals?;
    let wait = move || {
        runtime.block_on(signals.end(None));
        flag.store(true, Ordering::Relaxed);
        // Dropping the runtime leaves the handlers in place: a second signal changes nothing.
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(Error::runtime)?;
    Ok(raised)
}

/// A runtime for a command's own tasks.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::runtime)
}

/// A time in seconds from the command line.
pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    match seconds.is_finite() && seconds > 0.0 && seconds <= 31_536_000.0 {
        true => Ok(seconds),
        false => Err("write a number of seconds above 0, a year at most".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_positive_numbers() {
        assert_eq!(parse_seconds("1.5"), Ok(1.5));
        for bad in ["", "0", "-1", "NaN", "inf", "1e12", "two"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
