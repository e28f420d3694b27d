//! The signaling connection: frames, order, limits, close codes, messages between participants.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::harness::{Http, Server, Setup, Stream, Ws, frame, text};

#[test]
fn frames_byte_by_byte_and_in_fragments() {
    let server = Setup::new().start();
    let mut ws = Ws::connect(&server, "ann");
    ws.stream().set_chunk(1);
    ws.enter("r");
    let ping = br#"{"type":"ping","id":"a \u00e9"}"#;
    ws.send_raw(&frame(true, 1, ping));
    assert_eq!(ws.receive()["id"], "a é");
    // In fragments of a byte, with control frames between.
    for (n, byte) in ping.iter().enumerate() {
        ws.send_raw(&frame(n + 1 == ping.len(), if n == 0 { 1 } else { 0 }, &[*byte]));
        if n == 3 {
            ws.send_raw(&frame(true, 9, b"between"));
            assert_eq!(ws.frame(), Message::Pong("between".into()));
        }
    }
    assert_eq!(ws.receive()["id"], "a é");
    // Many in one segment.
    ws.stream().set_chunk(usize::MAX);
    let many: Vec<u8> = (0..100).flat_map(|n| text(json!({"type": "ping", "id": n}))).collect();
    ws.send_raw(&many);
    for n in 0..100 {
        assert_eq!(ws.receive()["id"], n);
    }
}

#[test]
fn ping_frames_are_answered() {
    let server = Setup::new().start();
    let mut ws = Ws::connect(&server, "ann");
    for payload in ["", "x", &"y".repeat(125)] {
        ws.send_message(Message::Ping(payload.to_owned().into()));
        assert_eq!(ws.frame(), Message::Pong(payload.to_owned().into()));
    }
}

#[test]
fn broken_frames_close() {
    let server = Setup::new().start();
    let mut unmasked = frame(true, 1, b"");
    unmasked[1] &= 0x7f;
    // Row: bytes, close code.
    for (bytes, code) in [
        (unmasked, 1002),
        (frame(true, 0, b"nothing to continue"), 1002),
        ([frame(false, 1, b"{"), frame(true, 1, b"{}")].concat(), 1002),
        (frame(true, 3, b"reserved"), 1002),
        (frame(false, 9, b"a control frame in fragments"), 1002),
        (frame(true, 9, &[b'x'; 126]), 1002),
        ([vec![0xf1], frame(true, 1, b"{}")[1..].to_vec()].concat(), 1002),
        (frame(true, 1, &[0xff, 0xfe]), 1007),
        // The head alone says too much.
        (vec![0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4], 1009),
    ] {
        let mut ws = Ws::connect(&server, "ann");
        ws.send_raw(&bytes);
        assert_eq!(ws.close_code(), code, "{bytes:?}");
    }
}

#[test]
fn too_large_before_and_after_join() {
    let server = Setup::new().start();
    for (joined, bytes, code) in [(false, 16 * 1024 + 1, 1009), (true, 256 * 1024 + 1, 1009)] {
        let mut ws = Ws::connect(&server, "ann");
        if joined {
            ws.enter("r");
        }
        ws.send_raw(&frame(true, 1, &vec![b' '; bytes]));
        assert_eq!(ws.close_code(), code, "{joined} {bytes}");
        // The same in two fragments, neither of which is too large.
        let mut ws = Ws::connect(&server, "ann");
        if joined {
            ws.enter("r");
        }
        ws.send_raw(&frame(false, 1, &vec![b' '; bytes - 1]));
        ws.send_raw(&frame(true, 0, b"  "));
        assert_eq!(ws.close_code(), code, "{joined} {bytes} in fragments");
    }
    // After the join more is allowed, though not for every word.
    let mut ws = Ws::join(&server, "ann", "r");
    ws.send(json!({"type": "ping", "id": 1, "ignored": "x".repeat(200 * 1024)}));
    assert_eq!(ws.receive()["type"], "pong");
    ws.send(json!({"type": "data", "id": 2, "data": "x".repeat(20 * 1024)}));
    assert_eq!(ws.receive()["type"], "error");
    ws.ping();
}

