//! Tools, servers that are programs, files, and stores as the configuration makes them.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use webrtc_engine::config::Config;
use webrtc_engine::storage::cloud::{Timeouts, open_with};
use webrtc_engine::storage::store::{Fault, Object, PartTag, Range, Sent, Store, Stored, UploadId};

/// How long a failure takes to be one.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const MIB: u64 = 1 << 20;
pub const WEBM: &str = "video/webm";

pub fn e2e() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e")
}

/// The path of a tool, or a line that says what is skipped.
pub fn tool(below_e2e: &str, story: &str) -> Option<PathBuf> {
    let path = e2e().join(below_e2e);
    if path.exists() {
        return Some(path);
    }
    let required = ["CI", "E2E_REQUIRE"].iter().any(|name| std::env::var_os(name).is_some_and(|value| value != "0"));
    assert!(!required, "{story}: {} is missing; tests/e2e/setup.sh installs it", path.display());
    println!("SKIPPED {story}: {} is missing; tests/e2e/setup.sh installs it", path.display());
    None
}

/// A directory that goes with its test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("webrtc-engine-stores-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of that many octets, none of them like those around.
    pub fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content(size)).expect("it can be written");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn content(size: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut octets = Vec::with_capacity(size as usize + 4);
    while octets.len() < size as usize {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        octets.extend_from_slice(&state.to_le_bytes());
    }
    octets.truncate(size as usize);
    octets
}

/// A program that serves on a port of loopback, until it is dropped.
pub struct Program {
    pub address: SocketAddr,
    child: Child,
}

impl Program {
    /// `command` is given a port. Another may take the port in between, so it is tried a few times.
    pub fn start(command: impl Fn(u16) -> Command) -> Program {
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let address = free.expect("a free port");
            let mut child = command(address.port())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it can be started");
            let mut said = vec![];
            for pipe in [
                child.stdout.take().map(|p| Box::new(p) as Box<dyn std::io::Read + Send>),
                child.stderr.take().map(|p| Box::new(p) as _),
            ] {
                said.push(pipe.map(drain));
            }
            let begin = Instant::now();
            loop {
                if TcpStream::connect(address).is_ok() {
                    return Program { address, child };
                }
                if child.try_wait().expect("a child").is_some() {
                    break;
                }
                assert!(begin.elapsed() < DEADLINE, "it does not listen");
                thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("it does not start");
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whatever a program says is shown with the test that fails.
fn drain(pipe: Box<dyn std::io::Read + Send>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if std::env::var_os("STORES_LOG").is_some() {
                eprintln!("{line}");
            }
        }
    })
}

/// Short, so that what does not move is noticed soon.
pub const SHORT: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    idle: Duration::from_secs(2),
    answer: Duration::from_secs(3),
    completion: Duration::from_secs(6),
};

/// The configuration that an environment makes.
pub fn config(env: &[(&str, &str)]) -> Config {
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let loaded = Config::load(std::iter::empty(), env, &|path| std::fs::read(path));
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

pub fn open(env: &[(&str, &str)], timeouts: Timeouts) -> Arc<dyn Store> {
    let opened = open_with(&config(env), timeouts);
    opened.unwrap_or_else(|error| panic!("{error}")).expect("a store")
}

pub const ACCESS_KEY: &str = "AKTESTTESTTESTTEST";
pub const SECRET_KEY: &str = "wrzGk3sVQ8yTdJm5hXb2NfLpUaEc7R9o/KtMiWqZ";
pub const BUCKET: &str = "recordings";

/// An S3 store at that place.
pub fn s3(endpoint: &str) -> Arc<dyn Store> {
    s3_with(endpoint, &[])
}

/// The configuration of that.
pub fn s3_environment(endpoint: &str) -> [(&str, &str); 7] {
    [
        ("RECORDING_STORAGE_PROVIDER", "s3"),
        ("RECORDING_S3_ENDPOINT", endpoint),
        ("RECORDING_S3_BUCKET", BUCKET),
        ("RECORDING_S3_REGION", "us-east-1"),
        ("RECORDING_S3_ACCESS_KEY_ID", ACCESS_KEY),
        ("RECORDING_S3_SECRET_ACCESS_KEY", SECRET_KEY),
        ("RECORDING_S3_PATH_STYLE", "true"),
    ]
}

pub fn s3_with(endpoint: &str, more: &[(&str, &str)]) -> Arc<dyn Store> {
    let mut env = s3_environment(endpoint).to_vec();
    env.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    env.extend_from_slice(more);
    open(&env, SHORT)
}

/// s3s-fs, which checks signatures, and keeps objects as files.
pub struct S3sFs {
    pub program: Program,
    pub scratch: Scratch,
}

impl S3sFs {
    pub fn start(story: &str) -> Option<S3sFs> {
        let tool = tool(".tools/bin/s3s-fs", story)?;
        let scratch = Scratch::new();
        let root = scratch.path().join("s3");
        std::fs::create_dir_all(root.join(BUCKET)).expect("a bucket");
        let program = Program::start(|port| {
            let mut command = Command::new(&tool);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(&root);
            command
        });
        Some(S3sFs { program, scratch })
    }

    /// Where it keeps the object of that key.
    pub fn kept(&self, key: &str) -> PathBuf {
        self.scratch.path().join("s3").join(BUCKET).join(key)
    }
}

/// A whole upload in parts, without anything being tried twice.
pub fn upload(store: &dyn Store, key: &str, path: &Path, part_size: u64) -> Result<(Vec<PartTag>, Stored), Fault> {
    let object = Object { key, content_type: WEBM };
    let upload = store.create(object)?;
    let parts = parts(store, object, &upload, path, part_size)?;
    let stored = store.complete(object, &upload, &parts)?;
    Ok((parts, stored))
}

pub fn parts(
    store: &dyn Store,
    object: Object<'_>,
    upload: &UploadId,
    path: &Path,
    part_size: u64,
) -> Result<Vec<PartTag>, Fault> {
    let size = std::fs::metadata(path).expect("a file").len();
    let mut parts = Vec::new();
    // The first part comes last, as in a recording, and completion lists them in their order.
    for number in (1..=size.div_ceil(part_size) as u32).rev() {
        let offset = u64::from(number - 1) * part_size;
        let from = Range { path, offset, length: part_size.min(size - offset) };
        parts.push(store.part(object, upload, number, from)?);
    }
    parts.reverse();
    Ok(parts)
}

pub fn whole(path: &Path) -> Range<'_> {
    Range { path, offset: 0, length: std::fs::metadata(path).expect("a file").len() }
}

