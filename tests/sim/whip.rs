//! WHIP and WHEP sessions and the way of a question between shards: what takes half a minute, and mail in any order.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind};
use str0m::net::{Protocol as Transport, Receive};
use str0m::{Candidate, Event, Input, Rtc, RtcConfig};
use webrtc_engine::auth::{Claims, Grants, Role, RoomScope, Signer, Verifier};
use webrtc_engine::base::{ConnKey, RoomId, UserId, WorkerId};
use webrtc_engine::config::{AuthConfig, Config, Secret, VideoCodec};
use webrtc_engine::http::question::{Question, Reply, Unavailable};
use webrtc_engine::metrics::Metrics;
use webrtc_engine::peer::{PeerConfig, sdp};
use webrtc_engine::shard::{Mail, Output, Shard, ShardConfig};
use webrtc_engine::whip::{self, Fragment, IfMatch, Open, Protocol, Refusal, SessionId, What};

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 5000);

/// Some shards, and mail between them that waits until it is delivered.
struct Cluster {
    now: Instant,
    wall: SystemTime,
    shards: Vec<Shard>,
    addresses: Vec<SocketAddr>,
    mail: Vec<VecDeque<Mail>>,
    replies: Vec<(u32, Reply)>,
    asked: u32,
    signer: Signer,
    verifier: Arc<Verifier>,
    /// To the client.
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
}

impl Cluster {
    fn new(workers: u8, rooms: usize) -> Cluster {
        let secret = Secret::new("Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo");
        let auth = AuthConfig { jwt_secret: Some(secret), ..AuthConfig::default() };
        let verifier = Arc::new(Verifier::new(&auth).expect("a secret verifies"));
        let signer = Signer::new(&auth).expect("the secret is long enough").expect("a secret signs");
        let mut config = Config::default();
        config.limits.rooms = rooms;
        let (config, metrics) = (Arc::new(config), Metrics::new(usize::from(workers)));
        let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let address = |n: u8| SocketAddr::from(([198, 51, 100, 1], 40000 + u16::from(n)));
        let shard = |n: u8| {
            let peer = PeerConfig {
                candidates: vec![address(n)],
                tcp_candidates: Vec::new(),
                video_codecs: vec![VideoCodec::Vp8],
                audio_bitrate: 128_000,
                video_max_bitrate: 2_000_000,
                retransmission_share: 0.25,
                limits: sdp::Limits::default(),
                channels: 16,
                channel_message: 64 * 1024,
                channel_buffer: 1024 * 1024,
            };
            let config = ShardConfig {
                worker: WorkerId(n),
                workers,
                config: config.clone(),
                peer: Arc::new(peer),
                verifier: verifier.clone(),
                metrics: metrics.workers[usize::from(n)].clone(),
                dev_mode: false,
                seed: u64::from(n),
            };
            Shard::new(now, wall, config)
        };
        Cluster {
            now,
            wall,
            shards: (0..workers).map(shard).collect(),
            addresses: (0..workers).map(address).collect(),
            mail: (0..workers).map(|_| VecDeque::new()).collect(),
            replies: Vec::new(),
            asked: 0,
            signer,
            verifier: verifier.clone(),
            datagrams: Vec::new(),
        }
    }

    fn grants(&self, user: &str) -> Grants {
        let user = UserId::new(user).expect("an id");
        let ttl = Duration::from_secs(3600);
        let claims =
            Claims { user, name: None, role: Role::Participant, rooms: RoomScope::Any, permissions: None, ttl };
        self.verifier.verify(&self.signer.mint(&claims, self.wall), self.wall).expect("just minted")
    }

    /// Asks at a shard, without delivering any mail; gives the number of the question.
    fn ask(&mut self, shard: usize, room: &str, what: What) -> u32 {
        self.asked += 1;
        let question = whip::Question { grants: self.grants("camera"), protocol: Protocol::Whip, what };
        let conn = ConnKey { slot: 1, generation: self.asked };
        let room = RoomId::new(room).expect("an id");
        self.shards[shard].handle_question(self.now, conn, self.asked, room, Question::Whip(Box::new(question)));
        self.collect(shard);
        self.asked
    }

