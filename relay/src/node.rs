//! A node's threads and the queues between them: one control thread, one thread a shard.
//!
//! Relays and origins start the same way; only their [`NodeControl`] differs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use stentor_proto::admission::DoorSettings;
use stentor_proto::limits;
use stentor_proto::node::{News, NodeControl, NodeShard, ShardSettings};
use stentor_proto::token::Verifier;
use tokio::sync::{broadcast, watch};

use crate::clock::Clock;
use crate::command::Commands;
use crate::fanout::{Shard, ShardPorts, ShardReport};
use crate::quic::config::{ConfigError, SharedKeys, TransportSettings, server_config};
use crate::quic::sys::{BindOptions, Waiter, Waker, bind, pin_to_core};
use crate::quic::{Driver, DriverSettings, GateSettings};
use crate::uplink::{Control, ControlPorts, ControlReport, EventLog, ShardLink, Uplinks};

/// What a node is made of.
pub struct NodePlan {
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// How many shards it has.
    pub shards: u16,
    /// The core of each shard; the rest are not pinned.
    pub cores: Vec<usize>,
    /// TLS for those who connect.
    pub tls: rustls::ServerConfig,
    /// Hashes of its certificate, for pages; none but in development mode.
    pub certificate_hashes: watch::Receiver<Vec<String>>,
    /// Transport settings for those who connect.
    pub transport: TransportSettings,
    /// Where an origin takes the stage and relays beside, on a shard of its own; nowhere if absent.
    pub stage_listen: Option<SocketAddr>,
    /// Handshakes on all shards together: a second, under way, and under way above which clients prove
    /// their address first (Retry, RFC 9000 section 8.1.2).
    pub gate: GateSettings,
    /// How to connect to parents; `None` at an origin.
    pub uplinks: Option<quinn_proto::ClientConfig>,
    /// The node's clock, which control has been given too.
    pub clock: Clock,
    /// Makes the machine that is not a shard's, once it is known where the node listens.
    pub control: MakeControl,
    /// Every shard's settings; the number is set here, the capacity is shared out.
    pub shard: ShardSettings,
    /// Verifies tokens until control says otherwise.
    pub verifier: Verifier,
    /// Where ticks are noted, if anywhere.
    pub events: Option<EventLog>,
}

