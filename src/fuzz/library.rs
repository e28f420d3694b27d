//! Bodies about what is kept of recordings: manifests and metadata that are read again, and downloads.

use std::collections::HashSet;
use std::io::Cursor;

use super::{Source, grants};
use crate::base::RoomId;
use crate::http::recordings::{self, Outcome};
use crate::http::{Headers, Method, Request, Response};
use crate::recording::library::{Answer, FileEntry, FileKind, Inquiry};
use crate::recording::manifest::{Line, State};
use crate::recording::metadata::{self, Metadata};
use crate::recording::{names, speakers};
use crate::storage::parts;
use crate::webm;

/// A manifest, or a file of metadata: lines come back as they were, a state is all of them together, and what is made of it
/// is in order, whatever it says.
pub fn manifest(data: &[u8]) {
    if data.len() >= LINE_MAX {
        return;
    }
    let state = State::read(Cursor::new(data)).expect("memory can be read");
    let mut model = State::default();
    let mut lines = data.split(|byte| *byte == b'\n').peekable();
    while let Some(bytes) = lines.next() {
        match Line::parse(bytes).filter(|_| lines.peek().is_some()) {
            Some(line) => {
                let again = line.encode();
                assert_eq!(again.iter().position(|byte| *byte == b'\n'), Some(again.len() - 1), "one line");
                assert!(!is_exact(&line) || Line::parse(&again) == Some(line.clone()), "as it was");
                model.apply(&line);
            }
            None => model.unknown += u64::from(!bytes.is_empty()),
        }
    }
    assert_eq!(state, model, "a state is all lines together");
    assert!(state.file.as_deref().is_none_or(|file| ["recording.webm", "recording.mkv"].contains(&file)));
    check_chapters(&state);
    check_captions(&state);
    check_parts(&state);
    check_head(&state);
    if let Some(entry) = metadata::entry(&state) {
        check_metadata(&Metadata::of(&entry, true), &state);
    }
    if let Ok(metadata) = serde_json::from_slice(data) {
        check_metadata(&metadata, &state);
    }
}

/// What is broken of a number may be read as its neighbour; frequencies of ours are whole.
fn is_exact(line: &Line) -> bool {
    let Line::Track(track) = line else { return true };
    track.sound.is_none_or(|(frequency, _)| frequency.fract() == 0.0 && frequency.abs() < 1e15)
}

fn check_chapters(state: &State) {
    let chapters = state.chapters();
    let is_later = |pair: &[webm::Chapter]| pair[0].start_ns <= pair[1].start_ns && pair[0].uid < pair[1].uid;
    assert!(chapters.windows(2).all(is_later) && chapters.len() <= 1000);
}

/// Cues of two lines each, that nobody's name ends.
fn check_captions(state: &State) {
    let text = speakers::captions(state, state.end.as_ref().map_or(u64::MAX, |end| end.duration_ms));
    let mut cues = text.split("\n\n");
    assert!(matches!(cues.next(), Some("" | "WEBVTT")));
    for cue in cues {
        let lines: Vec<&str> = cue.trim_end_matches('\n').split('\n').collect();
        let [times, voice] = lines[..] else { panic!("not two lines: {cue:?}") };
        assert!(times.contains(" --> ") && !voice.contains("-->"), "{cue:?}");
        let name = voice.strip_prefix("<v ").and_then(|rest| rest.split_once('>')).map(|(name, text)| name == text);
        assert_eq!(name, Some(true), "{cue:?}");
    }
}

