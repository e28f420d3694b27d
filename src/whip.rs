//! WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep): a media connection as a resource of HTTP.
//!
//! Pure: what is asked of such a resource and what it answers, as values; offers brought into the one shape that the protocol
//! allows; ICE fragments (`application/trickle-ice-sdpfrag`, RFC 8840); entity tags and preconditions. Bytes of HTTP are for
//! [`crate::http`], rooms and peers for [`crate::shard`], which keeps a [`Session`] beside the peer that it describes.
//!
//! Descriptions are edited line by line, as [`crate::peer::sdp`] does and for the same reason. Nothing here trusts the text
//! to be a description at all: what is not one is found by whoever takes the edited text.

use std::fmt::{self, Write as _};
use std::time::Instant;

use crate::auth::Grants;
use crate::base::limit::TokenBucket;
use crate::base::{RoomId, TrackId, UserId};
use crate::ice_servers::IceServer;
use crate::p2p;
use crate::room::Kind;

/// Which way the media goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The client publishes.
    Whip,
    /// The client watches.
    Whep,
}

impl Protocol {
    /// As it stands in a path.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Whip => "whip",
            Protocol::Whep => "whep",
        }
    }

    /// How the client's lines must read: the only direction that there is.
    fn direction(self) -> Direction {
        match self {
            Protocol::Whip => Direction::SendOnly,
            Protocol::Whep => Direction::RecvOnly,
        }
    }
}

/// The name of a session in its address. Who knows it and has a token may end the session, so it cannot be guessed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Box<str>);

impl SessionId {
    const BYTES: usize = 16;

    pub fn random() -> SessionId {
        let mut bytes = [0; SessionId::BYTES];
        openssl::rand::rand_bytes(&mut bytes).expect("OpenSSL's generator is seeded");
        SessionId(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    /// `None` for what no session is called.
    pub fn parse(text: &str) -> Option<SessionId> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 2 * SessionId::BYTES && text.bytes().all(is_hex)).then(|| SessionId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.0[..6])
    }
}

/// What a request asks of the room that it names. Its form and its token are checked.
#[derive(Debug)]
pub struct Question {
    pub grants: Grants,
    pub protocol: Protocol,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// A new session. The only question that lets somebody into a room.
    Open(Open),
    Patch {
        id: SessionId,
        if_match: IfMatch,
        fragment: Fragment,
    },
    End {
        id: SessionId,
    },
    /// Is it there?
    Look {
        id: SessionId,
    },
}

#[derive(Debug)]
pub struct Open {
    /// The name to take part by, unless it is taken.
    pub user: UserId,
    pub offer: String,
    /// What is published shows a screen.
    pub is_screen: bool,
    /// What is watched; everything when empty.
    pub wanted: Vec<Wanted>,
}

/// Whose media, or which, a viewer asks for. It may come later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Publisher(UserId),
    Track(TrackId),
}

/// The answer to a [`Question`].
#[derive(Debug)]
pub enum Reply {
    Created {
        room: RoomId,
        protocol: Protocol,
        id: SessionId,
        etag: String,
        answer: String,
        ice_servers: Vec<IceServer>,
    },
    /// Candidates were noted.
    Noted,
    Restarted {
        etag: String,
        fragment: String,
    },
    Ended,
    Alive {
        etag: String,
    },
    Refused(Refusal),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The offer is none, or none for this protocol; the text says why.
    Offer(String),
    Fragment(FragmentError),
    TooManyTracks,
    TooManyCandidates,
    /// The token does not allow it; the text says what.
    Forbidden(&'static str),
    /// There is no such session, or not any more.
    NoSession,
    /// The call has as many participants as it may have.
    CallFull,
    PreconditionRequired,
    PreconditionFailed,
    RateLimited,
    /// The media connection failed.
    Broken,
}

// ---- sessions ----

/// One session, beside the participant that it is.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    protocol: Protocol,
    /// Whose token opened it.
    owner: UserId,
    /// As it was given to the peer. An ICE restart is this offer with other credentials, since nothing else may change.
    offer: Box<str>,
    remote: Credentials,
    /// Counts ICE sessions.
    generation: u32,
    candidates: usize,
    bounds: Bounds,
}

/// What a session may ask for.
#[derive(Debug)]
pub struct Bounds {
    /// PATCHes of any kind, and those that restart ICE, which cost as much as an offer.
    pub patches: TokenBucket,
    pub restarts: TokenBucket,
    /// Candidates in one ICE session.
    pub candidates: usize,
}