#[test]
fn errors_that_leave_the_connection_open() {
    let server = Setup::new().start();
    let mut ws = Ws::connect(&server, "ann");
    // Before the join.
    for (message, code) in [
        (json!({"type": "chat", "id": 1, "data": {"text": "x"}}), "not_joined"),
        (json!({"type": "offer", "id": 1, "data": {"sdp": "v=0"}}), "not_joined"),
        (json!({"type": "join", "id": 1}), "bad_message"),
        (json!({"type": "join", "id": 1, "roomId": "no id"}), "bad_message"),
        (json!({"type": "join", "id": 1, "roomId": "r", "userId": "bob"}), "forbidden"),
        (json!({"type": "dance", "id": 1}), "unknown_type"),
    ] {
        ws.send(message.clone());
        assert_eq!(ws.expect_error(code)["id"], 1, "{message}");
    }
    ws.enter("r");
    for (message, code) in [
        (json!({"type": "dance", "id": 1}), "unknown_type"),
        (json!({"type": "joined", "id": 1}), "unknown_type"),
        (json!({"type": "join", "id": 1, "roomId": "r"}), "already_joined"),
        (json!({"type": "chat", "id": 1, "userId": "bob", "data": {"text": "x"}}), "forbidden"),
        (json!({"type": "chat", "id": 1, "roomId": "other", "data": {"text": "x"}}), "forbidden"),
        (json!({"type": "chat", "id": 1, "targetUserId": "bob", "data": {"text": "x"}}), "participant_not_found"),
        (json!({"type": "answer", "id": 1, "data": {"sdp": "v=0"}}), "unexpected_answer"),
        (json!({"type": "offer", "id": 1, "data": {"sdp": "v=0"}}), "bad_sdp"),
    ] {
        ws.send(message.clone());
        assert_eq!(ws.expect_error(code)["id"], 1, "{message}");
    }
    // A binary frame, and what is not JSON, or not unambiguous.
    ws.send_message(Message::binary(vec![1, 2, 3]));
    ws.expect_error("bad_message");
    for bad in ["", "x", "[]", "{", r#"{"type":"ping","type":"leave"}"#, r#"{"type":1}"#, "{}"] {
        ws.send_message(Message::text(bad));
        ws.expect_error("bad_message");
    }
    ws.ping();
}

#[test]
fn ten_bad_messages_in_a_row_close() {
    let server = Setup::new().start();
    for binary in [false, true] {
        let mut ws = Ws::connect(&server, "ann");
        let bad = || if binary { Message::binary(vec![0]) } else { Message::text("x") };
        for _ in 0..9 {
            ws.send_message(bad());
            ws.expect_error("bad_message");
        }
        // A good one between starts the count anew.
        ws.ping();
        for _ in 0..10 {
            ws.send_message(bad());
            ws.expect_error("bad_message");
        }
        assert_eq!(ws.close_code(), 1008);
    }
}

#[test]
fn not_joined_in_time() {
    let server = Setup::new().env("LIMIT_JOIN_TIMEOUT", "1s").start();
    let mut joined = Ws::join(&server, "bob", "r");
    let mut ws = Ws::connect(&server, "ann");
    let opened = Instant::now();
    ws.expect_error("not_joined");
    assert_eq!(ws.close_code(), 1008);
    assert!(opened.elapsed() >= Duration::from_millis(900));
    joined.ping();
}

#[test]
fn leaving_by_word_by_close_and_by_a_lost_connection() {
    let server = Setup::new().start();
    let mut bob = Ws::join(&server, "bob", "r");

    let mut ann = Ws::join(&server, "ann", "r");
    assert_eq!(bob.expect("user-joined")["data"]["userId"], "ann");
    ann.send(json!({"type": "leave"}));
    assert_eq!(ann.close_code(), 1000);
    let left = bob.expect("user-left");
    assert_eq!((&left["userId"], &left["data"]["reason"]), (&json!("ann"), &json!("left")));

    let mut ann = Ws::join(&server, "ann", "r");
    ann.send_message(Message::Close(None));
    assert_eq!(bob.expect("user-left")["userId"], "ann");
    assert!(ann.is_ended());

    let mut ann = Ws::join(&server, "ann", "r");
    ann.stream().socket().shutdown(Shutdown::Both).unwrap();
    assert_eq!(bob.expect("user-left")["userId"], "ann");

    let ann = Ws::join(&server, "ann", "r");
    drop(ann);
    assert_eq!(bob.expect("user-left")["userId"], "ann");
}

