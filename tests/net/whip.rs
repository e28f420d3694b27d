//! WHIP (RFC 9725) and WHEP over HTTP, with media, on one worker and on several.

use std::io::Write;

use libc::SIGTERM;
use serde_json::json;
use str0m::change::SdpPendingOffer;
use str0m::format::Codec;
use str0m::media::MediaKind::{Audio, Video};
use str0m::media::{Direction, MediaKind};
use webrtc_engine::auth::Role;

use crate::harness::media::FIRST_SEQUENCE;
use crate::harness::server::{foreign_token, token_for};
use crate::harness::{Http, MediaClient, Response, Server, Setup, Ws, run, token};

const SEND: Direction = Direction::SendOnly;
const RECV: Direction = Direction::RecvOnly;
const SDP: &str = "Content-Type: application/sdp";
const FRAGMENT: &str = "Content-Type: application/trickle-ice-sdpfrag";
/// Packets that prove it.
const ENOUGH: usize = 20;

fn bearer(user: &str, role: Role) -> String {
    format!("Authorization: Bearer {}", token(user, role))
}

/// A session as its client knows it.
struct Session {
    client: MediaClient,
    path: String,
    etag: String,
    bearer: String,
    offer: String,
    answer: String,
}

impl Session {
    fn publish(server: &Server, user: &str, room: &str, stamp: u8) -> Session {
        let bearer = bearer(user, Role::Participant);
        Session::open(
            server,
            &bearer,
            &format!("/video-calls/{room}/whip"),
            &[(Audio, SEND), (Video, SEND)],
            &[],
            stamp,
        )
    }

    fn watch(server: &Server, user: &str, room: &str, query: &str, lines: &[MediaKind]) -> Session {
        let lines: Vec<(MediaKind, Direction)> = lines.iter().map(|kind| (*kind, RECV)).collect();
        let bearer = bearer(user, Role::Viewer);
        Session::open(server, &bearer, &format!("/video-calls/{room}/whep{query}"), &lines, &[], 0)
    }

    fn open(
        server: &Server,
        bearer: &str,
        path: &str,
        lines: &[(MediaKind, Direction)],
        rids: &[&str],
        stamp: u8,
    ) -> Session {
        let mut client = MediaClient::new();
        let (offer, pending) = client.offer(lines, rids, stamp);
        let response = Http::connect(server).request("POST", path, &[bearer, SDP], &offer);
        let session = Session::created(client, bearer, offer, &response);
        session.accept(pending)
    }

    fn created(client: MediaClient, bearer: &str, offer: String, response: &Response) -> Session {
        assert_eq!(response.status, 201, "{}", String::from_utf8_lossy(&response.body));
        assert_eq!(response.header("content-type"), "application/sdp");
        assert_eq!(response.header("accept-patch"), "application/trickle-ice-sdpfrag");
        let answer = String::from_utf8(response.body.clone()).unwrap();
        Session {
            client,
            path: response.header("location").to_owned(),
            etag: response.header("etag").to_owned(),
            bearer: bearer.to_owned(),
            offer,
            answer,
        }
    }

    fn accept(mut self, pending: SdpPendingOffer) -> Session {
        self.client.accept(pending, &self.answer);
        self
    }

    fn request(&self, server: &Server, method: &str, headers: &[&str], body: &str) -> Response {
        let mut all = vec![self.bearer.as_str()];
        all.extend(headers);
        Http::connect(server).request(method, &self.path, &all, body)
    }

    fn patch(&self, server: &Server, if_match: &str, body: &str) -> Response {
        let condition = format!("If-Match: {if_match}");
        self.request(server, "PATCH", &[FRAGMENT, &condition], body)
    }

    /// The fragment that trickles the one candidate there is.
    fn fragment(&self) -> String {
        let value = |name: &str| self.offer.lines().find(|line| line.starts_with(name)).expect("in the offer");
        let (ufrag, password) = (value("a=ice-ufrag:"), value("a=ice-pwd:"));
        let local = self.client.local();
        format!(
            "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n{ufrag}\r\n{password}\r\n\
             a=candidate:1 1 udp 2122260223 {} {} typ host\r\na=end-of-candidates\r\n",
            local.ip(),
            local.port()
        )
    }
}

/// What a participant hears of another that comes, and of its tracks.
fn expect_publisher(ws: &mut Ws, user: &str, sources: &[&str]) {
    assert_eq!(ws.expect("user-joined")["userId"], user);
    for source in sources {
        let published = ws.expect("track-published");
        assert_eq!(
            (&published["userId"], &published["data"]["track"]["source"]),
            (&json!(user), &json!(source)),
            "{published}"
        );
    }
}

#[test]
fn published_by_whip_watched_by_whep_on_one_worker() {
    published_and_watched(1);
}

#[test]
fn published_by_whip_watched_by_whep_on_four_workers() {
    published_and_watched(4);
}

