//! Media over TCP on the HTTP port (RFC 6544, RFC 4571).

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use webrtc_engine::auth::Role;

use crate::harness::caller::{Caller, Framed, Wire, answers, framed, until};
use crate::harness::client::Versions;
use crate::harness::{DEADLINE, Http, Server, Setup, Stream, Ws, token};

const TLS13: Versions = &[&rustls::version::TLS13];

/// Frames of another that prove a call.
const ENOUGH: usize = 20;

#[test]
fn calls_over_tcp() {
    let setup = |workers: usize, ip: &str| {
        Setup::new().env("WORKERS", workers).env("HOST", ip).env("RTC_ANNOUNCED_IPS", ip).start()
    };
    // Row: workers, address, connections that certainly have to move.
    for (workers, ip, moves) in [(1, "127.0.0.1", 0), (4, "127.0.0.1", 1), (2, "::1", 0)] {
        let server = setup(workers, ip);
        let wires: Vec<Ws> = (0..8).map(|n| join(&server, n)).collect();
        let moved = server.count("connectionsMovedIn");
        // Four rooms of two, so that not everybody is where the room is by chance.
        let offer = |(n, ws)| Caller::offer(ws, vec![Wire::tcp(&server)]).voice(b'a' + n as u8);
        let mut callers: Vec<Caller> = wires.into_iter().enumerate().map(offer).collect();
        let mut all: Vec<&mut Caller> = callers.iter_mut().collect();
        until("everybody hears the other", &mut all, |all| {
            all.iter().enumerate().all(|(n, caller)| caller.heard_of(b'a' + (n as u8 ^ 1)) >= ENOUGH)
        });
        for (n, caller) in callers.iter().enumerate() {
            assert!(caller.heard.keys().all(|voice| *voice == b'a' + (n as u8 ^ 1)), "only the other is heard");
        }
        assert!(server.count("connectionsMovedIn") - moved >= moves, "some were accepted elsewhere");
        assert_eq!(server.count("mediaConnections"), 8);
        assert_eq!(server.count("panics") + server.count("mediaConnectionsRefused"), 0);
        drop(callers);
        server.wait_for_stats("none", |stats| sum(stats, "mediaConnections") == 0);
    }
}

fn join(server: &Server, n: usize) -> Ws {
    let mut ws = Ws::connect(server, &format!("u{n}"));
    ws.send(json!({"type": "join", "roomId": format!("r{}", n / 2), "data": {"receive": "slots"}}));
    ws.expect("joined");
    ws
}

/// Asks for statistics on one connection, so that asking changes none of them.
struct Root(Http);

impl Root {
    fn connect(server: &Server) -> Root {
        let mut root = Root(Http::connect(server));
        root.count("connections");
        root
    }

    fn count(&mut self, counter: &str) -> u64 {
        let token = token("root", Role::Admin);
        sum(&self.0.get("/stats", &[&format!("Authorization: Bearer {token}")]).json(), counter)
    }

    fn wait_for(&mut self, counter: &str, wanted: u64) {
        let until = Instant::now() + DEADLINE;
        loop {
            let count = self.count(counter);
            if count == wanted {
                return;
            }
            assert!(Instant::now() < until, "{counter} is {count}, never {wanted}");
        }
    }
}

fn sum(stats: &serde_json::Value, counter: &str) -> u64 {
    stats["workers"].as_array().unwrap().iter().map(|worker| worker[counter].as_u64().expect("a counter")).sum()
}

#[test]
fn candidates_are_where_http_listens() {
    // Row: HOST, RTC_ANNOUNCED_IPS, addresses with UDP, addresses with TCP.
    let rows = [
        ("127.0.0.1", "127.0.0.1", 1, vec!["127.0.0.1"]),
        ("127.0.0.1", "127.0.0.1,::1", 2, vec!["127.0.0.1"]),
        ("127.0.0.1", "192.0.2.7/127.0.0.1,::1", 2, vec!["192.0.2.7"]),
        ("0.0.0.0", "192.0.2.7/127.0.0.1,127.0.0.1,::1", 3, vec!["192.0.2.7", "127.0.0.1"]),
        ("::1", "127.0.0.1", 1, vec![]),
        ("::", "127.0.0.1,::1", 2, vec!["127.0.0.1", "::1"]),
    ];
    for (host, announced, udp, tcp) in rows {
        let server = Setup::new().env("HOST", host).env("RTC_ANNOUNCED_IPS", announced).start();
        let port = server.address().port();
        let caller = Caller::offer(join(&server, 0), vec![Wire::udp("127.0.0.1")]);
        let first = caller.answer.split("\r\nm=").nth(1).expect("an m-line");
        let candidates: Vec<Vec<&str>> = first
            .lines()
            .filter_map(|line| line.strip_prefix("a=candidate:"))
            .map(|line| line.split(' ').collect())
            .collect();
        let of = |protocol: &str| candidates.iter().filter(|c| c[2] == protocol).cloned().collect::<Vec<_>>();
        let priority = |c: &Vec<&str>| c[3].parse::<u32>().unwrap();
        assert_eq!(of("udp").len(), udp, "{candidates:?}");
        let mut wanted: Vec<String> = tcp.iter().map(|ip| format!("{ip} {port} typ host tcptype passive")).collect();
        let mut found: Vec<String> = of("tcp").iter().map(|c| c[4..10].join(" ")).collect();
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted, "HOST {host}, announced {announced}");
        let least = of("udp").iter().map(priority).min().unwrap();
        assert!(of("tcp").iter().all(|c| priority(c) < least), "UDP is better: {candidates:?}");
    }
}

