//! WHIP and WHEP as HTTP: requests become questions, replies become responses (RFC 9725, draft-ietf-wish-whep).

use super::question::Question;
use super::{Method, Request, Response, decode_segment};
use crate::auth::{Grants, Role};
use crate::base::{TrackId, UserId};
use crate::ice_servers::IceServer;
use crate::whip::{Fragment, IfMatch, Open, Protocol, Refusal, Reply, SessionId, Wanted, What};

/// Media types.
pub const SDP: &str = "application/sdp";
pub const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// A POST to the endpoint, whose sender may enter the room.
pub fn open(protocol: Protocol, request: &Request, grants: Grants) -> Result<Question, Response> {
    let permissions = grants.permissions();
    match protocol {
        Protocol::Whip if !permissions.publish => return Err(forbidden("The token does not allow to publish.")),
        Protocol::Whep if !permissions.subscribe => return Err(forbidden("The token does not allow to subscribe.")),
        _ => {}
    }
    let user = match request.query_param("userId") {
        None => grants.user().clone(),
        Some(text) => {
            let user = UserId::new(&text).map_err(|error| bad_request(&format!("userId {error}.")))?;
            if user != *grants.user() && grants.role() < Role::Host {
                return Err(forbidden("Only hosts and admins may name another user."));
            }
            user
        }
    };
    let is_screen = match request.query_param("source").as_deref() {
        None | Some("camera") => false,
        Some("screen") => true,
        Some(_) => return Err(bad_request("source is neither camera nor screen.")),
    };
    let wanted = wanted(request)?;
    if !has_type(request, SDP) {
        return Err(unsupported("The body has to be application/sdp.").header("Accept-Post", SDP));
    }
    let Ok(offer) = std::str::from_utf8(&request.body) else {
        return Err(problem(400, "bad_sdp", "The offer is not UTF-8."));
    };
    let open = Open { user, offer: offer.to_owned(), is_screen, wanted };
    Ok(question(protocol, grants, What::Open(open)))
}

/// `?publisher=` and `?trackId=`, each as often as one likes.
fn wanted(request: &Request) -> Result<Vec<Wanted>, Response> {
    let mut wanted = Vec::new();
    for text in request.query_params("publisher") {
        let user = UserId::new(&text).map_err(|error| bad_request(&format!("publisher {error}.")))?;
        wanted.push(Wanted::Publisher(user));
    }
    for text in request.query_params("trackId") {
        let track = TrackId::parse(&text).ok_or_else(|| bad_request("trackId is none."))?;
        wanted.push(Wanted::Track(track));
    }
    Ok(wanted)
}

/// A request for a session, whose sender may enter the room.
pub fn session(protocol: Protocol, request: &Request, segment: &str, grants: Grants) -> Result<Question, Response> {
    let Some(id) = SessionId::parse(&decode_segment(segment)) else { return Err(response(&NO_SESSION)) };
    let what = match request.method {
        Method::Delete => What::End { id },
        Method::Patch => {
            if !has_type(request, FRAGMENT) {
                let text = "The body has to be application/trickle-ice-sdpfrag.";
                return Err(unsupported(text).header("Accept-Patch", FRAGMENT));
            }
            let text = std::str::from_utf8(&request.body).map_err(|_| crate::whip::FragmentError::Malformed);
            let fragment =
                text.and_then(Fragment::parse).map_err(|error| response(&Reply::Refused(Refusal::Fragment(error))))?;
            let is_conditional = request.headers.get("if-match").is_some();
            let if_match = IfMatch::new(is_conditional.then(|| request.headers.list("if-match")));
            What::Patch { id, if_match, fragment }
        }
        _ => What::Look { id },
    };
    Ok(question(protocol, grants, what))
}

const NO_SESSION: Reply = Reply::Refused(Refusal::NoSession);

fn question(protocol: Protocol, grants: Grants, what: What) -> Question {
    Question::Whip(Box::new(crate::whip::Question { grants, protocol, what }))
}

/// What GET and HEAD say of an endpoint: nothing but that it is one, which is how players find out.
pub fn endpoint() -> Response {
    Response::new(200, SDP, &b""[..]).header("Accept-Post", SDP)
}

