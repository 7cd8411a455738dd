//! A test bed: an origin, relays and speakers on loopback, under one development directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use stentor_client::audio::{Block, EncoderSettings, Source, default_speech};
use stentor_client::session::{Connector, Join, Trust};
use stentor_client::speak::{Mouth, SpeakStats, Speaker};
use stentor_origin::mint::{Request, mint};
use stentor_proto::limits;
use stentor_proto::wire::Role;
use stentor_relay::tls::DevDir;

use crate::nodes::{Node, Plan, RunDir, free_ports};

/// How long a token of a bed lives.
const TOKEN_TTL: Duration = Duration::from_secs(3_600);

/// An origin and its relays.
pub struct Bed {
    /// The relays, in the order in which they were started.
    pub relays: Vec<Node>,
    /// The origin.
    pub origin: Node,
    /// Where stage roles and relays reach the origin.
    stage: SocketAddr,
    dev: DevDir,
    dir: RunDir,
    next_token: u64,
}

/// A relay of a bed.
#[derive(Clone, Debug)]
pub struct RelayPlan {
    /// Its name.
    pub name: String,
    /// Its level.
    pub level: u8,
    /// The core that its shards run on; its other threads too.
    pub core: Option<usize>,
    /// How many shards it has.
    pub shards: u16,
    /// Sessions that it may carry.
    pub capacity: u32,
    /// Whether it notes each tick.
    pub events: bool,
    /// Its UDP and its admin port; free ones if absent.
    pub ports: Option<(SocketAddr, SocketAddr)>,
    /// Where others reach it, if that is not its own address.
    pub advertise: Option<SocketAddr>,
    /// Where it finds the origin, if not at the origin's own address.
    pub origin: Option<SocketAddr>,
    /// Whether it protects its listeners' last hop by redundancy and repair.
    pub protects: bool,
    /// Further settings: the TOML of a configuration file, top-level keys first.
    pub config: String,
}

impl RelayPlan {
    /// A relay of one shard on no core in particular.
    #[must_use]
    pub fn new(name: &str, level: u8) -> Self {
        Self {
            name: name.into(),
            level,
            core: None,
            shards: 1,
            capacity: 10_000,
            events: false,
            ports: None,
            advertise: None,
            origin: None,
            protects: true,
            config: String::new(),
        }
    }
}

impl Bed {
    /// Starts an origin with the given rooms (the TOML of `[[rooms]]` tables) and waits for it.
    ///
    /// # Errors
    /// When a binary is missing or the origin does not become ready.
    pub fn start(what: &str, rooms: &str, core: Option<usize>) -> Result<Self> {
        Self::start_at(what, rooms, core, None)
    }

    /// The same with an address of its own for the stage and relays, as an origin has that a crowd comes
    /// to. `config` is the TOML of a configuration file, top-level keys first.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_stage(what: &str, config: &str, core: Option<usize>) -> Result<Self> {
        let stage = free_ports()?.0;
        let config = format!("stage_listen = \"{stage}\"\n{config}");
        Self::start_at(what, &config, core, Some(stage))
    }

    fn start_at(
        what: &str,
        rooms: &str,
        core: Option<usize>,
        stage: Option<SocketAddr>,
    ) -> Result<Self> {
        let dir = RunDir::make(what)?;
        let dev_dir = dir.path().join("dev");
        let dev = DevDir::open(&dev_dir)?;
        let config = dir.path().join("origin.toml");
        std::fs::write(&config, rooms).with_context(|| config.display().to_string())?;
        let mut args = dev_args(&dev_dir);
        args.extend(["--config".into(), config.display().to_string(), "--shards=1".into()]);
        args.extend(["--id=origin-1".into()]);
        args.push(format!("--events={}", events_file(dir.path(), "origin").display()));
        let plan = Plan {
            binary: "stentor-origin",
            name: "origin".into(),
            ports: None,
            args,
            core,
            dir: dir.path().to_owned(),
        };
        let mut origin = Node::start(&plan)?;
        origin.wait_ready()?;
        let stage = stage.unwrap_or(origin.address);
        Ok(Self { relays: Vec::new(), origin, stage, dev, dir, next_token: 0 })
    }

    /// Starts a relay; see [`Self::wait_ready`].
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn add_relay(&mut self, relay: &RelayPlan) -> Result<()> {
        let mut args = dev_args(self.dev.path());
        let origin = relay.origin.unwrap_or(self.stage);
        args.push(format!("--origin={origin}"));
        args.push(format!("--id={}", relay.name));
        args.push(format!("--level={}", relay.level));
        args.push(format!("--shards={}", relay.shards));
        args.push(format!("--capacity={}", relay.capacity));
        // Everybody comes from this machine: its addresses are no network of their own.
        args.push("--limits-network-percent=100".into());
        if relay.events {
            args.push(format!("--events={}", self.events(&relay.name).display()));
        }
        if let Some(advertise) = relay.advertise {
            args.push(format!("--advertise={advertise}"));
        }
        let unprotected = "redundancy = false\nrepair = false\n";
        let settings = format!("{}{}", if relay.protects { "" } else { unprotected }, relay.config);
        if !settings.is_empty() {
            let config = self.dir.path().join(format!("{}.toml", relay.name));
            std::fs::write(&config, settings).with_context(|| config.display().to_string())?;
            args.push(format!("--config={}", config.display()));
        }
        let plan = Plan {
            binary: "stentor-relay",
            name: relay.name.clone(),
            ports: relay.ports,
            args,
            core: relay.core,
            dir: self.dir.path().to_owned(),
        };
        self.relays.push(Node::start(&plan)?);
        Ok(())
    }

    /// Waits until every relay is ready.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.relays.iter_mut().try_for_each(Node::wait_ready)
    }

    /// Where a node notes its ticks.
    #[must_use]
    pub fn events(&self, node: &str) -> PathBuf {
        events_file(self.dir.path(), node)
    }

    /// The development directory of its nodes.
    #[must_use]
    pub fn dev(&self) -> &DevDir {
        &self.dev
    }

    /// Whom clients of the bed trust.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::Authorities(vec![self.dev.authority()])
    }

    /// The same as rustls wants it.
    ///
    /// # Errors
    /// When the authority's certificate is not one, which it is.
    pub fn roots(&self) -> Result<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.dev.authority())?;
        Ok(roots)
    }

    /// A token of its own for `role` in `room`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&mut self, room: &str, role: Role) -> Result<String> {
        self.next_token += 1;
        let identity = format!("{}-{}", role.name(), self.next_token);
        let room = room.to_owned();
        let request = Request { room, role, identity, name: None, ttl: TOKEN_TTL };
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(mint(self.dev.signer(), &request, unix.as_secs())?)
    }

    /// What a speaker of the bed needs to join `room`.
    ///
    /// # Errors
    /// When no token can be signed.
    pub fn stage(&mut self, room: &str) -> Result<Join> {
        Ok(Join {
            address: self.stage.to_string(),
            room: room.to_owned(),
            role: Role::Speaker,
            token: Some(self.token(room, Role::Speaker)?),
            name: None,
            playout: limits::PLAYOUT,
            last: None,
        })
    }
}

