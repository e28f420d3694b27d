//! A client's UDP socket: several datagrams per system call, each with the time at which the kernel had it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Nonblocking, bound to any free port of `ip`, with room for a burst from many publishers.
///
/// # Errors
///
/// Those of the system calls.
pub fn bind(ip: IpAddr, kernel_timestamps: bool) -> io::Result<std::net::UdpSocket> {
    let address = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The kernel doubles it and cuts it at net.core.rmem_max.
    socket.set_recv_buffer_size(1 << 20)?;
    if kernel_timestamps {
        enable_timestamps(socket.as_raw_fd())?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn enable_timestamps(socket: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option value points to an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A received datagram.
#[derive(Debug)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub contents: &'a [u8],
    /// CLOCK_REALTIME at which the kernel had it, nanoseconds, when the socket was asked for it.
    pub kernel_ns: Option<u64>,
}

/// Buffers for one recvmmsg(2), used for all sockets of a thread in turn.
pub struct Batch {
    slots: Box<[Slot]>,
    received: usize,
}

/// Larger than any datagram of WebRTC; longer ones are dropped.
const SLOT_BYTES: usize = 2048;

struct Slot {
    contents: [u8; SLOT_BYTES],
    source: libc::sockaddr_storage,
    control: Control,
    len: usize,
    control_len: usize,
    truncated: bool,
}

/// Room for one SCM_TIMESTAMPNS, aligned as cmsg(3) wants.
#[repr(C, align(8))]
struct Control([u8; 64]);

impl Batch {
    pub const LEN: usize = 16;

    pub fn new() -> Self {
        let slot = || Slot {
            contents: [0; SLOT_BYTES],
            // SAFETY: plain integers, for which zeroes are valid.
            source: unsafe { std::mem::zeroed() },
            control: Control([0; 64]),
            len: 0,
            control_len: 0,
            truncated: false,
        };
        Batch { slots: (0..Batch::LEN).map(|_| slot()).collect(), received: 0 }
    }

    /// Receives what is there, at most [`Batch::LEN`] datagrams; fewer mean that the socket is empty.
    ///
    /// # Errors
    ///
    /// Those of recvmmsg(2), except that an empty socket is 0.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        self.received = 0;
        let mut vectors: [libc::iovec; Batch::LEN] =
            [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; Batch::LEN];
        // SAFETY: plain integers and null pointers.
        let mut headers: [libc::mmsghdr; Batch::LEN] = unsafe { std::mem::zeroed() };
        for ((slot, vector), header) in self.slots.iter_mut().zip(&mut vectors).zip(&mut headers) {
            vector.iov_base = slot.contents.as_mut_ptr().cast();
            vector.iov_len = SLOT_BYTES;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut slot.source).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = slot.control.0.len();
        }
        // SAFETY: every header points to buffers of its slot and to its vector, which all outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                socket,
                headers.as_mut_ptr(),
                Batch::LEN as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        }
        self.received = result as usize;
        for (slot, header) in self.slots.iter_mut().zip(&headers).take(self.received) {
            slot.len = header.msg_len as usize;
            slot.control_len = header.msg_hdr.msg_controllen;
            slot.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        }
        Ok(self.received)
    }

    /// What the last [`Batch::receive`] got.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.slots[..self.received].iter().filter(|slot| !slot.truncated).filter_map(|slot| {
            let contents = slot.contents.get(..slot.len)?;
            let kernel_ns = slot.control.0.get(..slot.control_len).and_then(timestamp);
            Some(Datagram { source: address(&slot.source)?, contents, kernel_ns })
        })
    }
}

/// Reads the one control message that was asked for, in the layout of cmsg(3): length, level, type, timespec.
fn timestamp(control: &[u8]) -> Option<u64> {
    let header = size_of::<libc::cmsghdr>();
    let int = |at: usize| control.get(at..at + 4)?.try_into().ok().map(libc::c_int::from_ne_bytes);
    let long = |at: usize| control.get(at..at + 8)?.try_into().ok().map(i64::from_ne_bytes);
    if int(8)? != libc::SOL_SOCKET || int(12)? != libc::SCM_TIMESTAMPNS {
        return None;
    }
    let (seconds, nanos) = (long(header)?, long(header + 8)?);
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(nanos).ok()?)
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller than the storage.
            let v4 = unsafe { &*(storage as *const libc::sockaddr_storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with sockaddr_in6.
            let v6 = unsafe { &*(storage as *const libc::sockaddr_storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::new(ip.into(), u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn datagrams_come_with_source_and_time() {
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            // There may be no IPv6 here.
            let Ok(receiver) = bind(ip, true) else { continue };
            let sender = bind(ip, false).expect("a second socket");
            let to = receiver.local_addr().expect("bound");
            let before = clock::realtime_ns();
            for n in 0..Batch::LEN as u8 + 3 {
                sender.send_to(&vec![n; 100 + usize::from(n)], to).expect("loopback takes it");
            }
            sender.send_to(&[0; SLOT_BYTES + 1], to).expect("loopback takes it");
            let mut batch = Batch::new();
            let mut lens = Vec::new();
            for count in [Batch::LEN, 4, 0] {
                assert_eq!(batch.receive(receiver.as_raw_fd()).expect("readable"), count);
                for datagram in batch.datagrams() {
                    assert_eq!(datagram.source, sender.local_addr().expect("bound"));
                    let kernel_ns = datagram.kernel_ns.expect("asked for");
                    assert!((before..=clock::realtime_ns()).contains(&kernel_ns));
                    assert!(datagram.contents.iter().all(|b| usize::from(*b) + 100 == datagram.contents.len()));
                    lens.push(datagram.contents.len());
                }
            }
            assert_eq!(lens, (100..100 + Batch::LEN + 3).collect::<Vec<_>>(), "the oversized one is dropped");
        }
    }
}
