//! Settings: flags, environment and a TOML file → one [`Config`] of typed values.
//!
//! Flags win over the environment, the environment over the file, the file over the default. Every source is parsed, so
//! that a wrong value is told even where another one hides it. [`KEYS`] is the only list of settings. [`Config::load`]
//! is pure but for the reader it is given; nothing else in the crate reads the environment.
//!
//! An error is one line that names the key and the source, and never shows a secret.

mod file;
mod keys;
mod parse;
/// Of the file that shows everybody in one picture.
const COMPOSITION_KEYS: &[&str] = &[
    "RECORDING_VIDEO_BITRATE",
    "RECORDING_AUDIO_BITRATE",
    "RECORDING_FRAMERATE",
    "RECORDING_WIDTH",
    "RECORDING_HEIGHT",
    "RECORDING_FORMAT",
    "RECORDING_VIDEO_CODEC",
    "RECORDING_AUDIO_CODEC",
];

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keys::{KEYS, Key, WORKERS_MAX};
pub use parse::stun_host;

/// Everything that can be configured. [`Config::default`] has the defaults of [`KEYS`].
#[derive(Debug, Clone)]
pub struct Config {
    pub server: ServerConfig,
    pub auth: AuthConfig,
    pub rtc: RtcConfig,
    pub encoding: EncodingConfig,
    pub recording: RecordingConfig,
    pub webhooks: WebhookConfig,
    pub log: LogConfig,
    pub limits: Limits,
    files: Files,
}

