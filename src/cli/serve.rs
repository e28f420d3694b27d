//! Runs the server: opens its sockets, starts a worker per core, waits for signals, drains, stops.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use super::addresses::MediaAddress;
use super::{Prepared, ServeError};
use crate::base::WorkerId;
use crate::config::{Config, TlsFiles, VideoCodec};
use crate::db::Database;
use crate::db::deletion::Retention;
use crate::http::api::{Api, DevMode};
use crate::http::cors::Origins;
use crate::jobs::{Done, Job, Jobs, certificate};
use crate::metrics::Metrics;
use crate::peer::{self, PeerConfig};
use crate::recording::feed::{Notice, NoticeKind};
use crate::shard::{Mail, ShardConfig};
use crate::storage::files::Files;
use crate::storage::recorder::{self, NoticeTo, Recorders};
use crate::storage::{cloud, uploader};
use crate::worker::udp::UdpSocket;
use crate::worker::{self, Mailbox, Media, Totals, Worker, WorkerConfig, WorkerMail};

/// Serves until a signal ends it.
pub fn serve(prepared: Prepared) -> Result<(), ServeError> {
    let Prepared { config, dev_mode, verifier, signer, dev_code, addresses, lock } = prepared;
    // Made before the first join has to wait for it.
    peer::crypto::provider();
    peer::crypto::certificate();

    let config = Arc::new(config);
    let workers = config.server.workers;
    let metrics = Arc::new(Metrics::new(workers));
    let verifier = Arc::new(verifier);
    let origins = Origins::new(&config.server.allowed_origins).map_err(|e| fail("ALLOWED_ORIGINS", e))?;
    let dev = match (dev_mode, signer) {
        (true, Some(signer)) => Some(DevMode { signer, code: dev_code }),
        _ => None,
    };
    let api = Arc::new(Api::new(config.clone(), verifier.clone(), origins, metrics.clone(), dev));
    let tls = tls(&config, &addresses)?;
    let scheme = if tls.is_some() { "https" } else { "http" };

    let http = http_addresses(&config, dev_mode);
    let (listeners, http) = listen(&http, workers)?;
    let streams = stream_addresses(&http, &addresses);
    let totals = Arc::new(Totals::default());
    let mut polls = Vec::new();
    let mut mailboxes = Vec::new();
    for _ in 0..workers {
        let poll = mio::Poll::new().map_err(|e| fail("event loop", e))?;
        let (mailbox, inbox) = worker::mailbox(&poll).map_err(|e| fail("event loop", e))?;
        mailboxes.push(mailbox);
        polls.push((poll, inbox));
    }
    // Its directory is private, like everything that is kept of calls.
    let database = config.server.data_dir.join("webrtc-engine.db");
    let retention = Retention::days(config.recording.retention_days);
    let database = Database::start_with(&database, &config.recording.output_dir, retention);
    let database = database.map_err(|e| fail("database", e))?;
    let store = cloud::open(&config).map_err(|e| ServeError(e.to_string()))?;
    let files = Files::start_with(store.clone()).map_err(|e| fail("files", e))?;
    let recording = &config.recording;
    let upload = store.map(|store| uploader::Config::new(store, &recording.output_dir, recording.keep_local));
    let recorder = recorder::Config { upload, ..recorder::Config::of(&config, workers) };
    let recorders = Recorders::start(recorder, notice_to(mailboxes.clone()), database.sender())
        .map_err(|e| fail("recorder threads", e))?;
    let mut media_report = Vec::new();
    let mut threads = Vec::new();
    let mut ready = Vec::new();
    for (index, ((poll, inbox), listeners)) in polls.into_iter().zip(listeners).enumerate() {
        let media = media_sockets(&config, &addresses, index)?;
        let candidates: Vec<SocketAddr> = media.iter().flat_map(|m| m.announced.iter().copied()).collect();
        media_report.extend(candidates.iter().copied());
        let tcp_candidates = streams.iter().map(|(_, announced)| *announced).collect();
        let shard = ShardConfig {
            worker: WorkerId(index as u8),
            workers: workers as u8,
            config: config.clone(),
            peer: Arc::new(peer_config(&config, candidates, tcp_candidates)),
            verifier: verifier.clone(),
            metrics: metrics.workers[index].clone(),
            dev_mode,
            seed: seed(),
        };
        ready.push(
            Worker::new(WorkerConfig {
                id: WorkerId(index as u8),
                config: config.clone(),
                api: api.clone(),
                shard,
                listeners,
                media,
                streams: streams.clone(),
                tls: tls.clone(),
                inbox,
                poll,
                mailboxes: mailboxes.clone(),
                library: Some(database.sender()),
                files: Some(files.sender()),
                totals: totals.clone(),
                metrics: metrics.workers[index].clone(),
                recorder: {
                    let handle = recorders.handle();
                    Arc::new(move |feed| handle.send(feed).map_err(Box::new))
                },
            })
            .map_err(|e| fail("event loop", e))?,
        );
    }
    let signals = Signals::new().map_err(|e| fail("signals", e))?;
    let jobs = Jobs::start().map_err(|e| fail("jobs", e))?;
    let cores = allowed_cores();
    for (index, worker) in ready.into_iter().enumerate() {
        let core = cores.get(index % cores.len().max(1)).copied();
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                if let Some(core) = core {
                    pin(core);
                }
                worker.run()
            })
            .map_err(|e| fail("worker thread", e))?;
        threads.push(thread);
    }
    report(scheme, &http, dev_mode, &media_report);

    let server = Server { config, api, metrics, mailboxes, threads, jobs };
    let result = server.supervise(signals);
    // Workers have ended every recording; head and cues take seconds, what comes after them the next start can do as well.
    recorders.stop(Instant::now() + RECORDERS_STOP);
    database.close();
    drop(lock);
    result
}

