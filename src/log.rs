//! One line per event on standard error, as text or JSON, with levels by part.
//!
//! What clients send must not be able to forge lines or drive a terminal: every control character but the end of the
//! line is escaped on the way out, whatever recorded it. [`Safe`] also bounds the length, for values from outside.

use std::fmt;
use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{DebugPart, LogConfig, LogFormat, LogLevel};

/// Installs the log for the process. A second call changes nothing.
pub fn init(config: &LogConfig) {
    // Fails only when there is a subscriber already, as in tests.
    let _ = tracing_subscriber::registry().with(layer(config, io::stderr)).try_init();
}

fn layer<S, W>(config: &LogConfig, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let writer = OneLine { inner: writer, json: config.format == LogFormat::Json };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let filter = targets(config);
    match config.format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// The level holds for this crate; libraries only warn until their part is raised.
fn targets(config: &LogConfig) -> Targets {
    let level = match config.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let mut targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("webrtc_engine", level);
    for part in &config.debug {
        for target in modules(*part) {
            targets = targets.with_target(*target, level.max(LevelFilter::DEBUG));
        }
    }
    targets
}

/// The modules that make up a part, ours and those of libraries.
fn modules(part: DebugPart) -> &'static [&'static str] {
    match part {
        // str0m calls ICE by the name of its crate `is`.
        DebugPart::Ice => &["is", "webrtc_engine::p2p", "webrtc_engine::ice_servers"],
        DebugPart::Dtls => &["dimpl", "str0m::dtls", "webrtc_engine::peer::crypto"],
        DebugPart::Signaling => &["webrtc_engine::signal", "webrtc_engine::ws"],
        DebugPart::Http => &["webrtc_engine::http", "webrtc_engine::auth"],
        DebugPart::Room => &["webrtc_engine::room"],
        DebugPart::Sfu => &["webrtc_engine::sfu"],
        DebugPart::Peer => &["webrtc_engine::peer", "str0m"],
        DebugPart::Recording => &["webrtc_engine::recording"],
        DebugPart::Worker => &["webrtc_engine::worker", "webrtc_engine::shard", "webrtc_engine::jobs"],
    }
}

/// Text from outside for one field: control characters escaped, at most [`Safe::BYTES_MAX`] bytes and an ellipsis.
pub struct Safe<'a>(pub &'a str);

impl Safe<'_> {
    /// Bytes written before the ellipsis.
    pub const BYTES_MAX: usize = 256;
}

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut written = 0;
        for c in self.0.chars() {
            let size = if is_plain(c) { c.len_utf8() } else { c.escape_default().len() };
            if written + size > Self::BYTES_MAX {
                return f.write_char('…');
            }
            written += size;
            if is_plain(c) { f.write_char(c)? } else { c.escape_default().try_for_each(|c| f.write_char(c))? }
        }
        Ok(())
    }
}

impl fmt::Debug for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// No control character, and none that breaks or turns round a line (U+2028, U+2029, the bidirectional controls).
fn is_plain(c: char) -> bool {
    !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'))
}

/// Escapes what is not plain within each write. The formatter writes an event whole, with its `\n` last; the `\n` and
/// ESC that Display values carry inside would otherwise reach the terminal. JSON text has its own form of escapes.
struct OneLine<W> {
    inner: W,
    json: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = OneLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine { inner: self.inner.make_writer(), json: self.json }
    }
}

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        use fmt::Write;
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        if line.chars().all(is_plain) {
            self.inner.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = String::with_capacity(line.len() + 16);
        for c in line.chars() {
            match is_plain(c) {
                true => escaped.push(c),
                // All of them lie below U+10000.
                false if self.json => write!(escaped, "\\u{:04x}", u32::from(c)).map_err(io::Error::other)?,
                false => escaped.extend(c.escape_default()),
            }
        }
        escaped.push('\n');
        self.inner.write_all(escaped.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: &LogConfig, log: impl FnOnce()) -> String {
        let memory = Memory::default();
        let sink = memory.clone();
        let subscriber = tracing_subscriber::registry().with(layer(config, move || sink.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// However a value from outside is recorded, the event stays one line without control characters.
    #[test]
    fn foreign_text_cannot_forge_lines() {
        let evil = "x\r\n2030-01-01 ERROR root: forged\u{1b}[2J\u{9b}\u{202e}\0";
        for format in [LogFormat::Text, LogFormat::Json] {
            let config = LogConfig { format, ..LogConfig::default() };
            let out = logged(&config, || {
                let span = tracing::info_span!("join", user = %evil, other = evil);
                let _entered = span.enter();
                tracing::info!(display = %evil, debug = ?evil, text = evil, safe = %Safe(evil), "message {evil}");
            });
            let line = out.strip_suffix('\n').unwrap();
            assert!(line.chars().all(is_plain), "{out:?}");
            assert!(line.contains("forged"));
            if format == LogFormat::Json {
                let parsed: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(parsed["level"], "INFO");
                assert!(parsed["message"].as_str().unwrap().starts_with("message x"));
            }
        }
    }

    #[test]
    fn safe_escapes_and_bounds() {
        let rows = [
            ("plain é", "plain é".to_owned()),
            ("a\nb\x1b[0m\u{7f}", "a\\nb\\u{1b}[0m\\u{7f}".to_owned()),
            ("\u{2028}", "\\u{2028}".to_owned()),
            ("", String::new()),
        ];
        for (text, expected) in rows {
            assert_eq!(Safe(text).to_string(), expected);
        }
        assert_eq!(Safe(&"x".repeat(256)).to_string(), "x".repeat(256));
        assert_eq!(Safe(&"x".repeat(257)).to_string(), "x".repeat(256) + "…");
        assert_eq!(Safe(&"é".repeat(200)).to_string(), "é".repeat(128) + "…");
        assert!(Safe(&"\0".repeat(100_000)).to_string().len() <= 256 + "…".len());
    }

    #[test]
    fn parts_are_raised_alone() {
        let rows: &[(LogLevel, &[DebugPart], &str, Level, bool)] = &[
            (LogLevel::Info, &[], "webrtc_engine::room", Level::INFO, true),
            (LogLevel::Info, &[], "webrtc_engine::room", Level::DEBUG, false),
            (LogLevel::Info, &[], "is::agent", Level::INFO, false),
            (LogLevel::Info, &[], "is::agent", Level::WARN, true),
            (LogLevel::Info, &[DebugPart::Ice], "is::agent", Level::DEBUG, true),
            (LogLevel::Info, &[DebugPart::Ice], "webrtc_engine::room", Level::DEBUG, false),
            (LogLevel::Info, &[DebugPart::Room], "webrtc_engine::room::lobby", Level::DEBUG, true),
            (LogLevel::Info, &[DebugPart::Room], "webrtc_engine::room", Level::TRACE, false),
            (LogLevel::Error, &[DebugPart::Room], "webrtc_engine::room", Level::DEBUG, true),
            (LogLevel::Error, &[], "is::agent", Level::WARN, false),
            (LogLevel::Off, &[], "webrtc_engine::room", Level::ERROR, false),
            (LogLevel::Trace, &[DebugPart::Sfu], "webrtc_engine::sfu", Level::TRACE, true),
            (LogLevel::Debug, &[], "dimpl", Level::DEBUG, false),
        ];
        for (level, debug, target, event, expected) in rows {
            let config = LogConfig { level: *level, debug: debug.to_vec(), ..LogConfig::default() };
            assert_eq!(targets(&config).would_enable(target, event), *expected, "{level:?} {debug:?} {target} {event}");
        }
    }
}