/// Answers to checks show what was understood.
#[test]
fn frames_are_understood_however_they_are_cut() {
    let server = Setup::new().start();
    let caller = Caller::join(&server, "ann", "r", vec![Wire::udp("127.0.0.1")]);
    let bytes = framed(&caller.credentials.check(1, false));
    // A turn of the loop between the parts: with one worker, what was sent before a request is read before it is answered.
    let mut turn = Http::connect(&server);
    for cut in 1..bytes.len() {
        let mut wire = Framed::connect(server.address());
        wire.send_raw(&bytes[..cut]);
        assert_eq!(turn.get("/healthz", &[]).status, 200);
        wire.send_raw(&bytes[cut..]);
        assert!(answers(&wire.receive().expect("an answer"), 1), "cut at {cut}");
        // Now that it is verified, across the boundary of two frames.
        let two = [framed(&caller.credentials.check(2, false)), framed(&caller.credentials.check(3, false))].concat();
        let cut = cut + bytes.len() / 2;
        wire.send_raw(&two[..cut]);
        assert_eq!(turn.get("/healthz", &[]).status, 200);
        wire.send_raw(&two[cut..]);
        for number in [2, 3] {
            assert!(answers(&wire.receive().expect("an answer"), number), "cut at {cut}");
        }
    }
    // Each byte in a segment of its own; several frames in one, with empty ones between.
    let mut wire = Framed::connect(server.address());
    for byte in &bytes {
        wire.send_raw(&[*byte]);
    }
    assert!(answers(&wire.receive().expect("an answer"), 1));
    let many: Vec<u8> = (1..=50)
        .flat_map(|number| [framed(&[]), framed(&caller.credentials.check(number, false)), framed(&[])].concat())
        .collect();
    wire.send_raw(&many);
    for number in 1..=50 {
        assert!(answers(&wire.receive().expect("an answer"), number));
    }
    assert_eq!(server.count("mediaConnectionsRefused"), 0);
}

#[test]
fn what_is_no_check_for_somebody_here_is_closed_in_silence() {
    for workers in [1, 4] {
        let server = Setup::new().env("WORKERS", workers).start();
        let caller = Caller::join(&server, "ann", "r", vec![Wire::udp("127.0.0.1")]);
        let check = caller.credentials.check(1, false);
        let mut response = check.clone();
        response[0..2].copy_from_slice(&[1, 1]);
        let anonymous = [&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42][..], &[9; 12], &[0x80, 0x22, 0, 4, 1, 2, 3, 4]].concat();
        let openings = [
            vec![0],
            vec![0, 0, 0, 0],
            vec![5, 0xdd],
            vec![5, 0xff, 0xff],
            vec![0, 20, 0, 1, 0, 0],
            vec![0, 100, 0x80, 96],
            [vec![0, 100, 22, 0xfe, 0xfd], vec![0; 97]].concat(),
            framed(&response),
            framed(&check[..check.len() - 4]),
            framed(&anonymous),
            framed(&caller.credentials.clone().for_nobody().check(1, true)),
        ];
        for opening in &openings {
            let mut wire = Framed::connect(server.address());
            wire.send_raw(opening);
            if opening.len() == 1 {
                // It could still become something.
                wire.send_raw(&[0]);
            }
            assert!(wire.is_closed_in_silence(), "{opening:?}");
        }
        server.wait_for_stats("that all were refused", |stats| {
            sum(stats, "mediaConnectionsRefused") == openings.len() as u64
        });
        assert_eq!((server.count("mediaConnections"), server.count("datagramsOut")), (0, 0));
    }
}