fn published_and_watched(workers: usize) {
    let server = Setup::new().env("WORKERS", workers).start();
    // A room on each worker, and as many connections.
    for n in 0..workers {
        let room = format!("r{n}");
        let mut ann = Ws::join(&server, "ann", &room);
        let mut camera = Session::publish(&server, "camera", &room, b'c');
        expect_publisher(&mut ann, "camera", &["microphone", "camera"]);
        let mut viewer = Session::watch(&server, "eve", &room, "", &[Audio, Video]);
        assert_eq!(ann.expect("user-joined")["data"]["role"], "viewer");
        assert!(!camera.answer.contains("a=sendrecv") && camera.answer.contains("a=recvonly"), "{}", camera.answer);
        assert!(!viewer.answer.contains("a=sendrecv") && viewer.answer.contains("a=sendonly"), "{}", viewer.answer);

        // Every worker takes requests about every session.
        for _ in 0..2 * workers {
            assert_eq!(camera.patch(&server, &camera.etag, &camera.fragment()).status, 204);
        }
        run(&mut [&mut camera.client, &mut viewer.client], "media on both lines", |clients| {
            let lines = clients[1].heard.iter().filter(|((_, stamp), count)| *stamp == b'c' && **count >= ENOUGH);
            lines.count() == 2
        });
        let alive = camera.request(&server, "GET", &[], "");
        assert_eq!((alive.status, alive.header("etag"), alive.body.len()), (204, camera.etag.as_str(), 0));

        let ended = camera.request(&server, "DELETE", &[], "");
        assert_eq!((ended.status, ended.body.len()), (200, 0));
        for _ in 0..2 {
            assert_eq!(ann.expect("track-unpublished")["userId"], "camera");
        }
        let left = ann.expect("user-left");
        assert_eq!((&left["userId"], &left["data"]["reason"]), (&json!("camera"), &json!("left")));
        run(&mut [&mut camera.client], "closed by the server", |clients| clients[0].closed);
        assert_eq!(camera.request(&server, "DELETE", &[], "").code(), "session_not_found");
        // Who says goodbye over its media connection needs no DELETE.
        viewer.client.close();
        assert_eq!(ann.expect("user-left")["userId"], "eve");
        assert_eq!(viewer.request(&server, "GET", &[], "").status, 404);
        ann.send(json!({"type": "leave"}));
        assert_eq!(ann.close_code(), 1000);
    }
    server.wait_for_stats("no room", |stats| stats["rooms"] == 0 && stats["participants"] == 0);
    assert_eq!(server.count("panics"), 0);
}

/// Waits until a viewer has enough new packets with this stamp.
fn expect_media(publisher: &mut MediaClient, viewer: &mut MediaClient, stamp: u8) {
    let before = viewer.heard_of(stamp);
    run(&mut [publisher, viewer], "more media", |clients| clients[1].heard_of(stamp) >= before + ENOUGH);
}

#[test]
fn ice_restarts_and_media_goes_on() {
    for workers in [1, 4] {
        let server = Setup::new().env("WORKERS", workers).start();
        let mut camera = Session::publish(&server, "camera", "r", b'c');
        let mut viewer = Session::watch(&server, "eve", "r", "", &[Audio, Video]);
        expect_media(&mut camera.client, &mut viewer.client, b'c');
        // The publisher's connection, then the viewer's, then the publisher's once more.
        for restarts_viewer in [false, true, false] {
            let session = if restarts_viewer { &mut viewer } else { &mut camera };
            let mut api = session.client.rtc.sdp_api();
            api.ice_restart(true);
            let (offer, pending) = api.apply().expect("a change");
            session.offer = offer.to_sdp_string();
            let response = session.patch(&server, "*", &session.fragment());
            assert_eq!((response.status, response.header("content-type")), (200, "application/trickle-ice-sdpfrag"));
            let fragment = String::from_utf8(response.body.clone()).unwrap();
            for line in ["a=ice-lite", "a=group:BUNDLE ", "a=candidate:", "a=end-of-candidates"] {
                assert!(fragment.contains(line), "{line} in {fragment}");
            }
            let etag = response.header("etag").to_owned();
            assert_ne!(etag, session.etag);
            let stale = session.patch(&server, &session.etag, &session.fragment());
            assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
            session.etag = etag;
            assert_eq!(session.patch(&server, &session.etag, &session.fragment()).status, 204);

            // As RFC 9725 has it: the answer of then, with the credentials of now.
            let credentials: Vec<&str> = fragment.lines().filter(|line| line.starts_with("a=ice-")).collect();
            let renewed = session.answer.lines().map(|line| {
                let name = line.split_once(':').map_or(line, |(name, _)| name);
                let new =
                    credentials.iter().find(|new| matches!(name, "a=ice-ufrag" | "a=ice-pwd") && new.starts_with(name));
                format!("{}\r\n", new.unwrap_or(&line))
            });
            let renewed: String = renewed.collect();
            assert_ne!(renewed, session.answer);
            session.client.accept(pending, &renewed);
            session.answer = renewed;
            expect_media(&mut camera.client, &mut viewer.client, b'c');
        }
        assert!(camera.client.connected && !camera.client.closed && !viewer.client.closed);
    }
}

