//! Configuration as it is used: validated, in the types that the code works with.
//!
//! Nothing here touches the network or writes a file; files that are named are read, so that a
//! mistake is found before a socket is bound.

mod node;
mod parse;

use std::path::Path;

use serde::Serialize;

use crate::config::{ConfigError, NodeConfig, RelayConfig, Secret, Sources};

pub use node::{LimitSettings, LogFormat, LogSettings, NodeKind, NodeSettings, TlsSettings};
pub use parse::{HostPort, read_secret};

/// Everything a relay needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What relay and origin share.
    pub node: NodeSettings,
    /// Where the origin is.
    pub origin: HostPort,
    /// The relay's token; absent in development mode when the directory's own is meant.
    pub token: Option<Secret>,
    /// The level that the operator wants; the planner chooses if absent.
    pub level: Option<u8>,
}

impl Settings {
    /// Reads file, environment and flags and validates them.
    ///
    /// # Errors
    /// The first mistake, with its key, value and place.
    pub fn load(file: Option<&Path>, flags: impl Serialize) -> Result<Self, ConfigError> {
        let sources = Sources::new(file, flags)?;
        let (node, relay) = sources.read::<NodeConfig, RelayConfig>()?;
        Self::validate(&sources, &node, relay)
    }

    fn validate(
        sources: &Sources,
        node: &NodeConfig,
        relay: RelayConfig,
    ) -> Result<Self, ConfigError> {
        let node = NodeSettings::validate(sources, node, NodeKind::Relay)?;
        let Some(origin) = &relay.origin else {
            let problem = "is missing; write host:port of the origin, or give --origin";
            return Err(sources.wrong("origin", problem));
        };
        let origin = HostPort::parse(origin).map_err(|e| sources.wrong("origin", e))?;
        let token = match (relay.token, &relay.token_file) {
            (Some(_), Some(_)) => {
                let problem = "is given beside token; keep one of the two";
                return Err(sources.wrong("token_file", problem));
            }
            (Some(token), None) => Some(token),
            (None, Some(file)) => {
                Some(read_secret(file).map_err(|e| sources.wrong("token_file", e))?)
            }
            (None, None) => None,
        };
        if let Some(token) = &token {
            let len = token.expose().len();
            if len == 0 || len > stentor_proto::limits::TOKEN_BYTES {
                let problem = format!("is not a token: it has {len} bytes");
                return Err(sources.wrong("token", problem));
            }
        } else if !node.tls.is_dev() {
            let problem = "is missing; ask the origin's operator for one \
                (stentor-origin token --role relay) and name its file";
            return Err(sources.wrong("token_file", problem));
        }
        if let Some(level) = relay.level
            && !(1..=stentor_proto::limits::LEVELS).contains(&level)
        {
            let problem = format!("must be 1 to {}", stentor_proto::limits::LEVELS);
            return Err(sources.wrong("level", problem));
        }
        Ok(Self { node, origin, token, level: relay.level })
    }

    /// What is in force, for people: no secret is in it.
    #[must_use]
    pub fn summary(&self) -> String {
        let level =
            self.level.map_or("as the origin decides".to_owned(), |level| level.to_string());
        let token = self.token.as_ref().map_or("the development directory's", |_| "***");
        let node = self.node.summary();
        format!("{node}\n  origin     {}\n  level      {level}\n  token      {token}", self.origin)
    }
}