fn dev_args(dir: &Path) -> Vec<String> {
    vec![format!("--dev={}", dir.display()), "--log-level=warn".into()]
}

fn events_file(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.events.jsonl"))
}

/// Speakers who say the default speech in frames of a constant size, from a thread of their own.
pub struct Choir {
    /// How many of them speak at this moment.
    active: Arc<AtomicUsize>,
    stop: Arc<tokio::sync::Notify>,
    thread: Option<std::thread::JoinHandle<Result<Vec<SpeakStats>>>>,
}

impl Choir {
    /// Speakers on sessions of their own; none speaks yet.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        trust: Trust,
        joins: Vec<Join>,
        settings: EncoderSettings,
        core: Option<usize>,
    ) -> Result<Self> {
        let (active, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (voices, ended) = (active.clone(), stop.clone());
        let sing = move || -> Result<Vec<SpeakStats>> {
            if let Some(core) = core {
                stentor_relay::quic::sys::pin_to_core(core)?;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(sing(trust, joins, settings, voices, ended)))
        };
        let thread = std::thread::Builder::new().name("choir".into()).spawn(sing)?;
        Ok(Self { active, stop, thread: Some(thread) })
    }

    /// Lets the first `count` of them speak, the others fall silent.
    pub fn speak(&self, count: usize) {
        self.active.store(count, Ordering::Relaxed);
    }

    /// Ends all of them and says what they sent.
    ///
    /// # Errors
    /// What ended one of them before.
    pub fn finish(mut self) -> Result<Vec<SpeakStats>> {
        // A speaker who is silent takes notice only between blocks.
        self.active.store(usize::MAX, Ordering::Relaxed);
        self.stop.notify_waiters();
        let thread = self.thread.take().context("a choir finishes once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the choir panicked"))?
    }

    /// Looks whether the speakers still go on.
    ///
    /// # Errors
    /// What ended one of them.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
            let thread = self.thread.take().context("a choir finishes once")?;
            thread.join().map_err(|_| anyhow::anyhow!("the choir panicked"))??;
            anyhow::bail!("the speakers ended before the measurement did");
        }
        Ok(())
    }
}

async fn sing(
    trust: Trust,
    joins: Vec<Join>,
    settings: EncoderSettings,
    active: Arc<AtomicUsize>,
    stop: Arc<tokio::sync::Notify>,
) -> Result<Vec<SpeakStats>> {
    let connector = Connector::new(&trust)?;
    let mut tasks = tokio::task::JoinSet::new();
    for (number, join) in joins.into_iter().enumerate() {
        let session = connector.join(&join).await?;
        let mut speaker = Speaker::new(session, settings)?;
        let source = Source::from_bytes("the default speech", default_speech())?.looped(true);
        // Each speaker says another part, so that no two are alike.
        let mut source = source.skip(number * 600);
        let mut voice = Voice { number, active: active.clone(), source: Vec::new(), at: 0 };
        voice.source = source.by_ref().take(2_000).collect::<std::result::Result<_, _>>()?;
        let stop = stop.clone();
        tasks.spawn_local(async move {
            speaker.run(&mut voice, stop.notified()).await?;
            anyhow::Ok(speaker.stats())
        });
    }
    let mut stats = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        stats.push(ended??);
    }
    connector.finish().await;
    Ok(stats)
}

/// One speaker of a choir.
struct Voice {
    number: usize,
    active: Arc<AtomicUsize>,
    source: Vec<Block>,
    at: usize,
}

impl Mouth for Voice {
    async fn block(&mut self, _at: Instant) -> Result<Option<Block>, String> {
        let mut paused = false;
        while self.number >= self.active.load(Ordering::Relaxed) {
            paused = true;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if paused {
            // Speakers do not begin in step: each has its own phase, spread by a prime.
            let phase = Duration::from_micros(self.number as u64 * 7_919 % 20_000);
            tokio::time::sleep(phase).await;
        }
        let block = self.source[self.at % self.source.len()];
        self.at += 1;
        Ok(Some(block))
    }
}
