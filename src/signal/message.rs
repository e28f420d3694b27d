//! The JSON protocol as types: what clients may say ([`parse`]) and what the server says ([`encode`] and the data types).
//!
//! Past [`parse`] there are only well-formed requests; whether they make sense now is for [`super::session`]. Unknown
//! members are ignored, and `null` is the same as absence except where it means something (`candidate`, the payload of
//! `data`).

use std::borrow::Cow;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use str0m::media::Rid;
use tungstenite::Utf8Bytes;

use super::Limits;
use super::json::{self, Outline};
use crate::auth::Permissions;
use crate::base::{RoomId, TrackId, UserId};
pub use crate::quality::{Direction, Reason, WarningKind};
use crate::recording::command::{self, Command, Start};
pub use crate::room::{Kind, Source};

/// Reads one text frame. Its size has been checked by the caller.
pub fn parse(text: &str, limits: &Limits) -> Result<Request, Reject> {
    let mut id = None;
    parse_with(text, limits, &mut id).map_err(|bad| Reject { code: bad.code, message: bad.message, id })
}

/// One message of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: Option<RequestId>,
    pub room: Option<RoomId>,
    /// Who the client says it is. Never used as an identity, only compared with it.
    pub user: Option<String>,
    pub target: Target,
    pub body: Body,
    /// `data` as it came; only for `offer`, `answer` and `ice-candidate` addressed to a participant.
    pub data: Option<RawValue>,
}

/// The words of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Join(Join),
    Leave,
    Offer(Sdp),
    Answer(Sdp),
    /// `None` ends the candidates.
    IceCandidate(Option<Candidate>),
    Mute(MuteTarget),
    Unmute(MuteTarget),
    Subscribe(Subscribe),
    Unsubscribe(TrackRef),
    Chat {
        text: String,
    },
    Data(RawValue),
    RestartIce,
    /// What the client tells of the pictures that it is sent; no more of them than lines in a description.
    Stats(Vec<Freezes>),
    Token(String),
    Ping,
    /// `start-recording` and its like.
    Recording(Command),
    /// A moderation message, by its `type`.
    Moderation(&'static str),
}

/// How often the picture of a line stood still at the client, and for how long altogether, in milliseconds: since the line is
/// there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezes {
    pub mid: String,
    pub count: u32,
    pub ms: u32,
}

/// A client-chosen request id: the text of a JSON string or number, at most 128 bytes, echoed as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    pub fn number(number: u64) -> Self {
        RequestId(number.to_string().into())
    }

    /// The id of something that the server asks, such as an offer: the number as a JSON string.
    pub fn numbered(number: u64) -> Self {
        RequestId(format!("\"{number}\"").into())
    }

    /// The JSON text, a string with its quotes.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Whether this is the id made by [`RequestId::numbered`], also when the client returns it as a number.
    pub fn is_number(&self, number: u64) -> bool {
        self.0.trim_matches('"') == number.to_string()
    }
}

/// To whom a request is addressed by `targetUserId`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    None,
    Sfu,
    User(UserId),
}

/// How a client writes `sdp` and `candidate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Object,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// Any JSON, at most 4 KiB.
    pub metadata: Option<RawValue>,
    /// 1–256 characters without control characters.
    pub display_name: Option<String>,
    pub auto_subscribe: bool,
    pub receive: Receive,
    /// The client only answers: it asks for an offer at once.
    pub server_offer: bool,
    pub resume_token: Option<String>,
}

/// How a client receives tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    Tracks,
    Slots,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sdp {
    /// Not empty, at most 128 KiB, otherwise unchecked.
    pub sdp: String,
    pub form: Form,
    pub tracks: Vec<TrackName>,
}

/// What a client publishes on an m-line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackName {
    /// 1–32 bytes.
    pub mid: String,
    pub source: Source,
    /// At most 256 characters without control characters.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The candidate line, at most 512 bytes; empty also means the end. Its grammar is unchecked.
    pub text: String,
    pub form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MuteTarget {
    pub kind: Kind,
    /// `None`: all of that kind, those to come too.
    pub track: Option<TrackId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackRef {
    Track(TrackId),
    /// All tracks of a participant.
    User(UserId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub what: TrackRef,
    pub quality: Option<Quality>,
    /// Pixels.
    pub max_width: Option<u32>,
    pub max_height: Option<u32>,
    /// Frames per second.
    pub max_framerate: Option<u32>,
    /// Greater is more important.
    pub priority: Option<u32>,
    pub paused: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    Low,
    Medium,
    High,
}

impl Quality {
    pub fn as_str(self) -> &'static str {
        match self {
            Quality::Low => "low",
            Quality::Medium => "medium",
            Quality::High => "high",
        }
    }
}

/// Why a message is not a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: ErrorCode,
    /// For humans; names the member at fault.
    pub message: String,
    pub id: Option<RequestId>,
}

/// The `code` of an `error`. Promises to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadMessage,
    UnknownType,
    Forbidden,
    NotJoined,
    AlreadyJoined,
    CallNotFound,
    CallFull,
    StaleAnswer,
    UnexpectedAnswer,
    BadSdp,
    BadCandidate,
    TooManyCandidates,
    TooManyTracks,
    RateLimited,
    ParticipantNotFound,
    TrackNotFound,
    RecordingActive,
    NotRecording,
    NotAvailable,
    ServerDraining,
    Overloaded,
    InvalidToken,
    Internal,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => "bad_message",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotJoined => "not_joined",
            ErrorCode::AlreadyJoined => "already_joined",
            ErrorCode::CallNotFound => "call_not_found",
            ErrorCode::CallFull => "call_full",
            ErrorCode::StaleAnswer => "stale_answer",
            ErrorCode::UnexpectedAnswer => "unexpected_answer",
            ErrorCode::BadSdp => "bad_sdp",
            ErrorCode::BadCandidate => "bad_candidate",
            ErrorCode::TooManyCandidates => "too_many_candidates",
            ErrorCode::TooManyTracks => "too_many_tracks",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::ParticipantNotFound => "participant_not_found",
            ErrorCode::TrackNotFound => "track_not_found",
            ErrorCode::RecordingActive => "recording_active",
            ErrorCode::NotRecording => "not_recording",
            ErrorCode::NotAvailable => "not_available",
            ErrorCode::ServerDraining => "server_draining",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::InvalidToken => "invalid_token",
            ErrorCode::Internal => "internal",
        }
    }
}

/// A JSON value that is passed on as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawValue(Arc<str>);

impl RawValue {
    /// `None` when `text` is not one JSON value (nested at most 128 deep, as `serde_json` allows).
    pub fn new(text: impl Into<Arc<str>>) -> Option<Self> {
        let text = text.into();
        json::outline(&text, 127, usize::MAX).ok()?;
        Some(RawValue(text))
    }

    pub fn get(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

/// Inside another value the text is written anew: the same value, but members come sorted and numbers as doubles. To pass
/// it on byte by byte, hand it to [`encode_raw`].
impl Serialize for RawValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<serde_json::Value>(&self.0).unwrap_or_default().serialize(serializer)
    }
}

// ---- reading ----

struct Bad {
    code: ErrorCode,
    message: String,
}

fn bad(message: impl Into<String>) -> Bad {
    Bad { code: ErrorCode::BadMessage, message: message.into() }
}

