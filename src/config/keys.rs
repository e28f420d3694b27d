//! The one table of settings. Parsing, help, `config check` and the check for unknown names all read it.

use std::time::Duration;

use super::Config;
use super::parse::{self, Parsed};

/// One setting: an environment variable, a flag and a place in the TOML file.
pub struct Key {
    /// Name of the environment variable; the flag is the same in lower case with dashes.
    pub name: &'static str,
    /// Place in the TOML file, `section.key`.
    pub file: &'static str,
    /// The default as text, parsed like any other value; `None`: not set.
    pub default: Option<&'static str>,
    /// What the help says about the default where the text alone does not.
    pub default_help: Option<&'static str>,
    /// One line.
    pub help: &'static str,
    /// Never shown.
    pub secret: bool,
    /// As a flag it needs no value (`--x` means `--x=true`).
    pub boolean: bool,
    /// May be an array in the file.
    pub list: bool,
    /// An environment variable of other programs, used when nothing else sets the key.
    pub fallback: Option<&'static str>,
    /// Parses the text and stores the value. The error says what would have been right.
    pub(super) set: fn(&mut Config, &str) -> Parsed<()>,
}

impl Key {
    /// The flag without its dashes.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    /// Section of the TOML file.
    pub fn section(&self) -> &'static str {
        self.file.split('.').next().unwrap_or(self.file)
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    const fn default_help(mut self, text: &'static str) -> Self {
        self.default_help = Some(text);
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn boolean(mut self) -> Self {
        self.boolean = true;
        self
    }

    const fn list(mut self) -> Self {
        self.list = true;
        self
    }

    const fn fallback(mut self, name: &'static str) -> Self {
        self.fallback = Some(name);
        self
    }
}

const fn key(
    name: &'static str,
    file: &'static str,
    help: &'static str,
    set: fn(&mut Config, &str) -> Parsed<()>,
) -> Key {
    Key {
        name,
        file,
        default: None,
        default_help: None,
        help,
        secret: false,
        boolean: false,
        list: false,
        fallback: None,
        set,
    }
}

/// `set!(part.field = parser(more arguments))`: parse the text and store it; `some` wraps it for an optional field.
macro_rules! set {
    ($part:ident . $field:ident = some $parser:ident ( $($arg:expr),* )) => {
        |config: &mut Config, text: &str| {
            config.$part.$field = Some(parse::$parser(text, $($arg),*)?);
            Ok(())
        }
    };
    ($part:ident . $field:ident = $parser:ident ( $($arg:expr),* )) => {
        |config: &mut Config, text: &str| {
            config.$part.$field = parse::$parser(text, $($arg),*)?;
            Ok(())
        }
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Highest number of workers: their number is one byte in many places.
pub const WORKERS_MAX: u64 = 128;

/// All settings, in the order in which help and `config check` show them.
pub static KEYS: &[Key] = &[
    // --- server
    key("HOST", "server.host", "address for HTTP, WebSocket and ICE-TCP", set!(server.host = some host()))
        .default_help("[::] and 0.0.0.0; loopback in development mode"),
    key("PORT", "server.port", "TCP port; 0 picks a free one", set!(server.port = whole(0, 65_535))).default("3000"),
    key("WORKERS", "server.workers", "event loops, each on a core of its own", |config, text| {
        config.server.workers = if text == "cores" { 0 } else { parse::whole(text, 1, WORKERS_MAX)? };
        Ok(())
    })
    .default("cores"),
    key("DATA_DIR", "server.dataDir", "database and development secret", set!(server.data_dir = path()))
        .default("./data"),
    key("TLS_CERT_FILE", "server.tlsCertFile", "certificate chain (PEM) for HTTPS", set!(files.cert = some path())),
    key("TLS_KEY_FILE", "server.tlsKeyFile", "private key (PEM) for HTTPS", set!(files.key = some path())),
    key(
        "TLS_CA_FILE",
        "server.tlsCaFile",
        "further roots (PEM) for stores and webhooks",
        set!(server.tls_ca_file = some path()),
    ),
    key(
        "TLS_SELF_SIGNED",
        "server.tlsSelfSigned",
        "HTTPS with a certificate made for the host's addresses",
        set!(server.tls_self_signed = boolean()),
    )
    .default("false")
    .boolean(),
    key(
        "AUTO_CREATE_CALLS",
        "server.autoCreateCalls",
        "joining an unknown call creates it",
        set!(server.auto_create_calls = boolean()),
    )
    .default("true")
    .boolean(),
    key(
        "SHUTDOWN_TIMEOUT",
        "server.shutdownTimeout",
        "how long calls may go on after SIGTERM",
        set!(server.shutdown_timeout = duration(Duration::ZERO, DAY)),
    )
    .default("300s"),
    key(
        "METRICS_PORT",
        "server.metricsPort",
        "port of its own for /metrics, on loopback",
        set!(server.metrics_port = some whole(1, 65_535)),
    )
    .default_help("same port"),
    key(
        "ALLOWED_ORIGINS",
        "server.allowedOrigins",
        "origins of other web pages that may call",
        set!(server.allowed_origins = origins()),
    )
    .default_help("same origin")
    .list(),
    key(
        "TRUSTED_PROXIES",
        "server.trustedProxies",
        "whose X-Forwarded-For to believe (addresses, networks)",
        set!(server.trusted_proxies = proxies()),
    )
    .list(),
    // --- auth
    key("JWT_SECRET", "auth.jwtSecret", "HS256 secret, at least 32 bytes", set!(auth.jwt_secret = some jwt_secret()))
        .default_help("none: development mode")
        .secret(),
    key(
        "JWT_PUBLIC_KEY_FILE",
        "auth.jwtPublicKeyFile",
        "public key (PEM) for RS256, ES256 or EdDSA",
        set!(files.public_key = some path()),
    ),
    key(
        "JWT_PRIVATE_KEY_FILE",
        "auth.jwtPrivateKeyFile",
        "private key (PEM), to mint tokens as well",
        set!(files.private_key = some path()),
    ),
    key("JWT_JWKS_FILE", "auth.jwtJwksFile", "key set (not available yet)", set!(files.jwks = some path())),
    key("JWT_JWKS_URL", "auth.jwtJwksUrl", "key set (not available yet)", set!(files.jwks_url = some http_url())),
    key("JWT_ISSUER", "auth.jwtIssuer", "the `iss` a token must have", set!(auth.issuer = some word())),
    key("JWT_AUDIENCE", "auth.jwtAudience", "one of these must be a token's `aud`", set!(auth.audience = words()))
        .list(),
    key(
        "ENFORCE_TOKEN_EXPIRY",
        "auth.enforceTokenExpiry",
        "end a session when its token expires",
        set!(auth.enforce_token_expiry = boolean()),
    )
    .default("false")
    .boolean(),
    // --- webrtc
    key(
        "RTC_UDP_PORT",
        "webrtc.udpPort",
        "media port of the first worker, the next has the next; 0 picks free ones",
        set!(rtc.udp_port = whole(0, 65_535)),
    )
    .default("40000"),
    key(
        "RTC_ANNOUNCED_IPS",
        "webrtc.announcedIps",
        "addresses in candidates, `public` or `public/local`; `auto` asks the STUN servers",
        set!(rtc.announced = announced()),
    )
    .default_help("found on the interfaces")
    .list(),
    key("WEBRTC_ICE_SERVERS", "webrtc.iceServers", "STUN servers for clients", set!(rtc.ice_servers = stun_urls()))
        .list(),
    key("WEBRTC_TURN_SERVER_URL", "webrtc.turnServerUrl", "TURN servers for clients", set!(rtc.turn_url = turn_urls()))
        .list(),
    key("WEBRTC_TURN_USERNAME", "webrtc.turnUsername", "fixed TURN user", set!(rtc.turn_username = some word())),
    key("WEBRTC_TURN_PASSWORD", "webrtc.turnPassword", "fixed TURN password", set!(rtc.turn_password = some secret()))
        .secret(),
    key(
        "WEBRTC_TURN_SECRET",
        "webrtc.turnSecret",
        "shared secret for time-limited TURN credentials",
        set!(rtc.turn_secret = some secret()),
    )
    .secret(),
    key(
        "WEBRTC_AUDIO_BITRATE",
        "webrtc.encodingOptions.audio.bitrate",
        "bits per second",
        set!(encoding.audio_bitrate = whole(6_000, 510_000)),
    )
    .default("128000"),
    key(
        "WEBRTC_VIDEO_MIN_BITRATE",
        "webrtc.encodingOptions.video.bitrate.min",
        "bits per second",
        set!(encoding.video_min_bitrate = whole(0, 100_000_000)),
    )
    .default("500000"),
    key(
        "WEBRTC_VIDEO_MAX_BITRATE",
        "webrtc.encodingOptions.video.bitrate.max",
        "bits per second",
        set!(encoding.video_max_bitrate = whole(30_000, 100_000_000)),
    )
    .default("2000000"),
    key(
        "WEBRTC_VIDEO_CODEC",
        "webrtc.encodingOptions.video.codec",
        "vp8, h264, vp9, av1: one, or a list by preference",
        |config, text| {
            let order = parse::video_codecs(text)?;
            if let Some(first) = order.first() {
                config.encoding.video_codec = *first;
            }
            config.encoding.video_codecs = order;
            Ok(())
        },
    )
    .default("vp8")
    .list(),
    key("WEBRTC_AUDIO_CODEC", "webrtc.encodingOptions.audio.codec", "opus", set!(encoding.audio_codec = audio_codec()))
        .default("opus"),
    key(
        "WEBRTC_VIDEO_FRAMERATE",
        "webrtc.encodingOptions.video.framerate",
        "frames per second",
        set!(encoding.framerate = whole(1, 240)),
    )
    .default("30"),
    key(
        "WEBRTC_VIDEO_WIDTH",
        "webrtc.encodingOptions.video.resolution.width",
        "pixels",
        set!(encoding.width = whole(16, 16_384)),
    )
    .default("1280"),
    key(
        "WEBRTC_VIDEO_HEIGHT",
        "webrtc.encodingOptions.video.resolution.height",
        "pixels",
        set!(encoding.height = whole(16, 16_384)),
    )
    .default("720"),
    // --- recording
    key(
        "RECORDING_OUTPUT_DIR",
        "recording.outputDir",
        "where recordings are written",
        set!(recording.output_dir = path()),
    )
    .default("./recordings"),
    key("RECORDING_ALLOWED", "recording.allowed", "whether calls may be recorded", set!(recording.allowed = boolean()))
        .default("true")
        .boolean(),
    key(
        "RECORDING_AUTO",
        "recording.auto",
        "record every call from when the first participant comes",
        set!(recording.auto = boolean()),
    )
    .default("false")
    .boolean(),
    key(
        "RECORDING_FORMAT",
        "recording.format",
        "of the composed file: webm or mkv",
        set!(recording.format = one_of(&["webm", "mkv"])),
    )
    .default("webm"),
    key(
        "RECORDING_VIDEO_CODEC",
        "recording.videoCodec",
        "of the composed file",
        set!(recording.video_codec = one_of(&["vp8", "vp9", "h264", "av1"])),
    )
    .default("vp8"),
    key(
        "RECORDING_AUDIO_CODEC",
        "recording.audioCodec",
        "of the composed file",
        set!(recording.audio_codec = audio_codec()),
    )
    .default("opus"),
    key(
        "RECORDING_VIDEO_BITRATE",
        "recording.videoBitrate",
        "of the composed file, bits per second",
        set!(recording.video_bitrate = whole(30_000, 100_000_000)),
    )
    .default("2000000"),
    key(
        "RECORDING_AUDIO_BITRATE",
        "recording.audioBitrate",
        "of the composed file, bits per second",
        set!(recording.audio_bitrate = whole(6_000, 510_000)),
    )
    .default("128000"),
    key(
        "RECORDING_FRAMERATE",
        "recording.framerate",
        "of the composed file, frames per second",
        set!(recording.framerate = whole(1, 240)),
    )
    .default("30"),
    key(
        "RECORDING_WIDTH",
        "recording.resolution.width",
        "of the composed file, pixels",
        set!(recording.width = whole(16, 16_384)),
    )
    .default("1280"),
    key(
        "RECORDING_HEIGHT",
        "recording.resolution.height",
        "of the composed file, pixels",
        set!(recording.height = whole(16, 16_384)),
    )
    .default("720"),
    key(
        "RECORDING_KEEP_LOCAL",
        "recording.keepLocal",
        "keep the files after an upload",
        set!(recording.keep_local = boolean()),
    )
    .default("false")
    .boolean(),
    key(
        "RECORDING_RETENTION_DAYS",
        "recording.retentionDays",
        "days until a recording is deleted; 0: never",
        set!(recording.retention_days = whole(0, 36_500)),
    )
    .default("0"),
    key(
        "RECORDING_MIN_FREE_DISK",
        "recording.minFreeDisk",
        "free space below which no recording starts",
        set!(recording.min_free_disk = bytes(0, 1 << 50)),
    )
    .default("1GiB"),
    key(
        "RECORDING_STORAGE_PROVIDER",
        "recording.storage.provider",
        "local, s3, gcs or vercel-blob",
        set!(recording.provider = storage_provider()),
    )
    .default("local"),
    key("RECORDING_S3_BUCKET", "recording.storage.s3.bucket", "S3 bucket", set!(recording.s3_bucket = some word())),
    key("RECORDING_S3_REGION", "recording.storage.s3.region", "S3 region", set!(recording.s3_region = some word()))
        .fallback("AWS_REGION"),
    key(
        "RECORDING_S3_ENDPOINT",
        "recording.storage.s3.endpoint",
        "URL of an S3-compatible store",
        set!(recording.s3_endpoint = some http_url()),
    ),
    key(
        "RECORDING_S3_ACCESS_KEY_ID",
        "recording.storage.s3.accessKeyId",
        "S3 access key",
        set!(recording.s3_access_key_id = some word()),
    )
    .fallback("AWS_ACCESS_KEY_ID"),
    key(
        "RECORDING_S3_SECRET_ACCESS_KEY",
        "recording.storage.s3.secretAccessKey",
        "S3 secret",
        set!(recording.s3_secret_access_key = some secret()),
    )
    .secret()
    .fallback("AWS_SECRET_ACCESS_KEY"),
    key(
        "RECORDING_S3_SESSION_TOKEN",
        "recording.storage.s3.sessionToken",
        "S3 session token",
        set!(recording.s3_session_token = some secret()),
    )
    .secret()
    .fallback("AWS_SESSION_TOKEN"),
    key("RECORDING_S3_PREFIX", "recording.storage.s3.prefix", "S3 key prefix", set!(recording.s3_prefix = some word())),
    key(
        "RECORDING_S3_PATH_STYLE",
        "recording.storage.s3.pathStyle",
        "bucket in the path, not in the host name",
        set!(recording.s3_path_style = boolean()),
    )
    .default("false")
    .boolean(),
    key(
        "RECORDING_S3_SSE",
        "recording.storage.s3.sse",
        "encryption at rest: AES256, aws:kms or aws:kms:dsse",
        set!(recording.s3_sse = some exactly_one_of(&["AES256", "aws:kms", "aws:kms:dsse"])),
    )
    .default_help("as the bucket does"),
    key(
        "RECORDING_S3_STORAGE_CLASS",
        "recording.storage.s3.storageClass",
        "such as STANDARD_IA",
        set!(recording.s3_storage_class = some storage_class()),
    )
    .default_help("as the bucket does"),
    key("RECORDING_GCS_BUCKET", "recording.storage.gcs.bucket", "GCS bucket", set!(recording.gcs_bucket = some word())),
    key("RECORDING_GCS_PREFIX", "recording.storage.gcs.prefix", "GCS prefix", set!(recording.gcs_prefix = some word())),
    key(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "recording.storage.gcs.credentialsFile",
        "service account (JSON)",
        set!(recording.gcs_credentials_file = some path()),
    ),
    key(
        "RECORDING_GCS_ENDPOINT",
        "recording.storage.gcs.endpoint",
        "URL in the place of Google's",
        set!(recording.gcs_endpoint = some http_url()),
    )
    .default_help("https://storage.googleapis.com"),
    key(
        "BLOB_READ_WRITE_TOKEN",
        "recording.storage.vercelBlob.token",
        "Vercel Blob token",
        set!(recording.blob_token = some secret()),
    )
    .secret(),
    key(
        "VERCEL_BLOB_API_URL",
        "recording.storage.vercelBlob.apiUrl",
        "URL in the place of Vercel's",
        set!(recording.blob_api_url = some http_url()),
    )
    .default_help("https://vercel.com/api/blob"),
    // --- webhooks
    key("WEBHOOK_URLS", "webhooks.urls", "where events are posted", set!(webhooks.urls = http_urls())).list(),
    key(
        "WEBHOOK_SECRET",
        "webhooks.secret",
        "whsec_ and base64, several separated by spaces",
        set!(webhooks.secrets = webhook_secrets()),
    )
    .secret(),
    // --- log
    key("LOG_LEVEL", "log.level", "off, error, warn, info, debug, trace", set!(log.level = log_level()))
        .default("info"),
    key("LOG_FORMAT", "log.format", "text or json", set!(log.format = log_format())).default("text"),
    key("DEBUG", "log.debug", "webrtc:* or webrtc:ice,webrtc:room: parts to debug", set!(log.debug = debug_parts()))
        .list(),
    // --- limits
    key(
        "LIMIT_REQUEST_LINE",
        "limits.requestLine",
        "size of a request line",
        set!(limits.request_line = bytes(256, MIB)),
    )
    .default("8KiB"),
    key(
        "LIMIT_REQUEST_HEAD",
        "limits.requestHead",
        "size of a request head",
        set!(limits.request_head = bytes(512, MIB)),
    )
    .default("16KiB"),
    key(
        "LIMIT_REQUEST_HEADERS",
        "limits.requestHeaders",
        "headers of a request",
        set!(limits.request_headers = whole(8, 1024)),
    )
    .default("64"),
    key(
        "LIMIT_REQUEST_BODY",
        "limits.requestBody",
        "size of a REST body",
        set!(limits.request_body = bytes(KIB, 64 * MIB)),
    )
    .default("64KiB"),
    key(
        "LIMIT_HEAD_TIMEOUT",
        "limits.headTimeout",
        "a request head is complete within",
        set!(limits.head_timeout = duration(S, HOUR)),
    )
    .default("10s"),
    key(
        "LIMIT_BODY_TIMEOUT",
        "limits.bodyTimeout",
        "a request body is complete within",
        set!(limits.body_timeout = duration(S, HOUR)),
    )
    .default("30s"),
    key(
        "LIMIT_KEEP_ALIVE",
        "limits.keepAlive",
        "an idle connection stays open",
        set!(limits.keep_alive = duration(S, HOUR)),
    )
    .default("60s"),
    key(
        "LIMIT_WRITE_TIMEOUT",
        "limits.writeTimeout",
        "a write may stall",
        set!(limits.write_timeout = duration(S, HOUR)),
    )
    .default("10s"),
    key(
        "LIMIT_MESSAGE_BEFORE_JOIN",
        "limits.messageBeforeJoin",
        "size of a WebSocket message before joining",
        set!(limits.message_before_join = bytes(KIB, 16 * MIB)),
    )
    .default("16KiB"),
    key(
        "LIMIT_MESSAGE",
        "limits.message",
        "size of a WebSocket message after joining",
        set!(limits.message = bytes(KIB, 16 * MIB)),
    )
    .default("256KiB"),
    key(
        "LIMIT_OUTGOING_QUEUE",
        "limits.outgoingQueue",
        "bytes waiting for one WebSocket",
        set!(limits.outgoing_queue = bytes(16 * KIB, 64 * MIB)),
    )
    .default("256KiB"),
    key(
        "LIMIT_MESSAGE_RATE",
        "limits.messageRate",
        "WebSocket messages per second and connection",
        set!(limits.message_rate = whole(1, 100_000)),
    )
    .default("50"),
    key(
        "LIMIT_MESSAGE_BURST",
        "limits.messageBurst",
        "WebSocket messages at once",
        set!(limits.message_burst = whole(1, 100_000)),
    )
    .default("200"),
    key(
        "LIMIT_OFFER_RATE",
        "limits.offerRate",
        "offers per second and connection",
        set!(limits.offer_rate = whole(1, 1_000)),
    )
    .default("2"),
    key("LIMIT_OFFER_BURST", "limits.offerBurst", "offers at once", set!(limits.offer_burst = whole(1, 1_000)))
        .default("10"),
    key(
        "LIMIT_JOIN_TIMEOUT",
        "limits.joinTimeout",
        "a WebSocket has joined within",
        set!(limits.join_timeout = duration(S, HOUR)),
    )
    .default("15s"),
    key(
        "LIMIT_RESUME",
        "limits.resume",
        "a participant whose connection was lost may come back within; 0: has left at once",
        set!(limits.resume = duration(Duration::ZERO, HOUR)),
    )
    .default("30s"),
    key("LIMIT_SDP_SIZE", "limits.sdpSize", "size of an SDP", set!(limits.sdp_size = bytes(KIB, 4 * MIB)))
        .default("128KiB"),
    key("LIMIT_SDP_MEDIA", "limits.sdpMedia", "m-lines of an SDP", set!(limits.sdp_media = whole(1, 1_024)))
        .default("64"),
    key(
        "LIMIT_SDP_PAYLOAD_TYPES",
        "limits.sdpPayloadTypes",
        "payload types of an m-line",
        set!(limits.sdp_payload_types = whole(1, 128)),
    )
    .default("64"),
    key(
        "LIMIT_CANDIDATES",
        "limits.candidates",
        "ICE candidates of a session",
        set!(limits.candidates = whole(1, 1_024)),
    )
    .default("64"),
    key("LIMIT_JSON_DEPTH", "limits.jsonDepth", "nesting of JSON", set!(limits.json_depth = whole(4, 100)))
        .default("32"),
    key(
        "LIMIT_JSON_MEMBERS",
        "limits.jsonMembers",
        "members of a JSON text",
        set!(limits.json_members = whole(16, 65_536)),
    )
    .default("256"),
    key(
        "LIMIT_PARTICIPANT_METADATA",
        "limits.participantMetadata",
        "size of a participant's metadata",
        set!(limits.participant_metadata = bytes(0, MIB)),
    )
    .default("4KiB"),
    key(
        "LIMIT_CALL_METADATA",
        "limits.callMetadata",
        "size of a call's metadata",
        set!(limits.call_metadata = bytes(0, MIB)),
    )
    .default("16KiB"),
    key("LIMIT_CONNECTIONS", "limits.connections", "TCP connections", set!(limits.connections = whole(16, 10_000_000)))
        .default("20000"),
    key(
        "LIMIT_UNAUTHENTICATED",
        "limits.unauthenticated",
        "TCP connections without a token",
        set!(limits.unauthenticated = whole(1, 10_000_000)),
    )
    .default("1024"),
    key(
        "LIMIT_UNAUTHENTICATED_PER_ADDRESS",
        "limits.unauthenticatedPerAddress",
        "of one address",
        set!(limits.unauthenticated_per_address = whole(1, 10_000_000)),
    )
    .default("256"),
    key(
        "LIMIT_BAD_TOKEN_RATE",
        "limits.badTokenRate",
        "bad tokens per second and address",
        set!(limits.bad_token_rate = whole(1, 100_000)),
    )
    .default("20"),
    key(
        "LIMIT_BAD_TOKEN_BURST",
        "limits.badTokenBurst",
        "bad tokens at once",
        set!(limits.bad_token_burst = whole(1, 100_000)),
    )
    .default("50"),
    key("LIMIT_ROOMS", "limits.rooms", "calls at once", set!(limits.rooms = whole(1, 1_000_000))).default("10000"),
    key(
        "LIMIT_PARTICIPANTS",
        "limits.participants",
        "participants of a call",
        set!(limits.participants = whole(2, 10_000)),
    )
    .default("100"),
    key("LIMIT_TRACKS", "limits.tracks", "tracks of a publisher", set!(limits.tracks = whole(1, 64))).default("4"),
    key("LIMIT_ENCODINGS", "limits.encodings", "encodings of a track", set!(limits.encodings = whole(1, 8)))
        .default("3"),
    key(
        "LIMIT_UNKNOWN_SSRCS",
        "limits.unknownSsrcs",
        "unknown SSRCs of a peer",
        set!(limits.unknown_ssrcs = whole(1, 1_024)),
    )
    .default("32"),
    key(
        "LIMIT_DATA_CHANNELS",
        "limits.dataChannels",
        "data channels of a peer",
        set!(limits.data_channels = whole(0, 1_024)),
    )
    .default("16"),
    key(
        "LIMIT_DATA_MESSAGE",
        "limits.dataMessage",
        "size of a data channel message",
        set!(limits.data_message = bytes(KIB, 16 * MIB)),
    )
    .default("64KiB"),
    key(
        "LIMIT_DATA_BUFFERED",
        "limits.dataBuffered",
        "bytes waiting in data channels",
        set!(limits.data_buffered = bytes(KIB, 256 * MIB)),
    )
    .default("1MiB"),
    key(
        "LIMIT_DTLS_HANDSHAKES",
        "limits.dtlsHandshakes",
        "DTLS handshakes at once",
        set!(limits.dtls_handshakes = whole(1, 100_000)),
    )
    .default("500"),
    key(
        "LIMIT_DTLS_TIMEOUT",
        "limits.dtlsTimeout",
        "a DTLS handshake is complete within",
        set!(limits.dtls_timeout = duration(S, HOUR)),
    )
    .default("10s"),
    key("LIMIT_RECORDINGS", "limits.recordings", "recordings at once", set!(limits.recordings = whole(0, 100_000)))
        .default("50"),
    key(
        "LIMIT_RECORDING_LENGTH",
        "limits.recordingLength",
        "length of a recording",
        set!(limits.recording_length = duration(S, Duration::from_secs(30 * 86_400))),
    )
    .default("12h"),
    key(
        "LIMIT_RECORDING_SIZE",
        "limits.recordingSize",
        "size of a recording",
        set!(limits.recording_size = bytes(MIB, 1_024 * GIB)),
    )
    .default("20GiB"),
    key(
        "LIMIT_RECORDING_QUEUE",
        "limits.recordingQueue",
        "bytes of a recording waiting for the disk",
        set!(limits.recording_queue = bytes(64 * KIB, GIB)),
    )
    .default("8MiB"),
    key(
        "LIMIT_KEYFRAME_INTERVAL_LOW",
        "limits.keyframeIntervalLow",
        "between key-frame requests for a low layer",
        set!(limits.keyframe_interval_low = duration(MS.saturating_mul(10), HOUR)),
    )
    .default("200ms"),
    key(
        "LIMIT_KEYFRAME_INTERVAL_HIGH",
        "limits.keyframeIntervalHigh",
        "between key-frame requests for a high layer",
        set!(limits.keyframe_interval_high = duration(MS.saturating_mul(10), HOUR)),
    )
    .default("500ms"),
    key(
        "LIMIT_RETRANSMISSION_SHARE",
        "limits.retransmissionShare",
        "retransmissions to a subscriber, percent of its media",
        set!(limits.retransmission_percent = whole(0, 100)),
    )
    .default("25"),
    key(
        "LIMIT_RETRANSMISSIONS",
        "limits.retransmissions",
        "times that one packet is sent again",
        set!(limits.retransmissions = whole(0, 100)),
    )
    .default("3"),
];
