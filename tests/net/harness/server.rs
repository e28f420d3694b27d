//! The server as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use webrtc_engine::auth::{Claims, Role, RoomScope, Signer};
use webrtc_engine::base::{RoomId, UserId};
use webrtc_engine::config::{AuthConfig, Secret};

use super::DEADLINE;

const SECRET: &str = "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo";

/// A token for every room.
pub fn token(user: &str, role: Role) -> String {
    mint(user, role, RoomScope::Any, SECRET)
}

/// A token for one room.
pub fn token_for(user: &str, room: &str) -> String {
    mint(user, Role::Participant, RoomScope::Rooms(vec![RoomId::new(room).unwrap()]), SECRET)
}

/// A token that another server has signed.
pub fn foreign_token(user: &str) -> String {
    mint(user, Role::Admin, RoomScope::Any, "another secret of at least 32 bytes: 9f27")
}

fn mint(user: &str, role: Role, rooms: RoomScope, secret: &str) -> String {
    let config = AuthConfig { jwt_secret: Some(Secret::new(secret)), ..AuthConfig::default() };
    let user = UserId::new(user).unwrap();
    let claims = Claims { user, name: None, role, rooms, permissions: None, ttl: Duration::from_secs(3600) };
    Signer::new(&config).unwrap().unwrap().mint(&claims, SystemTime::now())
}

/// A directory that goes with its last owner.
#[derive(Clone)]
pub struct TempDir(Arc<Owned>);

struct Owned(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("net-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(Arc::new(Owned(path)))
    }

    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a server is to be started. Nothing of this process's environment reaches it.
pub struct Setup {
    dir: TempDir,
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// The process that holds the disk on which recordings are.
    disk: Option<u32>,
}

impl Setup {
    /// On loopback, with a JWT secret.
    pub fn new() -> Self {
        Setup::dev().env("JWT_SECRET", SECRET).env("HOST", "127.0.0.1")
    }

    /// In development mode.
    pub fn dev() -> Self {
        let setup = Setup { dir: TempDir::new(), env: Vec::new(), args: Vec::new(), disk: None };
        // Most stories end with connections that are dropped, and are not about those who might come back.
        let setup = setup.env("LIMIT_RESUME", "0s");
        setup.env("PORT", 0).env("RTC_UDP_PORT", 0).env("WORKERS", 1).env("RTC_ANNOUNCED_IPS", "127.0.0.1")
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub fn dir(mut self, dir: &TempDir) -> Self {
        self.dir = dir.clone();
        self
    }

    /// Recordings are there.
    pub fn disk(self, disk: &Disk) -> Self {
        let setup = self.env("RECORDING_OUTPUT_DIR", disk.mounted.path().display());
        Setup { disk: Some(disk.holder.id()), ..setup }
    }

    pub fn temp_dir(&self) -> TempDir {
        self.dir.clone()
    }

    /// Starts and waits until it listens.
    pub fn start(self) -> Server {
        let mut server = self.spawn();
        let line = server.stdout.get_mut().unwrap().recv_timeout(DEADLINE);
        match line {
            Ok(line) => {
                let Some((http, media)) = addresses(&line) else { panic!("not a start-up line: {line}") };
                (server.http, server.media, server.line) = (http, media, line);
                server
            }
            Err(e) => panic!("the server does not start: {e}"),
        }
    }

    /// Runs to the end: exit code, standard output, standard error.
    pub fn run(self) -> (i32, String, String) {
        let mut server = self.spawn();
        let mut out = String::new();
        let code = server.wait_with(|line| out.push_str(&(line + "\n")));
        (code, out, server.all_of_stderr())
    }

    /// Where its disk is to be seen.
    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_webrtc-engine");
        let Some(holder) = self.disk else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &holder.to_string()]);
        command.args(if is_root() { [].as_slice() } else { &["--user", "--preserve-credentials"] });
        command.arg("--").arg(program);
        command
    }

    /// Starts, and does not wait.
    pub fn spawn(self) -> Server {
        let path = std::env::var_os("PATH").filter(|_| self.disk.is_some());
        let mut child = self
            .command()
            .args(&self.args)
            .env_clear()
            .env("DATA_DIR", self.dir.path().join("data"))
            .envs(self.env)
            .envs(path.map(|path| ("PATH", path)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server can be run");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, receive) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let log = Arc::new(Log::default());
        let (mut stderr, writer) = (child.stderr.take().unwrap(), log.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut bytes) {
                writer.text.lock().unwrap().0.push_str(&String::from_utf8_lossy(&bytes[..n]));
                writer.more.notify_all();
            }
            writer.text.lock().unwrap().1 = true;
            writer.more.notify_all();
        });
        Server {
            child,
            stdout: Mutex::new(receive),
            log,
            http: Vec::new(),
            media: Vec::new(),
            line: String::new(),
            _dir: self.dir,
        }
    }
}

