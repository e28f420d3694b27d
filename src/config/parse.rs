//! Text of one setting → typed value.
//!
//! A failure says what would have been right and never repeats the text, which may be a secret; the loader adds the
//! text where it may be shown.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Announce, Announced, AudioCodec, DebugPart, IpNet, LogFormat, LogLevel, Secret, StorageProvider, VideoCodec,
};

/// What would have been right.
pub(super) type Parsed<T> = Result<T, String>;

/// A whole number within `min..=max`; `_` may group digits.
pub(super) fn whole<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Parsed<T> {
    let wrong = || format!("must be a whole number from {min} to {max}");
    let digits = text.replace('_', "");
    // `u64::from_str` takes a leading `+`, which nobody means.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = digits.parse::<u64>().map_err(|_| wrong())?;
    if number < min || number > max {
        return Err(wrong());
    }
    T::try_from(number).map_err(|_| wrong())
}

/// Bytes: a whole number, alone or with `B`, `KiB`, `MiB`, `GiB` (`K`, `M`, `G` mean the same).
pub(super) fn bytes<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Parsed<T> {
    let wrong = || format!("must be a size from {} to {}, such as 64KiB", show_bytes(min), show_bytes(max));
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let size = number.checked_mul(scale).filter(|size| (min..=max).contains(size)).ok_or_else(wrong)?;
    T::try_from(size).map_err(|_| wrong())
}

fn show_bytes(size: u64) -> String {
    match size {
        0 => "0".to_owned(),
        _ if size.is_multiple_of(1 << 30) => format!("{}GiB", size >> 30),
        _ if size.is_multiple_of(1 << 20) => format!("{}MiB", size >> 20),
        _ if size.is_multiple_of(1 << 10) => format!("{}KiB", size >> 10),
        _ => format!("{size}B"),
    }
}

/// A span of time: a whole number of seconds, or with `ms`, `s`, `m`, `h`, `d`.
pub(super) fn duration(text: &str, min: Duration, max: Duration) -> Parsed<Duration> {
    let wrong = || format!("must be a time from {} to {}, such as 10s", show_duration(min), show_duration(max));
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let value = number.checked_mul(milliseconds_per_unit).map(Duration::from_millis).ok_or_else(wrong)?;
    if value < min || value > max { Err(wrong()) } else { Ok(value) }
}

