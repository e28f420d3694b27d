//! Users' stories in real browsers, against the built server.
//!
//! Each test starts the server on free ports with a data directory of its own and runs one Node scenario from
//! `scenarios/`; what must be seen and heard is asserted there. `setup.sh` installs browsers and tools. A story whose
//! tools are missing prints `SKIPPED`, or fails where `CI` or `E2E_REQUIRE` is set.
//!
//! Media in browsers needs the machine for itself, so stories run one at a time, whatever the test runner does.
//! `SCREENSHOTS=dir` keeps pictures of the page.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn three_participants_see_and_hear_each_other() {
    Story::new("three_participants").run();
}

#[test]
fn mute_leave_and_rejoin() {
    Story::new("mute_leave_rejoin").run();
}

#[test]
fn a_late_joiner_sees_everybody_at_once() {
    Story::new("late_joiner").run();
}

#[test]
fn the_simplest_client_calls_through_the_media_server() {
    Story::new("simplest_sfu").run();
}

#[test]
fn the_simplest_client_calls_peer_to_peer() {
    Story::new("simplest_p2p").run();
}

#[test]
fn a_perfectly_negotiating_client_whose_offer_crosses_the_servers() {
    Story::new("rollback").run();
}

#[test]
fn the_built_in_page() {
    Story::new("page").limit(90).run();
}

#[test]
fn media_goes_through_a_turn_relay() {
    Story::new("relay").needs("turnserver").with_turn_server().run();
}

/// Without UDP the call takes the TCP connection that the server offers on its HTTP port.
#[test]
fn a_call_where_udp_is_blocked() {
    Story::new("ice_tcp").without_udp().run();
}

#[test]
fn a_call_over_https_where_udp_is_blocked() {
    Story::new("ice_tcp").needs("openssl").with_certificate().without_udp().run();
}

#[test]
fn udp_is_preferred_where_it_works() {
    Story::new("ice_tcp").run();
}

#[test]
fn a_call_over_https() {
    Story::new("https").needs("openssl").with_certificate().run();
}

#[test]
fn firefox_and_chromium_call_each_other() {
    Story::new("firefox").needs("firefox-esr").needs("pulseaudio").limit(90).run();
}

#[test]
fn published_by_whip_and_watched_by_whep() {
    Story::new("whip_whep").needs("firefox-esr").needs("pulseaudio").limit(120).run();
}

#[test]
fn gstreamer_publishes_by_whip_and_watches_by_whep() {
    Story::new("peers").with("PEER", "gstreamer").limit(90).run();
}

#[test]
fn aiortc_publishes_by_whip_and_watches_by_whep() {
    Story::new("peers").with("PEER", "aiortc").limit(90).run();
}

#[test]
fn every_video_codec_is_forwarded() {
    Story::new("codecs").limit(90).run();
}

#[test]
fn the_sdk_keeps_the_rules_of_signaling() {
    Story::new("sdk_rules").run();
}

#[test]
fn the_sdk_comes_back_after_losses() {
    Story::new("sdk_reconnects").run();
}

#[test]
fn simulcast_switches_without_visible_glitch() {
    Story::new("simulcast").limit(90).run();
}

#[test]
fn simulcast_from_firefox_switches_without_visible_glitch() {
    Story::new("simulcast").with("PUBLISHER", "firefox").needs("firefox-esr").needs("pulseaudio").limit(90).run();
}

#[test]
fn layers_of_vp9_are_dropped_without_visible_glitch() {
    Story::new("svc").with("CODEC", "VP9").limit(90).run();
}

#[test]
fn layers_of_av1_are_dropped_without_visible_glitch() {
    Story::new("svc").with("CODEC", "AV1").limit(90).run();
}

#[test]
fn what_is_encrypted_end_to_end_is_forwarded() {
    Story::new("e2ee").limit(90).run();
}

#[test]
fn a_shared_screen_comes_beside_the_camera() {
    Story::new("screen").run();
}

