//! Names of parents to addresses, away from the control thread, which must not wait.

use std::net::{SocketAddr, ToSocketAddrs};

use crossbeam_channel::{Receiver, Sender, bounded};
use stentor_proto::limits;
use stentor_proto::node::LinkId;

use crate::quic::sys::Waker;

/// An answer.
pub(super) struct Resolved {
    pub(super) link: LinkId,
    /// The host part, which the certificate must name.
    pub(super) host: String,
    pub(super) address: Result<SocketAddr, String>,
}

/// Resolves `host:port`; at most one request for each uplink is under way.
pub(super) struct Resolver {
    answers: Receiver<Resolved>,
    sender: Sender<Resolved>,
    waker: Waker,
}

impl Resolver {
    pub(super) fn new(waker: Waker) -> Self {
        let (sender, answers) = bounded(limits::UPLINKS * 4);
        Self { answers, sender, waker }
    }

    /// Resolves at once what needs no look-up; else on a thread that ends with its answer.
    pub(super) fn resolve(&self, link: LinkId, address: String) {
        let host = host_of(&address).to_owned();
        if let Ok(address) = address.parse::<SocketAddr>() {
            self.answer(Resolved { link, host, address: Ok(address) });
            return;
        }
        let (sender, waker) = (self.sender.clone(), self.waker.clone());
        let look_up = move || {
            let found = address.to_socket_addrs().map_err(|e| format!("{address}: {e}"));
            let found = found.and_then(|mut found| {
                found.next().ok_or_else(|| format!("{address}: the name has no address"))
            });
            // A full queue means that nobody waits for the answer: the uplink is called again.
            let _ = sender.try_send(Resolved { link, host, address: found });
            waker.wake();
        };
        let spawned = std::thread::Builder::new().name("resolve".into()).spawn(look_up);
        if let Err(error) = spawned {
            let host = String::new();
            self.answer(Resolved { link, host, address: Err(error.to_string()) });
        }
    }

    pub(super) fn poll(&self) -> Option<Resolved> {
        self.answers.try_recv().ok()
    }

    fn answer(&self, resolved: Resolved) {
        // As above: an answer that does not fit is one that nobody waits for.
        let _ = self.sender.try_send(resolved);
    }
}

/// The host part of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_the_certificate_names() {
        assert_eq!(host_of("relay.example:4433"), "relay.example");
        assert_eq!(host_of("127.0.0.1:4433"), "127.0.0.1");
        assert_eq!(host_of("[::1]:4433"), "::1");
    }
}