/// OPTIONS of an endpoint or a session. `ice_servers` for clients that must know them before they make an offer.
pub fn options(is_session: bool, allow: &str, ice_servers: &[IceServer]) -> Response {
    let response = Response::empty(200).header("Allow", allow);
    let response = match is_session {
        true => response.header("Accept-Patch", FRAGMENT),
        false => response.header("Accept-Post", SDP),
    };
    with_links(response, ice_servers)
}

pub fn response(reply: &Reply) -> Response {
    match reply {
        Reply::Created { room, protocol, id, etag, answer, ice_servers } => {
            let location = format!("/video-calls/{room}/{}/{}", protocol.as_str(), id.as_str());
            let response = Response::new(201, SDP, answer.clone().into_bytes())
                .header("Location", location)
                .header("ETag", etag.as_str())
                .header("Accept-Patch", FRAGMENT)
                .header("Cache-Control", "no-store");
            with_links(response, ice_servers)
        }
        Reply::Noted => Response::empty(204),
        Reply::Restarted { etag, fragment } => Response::new(200, FRAGMENT, fragment.clone().into_bytes())
            .header("ETag", etag.as_str())
            .header("Cache-Control", "no-store"),
        Reply::Ended => Response::empty(200),
        Reply::Alive { etag } => Response::empty(204).header("ETag", etag.as_str()).header("Accept-Patch", FRAGMENT),
        Reply::Refused(refusal) => refused(refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Offer(why) => problem(400, "bad_sdp", &format!("The offer cannot be used: {why}.")),
        Refusal::Fragment(error) => problem(400, "bad_fragment", &format!("The fragment cannot be used: {error}.")),
        Refusal::TooManyTracks => problem(400, "too_many_tracks", "More tracks than one participant may publish."),
        Refusal::TooManyCandidates => problem(400, "too_many_candidates", "More candidates than a session may have."),
        Refusal::Forbidden(what) => forbidden(what),
        Refusal::NoSession => problem(404, "session_not_found", "There is no such session."),
        Refusal::CallFull => problem(409, "call_full", "The call has as many participants as it may have."),
        Refusal::PreconditionRequired => {
            problem(428, "precondition_required", "Send If-Match with the entity tag of the session, or *.")
        }
        Refusal::PreconditionFailed => problem(412, "precondition_failed", "ICE was restarted since that entity tag."),
        Refusal::RateLimited => {
            problem(429, "rate_limited", "Too many requests for this call or session.").header("Retry-After", "1")
        }
        Refusal::Broken => problem(500, "internal_error", "The media connection failed."),
    }
}

/// A Link for every address of every server (RFC 9725 §4.6).
fn with_links(mut response: Response, servers: &[IceServer]) -> Response {
    for server in servers {
        for url in &server.urls {
            let mut link = format!("<{url}>; rel=\"ice-server\"");
            if let (Some(username), Some(credential)) = (&server.username, &server.credential) {
                let (username, credential) = (quoted(username), quoted(credential));
                link.push_str(&format!("; username={username}; credential={credential}; credential-type=\"password\""));
            }
            response = response.header("Link", link);
        }
    }
    response
}

/// A quoted-string (RFC 9110 §5.6.4).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Whether the content is said to be of this media type, whatever its parameters.
fn has_type(request: &Request, wanted: &str) -> bool {
    let mut types = request.headers.get_all("content-type");
    let essence = types.next().and_then(|value| value.split(';').next()).unwrap_or_default();
    types.next().is_none() && essence.trim().eq_ignore_ascii_case(wanted)
}

fn bad_request(detail: &str) -> Response {
    problem(400, "bad_request", detail)
}

fn forbidden(detail: &str) -> Response {
    problem(403, "forbidden", detail)
}

fn unsupported(detail: &str) -> Response {
    problem(415, "unsupported_media_type", detail)
}

fn problem(status: u16, code: &'static str, detail: &str) -> Response {
    let title = match status {
        400 => "Bad request",
        403 => "Forbidden",
        404 => "Not found",
        409 => "Conflict",
        412 => "Precondition failed",
        415 => "Unsupported media type",
        428 => "Precondition required",
        429 => "Too many requests",
        _ => "Internal error",
    };
    Response::problem(status, code, title, detail)
}