#[test]
fn messages_over_data_channels() {
    Story::new("data_channels").needs("firefox-esr").needs("pulseaudio").run();
}

#[test]
fn the_loudest_speak_and_who_is_pinned_is_heard() {
    Story::new("speakers").run();
}

#[test]
fn a_lost_socket_is_resumed_without_a_leave() {
    Story::new("reconnect").run();
}

#[test]
fn a_lost_socket_of_firefox_is_resumed_without_a_leave() {
    Story::new("reconnect").with("BROWSER", "firefox").needs("firefox-esr").needs("pulseaudio").run();
}

/// What the stories of recordings measure with is measured itself, by files that are wrong in known ways.
#[test]
fn what_is_wrong_with_a_recording_is_found() {
    Story::new("recording_analysis").needs("ffmpeg").needs("mkvmerge").limit(180).run();
}

#[test]
fn a_call_is_recorded() {
    recording("recording").needs("firefox-esr").needs("pulseaudio").limit(180).run();
}

#[test]
fn recordings_by_rest() {
    recording("recording_api").run();
}

#[test]
fn a_recording_goes_into_a_bucket() {
    recording("recording_s3").with_bucket().run();
}

#[test]
fn a_call_that_is_recorded_by_itself() {
    recording("recording_auto").with_server("RECORDING_AUTO", "true").run();
}

#[test]
fn a_killed_server_repairs_its_recording() {
    recording("recording_crash").that_comes_back().run();
}

#[test]
fn simulcast_is_recorded_while_packets_are_lost() {
    recording("recording_variants").with("VARIANT", "loss").with_loss().run();
}

#[test]
fn a_shared_screen_is_recorded() {
    recording("recording_variants").with("VARIANT", "screen").run();
}

#[test]
fn a_muted_microphone_is_not_recorded() {
    recording("recording_variants").with("VARIANT", "mute").run();
}

#[test]
fn a_picture_that_changes_its_size_is_recorded() {
    recording("recording_variants").with("VARIANT", "resize").run();
}

#[test]
fn vp9_is_recorded() {
    recording("recording_variants").with("VARIANT", "VP9").run();
}

#[test]
fn av1_is_recorded() {
    recording("recording_variants").with("VARIANT", "AV1").run();
}

#[test]
fn h264_is_recorded() {
    recording("recording_variants").with("VARIANT", "H264").run();
}

#[test]
fn who_leaves_and_comes_again_is_recorded() {
    recording("recording_variants").with("VARIANT", "rejoin").run();
}

#[test]
fn a_pause_is_not_recorded() {
    recording("recording_variants").with("VARIANT", "pause").run();
}

/// A story whose files are measured.
fn recording(scenario: &'static str) -> Story {
    Story::new(scenario).needs("ffmpeg").needs("mkvmerge").limit(120)
}

/// The whole machine is one resource: a lock between the tests of a process, and a file lock between processes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long the server may take to say that it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// What a scenario exits with when a browser is missing.
const EXIT_SKIPPED: i32 = 77;

struct Story {
    scenario: &'static str,
    limit: Duration,
    tools: Vec<&'static str>,
    /// For the scenario, which may be used by several stories.
    environment: Vec<(&'static str, &'static str)>,
    server_environment: Vec<(&'static str, &'static str)>,
    turn_server: bool,
    bucket: bool,
    certificate: bool,
    weather: Option<Weather>,
    /// A server that ends is started again.
    comes_back: bool,
}

/// What happens to datagrams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// All are lost.
    NoUdp,
    /// One in twenty is lost, at random.
    Loss,
}

impl Story {
    fn new(scenario: &'static str) -> Self {
        let tools = vec!["node", "chromium"];
        let limit = Duration::from_secs(60);
        Story {
            scenario,
            limit,
            tools,
            environment: Vec::new(),
            server_environment: Vec::new(),
            turn_server: false,
            bucket: false,
            certificate: false,
            weather: None,
            comes_back: false,
        }
    }

    fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    fn needs(mut self, tool: &'static str) -> Self {
        self.tools.push(tool);
        self
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    fn with_server(mut self, name: &'static str, value: &'static str) -> Self {
        self.server_environment.push((name, value));
        self
    }

    /// The scenario may kill the server, whose id it is given: it is started again, at the same address.
    fn that_comes_back(mut self) -> Self {
        self.comes_back = true;
        self
    }

    /// Recordings go into a bucket of an S3 server.
    fn with_bucket(mut self) -> Self {
        self.bucket = true;
        self
    }

    fn with_turn_server(mut self) -> Self {
        self.turn_server = true;
        self
    }

    fn with_certificate(mut self) -> Self {
        self.certificate = true;
        self
    }

    /// Server and browsers see nothing but each other, and no datagram.
    fn without_udp(self) -> Self {
        self.weather(Weather::NoUdp)
    }

    /// The same, where some datagrams are lost.
    fn with_loss(self) -> Self {
        self.weather(Weather::Loss)
    }

    fn weather(mut self, weather: Weather) -> Self {
        self.weather = Some(weather);
        self.needs("ip").needs("nft")
    }

    fn run(self) {
        if let Some(reason) = self.missing() {
            return skipped(&reason);
        }
        let _in_process = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e.lock")).expect("the lock file");
        lock.lock().expect("the lock between test processes");

        settle();
        let directory = TemporaryDirectory::new(self.scenario);
        let mut environment: Vec<(String, String)> = Vec::new();
        let mut node_environment: Vec<(String, String)> = Vec::new();
        let mut set = |key: &str, value: &str| environment.push((key.into(), value.into()));

        let turn_server = self.turn_server.then(|| TurnServer::start(&directory.path));
        if let Some(turn_server) = &turn_server {
            set("WEBRTC_TURN_SERVER_URL", &turn_server.url);
            set("WEBRTC_TURN_SECRET", TurnServer::SECRET);
        }
        let s3_server = self.bucket.then(|| S3Server::start(&directory.path));
        if let Some(s3_server) = &s3_server {
            set("RECORDING_STORAGE_PROVIDER", "s3");
            set("RECORDING_S3_ENDPOINT", &s3_server.url);
            set("RECORDING_S3_BUCKET", S3Server::BUCKET);
            set("RECORDING_S3_REGION", "us-east-1");
            set("RECORDING_S3_PREFIX", "calls");
            set("RECORDING_S3_PATH_STYLE", "true");
            set("RECORDING_S3_ACCESS_KEY_ID", S3Server::KEY);
            set("RECORDING_S3_SECRET_ACCESS_KEY", S3Server::SECRET);
            let bucket = s3_server.root.join(S3Server::BUCKET);
            node_environment.push(("S3_BUCKET_DIRECTORY".into(), bucket.display().to_string()));
            node_environment.push(("S3_SECRET".into(), S3Server::SECRET.into()));
        }
        if self.certificate {
            let (certificate, key) = make_certificate(&directory.path);
            set("TLS_CERT_FILE", &certificate);
            set("TLS_KEY_FILE", &key);
            node_environment.push(("NODE_EXTRA_CA_CERTS".into(), certificate));
        }

        for (key, value) in &self.server_environment {
            set(key, value);
        }

        let network = match self.weather.map(Network::with).transpose() {
            Ok(network) => network,
            Err(reason) => return skipped(&reason),
        };
        if self.weather == Some(Weather::NoUdp) {
            node_environment.push(("UDP".into(), "blocked".into()));
        }
        let command = |program: &str| match &network {
            Some(network) => network.command(program),
            None => Command::new(program),
        };
        let start =
            |port| Server::start(command(env!("CARGO_BIN_EXE_webrtc-engine")), &directory.path, &environment, port);
        let mut server = start(0);
        let mut node = command("node");
        node.arg(scenarios().join(format!("{}.mjs", self.scenario)))
            .env("SERVER_URL", &server.url)
            .env("SERVER_PID", server.process.child.id().to_string())
            .env("STORY_LIMIT_MS", self.limit.as_millis().to_string())
            .envs(self.environment)
            .envs(node_environment);
        let (exit, output) = run_to_end(node, self.limit, || {
            if self.comes_back && server.process.has_ended() {
                println!("--- the log of the server that ended\n{}", server.process.log());
                server = start(server.port());
            }
        });
        if let (Some(0), Some(network)) = (exit, &network) {
            let dropped = network.dropped();
            assert!(dropped > 0, "datagrams would have been lost, but there were none\n{output}");
        }
        match exit {
            Some(0) => println!("{output}"),
            Some(EXIT_SKIPPED) => skipped(output.lines().find(|line| line.starts_with("SKIPPED")).unwrap_or("SKIPPED")),
            exit => {
                let turn_log = turn_server.map(|turn_server| turn_server.process.log()).unwrap_or_default();
                let how = exit.map_or("ran out of time".to_owned(), |code| format!("exit code {code}"));
                panic!(
                    "{}: {how}\n{output}\n--- the server's log\n{}\n--- the TURN server's log\n{turn_log}",
                    self.scenario,
                    server.process.log(),
                );
            }
        }
    }

    fn missing(&self) -> Option<String> {
        if !scenarios().join("../node_modules/playwright-core").exists() {
            return Some("node_modules is missing: run tests/e2e/setup.sh".into());
        }
        if self.bucket && !S3Server::program().exists() {
            return Some("s3s-fs is missing: run tests/e2e/setup.sh".into());
        }
        let missing: Vec<_> = self.tools.iter().copied().filter(|tool| find(tool).is_none()).collect();
        (!missing.is_empty()).then(|| format!("{} not installed: run tests/e2e/setup.sh", missing.join(", ")))
    }
}

/// What was built a moment ago is still being written, and browsers that were never started are read from the disk: whoever comes
/// to a call then stands still for half a second.
fn settle() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: it takes nothing and cannot fail.
        unsafe { libc::sync() };
        // Whether there is one is said elsewhere.
        if find("chromium").is_some() {
            let directory = TemporaryDirectory::new("settle");
            let mut command = Command::new("chromium");
            command.arg(format!("--user-data-dir={}", directory.path.display()));
            command.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "about:blank"]);
            run_to_end(command, START_LIMIT, || {});
        }
    });
}