#[test]
fn a_newer_session_of_the_same_user_replaces_the_older() {
    let server = Setup::new().start();
    let mut bob = Ws::join(&server, "bob", "r");
    let mut first = Ws::join(&server, "ann", "r");
    let mut elsewhere = Ws::join(&server, "ann", "other");
    let mut second = Ws::join(&server, "ann", "r");
    assert_eq!(first.close_code(), 4003);
    bob.send(json!({"type": "chat", "targetUserId": "ann", "data": {"text": "which?"}}));
    assert_eq!(second.expect("chat")["data"]["text"], "which?");
    elsewhere.ping();
}

#[test]
fn answers_carry_the_id_of_the_request_as_it_was() {
    let server = Setup::new().start();
    for id in [json!(0), json!(-1.5), json!("x"), json!(""), json!("é\"\\"), json!(9_007_199_254_740_993_u64)] {
        let mut ws = Ws::connect(&server, "ann");
        ws.send(json!({"type": "ping", "id": id}));
        assert_eq!(ws.expect("pong")["id"], id);
        ws.send(json!({"type": "join", "roomId": "r", "id": id}));
        assert_eq!(ws.expect("joined")["id"], id);
        ws.send(json!({"type": "stats?", "id": id}));
        assert_eq!(ws.expect_error("unknown_type")["id"], id);
    }
    let mut ws = Ws::connect(&server, "ann");
    ws.send(json!({"type": "ping"}));
    assert_eq!(ws.expect("pong").get("id"), None);
}

#[test]
fn chat_and_data_to_all_and_to_one() {
    let server = Setup::new().start();
    let mut ann = Ws::join(&server, "ann", "r");
    let mut bob = Ws::join(&server, "bob", "r");
    let mut eve = Ws::join(&server, "eve", "r");
    let mut stranger = Ws::join(&server, "stranger", "other");
    ann.expect("user-joined");
    ann.expect("user-joined");
    bob.expect("user-joined");

    ann.send(json!({"type": "chat", "data": {"text": "to all"}}));
    for ws in [&mut bob, &mut eve] {
        let chat = ws.receive();
        assert_eq!((&chat["type"], &chat["userId"], &chat["roomId"]), (&json!("chat"), &json!("ann"), &json!("r")));
        assert_eq!(chat["data"]["text"], "to all");
        assert_eq!(chat.get("targetUserId"), None);
    }
    ann.send(json!({"type": "chat", "targetUserId": "eve", "data": {"text": "to one"}}));
    let chat = eve.receive();
    assert_eq!((&chat["targetUserId"], &chat["data"]["text"]), (&json!("eve"), &json!("to one")));

    for data in [json!(null), json!(1), json!([1, {"a": "b"}]), json!({"type": "leave"}), json!("x".repeat(16_000))] {
        bob.send(json!({"type": "data", "data": data}));
        bob.send(json!({"type": "data", "targetUserId": "ann", "data": data}));
        assert_eq!(eve.receive()["data"], data);
        assert_eq!(ann.receive()["data"], data);
        assert_eq!(ann.receive()["data"], data);
    }
    // Nothing more came to anybody.
    for ws in [&mut ann, &mut bob, &mut eve, &mut stranger] {
        ws.ping();
    }
}

#[test]
fn a_slow_reader_is_disconnected_and_nobody_waits_for_it() {
    let server = Setup::new()
        .env("LIMIT_MESSAGE_RATE", 100_000)
        .env("LIMIT_MESSAGE_BURST", 100_000)
        .env("LIMIT_WRITE_TIMEOUT", "1s")
        .start();
    let mut ann = Ws::join(&server, "ann", "r");
    let mut bob = Ws::join(&server, "bob", "r");
    ann.expect("user-joined");
    let mut eve = Ws::connect(&server, "eve");
    eve.enter("r");
    ann.expect("user-joined");
    bob.expect("user-joined");

    let words = "x".repeat(15_000);
    let mut waits = Vec::new();
    let mut left = 0;
    for n in 0..1000 {
        let sent = Instant::now();
        ann.send(json!({"type": "chat", "data": {"text": words, "n": n}}));
        loop {
            let message = bob.receive();
            match message["type"].as_str() {
                Some("chat") => break,
                Some("user-left") => {
                    assert_eq!(message["userId"], "eve");
                    left += 1;
                }
                _ => panic!("{message}"),
            }
        }
        waits.push(sent.elapsed());
    }
    assert_eq!(left, 1, "eve is gone");
    waits.sort();
    // Not the longest: this machine has other things to do, too.
    assert!(waits[900] < Duration::from_millis(100), "{:?}", &waits[900..]);
    server.wait_for_stats("eve's connection closed", |stats| stats["workers"][0]["connections"] == 3);
}