/// Names of files, until [`Config::load`] has checked or read them.
#[derive(Debug, Clone, Default)]
struct Files {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    public_key: Option<PathBuf>,
    private_key: Option<PathBuf>,
    jwks: Option<PathBuf>,
    jwks_url: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// `None`: every address, or loopback in development mode.
    pub host: Option<IpAddr>,
    /// 0: any free port.
    pub port: u16,
    /// 0: one per core; `cli` puts the number in before anything else sees it. At most [`WORKERS_MAX`].
    pub workers: usize,
    pub data_dir: PathBuf,
    /// Certificate and key for HTTPS.
    pub tls: Option<TlsFiles>,
    /// Further roots for outgoing connections.
    pub tls_ca_file: Option<PathBuf>,
    /// Never together with `tls`.
    pub tls_self_signed: bool,
    pub shutdown_timeout: Duration,
    /// As browsers send them: lower case, no default port, no slash. Empty: same origin only.
    pub allowed_origins: Vec<String>,
    pub auto_create_calls: bool,
    /// `None`: on the main port.
    pub metrics_port: Option<u16>,
    pub trusted_proxies: Vec<IpNet>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Keys and rules for tokens. The contents of the key files are read by [`Config::load`].
#[derive(Debug, Clone, Default)]
pub struct AuthConfig {
    /// HS256. At least 32 bytes and not a known one.
    pub jwt_secret: Option<Secret>,
    pub public_key_pem: Option<Vec<u8>>,
    /// Also verifies when there is no public key.
    pub private_key_pem: Option<Secret>,
    /// The `iss` that a token must have.
    pub issuer: Option<String>,
    /// One of these must be in a token's `aud`. Empty: not checked.
    pub audience: Vec<String>,
    pub enforce_token_expiry: bool,
}

impl AuthConfig {
    /// Development mode: no key is configured.
    pub fn is_dev_mode(&self) -> bool {
        self.jwt_secret.is_none() && self.public_key_pem.is_none() && self.private_key_pem.is_none()
    }
}

#[derive(Debug, Clone, Default)]
pub struct RtcConfig {
    /// Worker *n* has this port + *n*; 0: free ones.
    pub udp_port: u16,
    pub announced: Announced,
    /// `stun:` and `stuns:` URLs.
    pub ice_servers: Vec<String>,
    /// `turn:` and `turns:` URLs. Not empty means that there is a secret, or a user name and a password.
    pub turn_url: Vec<String>,
    pub turn_username: Option<String>,
    pub turn_password: Option<Secret>,
    /// Wins over user name and password.
    pub turn_secret: Option<Secret>,
}

/// Where the addresses in candidates come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Announced {
    /// Interfaces, and what the STUN servers see.
    Auto,
    #[default]
    Interfaces,
    /// Not empty.
    List(Vec<Announce>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    pub public: IpAddr,
    /// Where to bind; of the same family. `None`: found.
    pub local: Option<IpAddr>,
}

#[derive(Debug, Clone, Default)]
pub struct EncodingConfig {
    /// Bits per second.
    pub audio_bitrate: u32,
    /// Bits per second.
    pub video_min_bitrate: u32,
    /// Bits per second; not below the minimum.
    pub video_max_bitrate: u32,
    /// The preferred one, first of `video_codecs`.
    pub video_codec: VideoCodec,
    /// By preference; not empty.
    pub video_codecs: Vec<VideoCodec>,
    pub audio_codec: AudioCodec,
    pub framerate: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    #[default]
    Vp8,
    H264,
    Vp9,
    Av1,
}

impl VideoCodec {
    /// As in the configuration and in `encoding`.
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::Vp8 => "vp8",
            VideoCodec::H264 => "h264",
            VideoCodec::Vp9 => "vp9",
            VideoCodec::Av1 => "av1",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AudioCodec {
    #[default]
    Opus,
}

impl AudioCodec {
    /// As in the configuration and in `encoding`.
    pub fn name(self) -> &'static str {
        match self {
            AudioCodec::Opus => "opus",
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct RecordingConfig {
    pub output_dir: PathBuf,
    /// Whether calls may be recorded at all, and whether all are.
    pub allowed: bool,
    pub auto: bool,
    pub format: &'static str,
    pub video_codec: &'static str,
    pub audio_codec: AudioCodec,
    /// Bits per second.
    pub video_bitrate: u32,
    /// Bits per second.
    pub audio_bitrate: u32,
    pub framerate: u32,
    pub width: u32,
    pub height: u32,
    pub keep_local: bool,
    /// 0: for ever.
    pub retention_days: u32,
    /// Bytes.
    pub min_free_disk: u64,
    pub provider: StorageProvider,
    pub s3_bucket: Option<String>,
    pub s3_region: Option<String>,
    pub s3_endpoint: Option<String>,
    pub s3_access_key_id: Option<String>,
    pub s3_secret_access_key: Option<Secret>,
    pub s3_session_token: Option<Secret>,
    pub s3_prefix: Option<String>,
    pub s3_path_style: bool,
    /// Encryption at rest, as S3 names it; `None`: what the bucket does by itself.
    pub s3_sse: Option<&'static str>,
    pub s3_storage_class: Option<String>,
    pub gcs_bucket: Option<String>,
    pub gcs_prefix: Option<String>,
    pub gcs_credentials_file: Option<PathBuf>,
    pub gcs_endpoint: Option<String>,
    pub blob_token: Option<Secret>,
    pub blob_api_url: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StorageProvider {
    #[default]
    Local,
    S3,
    Gcs,
    VercelBlob,
}

#[derive(Debug, Clone, Default)]
pub struct WebhookConfig {
    pub urls: Vec<String>,
    /// With their `whsec_`; the first signs, all are offered.
    pub secrets: Vec<Secret>,
}

#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Raised to debug.
    pub debug: Vec<DebugPart>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What `DEBUG=webrtc:<part>` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DebugPart {
    Ice,
    Dtls,
    Signaling,
    Http,
    Room,
    Sfu,
    Peer,
    Recording,
    Worker,
}

impl DebugPart {
    pub const ALL: &[DebugPart] = &[
        DebugPart::Ice,
        DebugPart::Dtls,
        DebugPart::Signaling,
        DebugPart::Http,
        DebugPart::Room,
        DebugPart::Sfu,
        DebugPart::Peer,
        DebugPart::Recording,
        DebugPart::Worker,
    ];

    pub fn name(self) -> &'static str {
        match self {
            DebugPart::Ice => "ice",
            DebugPart::Dtls => "dtls",
            DebugPart::Signaling => "signaling",
            DebugPart::Http => "http",
            DebugPart::Room => "room",
            DebugPart::Sfu => "sfu",
            DebugPart::Peer => "peer",
            DebugPart::Recording => "recording",
            DebugPart::Worker => "worker",
        }
    }
}

/// The table of limits. Sizes in bytes, rates per second.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub request_line: usize,
    pub request_head: usize,
    pub request_headers: usize,
    pub request_body: usize,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    pub keep_alive: Duration,
    pub write_timeout: Duration,
    pub message_before_join: usize,
    pub message: usize,
    pub outgoing_queue: usize,
    pub message_rate: u32,
    pub message_burst: u32,
    pub offer_rate: u32,
    pub offer_burst: u32,
    pub join_timeout: Duration,
    pub resume: Duration,
    pub sdp_size: usize,
    pub sdp_media: usize,
    pub sdp_payload_types: usize,
    pub candidates: usize,
    pub json_depth: usize,
    pub json_members: usize,
    pub participant_metadata: usize,
    pub call_metadata: usize,
    pub connections: usize,
    pub unauthenticated: usize,
    pub unauthenticated_per_address: usize,
    pub bad_token_rate: u32,
    pub bad_token_burst: u32,
    pub rooms: usize,
    pub participants: usize,
    pub tracks: usize,
    pub encodings: usize,
    pub unknown_ssrcs: usize,
    pub data_channels: usize,
    pub data_message: usize,
    pub data_buffered: usize,
    pub dtls_handshakes: usize,
    pub dtls_timeout: Duration,
    pub recordings: usize,
    pub recording_length: Duration,
    pub recording_size: u64,
    pub recording_queue: usize,
    pub keyframe_interval_low: Duration,
    pub keyframe_interval_high: Duration,
    /// Of a subscriber's media, 0 to 100.
    pub retransmission_percent: u32,
    /// Of one packet.
    pub retransmissions: u32,
}

/// Text that must not be printed: `Debug` masks it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: &str) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An IP network: an address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// `address` or `address/prefix`. Bits after the prefix are ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|b| b.is_ascii_digit()) => (address, Some(prefix)),
            Some(_) => return None,
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |p| p.parse().ok())?;
        (prefix <= longest).then_some(IpNet { address, prefix })
    }

