//! Who was a host or co-host of a room: a co-host does nothing to them, whether they are on stage or
//! not, nor by a token or an address of theirs.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::limits;
use crate::revoked::{Bearer, network};
use crate::wire::Role;

/// Whether a role is one that a co-host leaves alone.
pub(super) const fn is_host(role: Role) -> bool {
    matches!(role, Role::Host | Role::CoHost)
}

/// The hosts and co-hosts who were on a room's stage; at most [`limits::HOSTS_PER_ROOM`].
#[derive(Debug, Default)]
pub(super) struct Hosts {
    seen: BTreeMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    role: Role,
    /// Names of tokens shown, and networks come from: the last few of each.
    tokens: VecDeque<String>,
    networks: VecDeque<IpAddr>,
}

impl Hosts {
    /// Somebody has come on stage.
    pub(super) fn saw(&mut self, bearer: Bearer<'_>) {
        let known = self.seen.contains_key(bearer.identity);
        if !is_host(bearer.role) || (!known && self.seen.len() >= limits::HOSTS_PER_ROOM) {
            return;
        }
        let new = || Host { role: bearer.role, tokens: VecDeque::new(), networks: VecDeque::new() };
        let host = self.seen.entry(bearer.identity.to_owned()).or_insert_with(new);
        if bearer.role == Role::Host {
            host.role = Role::Host;
        }
        keep(&mut host.tokens, bearer.jti.map(str::to_owned));
        keep(&mut host.networks, bearer.address.map(network));
    }

    /// Somebody is one no longer: a host has decided so.
    pub(super) fn forget(&mut self, identity: &str) {
        self.seen.remove(identity);
    }

    pub(super) fn role(&self, identity: &str) -> Option<Role> {
        self.seen.get(identity).map(|host| host.role)
    }

    /// Whose token it is.
    pub(super) fn of_token(&self, jti: &str) -> Option<Role> {
        let own = |host: &&Host| host.tokens.iter().any(|token| token == jti);
        self.seen.values().find(own).map(|host| host.role)
    }

    /// Who comes from there.
    pub(super) fn at(&self, address: IpAddr) -> Option<Role> {
        let here = |host: &&Host| host.networks.contains(&network(address));
        self.seen.values().find(here).map(|host| host.role)
    }
}

/// Notes something behind the last few.
fn keep<T: PartialEq>(list: &mut VecDeque<T>, new: Option<T>) {
    let Some(new) = new.filter(|new| !list.contains(new)) else { return };
    if list.len() >= limits::HOST_TRACES {
        list.pop_front();
    }
    list.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer<'a>(identity: &'a str, jti: &'a str, role: Role) -> Bearer<'a> {
        let address = Some("2001:db8::7".parse().unwrap());
        Bearer { identity, minted: 1, jti: Some(jti), address, role }
    }

    #[test]
    fn hosts_are_known_by_name_token_and_network_until_a_host_says_otherwise() {
        let mut hosts = Hosts::default();
        hosts.saw(bearer("bo", "t0", Role::Speaker));
        assert_eq!(hosts.role("bo"), None);
        hosts.saw(bearer("ann", "t1", Role::CoHost));
        hosts.saw(bearer("ann", "t2", Role::Host));
        hosts.saw(bearer("ann", "t3", Role::CoHost));
        assert_eq!(hosts.role("ann"), Some(Role::Host));
        assert_eq!(hosts.of_token("t1"), Some(Role::Host));
        assert_eq!(hosts.at("2001:db8::99".parse().unwrap()), Some(Role::Host));
        assert_eq!((hosts.of_token("t0"), hosts.at("192.0.2.1".parse().unwrap())), (None, None));
        hosts.forget("ann");
        assert_eq!((hosts.role("ann"), hosts.of_token("t2")), (None, None));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hosts = Hosts::default();
        for n in 0..1_000 {
            hosts.saw(bearer(&format!("h{n}"), "t", Role::CoHost));
            hosts.saw(bearer("h0", &n.to_string(), Role::CoHost));
        }
        assert_eq!(hosts.seen.len(), limits::HOSTS_PER_ROOM);
        assert_eq!(hosts.seen["h0"].tokens.len(), limits::HOST_TRACES);
    }
}
