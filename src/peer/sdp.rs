//! What stands between untrusted SDP and str0m: bounds before anything parses it in earnest, and the few edits that
//! descriptions need on their way out (RFC 8866).

use std::fmt::{self, Write as _};

use rustc_hash::FxHashMap;
use sdp_types::Session;
use str0m::media::{MediaKind, Mid};

use super::PeerConfig;
use super::extensions::DEPENDENCY_DESCRIPTOR;

/// Bounds for a description (interface.md §9).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: usize,
    pub lines: usize,
    pub payload_types_per_line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 128 * 1024, lines: 64, payload_types_per_line: 64 }
    }
}

/// Why a description is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SdpError {
    TooLarge,
    TooManyLines,
    TooManyPayloadTypes,
    /// Not SDP; the text says where.
    Malformed(String),
    PayloadType(String),
    /// An m-line of another kind than audio, video and application. str0m would leave it out of its answer, which then
    /// has fewer lines than the offer and is of no use (RFC 8829 §5.3.1).
    Media(String),
    /// An m-line without a mid, with one longer than 16 characters, or one used twice.
    Mid,
    /// A payload type that means two things. Lines of one transport share their payload types (RFC 9143 §10.1.1), and str0m
    /// panics when they do not agree on them.
    Ambiguous(u8),
    NoFingerprint,
}

impl fmt::Display for SdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SdpError::TooLarge => f.write_str("the description is too large"),
            SdpError::TooManyLines => f.write_str("the description has too many m-lines"),
            SdpError::TooManyPayloadTypes => f.write_str("an m-line has too many payload types"),
            SdpError::Malformed(what) => write!(f, "not a session description: {what}"),
            SdpError::PayloadType(what) => write!(f, "{what:?} is not a payload type"),
            SdpError::Media(what) => write!(f, "{what:?} is not a kind of media that is known here"),
            SdpError::Mid => f.write_str("every m-line needs an a=mid of its own, of 1 to 16 characters"),
            SdpError::Ambiguous(pt) => write!(f, "payload type {pt} means two things"),
            SdpError::NoFingerprint => f.write_str("a=fingerprint is missing"),
        }
    }
}

impl std::error::Error for SdpError {}

/// What the guard learned on the way.
#[derive(Debug)]
pub struct Summary {
    /// Audio and video, in order; `mid_text` of all others too.
    pub lines: Vec<SummaryLine>,
    pub fingerprint: Option<String>,
}

#[derive(Debug)]
pub struct SummaryLine {
    pub mid: Mid,
    pub mid_text: String,
    pub kind: Option<MediaKind>,
    /// The dependency descriptor may stand in packets of this line.
    pub has_descriptor: bool,
}

/// Checks a description from outside; what passes may be given to str0m.
pub fn check(text: &str, limits: &Limits) -> Result<Summary, SdpError> {
    if text.len() > limits.bytes {
        return Err(SdpError::TooLarge);
    }
    // Counted on the text, so that a bomb costs one scan and no parse.
    if text.split('\n').filter(|l| l.starts_with("m=")).count() > limits.lines {
        return Err(SdpError::TooManyLines);
    }
    let session = Session::parse(text.as_bytes()).map_err(|e| SdpError::Malformed(e.to_string()))?;
    if session.medias.is_empty() {
        return Err(SdpError::Malformed("it has no m-line".into()));
    }
    let mut lines: Vec<SummaryLine> = Vec::with_capacity(session.medias.len());
    let mut meanings = Meanings::default();
    let mut fingerprint = attribute(&session.attributes, "fingerprint");
    for media in &session.medias {
        let kind = match media.media.as_str() {
            "audio" => Some(MediaKind::Audio),
            "video" => Some(MediaKind::Video),
            "application" => None,
            other => return Err(SdpError::Media(other.chars().take(16).collect())),
        };
        if kind.is_some() {
            let formats = media.fmt.split_ascii_whitespace();
            if formats.clone().count() > limits.payload_types_per_line {
                return Err(SdpError::TooManyPayloadTypes);
            }
            for format in formats {
                payload_type(format)?;
            }
            for name in ["rtpmap", "fmtp", "rtcp-fb"] {
                for a in media.attributes.iter().filter(|a| a.attribute == name) {
                    let number = a.value.as_deref().unwrap_or("").split(' ').next().unwrap_or("");
                    if number != "*" {
                        let pt = payload_type(number)?;
                        meanings.note(pt, name, a.value.as_deref().unwrap_or(""))?;
                    }
                }
            }
            if media.attributes.iter().filter(|a| a.attribute == "rtpmap").count() > limits.payload_types_per_line {
                return Err(SdpError::TooManyPayloadTypes);
            }
        }
        let mid_text = attribute(&media.attributes, "mid").unwrap_or_default();
        if mid_text.is_empty() || mid_text.len() > 16 || lines.iter().any(|l| l.mid_text == mid_text) {
            return Err(SdpError::Mid);
        }
        fingerprint = fingerprint.or_else(|| attribute(&media.attributes, "fingerprint"));
        let has_descriptor = media
            .attributes
            .iter()
            .filter(|a| a.attribute == "extmap")
            .any(|a| a.value.as_deref().is_some_and(|value| value.contains(DEPENDENCY_DESCRIPTOR)));
        lines.push(SummaryLine { mid: mid_text.as_str().into(), mid_text, kind, has_descriptor });
    }
    if fingerprint.is_none() {
        return Err(SdpError::NoFingerprint);
    }
    Ok(Summary { lines, fingerprint })
}

