//! A thread around some of the clients: waits for sockets and deadlines, and lets each client act.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::client::{Client, Opened, Outcome, Settings};
use crate::clock;
use crate::process;
use crate::stats::{Histogram, Window};
use crate::udp::Batch;

/// What the threads of a run tell each other.
#[derive(Debug)]
pub struct Shared {
    pub joined: AtomicUsize,
    /// Clients that have what they wait for: a connection, and media if they should get any.
    pub ready: AtomicUsize,
    pub failed: AtomicUsize,
    pub stop: AtomicBool,
    start_ns: AtomicU64,
    end_ns: AtomicU64,
    /// By code: how many, and the text of the first.
    errors: Mutex<BTreeMap<String, (u64, String)>>,
}

impl Shared {
    pub fn new() -> Self {
        Shared {
            joined: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            start_ns: AtomicU64::new(u64::MAX),
            end_ns: AtomicU64::new(u64::MAX),
            errors: Mutex::new(BTreeMap::new()),
        }
    }

    /// What is measured; empty until [`Shared::measure`].
    pub fn window(&self) -> Window {
        Window { start_ns: self.start_ns.load(Ordering::Relaxed), end_ns: self.end_ns.load(Ordering::Relaxed) }
    }

    /// Sets the window. It has to begin in the future, so that nobody has sent a packet of it unnoticed.
    pub fn measure(&self, window: Window) {
        self.end_ns.store(window.end_ns, Ordering::SeqCst);
        self.start_ns.store(window.start_ns, Ordering::SeqCst);
    }

    /// Counts an error and prints the first of its code.
    pub fn on_error(&self, code: &str, text: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = errors.entry(code.to_owned()).or_insert_with(|| {
            eprintln!("error {code}: {text}");
            (0, text.to_owned())
        });
        *count += 1;
    }

    pub fn errors(&self) -> BTreeMap<String, (u64, String)> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Distributions over the packets of the window.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// From the stamp to the kernel's receive time, by [`crate::media::Kind`].
    pub latency: [Histogram; 2],
    /// From the stamp to when the generator saw the packet: its own queue included.
    pub seen: Histogram,
    /// How late the generator sent, against its schedule.
    pub lateness: Histogram,
    pub bytes_sent: u64,
}

impl Timings {
    pub fn merge(&mut self, other: &Timings) {
        for (all, more) in self.latency.iter_mut().zip(&other.latency) {
            all.merge(more);
        }
        self.seen.merge(&other.seen);
        self.lateness.merge(&other.lateness);
        self.bytes_sent += other.bytes_sent;
    }
}

/// What a thread brings back.
#[derive(Debug)]
pub struct Finished {
    pub outcomes: Vec<Outcome>,
    pub timings: Timings,
    /// Of this thread within the window, microseconds.
    pub cpu_us: u64,
}

pub struct Driver {
    poll: Poll,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    incoming: Receiver<Opened>,
    clients: Vec<Client>,
    /// Of each client, side by side: all are looked at before every wait.
    deadlines: Vec<Instant>,
    timings: Timings,
}

impl Driver {
    /// # Errors
    ///
    /// When the system gives no epoll instance.
    pub fn new(settings: Arc<Settings>, shared: Arc<Shared>, incoming: Receiver<Opened>) -> io::Result<Driver> {
        let poll = Poll::new()?;
        Ok(Driver {
            poll,
            settings,
            shared,
            incoming,
            clients: Vec::new(),
            deadlines: Vec::new(),
            timings: Timings::default(),
        })
    }

