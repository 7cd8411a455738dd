//! Batched receiving: up to [`PACKET_BATCH`] packets in one `recvmmsg`, with what the kernel knows
//! about each.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use stentor_proto::limits::PACKET_BATCH;

use super::address::{RawAddress, canonical};

/// One packet as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The UDP payload.
    pub bytes: &'a [u8],
    /// Who sent it; a v4-mapped address is given as IPv4.
    pub peer: SocketAddr,
    /// The local address that it was sent to, where the kernel says so; canonical as `peer`.
    pub local_ip: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// When the kernel received it (ns of the realtime clock), or 0 where it does not say so.
    pub received_ns: u64,
}

/// Buffers for one `recvmmsg`, reused from call to call.
pub struct ReceiveBatch {
    buffers: Box<[u8]>,
    addresses: Box<[RawAddress]>,
    controls: Box<[Control]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in `iovecs` and `headers` are written and used within `receive` alone and
// point into this object's own buffers (`arrival` takes only lengths and flags from the headers).
unsafe impl Send for ReceiveBatch {}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// Fresh buffers.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: `iovec` and `mmsghdr` are pointers and integers; all zeroes is valid for both.
        let (iovec, header): (libc::iovec, libc::mmsghdr) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        Self {
            buffers: vec![0; PACKET_BATCH * BUFFER_BYTES].into_boxed_slice(),
            addresses: vec![RawAddress::EMPTY; PACKET_BATCH].into_boxed_slice(),
            controls: vec![Control([0; CONTROL_SPACE]); PACKET_BATCH].into_boxed_slice(),
            iovecs: vec![iovec; PACKET_BATCH].into_boxed_slice(),
            headers: vec![header; PACKET_BATCH].into_boxed_slice(),
        }
    }

    /// Takes what waits in the socket, `most` packets at most; 0 when nothing does.
    ///
    /// # Errors
    /// What `recvmmsg` reports, except for an empty socket and interruptions.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let count = most.min(PACKET_BATCH);
        self.prepare(count);
        loop {
            // SAFETY: the first `count` headers were just pointed at buffers of this object, none of
            // which is touched until the call returns; no timeout is passed.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                )
            };
            if let Ok(received) = usize::try_from(received) {
                return Ok(received);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(error),
            }
        }
    }

    /// Packet `index` of the last [`receive`](Self::receive); `None` if the kernel cut it short or
    /// named no IP address as its sender.
    ///
    /// # Panics
    /// When `index` is not under what `receive` returned last.
    #[must_use]
    pub fn arrival(&self, index: usize) -> Option<Arrival<'_>> {
        let header = &self.headers[index];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let start = index * BUFFER_BYTES;
        let length = (header.msg_len as usize).min(BUFFER_BYTES);
        let mut arrival = Arrival {
            bytes: &self.buffers[start..start + length],
            peer: self.addresses[index].read()?,
            local_ip: None,
            ecn: 0,
            received_ns: 0,
        };
        let controls = (header.msg_hdr.msg_controllen as usize).min(CONTROL_SPACE);
        read_controls(&self.controls[index].0[..controls], &mut arrival);
        Some(arrival)
    }

    fn prepare(&mut self, count: usize) {
        for (index, buffer) in self.buffers.chunks_exact_mut(BUFFER_BYTES).take(count).enumerate() {
            self.iovecs[index] =
                libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER_BYTES };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.addresses[index]).cast();
            header.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
            header.msg_iov = ptr::from_mut(&mut self.iovecs[index]);
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_SPACE as _;
            header.msg_flags = 0;
        }
    }
}

/// Reads the control messages that the kernel wrote, by their documented layout: a header of length,
/// level and kind, then data, each message padded to the size of a word.
fn read_controls(mut rest: &[u8], arrival: &mut Arrival<'_>) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    while let Some(header) = read::<libc::cmsghdr>(rest) {
        let length = header.cmsg_len as usize;
        if length < HEADER || length > rest.len() {
            return;
        }
        let data = &rest[HEADER..length];
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                arrival.ecn = data.first().map_or(0, |tos| tos & 3);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                arrival.ecn = read::<libc::c_int>(data).map_or(0, |class| (class & 3) as u8);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                arrival.local_ip = read::<libc::in_pktinfo>(data)
                    .map(|info| IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                arrival.local_ip = read::<libc::in6_pktinfo>(data)
                    .map(|info| canonical(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                arrival.received_ns = read::<libc::timespec>(data).map_or(0, |time| {
                    (time.tv_sec as u64)
                        .wrapping_mul(1_000_000_000)
                        .wrapping_add(time.tv_nsec as u64)
                });
            }
            _ => {}
        }
        let padded = length.next_multiple_of(size_of::<usize>());
        rest = rest.get(padded..).unwrap_or_default();
    }
}

/// A kernel structure of plain integers from the front of `bytes`, if they are long enough.
fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    (bytes.len() >= size_of::<T>()).then(|| {
        // SAFETY: the length is checked, the read is unaligned, and `Plain` types are valid for
        // every bit pattern.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    })
}

/// Structures of integers only.
///
/// # Safety
/// Every bit pattern is a valid value.
unsafe trait Plain: Copy {}
// SAFETY: integers and structures of integers.
unsafe impl Plain for libc::cmsghdr {}
// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: a structure of integers.
unsafe impl Plain for libc::in_pktinfo {}
// SAFETY: a structure of integers.
unsafe impl Plain for libc::in6_pktinfo {}
// SAFETY: a structure of integers.
unsafe impl Plain for libc::timespec {}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_SPACE]);

/// Bytes of one packet at most: what a 1500-byte link carries, rounded up to cache lines.
const BUFFER_BYTES: usize = 1_536;
/// Bytes for one packet's control messages: ECN (24 each for both families), local address (28 to
/// 40), time (32).
const CONTROL_SPACE: usize = 192;
