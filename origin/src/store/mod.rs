//! What outlives the process: rooms, bans, taken-back tokens, webhooks; in one SQLite file.
//!
//! One thread owns the file. Changes come over a bounded queue, as many as wait go into one
//! transaction, and each is answered once that is on the disk (write-ahead log, `synchronous=FULL`):
//! who was told "done" finds it again after a crash. Nobody else waits for the disk.

mod schema;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};
use stentor_proto::limits;
use stentor_proto::node::{Act, RoomCard, RoomInfo};
use stentor_proto::revoked::network;
use stentor_proto::wire::RevokedEntry;
use tokio::sync::oneshot;

use crate::config::ProfileConfig;
use crate::settings::RoomSettings;

/// Why something is not kept. The operator's disk or file is at fault.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, read or written.
    #[error("the store {path:?}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// It was written by a later release.
    #[error("the store {path:?} has version {found}; this release knows up to {known}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// A change waits for the disk for each place in the queue.
    #[error("the store is busy; try again in a moment")]
    Busy,
    /// There is none.
    #[error("this origin keeps nothing: its operator has named no file as `store`")]
    None,
}

/// A change that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A room was made.
    Made(Box<StoredRoom>),
    /// A room has another title, topic, rule or lock.
    Described {
        /// Its name.
        room: String,
        /// Its title.
        title: String,
        /// Whether listeners need no token.
        public: bool,
        /// The rest.
        card: RoomCard,
    },
    /// A room has ended: what is known of it is forgotten. Rooms begin above this epoch.
    Ended {
        /// Its name.
        room: String,
        /// The epoch.
        epoch: u32,
    },
    /// A room takes somebody no longer.
    Revoked {
        /// Its name.
        room: String,
        /// Whom.
        entry: RevokedEntry,
        /// When (seconds since 1970, UTC).
        at: u64,
    },
    /// Bans are lifted.
    Lifted {
        /// The room.
        room: String,
        /// Of this person.
        identity: Option<String>,
        /// Of this address.
        address: Option<std::net::IpAddr>,
    },
    /// A webhook is named.
    WebhookMade(Webhook),
    /// A webhook is removed.
    WebhookGone {
        /// Its room.
        room: String,
        /// Its id.
        id: String,
    },
}

/// A room that was made by the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRoom {
    /// What it is made from.
    pub settings: RoomSettings,
    /// What people say of it.
    pub card: RoomCard,
}

/// Somebody who is told what happens in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// The room.
    pub room: String,
    /// Where to.
    pub url: String,
    /// Signs what is sent: 32 bytes.
    pub secret: Vec<u8>,
}

/// Everything that was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Rooms that were made.
    pub rooms: Vec<StoredRoom>,
    /// Whom each room takes no longer, in their order.
    pub revoked: Vec<(String, RevokedEntry)>,
    /// Webhooks.
    pub webhooks: Vec<Webhook>,
    /// Rooms begin above this epoch.
    pub epoch: u32,
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// The way to the store's thread.
#[derive(Clone, Debug)]
pub struct Store {
    queue: Option<Sender<(Change, Answer)>>,
}

impl Store {
    /// A store that keeps nothing and says so to whoever asks.
    #[must_use]
    pub const fn none() -> Self {
        Self { queue: None }
    }

    /// Opens the file, or makes it, and reads what it holds.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(path: &Path, now_unix_s: u64) -> Result<(Self, Kept), StoreError> {
        let failed = |error: rusqlite::Error| file_error(path, &error);
        make_private(path)?;
        let mut file = Connection::open(path).map_err(failed)?;
        let modes = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";
        file.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        file.execute_batch(modes).map_err(failed)?;
        schema::migrate(&mut file, path)?;
        let kept = read(&mut file, now_unix_s).map_err(failed)?;
        let (queue, changes) = bounded(limits::STORE_QUEUE);
        let path = path.to_owned();
        let run = move || write(&mut file, &path, &changes);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(run);
        thread.map_err(|error| StoreError::File {
            path: PathBuf::new(),
            problem: format!("no thread: {error}"),
        })?;
        Ok((Self { queue: Some(queue) }, kept))
    }

    /// Keeps a change; it is on the disk when this returns.
    ///
    /// # Errors
    /// When it is not, and why.
    pub async fn keep(&self, change: Change) -> Result<(), StoreError> {
        let Some(queue) = &self.queue else { return Err(StoreError::None) };
        let (answer, kept) = oneshot::channel();
        queue.try_send((change, answer)).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => StoreError::Busy,
        })?;
        kept.await.unwrap_or(Err(StoreError::Busy))
    }
}