/// What an encoder writes above the first m-line, below it, and below the others: its versions differ.
struct Shape {
    session: &'static [Part],
    first: &'static [Part],
    others: &'static [Part],
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Setup,
    Credentials,
    Fingerprint,
    Candidates,
}

/// What the encoder of OBS sends: no header extensions, SSRCs in the description, no retransmission stream, all candidates in
/// the offer and never a PATCH.
#[test]
fn an_encoder_without_trickle_publishes_h264() {
    use Part::{Candidates, Credentials, Fingerprint, Setup};
    for shape in [
        Shape { session: &[Setup, Credentials, Fingerprint], first: &[Candidates], others: &[] },
        Shape { session: &[Fingerprint], first: &[Setup, Credentials, Candidates], others: &[] },
        Shape {
            session: &[],
            first: &[Setup, Credentials, Fingerprint, Candidates],
            others: &[Setup, Credentials, Fingerprint, Candidates],
        },
    ] {
        encoder_publishes(&shape);
    }
}

fn encoder_publishes(shape: &Shape) {
    let server = Setup::new().start();
    let mut ann = Ws::join(&server, "ann", "r");
    let mut client = MediaClient::plain();
    let (credentials, fingerprint, local) = (client.credentials(), client.fingerprint(), client.local());
    let (ufrag, password, ip, port) = (credentials.ufrag, credentials.pass, local.ip(), local.port());
    let written = |parts: &[Part]| {
        let line = |part: &Part| match part {
            Part::Setup => "a=setup:actpass\r\n".to_owned(),
            Part::Credentials => {
                format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=ice-options:ice2,trickle\r\n")
            }
            Part::Fingerprint => format!("a=fingerprint:{fingerprint}\r\n"),
            Part::Candidates => {
                // One that leads nowhere and one of a kind that nobody uses here are among them.
                format!(
                    "a=candidate:1 1 UDP 2122317823 {ip} {port} typ host\r\n\
                     a=candidate:2 1 TCP 2105458943 {ip} 9 typ host tcptype active\r\n\
                     a=candidate:3 1 UDP 1686109951 192.0.2.7 {port} typ srflx raddr 0.0.0.0 rport 0\r\n\
                     a=end-of-candidates\r\n"
                )
            }
        };
        parts.iter().map(line).collect::<String>()
    };
    let media = |kind: &str, pt: u8, mid: u8, ssrc: u32, formats: &str, parts: &[Part]| {
        format!(
            "m={kind} {port} UDP/TLS/RTP/SAVPF {pt}\r\nc=IN IP4 {ip}\r\na=mid:{mid}\r\na=sendonly\r\n\
             a=ssrc:{ssrc} cname:9Zb3\r\na=ssrc:{ssrc} msid:stream stream-{kind}\r\na=msid:stream stream-{kind}\r\n\
             a=rtcp-mux\r\n{formats}{}",
            written(parts)
        )
    };
    let opus = "a=rtpmap:111 opus/48000/2\r\n\
        a=fmtp:111 minptime=10;maxaveragebitrate=96000;stereo=1;sprop-stereo=1;useinbandfec=1\r\n";
    let h264 = "a=rtpmap:108 H264/90000\r\na=rtcp-fb:108 nack\r\na=rtcp-fb:108 nack pli\r\na=rtcp-fb:108 goog-remb\r\n\
        a=fmtp:108 profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1\r\n";
    let offer = format!(
        "v=0\r\no=rtc 3767197920 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=group:LS 0 1\r\n\
         a=msid-semantic:WMS *\r\n{}{}{}",
        written(shape.session),
        media("audio", 111, 0, 1001, opus, shape.first),
        media("video", 108, 1, 1002, h264, shape.others)
    );
    let authorization = bearer("studio", Role::Participant);
    let headers = [authorization.as_str(), SDP, "Accept: */*", "User-Agent: an encoder"];
    let response = Http::connect(&server).request("POST", "/video-calls/r/whip", &headers, &offer);
    let mut session = Session::created(client, &authorization, offer, &response);
    assert!(session.answer.contains("a=setup:passive"), "{}", session.answer);
    expect_publisher(&mut ann, "studio", &["microphone", "camera"]);
    let lines = [("0", Audio, Codec::Opus, 111, 1001), ("1", Video, Codec::H264, 108, 1002)];
    let answer = session.answer.clone();
    session.client.accept_by_hand(&answer, &lines, b'o');
    session.client.withheld = Some((108, FIRST_SEQUENCE as u16 + 30));
    let mut viewer = Session::watch(&server, "eve", "r", "", &[Audio, Video]);
    run(&mut [&mut session.client, &mut viewer.client], "both lines", |clients| {
        clients[1].heard.iter().filter(|((_, stamp), count)| *stamp == b'o' && **count >= 2 * ENOUGH).count() == 2
    });
    // What the network swallows is asked for, though there is no retransmission stream.
    run(&mut [&mut session.client], "asked again", |clients| clients[0].nacks > 0);
    let ended = session.request(&server, "DELETE", &[], "");
    assert_eq!(ended.status, 200);
    assert_eq!(ann.expect("user-left")["userId"], "studio");
}

