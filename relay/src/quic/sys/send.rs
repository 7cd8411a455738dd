//! Batched sending: up to [`PACKET_BATCH`] packets to as many destinations in one `sendmmsg`.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use stentor_proto::limits::PACKET_BATCH;

use super::address::RawAddress;
use super::socket::Family;

/// What is to be marked on a packet beside its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The two ECN bits (RFC 3168): 0 none, 1 ECT(1), 2 ECT(0), 3 CE.
    pub ecn: u8,
    /// The local address to send from, where the routing table is not to choose.
    pub source: Option<IpAddr>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Packets that the kernel took.
    pub sent: usize,
    /// Bytes in those packets.
    pub bytes: usize,
    /// System calls spent on sending.
    pub calls: usize,
    /// Packets dropped because the socket's buffer stayed full.
    pub would_block: usize,
    /// Packets that the kernel refused (no route, forbidden, too long).
    pub failed: usize,
}

/// Packets gathered for one `sendmmsg`, in buffers that are reused from batch to batch.
///
/// Either [`push`](Self::push) a finished packet, or write into [`slot`](Self::slot) and
/// [`commit`](Self::commit); [`flush`](Self::flush) when [`is_full`](Self::is_full), and at the end.
pub struct SendBatch {
    family: Family,
    default_ecn: u8,
    len: usize,
    buffers: Vec<Vec<u8>>,
    addresses: Box<[RawAddress]>,
    lengths: Box<[libc::socklen_t]>,
    controls: Box<[Control]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in `iovecs` and `headers` are written and used within `flush` alone and
// point into this object's own buffers, so that moving it to another thread moves all they refer to.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// An empty batch for a socket of `family` whose own ECN mark is `default_ecn`.
    ///
    /// Packets that carry that mark need no control message.
    #[must_use]
    pub fn new(family: Family, default_ecn: u8) -> Self {
        // SAFETY: `iovec` and `mmsghdr` are pointers and integers; all zeroes is valid for both.
        let (iovec, header): (libc::iovec, libc::mmsghdr) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        Self {
            family,
            default_ecn,
            len: 0,
            buffers: (0..PACKET_BATCH).map(|_| Vec::with_capacity(BUFFER_BYTES)).collect(),
            addresses: vec![RawAddress::EMPTY; PACKET_BATCH].into_boxed_slice(),
            lengths: vec![0; PACKET_BATCH].into_boxed_slice(),
            controls: vec![Control::EMPTY; PACKET_BATCH].into_boxed_slice(),
            iovecs: vec![iovec; PACKET_BATCH].into_boxed_slice(),
            headers: vec![header; PACKET_BATCH].into_boxed_slice(),
        }
    }