    fn open(&mut self, shard: usize, room: &str, offer: &str) -> u32 {
        let user = UserId::new("camera").expect("an id");
        let open = Open { user, offer: offer.to_owned(), is_screen: false, wanted: Vec::new() };
        self.ask(shard, room, What::Open(open))
    }

    fn collect(&mut self, shard: usize) {
        self.shards[shard].flush(self.now);
        while let Some(output) = self.shards[shard].poll_output() {
            match output {
                Output::Mail { to, mail } => self.mail[usize::from(to.0)].push_back(mail),
                Output::Answer { conn, number, reply } => {
                    assert_eq!(conn, ConnKey { slot: 1, generation: number }, "to whom it was asked for");
                    self.replies.push((number, reply));
                }
                other => panic!("nobody here has a socket: {other:?}"),
            }
        }
        while let Some(transmit) = self.shards[shard].poll_transmit() {
            assert_eq!(transmit.destination, CLIENT, "nobody else has shown an address");
            self.datagrams.push((transmit.source, transmit.data));
        }
    }

    /// Delivers one mail to a shard, or finds its mailbox full.
    fn deliver(&mut self, shard: usize, is_full: bool) {
        let Some(mail) = self.mail[shard].pop_front() else { return };
        if is_full {
            // The shard that sent it gets it back; any of them does the same with it but for whose answer it is.
            let sender = match &mail {
                Mail::Ask { .. } => (shard + 1) % self.shards.len(),
                _ => 0,
            };
            match self.shards[sender].handle_undeliverable(mail) {
                Some(mail) => self.mail[shard].push_front(mail),
                None => self.collect(sender),
            }
            return;
        }
        self.shards[shard].handle_mail(self.now, mail);
        self.collect(shard);
    }

    fn settle(&mut self) {
        while let Some(shard) = self.mail.iter().position(|mail| !mail.is_empty()) {
            self.deliver(shard, false);
        }
    }

    fn reply(&mut self, number: u32) -> Reply {
        self.settle();
        let at = self.replies.iter().position(|(n, _)| *n == number).expect("an answer to every question");
        self.replies.swap_remove(at).1
    }

    fn opened(&mut self, shard: usize, room: &str, offer: &str) -> (SessionId, String, String) {
        let number = self.open(shard, room, offer);
        match self.reply(number) {
            Reply::Whip(whip::Reply::Created { id, etag, answer, .. }) => (id, etag, answer),
            other => panic!("not opened: {other:?}"),
        }
    }

    fn is_alive(&mut self, room: &str, id: &SessionId) -> bool {
        let number = self.ask(0, room, What::Look { id: id.clone() });
        match self.reply(number) {
            Reply::Whip(whip::Reply::Alive { .. }) => true,
            Reply::Unavailable(Unavailable::NoRoom) | Reply::Whip(whip::Reply::Refused(Refusal::NoSession)) => false,
            other => panic!("neither alive nor gone: {other:?}"),
        }
    }

    /// Lets time pass for the shards.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = self.shards.iter_mut().filter_map(Shard::poll_timeout).min();
            match next.filter(|next| *next <= until) {
                Some(next) => self.now = next.max(self.now),
                None => break,
            }
            for shard in 0..self.shards.len() {
                self.shards[shard].handle_timeout(self.now);
                self.collect(shard);
            }
            self.settle();
        }
        self.now = until;
    }

    fn rooms(&self) -> usize {
        self.shards.iter().map(Shard::room_count).sum()
    }
}

/// A client of the address that shards may send to.
struct Client {
    rtc: Rtc,
}