/// Each track is in one file, and each file has a name of its own that leads nowhere else.
fn check_parts(state: &State) {
    let (mut files, mut tracks) = (HashSet::new(), Vec::new());
    for part in parts::parts(state, &state.extents) {
        assert!(part.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-%.".contains(&byte)), "{}", part.name);
        assert!(part.name.ends_with(if part.is_webm { ".webm" } else { ".mkv" }) && part.name.len() < 128);
        tracks.extend(part.lanes().flat_map(|lane| lane.tracks.iter().copied()));
        assert!(part.lanes().count() > 0 && files.insert(part.name), "a name is there once");
    }
    assert!(tracks.iter().all(|number| state.track(*number).is_some()));
}

/// A file takes the tracks that it takes, and what else is said.
fn check_head(state: &State) {
    let Ok(mut muxer) = webm::Muxer::new(webm::Config { info: state.info(), ..webm::Config::default() }) else {
        return;
    };
    let added = state.webm_tracks().into_iter().take(100).filter(|track| muxer.add_track(track.clone()).is_ok());
    let added = added.count();
    muxer.set_tags(state.tags());
    muxer.set_chapters(state.chapters());
    let mut bytes = muxer.head();
    assert_eq!((bytes.len(), muxer.tracks().count()), (64 * 1024, added));
    let end = muxer.finish();
    bytes.extend_from_slice(&end.tail);
    assert_eq!(bytes.len() as u64, end.length);
}

/// What is read of it is written again; files are in the directory.
fn check_metadata(metadata: &Metadata, state: &State) {
    let Some(entry) = metadata.to_entry(5, "ab".into()) else { return };
    assert!(entry.files.iter().all(|file| !file.name.contains(['/', '\0']) && file.name != ".."), "{:?}", entry.files);
    assert!(entry.directory.is_relative() && entry.directory.components().count() == 2);
    let again = Metadata::of(&entry, metadata.incomplete);
    let bytes = metadata::encode(&again, state, &[]);
    let read: Metadata = serde_json::from_slice(&bytes).expect("what is written is read");
    assert_eq!(read, again);
    let entry = read.to_entry(5, "ab".into()).expect("still one");
    assert_eq!(Metadata::of(&entry, metadata.incomplete), again, "and stays as it is");
}

/// A request for a file of any size and name, with fields of any content: what is answered agrees with itself, and with what
/// was asked.
pub fn http_range(data: &[u8]) {
    let mut source = Source(data);
    let flags = source.byte().unwrap_or(0);
    let size = match flags & 3 {
        0 => 0,
        1 => source.number(),
        2 => u64::MAX - source.number(),
        _ => u64::from(source.byte().unwrap_or(0)),
    };
    let sha256 = if flags & 4 == 0 { "abcd".to_owned() } else { String::new() };
    let kind = if flags & 8 == 0 { FileKind::Call } else { FileKind::Metadata };
    let (name, segment) = (source.text(), source.text());
    let content_type = names::content_type(true).to_owned();
    let file = FileEntry { name, kind, content_type, participant: None, size, sha256, media: None, remote: None };
    let mut headers = Headers::default();
    while let Some(field) = source.byte() {
        headers.push(FIELDS[usize::from(field) % FIELDS.len()], source.text().as_bytes());
    }
    let request = Request {
        method: if flags & 16 == 0 { Method::Get } else { Method::Head },
        target: "/".into(),
        path: "/".into(),
        query: None,
        headers,
        body: Vec::new(),
        version_minor: 1,
    };
    let room = RoomId::new("call").expect("an id");
    let [host, _] = grants();
    let id = "rec_0123456789abcdefghijklmn";
    let asked = recordings::file(&request, room, id, &segment, host).expect("a question");
    let Inquiry::File { name, .. } = &asked.inquiry else { panic!("about a file") };
    assert!(name.len() <= segment.len());
    let answer = Answer::File { path: "/file".into(), file: file.clone() };
    match recordings::outcome(&asked.terms, Ok(answer)) {
        Outcome::File { head, range, .. } => {
            assert!(request.method == Method::Get && range.start < range.end && range.end <= size);
            assert_eq!(head.follows, Some(range.end - range.start));
            match head.status {
                200 => assert_eq!(range, 0..size),
                206 => {
                    let said = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                    assert_eq!(field(&head, "Content-Range"), Some(said.as_str()));
                }
                status => panic!("{status} with a content"),
            }
            check_download(&request, &file, &head);
        }
        Outcome::Response(head) => {
            let is_whole = head.status == 200 && (request.method == Method::Head || size == 0);
            assert!(is_whole || matches!(head.status, 304 | 412 | 416), "{}", head.status);
            assert_eq!(head.follows, is_whole.then_some(size));
            check_download(&request, &file, &head);
        }
    }
}

const FIELDS: [&str; 4] = ["Range", "If-Range", "If-None-Match", "If-Match"];

/// What holds of every answer.
fn check_download(request: &Request, file: &FileEntry, head: &Response) {
    let headers = &request.headers;
    let is_printable = |text: &str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    assert!(head.headers.iter().all(|(name, value)| is_printable(name) && is_printable(value)), "{:?}", head.headers);
    let mut bytes = Vec::new();
    head.encode(request.method == Method::Head, "id", true, &mut bytes);
    let lines = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|end| String::from_utf8_lossy(&bytes[..end]).lines().count());
    // Status, id and connection; length; what a problem adds.
    let more = 3 + usize::from(head.status != 304) + usize::from(head.code().is_some());
    assert_eq!(lines, Some(head.headers.len() + more), "each field is a line");
    let tag = (!file.sha256.is_empty()).then(|| format!("\"{}\"", file.sha256));
    let tag = tag.as_deref();
    let sole = |name| headers.get_all(name).count() == 1;
    let says = |name, is: &dyn Fn(&str) -> bool| headers.list(name).any(is);
    let matches = headers.get("if-match").is_none() || says("if-match", &|text| text == "*" || Some(text) == tag);
    let same = |text: &str| text == "*" || Some(text.strip_prefix("W/").unwrap_or(text)) == tag;
    assert_eq!(head.status == 412, !matches);
    assert_eq!(head.status == 304, matches && says("if-none-match", &same));
    if head.status == 412 {
        return;
    }
    let wanted = headers.get("range").filter(|_| sole("range") && request.method == Method::Get);
    let wanted = wanted.filter(|_| headers.get("if-range").is_none_or(|text| Some(text) == tag));
    let expected = wanted.and_then(|text| range(text, file.size));
    match (head.status, expected) {
        (304, _) | (200, None) => {}
        (416, Some(None)) => {
            assert_eq!(field(head, "Content-Range"), Some(format!("bytes */{}", file.size).as_str()));
            return;
        }
        (206, Some(Some((first, last)))) => {
            assert_eq!(field(head, "Content-Range"), Some(format!("bytes {first}-{last}/{}", file.size).as_str()));
        }
        (status, expected) => panic!("{status} for {wanted:?}, which is {expected:?}"),
    }
    assert_eq!(field(head, "ETag"), tag);
    assert_eq!(field(head, "Content-Security-Policy").is_some(), file.kind != FileKind::Call);
    if head.status != 304 {
        assert_eq!(named(field(head, "Content-Disposition").expect("a name")), file.name);
    }
}