#[test]
fn simulcast_is_one_track() {
    let server = Setup::new().start();
    let mut ann = Ws::join(&server, "ann", "r");
    let lines = [(Audio, SEND), (Video, SEND)];
    let authorization = bearer("camera", Role::Participant);
    let path = "/video-calls/r/whip";
    let mut camera = Session::open(&server, &authorization, path, &lines, &["l", "h"], b's');
    assert!(camera.answer.contains("a=simulcast:recv l;h"), "{}", camera.answer);
    expect_publisher(&mut ann, "camera", &["microphone", "camera"]);
    let mut viewer = Session::watch(&server, "eve", "r", "", &[Video]);
    expect_media(&mut camera.client, &mut viewer.client, b's');
    assert_eq!(ann.expect("user-joined")["userId"], "eve");
    ann.ping();
}

/// An offer that is only ever asked about.
fn any_offer(direction: Direction) -> String {
    MediaClient::new().offer(&[(Audio, direction), (Video, direction)], &[], 0).0
}

#[test]
fn refusals() {
    let server = Setup::new().env("WORKERS", 2).start();
    let session = Session::publish(&server, "camera", "r", b'c');
    let watched = Session::watch(&server, "eve", "r", "", &[Audio]);
    let [ann, viewer, camera] = [("ann", Role::Participant), ("vic", Role::Viewer), ("camera", Role::Participant)]
        .map(|(user, role)| bearer(user, role));
    let foreign = format!("Authorization: Bearer {}", foreign_token("ann"));
    let elsewhere = format!("Authorization: Bearer {}", token_for("ann", "another"));
    let (send, recv) = (any_offer(SEND), any_offer(RECV));
    let one_way = |offer: &str, from: &str, to: &str| offer.replacen(from, to, 1);
    let (whip, whep) = ("/video-calls/r/whip", "/video-calls/r/whep");
    let own = session.path.as_str();
    let theirs = watched.path.as_str();
    let unknown = format!("{whip}/{}", "0".repeat(32));
    let other_protocol = own.replace("/whip/", "/whep/");
    let other_room = own.replace("/r/", "/another/");
    let tag = format!("If-Match: {}", session.etag);
    let trickle = session.fragment();
    let restart = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\n";
    let many = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n".repeat(65);

    // Row: method, path, headers, body, status, code.
    type Row<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, u16, &'a str);
    let rows: &[Row<'_>] = &[
        ("POST", whip, &[SDP], &send, 401, "invalid_token"),
        ("POST", whip, &[&foreign, SDP], &send, 401, "invalid_token"),
        ("POST", whip, &[&elsewhere, SDP], &send, 404, "call_not_found"),
        ("POST", "/video-calls/r%20r/whip", &[&ann, SDP], &send, 404, "call_not_found"),
        ("POST", whip, &[&viewer, SDP], &send, 403, "forbidden"),
        ("POST", "/video-calls/r/whip?userId=bob", &[&ann, SDP], &send, 403, "forbidden"),
        ("POST", "/video-calls/r/whip?userId=", &[&ann, SDP], &send, 400, "bad_request"),
        ("POST", "/video-calls/r/whip?source=window", &[&ann, SDP], &send, 400, "bad_request"),
        ("POST", "/video-calls/r/whep?trackId=1", &[&ann, SDP], &recv, 400, "bad_request"),
        ("POST", whip, &[&ann], &send, 415, "unsupported_media_type"),
        ("POST", whip, &[&ann, "Content-Type: application/json"], &send, 415, "unsupported_media_type"),
        ("POST", whip, &[&ann, FRAGMENT], &send, 415, "unsupported_media_type"),
        ("POST", whip, &[&ann, SDP], "", 400, "bad_sdp"),
        ("POST", whip, &[&ann, SDP], "v=0\r\n", 400, "bad_sdp"),
        ("POST", whip, &[&ann, SDP], &one_way(&send, "a=sendonly", "a=recvonly"), 400, "bad_sdp"),
        ("POST", whip, &[&ann, SDP], &recv, 400, "bad_sdp"),
        ("POST", whep, &[&ann, SDP], &send, 400, "bad_sdp"),
        ("POST", whip, &[&ann, SDP], &one_way(&send, "a=group:BUNDLE", "a=group:X"), 400, "bad_sdp"),
        ("POST", whip, &[&ann, SDP], &send.replace("a=fingerprint", "a=print"), 400, "bad_sdp"),
        // No codec of the second line is known, so the first is not taken either.
        ("POST", whip, &[&ann, SDP], &video_of(&send, "theora"), 400, "bad_sdp"),
        ("POST", whip, &[&ann, SDP], &any_offer_of_five(), 400, "too_many_tracks"),
        ("PUT", whip, &[&ann, SDP], &send, 405, "method_not_allowed"),
        ("DELETE", whip, &[&ann], "", 405, "method_not_allowed"),
        ("PATCH", whip, &[&ann, FRAGMENT], &trickle, 405, "method_not_allowed"),
        ("POST", own, &[&camera, SDP], &send, 405, "method_not_allowed"),
        ("PUT", own, &[&camera, SDP], &send, 405, "method_not_allowed"),
        ("PATCH", own, &[FRAGMENT, &tag], &trickle, 401, "invalid_token"),
        ("PATCH", own, &[&ann, FRAGMENT, &tag], &trickle, 403, "forbidden"),
        ("DELETE", own, &[&ann], "", 403, "forbidden"),
        ("DELETE", theirs, &[&camera], "", 403, "forbidden"),
        ("DELETE", own, &[], "", 401, "invalid_token"),
        ("GET", own, &[&ann], "", 403, "forbidden"),
        ("DELETE", &unknown, &[&camera], "", 404, "session_not_found"),
        ("DELETE", &other_protocol, &[&camera], "", 404, "session_not_found"),
        ("DELETE", &other_room, &[&camera], "", 404, "call_not_found"),
        ("DELETE", "/video-calls/r/whip/x", &[&camera], "", 404, "session_not_found"),
        ("PATCH", own, &[&camera, FRAGMENT], &trickle, 428, "precondition_required"),
        ("PATCH", own, &[&camera, FRAGMENT, "If-Match: \"x\""], &trickle, 412, "precondition_failed"),
        ("PATCH", own, &[&camera, FRAGMENT, "If-Match: W/\"ice-1\""], &trickle, 412, "precondition_failed"),
        ("PATCH", own, &[&camera, SDP, &tag], &send, 415, "unsupported_media_type"),
        ("PATCH", own, &[&camera, &tag], &trickle, 415, "unsupported_media_type"),
        ("PATCH", own, &[&camera, FRAGMENT, &tag], "{}", 400, "bad_fragment"),
        ("PATCH", own, &[&camera, FRAGMENT, &tag], "", 400, "bad_fragment"),
        ("PATCH", own, &[&camera, FRAGMENT, &tag], "a=candidate:nonsense\r\n", 400, "bad_fragment"),
        ("PATCH", own, &[&camera, FRAGMENT, &tag], "a=ice-ufrag:abcd\r\n", 400, "bad_fragment"),
        ("PATCH", own, &[&camera, FRAGMENT, &tag], &many, 400, "too_many_candidates"),
    ];
    // On one connection: a refusal is no reason to close it.
    let mut http = Http::connect(&server);
    for (method, path, headers, body, status, code) in rows {
        // An empty body is announced all the same.
        let mut all = headers.to_vec();
        if body.is_empty() {
            all.push("Content-Length: 0");
        }
        let response = http.request(method, path, &all, body);
        let expected = (*status, (*code).to_owned());
        assert_eq!((response.status, response.code()), expected, "{method} {path} {headers:?} {body}");
    }
    assert_eq!(http.request("POST", whip, &[&ann], &send).header("accept-post"), "application/sdp");
    let unsupported = http.request("PATCH", own, &[&camera, &tag], &trickle);
    assert_eq!(unsupported.header("accept-patch"), "application/trickle-ice-sdpfrag");
    assert_eq!(http.request("PUT", whip, &[&ann], &send).header("allow"), "GET, HEAD, POST, OPTIONS");

    // All of that has left both sessions as they were, and let nobody in.
    server.wait_for_stats("two", |stats| stats["participants"] == 2);
    let restarted = http.request("PATCH", own, &[&camera, FRAGMENT, "If-Match: \"*\""], restart);
    assert_eq!((restarted.status, restarted.header("etag") == session.etag), (200, false));
    // Hosts and admins may end what others have begun.
    for (path, role) in [(own, Role::Host), (theirs, Role::Admin)] {
        let response = http.request("DELETE", path, &[&bearer("boss", role), "If-Match: \"x\""], "");
        assert_eq!(response.status, 200, "{response:?}");
    }
}

