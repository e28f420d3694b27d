//! The thread around one shard: a mio loop with sockets, the clock and a mailbox, pinned to a core.
//!
//! One turn: wait, read the clock, take media from the sockets, let deadlines pass, flush peers and send; then mail
//! and TCP, each with a budget, and send again. Media is never behind TCP by more than one such budget. (Media *over* TCP is
//! served as TCP.)
//!
//! - [`udp`]: batched datagrams
//! - [`tcp`]: one TCP connection
//! - `library`: questions about recordings, and downloads

mod library;
pub mod tcp;
pub mod udp;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use rustc_hash::FxHashMap;
use slab::Slab;
use socket2::SockRef;
use str0m::net::Protocol as TransportProtocol;

use crate::base::limit::TokenBucket;
use crate::base::queue::{Full, Sender};
use crate::base::wheel::Wheel;
use crate::base::{ConnKey, RoomId, WorkerId};
use crate::config::{Config, Limits};
use crate::http::api::{Answer, Api, Caller};
use crate::http::question::{Reply, Unavailable};
use crate::http::{self, Poll as HttpPoll, Response};
use crate::metrics::WorkerMetrics;
use crate::peer::Transmit;
use crate::recording::feed::SendFeed;
use crate::recording::library::{Answer as LibraryAnswer, Piece, Read, Request as LibraryRequest, Unreadable};
use crate::shard::demux;
use crate::shard::{self, Output, Shard};
use crate::signal::session::Session;
use crate::ws::{self, Ws};

use tcp::{Conn, MediaState, Protocol, Step, Waiting};
use udp::{RecvBatch, SendBatch, UdpSocket};

/// Mail for a worker.
pub enum WorkerMail {
    /// For its shard.
    Shard(shard::Mail),
    /// A connection whose room lives here.
    Arrival(Box<Arrival>),
    /// A connection whose first connectivity check is for nobody on the workers that it has been to.
    Stray(Box<Conn>),
    /// What is known of recordings, for the request of this number on this connection.
    Library { conn: ConnKey, number: u32, answer: Box<Result<LibraryAnswer, crate::recording::library::Unavailable>> },
    /// Octets of a file, for the same.
    Piece { conn: ConnKey, number: u32, piece: Result<Piece, Unreadable> },
    /// The certificate is another from now on, for new connections.
    Tls(Arc<rustls::ServerConfig>),
    /// No new calls.
    Drain,
    /// End everything now.
    Stop,
}

/// A connection on its way, with all that belongs to it.
pub struct Arrival {
    conn: Conn,
    session: Session,
    room: RoomId,
}

/// A worker's mailbox: a bounded queue and the means to wake its loop.
#[derive(Clone)]
pub struct Mailbox {
    queue: Sender<WorkerMail>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Hands it over, or gives it back when the mailbox is full or the worker has ended.
    pub fn send(&self, mail: WorkerMail) -> Result<(), Box<WorkerMail>> {
        self.queue.try_send(mail).map_err(|Full(mail)| Box::new(mail))?;
        // A loop that cannot be woken finds its mail at its next turn.
        let _ = self.waker.wake();
        Ok(())
    }
}

/// A media socket and the addresses that candidates name for it, the first of which stands for all.
pub struct Media {
    pub socket: UdpSocket,
    pub announced: Vec<SocketAddr>,
}

/// Everything a worker is made of; opened by the starter so that errors are told before anything runs.
pub struct WorkerConfig {
    pub id: WorkerId,
    pub config: Arc<Config>,
    pub api: Arc<Api>,
    pub shard: shard::ShardConfig,
    pub listeners: Vec<std::net::TcpListener>,
    pub media: Vec<Media>,
    /// Local addresses on which framed media is accepted, and those that candidates name for them; of several for one, the
    /// first stands for all.
    pub streams: Vec<(IpAddr, SocketAddr)>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub inbox: Receiver<WorkerMail>,
    pub poll: Poll,
    /// By worker number, this one's included.
    pub mailboxes: Vec<Mailbox>,
    /// Those who keep recordings, and those who read their files. `None`: such requests are answered with 503.
    pub library: Option<Sender<LibraryRequest>>,
    pub files: Option<Sender<Read>>,
    pub totals: Arc<Totals>,
    pub metrics: Arc<WorkerMetrics>,
    /// The way to the thread that records.
    pub recorder: SendFeed,
}

/// Connections of all workers together, for the limits that hold for the process.
#[derive(Debug, Default)]
pub struct Totals {
    connections: AtomicUsize,
    anonymous: AtomicUsize,
}

/// The parts of a mailbox, made before the thread that reads it.
pub fn mailbox(poll: &Poll) -> io::Result<(Mailbox, Receiver<WorkerMail>)> {
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (queue, inbox) = crate::base::queue::bounded(MAILBOX);
    Ok((Mailbox { queue, waker }, inbox))
}