/// A story that did not run is a failure where nothing may be left out.
fn skipped(reason: &str) {
    let required = ["CI", "E2E_REQUIRE"].iter().any(|name| std::env::var_os(name).is_some_and(|value| value != "0"));
    assert!(!required, "skipped where every story must run: {reason}");
    println!("SKIPPED: {}", reason.trim_start_matches("SKIPPED: "));
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/scenarios")
}

fn find(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|path| path.join(tool)).find(|path| path.is_file())
}

/// The server under test, in development mode, on free ports.
struct Server {
    url: String,
    process: Process,
}

impl Server {
    /// Port 0 is any that is free.
    fn start(mut command: Command, directory: &Path, environment: &[(String, String)], port: u16) -> Self {
        command
            .current_dir(directory)
            .env("DATA_DIR", directory.join("data"))
            .env("RECORDING_OUTPUT_DIR", directory.join("recordings"))
            .env("PORT", port.to_string())
            .env("RTC_UDP_PORT", "0")
            .env("LOG_LEVEL", std::env::var("LOG_LEVEL").unwrap_or_else(|_| "debug".into()))
            .env_remove("JWT_SECRET")
            .envs(environment.iter().map(|(key, value)| (key, value)));
        let (process, lines) = Process::start(command, "the server");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(url) = listening_url(&line) {
                        return Server { url, process };
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("the server did not say where it listens:\n{}", process.log()),
                Err(RecvTimeoutError::Disconnected) => panic!("the server ended at start:\n{}", process.log()),
            }
        }
    }

    fn port(&self) -> u16 {
        let port = self.url.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or_else(|| panic!("no port in {}", self.url))
    }
}

