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
//! 6. The HTTP API and the page are bound to TCP.
//! 7. `/readyz` answers 200.
//! 8. SIGTERM, SIGINT or `POST /drain`: `/readyz` answers 503 `draining`, newcomers are refused,
//!    listeners are asked to move and children are given other parents, for `drain_s` at most; a
//!    second signal cuts that short. Then everything is dropped, in the
//!    reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stentor_proto::node::{
    NodeControl, OriginControl, OriginSettings, RoomError, RoomSetup, ShardSettings,
};
use stentor_proto::room::Profile;
use stentor_proto::token::{ANY_ROOM, Signer, encode_public};
use stentor_proto::tree::PlannerSettings;
use stentor_proto::wire::{RevokedEntry, Role};
use stentor_proto::{Time, limits};
use stentor_relay::clock::Clock;
use stentor_relay::exit::Error;
use stentor_relay::node::{NodePlan, RunningNode};
use stentor_relay::settings::HostPort;
use stentor_relay::start::{Services, Signals, load_tls, node_plan, runtime, shard_settings};
use stentor_relay::tls::Tls;

use crate::config::{CustomProfile, ProfileConfig};
use crate::http::{Api, Outside, Parts};
use crate::mint;
use crate::settings::{HttpListen, RoomSettings, Settings};
use crate::store::{Kept, Store};

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
    let signals = Signals::new()?;
    let mut services = Services::start(&settings.node, tls).await?;
    let (store, kept) = open_store(&settings)?;
    let plan = plan(&settings, &services, &kept)?;
    let node = RunningNode::start(plan).map_err(Error::runtime)?;
    tracing::info!(
        id = settings.node.id,
        listen = %node.listen,
        stage_listen = node.stage_listen.map(|address| address.to_string()),
        rooms = settings.rooms.len(),
        keys = ?settings.keys.public.keys(),
        version = env!("CARGO_PKG_VERSION"),
        "origin"
    );
    if let Some(address) = http_address(&settings, &node) {
        let api = Api::new(http_parts(&settings, &services, &node, store)?);
        api.run_hooks(&kept.webhooks);
        services.run(api.clone().follow_rooms());
        let plain = settings.node.tls.is_dev();
        let serving = api.bind(address, services.server_tls.clone(), plain).await?;
        services.run(serving);
        if plain && let Some(signer) = settings.keys.signers.first() {
            tell_host_link(signer, address.port());
        }
    }
    services.serve(node, settings.node.drain, signals).await
}

