//! Start, refusal to start, drain, stop.

use libc::{SIGHUP, SIGINT, SIGTERM};
use serde_json::json;

use crate::harness::{Http, Setup, Ws};

#[test]
fn wrong_usage_is_told_in_one_line_that_names_the_key() {
    // Row: a flag or a variable, what the line names.
    let rows: [(Setup, &str); 7] = [
        (Setup::new().arg("--no-such-flag"), "no-such-flag"),
        (Setup::new().arg("no-such-command"), "no-such-command"),
        (Setup::new().arg("--port=x"), "port"),
        (Setup::new().env("PORT", "70000"), "PORT"),
        (Setup::new().env("WORKERS", "0"), "WORKERS"),
        (Setup::new().env("JWT_SECRET", "short"), "JWT_SECRET"),
        (Setup::new().env("TLS_CERT_FILE", "cert.pem"), "TLS_KEY_FILE"),
    ];
    for (setup, key) in rows {
        let (code, out, error) = setup.run();
        assert_eq!((code, out.as_str()), (2, ""), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.to_lowercase().contains(&key.to_lowercase()), "{key} in {error}");
    }
}

#[test]
fn help_and_version() {
    let (code, out, error) = Setup::new().arg("--version").run();
    assert_eq!((code, out.as_str(), error.as_str()), (0, "webrtc-engine 0.1.0\n", ""));
    let (code, out, _) = Setup::new().arg("--help").env("PORT", "x").run();
    assert!(code == 0 && out.contains("PORT"), "{out}");
}

#[test]
fn a_port_that_is_taken_is_refused_in_one_line() {
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = Setup::new().start();
    // Another server of the same kind would otherwise share the port.
    for port in [foreign.local_addr().unwrap().port(), ours.address().port()] {
        let (code, out, error) = Setup::new().env("PORT", port).run();
        assert_eq!((code, out.as_str()), (1, ""), "{error}");
        let line = error.lines().last().unwrap();
        assert!(line.contains("cannot listen on") && line.contains(&port.to_string()), "{error}");
    }
}

#[test]
fn a_data_directory_has_one_server() {
    let setup = Setup::new();
    let dir = setup.temp_dir();
    let mut first = setup.start();
    let (code, _, error) = Setup::new().dir(&dir).run();
    assert!(code == 1 && error.contains("DATA_DIR"), "{error}");
    first.signal(SIGTERM);
    assert_eq!(first.wait(), 0);
    Setup::new().dir(&dir).start();
}

#[test]
fn ends_at_once_when_nobody_is_in_a_call() {
    for signal in [SIGTERM, SIGINT] {
        let mut server = Setup::new().env("WORKERS", 2).start();
        let mut idle = Http::connect(&server);
        assert_eq!(idle.get("/readyz", &[]).status, 200);
        let mut connected = Ws::connect(&server, "ann");
        connected.ping();
        server.signal(signal);
        assert_eq!(connected.close_code(), 1001);
        assert!(idle.stream.is_closed_by_server());
        assert_eq!(server.wait(), 0);
    }
}

#[test]
fn drains_while_somebody_is_in_a_call() {
    let mut server = Setup::new().env("WORKERS", 2).start();
    let mut ann = Ws::join(&server, "ann", "r");
    let mut bob = Ws::connect(&server, "bob");
    bob.ping();
    server.wait_for_stats("ann", |stats| stats["participants"] == 1);
    server.signal(SIGTERM);
    ann.expect("server-draining");
    bob.expect("server-draining");
    let mut http = Http::connect(&server);
    let ready = http.get("/readyz", &[]);
    assert_eq!((ready.status, ready.code().as_str()), (503, "draining"));
    assert_eq!(http.get("/healthz", &[]).status, 200);
    for room in ["r", "new"] {
        bob.send(json!({"type": "join", "roomId": room, "id": 1}));
        assert_eq!(bob.expect_error("server_draining")["id"], 1);
    }
    ann.ping();
    ann.send(json!({"type": "leave"}));
    assert_eq!(ann.close_code(), 1000);
    assert_eq!(bob.close_code(), 1001);
    assert_eq!(server.wait(), 0);
}

#[test]
fn the_second_signal_stops_now() {
    for signal in [SIGTERM, SIGINT] {
        let mut server = Setup::new().env("WORKERS", 2).start();
        let mut all: Vec<Ws> = ["ann", "bob", "eve"].map(|user| Ws::join(&server, user, "r")).into();
        server.wait_for_stats("three", |stats| stats["participants"] == 3);
        server.signal(signal);
        for ws in &mut all {
            ws.expect("server-draining");
        }
        server.signal(signal);
        for ws in &mut all {
            assert_eq!(ws.close_code(), 1001);
        }
        assert_eq!(server.wait(), 0);
    }
}

#[test]
fn the_drain_has_an_end() {
    let mut server = Setup::new().env("SHUTDOWN_TIMEOUT", "1s").start();
    let mut ann = Ws::join(&server, "ann", "r");
    server.wait_for_stats("ann", |stats| stats["participants"] == 1);
    server.signal(SIGTERM);
    assert_eq!(ann.close_code(), 1001);
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_reload_without_certificates_changes_nothing() {
    let server = Setup::new().start();
    let mut ann = Ws::join(&server, "ann", "r");
    server.signal(SIGHUP);
    ann.ping();
    assert_eq!(Http::connect(&server).get("/readyz", &[]).status, 200);
}
