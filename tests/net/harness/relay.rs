//! A network between one client and the server: a UDP relay on loopback that does to datagrams what the simulator's network does
//! ([`Link`]), in real time, each direction with weather of its own.
//!
//! One thread per relay. The client sends to [`Relay::address`]; the server sees a port of the relay's, another one after
//! [`Relay::rebind`], as behind an address translator. Chance is seeded; what it meets is not, since threads are scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::DEADLINE;
use crate::weather::{Counts, DARK, FAIR, Link, Weather};

pub struct Relay {
    front: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    /// A byte wakes the thread, the end of the pipe ends it.
    wake: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    up: Link,
    down: Link,
    /// What the server sees.
    back: UdpSocket,
    random: fastrand::Rng,
}

impl Relay {
    /// A way to that media socket, with the same weather in both directions.
    pub fn start(server: SocketAddr, seed: u64, weather: Weather) -> Relay {
        let front = socket();
        let address = front.local_addr().unwrap();
        let random = fastrand::Rng::with_seed(seed);
        let (up, down) = (Link::new(weather), Link::new(weather));
        let shared = Arc::new(Mutex::new(Shared { up, down, back: socket(), random }));
        let (woken, wake) = pipe().expect("a pipe");
        let thread = thread::spawn({
            let shared = shared.clone();
            move || Carrier { server, client: None, front, shared, woken, queue: BinaryHeap::new(), serial: 0 }.run()
        });
        Relay { front: address, shared, wake: Some(wake), thread: Some(thread) }
    }

    /// Where the client sends to, and from where it hears.
    pub fn address(&self) -> SocketAddr {
        self.front
    }

    /// From the client to the server. What is under way arrives as it would have.
    pub fn set_up(&self, weather: Weather) {
        self.lock().up.weather = weather;
    }

    /// From the server to the client.
    pub fn set_down(&self, weather: Weather) {
        self.lock().down.weather = weather;
    }

    /// The server sees another port; what it sends to the one before is lost.
    pub fn rebind(&self) {
        self.lock().back = socket();
        // The thread waits for the socket that is no more.
        self.wake.as_ref().expect("there until the relay ends").write_all(&[0]).unwrap();
    }

    /// What passed so far: up, down.
    pub fn counts(&self) -> (Counts, Counts) {
        let shared = self.lock();
        (shared.up.counts, shared.down.counts)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("the relay's thread lives")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.wake.take());
        let ended = self.thread.take().expect("ends once").join();
        if !thread::panicking() {
            ended.expect("the relay's thread ended as it should");
        }
    }
}

/// What the thread has for itself.
struct Carrier {
    server: SocketAddr,
    /// Who sent last.
    client: Option<SocketAddr>,
    front: UdpSocket,
    shared: Arc<Mutex<Shared>>,
    woken: PipeReader,
    /// At most [`UNDER_WAY_MAX`]; what is more is lost.
    queue: BinaryHeap<Reverse<UnderWay>>,
    serial: u64,
}

/// When it is due, its number, whether it goes down, and the datagram.
type UnderWay = (Duration, u64, bool, Vec<u8>);

impl Carrier {
    fn run(mut self) {
        let base = Instant::now();
        loop {
            let shared = self.shared.clone();
            let fd = {
                let mut shared = shared.lock().expect("nobody panics with it");
                let now = base.elapsed();
                self.take_in(now, &mut shared, false);
                self.take_in(now, &mut shared, true);
                self.deliver(now, &shared);
                shared.back.as_raw_fd()
            };
            let next = self.queue.peek().map(|Reverse((due, ..))| due.saturating_sub(base.elapsed()));
            let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut fds = [poll(self.front.as_raw_fd()), poll(fd), poll(self.woken.as_raw_fd())];
            wait(&mut fds, next);
            if fds[2].revents != 0 && matches!(self.woken.read(&mut [0; 16]), Ok(0) | Err(_)) {
                return;
            }
        }
    }

    /// Reads what has come on one side, and says when it leaves on the other.
    fn take_in(&mut self, now: Duration, shared: &mut Shared, is_down: bool) {
        let Shared { up, down, back, random } = shared;
        let mut buffer = [0; 2048];
        for _ in 0..READS_MAX {
            let from = if is_down { &*back } else { &self.front };
            let Ok((length, source)) = from.recv_from(&mut buffer) else { return };
            if is_down && source != self.server {
                continue;
            }
            if !is_down {
                self.client = Some(source);
            }
            let link = if is_down { &mut *down } else { &mut *up };
            if self.queue.len() >= UNDER_WAY_MAX {
                link.counts.datagrams += 1;
                link.counts.lost += 1;
                link.counts.overflowed += 1;
                continue;
            }
            for due in link.pass(random, now, length) {
                self.serial += 1;
                self.queue.push(Reverse((due, self.serial, is_down, buffer[..length].to_vec())));
            }
        }
    }

    fn deliver(&mut self, now: Duration, shared: &Shared) {
        while self.queue.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, is_down, datagram))) = self.queue.pop() else { return };
            // As on any network, nobody may be there.
            let _ = match (is_down, self.client) {
                (false, _) => shared.back.send_to(&datagram, self.server),
                (true, Some(client)) => self.front.send_to(&datagram, client),
                (true, None) => Ok(0),
            };
        }
    }
}

/// Until one of them can be read, or so long.
pub fn wait(fds: &mut [libc::pollfd], time: Option<Duration>) {
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos() as libc::c_long,
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: pointer and length are those of the slice, the time outlives the call, and no signal mask is given.
    unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, time, std::ptr::null()) };
}

/// A socket of loopback that loses nothing by itself: its buffer holds what comes while its thread is not scheduled.
pub fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).unwrap();
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    socket
}