/// The offer with another codec on its second line.
fn video_of(offer: &str, codec: &str) -> String {
    let (before, video) = offer.split_once("m=video").expect("a second line");
    let kept: String = video
        .lines()
        .filter(|line| !["a=rtpmap", "a=fmtp", "a=rtcp-fb"].iter().any(|start| line.starts_with(start)))
        .map(|line| format!("{line}\r\n"))
        .collect();
    let (_, rest) = kept.split_once("\r\n").expect("an m-line");
    format!("{before}m=video 9 UDP/TLS/RTP/SAVPF 99\r\n{rest}a=rtpmap:99 {codec}/90000\r\n")
}

fn any_offer_of_five() -> String {
    MediaClient::new().offer(&[(Video, SEND); 5], &[], 0).0
}

#[test]
fn an_endpoint_says_what_it_is() {
    let stun = "stun:stun.example:3478";
    let turn = "turn:turn.example:3478?transport=udp";
    let server = Setup::new()
        .env("ALLOWED_ORIGINS", "https://studio.example")
        .env("WEBRTC_ICE_SERVERS", stun)
        .env("WEBRTC_TURN_SERVER_URL", turn)
        .env("WEBRTC_TURN_SECRET", "a secret of the relay")
        .start();
    let origin = "Origin: https://studio.example";
    let mut http = Http::connect(&server);
    for (path, what) in [("/video-calls/r/whip", "POST"), ("/video-calls/r/whep", "POST")] {
        // Players find out by HEAD whether they can play an address.
        for method in ["GET", "HEAD"] {
            let response = http.request(method, path, &[], "");
            assert_eq!((response.status, response.header("content-type")), (200, "application/sdp"));
            assert_eq!(response.header("content-length"), "0");
        }
        let preflight = http.request(
            "OPTIONS",
            path,
            &[
                origin,
                "Access-Control-Request-Method: POST",
                "Access-Control-Request-Headers: authorization,content-type",
            ],
            "",
        );
        assert_eq!((preflight.status, preflight.header("accept-post")), (200, "application/sdp"));
        assert_eq!(preflight.header("access-control-allow-origin"), "https://studio.example");
        assert!(preflight.header("access-control-allow-methods").contains(what));
        for name in ["Authorization", "Content-Type", "If-Match"] {
            assert!(preflight.header("access-control-allow-headers").contains(name));
        }
        assert_eq!(preflight.header("link"), "", "no credentials for whoever asks");
        assert_eq!(http.request("OPTIONS", path, &[], "").header("link"), "");
        // Clients that need the servers before they make an offer ask so (RFC 9725 §4.6).
        let early = http.request("OPTIONS", path, &[&bearer("ann", Role::Viewer)], "");
        assert_eq!((early.status, early.header("link")), (200, format!("<{stun}>; rel=\"ice-server\"").as_str()));
        let bad = http.request("OPTIONS", path, &[&format!("Authorization: Bearer {}", foreign_token("x"))], "");
        assert_eq!(bad.status, 401);
    }
    let session =
        http.request("OPTIONS", "/video-calls/r/whip/x", &[origin, "Access-Control-Request-Method: PATCH"], "");
    assert_eq!(session.header("accept-patch"), "application/trickle-ice-sdpfrag");
    assert!(session.header("access-control-allow-methods").contains("PATCH, DELETE"));

    let offer = any_offer(SEND);
    let created = http.request("POST", "/video-calls/r/whip", &[&bearer("Zoë \"Z\"", Role::Host), SDP, origin], &offer);
    assert_eq!(created.status, 201);
    for name in ["Location", "Link", "ETag", "Accept-Patch"] {
        assert!(created.header("access-control-expose-headers").contains(name), "{name}");
    }
    assert_eq!(created.header("access-control-allow-origin"), "https://studio.example");
    assert!(created.header("location").starts_with("/video-calls/r/whip/") && created.header("location").len() == 52);
    let links: Vec<&str> = created.headers("link").collect();
    assert_eq!(links[0], format!("<{stun}>; rel=\"ice-server\""));
    let (target, rest) = links[1].split_once("; rel=\"ice-server\"; username=\"").expect("a TURN server");
    assert_eq!(target, format!("<{turn}>"));
    assert!(
        rest.contains(":Zo%C3%AB \\\"Z\\\"\"; credential=\"") && rest.ends_with("; credential-type=\"password\""),
        "{rest}"
    );
}