/// The description without lines that str0m has no use for. Candidates: an ICE-lite agent learns addresses from checks
/// alone (RFC 8445 §2.5), so whatever a client writes there can neither cost nor be probed. Bandwidth: str0m reads at
/// most one such line per m-line, and clients write two.
pub fn essential(text: &str) -> String {
    const LEFT_OUT: [&str; 3] = ["a=candidate:", "a=end-of-candidates", "b="];
    text.split_inclusive('\n').filter(|line| !LEFT_OUT.iter().any(|start| line.starts_with(start))).collect()
}

/// The first DTLS fingerprint of a description (RFC 8122).
pub fn fingerprint(text: &str) -> Option<String> {
    text.lines().find_map(|l| l.strip_prefix("a=fingerprint:")).map(|v| v.trim().to_owned())
}

/// What tells the descriptions of one PeerConnection from those of all others: its fingerprint, which several may share that were
/// given one certificate, and its session's number (RFC 8866 §5.2).
pub fn identity(text: &str) -> Option<String> {
    let session = text.lines().find_map(|l| l.strip_prefix("o="))?.split(' ').nth(1)?;
    Some(format!("{session} {}", fingerprint(text)?))
}

/// The header extension without which a client cannot tell what arrives (draft-holmer-rmcat-transport-wide-cc-extensions-01).
pub const TRANSPORT_FEEDBACK: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// The mids of a description in the order of its m-lines.
pub fn mids(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.strip_prefix("a=mid:")).map(|v| v.trim().to_owned()).collect()
}

/// The answer without formats that the offer does not have in the same m-line: str0m knows for the whole session whether there are
/// redundancy and retransmissions, and browsers begin to send what an answer names, even where they had left it out.
pub fn narrow(answer: &str, offer: &str) -> String {
    let mut lines = offer.lines().filter(|l| l.starts_with("m="));
    let mut offered = "";
    let mut out = String::with_capacity(answer.len());
    for line in answer.split_inclusive("\r\n") {
        if line.starts_with("m=") {
            offered = lines.next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            let start: Vec<&str> = words.by_ref().take(FORMATS_AT).collect();
            let (kept, others): (Vec<&str>, Vec<&str>) = words.partition(|format| is_format(offered, format));
            // A line that is refused names any format.
            let formats = if kept.is_empty() { others } else { kept };
            let _ = write!(out, "{} {}\r\n", start.join(" "), formats.join(" "));
            continue;
        }
        let format = ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"].iter().find_map(|name| line.strip_prefix(name));
        let format = format.and_then(|value| value.split_ascii_whitespace().next());
        if format.is_none_or(|format| format == "*" || is_format(offered, format)) {
            out.push_str(line);
        }
    }
    out
}

fn is_format(line: &str, format: &str) -> bool {
    line.split_ascii_whitespace().skip(FORMATS_AT).any(|f| f == format)
}

/// Words of an m-line before the formats: kind, port and protocol.
const FORMATS_AT: usize = 3;

/// The last edit of an own description: bitrate caps on every line on which the client may send, in both notations that
/// browsers read (RFC 8866 `AS` in kbit/s, RFC 3890 `TIAS` in bit/s). Chromium holds all that it sends to the cap of a video
/// line, so that has room for every encoding and for the voice; what one encoding may take a client is told by `encoding`. They
/// follow the connection data (`c=`). Line by
/// line, since parsing and writing it again costs more than everything else that is done with it.
pub fn finish(text: &str, config: &PeerConfig) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    let mut sections = text.split_inclusive("\r\n").peekable();
    while let Some(line) = sections.next() {
        out.push_str(line);
        let cap = match line {
            _ if line.starts_with("m=audio ") => config.audio_bitrate,
            _ if line.starts_with("m=video ") => {
                let is_simulcast =
                    sections.clone().take_while(|l| !l.starts_with("m=")).any(|l| l.starts_with("a=simulcast:"));
                let video = if is_simulcast { config.video_max_bitrate / 5 * 7 } else { config.video_max_bitrate };
                video.saturating_add(config.audio_bitrate)
            }
            _ => continue,
        };
        if let Some(connection) = sections.next_if(|l| l.starts_with("c=")) {
            out.push_str(connection);
        }
        let is_sent_by_client = sections
            .clone()
            .take_while(|l| !l.starts_with("m="))
            .any(|l| matches!(l.trim_end(), "a=recvonly" | "a=sendrecv"));
        if is_sent_by_client {
            let _ = write!(out, "b=AS:{}\r\nb=TIAS:{cap}\r\n", cap.div_ceil(1000));
        }
    }
    out
}