/// What a PATCH comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Patch {
    Noted,
    /// Give this offer to the peer; once it has answered, [`Session::restarted`].
    Restart {
        offer: String,
    },
}

impl Session {
    pub fn new(id: SessionId, protocol: Protocol, owner: UserId, offer: &Offer, bounds: Bounds) -> Session {
        Session {
            id,
            protocol,
            owner,
            offer: offer.sdp.as_str().into(),
            remote: offer.credentials.clone(),
            generation: 1,
            candidates: 0,
            bounds,
        }
    }

    pub fn id(&self) -> &SessionId {
        &self.id
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whose token opened it.
    pub fn owner(&self) -> &UserId {
        &self.owner
    }

    /// Names the ICE session (RFC 9725 §4.3.1), quotes included. Strong.
    pub fn etag(&self) -> String {
        format!("\"ice-{}\"", self.generation)
    }

    /// Judges a PATCH: preconditions first (RFC 9110 §13.2.2), then whether it restarts ICE, which new credentials do,
    /// whatever the precondition was (RFC 9725 §4.3.3).
    pub fn handle_patch(&mut self, now: Instant, if_match: &IfMatch, fragment: &Fragment) -> Result<Patch, Refusal> {
        if !self.bounds.patches.take(now) {
            return Err(Refusal::RateLimited);
        }
        match if_match {
            IfMatch::Absent => return Err(Refusal::PreconditionRequired),
            IfMatch::Any => {}
            IfMatch::Tags(tags) if tags.contains(&self.etag()) => {}
            IfMatch::Tags(_) => return Err(Refusal::PreconditionFailed),
        }
        let restart = fragment.ufrag.as_deref().is_some_and(|ufrag| ufrag != self.remote.ufrag);
        let known = if restart { 0 } else { self.candidates };
        if known + fragment.candidates > self.bounds.candidates {
            return Err(Refusal::TooManyCandidates);
        }
        if !restart {
            self.candidates += fragment.candidates;
            return Ok(Patch::Noted);
        }
        let credentials = fragment.credentials().ok_or(Refusal::Fragment(FragmentError::NoPassword))?;
        if !self.bounds.restarts.take(now) {
            return Err(Refusal::RateLimited);
        }
        Ok(Patch::Restart { offer: with_credentials(&self.offer, &credentials) })
    }

    /// The peer took the offer of a restart that `fragment` asked for.
    pub fn restarted(&mut self, fragment: &Fragment) {
        if let Some(credentials) = fragment.credentials() {
            self.remote = credentials;
        }
        self.generation += 1;
        self.candidates = fragment.candidates;
    }
}

/// The condition of a request (RFC 9110 §13.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    Absent,
    /// `*`, which RFC 9725 writes with quotes in its examples.
    Any,
    /// With their quotes; weak ones, which match nothing here, are left out.
    Tags(Vec<String>),
}

impl IfMatch {
    /// `None`: there is no such header. Else the elements of its list.
    pub fn new<'a>(elements: Option<impl Iterator<Item = &'a str>>) -> IfMatch {
        let Some(elements) = elements else { return IfMatch::Absent };
        let mut tags = Vec::new();
        for element in elements {
            if matches!(element, "*" | "\"*\"") {
                return IfMatch::Any;
            }
            if element.starts_with('"') {
                tags.push(element.to_owned());
            }
        }
        IfMatch::Tags(tags)
    }
}

// ---- offers and answers ----

/// ICE credentials (RFC 8839 §5.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.ufrag)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    fn parse(attribute: &str) -> Option<Direction> {
        Some(match attribute {
            "sendrecv" => Direction::SendRecv,
            "sendonly" => Direction::SendOnly,
            "recvonly" => Direction::RecvOnly,
            "inactive" => Direction::Inactive,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }
}

/// An offer in the shape that the protocol allows.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// For the peer: every line in the protocol's direction, or inactive.
    pub sdp: String,
    /// The lines in use, with their mids; at least one.
    pub lines: Vec<OfferLine>,
    pub credentials: Credentials,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferLine {
    pub mid: String,
    pub kind: Kind,
}