#[test]
fn sessions_of_one_user() {
    let server = Setup::new().env("WORKERS", 2).start();
    let mut host = Ws::with_token(crate::harness::Stream::connect(server.address()), &token("host", Role::Host));
    host.enter("r");
    let mut bob = Ws::join(&server, "bob", "r");
    assert_eq!(host.expect("user-joined")["userId"], "bob");
    let second = Session::publish(&server, "bob", "r", b'2');
    expect_publisher(&mut host, "bob~2", &["microphone", "camera"]);
    let third = Session::publish(&server, "bob", "r", b'3');
    expect_publisher(&mut host, "bob~3", &["microphone", "camera"]);
    // Bob comes again, by browser: that replaces the browser of before and nothing else.
    let mut again = Ws::connect(&server, "bob");
    let joined = again.enter("r");
    assert_eq!(joined["you"]["userId"], "bob");
    assert_eq!(bob.close_code(), 4003);
    let others: Vec<&str> =
        joined["participants"].as_array().unwrap().iter().map(|p| p["userId"].as_str().unwrap()).collect();
    assert_eq!(others, ["host", "bob~2", "bob~3"]);
    host.expect("user-left");
    host.expect("user-joined");

    // A moderator means all of them.
    host.send(json!({"type": "mute", "targetUserId": "bob", "data": {"kind": "audio"}}));
    let mut muted = [(); 3].map(|()| host.expect("muted")["userId"].as_str().unwrap().to_owned());
    muted.sort();
    assert_eq!(muted, ["bob", "bob~2", "bob~3"]);
    // Those who come later too.
    let fourth = Session::publish(&server, "bob", "r", b'4');
    assert_eq!(host.expect("user-joined")["data"]["muted"], json!({"audio": true, "video": false}));
    assert_eq!(host.expect("track-published")["data"]["track"]["muted"], true);

    // The smallest number that is free.
    assert_eq!(second.request(&server, "DELETE", &[], "").status, 200);
    assert_eq!(host.expect("user-left")["userId"], "bob~2");
    let _fifth = Session::publish(&server, "bob", "r", b'5');
    assert_eq!(host.expect("user-joined")["userId"], "bob~2");
    drop((third, fourth));

    // A host names whom it publishes for, and lends it no rank.
    let lines = [(Audio, SEND), (Video, SEND)];
    let path = "/video-calls/r/whip?userId=stage&source=screen";
    let _stage = Session::open(&server, &bearer("host", Role::Host), path, &lines, &[], b's');
    let stage = host.expect("user-joined");
    assert_eq!((&stage["userId"], &stage["data"]["role"]), (&json!("stage"), &json!("participant")));
    for source in ["screen-audio", "screen"] {
        assert_eq!(host.expect("track-published")["data"]["track"]["source"], source);
    }
}

