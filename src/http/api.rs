//! The HTTP resources: routes, authentication, and what each one answers. Pure: a request in, an answer out.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::cors::Origins;
use super::question::Question;
use super::record::{self, Action};
use super::recordings::{self, Asked};
use super::{Method, Request, Response, decode_segment, whip};
use crate::auth::{Claims, Grants, Role, RoomScope, Signer, Verifier};
use crate::base::{RoomId, UserId};
use crate::client;
use crate::config::Config;
use crate::ice_servers::{ice_servers, link_servers};
use crate::metrics::{Metrics, WorkerStats};
use crate::whip::Protocol;
use crate::ws;

/// What the resources work on; shared by all workers, read-only but for the switch.
pub struct Api {
    pub config: Arc<Config>,
    pub verifier: Arc<Verifier>,
    pub origins: Origins,
    pub metrics: Arc<Metrics>,
    /// `None` with a configured key: then `/dev/token` does not exist.
    pub dev: Option<DevMode>,
    pub draining: AtomicBool,
    router: matchit::Router<Route>,
}

/// Development mode.
pub struct DevMode {
    pub signer: Signer,
    /// Asked for when the server listens on more than loopback.
    pub code: Option<String>,
}

/// What becomes of a request.
pub enum Answer {
    Response(Response),
    /// Switch to the signaling protocol.
    Upgrade {
        accept: ws::Accept,
        grants: Box<Grants>,
    },
    /// It is for the worker of this room to answer; `headers` go with the answer.
    Room {
        room: RoomId,
        question: Question,
        headers: Vec<(&'static str, String)>,
    },
    /// It is for those who keep recordings to answer; `headers` go with the answer.
    Library {
        asked: Asked,
        headers: Vec<(&'static str, String)>,
    },
}

/// Whether a caller's tokens may still be looked at; see [`Caller::may_try`].
pub trait Caller {
    fn address(&self) -> IpAddr;
    /// False when too many bad tokens came from this address.
    fn may_try(&mut self) -> bool;
    /// A token was bad.
    fn note_bad_token(&mut self);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Asset,
    DevToken,
    Health,
    Ready,
    Stats,
    Signaling,
    IceServers,
    CallStats,
    /// What is done about the recording of a call.
    Record(Action),
    /// Where WHIP and WHEP sessions are made.
    Media(Protocol),
    /// One of them.
    MediaSession(Protocol),
    /// All of a call.
    Recordings,
    Recording,
    RecordingFile,
}

impl Route {
    fn methods(self) -> &'static str {
        match self {
            Route::DevToken | Route::Record(_) => "POST, OPTIONS",
            Route::Media(_) => "GET, HEAD, POST, OPTIONS",
            Route::MediaSession(_) => "GET, HEAD, PATCH, DELETE, OPTIONS",
            Route::Recording => "GET, HEAD, DELETE, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    fn has(self, method: Method) -> bool {
        self.methods().split(", ").any(|word| word == method.as_str())
    }
}

impl Api {
    pub fn new(
        config: Arc<Config>,
        verifier: Arc<Verifier>,
        origins: Origins,
        metrics: Arc<Metrics>,
        dev: Option<DevMode>,
    ) -> Api {
        let mut router = matchit::Router::new();
        let routes = client::paths().map(|path| (path, Route::Asset)).chain([
            ("/dev/token", Route::DevToken),
            ("/healthz", Route::Health),
            ("/readyz", Route::Ready),
            ("/stats", Route::Stats),
            ("/video-calls/ws", Route::Signaling),
            ("/video-calls/{id}/ice-servers", Route::IceServers),
            ("/video-calls/{id}/stats", Route::CallStats),
            ("/video-calls/{id}/recording/start", Route::Record(Action::Start)),
            ("/video-calls/{id}/recording/stop", Route::Record(Action::Stop)),
            ("/video-calls/{id}/recording/pause", Route::Record(Action::Pause)),
            ("/video-calls/{id}/recording/resume", Route::Record(Action::Resume)),
            ("/video-calls/{id}/whip", Route::Media(Protocol::Whip)),
            ("/video-calls/{id}/whip/{session}", Route::MediaSession(Protocol::Whip)),
            ("/video-calls/{id}/whep", Route::Media(Protocol::Whep)),
            ("/video-calls/{id}/whep/{session}", Route::MediaSession(Protocol::Whep)),
            ("/video-calls/{id}/recording", Route::Recordings),
            ("/video-calls/{id}/recording/{recording}", Route::Recording),
            ("/video-calls/{id}/recording/{recording}/files/{name}", Route::RecordingFile),
        ]);
        for (path, route) in routes {
            router.insert(path, route).expect("the routes do not collide");
        }
        Api { config, verifier, origins, metrics, dev, draining: AtomicBool::new(false), router }
    }

    /// Answers one request.
    pub fn answer(&self, request: &Request, caller: &mut dyn Caller, wall: SystemTime) -> Answer {
        match self.route(request, caller, wall) {
            Answer::Response(mut response) => {
                for (name, value) in self.origins.headers(request) {
                    response = response.header(name, value);
                }
                Answer::Response(response)
            }
            Answer::Room { room, question, mut headers } => {
                headers.append(&mut self.origins.headers(request));
                Answer::Room { room, question, headers }
            }
            Answer::Library { asked, mut headers } => {
                headers.append(&mut self.origins.headers(request));
                Answer::Library { asked, headers }
            }
            upgrade => upgrade,
        }
    }

    fn route(&self, request: &Request, caller: &mut dyn Caller, wall: SystemTime) -> Answer {
        let found = match self.router.at(&request.path) {
            Ok(found) => found,
            Err(_) => return Answer::Response(not_found()),
        };
        let route = *found.value;
        if route == Route::DevToken && self.dev.is_none() {
            return Answer::Response(not_found());
        }
        if request.method == Method::Options {
            let response = match route {
                Route::Media(_) | Route::MediaSession(_) => {
                    match self.media_options(request, route, found.params.get("id"), caller, wall) {
                        Ok(response) => response,
                        Err(response) => return Answer::Response(response),
                    }
                }
                _ => Response::empty(204).header("Allow", route.methods()),
            };
            let preflight = self.origins.preflight(request, route.methods()).unwrap_or_default();
            return Answer::Response(preflight.into_iter().fold(response, |r, (name, value)| r.header(name, value)));
        }
        if !route.has(request.method) {
            let response = Response::problem(405, "method_not_allowed", "Method not allowed", "See the Allow header.");
            return Answer::Response(response.header("Allow", route.methods()));
        }
        let response = match route {
            Route::Asset => asset(request),
            Route::DevToken => self.dev_token(request, caller, wall),
            Route::Health => Response::json(200, &Status { status: "ok" }),
            Route::Ready if self.draining.load(Ordering::Relaxed) => {
                Response::problem(503, "draining", "Draining", "The server takes no new calls.")
                    .header("Retry-After", "10")
            }
            Route::Ready => Response::json(200, &Status { status: "ready" }),
            Route::Stats => self.stats(request, caller, wall),
            Route::Signaling => return self.upgrade(request, caller, wall),
            Route::IceServers => self.ice_servers(request, found.params.get("id"), caller, wall),
            Route::Media(_) if request.method != Method::Post => match room_id(found.params.get("id")) {
                Ok(_) => whip::endpoint(),
                Err(response) => response,
            },
            Route::CallStats => {
                let id = found.params.get("id");
                return self.ask(request, id, caller, wall, |grants| Ok(Question::Stats(Box::new(grants))));
            }
            Route::Record(action) => {
                return self.ask(request, found.params.get("id"), caller, wall, |grants| {
                    record::question(action, &request.body, grants)
                });
            }
            Route::Media(protocol) => {
                return self.ask(request, found.params.get("id"), caller, wall, |grants| {
                    whip::open(protocol, request, grants)
                });
            }
            Route::MediaSession(protocol) => {
                let session = found.params.get("session").unwrap_or_default();
                return self.ask(request, found.params.get("id"), caller, wall, |grants| {
                    whip::session(protocol, request, session, grants)
                });
            }
            Route::Recordings | Route::Recording | Route::RecordingFile => {
                let param = |name| found.params.get(name).unwrap_or_default();
                return self.ask_library(
                    request,
                    route == Route::RecordingFile,
                    param("id"),
                    caller,
                    wall,
                    |room, grants| match route {
                        Route::Recordings => recordings::list(request, room, grants),
                        Route::Recording => recordings::one(request, room, param("recording"), grants),
                        _ => recordings::file(request, room, param("recording"), param("name"), grants),
                    },
                );
            }
        };
        Answer::Response(response)
    }

    /// A question to a live room, asked by somebody whose token opens it.
    fn ask(
        &self,
        request: &Request,
        id: Option<&str>,
        caller: &mut dyn Caller,
        wall: SystemTime,
        question: impl FnOnce(Grants) -> Result<Question, Response>,
    ) -> Answer {
        let asked = self.authenticate(request.bearer(), caller, wall).and_then(|grants| {
            let room = room_id(id)?;
            if !grants.may_enter(&room) {
                return Err(call_not_found());
            }
            Ok((room, question(grants)?))
        });
        match asked {
            Ok((room, question)) => Answer::Room { room, question, headers: Vec::new() },
            Err(response) => Answer::Response(response),
        }
    }

    /// A question to those who keep recordings, asked by somebody whose token opens the room. `may_link`: the token may be in the
    /// address, as it is for a video in a page.
    fn ask_library(
        &self,
        request: &Request,
        may_link: bool,
        id: &str,
        caller: &mut dyn Caller,
        wall: SystemTime,
        asked: impl FnOnce(RoomId, &Grants) -> Result<Asked, Response>,
    ) -> Answer {
        let linked = || request.query_param("token").filter(|_| may_link);
        let token = request.bearer().map(str::to_owned).or_else(linked);
        let asked = self.authenticate(token.as_deref(), caller, wall).and_then(|grants| {
            let room = room_id(Some(id))?;
            if !grants.may_enter(&room) {
                return Err(call_not_found());
            }
            asked(room, &grants)
        });
        match asked {
            Ok(asked) => Answer::Library { asked, headers: Vec::new() },
            Err(response) => Answer::Response(response),
        }
    }

    /// The ICE servers are for those who show a token and are no preflight, which a browser sends without one
    /// (RFC 9725 §4.6).
    fn media_options(
        &self,
        request: &Request,
        route: Route,
        id: Option<&str>,
        caller: &mut dyn Caller,
        wall: SystemTime,
    ) -> Result<Response, Response> {
        let is_session = matches!(route, Route::MediaSession(_));
        let is_preflight = request.headers.get("access-control-request-method").is_some();
        let servers = match request.bearer() {
            Some(token) if !is_session && !is_preflight => {
                let grants = self.authenticate(Some(token), caller, wall)?;
                if !grants.may_enter(&room_id(id)?) {
                    return Err(call_not_found());
                }
                link_servers(&self.config.rtc, grants.user(), wall)
            }
            _ => Vec::new(),
        };
        Ok(whip::options(is_session, route.methods(), &servers))
    }

    fn upgrade(&self, request: &Request, caller: &mut dyn Caller, wall: SystemTime) -> Answer {
        if self.origins.forbids(request) {
            return Answer::Response(forbidden("Pages of this origin may not connect; see ALLOWED_ORIGINS."));
        }
        let accept = match ws::accept(request) {
            Ok(accept) => accept,
            Err(error) => return Answer::Response(error.response()),
        };
        let token = request
            .bearer()
            .map(str::to_owned)
            .or_else(|| accept.token.clone())
            .or_else(|| request.query_param("token"));
        match self.authenticate(token.as_deref(), caller, wall) {
            Ok(grants) => Answer::Upgrade { accept, grants: Box::new(grants) },
            Err(response) => Answer::Response(response),
        }
    }

    fn authenticate(&self, token: Option<&str>, caller: &mut dyn Caller, wall: SystemTime) -> Result<Grants, Response> {
        let Some(token) = token else { return Err(unauthorized("A token is needed.")) };
        if !caller.may_try() {
            return Err(Response::problem(
                429,
                "rate_limited",
                "Too many requests",
                "Too many bad tokens came from this address.",
            )
            .header("Retry-After", "1"));
        }
        self.verifier.verify(token, wall).map_err(|error| {
            caller.note_bad_token();
            tracing::info!(address = %caller.address(), %error, "token refused");
            unauthorized("The token is not valid.")
        })
    }

    fn ice_servers(&self, request: &Request, id: Option<&str>, caller: &mut dyn Caller, wall: SystemTime) -> Response {
        let grants = match self.authenticate(request.bearer(), caller, wall) {
            Ok(grants) => grants,
            Err(response) => return response,
        };
        match room_id(id) {
            Ok(room) if grants.may_enter(&room) => {
                Response::json(200, &IceServers { ice_servers: ice_servers(&self.config.rtc, grants.user(), wall) })
                    .header("Cache-Control", "no-store")
            }
            _ => call_not_found(),
        }
    }

    fn stats(&self, request: &Request, caller: &mut dyn Caller, wall: SystemTime) -> Response {
        match self.authenticate(request.bearer(), caller, wall) {
            Ok(grants) if grants.role() == Role::Admin => Response::json(
                200,
                &Stats {
                    rooms: self.metrics.rooms(),
                    participants: self.metrics.participants(),
                    recordings: self.metrics.recordings(),
                    workers: self.metrics.workers.iter().map(|w| w.read()).collect(),
                },
            ),
            Ok(_) => forbidden("Server statistics are for admins."),
            Err(response) => response,
        }
    }

    fn dev_token(&self, request: &Request, caller: &mut dyn Caller, wall: SystemTime) -> Response {
        let Some(dev) = &self.dev else { return not_found() };
        // A page elsewhere whose name resolves to this host is of the same origin; its name is not one of these.
        if dev.code.is_none() && !request.host().is_some_and(is_loopback_name) {
            return forbidden("Without HOST, development tokens are for localhost.");
        }
        if self.origins.forbids(request) {
            return forbidden("Pages of this origin may not ask for tokens; see ALLOWED_ORIGINS.");
        }
        let wish: DevTokenRequest = match serde_json::from_slice(&request.body) {
            Ok(wish) => wish,
            Err(error) => return bad_request(&format!("The body is not what was expected: {error}.")),
        };
        if let Some(code) = &dev.code {
            if !caller.may_try() {
                return Response::problem(429, "rate_limited", "Too many requests", "Too many wrong codes.")
                    .header("Retry-After", "1");
            }
            let given = wish.code.as_deref().unwrap_or("");
            if given.len() != code.len() || !openssl::memcmp::eq(given.as_bytes(), code.as_bytes()) {
                if wish.code.is_some() {
                    caller.note_bad_token();
                }
                return Response::problem(
                    403,
                    "code_required",
                    "Code required",
                    "Send the code that the server printed when it started.",
                );
            }
        }
        let user = match UserId::new(&wish.user_id) {
            Ok(user) => user,
            Err(error) => return bad_request(&format!("userId {error}.")),
        };
        let role = match wish.role.as_deref().map(Role::parse) {
            None => Role::Participant,
            Some(Some(role)) => role,
            Some(None) => return bad_request("role is not one of admin, host, moderator, participant, viewer."),
        };
        let room = match wish.room_id.as_deref().map(RoomId::new).transpose() {
            Ok(room) => room,
            Err(error) => return bad_request(&format!("roomId {error}.")),
        };
        let rooms = room.map_or(RoomScope::Any, |room| RoomScope::Rooms(vec![room]));
        let claims = Claims { user, name: wish.name, role, rooms, permissions: None, ttl: DEV_TOKEN_TTL };
        Response::json(200, &Token { token: dev.signer.mint(&claims, wall) }).header("Cache-Control", "no-store")
    }
}

/// Whether `Host` names this machine from within.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn asset(request: &Request) -> Response {
    let Some(asset) = client::asset(&request.path) else { return not_found() };
    if request.headers.list("if-none-match").any(|etag| etag == asset.etag || etag == "*") {
        return Response::empty(304).header("ETag", asset.etag.as_str());
    }
    Response::new(200, asset.content_type, asset.body)
        .header("ETag", asset.etag.as_str())
        .header("Cache-Control", "no-cache")
        .header("Content-Security-Policy", client::CSP)
        .header("X-Content-Type-Options", "nosniff")
        .header("Referrer-Policy", "no-referrer")
}

fn room_id(segment: Option<&str>) -> Result<RoomId, Response> {
    segment.and_then(|segment| RoomId::new(&decode_segment(segment)).ok()).ok_or_else(call_not_found)
}

fn call_not_found() -> Response {
    Response::problem(404, "call_not_found", "Call not found", "There is no such call.")
}

fn not_found() -> Response {
    Response::problem(404, "not_found", "Not found", "There is nothing here.")
}

fn bad_request(detail: &str) -> Response {
    Response::problem(400, "bad_request", "Bad request", detail)
}

fn forbidden(detail: &str) -> Response {
    Response::problem(403, "forbidden", "Forbidden", detail)
}

fn unauthorized(detail: &str) -> Response {
    Response::problem(401, "invalid_token", "Unauthorized", detail)
        .header("WWW-Authenticate", "Bearer error=\"invalid_token\"")
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

#[derive(Serialize)]
struct Token {
    token: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IceServers {
    ice_servers: Vec<crate::ice_servers::IceServer>,
}

#[derive(Serialize)]
struct Stats {
    rooms: u64,
    participants: u64,
    recordings: u64,
    workers: Vec<WorkerStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DevTokenRequest {
    user_id: String,
    name: Option<String>,
    role: Option<String>,
    room_id: Option<String>,
    code: Option<String>,
}

/// Long enough for a day's work, since nothing renews it.
const DEV_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
