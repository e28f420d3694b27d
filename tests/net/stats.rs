//! `GET /video-calls/:id/stats`: who may see it, what it says, and that it says what goes on.

use std::time::Instant;

use serde_json::{Value, json};
use str0m::media::MediaKind::{Audio, Video};
use str0m::media::{Direction, MediaKind};
use webrtc_engine::auth::Role;

use crate::harness::server::{foreign_token, token_for};
use crate::harness::{DEADLINE, Http, MediaClient, Server, Setup, Ws, run, token};

const STATS: &str = "/video-calls/r/stats";
const SEND: Direction = Direction::SendOnly;
const RECV: Direction = Direction::RecvOnly;

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn figures_are_for_those_in_the_call_and_those_who_moderate() {
    // The room may live on another worker than the one that is asked.
    let server = Setup::new().env("WORKERS", 4).start();
    let _ann = Ws::join(&server, "ann", "r");
    let own_room_alone = token_for("ann", "r");
    let rows = [
        (None, STATS, 401, "invalid_token"),
        (Some(foreign_token("ann")), STATS, 401, "invalid_token"),
        (Some(token_for("ann", "another")), STATS, 404, "call_not_found"),
        (Some(own_room_alone), STATS, 200, ""),
        (Some(token("ann", Role::Viewer)), STATS, 200, ""),
        (Some(token("bob", Role::Viewer)), STATS, 404, "call_not_found"),
        (Some(token("bob", Role::Participant)), STATS, 404, "call_not_found"),
        (Some(token("bob", Role::Moderator)), STATS, 200, ""),
        (Some(token("bob", Role::Host)), STATS, 200, ""),
        (Some(token("bob", Role::Admin)), STATS, 200, ""),
        (Some(token("bob", Role::Admin)), "/video-calls/s/stats", 404, "call_not_found"),
        (Some(token("bob", Role::Admin)), "/video-calls/no%20id/stats", 404, "call_not_found"),
    ];
    // Every worker reads some of the requests.
    for _ in 0..4 {
        let mut http = Http::connect(&server);
        for (token, path, status, code) in &rows {
            let headers: Vec<String> = token.iter().map(|token| bearer(token)).collect();
            let response = http.get(path, &headers.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(response.status, *status, "{path} {headers:?}");
            if *status == 200 {
                let types = (response.header("content-type"), response.header("cache-control"));
                assert_eq!(types, ("application/json", "no-store"));
                assert_eq!(response.json()["participantCount"], 1);
            } else {
                assert_eq!(response.code(), *code, "{path} {headers:?}");
            }
        }
        assert_eq!(http.request("POST", STATS, &["Content-Length: 0"], "").code(), "method_not_allowed");
    }
}

/// A participant with signaling and media.
struct Caller {
    ws: Ws,
    media: MediaClient,
}

impl Caller {
    fn join(server: &Server, user: &str, lines: &[(MediaKind, Direction)], stamp: u8) -> Caller {
        let mut ws = Ws::connect(server, user);
        ws.send(json!({"type": "join", "roomId": "r", "data": {"receive": "slots"}}));
        ws.expect("joined");
        let mut media = MediaClient::new();
        let (offer, pending) = media.offer(lines, &[], stamp);
        ws.send(json!({"type": "offer", "data": {"sdp": offer}}));
        let answer = ws.expect("answer");
        media.accept(pending, answer["data"]["sdp"].as_str().expect("the form that the client used"));
        Caller { ws, media }
    }
}

fn stats(server: &Server) -> Value {
    let response = Http::connect(server).get(STATS, &[&bearer(&token("boss", Role::Moderator))]);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Asks while media goes on, until the answer is as wanted.
fn wait_for(server: &Server, clients: &mut [&mut MediaClient], what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + DEADLINE;
    loop {
        let stats = stats(server);
        if is_so(&stats) {
            return stats;
        }
        assert!(Instant::now() < until, "never {what}: {stats:#}");
        let sent = clients[0].sent();
        run(clients, "more packets", |clients| clients[0].sent() >= sent + 10);
    }
}

fn of<'a>(stats: &'a Value, user: &str) -> &'a Value {
    let participants = stats["participants"].as_array().expect("a list");
    participants.iter().find(|participant| participant["userId"] == user).unwrap_or(&Value::Null)
}