/// The address in `… listening on http://127.0.0.1:3000/ …`.
fn listening_url(line: &str) -> Option<String> {
    let rest = &line[line.find("listening on ")?..];
    let start = rest.find("http://").or_else(|| rest.find("https://"))?;
    let url = rest[start..].split([' ', ',', '"', '\u{1b}']).next()?;
    Some(format!("{}/", url.trim_end_matches('/')))
}

/// A network namespace with loopback alone, on which datagrams are lost, all or some. It goes with its owner.
struct Network {
    name: String,
}

impl Network {
    /// The error says what is missing: the right to make one, or a kernel that can.
    fn with(weather: Weather) -> Result<Self, String> {
        let lost = match weather {
            Weather::NoUdp => "meta l4proto udp",
            Weather::Loss => "meta l4proto udp numgen random mod 100 < 5",
        };
        let network = Network { name: format!("e2e-{}", std::process::id()) };
        tool(Command::new("ip").args(["netns", "add", &network.name]))?;
        tool(Command::new("ip").args(["-n", &network.name, "link", "set", "lo", "up"]))?;
        for rule in [
            "add table inet e2e",
            "add chain inet e2e in { type filter hook input priority 0; }",
            &format!("add rule inet e2e in {lost} counter drop"),
        ] {
            tool(network.command("nft").arg(rule))?;
        }
        Ok(network)
    }

    /// Something that runs inside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Datagrams that were lost.
    fn dropped(&self) -> u64 {
        let rules = tool(self.command("nft").args(["list", "table", "inet", "e2e"])).expect("the rules");
        let count = rules.split_once("counter packets ").and_then(|(_, rest)| rest.split_once(' '));
        count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("no counter in {rules}"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// What a short-lived tool prints, or why it failed.
fn tool(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// coturn on a free loopback port.
struct TurnServer {
    url: String,
    process: Process,
}

impl TurnServer {
    const SECRET: &str = "a-shared-secret-of-this-test";

    fn start(directory: &Path) -> Self {
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let configuration = directory.join("turnserver.conf");
        let pid_file = directory.join("turnserver.pid");
        let text = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={port}\nmin-port=50000\nmax-port=50100\n\
             fingerprint\nrealm=test.local\nno-tcp\nno-tls\nno-dtls\nno-cli\nallow-loopback-peers\nuse-auth-secret\n\
             static-auth-secret={}\npidfile={}\nuserdb={}\nlog-file=stdout\n",
            Self::SECRET,
            pid_file.display(),
            directory.join("turndb").display(),
        );
        fs::write(&configuration, text).expect("the configuration of the TURN server");
        let mut command = Command::new("turnserver");
        command.arg("-c").arg(&configuration).current_dir(directory);
        let (process, _) = Process::start(command, "the TURN server");
        let deadline = Instant::now() + START_LIMIT;
        while !answers_stun(port) {
            assert!(Instant::now() < deadline, "the TURN server does not listen:\n{}", process.log());
        }
        TurnServer { url: format!("turn:127.0.0.1:{port}?transport=udp"), process }
    }
}

/// s3s-fs, which checks signatures and keeps objects as files.
struct S3Server {
    url: String,
    root: PathBuf,
    _process: Process,
}

impl S3Server {
    const BUCKET: &str = "recordings";
    const KEY: &str = "AKSTORYSTORYSTORY";
    const SECRET: &str = "q0JvX7m2NfRzKd8sWbTyHc5LpGuEa3Vi";

    fn program() -> PathBuf {
        scenarios().join("../.tools/bin/s3s-fs")
    }

    fn start(directory: &Path) -> Self {
        let root = directory.join("s3");
        fs::create_dir_all(root.join(Self::BUCKET)).expect("a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a free port");
        drop(listener);
        let mut command = Command::new(Self::program());
        command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--access-key", Self::KEY, "--secret-key", Self::SECRET]).arg(&root);
        let (process, _) = Process::start(command, "the S3 server");
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the S3 server does not listen:\n{}", process.log());
            thread::sleep(Duration::from_millis(20));
        }
        S3Server { url: format!("http://{address}"), root, _process: process }
    }
}

/// Asks for a STUN binding and waits a moment for the answer. Over UDP, since a TCP connection to a local port at which
/// nobody listens yet can end up connected to itself and keep that port from the one it waits for.
fn answers_stun(port: u16) -> bool {
    const REQUEST: &[u8] = b"\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes";
    let ask = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.send_to(REQUEST, ("127.0.0.1", port))?;
        socket.recv(&mut [0; 512])
    };
    ask().is_ok()
}

/// A self-signed certificate for this machine's loopback names: paths of certificate and key.
fn make_certificate(directory: &Path) -> (String, String) {
    let path = |name: &str| directory.join(name).display().to_string();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    (certificate, key)
}

/// A child process whose output is kept; it ends with its owner.
struct Process {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it; the receiver gives each line of both outputs and disconnects when it ends.
    fn start(mut command: Command, name: &'static str) -> (Self, mpsc::Receiver<String>) {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            keep_lines(stdout, log.clone(), sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            keep_lines(stderr, log.clone(), sender);
        }
        (Process { name, child, log }, receiver)
    }