#[test]
fn viewers_get_what_they_ask_for_when_it_comes() {
    let server = Setup::new().env("WORKERS", 2).start();
    // Before anybody publishes: the lines stay open.
    let mut all = Session::watch(&server, "eve", "r", "", &[Audio, Video, Video]);
    let mut only_b = Session::watch(&server, "eve", "r", "?publisher=b", &[Audio, Video]);
    let mut ann = Ws::connect(&server, "ann");
    let names: Vec<String> = ann.enter("r")["participants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["userId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["eve", "eve~2"]);
    let mut a = Session::publish(&server, "a", "r", b'a');
    expect_publisher(&mut ann, "a", &[]);
    let track = ann.expect("track-published")["data"]["track"]["trackId"].as_str().unwrap().to_owned();
    let mut b = Session::publish(&server, "b", "r", b'b');
    expect_publisher(&mut ann, "b", &[]);
    let mut one_track = Session::watch(&server, "eve", "r", &format!("?trackId={track}"), &[Audio, Video]);
    run(
        &mut [&mut all.client, &mut only_b.client, &mut one_track.client, &mut a.client, &mut b.client],
        "what was asked for",
        |clients| {
            let of = |client: usize, stamp: u8| {
                let lines =
                    clients[client].heard.iter().filter(|((_, other), count)| *other == stamp && **count >= ENOUGH);
                lines.count()
            };
            // One audio line, so the first to publish has it; two video lines.
            of(0, b'a') == 2 && of(0, b'b') == 1 && of(1, b'b') == 2 && of(2, b'a') == 1
        },
    );
    assert_eq!(only_b.client.heard_of(b'a'), 0);
    assert_eq!(one_track.client.heard_of(b'b') + one_track.client.odd, 0);
    let heard = one_track.client.heard.len();
    assert_eq!(heard, 1, "one track, one line");
    // The line of who leaves goes to the next.
    assert_eq!(a.request(&server, "DELETE", &[], "").status, 200);
    let before: usize = all.client.heard.values().sum();
    run(&mut [&mut all.client, &mut b.client], "the other's audio", |clients| {
        clients[0].heard.iter().filter(|((_, stamp), count)| *stamp == b'b' && **count >= ENOUGH).count() == 2
            && clients[0].heard.values().sum::<usize>() > before
    });
}

/// Requests that wait for an answer from another worker keep their order.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Setup::new().env("WORKERS", 4).start();
    let authorization = bearer("camera", Role::Participant);
    let offer = any_offer(SEND);
    for n in 0..12 {
        let post = format!(
            "POST /video-calls/r{n}/whip HTTP/1.1\r\nHost: x\r\n{authorization}\r\n{SDP}\r\nContent-Length: {}\r\n\r\n{offer}",
            offer.len()
        );
        let get = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        let missing =
            format!("DELETE /video-calls/r{n}/whip/{} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n\r\n", "1".repeat(32));
        let head =
            format!("HEAD /video-calls/r{n}/whip/{} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n\r\n", "1".repeat(32));
        let mut http = Http::connect(&server);
        http.stream.set_chunk([usize::MAX, 1000, 333][n % 3]);
        http.stream.write_all([post.as_str(), get, &missing, &head, get].concat().as_bytes()).unwrap();
        if n % 2 == 1 {
            // Who has sent everything is still answered.
            http.stream.shutdown();
        }
        assert_eq!(http.response().status, 201);
        assert_eq!(http.response().status, 200);
        assert_eq!(http.response().status, 404);
        assert_eq!(http.response_to(true).status, 404);
        assert_eq!(http.response().status, 200);
        if n % 2 == 1 {
            http.ends();
        }
    }
    server.wait_for_stats("twelve", |stats| stats["participants"] == 12);
}

