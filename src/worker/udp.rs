//! UDP in batches (Linux): many datagrams per system call, in both directions.
//!
//! Driven by the worker's loop. Receiving uses `recvmmsg` into a fixed arena. Sending uses `sendmmsg`, and joins runs
//! of datagrams to one destination into one message that the kernel or the network card cuts again (UDP GSO,
//! `UDP_SEGMENT`); the kernel gathers them from their own buffers, so nothing is copied here. Knows nothing of what
//! is in a datagram.
//!
//! The only module with `unsafe`: the calls themselves, and reading the addresses they fill in.

use crate::base::Class;
use libc::{c_int, c_void, iovec, mmsghdr, sa_family_t, sockaddr_in, sockaddr_in6};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

/// A bound, non-blocking socket.
#[derive(Debug)]
pub struct UdpSocket {
    io: mio::net::UdpSocket,
    local: SocketAddr,
}

/// Asked of the kernel, which may give less. A smaller receive buffer loses packets when the loop is late.
const KERNEL_BUFFER: usize = 4 << 20;

impl UdpSocket {
    /// Binds for this process alone; an IPv6 socket takes no IPv4. Port 0 picks a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Best effort: the kernel caps them by net.core.rmem_max and wmem_max.
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let io = mio::net::UdpSocket::from_std(socket.into());
        let local = io.local_addr()?;
        Ok(UdpSocket { io, local })
    }

    /// Address and port it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// For registration with a `mio::Poll`.
    pub fn source(&mut self) -> &mut mio::net::UdpSocket {
        &mut self.io
    }

    /// What the kernel granted: receive and send buffer in bytes.
    pub fn kernel_buffers(&self) -> io::Result<(usize, usize)> {
        let socket = socket2::SockRef::from(&self.io);
        Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?))
    }
}

/// Datagrams per batch, and messages per sending call.
const BATCH: usize = 64;
/// Room per datagram. More than [`DATAGRAM_MAX`], so that what is too large is seen to be.
const SLOT: usize = 1536;
/// Larger ones are never media, and some would break what parses them.
const DATAGRAM_MAX: usize = 1500;

/// An arena that is filled with received datagrams, again and again.
pub struct RecvBatch {
    arena: Box<[u8]>,
    names: Box<[RawAddress]>,
    received: Vec<Received>,
    dropped: RecvDropped,
}

#[derive(Debug, Clone, Copy)]
struct Received {
    source: SocketAddr,
    slot: usize,
    length: usize,
}

/// Datagrams taken from the kernel and not given on, since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecvDropped {
    /// Larger than 1500 bytes.
    pub oversize: u64,
    /// Without content, or without a usable source address.
    pub empty: u64,
}

impl RecvBatch {
    pub fn new() -> Self {
        RecvBatch {
            arena: vec![0; BATCH * SLOT].into(),
            names: vec![RawAddress::EMPTY; BATCH].into(),
            received: Vec::with_capacity(BATCH),
            dropped: RecvDropped::default(),
        }
    }

    /// Replaces the content with what the socket has, at most 64 datagrams, and returns how many were taken from it
    /// (some may have been dropped). 0: nothing is left; less than 64: nothing was left a moment ago.
    pub fn recv(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.received.clear();
        let mut slots = [EMPTY_IOVEC; BATCH];
        let mut headers = [EMPTY_HEADER; BATCH];
        let parts = self.arena.chunks_exact_mut(SLOT).zip(self.names.iter_mut());
        for ((header, slot), (bytes, name)) in headers.iter_mut().zip(&mut slots).zip(parts) {
            *slot = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: SLOT };
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<RawAddress>() as u32;
            header.msg_hdr.msg_iov = slot;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = loop {
            // SAFETY: all BATCH headers are initialised, and point to a name and to one iovec (each living until the
            // end of this function or longer, none used twice) whose base is SLOT writable bytes of the arena.
            // Nothing else refers to them during the call.
            let count = unsafe {
                let flags = libc::MSG_DONTWAIT;
                libc::recvmmsg(
                    socket.io.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH as u32,
                    flags as _,
                    std::ptr::null_mut(),
                )
            };
            if count >= 0 {
                break count as usize;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => break 0,
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        };
        for (slot, (header, name)) in headers.iter().zip(&self.names).take(count).enumerate() {
            let length = header.msg_len as usize;
            let is_truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            match name.to_socket_addr(header.msg_hdr.msg_namelen) {
                _ if is_truncated || length > DATAGRAM_MAX => self.dropped.oversize += 1,
                Some(source) if length > 0 => self.received.push(Received { source, slot, length }),
                _ => self.dropped.empty += 1,
            }
        }
        Ok(count)
    }

    /// Source and content of what the last [`RecvBatch::recv`] took and did not drop, in order.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.received.iter().map(|received| {
            let begin = received.slot * SLOT;
            (received.source, &self.arena[begin..begin + received.length])
        })
    }

    pub fn dropped(&self) -> RecvDropped {
        self.dropped
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        RecvBatch::new()
    }
}