/// Makes a node's control from the address that was bound.
pub type MakeControl = Box<dyn FnOnce(SocketAddr) -> NodeControl>;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket.
    #[error("cannot listen on {address} (UDP): {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
    /// Certificates or transport settings.
    #[error(transparent)]
    Quic(#[from] ConfigError),
    /// Threads or descriptors.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A running node. Dropping it ends its threads.
pub struct RunningNode {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the stage and relays are taken beside, if anywhere.
    pub stage_listen: Option<SocketAddr>,
    /// What each shard reports.
    pub shards: Vec<Arc<ShardReport>>,
    /// What control reports.
    pub control: Arc<ControlReport>,
    /// Says why, when a thread has failed.
    pub failed: Receiver<String>,
    /// The way to control, at an origin.
    pub commands: Commands,
    /// What happens in an origin's rooms; who is too slow misses some, and is told so.
    pub news: broadcast::Sender<Arc<News>>,
    keys: SharedKeys,
    transport: TransportSettings,
    tls: Vec<Reloads>,
    stop: Arc<AtomicBool>,
    drain: Arc<OnceLock<Duration>>,
    #[cfg(feature = "fault-injection")]
    park: Arc<AtomicBool>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningNode {
    /// Binds the sockets and starts the threads.
    ///
    /// # Errors
    /// When a socket, a descriptor or a thread is not to be had, or TLS is not usable.
    pub fn start(plan: NodePlan) -> Result<Self, StartError> {
        let keys = SharedKeys::random()?;
        let server = server_config(plan.tls, &keys, &plan.transport)?;
        let listening = plan.shards.max(1);
        // The stage's shard is the last, with a socket and a place of its own.
        let count = listening + u16::from(plan.stage_listen.is_some());
        let (to_control, messages) = bounded(limits::TO_CONTROL);
        let control_waiter = Waiter::new()?;
        let (failed_at, failed) = bounded(usize::from(count) + 1);
        let (commands, commanded) = Commands::new(control_waiter.waker());
        let news = broadcast::Sender::new(limits::NEWS);
        let mut node = Self {
            listen: plan.listen,
            stage_listen: None,
            shards: Vec::new(),
            control: Arc::default(),
            failed,
            commands,
            news: news.clone(),
            keys,
            transport: plan.transport,
            tls: Vec::new(),
            stop: Arc::default(),
            drain: Arc::default(),
            #[cfg(feature = "fault-injection")]
            park: Arc::default(),
            wakers: vec![control_waiter.waker()],
            threads: Vec::new(),
        };
        let waiters = (0..count).map(|_| Waiter::new()).collect::<Result<Vec<_>, _>>()?;
        let (others, inboxes): (Vec<_>, Vec<_>) = waiters
            .iter()
            .map(|waiter| {
                let (sender, receiver) = bounded(limits::FOREIGN_QUEUE);
                ((sender, waiter.waker()), receiver)
            })
            .unzip();
        let mut links = Vec::new();
        for ((shard, waiter), foreign) in (0..count).zip(waiters).zip(inboxes) {
            let stage = plan.stage_listen.filter(|_| shard == listening);
            let gate = match stage {
                Some(_) => plan.gate,
                None => gate_share(&plan.gate, listening, shard),
            };
            let driver = node.listening_driver((shard, count), stage, gate, server.clone())?;
            let (ticks_in, ticks) = bounded(limits::TICK_QUEUE);
            let (messages_in, shard_messages) = bounded(limits::TO_SHARD);
            let (tls_in, tls) = bounded(1);
            let waker = waiter.waker();
            let (capacity, door) = match stage {
                Some(_) => (
                    plan.shard.capacity.min(limits::SESSIONS_PER_SHARD),
                    DoorSettings { stage_only: true, ..plan.shard.door },
                ),
                // The first shards take what does not divide.
                None => (
                    share(plan.shard.capacity, listening, shard),
                    door_share(&plan.shard.door, listening, shard),
                ),
            };
            let settings = ShardSettings {
                shard,
                shards: listening,
                capacity,
                door,
                seed: plan.shard.seed.wrapping_add(shard.into()),
                ..plan.shard.clone()
            };
            let machine =
                NodeShard::new(settings, plan.verifier.clone(), plan.clock.time(Instant::now()));
            let ports = ShardPorts {
                ticks,
                messages: shard_messages,
                to_control: to_control.clone(),
                control: control_waiter.waker(),
                foreign,
                others: others.clone(),
                tls: tls.clone(),
            };
            let report = Arc::<ShardReport>::default();
            let stop = node.stop.clone();
            let thread =
                Shard::new(driver, machine, plan.clock, ports, waiter, report.clone(), stop);
            let core = plan.cores.get(usize::from(shard)).copied();
            node.spawn(format!("shard-{shard}"), core, failed_at.clone(), move || thread.run())?;
            node.shards.push(report);
            node.tls.push((tls_in, tls));
            node.wakers.push(waker.clone());
            links.push(ShardLink { ticks: ticks_in, messages: messages_in, waker });
        }
        let uplinks =
            plan.uplinks.map(|client| node.uplinks(client, &control_waiter)).transpose()?;
        let ports = ControlPorts {
            shards: links,
            messages,
            commands: commanded,
            news,
            waiter: control_waiter,
            report: node.control.clone(),
            events: plan.events,
            certificate_hashes: plan.certificate_hashes,
            stop: node.stop.clone(),
            drain: node.drain.clone(),
            #[cfg(feature = "fault-injection")]
            park: node.park.clone(),
        };
        let control = (plan.control)(node.listen);
        let control = Control::new(control, plan.clock, uplinks, ports);
        node.spawn("control".into(), None, failed_at, move || control.run())?;
        Ok(node)
    }

    /// Takes no newcomers from here on, and asks the listeners to move within this time.
    pub fn drain(&self, within: Duration) {
        // The first call counts: the listeners have been told.
        let _ = self.drain.set(within);
        self.wake();
    }

    /// Holds the control plane still, or lets it go on; returns whether it is held.
    #[cfg(feature = "fault-injection")]
    pub fn toggle_park(&self) -> bool {
        let park = !self.park.fetch_xor(true, Ordering::Relaxed);
        self.wake();
        park
    }

    /// Uses another certificate for those who connect from here on.
    ///
    /// # Errors
    /// When it is not usable; the former one stays in use.
    pub fn set_tls(&self, tls: rustls::ServerConfig) -> Result<(), ConfigError> {
        let server = server_config(tls, &self.keys, &self.transport)?;
        for (queue, waiting) in &self.tls {
            put_latest(queue, waiting, server.clone());
        }
        self.wake();
        Ok(())
    }

    fn listening_driver(
        &mut self,
        (shard, shards): (u16, u16),
        stage: Option<SocketAddr>,
        gate: GateSettings,
        server: Arc<quinn_proto::ServerConfig>,
    ) -> Result<Driver, StartError> {
        let address = stage.unwrap_or(self.listen);
        let reuse_port = shards > 1 && stage.is_none();
        let options = BindOptions { reuse_port, ..BindOptions::default() };
        let listen = |error| StartError::Listen { address, error };
        let socket = bind(address, options).map_err(listen)?;
        if stage.is_some() {
            self.stage_listen = Some(socket.local_addr()?);
        } else {
            // Port 0 is any free one: the other shards bind the one that the first was given.
            self.listen = socket.local_addr()?;
        }
        let settings =
            DriverSettings { gate, ..DriverSettings::server(server, &self.keys, shard, shards) };
        Ok(Driver::new(socket, settings, Instant::now())?)
    }

    fn uplinks(
        &self,
        client: quinn_proto::ClientConfig,
        waiter: &Waiter,
    ) -> Result<Uplinks, StartError> {
        let any = SocketAddr::from(([0u16; 8], 0));
        let socket = bind(any, BindOptions::default())
            .map_err(|error| StartError::Listen { address: any, error })?;
        let driver = Driver::new(socket, DriverSettings::client(&self.keys), Instant::now())?;
        Ok(Uplinks::new(driver, client, waiter.waker()))
    }

    fn spawn(
        &mut self,
        name: String,
        core: Option<usize>,
        failed: Sender<String>,
        run: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), StartError> {
        let thread_name = name.clone();
        let body = move || {
            if let Some(core) = core
                && let Err(error) = pin_to_core(core)
            {
                tracing::warn!("{name} is not pinned to core {core}: {error}");
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let why = match outcome {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("the thread {name} ended: {error}"),
                Err(_) => format!("the thread {name} panicked; please report this"),
            };
            // The queue holds a message of every thread.
            let _ = failed.try_send(why);
        };
        self.threads.push(std::thread::Builder::new().name(thread_name).spawn(body)?);
        Ok(())
    }

    fn wake(&self) {
        for waker in &self.wakers {
            waker.wake();
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so in `failed`.
            let _ = thread.join();
        }
    }
}

/// One shard's part of a node's capacity.
fn share(whole: u32, shards: u16, shard: u16) -> u32 {
    whole / u32::from(shards) + u32::from(u32::from(shard) < whole % u32::from(shards))
}

/// One shard's part of a node's handshakes.
fn gate_share(whole: &GateSettings, shards: u16, shard: u16) -> GateSettings {
    let part = |whole: usize| match u32::try_from(whole) {
        Ok(whole) => share(whole, shards, shard).max(1) as usize,
        Err(_) => whole,
    };
    GateSettings {
        per_s: share(whole.per_s, shards, shard).max(1),
        in_flight: part(whole.in_flight),
        retry_above: part(whole.retry_above),
        network_percent: whole.network_percent,
    }
}

/// One shard's part of what a node admits. No budget is without any part, for newcomers reach a shard
/// by chance.
fn door_share(whole: &DoorSettings, shards: u16, shard: u16) -> DoorSettings {
    let rate = |whole| share(whole, shards, shard).max(1);
    DoorSettings {
        listeners: share(whole.listeners, shards, shard),
        egress_kbit_s: rate(whole.egress_kbit_s),
        joins_per_s: rate(whole.joins_per_s),
        returns_per_s: rate(whole.returns_per_s),
        tickets_per_s: rate(whole.tickets_per_s),
        ..*whole
    }
}

/// Both ends of the queue of certificates to a shard: what it has not taken yet gives way.
type Reloads = (Sender<Arc<quinn_proto::ServerConfig>>, Receiver<Arc<quinn_proto::ServerConfig>>);

/// Puts a value into a queue of one; what waits there gives way.
fn put_latest<T>(queue: &Sender<T>, waiting: &Receiver<T>, value: T) {
    let mut value = value;
    while let Err(TrySendError::Full(latest)) = queue.try_send(value) {
        let _ = waiting.try_recv();
        value = latest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_certificate_waits() {
        let (queue, waiting) = bounded(1);
        for number in 0..3 {
            put_latest(&queue, &waiting, number);
        }
        assert_eq!(waiting.try_iter().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        for (whole, shards) in [(10, 3), (0, 2), (7, 7), (4_000, 1)] {
            let sum: u32 = (0..shards).map(|shard| share(whole, shards, shard)).sum();
            assert_eq!(sum, whole);
        }
    }
}