#[test]
fn too_many_messages() {
    let server = Setup::new().env("LIMIT_MESSAGE_RATE", 1).env("LIMIT_MESSAGE_BURST", 5).start();
    let mut ws = Ws::join(&server, "ann", "r");
    let mut bob = Ws::join(&server, "bob", "r");
    let many: Vec<u8> = (0..100).flat_map(|n| text(json!({"type": "ping", "id": n}))).collect();
    ws.send_raw(&many);
    let mut answers = [0, 0];
    for n in 0..40 {
        let message = loop {
            let message = ws.receive();
            if message["type"] != "user-joined" {
                break message;
            }
        };
        assert_eq!(message["id"], n, "{message}");
        answers[usize::from(message["type"] == "error")] += 1;
    }
    assert!(answers[0] >= 4 && answers[1] >= 30, "{answers:?}");
    assert_eq!(ws.close_code(), 1008);
    assert_eq!(bob.expect("user-left")["userId"], "ann");
}

#[test]
fn too_many_offers() {
    let server = Setup::new().env("LIMIT_OFFER_RATE", 1).env("LIMIT_OFFER_BURST", 2).start();
    let mut ws = Ws::join(&server, "ann", "r");
    let offer = text(json!({"type": "offer", "data": {"sdp": "v=0"}}));
    ws.send_raw(&offer.repeat(4));
    let codes: Vec<Value> = (0..4).map(|_| ws.receive()["data"]["code"].clone()).collect();
    assert_eq!((&codes[0], &codes[3]), (&json!("bad_sdp"), &json!("rate_limited")), "{codes:?}");
    // Other messages are not affected.
    ws.ping();
}

#[test]
fn rooms_and_participants_are_limited() {
    let server = Setup::new().env("LIMIT_ROOMS", 1).env("LIMIT_PARTICIPANTS", 2).start();
    let ann = Ws::join(&server, "ann", "r");
    let mut bob = Ws::join(&server, "bob", "r");
    let mut eve = Ws::connect(&server, "eve");
    eve.send(json!({"type": "join", "roomId": "r", "id": 1}));
    eve.expect_error("call_full");
    eve.send(json!({"type": "join", "roomId": "other", "id": 2}));
    eve.expect_error("overloaded");
    // A place that becomes free can be taken, on the same connection.
    drop(ann);
    bob.expect("user-left");
    eve.enter("r");
    drop(eve);
    bob.expect("user-left");
    bob.send(json!({"type": "leave"}));
    assert_eq!(bob.close_code(), 1000);
    Ws::join(&server, "eve", "other");
}

#[test]
fn calls_are_not_created_when_that_is_off() {
    let server = Setup::new().env("AUTO_CREATE_CALLS", "false").start();
    let mut ws = Ws::connect(&server, "ann");
    ws.send(json!({"type": "join", "roomId": "r", "id": 1}));
    assert_eq!(ws.expect_error("call_not_found")["id"], 1);
    ws.ping();
}

#[test]
fn all_connections_are_limited_and_their_places_come_back() {
    let server = Setup::new().env("LIMIT_CONNECTIONS", 16).start();
    let mut all: Vec<Ws> = (0..16).map(|n| Ws::join(&server, &format!("u{n}"), "r")).collect();
    for _ in 0..3 {
        assert!(Http::connect(&server).stream.is_closed_by_server(), "the seventeenth is not served");
    }
    all.pop();
    assert_eq!(all[0].expect("user-left")["userId"], "u15");
    // The place is free at the end of the turn in which the connection ended.
    let mut again = joined_sooner_or_later(&server);
    again.ping();
    all[0].ping_among_others();
}

fn joined_sooner_or_later(server: &Server) -> Ws {
    let until = Instant::now() + crate::harness::DEADLINE;
    loop {
        let mut stream = Stream::connect(server.address());
        let mut byte = [0];
        stream.socket().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match std::io::Read::read(&mut stream, &mut byte) {
            // Neither closed nor reset: accepted, and waiting for us.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                stream.socket().set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
                let mut ws = Ws::over(stream, "again");
                ws.enter("r");
                return ws;
            }
            _ => assert!(Instant::now() < until, "no place comes back"),
        }
    }
}