/// What [`SendBatch::flush`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// The queue is empty.
    Done,
    /// The kernel's buffer is full: flush again when the socket is writable.
    Blocked,
}

/// Since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendStats {
    /// Datagrams given to the kernel.
    pub sent: u64,
    /// Messages they went in; fewer is cheaper.
    pub messages: u64,
    /// Datagrams dropped because the queue was full, by class.
    pub dropped_control: u64,
    pub dropped_audio: u64,
    pub dropped_video: u64,
    /// Datagrams that the kernel refused (no route, not permitted, too large).
    pub failed: u64,
}

impl SendStats {
    /// All that were given up.
    pub fn dropped(&self) -> u64 {
        self.dropped_control + self.dropped_audio + self.dropped_video + self.failed
    }
}

/// Bounds of a [`SendBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimits {
    pub datagrams: usize,
    pub bytes: usize,
}

impl Default for SendLimits {
    /// About a tenth of a second at 40,000 packets per second: what is older is not worth sending.
    fn default() -> Self {
        SendLimits { datagrams: 4096, bytes: 4 << 20 }
    }
}

/// The datagrams that wait to be sent on one socket, in order.
///
/// When full, the oldest video goes first, then the oldest audio, then the oldest control; a datagram is never kept
/// at the cost of one that is worth more.
#[derive(Debug)]
pub struct SendBatch {
    limits: SendLimits,
    /// Dropped ones stay as holes until they come to the front.
    queue: VecDeque<Option<Transmit>>,
    /// Without holes.
    datagrams: usize,
    bytes: usize,
    /// Per class, an index into `queue` before which there is none of it.
    oldest: [usize; 3],
    /// The kernel has taken a joined message: later refusals are about that message, not about the kernel or the card.
    gso_has_worked: bool,
    gso_is_on: bool,
    /// So many datagrams at the front (holes included) are not joined.
    plain: usize,
    stats: SendStats,
}

#[derive(Debug)]
struct Transmit {
    destination: SocketAddr,
    class: Class,
    data: Vec<u8>,
}

/// The kernel takes at most 64 (before 6.9) and what fits an IP packet.
const SEGMENTS_MAX: usize = 64;
const JOINED_BYTES_MAX: usize = 65_000;
/// Larger ones would not fit an Ethernet frame; the kernel refuses to cut into those.
const SEGMENT_MAX: usize = 1452;
/// Buffers per call; bounds the stack it takes (16 bytes each).
const IOVECS: usize = 512;

impl SendBatch {
    pub fn new(limits: SendLimits) -> Self {
        SendBatch {
            limits,
            queue: VecDeque::new(),
            datagrams: 0,
            bytes: 0,
            oldest: [0; 3],
            gso_has_worked: false,
            gso_is_on: true,
            plain: 0,
            stats: SendStats::default(),
        }
    }

    /// Queues a datagram; an empty one is ignored. Datagrams of equal size to one destination, pushed one after the
    /// other, are the cheapest to send.
    pub fn push(&mut self, destination: SocketAddr, class: Class, data: Vec<u8>) {
        if data.is_empty() {
            return;
        }
        if data.len() > self.limits.bytes {
            self.count_dropped(class);
            return;
        }
        while self.datagrams + 1 > self.limits.datagrams || self.bytes + data.len() > self.limits.bytes {
            if !self.drop_oldest_up_to(class) {
                self.count_dropped(class);
                return;
            }
        }
        // Behind a blocked front holes could pile up for ever.
        if self.queue.len() > 2 * self.limits.datagrams {
            self.plain = self.queue.iter().take(self.plain).flatten().count();
            self.queue.retain(Option::is_some);
            self.oldest = [0; 3];
        }
        self.datagrams += 1;
        self.bytes += data.len();
        self.queue.push_back(Some(Transmit { destination, class, data }));
    }