/// Why an offer is of no use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferError {
    /// No line that sends (WHIP) or receives (WHEP).
    NoLine(Protocol),
    /// A line that goes the other way.
    WrongWay(Protocol),
    /// Several lines that are not one BUNDLE group (RFC 9143).
    NoBundle,
    NoCredentials,
    NoMid,
    /// The answer has no codec for a line. Answering with part of what was offered would look like success
    /// (RFC 9725 §4.4.3).
    NoCodec(Kind),
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OfferError::NoLine(Protocol::Whip) => f.write_str("no audio or video line is sendonly or sendrecv"),
            OfferError::NoLine(Protocol::Whep) => f.write_str("no audio or video line is recvonly or sendrecv"),
            OfferError::WrongWay(Protocol::Whip) => f.write_str("WHIP only publishes: a line may not be recvonly"),
            OfferError::WrongWay(Protocol::Whep) => f.write_str("WHEP only watches: a line may not be sendonly"),
            OfferError::NoBundle => f.write_str("all lines have to be in one a=group:BUNDLE"),
            OfferError::NoCredentials => f.write_str("a=ice-ufrag or a=ice-pwd is missing"),
            OfferError::NoMid => f.write_str("a line is without a=mid"),
            OfferError::NoCodec(kind) => write!(f, "no codec of an {} line is known here", kind.as_str()),
        }
    }
}

impl std::error::Error for OfferError {}

/// A section of a description: what precedes the first m-line, or an m-line and what belongs to it.
struct Section<'a> {
    /// Without line ends; none is empty.
    lines: Vec<&'a str>,
}

impl<'a> Section<'a> {
    fn attributes(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.lines.iter().filter_map(|line| line.strip_prefix("a="))
    }

    /// The value of the first attribute of that name.
    fn value(&self, name: &str) -> Option<&'a str> {
        self.attributes().find_map(|attribute| attribute.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn direction(&self) -> Option<Direction> {
        self.attributes().find_map(|attribute| Direction::parse(attribute.trim()))
    }

    fn credentials(&self) -> Option<Credentials> {
        let (ufrag, password) = (self.value("ice-ufrag")?, self.value("ice-pwd")?);
        Some(Credentials { ufrag: ufrag.to_owned(), password: password.to_owned() })
    }

    /// The words of the m-line, after `m=`.
    fn media(&self) -> Option<Vec<&'a str>> {
        Some(self.lines.first()?.strip_prefix("m=")?.split_ascii_whitespace().collect())
    }
}

/// The session's section, and those of the m-lines.
fn sections(text: &str) -> (Section<'_>, Vec<Section<'_>>) {
    let mut session = Section { lines: Vec::new() };
    let mut media: Vec<Section<'_>> = Vec::new();
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if line.starts_with("m=") {
            media.push(Section { lines: vec![line] });
        } else {
            media.last_mut().unwrap_or(&mut session).lines.push(line);
        }
    }
    (session, media)
}

fn bundled<'a>(session: &Section<'a>) -> Vec<&'a str> {
    let group = session.attributes().find_map(|attribute| attribute.strip_prefix("group:BUNDLE"));
    group.unwrap_or_default().split_ascii_whitespace().collect()
}

impl Offer {
    /// Brings a client's offer into shape: `sendrecv`, which clients may write, becomes the one direction in which media
    /// goes, so that the answer's is the other (RFC 9725 §4.2); line ends become those of SDP.
    pub fn new(protocol: Protocol, text: &str) -> Result<Offer, OfferError> {
        let (session, media) = sections(text);
        let bundle = bundled(&session);
        let default = session.direction().unwrap_or(Direction::SendRecv);
        let mut sdp = String::with_capacity(text.len() + 32 * media.len());
        let mut lines = Vec::new();
        write_section(&mut sdp, &session, None);
        for section in &media {
            let words = section.media().unwrap_or_default();
            let kind = match words.first() {
                Some(&"audio") => Kind::Audio,
                Some(&"video") => Kind::Video,
                _ => {
                    write_section(&mut sdp, section, None);
                    continue;
                }
            };
            let mid = section.value("mid").ok_or(OfferError::NoMid)?;
            if media.len() > 1 && !bundle.contains(&mid) {
                return Err(OfferError::NoBundle);
            }
            let direction = match section.direction().unwrap_or(default) {
                // Port 0 in a group says that there is no transport of its own, else that there is no line (RFC 9143 §7.2.1).
                _ if words.get(1) == Some(&"0") && !bundle.contains(&mid) => Direction::Inactive,
                Direction::SendRecv => protocol.direction(),
                direction if direction == protocol.direction() => direction,
                Direction::Inactive => Direction::Inactive,
                Direction::SendOnly | Direction::RecvOnly => return Err(OfferError::WrongWay(protocol)),
            };
            if direction != Direction::Inactive {
                lines.push(OfferLine { mid: mid.to_owned(), kind });
            }
            write_section(&mut sdp, section, Some(direction));
        }
        if lines.is_empty() {
            return Err(OfferError::NoLine(protocol));
        }
        let credentials = session.credentials().or_else(|| media.iter().find_map(Section::credentials));
        Ok(Offer { sdp, lines, credentials: credentials.ok_or(OfferError::NoCredentials)? })
    }

