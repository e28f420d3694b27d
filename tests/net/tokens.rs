//! Who gets in.

use webrtc_engine::auth::Role;

use crate::harness::server::foreign_token;
use crate::harness::{Http, Setup, Stream, Ws, token};

#[test]
fn a_token_in_the_header_the_subprotocol_or_the_query() {
    let server = Setup::new().start();
    let good = token("ann", Role::Participant);
    let header = format!("Authorization: Bearer {good}");
    let protocols = format!("Sec-WebSocket-Protocol: webrtc-engine.v1, bearer.{good}");
    let turned = format!("Sec-WebSocket-Protocol: bearer.{good}, webrtc-engine.v1");
    let bearer_alone = format!("Sec-WebSocket-Protocol: bearer.{good}");
    let query = format!("?token={good}");
    // Row: header lines, query, the selected subprotocol.
    for (lines, query, selected) in [
        (vec![header.as_str()], "", ""),
        (vec![&header, "Sec-WebSocket-Protocol: webrtc-engine.v1"], "", "webrtc-engine.v1"),
        (vec![&header, "Sec-WebSocket-Protocol: other"], "", ""),
        (vec![&protocols], "", "webrtc-engine.v1"),
        (vec![&turned], "", "webrtc-engine.v1"),
        (vec![&bearer_alone], "", ""),
        (vec![], query.as_str(), ""),
    ] {
        let (mut ws, response) = Ws::upgrade_with(Stream::connect(server.address()), &lines, query).expect("let in");
        assert_eq!(response.header("sec-websocket-protocol"), selected, "{lines:?}");
        assert!(!format!("{response:?}").contains(&good), "the token is not echoed");
        assert_eq!(ws.enter("r")["you"]["userId"], "ann");
    }
    assert!(!server.log().contains(&good), "the token is not logged");
}

#[test]
fn the_header_wins() {
    let server = Setup::new().start();
    let header = format!("Authorization: Bearer {}", token("ann", Role::Participant));
    let bob = token("bob", Role::Participant);
    let protocol = format!("Sec-WebSocket-Protocol: bearer.{bob}");
    let stream = Stream::connect(server.address());
    let mut ws = Ws::upgrade(stream, &[&protocol, &header], &format!("?token={bob}")).expect("let in");
    assert_eq!(ws.enter("r")["you"]["userId"], "ann");
}

#[test]
fn bad_tokens_and_none() {
    let server = Setup::new().start();
    let foreign = format!("Authorization: Bearer {}", foreign_token("ann"));
    for lines in [
        vec![],
        vec!["Authorization: Bearer x.y.z"],
        vec!["Authorization: Basic YTpi"],
        vec![foreign.as_str()],
        vec!["Sec-WebSocket-Protocol: webrtc-engine.v1, bearer.x"],
        // alg: none
        vec!["Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9."],
    ] {
        let Err(response) = Ws::upgrade(Stream::connect(server.address()), &lines, "") else { panic!("{lines:?}") };
        assert_eq!((response.status, response.code().as_str()), (401, "invalid_token"), "{lines:?}");
        assert_eq!(response.header("www-authenticate"), "Bearer error=\"invalid_token\"");
        let response = Http::connect(&server).get("/stats", &lines);
        assert_eq!((response.status, response.code().as_str()), (401, "invalid_token"), "{lines:?}");
    }
    // The query is for the WebSocket only.
    let admin = token("root", Role::Admin);
    assert_eq!(Http::connect(&server).get(&format!("/stats?token={admin}"), &[]).status, 401);
}

#[test]
fn pages_of_other_origins_do_not_connect() {
    let server = Setup::new().env("ALLOWED_ORIGINS", "https://app.example").start();
    let header = format!("Authorization: Bearer {}", token("ann", Role::Participant));
    for (origin, status) in [
        ("http://localhost", 101),
        ("https://app.example", 101),
        ("https://evil.example", 403),
        ("http://app.example", 403),
        ("null", 403),
    ] {
        let origin_line = format!("Origin: {origin}");
        match Ws::upgrade(Stream::connect(server.address()), &[&header, &origin_line], "") {
            Ok(mut ws) => {
                assert_eq!(status, 101, "{origin}");
                ws.ping();
            }
            Err(response) => {
                assert_eq!((response.status, response.code().as_str()), (status, "forbidden"), "{origin}");
            }
        }
    }
}

#[test]
fn many_bad_tokens_are_no_longer_looked_at() {
    let server = Setup::new().env("LIMIT_BAD_TOKEN_BURST", 5).env("LIMIT_BAD_TOKEN_RATE", 1).start();
    let mut http = Http::connect(&server);
    let mut refused = 0;
    for _ in 0..20 {
        let response = http.get("/stats", &["Authorization: Bearer x.y.z"]);
        match response.status {
            401 => {}
            429 => {
                assert_eq!((response.code().as_str(), response.header("retry-after")), ("rate_limited", "1"));
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(refused >= 5, "{refused} of 20 were refused");
    // What needs no token is served, and a good token works again soon.
    assert_eq!(http.get("/healthz", &[]).status, 200);
    let good = format!("Authorization: Bearer {}", token("root", Role::Admin));
    let until = std::time::Instant::now() + crate::harness::DEADLINE;
    while http.get("/stats", &[&good]).status != 200 {
        assert!(std::time::Instant::now() < until, "the address stays locked out");
    }
}

#[test]
fn a_token_for_another_room() {
    let server = Setup::new().start();
    let mut ws = Ws::with_token(Stream::connect(server.address()), &crate::harness::server::token_for("ann", "mine"));
    ws.send(serde_json::json!({"type": "join", "roomId": "other", "id": 1}));
    assert_eq!(ws.expect_error("call_not_found")["id"], 1);
    ws.enter("mine");
}