/// Makes the file, if there is none, for its owner alone: it holds webhooks' secrets and who is banned.
/// SQLite gives its journal the same mode.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop)
        .map_err(|error| StoreError::File { path: path.to_owned(), problem: error.to_string() })
}

/// Copies a store into another file while it is in use (SQLite's online backup).
///
/// # Errors
/// When either file cannot be used.
pub fn backup(from: &Path, to: &Path) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(|e| file_error(from, &e))?;
    let failed = |error: rusqlite::Error| file_error(to, &error);
    make_private(to)?;
    let mut copy = Connection::open(to).map_err(failed)?;
    let backup = Backup::new(&source, &mut copy).map_err(failed)?;
    backup.run_to_completion(256, Duration::from_millis(10), None).map_err(failed)
}

impl Change {
    /// What an act leaves to be kept, if anything.
    #[must_use]
    pub fn of(room: &str, act: &Act, now_unix_s: u64) -> Vec<Self> {
        let revoked = |entry| Self::Revoked { room: room.to_owned(), entry, at: now_unix_s };
        match act {
            Act::Demote { identity } => {
                vec![revoked(RevokedEntry::tokens_of(identity, now_unix_s, true))]
            }
            Act::Remove { identity } => {
                vec![revoked(RevokedEntry::tokens_of(identity, now_unix_s, false))]
            }
            Act::RevokeToken { jti } => vec![revoked(RevokedEntry::token(jti))],
            Act::Ban { identity, address, with_address } => {
                let person = identity.as_ref().map(|who| RevokedEntry::ban(who, *with_address));
                let place = address.map(RevokedEntry::ban_address);
                person.into_iter().chain(place).map(revoked).collect()
            }
            Act::Unban { identity, address } => vec![Self::Lifted {
                room: room.to_owned(),
                identity: identity.clone(),
                address: address.map(network),
            }],
            Act::Invite { .. } | Act::Mute { .. } | Act::LowerHand { .. } | Act::Lock(_) => {
                Vec::new()
            }
        }
    }

    /// A room as it is described.
    #[must_use]
    pub fn describe(info: &RoomInfo) -> Self {
        Self::Described {
            room: info.state.room.clone(),
            title: info.state.title.clone(),
            public: info.public,
            card: info.card.clone(),
        }
    }

    fn write(&self, file: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Made(room) => {
                let StoredRoom { settings, card } = &**room;
                let profile = match settings.profile {
                    ProfileConfig::Music => "music",
                    ProfileConfig::Voice | ProfileConfig::Custom(_) => "voice",
                };
                file.execute(
                    "INSERT OR REPLACE INTO rooms
                     (name, title, topic, public, locked, starts_at, profile, audible)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    params![
                        settings.name,
                        settings.title,
                        card.topic,
                        settings.public,
                        card.locked,
                        card.starts_at.map(signed),
                        profile,
                        settings.audible,
                    ],
                )?;
                file.execute("UPDATE revoked SET ended = NULL WHERE room = ?1", [&settings.name])?;
            }
            Self::Described { room, title, public, card } => {
                file.execute(
                    // A room of the configuration has no row before it is changed.
                    "INSERT INTO rooms (name, title, topic, public, locked, starts_at, profile)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'voice')
                     ON CONFLICT (name) DO UPDATE SET title = ?2, topic = ?3, public = ?4,
                     locked = ?5, starts_at = ?6",
                    params![
                        room,
                        title,
                        card.topic,
                        public,
                        card.locked,
                        card.starts_at.map(signed)
                    ],
                )?;
            }
            Self::Ended { room, epoch } => {
                file.execute("DELETE FROM rooms WHERE name = ?1", [room])?;
                // The name may be used again, and tokens of it live on.
                file.execute("UPDATE revoked SET ended = unixepoch() WHERE room = ?1", [room])?;
                file.execute("DELETE FROM webhooks WHERE room = ?1", [room])?;
                file.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?1)", [epoch])?;
            }
            Self::Revoked { room, entry, at } => {
                file.execute(
                    "INSERT OR IGNORE INTO revoked (room, entry, identity, address, ban, at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        room,
                        serde_json::to_string(entry).unwrap_or_default(),
                        entry.identity,
                        entry.address.map(|address| address.to_string()),
                        entry.is_ban(),
                        signed(*at),
                    ],
                )?;
            }
            Self::Lifted { room, identity, address } => {
                file.execute(
                    "DELETE FROM revoked WHERE room = ?1 AND ban AND (identity = ?2 OR address = ?3)",
                    params![room, identity, address.map(|address| address.to_string())],
                )?;
            }
            Self::WebhookMade(hook) => {
                file.execute(
                    "INSERT INTO webhooks (id, room, url, secret) VALUES (?1, ?2, ?3, ?4)",
                    params![hook.id, hook.room, hook.url, hook.secret],
                )?;
            }
            Self::WebhookGone { room, id } => {
                file.execute("DELETE FROM webhooks WHERE room = ?1 AND id = ?2", [room, id])?;
            }
        }
        Ok(())
    }
}