fn track<'a>(participant: &'a Value, direction: &str, kind: &str) -> &'a Value {
    let tracks = participant[direction].as_array().map(Vec::as_slice).unwrap_or_default();
    tracks.iter().find(|track| track["kind"] == kind).unwrap_or(&Value::Null)
}

fn encoding<'a>(stats: &'a Value, user: &str, kind: &str) -> &'a Value {
    &track(of(stats, user), "sent", kind)["encodings"][0]
}

fn has(value: &Value, members: &[&str]) {
    for member in members {
        assert!(value.get(member).is_some(), "{member} of {value:#}");
    }
}

#[test]
fn figures_are_those_of_the_media_that_flows() {
    let server = Setup::new().env("WORKERS", 2).start();
    let mut ann = Caller::join(&server, "ann", &[(Audio, SEND), (Video, SEND)], b'a');
    let mut bob = Caller::join(&server, "bob", &[(Audio, RECV), (Video, RECV)], b'b');
    let _carl = Ws::join(&server, "carl", "r");

    // Before any media.
    let first = stats(&server);
    assert_eq!((&first["participantCount"], &first["recording"]), (&json!(3), &Value::Null), "{first:#}");
    for user in ["ann", "bob", "carl"] {
        let participant = of(&first, user);
        assert_eq!(participant["connection"], "none", "{participant:#}");
        has(participant, &["audioRedundancy", "bandwidthLimited", "sent", "received"]);
    }
    assert_eq!((&of(&first, "carl")["sent"], &of(&first, "carl")["received"]), (&json!([]), &json!([])));

    // While it flows; everything that is measured only after a while is there.
    let mut media = [&mut ann.media, &mut bob.media];
    let measured = |stats: &Value| {
        let (ann, bob) = (of(stats, "ann"), of(stats, "bob"));
        let flows = ["audio", "video"].iter().all(|kind| {
            let up = encoding(stats, "ann", kind)["bitrate"].as_u64() > Some(0);
            let down = &track(bob, "received", kind);
            up && down["bitrate"].as_u64() > Some(0) && down["jitter"].is_number()
        });
        flows && [ann, bob].iter().all(|p| p["connection"] == "ok" && p["quality"].is_u64() && p["rtt"].is_number())
    };
    let before = wait_for(&server, &mut media, "measured", measured);
    for (user, sends, receives) in [("ann", 2, 0), ("bob", 0, 2), ("carl", 0, 0)] {
        let participant = of(&before, user);
        let count = |direction: &str| participant[direction].as_array().map(Vec::len);
        assert_eq!((count("sent"), count("received")), (Some(sends), Some(receives)), "{participant:#}");
    }
    for participant in ["ann", "bob"].map(|user| of(&before, user)) {
        assert!((1..=5).contains(&participant["quality"].as_u64().unwrap_or(0)), "{participant:#}");
        assert!(participant["qualityReason"].is_string(), "{participant:#}");
        // Loopback; but these clients answer only between two looks at the statistics.
        assert!(participant["rtt"].as_f64().is_some_and(|rtt| (0.0..10_000.0).contains(&rtt)), "{participant:#}");
    }
    for (kind, source) in [("audio", "microphone"), ("video", "camera")] {
        let sent = track(of(&before, "ann"), "sent", kind);
        has(sent, &["trackId", "mid", "encodings"]);
        assert_eq!((&sent["source"], &sent["muted"]), (&json!(source), &json!(false)));
        assert_eq!(sent["encodings"].as_array().map(Vec::len), Some(1), "{sent:#}");
        has(&sent["encodings"][0], &["bitrate", "packets", "bytes", "jitter", "nacks", "keyframeRequests"]);
        let received = track(of(&before, "bob"), "received", kind);
        has(received, &["mid", "bitrate", "packets", "bytes", "jitter", "nacks", "keyframeRequests"]);
        assert_eq!((&received["userId"], &received["paused"]), (&json!("ann"), &json!(false)), "{received:#}");
        assert_eq!(received["trackId"], sent["trackId"]);
    }
    // The one layer that there is, by the size in its key frames; it is the one that is forwarded.
    let layers = &track(of(&before, "ann"), "sent", "video")["layers"];
    let layer = &track(of(&before, "bob"), "received", "video")["layer"];
    for layer in [&layers[0], layer] {
        assert_eq!((&layer["width"], &layer["height"]), (&json!(640), &json!(360)), "{layers:#} {layer:#}");
    }

    // They move with the media, upwards and down, and by about as much.
    let packets = |stats: &Value, kind: &str| {
        let up = encoding(stats, "ann", kind)["packets"].as_u64().expect("a number");
        (up, track(of(stats, "bob"), "received", kind)["packets"].as_u64().expect("a number"))
    };
    let after = wait_for(&server, &mut media, "more", |stats| {
        ["audio", "video"].iter().all(|kind| {
            let (then, now) = (packets(&before, kind), packets(stats, kind));
            now.0 >= then.0 + 50 && now.1 >= then.1 + 50
        })
    });
    for kind in ["audio", "video"] {
        let (up, down) = packets(&after, kind);
        assert!(up <= ann.media.sent() && down <= up + 50, "{kind}: {up} came, {down} went");
        let bytes = |stats: &Value| encoding(stats, "ann", kind)["bytes"].as_u64();
        assert!(bytes(&after) > bytes(&before));
    }

    // A packet that is lost is asked for, and that is counted where it was lost.
    assert_eq!(encoding(&after, "ann", "video")["nacks"], 0, "{after:#}");
    let (payload_type, next) = ann.media.next_packet(Video);
    ann.media.withheld = Some((payload_type, next.wrapping_add(5)));
    let mut media = [&mut ann.media, &mut bob.media];
    wait_for(&server, &mut media, "a loss", |stats| encoding(stats, "ann", "video")["nacks"].as_u64() > Some(0));

    // What only the client knows it tells; lines that are not there are passed over.
    let received = track(of(&after, "bob"), "received", "video");
    assert_eq!(received.get("freezes"), None, "{received:#}");
    let freezes = json!([{"mid": received["mid"], "count": 3, "ms": 1250}, {"mid": "none", "count": 1, "ms": 1}]);
    bob.ws.send(json!({"type": "stats", "data": {"freezes": freezes}}));
    let told = json!({"count": 3, "ms": 1250});
    assert_eq!(track(&bob.ws.expect("stats")["data"], "received", "video")["freezes"], told);
    assert_eq!(track(of(&stats(&server), "bob"), "received", "video")["freezes"], told);
    bob.ws.send(json!({"type": "stats", "data": {"freezes": [{"mid": "1", "count": -1}]}}));
    assert_eq!(bob.ws.expect("error")["data"]["code"], "bad_message");

    // What was asked for by message is seen as well.
    ann.ws.send(json!({"type": "mute", "data": {"kind": "audio"}}));
    bob.ws.send(json!({"type": "subscribe", "data": {"userId": "ann", "paused": true}}));
    wait_for(&server, &mut media, "muted and paused", |stats| {
        let is_muted = |kind: &str| track(of(stats, "ann"), "sent", kind)["muted"] == true;
        let video = track(of(stats, "bob"), "received", "video");
        is_muted("audio") && !is_muted("video") && video["paused"] == true && video.get("layer").is_none()
    });

    // Who leaves is gone, and so are the tracks.
    ann.ws.send(json!({"type": "leave"}));
    assert_eq!(ann.ws.close_code(), 1000);
    let rest = stats(&server);
    assert_eq!((&rest["participantCount"], of(&rest, "ann")), (&json!(2), &Value::Null), "{rest:#}");
    assert_eq!(of(&rest, "bob")["received"], json!([]));
}