    /// Makes of the peer's answer the one that the client gets. `Err` when it takes only a part of the offer.
    pub fn finish(&self, protocol: Protocol, answer: &str) -> Result<String, OfferError> {
        let (session, media) = sections(answer);
        for line in &self.lines {
            let section = media.iter().find(|section| section.value("mid") == Some(&line.mid));
            let words = section.and_then(Section::media).unwrap_or_default();
            // Without a codec the list of formats is a lone 0.
            if matches!(words[..], [] | [_, "0", ..] | [_, _, _, "0"]) {
                return Err(OfferError::NoCodec(line.kind));
            }
        }
        let mut out = String::with_capacity(answer.len() + 32 * media.len());
        let is_semantic = |line: &str| line.starts_with("a=msid-semantic:");
        for line in session.lines.iter().filter(|line| !is_semantic(line)) {
            write_line(&mut out, line);
        }
        let mut of_kind = [0usize; 2];
        for section in &media {
            let is_video = section.lines.first().is_some_and(|line| line.starts_with("m=video"));
            let number = &mut of_kind[usize::from(is_video)];
            for line in &section.lines {
                match line.strip_prefix("a=msid:") {
                    // A client plays what belongs to one stream together, and there may be one track of a kind in it
                    // (RFC 9725 §4.4.2): the first of each kind make the first stream, and so on.
                    Some(msid) if protocol == Protocol::Whep => {
                        let track = msid.split_ascii_whitespace().nth(1).unwrap_or("track");
                        let _ = write!(out, "a=msid:stream{number} {track}\r\n");
                    }
                    // What browsers wrote before there was a=msid, with the stream of before.
                    None if is_ssrc_msid(line) => {}
                    _ => write_line(&mut out, line),
                }
                if *line == "a=rtcp-mux" {
                    // RFC 9725 §4.4.1.
                    write_line(&mut out, "a=rtcp-mux-only");
                }
            }
            *number += 1;
        }
        Ok(out)
    }
}

fn is_ssrc_msid(line: &str) -> bool {
    line.strip_prefix("a=ssrc:")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(_, rest)| rest.starts_with("msid:"))
}

/// With `direction` instead of the directions that it has.
fn write_section(out: &mut String, section: &Section<'_>, direction: Option<Direction>) {
    for line in &section.lines {
        let is_direction = line.strip_prefix("a=").and_then(Direction::parse).is_some();
        if !is_direction {
            write_line(out, line);
        }
    }
    if let Some(direction) = direction {
        let _ = write!(out, "a={}\r\n", direction.as_str());
    }
}

fn write_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push_str("\r\n");
}

fn with_credentials(offer: &str, credentials: &Credentials) -> String {
    let mut out = String::with_capacity(offer.len());
    for line in offer.lines() {
        if line.starts_with("a=ice-ufrag:") {
            let _ = write!(out, "a=ice-ufrag:{}\r\n", credentials.ufrag);
        } else if line.starts_with("a=ice-pwd:") {
            let _ = write!(out, "a=ice-pwd:{}\r\n", credentials.password);
        } else {
            write_line(&mut out, line);
        }
    }
    out
}

// ---- fragments ----

/// An ICE fragment of a client (RFC 8840 §4.4), as far as an ICE-lite server has a use for it: candidates are checked and
/// counted, but an agent of this kind learns addresses from checks alone (RFC 8445 §2.5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    pub ufrag: Option<String>,
    password: Option<String>,
    pub candidates: usize,
    pub is_last: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FragmentError {
    /// Not lines of the form `x=…`.
    Malformed,
    /// Neither credentials nor candidates nor their end.
    Empty,
    /// A user-name fragment or password that RFC 8839 §5.4 does not allow, or two that differ.
    Credentials,
    /// New credentials without a password.
    NoPassword,
    Candidate(p2p::CandidateError),
}