    /// An IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d` counts as the IPv4 address that it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// Where a value came from. The later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A variable of other programs, such as `AWS_REGION`.
    Fallback(&'static str),
    File,
    Environment,
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Fallback(name) => write!(f, "environment, {name}"),
            Origin::File => f.write_str("file"),
            Origin::Environment => f.write_str("environment"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// Why there is no configuration: one line that names the key and where it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    pub fn new(line: impl Into<String>) -> Self {
        ConfigError(line.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// One setting as it came out.
#[derive(Clone)]
pub struct Effective {
    pub key: &'static Key,
    /// Secrets are masked here already. `None`: not set.
    pub shown: Option<String>,
    pub origin: Origin,
}

/// A flag of one subcommand, which is not a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandFlag {
    pub long: &'static str,
    pub short: Option<char>,
    pub takes_value: bool,
}

/// What was on the command line besides settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    Word(String),
    /// The value is empty when the flag takes none.
    Flag(&'static str, String),
}

impl Rest {
    pub fn word(&self) -> Option<&str> {
        match self {
            Rest::Word(word) => Some(word),
            Rest::Flag(..) => None,
        }
    }
}

pub struct Loaded {
    pub config: Config,
    /// A line each, for the start.
    pub warnings: Vec<String>,
    pub rest: Vec<Rest>,
    /// Every key of [`KEYS`], in its order.
    pub effective: Vec<Effective>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Config {
            server: ServerConfig::default(),
            auth: AuthConfig::default(),
            rtc: RtcConfig::default(),
            encoding: EncodingConfig::default(),
            recording: RecordingConfig::default(),
            webhooks: WebhookConfig::default(),
            log: LogConfig::default(),
            limits: Limits::default(),
            files: Files::default(),
        };
        for key in KEYS {
            if let Some(text) = key.default {
                (key.set)(&mut config, text).expect("the default of a key is a possible value");
            }
        }
        config
    }
}

impl Config {
    /// [`Config::load_with`] for a command line that holds settings only; words are left in `rest`.
    pub fn load(
        args: impl Iterator<Item = OsString>,
        env: impl Iterator<Item = (OsString, OsString)>,
        read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Loaded, ConfigError> {
        Self::load_with(args, &[], env, read_file)
    }

    /// Reads flags, environment and file. `args` comes without the program's name; flags of `command` and words go to
    /// [`Loaded::rest`] in their order.
    pub fn load_with(
        args: impl Iterator<Item = OsString>,
        command: &[CommandFlag],
        env: impl Iterator<Item = (OsString, OsString)>,
        read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Loaded, ConfigError> {
        let mut warnings = Vec::new();
        let Flags { settings: flags, config_file, rest } = read_flags(args, command)?;
        let Environment { settings: env, fallbacks, config_file: env_file } = read_environment(env, &mut warnings)?;
        let file = config_file.or(env_file);
        let from_file = match &file {
            Some(path) => {
                let shown = one_line(&path.to_string_lossy());
                let bytes = read_file(path)
                    .map_err(|e| ConfigError(format!("--config {shown}: {}", one_line(&e.to_string()))))?;
                file::read(&bytes).map_err(|e| ConfigError(format!("{shown}: {e}")))?
            }
            None => Vec::new(),
        };

        let mut config = Config::default();
        let mut effective: Vec<Effective> = KEYS
            .iter()
            .map(|key| Effective { key, shown: key.default.map(str::to_owned), origin: Origin::Default })
            .collect();
        let sources = fallbacks
            .into_iter()
            .map(|(at, name, text)| (at, text, Origin::Fallback(name)))
            .chain(from_file.into_iter().map(|(at, text)| (at, text, Origin::File)))
            .chain(env.into_iter().map(|(at, text)| (at, text, Origin::Environment)))
            .chain(flags.into_iter().map(|(at, text)| (at, text, Origin::Flag)));
        for (at, text, origin) in sources {
            let Some(entry) = effective.get_mut(at) else { continue };
            let key = entry.key;
            (key.set)(&mut config, &text).map_err(|expected| {
                let name = match origin {
                    Origin::Flag => format!("--{}", key.flag()),
                    Origin::File => format!("{} in the configuration file ({})", key.file, key.name),
                    Origin::Fallback(name) => name.to_owned(),
                    _ => key.name.to_owned(),
                };
                match key.secret {
                    true => ConfigError(format!("{name} {expected}")),
                    false => ConfigError(format!("{name} {expected}, not \"{}\"", one_line(&text))),
                }
            })?;
            if key.secret && origin == Origin::Flag {
                warnings.push(format!("--{} can be read by every user of this machine; use {}", key.flag(), key.name));
            }
            entry.shown = Some(if key.secret { "***".to_owned() } else { text });
            entry.origin = origin;
        }
        let set = |name: &str| {
            effective
                .iter()
                .any(|e| e.key.name == name && e.origin != Origin::Default && !matches!(e.origin, Origin::Fallback(_)))
        };
        config.check_together(&set, &mut warnings)?;
        config.read_keys(read_file)?;
        Ok(Loaded { config, warnings, rest, effective, file })
    }

    /// What no key can tell alone.
    fn check_together(&mut self, set: &dyn Fn(&str) -> bool, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        let fail = |line: &str| Err(ConfigError(line.to_owned()));

        for name in ["JWT_JWKS_FILE", "JWT_JWKS_URL"] {
            if set(name) {
                // Going on without it would mean development mode or another key than the one that was meant.
                return Err(ConfigError(format!("{name}: key sets are not available yet")));
            }
        }
        let auth = &self.auth;
        if auth.jwt_secret.is_some() && (self.files.public_key.is_some() || self.files.private_key.is_some()) {
            return fail(
                "JWT_SECRET: JWT_PUBLIC_KEY_FILE or JWT_PRIVATE_KEY_FILE is set as well; only one algorithm can hold",
            );
        }

        let server = &mut self.server;
        server.tls = match (&self.files.cert, &self.files.key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.clone(), key: key.clone() }),
            (Some(_), None) => return fail("TLS_CERT_FILE: TLS_KEY_FILE is missing"),
            (None, Some(_)) => return fail("TLS_KEY_FILE: TLS_CERT_FILE is missing"),
            (None, None) => None,
        };
        if server.tls.is_some() && server.tls_self_signed {
            return fail("TLS_SELF_SIGNED: TLS_CERT_FILE is set as well");
        }
        if server.metrics_port.is_some_and(|port| port == server.port) {
            return fail("METRICS_PORT must differ from PORT");
        }
        check_udp_ports(self.rtc.udp_port, self.server.workers)?;

        let rtc = &self.rtc;
        if rtc.announced == Announced::Auto && !rtc.ice_servers.iter().any(|url| stun_host(url).is_some()) {
            return fail("RTC_ANNOUNCED_IPS: auto needs a stun: server in WEBRTC_ICE_SERVERS");
        }
        let fixed = (rtc.turn_username.is_some(), rtc.turn_password.is_some());
        match (rtc.turn_url.is_empty(), rtc.turn_secret.is_some(), fixed) {
            (true, false, (false, false)) => {}
            (true, _, _) => {
                warnings.push("WEBRTC_TURN_SERVER_URL is missing: the TURN credentials are not used".to_owned())
            }
            (false, true, (false, false)) | (false, false, (true, true)) => {}
            (false, true, _) => {
                warnings.push(
                    "WEBRTC_TURN_USERNAME, WEBRTC_TURN_PASSWORD are not used: WEBRTC_TURN_SECRET is set".to_owned(),
                );
            }
            (false, false, (true, false)) => return fail("WEBRTC_TURN_PASSWORD is missing"),
            (false, false, (false, true)) => return fail("WEBRTC_TURN_USERNAME is missing"),
            (false, false, (false, false)) => {
                return fail(
                    "WEBRTC_TURN_SERVER_URL needs WEBRTC_TURN_SECRET, or WEBRTC_TURN_USERNAME and WEBRTC_TURN_PASSWORD",
                );
            }
        }
        if self.encoding.video_min_bitrate > self.encoding.video_max_bitrate {
            return fail("WEBRTC_VIDEO_MIN_BITRATE must not be above WEBRTC_VIDEO_MAX_BITRATE");
        }

        let recording = &self.recording;
        match recording.provider {
            StorageProvider::S3 if recording.s3_bucket.is_none() => return fail("RECORDING_S3_BUCKET is missing"),
            StorageProvider::Gcs if recording.gcs_bucket.is_none() => return fail("RECORDING_GCS_BUCKET is missing"),
            StorageProvider::VercelBlob if recording.blob_token.is_none() => {
                return fail("BLOB_READ_WRITE_TOKEN is missing");
            }
            _ => {}
        }
        let composed: Vec<_> = COMPOSITION_KEYS.iter().copied().filter(|name| set(name)).collect();
        if !composed.is_empty() {
            warnings.push(format!("{}: composition is not available yet", composed.join(", ")));
        }
        if recording.auto && !recording.allowed {
            return fail("RECORDING_AUTO needs RECORDING_ALLOWED");
        }
        if set("METRICS_PORT") {
            warnings.push("METRICS_PORT: metrics are not available yet".to_owned());
        }
        if set("WEBHOOK_URLS") || set("WEBHOOK_SECRET") {
            warnings.push("WEBHOOK_URLS, WEBHOOK_SECRET: webhooks are not available yet".to_owned());
        }

        let limits = &self.limits;
        if limits.request_line > limits.request_head {
            return fail("LIMIT_REQUEST_LINE must not be above LIMIT_REQUEST_HEAD");
        }
        if limits.message_before_join > limits.message {
            return fail("LIMIT_MESSAGE_BEFORE_JOIN must not be above LIMIT_MESSAGE");
        }
        Ok(())
    }

    fn read_keys(&mut self, read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<(), ConfigError> {
        let read = |name: &str, path: &Path| {
            read_file(path).map_err(|e| {
                let (path, e) = (path.to_string_lossy(), e.to_string());
                ConfigError(format!("{name}: {}: {}", one_line(&path), one_line(&e)))
            })
        };
        if let Some(path) = &self.files.public_key {
            self.auth.public_key_pem = Some(read("JWT_PUBLIC_KEY_FILE", path)?);
        }
        if let Some(path) = &self.files.private_key {
            let bytes = read("JWT_PRIVATE_KEY_FILE", path)?;
            let text = String::from_utf8(bytes).map_err(|_| ConfigError::new("JWT_PRIVATE_KEY_FILE is not PEM"))?;
            self.auth.private_key_pem = Some(Secret::new(&text));
        }
        Ok(())
    }
}

/// A span of time as in the configuration: a whole number of seconds, or with `ms`, `s`, `m`, `h`, `d`. The error says
/// what would have been right.
pub fn parse_duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    parse::duration(text, min, max)
}

/// Every worker needs a port of its own, counted up from the first one.
pub fn check_udp_ports(first: u16, workers: usize) -> Result<(), ConfigError> {
    if first != 0 && usize::from(first) + workers.saturating_sub(1) > usize::from(u16::MAX) {
        return Err(ConfigError(format!(
            "RTC_UDP_PORT must leave a port for each of {workers} workers, not \"{first}\""
        )));
    }
    Ok(())
}

struct Flags {
    settings: Vec<(usize, String)>,
    config_file: Option<PathBuf>,
    rest: Vec<Rest>,
}

fn read_flags(args: impl Iterator<Item = OsString>, command: &[CommandFlag]) -> Result<Flags, ConfigError> {
    let mut flags = Flags { settings: Vec::new(), config_file: None, rest: Vec::new() };
    let mut parser = lexopt::Parser::from_args(args);
    let wrong = |e: lexopt::Error| ConfigError(one_line(&e.to_string()));
    while let Some(arg) = parser.next().map_err(wrong)? {
        let (name, known) = match arg {
            lexopt::Arg::Value(word) => {
                flags.rest.push(Rest::Word(word.to_string_lossy().into_owned()));
                continue;
            }
            lexopt::Arg::Short(short) => (format!("-{short}"), command.iter().find(|f| f.short == Some(short))),
            lexopt::Arg::Long(long) => (format!("--{long}"), command.iter().find(|f| f.long == long)),
        };
        if let Some(flag) = known {
            let value = if flag.takes_value { flag_value(&name, &mut parser)? } else { String::new() };
            flags.rest.push(Rest::Flag(flag.long, value));
            continue;
        }
        let long = name.strip_prefix("--").unwrap_or_default();
        if long == "config" {
            flags.config_file = Some(parser.value().map_err(wrong)?.into());
        } else if let Some(at) = KEYS.iter().position(|key| key.flag() == long) {
            let text = match KEYS.get(at).is_some_and(|key| key.boolean) {
                true => match parser.optional_value() {
                    Some(value) => utf8(&name, value)?,
                    None => "true".to_owned(),
                },
                false => flag_value(&name, &mut parser)?,
            };
            flags.settings.push((at, text));
        } else {
            let known = KEYS.iter().map(Key::flag).chain(command.iter().map(|f| f.long.to_owned()));
            let hint = nearest(long, known.chain(["config".to_owned()]))
                .map_or(String::new(), |n| format!(", did you mean --{n}?"));
            return Err(ConfigError(format!("{}: unknown flag{hint}", one_line(&name))));
        }
    }
    Ok(flags)
}

fn flag_value(name: &str, parser: &mut lexopt::Parser) -> Result<String, ConfigError> {
    let value = parser.value().map_err(|_| ConfigError(format!("{name} needs a value")))?;
    utf8(name, value)
}

fn utf8(name: &str, text: OsString) -> Result<String, ConfigError> {
    text.into_string().map_err(|_| ConfigError(format!("{name} must be UTF-8")))
}

struct Environment {
    settings: Vec<(usize, String)>,
    fallbacks: Vec<(usize, &'static str, String)>,
    config_file: Option<PathBuf>,
}

/// Beginnings of variables that are certainly meant for this program.
const PREFIXES: &[&str] = &[
    "WEBRTC_",
    "RTC_",
    "RECORDING_",
    "JWT_",
    "LIMIT_",
    "TLS_",
    "WEBHOOK_",
    "AUTO_CREATE_",
    "ENFORCE_TOKEN_",
    "ALLOWED_ORIGIN",
    "TRUSTED_PROX",
    "SHUTDOWN_TIME",
];

fn read_environment(
    env: impl Iterator<Item = (OsString, OsString)>,
    warnings: &mut Vec<String>,
) -> Result<Environment, ConfigError> {
    let mut found = Environment { settings: Vec::new(), fallbacks: Vec::new(), config_file: None };
    for (name, value) in env {
        let Ok(name) = name.into_string() else { continue };
        if name == "WEBRTC_ENGINE_CONFIG" {
            found.config_file = (!value.is_empty()).then(|| value.into());
        } else if let Some((at, key)) = KEYS.iter().enumerate().find(|(_, key)| key.name == name) {
            let value = utf8(&name, value)?;
            // Compose files pass variables on as empty ones; but an empty secret is a deployment that lost it, and
            // going on would start in development mode.
            if !value.is_empty() || key.name == "JWT_SECRET" {
                found.settings.push((at, value));
            }
        } else if let Some((at, fallback)) =
            KEYS.iter().enumerate().find_map(|(at, key)| key.fallback.filter(|f| *f == name).map(|f| (at, f)))
        {
            if let Some(value) = value.into_string().ok().filter(|value| !value.is_empty()) {
                found.fallbacks.push((at, fallback, value));
            }
        } else if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !is_service_link(&name, &value) {
            let known = KEYS.iter().map(|key| key.name.to_owned()).chain(["WEBRTC_ENGINE_CONFIG".to_owned()]);
            let hint = nearest(&name, known).map_or(String::new(), |n| format!(", did you mean {n}?"));
            warnings.push(format!("{}: unknown variable{hint}", one_line(&name)));
        }
    }
    Ok(found)
}

/// Variables that Kubernetes sets for every service of a namespace, such as `WEBRTC_ENGINE_PORT_3000_TCP_ADDR`.
fn is_service_link(name: &str, value: &std::ffi::OsStr) -> bool {
    let value = value.to_string_lossy();
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_TCP_")
        || name.contains("_UDP_")
        || value.starts_with("tcp://")
        || value.starts_with("udp://")
}

/// The known name that differs least, when it is near enough to be what was meant.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let allowed = (name.len() / 4).clamp(2, 6);
    known
        .map(|candidate| (edit_distance(name, &candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein. Only the first 64 bytes count, so that a hostile name costs nothing.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let (a, b) = (a.get(..64).unwrap_or(a), b.get(..64).unwrap_or(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Foreign text for the one line of an error: control characters escaped, cut at 100 characters.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == 100 {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
