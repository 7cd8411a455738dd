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
//! 8. SIGTERM, SIGINT or `POST /drain`: `/readyz` answers 503 `draining`, newcomers are refused,
//!    listeners are asked to move and children are given other parents, for `drain_s` at most; a
//!    second signal cuts that short. Then everything is dropped, in the
//!    reverse order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::{ClientConfig, ServerConfig};
use stentor_proto::limits::H3_UNI_STREAMS;
use stentor_proto::node::{NodeControl, RelayControl, RelaySettings, ShardSettings};
use stentor_proto::pass::PassKey;
use stentor_proto::token::{Signer, Verifier};
use stentor_proto::wire::RelayInfo;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, AdminState};
use crate::clock::Clock;
use crate::config::{ConfigError, Secret};
use crate::exit::Error;
use crate::metrics;
use crate::node::{MakeControl, NodePlan, RunningNode};
use crate::observe::{self, Observer};
use crate::quic::config::{TransportSettings, client_config};
use crate::settings::{NodeSettings, Settings};
use crate::tls::Tls;
use crate::uplink::EventLog;

/// The software and its version, as peers are told.
pub const AGENT: &str = concat!("stentor/", env!("CARGO_PKG_VERSION"));

/// Runs a relay until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting or from going on.
pub fn start(settings: Settings) -> Result<(), Error> {
    let tls = load_tls(&settings.node)?;
    runtime()?.block_on(run(settings, tls))
}

async fn run(settings: Settings, tls: Tls) -> Result<(), Error> {
    let signals = Signals::new()?;
    let mut services = Services::start(&settings.node, tls).await?;
    services.admin.set_has_parent(false);
    let plan = plan(&settings, &services)?;
    let node = RunningNode::start(plan).map_err(Error::runtime)?;
    tracing::info!(
        id = settings.node.id,
        origin = %settings.origin,
        listen = %node.listen,
        shards = node.shards.len(),
        version = env!("CARGO_PKG_VERSION"),
        "relay"
    );
    services.serve(node, settings.node.drain, signals).await
}

/// What the node of a relay is made of.
fn plan(settings: &Settings, services: &Services) -> Result<NodePlan, Error> {
    let node = &settings.node;
    let clock = Clock::start();
    let dev_token = services.dev.as_ref().map(|dev| dev.relay_token.expose().to_owned());
    let token = settings.token.as_ref().map(|token| token.expose().to_owned()).or(dev_token);
    let client = client_config((*services.client_tls).clone(), &uplink_transport());
    let seed = random()?;
    let key = PassKey::from_seed(random_bytes()?);
    let pass_key = Some(key.published());
    let (advertise, origin) = (node.clone(), settings.origin.to_string());
    let (id, region, capacity, level) =
        (node.id.clone(), node.region.clone(), node.sessions(), settings.level);
    let joins_per_s = node.joins_per_s();
    let control = move |bound: SocketAddr| {
        let info = RelayInfo {
            id,
            address: advertise.advertised(bound).to_string(),
            region,
            capacity,
            level,
            incarnation: clock.unix_us_at_zero(),
            pass_key,
            // Control is told those in force when it starts.
            certificate_hashes: Vec::new(),
        };
        let settings = RelaySettings {
            info,
            token,
            origin,
            agent: AGENT.to_owned(),
            unix_us_at_zero: clock.unix_us_at_zero(),
            seed,
            joins_per_s,
        };
        let control = RelayControl::new(settings, clock.time(Instant::now()));
        NodeControl::Relay(Box::new(control))
    };
    Ok(NodePlan {
        uplinks: Some(client.map_err(Error::runtime)?),
        shard: ShardSettings { pass_key: Some(key), ..shard_settings(node, clock, false)? },
        // The origin publishes its keys with the welcome; until then no token is good.
        verifier: Verifier::default(),
        ..node_plan(node, services, clock, Box::new(control))?
    })
}

/// What every node's plan has in common.
///
/// # Errors
/// When the events' file cannot be opened.
pub fn node_plan(
    node: &NodeSettings,
    services: &Services,
    clock: Clock,
    control: MakeControl,
) -> Result<NodePlan, Error> {
    let events = node.events.as_deref().map(|path| {
        let failed = |error| Error::Runtime(format!("events {}: {error}", path.display()));
        EventLog::open(&node.id, path).map_err(failed)
    });
    Ok(NodePlan {
        listen: node.listen,
        shards: u16::try_from(node.shards).unwrap_or(u16::MAX),
        cores: node.cores.clone().unwrap_or_default(),
        tls: (**services.server_tls.borrow()).clone(),
        certificate_hashes: services.certificate_hashes.clone(),
        transport: TransportSettings {
            uni_streams: H3_UNI_STREAMS,
            ..TransportSettings::default()
        },
        stage_listen: None,
        gate: node.gate(),
        uplinks: None,
        clock,
        control,
        shard: shard_settings(node, clock, false)?,
        verifier: Verifier::default(),
        events: events.transpose()?,
    })
}