/// What payload types mean, over all lines: the codec, and for retransmissions whose they are.
#[derive(Default)]
struct Meanings(FxHashMap<(u8, &'static str), String>);

impl Meanings {
    /// `value` is that of the attribute `name`, and begins with the payload type.
    fn note(&mut self, pt: u8, name: &'static str, value: &str) -> Result<(), SdpError> {
        let rest = value.split_once(' ').map_or("", |(_, rest)| rest.trim());
        let meaning = match name {
            "rtpmap" => rest,
            "fmtp" if rest.starts_with("apt=") => rest,
            _ => return Ok(()),
        };
        let known = self.0.entry((pt, name)).or_insert_with(|| meaning.to_ascii_lowercase());
        if known.eq_ignore_ascii_case(meaning) { Ok(()) } else { Err(SdpError::Ambiguous(pt)) }
    }
}

fn payload_type(text: &str) -> Result<u8, SdpError> {
    match text.parse::<u8>() {
        Ok(pt) if pt < 128 => Ok(pt),
        _ => Err(SdpError::PayloadType(text.chars().take(16).collect())),
    }
}

fn attribute(attributes: &[sdp_types::Attribute], name: &str) -> Option<String> {
    attributes.iter().find(|a| a.attribute == name).and_then(|a| a.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 AA:BB\r\n";

    fn line(mid: &str, fmt: &str) -> String {
        format!("m=audio 9 UDP/TLS/RTP/SAVPF {fmt}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=sendrecv\r\n")
    }

    fn verdict(text: &str) -> Result<usize, SdpError> {
        check(text, &Limits { bytes: 4096, lines: 3, payload_types_per_line: 4 }).map(|s| s.lines.len())
    }

    #[test]
    fn bounds_hold() {
        let ok = format!("{HEAD}{}{}", line("0", "111 63"), line("1", "111"));
        assert_eq!(verdict(&ok), Ok(2));
        assert_eq!(verdict(&format!("{ok}{}", "a=x:y\r\n".repeat(700))), Err(SdpError::TooLarge));
        let four: String = (0..4).map(|i| line(&i.to_string(), "111")).collect();
        assert_eq!(verdict(&format!("{HEAD}{four}")), Err(SdpError::TooManyLines));
        assert_eq!(verdict(&format!("{HEAD}{}", line("0", "1 2 3 4 5"))), Err(SdpError::TooManyPayloadTypes));
        assert!(matches!(verdict(&format!("{HEAD}{}", line("0", "4294967296"))), Err(SdpError::PayloadType(_))));
        assert!(matches!(verdict(&format!("{HEAD}{}", line("0", "128"))), Err(SdpError::PayloadType(_))));
        assert!(matches!(
            verdict(&format!("{HEAD}{}a=rtpmap:4294967296 opus/48000\r\n", line("0", "111"))),
            Err(SdpError::PayloadType(_))
        ));
    }

    #[test]
    fn a_payload_type_means_one_thing() {
        let with = |first: &str, second: &str| format!("{HEAD}{}{first}{}{second}", line("0", "96"), line("1", "96"));
        let vp8 = "a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n";
        assert_eq!(verdict(&with(vp8, &vp8.replace("VP8", "vp8"))), Ok(2));
        assert_eq!(verdict(&with(vp8, "a=rtpmap:96 H264/90000\r\n")), Err(SdpError::Ambiguous(96)));
        assert_eq!(verdict(&with(vp8, &vp8.replace("apt=96", "apt=98"))), Err(SdpError::Ambiguous(97)));
        // Parameters of codecs may differ from line to line.
        assert_eq!(verdict(&with("a=fmtp:96 x=1\r\n", "a=fmtp:96 x=2\r\n")), Ok(2));
    }

    #[test]
    fn mids_must_be_there_once_and_short() {
        for mids in [vec![""], vec!["0", "0"], vec!["12345678901234567"]] {
            let lines: String = mids.iter().map(|m| line(m, "111")).collect();
            assert_eq!(verdict(&format!("{HEAD}{lines}")), Err(SdpError::Mid), "{mids:?}");
        }
    }

    #[test]
    fn an_unknown_kind_of_media_is_refused() {
        let text = format!("{HEAD}{}{}", line("0", "111"), line("1", "111").replace("m=audio", "m=image"));
        assert_eq!(verdict(&text), Err(SdpError::Media("image".into())));
        let text = format!("{HEAD}{}", line("0", "webrtc-datachannel").replace("m=audio", "m=application"));
        assert_eq!(verdict(&text), Ok(1));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(verdict(""), Err(SdpError::Malformed(_))));
        assert!(matches!(verdict("hello"), Err(SdpError::Malformed(_))));
        assert!(matches!(verdict(HEAD), Err(SdpError::Malformed(_))));
        let bare = HEAD.replace("a=fingerprint:sha-256 AA:BB\r\n", "");
        assert_eq!(verdict(&format!("{bare}{}", line("0", "111"))), Err(SdpError::NoFingerprint));
    }

    #[test]
    fn candidates_and_bandwidth_are_taken_out() {
        let text = "v=0\r\na=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\na=mid:0\r\na=end-of-candidates\r\nb=AS:1\r\n";
        assert_eq!(essential(text), "v=0\r\na=mid:0\r\n");
    }

    #[test]
    fn an_answer_names_only_what_the_same_line_was_offered() {
        let offer = "v=0\r\nm=audio 9 X 111 63\r\nm=audio 9 X 111\r\nm=video 9 X 96 97 98\r\nm=application 9 X webrtc-datachannel\r\n";
        let red = "a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n";
        let opus = "a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 nack\r\n";
        let rest = "m=video 0 X 96 97\r\na=rtcp-fb:* nack\r\na=fmtp:97 apt=96\r\na=mid:2\r\nm=application 9 X webrtc-datachannel\r\n";
        let answer =
            format!("v=0\r\nm=audio 9 X 63 111\r\n{red}{opus}m=audio 9 X 63 111\r\na=mid:1\r\n{red}{opus}{rest}");
        let expected = format!("v=0\r\nm=audio 9 X 63 111\r\n{red}{opus}m=audio 9 X 111\r\na=mid:1\r\n{opus}{rest}");
        assert_eq!(narrow(&answer, offer), expected);
        // Without a counterpart nothing is left to choose from.
        assert_eq!(narrow("m=video 0 X 96\r\na=mid:7\r\n", "v=0\r\n"), "m=video 0 X 96\r\na=mid:7\r\n");
    }

    #[test]
    fn caps_go_where_the_client_sends() {
        let config = PeerConfig {
            candidates: vec![],
            tcp_candidates: Vec::new(),
            video_codecs: vec![],
            audio_bitrate: 96_000,
            video_max_bitrate: 1_500_500,
            retransmission_share: 0.25,
            limits: Limits::default(),
            channels: 16,
            channel_message: 64 * 1024,
            channel_buffer: 1024 * 1024,
        };
        let text = format!("{HEAD}{}{}", line("0", "111"), line("1", "111").replace("sendrecv", "sendonly"));
        let finished = finish(&text, &config);
        assert_eq!(finished.matches("b=AS:96\r\n").count(), 1);
        assert_eq!(finished.matches("b=TIAS:96000\r\n").count(), 1);
    }

    #[test]
    fn video_has_room_for_its_encodings_and_the_voice() {
        let config = PeerConfig {
            candidates: vec![],
            tcp_candidates: Vec::new(),
            video_codecs: vec![],
            audio_bitrate: 100_000,
            video_max_bitrate: 1_000_000,
            retransmission_share: 0.25,
            limits: Limits::default(),
            channels: 16,
            channel_message: 64 * 1024,
            channel_buffer: 1024 * 1024,
        };
        let video = line("0", "96").replace("m=audio", "m=video");
        let simulcast = format!("{}a=simulcast:recv l;m;h\r\n", line("1", "96").replace("m=audio", "m=video"));
        let finished = finish(&format!("{HEAD}{video}{simulcast}"), &config);
        assert_eq!(finished.matches("b=TIAS:1100000\r\n").count(), 1);
        assert_eq!(finished.matches("b=TIAS:1500000\r\n").count(), 1);
    }

    #[test]
    fn lines_with_the_dependency_descriptor_are_known() {
        let text = format!("{HEAD}{}a=extmap:12 {DEPENDENCY_DESCRIPTOR}\r\n{}", line("0", "96"), line("1", "96"));
        let summary = check(&text, &Limits::default()).expect("acceptable");
        let has: Vec<bool> = summary.lines.iter().map(|l| l.has_descriptor).collect();
        assert_eq!(has, [true, false]);
    }
}