fn parse_with(text: &str, limits: &Limits, id: &mut Option<RequestId>) -> Result<Request, Bad> {
    let envelope = Fields::read(text, "", limits)?;
    *id = request_id(&envelope)?;
    let kind = envelope.string("type", 64)?.ok_or_else(|| bad("type is missing"))?;
    let room = match envelope.string("roomId", 256)? {
        None => None,
        Some(text) => Some(RoomId::new(&text).map_err(|e| bad(format!("roomId {e}")))?),
    };
    let user = envelope.string("userId", 1024)?.map(Cow::into_owned);
    let target = match envelope.string("targetUserId", 1024)?.as_deref() {
        None => Target::None,
        Some("sfu") => Target::Sfu,
        Some(text) => Target::User(UserId::new(text).map_err(|e| bad(format!("targetUserId {e}")))?),
    };
    let data = Data { raw: envelope.raw("data"), limits };
    let body = body(&kind, &data)?;
    let relayed =
        matches!(target, Target::User(_)) && matches!(body, Body::Offer(_) | Body::Answer(_) | Body::IceCandidate(_));
    let data = data.raw.filter(|_| relayed).map(|raw| RawValue(raw.into()));
    Ok(Request { id: id.clone(), room, user, target, body, data })
}

fn request_id(envelope: &Fields<'_>) -> Result<Option<RequestId>, Bad> {
    let Some(raw) = envelope.present("id") else { return Ok(None) };
    if !raw.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        return Err(bad("id must be a string or a number"));
    }
    if raw.len() > 128 {
        return Err(bad("id is too long"));
    }
    Ok(Some(RequestId(raw.into())))
}

fn body(kind: &str, data: &Data<'_>) -> Result<Body, Bad> {
    Ok(match kind {
        "join" => Body::Join(join(&data.optional()?, data.limits)?),
        "leave" => Body::Leave,
        "offer" => Body::Offer(sdp("offer", &data.required()?, data.limits)?),
        "answer" => Body::Answer(sdp("answer", &data.required()?, data.limits)?),
        "ice-candidate" => Body::IceCandidate(candidate(&data.required()?, data.limits)?),
        "mute" => Body::Mute(mute_target(&data.optional()?)?),
        "unmute" => Body::Unmute(mute_target(&data.optional()?)?),
        "subscribe" => Body::Subscribe(subscribe(&data.required()?)?),
        "unsubscribe" => Body::Unsubscribe(track_ref(&data.required()?)?),
        "chat" => {
            let text = data.required()?.string("text", data.limits.data)?.ok_or_else(|| bad("data.text is missing"))?;
            if text.is_empty() {
                return Err(bad("data.text is empty"));
            }
            Body::Chat { text: text.into_owned() }
        }
        "data" => {
            let raw = data.raw.ok_or_else(|| bad("data is missing"))?;
            if raw.len() > data.limits.data {
                return Err(bad(format!("data is larger than {} bytes", data.limits.data)));
            }
            Body::Data(RawValue(raw.into()))
        }
        "restart-ice" => Body::RestartIce,
        "stats" => Body::Stats(freezes(&data.optional()?, data.limits)?),
        "token" => {
            let token = data.required()?.string("token", 8 * 1024)?.ok_or_else(|| bad("data.token is missing"))?;
            Body::Token(token.into_owned())
        }
        "ping" => Body::Ping,
        "start-recording" => Body::Recording(Command::Start(start_recording(data)?)),
        "stop-recording" => Body::Recording(Command::Stop),
        "pause-recording" => Body::Recording(Command::Pause),
        "resume-recording" => Body::Recording(Command::Resume),
        _ => match MODERATION.iter().find(|word| **word == kind) {
            Some(word) => Body::Moderation(word),
            None => {
                let message = format!("unknown type {:?}", shortened(kind));
                return Err(Bad { code: ErrorCode::UnknownType, message });
            }
        },
    })
}

/// The moderation messages.
const MODERATION: [&str; 8] = ["kick", "ban", "lock", "unlock", "admit", "deny", "set-role", "end-call"];

fn start_recording(data: &Data<'_>) -> Result<Start, Bad> {
    command::start(data.raw.unwrap_or_default()).map_err(|fault| match fault {
        command::Fault::Malformed(why) => bad(format!("data: {why}")),
        command::Fault::Layout(name) => bad(format!("data.layout must be \"tracks\", not {name:?}")),
        command::Fault::NotAvailable => {
            Bad { code: ErrorCode::NotAvailable, message: "only the layout \"tracks\" is available".into() }
        }
    })
}

fn join(data: &Fields<'_>, limits: &Limits) -> Result<Join, Bad> {
    let metadata = data.present("metadata");
    if metadata.is_some_and(|raw| raw.len() > limits.metadata) {
        return Err(bad(format!("data.metadata is larger than {} bytes", limits.metadata)));
    }
    let receive = match data.string("receive", 64)?.as_deref() {
        None | Some("tracks") => Receive::Tracks,
        Some("slots") => Receive::Slots,
        Some(_) => return Err(bad("data.receive must be \"tracks\" or \"slots\"")),
    };
    let server_offer = match data.string("offer", 64)?.as_deref() {
        None => false,
        Some("server") => true,
        Some(_) => return Err(bad("data.offer must be \"server\"")),
    };
    Ok(Join {
        metadata: metadata.map(|raw| RawValue(raw.into())),
        display_name: data.label("displayName")?,
        auto_subscribe: data.boolean("autoSubscribe")?.unwrap_or(true),
        receive,
        server_offer,
        resume_token: data.string("resumeToken", 1024)?.map(Cow::into_owned),
    })
}

fn sdp(kind: &str, data: &Fields<'_>, limits: &Limits) -> Result<Sdp, Bad> {
    let raw = data.present("sdp").ok_or_else(|| bad("data.sdp is missing"))?;
    let (form, text) = if raw.starts_with('{') {
        let object = Fields::read(raw, "data.sdp.", limits)?;
        if object.string("type", 64)?.is_some_and(|stated| stated != kind) {
            return Err(bad(format!("data.sdp.type must be {kind:?}")));
        }
        let text = object.string("sdp", usize::MAX)?.ok_or_else(|| bad("data.sdp.sdp is missing"))?;
        (Form::Object, text.into_owned())
    } else {
        let text = json::string(raw).ok_or_else(|| bad("data.sdp must be a string or an object"))?;
        (Form::Text, text.into_owned())
    };
    if text.is_empty() {
        return Err(Bad { code: ErrorCode::BadSdp, message: "data.sdp is empty".into() });
    }
    if text.len() > limits.sdp {
        return Err(Bad { code: ErrorCode::BadSdp, message: format!("data.sdp is larger than {} bytes", limits.sdp) });
    }
    Ok(Sdp { sdp: text, form, tracks: track_names(data, limits)? })
}

fn freezes(data: &Fields<'_>, limits: &Limits) -> Result<Vec<Freezes>, Bad> {
    let elements = per_line(data, "freezes", limits)?;
    let one = |element: &str| {
        let fields = Fields::read(element, "data.freezes[].", limits)?;
        let mid = fields.string("mid", 32)?.ok_or_else(|| bad("data.freezes[].mid is missing"))?.into_owned();
        let [count, ms] = ["count", "ms"].map(|name| fields.number(name).map(Option::unwrap_or_default));
        Ok(Freezes { mid, count: count?, ms: ms? })
    };
    elements.into_iter().map(one).collect()
}

/// The elements of an array that has at most one for each line of a description; none when it is not there.
fn per_line<'a>(data: &Fields<'a>, name: &str, limits: &Limits) -> Result<Vec<&'a str>, Bad> {
    let Some(raw) = data.present(name) else { return Ok(Vec::new()) };
    match json::outline(raw, limits.json_depth, limits.json_members) {
        Ok(Outline::Array(elements, count)) if count <= limits.m_lines && count == elements.len() => Ok(elements),
        Ok(Outline::Array(..)) => Err(bad(format!("data.{name} has more than {} elements", limits.m_lines))),
        _ => Err(bad(format!("data.{name} must be an array"))),
    }
}

