//! What is kept of recordings, as HTTP: requests become inquiries to the library, its answers become responses, and files
//! become downloads (ranges and preconditions: RFC 9110 §13, §14). No files and no database are known here.

use std::ops::Range;

use serde::Serialize;

use super::{Headers, Method, Request, Response, decode_segment};
use crate::auth::{Grants, Role};
use crate::base::{RecordingId, RoomId, UserId, rfc3339};
use crate::recording::library::{Answer, Entry, FileEntry, FileKind, Inquiry, MediaSummary, ReadFrom, Unavailable};

/// A question, and what is needed to put its answer into words.
#[derive(Debug)]
pub struct Asked {
    pub inquiry: Inquiry,
    pub terms: Terms,
}

/// What the request said about the answer it wants.
#[derive(Debug)]
pub enum Terms {
    /// An answer in JSON, or none at all.
    Plain,
    Download(Box<Conditions>),
}

/// What a request for a file depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    head_only: bool,
    range: Option<String>,
    if_range: Option<String>,
    if_match: Option<Vec<String>>,
    if_none_match: Option<Vec<String>>,
}

/// What becomes of an answer.
#[derive(Debug)]
pub enum Outcome {
    Response(Response),
    /// This head, and then these octets of a file.
    File {
        head: Response,
        from: ReadFrom,
        range: Range<u64>,
    },
}

/// `GET /video-calls/{id}/recording`.
pub fn list(request: &Request, room: RoomId, grants: &Grants) -> Result<Asked, Response> {
    must_see(grants)?;
    let limit = match request.query_param("limit") {
        None => LIST_DEFAULT,
        Some(text) => match text.parse() {
            Ok(limit @ 1..) => std::cmp::min(limit, LIST_MAX),
            _ => return Err(bad_request("limit is not a number from 1.")),
        },
    };
    let cursor = request.query_param("cursor");
    Ok(Asked { inquiry: Inquiry::List { room, limit, cursor }, terms: Terms::Plain })
}

/// `GET` and `DELETE` of `/video-calls/{id}/recording/{recording}`.
pub fn one(request: &Request, room: RoomId, segment: &str, grants: &Grants) -> Result<Asked, Response> {
    let inquiry = if request.method == Method::Delete {
        if grants.role() < Role::Host {
            return Err(forbidden("Only hosts and admins may delete recordings."));
        }
        Inquiry::Delete { room, recording: recording(segment)? }
    } else {
        must_see(grants)?;
        Inquiry::Status { room, recording: recording(segment)? }
    };
    Ok(Asked { inquiry, terms: Terms::Plain })
}

/// `GET /video-calls/{id}/recording/{recording}/files/{name}`.
pub fn file(request: &Request, room: RoomId, segment: &str, name: &str, grants: &Grants) -> Result<Asked, Response> {
    must_see(grants)?;
    let inquiry = Inquiry::File { room, recording: recording(segment)?, name: decode_segment(name) };
    let conditions = Conditions::new(request.method == Method::Head, &request.headers);
    Ok(Asked { inquiry, terms: Terms::Download(Box::new(conditions)) })
}

fn recording(segment: &str) -> Result<RecordingId, Response> {
    RecordingId::parse(segment).ok_or_else(recording_not_found)
}

fn must_see(grants: &Grants) -> Result<(), Response> {
    if grants.role() >= Role::Moderator || grants.permissions().record {
        return Ok(());
    }
    Err(forbidden("The token does not allow to see recordings."))
}

/// Puts an answer into words.
pub fn outcome(terms: &Terms, answer: Result<Answer, Unavailable>) -> Outcome {
    let response = match answer {
        Ok(Answer::List { entries, next_cursor }) => {
            let items = entries.iter().map(Recording::new).collect();
            Response::json(200, &List { items, next_cursor }).header("Cache-Control", "no-store")
        }
        Ok(Answer::Entry(entry)) => Response::json(200, &Recording::new(&entry)).header("Cache-Control", "no-store"),
        Ok(Answer::Deleted) => Response::empty(204),
        Ok(Answer::File { path, file }) => return download(terms, &file, |_| ReadFrom::Path(path)),
        Ok(Answer::Remote { remote, file }) => {
            let name = file.name.clone();
            let remote = Box::new(remote);
            return download(terms, &file, |rest| ReadFrom::Remote { remote, name, rest });
        }
        // Nobody asks for these from here.
        Ok(Answer::Written | Answer::Uploads(_) | Answer::Upload(_)) => unavailable(),
        Err(why) => refusal(terms, why),
    };
    Outcome::Response(response)
}

