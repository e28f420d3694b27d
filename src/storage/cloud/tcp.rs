//! TCP under the HTTP client: a transfer ends when nothing moves, and not because it is slow.
//!
//! The kernel takes what is written long before it has gone out, and then takes nothing for as long as the other end needs for
//! a good part of it. So what has moved is read from the length of its queue, not from what it takes.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

/// How long nothing may happen.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until a connection stands, with its TLS.
    pub connect: Duration,
    /// Without an octet in or out.
    pub idle: Duration,
    /// Until an answer begins, once everything is sent.
    pub answer: Duration,
    /// The same for the completion of an upload, for which GCS takes several minutes.
    pub completion: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            completion: Duration::from_secs(600),
        }
    }
}

/// Opens connections, never to link-local addresses: those are where clouds tell their machines secrets.
#[derive(Debug)]
pub struct TcpConnector(pub Timeouts);

impl Connector<()> for TcpConnector {
    type Out = TcpTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<TcpTransport>, Error> {
        let allowed: Vec<SocketAddr> = details.addrs.iter().copied().filter(|a| !is_link_local(a.ip())).collect();
        let until = Instant::now() + self.0.connect;
        let mut last = io::Error::new(ErrorKind::PermissionDenied, "link-local addresses are not used");
        for (n, address) in allowed.iter().enumerate() {
            // One that does not answer leaves time for the others.
            let share = until.saturating_duration_since(Instant::now()) / (allowed.len() - n) as u32;
            match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let stream = Arc::new(stream);
                    (details.register_shutdown)(Arc::downgrade(&stream) as Weak<dyn ShutdownHandle>)?;
                    let config = details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(TcpTransport { stream, buffers, timeouts: self.0, lost: None }));
                }
                Err(error) => last = error,
            }
        }
        Err(if last.kind() == ErrorKind::TimedOut { Error::Timeout(Timeout::Connect) } else { Error::Io(last) })
    }
}

pub struct TcpTransport {
    stream: Arc<TcpStream>,
    buffers: LazyBuffers,
    timeouts: Timeouts,
    /// Nothing can be sent any more. What the other end said before may still be there.
    lost: Option<ErrorKind>,
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let mut watch = Watch::new(&self.stream, self.timeouts.idle, timeout);
        let mut rest = self.buffers.output().get(..amount).unwrap_or_default();
        while self.lost.is_none() && !rest.is_empty() {
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    watch.moved();
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => watch.wait(libc::POLLOUT)?,
                    ErrorKind::Interrupted => {}
                    // A store that refuses says so and closes, while the body is still on its way to it. What it said is
                    // worth more than that it closed.
                    kind @ (ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => {
                        self.lost = Some(kind);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let is_answer = timeout.reason == Timeout::RecvResponse;
        let idle = if is_answer { self.timeouts.answer } else { self.timeouts.idle };
        let mut watch = Watch::new(&self.stream, idle, timeout);
        let room = self.buffers.input_append_buf();
        loop {
            match (&*self.stream).read(room) {
                Ok(read) => {
                    if let (0, Some(kind)) = (read, self.lost) {
                        return Err(io::Error::from(kind).into());
                    }
                    self.buffers.input_appended(read);
                    return Ok(read > 0);
                }
                Err(error) => match (error.kind(), self.lost) {
                    (ErrorKind::WouldBlock, Some(kind)) => return Err(io::Error::from(kind).into()),
                    (ErrorKind::WouldBlock, None) => watch.wait(libc::POLLIN)?,
                    (ErrorKind::Interrupted, _) => {}
                    _ => return Err(error.into()),
                },
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // There is nothing to be read of a connection on which nothing was asked.
        self.lost.is_none() && matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport").field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// One wait, over as many turns as it takes.
struct Watch<'a> {
    stream: &'a TcpStream,
    idle: Duration,
    idle_until: Instant,
    /// Whatever moves: of the client.
    until: Option<Instant>,
    reason: Timeout,
    queued: Option<i32>,
}

impl<'a> Watch<'a> {
    fn new(stream: &'a TcpStream, idle: Duration, timeout: NextTimeout) -> Self {
        let now = Instant::now();
        let after = timeout.not_zero().map(|after| *after);
        let until = after.and_then(|after| now.checked_add(after));
        Watch { stream, idle, idle_until: now + idle, until, reason: timeout.reason, queued: queued(stream) }
    }

    fn moved(&mut self) {
        self.idle_until = Instant::now() + self.idle;
    }

    /// Until the socket is ready, or the next look at its queue is due.
    fn wait(&mut self, events: i16) -> Result<(), Error> {
        let now = Instant::now();
        if self.until.is_some_and(|until| now >= until) {
            return Err(Error::Timeout(self.reason));
        }
        let still_queued = queued(self.stream);
        if still_queued != self.queued {
            self.queued = still_queued;
            self.moved();
        } else if now >= self.idle_until {
            return Err(Error::Io(ErrorKind::TimedOut.into()));
        }
        let next = self.until.map_or(self.idle_until, |until| until.min(self.idle_until));
        let pause = next.saturating_duration_since(now).min(LOOK_EVERY);
        let mut poll = libc::pollfd { fd: self.stream.as_raw_fd(), events, revents: 0 };
        // SAFETY: one structure, ours for the call. Interrupted, it is asked again by the caller's loop.
        let ready = unsafe { libc::poll(&mut poll, 1, pause.as_millis() as i32 + 1) };
        if ready > 0 {
            self.moved();
        }
        Ok(())
    }
}

/// Octets that the other end has not confirmed. `None`: this system does not tell.
fn queued(stream: &TcpStream) -> Option<i32> {
    let mut octets: libc::c_int = 0;
    // SAFETY: the request writes one `int`, which is ours for the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ as _, &mut octets) };
    (result == 0).then_some(octets)
}

/// Where clouds tell machines who they are, in both families.
fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    }
}

/// A stall is noticed so much later than it could be.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_used() {
        for (address, expected) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_link_local(address.parse().expect("an address")), expected, "{address}");
        }
    }
}