impl fmt::Display for FragmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FragmentError::Malformed => f.write_str("the body is not an SDP fragment"),
            FragmentError::Empty => f.write_str("the fragment has neither credentials nor candidates"),
            FragmentError::Credentials => f.write_str("a=ice-ufrag or a=ice-pwd is malformed or there twice"),
            FragmentError::NoPassword => f.write_str("a=ice-pwd is missing beside a new a=ice-ufrag"),
            FragmentError::Candidate(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FragmentError {}

impl Fragment {
    /// Lines and attributes that do not matter here are skipped, as RFC 8840 §4.4 asks for.
    pub fn parse(text: &str) -> Result<Fragment, FragmentError> {
        let mut fragment = Fragment::default();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once('=').ok_or(FragmentError::Malformed)?;
            if name.len() != 1 || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
                return Err(FragmentError::Malformed);
            }
            if name != "a" {
                continue;
            }
            if let Some(ufrag) = rest.strip_prefix("ice-ufrag:") {
                note_credential(&mut fragment.ufrag, ufrag, 4)?;
            } else if let Some(password) = rest.strip_prefix("ice-pwd:") {
                note_credential(&mut fragment.password, password, 22)?;
            } else if rest.starts_with("candidate:") {
                // Names, transports and addresses of which no use can be made are skipped without a word
                // (RFC 9725 §4.3.2); a line that is no candidate is an error.
                p2p::server_candidate(rest).map_err(FragmentError::Candidate)?;
                fragment.candidates += 1;
            } else if rest == "end-of-candidates" {
                fragment.is_last = true;
            }
        }
        if fragment == Fragment::default() {
            return Err(FragmentError::Empty);
        }
        Ok(fragment)
    }

    fn credentials(&self) -> Option<Credentials> {
        Some(Credentials { ufrag: self.ufrag.clone()?, password: self.password.clone()? })
    }
}

/// Of several m-lines in one bundle every one may say the same.
fn note_credential(known: &mut Option<String>, value: &str, length_min: usize) -> Result<(), FragmentError> {
    let is_ice_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let is_valid = (length_min..=256).contains(&value.len()) && value.bytes().all(is_ice_char);
    if !is_valid || known.as_deref().is_some_and(|known| known != value) {
        return Err(FragmentError::Credentials);
    }
    *known = Some(value.to_owned());
    Ok(())
}