/// The loop. See the module's documentation.
pub struct Worker {
    id: WorkerId,
    config: Arc<Config>,
    api: Arc<Api>,
    shard: Shard,
    poll: Poll,
    listeners: Vec<Listener>,
    media: Vec<MediaSocket>,
    /// See [`WorkerConfig::streams`].
    stream_addresses: Vec<(IpAddr, SocketAddr)>,
    /// Connections that carry media, by the announced and the remote address.
    streams: FxHashMap<(SocketAddr, SocketAddr), ConnKey>,
    /// Those to which something was queued.
    streams_to_write: Vec<ConnKey>,
    stream_packets_dropped: u64,
    recv: RecvBatch,
    conns: Slab<(u32, Conn)>,
    next_generation: u32,
    /// Connections that have something to do.
    ready: VecDeque<ConnKey>,
    timers: Wheel,
    tls: Option<Arc<rustls::ServerConfig>>,
    inbox: Receiver<WorkerMail>,
    mailboxes: Vec<Mailbox>,
    library: Option<Sender<LibraryRequest>>,
    files: Option<Sender<Read>>,
    /// Connections with one.
    downloads: usize,
    totals: Arc<Totals>,
    metrics: Arc<WorkerMetrics>,
    recorder: SendFeed,
    addresses: FxHashMap<IpAddr, AddressState>,
    http_limits: http::Limits,
    ws_limits: ws::Limits,
    session_limits: crate::signal::Limits,
    scratch: Vec<u8>,
    plain: Vec<u8>,
    /// Mail that found a mailbox full, by worker; tried again every turn.
    undelivered: VecDeque<(WorkerId, shard::Mail)>,
    /// The inbox may hold more than there was time for.
    more_mail: bool,
    clock_at: Instant,
    accept_again: Option<Instant>,
    request_serial: u64,
    question_serial: u32,
    request_salt: u64,
    stopping: Option<Instant>,
}

struct Listener {
    socket: TcpListener,
    pending: bool,
}

struct MediaSocket {
    media: Media,
    send: SendBatch,
    readable: bool,
    writable: bool,
}

/// What is remembered of an address without a valid token.
struct AddressState {
    anonymous: usize,
    bad_tokens: TokenBucket,
    /// The bucket ran dry; the next attempt may pay for its refill.
    may_try: bool,
}

impl Worker {
    pub fn new(config: WorkerConfig) -> io::Result<Worker> {
        let now = Instant::now();
        let registry = config.poll.registry();
        let mut listeners = Vec::new();
        for (index, listener) in config.listeners.into_iter().enumerate() {
            let mut socket = TcpListener::from_std(listener);
            registry.register(&mut socket, Token(LISTENERS + index), Interest::READABLE)?;
            listeners.push(Listener { socket, pending: true });
        }
        let mut media = Vec::new();
        for (index, mut m) in config.media.into_iter().enumerate() {
            registry.register(m.socket.source(), Token(MEDIA + index), Interest::READABLE | Interest::WRITABLE)?;
            media.push(MediaSocket {
                media: m,
                send: SendBatch::new(udp::SendLimits::default()),
                readable: true,
                writable: true,
            });
        }
        let limits = &config.config.limits;
        Ok(Worker {
            id: config.id,
            http_limits: http::Limits {
                request_line: limits.request_line,
                head: limits.request_head,
                headers: limits.request_headers,
                body: limits.request_body,
                sdp: limits.sdp_size.max(limits.request_body),
                head_time: limits.head_timeout,
                body_time: limits.body_timeout,
                idle_time: limits.keep_alive,
            },
            ws_limits: ws::Limits {
                message: limits.message_before_join,
                outgoing: limits.outgoing_queue,
                ..ws::Limits::default()
            },
            session_limits: crate::signal::Limits {
                message_before_join: limits.message_before_join,
                message_after_join: limits.message,
                messages_per_second: limits.message_rate,
                messages_burst: limits.message_burst,
                offers_per_second: limits.offer_rate,
                offers_burst: limits.offer_burst,
                join_within: limits.join_timeout,
                json_depth: limits.json_depth,
                json_members: limits.json_members,
                metadata: limits.participant_metadata,
                sdp: limits.sdp_size,
                m_lines: limits.sdp_media,
                ..crate::signal::Limits::default()
            },
            shard: Shard::new(now, SystemTime::now(), config.shard),
            config: config.config,
            api: config.api,
            poll: config.poll,
            listeners,
            media,
            stream_addresses: config.streams,
            streams: FxHashMap::default(),
            streams_to_write: Vec::new(),
            stream_packets_dropped: 0,
            recv: RecvBatch::new(),
            conns: Slab::new(),
            next_generation: 0,
            ready: VecDeque::new(),
            timers: Wheel::new(now),
            tls: config.tls,
            inbox: config.inbox,
            mailboxes: config.mailboxes,
            library: config.library,
            files: config.files,
            downloads: 0,
            totals: config.totals,
            metrics: config.metrics,
            recorder: config.recorder,
            addresses: FxHashMap::default(),
            scratch: vec![0; 16 * 1024],
            plain: Vec::new(),
            undelivered: VecDeque::new(),
            more_mail: false,
            clock_at: now,
            accept_again: None,
            request_serial: 0,
            question_serial: 0,
            request_salt: u64::from_ne_bytes(random_bytes()),
            stopping: None,
        })
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.sleep_for(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            let began = Instant::now();
            let now = began;
            for event in &events {
                self.note(event);
            }
            if now.saturating_duration_since(self.clock_at) >= CLOCK_INTERVAL {
                self.clock_at = now;
                self.shard.handle_clock(SystemTime::now());
            }
            let now = self.receive_media(now);
            self.shard.handle_timeout(now);
            self.shard.flush(now);
            self.send_media(now);
            self.take_mail(now);
            self.accept(now);
            self.serve(now);
            self.expire(now);
            self.shard.flush(now);
            self.deliver(now);
            self.send_media(now);
            self.metrics.turn(began.elapsed());
            if let Some(deadline) = self.stopping
                && (now >= deadline || self.conns.is_empty())
            {
                return Ok(());
            }
        }
    }