/// Takes what the threads that record have to say to the worker of the room.
fn notice_to(mailboxes: Vec<Mailbox>) -> Arc<NoticeTo> {
    Arc::new(move |worker: WorkerId, notice: Notice| {
        let Some(mailbox) = mailboxes.get(usize::from(worker.0)) else { return };
        let may_get_lost = matches!(notice.what, NoticeKind::KeyframeWanted { .. });
        let mut mail = WorkerMail::Shard(Mail::Recording(notice));
        // A full mailbox empties within a turn of its loop; one whose worker has ended never does.
        for _ in 0..NOTICE_TRIES {
            match mailbox.send(mail) {
                Ok(()) => return,
                Err(_) if may_get_lost => return,
                Err(back) => mail = *back,
            }
            thread::sleep(Duration::from_millis(1));
        }
    })
}

/// What the starting thread watches over.
struct Server {
    config: Arc<Config>,
    api: Arc<Api>,
    metrics: Arc<Metrics>,
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    jobs: Jobs,
}

impl Server {
    fn supervise(self, mut signals: Signals) -> Result<(), ServeError> {
        let mut drain_until: Option<Instant> = None;
        let mut stamp = self.config.server.tls.as_ref().map(modified);
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        loop {
            let signal = signals.wait(TICK).map_err(|e| fail("signals", e))?;
            match signal {
                Some(SIGHUP) => self.reload_certificate(),
                Some(_) if drain_until.is_some() => break,
                Some(_) => {
                    let timeout = self.config.server.shutdown_timeout;
                    tracing::info!(
                        participants = self.metrics.participants(),
                        "draining: no new calls, waiting up to {} s; a second signal stops now",
                        timeout.as_secs()
                    );
                    self.api.draining.store(true, Ordering::Relaxed);
                    self.tell_all(|| WorkerMail::Drain);
                    drain_until = Some(Instant::now() + timeout);
                }
                None => {}
            }
            if drain_until.is_some_and(|until| Instant::now() >= until || self.metrics.participants() == 0) {
                break;
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                break;
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK_INTERVAL;
                let now = self.config.server.tls.as_ref().map(modified);
                if now != stamp {
                    stamp = now;
                    self.reload_certificate();
                }
            }
            while let Some(done) = self.jobs.poll_done() {
                match done {
                    Done::Certificate(Ok(tls)) => {
                        tracing::info!("certificate reloaded");
                        self.tell_all(|| WorkerMail::Tls(tls.clone()));
                    }
                    Done::Certificate(Err(error)) => {
                        tracing::error!("the certificate in use stays: {error}");
                    }
                }
            }
        }
        self.tell_all(|| WorkerMail::Stop);
        let mut failure = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => failure = Some(fail("event loop", e)),
                Err(_) => failure = Some(ServeError("a worker panicked".into())),
            }
        }
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err)
    }

    fn reload_certificate(&self) {
        if let Some(files) = &self.config.server.tls
            && self.jobs.submit(Job::LoadCertificate(files.clone())).is_err()
        {
            tracing::error!("the certificate was not reloaded: too many jobs wait");
        }
    }

    fn tell_all(&self, mail: impl Fn() -> WorkerMail) {
        for mailbox in &self.mailboxes {
            let mut mail = mail();
            // A full mailbox empties within a turn of its loop; one whose worker has ended never does.
            for _ in 0..MAIL_TRIES {
                match mailbox.send(mail) {
                    Ok(()) => break,
                    Err(back) => mail = *back,
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Signals as bytes in a pipe, so that waiting for them has a timeout.
struct Signals(UnixStream, Vec<(i32, UnixStream)>);

impl Signals {
    fn new() -> io::Result<Signals> {
        // One pipe per signal would lose the order; one byte per signal is all that is needed.
        let (wake, write) = UnixStream::pair()?;
        let mut pipes = Vec::new();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let (read, end) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal, end)?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
            pipes.push((signal, read));
        }
        Ok(Signals(wake, pipes))
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<Option<i32>> {
        self.0.set_read_timeout(Some(timeout))?;
        match self.0.read(&mut [0; 1]) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(None),
            Err(e) => return Err(e),
        }
        for (signal, pipe) in &mut self.1 {
            if matches!(pipe.read(&mut [0; 1]), Ok(1)) {
                return Ok(Some(*signal));
            }
        }
        Ok(None)
    }
}

fn tls(config: &Config, addresses: &[MediaAddress]) -> Result<Option<Arc<rustls::ServerConfig>>, ServeError> {
    if let Some(files) = &config.server.tls {
        return certificate::load(files).map(Some).map_err(ServeError);
    }
    if !config.server.tls_self_signed {
        return Ok(None);
    }
    let mut names: Vec<IpAddr> = addresses.iter().map(|a| a.announced).collect();
    names.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    names.sort_unstable();
    names.dedup();
    certificate::self_signed(&names).map(Some).map_err(ServeError)
}

fn modified(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    [&files.cert, &files.key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

/// Where to listen: as configured; else loopback in development mode and everywhere otherwise. The second of a pair may
/// be missing on a host without that family.
fn http_addresses(config: &Config, dev_mode: bool) -> Vec<Vec<SocketAddr>> {
    let port = config.server.port;
    match config.server.host {
        Some(host) => vec![vec![SocketAddr::new(host, port)]],
        None if dev_mode => vec![
            vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)],
            vec![SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)],
        ],
        // One socket for both families, or the older one alone.
        None => vec![vec![
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        ]],
    }
}

type Listeners = Vec<Vec<std::net::TcpListener>>;

/// Opens a listener per address and worker. Each group needs one of its alternatives; only the first group is a must.
fn listen(groups: &[Vec<SocketAddr>], workers: usize) -> Result<(Listeners, Vec<SocketAddr>), ServeError> {
    for attempt in 0.. {
        match try_listen(groups, workers) {
            // A free port of one family may be taken in the other.
            Err(e) if e.1.kind() == io::ErrorKind::AddrInUse && groups[0][0].port() == 0 && attempt < 16 => {}
            Err((address, e)) => return Err(fail(&format!("cannot listen on {address}"), e)),
            Ok(listening) => return Ok(listening),
        }
    }
    unreachable!("the loop returns")
}

fn try_listen(
    groups: &[Vec<SocketAddr>],
    workers: usize,
) -> Result<(Listeners, Vec<SocketAddr>), (SocketAddr, io::Error)> {
    let mut listeners: Listeners = (0..workers).map(|_| Vec::new()).collect();
    let mut bound: Vec<SocketAddr> = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let mut failure = None;
        for address in group {
            let mut address = *address;
            if let Some(first) = bound.first() {
                address.set_port(first.port());
            }
            match free(address).and_then(|()| listener(address)) {
                Ok(first) => {
                    let actual = first.local_addr().map_err(|e| (address, e))?;
                    listeners[0].push(first);
                    for others in &mut listeners[1..] {
                        others.push(listener(actual).map_err(|e| (actual, e))?);
                    }
                    bound.push(actual);
                    failure = None;
                    break;
                }
                Err(e) => failure = failure.or(Some((address, e))),
            }
        }
        match failure {
            Some((address, e)) if number == 0 || e.kind() == io::ErrorKind::AddrInUse => return Err((address, e)),
            Some((address, e)) => tracing::debug!(%address, error = %e, "not listening"),
            None => {}
        }
    }
    Ok((listeners, bound))
}