fn show_duration(time: Duration) -> String {
    let (s, ms) = (time.as_secs(), time.subsec_millis());
    match s {
        _ if ms != 0 => format!("{}ms", time.as_millis()),
        0 => "0s".to_owned(),
        _ if s.is_multiple_of(86_400) => format!("{}d", s / 86_400),
        _ if s.is_multiple_of(3_600) => format!("{}h", s / 3_600),
        _ if s.is_multiple_of(60) => format!("{}m", s / 60),
        _ => format!("{s}s"),
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// `true`/`false`, also `1`/`0`, `yes`/`no`, `on`/`off`.
pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// The non-empty members of a comma list, trimmed.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

pub(super) fn words(text: &str) -> Parsed<Vec<String>> {
    Ok(list(text).map(str::to_owned).collect())
}

/// Any text without control characters.
pub(super) fn word(text: &str) -> Parsed<String> {
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn secret(text: &str) -> Parsed<Secret> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    Ok(Secret::new(text))
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() || text.contains('\0') {
        return Err("must be a path".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn host(text: &str) -> Parsed<IpAddr> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    ip(text).ok_or_else(|| "must be an IP address such as 0.0.0.0, 127.0.0.1 or [::]".to_owned())
}

fn ip(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok()
}

pub(super) fn announced(text: &str) -> Parsed<Announced> {
    if text == "auto" {
        return Ok(Announced::Auto);
    }
    let mut announces: Vec<Announce> = Vec::new();
    for item in list(text) {
        let wrong = || "must be auto, or a comma list of public or public/local IP addresses".to_owned();
        let (public, local) = match item.split_once('/') {
            Some((public, local)) => (ip(public).ok_or_else(wrong)?, Some(ip(local).ok_or_else(wrong)?)),
            None => (ip(item).ok_or_else(wrong)?, None),
        };
        for address in [Some(public), local].into_iter().flatten() {
            if address.is_unspecified() || address.is_multicast() {
                return Err("must hold addresses that a packet can be sent to".to_owned());
            }
        }
        if local.is_some_and(|local| local.is_ipv4() != public.is_ipv4()) {
            return Err("must not mix IPv4 and IPv6 within one public/local".to_owned());
        }
        if announces.iter().any(|a| a.public == public) {
            return Err("must not name a public address twice".to_owned());
        }
        announces.push(Announce { public, local });
    }
    Ok(if announces.is_empty() { Announced::Interfaces } else { Announced::List(announces) })
}

pub(super) fn proxies(text: &str) -> Parsed<Vec<IpNet>> {
    list(text)
        .map(|item| {
            IpNet::parse(item).ok_or_else(|| "must be a comma list of IP addresses or networks (10.0.0.0/8)".into())
        })
        .collect()
}

/// Origins in the form browsers send: scheme, host and port (when it is not the scheme's own), lower case.
pub(super) fn origins(text: &str) -> Parsed<Vec<String>> {
    list(text).map(origin).collect()
}

fn origin(text: &str) -> Parsed<String> {
    let wrong = || "must be a comma list of origins such as https://meet.example.org".to_owned();
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    // A trailing slash is how people paste it; no browser sends it.
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let default_port = match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => None,
        _ => return Err(wrong()),
    };
    let (host, port) = host_and_port(authority).ok_or_else(wrong)?;
    Ok(match port {
        Some(port) if Some(port) != default_port => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; the host keeps its brackets.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest.get(..end)?.parse::<std::net::Ipv6Addr>().ok()?;
            end + 2
        }
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = (authority.get(..host_end)?, authority.get(host_end..)?);
    let name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    if host.is_empty() || (!host.starts_with('[') && !host.bytes().all(name)) {
        return None;
    }
    if port.is_empty() {
        return Some((host, None));
    }
    let digits = port.strip_prefix(':')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, Some(digits.parse().ok().filter(|p| *p != 0)?)))
}

/// `stun:` and `stuns:` URLs (RFC 7064).
pub(super) fn stun_urls(text: &str) -> Parsed<Vec<String>> {
    list(text)
        .map(|url| match split_ice_url(url) {
            Some(("stun" | "stuns", None)) => Ok(url.to_owned()),
            // A browser throws on a TURN server without credentials, and then no call works at all.
            Some(("turn" | "turns", _)) => Err("must hold stun: URLs only; TURN goes to WEBRTC_TURN_SERVER_URL".into()),
            _ => Err("must be a comma list of URLs such as stun:stun.example.org:3478".to_owned()),
        })
        .collect()
}

/// `turn:` and `turns:` URLs, `?transport=udp` or `tcp` allowed (RFC 7065).
pub(super) fn turn_urls(text: &str) -> Parsed<Vec<String>> {
    list(text)
        .map(|url| match split_ice_url(url) {
            Some(("turn" | "turns", None | Some("transport=udp" | "transport=tcp"))) => Ok(url.to_owned()),
            _ => Err("must be a comma list of URLs such as turn:turn.example.org:3478?transport=udp".to_owned()),
        })
        .collect()
}

fn split_ice_url(url: &str) -> Option<(&str, Option<&str>)> {
    let (scheme, rest) = url.split_once(':')?;
    let (authority, query) = match rest.split_once('?') {
        Some((authority, query)) => (authority, Some(query)),
        None => (rest, None),
    };
    host_and_port(authority)?;
    Some((scheme, query))
}

/// The host name and port of a `stun:` URL from the configuration; `None` for other schemes; the port defaults to 3478.
pub fn stun_host(url: &str) -> Option<(String, u16)> {
    let (scheme, _) = split_ice_url(url)?;
    let (host, port) = host_and_port(url.strip_prefix("stun:").filter(|_| scheme == "stun")?)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some((bare.to_owned(), port.unwrap_or(3478)))
}

/// `http:` and `https:` URLs; only their beginning is judged here.
pub(super) fn http_urls(text: &str) -> Parsed<Vec<String>> {
    list(text).map(http_url).collect()
}

pub(super) fn http_url(text: &str) -> Parsed<String> {
    let wrong = || "must be a URL such as https://example.org/path".to_owned();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(wrong)?;
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    host_and_port(authority).ok_or_else(wrong)?;
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '#') { Err(wrong()) } else { Ok(text.into()) }
}

pub(super) fn webhook_secrets(text: &str) -> Parsed<Vec<Secret>> {
    text.split_whitespace()
        .map(|item| {
            let key = item.strip_prefix("whsec_").and_then(|base64| openssl::base64::decode_block(base64).ok());
            match key {
                Some(key) if key.len() >= 16 => Ok(Secret::new(item)),
                _ => Err("must be whsec_ and base64 of at least 16 bytes, several separated by spaces".to_owned()),
            }
        })
        .collect()
}

pub(super) fn video_codecs(text: &str) -> Parsed<Vec<VideoCodec>> {
    let mut order = Vec::new();
    for item in list(text) {
        let codec = match item.to_ascii_lowercase().as_str() {
            "vp8" => VideoCodec::Vp8,
            "h264" | "h.264" => VideoCodec::H264,
            "vp9" => VideoCodec::Vp9,
            "av1" => VideoCodec::Av1,
            _ => return Err("must be vp8, h264, vp9 or av1, or a comma list of them, the preferred first".into()),
        };
        if !order.contains(&codec) {
            order.push(codec);
        }
    }
    if order.is_empty() { Err("must name a codec".to_owned()) } else { Ok(order) }
}

pub(super) fn audio_codec(text: &str) -> Parsed<AudioCodec> {
    match text.to_ascii_lowercase().as_str() {
        "opus" => Ok(AudioCodec::Opus),
        _ => Err("must be opus".to_owned()),
    }
}

/// One of `allowed`, in lower case.
pub(super) fn one_of(text: &str, allowed: &[&'static str]) -> Parsed<&'static str> {
    let lower = text.to_ascii_lowercase();
    allowed.iter().find(|a| **a == lower).copied().ok_or_else(|| format!("must be one of {}", allowed.join(", ")))
}

/// One of `allowed`, as it is written.
pub(super) fn exactly_one_of(text: &str, allowed: &[&'static str]) -> Parsed<&'static str> {
    allowed.iter().find(|a| **a == text).copied().ok_or_else(|| format!("must be one of {}", allowed.join(", ")))
}

pub(super) fn storage_class(text: &str) -> Parsed<String> {
    let is_name = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(is_name) {
        true => Ok(text.to_owned()),
        false => Err("must be the name of a storage class such as STANDARD_IA".to_owned()),
    }
}

pub(super) fn storage_provider(text: &str) -> Parsed<StorageProvider> {
    Ok(match one_of(text, &["local", "s3", "gcs", "vercel-blob"])? {
        "s3" => StorageProvider::S3,
        "gcs" => StorageProvider::Gcs,
        "vercel-blob" => StorageProvider::VercelBlob,
        _ => StorageProvider::Local,
    })
}

pub(super) fn log_level(text: &str) -> Parsed<LogLevel> {
    Ok(match one_of(text, &["off", "error", "warn", "info", "debug", "trace"])? {
        "off" => LogLevel::Off,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => LogLevel::Info,
    })
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    Ok(match one_of(text, &["text", "json"])? {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    })
}

/// The parts that `DEBUG` names. What is not `webrtc:…` belongs to other programs, which share the variable.
pub(super) fn debug_parts(text: &str) -> Parsed<Vec<DebugPart>> {
    let mut parts = Vec::new();
    for item in text.split([',', ' ']).map(str::trim) {
        let named: &[DebugPart] = match item.strip_prefix("webrtc:") {
            Some("*") => DebugPart::ALL,
            Some(name) => match DebugPart::ALL.iter().position(|part| part.name() == name) {
                Some(at) => DebugPart::ALL.get(at..=at).unwrap_or(&[]),
                None => {
                    let names: Vec<_> = DebugPart::ALL.iter().map(|part| part.name()).collect();
                    return Err(format!("must be webrtc:* or webrtc:<part> with a part of {}", names.join(", ")));
                }
            },
            None if item == "*" => DebugPart::ALL,
            None => &[],
        };
        for part in named {
            if !parts.contains(part) {
                parts.push(*part);
            }
        }
    }
    Ok(parts)
}

/// A secret for HS256 (RFC 7518 §3.2: at least 32 bytes) that is not one that others know as well.
pub(super) fn jwt_secret(text: &str) -> Parsed<Secret> {
    if text.len() < 32 {
        return Err("must have at least 32 bytes; `openssl rand -base64 48` makes a good one".to_owned());
    }
    if is_weak(text) {
        return Err("is a well-known or guessable secret; `openssl rand -base64 48` makes a good one".to_owned());
    }
    Ok(Secret::new(text))
}

/// Placeholders of tutorials and templates, repetitions, runs. A random secret of 32 bytes has none of these.
fn is_weak(text: &str) -> bool {
    const KNOWN: &[&str] = &[
        "changeme",
        "changethis",
        "replaceme",
        "replacethis",
        "yoursecret",
        "yourjwt",
        "yoursuper",
        "your256bit",
        "yourkey",
        "supersecret",
        "mysecret",
        "jwtsecret",
        "secretkey",
        "stringsecret",
        "verysecret",
        "notsosecret",
        "devsecret",
        "testsecret",
        "password",
        "example",
        "qwerty",
        "placeholder",
        "insecure",
    ];
    let bytes = text.as_bytes();
    let distinct = bytes.iter().collect::<std::collections::HashSet<_>>().len();
    let repeats = |period: usize| bytes.iter().zip(bytes.iter().skip(period)).all(|(a, b)| a == b);
    let steps = bytes.windows(2).filter(|w| matches!(w, [a, b] if b.wrapping_sub(*a) == 1)).count();
    let letters: String = text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    distinct < 8
        || (1..=bytes.len() / 2).any(repeats)
        || steps * 2 > bytes.len()
        || KNOWN.iter().any(|known| letters.contains(known))
}
