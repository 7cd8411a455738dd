//! Socket addresses as the kernel lays them out.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::socket::Family;

/// A socket address in the kernel's layout, large enough for both families.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    pub(super) const EMPTY: Self = Self {
        // SAFETY: `sockaddr_in6` is plain integers, for which all zeroes is a valid value.
        v6: unsafe { mem::zeroed() },
    };

    /// Writes `address` for a socket of `family`; an IPv4 address is mapped on an IPv6 socket.
    ///
    /// Returns the length that the kernel is to be told.
    #[inline]
    pub(super) fn write(&mut self, address: SocketAddr, family: Family) -> libc::socklen_t {
        match (address, family) {
            (SocketAddr::V4(v4), Family::V4) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            (SocketAddr::V4(v4), Family::V6) => {
                self.write_v6(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)
            }
            (SocketAddr::V6(v6), _) => {
                self.write_v6(*v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id())
            }
        }
    }

    #[inline]
    fn write_v6(&mut self, ip: Ipv6Addr, port: u16, flow: u32, scope: u32) -> libc::socklen_t {
        self.v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port.to_be(),
            sin6_flowinfo: flow,
            sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
            sin6_scope_id: scope,
        };
        size_of::<libc::sockaddr_in6>() as libc::socklen_t
    }

    /// The address that the kernel wrote, v4-mapped ones as plain IPv4.
    #[inline]
    pub(super) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: both variants begin with the family as a `u16`, and every bit pattern of both
        // variants is a valid value, so each may be read whatever was written.
        let (v4, v6) = unsafe { (&self.v4, &self.v6) };
        match i32::from(v4.sin_family) {
            libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(
                Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()),
                u16::from_be(v4.sin_port),
            ))),
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
                    None => SocketAddr::V6(SocketAddrV6::new(
                        ip,
                        port,
                        v6.sin6_flowinfo,
                        v6.sin6_scope_id,
                    )),
                })
            }
            _ => None,
        }
    }
}

/// An address from a packet-info message, v4-mapped ones as plain IPv4.
#[inline]
pub(super) fn canonical(ip: Ipv6Addr) -> IpAddr {
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_layout() {
        for (text, family) in [
            ("127.0.0.1:4433", Family::V4),
            ("127.0.0.1:4433", Family::V6),
            ("[::1]:4433", Family::V6),
            ("[fe80::1%7]:1", Family::V6),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let mut raw = RawAddress::EMPTY;
            raw.write(address, family);
            assert_eq!(raw.read(), Some(address));
        }
        assert_eq!(RawAddress::EMPTY.read(), None);
    }
}