/// Whether nobody has this address. [`listener`] alone would share the port with another server, which would take half
/// of the connections.
fn free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// A socket per address for one worker, and the addresses that candidates name for it.
fn media_sockets(config: &Config, addresses: &[MediaAddress], worker: usize) -> Result<Vec<Media>, ServeError> {
    let mut by_bind: BTreeMap<IpAddr, Vec<IpAddr>> = BTreeMap::new();
    for address in addresses {
        let announced = by_bind.entry(address.bind).or_default();
        if !announced.contains(&address.announced) {
            announced.push(address.announced);
        }
    }
    let port = match config.rtc.udp_port {
        0 => 0,
        first => first + worker as u16,
    };
    let mut media = Vec::new();
    for (bind, announced) in by_bind {
        let socket = UdpSocket::bind(SocketAddr::new(bind, port))
            .map_err(|e| fail(&format!("RTC_UDP_PORT: cannot bind {}", SocketAddr::new(bind, port)), e))?;
        let port = socket.local().port();
        media.push(Media { socket, announced: announced.into_iter().map(|ip| SocketAddr::new(ip, port)).collect() });
    }
    Ok(media)
}

/// Every local and announced address of media on which HTTP listens as well, with its port: where ICE-TCP is accepted, and
/// what candidates name for it.
fn stream_addresses(http: &[SocketAddr], addresses: &[MediaAddress]) -> Vec<(IpAddr, SocketAddr)> {
    let port = |bind: IpAddr| {
        let listener = http.iter().find(|listener| match listener.ip() {
            // This one takes both families, see `listener`.
            IpAddr::V6(ip) if ip.is_unspecified() => true,
            IpAddr::V4(ip) if ip.is_unspecified() => bind.is_ipv4(),
            ip => ip == bind,
        });
        listener.map(SocketAddr::port)
    };
    addresses.iter().filter_map(|a| Some((a.bind, SocketAddr::new(a.announced, port(a.bind)?)))).collect()
}