    fn sleep_for(&mut self, now: Instant) -> Option<Duration> {
        let busy = !self.ready.is_empty()
            || self.more_mail
            || self.shard.wants_flush()
            || self.shard.has_output()
            || self.media.iter().any(|m| m.readable)
            || self.listeners.iter().any(|l| l.pending) && self.accept_again.is_none();
        if busy {
            return Some(Duration::ZERO);
        }
        let undelivered = (!self.undelivered.is_empty()).then(|| now + RETRY_MAIL);
        [
            self.shard.poll_timeout(),
            self.timers.next_deadline(),
            self.accept_again,
            undelivered,
            self.stopping,
            Some(now + CLOCK_INTERVAL),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| at.saturating_duration_since(now))
    }

    fn note(&mut self, event: &mio::event::Event) {
        match event.token().0 {
            index if index == WAKER.0 => {}
            index if index < MEDIA => {
                if let Some(listener) = self.listeners.get_mut(index - LISTENERS) {
                    listener.pending = true;
                }
            }
            index if index < CONNS => {
                if let Some(media) = self.media.get_mut(index - MEDIA) {
                    media.readable |= event.is_readable() || event.is_error();
                    media.writable |= event.is_writable();
                }
            }
            index => {
                let slot = index - CONNS;
                let Some((generation, conn)) = self.conns.get_mut(slot) else { return };
                conn.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                conn.writable |= event.is_writable() || event.is_write_closed();
                let key = ConnKey { slot: slot as u32, generation: *generation };
                if !conn.is_queued {
                    conn.is_queued = true;
                    self.ready.push_back(key);
                }
            }
        }
    }

    // ---- media ----

