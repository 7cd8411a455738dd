//! Texts of the configuration as types, each error saying what to write instead.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use stentor_proto::limits;

use crate::config::Secret;

/// A host (name or address) and a port: where another node is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, with brackets around an IPv6 address.
    ///
    /// # Errors
    /// What is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "write host:port, for example relay.example:4433 or [2001:db8::1]:4433";
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("has no port; {help}"))?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("has no port from 1 to 65535; {help}"))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => Ipv6Addr::from_str(inner)
                .map_err(|_| format!("has no IPv6 address in its brackets; {help}"))?
                .to_string(),
            None => host.to_owned(),
        };
        let name_ok = host.parse::<Ipv6Addr>().is_ok() && text.starts_with('[')
            || host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if host.is_empty() || host.len() > 253 || !name_ok {
            return Err(format!("has no valid host; {help}"));
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().to_canonical().to_string(), port: addr.port() }
    }
}

/// Reads a file that holds one secret, white space around it ignored.
///
/// # Errors
/// Why it cannot be read; nothing of its content.
pub fn read_secret(file: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(Secret::new(text.trim().to_owned()))
}

pub(super) fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "is not an address with a port; write for example [::]:4433 or 127.0.0.1:4433".to_owned()
    })
}

/// A name of a node or region: short, without white space or control characters.
pub(super) fn name(text: &str) -> Result<String, String> {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if text.is_empty() || text.len() > limits::NAME_BYTES || text.contains(odd) {
        return Err(format!(
            "is not a name; write 1 to {} bytes without white space",
            limits::NAME_BYTES
        ));
    }
    Ok(text.to_owned())
}

/// A number between bounds, with both named in the error.
pub(super) fn within<T: PartialOrd + fmt::Display>(
    value: T,
    least: T,
    most: T,
) -> Result<T, String> {
    if value < least || value > most {
        return Err(format!("must be {least} to {most}"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in [
            ("a.example:4433", "a.example", 4433),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:4433", "::1", 4433),
        ] {
            let parsed = HostPort::parse(text).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), text);
        }
        for bad in ["", "a", "a:", "a:0", "a:70000", ":1", "::1:4433", "[x]:1", "a b:1"] {
            assert!(HostPort::parse(bad).is_err(), "{bad}");
        }
    }
}
