//! The command line: subcommands, exit codes, and everything a server needs before its first socket.
//!
//! Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration. An error is one line on standard error.

pub mod addresses;
pub mod data_dir;
mod help;
mod recordings;
mod serve;
mod upload;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use crate::auth::{Claims, KeyError, Role, RoomScope, Signer, Verifier, display_name};
use crate::base::{RoomId, UserId};
use crate::config::{
    AuthConfig, CommandFlag, Config, ConfigError, Effective, Loaded, Rest, WORKERS_MAX, check_udp_ports, parse_duration,
};
use crate::log::{self, Safe};
use crate::storage::{cloud, disk};
use addresses::{MediaAddress, discover_addresses};
use data_dir::DataDirLock;

/// What `main` does.
pub fn main() -> ExitCode {
    let mut out = Vec::new();
    let outcome = run(std::env::args_os().skip(1).collect(), std::env::vars_os().collect(), &mut out);
    // Also where something failed: it says what did, and what did not.
    let written = match io::stdout().lock().write_all(&out) {
        // Whoever read has seen enough, as in `config check | head`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failure::from),
    };
    match outcome.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing is left to do where even this cannot be written.
            let _ = writeln!(io::stderr(), "webrtc-engine: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Why a command did not work; its text is one line.
#[derive(Debug)]
enum Failure {
    /// Wrong usage or configuration.
    Usage(String),
    Failed(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Failed(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(line) | Failure::Failed(line) => f.write_str(line),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Failure::Usage(e.to_string())
    }
}

impl From<KeyError> for Failure {
    fn from(e: KeyError) -> Self {
        Failure::Usage(e.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Failed(format!("output: {e}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Serve,
    Token,
    ConfigCheck,
    RecordingsList,
    RecordingsRepair,
    RecordingsUpload,
}

const COMMAND_FLAGS: &[CommandFlag] = &[
    CommandFlag { long: "user", short: None, takes_value: true },
    CommandFlag { long: "name", short: None, takes_value: true },
    CommandFlag { long: "role", short: None, takes_value: true },
    CommandFlag { long: "room", short: None, takes_value: true },
    CommandFlag { long: "ttl", short: None, takes_value: true },
    CommandFlag { long: "all-failed", short: None, takes_value: false },
    CommandFlag { long: "storage", short: None, takes_value: false },
];

fn run(args: Vec<OsString>, env: Vec<(OsString, OsString)>, out: &mut dyn Write) -> Result<(), Failure> {
    // Asked before anything is parsed, so that a wrong setting does not hide the help.
    let asks = |long: &str, short: &str| args.iter().take_while(|a| *a != "--").any(|a| a == long || a == short);
    if asks("--help", "-h") {
        let named = |word: &str| args.iter().any(|a| a == word);
        let command = match (named("token"), named("config"), named("recordings")) {
            (true, ..) => Command::Token,
            (_, true, _) => Command::ConfigCheck,
            (.., true) => Command::RecordingsList,
            _ => Command::Serve,
        };
        return Ok(out.write_all(help::text(command).as_bytes())?);
    }
    if asks("--version", "-V") {
        return Ok(writeln!(out, "webrtc-engine {}", env!("CARGO_PKG_VERSION"))?);
    }

    let mut loaded = Config::load_with(args.into_iter(), COMMAND_FLAGS, env.into_iter(), &|path| std::fs::read(path))?;
    settle_workers(&mut loaded.config)?;
    let (command, flags) = split(&loaded.rest)?;
    match command {
        Command::Token => token(&loaded.config, &flags, out),
        Command::ConfigCheck if flags.is_empty() => config_check(&loaded, out),
        Command::ConfigCheck => storage_check(&loaded.config, out),
        Command::RecordingsList => recordings::list(&loaded.config, out),
        Command::RecordingsRepair => recordings::repair(&loaded.config, out),
        Command::RecordingsUpload => {
            let words: Vec<&str> = loaded.rest.iter().filter_map(Rest::word).skip(2).collect();
            upload::upload(&loaded.config, upload::Which::parse(&words, !flags.is_empty())?, out)
        }
        Command::Serve => {
            log::init(&loaded.config.log);
            serve::serve(prepare(loaded)?).map_err(|e| Failure::Failed(e.to_string()))
        }
    }
}

type CommandValues = Vec<(&'static str, String)>;

/// The command that the words name, and its own flags.
fn split(rest: &[Rest]) -> Result<(Command, CommandValues), Failure> {
    let (mut words, mut flags) = (Vec::new(), CommandValues::new());
    for item in rest {
        match item {
            Rest::Word(word) => words.push(word.as_str()),
            Rest::Flag(name, value) => flags.push((name, value.clone())),
        }
    }
    let command = match words.as_slice() {
        [] | ["serve"] => Command::Serve,
        ["token"] => Command::Token,
        ["config", "check"] => Command::ConfigCheck,
        ["recordings", "list"] => Command::RecordingsList,
        ["recordings", "repair"] => Command::RecordingsRepair,
        ["recordings"] => {
            let say = "recordings: say `recordings list`, `recordings repair` or `recordings upload`";
            return Err(Failure::Usage(say.to_owned()));
        }
        ["recordings", "upload", ..] => Command::RecordingsUpload,
        ["config"] => return Err(Failure::Usage("config: say `config check`".to_owned())),
        ["serve" | "token", word, ..]
        | ["config", "check", word, ..]
        | ["config", word, ..]
        | ["recordings", "list" | "repair", word, ..]
        | ["recordings", word, ..]
        | [word, ..] => {
            return Err(Failure::Usage(format!("{}: unknown command; see --help", Safe(word))));
        }
    };
    let owner = |name: &str| match name {
        "all-failed" => (Command::RecordingsUpload, "recordings upload"),
        "storage" => (Command::ConfigCheck, "config check"),
        _ => (Command::Token, "token"),
    };
    match flags.iter().find(|(name, _)| owner(name).0 != command) {
        Some((name, _)) => Err(Failure::Usage(format!("--{name}: only `{}` takes this flag", owner(name).1))),
        _ => Ok((command, flags)),
    }
}

/// One worker per core, unless the configuration says how many.
fn settle_workers(config: &mut Config) -> Result<(), ConfigError> {
    if config.server.workers == 0 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        config.server.workers = cores.min(usize::try_from(WORKERS_MAX).unwrap_or(cores));
    }
    check_udp_ports(config.rtc.udp_port, config.server.workers)
}

/// Everything that `serve` starts with.
pub struct Prepared {
    /// `server.workers` is a number of workers here, never 0.
    pub config: Config,
    /// No key is configured: HTTP on loopback unless `server.host` says otherwise, `POST /dev/token` exists.
    pub dev_mode: bool,
    pub verifier: Verifier,
    /// `None`: only a public key is configured.
    pub signer: Option<Signer>,
    /// What `POST /dev/token` asks for: in development mode with a `HOST` that others can reach. Already printed.
    pub dev_code: Option<String>,
    /// Not empty.
    pub addresses: Vec<MediaAddress>,
    /// To be held until the process ends.
    pub lock: DataDirLock,
}

/// Why the server ended.
#[derive(Debug)]
pub struct ServeError(pub String);

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

fn prepare(loaded: Loaded) -> Result<Prepared, Failure> {
    let Loaded { config, warnings, .. } = loaded;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let data_dir = &config.server.data_dir;
    let lock = data_dir::lock(data_dir).map_err(Failure::Failed)?;
    let dev_mode = config.auth.is_dev_mode();
    let auth = signing_auth(&config)?;
    let (verifier, signer) = (Verifier::new(&auth)?, Signer::new(&auth)?);
    let mut dev_code = None;
    if dev_mode {
        let secret = data_dir.join("dev-secret");
        tracing::warn!("development mode: no JWT key is configured, tokens are signed with {}", secret.display());
        if let Some(host) = config.server.host.filter(|host| !host.is_loopback()) {
            let code = data_dir::random_hex::<5>().map_err(|e| Failure::Failed(format!("random numbers: {e}")))?;
            // Not through the log, whose level may hide it.
            let line = format!("development mode on {host}: POST /dev/token asks for the code {code}");
            let _ = writeln!(io::stderr(), "webrtc-engine: {line}");
            dev_code = Some(code);
        }
    }
    let addresses = discover_addresses(&config, dev_mode)?;
    Ok(Prepared { config, dev_mode, verifier, signer, dev_code, addresses, lock })
}

/// The configured keys, or in development mode the secret of the data directory.
fn signing_auth(config: &Config) -> Result<AuthConfig, Failure> {
    let mut auth = config.auth.clone();
    if auth.is_dev_mode() {
        let data_dir = &config.server.data_dir;
        let (secret, _) = data_dir::dev_secret(data_dir)
            .map_err(|e| Failure::Failed(format!("DATA_DIR {}: {e}", data_dir.display())))?;
        auth.jwt_secret = Some(secret);
    }
    Ok(auth)
}

fn token(config: &Config, flags: &CommandValues, out: &mut dyn Write) -> Result<(), Failure> {
    let usage = |flag: &str, problem: &str| Failure::Usage(format!("--{flag} {problem}"));
    let (mut user, mut name, mut role, mut rooms, mut ttl) = (None, None, Role::Participant, RoomScope::Any, 3600);
    for (flag, value) in flags {
        match *flag {
            "user" => user = Some(UserId::new(value).map_err(|e| usage(flag, &e.to_string()))?),
            "name" => name = display_name(value),
            "role" => {
                let wrong = || usage(flag, "must be admin, host, moderator, participant or viewer");
                role = Role::parse(value).ok_or_else(wrong)?;
            }
            "room" if value == "*" => rooms = RoomScope::Any,
            "room" => {
                let ids: Result<Vec<RoomId>, _> = value.split(',').map(|id| RoomId::new(id.trim())).collect();
                rooms = RoomScope::Rooms(ids.map_err(|e| usage(flag, &e.to_string()))?);
            }
            _ => {
                let decade = Duration::from_secs(3653 * 86_400);
                let time = parse_duration(value, Duration::from_secs(1), decade);
                ttl = time.map_err(|expected| usage(flag, &expected))?.as_secs();
            }
        }
    }
    let user = user.ok_or_else(|| usage("user", "is missing"))?;
    let signer = Signer::new(&signing_auth(config)?)?;
    let signer =
        signer.ok_or_else(|| Failure::Usage("JWT_PRIVATE_KEY_FILE is missing: a public key cannot sign".to_owned()))?;
    let claims = Claims { user, name, role, rooms, permissions: None, ttl: Duration::from_secs(ttl) };
    Ok(writeln!(out, "{}", signer.mint(&claims, SystemTime::now()))?)
}

fn config_check(loaded: &Loaded, out: &mut dyn Write) -> Result<(), Failure> {
    if !loaded.config.auth.is_dev_mode() {
        Verifier::new(&loaded.config.auth)?;
        Signer::new(&loaded.config.auth)?;
    }
    for path in loaded.config.server.tls.iter().flat_map(|tls| [&tls.cert, &tls.key]) {
        readable(path)?;
    }
    if let Some(file) = &loaded.file {
        writeln!(out, "# file: {}", Safe(&file.to_string_lossy()))?;
    }
    let mut section = "";
    for Effective { key, shown, origin } in &loaded.effective {
        if key.section() != section {
            section = key.section();
            writeln!(out, "# [{section}]")?;
        }
        match (shown, key.default_help) {
            (Some(text), _) => writeln!(out, "{}={}  # {origin}", key.name, Safe(text))?,
            (None, Some(meaning)) => writeln!(out, "# {} is not set: {meaning}", key.name)?,
            (None, None) => writeln!(out, "# {} is not set", key.name)?,
        }
    }
    for warning in &loaded.warnings {
        writeln!(out, "# warning: {warning}")?;
    }
    Ok(())
}

/// Whether recordings can be stored where they are to be.
fn storage_check(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let directory = &config.recording.output_dir;
    let local = |error: io::Error| Failure::Failed(format!("RECORDING_OUTPUT_DIR {}: {error}", directory.display()));
    let Some(store) = cloud::open(config)? else {
        std::fs::create_dir_all(directory).map_err(local)?;
        let free = disk::free(directory).map_err(local)?;
        return Ok(writeln!(out, "local: recordings stay in {}, {} MiB free", directory.display(), free >> 20)?);
    };
    let provider = store.provider();
    // Not where recordings are: whoever looks may not be who serves.
    cloud::check(store.as_ref(), &std::env::temp_dir())
        .map_err(|fault| Failure::Failed(format!("{provider}: {} ({})", fault.text, fault.kind.as_str())))?;
    Ok(writeln!(out, "{provider}: an object was written, read back and deleted")?)
}

fn readable(path: &Path) -> Result<(), Failure> {
    std::fs::File::open(path).map(|_| ()).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::data_dir::tests::TempDir;
    use super::*;

    const SECRET: &str = "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo";

    fn call(args: &[&str], env: &[(&str, &str)]) -> (u8, String) {
        let args = args.iter().map(OsString::from).collect();
        let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
        let mut out = Vec::new();
        match run(args, env, &mut out) {
            Ok(()) => (0, String::from_utf8(out).unwrap()),
            Err(failure) => (failure.exit_code(), failure.to_string()),
        }
    }

    #[test]
    fn help_and_version() {
        let (code, help) = call(&["--help", "--frobnicate"], &[("PORT", "x")]);
        assert_eq!(code, 0);
        for key in crate::config::KEYS {
            assert!(help.contains(&format!("--{}", key.flag())) && help.contains(key.name), "{}", key.name);
        }
        assert!(call(&["token", "-h"], &[]).1.contains("--user U"));
        assert!(call(&["config", "check", "--help"], &[]).1.contains("config check"));
        assert_eq!(call(&["--version"], &[]), (0, format!("webrtc-engine {}\n", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn wrong_usage_exits_with_2_and_one_line() {
        let rows: &[(&[&str], &str)] = &[
            (&["frobnicate"], "frobnicate: unknown command"),
            (&["serve", "now"], "now: unknown command"),
            (&["config"], "config check"),
            (&["config", "chekc"], "chekc: unknown command"),
            (&["recordings"], "recordings list"),
            (&["recordings", "lsit"], "lsit: unknown command"),
            (&["recordings", "list", "all"], "all: unknown command"),
            (&["serve", "--user", "u"], "--user: only `token`"),
            (&["--nope"], "--nope: unknown flag"),
            (&["--port"], "--port needs a value"),
            (&["--port", "x"], "--port must be"),
            (&["--config", "/does/not/exist"], "/does/not/exist"),
            (&["--rtc-udp-port", "65535", "--workers", "2"], "RTC_UDP_PORT"),
            (&["token"], "--user is missing"),
            (&["token", "--user", "sfu"], "--user is reserved"),
            (&["token", "--user", "u", "--role", "king"], "--role must be"),
            (&["token", "--user", "u", "--room", "a/b"], "--room "),
            (&["token", "--user", "u", "--ttl", "0"], "--ttl must be"),
            (&["--jwt-public-key-file", "/dev/null", "config", "check"], "JWT_PUBLIC_KEY_FILE is not"),
        ];
        for (args, expected) in rows {
            let (code, line) = call(args, &[]);
            assert_eq!(code, 2, "{args:?}: {line}");
            assert!(line.contains(expected) && !line.contains('\n'), "{line} lacks {expected}");
        }
    }

    #[test]
    fn recordings_where_there_are_none() {
        let temp = TempDir::new();
        let root = temp.0.join("recordings");
        let root = root.to_str().unwrap();
        for (word, expected) in
            [("list", "0 recordings in "), ("repair", "0 recordings looked at, 0 repaired, 0 failed")]
        {
            let (code, out) = call(&["recordings", word, "--recording-output-dir", root], &[]);
            assert!(code == 0 && out.starts_with(expected), "{out}");
            assert!(call(&["recordings", word, "--help"], &[]).1.contains("recordings list|repair|upload"));
        }
    }

    #[test]
    fn tokens_are_those_that_the_server_accepts() {
        let temp = TempDir::new();
        let data = temp.0.join("data");
        let data = data.to_str().unwrap();
        let now = SystemTime::now();

        let (code, out) = call(&["token", "--user", "u", "--data-dir", data], &[]);
        assert_eq!(code, 0, "{out}");
        let (secret, made) = data_dir::dev_secret(Path::new(data)).unwrap();
        assert!(!made);
        let auth = AuthConfig { jwt_secret: Some(secret), ..AuthConfig::default() };
        let grants = Verifier::new(&auth).unwrap().verify(out.trim_end(), now).unwrap();
        assert_eq!((grants.user().as_str(), grants.role(), grants.rooms()), ("u", Role::Participant, &RoomScope::Any));

        let args = ["token", "--user", "u", "--name", "N", "--role", "host", "--room", "a,b", "--ttl", "2d"];
        let (code, out) = call(&args, &[("JWT_SECRET", SECRET), ("JWT_ISSUER", "us")]);
        assert_eq!(code, 0, "{out}");
        let auth = AuthConfig {
            jwt_secret: Some(crate::config::Secret::new(SECRET)),
            issuer: Some("us".to_owned()),
            ..AuthConfig::default()
        };
        let verifier = Verifier::new(&auth).unwrap();
        let grants = verifier.verify(out.trim_end(), now).unwrap();
        assert_eq!((grants.name(), grants.role()), (Some("N"), Role::Host));
        assert!(grants.may_enter(&RoomId::new("b").unwrap()) && !grants.may_enter(&RoomId::new("c").unwrap()));
        assert!(verifier.verify(out.trim_end(), now + Duration::from_secs(172_700)).is_ok());
        assert!(verifier.verify(out.trim_end(), now + Duration::from_secs(172_900)).is_err());
    }

    #[test]
    fn config_check_masks_and_names_sources() {
        let temp = TempDir::new();
        let file = temp.0.join("engine.toml");
        std::fs::write(&file, "[webrtc]\nudpPort = 41000\n").unwrap();
        let env = [("JWT_SECRET", SECRET), ("WEBRTC_TURN_SECRET", "hush-hush")];
        let (code, out) = call(&["config", "check", "--port", "4000", "--config", file.to_str().unwrap()], &env);
        assert_eq!(code, 0, "{out}");
        for line in [
            "PORT=4000  # flag",
            "RTC_UDP_PORT=41000  # file",
            "JWT_SECRET=***  # environment",
            "LOG_LEVEL=info  # default",
            "# ALLOWED_ORIGINS is not set: same origin",
            "# TRUSTED_PROXIES is not set\n",
            "# warning: WEBRTC_TURN_SERVER_URL is missing",
        ] {
            assert!(out.contains(line), "{out} lacks {line}");
        }
        assert!(!out.contains(SECRET) && !out.contains("hush"));
    }

    #[test]
    fn a_server_is_prepared_in_development_mode() {
        let temp = TempDir::new();
        let data = temp.0.to_str().unwrap().to_owned();
        let load = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let mut loaded = Config::load(args.into_iter(), std::iter::empty(), &|_| Ok(Vec::new())).unwrap();
            settle_workers(&mut loaded.config).unwrap();
            prepare(loaded)
        };
        let prepared = load(&["--data-dir", &data]).unwrap();
        assert!(prepared.dev_mode && prepared.signer.is_some() && prepared.dev_code.is_none());
        assert!(prepared.config.server.workers > 0);
        assert!(prepared.addresses.iter().any(|a| a.bind.is_loopback()));
        match load(&["--data-dir", &data]) {
            Err(failure) => assert!(failure.exit_code() == 1 && failure.to_string().contains(&data)),
            Ok(_) => panic!("two servers on one directory"),
        }
        drop(prepared);
        let reachable = load(&["--data-dir", &data, "--host", "0.0.0.0"]).unwrap();
        assert_eq!(reachable.dev_code.as_ref().map(String::len), Some(10));
        drop(reachable);
        let keyed = load(&["--data-dir", &data, "--host", "0.0.0.0", "--jwt-secret", SECRET]);
        assert!(matches!(keyed, Ok(Prepared { dev_mode: false, dev_code: None, .. })));
    }
}