/// Writes what waits, one transaction for all of it, and answers when it is on the disk.
fn write(file: &mut Connection, path: &Path, changes: &Receiver<(Change, Answer)>) {
    while let Ok(first) = changes.recv() {
        let mut batch = vec![first];
        batch.extend(changes.try_iter().take(limits::STORE_BATCH - 1));
        let done = file.transaction().and_then(|transaction| {
            batch.iter().try_for_each(|(change, _)| change.write(&transaction))?;
            transaction.commit()
        });
        let done = done.map_err(|error| file_error(path, &error));
        for (_, answer) in batch {
            // Whoever asked may have gone; the change is kept all the same.
            let _ = answer.send(done.clone());
        }
    }
}

fn read(file: &mut Connection, now_unix_s: u64) -> rusqlite::Result<Kept> {
    // Taken-back tokens are past their end by then; bans stay for as long as their room, and after
    // it for as long as tokens may.
    let ended = signed(now_unix_s.saturating_sub(limits::REVOKED_KEPT_S));
    file.execute("DELETE FROM revoked WHERE (NOT ban AND at < ?1) OR ended < ?1", [ended])?;
    let sql = "SELECT name, title, topic, public, locked, starts_at, profile, audible FROM rooms";
    let mut rooms = file.prepare(sql)?;
    let rooms = rooms.query_map([], |row| {
        let starts_at: Option<i64> = row.get(5)?;
        let profile: String = row.get(6)?;
        let card = RoomCard {
            topic: row.get(2)?,
            starts_at: starts_at.and_then(|at| u64::try_from(at).ok()),
            locked: row.get(4)?,
        };
        let settings = RoomSettings {
            name: row.get(0)?,
            title: row.get(1)?,
            public: row.get(3)?,
            profile: if profile == "music" { ProfileConfig::Music } else { ProfileConfig::Voice },
            audible: row.get(7)?,
            tick_ms: limits::TICK_MS[0],
        };
        Ok(StoredRoom { settings, card })
    });
    let rooms = rooms?.collect::<Result<_, _>>()?;
    let mut revoked = file.prepare("SELECT room, entry FROM revoked ORDER BY rowid")?;
    let revoked = revoked.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let revoked = revoked.collect::<Result<Vec<_>, _>>()?.into_iter();
    let entry = |(room, text): (String, String)| Some((room, serde_json::from_str(&text).ok()?));
    let mut hooks = file.prepare("SELECT id, room, url, secret FROM webhooks")?;
    let hooks = hooks.query_map([], |row| {
        Ok(Webhook { id: row.get(0)?, room: row.get(1)?, url: row.get(2)?, secret: row.get(3)? })
    });
    let epoch = "SELECT value FROM meta WHERE key = 'epoch'";
    Ok(Kept {
        rooms,
        revoked: revoked.filter_map(entry).collect(),
        webhooks: hooks?.collect::<Result<_, _>>()?,
        epoch: file.query_row(epoch, [], |row| row.get(0)).optional()?.unwrap_or(0),
    })
}

/// SQLite's integers are signed; times fit until the year 292 billion.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn file_error(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), problem: error.to_string() }
}

#[cfg(test)]
mod tests;
