//! Settings from the edge: every source, their order, and the line that a wrong one gets.

use super::*;

type Env<'a> = [(&'a str, &'a str)];
const NO_ENV: &Env = &[];

/// Loads from words, variables and the text of a file.
fn load(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Result<Loaded, ConfigError> {
    let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
    if file.is_some() {
        args.extend(["--config".into(), "engine.toml".into()]);
    }
    let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let read = |path: &Path| match (path.to_str(), file) {
        (Some("engine.toml"), Some(text)) => Ok(text.as_bytes().to_vec()),
        (Some("public.pem"), _) => Ok(b"PUBLIC".to_vec()),
        (Some("private.pem"), _) => Ok(b"PRIVATE".to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    Config::load(args.into_iter(), env, &read)
}

fn error(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> String {
    match load(args, env, file) {
        Ok(_) => panic!("loaded: {args:?} {env:?} {file:?}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn defaults_are_those_of_the_interface() {
    let c = Config::default();
    assert_eq!((c.server.host, c.server.port, c.server.workers), (None, 3000, 0));
    assert_eq!(c.server.data_dir, Path::new("./data"));
    assert_eq!((c.server.shutdown_timeout.as_secs(), c.server.auto_create_calls), (300, true));
    assert_eq!((c.rtc.udp_port, &c.rtc.announced), (40_000, &Announced::Interfaces));
    let e = &c.encoding;
    assert_eq!((e.audio_bitrate, e.video_min_bitrate, e.video_max_bitrate), (128_000, 500_000, 2_000_000));
    assert_eq!(
        (e.video_codec, e.audio_codec, e.framerate, e.width, e.height),
        (VideoCodec::Vp8, AudioCodec::Opus, 30, 1280, 720)
    );
    let l = &c.limits;
    assert_eq!((l.request_line, l.request_head, l.request_headers, l.request_body), (8192, 16_384, 64, 65_536));
    assert_eq!((l.message_before_join, l.message, l.outgoing_queue), (16_384, 262_144, 262_144));
    assert_eq!((l.message_rate, l.message_burst, l.offer_rate, l.offer_burst), (50, 200, 2, 10));
    assert_eq!((l.recording_length.as_secs(), l.recording_size, l.recording_queue), (43_200, 20 << 30, 8 << 20));
    assert_eq!((l.keyframe_interval_low.as_millis(), l.keyframe_interval_high.as_millis()), (200, 500));
    assert_eq!(c.recording.min_free_disk, 1 << 30);
    assert!(c.auth.is_dev_mode());
}

/// Every row of the table has a name, flag and place of its own, in a section that the interface names.
#[test]
fn the_table_is_consistent() {
    let sections = ["server", "auth", "webrtc", "recording", "webhooks", "log", "limits"];
    for (n, key) in KEYS.iter().enumerate() {
        assert!(sections.contains(&key.section()), "{}", key.name);
        assert!(!key.help.is_empty(), "{}", key.name);
        assert!(!(key.secret && key.default.is_some()), "{}", key.name);
        for other in KEYS.iter().skip(n + 1) {
            assert_ne!(key.name, other.name);
            assert_ne!(key.file, other.file);
            assert!(!key.file.starts_with(&format!("{}.", other.file)), "{} lies in {}", key.file, other.file);
            assert!(!other.file.starts_with(&format!("{}.", key.file)), "{} lies in {}", other.file, key.file);
        }
        if key.boolean {
            assert!(matches!(key.default, Some("true" | "false")), "{}", key.name);
        }
    }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let file = Some("[server]\nport = 1");
    let env: &[(&str, &str)] = &[("PORT", "2")];
    type Row<'a> = (&'a [&'a str], &'a Env<'a>, Option<&'a str>, u16, Origin);
    let rows: &[Row] = &[
        (&["--port", "3"], env, file, 3, Origin::Flag),
        (&["--port=3"], env, file, 3, Origin::Flag),
        (&[], env, file, 2, Origin::Environment),
        (&[], NO_ENV, file, 1, Origin::File),
        (&[], NO_ENV, None, 3000, Origin::Default),
        (&[], &[("PORT", "")], file, 1, Origin::File),
    ];
    for (args, env, file, port, origin) in rows {
        let loaded = load(args, env, *file).unwrap();
        assert_eq!(loaded.config.server.port, *port);
        let shown = loaded.effective.iter().find(|e| e.key.name == "PORT").unwrap();
        assert_eq!((shown.shown.as_deref(), &shown.origin), (Some(port.to_string().as_str()), origin));
    }
}

#[test]
fn booleans_as_flags() {
    let rows: &[(&[&str], bool)] = &[
        (&["--auto-create-calls=false"], false),
        (&["--auto-create-calls"], true),
        (&["--auto-create-calls=0"], false),
    ];
    for (args, expected) in rows {
        assert_eq!(
            load(args, &[("AUTO_CREATE_CALLS", "true")], None).unwrap().config.server.auto_create_calls,
            *expected
        );
    }
    // A boolean flag takes no separate word.
    let loaded = load(&["--tls-self-signed", "serve"], NO_ENV, None).unwrap();
    assert!(loaded.config.server.tls_self_signed);
    assert_eq!(loaded.rest, [Rest::Word("serve".to_owned())]);
}

#[test]
fn the_file_has_the_shapes_of_the_interface() {
    let loaded = load(
        &[],
        NO_ENV,
        Some(
            r#"
            [server]
            host = "127.0.0.1"
            allowedOrigins = ["https://A.example:443/", "http://b.example:8080"]
            shutdownTimeout = 20
            [webrtc]
            iceServers = [{ urls = "stun:a.example:3478" }, "stun:b.example", { urls = ["stun:c.example"] }]
            encodingOptions = { audio = { bitrate = 64_000, codec = "opus" }, video = { bitrate = { min = 1, max = 900000 }, codec = ["h264", "vp8"], framerate = 15, resolution = { width = 640, height = 360 } } }
            announcedIps = "203.0.113.5/10.0.0.5, 2001:db8::1"
            [recording]
            outputDir = "/r"
            resolution = { width = 1920, height = 1080 }
            storage = { provider = "s3", s3 = { bucket = "b", pathStyle = true } }
            [limits]
            requestBody = "1MiB"
            keyframeIntervalLow = "100ms"
            "#,
        ),
    )
    .unwrap();
    let c = loaded.config;
    assert_eq!(c.server.host, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(c.server.allowed_origins, ["https://a.example", "http://b.example:8080"]);
    assert_eq!(c.server.shutdown_timeout, Duration::from_secs(20));
    assert_eq!(c.rtc.ice_servers, ["stun:a.example:3478", "stun:b.example", "stun:c.example"]);
    assert_eq!(c.encoding.video_codecs, [VideoCodec::H264, VideoCodec::Vp8]);
    assert_eq!(c.encoding.video_codec, VideoCodec::H264);
    assert_eq!((c.encoding.audio_bitrate, c.encoding.video_min_bitrate, c.encoding.width), (64_000, 1, 640));
    assert_eq!(
        c.rtc.announced,
        Announced::List(vec![
            Announce { public: "203.0.113.5".parse().unwrap(), local: Some("10.0.0.5".parse().unwrap()) },
            Announce { public: "2001:db8::1".parse().unwrap(), local: None },
        ])
    );
    assert_eq!((c.recording.width, c.recording.provider, c.recording.s3_path_style), (1920, StorageProvider::S3, true));
    assert_eq!((c.limits.request_body, c.limits.keyframe_interval_low.as_millis()), (1 << 20, 100));
    assert!(loaded.warnings.iter().any(|w| w.contains("RECORDING_WIDTH") && w.contains("not available")));
}

#[test]
fn unknown_names_stop_the_start_and_are_named() {
    let rows: &[(&[&str], Option<&str>, &str)] = &[
        (&["--prot", "1"], None, "--prot: unknown flag, did you mean --port?"),
        (&["--frobnicate"], None, "--frobnicate: unknown flag"),
        (&["-x"], None, "-x: unknown flag"),
        (&[], Some("[server]\nprot = 1"), "server.prot: unknown key, did you mean server.port?"),
        (&[], Some("[servre]\nport = 1"), "servre: unknown key"),
        (&[], Some("port = 1"), "port: unknown key"),
        (
            &[],
            Some("[webrtc.encodingOptions.video]\nbitrate = 5"),
            "webrtc.encodingOptions.video.bitrate must be a table",
        ),
        (&[], Some("[server]\nport = 1\nport = 2"), "line 3: "),
        (&[], Some("[server\n"), "line 1: "),
    ];
    for (args, file, expected) in rows {
        let line = error(args, NO_ENV, *file);
        assert!(line.contains(expected), "{line} lacks {expected}");
        assert!(!line.contains('\n'), "{line}");
    }
}

/// Each impossible value is refused from every source, by a line that names the key.
#[test]
fn impossible_values_name_the_key() {
    let rows = [
        ("HOST", "example.org"),
        ("PORT", "65536"),
        ("PORT", "+1"),
        ("PORT", "-1"),
        ("PORT", "3000x"),
        ("WORKERS", "0"),
        ("WORKERS", "129"),
        ("RTC_UDP_PORT", "70000"),
        ("RTC_ANNOUNCED_IPS", "example.org"),
        ("RTC_ANNOUNCED_IPS", "0.0.0.0"),
        ("RTC_ANNOUNCED_IPS", "1.2.3.4/::1"),
        ("RTC_ANNOUNCED_IPS", "1.2.3.4,1.2.3.4"),
        ("RTC_ANNOUNCED_IPS", "1.2.3.4/"),
        ("WEBRTC_ICE_SERVERS", "stun.example.org"),
        ("WEBRTC_ICE_SERVERS", "turn:t.example"),
        ("WEBRTC_ICE_SERVERS", "stun:a.example:99999"),
        ("WEBRTC_ICE_SERVERS", "stun:a b.example"),
        ("WEBRTC_TURN_SERVER_URL", "stun:t.example"),
        ("WEBRTC_TURN_SERVER_URL", "turn:t.example?transport=sctp"),
        ("WEBRTC_VIDEO_CODEC", "vp8,h265"),
        ("WEBRTC_VIDEO_CODEC", ","),
        ("WEBRTC_AUDIO_CODEC", "pcmu"),
        ("WEBRTC_VIDEO_FRAMERATE", "0"),
        ("TLS_SELF_SIGNED", "maybe"),
        ("SHUTDOWN_TIMEOUT", "5 parsecs"),
        ("SHUTDOWN_TIMEOUT", "99999999999999999999d"),
        ("METRICS_PORT", "0"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "example.org"),
        ("ALLOWED_ORIGINS", "https://example.org/path"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("DEBUG", "webrtc:everything"),
        ("LIMIT_REQUEST_BODY", "1TiB"),
        ("LIMIT_REQUEST_BODY", "18446744073709551615G"),
        ("LIMIT_KEEP_ALIVE", "0"),
        ("RECORDING_STORAGE_PROVIDER", "ftp"),
        ("RECORDING_S3_ENDPOINT", "minio:9000"),
        ("RECORDING_S3_SSE", "aes256"),
        ("RECORDING_S3_STORAGE_CLASS", "standard ia"),
        ("RECORDING_GCS_ENDPOINT", "localhost:9023"),
        ("VERCEL_BLOB_API_URL", "vercel"),
        ("WEBHOOK_URLS", "ftp://example.org"),
        ("WEBHOOK_SECRET", "hunter2"),
    ];
    for (name, value) in rows {
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        let lines = [
            (error(&[], &[(name, value)], None), name.to_owned()),
            (error(&[&format!("--{}={value}", key.flag())], NO_ENV, None), format!("--{}", key.flag())),
            (error(&[], NO_ENV, Some(&format!("{} = '{value}'", key.file))), key.file.to_owned()),
        ];
        for (line, named) in lines {
            assert!(line.starts_with(&named), "{line} does not name {named}");
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(line.contains(value), !key.secret, "{line}");
        }
    }
    // A wrong value is told even where a better source hides it.
    assert!(error(&["--port=1"], &[("PORT", "x")], None).starts_with("PORT must"));
    // Foreign control characters do not reach the terminal.
    assert!(error(&[], &[("PORT", "\x1b[2J\n")], None).ends_with(r#"not "\u{1b}[2J\n""#));
}

#[test]
fn values_that_do_not_go_together() {
    let secret = "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo";
    let turn = ("WEBRTC_TURN_SERVER_URL", "turn:t.example");
    let rows: &[(&[(&str, &str)], &str)] = &[
        (&[("TLS_CERT_FILE", "c")], "TLS_KEY_FILE is missing"),
        (&[("TLS_KEY_FILE", "c")], "TLS_CERT_FILE is missing"),
        (&[("TLS_CERT_FILE", "c"), ("TLS_KEY_FILE", "k"), ("TLS_SELF_SIGNED", "1")], "TLS_SELF_SIGNED"),
        (&[("METRICS_PORT", "3000")], "METRICS_PORT"),
        (&[("RTC_UDP_PORT", "65530"), ("WORKERS", "7")], "RTC_UDP_PORT"),
        (&[("RTC_ANNOUNCED_IPS", "auto")], "RTC_ANNOUNCED_IPS"),
        (&[turn], "WEBRTC_TURN_SERVER_URL"),
        (&[turn, ("WEBRTC_TURN_USERNAME", "u")], "WEBRTC_TURN_PASSWORD is missing"),
        (&[turn, ("WEBRTC_TURN_PASSWORD", "p")], "WEBRTC_TURN_USERNAME is missing"),
        (&[("WEBRTC_VIDEO_MIN_BITRATE", "3000000")], "WEBRTC_VIDEO_MIN_BITRATE"),
        (&[("RECORDING_STORAGE_PROVIDER", "s3")], "RECORDING_S3_BUCKET"),
        (&[("RECORDING_STORAGE_PROVIDER", "gcs")], "RECORDING_GCS_BUCKET"),
        (&[("RECORDING_STORAGE_PROVIDER", "vercel-blob")], "BLOB_READ_WRITE_TOKEN"),
        (&[("LIMIT_REQUEST_LINE", "17KiB")], "LIMIT_REQUEST_LINE"),
        (&[("LIMIT_MESSAGE", "8KiB")], "LIMIT_MESSAGE_BEFORE_JOIN"),
        (&[("JWT_JWKS_FILE", "f")], "JWT_JWKS_FILE: key sets are not available yet"),
        (&[("JWT_JWKS_URL", "https://a.example/jwks")], "JWT_JWKS_URL: key sets are not available yet"),
        (&[("JWT_SECRET", secret), ("JWT_PUBLIC_KEY_FILE", "public.pem")], "JWT_SECRET"),
        (&[("JWT_PUBLIC_KEY_FILE", "missing.pem")], "JWT_PUBLIC_KEY_FILE: missing.pem"),
        (&[("WEBRTC_ENGINE_CONFIG", "missing.toml")], "missing.toml"),
    ];
    for (env, expected) in rows {
        let line = error(&[], env, None);
        assert!(line.contains(expected), "{line} lacks {expected}");
    }
}

#[test]
fn a_weak_jwt_secret_refuses_to_start() {
    let weak = [
        "",
        "secret",
        "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aE",
        "changeme-changeme-please-changeme-x",
        "your-256-bit-secret-your-256-bit-s",
        "a-string-secret-at-least-256-bits-long",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "k3J9x0Qa1mk3J9x0Qa1mk3J9x0Qa1mk3J9x0Qa1m",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "SuperSecret_JWT_key_for_production!!",
    ];
    for secret in weak {
        let line = error(&[], &[("JWT_SECRET", secret)], None);
        assert!(line.starts_with("JWT_SECRET "), "{line}");
        assert!(secret.is_empty() || !line.contains(secret), "{line}");
    }
    let good = "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo";
    let loaded = load(&[], &[("JWT_SECRET", good)], None).unwrap();
    assert!(!loaded.config.auth.is_dev_mode());
    assert_eq!(loaded.config.auth.jwt_secret.unwrap().expose(), good);
}

#[test]
fn secrets_are_masked_everywhere() {
    let text = "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo";
    let whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let env = KEYS.iter().filter(|key| key.secret).map(|key| match key.name {
        "WEBHOOK_SECRET" => (key.name, whsec),
        _ => (key.name, text),
    });
    let loaded = load(&["--jwt-secret", text], &env.collect::<Vec<_>>(), None).unwrap();
    let mut seen = format!("{:?} {:?}", loaded.config, loaded.warnings);
    for entry in &loaded.effective {
        seen += entry.shown.as_deref().unwrap_or("");
        assert!(!entry.key.secret || entry.shown.as_deref() == Some("***"), "{}", entry.key.name);
    }
    assert!(!seen.contains(text) && !seen.contains(whsec));
    assert!(loaded.warnings.iter().any(|w| w.starts_with("--jwt-secret can be read by every user")));
}

#[test]
fn unknown_variables_of_ours_are_warnings() {
    let rows = [
        ("WEBRTC_TURN_SERVER_URI", Some("did you mean WEBRTC_TURN_SERVER_URL?")),
        ("JWT_SECRETS", Some("did you mean JWT_SECRET?")),
        ("LIMIT_ROOM", Some("did you mean LIMIT_ROOMS?")),
        ("RECORDING_QWERTYUIOP", Some("unknown variable")),
        ("WEBRTC_ENGINE_SERVICE_HOST", None),
        ("WEBRTC_ENGINE_PORT_3000_TCP_ADDR", None),
        ("PATH", None),
        ("AWS_PROFILE", None),
    ];
    for (name, expected) in rows {
        let warnings = load(&[], &[(name, "x")], None).unwrap().warnings;
        match expected {
            Some(text) => {
                assert!(matches!(warnings.as_slice(), [w] if w.starts_with(name) && w.contains(text)), "{warnings:?}")
            }
            None => assert!(warnings.is_empty(), "{name}: {warnings:?}"),
        }
    }
}

#[test]
fn variables_of_other_programs_fill_in_last() {
    let env: &[(&str, &str)] = &[("AWS_REGION", "eu-west-1"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    let loaded = load(&[], env, None).unwrap();
    assert_eq!(loaded.config.recording.s3_region.as_deref(), Some("eu-west-1"));
    assert!(loaded.warnings.is_empty(), "credentials lying around are no wish to record: {:?}", loaded.warnings);
    let loaded = load(&[], env, Some("recording.storage.s3.region = 'eu-north-1'")).unwrap();
    assert_eq!(loaded.config.recording.s3_region.as_deref(), Some("eu-north-1"));
    // DEBUG is shared with other programs.
    let loaded = load(&[], &[("DEBUG", "express:*,1,webrtc:ice,webrtc:room,webrtc:ice")], None).unwrap();
    assert_eq!(loaded.config.log.debug, [DebugPart::Ice, DebugPart::Room]);
    assert_eq!(load(&[], &[("DEBUG", "webrtc:*")], None).unwrap().config.log.debug, DebugPart::ALL);
}

#[test]
fn turn_credentials_that_are_not_used_are_told() {
    let turn = ("WEBRTC_TURN_SERVER_URL", "turn:t.example,turns:t.example:443?transport=tcp");
    let rows: &[(&[(&str, &str)], usize)] = &[
        (&[turn, ("WEBRTC_TURN_SECRET", "s")], 0),
        (&[turn, ("WEBRTC_TURN_USERNAME", "u"), ("WEBRTC_TURN_PASSWORD", "p")], 0),
        (&[turn, ("WEBRTC_TURN_USERNAME", "u"), ("WEBRTC_TURN_SECRET", "s")], 1),
        (&[("WEBRTC_TURN_SECRET", "s")], 1),
    ];
    for (env, warnings) in rows {
        assert_eq!(load(&[], env, None).unwrap().warnings.len(), *warnings, "{env:?}");
    }
}

#[test]
fn key_files_are_read() {
    let env = &[("JWT_PUBLIC_KEY_FILE", "public.pem"), ("JWT_PRIVATE_KEY_FILE", "private.pem")];
    let auth = load(&[], env, None).unwrap().config.auth;
    assert_eq!(auth.public_key_pem.as_deref(), Some(b"PUBLIC".as_slice()));
    assert_eq!(auth.private_key_pem.as_ref().map(Secret::expose), Some("PRIVATE"));
    assert!(!auth.is_dev_mode());
}

#[test]
fn flags_of_a_command_are_left_to_it() {
    let command = [
        CommandFlag { long: "user", short: None, takes_value: true },
        CommandFlag { long: "help", short: Some('h'), takes_value: false },
    ];
    let args = ["token", "--data-dir", "--user", "--user", "u", "-h"].map(OsString::from);
    let loaded = Config::load_with(args.into_iter(), &command, std::iter::empty(), &|_| Ok(Vec::new()));
    // What follows a flag that needs a value is its value, as everywhere.
    let loaded = loaded.unwrap();
    assert_eq!(loaded.config.server.data_dir, Path::new("--user"));
    assert_eq!(
        loaded.rest,
        [Rest::Word("token".into()), Rest::Flag("user", "u".into()), Rest::Flag("help", String::new())]
    );
}

#[test]
fn networks_contain() {
    let rows = [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.0/8", "::ffff:10.1.1.1", true),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("192.0.2.7", "192.0.2.7", true),
        ("192.0.2.7", "192.0.2.8", false),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::/0", "::1", true),
    ];
    for (net, address, expected) in rows {
        assert_eq!(IpNet::parse(net).unwrap().contains(address.parse().unwrap()), expected, "{net} {address}");
    }
    for wrong in ["10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/33", "::/129", "x", "10.0.0.0/8/8", "10.0.0.0/300"] {
        assert_eq!(IpNet::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn stun_hosts() {
    assert_eq!(stun_host("stun:a.example"), Some(("a.example".to_owned(), 3478)));
    assert_eq!(stun_host("stun:[2001:db8::1]:5349"), Some(("2001:db8::1".to_owned(), 5349)));
    assert_eq!(stun_host("stuns:a.example"), None);
    assert_eq!(stun_host("stun:"), None);
}

#[test]
fn edit_distances() {
    for (a, b, expected) in
        [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("PORT", "PROT", 2), ("abc", "abc", 0)]
    {
        assert_eq!(edit_distance(a, b), expected);
    }
}

/// Damaged files never panic, and every error is one line.
#[test]
fn damaged_files_are_one_line() {
    let good = r#"
[server]
port = 3000
allowedOrigins = ["https://a.example"]
[webrtc]
iceServers = [{ urls = "stun:a.example:3478" }]
announcedIps = "203.0.113.5/10.0.0.5"
encodingOptions = { video = { bitrate = { min = 1, max = 900000 }, codec = ["h264", "vp8"] } }
[limits]
requestBody = "1MiB"
keepAlive = "60s"
"#;
    assert!(load(&[], NO_ENV, Some(good)).is_ok());
    let mut random = fastrand::Rng::with_seed(7);
    let mut refused = 0;
    for _ in 0..2_000 {
        let mut bytes = good.as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = if random.bool() { random.u8(..) } else { *random.choice(good.as_bytes()).unwrap() };
        }
        let read = |_: &Path| Ok(bytes.clone());
        let args = ["--config", "x"].map(OsString::from);
        if let Err(e) = Config::load(args.into_iter(), std::iter::empty(), &read) {
            refused += 1;
            assert!(!e.to_string().contains(char::is_control), "{e}");
        }
    }
    assert!(refused > 500, "{refused}");
}