/// A connection that was with several workers is counted by the one that has it, and by none when it is gone.
#[test]
fn places_of_an_address_are_free_again_after_a_round() {
    let server = Setup::new().env("WORKERS", 4).env("LIMIT_UNAUTHENTICATED_PER_ADDRESS", 16).start();
    let caller = Caller::join(&server, "ann", "r", vec![Wire::udp("127.0.0.1")]);
    let stray = caller.credentials.clone().for_nobody().check(1, true);
    for _ in 0..100 {
        let mut wire = Framed::connect(server.address());
        wire.send(&stray);
        assert!(wire.is_closed_in_silence());
    }
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut wire = Framed::connect(server.address());
        wire.send(&caller.credentials.check(1, false));
        assert!(wire.receive().is_some(), "it finds its worker");
        // The last few; more addresses than that a participant does not keep.
        held.truncate(4);
        held.insert(0, wire);
    }
    assert_eq!(server.count("mediaConnectionsRefused"), 100);
    assert!(server.count("connectionsMovedIn") > 100);
}

#[test]
fn a_frame_that_is_too_long_ends_a_good_connection() {
    let server = Setup::new().start();
    let caller = Caller::join(&server, "ann", "r", vec![Wire::udp("127.0.0.1")]);
    let mut wire = Framed::connect(server.address());
    wire.send(&caller.credentials.check(1, false));
    assert!(wire.receive().is_some());
    wire.send(&[0; 1500]);
    wire.send(&caller.credentials.check(2, false));
    assert!(wire.receive().is_some(), "so much is allowed");
    wire.send(&[0; 1501]);
    assert!(wire.is_closed_in_silence());
    server.wait_for_stats("none", |stats| sum(stats, "mediaConnections") == 0);
}

#[test]
fn what_is_not_verified_is_counted_and_ends() {
    let server = Setup::new().env("LIMIT_UNAUTHENTICATED_PER_ADDRESS", 5).env("LIMIT_HEAD_TIMEOUT", "1s").start();
    let caller = Caller::join(&server, "ann", "r", vec![Wire::udp("127.0.0.1")]);
    let mut root = Root::connect(&server);
    let forged = caller.credentials.clone().with_password("not the password, though long");
    let mut good: Vec<Framed> = (0..8)
        .map(|_| {
            let mut wire = Framed::connect(server.address());
            wire.send(&caller.credentials.check(1, false));
            assert!(answers(&wire.receive().expect("an answer"), 1));
            wire
        })
        .collect();
    root.wait_for("mediaConnections", 8);
    // Nothing, a part of a frame, and a check that proves nothing: one by one as many as may be.
    let check = framed(&forged.check(1, true));
    let mut bad: Vec<Framed> = Vec::new();
    for opening in [&check[..], &check[..7], &[], &check[..1]] {
        let mut wire = Framed::connect(server.address());
        wire.send_raw(opening);
        bad.push(wire);
    }
    root.wait_for("connections", 8 + 4 + 2);
    assert!(Stream::connect(server.address()).is_closed_by_server(), "one too many");
    // Time ends them, and their places are free.
    for wire in &mut bad {
        assert!(wire.is_closed_in_silence());
    }
    root.wait_for("connections", 8 + 2);
    assert_eq!(root.count("mediaConnectionsRefused"), 3, "one never said what it was");
    for wire in &mut good {
        wire.send(&caller.credentials.check(2, false));
        assert!(answers(&wire.receive().expect("an answer"), 2));
    }
    // Too many packets end it sooner.
    let mut wire = Framed::connect(server.address());
    for _ in 0..64 {
        wire.send(&forged.check(1, true));
    }
    assert!(wire.is_closed_in_silence());
}

#[test]
fn http_and_tls_go_on_beside_it() {
    for tls in [false, true] {
        let server = Setup::new().env("WORKERS", 2).env("TLS_SELF_SIGNED", tls).start();
        let open = || match tls {
            true => Stream::connect_tls(server.address(), usize::MAX, TLS13),
            false => Stream::connect(server.address()),
        };
        let mut callers: Vec<Caller> = (0..2)
            .map(|n| {
                let mut ws = Ws::over(open(), &format!("u{n}"));
                ws.send(json!({"type": "join", "roomId": "r", "data": {"receive": "slots"}}));
                ws.expect("joined");
                Caller::offer(ws, vec![Wire::tcp(&server)]).voice(b'a' + n)
            })
            .collect();
        let mut all: Vec<&mut Caller> = callers.iter_mut().collect();
        let mut requests = 0;
        until("both hear", &mut all, |all| {
            if requests < 10 {
                requests += 1;
                assert_eq!(Http::over(open()).get("/client.js", &[]).status, 200);
            }
            requests == 10 && all[0].heard_of(b'b') >= ENOUGH && all[1].heard_of(b'a') >= ENOUGH
        });
        callers[0].ws.ping_among_others();
        let mut root = Root(Http::over(open()));
        assert_eq!((root.count("mediaConnections"), root.count("mediaConnectionsRefused")), (2, 0));
    }
}