fn track_names(data: &Fields<'_>, limits: &Limits) -> Result<Vec<TrackName>, Bad> {
    let elements = per_line(data, "tracks", limits)?;
    let mut tracks: Vec<TrackName> = Vec::with_capacity(elements.len());
    for element in elements {
        let fields = Fields::read(element, "data.tracks[].", limits)?;
        let mid = fields.string("mid", 32)?.ok_or_else(|| bad("data.tracks[].mid is missing"))?.into_owned();
        if mid.is_empty() || mid.chars().any(char::is_control) {
            return Err(bad("data.tracks[].mid is empty or has a character that is not allowed"));
        }
        if tracks.iter().any(|other| other.mid == mid) {
            return Err(bad("data.tracks[].mid is there twice"));
        }
        let source = match fields.string("source", 64)?.as_deref() {
            Some("camera") => Source::Camera,
            Some("microphone") => Source::Microphone,
            Some("screen") => Source::Screen,
            Some("screen-audio") => Source::ScreenAudio,
            _ => return Err(bad("data.tracks[].source must be camera, microphone, screen or screen-audio")),
        };
        tracks.push(TrackName { mid, source, name: fields.label("name")? });
    }
    Ok(tracks)
}

fn candidate(data: &Fields<'_>, limits: &Limits) -> Result<Option<Candidate>, Bad> {
    let raw = data.raw("candidate").ok_or_else(|| bad("data.candidate is missing"))?;
    let (form, text) = if raw == "null" {
        return Ok(None);
    } else if raw.starts_with('{') {
        let object = Fields::read(raw, "data.candidate.", limits)?;
        // A browser's end of candidates is an object with an empty line; absence is the default of the same.
        (Form::Object, object.string("candidate", usize::MAX)?.unwrap_or_default().into_owned())
    } else {
        let text = json::string(raw).ok_or_else(|| bad("data.candidate must be a string, an object or null"))?;
        (Form::Text, text.into_owned())
    };
    if text.len() > crate::p2p::CANDIDATE_BYTES_MAX {
        let message = format!("data.candidate is longer than {} bytes", crate::p2p::CANDIDATE_BYTES_MAX);
        return Err(Bad { code: ErrorCode::BadCandidate, message });
    }
    Ok(Some(Candidate { text, form }))
}

fn mute_target(data: &Fields<'_>) -> Result<MuteTarget, Bad> {
    let kind = match data.string("kind", 64)?.as_deref() {
        None | Some("audio") => Kind::Audio,
        Some("video") => Kind::Video,
        Some(_) => return Err(bad("data.kind must be \"audio\" or \"video\"")),
    };
    Ok(MuteTarget { kind, track: data.track_id()? })
}

fn track_ref(data: &Fields<'_>) -> Result<TrackRef, Bad> {
    if let Some(track) = data.track_id()? {
        return Ok(TrackRef::Track(track));
    }
    let user = data.string("userId", 1024)?.ok_or_else(|| bad("data.trackId or data.userId is missing"))?;
    UserId::new(&user).map(TrackRef::User).map_err(|e| bad(format!("data.userId {e}")))
}

fn subscribe(data: &Fields<'_>) -> Result<Subscribe, Bad> {
    let quality = match data.string("quality", 64)?.as_deref() {
        None => None,
        Some("low") => Some(Quality::Low),
        Some("medium") => Some(Quality::Medium),
        Some("high") => Some(Quality::High),
        Some(_) => return Err(bad("data.quality must be \"low\", \"medium\" or \"high\"")),
    };
    Ok(Subscribe {
        what: track_ref(data)?,
        quality,
        max_width: data.number("maxWidth")?,
        max_height: data.number("maxHeight")?,
        max_framerate: data.number("maxFramerate")?,
        priority: data.number("priority")?,
        paused: data.boolean("paused")?,
    })
}

struct Data<'a> {
    raw: Option<&'a str>,
    limits: &'a Limits,
}

impl<'a> Data<'a> {
    fn optional(&self) -> Result<Fields<'a>, Bad> {
        match self.raw {
            None | Some("null") => Ok(Fields { prefix: "data.", members: Vec::new() }),
            Some(raw) => Fields::read(raw, "data.", self.limits),
        }
    }

    fn required(&self) -> Result<Fields<'a>, Bad> {
        match self.raw {
            None | Some("null") => Err(bad("data is missing")),
            Some(raw) => Fields::read(raw, "data.", self.limits),
        }
    }
}

/// The members of an object, and where it stands in the message.
struct Fields<'a> {
    prefix: &'static str,
    members: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str, prefix: &'static str, limits: &Limits) -> Result<Self, Bad> {
        match json::outline(text, limits.json_depth, limits.json_members) {
            Ok(Outline::Object(members)) => Ok(Fields { prefix, members }),
            Ok(_) => {
                let name = prefix.trim_end_matches(['.', '[', ']']);
                Err(bad(format!("{} must be an object", if name.is_empty() { "a message" } else { name })))
            }
            Err(fault) => Err(bad(fault.to_string())),
        }
    }

    fn raw(&self, name: &str) -> Option<&'a str> {
        self.members.iter().find(|(n, _)| n == name).map(|(_, raw)| *raw)
    }

    /// As [`Fields::raw`], but `null` is absence.
    fn present(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|raw| *raw != "null")
    }

    fn string(&self, name: &str, bytes_max: usize) -> Result<Option<Cow<'a, str>>, Bad> {
        let Some(raw) = self.present(name) else { return Ok(None) };
        let text = json::string(raw).ok_or_else(|| bad(format!("{}{name} must be a string", self.prefix)))?;
        if text.len() > bytes_max {
            return Err(bad(format!("{}{name} is longer than {bytes_max} bytes", self.prefix)));
        }
        Ok(Some(text))
    }

    /// A name for humans: control characters removed, at most 256 characters, `None` when nothing is left.
    fn label(&self, name: &str) -> Result<Option<String>, Bad> {
        let Some(text) = self.string(name, usize::MAX)? else { return Ok(None) };
        let clean: String = text.chars().filter(|c| !c.is_control()).collect();
        let clean = clean.trim();
        if clean.chars().count() > 256 {
            return Err(bad(format!("{}{name} is longer than 256 characters", self.prefix)));
        }
        Ok(Some(clean.to_owned()).filter(|c| !c.is_empty()))
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Bad> {
        match self.present(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(format!("{}{name} must be true or false", self.prefix))),
        }
    }

    /// A number from 0 to `u32::MAX`; a fraction, such as a frame rate of 29.97, is rounded.
    fn number(&self, name: &str) -> Result<Option<u32>, Bad> {
        let Some(raw) = self.present(name) else { return Ok(None) };
        match raw.parse::<f64>() {
            Ok(number) if (0.0..=f64::from(u32::MAX)).contains(&number) => Ok(Some(number.round() as u32)),
            _ => Err(bad(format!("{}{name} must be a number from 0 to {}", self.prefix, u32::MAX))),
        }
    }

    fn track_id(&self) -> Result<Option<TrackId>, Bad> {
        match self.string("trackId", 64)? {
            None => Ok(None),
            Some(text) => match TrackId::parse(&text) {
                Some(track) => Ok(Some(track)),
                None => Err(bad(format!("{}trackId is not a track id", self.prefix))),
            },
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

// ---- writing ----

/// One message of the server as the text of a frame. `user` is the sender, `"sfu"` for the media server.
pub fn encode(
    kind: &'static str,
    room: Option<&RoomId>,
    user: Option<&str>,
    id: Option<&RequestId>,
    data: impl Serialize,
) -> Utf8Bytes {
    with_data(envelope(kind, room, user, None, id), data)
}

/// As [`encode`], for a message that only `target` gets and is to know so: `chat`, `data`.
pub fn encode_to(
    kind: &'static str,
    room: Option<&RoomId>,
    user: Option<&str>,
    target: &UserId,
    data: impl Serialize,
) -> Utf8Bytes {
    with_data(envelope(kind, room, user, Some(target), None), data)
}

fn with_data(mut text: String, data: impl Serialize) -> Utf8Bytes {
    // What is serialized here has no maps with keys that are not strings, which is all that can fail.
    text.push_str(&serde_json::to_string(&data).expect("the data types serialize"));
    text.push('}');
    text.into()
}

/// As [`encode`], with `data` passed on byte by byte.
pub fn encode_raw(
    kind: &'static str,
    room: Option<&RoomId>,
    user: Option<&str>,
    id: Option<&RequestId>,
    data: &RawValue,
) -> Utf8Bytes {
    with_raw(envelope(kind, room, user, None, id), data)
}

/// As [`encode_raw`], for a message that only `target` gets and is to know so: what is relayed, `data`.
pub fn encode_raw_to(
    kind: &'static str,
    room: Option<&RoomId>,
    user: Option<&str>,
    target: &UserId,
    id: Option<&RequestId>,
    data: &RawValue,
) -> Utf8Bytes {
    with_raw(envelope(kind, room, user, Some(target), id), data)
}

fn with_raw(mut text: String, data: &RawValue) -> Utf8Bytes {
    text.push_str(data.get());
    text.push('}');
    text.into()
}

/// An `error`.
pub fn encode_error(room: Option<&RoomId>, id: Option<&RequestId>, code: ErrorCode, message: &str) -> Utf8Bytes {
    encode("error", room, None, id, ErrorData { code: code.as_str(), message })
}

fn envelope(
    kind: &'static str,
    room: Option<&RoomId>,
    user: Option<&str>,
    target: Option<&UserId>,
    id: Option<&RequestId>,
) -> String {
    let mut text = String::with_capacity(256);
    text.push_str("{\"type\":\"");
    text.push_str(kind);
    text.push('"');
    if let Some(room) = room {
        text.push_str(",\"roomId\":\"");
        text.push_str(room.as_str());
        text.push('"');
    }
    for (member, user) in [(",\"userId\":", user), (",\"targetUserId\":", target.map(UserId::as_str))] {
        if let Some(user) = user {
            text.push_str(member);
            text.push_str(&serde_json::to_string(user).expect("a string serializes"));
        }
    }
    if let Some(id) = id {
        text.push_str(",\"id\":");
        text.push_str(id.as_json());
    }
    text.push_str(",\"data\":");
    text
}

macro_rules! words {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    )*};
}
words!(Kind, Source, Quality, ErrorCode, LayerReason, Reason, WarningKind, Direction);

