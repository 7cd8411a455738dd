//! UDP sockets as the driver wants them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6, or both where the socket is dual-stack: IPv4 addresses are then mapped.
    V6,
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug)]
pub struct BindOptions {
    /// Shares the port with other sockets of this user (`SO_REUSEPORT`): one socket per shard.
    pub reuse_port: bool,
    /// Receive buffer asked for (bytes); the kernel grants what its limit allows.
    pub receive_bytes: usize,
    /// Send buffer asked for (bytes); the kernel grants what its limit allows.
    pub send_bytes: usize,
}

impl Default for BindOptions {
    /// Buffers for a burst of 4,000 small packets (a packet of 136 bytes takes about 768 in the
    /// kernel).
    fn default() -> Self {
        Self { reuse_port: false, receive_bytes: 4 << 20, send_bytes: 4 << 20 }
    }
}

/// Binds a non-blocking UDP socket that reports for each packet its ECN bits, the local address it
/// was sent to and the kernel's receive time, and whose packets are never fragmented.
///
/// `[::]` takes IPv4 as well; on a host without IPv6 it falls back to `0.0.0.0`.
///
/// # Errors
/// When the address is taken or not this host's, or an option is refused.
pub fn bind(address: SocketAddr, options: BindOptions) -> io::Result<UdpSocket> {
    let fallback = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let socket = match open(address, options) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
            open(fallback, options)?
        }
        other => other?,
    };
    Ok(socket.into())
}

/// The family of a bound socket.
///
/// # Errors
/// When the kernel cannot tell the socket's address.
pub fn family(socket: &UdpSocket) -> io::Result<Family> {
    Ok(match socket.local_addr()? {
        SocketAddr::V4(_) => Family::V4,
        SocketAddr::V6(_) => Family::V6,
    })
}

/// Sets the ECN bits (RFC 3168) of every packet that is not marked otherwise.
///
/// # Errors
/// When the kernel refuses the option.
pub fn mark_ecn(socket: &UdpSocket, ecn: u8) -> io::Result<()> {
    let reference = SockRef::from(socket);
    reference.set_tos_v4(ecn.into())?;
    match family(socket)? {
        Family::V4 => Ok(()),
        Family::V6 => reference.set_tclass_v6(ecn.into()),
    }
}

fn open(address: SocketAddr, options: BindOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    let v6 = address.is_ipv6();
    if v6 {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    // The kernel caps both at its own limit without an error.
    socket.set_recv_buffer_size(options.receive_bytes)?;
    socket.set_send_buffer_size(options.send_bytes)?;
    // Beyond that limit only a privileged process may go; any other keeps what it was granted.
    let _ = set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, clamp(options.receive_bytes));
    let _ = set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, clamp(options.send_bytes));
    socket.set_recv_tos_v4(true)?;
    set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    if v6 {
        socket.set_recv_tclass_v6(true)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn clamp(bytes: usize) -> libc::c_int {
    libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
    )
}

fn set(socket: &Socket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one `c_int` from this stack, whose size it is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::fd::AsFd;
    use std::time::{Duration, SystemTime};

    use super::super::{Marks, ReceiveBatch, SendBatch, Waiter};
    use super::*;

    /// Sends three packets from a socket on `from` to one on `to` and checks what arrives.
    fn exchange(to: &str, from: &str, target: IpAddr) {
        let receiver = bind(to.parse().unwrap(), BindOptions::default()).unwrap();
        let sender = bind(from.parse().unwrap(), BindOptions::default()).unwrap();
        mark_ecn(&sender, 2).unwrap();
        let target = SocketAddr::new(target, receiver.local_addr().unwrap().port());
        let mut batch = SendBatch::new(family(&sender).unwrap(), 2);
        batch.push(target, b"marked by the socket");
        batch.slot().extend_from_slice(b"unmarked");
        batch.commit(target, Marks::default());
        batch.slot().extend_from_slice(b"from");
        let source = Some(target.ip());
        batch.commit(target, Marks { ecn: 3, source });
        let flushed = batch.flush(sender.as_fd());
        assert_eq!((flushed.sent, flushed.bytes, flushed.calls), (3, 32, 1));
        assert!(batch.is_empty());

        let mut waiter = Waiter::new().unwrap();
        let woken = waiter.wait(&[receiver.as_fd()], Some(Duration::from_secs(5))).unwrap();
        assert!(woken.input);
        let mut received = ReceiveBatch::new();
        assert_eq!(received.receive(receiver.as_fd(), 64).unwrap(), 3);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        for (index, (bytes, ecn)) in
            [("marked by the socket", 2), ("unmarked", 0), ("from", 3)].into_iter().enumerate()
        {
            let arrival = received.arrival(index).unwrap();
            assert_eq!(arrival.bytes, bytes.as_bytes());
            assert_eq!(arrival.ecn, ecn, "{bytes}");
            assert_eq!(arrival.local_ip, Some(target.ip()));
            assert_eq!(arrival.peer.port(), sender.local_addr().unwrap().port());
            assert_eq!(arrival.peer.is_ipv4(), target.is_ipv4());
            let age = now.as_nanos().abs_diff(u128::from(arrival.received_ns));
            assert!(age < 5_000_000_000, "kernel time is {age} ns off");
        }
        assert_eq!(received.receive(receiver.as_fd(), 64).unwrap(), 0);
    }

    #[test]
    fn packets_cross_with_their_marks() {
        let loopback = Ipv4Addr::LOCALHOST.into();
        exchange("0.0.0.0:0", "0.0.0.0:0", loopback);
        exchange("[::]:0", "[::]:0", loopback);
        exchange("[::]:0", "0.0.0.0:0", loopback);
        exchange("[::]:0", "[::]:0", Ipv6Addr::LOCALHOST.into());
    }

    #[test]
    fn a_refused_packet_costs_the_others_nothing() {
        let receiver = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
        let target = receiver.local_addr().unwrap();
        let mut batch = SendBatch::new(Family::V4, 0);
        batch.push(target, b"one");
        batch.push(target, &[0; 70_000]);
        batch.push(target, b"two");
        let flushed = batch.flush(receiver.as_fd());
        assert_eq!((flushed.sent, flushed.failed, flushed.would_block), (2, 1, 0));
    }
}