/// Media follows the nomination that came last.
#[test]
fn a_client_changes_between_its_connections_and_udp() {
    let server = Setup::new().env("WORKERS", 2).start();
    let mut ann = Caller::join(&server, "ann", "r", vec![Wire::udp("127.0.0.1")]).voice(b'a');
    let mut bob = Caller::join(&server, "bob", "r", vec![Wire::udp("127.0.0.1")]).voice(b'b');
    until("both hear", &mut [&mut ann, &mut bob], |all| all.iter().all(|caller| !caller.heard.is_empty()));
    let is_named = |a: &&SocketAddr| ann.answer.contains(&format!(" {} {} typ host", a.ip(), a.port()));
    let udp_address = server.media.iter().copied().find(|a| is_named(&a)).expect("the worker's own socket");
    let first = ann.add_wire(Wire::tcp(&server));
    let second = ann.add_wire(Wire::tcp(&server));
    for wire in [first, second, 0, first, 0, second] {
        ann.nominate(wire, udp_address);
        let (media, heard) = (ann.media[wire], ann.heard_of(b'b'));
        until("media comes on the one that was nominated", &mut [&mut ann, &mut bob], |all| {
            // str0m goes on nominating the pair it knows.
            let again = all[0].media[wire] == media;
            if again {
                all[0].nominate(wire, udp_address);
            }
            all[0].media[wire] >= media + 3 && all[0].heard_of(b'b') >= heard + 3
        });
    }
    // Its end changes nothing for the others.
    let Wire::Tcp(_) = ann.wires.remove(second) else { panic!("a connection") };
    server.wait_for_stats("one", |stats| sum(stats, "mediaConnections") == 1);
    let heard = ann.heard_of(b'b');
    ann.nominate(first, udp_address);
    until("media goes on", &mut [&mut ann, &mut bob], |all| all[0].heard_of(b'b') >= heard + ENOUGH);
}

#[test]
fn connections_end_with_their_owner() {
    let server = Setup::new().env("WORKERS", 2).start();
    let mut ann = Caller::join(&server, "ann", "r", vec![Wire::tcp(&server)]).voice(b'a');
    let mut bob = Caller::join(&server, "bob", "r", vec![Wire::tcp(&server)]).voice(b'b');
    until("both hear", &mut [&mut ann, &mut bob], |all| all.iter().all(|caller| !caller.heard.is_empty()));
    ann.ws.send(json!({"type": "leave"}));
    until(
        "the connection is closed",
        &mut [&mut ann, &mut bob],
        |all| matches!(&all[0].wires[0], Wire::Tcp(framed) if framed.is_closed),
    );
    server.wait_for_stats("one", |stats| sum(stats, "mediaConnections") == 1);
    // And when the server ends.
    server.signal(libc::SIGTERM);
    server.wait_for_log("draining", 1);
    server.signal(libc::SIGTERM);
    let Wire::Tcp(framed) = &mut bob.wires[0] else { panic!("a connection") };
    while framed.receive().is_some() {}
}

/// A client that does not read gets the newest and, when it does not for long, nothing more; the others do not notice.
#[test]
fn a_slow_reader_is_dropped_and_nobody_else_notices() {
    let server = Setup::new().env("LIMIT_WRITE_TIMEOUT", "1s").start();
    let small = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    small.set_recv_buffer_size(4096).unwrap();
    small.connect(&server.address().into()).unwrap();
    let slow = Wire::Tcp(Framed::over(TcpStream::from(small)));
    let mut slow = Caller::join(&server, "slow", "r", vec![slow]).voice(b's');
    let mut good = Caller::join(&server, "good", "r", vec![Wire::tcp(&server)]).voice(b'g');
    let mut loud = Caller::join(&server, "loud", "r", vec![Wire::udp("127.0.0.1")]).voice(b'l');
    let is_heard = |all: &mut [&mut Caller]| all[0].heard_of(b'l') >= 3 && all[1].heard_of(b'l') >= 3;
    until("the loud one is heard", &mut [&mut slow, &mut good, &mut loud], is_heard);
    (loud.octets, loud.every) = (1100, Duration::from_millis(2));
    slow.is_deaf = true;
    let heard = good.heard_of(b'l');
    let mut asked = Instant::now();
    until("the connection is closed", &mut [&mut slow, &mut good, &mut loud], |_| {
        if asked.elapsed() < Duration::from_millis(100) {
            return false;
        }
        asked = Instant::now();
        server.count("mediaConnections") == 1
    });
    assert!(server.count("sendsDropped") > 0, "more was sent than may wait");
    assert!(good.heard_of(b'l') > heard + ENOUGH, "{} frames", good.heard_of(b'l') - heard);
    slow.ws.ping_among_others();
}
