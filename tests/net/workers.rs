//! Several workers: connections are accepted anywhere and move to the worker of their room.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use webrtc_engine::auth::Role;

use crate::harness::client::Versions;
use crate::harness::{DEADLINE, Http, Server, Setup, Stream, Ws, text, token};

const TLS13: Versions = &[&rustls::version::TLS13];
const TLS12: Versions = &[&rustls::version::TLS12];

#[test]
fn everybody_sees_everybody_with_two_workers() {
    everybody_sees_everybody(2, 24);
}

#[test]
fn everybody_sees_everybody_with_four_workers() {
    everybody_sees_everybody(4, 32);
}

fn everybody_sees_everybody(workers: usize, people: usize) {
    let server = Setup::new().env("WORKERS", workers).start();
    let names: BTreeSet<String> = (0..people).map(|n| format!("u{n}")).collect();
    let mut all: Vec<(String, Ws)> = names.iter().map(|name| (name.clone(), Ws::connect(&server, name))).collect();
    // At once, so that joins cross each other.
    for (_, ws) in &mut all {
        ws.send(json!({"type": "join", "roomId": "r"}));
    }
    for (name, ws) in &mut all {
        let joined = ws.receive();
        assert_eq!(joined["type"], "joined", "{joined}");
        let present = joined["data"]["participants"].as_array().unwrap();
        let mut seen: BTreeSet<String> = present.iter().map(|p| p["userId"].as_str().unwrap().to_owned()).collect();
        while seen.len() + 1 < people {
            let other = ws.expect("user-joined")["data"]["userId"].as_str().unwrap().to_owned();
            assert!(seen.insert(other.clone()), "{name} sees {other} twice");
        }
        seen.insert(name.clone());
        assert_eq!(seen, names);
    }
    for (name, ws) in &mut all {
        ws.send(json!({"type": "chat", "data": {"text": format!("from {name}")}}));
    }
    for (name, ws) in &mut all {
        let mut heard = BTreeSet::new();
        while heard.len() + 1 < people {
            let chat = ws.receive();
            assert_eq!(chat["data"]["text"], format!("from {}", chat["userId"].as_str().unwrap()), "{chat}");
            assert!(heard.insert(chat["userId"].as_str().unwrap().to_owned()), "{name} hears it twice: {chat}");
        }
        // Nobody hears themselves.
        ws.ping();
    }
    assert!(server.count("connectionsMovedIn") > 0, "some were accepted elsewhere");
    server.wait_for_stats("one room", |stats| stats["rooms"] == 1 && stats["participants"] == people);
    let (_, mut first) = all.remove(0);
    drop(all);
    for _ in 1..people {
        first.expect("user-left");
    }
}

/// What a client sends right behind its join, before it can know the answer.
fn joins_and_goes_on(room: &str) -> Vec<u8> {
    [
        text(json!({"type": "join", "roomId": room, "id": 1})),
        text(json!({"type": "ping", "id": 2})),
        text(json!({"type": "chat", "data": {"text": "hello"}})),
        text(json!({"type": "chat", "id": 3, "targetUserId": "nobody", "data": {"text": "hello?"}})),
        // Larger than what is allowed before the join.
        text(json!({"type": "data", "data": "x".repeat(16_300), "padding": "y".repeat(100)})),
        text(json!({"type": "join", "roomId": room, "id": 4})),
        text(json!({"type": "ping", "id": 5})),
    ]
    .concat()
}

fn expect_the_answers(ws: &mut Ws) {
    let mut answers = Vec::new();
    while answers.len() < 5 {
        let message = ws.receive();
        if message.get("id").is_some() || message["type"] == "error" {
            let code = message["data"]["code"].as_str().unwrap_or("").to_owned();
            answers.push((message["id"].as_u64(), message["type"].as_str().unwrap().to_owned(), code));
        }
    }
    let row = |id, kind: &str, code: &str| (Some(id), kind.to_owned(), code.to_owned());
    let wanted = [
        row(1, "joined", ""),
        row(2, "pong", ""),
        row(3, "error", "participant_not_found"),
        row(4, "error", "already_joined"),
        row(5, "pong", ""),
    ];
    assert_eq!(answers, wanted);
}

/// An observer in each room hears everything that was said to all, in order.
fn expect_to_hear(observer: &mut Ws) {
    observer.expect("user-joined");
    assert_eq!(observer.receive()["type"], "chat");
    assert_eq!(observer.receive()["type"], "data");
}

#[test]
fn messages_right_behind_a_join_are_answered_in_order() {
    for workers in [1, 2, 4] {
        let server = Setup::new().env("WORKERS", workers).start();
        for n in 0..24 {
            let room = format!("r{}", n % 4);
            let mut observer = Ws::join(&server, "observer", &room);
            let mut ws = Ws::connect(&server, "ann");
            ws.stream().set_chunk([usize::MAX, 1000, 17][n % 3]);
            ws.send_raw(&joins_and_goes_on(&room));
            expect_the_answers(&mut ws);
            expect_to_hear(&mut observer);
        }
        assert_eq!(server.count("connectionsMovedIn") > 0, workers > 1);
    }
}

