//! Start-up and shutdown of a relay, in one place and in this order:
//!
//! 1. Settings are validated and logging is on (the caller: [`crate::cli`]).
//! 2. Identity: certificate, key, trust and token are read or, in development mode, made. Up to
//!    here nothing is bound, and every mistake is a configuration error (exit code 78).
//! 3. Metrics are installed.
//! 4. The admin listener is bound and answers: `/livez` at once, `/readyz` with 503 `starting`.
//! 5. Certificates are watched for changes.
//! 6. The node binds its UDP sockets, starts its shards and its uplinks.
//! 7. `/readyz` answers 200 as soon as the node has a parent.
//! 8. SIGTERM or SIGINT: `/readyz` answers 503 `draining`, sessions are asked to leave, for
//!    `drain_s` at most; a second signal cuts that short. Then everything is dropped, in the
//!    reverse order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use rustls::{ClientConfig, ServerConfig};
use stentor_proto::token::Signer;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, AdminState};
use crate::config::{ConfigError, Secret};
use crate::exit::Error;
use crate::metrics;
use crate::settings::{NodeSettings, Settings};
use crate::tls::Tls;

/// Runs a relay until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub fn start(settings: Settings) -> Result<(), Error> {
    let tls = load_tls(&settings.node)?;
    runtime()?.block_on(run(settings, tls))
}

async fn run(settings: Settings, tls: Tls) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let services = Services::start(&settings.node, tls).await?;
    services.admin.set_has_parent(false);
    tracing::info!(
        id = settings.node.id,
        origin = %settings.origin,
        version = env!("CARGO_PKG_VERSION"),
        "relay"
    );
    let why = signals.next().await;
    tracing::info!(signal = why, "draining");
    services.admin.set_draining();
    Ok(())
}

/// Step 2: the identity of a node. In development mode it says so, plainly.
///
/// # Errors
/// When a file or the development directory is at fault.
pub fn load_tls(node: &NodeSettings) -> Result<Tls, ConfigError> {
    let tls = Tls::load(&node.tls, node.advertise.as_ref())?;
    if let Some(dev) = tls.dev() {
        tracing::warn!(
            directory = %dev.path().display(),
            ca = %dev.ca_file().display(),
            "DEVELOPMENT MODE: certificate, token key and relay token were made by this program \
             and lie in this directory; whoever can read it can do everything"
        );
    }
    Ok(tls)
}

/// The runtime for what is not hot: uplinks, admin, control.
///
/// # Errors
/// When threads cannot be started.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("stentor-io")
        .enable_all()
        .build()
        .map_err(|error| Error::Runtime(format!("threads: {error}")))
}

/// What runs beside every node, relay or origin: steps 3 to 5. Dropping it ends it.
#[derive(Debug)]
pub struct Services {
    /// What the admin listener shows; the node fills it.
    pub admin: Arc<AdminState>,
    /// Where the admin listener is; absent when it is off.
    pub admin_address: Option<SocketAddr>,
    /// To serve with; changes when the operator's files do.
    pub server_tls: watch::Receiver<Arc<ServerConfig>>,
    /// To connect with.
    pub client_tls: Arc<ClientConfig>,
    /// Keys and token of the development directory, in development mode.
    pub dev: Option<DevIdentity>,
    tasks: JoinSet<Infallible>,
}

/// What a development directory gives a node beside its certificate.
#[derive(Clone, Debug)]
pub struct DevIdentity {
    /// The origin's key.
    pub signer: Signer,
    /// The relays' token.
    pub relay_token: Secret,
}

impl Services {
    /// Installs metrics, binds the admin listener and watches the certificates.
    ///
    /// # Errors
    /// When the admin address is taken, or the process has another metrics recorder.
    pub async fn start(node: &NodeSettings, tls: Tls) -> Result<Self, Error> {
        let metrics = metrics::install().map_err(Error::runtime)?;
        describe_process(node);
        let mut services = Self {
            admin: Arc::new(AdminState::default()),
            admin_address: None,
            server_tls: tls.server(),
            client_tls: tls.client(),
            dev: tls.dev().map(|dev| DevIdentity {
                signer: dev.signer().clone(),
                relay_token: dev.relay_token().clone(),
            }),
            tasks: JoinSet::new(),
        };
        if let Some(address) = node.admin {
            services.serve_admin(address, metrics).await?;
        }
        services.tasks.spawn(async move {
            match tls.keep_fresh().await {
                Ok(never) => never,
                Err(error) => {
                    tracing::error!(%error, "certificates are not watched: no SIGHUP");
                    std::future::pending().await
                }
            }
        });
        Ok(services)
    }

    async fn serve_admin(
        &mut self,
        address: SocketAddr,
        metrics: PrometheusHandle,
    ) -> Result<(), Error> {
        let failed = |error| Error::Runtime(format!("admin address {address}: {error}"));
        let listener = admin::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.admin_address = Some(bound);
        self.tasks.spawn(admin::serve(listener, Arc::clone(&self.admin), metrics));
        tracing::info!(address = %bound, "admin listener");
        Ok(())
    }
}

/// SIGTERM and SIGINT, listened to from the start, so that none is missed.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens to both.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|e| Error::Runtime(format!("signals: {e}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn describe_process(node: &NodeSettings) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::START_TIME.gauge(&[]).set(since.as_secs_f64());
    metrics::BUILD_INFO.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    metrics::CAPACITY.gauge(&[]).set(f64::from(node.capacity));
    metrics::READY.gauge(&[]).set(0.0);
}