    /// The time of the last batch: nothing in a batch may be told to have come before it did, or clocks that are compared by
    /// that (bandwidth, recordings) are led astray for seconds. This thread may have rested since the turn began.
    fn receive_media(&mut self, mut now: Instant) -> Instant {
        for state in &mut self.media {
            let Some(announced) = state.media.announced.first().copied() else { continue };
            for _ in 0..RECEIVE_ROUNDS {
                if !state.readable {
                    break;
                }
                match self.recv.recv(&state.media.socket) {
                    Ok(0) => state.readable = false,
                    Ok(_) => {
                        now = Instant::now();
                        for (source, data) in self.recv.iter() {
                            self.shard.handle_datagram(now, announced, source, data);
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => state.readable = false,
                    // An ICMP error that the kernel reports here belongs to nobody in particular.
                    Err(_) => {}
                }
            }
        }
        now
    }

    fn send_media(&mut self, now: Instant) {
        let mut count = 0;
        let mut bytes = 0;
        while let Some(transmit) = self.shard.poll_transmit() {
            count += 1;
            bytes += transmit.data.len();
            if transmit.protocol == TransportProtocol::Tcp {
                self.queue_packet(transmit);
            } else if let Some(state) = self.media.iter_mut().find(|m| m.media.announced.contains(&transmit.source)) {
                state.send.push(transmit.destination, transmit.class, transmit.data);
            }
        }
        if count > 0 {
            self.metrics.sent(count, bytes);
        }
        let mut written = std::mem::take(&mut self.streams_to_write);
        for key in written.drain(..) {
            self.write(now, key);
        }
        self.streams_to_write = written;
        let mut dropped = self.stream_packets_dropped;
        for state in &mut self.media {
            if state.writable && !state.send.is_empty() {
                match state.send.flush(&state.media.socket) {
                    Ok(udp::Flush::Done) => {}
                    Ok(udp::Flush::Blocked) => state.writable = false,
                    Err(error) => tracing::debug!(%error, "send failed"),
                }
            }
            dropped += state.send.stats().dropped();
        }
        self.metrics.set_sends_dropped(dropped);
    }

    fn queue_packet(&mut self, transmit: Transmit) {
        let key = self.streams.get(&(transmit.source, transmit.destination)).copied();
        let Some((key, conn)) = key.and_then(|key| Some((key, self.conn_mut(key)?))) else {
            // A connection may close at any time.
            self.stream_packets_dropped += 1;
            return;
        };
        let dropped = conn.queue_packet(transmit.class, transmit.data);
        let is_noted = std::mem::replace(&mut conn.wants_write, true);
        self.stream_packets_dropped += dropped;
        if !is_noted {
            self.streams_to_write.push(key);
        }
    }

    /// Writes what is queued for a connection, outside its turn.
    fn write(&mut self, now: Instant, key: ConnKey) {
        let mut plain = std::mem::take(&mut self.plain);
        let step = self.conn_mut(key).map(|conn| {
            conn.wants_write = false;
            conn.write(now, &mut plain)
        });
        self.plain = plain;
        match step {
            Some(Step::Gone) => self.drop_conn(now, key),
            Some(Step::Open) => self.arm(key),
            None => {}
        }
    }

    // ---- mail ----

    /// Mail has a budget of time as connections do: a letter may bring an offer.
    fn take_mail(&mut self, now: Instant) {
        let begin = Instant::now();
        self.more_mail = true;
        for _ in 0..MAIL_BUDGET {
            if begin.elapsed() >= SERVE_TIME {
                break;
            }
            let Ok(mail) = self.inbox.try_recv() else {
                self.more_mail = false;
                break;
            };
            match mail {
                WorkerMail::Shard(mail) => self.shard.handle_mail(now, mail),
                WorkerMail::Arrival(arrival) => self.arrive(now, *arrival),
                WorkerMail::Stray(conn) => self.take_in(now, *conn),
                WorkerMail::Library { conn, number, answer } => self.deliver_library(now, conn, number, *answer),
                WorkerMail::Piece { conn, number, piece } => self.deliver_piece(now, conn, number, piece),
                WorkerMail::Tls(tls) => self.tls = Some(tls),
                WorkerMail::Drain => self.shard.handle_drain(),
                WorkerMail::Stop => {
                    self.shard.handle_stop(now);
                    self.listeners.clear();
                    self.stopping = Some(now + STOP_GRACE);
                    let idle: Vec<ConnKey> = self
                        .keys()
                        .filter(|key| {
                            let conn = &self.conns[key.slot as usize].1;
                            let is_idle = match &conn.protocol {
                                Protocol::Http(_) => true,
                                Protocol::Media(media) => !matches!(media.state, MediaState::Verified { .. }),
                                Protocol::Signaling(_) | Protocol::Closing => false,
                            };
                            is_idle || conn.is_lingering()
                        })
                        .collect();
                    for key in idle {
                        self.drop_conn(now, key);
                    }
                }
            }
        }
        let mut waiting = std::mem::take(&mut self.undelivered);
        for (to, mail) in waiting.drain(..) {
            self.post(to, mail);
        }
    }

    fn post(&mut self, to: WorkerId, mail: shard::Mail) {
        let Some(mailbox) = self.mailboxes.get(usize::from(to.0)) else { return };
        if let Err(mail) = mailbox.send(WorkerMail::Shard(mail))
            && let WorkerMail::Shard(mail) = *mail
            && let Some(mail) = self.shard.handle_undeliverable(mail)
        {
            // Losing it would leave a join or a request hanging, or a room in the directory for ever; there are never more
            // of them than joins and requests under way.
            self.undelivered.push_back((to, mail));
        }
    }

    fn arrive(&mut self, now: Instant, arrival: Arrival) {
        let Arrival { mut conn, session, room } = arrival;
        conn.is_queued = false;
        // Edges were seen by the loop it comes from.
        conn.readable = true;
        conn.writable = true;
        match self.insert(conn) {
            Ok(key) => {
                self.metrics.moved_in();
                self.shard.handle_arrival(now, key, session);
                self.enqueue(key);
            }
            Err(conn) => {
                self.forget(&conn);
                self.shard.handle_lost_arrival(room);
            }
        }
    }

    fn depart(&mut self, now: Instant, key: ConnKey, room: RoomId, to: WorkerId) {
        // The client may have gone since the move was asked for.
        let Some(session) = self.shard.take_session(key) else {
            self.shard.handle_lost_arrival(room);
            return;
        };
        let Some(mut conn) = self.remove(key) else {
            self.shard.handle_lost_arrival(room);
            return;
        };
        let _ = self.poll.registry().deregister(&mut conn.stream);
        let arrival = Box::new(Arrival { conn, session, room });
        let Some(mailbox) = self.mailboxes.get(usize::from(to.0)) else { return };
        if let Err(mail) = mailbox.send(WorkerMail::Arrival(arrival))
            && let WorkerMail::Arrival(arrival) = *mail
        {
            let Arrival { mut conn, session, room } = *arrival;
            conn.is_queued = false;
            conn.readable = true;
            conn.writable = true;
            match self.insert(conn) {
                Ok(key) => {
                    self.shard.handle_open(key, session);
                    self.shard.handle_move_failed(now, key, room);
                    self.enqueue(key);
                }
                Err(conn) => {
                    self.forget(&conn);
                    self.shard.handle_lost_arrival(room);
                }
            }
        }
    }

    /// A connection with a connectivity check for somebody who is not here goes to the next worker, and, when it was with
    /// all of them, nowhere.
    fn pass_on(&mut self, now: Instant, key: ConnKey) {
        let Some(mut conn) = self.remove(key) else { return };
        let _ = self.poll.registry().deregister(&mut conn.stream);
        let workers = self.mailboxes.len();
        if let Protocol::Media(media) = &mut conn.protocol
            && let MediaState::Opening { visited } = &mut media.state
            && usize::from(*visited) + 1 < workers
            && self.stopping.is_none()
            && now < media.deadline
        {
            *visited += 1;
            // Each worker counts for itself how many of an address it has.
            self.uncount_address(conn.remote.ip());
            let next = (usize::from(self.id.0) + 1) % workers;
            match self.mailboxes[next].send(WorkerMail::Stray(Box::new(conn))) {
                Ok(()) => return,
                Err(mail) => {
                    let WorkerMail::Stray(back) = *mail else { return };
                    conn = *back;
                    self.count_address(now, conn.remote.ip());
                }
            }
        }
        self.metrics.refused_stream();
        self.forget(&conn);
    }

    fn take_in(&mut self, now: Instant, mut conn: Conn) {
        conn.is_queued = false;
        // Edges were seen by the loop it comes from.
        conn.readable = true;
        conn.writable = true;
        let has_room = self.count_address(now, conn.remote.ip());
        if self.stopping.is_some() || !has_room {
            self.forget(&conn);
            return;
        }
        match self.insert(conn) {
            Ok(key) => {
                self.metrics.moved_in();
                self.enqueue(key);
            }
            Err(conn) => self.forget(&conn),
        }
    }

    /// Does what the shard asks for.
    fn deliver(&mut self, now: Instant) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn: key, text } => {
                    if let Some(conn) = self.conn_mut(key)
                        && let Protocol::Signaling(ws) = &mut conn.protocol
                        && ws.send(text).is_err()
                    {
                        tracing::info!("a client reads too slowly and is disconnected");
                        ws.close(now, 1008, "too slow");
                        self.shard.handle_closed(now, key);
                    }
                    self.enqueue(key);
                }
                Output::Close { conn: key, code, reason } => {
                    if let Some(conn) = self.conn_mut(key)
                        && let Protocol::Signaling(ws) = &mut conn.protocol
                    {
                        ws.close(now, code, reason);
                    }
                    self.enqueue(key);
                }
                Output::Move { conn, room, to } => self.depart(now, conn, room, to),
                Output::Mail { to, mail } if to == self.id => self.shard.handle_mail(now, mail),
                Output::Mail { to, mail } => self.post(to, mail),
                Output::CloseStream { source } => self.close_stream(now, source),
                Output::Record(feed) => {
                    if let Err(feed) = (self.recorder)(feed) {
                        self.shard.handle_feed_refused(now, *feed);
                    }
                }
                Output::Answer { conn, number, reply } => self.deliver_answer(now, conn, number, reply),
            }
        }
        // What was queued leaves in this turn, not in the next.
        self.serve(now);
    }

    /// The owner of a connection is gone; its last words go out first.
    fn close_stream(&mut self, now: Instant, source: SocketAddr) {
        self.send_media(now);
        let keys: Vec<ConnKey> = self.streams.iter().filter(|(at, _)| at.1 == source).map(|(_, key)| *key).collect();
        for key in keys {
            self.forget_stream(key);
            if let Some(conn) = self.conn_mut(key) {
                conn.finish();
            }
            self.enqueue(key);
        }
    }

    /// The client may have gone, or may have been told that it took too long.
    fn deliver_answer(&mut self, now: Instant, key: ConnKey, number: u32, reply: Reply) {
        if let Reply::Library(inquiry) = reply {
            return self.ask_library_instead(now, key, number, inquiry);
        }
        let waiting = self.conn_mut(key).and_then(|conn| conn.waiting.take_if(|waiting| waiting.number == number));
        if let Some(waiting) = waiting {
            self.respond_waiting(now, key, waiting, reply.response());
        }
    }

    fn respond_waiting(&mut self, now: Instant, key: ConnKey, waiting: Waiting, mut response: Response) {
        for (name, value) in waiting.headers {
            response = response.header(name, value);
        }
        self.respond(now, key, &response, waiting.head_only, true);
        self.enqueue(key);
    }

    // ---- connections ----

    fn accept(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| now < at) {
            return;
        }
        self.accept_again = None;
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPT_BUDGET {
                if !self.listeners[index].pending {
                    break;
                }
                match self.listeners[index].socket.accept() {
                    Ok((stream, remote)) => self.admit(now, stream, canonical(remote)),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.listeners[index].pending = false,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if is_of_one_connection(&e) => {}
                    Err(error) => {
                        // No descriptors left: trying again at once would only spin.
                        tracing::warn!(%error, "cannot accept connections");
                        self.accept_again = Some(now + ACCEPT_PAUSE);
                        return;
                    }
                }
            }
        }
    }

    fn admit(&mut self, now: Instant, stream: mio::net::TcpStream, remote: SocketAddr) {
        let limits = &self.config.limits;
        let is_full = self.totals.anonymous.load(Ordering::Relaxed) >= limits.unauthenticated
            || self.totals.connections.load(Ordering::Relaxed) >= limits.connections;
        if !self.count_address(now, remote.ip()) || is_full {
            self.uncount_address(remote.ip());
            tracing::debug!(%remote, "too many connections");
            return;
        }
        let _ = stream.set_nodelay(true);
        let Ok(conn) = Conn::new(now, stream, remote, self.tls.clone(), &self.http_limits) else {
            self.uncount_address(remote.ip());
            return;
        };
        self.totals.anonymous.fetch_add(1, Ordering::Relaxed);
        self.totals.connections.fetch_add(1, Ordering::Relaxed);
        match self.insert(conn) {
            Ok(key) => self.enqueue(key),
            Err(conn) => self.forget(&conn),
        }
    }

    #[expect(clippy::result_large_err, reason = "it is the connection that goes back, which no box makes smaller")]
    fn insert(&mut self, mut conn: Conn) -> Result<ConnKey, Conn> {
        let slot = self.conns.vacant_key();
        let token = Token(CONNS + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut conn.stream, token, interest).is_err() {
            return Err(conn);
        }
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1);
        self.conns.insert((generation, conn));
        self.metrics.set_connections(self.conns.len());
        Ok(ConnKey { slot: slot as u32, generation })
    }

    fn remove(&mut self, key: ConnKey) -> Option<Conn> {
        self.conn_mut(key)?;
        let (_, conn) = self.conns.remove(key.slot as usize);
        self.timers.cancel(key.slot as usize);
        self.metrics.set_connections(self.conns.len());
        Some(conn)
    }

    /// Takes a connection out of the counts; it closes when the value is dropped.
    fn forget(&mut self, conn: &Conn) {
        self.downloads -= usize::from(conn.download.is_some());
        self.totals.connections.fetch_sub(1, Ordering::Relaxed);
        if conn.is_anonymous {
            self.no_longer_anonymous(conn.remote.ip());
        }
    }

    /// Counts an anonymous connection of an address; false when that is one too many.
    fn count_address(&mut self, now: Instant, address: IpAddr) -> bool {
        let limits = &self.config.limits;
        let workers = self.mailboxes.len().max(1);
        // SO_REUSEPORT spreads the connections of one address over the workers; each holds its share.
        let per_address = limits.unauthenticated_per_address.div_ceil(workers);
        // A proxy brings the connections of many.
        let is_proxy = self.config.server.trusted_proxies.iter().any(|net| net.contains(address));
        let state = self.addresses.entry(address).or_insert_with(|| AddressState::new(now, limits));
        state.anonymous += 1;
        state.anonymous <= per_address || is_proxy
    }

    fn no_longer_anonymous(&mut self, address: IpAddr) {
        self.totals.anonymous.fetch_sub(1, Ordering::Relaxed);
        self.uncount_address(address);
    }

    fn uncount_address(&mut self, address: IpAddr) {
        if let Some(state) = self.addresses.get_mut(&address) {
            state.anonymous = state.anonymous.saturating_sub(1);
        }
        if self.addresses.len() > ADDRESSES_KEPT {
            self.addresses.retain(|_, state| state.anonymous > 0);
        }
    }

    fn drop_conn(&mut self, now: Instant, key: ConnKey) {
        self.lose_stream(key);
        if let Some(mut conn) = self.remove(key) {
            let _ = self.poll.registry().deregister(&mut conn.stream);
            if matches!(&conn.protocol, Protocol::Media(media) if !matches!(media.state, MediaState::Verified { .. })) {
                self.metrics.refused_stream();
            }
            self.forget(&conn);
            self.shard.handle_closed(now, key);
        }
    }

    /// Takes a connection out of those that carry media, if it is one; returns where it came from.
    fn forget_stream(&mut self, key: ConnKey) -> Option<SocketAddr> {
        let conn = self.conn_mut(key)?;
        let remote = conn.remote;
        let Protocol::Media(media) = &conn.protocol else { return None };
        let local = media.local()?;
        self.streams.remove(&(local, remote));
        self.metrics.set_streams(self.streams.len());
        Some(remote)
    }

    /// As [`Worker::forget_stream`], when it is the client's doing.
    fn lose_stream(&mut self, key: ConnKey) {
        if let Some(remote) = self.forget_stream(key) {
            self.shard.handle_stream_closed(remote);
        }
    }

    fn keys(&self) -> impl Iterator<Item = ConnKey> + '_ {
        self.conns.iter().map(|(slot, (generation, _))| ConnKey { slot: slot as u32, generation: *generation })
    }

    fn conn_mut(&mut self, key: ConnKey) -> Option<&mut Conn> {
        match self.conns.get_mut(key.slot as usize) {
            Some((generation, conn)) if *generation == key.generation => Some(conn),
            _ => None,
        }
    }

    fn enqueue(&mut self, key: ConnKey) {
        if let Some(conn) = self.conn_mut(key)
            && !conn.is_queued
        {
            conn.is_queued = true;
            self.ready.push_back(key);
        }
    }

    /// Gives connections that have something to do a turn each, until all had one or the time is up: an offer takes a
    /// millisecond or more, and media must not wait for a crowd of them.
    fn serve(&mut self, now: Instant) {
        let begin = Instant::now();
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { return };
            self.serve_one(now, key);
            if begin.elapsed() >= SERVE_TIME {
                return;
            }
        }
    }

    fn serve_one(&mut self, now: Instant, key: ConnKey) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut step = match self.conn_mut(key) {
            Some(conn) => {
                conn.is_queued = false;
                conn.read(now, &mut scratch)
            }
            None => {
                self.scratch = scratch;
                return;
            }
        };
        self.scratch = scratch;
        // What came before the end of the stream still counts.
        let more = self.converse(now, key);
        let mut plain = std::mem::take(&mut self.plain);
        if let Some(conn) = self.conn_mut(key) {
            if !more && conn.understood() == Step::Gone {
                step = Step::Gone;
            }
            if conn.write(now, &mut plain) == Step::Gone {
                step = Step::Gone;
            }
            let again = step == Step::Open && conn.wants_turn();
            if again {
                self.enqueue(key);
            }
        }
        self.plain = plain;
        match step {
            Step::Gone => self.drop_conn(now, key),
            Step::Open => {
                self.read_on(now, key);
                self.arm(key);
            }
        }
    }

    /// Lets the protocol of a connection say what it has understood. True when the budget ended before that did.
    fn converse(&mut self, now: Instant, key: ConnKey) -> bool {
        for _ in 0..MESSAGE_BUDGET {
            let Some(conn) = self.conn_mut(key) else { return false };
            let more = match &mut conn.protocol {
                Protocol::Http(_) => self.converse_http(now, key),
                Protocol::Signaling(_) => self.converse_signaling(now, key),
                Protocol::Media(_) => self.converse_media(now, key),
                Protocol::Closing => false,
            };
            if !more {
                return false;
            }
        }
        self.enqueue(key);
        true
    }

    fn converse_signaling(&mut self, now: Instant, key: ConnKey) -> bool {
        // While a join is under way the next message waits: it is meant for the room. The answer to the join, whatever it
        // is, gives the connection its next turn.
        let Some(max) = self.shard.message_max(key) else { return false };
        let Some(conn) = self.conn_mut(key) else { return false };
        let Protocol::Signaling(ws) = &mut conn.protocol else { return false };
        ws.set_max_message(max);
        match ws.poll_event(now) {
            None => false,
            Some(ws::Event::Text(text)) => {
                self.shard.handle_text(now, key, &text);
                true
            }
            Some(ws::Event::Binary) => {
                self.shard.handle_binary(now, key);
                true
            }
            Some(ws::Event::Pong) => {
                self.shard.handle_pong(now, key);
                true
            }
            // Who closes a page or a socket in due form has left; any other code of a client says that it comes back.
            Some(ws::Event::Closed { code: Some(1000 | 1001 | 1005) } | ws::Event::Invalid | ws::Event::TooLarge) => {
                self.shard.handle_left(now, key);
                true
            }
            Some(ws::Event::Closed { .. }) => {
                self.shard.handle_closed(now, key);
                true
            }
        }
    }

    /// All packets that have come, since there are never many. False: the connection waits for more, or is of no use.
    fn converse_media(&mut self, now: Instant, key: ConnKey) -> bool {
        let Some((_, conn)) = self.conns.get_mut(key.slot as usize) else { return false };
        let remote = conn.remote;
        let Protocol::Media(media) = &mut conn.protocol else { return false };
        if let MediaState::Opening { .. } = media.state {
            let ufrag = match media.reader.opening() {
                Ok(None) => return false,
                Ok(Some(first)) => match demux::classify(first) {
                    demux::Kind::Check(ufrag) => Some(ufrag),
                    _ => None,
                },
                Err(_) => None,
            };
            let local = conn.stream.local_addr().ok().map(|local| canonical(local).ip());
            let local =
                self.stream_addresses.iter().find(|(ip, _)| Some(*ip) == local).map(|(_, announced)| *announced);
            let (Some(ufrag), Some(local)) = (ufrag, local) else {
                self.metrics.refused_stream();
                conn.abandon();
                return false;
            };
            if !self.shard.has_ufrag(ufrag) {
                self.pass_on(now, key);
                return false;
            }
            media.state = MediaState::Claimed { local, packets: 0 };
            // What the kernel holds back can neither be dropped nor overtaken.
            let _ = SockRef::from(&conn.stream).set_tcp_notsent_lowat(NOT_SENT_MAX);
            self.streams.insert((local, remote), key);
            self.metrics.set_streams(self.streams.len());
        }
        let Some(local) = media.local() else { return false };
        let is_good = loop {
            let packet = match media.reader.poll() {
                Ok(Some(packet)) => packet,
                Ok(None) => break true,
                Err(_) => break false,
            };
            self.shard.handle_frame(now, local, remote, packet);
            if let MediaState::Claimed { packets, .. } = &mut media.state {
                *packets += 1;
                if self.shard.knows_stream(remote) {
                    media.state = MediaState::Verified { local };
                } else if *packets == CLAIMED_PACKETS_MAX {
                    break false;
                }
            }
            if let MediaState::Verified { .. } = media.state {
                media.deadline = now + self.config.limits.keep_alive;
            }
        };
        let is_verified = matches!(media.state, MediaState::Verified { .. });
        if is_verified && std::mem::take(&mut conn.is_anonymous) {
            self.no_longer_anonymous(remote.ip());
        }
        if !is_good {
            self.metrics.refused_stream();
            self.lose_stream(key);
            if let Some(conn) = self.conn_mut(key) {
                conn.abandon();
            }
        }
        false
    }

    fn converse_http(&mut self, now: Instant, key: ConnKey) -> bool {
        let Some(conn) = self.conn_mut(key) else { return false };
        let Protocol::Http(http) = &mut conn.protocol else { return false };
        match http.poll(now) {
            HttpPoll::Pending => false,
            HttpPoll::Continue => {
                let _ = conn.queue(http::parse::CONTINUE);
                true
            }
            HttpPoll::Close => {
                conn.finish();
                false
            }
            HttpPoll::Refuse(refusal) => {
                self.respond(now, key, &refusal.response(), false, false);
                false
            }
            HttpPoll::Request(request) => {
                self.handle_request(now, key, &request);
                true
            }
        }
    }

    fn handle_request(&mut self, now: Instant, key: ConnKey, request: &http::Request) {
        let Some(connection) = self.conn_mut(key).map(|c| c.remote.ip()) else { return };
        let api = self.api.clone();
        let address = http::forwarded::client(request, connection, &self.config.server.trusted_proxies);
        let mut caller = Asker { address, now, limits: &self.config.limits, states: &mut self.addresses };
        let answer = api.answer(request, &mut caller, SystemTime::now());
        match answer {
            Answer::Response(response) => {
                let head_only = request.method == http::Method::Head;
                self.respond(now, key, &response, head_only, true);
            }
            Answer::Upgrade { accept, grants } => {
                let request_id = self.request_id();
                let session = Session::new(now, *grants, &self.session_limits);
                let limits = self.ws_limits.clone();
                let Some(conn) = self.conn_mut(key) else { return };
                if conn.queue(&accept.response(&request_id)).is_err() {
                    conn.finish();
                    return;
                }
                let mut ws = Ws::new(now, limits);
                if let Protocol::Http(http) = std::mem::replace(&mut conn.protocol, Protocol::Closing) {
                    ws.handle_bytes(now, &http.take_rest());
                }
                conn.protocol = Protocol::Signaling(Box::new(ws));
                conn.is_anonymous = false;
                self.no_longer_anonymous(connection);
                self.shard.handle_open(key, session);
            }
            Answer::Room { room, question, headers } => {
                self.question_serial = self.question_serial.wrapping_add(1);
                let number = self.question_serial;
                let head_only = request.method == http::Method::Head;
                let Some(conn) = self.conn_mut(key) else { return };
                conn.waiting = Some(Waiting { number, until: now + ANSWER_WITHIN, head_only, headers, terms: None });
                self.shard.handle_question(now, key, number, room, question);
            }
            Answer::Library { asked, headers } => {
                self.ask_library(now, key, asked, headers, request.method == http::Method::Head);
            }
        }
    }

    fn respond(&mut self, now: Instant, key: ConnKey, response: &Response, head_only: bool, may_keep: bool) {
        let request_id = self.request_id();
        let mut bytes = std::mem::take(&mut self.plain);
        bytes.clear();
        if let Some(conn) = self.conn_mut(key)
            && let Protocol::Http(http) = &mut conn.protocol
        {
            let keep_alive = may_keep && http.keep_alive();
            response.encode(head_only, &request_id, keep_alive, &mut bytes);
            http.response_sent(now, keep_alive);
            if conn.queue(&bytes).is_err() || !keep_alive {
                conn.finish();
            }
        }
        self.plain = bytes;
    }

    fn request_id(&mut self) -> String {
        self.request_serial += 1;
        format!("{:016x}{:08x}", self.request_salt, self.request_serial)
    }

    fn arm(&mut self, key: ConnKey) {
        let write_timeout = self.config.limits.write_timeout;
        match self.conn_mut(key).and_then(|conn| conn.poll_timeout(write_timeout)) {
            Some(at) => self.timers.set(key.slot as usize, at),
            None => self.timers.cancel(key.slot as usize),
        }
    }

    fn expire(&mut self, now: Instant) {
        let write_timeout = self.config.limits.write_timeout;
        while let Some(slot) = self.timers.expired(now) {
            let Some((generation, conn)) = self.conns.get_mut(slot) else { continue };
            let key = ConnKey { slot: slot as u32, generation: *generation };
            let in_vain = conn.waited_in_vain(now);
            let misses_piece = conn.misses_piece(now);
            match conn.handle_timeout(now, write_timeout) {
                Step::Gone => self.drop_conn(now, key),
                Step::Open => {
                    if let Some(waiting) = in_vain {
                        let response = match waiting.terms {
                            Some(_) => http::recordings::unavailable(),
                            None => Reply::Unavailable(Unavailable::Late).response(),
                        };
                        self.respond_waiting(now, key, waiting, response);
                    }
                    if misses_piece {
                        self.give_up_download(now, key, Unreadable::Failed);
                    }
                    self.enqueue(key);
                }
            }
        }
    }
}