    /// The last lines of its output.
    fn log(&self) -> String {
        let lines = self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        lines[lines.len().saturating_sub(150)..].join("\n")
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Asks it to end, and makes it end when it does not within a few seconds.
    fn end(&mut self) {
        if self.has_ended() {
            return;
        }
        signal(self.child.id(), libc::SIGTERM);
        if wait(&mut self.child, Duration::from_secs(1)).is_none() {
            // A second signal stops a server that still drains.
            signal(self.child.id(), libc::SIGTERM);
            if wait(&mut self.child, Duration::from_secs(3)).is_none() {
                println!("{} had to be killed", self.name);
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep_lines(output: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>, lines: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(line.clone());
            // Nobody listens once it has started.
            let _ = lines.send(line);
        }
    });
}

/// Runs a scenario: its exit code, `None` when it ran out of time, and all its output. `meanwhile` is called again and again.
fn run_to_end(mut command: Command, limit: Duration, meanwhile: impl FnMut()) -> (Option<i32>, String) {
    // A group of its own, so that nothing it starts can outlive it.
    command.process_group(0);
    let (mut process, lines) = Process::start(command, "node");
    let status = wait_and(&mut process.child, limit, meanwhile);
    if status.is_none() {
        process.end();
    } else {
        signal_group(process.child.id(), libc::SIGKILL);
    }
    // Its last words may still be on the way.
    while lines.recv_timeout(Duration::from_secs(1)).is_ok() {}
    let exit = status.map(|status| status.code().unwrap_or(-1));
    let log = process.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).join("\n");
    (exit, log)
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    wait_and(child, limit, || {})
}

fn wait_and(child: &mut Child, limit: Duration, mut meanwhile: impl FnMut()) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        meanwhile();
        thread::sleep(Duration::from_millis(25));
    }
}

fn signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    // SAFETY: kill(2) takes no pointers; the pid is of a child that has not been waited for.
    unsafe { libc::kill(pid, signal) };
}

fn signal_group(leader: u32, signal: libc::c_int) {
    let leader = libc::pid_t::try_from(leader).expect("a pid");
    // SAFETY: kill(2) takes no pointers; the group was made for this child alone.
    unsafe { libc::kill(-leader, signal) };
}

struct TemporaryDirectory {
    path: PathBuf,
}

impl TemporaryDirectory {
    fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("webrtc-engine-e2e-{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        TemporaryDirectory { path }
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn the_start_up_line_names_the_address() {
    for (line, url) in [
        (
            "webrtc-engine 0.1.0 listening on http://127.0.0.1:41123/ (development mode), media udp 4",
            "http://127.0.0.1:41123/",
        ),
        ("2026-01-01T00:00:00Z INFO listening on https://localhost:8443, media", "https://localhost:8443/"),
    ] {
        assert_eq!(listening_url(line).as_deref(), Some(url));
    }
    assert_eq!(listening_url("see https://example.org/ for help"), None);
}