    /// Sends what the kernel takes. A message that it refuses is dropped and counted; an error is returned only when
    /// the socket itself is unusable.
    pub fn flush(&mut self, socket: &UdpSocket) -> io::Result<Flush> {
        let fd = socket.io.as_raw_fd();
        self.flush_with(|headers| {
            // SAFETY: `flush_with` initialised every header of the slice, and what they point to (name, iovecs with
            // their buffers, control data) lives and is not written to until this returns.
            let count = unsafe {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags as _)
            };
            if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
        })
    }

    /// Datagrams that wait.
    pub fn len(&self) -> usize {
        self.datagrams
    }

    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    pub fn stats(&self) -> SendStats {
        self.stats
    }

    /// Whether runs are joined. Off for good once kernel or card have shown that they cannot.
    pub fn gso_is_on(&self) -> bool {
        self.gso_is_on
    }

    /// `send` is `sendmmsg`: how many messages were taken, or why not even the first was.
    fn flush_with(&mut self, mut send: impl FnMut(&mut [mmsghdr]) -> io::Result<usize>) -> io::Result<Flush> {
        loop {
            self.pop_holes();
            if self.queue.is_empty() {
                return Ok(Flush::Done);
            }
            let mut runs = [Run::default(); BATCH];
            let (count, result) = self.send_front(&mut runs, &mut send);
            let runs = &runs[..count];
            let error = match result {
                Ok(0) => return Ok(Flush::Blocked),
                Ok(taken) => {
                    for run in runs.iter().take(taken) {
                        self.stats.sent += run.datagrams as u64;
                        self.stats.messages += 1;
                        self.gso_has_worked |= run.is_joined();
                        self.pop(run.entries);
                    }
                    continue;
                }
                Err(error) => error,
            };
            let first = runs[0];
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(Flush::Blocked),
                Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) | None => return Err(error),
                Some(code @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE)) if first.is_joined() => {
                    // EIO: the card cannot checksum the segments. EINVAL: the kernel is too old, or, when joined
                    // messages have gone out before, the path of this destination takes only smaller packets.
                    if code == libc::EIO || (code == libc::EINVAL && !self.gso_has_worked) {
                        self.gso_is_on = false;
                    }
                    self.plain = first.entries;
                }
                Some(_) => {
                    self.stats.failed += first.datagrams as u64;
                    self.pop(first.entries);
                }
            }
        }
    }

    /// Describes the front of the queue in at most 64 messages and gives it to `send`; returns the number of messages
    /// described in `runs`.
    fn send_front(
        &self,
        runs: &mut [Run; BATCH],
        send: impl FnOnce(&mut [mmsghdr]) -> io::Result<usize>,
    ) -> (usize, io::Result<usize>) {
        let mut headers = [EMPTY_HEADER; BATCH];
        let mut iovecs = [EMPTY_IOVEC; IOVECS];
        let mut names = [RawAddress::EMPTY; BATCH];
        let mut controls = [SegmentControl::EMPTY; BATCH];
        let (mut count, mut entry, mut rest) = (0, 0, &mut iovecs[..]);
        let parts = headers.iter_mut().zip(&mut names).zip(&mut controls);
        for (((header, name), control), run) in parts.zip(runs.iter_mut()) {
            let found = self.run_at(entry, rest.len());
            let Some(first) = self.queue.get(entry).and_then(Option::as_ref).filter(|_| found.datagrams > 0) else {
                break;
            };
            let (here, after) = rest.split_at_mut(found.datagrams);
            rest = after;
            let transmits = self.queue.range(entry..entry + found.entries).flatten();
            for (slot, transmit) in here.iter_mut().zip(transmits) {
                // The kernel only reads what is sent.
                let base = transmit.data.as_ptr().cast_mut().cast();
                *slot = iovec { iov_base: base, iov_len: transmit.data.len() };
            }
            header.msg_hdr.msg_namelen = name.set(first.destination);
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_iov = here.as_mut_ptr();
            header.msg_hdr.msg_iovlen = here.len() as _;
            if found.is_joined() {
                *control = SegmentControl::of(first.data.len() as u16);
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                header.msg_hdr.msg_controllen = mem::size_of::<SegmentControl>() as _;
            }
            // Holes after a run belong to it, so that the next begins with a datagram.
            let after = self.queue.range(entry + found.entries..);
            let holes = after.take_while(|transmit| transmit.is_none()).count();
            *run = Run { entries: found.entries + holes, ..found };
            entry += run.entries;
            count += 1;
        }
        (count, send(&mut headers[..count]))
    }

    /// The datagrams from `begin` that go out as one message, at most `room` of them.
    fn run_at(&self, begin: usize, room: usize) -> Run {
        let mut run = Run::default();
        let Some(first) = self.queue.get(begin).and_then(Option::as_ref).filter(|_| room > 0) else { return run };
        let size = first.data.len();
        let may_join = self.gso_is_on && begin >= self.plain && size <= SEGMENT_MAX;
        let most = if may_join { SEGMENTS_MAX.min(room).min(JOINED_BYTES_MAX / size) } else { 1 };
        for (offset, transmit) in self.queue.range(begin..).enumerate() {
            let Some(transmit) = transmit else { continue };
            let length = transmit.data.len();
            if run.datagrams == most || transmit.destination != first.destination || length > size {
                break;
            }
            run = Run { entries: offset + 1, datagrams: run.datagrams + 1 };
            // Only the last may be smaller.
            if length < size {
                break;
            }
        }
        run
    }

    fn pop(&mut self, entries: usize) {
        for transmit in self.queue.drain(..entries).flatten() {
            self.datagrams -= 1;
            self.bytes -= transmit.data.len();
        }
        self.plain = self.plain.saturating_sub(entries);
        self.oldest = self.oldest.map(|index| index.saturating_sub(entries));
    }

    fn pop_holes(&mut self) {
        let holes = self.queue.iter().take_while(|transmit| transmit.is_none()).count();
        self.pop(holes);
    }

    /// Drops the oldest datagram of the class worth least, if that is worth no more than `class`.
    fn drop_oldest_up_to(&mut self, class: Class) -> bool {
        for candidate in [Class::Video, Class::Audio, Class::Control] {
            if candidate < class {
                return false;
            }
            let from = self.oldest[candidate as usize];
            let is_candidate = |transmit: &Option<Transmit>| transmit.as_ref().is_some_and(|t| t.class == candidate);
            let found = self.queue.range(from.min(self.queue.len())..).position(is_candidate);
            self.oldest[candidate as usize] = found.map_or(self.queue.len(), |offset| from + offset + 1);
            if let Some(transmit) = found.and_then(|offset| self.queue.get_mut(from + offset)).and_then(Option::take) {
                self.datagrams -= 1;
                self.bytes -= transmit.data.len();
                self.count_dropped(candidate);
                return true;
            }
        }
        false
    }

    fn count_dropped(&mut self, class: Class) {
        match class {
            Class::Control => self.stats.dropped_control += 1,
            Class::Audio => self.stats.dropped_audio += 1,
            Class::Video => self.stats.dropped_video += 1,
        }
    }
}