/// A room must not stay in the directory because of a session that came to nothing, nor a session fail because of one.
#[test]
fn what_comes_to_nothing_leaves_nothing_behind() {
    let rooms = 4;
    let server = Setup::new().env("WORKERS", 4).env("LIMIT_ROOMS", rooms).start();
    let authorization = bearer("camera", Role::Participant);
    let offer = any_offer(SEND);
    for n in 0..60 {
        let path = format!("/video-calls/x{n}/whip");
        match n % 3 {
            0 => {
                let response = Http::connect(&server).request("POST", &path, &[&authorization, SDP], "v=0\r\n");
                assert_eq!(response.status, 400);
            }
            1 => {
                let response = Http::connect(&server).request("POST", &path, &[&authorization, SDP], &offer);
                assert_eq!(response.status, 201);
                let path = response.header("location");
                assert_eq!(Http::connect(&server).request("DELETE", path, &[&authorization], "").status, 200);
            }
            _ => {
                // Nothing is asked of a room that is not there, and none is made.
                let path = format!("{path}/{}", "2".repeat(32));
                assert_eq!(Http::connect(&server).request("DELETE", &path, &[&authorization], "").status, 404);
            }
        }
    }
    for n in 0..rooms {
        let path = format!("/video-calls/y{n}/whip");
        assert_eq!(Http::connect(&server).request("POST", &path, &[&authorization, SDP], &offer).status, 201);
    }
    let refused = Http::connect(&server).request("POST", "/video-calls/z/whip", &[&authorization, SDP], &offer);
    assert_eq!((refused.status, refused.code().as_str(), refused.header("retry-after")), (503, "overloaded", "1"));
}

#[test]
fn clients_that_go_before_the_answer_harm_nobody() {
    let server = Setup::new().env("WORKERS", 4).start();
    let authorization = bearer("camera", Role::Participant);
    let offer = any_offer(SEND);
    for n in 0..100 {
        let mut http = Http::connect(&server);
        let post = format!(
            "POST /video-calls/r{}/whip HTTP/1.1\r\nHost: x\r\n{authorization}\r\n{SDP}\r\nContent-Length: {}\r\n\r\n{offer}",
            n % 8,
            offer.len()
        );
        http.stream.write_all(post.as_bytes()).unwrap();
        if n % 2 == 0 {
            socket2::SockRef::from(http.stream.socket()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
    }
    server.wait_for_stats("connections gone", |stats| {
        let connections = stats["workers"].as_array().unwrap().iter().map(|w| w["connections"].as_u64().unwrap());
        connections.sum::<u64>() == 1
    });
    let mut camera = Session::publish(&server, "other", "r0", b'c');
    let mut viewer = Session::watch(&server, "eve", "r0", "?publisher=other", &[Audio, Video]);
    expect_media(&mut camera.client, &mut viewer.client, b'c');
    assert_eq!(server.count("panics"), 0);
}

#[test]
fn rooms_are_made_only_where_they_may_and_are_full_when_they_are() {
    let server = Setup::new().env("AUTO_CREATE_CALLS", "false").start();
    let offer = any_offer(SEND);
    let authorization = bearer("camera", Role::Participant);
    let refused = Http::connect(&server).request("POST", "/video-calls/r/whip", &[&authorization, SDP], &offer);
    assert_eq!((refused.status, refused.code().as_str()), (404, "call_not_found"));

    let server = Setup::new().env("LIMIT_PARTICIPANTS", 2).env("WORKERS", 2).start();
    for status in [201, 201, 409, 409] {
        let response = Http::connect(&server).request("POST", "/video-calls/r/whip", &[&authorization, SDP], &offer);
        assert_eq!(response.status, status);
    }
    assert_eq!(server.stats()["participants"], 2);
}

#[test]
fn a_draining_server_takes_no_new_sessions() {
    let mut server = Setup::new().env("WORKERS", 2).start();
    let mut camera = Session::publish(&server, "camera", "r", b'c');
    let mut viewer = Session::watch(&server, "eve", "r", "", &[Audio, Video]);
    server.signal(SIGTERM);
    server.wait_for_log("draining", 1);
    let offer = any_offer(SEND);
    let refused = loop {
        let response = Http::connect(&server).request("POST", "/video-calls/r/whip", &[&camera.bearer, SDP], &offer);
        // Each worker hears of it a little later.
        if response.status != 201 {
            break response;
        }
        let path = response.header("location");
        assert_eq!(Http::connect(&server).request("DELETE", path, &[&camera.bearer], "").status, 200);
    };
    assert_eq!((refused.status, refused.code().as_str()), (503, "server_draining"));
    assert!(!refused.header("retry-after").is_empty());
    // Those who are there stay, and can end.
    expect_media(&mut camera.client, &mut viewer.client, b'c');
    assert_eq!(camera.patch(&server, &camera.etag, &camera.fragment()).status, 204);
    for session in [&camera, &viewer] {
        assert_eq!(session.request(&server, "DELETE", &[], "").status, 200);
    }
    assert_eq!(server.wait(), 0);
}