impl Client {
    fn new(now: Instant) -> (Client, String, SdpPendingOffer) {
        let mut rtc = RtcConfig::new().set_crypto_provider(Arc::new(str0m_aws_lc_rs::default_provider())).build(now);
        rtc.add_local_candidate(Candidate::host(CLIENT, "udp").expect("a candidate"));
        let mut api = rtc.sdp_api();
        for kind in [MediaKind::Audio, MediaKind::Video] {
            api.add_media(kind, Direction::SendOnly, None, None, None);
        }
        let (offer, pending) = api.apply().expect("changes");
        (Client { rtc }, offer.to_sdp_string(), pending)
    }

    fn accept(&mut self, pending: SdpPendingOffer, answer: &str) {
        let answer: String =
            answer.lines().filter(|line| !line.starts_with("b=")).map(|line| format!("{line}\r\n")).collect();
        let answer = SdpAnswer::from_sdp_string(&answer).expect("an answer");
        self.rtc.sdp_api().accept_answer(pending, answer).expect("accepted");
    }

    /// Sends what it has to send; true when the connection came up.
    fn drain(&mut self, cluster: &mut Cluster) -> bool {
        let mut connected = false;
        loop {
            match self.rtc.poll_output().expect("str0m") {
                str0m::Output::Timeout(_) => return connected,
                str0m::Output::Transmit(t) => {
                    let shard = cluster.addresses.iter().position(|a| *a == t.destination).expect("a shard");
                    cluster.shards[shard].handle_datagram(cluster.now, t.destination, CLIENT, &t.contents);
                    cluster.collect(shard);
                }
                str0m::Output::Event(event) => connected |= matches!(event, Event::Connected),
            }
        }
    }

    /// Talks with the shards for so long; true when the connection came up.
    fn talk(&mut self, cluster: &mut Cluster, time: Duration) -> bool {
        let until = cluster.now + time;
        let mut connected = false;
        while cluster.now < until {
            connected |= self.drain(cluster);
            for (source, data) in std::mem::take(&mut cluster.datagrams) {
                let receive = Receive::new(Transport::Udp, source, CLIENT, &data).expect("a packet");
                self.rtc.handle_input(Input::Receive(cluster.now, receive)).expect("str0m");
                connected |= self.drain(cluster);
            }
            cluster.pass(Duration::from_millis(10));
            self.rtc.handle_input(Input::Timeout(cluster.now)).expect("str0m");
        }
        connected
    }
}

fn any_offer() -> String {
    Client::new(Instant::now()).1
}

#[test]
fn a_session_whose_media_never_comes_goes_after_thirty_seconds() {
    let mut cluster = Cluster::new(3, 2);
    let offer = any_offer();
    // Two rooms on two workers, asked for at a third.
    let rooms = ["a", "b"].map(|room| (room, cluster.opened(2, room, &offer).0));
    assert_eq!((cluster.rooms(), cluster.shards[2].room_count()), (2, 0));
    let refused = cluster.open(1, "c", &offer);
    assert!(matches!(cluster.reply(refused), Reply::Unavailable(Unavailable::TooManyRooms)));
    cluster.pass(Duration::from_secs(29));
    for (room, id) in &rooms {
        assert!(cluster.is_alive(room, id));
        assert!(!cluster.is_alive(room, &SessionId::random()));
    }
    cluster.pass(Duration::from_secs(2));
    assert_eq!(cluster.rooms(), 0);
    for (room, id) in &rooms {
        assert!(!cluster.is_alive(room, id));
    }
    // And the directory knows that both have gone.
    for room in ["c", "d"] {
        cluster.opened(1, room, &offer);
    }
}