/// `from`: where so many octets come from.
fn download(terms: &Terms, file: &FileEntry, from: impl FnOnce(u64) -> ReadFrom) -> Outcome {
    let plain = Conditions::default();
    let conditions = match terms {
        Terms::Download(conditions) => conditions,
        Terms::Plain => &plain,
    };
    let (head, range) = conditions.judge(file);
    match range.filter(|range| !range.is_empty() && !conditions.head_only) {
        Some(range) => Outcome::File { head, from: from(range.end - range.start), range },
        None => Outcome::Response(head),
    }
}

fn refusal(terms: &Terms, why: Unavailable) -> Response {
    match why {
        Unavailable::NotFound if matches!(terms, Terms::Download(_)) => file_not_found(),
        Unavailable::NotFound => recording_not_found(),
        Unavailable::Cursor => bad_request("The cursor is none that was given out here."),
        Unavailable::Active => {
            let detail = "The recording is under way, or its files are made. Stop it, and wait for its end.";
            Response::problem(409, "recording_active", "Recording active", detail)
        }
        Unavailable::Database => unavailable(),
        Unavailable::Files => {
            let detail = "The files of the recording could not be deleted. Some of them may be gone.";
            Response::problem(500, "storage_failed", "Storage failed", detail)
        }
        Unavailable::Store => {
            let detail = "The store has files of the recording that could not be deleted. It can be deleted again.";
            Response::problem(502, "storage_failed", "Storage failed", detail)
        }
    }
}

/// The library does not answer.
pub fn unavailable() -> Response {
    let detail = "What is known of recordings cannot be told at the moment.";
    Response::problem(503, "database_unavailable", "Database unavailable", detail).header("Retry-After", "1")
}

/// As many files are downloaded as may be.
pub fn too_many_downloads() -> Response {
    Response::problem(503, "overloaded", "Overloaded", "Too many downloads are under way.").header("Retry-After", "5")
}

/// It is not where it should be.
pub fn file_not_found() -> Response {
    let detail = "The recording has no such file, or does not have it yet.";
    Response::problem(404, "file_not_found", "File not found", detail)
}

/// The store has it, and gives it to whoever comes with this URL; for a while, so nobody is to keep it.
pub fn file_elsewhere(url: String) -> Response {
    Response::empty(302).header("Location", url).header("Cache-Control", "no-store")
}

/// It is there and cannot be read.
pub fn file_failed() -> Response {
    Response::problem(500, "storage_failed", "Storage failed", "The file cannot be read.")
}

fn recording_not_found() -> Response {
    Response::problem(404, "recording_not_found", "Recording not found", "The call has no such recording.")
}

fn bad_request(detail: &str) -> Response {
    Response::problem(400, "bad_request", "Bad request", detail)
}

fn forbidden(detail: &str) -> Response {
    Response::problem(403, "forbidden", "Forbidden", detail)
}

impl Conditions {
    fn new(head_only: bool, headers: &Headers) -> Conditions {
        let sole = |name: &str| {
            let mut values = headers.get_all(name);
            let first = values.next()?;
            values.next().is_none().then(|| first.to_owned())
        };
        let list = |name: &str| headers.get(name).map(|_| headers.list(name).map(str::to_owned).collect());
        Conditions {
            head_only,
            range: sole("range"),
            if_range: headers.get("if-range").map(str::to_owned),
            if_match: list("if-match"),
            if_none_match: list("if-none-match"),
        }
    }