/// The caller of a request, as the API sees it.
struct Asker<'a> {
    address: IpAddr,
    now: Instant,
    limits: &'a Limits,
    states: &'a mut FxHashMap<IpAddr, AddressState>,
}

impl Asker<'_> {
    fn state(&mut self) -> &mut AddressState {
        self.states.entry(self.address).or_insert_with(|| AddressState::new(self.now, self.limits))
    }
}

impl AddressState {
    fn new(now: Instant, limits: &Limits) -> AddressState {
        AddressState {
            anonymous: 0,
            bad_tokens: TokenBucket::new(now, limits.bad_token_rate, limits.bad_token_burst),
            may_try: true,
        }
    }
}

impl Caller for Asker<'_> {
    fn address(&self) -> IpAddr {
        self.address
    }

    fn may_try(&mut self) -> bool {
        let now = self.now;
        let state = self.state();
        if !state.may_try {
            state.may_try = state.bad_tokens.take(now);
        }
        state.may_try
    }

    fn note_bad_token(&mut self) {
        let now = self.now;
        let state = self.state();
        state.may_try = state.bad_tokens.take(now);
    }
}

/// An IPv4 address that came through a dual-stack socket is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Errors of `accept` that concern the connection that was to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::PermissionDenied
    )
}

fn random_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    // Without randomness request ids repeat between workers, which is no more than a nuisance.
    let _ = openssl::rand::rand_bytes(&mut bytes);
    bytes
}