#[test]
fn messages_right_behind_the_upgrade_are_answered_in_order() {
    let server = Setup::new().env("WORKERS", 2).start();
    let mut observer = Ws::join(&server, "observer", "r");
    for n in 0..16 {
        let mut http = Http::connect(&server);
        let mut bytes = upgrade(&token("ann", Role::Participant)).into_bytes();
        bytes.extend(joins_and_goes_on("r"));
        http.stream.set_chunk([usize::MAX, 400][n % 2]);
        http.stream.write_all(&bytes).unwrap();
        assert_eq!(http.response().status, 101);
        let mut ws = Ws::after(http);
        expect_the_answers(&mut ws);
        expect_to_hear(&mut observer);
        ws.send(json!({"type": "leave"}));
        assert_eq!(ws.close_code(), 1000);
        observer.expect("user-left");
    }
    assert!(server.count("connectionsMovedIn") > 0);
}

#[test]
fn messages_right_behind_a_join_over_tls() {
    let server = Setup::new().env("WORKERS", 2).env("TLS_SELF_SIGNED", "true").start();
    for (n, chunk) in [usize::MAX, 1, 5, 29, 1000, usize::MAX, 1, 5, 29, 1000, 1400, 3].into_iter().enumerate() {
        let room = format!("r{}", n % 3);
        let stream = Stream::connect_tls(server.address(), usize::MAX, TLS13);
        let mut observer = Ws::over(stream, "observer");
        observer.enter(&room);
        let versions = if n % 2 == 0 { TLS13 } else { TLS12 };
        let mut ws = Ws::over(Stream::connect_tls(server.address(), chunk, versions), "ann");
        // One record, or one per message; the segments are `chunk` either way.
        let bytes = joins_and_goes_on(&room);
        let record = [bytes.len(), 300, 11][n % 3];
        for part in bytes.chunks(record) {
            ws.send_raw(part);
        }
        expect_the_answers(&mut ws);
        expect_to_hear(&mut observer);
    }
}

#[test]
fn rooms_come_and_go() {
    let server = Setup::new().env("WORKERS", 2).start();
    thread::scope(|scope| {
        for worker in 0..5 {
            let server = &server;
            scope.spawn(move || {
                for room in 0..10 {
                    come_and_go(server, &format!("r{worker}-{room}"));
                }
            });
        }
    });
    server.wait_for_stats("no room", |stats| stats["rooms"] == 0 && stats["participants"] == 0);
    assert!(server.count("connectionsMovedIn") > 20);
}

fn come_and_go(server: &Server, room: &str) {
    let mut all: Vec<Ws> = (0..4).map(|n| Ws::connect(server, &format!("u{n}"))).collect();
    for ws in &mut all {
        ws.send(json!({"type": "join", "roomId": room}));
    }
    for ws in &mut all {
        let present = ws.expect("joined")["data"]["participants"].as_array().unwrap().len();
        for _ in present..3 {
            ws.expect("user-joined");
        }
    }
    all[0].send(json!({"type": "chat", "data": {"text": room}}));
    for ws in &mut all[1..] {
        assert_eq!(ws.expect("chat")["data"]["text"], room);
    }
    // Two leave, two vanish.
    for mut ws in all.drain(..2) {
        ws.send(json!({"type": "leave"}));
        assert_eq!(ws.close_code(), 1000);
    }
}

/// A room must not stay in the directory because somebody on the way to it has gone.
#[test]
fn connections_killed_on_their_way_leave_nothing_behind() {
    let rooms = 8;
    let server = Setup::new().env("WORKERS", 2).env("LIMIT_ROOMS", rooms).start();
    let bearer = token("ann", Role::Participant);
    for n in 0..400 {
        let mut stream = Stream::connect(server.address());
        let mut bytes = upgrade(&bearer).into_bytes();
        bytes.extend(text(json!({"type": "join", "roomId": format!("r{n}")})));
        stream.write_all(&bytes).unwrap();
        match n % 3 {
            // A reset at once.
            0 => socket2::SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO)).unwrap(),
            // The end comes with the join.
            1 => stream.shutdown(),
            _ => {}
        }
    }
    server.wait_for_stats("nobody", |stats| {
        let connections = stats["workers"].as_array().unwrap().iter().map(|w| w["connections"].as_u64().unwrap());
        stats["participants"] == 0 && stats["rooms"] == 0 && connections.sum::<u64>() == 1
    });
    let mut held = Vec::new();
    let until = Instant::now() + DEADLINE / 2;
    for n in 0..rooms {
        let mut ws = Ws::connect(&server, "bob");
        loop {
            ws.send(json!({"type": "join", "roomId": format!("new{n}")}));
            let answer: Value = ws.receive();
            if answer["type"] == "joined" {
                break;
            }
            assert!(Instant::now() < until, "only {n} of {rooms} rooms can be made: {answer}");
        }
        held.push(ws);
    }
    let mut ws = Ws::connect(&server, "bob");
    ws.send(json!({"type": "join", "roomId": "one-too-many"}));
    ws.expect_error("overloaded");
}

fn upgrade(token: &str) -> String {
    format!(
        "GET /video-calls/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}