/// Data of `joined`. What other modules describe (`iceServers`, `encoding`, `call`) comes as they serialize it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined<'a, I: Serialize, E: Serialize, C: Serialize> {
    /// The others; never the receiver.
    pub participants: Vec<ParticipantInfo<'a>>,
    pub ice_servers: I,
    pub encoding: E,
    pub call: C,
    /// `null` while nothing is recorded.
    pub recording: Option<RecordingInfo<'a>>,
    pub you: You<'a>,
    pub resume_token: Option<&'a str>,
    /// An earlier session goes on. `false` as well when the token of a `join` was unknown or too old.
    pub resumed: bool,
    /// The server still has this client's media connection; otherwise the client begins a new one.
    pub media: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingInfo<'a> {
    pub recording_id: &'a str,
    pub status: &'a str,
}

/// Data of `recording-started`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingStarted<'a> {
    pub recording_id: &'a str,
    pub status: &'a str,
    /// `null`: the settings.
    pub by: Option<&'a UserId>,
    pub started_at: String,
}

/// Data of `recording-paused` and `recording-resumed`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingState<'a> {
    pub recording_id: &'a str,
    pub status: &'a str,
}

/// Data of `recording-stopped`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingStopped<'a> {
    pub recording_id: &'a str,
    pub reason: &'a str,
}

/// Data of `recording-completed`: its files are there, or never will be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingCompleted<'a> {
    pub recording_id: &'a str,
    /// `completed` or `failed`.
    pub status: &'a str,
    pub duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// Data of `user-joined`, and an element of `participants`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParticipantInfo<'a> {
    pub user_id: &'a UserId,
    pub display_name: Option<&'a str>,
    pub role: &'static str,
    pub metadata: Option<RawValue>,
    /// `"lost"`; left out while all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<&'static str>,
    pub muted: MuteState,
    pub tracks: Vec<TrackInfo<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MuteState {
    pub audio: bool,
    pub video: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackInfo<'a> {
    pub track_id: TrackId,
    pub kind: Kind,
    pub source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// Of the receiver's connection, when the track is delivered there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid: Option<&'a str>,
    pub muted: bool,
    /// Of video, as far as known, ascending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

/// One way to receive a track. Figures that are not known are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The name of the simulcast encoding.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rid_text")]
    pub rid: Option<Rid>,
    pub spatial: u8,
    pub temporal: u8,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u16>,
    /// Frames per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub framerate: Option<u8>,
    /// Bit/s of all that has to be received for it. Only where a track is described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u64>,
}

fn rid_text<S: Serializer>(rid: &Option<Rid>, serializer: S) -> Result<S::Ok, S::Error> {
    rid.as_deref().serialize(serializer)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct You<'a> {
    pub user_id: &'a UserId,
    pub role: &'static str,
    pub permissions: Permissions,
    /// By a moderator, from an earlier session of the same call.
    pub muted: MuteState,
}

/// Data of `user-left`, `room-closed`, `kicked`.
#[derive(Debug, Serialize)]
pub struct UserLeft<'a> {
    pub reason: &'a str,
}

/// Data of `user-updated`: only what changed.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserUpdated<'a> {
    /// `"lost"` or `"ok"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RawValue>,
}

#[derive(Debug, Serialize)]
pub struct TrackPublished<'a> {
    pub track: TrackInfo<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackUnpublished {
    pub track_id: TrackId,
}

/// Data of `track-subscribed`: whose track `mid` carries; `null` ids when it carries none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackSubscribed<'a> {
    pub mid: &'a str,
    pub track_id: Option<TrackId>,
    pub user_id: Option<&'a UserId>,
    pub kind: Kind,
    pub source: Option<Source>,
}

/// Data of `layer-changed`: what a subscriber is sent of a track from now on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerChanged<'a> {
    /// Of the receiver's connection.
    pub mid: &'a str,
    pub track_id: TrackId,
    /// The publisher.
    pub user_id: &'a UserId,
    /// `null`: nothing, until it resumes by itself or by a wish.
    pub layer: Option<Layer>,
    pub paused: bool,
    pub reason: LayerReason,
}

/// Why a subscriber is sent another layer than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerReason {
    /// The estimate of the subscriber's connection, in both directions.
    Bandwidth,
    /// The subscriber asked for it.
    Wish,
    /// The publisher sends other layers than before.
    Source,
}

impl LayerReason {
    pub fn as_str(self) -> &'static str {
        match self {
            LayerReason::Bandwidth => "bandwidth",
            LayerReason::Wish => "wish",
            LayerReason::Source => "source",
        }
    }
}

/// Data of `layers-wanted`, to a publisher: which encodings of a track somebody watches. The others may be paused.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayersWanted<'a> {
    pub track_id: TrackId,
    /// Of the publisher's connection.
    pub mid: &'a str,
    pub encodings: Vec<EncodingWanted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EncodingWanted {
    /// `null`: the only encoding.
    #[serde(serialize_with = "rid_text")]
    pub rid: Option<Rid>,
    pub active: bool,
}