/// TLS to webhooks: the system's authorities, for they are others' servers.
fn outside_tls() -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::runtime)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Opens what outlives the process.
fn open_store(settings: &Settings) -> Result<(Store, Kept), Error> {
    let Some(path) = &settings.store else {
        tracing::warn!("no file is named as `store`: rooms cannot be made, and nobody banned");
        return Ok((Store::none(), Kept::default()));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let opened = Store::open(path, now.as_secs()).map_err(Error::runtime)?;
    tracing::info!(
        path = %path.display(),
        rooms = opened.1.rooms.len(),
        revoked = opened.1.revoked.len(),
        "store"
    );
    Ok(opened)
}

/// Brings back rooms and bans. What does not fit any more is said, and left in the store.
fn restore(control: &mut OriginControl, now: Time, kept: &Kept) {
    for room in &kept.rooms {
        let made =
            room_setup(&room.settings).map_err(|error| error.to_string()).and_then(|setup| {
                let made = match control.create_room(now, &setup, room.card.clone()) {
                    // A room of the configuration is as it was last described.
                    Err(RoomError::Exists(name)) => {
                        control.describe_room(&name, &setup.title, setup.public, room.card.clone())
                    }
                    made => made,
                };
                made.map(drop).map_err(|error| error.to_string())
            });
        if let Err(error) = made {
            tracing::error!(room = room.settings.name, error, "a room cannot be brought back");
        }
    }
    let mut revoked: BTreeMap<&str, Vec<RevokedEntry>> = BTreeMap::new();
    for (room, entry) in &kept.revoked {
        revoked.entry(room).or_default().push(entry.clone());
    }
    for (room, entries) in revoked {
        if let Err(error) = control.restore_revoked(room, entries) {
            tracing::error!(room, %error, "a ban cannot be brought back");
        }
    }
}

/// In development mode, whoever reads the log may make rooms.
fn tell_host_link(signer: &Signer, port: u16) {
    let request = mint::Request {
        room: ANY_ROOM.to_owned(),
        role: Role::Host,
        identity: "developer".to_owned(),
        name: None,
        ttl: Duration::from_secs(limits::MINT_TOKEN_S),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Ok(token) = mint::mint(signer, &request, now.as_secs()) {
        tracing::info!(
            "DEVELOPMENT MODE: make a room at http://localhost:{port}/new#token={token}"
        );
    }
}

/// Where the HTTP API listens: by default on the TCP port of the node's UDP port.
fn http_address(settings: &Settings, node: &RunningNode) -> Option<SocketAddr> {
    match settings.http.listen {
        HttpListen::Off => None,
        HttpListen::Node => Some(node.listen),
        HttpListen::At(address) => Some(address),
    }
}

/// Where stage roles reach the origin: on the port that is theirs, if there is one.
fn stage_address(settings: &Settings, node: &RunningNode) -> HostPort {
    let address = settings.node.advertised(node.listen);
    let port = node.stage_listen.map_or(address.port, |stage| stage.port());
    HostPort { port, ..address }
}

/// What the HTTP API is made of.
fn http_parts(
    settings: &Settings,
    services: &Services,
    node: &RunningNode,
    store: Store,
) -> Result<Parts, Error> {
    Ok(Parts {
        commands: node.commands.clone(),
        signer: settings.keys.signers.first().cloned(),
        verifier: settings.keys.verifier().map_err(Error::runtime)?,
        node: settings.node.id.clone(),
        address: settings.node.advertised(node.listen).to_string(),
        stage_address: stage_address(settings, node).to_string(),
        certificate_hashes: services.certificate_hashes.clone(),
        clock: Clock::start(),
        writes_per_s: settings.http.writes_per_s,
        store,
        news: node.news.clone(),
        outside: Outside { tls: outside_tls()?, local: settings.node.tls.is_dev() },
    })
}

/// What the node of an origin is made of.
fn plan(settings: &Settings, services: &Services, kept: &Kept) -> Result<NodePlan, Error> {
    let clock = Clock::start();
    let now_us = clock.unix_us_at_zero();
    let keys = settings.keys.public.iter();
    let control = OriginSettings {
        signer: settings.keys.signers.first().cloned(),
        name: settings.node.id.clone(),
        rooms: settings.rooms.iter().map(room_setup).collect::<Result<_, _>>()?,
        first_use: settings.rooms_on_first_use.then(first_use),
        planner: PlannerSettings {
            origin_children: settings.tree.origin_children,
            children_one_in: one_in(settings.tree.children_share),
            relay_capacity: settings.tree.relay_capacity,
            // Rises with every start, as relays expect of a plan's version.
            generation: now_us,
        },
        // Seconds since 1970 rise with every start and fit into 32 bits until 2106.
        // Rooms that were ended by the dozen may have brought a former life above that.
        epoch: u32::try_from(now_us / 1_000_000).unwrap_or(u32::MAX).max(kept.epoch + 1),
        capacity: settings.node.capacity,
        keys: keys.map(|(kid, key)| (kid.clone(), encode_public(key))).collect(),
        unix_us_at_zero: now_us,
        joins_per_s: settings.node.joins_per_s(),
    };
    let now = clock.time(Instant::now());
    let mut control =
        OriginControl::new(control, now).map_err(|close| Error::Runtime(close.to_string()))?;
    restore(&mut control, now, kept);
    let make = move |_| NodeControl::Origin(Box::new(control));
    Ok(NodePlan {
        shard: ShardSettings {
            signer: settings.keys.signers.first().cloned(),
            ..shard_settings(&settings.node, clock, true)?
        },
        verifier: settings.keys.verifier().map_err(Error::runtime)?,
        stage_listen: settings.stage_listen,
        ..node_plan(&settings.node, services, clock, Box::new(make))?
    })
}

/// A room as control makes it.
///
/// # Errors
/// When its profile breaks a limit.
pub fn room_setup(room: &RoomSettings) -> Result<RoomSetup, Error> {
    let audible = room.audible.map_or(limits::AUDIBLE, usize::from);
    let profile = match room.profile {
        ProfileConfig::Voice => Profile::voice(),
        ProfileConfig::Music => Profile::music(),
        ProfileConfig::Custom(custom) => {
            let slots = u8::try_from(audible).unwrap_or(u8::MAX);
            let CustomProfile { kbit_s, frame_bytes, tick_bytes, redundancy } = custom;
            Profile::custom(kbit_s, frame_bytes, slots, tick_bytes, redundancy)
                .map_err(|error| Error::Runtime(format!("room {}: {error}", room.name)))?
        }
    };
    Ok(RoomSetup {
        name: room.name.clone(),
        title: room.title.clone(),
        public: room.public,
        profile,
        audible: audible.min(usize::from(profile.slots)),
        tick_ms: room.tick_ms,
    })
}

/// What a room is like that comes into being with the first one to join it.
pub(crate) fn first_use() -> RoomSetup {
    RoomSetup {
        name: String::new(),
        title: String::new(),
        public: true,
        profile: Profile::voice(),
        audible: limits::AUDIBLE,
        tick_ms: limits::TICK_MS[0],
    }
}

/// A share of the capacity as "one in so many".
fn one_in(share: f64) -> u32 {
    if share <= 0.0 { u32::MAX } else { (1.0 / share).round().clamp(1.0, 1e9) as u32 }
}