    /// Packets in the batch.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the batch holds no packet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the batch must be flushed before the next packet.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == PACKET_BATCH
    }

    /// The next packet's buffer, empty. What is written counts only once it is committed.
    ///
    /// # Panics
    /// When the batch is full: the caller flushes first.
    #[inline]
    pub fn slot(&mut self) -> &mut Vec<u8> {
        let buffer = &mut self.buffers[self.len];
        buffer.clear();
        buffer
    }

    /// Adds what was written into [`slot`](Self::slot) to the batch.
    ///
    /// # Panics
    /// When the batch is full.
    #[inline]
    pub fn commit(&mut self, destination: SocketAddr, marks: Marks) {
        let index = self.len;
        self.lengths[index] = self.addresses[index].write(destination, self.family);
        let control = &mut self.controls[index];
        control.len = 0;
        if marks.ecn != self.default_ecn || marks.source.is_some() {
            control.write(destination, marks, self.default_ecn);
        }
        self.len = index + 1;
    }

    /// Copies a finished packet into the batch, unmarked beyond what the socket marks itself.
    ///
    /// # Panics
    /// When the batch is full.
    #[inline]
    pub fn push(&mut self, destination: SocketAddr, bytes: &[u8]) {
        self.slot().extend_from_slice(bytes);
        let marks = Marks { ecn: self.default_ecn, source: None };
        self.commit(destination, marks);
    }

    /// Sends the batch and empties it.
    ///
    /// A full socket buffer is waited for once, shortly; what it does not take then is dropped: a
    /// datagram that is late is a datagram that is lost. A packet that the kernel refuses is
    /// skipped, so that one unreachable peer costs nobody else theirs.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Flushed {
        let mut flushed = Flushed::default();
        let count = mem::take(&mut self.len);
        if count == 0 {
            return flushed;
        }
        self.prepare(count);
        let mut next = 0;
        let mut waited = false;
        while next < count {
            flushed.calls += 1;
            match self.send(socket, next, count) {
                Ok(sent) => {
                    flushed.sent += sent;
                    flushed.bytes +=
                        self.buffers[next..next + sent].iter().map(Vec::len).sum::<usize>();
                    next += sent;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if !waited => {
                        waited = true;
                        wait_writable(socket);
                    }
                    io::ErrorKind::WouldBlock => {
                        flushed.would_block = count - next;
                        break;
                    }
                    _ => {
                        flushed.failed += 1;
                        next += 1;
                    }
                },
            }
        }
        flushed
    }

    /// Points the kernel's structures at the first `count` packets.
    fn prepare(&mut self, count: usize) {
        for index in 0..count {
            let buffer = &mut self.buffers[index];
            self.iovecs[index] =
                libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let control = &mut self.controls[index];
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.addresses[index]).cast();
            header.msg_namelen = self.lengths[index];
            header.msg_iov = ptr::from_mut(&mut self.iovecs[index]);
            header.msg_iovlen = 1;
            header.msg_control = match control.len {
                0 => ptr::null_mut(),
                _ => control.bytes.as_mut_ptr().cast(),
            };
            header.msg_controllen = control.len as _;
        }
    }

    fn send(&mut self, socket: BorrowedFd<'_>, from: usize, to: usize) -> io::Result<usize> {
        let headers = &mut self.headers[from..to];
        // SAFETY: `headers` holds `to - from` messages which `prepare` pointed at buffers of this
        // object, none of which is touched until the call returns.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Waits at most [`WRITABLE_NS`] for room in the socket's buffer.
fn wait_writable(socket: BorrowedFd<'_>) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: WRITABLE_NS };
    // SAFETY: one `pollfd` and one `timespec` on this stack, and no signal mask. Whatever comes of
    // it, the caller tries once more.
    unsafe {
        libc::ppoll(&raw mut poll, 1, &raw const timeout, ptr::null());
    }
}

/// A packet's control messages: at most an ECN mark (24 bytes) and a source address (40 bytes).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control {
    bytes: [u8; CONTROL_SPACE],
    len: usize,
}

impl Control {
    const EMPTY: Self = Self { bytes: [0; CONTROL_SPACE], len: 0 };

    fn write(&mut self, destination: SocketAddr, marks: Marks, default_ecn: u8) {
        // An IPv6 socket sends to an IPv4 destination by the IPv4 code, which reads IPv4 messages.
        let v4 = destination.is_ipv4();
        if marks.ecn != default_ecn {
            let (level, kind) = match v4 {
                true => (libc::IPPROTO_IP, libc::IP_TOS),
                false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            };
            self.append(level, kind, libc::c_int::from(marks.ecn));
        }
        match marks.source {
            Some(IpAddr::V4(ip)) if v4 => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.append(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(ip)) if !v4 => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: 0,
                };
                self.append(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            _ => {}
        }
    }

    fn append<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        // SAFETY: `CMSG_SPACE` and `CMSG_LEN` only compute sizes.
        let (space, length) = unsafe {
            let size = size_of::<T>() as libc::c_uint;
            (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size))
        };
        assert!(
            self.len + space <= CONTROL_SPACE,
            "a packet carries one ECN mark and one source address at most"
        );
        let start = self.bytes[self.len..].as_mut_ptr();
        // SAFETY: `start..start + space` lies within `bytes` (asserted), `bytes` is aligned to 8 and
        // every message's space is a multiple of 8, so the header and its data are in bounds and the
        // header is aligned; the data is written unaligned.
        unsafe {
            let header = start.cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.len += space;
    }
}

/// Bytes reserved for one packet: what a 1500-byte link carries.
const BUFFER_BYTES: usize = 1_500;
/// Bytes of control messages for one packet at most.
const CONTROL_SPACE: usize = 64;
/// How long a full socket buffer is waited for (ns): 64 packets leave a 1 Gbit/s link in 60 µs.
const WRITABLE_NS: libc::c_long = 200_000;