fn peer_config(config: &Config, candidates: Vec<SocketAddr>, tcp_candidates: Vec<SocketAddr>) -> PeerConfig {
    let mut video_codecs = config.encoding.video_codecs.clone();
    // The preferred first; the others stay usable, for clients that have none of them.
    for codec in [VideoCodec::Vp8, VideoCodec::H264, VideoCodec::Vp9, VideoCodec::Av1] {
        if !video_codecs.contains(&codec) {
            video_codecs.push(codec);
        }
    }
    PeerConfig {
        candidates,
        tcp_candidates,
        video_codecs,
        audio_bitrate: config.encoding.audio_bitrate,
        video_max_bitrate: config.encoding.video_max_bitrate,
        retransmission_share: config.limits.retransmission_percent as f32 / 100.0,
        limits: peer::sdp::Limits {
            bytes: config.limits.sdp_size,
            lines: config.limits.sdp_media,
            payload_types_per_line: config.limits.sdp_payload_types,
        },
        channels: config.limits.data_channels,
        channel_message: config.limits.data_message,
        channel_buffer: config.limits.data_buffered,
    }
}

/// One line: where it is, how it runs, which ports a firewall has to let through.
fn report(scheme: &str, http: &[SocketAddr], dev_mode: bool, media: &[SocketAddr]) {
    let mut line = format!("webrtc-engine {} listening on ", env!("CARGO_PKG_VERSION"));
    for (index, address) in http.iter().enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        let host = match address.ip() {
            ip if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        let _ = write!(line, "{separator}{scheme}://{host}:{}/", address.port());
    }
    line.push_str(if dev_mode { " (development mode), media udp" } else { ", media udp" });
    for address in media {
        let _ = write!(line, " {address}");
    }
    // Whoever started the server may not care to read.
    let _ = writeln!(io::stdout(), "{line}");
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // What the seed feeds need not be secret.
    let _ = openssl::rand::rand_bytes(&mut bytes);
    u64::from_ne_bytes(bytes)
}