    /// Runs until [`Shared::stop`].
    ///
    /// # Errors
    ///
    /// Those of epoll; errors of single clients are counted instead.
    pub fn run(mut self) -> io::Result<Finished> {
        set_timer_slack();
        let mut events = Events::with_capacity(1024);
        let mut batch = Batch::new();
        let mut cpu = WindowCpu::default();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.wait(&mut events)?;
            cpu.note(&self.shared);
            let realtime_offset_ns = clock::realtime_ns() as i64 - clock::monotonic_ns() as i64;
            self.take_in();
            for event in &events {
                let index = event.token().0 / 2;
                let Some(client) = self.clients.get_mut(index) else { continue };
                let now = Instant::now();
                if event.token().0 % 2 == UDP {
                    client.handle_datagrams(now, &mut batch, realtime_offset_ns, &self.shared, &mut self.timings);
                } else {
                    client.handle_channel(now, &self.shared, &mut self.timings);
                }
                self.deadlines[index] = client.deadline();
                // Packets that are due do not wait for a crowd of other sockets.
                self.handle_due();
            }
            self.handle_due();
        }
        cpu.note(&self.shared);
        self.leave(&mut events)?;
        let outcomes = self.clients.into_iter().map(Client::into_outcome).collect();
        Ok(Finished { outcomes, timings: self.timings, cpu_us: cpu.used_us() })
    }

    /// Everybody leaves, and nobody hangs up before the server has heard it.
    fn leave(&mut self, events: &mut Events) -> io::Result<()> {
        self.clients.iter_mut().for_each(|client| client.leave(&self.shared));
        let mut present: Vec<bool> = self.clients.iter_mut().map(|client| !client.handle_goodbye()).collect();
        let patience = Instant::now() + GOODBYE;
        while present.contains(&true) && Instant::now() < patience {
            match self.poll.poll(events, Some(GOODBYE / 20)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            for token in events.iter().map(|event| event.token().0).filter(|token| token % 2 == CHANNEL) {
                if let Some(client) = self.clients.get_mut(token / 2) {
                    present[token / 2] = !client.handle_goodbye();
                }
            }
        }
        Ok(())
    }

    fn handle_due(&mut self) {
        let now = Instant::now();
        for (client, deadline) in self.clients.iter_mut().zip(&mut self.deadlines) {
            if *deadline <= now {
                client.handle_timeout(Instant::now(), &self.shared, &mut self.timings);
                *deadline = client.deadline();
            }
        }
    }

    /// Until a socket is ready or the next deadline, to the microsecond; epoll_wait(2) alone knows milliseconds only,
    /// which would turn paced packets into clumps.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let now = Instant::now();
        let deadline = self.deadlines.iter().copied().fold(now + IDLE, Instant::min);
        let timeout = deadline.saturating_duration_since(now);
        let mut descriptor = libc::pollfd { fd: self.poll.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: one descriptor and one timeout, both of which outlive the call. Its result does not matter: whatever
        // ended the wait, the events are asked for next.
        unsafe { libc::ppoll(&mut descriptor, 1, &timeout, std::ptr::null()) };
        match self.poll.poll(events, Some(Duration::ZERO)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn take_in(&mut self) {
        while let Ok(opened) = self.incoming.try_recv() {
            if let Err(e) = self.add(opened) {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                self.shared.on_error("socket", &e.to_string());
            }
        }
    }

    fn add(&mut self, opened: Opened) -> io::Result<()> {
        let mut client = Client::new(Arc::clone(&self.settings), opened, Instant::now())?;
        let index = self.clients.len();
        let registry = self.poll.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&client.channel_fd()?), Token(2 * index + CHANNEL), both)?;
        registry.register(client.udp_mut(), Token(2 * index + UDP), Interest::READABLE)?;
        self.deadlines.push(client.deadline());
        self.clients.push(client);
        Ok(())
    }
}

/// CPU of the calling thread, read when the window begins and ends.
#[derive(Debug, Default)]
struct WindowCpu {
    begin_us: Option<u64>,
    end_us: Option<u64>,
}

impl WindowCpu {
    fn note(&mut self, shared: &Shared) {
        if self.end_us.is_some() {
            return;
        }
        let (window, now) = (shared.window(), clock::monotonic_ns());
        if self.begin_us.is_none() && now >= window.start_ns {
            self.begin_us = Some(process::thread_cpu_us());
        }
        if now >= window.end_ns {
            self.end_us = Some(process::thread_cpu_us());
        }
    }

    fn used_us(&self) -> u64 {
        self.end_us.zip(self.begin_us).map_or(0, |(end, begin)| end - begin)
    }
}

/// Timers of this thread fire when they are due, not up to 50 us later.
fn set_timer_slack() {
    // SAFETY: no memory is involved; 0 would mean the default.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

const CHANNEL: usize = 0;
const UDP: usize = 1;
/// The longest wait: joins and the end of the run are noticed within it.
const IDLE: Duration = Duration::from_millis(5);
/// For everybody to leave.
const GOODBYE: Duration = Duration::from_secs(2);