/// The server's side of an ICE restart: what an answer says about ICE, as a fragment.
pub fn fragment_of(answer: &str) -> String {
    let (session, media) = sections(answer);
    let mut out = String::new();
    let is_of_session = |line: &str| {
        matches!(line, "a=ice-lite") || line.starts_with("a=ice-options:") || line.starts_with("a=group:BUNDLE")
    };
    for line in session.lines.iter().filter(|line| is_of_session(line)) {
        write_line(&mut out, line);
    }
    if let Some(first) = media.first() {
        let is_of_line = |line: &str| {
            ["m=", "a=mid:", "a=ice-ufrag:", "a=ice-pwd:", "a=ice-options:", "a=candidate:"]
                .iter()
                .any(|start| line.starts_with(start))
        };
        for line in first.lines.iter().filter(|line| is_of_line(line)) {
            write_line(&mut out, line);
        }
        write_line(&mut out, "a=end-of-candidates");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HEAD: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=ice-ufrag:abcd\r\n\
                        a=ice-pwd:0123456789abcdefghijkl\r\na=fingerprint:sha-256 AA:BB\r\n";

    fn line(kind: &str, port: u16, mid: &str, attributes: &[&str]) -> String {
        let mut line = format!("m={kind} {port} UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n");
        for attribute in attributes {
            line.push_str(&format!("a={attribute}\r\n"));
        }
        line
    }

    fn offer(lines: &[String]) -> String {
        format!("{HEAD}{}", lines.concat())
    }

    fn directions(sdp: &str) -> Vec<&str> {
        let attributes = sdp.lines().filter_map(|line| line.strip_prefix("a="));
        attributes.filter(|attribute| Direction::parse(attribute).is_some()).collect()
    }

    #[test]
    fn every_line_of_an_offer_goes_the_one_way() {
        use Protocol::{Whep, Whip};
        let two =
            |first: &[&str], second: &[&str]| offer(&[line("audio", 9, "0", first), line("video", 9, "1", second)]);
        // Row: protocol, offer, directions that the peer sees, mids in use.
        let rows: [(Protocol, String, &[&str], &[&str]); 9] = [
            (Whip, two(&["sendonly"], &["sendonly"]), &["sendonly", "sendonly"], &["0", "1"]),
            (Whip, two(&["sendrecv"], &[]), &["sendonly", "sendonly"], &["0", "1"]),
            (Whip, two(&["inactive"], &["sendrecv"]), &["inactive", "sendonly"], &["1"]),
            (Whep, two(&["recvonly"], &["sendrecv"]), &["recvonly", "recvonly"], &["0", "1"]),
            (Whep, two(&[], &["inactive"]), &["recvonly", "inactive"], &["0"]),
            // What the session says holds for lines that say nothing.
            (
                Whip,
                two(&[], &["inactive"]).replace("t=0 0\r\n", "t=0 0\r\na=sendonly\r\n"),
                &["sendonly", "inactive"],
                &["0"],
            ),
            // A bundled line without a transport of its own (RFC 9143), and a line that is none.
            (
                Whip,
                offer(&[line("audio", 9, "0", &["sendonly"]), line("video", 0, "1", &["bundle-only", "sendonly"])]),
                &["sendonly", "sendonly"],
                &["0", "1"],
            ),
            (Whip, offer(&[line("audio", 9, "0", &["sendonly"])]), &["sendonly"], &["0"]),
            (
                Whep,
                offer(&[line("audio", 9, "0", &["recvonly"]), line("application", 9, "1", &[])]),
                &["recvonly"],
                &["0"],
            ),
        ];
        for (protocol, text, expected, mids) in rows {
            // Line ends of other systems are no reason to fail.
            for text in [text.clone(), text.replace("\r\n", "\n"), format!("{text}\r\n")] {
                let offer = Offer::new(protocol, &text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!(directions(&offer.sdp), expected, "{text}");
                assert_eq!(offer.lines.iter().map(|line| line.mid.as_str()).collect::<Vec<_>>(), mids);
                assert_eq!(offer.credentials.ufrag, "abcd");
                assert!(offer.sdp.split_inclusive('\n').all(|line| line.ends_with("\r\n") && line.len() > 2));
                // Once in shape it stays so.
                assert_eq!(Offer::new(protocol, &offer.sdp).as_ref(), Ok(&offer));
            }
        }
    }

    #[test]
    fn offers_of_no_use_say_why() {
        use Protocol::{Whep, Whip};
        let two =
            |first: &[&str], second: &[&str]| offer(&[line("audio", 9, "0", first), line("video", 9, "1", second)]);
        let rows: [(Protocol, String, OfferError); 9] = [
            (Whip, two(&["recvonly"], &["sendonly"]), OfferError::WrongWay(Whip)),
            (Whep, two(&["sendonly"], &["recvonly"]), OfferError::WrongWay(Whep)),
            (Whip, two(&["inactive"], &["inactive"]), OfferError::NoLine(Whip)),
            (Whep, HEAD.to_owned(), OfferError::NoLine(Whep)),
            (Whip, String::new(), OfferError::NoLine(Whip)),
            (Whip, "hello".to_owned(), OfferError::NoLine(Whip)),
            (Whip, two(&[], &[]).replace("BUNDLE 0 1", "BUNDLE 0"), OfferError::NoBundle),
            (Whip, two(&[], &[]).replace("a=mid:1\r\n", ""), OfferError::NoMid),
            (Whip, two(&[], &[]).replace("a=ice-pwd", "a=x"), OfferError::NoCredentials),
        ];
        for (protocol, text, expected) in rows {
            assert_eq!(Offer::new(protocol, &text), Err(expected), "{text}");
        }
    }

    const ANSWER: &str = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
        a=msid-semantic:WMS x y\r\na=ice-lite\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\na=ice-ufrag:serv\r\n\
        a=ice-pwd:serverserverserverserver\r\na=ice-options:trickle\r\na=mid:0\r\na=sendonly\r\na=msid:x t1\r\na=rtcp-mux\r\n\
        a=ssrc:7 cname:c\r\na=ssrc:7 msid:x t1\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:serv\r\na=ice-pwd:serverserverserverserver\r\na=mid:1\r\n\
        a=sendonly\r\na=msid:y t2\r\na=rtcp-mux\r\n";

    fn viewer() -> Offer {
        let lines = [line("audio", 9, "0", &["recvonly"]), line("video", 9, "1", &["recvonly"])];
        Offer::new(Protocol::Whep, &offer(&lines)).expect("an offer")
    }

    #[test]
    fn what_is_watched_is_one_stream() {
        let answer = viewer().finish(Protocol::Whep, ANSWER).expect("an answer");
        assert!(answer.contains("a=msid:stream0 t1\r\n") && answer.contains("a=msid:stream0 t2\r\n"), "{answer}");
        assert!(!answer.contains("msid-semantic") && !answer.contains("a=ssrc:7 msid"), "{answer}");
        assert!(answer.contains("a=ssrc:7 cname:c\r\n"));
        assert_eq!(answer.matches("a=rtcp-mux\r\na=rtcp-mux-only\r\n").count(), 2);
        // A second line of a kind is in a second stream.
        let second = format!("{ANSWER}m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=msid:z t3\r\n");
        assert!(viewer().finish(Protocol::Whep, &second).expect("an answer").contains("a=msid:stream1 t3\r\n"));
        // What is published is the client's to name.
        assert!(viewer().finish(Protocol::Whip, ANSWER).expect("an answer").contains("a=msid:y t2\r\n"));
    }

    #[test]
    fn half_an_answer_is_none() {
        for (from, to) in
            [("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=video 9 UDP/TLS/RTP/SAVPF 0"), ("m=video 9", "m=video 0")]
        {
            let answer = ANSWER.replace(from, to);
            assert_eq!(viewer().finish(Protocol::Whep, &answer), Err(OfferError::NoCodec(Kind::Video)));
        }
        assert_eq!(viewer().finish(Protocol::Whep, ""), Err(OfferError::NoCodec(Kind::Audio)));
    }

    #[test]
    fn fragments() {
        let credentials = "a=ice-ufrag:wxyz\r\na=ice-pwd:aaaaaaaaaaaaaaaaaaaaaa\r\n";
        let candidate = "a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw\r\n";
        let tcp = "a=candidate:2 1 tcp 1518214911 198.51.100.2 9 typ host tcptype active generation 0\r\n";
        let named = "a=candidate:2 1 udp 1 a0b1.local 9 typ host\r\n";
        let head = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n";
        let fragment = |candidates, is_last| Fragment { candidates, is_last, ..Fragment::default() };
        let known =
            |fragment: Fragment| Fragment { ufrag: Some("wxyz".into()), password: Some("a".repeat(22)), ..fragment };
        let rows = [
            (format!("{head}{credentials}{candidate}{tcp}{named}"), Ok(known(fragment(3, false)))),
            (format!("{credentials}{head}{candidate}a=end-of-candidates\r\n"), Ok(known(fragment(1, true)))),
            (format!("{head}{credentials}m=video 0 x 96\r\na=mid:1\r\n{credentials}"), Ok(known(fragment(0, false)))),
            ("a=end-of-candidates".to_owned(), Ok(fragment(0, true))),
            // What else may stand in a description is skipped.
            (format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=x\r\n{candidate}"), Ok(fragment(1, false))),
            (head.to_owned(), Err(FragmentError::Empty)),
            (String::new(), Err(FragmentError::Empty)),
            ("{\"candidate\":1}".to_owned(), Err(FragmentError::Malformed)),
            ("a:b=c".to_owned(), Err(FragmentError::Malformed)),
            ("a=ice-ufrag:abc\r\n".to_owned(), Err(FragmentError::Credentials)),
            ("a=ice-ufrag:ab cd\r\n".to_owned(), Err(FragmentError::Credentials)),
            ("a=ice-pwd:short\r\n".to_owned(), Err(FragmentError::Credentials)),
            (format!("a=ice-ufrag:{}\r\n", "a".repeat(257)), Err(FragmentError::Credentials)),
            (format!("{credentials}a=ice-ufrag:abcd\r\n"), Err(FragmentError::Credentials)),
            (
                "a=candidate:1 1 udp\r\n".to_owned(),
                Err(FragmentError::Candidate(p2p::CandidateError::Grammar("priority"))),
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(Fragment::parse(&text), expected, "{text}");
            assert_eq!(Fragment::parse(&text.replace("\r\n", "\n")), expected);
        }
    }

    #[test]
    fn conditions() {
        let new = |value: &'static str| IfMatch::new(Some(value.split(',').map(str::trim)));
        assert_eq!(IfMatch::new(None::<std::iter::Empty<&str>>), IfMatch::Absent);
        assert_eq!(new("*"), IfMatch::Any);
        assert_eq!(new("\"*\""), IfMatch::Any);
        assert_eq!(new("\"a\", \"b\""), IfMatch::Tags(vec!["\"a\"".into(), "\"b\"".into()]));
        // Weak tags never match, and what is no tag is nobody's.
        assert_eq!(new("W/\"a\", b"), IfMatch::Tags(vec![]));
    }

    fn session(now: Instant) -> Session {
        let (patches, restarts) = (TokenBucket::new(now, 2, 12), TokenBucket::new(now, 1, 2));
        let bounds = Bounds { patches, restarts, candidates: 3 };
        Session::new(SessionId::random(), Protocol::Whep, UserId::new("eve").unwrap(), &viewer(), bounds)
    }

    #[test]
    fn ice_is_restarted_by_new_credentials() {
        let now = Instant::now();
        let mut session = session(now);
        let first = IfMatch::Tags(vec![session.etag()]);
        let parse = |text: &str| Fragment::parse(text).expect("a fragment");
        let candidate = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
        let same = parse(&format!("a=ice-ufrag:abcd\r\n{candidate}"));
        let other = parse(&format!("a=ice-ufrag:wxyz\r\na=ice-pwd:{}\r\n{candidate}{candidate}", "a".repeat(22)));

        assert_eq!(session.handle_patch(now, &IfMatch::Absent, &same), Err(Refusal::PreconditionRequired));
        let foreign = IfMatch::Tags(vec!["\"x\"".into()]);
        assert_eq!(session.handle_patch(now, &foreign, &same), Err(Refusal::PreconditionFailed));
        assert_eq!(session.handle_patch(now, &first, &same), Ok(Patch::Noted));
        assert_eq!(session.handle_patch(now, &IfMatch::Any, &same), Ok(Patch::Noted));
        let incomplete = parse("a=ice-ufrag:wxyz\r\n");
        let error = Err(Refusal::Fragment(FragmentError::NoPassword));
        assert_eq!(session.handle_patch(now, &IfMatch::Any, &incomplete), error);

        // With the right tag as well as with any: it is the credentials that say so.
        for if_match in [&IfMatch::Any, &first] {
            let Ok(Patch::Restart { offer }) = session.handle_patch(now, if_match, &other) else { panic!("a restart") };
            assert!(offer.contains("a=ice-ufrag:wxyz\r\n") && !offer.contains("abcd"), "{offer}");
            assert_eq!(offer.len(), viewer().sdp.len());
        }
        // As long as the peer has not taken it nothing has changed.
        assert_eq!(first, IfMatch::Tags(vec![session.etag()]));
        session.restarted(&other);
        assert_ne!(first, IfMatch::Tags(vec![session.etag()]));
        assert_eq!(session.handle_patch(now, &first, &other), Err(Refusal::PreconditionFailed));
        let second = IfMatch::Tags(vec![session.etag()]);
        assert_eq!(session.handle_patch(now, &second, &other), Err(Refusal::TooManyCandidates));
        // A restart costs as much as an offer, so there may be fewer of them.
        let third = parse(&format!("a=ice-ufrag:third\r\na=ice-pwd:{}\r\n", "a".repeat(22)));
        assert_eq!(session.handle_patch(now, &second, &third), Err(Refusal::RateLimited));
        let more = (0..10).filter(|_| session.handle_patch(now, &second, &incomplete).is_ok()).count();
        assert_eq!(more, 2, "twelve at once are enough for anybody");
        let later = now + Duration::from_secs(1);
        assert_eq!(session.handle_patch(later, &second, &parse(candidate)), Ok(Patch::Noted));
    }

    #[test]
    fn the_servers_side_of_a_restart() {
        let fragment = fragment_of(ANSWER);
        let expected = "a=group:BUNDLE 0 1\r\na=ice-lite\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
            a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\na=ice-ufrag:serv\r\na=ice-pwd:serverserverserverserver\r\n\
            a=ice-options:trickle\r\na=mid:0\r\na=end-of-candidates\r\n";
        assert_eq!(fragment, expected);
        let parsed = Fragment::parse(&fragment).expect("a fragment");
        assert_eq!((parsed.ufrag.as_deref(), parsed.candidates, parsed.is_last), (Some("serv"), 1, true));
    }

    #[test]
    fn session_ids() {
        let (a, b) = (SessionId::random(), SessionId::random());
        assert_ne!(a, b);
        assert_eq!(SessionId::parse(a.as_str()), Some(a.clone()));
        assert!(!format!("{a:?}").contains(a.as_str()));
        for text in ["", "x", "0123456789abcdef0123456789abcdeF", "0123456789abcdef0123456789abcdef0"] {
            assert_eq!(SessionId::parse(text), None);
        }
    }
}