fn field<'a>(head: &'a Response, name: &str) -> Option<&'a str> {
    head.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

/// What a range comes to: nothing that is understood; nothing that is there; the first and the last octet.
fn range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let set = text.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).map(|_| &text[6..])?;
    let (first, last) = set.trim_matches([' ', '\t']).split_once('-')?;
    let number = |digits: &str| match digits.trim_start_matches('0') {
        _ if digits.chars().any(|digit| !digit.is_ascii_digit()) => None,
        long if long.len() > 20 => Some(u64::MAX.into()),
        "" => Some(0),
        short => short.parse().ok().map(|number: u128| number.min(u64::MAX.into())),
    };
    let (from, to, size) = (number(first)?, number(last)?, u128::from(size));
    let (from, to) = match (first, last) {
        ("", "") => return None,
        ("", _) => (size - to.min(size), size),
        (_, "") => (from, size),
        _ if to < from => return None,
        _ => (from, (to + 1).min(size)),
    };
    Some((from < to).then_some((from as u64, to.saturating_sub(1) as u64)))
}

/// The name that a client saves a file by.
fn named(disposition: &str) -> String {
    if let Some((_, text)) = disposition.split_once("filename*=UTF-8''") {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte == b'%' {
                let (digits, after) = after.split_at(2);
                bytes.extend(names::from_hex(&String::from_utf8_lossy(digits)).expect("two digits"));
                rest = after;
            } else {
                bytes.push(*byte);
            }
        }
        return String::from_utf8(bytes).expect("a text");
    }
    let name = disposition.strip_prefix("inline; filename=\"").and_then(|rest| rest.strip_suffix('"'));
    name.expect("in quotes").to_owned()
}

/// So many octets of a line are read at once.
const LINE_MAX: usize = 1024 * 1024;