fn fail(what: &str, error: impl std::fmt::Display) -> ServeError {
    ServeError(format!("{what}: {error}"))
}

/// The cores that this process may use.
fn allowed_cores() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is plain data for which zeroes are an empty set, and the call writes at most its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &set)).collect()
    }
}

/// Keeps the calling thread on one core. Where that is not allowed it runs anywhere, which is only slower.
fn pin(core: usize) {
    // SAFETY: as above; the set has one core, below CPU_SETSIZE.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0
    };
    if failed {
        tracing::debug!(core, "the worker is not pinned");
    }
}

/// How often the starter looks whether calls have ended, and jobs are done.
const TICK: Duration = Duration::from_millis(200);
/// How often the certificate's files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
const MAIL_TRIES: usize = 1000;
/// The same of a thread that records, which has other things to do.
const NOTICE_TRIES: usize = 50;
/// For heads and cues of all recordings, and what else can be done in that time.
const RECORDERS_STOP: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ice_tcp_is_announced_where_http_listens() {
        let address = |bind: &str, announced: &str| MediaAddress {
            bind: bind.parse().unwrap(),
            announced: announced.parse().unwrap(),
        };
        let addresses = [
            address("10.0.0.5", "10.0.0.5"),
            address("2001:db8::5", "2001:db8::5"),
            address("10.0.0.5", "203.0.113.9"),
            address("127.0.0.1", "127.0.0.1"),
        ];
        let rows: [(&[&str], &[&str]); 6] = [
            (&["[::]:3000"], &["10.0.0.5:3000", "[2001:db8::5]:3000", "203.0.113.9:3000", "127.0.0.1:3000"]),
            (&["0.0.0.0:80"], &["10.0.0.5:80", "203.0.113.9:80", "127.0.0.1:80"]),
            (&["127.0.0.1:3000", "[::1]:3000"], &["127.0.0.1:3000"]),
            (&["10.0.0.5:443"], &["10.0.0.5:443", "203.0.113.9:443"]),
            (&["203.0.113.9:443"], &[]),
            (&[], &[]),
        ];
        for (http, wanted) in rows {
            let http: Vec<SocketAddr> = http.iter().map(|a| a.parse().unwrap()).collect();
            let found: Vec<String> = stream_addresses(&http, &addresses).iter().map(|(_, a)| a.to_string()).collect();
            assert_eq!(found, wanted, "{http:?}");
        }
    }
}