    /// The head of the answer, and what follows it (RFC 9110 §13.2.2).
    fn judge(&self, file: &FileEntry) -> (Response, Option<Range<u64>>) {
        let tag = (!file.sha256.is_empty()).then(|| format!("\"{}\"", file.sha256));
        let is = |other: &str| tag.as_deref().is_some_and(|tag| tag == other);
        if self.if_match.as_ref().is_some_and(|tags| !tags.iter().any(|other| other == "*" || is(other))) {
            let detail = "The file is not the one of If-Match.";
            return (Response::problem(412, "precondition_failed", "Precondition failed", detail), None);
        }
        let has =
            |tags: &Vec<String>| tags.iter().any(|other| other == "*" || is(other.strip_prefix("W/").unwrap_or(other)));
        if self.if_none_match.as_ref().is_some_and(has) {
            return (about(Response::empty(304), file, tag.as_deref()), None);
        }
        // A date is none that we have given out.
        let is_same = self.if_range.as_deref().is_none_or(is);
        let wanted = self.range.as_deref().filter(|_| is_same && !self.head_only);
        let (status, range) = match wanted.map_or(Wanted::Whole, |text| Wanted::parse(text, file.size)) {
            Wanted::Whole => (200, 0..file.size),
            Wanted::Part(range) => (206, range),
            Wanted::Nothing => {
                let detail = "The file has nothing in this range.";
                let response = Response::problem(416, "range_not_satisfiable", "Range not satisfiable", detail);
                return (response.header("Content-Range", format!("bytes */{}", file.size)), None);
            }
        };
        let mut head = about(Response::empty(status), file, tag.as_deref())
            .header("Content-Type", file.content_type.as_str())
            .header("Content-Disposition", disposition(&file.name))
            .header("X-Content-Type-Options", "nosniff");
        if status == 206 {
            head = head.header("Content-Range", format!("bytes {}-{}/{}", range.start, range.end - 1, file.size));
        }
        head.follows = Some(range.end - range.start);
        (head, Some(range))
    }
}

/// What is said of a file whether it is sent or not.
fn about(mut response: Response, file: &FileEntry, tag: Option<&str>) -> Response {
    if let Some(tag) = tag {
        response = response.header("ETag", tag);
    }
    // The metadata is written again when a recording is repaired; and who may see it may be another tomorrow.
    let response = response.header("Accept-Ranges", "bytes").header("Cache-Control", "private, no-cache");
    match file.kind {
        // A picture or a text of ours is no page, and nothing in it is to act as one.
        FileKind::Call | FileKind::Participant => response,
        _ => response.header("Content-Security-Policy", "default-src 'none'; sandbox"),
    }
}

/// What a `Range` comes to.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// It is none, or one that is not understood, or several.
    Whole,
    /// Not empty.
    Part(Range<u64>),
    /// There is nothing there.
    Nothing,
}

impl Wanted {
    /// RFC 9110 §14.1.2: `bytes=first-last`, `bytes=first-`, `bytes=-length`.
    fn parse(text: &str, size: u64) -> Wanted {
        let Some((unit, set)) = text.split_once('=') else { return Wanted::Whole };
        let Some((first, last)) = set.trim_matches([' ', '\t']).split_once('-') else { return Wanted::Whole };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !unit.eq_ignore_ascii_case("bytes") || !is_number(first) || !is_number(last) {
            return Wanted::Whole;
        }
        // More than a number holds is more than any file has.
        let number = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX));
        match (number(first), number(last)) {
            (None, None) => Wanted::Whole,
            (Some(first), Some(last)) if last < first => Wanted::Whole,
            (Some(first), _) if first >= size => Wanted::Nothing,
            (Some(first), last) => Wanted::Part(first..last.unwrap_or(u64::MAX).min(size - 1) + 1),
            (None, Some(length)) if length == 0 || size == 0 => Wanted::Nothing,
            (None, Some(length)) => Wanted::Part(size - length.min(size)..size),
        }
    }
}

/// RFC 6266: a name that every client understands, and the true one (RFC 8187).
fn disposition(name: &str) -> String {
    // A `%` is taken for an escape by some.
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%');
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if plain == name {
        return format!("inline; filename=\"{plain}\"");
    }
    format!("inline; filename=\"{plain}\"; filename*=UTF-8''{}", percent_encode(name))
}

/// Everything but the unreserved characters of RFC 3986.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    items: Vec<Recording<'a>>,
    next_cursor: Option<String>,
}

/// A recording as a status shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Recording<'a> {
    recording_id: &'a RecordingId,
    call_id: &'a RoomId,
    status: &'static str,
    progress: f32,
    started_at: String,
    ended_at: Option<String>,
    duration_ms: u64,
    size: u64,
    started_by: Option<&'a UserId>,
    audio_only: bool,
    /// `null`: everybody.
    participants: Option<&'a [UserId]>,
    recovered: bool,
    end_reason: Option<&'a str>,
    error: Option<&'a str>,
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    name: &'a str,
    kind: &'static str,
    participant: Option<&'a str>,
    content_type: &'a str,
    size: u64,
    sha256: &'a str,
    media: Option<&'a MediaSummary>,
    /// On this server, wherever it lives.
    url: String,
    /// `local`, `storage` or `both`.
    location: &'static str,
    /// Where it is in the store: `s3://…`, `gs://…`, or one of HTTPS.
    storage_url: Option<&'a str>,
}