pub fn sent<'a>(path: &'a Path, parts: &'a [PartTag], etag: Option<&'a str>) -> Sent<'a> {
    Sent { size: std::fs::metadata(path).expect("a file").len(), path, parts, etag }
}

pub fn read(store: &dyn Store, key: &str, offset: u64, length: u64) -> Vec<u8> {
    let mut octets = Vec::new();
    store.read(key, offset, length).expect("it is there").read_to_end(&mut octets).expect("it is read");
    octets
}

/// What a recording's objects go through, with a store that works.
pub fn lives_and_dies(store: &dyn Store, part_size: u64) {
    let scratch = Scratch::new();
    let small = scratch.file("small", 70_001);
    let key = "call/rec 1/a%40b~ü+1.webm";
    let object = Object { key, content_type: WEBM };
    assert_eq!(store.head(key), Ok(None));
    store.delete(key).expect("what is not there is gone");

    let put = store.put(object, whole(&small)).expect("it is put");
    assert_eq!(put.size, 70_001);
    let head = store.head(key).expect("an answer").expect("it is there");
    assert_eq!((head.size, &head.url), (70_001, &put.url));
    assert!(store.agrees(key, sent(&small, &[], Some(&put.etag))).expect("an answer"));
    assert!(store.agrees(key, sent(&small, &[], None)).expect("an answer"));
    assert_eq!(read(store, key, 69_000, 1_001), content(70_001)[69_000..]);
    assert!(read(store, key, 0, 0).is_empty());

    // Again over it, in parts.
    let large = scratch.file("large", 2 * part_size + 12_345);
    let (parts, stored) = upload(store, key, &large, part_size).expect("it is uploaded");
    assert_eq!(parts.iter().map(|part| part.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(stored.size, 2 * part_size + 12_345);
    assert!(store.agrees(key, sent(&large, &parts, Some(&stored.etag))).expect("an answer"));
    assert!(store.agrees(key, sent(&large, &parts, None)).expect("an answer"));
    assert_eq!(read(store, key, part_size - 5, 10), content(part_size + 5)[part_size as usize - 5..]);

    // Another file of the same length is another file, and so is one of another length.
    let mut other = content(2 * part_size + 12_345);
    *other.last_mut().expect("an octet") ^= 1;
    let other_path = scratch.path().join("other");
    std::fs::write(&other_path, &other).expect("it can be written");
    assert!(!store.agrees(key, sent(&other_path, &parts, None)).expect("an answer"));
    assert!(!store.agrees(key, sent(&small, &[], Some(&stored.etag))).expect("an answer"));

    store.delete(key).expect("it is deleted");
    assert_eq!(store.head(key), Ok(None));
    assert!(!store.agrees(key, sent(&large, &parts, Some(&stored.etag))).expect("an answer"));
    assert_eq!(
        store.read(key, 0, 5).err().map(|fault| fault.kind),
        Some(webrtc_engine::storage::store::FaultKind::Missing)
    );
}