/// Every shard's settings.
///
/// # Errors
/// When the system gives no randomness.
pub fn shard_settings(
    node: &NodeSettings,
    clock: Clock,
    origin: bool,
) -> Result<ShardSettings, Error> {
    Ok(ShardSettings {
        name: node.id.clone(),
        shards: 1,
        pass_key: None,
        shard: 0,
        origin,
        agent: AGENT.to_owned(),
        capacity: node.sessions(),
        open_relays: false,
        unix_us_at_zero: clock.unix_us_at_zero(),
        seed: random()?,
        redundancy: node.redundancy,
        repair: node.repair,
        door: node.door(),
        signer: None,
    })
}

/// A dead parent is noticed by its feed; the transport's own timeout is for what the feed does not
/// show, a session that carries no room.
fn uplink_transport() -> TransportSettings {
    TransportSettings {
        idle: Duration::from_secs(10),
        keep_alive: Some(Duration::from_secs(3)),
        ..TransportSettings::default()
    }
}

fn random() -> Result<u64, Error> {
    Ok(u64::from_ne_bytes(random_bytes()?))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let failed = |_| Error::Runtime("the system gives no random bytes".into());
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Step 2: the identity of a node. In development mode it says so, plainly.
///
/// # Errors
/// When a file or the development directory is at fault.
pub fn load_tls(node: &NodeSettings) -> Result<Tls, ConfigError> {
    // A development certificate names the address at which the node is reached.
    let tls = Tls::load(&node.tls, Some(&node.advertised(node.listen)))?;
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

/// The runtime for what is not hot: the admin listener, signals, files.
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
    /// Hashes of the certificate, in development mode; they change with it.
    pub certificate_hashes: watch::Receiver<Vec<String>>,
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
            certificate_hashes: tls.certificate_hashes(),
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

    /// Runs a task for as long as the node lives.
    pub fn run(&mut self, task: impl Future<Output = Infallible> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Steps 6 to 8: serves until a signal or a failure ends it.
    ///
    /// # Errors
    /// When a thread of the node fails.
    pub async fn serve(
        &mut self,
        node: RunningNode,
        drain: Duration,
        mut signals: Signals,
    ) -> Result<(), Error> {
        let node = Arc::new(node);
        let observer = Observer::new(&node, Arc::clone(&self.admin));
        self.tasks.spawn(observer.run());
        self.tasks.spawn(follow_tls(Arc::clone(&node), self.server_tls.clone()));
        #[cfg(feature = "fault-injection")]
        self.tasks.spawn(follow_park(Arc::clone(&node)));
        self.admin.set_started();
        tokio::select! {
            why = signals.next() => {
                tracing::info!(signal = why, seconds = drain.as_secs(), "draining");
            }
            () = self.admin.drain_asked() => {
                tracing::info!(seconds = drain.as_secs(), "draining, as asked by POST /drain");
            }
            why = failure(&node) => return Err(Error::Runtime(why)),
        }
        self.admin.set_draining();
        node.drain(drain);
        let left = Observer::new(&node, Arc::clone(&self.admin));
        let emptied = async {
            while left.sessions() > 0 {
                tokio::time::sleep(observe::EVERY).await;
            }
        };
        tokio::select! {
            () = emptied => tracing::info!("everyone has left"),
            () = tokio::time::sleep(drain) => tracing::info!(sessions = left.sessions(), "time is up"),
            why = signals.next() => tracing::info!(signal = why, "stopping at once"),
        }
        Ok(())
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

/// Gives the node each fresh certificate.
async fn follow_tls(
    node: Arc<RunningNode>,
    mut tls: watch::Receiver<Arc<ServerConfig>>,
) -> Infallible {
    while tls.changed().await.is_ok() {
        let fresh = (**tls.borrow_and_update()).clone();
        if let Err(error) = node.set_tls(fresh) {
            tracing::error!(%error, "the new certificate cannot be used; the old one stays");
        }
    }
    std::future::pending().await
}

/// SIGUSR2 holds the control plane still, and lets it go on.
#[cfg(feature = "fault-injection")]
async fn follow_park(node: Arc<RunningNode>) -> Infallible {
    if let Ok(mut signals) = signal(SignalKind::user_defined2()) {
        while signals.recv().await.is_some() {
            let parked = node.toggle_park();
            tracing::warn!(parked, "fault injection: the control plane");
        }
    }
    std::future::pending().await
}

/// Waits until a thread of the node fails; its reason.
async fn failure(node: &RunningNode) -> String {
    loop {
        if let Ok(why) = node.failed.try_recv() {
            return why;
        }
        tokio::time::sleep(observe::EVERY).await;
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