const WAKER: Token = Token(0);
const LISTENERS: usize = 1;
const MEDIA: usize = 64;
const CONNS: usize = 1024;
/// Mails that wait for one worker: joins on their way. Beyond, the join is refused.
const MAILBOX: usize = 4096;
const MAIL_BUDGET: usize = 256;
const RECEIVE_ROUNDS: usize = 4;
const ACCEPT_BUDGET: usize = 32;
/// What media may wait for TCP in one turn, besides the one message that exceeds it.
const SERVE_TIME: Duration = Duration::from_millis(2);
/// Messages of one connection before the others have their turn.
const MESSAGE_BUDGET: usize = 4;
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_MAIL: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Packets on a connection whose owner did not yet recognise it: checks that are repeated until the answer to our offer
/// is there.
const CLAIMED_PACKETS_MAX: u8 = 64;
/// Octets of a media connection that the kernel holds and has not sent: a quarter of a second at 1 Mbit/s.
const NOT_SENT_MAX: u32 = 32 * 1024;
/// Far more than mail between workers takes, and less than clients wait: a worker that needs longer is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// For closing frames and close_notify at the end.
const STOP_GRACE: Duration = Duration::from_millis(1000);
/// Addresses remembered before those without open connections are forgotten.
const ADDRESSES_KEPT: usize = 16 * 1024;