impl<'a> Recording<'a> {
    fn new(entry: &'a Entry) -> Self {
        Recording {
            recording_id: &entry.recording,
            call_id: &entry.room,
            status: entry.status.as_str(),
            progress: entry.progress,
            started_at: rfc3339(entry.started),
            ended_at: entry.ended.map(rfc3339),
            duration_ms: entry.duration_ms,
            size: entry.size,
            started_by: entry.started_by.as_ref(),
            audio_only: entry.audio_only,
            participants: entry.participants.as_deref(),
            recovered: entry.recovered,
            end_reason: entry.end_reason.as_deref(),
            error: entry.error.as_deref(),
            files: entry.files.iter().map(|file| File::new(entry, file)).collect(),
        }
    }
}

impl<'a> File<'a> {
    fn new(entry: &Entry, file: &'a FileEntry) -> Self {
        File {
            name: &file.name,
            kind: file.kind.as_str(),
            participant: file.participant.as_deref(),
            content_type: &file.content_type,
            size: file.size,
            sha256: &file.sha256,
            media: file.media.as_ref(),
            url: format!(
                "/video-calls/{}/recording/{}/files/{}",
                entry.room.as_str(),
                entry.recording.as_str(),
                percent_encode(&file.name)
            ),
            location: match &file.remote {
                None => "local",
                Some(remote) if remote.is_only => "storage",
                Some(_) => "both",
            },
            storage_url: file.remote.as_ref().map(|remote| remote.url.as_str()),
        }
    }
}