/// A disk for recordings, which only a process that holds it, and servers that are told, see.
pub struct Disk {
    holder: Child,
    mounted: TempDir,
}

impl Disk {
    /// Of so many octets. `None`: nobody may mount here.
    pub fn new(octets: u64) -> Option<Disk> {
        let mounted = TempDir::new();
        let mut command = Command::new("unshare");
        command.args(if is_root() { ["--mount"].as_slice() } else { &["--mount", "--map-root-user"] });
        // It ends with its standard input, and so does the disk.
        let script = r#"mount -t tmpfs -o "size=$1" recordings "$2" && echo mounted && exec cat"#;
        command.args(["sh", "-c", script, "sh", &octets.to_string()]).arg(mounted.path());
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut said = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said);
        let disk = Disk { holder, mounted };
        (said == "mounted\n").then_some(disk)
    }

    /// Where what is on it can be seen by anybody.
    pub fn path(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.holder.id().to_string()).join("root");
        root.join(self.mounted.path().strip_prefix("/").unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn is_root() -> bool {
    // SAFETY: it has no arguments, and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Standard error so far, and whether it has ended.
#[derive(Default)]
struct Log {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

/// A running server; ends with the value.
pub struct Server {
    child: Child,
    stdout: Mutex<Receiver<String>>,
    log: Arc<Log>,
    /// Where it listens.
    pub http: Vec<SocketAddr>,
    /// Its media sockets.
    pub media: Vec<SocketAddr>,
    /// What it said when it started.
    pub line: String,
    _dir: TempDir,
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.http[0]
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its id is still its own.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "signal {signal}");
    }

    /// The exit code, once it has ended.
    pub fn wait(&mut self) -> i32 {
        self.wait_with(|_| {})
    }

    fn wait_with(&mut self, mut on_line: impl FnMut(String)) -> i32 {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.stdout.get_mut().unwrap().recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => on_line(line),
                // Standard output ends with the process.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the server does not end"),
            }
        }
        self.child.wait().expect("a child").code().expect("an exit code, not a signal")
    }

    /// Waits until the log has a text `times` times.
    pub fn wait_for_log(&self, text: &str, times: usize) {
        let until = Instant::now() + DEADLINE;
        let mut log = self.log.text.lock().unwrap();
        while log.0.matches(text).count() < times {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !log.1, "the log never says {text:?}");
            log = self.log.more.wait_timeout(log, left).unwrap().0;
        }
    }

    fn all_of_stderr(&self) -> String {
        let mut log = self.log.text.lock().unwrap();
        while !log.1 {
            log = self.log.more.wait_timeout(log, DEADLINE).unwrap().0;
        }
        log.0.clone()
    }

    /// Standard error so far.
    pub fn log(&self) -> String {
        self.log.text.lock().unwrap().0.clone()
    }

    /// What `GET /stats` says.
    pub fn stats(&self) -> serde_json::Value {
        let mut http = super::Http::connect(self);
        http.send(&format!(
            "GET /stats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            token("root", Role::Admin)
        ));
        let response = http.response();
        assert_eq!(response.status, 200);
        response.json()
    }

    /// The sum of a counter over all workers.
    pub fn count(&self, counter: &str) -> u64 {
        let stats = self.stats();
        stats["workers"].as_array().unwrap().iter().map(|worker| worker[counter].as_u64().expect("a counter")).sum()
    }

    /// Asks `GET /stats` until it says what is wanted.
    pub fn wait_for_stats(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
        let until = Instant::now() + DEADLINE;
        loop {
            let stats = self.stats();
            if is_so(&stats) {
                return;
            }
            assert!(Instant::now() < until, "the statistics never show {what}: {stats}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's log\n{}---", self.log());
        }
    }
}

/// From `… listening on http://127.0.0.1:3000/, http://[::1]:3000/ (development mode), media udp 127.0.0.1:4000`.
fn addresses(line: &str) -> Option<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let (_, rest) = line.split_once("listening on ")?;
    let (http, media) = rest.split_once("media udp ")?;
    let http = http.split([' ', ',']).filter_map(|word| {
        let (_, address) = word.split_once("://")?;
        address.trim_end_matches('/').replace("localhost", "127.0.0.1").parse().ok()
    });
    let http: Vec<SocketAddr> = http.collect();
    let media: Result<Vec<SocketAddr>, _> = media.split(' ').map(str::parse).collect();
    (!http.is_empty()).then_some((http, media.ok()?))
}
