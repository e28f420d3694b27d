//! HTTP/1.1 as hostile, slow and ordinary clients speak it.

use serde_json::json;
use webrtc_engine::auth::Role;

use crate::harness::server::token_for;
use crate::harness::{Http, Server, Setup, Ws, token};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Setup::dev().start();
    let mut http = Http::connect(&server);
    http.stream.set_chunk(1);
    let body = r#"{"userId":"ann"}"#;
    let response = http.request("POST", "/dev/token", &["Content-Type: application/json"], body);
    assert_eq!(response.status, 200);
    assert!(response.json()["token"].is_string());
    // Chunked, with an extension and a trailer.
    http.send("POST /dev/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    http.send("5;x=y\r\n{\"use\r\nb\r\nrId\":\"ann\"}\r\n0\r\nTrailer: 1\r\n\r\n");
    assert_eq!(http.response().status, 200);
    assert_eq!(http.get("/healthz", &[]).status, 200);
}

/// A page elsewhere can make its name resolve to this host; then its requests are of the same origin, but not for localhost.
#[test]
fn development_tokens_are_for_localhost() {
    let server = Setup::dev().start();
    let mut http = Http::connect(&server);
    for (host, status) in [("localhost:3000", 200), ("[::1]", 200), ("127.0.0.1", 200), ("evil.example:3000", 403)] {
        let body = r#"{"userId":"ann"}"#;
        http.send(&format!(
            "POST /dev/token HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(http.response().status, status, "{host}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Setup::new().start();
    let mut http = Http::connect(&server);
    let mut all = String::new();
    for n in 0..200 {
        let path = ["/healthz", "/nothing", "/style.css"][n % 3];
        all.push_str(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }
    http.send(&all);
    for n in 0..200 {
        let response = http.response();
        assert_eq!(response.status, [200, 404, 200][n % 3], "number {n}");
        assert_eq!(response.header("content-type").starts_with("text/css"), n % 3 == 2, "number {n}");
    }
}

#[test]
fn a_client_that_has_said_everything_gets_every_answer() {
    let server = Setup::new().start();
    let mut http = Http::connect(&server);
    http.send(&HEALTH.repeat(100));
    http.stream.shutdown();
    for _ in 0..100 {
        assert_eq!(http.response().status, 200);
    }
    http.ends();
}

#[test]
fn keep_alive_and_close() {
    let server = Setup::new().env("LIMIT_KEEP_ALIVE", "1s").start();
    // Row: request, whether another one may follow.
    for (request, stays) in [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", false),
        ("GET /healthz HTTP/1.0\r\n\r\n", false),
        ("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        let mut http = Http::connect(&server);
        http.send(request);
        let response = http.response();
        assert_eq!(response.status, 200, "{request}");
        assert_eq!(response.header("connection"), if stays { "keep-alive" } else { "close" }, "{request}");
        if stays {
            assert_eq!(http.get("/healthz", &[]).status, 200);
        }
        // Also the idle one, after a second.
        http.ends();
    }
}

#[test]
fn head_has_the_fields_of_get_and_no_content() {
    let server = Setup::new().start();
    let mut http = Http::connect(&server);
    for path in ["/", "/client.js", "/healthz", "/nothing"] {
        let head = http.request("HEAD", path, &[], "");
        let get = http.get(path, &[]);
        assert_eq!(head.status, get.status, "{path}");
        for name in ["content-length", "content-type", "etag"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
}

#[test]
fn options_and_cors() {
    let server = Setup::new().env("ALLOWED_ORIGINS", "https://app.example").start();
    let mut http = Http::connect(&server);
    let plain = http.request("OPTIONS", "/stats", &[], "");
    assert_eq!((plain.status, plain.header("allow")), (204, "GET, HEAD, OPTIONS"));

    let ask = "Access-Control-Request-Method: GET";
    let listed = http.request("OPTIONS", "/stats", &["Origin: https://app.example", ask], "");
    assert_eq!(listed.status, 204);
    assert_eq!(listed.header("access-control-allow-origin"), "https://app.example");
    assert!(listed.header("access-control-allow-headers").contains("Authorization"));
    assert!(listed.header("access-control-allow-methods").contains("GET"));

    for other in ["https://evil.example", "http://app.example", "https://app.example.evil.example", "null"] {
        let refused = http.request("OPTIONS", "/stats", &[&format!("Origin: {other}"), ask], "");
        assert_eq!(refused.header("access-control-allow-origin"), "", "{other}");
    }
    // A page must be able to read why it was refused.
    let error = http.get("/stats", &["Origin: https://app.example"]);
    assert_eq!((error.status, error.header("access-control-allow-origin")), (401, "https://app.example"));
    assert_eq!(error.header("vary"), "Origin");
}

#[test]
fn refusals_leave_the_connection_usable_where_the_framing_is_clear() {
    let server = Setup::new().start();
    let mut http = Http::connect(&server);
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/../etc/passwd", 404, "not_found"),
        ("GET", "/%2e%2e/", 404, "not_found"),
        ("POST", "/dev/token", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("DELETE", "/stats", 405, "method_not_allowed"),
        ("PUT", "/video-calls/ws", 405, "method_not_allowed"),
        ("GET", "/stats", 401, "invalid_token"),
        ("GET", "/video-calls/ws", 426, "bad_handshake"),
    ] {
        let response = http.request(method, path, &[], "");
        assert_eq!((response.status, response.code().as_str()), (status, code), "{method} {path}");
        assert_eq!(response.header("allow").is_empty(), status != 405, "{method} {path}");
    }
}

#[test]
fn too_much_is_refused_clearly_and_closes() {
    let server = Setup::new()
        .env("LIMIT_REQUEST_LINE", 256)
        .env("LIMIT_REQUEST_HEAD", 1024)
        .env("LIMIT_REQUEST_HEADERS", 8)
        .env("LIMIT_REQUEST_BODY", 1024)
        .start();
    let get = "GET / HTTP/1.1\r\nHost: a\r\n";
    let post = "POST /dev/token HTTP/1.1\r\nHost: a\r\n";
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(300)), 414),
        // Refused before its end has come.
        (format!("GET /{}", "x".repeat(300)), 414),
        (format!("{get}X: {}\r\n\r\n", "x".repeat(1024)), 431),
        (format!("{get}X: {}", "x".repeat(1024)), 431),
        (format!("{get}{}\r\n", "A: b\r\n".repeat(8)), 431),
        (format!("{post}Content-Length: 1025\r\n\r\n"), 413),
        (format!("{post}Content-Length: 99999999999999999999999\r\n\r\n"), 413),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n401\r\n"), 413),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), 413),
        ("BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
        (format!("{post}Expect: miracles\r\n\r\n"), 417),
        (format!("{post}Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"), 415),
    ] {
        let mut http = Http::connect(&server);
        http.send(&request);
        let response = http.response();
        assert_eq!(response.status, status, "{request}");
        response.code();
        assert_eq!(response.header("connection"), "close");
        http.ends();
    }
}

/// The answer must survive what the client goes on sending: a reset would destroy it.
#[test]
fn an_upload_that_is_too_large_still_gets_its_answer() {
    let server = Setup::new().start();
    let mut http = Http::connect(&server);
    http.send("POST /dev/token HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    http.send(&"x".repeat(1_000_000));
    assert_eq!(http.response().status, 413);
    http.stream.shutdown();
    http.ends();
}

#[test]
fn doubtful_framing_closes_the_connection() {
    let server = Setup::new().start();
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /healthz HTTP/1.1\r\nHost: a\r\n";
    for head in [
        format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Content-Length: 5\r\nContent-Length: 0\r\n\r\n"),
        format!("{post}Content-Length: 0, 5\r\n\r\n"),
        format!("{post}Content-Length: +0\r\n\r\n"),
        format!("{post}Content-Length: 0x0\r\n\r\n"),
        format!("{post}Content-Length : 0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: identity\r\n\r\n"),
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n0 \r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
        format!("{post}X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        format!("{post}X: a\nContent-Length: 0\r\n\r\n"),
        format!("{post}X: a\rContent-Length: 0\r\n\r\n"),
        format!("{post}X: a\0b\r\n\r\n"),
        format!("{post}Host: b\r\n\r\n"),
        "POST /healthz HTTP/1.1\r\n\r\n".into(),
        "POST  /healthz HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "POST http://b/healthz HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "POST /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}".into(),
    ] {
        let mut http = Http::connect(&server);
        http.send(&format!("{head}{smuggled}"));
        let response = http.response();
        assert_eq!(response.status, 400, "{head:?}");
        assert_eq!(response.header("connection"), "close", "{head:?}");
        // Nothing answers what came behind it.
        http.ends();
    }
}

#[test]
fn slow_requests_time_out() {
    let server = Setup::new()
        .env("LIMIT_HEAD_TIMEOUT", "1s")
        .env("LIMIT_BODY_TIMEOUT", "1s")
        .env("LIMIT_KEEP_ALIVE", "1s")
        .start();
    // All at once, so that the test takes as long as one.
    let mut silent = Http::connect(&server);
    let mut idle = Http::connect(&server);
    assert_eq!(idle.get("/healthz", &[]).status, 200);
    let mut waiting = Vec::new();
    for part in ["G", "GET / HTTP/1.1\r\nHost: a\r\nX", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc"] {
        let mut http = Http::connect(&server);
        http.send(part);
        waiting.push(http);
    }
    for mut http in waiting {
        let response = http.response();
        assert_eq!((response.status, response.code().as_str()), (408, "request_timeout"));
        http.ends();
    }
    // Who has asked nothing gets no answer.
    assert!(silent.stream.is_closed_by_server());
    assert!(idle.stream.is_closed_by_server());
}

#[test]
fn expect_continue() {
    let server = Setup::dev().start();
    let mut http = Http::connect(&server);
    let body = r#"{"userId":"ann"}"#;
    let head = format!(
        "POST /dev/token HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    http.send(&head);
    assert_eq!(http.response().status, 100);
    http.send(body);
    assert_eq!(http.response().status, 200);
    // A client that does not wait gets no interim answer.
    http.send(&format!("{head}{body}"));
    assert_eq!(http.response().status, 200);
    // A refusal comes instead of the interim answer.
    http.send("POST /dev/token HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n");
    assert_eq!(http.response().status, 413);
}

#[test]
fn assets_are_revalidated_by_their_tag() {
    let server = Setup::new().start();
    let mut http = Http::connect(&server);
    for path in ["/", "/client.js", "/client.d.ts", "/app.js", "/style.css", "/favicon.svg"] {
        let first = http.get(path, &[]);
        assert_eq!(first.status, 200, "{path}");
        assert!(!first.body.is_empty());
        let etag = first.header("etag").to_owned();
        assert!(etag.starts_with('"'), "{etag}");
        let again = http.get(path, &[&format!("If-None-Match: \"x\", {etag}")]);
        assert_eq!((again.status, again.header("etag")), (304, etag.as_str()), "{path}");
        assert_eq!(http.get(path, &["If-None-Match: \"x\""]).status, 200);
    }
}

#[test]
fn dev_token_on_loopback() {
    let server = Setup::dev().start();
    let mut http = Http::connect(&server);
    let wish = json!({"userId": "ann", "name": "Ann", "role": "host", "roomId": "r"}).to_string();
    let token = http.request("POST", "/dev/token", &[], &wish).json()["token"].as_str().unwrap().to_owned();
    let mut ws = Ws::with_token(http.into_parts().0, &token);
    assert_eq!(ws.enter("r")["you"]["role"], "host");

    let mut http = Http::connect(&server);
    for body in ["{", "[]", "{}", r#"{"userId":""}"#, r#"{"userId":"sfu"}"#, r#"{"userId":"a","role":"king"}"#] {
        let response = http.request("POST", "/dev/token", &[], body);
        assert_eq!((response.status, response.code().as_str()), (400, "bad_request"), "{body}");
    }
    let page = http.request("POST", "/dev/token", &["Origin: https://evil.example"], r#"{"userId":"a"}"#);
    assert_eq!((page.status, page.code().as_str()), (403, "forbidden"));
}

#[test]
fn dev_token_asks_for_a_code_where_others_can_reach_it() {
    let server =
        Setup::dev().env("HOST", "0.0.0.0").env("LIMIT_BAD_TOKEN_BURST", 3).env("LIMIT_BAD_TOKEN_RATE", 1).start();
    server.wait_for_log("asks for the code ", 1);
    let log = server.log();
    let code = log.split("asks for the code ").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut http = Http::connect(&server);
    let mut ask = |wish: serde_json::Value| http.request("POST", "/dev/token", &[], &wish.to_string());
    let without = ask(json!({"userId": "ann"}));
    assert_eq!((without.status, without.code().as_str()), (403, "code_required"));
    assert_eq!(ask(json!({"userId": "ann", "code": code})).status, 200);
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(ask(json!({"userId": "ann", "code": "0000000000"})).status);
    }
    assert_eq!((statuses[0], statuses.contains(&429)), (403, true), "{statuses:?}");
}

#[test]
fn statistics_are_for_admins() {
    let server = Setup::new().start();
    let _ann = Ws::join(&server, "ann", "r");
    let mut http = Http::connect(&server);
    for role in [Role::Host, Role::Moderator, Role::Participant, Role::Viewer] {
        let response = http.get("/stats", &[&format!("Authorization: Bearer {}", token("x", role))]);
        assert_eq!((response.status, response.code().as_str()), (403, "forbidden"), "{role:?}");
    }
    // The counters are written at the end of a turn of the loop.
    server.wait_for_stats("a room with one participant", |stats| stats["rooms"] == 1 && stats["participants"] == 1);
    assert_eq!(server.stats()["workers"].as_array().unwrap().len(), 1);
}

#[test]
fn ice_servers_are_for_those_who_may_enter() {
    let server = Setup::new()
        .env("WEBRTC_ICE_SERVERS", "stun:stun.example:3478")
        .env("WEBRTC_TURN_SERVER_URL", "turn:turn.example:3478")
        .env("WEBRTC_TURN_SECRET", "secret")
        .start();
    let mut http = Http::connect(&server);
    let authorization = format!("Authorization: Bearer {}", token_for("ann", "mine"));
    let mine = http.get("/video-calls/mine/ice-servers", &[&authorization]);
    assert_eq!((mine.status, mine.header("cache-control")), (200, "no-store"));
    let servers = mine.json()["iceServers"].to_string();
    for part in ["stun:stun.example:3478", "turn:turn.example:3478", "credential", ":ann"] {
        assert!(servers.contains(part), "{part} in {servers}");
    }
    for path in ["/video-calls/other/ice-servers", "/video-calls/no%20id/ice-servers"] {
        let response = http.get(path, &[&authorization]);
        assert_eq!((response.status, response.code().as_str()), (404, "call_not_found"), "{path}");
    }
    assert_eq!(http.get("/video-calls/mine/ice-servers", &[]).status, 401);
}

#[test]
fn unauthenticated_connections_are_limited_and_their_places_come_back() {
    let server = Setup::new().env("LIMIT_UNAUTHENTICATED_PER_ADDRESS", 4).start();
    let mut held: Vec<Http> = (0..4).map(|_| Http::connect(&server)).collect();
    for http in &mut held {
        assert_eq!(http.get("/healthz", &[]).status, 200);
    }
    assert!(Http::connect(&server).stream.is_closed_by_server(), "the fifth is not served");
    // A token makes room: whoever has shown one counts no more.
    let (stream, _) = held.pop().unwrap().into_parts();
    let mut ws = Ws::over(stream, "ann");
    ws.enter("r");
    is_served_again(&server);
    drop(held);
    is_served_again(&server);
    ws.ping();
}

/// A connection is given its place back some time after the other one has closed.
fn is_served_again(server: &Server) {
    for _ in 0..10_000 {
        let mut http = Http::connect(server);
        if std::io::Write::write_all(&mut http.stream, HEALTH.as_bytes()).is_ok() {
            let mut first = [0; 12];
            if std::io::Read::read_exact(&mut http.stream, &mut first).is_ok() {
                assert_eq!(&first, b"HTTP/1.1 200");
                return;
            }
        }
    }
    panic!("no connection is served any more");
}