/// Datagrams under way in both directions: 4 s of 2000 per second, twice. More is an endless queue, as no network has it.
const UNDER_WAY_MAX: usize = 16_000;
/// Read at a time before what is due is delivered.
const READS_MAX: usize = 64;

/// A server that knows who sent, and a client, with a relay between them.
struct Ends {
    server: UdpSocket,
    client: UdpSocket,
    relay: Relay,
}

impl Ends {
    fn new(weather: Weather) -> Ends {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        let relay = Relay::start(server.local_addr().unwrap(), 1, weather);
        Ends { server, client, relay }
    }

    fn up(&self, datagram: &[u8]) {
        self.client.send_to(datagram, self.relay.address()).unwrap();
    }

    /// The next datagram at the server, and from where.
    fn at_server(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        let (length, source) = self.server.recv_from(&mut buffer).expect("a datagram");
        (buffer[..length].to_vec(), source)
    }

    /// Sends numbers up, reading at the other end meanwhile, since no buffer holds them all. Gives those that came.
    fn flood(&self, count: u32) -> Vec<u32> {
        let mut got = Vec::new();
        self.server.set_nonblocking(true).unwrap();
        let read = |got: &mut Vec<u32>| {
            let mut number = [0; 4];
            while self.server.recv(&mut number).is_ok() {
                got.push(u32::from_be_bytes(number));
            }
        };
        for number in 0..count {
            self.up(&number.to_be_bytes());
            self.until("the relay reads", || {
                read(&mut got);
                self.relay.counts().0.datagrams > u64::from(number)
            });
        }
        // The last one comes after all others, whatever the weather was.
        self.relay.set_up(Weather { delay: Duration::from_millis(100), ..FAIR });
        self.up(&u32::MAX.to_be_bytes());
        self.until("the last one", || {
            read(&mut got);
            got.last() == Some(&u32::MAX)
        });
        got.pop();
        got
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(Instant::now() < until, "never: {what}; {:?}", self.relay.counts());
            thread::yield_now();
        }
    }
}

#[test]
fn weather_is_as_it_is_told() {
    const NONE: Weather = Weather { delay: Duration::ZERO, ..FAIR };
    let ends = Ends::new(NONE);
    assert_eq!(ends.flood(500), (0..500).collect::<Vec<_>>());
    let ends = Ends::new(NONE.lossy(0.2));
    let got = ends.flood(2000);
    assert!((1500..1700).contains(&got.len()), "{} of 2000", got.len());
    let ends = Ends::new(Weather { burst: 10.0, ..NONE.lossy(0.2) });
    let got = ends.flood(4000);
    let bursts = got.windows(2).filter(|w| w[1] > w[0] + 1).count();
    assert!((2800..3600).contains(&got.len()), "{} of 4000", got.len());
    assert!((40..130).contains(&bursts), "{bursts} bursts");
    let ends = Ends::new(Weather { duplicate: 0.1, ..NONE });
    let got = ends.flood(1000).len();
    assert!((1050..1150).contains(&got), "{got} of 1000");
    let ends = Ends::new(Weather { reorder: 0.1, ..NONE });
    let got = ends.flood(500);
    let overtaken = got.windows(2).filter(|w| w[1] < w[0]).count();
    assert!(got.len() == 500 && overtaken > 0, "{} of 500, {overtaken} overtaken", got.len());
}

#[test]
fn a_narrow_relay_lets_a_queue_wait_and_drops_the_rest() {
    // 100 datagrams of 1000 octets at once, where 48 pass in a second: those that wait up to 250 ms, and one more.
    let ends = Ends::new(FAIR.narrow(411));
    let start = Instant::now();
    (0..100).for_each(|_| ends.up(&[0; 1000]));
    ends.until("the relay reads", || ends.relay.counts().0.datagrams == 100);
    let counts = ends.relay.counts().0;
    let took = start.elapsed();
    let passed = counts.datagrams - counts.overflowed;
    let most = 13 + (took.as_secs_f64() * 50.0) as u64 + 1;
    assert!((13..=most).contains(&passed), "{passed} passed in {took:?}");
    (0..passed).for_each(|_| drop(ends.at_server()));
    assert!(start.elapsed() >= Duration::from_millis(passed * 20), "{:?}", start.elapsed());
}

#[test]
fn a_rebinding_is_a_new_address_and_the_old_one_leads_nowhere() {
    let ends = Ends::new(FAIR);
    ends.up(b"one");
    let (_, old) = ends.at_server();
    ends.server.send_to(b"answer", old).unwrap();
    let mut buffer = [0; 100];
    let (length, source) = ends.client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], source), (&b"answer"[..], ends.relay.address()));
    ends.relay.rebind();
    let _ = ends.server.send_to(b"lost", old);
    ends.up(b"two");
    let (datagram, other) = ends.at_server();
    assert_eq!(datagram, b"two");
    assert_ne!(other, old);
    ends.server.send_to(b"found", other).unwrap();
    assert_eq!(ends.client.recv(&mut buffer).unwrap(), b"found".len());
    // Strangers do not reach the client.
    ends.client.send_to(b"stranger", other).unwrap();
    ends.server.send_to(b"again", other).unwrap();
    let length = ends.client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"again");
    assert!(ends.relay.counts().1.datagrams == 3, "{:?}", ends.relay.counts());
}

#[test]
fn nothing_passes_in_the_dark() {
    let ends = Ends::new(DARK);
    ends.up(b"dark");
    ends.until("the relay reads", || ends.relay.counts().0.lost == 1);
    ends.relay.set_up(FAIR);
    ends.up(b"light");
    assert_eq!(ends.at_server().0, b"light");
}