/// A part of the queue that goes out as one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Run {
    /// In the queue, holes included.
    entries: usize,
    datagrams: usize,
}

impl Run {
    fn is_joined(&self) -> bool {
        self.datagrams > 1
    }
}

/// The control message that says where the kernel cuts: `struct cmsghdr` with a 16-bit length (udp(7), `UDP_SEGMENT`).
#[repr(C)]
#[derive(Clone, Copy)]
struct SegmentControl {
    header: libc::cmsghdr,
    size: u16,
}

impl SegmentControl {
    // SAFETY: plain integers, of which zero is a value.
    const EMPTY: SegmentControl = unsafe { mem::zeroed() };

    fn of(size: u16) -> Self {
        // Data follows the header directly, as the header is a multiple of its alignment; the padding at the end makes
        // the whole what CMSG_SPACE(2) is.
        let mut control = SegmentControl { size, ..SegmentControl::EMPTY };
        control.header.cmsg_len = (mem::size_of::<libc::cmsghdr>() + mem::size_of::<u16>()) as _;
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        control
    }
}

/// Room for either kind of address, as the kernel writes and reads it.
#[repr(C)]
#[derive(Clone, Copy)]
union RawAddress {
    family: sa_family_t,
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

impl RawAddress {
    const EMPTY: RawAddress = RawAddress {
        v6: sockaddr_in6 {
            sin6_family: libc::AF_UNSPEC as sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Returns the length to name beside it.
    fn set(&mut self, address: SocketAddr) -> u32 {
        match address {
            SocketAddr::V4(address) => {
                self.v4 = sockaddr_in {
                    sin_family: libc::AF_INET as sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                mem::size_of::<sockaddr_in>() as u32
            }
            SocketAddr::V6(address) => {
                self.v6 = sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                mem::size_of::<sockaddr_in6>() as u32
            }
        }
    }

    /// `length` is what the kernel says it has written.
    fn to_socket_addr(self, length: u32) -> Option<SocketAddr> {
        let length = length as usize;
        // SAFETY: every byte of the union is initialised (EMPTY has no padding, and the kernel writes whole bytes),
        // and every bit pattern is a valid value of these plain integers and arrays.
        let (family, v4, v6) = unsafe { (c_int::from(self.family), self.v4, self.v6) };
        match family {
            libc::AF_INET if length >= mem::size_of::<sockaddr_in>() => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if length >= mem::size_of::<sockaddr_in6>() => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                // The flow label is no part of who sent it.
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

const EMPTY_IOVEC: iovec = iovec { iov_base: std::ptr::null_mut::<c_void>(), iov_len: 0 };

// SAFETY: a header of zeros is a valid one without name, buffers and control data.
const EMPTY_HEADER: mmsghdr = unsafe { mem::zeroed() };

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn v4() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0".parse().expect("an address")).expect("loopback")
    }

    /// `None` where there is no IPv6.
    fn v6() -> Option<UdpSocket> {
        UdpSocket::bind("[::1]:0".parse().expect("an address")).ok()
    }

    /// Receives until `wanted` datagrams were taken from the socket, and returns those that were not dropped.
    fn receive(socket: &mut UdpSocket, batch: &mut RecvBatch, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut poll = mio::Poll::new().expect("a poll");
        let mut events = mio::Events::with_capacity(8);
        poll.registry().register(socket.source(), mio::Token(0), mio::Interest::READABLE).expect("registered");
        let deadline = Instant::now() + PATIENCE;
        let (mut taken, mut found) = (0, Vec::new());
        while taken < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "only {taken} of {wanted} came");
            poll.poll(&mut events, Some(left)).expect("polled");
            loop {
                let count = batch.recv(socket).expect("readable");
                found.extend(batch.iter().map(|(source, data)| (source, data.to_vec())));
                taken += count;
                if count == 0 {
                    break;
                }
            }
        }
        poll.registry().deregister(socket.source()).expect("registered");
        found
    }

    fn numbered(number: usize, length: usize) -> Vec<u8> {
        let mut data = vec![number as u8; length];
        data[0] = (number >> 8) as u8;
        data
    }

    #[test]
    fn addresses_there_and_back() {
        for text in ["127.0.0.1:1", "203.0.113.9:65535", "[::1]:3000", "[2001:db8::ff]:1"] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut raw = RawAddress::EMPTY;
            let length = raw.set(address);
            assert_eq!(raw.to_socket_addr(length), Some(address));
            assert_eq!(raw.to_socket_addr(length - 1), None);
        }
        let scoped: SocketAddr = SocketAddrV6::new("fe80::1".parse().expect("v6"), 9, 0, 3).into();
        let mut raw = RawAddress::EMPTY;
        let length = raw.set(scoped);
        assert_eq!(raw.to_socket_addr(length), Some(scoped));
        assert_eq!(RawAddress::EMPTY.to_socket_addr(28), None);
    }

    #[test]
    fn binding() {
        let socket = v4();
        assert_ne!(socket.local().port(), 0);
        assert!(UdpSocket::bind(socket.local()).is_err(), "a port is not shared");
        let (receive, send) = socket.kernel_buffers().expect("a socket");
        assert!(receive > 0 && send > 0);
    }

    /// Runs of equal size with a smaller tail, sizes that do not join, more than a batch: each arrives by itself, whole,
    /// in order.
    #[test]
    fn runs_arrive_as_datagrams_in_order() {
        for pair in [Some((v4(), v4())), v6().zip(v6())] {
            let Some((sender, mut receiver)) = pair else { continue };
            let mut queue = SendBatch::new(SendLimits::default());
            let mut sizes = vec![1200; 150];
            sizes.extend([700, 1200, 1200, 1, 2, 3, 1500, 1500, 1452, 1452, 80, 80, 80]);
            for (number, size) in sizes.iter().enumerate() {
                queue.push(receiver.local(), Class::Video, numbered(number, *size));
            }
            assert_eq!(queue.len(), sizes.len());
            assert_eq!(queue.flush(&sender).expect("sent"), Flush::Done);
            assert!(queue.is_empty());
            let stats = queue.stats();
            assert_eq!((stats.sent, stats.failed), (sizes.len() as u64, 0));
            // 54 + 54 + 42 with the 700, 2, then 1, 2, 3, 1500, 1500, and 2 with 80, 2.
            assert!(queue.gso_is_on() && stats.messages < 20, "{stats:?}");

            let found = receive(&mut receiver, &mut RecvBatch::new(), sizes.len());
            assert_eq!(found.len(), sizes.len());
            for (number, ((source, data), size)) in found.iter().zip(&sizes).enumerate() {
                assert_eq!(*source, sender.local());
                assert_eq!(*data, numbered(number, *size), "datagram {number}");
            }
        }
    }

    #[test]
    fn destinations_are_not_mixed_up() {
        let (sender, mut receivers) = (v4(), [v4(), v4(), v4()]);
        let mut queue = SendBatch::new(SendLimits::default());
        let mut random = fastrand::Rng::with_seed(7);
        let mut expected = [Vec::new(), Vec::new(), Vec::new()];
        for number in 0..300 {
            let receiver = random.usize(..3);
            let data = numbered(number, [100, 100, 100, 900][random.usize(..4)]);
            expected[receiver].push(data.clone());
            queue.push(receivers[receiver].local(), Class::Audio, data);
        }
        assert_eq!(queue.flush(&sender).expect("sent"), Flush::Done);
        for (receiver, expected) in receivers.iter_mut().zip(expected) {
            let found = receive(receiver, &mut RecvBatch::new(), expected.len());
            assert_eq!(found.into_iter().map(|(_, data)| data).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn large_and_empty_datagrams_are_dropped_and_counted() {
        let mut receiver = v4();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let sizes = [1, 1500, 1501, 1536, 1537, 9000, 0, 20];
        for size in sizes {
            sender.send_to(&vec![7; size], receiver.local()).expect("sent");
        }
        let mut batch = RecvBatch::new();
        let found = receive(&mut receiver, &mut batch, sizes.len());
        assert_eq!(found.iter().map(|(_, data)| data.len()).collect::<Vec<_>>(), [1, 1500, 20]);
        assert_eq!(batch.dropped(), RecvDropped { oversize: 4, empty: 1 });
        assert_eq!(batch.recv(&receiver).expect("readable"), 0);
        assert_eq!(batch.iter().count(), 0);
    }

    #[test]
    fn a_message_that_is_refused_does_not_stop_the_others() {
        let (sender, mut receiver) = (v4(), v4());
        let nowhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut queue = SendBatch::new(SendLimits::default());
        for (number, destination) in [receiver.local(), nowhere, receiver.local()].into_iter().enumerate() {
            queue.push(destination, Class::Control, numbered(number, 50));
        }
        assert_eq!(queue.flush(&sender).expect("sent"), Flush::Done);
        assert_eq!((queue.stats().sent, queue.stats().failed), (2, 1));
        let found = receive(&mut receiver, &mut RecvBatch::new(), 2);
        assert_eq!(found.iter().map(|(_, data)| data[1]).collect::<Vec<_>>(), [0, 2]);
    }

    /// Linux refuses to cut messages (EINVAL) on a socket without checksums: as a kernel without GSO does.
    #[test]
    fn without_gso_everything_is_sent_plain() {
        let (sender, mut receiver) = (v4(), v4());
        let on: c_int = 1;
        // SAFETY: the option's value is an int that lives during the call, and its length is given.
        let result = unsafe {
            let length = mem::size_of::<c_int>() as u32;
            let value = (&raw const on).cast();
            libc::setsockopt(sender.io.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, length)
        };
        assert_eq!(result, 0);
        let mut queue = SendBatch::new(SendLimits::default());
        for number in 0..100 {
            queue.push(receiver.local(), Class::Video, numbered(number, 1000));
        }
        assert_eq!(queue.flush(&sender).expect("sent"), Flush::Done);
        assert!(!queue.gso_is_on());
        let stats = queue.stats();
        assert_eq!((stats.sent, stats.messages, stats.failed), (100, 100, 0));
        let found = receive(&mut receiver, &mut RecvBatch::new(), 100);
        assert!(found.iter().enumerate().all(|(number, (_, data))| *data == numbered(number, 1000)));
    }

    /// Each step: what the kernel says, and how many messages of how many datagrams it was given.
    fn script(queue: &mut SendBatch, steps: &[(Result<usize, c_int>, &[usize])]) -> Flush {
        let mut steps = steps.iter();
        let flush = queue.flush_with(|headers| {
            let (answer, expected) = steps.next().expect("no more calls");
            let given: Vec<usize> = headers.iter().map(|header| header.msg_hdr.msg_iovlen).collect();
            assert_eq!(given, *expected);
            answer.map_err(io::Error::from_raw_os_error)
        });
        assert_eq!(steps.len(), 0, "calls that were not made");
        flush.expect("not fatal")
    }

    fn queue_of(sizes: &[usize]) -> SendBatch {
        let mut queue = SendBatch::new(SendLimits::default());
        for (number, size) in sizes.iter().enumerate() {
            queue.push("127.0.0.1:9".parse().expect("an address"), Class::Video, numbered(number, *size));
        }
        queue
    }

    #[test]
    fn partial_results_are_resumed() {
        let mut queue = queue_of(&[10, 10, 5, 20, 20, 30]);
        let flush =
            script(&mut queue, &[(Ok(1), &[3, 2, 1]), (Err(libc::EINTR), &[2, 1]), (Err(libc::EAGAIN), &[2, 1])]);
        assert_eq!((flush, queue.len()), (Flush::Blocked, 3));
        assert_eq!(script(&mut queue, &[(Ok(2), &[2, 1])]), Flush::Done);
        assert_eq!((queue.stats().sent, queue.stats().messages), (6, 3));
    }

    #[test]
    fn refusals_of_joined_messages() {
        let rows: &[(c_int, bool, bool)] = &[
            // (error, joined messages have worked before, GSO stays on)
            (libc::EIO, false, false),
            (libc::EIO, true, false),
            (libc::EINVAL, false, false),
            (libc::EINVAL, true, true),
            (libc::EMSGSIZE, false, true),
        ];
        for (error, has_worked, stays_on) in rows {
            let mut queue = queue_of(&[10, 10]);
            if *has_worked {
                assert_eq!(script(&mut queue, &[(Ok(1), &[2])]), Flush::Done);
            } else {
                queue = queue_of(&[]);
            }
            for size in [10, 10, 10, 20, 20] {
                queue.push("127.0.0.1:9".parse().expect("an address"), Class::Video, numbered(0, size));
            }
            let retried: &[usize] = if *stays_on { &[1, 1, 1, 2] } else { &[1, 1, 1, 1, 1] };
            let calls = [(Err(*error), &[3, 2][..]), (Ok(retried.len()), retried)];
            assert_eq!(script(&mut queue, &calls), Flush::Done);
            assert_eq!((queue.gso_is_on(), queue.stats().failed), (*stays_on, 0), "{error}");
        }
        // What cannot be sent plainly either is dropped.
        let mut queue = queue_of(&[10, 10]);
        let calls: [(_, &[usize]); 3] = [(Err(libc::EMSGSIZE), &[2]), (Err(libc::EMSGSIZE), &[1, 1]), (Ok(1), &[1])];
        assert_eq!(script(&mut queue, &calls), Flush::Done);
        assert_eq!((queue.stats().sent, queue.stats().failed), (1, 1));
        // No route: the whole run goes, the rest does not.
        for error in [libc::ENETUNREACH, libc::EPERM, libc::ECONNREFUSED] {
            let mut queue = queue_of(&[10, 10, 20]);
            assert_eq!(script(&mut queue, &[(Err(error), &[2, 1]), (Ok(1), &[1])]), Flush::Done);
            assert_eq!((queue.stats().sent, queue.stats().failed), (1, 2));
        }
        // A socket that is none is not survived.
        let dead = queue_of(&[10]).flush_with(|_| Err(io::Error::from_raw_os_error(libc::EBADF)));
        assert!(dead.is_err());
    }

    #[test]
    fn a_message_never_exceeds_what_the_kernel_takes() {
        let mut queue = queue_of(&[100; 200]);
        assert_eq!(script(&mut queue, &[(Ok(4), &[64, 64, 64, 8])]), Flush::Done);
        let mut queue = queue_of(&[1400; 100]);
        assert_eq!(script(&mut queue, &[(Ok(3), &[46, 46, 8])]), Flush::Done);
        // More buffers than one call describes.
        let mut queue = queue_of(&[100; 600]);
        assert_eq!(script(&mut queue, &[(Ok(8), &[64; 8]), (Ok(2), &[64, 24])]), Flush::Done);
        // Too large to be cut.
        let mut queue = queue_of(&[1453, 1453]);
        assert_eq!(script(&mut queue, &[(Ok(2), &[1, 1])]), Flush::Done);
    }

    #[test]
    fn a_full_queue_drops_video_then_audio_then_control() {
        use Class::{Audio, Control, Video};
        // Pushed in this order into a queue of four; what is left, by number.
        let rows: &[(&[Class], &[u8])] = &[
            (&[Video, Video, Video, Video, Video], &[1, 2, 3, 4]),
            (&[Control, Audio, Video, Video, Audio], &[0, 1, 3, 4]),
            (&[Control, Audio, Video, Video, Audio, Control], &[0, 1, 4, 5]),
            (&[Control, Audio, Video, Audio, Control, Control], &[0, 3, 4, 5]),
            (&[Control, Audio, Audio, Audio, Video], &[0, 1, 2, 3]),
            (&[Control, Control, Control, Control, Audio, Video], &[0, 1, 2, 3]),
            (&[Control, Control, Control, Control, Control], &[1, 2, 3, 4]),
        ];
        for (pushed, left) in rows {
            for limits in [SendLimits { datagrams: 4, bytes: 1 << 20 }, SendLimits { datagrams: 100, bytes: 49 }] {
                let mut queue = SendBatch::new(limits);
                for (number, class) in pushed.iter().enumerate() {
                    queue.push("127.0.0.1:9".parse().expect("an address"), *class, numbered(number, 10 + number % 2));
                }
                let found: Vec<u8> = queue.queue.iter().flatten().map(|transmit| transmit.data[1]).collect();
                assert_eq!(found, *left, "{pushed:?} {limits:?}");
                assert_eq!(queue.len(), 4);
                let stats = queue.stats();
                let dropped = stats.dropped_control + stats.dropped_audio + stats.dropped_video;
                assert_eq!(dropped as usize, pushed.len() - 4);
            }
        }
        let mut queue = SendBatch::new(SendLimits { datagrams: 4, bytes: 100 });
        queue.push("127.0.0.1:9".parse().expect("an address"), Video, vec![1; 50]);
        queue.push("127.0.0.1:9".parse().expect("an address"), Control, vec![1; 101]);
        assert_eq!((queue.len(), queue.stats().dropped_control), (1, 1));
    }

    /// A queue that stays blocked keeps its bounds, also in holes, and order; and joins over the holes.
    #[test]
    fn holes_do_not_pile_up() {
        let limits = SendLimits { datagrams: 50, bytes: 1 << 20 };
        let mut queue = SendBatch::new(limits);
        let mut random = fastrand::Rng::with_seed(3);
        let mut last_sent = None;
        for number in 0..20_000_usize {
            let class = [Class::Control, Class::Audio, Class::Video, Class::Video][random.usize(..4)];
            queue.push("127.0.0.1:9".parse().expect("an address"), class, number.to_be_bytes().to_vec());
            let live: Vec<&Transmit> = queue.queue.iter().flatten().collect();
            assert!(live.len() == queue.len() && live.len() <= 50 && queue.queue.len() <= 101);
            assert_eq!(live.iter().map(|transmit| transmit.data.len()).sum::<usize>(), queue.bytes);
            assert!(live.is_sorted_by_key(|transmit| &transmit.data));
            if random.u16(..500) == 0 {
                let first = live.first().map(|transmit| transmit.data.clone());
                assert!(first > last_sent);
                last_sent = live.last().map(|transmit| transmit.data.clone());
                let count = live.len();
                assert_eq!(script(&mut queue, &[(Ok(1), &[count])]), Flush::Done);
            }
        }
        let stats = queue.stats();
        let dropped = stats.dropped_control + stats.dropped_audio + stats.dropped_video;
        assert_eq!(stats.sent + dropped + queue.len() as u64, 20_000);
        assert!(dropped > 10_000);
    }
}