/// Data of `quality`: how good the connection of a participant is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionQuality<'a> {
    pub user_id: &'a UserId,
    /// 1 (bad) to 5 (excellent).
    pub quality: u8,
    pub reason: Reason,
}

/// Data of `quality-warning`, to the one concerned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QualityWarning {
    pub kind: WarningKind,
    pub direction: Direction,
    /// Loss as a share of 0 to 1, latency in milliseconds, bandwidth in bit/s.
    pub value: f64,
    /// `false`: it is over.
    pub active: bool,
}

/// Data of `muted` and `unmuted`; the message's `userId` is who is muted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Muted<'a> {
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_id: Option<TrackId>,
    /// The moderator, when it was not the participant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a UserId>,
}

/// Data of `offer` and `answer` of the server, in the form that the client uses.
#[derive(Debug, Serialize)]
pub struct SdpOut<'a> {
    sdp: SdpForm<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum SdpForm<'a> {
    Text(&'a str),
    Object { r#type: &'static str, sdp: &'a str },
}

impl<'a> SdpOut<'a> {
    pub fn offer(form: Form, sdp: &'a str) -> Self {
        SdpOut::new(form, "offer", sdp)
    }

    pub fn answer(form: Form, sdp: &'a str) -> Self {
        SdpOut::new(form, "answer", sdp)
    }

    fn new(form: Form, r#type: &'static str, sdp: &'a str) -> Self {
        match form {
            Form::Text => SdpOut { sdp: SdpForm::Text(sdp) },
            Form::Object => SdpOut { sdp: SdpForm::Object { r#type, sdp } },
        }
    }
}

/// Data of `ice-candidate` of the server. In the text form `sdpMid` and `sdpMLineIndex` stand beside the line, so that
/// a client that sends `RTCIceCandidate.toJSON()` as `data` can also take `data` as one.
#[derive(Debug)]
pub enum CandidateOut<'a> {
    Candidate { form: Form, text: &'a str, mid: &'a str, m_line_index: u16 },
    End,
}

impl Serialize for CandidateOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Line<'a> {
            candidate: &'a str,
            sdp_mid: &'a str,
            #[serde(rename = "sdpMLineIndex")]
            m_line_index: u16,
        }
        match *self {
            CandidateOut::Candidate { form, text, mid, m_line_index } => {
                let line = Line { candidate: text, sdp_mid: mid, m_line_index };
                match form {
                    Form::Text => line.serialize(serializer),
                    Form::Object => {
                        let mut map = serializer.serialize_map(Some(1))?;
                        map.serialize_entry("candidate", &line)?;
                        map.end()
                    }
                }
            }
            CandidateOut::End => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("candidate", &())?;
                map.end()
            }
        }
    }
}

/// Data of `active-speaker`, loudest first.
#[derive(Debug, Serialize)]
pub struct ActiveSpeaker<'a> {
    pub speakers: Vec<Speaker<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Speaker<'a> {
    pub user_id: &'a UserId,
    /// 0 (silent) to 1 (loudest).
    pub level: f32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenExpiring {
    /// Until the connection is closed with 4004.
    pub in_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct ChatData<'a> {
    pub text: &'a str,
}

#[derive(Debug, Serialize)]
pub struct ErrorData<'a> {
    pub code: &'static str,
    pub message: &'a str,
}

