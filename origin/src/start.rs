//! Start-up and shutdown of an origin, in one place and in this order:
//!
//! 1. Settings are validated, keys read, and logging is on (the caller: [`crate::cli`]).
//! 2. Identity: certificate, key and trust are read or, in development mode, made, and with them
//!    the key that signs tokens. Up to here nothing is bound, and every mistake is a
//!    configuration error (exit code 78).
//! 3. Metrics, the admin listener and the watch over the certificates
//!    ([`stentor_relay::start::Services`]).
//! 4. The rooms of the configuration are opened, the planner starts with an empty tree.
//! 5. The node binds its UDP sockets and starts its shards.
//! 6. `/readyz` answers 200.
//! 7. SIGTERM or SIGINT: `/readyz` answers 503 `draining`, sessions are asked to leave, for
//!    `drain_s` at most; a second signal cuts that short. Then everything is dropped, in the
//!    reverse order.

use stentor_relay::exit::Error;
use stentor_relay::start::{Services, Signals, load_tls, runtime};
use stentor_relay::tls::Tls;

use crate::settings::Settings;

/// Runs an origin until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub fn start(mut settings: Settings) -> Result<(), Error> {
    let tls = load_tls(&settings.node)?;
    if settings.keys.signers.is_empty()
        && let Some(dev) = tls.dev()
    {
        settings.keys.add(dev.signer().clone());
    }
    runtime()?.block_on(run(settings, tls))
}

async fn run(settings: Settings, tls: Tls) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let services = Services::start(&settings.node, tls).await?;
    tracing::info!(
        id = settings.node.id,
        rooms = settings.rooms.len(),
        keys = ?settings.keys.public.keys(),
        version = env!("CARGO_PKG_VERSION"),
        "origin"
    );
    let why = signals.next().await;
    tracing::info!(signal = why, "draining");
    services.admin.set_draining();
    Ok(())
}