const LIST_DEFAULT: usize = 50;
const LIST_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> FileEntry {
        FileEntry {
            name: "recording.webm".into(),
            kind: FileKind::Call,
            content_type: "video/webm".into(),
            participant: None,
            size,
            sha256: "abc".into(),
            media: None,
            remote: None,
        }
    }

    #[test]
    fn ranges() {
        use Wanted::{Nothing, Part, Whole};
        for (text, size, wanted) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-9", 10, Part(0..10)),
            ("bytes=0-10", 10, Part(0..10)),
            ("bytes=9-", 10, Part(9..10)),
            ("BYTES=2-3", 10, Part(2..4)),
            ("bytes= 2-3 ", 10, Part(2..4)),
            ("bytes=-1", 10, Part(9..10)),
            ("bytes=-11", 10, Part(0..10)),
            ("bytes=5-99999999999999999999999999", 10, Part(5..10)),
            ("bytes=-99999999999999999999999999", 10, Part(0..10)),
            ("bytes=10-", 10, Nothing),
            ("bytes=99999999999999999999999999-", 10, Nothing),
            ("bytes=-0", 10, Nothing),
            ("bytes=0-", 0, Nothing),
            ("bytes=-5", 0, Nothing),
            ("bytes=3-2", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes", 10, Whole),
            ("", 10, Whole),
            ("bytes=1-2,4-5", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1--2", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("items=0-1", 10, Whole),
            ("bytes=0-1", u64::MAX, Part(0..2)),
            ("bytes=-1", u64::MAX, Part(u64::MAX - 1..u64::MAX)),
        ] {
            assert_eq!(Wanted::parse(text, size), wanted, "{text} of {size}");
        }
    }

    #[test]
    fn preconditions() {
        let both = "\"x\", \"abc\"";
        for (head_only, fields, status, range) in [
            (false, &[][..], 200, Some(0..10)),
            (true, &[], 200, Some(0..10)),
            (false, &[("range", "bytes=1-2")], 206, Some(1..3)),
            (true, &[("range", "bytes=1-2")], 200, Some(0..10)),
            (false, &[("range", "bytes=10-")], 416, None),
            (false, &[("range", "bytes=1-2"), ("range", "bytes=3-4")], 200, Some(0..10)),
            (false, &[("range", "bytes=1-2"), ("if-range", "\"abc\"")], 206, Some(1..3)),
            (false, &[("range", "bytes=1-2"), ("if-range", "W/\"abc\"")], 200, Some(0..10)),
            (false, &[("range", "bytes=1-2"), ("if-range", "\"other\"")], 200, Some(0..10)),
            (false, &[("range", "bytes=99-"), ("if-range", "\"other\"")], 200, Some(0..10)),
            (false, &[("range", "bytes=1-2"), ("if-range", "Sat, 28 Nov 2026 19:00:00 GMT")], 200, Some(0..10)),
            (false, &[("if-none-match", "\"abc\"")], 304, None),
            (false, &[("if-none-match", "W/\"abc\"")], 304, None),
            (false, &[("if-none-match", both), ("range", "bytes=1-2")], 304, None),
            (false, &[("if-none-match", "*")], 304, None),
            (false, &[("if-none-match", "abc")], 200, Some(0..10)),
            (false, &[("if-match", both)], 200, Some(0..10)),
            (false, &[("if-match", "*")], 200, Some(0..10)),
            (false, &[("if-match", "W/\"abc\"")], 412, None),
            (false, &[("if-match", "\"other\""), ("if-none-match", "\"abc\"")], 412, None),
        ] {
            let mut headers = Headers::default();
            for (name, value) in fields {
                headers.push(name, value.as_bytes());
            }
            let (head, found) = Conditions::new(head_only, &headers).judge(&file(10));
            assert_eq!((head.status, found), (status, range), "{fields:?}");
        }
    }

    #[test]
    fn without_a_hash_nothing_is_the_same() {
        let unknown = FileEntry { sha256: String::new(), ..file(10) };
        let mut headers = Headers::default();
        headers.push("range", b"bytes=1-2");
        headers.push("if-range", b"\"\"");
        headers.push("if-none-match", b"\"\"");
        let (head, range) = Conditions::new(false, &headers).judge(&unknown);
        assert_eq!((head.status, range), (200, Some(0..10)));
        assert!(!head.headers.iter().any(|(name, _)| name == "ETag"));
    }

    #[test]
    fn an_empty_file_has_an_answer_of_its_own() {
        let answer = Answer::File { path: "/x".into(), file: file(0) };
        let terms = Terms::Download(Box::default());
        let Outcome::Response(response) = outcome(&terms, Ok(answer)) else { panic!("nothing follows") };
        assert_eq!((response.status, response.follows), (200, Some(0)));
    }

    /// What only the store has is answered as what is here, up to where the octets come from.
    #[test]
    fn files_of_the_store() {
        use crate::recording::library::Remote;
        let url = "s3://bucket/call/r/recording.webm".to_owned();
        let remote = Remote { provider: "s3".into(), key: "call/r/recording.webm".into(), url, is_only: true };
        let ask = |fields: &[(&str, &str)], head_only| {
            let mut headers = Headers::default();
            for (name, value) in fields {
                headers.push(name, value.as_bytes());
            }
            let terms = Terms::Download(Box::new(Conditions::new(head_only, &headers)));
            outcome(&terms, Ok(Answer::Remote { remote: remote.clone(), file: file(10) }))
        };
        let Outcome::File { head, from: ReadFrom::Remote { rest, name, .. }, range } =
            ask(&[("range", "bytes=2-5")], false)
        else {
            panic!("octets of the store")
        };
        assert_eq!((head.status, rest, name.as_str(), range), (206, 4, "recording.webm", 2..6));
        for (fields, head_only, status) in [
            (&[][..], true, 200),
            (&[("if-none-match", "\"abc\"")], false, 304),
            (&[("range", "bytes=10-")], false, 416),
        ] {
            let Outcome::Response(response) = ask(fields, head_only) else { panic!("the store is not asked") };
            assert_eq!(response.status, status);
        }
        let response = file_elsewhere("https://bucket.example/x?signature=s".into());
        let field = |name: &str| response.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str());
        assert_eq!((response.status, field("Cache-Control")), (302, Some("no-store")));
        assert_eq!(field("Location"), Some("https://bucket.example/x?signature=s"));
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("recording.webm", "inline; filename=\"recording.webm\""),
            ("ann%40x-1.webm", "inline; filename=\"ann_40x-1.webm\"; filename*=UTF-8''ann%2540x-1.webm"),
            ("a\"b\\c.webm", "inline; filename=\"a_b_c.webm\"; filename*=UTF-8''a%22b%5Cc.webm"),
            ("ü\r\n.webm", "inline; filename=\"___.webm\"; filename*=UTF-8''%C3%BC%0D%0A.webm"),
        ] {
            assert_eq!(disposition(name), expected);
        }
    }
}