/// Data of messages that say nothing more: `pong`, `waiting`, `server-draining`.
#[derive(Debug, Default, Serialize)]
pub struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    fn ok(text: &str) -> Request {
        parse(text, &Limits::default()).unwrap_or_else(|reject| panic!("{text} gave {reject:?}"))
    }

    fn reject(text: &str) -> Reject {
        match parse(text, &Limits::default()) {
            Err(reject) => reject,
            Ok(request) => panic!("{text} gave {request:?}"),
        }
    }

    fn track(number: u64) -> TrackId {
        TrackId(number)
    }

    fn message(kind: &str, data: &str) -> String {
        format!(r#"{{"type":"{kind}","roomId":"r1","data":{data}}}"#)
    }

    #[test]
    fn the_envelope() {
        let request =
            ok(r#"{"type":"ping","roomId":"r-1","userId":"ann","targetUserId":"bob","id":"x\u00e9","other":[{}]}"#);
        assert_eq!(request.id.as_ref().map(RequestId::as_json), Some(r#""x\u00e9""#));
        assert_eq!(request.room, RoomId::new("r-1").ok());
        assert_eq!(request.user.as_deref(), Some("ann"));
        assert_eq!(request.target, Target::User(UserId::new("bob").expect("valid")));
        assert_eq!((request.body, request.data), (Body::Ping, None));

        let request = ok(r#"{"type":"ping","roomId":null,"userId":null,"targetUserId":"sfu","id":-1.5e3,"data":null}"#);
        assert_eq!(request.id.map(|id| id.as_json().to_owned()).as_deref(), Some("-1.5e3"));
        assert_eq!((request.room, request.user, request.target), (None, None, Target::Sfu));
        assert_eq!(ok(r#"{"type":"ping","id":null}"#).target, Target::None);
    }

    #[test]
    fn every_type_in_its_plain_form() {
        let limits = Limits::default();
        let plain_join = Join {
            metadata: None,
            display_name: None,
            auto_subscribe: true,
            receive: Receive::Tracks,
            server_offer: false,
            resume_token: None,
        };
        let mute = MuteTarget { kind: Kind::Audio, track: None };
        let line = "candidate:1 1 udp 1 192.0.2.1 9 typ host";
        let rows: Vec<(&str, &str, Body)> = vec![
            ("join", "null", Body::Join(plain_join.clone())),
            ("join", "{}", Body::Join(plain_join.clone())),
            (
                "join",
                r#"{"metadata":{"b":1, "a":2},"displayName":" A\u0000n\nn ","autoSubscribe":false,"receive":"slots","offer":"server","resumeToken":"t"}"#,
                Body::Join(Join {
                    metadata: RawValue::new(r#"{"b":1, "a":2}"#),
                    display_name: Some("Ann".into()),
                    auto_subscribe: false,
                    receive: Receive::Slots,
                    server_offer: true,
                    resume_token: Some("t".into()),
                }),
            ),
            ("leave", "{}", Body::Leave),
            ("leave", "7", Body::Leave),
            (
                "offer",
                r#"{"sdp":"v=0\r\n"}"#,
                Body::Offer(Sdp { sdp: "v=0\r\n".into(), form: Form::Text, tracks: vec![] }),
            ),
            (
                "answer",
                r#"{"sdp":{"type":"answer","sdp":"v=0"},"tracks":[{"mid":"0","source":"screen","name":"S"},{"mid":"1","source":"screen-audio"}]}"#,
                Body::Answer(Sdp {
                    sdp: "v=0".into(),
                    form: Form::Object,
                    tracks: vec![
                        TrackName { mid: "0".into(), source: Source::Screen, name: Some("S".into()) },
                        TrackName { mid: "1".into(), source: Source::ScreenAudio, name: None },
                    ],
                }),
            ),
            ("ice-candidate", r#"{"candidate":null}"#, Body::IceCandidate(None)),
            (
                "ice-candidate",
                r#"{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0"}"#,
                Body::IceCandidate(Some(Candidate { text: line.into(), form: Form::Text })),
            ),
            (
                "ice-candidate",
                r#"{"candidate":{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0","sdpMLineIndex":0}}"#,
                Body::IceCandidate(Some(Candidate { text: line.into(), form: Form::Object })),
            ),
            (
                "ice-candidate",
                r#"{"candidate":{"candidate":""}}"#,
                Body::IceCandidate(Some(Candidate { text: String::new(), form: Form::Object })),
            ),
            ("mute", "null", Body::Mute(mute)),
            ("unmute", "{}", Body::Unmute(mute)),
            (
                "mute",
                r#"{"kind":"video","trackId":"tr_000000000000000a"}"#,
                Body::Mute(MuteTarget { kind: Kind::Video, track: Some(track(10)) }),
            ),
            (
                "subscribe",
                r#"{"trackId":"tr_0000000000000001","quality":"high","maxWidth":640,"maxHeight":3.6e2,"maxFramerate":29.97,"priority":0,"paused":true}"#,
                Body::Subscribe(Subscribe {
                    what: TrackRef::Track(track(1)),
                    quality: Some(Quality::High),
                    max_width: Some(640),
                    max_height: Some(360),
                    max_framerate: Some(30),
                    priority: Some(0),
                    paused: Some(true),
                }),
            ),
            (
                "unsubscribe",
                r#"{"userId":"bob"}"#,
                Body::Unsubscribe(TrackRef::User(UserId::new("bob").expect("valid"))),
            ),
            ("chat", r#"{"text":"hé\n"}"#, Body::Chat { text: "hé\n".into() }),
            ("data", r#"[1, {"z":1,"a":1e2}]"#, Body::Data(RawValue(r#"[1, {"z":1,"a":1e2}]"#.into()))),
            ("data", "null", Body::Data(RawValue("null".into()))),
            ("restart-ice", "null", Body::RestartIce),
            ("stats", "{}", Body::Stats(Vec::new())),
            (
                "stats",
                r#"{"freezes":[{"mid":"3","count":2,"ms":1250},{"mid":"4"}]}"#,
                Body::Stats(vec![
                    Freezes { mid: "3".into(), count: 2, ms: 1250 },
                    Freezes { mid: "4".into(), count: 0, ms: 0 },
                ]),
            ),
            ("token", r#"{"token":"a.b.c"}"#, Body::Token("a.b.c".into())),
            ("ping", "\"x\"", Body::Ping),
            ("kick", "{}", Body::Moderation("kick")),
            ("stop-recording", "null", Body::Recording(Command::Stop)),
            ("pause-recording", "{}", Body::Recording(Command::Pause)),
            ("resume-recording", "{}", Body::Recording(Command::Resume)),
            ("start-recording", "null", Body::Recording(Command::Start(Start::default()))),
            (
                "start-recording",
                r#"{"audioOnly":true,"layout":"tracks"}"#,
                Body::Recording(Command::Start(Start { audio_only: true, participants: None })),
            ),
        ];
        for (kind, data, expect) in rows {
            let parsed = parse(&message(kind, data), &limits);
            assert_eq!(parsed.as_ref().map(|r| &r.body), Ok(&expect), "{kind} {data}");
        }
        for bare in ["join", "leave", "mute", "unmute", "restart-ice", "stats", "ping", "end-call"] {
            assert!(parse(&format!(r#"{{"type":"{bare}"}}"#), &limits).is_ok(), "{bare}");
        }
        for word in MODERATION {
            assert_eq!(ok(&message(word, "{}")).body, Body::Moderation(word));
        }
    }

    #[test]
    fn faults_name_the_member() {
        let rows: &[(&str, ErrorCode, &str)] = &[
            ("[]", ErrorCode::BadMessage, "object"),
            ("7", ErrorCode::BadMessage, "object"),
            ("{", ErrorCode::BadMessage, "JSON"),
            ("{}", ErrorCode::BadMessage, "type"),
            (r#"{"type":7}"#, ErrorCode::BadMessage, "type"),
            (r#"{"type":"ping","type":"ping"}"#, ErrorCode::BadMessage, "\"type\""),
            (r#"{"type":"nope"}"#, ErrorCode::UnknownType, "nope"),
            (r#"{"type":"joined"}"#, ErrorCode::UnknownType, "joined"),
            (r#"{"type":"user-joined"}"#, ErrorCode::UnknownType, "user-joined"),
            (r#"{"type":"muted"}"#, ErrorCode::UnknownType, "muted"),
            (r#"{"type":"ping","roomId":7}"#, ErrorCode::BadMessage, "roomId"),
            (r#"{"type":"ping","roomId":"../x"}"#, ErrorCode::BadMessage, "roomId"),
            (r#"{"type":"ping","roomId":""}"#, ErrorCode::BadMessage, "roomId"),
            (r#"{"type":"ping","userId":{}}"#, ErrorCode::BadMessage, "userId"),
            (r#"{"type":"ping","targetUserId":""}"#, ErrorCode::BadMessage, "targetUserId"),
            (r#"{"type":"ping","id":{}}"#, ErrorCode::BadMessage, "id"),
            (r#"{"type":"ping","id":true}"#, ErrorCode::BadMessage, "id"),
            (r#"{"type":"join","data":[]}"#, ErrorCode::BadMessage, "data must be an object"),
            (r#"{"type":"join","data":{"displayName":1}}"#, ErrorCode::BadMessage, "data.displayName"),
            (r#"{"type":"join","data":{"autoSubscribe":"yes"}}"#, ErrorCode::BadMessage, "data.autoSubscribe"),
            (r#"{"type":"join","data":{"receive":"all"}}"#, ErrorCode::BadMessage, "data.receive"),
            (r#"{"type":"join","data":{"offer":"client"}}"#, ErrorCode::BadMessage, "data.offer"),
            (r#"{"type":"join","data":{"metadata":{"a":1,"a":2}}}"#, ErrorCode::BadMessage, "\"a\""),
            (r#"{"type":"offer"}"#, ErrorCode::BadMessage, "data"),
            (r#"{"type":"offer","data":{}}"#, ErrorCode::BadMessage, "data.sdp"),
            (r#"{"type":"offer","data":{"sdp":7}}"#, ErrorCode::BadMessage, "data.sdp"),
            (r#"{"type":"offer","data":{"sdp":""}}"#, ErrorCode::BadSdp, "data.sdp"),
            (r#"{"type":"offer","data":{"sdp":{"type":"offer"}}}"#, ErrorCode::BadMessage, "data.sdp.sdp"),
            (
                r#"{"type":"offer","data":{"sdp":{"type":"answer","sdp":"v=0"}}}"#,
                ErrorCode::BadMessage,
                "data.sdp.type",
            ),
            (r#"{"type":"offer","data":{"sdp":"v","tracks":{}}}"#, ErrorCode::BadMessage, "data.tracks"),
            (r#"{"type":"offer","data":{"sdp":"v","tracks":[1]}}"#, ErrorCode::BadMessage, "data.tracks"),
            (r#"{"type":"offer","data":{"sdp":"v","tracks":[{"source":"screen"}]}}"#, ErrorCode::BadMessage, "mid"),
            (
                r#"{"type":"offer","data":{"sdp":"v","tracks":[{"mid":"0","source":"tv"}]}}"#,
                ErrorCode::BadMessage,
                "source",
            ),
            (
                r#"{"type":"offer","data":{"sdp":"v","tracks":[{"mid":"0","source":"screen"},{"mid":"0","source":"screen"}]}}"#,
                ErrorCode::BadMessage,
                "twice",
            ),
            (r#"{"type":"ice-candidate","data":{}}"#, ErrorCode::BadMessage, "data.candidate"),
            (r#"{"type":"ice-candidate","data":{"candidate":1}}"#, ErrorCode::BadMessage, "data.candidate"),
            (
                r#"{"type":"ice-candidate","data":{"candidate":{"candidate":1}}}"#,
                ErrorCode::BadMessage,
                "data.candidate.candidate",
            ),
            (r#"{"type":"mute","data":{"kind":"smell"}}"#, ErrorCode::BadMessage, "data.kind"),
            (r#"{"type":"mute","data":{"trackId":"x"}}"#, ErrorCode::BadMessage, "data.trackId"),
            (r#"{"type":"subscribe","data":{}}"#, ErrorCode::BadMessage, "data.trackId or data.userId"),
            (r#"{"type":"subscribe","data":{"userId":"b","quality":"best"}}"#, ErrorCode::BadMessage, "data.quality"),
            (r#"{"type":"subscribe","data":{"userId":"b","maxWidth":-1}}"#, ErrorCode::BadMessage, "data.maxWidth"),
            (r#"{"type":"subscribe","data":{"userId":"b","priority":"1"}}"#, ErrorCode::BadMessage, "data.priority"),
            (r#"{"type":"subscribe","data":{"userId":"b","maxHeight":5e9}}"#, ErrorCode::BadMessage, "data.maxHeight"),
            (r#"{"type":"unsubscribe","data":{"userId":"sfu"}}"#, ErrorCode::BadMessage, "data.userId"),
            (r#"{"type":"chat","data":{"text":""}}"#, ErrorCode::BadMessage, "data.text"),
            (r#"{"type":"chat","data":"hi"}"#, ErrorCode::BadMessage, "data"),
            (r#"{"type":"chat","data":{"text":"\ud83d"}}"#, ErrorCode::BadMessage, "surrogate"),
            (r#"{"type":"data"}"#, ErrorCode::BadMessage, "data"),
            (r#"{"type":"token","data":{}}"#, ErrorCode::BadMessage, "data.token"),
        ];
        for (text, code, part) in rows {
            let reject = reject(text);
            assert_eq!(reject.code, *code, "{text} gave {reject:?}");
            assert!(reject.message.contains(part), "{text} gave {:?}", reject.message);
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let limits = Limits::default();
        let long = |n: usize| "x".repeat(n);
        let with = |kind: &str, data: String| parse(&message(kind, &data), &limits).map_err(|r| r.code);
        for (kind, around, most, code) in [
            ("data", ("\"", "\""), 16 * 1024 - 2, ErrorCode::BadMessage),
            ("chat", (r#"{"text":""#, r#""}"#), 16 * 1024, ErrorCode::BadMessage),
            ("offer", (r#"{"sdp":""#, r#""}"#), 128 * 1024, ErrorCode::BadSdp),
            ("offer", (r#"{"sdp":{"sdp":""#, r#""}}"#), 128 * 1024, ErrorCode::BadSdp),
            ("ice-candidate", (r#"{"candidate":""#, r#""}"#), 512, ErrorCode::BadCandidate),
            ("join", (r#"{"metadata":""#, r#""}"#), 4 * 1024 - 2, ErrorCode::BadMessage),
            ("join", (r#"{"displayName":""#, r#""}"#), 256, ErrorCode::BadMessage),
            ("join", (r#"{"resumeToken":""#, r#""}"#), 1024, ErrorCode::BadMessage),
            ("token", (r#"{"token":""#, r#""}"#), 8 * 1024, ErrorCode::BadMessage),
        ] {
            let data = |n: usize| format!("{}{}{}", around.0, long(n), around.1);
            assert!(with(kind, data(most)).is_ok(), "{kind} {most}");
            assert_eq!(with(kind, data(most + 1)).err(), Some(code), "{kind} {}", most + 1);
        }
        let tracks = |n: usize| {
            let list: Vec<_> = (0..n).map(|i| format!(r#"{{"mid":"{i}","source":"camera"}}"#)).collect();
            with("offer", format!(r#"{{"sdp":"v","tracks":[{}]}}"#, list.join(",")))
        };
        assert!(tracks(64).is_ok());
        assert_eq!(tracks(65).err(), Some(ErrorCode::BadMessage));
        assert!(ok(&format!(r#"{{"type":"ping","id":"{}"}}"#, long(126))).id.is_some());
        assert_eq!(reject(&format!(r#"{{"type":"ping","id":"{}"}}"#, long(127))).code, ErrorCode::BadMessage);
    }

    #[test]
    fn a_reject_carries_the_request_id() {
        assert_eq!(reject(r#"{"type":"nope","id":7}"#).id, Some(RequestId::number(7)));
        let reject = reject(r#"{"type":"chat","data":7,"id":"a"}"#);
        assert_eq!(reject.id.as_ref().map(RequestId::as_json), Some("\"a\""));
    }

    #[test]
    fn offers_of_the_server_are_recognised_by_id() {
        let id = |text: &str| ok(&format!(r#"{{"type":"ping","id":{text}}}"#)).id.expect("has an id");
        assert!(id("12").is_number(12));
        assert!(id("\"12\"").is_number(12));
        assert!(!id("13").is_number(12));
    }

    #[test]
    fn relayed_data_is_verbatim() {
        let data = r#"{ "sdp" : {"sdp":"v=0","type":"offer"}, "x":[1.0,{}] }"#;
        let text = format!(r#"{{"type":"offer","targetUserId":"bob","data":{data}}}"#);
        let request = ok(&text);
        let relayed = request.data.expect("kept for the relay");
        assert_eq!(relayed.get(), data);
        let room = RoomId::new("r").expect("valid");
        let out = encode_raw("offer", Some(&room), Some("a\"n"), request.id.as_ref(), &relayed);
        assert_eq!(&*out, format!(r#"{{"type":"offer","roomId":"r","userId":"a\"n","data":{data}}}"#));
        assert_eq!(ok(&message("offer", data)).data, None);
        let bob = UserId::new("b\u{1F600}\"").expect("valid");
        let out = encode_raw_to("offer", None, Some("ann"), &bob, Some(&RequestId::number(1)), &relayed);
        assert_eq!(&*out, format!(r#"{{"type":"offer","userId":"ann","targetUserId":"b😀\"","id":1,"data":{data}}}"#));
        let out = encode_to("chat", None, Some("ann"), &bob, ChatData { text: "x" });
        assert_eq!(&*out, r#"{"type":"chat","userId":"ann","targetUserId":"b😀\"","data":{"text":"x"}}"#);
    }

    #[test]
    fn what_the_server_says() {
        let ann = UserId::new("ann").expect("valid");
        let mut permissions = Permissions::of(Role::Participant);
        permissions.publish_sources.screen = false;
        let track_info = || TrackInfo {
            track_id: track(1),
            kind: Kind::Audio,
            source: Source::Microphone,
            name: None,
            mid: None,
            muted: false,
            layers: Vec::new(),
        };
        let joined = Joined {
            participants: vec![ParticipantInfo {
                user_id: &ann,
                display_name: Some("Ann"),
                role: "participant",
                metadata: RawValue::new(r#"{"a":[1,2.5]}"#),
                connection: None,
                muted: MuteState { audio: true, video: false },
                tracks: vec![track_info()],
            }],
            ice_servers: Vec::<u8>::new(),
            encoding: (),
            call: (),
            recording: None,
            you: You { user_id: &ann, role: Role::Participant.name(), permissions, muted: MuteState::default() },
            resume_token: None,
            resumed: false,
            media: false,
        };
        let line = "candidate:1 1 udp 1 192.0.2.1 9 typ host";
        let candidate = |form| CandidateOut::Candidate { form, text: line, mid: "0", m_line_index: 0 };
        let rows: Vec<(String, &str)> = vec![
            (
                text_of(&joined),
                r#"{"participants":[{"userId":"ann","displayName":"Ann","role":"participant","metadata":{"a":[1,2.5]},"muted":{"audio":true,"video":false},"tracks":[{"trackId":"tr_0000000000000001","kind":"audio","source":"microphone","muted":false}]}],"iceServers":[],"encoding":null,"call":null,"recording":null,"you":{"userId":"ann","role":"participant","permissions":{"publish":true,"publishSources":["camera","microphone"],"subscribe":true,"data":true,"chat":true,"record":false,"moderate":false,"create":false},"muted":{"audio":false,"video":false}},"resumeToken":null,"resumed":false,"media":false}"#,
            ),
            (text_of(SdpOut::offer(Form::Text, "v=0\r\n")), r#"{"sdp":"v=0\r\n"}"#),
            (text_of(SdpOut::answer(Form::Object, "v=0")), r#"{"sdp":{"type":"answer","sdp":"v=0"}}"#),
            (
                text_of(candidate(Form::Text)),
                r#"{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0","sdpMLineIndex":0}"#,
            ),
            (
                text_of(candidate(Form::Object)),
                r#"{"candidate":{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0","sdpMLineIndex":0}}"#,
            ),
            (text_of(CandidateOut::End), r#"{"candidate":null}"#),
            (text_of(Muted { kind: Kind::Video, track_id: None, by: Some(&ann) }), r#"{"kind":"video","by":"ann"}"#),
            (
                text_of(TrackSubscribed { mid: "2", track_id: None, user_id: None, kind: Kind::Video, source: None }),
                r#"{"mid":"2","trackId":null,"userId":null,"kind":"video","source":null}"#,
            ),
            (
                text_of(TrackPublished { track: track_info() }),
                r#"{"track":{"trackId":"tr_0000000000000001","kind":"audio","source":"microphone","muted":false}}"#,
            ),
            (text_of(UserUpdated { connection: Some("lost"), ..UserUpdated::default() }), r#"{"connection":"lost"}"#),
            (text_of(Empty {}), "{}"),
        ];
        for (written, expect) in rows {
            assert_eq!(written, expect);
        }
        let id = RequestId::number(3);
        assert_eq!(
            &*encode_error(None, Some(&id), ErrorCode::NotJoined, "join first"),
            r#"{"type":"error","id":3,"data":{"code":"not_joined","message":"join first"}}"#
        );
    }

    #[test]
    fn what_the_server_says_of_layers_and_quality() {
        let ann = UserId::new("ann").expect("valid");
        let layer = Layer {
            rid: Some("q".into()),
            spatial: 0,
            temporal: 1,
            width: Some(320),
            height: Some(180),
            framerate: Some(30),
            bitrate: Some(150_000),
        };
        let unknown = Layer { rid: None, width: None, height: None, framerate: None, bitrate: Some(0), ..layer };
        let changed = |layer: Option<Layer>, reason| LayerChanged {
            mid: "2",
            track_id: track(1),
            user_id: &ann,
            paused: layer.is_none(),
            layer,
            reason,
        };
        let warning = |kind, direction, value| QualityWarning { kind, direction, value, active: true };
        let info = TrackInfo {
            track_id: track(1),
            kind: Kind::Video,
            source: Source::Camera,
            name: None,
            mid: None,
            muted: false,
            layers: vec![unknown, layer],
        };
        let rows: Vec<(String, &str)> = vec![
            (
                text_of(TrackPublished { track: info }),
                r#"{"track":{"trackId":"tr_0000000000000001","kind":"video","source":"camera","muted":false,"layers":[{"spatial":0,"temporal":1,"bitrate":0},{"rid":"q","spatial":0,"temporal":1,"width":320,"height":180,"framerate":30,"bitrate":150000}]}}"#,
            ),
            (
                text_of(changed(Some(Layer { bitrate: None, ..layer }), LayerReason::Bandwidth)),
                r#"{"mid":"2","trackId":"tr_0000000000000001","userId":"ann","layer":{"rid":"q","spatial":0,"temporal":1,"width":320,"height":180,"framerate":30},"paused":false,"reason":"bandwidth"}"#,
            ),
            (
                text_of(changed(None, LayerReason::Wish)),
                r#"{"mid":"2","trackId":"tr_0000000000000001","userId":"ann","layer":null,"paused":true,"reason":"wish"}"#,
            ),
            (
                text_of(LayersWanted {
                    track_id: track(1),
                    mid: "1",
                    encodings: vec![
                        EncodingWanted { rid: Some("h".into()), active: true },
                        EncodingWanted { rid: None, active: false },
                    ],
                }),
                r#"{"trackId":"tr_0000000000000001","mid":"1","encodings":[{"rid":"h","active":true},{"rid":null,"active":false}]}"#,
            ),
            (
                text_of(ConnectionQuality { user_id: &ann, quality: 2, reason: Reason::PacketLoss }),
                r#"{"userId":"ann","quality":2,"reason":"packet-loss"}"#,
            ),
            (
                text_of(warning(WarningKind::PacketLoss, Direction::Receive, 0.075)),
                r#"{"kind":"packet-loss","direction":"receive","value":0.075,"active":true}"#,
            ),
            (
                text_of(QualityWarning { active: false, ..warning(WarningKind::Bandwidth, Direction::Send, 500e3) }),
                r#"{"kind":"bandwidth","direction":"send","value":500000.0,"active":false}"#,
            ),
        ];
        for (written, expect) in rows {
            assert_eq!(written, expect);
        }
    }

    fn text_of(value: impl Serialize) -> String {
        serde_json::to_string(&value).expect("serializes")
    }

    /// Mutated messages never panic, and what is answered or relayed is valid JSON.
    #[test]
    fn mutations_are_survived() {
        let limits = Limits::default();
        let seeds = [
            r#"{"type":"join","roomId":"r1","id":1,"data":{"metadata":{"a":[1,"\u00e9"]},"displayName":"Ann","receive":"slots","offer":"server"}}"#,
            r#"{"type":"offer","targetUserId":"bob","id":"q","data":{"sdp":{"type":"offer","sdp":"v=0\r\n"},"tracks":[{"mid":"0","source":"camera","name":"n"}]}}"#,
            r#"{"type":"ice-candidate","targetUserId":"bob","data":{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host"}}"#,
            r#"{"type":"subscribe","data":{"trackId":"tr_0000000000000001","quality":"low","maxWidth":640,"paused":false}}"#,
            r#"{"type":"data","userId":"ann","data":{"x":[1.5e3,null,"\ud83d\ude00"]}}"#,
        ];
        let alphabet: Vec<char> = "{}[]\",:\\u0d8aé19-+eE. \u{0}\n".chars().collect();
        let mut random = fastrand::Rng::with_seed(11);
        let mut accepted = 0;
        for round in 0..20_000 {
            let mut chars: Vec<char> = seeds[round % seeds.len()].chars().collect();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..chars.len());
                match random.u8(0..4) {
                    0 => chars[at] = alphabet[random.usize(0..alphabet.len())],
                    1 => drop(chars.remove(at)),
                    2 => chars.insert(at, alphabet[random.usize(0..alphabet.len())]),
                    _ => {
                        let from = random.usize(0..chars.len());
                        let piece: Vec<char> = chars[from..(from + 9).min(chars.len())].to_vec();
                        chars.splice(at..at, piece);
                    }
                }
            }
            let text: String = chars.into_iter().collect();
            let reply = match parse(&text, &limits) {
                Ok(request) => {
                    accepted += 1;
                    match (&request.body, &request.data) {
                        (_, Some(raw)) | (Body::Data(raw), None) => {
                            encode_raw("data", request.room.as_ref(), request.user.as_deref(), request.id.as_ref(), raw)
                        }
                        _ => encode(
                            "pong",
                            request.room.as_ref(),
                            request.user.as_deref(),
                            request.id.as_ref(),
                            Empty {},
                        ),
                    }
                }
                Err(reject) => encode_error(None, reject.id.as_ref(), reject.code, &reject.message),
            };
            let value = serde_json::from_str::<serde_json::Value>(&reply);
            assert!(value.is_ok(), "{text:?} was answered by {reply:?}");
        }
        assert!((1_000..19_000).contains(&accepted), "{accepted} accepted: the mutations test one side only");
    }
}