#[test]
fn a_session_that_falls_silent_goes_after_thirty_seconds() {
    let mut cluster = Cluster::new(2, 10);
    cluster.opened(0, "other", &any_offer());
    let (mut client, offer, pending) = Client::new(cluster.now);
    let (id, etag, answer) = cluster.opened(0, "r", &offer);
    client.accept(pending, &answer);
    assert!(client.talk(&mut cluster, Duration::from_secs(2)), "the connection comes up");
    client.talk(&mut cluster, Duration::from_secs(40));
    assert!(cluster.is_alive("r", &id), "a client that sends nothing but checks is there");
    // Its last check may be some seconds old.
    cluster.pass(Duration::from_secs(26));
    assert!(cluster.is_alive("r", &id));
    // Words over HTTP do not replace media.
    let fragment = Fragment::parse("a=end-of-candidates").expect("a fragment");
    let what = What::Patch { id: id.clone(), if_match: IfMatch::Tags(vec![etag]), fragment };
    let number = cluster.ask(1, "r", what);
    assert!(matches!(cluster.reply(number), Reply::Whip(whip::Reply::Noted)));
    cluster.pass(Duration::from_secs(5));
    assert!(!cluster.is_alive("r", &id));
    assert_eq!(cluster.rooms(), 0);
}

#[test]
fn draining_is_looked_at_where_the_room_is_as_well() {
    let mut cluster = Cluster::new(2, 1);
    let offer = any_offer();
    // The room will be on the first worker, which hears of the draining while the question is on its way to it.
    let number = cluster.open(1, "r", &offer);
    cluster.shards[0].handle_drain();
    assert!(matches!(cluster.reply(number), Reply::Unavailable(Unavailable::Draining)));
    assert_eq!(cluster.rooms(), 0);
    // At the asking worker too, without a letter.
    let number = cluster.open(0, "r", &offer);
    assert_eq!(cluster.replies.len(), 1);
    assert!(matches!(cluster.reply(number), Reply::Unavailable(Unavailable::Draining)));
}

/// Opens, ends, nonsense, silence and full mailboxes in any order: every question is answered once, rooms never live twice,
/// and when all is over the directory is empty.
#[test]
fn whatever_happens_to_questions_the_directory_is_right() {
    let most = 4;
    let offer = any_offer();
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::new(3, most);
        let mut sessions: Vec<(String, SessionId)> = Vec::new();
        let mut opens: Vec<(u32, String)> = Vec::new();
        let mut asked = 0;
        let mut answered = 0;
        for _ in 0..120 {
            let room = format!("r{}", random.u8(..6));
            let shard = random.usize(..3);
            match random.u8(..10) {
                0..=1 => {
                    opens.push((cluster.open(shard, &room, &offer), room));
                    asked += 1;
                }
                2 => {
                    cluster.open(shard, &room, "v=0");
                    asked += 1;
                }
                3 if !sessions.is_empty() => {
                    let (room, id) = sessions.swap_remove(random.usize(..sessions.len()));
                    cluster.ask(shard, &room, What::End { id });
                    asked += 1;
                }
                4 => {
                    cluster.ask(shard, &room, What::Look { id: SessionId::random() });
                    asked += 1;
                }
                _ => cluster.deliver(shard, random.u8(..8) == 0),
            }
            for (number, reply) in cluster.replies.drain(..) {
                answered += 1;
                let at = opens.iter().position(|(n, _)| *n == number);
                let room = at.map(|at| opens.swap_remove(at).1);
                match (room, reply) {
                    (Some(room), Reply::Whip(whip::Reply::Created { id, .. })) => sessions.push((room, id)),
                    (None, Reply::Whip(whip::Reply::Created { .. })) => panic!("nobody asked for it"),
                    _ => {}
                }
            }
            let mut names: Vec<&str> = sessions.iter().map(|(room, _)| room.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert!(cluster.rooms() <= most && cluster.rooms() >= names.len().saturating_sub(asked - answered));
        }
        cluster.settle();
        answered += cluster.replies.len();
        assert_eq!(answered, asked, "seed {seed}: every question is answered once");
        cluster.replies.clear();
        // Whatever was opened and not ended has no media, and goes.
        cluster.pass(Duration::from_secs(31));
        assert_eq!(cluster.rooms(), 0, "seed {seed}");
        for n in 0..most {
            cluster.opened(random.usize(..3), &format!("new{n}"), &offer);
        }
        assert_eq!(cluster.rooms(), most, "seed {seed}: a room is kept by nobody");
    }
}
