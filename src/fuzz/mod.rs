//! The bodies of the fuzz targets in `fuzz/`: each takes arbitrary bytes and panics when something does not hold.
//!
//! Compiled for fuzzing, and for unit tests, which run every body over its seeds and over mutations of them. A body asserts
//! more than survival where there is more to say: the same bytes in other pieces, round trips, models, invariants.
//!
//! Bytes are read as operations by [`Source`], so that a seed can be written by hand and nothing more is linked.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::io::Cursor;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde::de::IgnoredAny;
use serde_json::Value;
use str0m::format::Codec;
use str0m::media::{MediaKind, Rid};
use str0m::rtp::ExtensionValues;

use crate::auth::{Claims, Grants, LEEWAY, NAME_LENGTH_MAX, Permissions, Role, RoomScope, Signer, Verifier};
use crate::base::limit::TokenBucket;
use crate::base::wheel::Wheel;
use crate::base::{Class, ConnKey, ParticipantKey, RoomId, TrackId, UserId, WorkerId};
use crate::config::{AuthConfig, Config, Secret, VideoCodec};
use crate::frames::{self, FRAME_MAX, PACKET_MAX};
use crate::http;
use crate::metrics::Metrics;
use crate::p2p;
use crate::peer::{self, Change, Peer, PeerConfig, Sink, red};
use crate::room::{self, Joiner, Kind, LeaveReason, Room, TrackMeta};
use crate::sfu::{DependencyDescriptor, Event, Layer, LayerInfo, Target};
use crate::sfu::{Forward, Incoming, Sfu, SfuConfig, Slot, codec, dependency, vp9};
use crate::shard::demux;
use crate::shard::{Mail, Output, Shard, ShardConfig};
use crate::signal::json;
use crate::signal::message::{self, Body};
use crate::signal::session::Session;
use crate::webm;
use crate::whip;
use crate::ws;

mod library;
mod recording;
mod upload;

pub use library::{http_range, manifest};
pub use recording::{recording_frames, recording_ops};
pub use upload::upload_queue;

/// A request stream: the pieces in which it comes make no difference, and what is refused ends it.
pub fn http_request(data: &[u8]) {
    let tight = http::Limits { request_line: 40, head: 120, headers: 4, body: 24, sdp: 30, ..http::Limits::default() };
    for limits in [http::Limits::default(), tight] {
        let whole = http_polls(&limits, [data].into_iter());
        let split = http_polls(&limits, pieces(data));
        assert_eq!(whole, split, "in pieces as at once");
        for poll in &whole {
            let http::Poll::Request(request) = poll else { continue };
            assert!(request.path.starts_with('/') || request.path == "*");
            assert!(!request.path.chars().any(char::is_control));
            assert!(request.body.len() <= limits.body_max(&request.headers) && request.headers.len() <= limits.headers);
            assert!(request.target.len() <= limits.request_line);
            let _ = (request.host(), request.bearer(), request.query_param("token"));
            match ws::accept(request) {
                Ok(accept) => assert!(accept.response("id").ends_with(b"\r\n\r\n")),
                Err(error) => drop(error.response()),
            }
            let _ = http::decode_segment(&request.path);
        }
    }
}

/// What the machine says, each request being answered at once, without the interim answers, which depend on timing.
fn http_polls<'a>(limits: &http::Limits, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<http::Poll> {
    let now = start();
    let mut connection = http::Connection::new(now, limits);
    let mut said = Vec::new();
    for piece in pieces {
        connection.handle_bytes(now, piece);
        loop {
            match connection.poll(now) {
                http::Poll::Pending => break,
                http::Poll::Continue => {}
                http::Poll::Request(request) => {
                    let keep_alive = connection.keep_alive();
                    said.push(http::Poll::Request(request));
                    connection.response_sent(now, keep_alive);
                }
                last => {
                    said.push(last);
                    assert_eq!(connection.poll(now), http::Poll::Pending, "done is done");
                    assert!(!connection.wants_read());
                    return said;
                }
            }
        }
    }
    if let Some(deadline) = connection.poll_timeout() {
        connection.handle_timeout(deadline);
        assert!(matches!(connection.poll(deadline), http::Poll::Close | http::Poll::Refuse(_)), "time ends it");
    }
    said
}

/// A client's side of a WebSocket: the pieces make no difference, sizes hold, and what we write are whole frames.
pub fn ws_frames(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (before, after) = (usize::from(first >> 4) * 16, usize::from(first & 15) * 64);
    let whole = ws_events(before, after, [data].into_iter());
    let split = ws_events(before, after, pieces(data));
    assert_eq!(whole, split, "in pieces as at once");
}

fn ws_events<'a>(before: usize, after: usize, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<ws::Event> {
    let now = start();
    let mut socket = ws::Ws::new(now, ws::Limits { message: before, ..ws::Limits::default() });
    let (mut events, mut written, mut most) = (Vec::new(), Vec::new(), before);
    for piece in pieces {
        socket.handle_bytes(now, piece);
        while let Some(event) = socket.poll_event(now) {
            if let ws::Event::Text(text) = &event {
                assert!(text.len() <= most, "{} bytes where {most} are allowed", text.len());
                most = after;
                socket.set_max_message(after);
                assert_eq!(socket.send(text.clone()), Ok(()));
            }
            events.push(event);
        }
        socket.take_output(&mut written);
    }
    while let Some(at) = socket.poll_timeout() {
        socket.handle_timeout(at);
        while socket.poll_event(at).is_some() {}
        socket.take_output(&mut written);
    }
    assert!(socket.is_closed() && !socket.wants_read());
    let mut rest = written.as_slice();
    while let [head, length, after @ ..] = rest {
        assert!(head & 0x70 == 0 && length & 0x80 == 0, "no extension, and a server does not mask");
        let (length, after) = match (length & 0x7f, after) {
            (126, [a, b, after @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), after),
            (127, _) => panic!("nothing is that long"),
            (length, after) => (usize::from(length), after),
        };
        rest = &after[length..];
    }
    assert!(rest.is_empty());
    events
}

/// One text frame: what is taken is JSON, what is JSON is not called a fault of syntax, and every answer is JSON.
pub fn signal_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match json::outline(text, 32, 256) {
        Ok(_) => assert!(is_json, "the outline takes what is no JSON"),
        Err(json::Fault::Syntax(at)) => assert!(!is_json, "the outline refuses JSON at {at}"),
        Err(_) => {}
    }
    let limits = crate::signal::Limits::default();
    match message::parse(text, &limits) {
        Ok(request) => {
            assert!(serde_json::from_str::<Value>(text).is_ok());
            let user = request.user.as_deref();
            let id = request.id.as_ref();
            let encoded = match &request.body {
                Body::Chat { text } => {
                    message::encode("chat", request.room.as_ref(), user, id, message::ChatData { text })
                }
                _ => message::encode("pong", request.room.as_ref(), user, id, message::Empty {}),
            };
            let value: Value = serde_json::from_str(&encoded).expect("what we write is JSON");
            assert_eq!(value.get("userId").and_then(Value::as_str), user);
            if let Some(id) = id {
                let echoed = value.get("id").expect("an id is echoed");
                assert_eq!(*echoed, serde_json::from_str::<Value>(id.as_json()).expect("an id is JSON"));
            }
            for raw in [request.data.as_ref(), join_metadata(&request.body)].into_iter().flatten() {
                assert!(serde_json::from_str::<Value>(raw.get()).is_ok(), "what is passed on is JSON");
            }
        }
        Err(reject) => {
            let error = message::encode_error(None, reject.id.as_ref(), reject.code, &reject.message);
            let value: Value = serde_json::from_str(&error).expect("an error is JSON");
            assert_eq!(value["type"], "error");
        }
    }
}

fn join_metadata(body: &Body) -> Option<&message::RawValue> {
    match body {
        Body::Join(join) => join.metadata.as_ref(),
        Body::Data(value) => Some(value),
        _ => None,
    }
}

/// A token as it comes; and, when the bytes begin like JSON, the claims of one that is signed with the right key.
pub fn jwt(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let keys = keys();
    let now = wall();
    let token = if text.starts_with('{') {
        let head = base64url(br#"{"alg":"HS256","typ":"JWT"}"#);
        let message = format!("{head}.{}", base64url(text.as_bytes()));
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
        format!("{message}.{}", signature.expect("HS256 signs anything"))
    } else {
        text.to_owned()
    };
    let Ok(grants) = keys.verifier.verify(&token, now) else { return };
    assert!(text.starts_with('{'), "nobody has the key");
    assert!(grants.expires_at() + LEEWAY > now);
    if let Some(name) = grants.name() {
        assert!(!name.is_empty() && name.chars().count() <= NAME_LENGTH_MAX && !name.chars().any(char::is_control));
    }
    let claims = Claims {
        user: grants.user().clone(),
        name: grants.name().map(str::to_owned),
        role: grants.role(),
        rooms: grants.rooms().clone(),
        permissions: None,
        ttl: Duration::from_secs(60),
    };
    let minted = keys.signer.mint(&claims, now);
    let again = keys.verifier.verify(&minted, now);
    // A list of many rooms may make a token that is longer than the one it came from.
    if minted.len() <= crate::auth::TOKEN_SIZE_MAX {
        let again = again.expect("what was granted can be granted");
        assert_eq!((again.user(), again.name(), again.role()), (grants.user(), grants.name(), grants.role()));
        assert_eq!(again.rooms(), grants.rooms());
    }
}

/// A description that the guard lets pass goes through a fresh peer, then a second offer, our offer and a bad answer.
pub fn sdp_guard(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(summary) = peer::sdp::check(text, &peer::sdp::Limits::default()) else { return };
    fastrand::seed(1);
    let now = start();
    let mut sink = Sink::default();
    let mut peer = Peer::new(now, peer_config());
    if let Ok(answer) = peer.handle_offer(now, text, &mut sink) {
        let answered = peer::sdp::check(&answer, &peer::sdp::Limits::default()).expect("our own answer passes");
        let mids = |s: &peer::sdp::Summary| s.lines.iter().map(|l| l.mid_text.clone()).collect::<Vec<_>>();
        assert_eq!(mids(&answered), mids(&summary), "an answer has the lines of its offer");
        let _ = peer.handle_offer(now, text, &mut sink);
    }
    peer.flush(now, &mut sink);
    let changes = [Change::Add(MediaKind::Video, str0m::media::Direction::SendOnly)];
    if let Ok(Some(offer)) = peer.create_offer(now, 1, &changes, false, &mut sink) {
        assert!(peer::sdp::check(&offer.sdp, &peer::sdp::Limits::default()).is_ok(), "our own offer passes");
        let _ = peer.handle_answer(now, Some(offer.id), text, &mut sink);
    }
    peer.flush(now + Duration::from_secs(1), &mut sink);
    no_panic(&sink);
}

fn no_panic(sink: &Sink) {
    assert!(!sink.events.iter().any(|e| matches!(e, peer::Event::Panicked)), "str0m panicked");
}

/// The offer of a WHIP or WHEP client: in shape it stays in shape, and what is answered is answered whole.
pub fn whip_offer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for protocol in [whip::Protocol::Whip, whip::Protocol::Whep] {
        let Ok(offer) = whip::Offer::new(protocol, text) else { continue };
        assert_eq!(whip::Offer::new(protocol, &offer.sdp).as_ref(), Ok(&offer), "once in shape it stays so");
        assert!(!offer.lines.is_empty() && offer.sdp.len() <= text.len() + 16 * text.lines().count() + 16);
        fastrand::seed(1);
        let (now, mut sink) = (start(), Sink::default());
        let mut peer = Peer::new(now, peer_config());
        if let Ok(answer) = peer.handle_offer(now, &offer.sdp, &mut sink)
            && let Ok(finished) = offer.finish(protocol, &answer)
        {
            assert!(peer.lines().iter().all(|line| match protocol {
                whip::Protocol::Whip => !line.sends,
                whip::Protocol::Whep => !line.receives,
            }));
            let used = |line: &peer::Line| line.sends || line.receives;
            assert_eq!(peer.lines().iter().filter(|line| used(line)).count(), offer.lines.len());
            assert!(peer::sdp::check(&finished, &peer::sdp::Limits::default()).is_ok(), "our own answer passes");
            whip::Fragment::parse(&whip::fragment_of(&finished)).expect("our own fragment passes");
        }
        no_panic(&sink);
    }
}

/// A fragment of a WHIP or WHEP client: line ends do not matter, and whatever it says only credentials change in the offer.
pub fn sdp_frag(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = whip::Fragment::parse(text);
    let Ok(fragment) = parsed else { return };
    let other_ends = text.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    assert_eq!(whip::Fragment::parse(&other_ends).as_ref(), Ok(&fragment));
    assert!(fragment.candidates <= text.lines().count());
    let offer = whip::Offer::new(whip::Protocol::Whip, WHIP_OFFER).expect("an offer");
    let bucket = TokenBucket::new(start(), 1, 10);
    let bounds = whip::Bounds { patches: bucket.clone(), restarts: bucket, candidates: 8 };
    let user = UserId::new("a").expect("an id");
    let mut session = whip::Session::new(whip::SessionId::random(), whip::Protocol::Whip, user, &offer, bounds);
    let first = session.etag();
    match session.handle_patch(start(), &whip::IfMatch::Any, &fragment) {
        Ok(whip::Patch::Restart { offer: restart }) => {
            assert!(fragment.candidates <= 8);
            assert_eq!(restart.lines().count(), offer.sdp.lines().count());
            let changed = restart.lines().zip(offer.sdp.lines()).filter(|(new, old)| new != old);
            assert!(changed.clone().all(|(new, old)| {
                ["a=ice-ufrag:", "a=ice-pwd:"].iter().any(|name| new.starts_with(name) && old.starts_with(name))
            }));
            assert!(changed.count() >= 1);
            session.restarted(&fragment);
            assert_ne!(session.etag(), first);
        }
        Ok(whip::Patch::Noted) => assert!(fragment.ufrag.is_none_or(|ufrag| ufrag == offer.credentials.ufrag)),
        Err(_) => assert_eq!(session.etag(), first),
    }
}

const WHIP_OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    a=fingerprint:sha-256 AA:BB\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\na=sendonly\r\na=rtpmap:111 opus/48000/2\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=ice-ufrag:abcd\r\n\
    a=ice-pwd:0123456789abcdefghijkl\r\na=sendonly\r\na=rtpmap:96 VP8/90000\r\n";

/// A candidate line: both readers agree, and what the server uses can be sent to.
pub fn ice_candidate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let server = p2p::server_candidate(text);
    assert_eq!(p2p::check_candidate(text), server.map(drop));
    if server.is_ok() {
        // One line, which may have its end.
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        assert!(text.len() <= p2p::CANDIDATE_BYTES_MAX && !line.contains(['\r', '\n', '\0']));
    }
    if let Ok(Some(candidate)) = server {
        let ip = candidate.addr.ip();
        assert!(candidate.addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast());
    }
}

/// A datagram of anybody: its kind follows from its first byte, and a user name is a part of it.
pub fn demux(data: &[u8]) {
    match demux::classify(data) {
        demux::Kind::Check(ufrag) => {
            assert!(data[0] < 2 && data.len() >= 20 && !ufrag.contains(&b':'));
            assert!(data.as_ptr_range().contains(&ufrag.as_ptr()) && ufrag.len() < data.len());
        }
        demux::Kind::Media => assert!(matches!(data[0], 20..=63 | 128..=191)),
        demux::Kind::Other => {}
    }
}

/// Framed packets: as read, the pieces make no difference and everything comes out once; as queued, they are those that a
/// simple model keeps.
pub fn frames(data: &[u8]) {
    let whole = framed_packets([data].into_iter());
    let split = framed_packets(pieces(data));
    assert_eq!(whole, split, "in pieces as at once");
    let (packets, error, rest) = whole;
    let read: usize = packets.iter().map(|p| p.len() + 2).sum();
    assert!(read + rest <= data.len(), "no more comes out than went in");
    if error.is_none() {
        assert!(rest < FRAME_MAX, "a whole packet was left");
    }
    frame_queue(data);
}

/// The packets, what ended them, and how many octets were left.
fn framed_packets<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<frames::Error>, usize) {
    let (mut reader, mut opener) = (frames::Reader::default(), frames::Reader::default());
    let (mut packets, mut error) = (Vec::new(), None);
    let mut refused = false;
    for piece in pieces {
        opener.handle_bytes(piece);
        match opener.opening() {
            Ok(None) => assert!(!refused && opener.buffered() < FRAME_MAX),
            Ok(Some(first)) => assert!(!refused && matches!(first, [0, 1, ..]) && first.len() >= 24),
            Err(_) => refused = true,
        }
        reader.handle_bytes(piece);
        loop {
            match reader.poll() {
                Ok(Some(packet)) => packets.push(packet.to_vec()),
                Ok(None) => break,
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
    }
    let first = opener.opening();
    match first {
        Ok(Some(first)) => assert_eq!(first, packets[0], "it opens with its first packet"),
        Ok(None) | Err(_) => assert_eq!(first.is_err(), refused),
    }
    (packets, error, reader.buffered())
}

fn frame_queue(data: &[u8]) {
    let mut source = Source(data);
    let max = 64 + source.number() as usize % 8192;
    let mut writer = frames::Writer::new(max);
    let mut model: VecDeque<(Class, Vec<u8>)> = VecDeque::new();
    let mut dropped = 0;
    let mut serial = 0_u8;
    while let Some(op) = source.byte() {
        if op < 40 {
            let mut out = Vec::new();
            let enough = usize::from(op) * 64;
            writer.fill(&mut out, enough);
            let mut reader = frames::Reader::default();
            reader.handle_bytes(&out);
            let mut size = 0;
            while let Some(packet) = reader.poll().expect("what we write can be read") {
                assert!(size < enough, "more than enough");
                size += 2 + packet.len();
                assert_eq!(Some(packet), model.pop_front().map(|m| m.1).as_deref());
            }
            assert!(reader.buffered() == 0 && (size >= enough || model.is_empty()));
            continue;
        }
        let class = [Class::Control, Class::Audio, Class::Video][usize::from(op) % 3];
        serial = serial.wrapping_add(1);
        let packet = vec![serial; usize::from(op) * 8 % 1600];
        writer.push(class, packet.clone());
        let octets = |model: &VecDeque<(Class, Vec<u8>)>| model.iter().map(|m| m.1.len() + 2).sum::<usize>();
        let mut takes = !packet.is_empty() && packet.len() <= PACKET_MAX && packet.len() + 2 <= max;
        dropped += u64::from(!takes && !packet.is_empty());
        while takes && octets(&model) + packet.len() + 2 > max {
            dropped += 1;
            // The least worth, and of those the oldest.
            let victim = model.iter().enumerate().filter(|m| m.1.0 >= class).max_by_key(|m| (m.1.0, usize::MAX - m.0));
            match victim.map(|(at, _)| at) {
                Some(at) => drop(model.remove(at)),
                None => takes = false,
            }
        }
        if takes {
            model.push_back((class, packet));
        }
        assert_eq!((writer.octets(), writer.is_empty()), (octets(&model), model.is_empty()));
        assert!(writer.octets() <= max);
    }
    assert_eq!(writer.take_dropped(), dropped);
}

/// A payload in every codec, and as redundant audio.
pub fn rtp_payload(data: &[u8]) {
    for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1, Codec::Opus] {
        let inspection = codec::inspect(codec, data);
        if let Ok(inspection) = inspection {
            assert!(!inspection.keyframe_start || !data.is_empty());
            assert_eq!(inspection.vp8.is_some(), codec == Codec::Vp8);
            assert!(inspection.size.is_none_or(|(width, height)| width > 0 && height > 0));
            if let Some(vp9) = inspection.vp9 {
                // Other counters, and nothing else.
                let patched = vp9.patched(data, Some(5), Some(7));
                let (read, _) = vp9::Descriptor::parse(&patched).expect("still a descriptor");
                let tl0_pic_idx = vp9.tl0_pic_idx.map(|(_, at)| (7, at));
                let picture_id = vp9.picture_id.map(|_| 5);
                assert_eq!(read, vp9::Descriptor { picture_id, tl0_pic_idx, ..vp9 });
                assert!(patched.len() == data.len());
            }
        }
    }
    dependency_descriptors(data);
    let primary = red::primary(data);
    assert!(primary.is_none_or(|primary| data.ends_with(primary)));
    let renumbered = red::renumber(data, 111, 109);
    assert_eq!(renumbered.is_some(), primary.is_some());
    if let Some(renumbered) = renumbered {
        assert_eq!(renumbered.len(), data.len());
        assert_eq!(red::primary(&renumbered), primary);
    }
}

/// A dependency descriptor, and another one that is read by the structure of the first.
fn dependency_descriptors(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    for bytes in [data, first] {
        let Ok(descriptor) = dependency::Descriptor::parse(bytes, None) else { continue };
        let structure = descriptor.structure.expect("nothing can be read without one");
        assert!((1..=32).contains(&structure.targets().len()) && structure.sizes().len() <= 4);
        assert!(descriptor.template.indications.present & !structure.all_targets() == 0);
        for target in 0..structure.targets().len() as u8 {
            assert!(structure.within(target) & 1 << target != 0, "a decode target is within itself");
        }
        if let Ok(next) = dependency::Descriptor::parse(second, Some(&structure)) {
            let (all, few) = (next.template.indications, next.template.references);
            assert!(all.discardable & all.switch == 0 && (all.discardable | all.switch) & !all.present == 0);
            assert!(few.as_slice().iter().all(|distance| (1..=4096).contains(distance)));
            assert!(next.template.spatial < 4 && next.template.temporal < 8);
        }
    }
    let raw = DependencyDescriptor(data.into());
    let renumbered = raw.with_frame_number(0x1234);
    assert_eq!(renumbered.frame_number(), raw.frame_number().map(|_| 0x1234));
    assert_eq!(renumbered.with_frame_number(raw.frame_number().unwrap_or(0)), raw);
}

/// Operations on the forwarding of a room, watched where the packets leave: no number goes out twice, video starts and
/// changes its source at a key frame, time does not go back there, and nobody gets what was not subscribed to or is muted.
pub fn sfu_switch(data: &[u8]) {
    /// What a slot was sent.
    #[derive(Default)]
    struct Seen {
        numbers: HashSet<u64>,
        highest: u64,
        source: Option<Origin>,
        time: u32,
    }
    /// Track, encoding and SSRC.
    type Origin = (TrackId, Option<Rid>, u32);
    /// Two spatial layers of two temporal layers each.
    const STRUCTURE: [u8; 27] = [
        0xc0, 0x00, 0x01, 0x80, 0x03, 0x19, 0xea, 0xab, 0xc4, 0xc2, 0x80, 0x53, 0x45, 0x38, 0x23, 0x02, 0x22, 0x22,
        0x30, 0x13, 0xf0, 0x0b, 0x30, 0x27, 0xf0, 0x16, 0x70,
    ];
    let mut source = Source(data);
    let mut now = start();
    let mut sfu = Sfu::new(SfuConfig { seed: 1, cache_max: 256, ..SfuConfig::default() });
    let mut seen: HashMap<Slot, Seen> = HashMap::new();
    let mut paused: HashSet<Slot> = HashSet::new();
    let mut muted: HashSet<TrackId> = HashSet::new();
    let mut published: HashSet<TrackId> = HashSet::new();
    let mut seq = [1000u64; 8];
    let mut out: Vec<Forward> = Vec::new();
    let mut layers: Vec<LayerInfo> = Vec::new();
    // What came, whether a slot may start with it, and from where.
    let mut recent: VecDeque<(Arc<[u8]>, bool, Origin)> = VecDeque::new();
    let slot = |n: u8| Slot {
        participant: ParticipantKey { slot: u32::from(n & 3), generation: 0 },
        mid: if n & 4 == 0 { "0".into() } else { "1".into() },
    };
    // Track 4 is audio.
    let track = |n: u8| TrackId(u64::from(n % 5));
    while let Some(op) = source.byte() {
        let n = source.byte().unwrap_or(0);
        now += Duration::from_millis(u64::from(op >> 4) * 7);
        match op & 15 {
            0 => {
                let kind = if track(n).0 == 4 { MediaKind::Audio } else { MediaKind::Video };
                sfu.publish(track(n), kind);
                if published.insert(track(n)) {
                    muted.remove(&track(n));
                }
            }
            1 => {
                sfu.unpublish(track(n));
                published.remove(&track(n));
                muted.remove(&track(n));
            }
            2 => {
                let to = track(n >> 3);
                let is_subscribed = sfu.subscribe(now, slot(n), to, Target::Best, 0, &mut out);
                paused.remove(&slot(n));
                assert_eq!(is_subscribed, published.contains(&to));
                assert_eq!(sfu.subscribed(slot(n)), Some(to).filter(|t| published.contains(t)));
                assert!(out.is_empty(), "nothing may be sent again");
            }
            3 => {
                sfu.unsubscribe(slot(n));
                assert_eq!((sfu.subscribed(slot(n)), sfu.forwarding(slot(n))), (None, None));
            }
            4 => {
                let participant = slot(n).participant;
                sfu.remove_participant(participant);
                seen.retain(|slot, _| slot.participant != participant);
            }
            5 => {
                let is_muted = n & 128 != 0;
                sfu.set_muted(track(n), is_muted);
                if is_muted && published.contains(&track(n)) {
                    muted.insert(track(n));
                } else {
                    muted.remove(&track(n));
                }
            }
            6 => sfu.handle_keyframe_request(now, slot(n)),
            7 => drop(sfu.loudest(now, usize::from(n & 3))),
            15 => {
                let target = match source.byte().unwrap_or(0) {
                    0..=15 => Target::Best,
                    16..=31 => Target::Paused,
                    b => Target::Layer(Layer { encoding: b >> 4 & 3, spatial: b >> 2 & 3, temporal: b & 3 }),
                };
                let replay_max = usize::from(n >> 3) * 8;
                sfu.set_target(now, slot(n), target, replay_max, &mut out);
                match sfu.subscribed(slot(n)) {
                    Some(_) if target == Target::Paused => drop(paused.insert(slot(n))),
                    _ => drop(paused.remove(&slot(n))),
                }
                let octets: usize = out.iter().map(|forward| forward.payload.len()).sum();
                assert!(octets <= replay_max && out.iter().all(|forward| forward.slot == slot(n)));
            }
            _ => {
                // The upper bits of `n` choose the encoding, so that a track may have four.
                let id = track(n);
                let is_audio = id.0 == 4;
                let encoding = usize::from(n >> 6);
                let number = &mut seq[usize::from(n >> 5)];
                let flags = source.byte().unwrap_or(0);
                *number = match flags & 7 {
                    0..=4 => *number + 1,
                    5 => number.saturating_sub(u64::from(flags >> 3)).max(1),
                    6 => *number + u64::from(flags >> 3),
                    _ => *number + (u64::from(flags) << 6),
                };
                let codec = match (is_audio, id.0) {
                    (true, _) => Codec::Opus,
                    (_, 3) => Codec::H264,
                    (_, 2) => Codec::Vp9,
                    (_, 1) if encoding == 3 => Codec::Av1,
                    _ => Codec::Vp8,
                };
                let head = source.byte().unwrap_or(0);
                let payload: Arc<[u8]> = source.take(usize::from(head & 15)).into();
                let mut ext =
                    ExtensionValues { audio_level: Some(-(flags as i8 & 0x7f)), ..ExtensionValues::default() };
                let mut descriptor = match head >> 4 {
                    15 => STRUCTURE.to_vec(),
                    // Flags and template, the frame number, and whatever else.
                    10..=14 => vec![source.byte().unwrap_or(0) & 0xc7, 0, 0],
                    _ => Vec::new(),
                };
                if head >> 4 == 10 {
                    descriptor.extend(source.take(4));
                }
                let mut starts = is_audio || codec::inspect(codec, &payload).is_ok_and(|i| i.keyframe_start);
                if !descriptor.is_empty() {
                    descriptor[1..3].copy_from_slice(&(*number as u16).to_be_bytes());
                    let raw = DependencyDescriptor(descriptor.into());
                    starts |= dependency::Descriptor::parse(&raw.0, None).is_ok_and(|d| d.structure.is_some());
                    ext.user_values.set(raw);
                }
                let rid = [None, Some("q"), Some("h"), Some("f")][encoding].map(Rid::from);
                let ssrc = u32::from(n >> 5) + if flags & 0x88 == 0x88 { 100 } else { 0 };
                recent.push_back((payload.clone(), starts, (id, rid, ssrc)));
                if recent.len() > 4096 {
                    recent.pop_front();
                }
                // Some packets are of the picture of the one before.
                let picture = *number - u64::from(flags >> 5 & 1);
                let incoming = Incoming {
                    track: id,
                    rid,
                    codec,
                    red: false,
                    inner_pt: 96.into(),
                    seq_no: (*number).into(),
                    ssrc,
                    time: (picture as u32).wrapping_mul(3000),
                    clock_rate: if is_audio { 48_000 } else { 90_000 },
                    marker: flags & 16 != 0,
                    payload: &payload,
                    ext: &ext,
                    arrival: now,
                };
                sfu.handle_rtp(now, incoming, &mut out);
            }
        }
        for forward in out.drain(..) {
            let id = sfu.subscribed(forward.slot).expect("nobody else is sent anything");
            assert!(published.contains(&id) && !muted.contains(&id) && !paused.contains(&forward.slot));
            let last = seen.entry(forward.slot).or_default();
            // One that was held or kept came with an earlier packet. Only VP9 is copied, to change its counters.
            let known = recent.iter().rev().find(|(sent, ..)| Arc::ptr_eq(&forward.payload, sent));
            assert!(known.is_some() || forward.codec == Codec::Vp9, "payloads are shared");
            let is_first = last.numbers.is_empty();
            if let Some((_, starts, origin)) = known {
                assert_eq!(origin.0, id);
                if last.source.is_some_and(|source| source != *origin) || is_first {
                    assert!(starts, "a slot starts, and changes its source, at a key frame");
                    assert!(is_first || *forward.seq_no > last.highest, "a switch is no step back");
                    assert!(is_first || forward.time.wrapping_sub(last.time).cast_signed() > 0, "nor is its time");
                }
                last.source = Some(*origin);
            } else {
                assert!(!is_first, "what a slot starts with is as it came");
                last.source = None;
            }
            assert!(!is_first || (1..1 << 15).contains(&*forward.seq_no), "a receiver can follow from the start");
            assert!(last.numbers.insert(*forward.seq_no), "a number goes out once");
            if *forward.seq_no > last.highest {
                assert!(is_first || *forward.seq_no - last.highest < 1 << 15, "a receiver can follow");
                (last.highest, last.time) = (*forward.seq_no, forward.time);
            }
        }
        sfu.handle_timeout(now);
        while let Some(event) = sfu.poll_event() {
            let (Event::LayerChanged { track, .. }
            | Event::LayersChanged { track }
            | Event::EncodingWanted { track, .. }) = event;
            assert!(published.contains(&track) && track.0 != 4, "{event:?}");
            if let Event::LayerChanged { slot, track, layer: Some(_) } = event {
                assert!(sfu.subscribed(slot) != Some(track) || !paused.contains(&slot));
            }
        }
        while sfu.poll_keyframe_request(now).is_some() {}
        assert!(sfu.poll_timeout().is_none_or(|at| at > now), "all that was due has been polled");
        layers.clear();
        sfu.layers(now, track(n), &mut layers);
        let names: HashSet<Layer> = layers.iter().map(|info| info.layer).collect();
        assert!(names.len() == layers.len() && names.iter().all(|layer| layer.encoding < 3));
    }
}

/// Operations on a room against a model that knows only its events.
pub fn room_ops(data: &[u8]) {
    const MOST: usize = 4;
    let mut source = Source(data);
    let mut room = Room::new(RoomId::new("r").expect("an id"), MOST).with_tracks_per_publisher(3);
    let users = ["a", "b", "c", "d", "e", "f"].map(|name| UserId::new(name).expect("an id"));
    let mut next_key = 0;
    let mut keys: Vec<ParticipantKey> = Vec::new();
    let mut next_track = 1;
    let mut members: BTreeMap<ParticipantKey, UserId> = BTreeMap::new();
    let mut tracks: BTreeMap<TrackId, ParticipantKey> = BTreeMap::new();
    while let Some(op) = source.byte() {
        let (a, b) = (source.byte().unwrap_or(0), source.byte().unwrap_or(0));
        let user = &users[usize::from(b) % users.len()];
        let target = if b & 64 != 0 { None } else { Some(user) };
        let key = match keys.len() {
            0 => ParticipantKey { slot: 99, generation: 0 },
            n => keys[usize::from(a) % n],
        };
        let kind = if b & 128 != 0 { Kind::Audio } else { Kind::Video };
        let one = TrackId(u64::from(a >> 4) + 1);
        let one = if b & 32 != 0 { None } else { Some(one) };
        let role = [Role::Viewer, Role::Participant, Role::Moderator, Role::Host][usize::from(a >> 6)];
        match op % 10 {
            0 => {
                let key = ParticipantKey { slot: next_key, generation: 7 };
                next_key += 1;
                let joiner = Joiner {
                    user: user.clone(),
                    display_name: None,
                    role,
                    permissions: Permissions::of(role),
                    metadata: None,
                    is_media_only: op >= 128,
                };
                if room.join(key, joiner).is_ok() {
                    keys.push(key);
                }
            }
            1 => room.leave(key, LeaveReason::Left),
            2 => drop(room.set_grants(key, role, Permissions::of(role))),
            3 | 4 => {
                let source = match b % 4 {
                    0 => room::Source::Camera,
                    1 => room::Source::Microphone,
                    2 => room::Source::Screen,
                    _ => room::Source::ScreenAudio,
                };
                let kind = if b & 16 != 0 { kind } else { source.kind() };
                let may = room.may_publish(key, source);
                let meta = TrackMeta { id: TrackId(next_track), kind, source, mid: "0".into(), name: None };
                if room.publish(key, meta).is_ok() {
                    assert!(may && kind == source.kind());
                    next_track += 1;
                }
            }
            5 => room.unpublish(key, one.unwrap_or(TrackId(0))),
            6 => drop(room.mute(key, target, kind, one, a & 8 != 0)),
            7 => drop(room.mute_as(users[0].clone(), user, kind, one, a & 8 != 0)),
            8 => drop(room.chat(key, target, "hello")),
            _ => drop(room.data(key, target, "{}")),
        }
        while let Some(event) = room.poll_event() {
            match event {
                room::Event::Joined { key } => {
                    let user = room.participant(key).expect("a member").user.clone();
                    assert!(members.values().all(|u| *u != user), "one of each user");
                    assert_eq!(members.insert(key, user), None);
                }
                room::Event::UserLeft { key, user, .. } => assert_eq!(members.remove(&key), Some(user)),
                room::Event::TrackPublished { owner, track } => assert_eq!(tracks.insert(track.id, owner), None),
                room::Event::TrackUnpublished { owner, id, .. } => assert_eq!(tracks.remove(&id), Some(owner)),
                room::Event::UserJoined { key } | room::Event::UserUpdated { key } => {
                    assert!(members.contains_key(&key));
                }
                room::Event::Chat { from, to, .. } | room::Event::Data { from, to, .. } => {
                    assert!(members.contains_key(&from) && to != Some(from));
                    assert!(to.is_none_or(|to| members.contains_key(&to)), "nobody from outside");
                }
                room::Event::TrackMuted { track, muted } => {
                    assert_eq!(room.track(track).map(|(_, track)| track.muted), Some(muted));
                }
                room::Event::Replaced { key } => assert!(members.contains_key(&key)),
                room::Event::Muted { owner, .. } | room::Event::UnmuteAllowed { owner, .. } => {
                    assert!(members.contains_key(&owner));
                }
            }
        }
        assert!(room.len() <= MOST);
        let there: BTreeMap<_, _> = room.participants().map(|(key, p)| (key, p.user.clone())).collect();
        assert_eq!(there, members, "the events tell who is here");
        let carried: BTreeMap<_, _> = room.tracks().map(|(owner, track)| (track.meta.id, owner)).collect();
        assert_eq!(carried, tracks, "and what is published");
        let persons: Vec<_> = room.participants().filter(|(_, p)| !p.is_media_only).map(|(_, p)| &p.person).collect();
        let distinct: BTreeSet<_> = persons.iter().collect();
        assert_eq!(distinct.len(), persons.len(), "nobody signals twice");
        for (_, participant) in room.participants() {
            assert!(participant.tracks().len() <= 3);
            assert!(participant.tracks().iter().all(|t| participant.permissions.may_publish(match t.meta.source {
                room::Source::Camera => crate::auth::Source::Camera,
                room::Source::Microphone => crate::auth::Source::Microphone,
                room::Source::Screen | room::Source::ScreenAudio => crate::auth::Source::Screen,
            })));
        }
    }
}

/// File, environment and flags, apart by a line `---`. Errors are one line; what is taken holds together.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split("\n---\n");
    let file = parts.next().unwrap_or("").to_owned();
    let pair = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (OsString::from(name), OsString::from(value))
    };
    let env: Vec<_> = parts.next().unwrap_or("").lines().map(pair).collect();
    let flags = parts.next().unwrap_or("").lines().map(OsString::from);
    let args: Vec<OsString> = ["--config".into(), "fuzz.toml".into()].into_iter().chain(flags).collect();
    let reads = Cell::new(0);
    let read = |_: &Path| {
        reads.set(reads.get() + 1);
        Ok(file.clone().into_bytes())
    };
    match Config::load(args.into_iter(), env.into_iter(), &read) {
        Ok(loaded) => {
            let config = &loaded.config;
            assert!(reads.get() >= 1);
            assert!(config.encoding.video_min_bitrate <= config.encoding.video_max_bitrate);
            assert!(config.limits.message_before_join <= config.limits.message);
            assert!(config.server.metrics_port != Some(config.server.port));
            assert!(loaded.warnings.iter().all(|line| !line.contains('\n')));
            if let Some(secret) = &config.auth.jwt_secret {
                assert!(secret.expose().len() >= 32);
                assert!(!format!("{config:?}").contains(secret.expose()), "a secret is not printed");
            }
        }
        Err(error) => assert!(!error.to_string().contains(['\n', '\r']), "an error is one line"),
    }
}

/// A timer wheel against a map.
pub fn wheel_ops(data: &[u8]) {
    let tick = Duration::from_millis(1);
    let mut source = Source(data);
    let mut now = start();
    let mut wheel = Wheel::new(now);
    let mut model: BTreeMap<usize, Instant> = BTreeMap::new();
    // The far ones promise less, see `next_deadline`.
    let mut far: BTreeSet<usize> = BTreeSet::new();
    while let Some(op) = source.byte() {
        let key = usize::from(source.byte().unwrap_or(0) & 31);
        let ahead = Duration::from_micros(source.number() << (op >> 3 & 15));
        match op & 7 {
            0..=3 => {
                let at = now + ahead;
                wheel.set(key, at);
                model.insert(key, at);
                match ahead > Duration::from_secs(17 * 3600) {
                    true => far.insert(key),
                    false => far.remove(&key),
                };
            }
            4 => {
                wheel.cancel(key);
                model.remove(&key);
                far.remove(&key);
            }
            _ => {
                now += ahead;
                let mut order = Vec::new();
                while let Some(key) = wheel.expired(now) {
                    let at = model.remove(&key).expect("only what is armed expires");
                    far.remove(&key);
                    assert!(at <= now, "never early");
                    order.push(at);
                }
                assert!(order.windows(2).all(|w| w[0] <= w[1] + tick), "in order of ticks");
                assert!(model.values().all(|at| *at + tick > now), "late by less than a tick");
            }
        }
        assert_eq!((wheel.len(), wheel.is_empty()), (model.len(), model.is_empty()));
        match (wheel.next_deadline(), model.values().min()) {
            (None, None) => {}
            (Some(next), Some(first)) => {
                assert!(next < *first + tick, "not after the first");
                assert!(!far.is_empty() || next >= *first, "nor before it");
            }
            (next, first) => panic!("{next:?} where {first:?} is armed"),
        }
    }
}

/// A whole shard with two participants: texts, datagrams, time and closing in any order. Everything it says is JSON to a
/// connection that is there, everything it sends fits a datagram, and no peer panics.
pub fn session(data: &[u8]) {
    fastrand::seed(1);
    let mut source = Source(data);
    let mut bench = Bench::new();
    while let Some(op) = source.byte() {
        let who = usize::from(op >> 7);
        match op & 15 {
            0 => bench.text(who, &source.text()),
            1 => {
                let sdp = source.text();
                bench.say(who, "offer", &serde_json::json!({ "sdp": sdp }));
            }
            2 => {
                let sdp = source.text();
                bench.say(who, "answer", &serde_json::json!({ "sdp": { "type": "answer", "sdp": sdp } }));
            }
            // A real offer with lines replaced: names of what was there before and after, then the line.
            3 | 4 => {
                let mut lines: Vec<String> = OFFER.lines().map(str::to_owned).collect();
                for _ in 0..source.byte().unwrap_or(0) & 3 {
                    let at = usize::from(source.byte().unwrap_or(0)) % lines.len();
                    let line = source.text();
                    match source.byte().unwrap_or(0) & 3 {
                        0 => drop(lines.remove(at)),
                        1 => lines.insert(at, line),
                        2 => lines[at].push_str(&line),
                        _ => lines[at] = line,
                    }
                }
                let sdp: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
                bench.say(who, "offer", &serde_json::json!({ "sdp": sdp }));
            }
            5 => {
                let answer = bench.offers[who].clone().map(|(id, sdp)| (id, answer_to(&sdp)));
                if let Some((id, sdp)) = answer {
                    let id = serde_json::from_str::<Value>(&id).unwrap_or(Value::Null);
                    bench.text(who, &serde_json::json!({"type": "answer", "id": id, "data": {"sdp": sdp}}).to_string());
                }
            }
            6 => {
                let words = ["restart-ice", "leave", "ping", "stats", "subscribe", "unsubscribe", "mute", "unmute"];
                let word = words[usize::from(source.byte().unwrap_or(0)) % words.len()];
                let data = source.text();
                let data = serde_json::from_str::<Value>(&data).unwrap_or(Value::Null);
                bench.say(who, word, &data);
            }
            7 | 8 => {
                let target = ["ann", "bob", "sfu"][usize::from(source.byte().unwrap_or(0)) % 3];
                let word =
                    ["offer", "answer", "ice-candidate", "chat", "data"][usize::from(source.byte().unwrap_or(0)) % 5];
                let text = source.text();
                let data = match word {
                    "chat" => serde_json::json!({ "text": text }),
                    "ice-candidate" => serde_json::json!({ "candidate": text }),
                    "data" => serde_json::json!([text]),
                    _ => serde_json::json!({ "sdp": text }),
                };
                let text = serde_json::json!({"type": word, "targetUserId": target, "data": data}).to_string();
                bench.text(who, &text);
            }
            9 => bench.check(who),
            10 => {
                let length = usize::from(source.byte().unwrap_or(0));
                bench.datagram(who, source.take(length));
            }
            11 => {
                // The first byte of a real packet, then whatever comes.
                let head: [&[u8]; 6] = [
                    &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0],
                    &[20, 0xfe, 0xfd],
                    &[0x90, 111],
                    &[0x80, 96],
                    &[0x80, 200],
                    &[0x81, 206],
                ];
                let mut bytes = head[usize::from(source.byte().unwrap_or(0)) % head.len()].to_vec();
                let length = usize::from(source.byte().unwrap_or(0));
                bytes.extend(source.take(length));
                bench.datagram(who, &bytes);
            }
            12 => bench.wait(Duration::from_millis(source.number())),
            13 => {
                let now = bench.now;
                bench.shard.handle_binary(now, conn(who));
                bench.turn();
            }
            14 => bench.reconnect(who, source.byte().unwrap_or(0) & 1 == 0),
            _ => {
                let now = bench.now;
                match source.byte().unwrap_or(0) % 16 {
                    0 => bench.shard.handle_drain(),
                    1 => bench.shard.handle_move_failed(now, conn(who), RoomId::new("call").expect("an id")),
                    _ => {
                        let text = source.text();
                        if let Ok(room) = RoomId::new(&text) {
                            let place = Ok(WorkerId(source.byte().unwrap_or(0) & 1));
                            bench.shard.handle_mail(now, Mail::Located { conn: conn(who), room, place });
                        }
                    }
                }
                bench.turn();
            }
        }
    }
    bench.wait(Duration::from_secs(60));
    let now = bench.now;
    bench.shard.handle_stop(now);
    bench.turn();
    assert!(bench.shard.is_idle() && bench.shard.room_count() == 0, "nothing is left after the end");
    assert_eq!(bench.metrics.read().panics, 0, "a peer panicked");
}

fn conn(who: usize) -> ConnKey {
    ConnKey { slot: who as u32, generation: 0 }
}

/// Two sessions on one shard.
struct Bench {
    shard: Shard,
    metrics: Arc<crate::metrics::WorkerMetrics>,
    now: Instant,
    open: [bool; 2],
    /// The server's latest offer to each: id and description.
    offers: [Option<(String, String)>; 2],
    /// ICE credentials of the server towards each.
    credentials: [Option<(String, String)>; 2],
}

impl Bench {
    fn new() -> Bench {
        static SHARED: OnceLock<(Arc<Config>, Arc<Verifier>, Arc<Metrics>)> = OnceLock::new();
        let (config, verifier, _) = SHARED.get_or_init(|| {
            (Arc::new(Config::default()), Arc::new(Verifier::new(&auth()).expect("a key")), Arc::new(Metrics::new(1)))
        });
        let metrics = Metrics::new(1).workers[0].clone();
        let now = start();
        let shard = Shard::new(
            now,
            wall(),
            ShardConfig {
                worker: WorkerId(0),
                workers: 2,
                config: config.clone(),
                peer: peer_config(),
                verifier: verifier.clone(),
                metrics: metrics.clone(),
                dev_mode: false,
                seed: 1,
            },
        );
        let mut bench =
            Bench { shard, metrics, now, open: [false; 2], offers: [None, None], credentials: [None, None] };
        bench.reconnect(0, true);
        bench.reconnect(1, true);
        bench
    }

    /// Ends the connection, and begins another one, which joins.
    fn reconnect(&mut self, who: usize, close: bool) {
        if close {
            self.shard.handle_closed(self.now, conn(who));
            self.open[who] = false;
            self.turn();
        }
        if !self.open[who] {
            // More than a client needs, so that long inputs are not stopped by the rate.
            let limits = crate::signal::Limits { messages_burst: 10_000, offers_burst: 10_000, ..Default::default() };
            let session = Session::new(self.now, grants()[who].clone(), &limits);
            self.shard.handle_open(conn(who), session);
            self.open[who] = true;
            self.text(who, r#"{"type":"join","roomId":"call"}"#);
        }
    }

    fn say(&mut self, who: usize, word: &str, data: &Value) {
        self.text(who, &serde_json::json!({"type": word, "data": data}).to_string());
    }

    fn text(&mut self, who: usize, text: &str) {
        self.shard.handle_text(self.now, conn(who), text);
        self.turn();
    }

    fn datagram(&mut self, who: usize, data: &[u8]) {
        self.shard.handle_datagram(self.now, local(), remote(who), data);
        self.turn();
    }

    /// A connectivity check as a browser would send it, which makes its address known.
    fn check(&mut self, who: usize) {
        let Some((ufrag, password)) = &self.credentials[who] else { return };
        let check = binding_request(&format!("{ufrag}:remote"), password);
        self.datagram(who, &check);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..200 {
            match self.shard.poll_timeout() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            self.shard.handle_timeout(self.now);
            self.turn();
        }
        self.now = end;
        self.shard.handle_timeout(end);
        self.turn();
    }

    /// The end of a turn, as the worker does it.
    fn turn(&mut self) {
        for _ in 0..8 {
            self.shard.flush(self.now);
            if !self.shard.wants_flush() {
                break;
            }
        }
        while let Some(transmit) = self.shard.poll_transmit() {
            assert!(!transmit.data.is_empty() && transmit.data.len() <= 1500);
            assert_eq!(transmit.source, local());
        }
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn, text } => {
                    let who = conn.slot as usize;
                    let value: Value = serde_json::from_str(&text).expect("what we say is JSON");
                    let kind = value["type"].as_str().expect("a type");
                    let sdp = &value["data"]["sdp"];
                    let from_server = value["userId"] == "sfu";
                    let sdp = sdp.as_str().or_else(|| sdp["sdp"].as_str());
                    if let (Some(sdp), true, "offer" | "answer") = (sdp, from_server, kind) {
                        let find = |name: &str| sdp.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
                        if let (Some(ufrag), Some(password)) = (find("a=ice-ufrag:"), find("a=ice-pwd:")) {
                            self.credentials[who] = Some((ufrag, password));
                        }
                        if kind == "offer" {
                            self.offers[who] = Some((value["id"].to_string(), sdp.to_owned()));
                        }
                    }
                }
                Output::Close { conn, .. } => self.open[conn.slot as usize] = false,
                Output::Move { conn, .. } => {
                    // There is no other worker here.
                    drop(self.shard.take_session(conn));
                    self.open[conn.slot as usize] = false;
                }
                Output::Mail { .. } | Output::Answer { .. } | Output::CloseStream { .. } | Output::Record(_) => {}
            }
        }
    }
}

/// A plausible answer to one of our offers: the other direction, other credentials.
fn answer_to(offer: &str) -> String {
    let line = |line: &str| match line {
        _ if line.starts_with("a=ice-ufrag:") => "a=ice-ufrag:remote".to_owned(),
        _ if line.starts_with("a=ice-pwd:") => "a=ice-pwd:remoteremoteremoteremote".to_owned(),
        _ if line.starts_with("a=fingerprint:") => FINGERPRINT.to_owned(),
        _ if line.starts_with("a=setup:") => "a=setup:active".to_owned(),
        "a=sendonly" => "a=recvonly".to_owned(),
        "a=recvonly" => "a=sendonly".to_owned(),
        "a=ice-lite" => "a=ice-options:trickle".to_owned(),
        _ => line.to_owned(),
    };
    offer.lines().filter(|l| !l.starts_with("a=candidate")).flat_map(|l| [line(l), "\r\n".to_owned()]).collect()
}

/// RFC 8489: USERNAME, PRIORITY, ICE-CONTROLLING, USE-CANDIDATE, MESSAGE-INTEGRITY, FINGERPRINT.
fn binding_request(user: &str, password: &str) -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let add = |message: &mut Vec<u8>, kind: u16, value: &[u8]| {
        message.extend(kind.to_be_bytes());
        message.extend((value.len() as u16).to_be_bytes());
        message.extend(value);
        message.resize(message.len().next_multiple_of(4), 0);
    };
    // The length counts the attribute that is about to be computed.
    let set_length = |message: &mut Vec<u8>, more: usize| {
        let length = (message.len() - 20 + more) as u16;
        message[2..4].copy_from_slice(&length.to_be_bytes());
    };
    add(&mut message, 0x0006, user.as_bytes());
    add(&mut message, 0x0024, &[0x6e, 0, 0, 1]);
    add(&mut message, 0x802a, &[0, 0, 0, 0, 0, 0, 0, 1]);
    add(&mut message, 0x0025, &[]);
    set_length(&mut message, 24);
    let key = openssl::pkey::PKey::hmac(password.as_bytes()).expect("a key");
    let mut signer = openssl::sign::Signer::new(openssl::hash::MessageDigest::sha1(), &key).expect("HMAC");
    let integrity = signer.sign_oneshot_to_vec(&message).expect("HMAC");
    add(&mut message, 0x0008, &integrity);
    set_length(&mut message, 8);
    let fingerprint = crc32(&message) ^ 0x5354_554e;
    add(&mut message, 0x8028, &fingerprint.to_be_bytes());
    message
}

fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

// ---- what several bodies need ----

/// Bytes as a WebM file, and as what stands in its tracks: a repair leads to a file without damage that holds every block which
/// was found before it.
pub fn webm_read(data: &[u8]) {
    let _ = (webm::av1::private(data), webm::opus::Head::parse(data), webm::avc::private(webm::avc::nal_units(data)));
    assert!(webm::avc::nal_units(data).all(|nal| !nal.is_empty() && !nal.windows(3).any(|three| three == [0, 0, 1])));
    let mut file = Cursor::new(data.to_vec());
    let Some((before, _)) = webm_blocks(file.get_ref()) else { return };
    let Ok(scan) = webm::repair::repair(&mut file, webm::repair::Known::default()) else { return };
    let (after, damages) = webm_blocks(file.get_ref()).expect("still a file");
    assert_eq!((after.len(), damages), (before.len(), 0));
    assert!(before.iter().zip(&after).all(|(before, after)| before.1 == after.1), "the same payloads");
    assert_eq!(scan.blocks, before.len() as u64);
    let again = webm::repair::scan(file, webm::repair::Known::default(), |_| {}).expect("still a file");
    assert_eq!(again.blocks, scan.blocks);
}

/// A block and its payload.
type Written = (webm::Block, Vec<u8>);

/// What a reader finds, and how often it found nothing that makes sense. `None`: it is no WebM file.
fn webm_blocks(bytes: &[u8]) -> Option<(Vec<Written>, usize)> {
    let mut reader = webm::Reader::new(Cursor::new(bytes), webm::reader::Limits::default()).ok()?;
    let (mut blocks, mut damages) = (Vec::new(), 0);
    while let Some(event) = reader.next_event().expect("memory can be read") {
        match event {
            webm::Event::Block(found) => {
                let mut payload = Vec::new();
                reader.read_payload(&found, &mut payload).expect("a block that is found is whole");
                blocks.push((found.block, payload));
            }
            webm::Event::Damage(damage) => {
                assert!(damage.range.start < damage.range.end);
                damages += 1;
            }
            _ => {}
        }
    }
    Some((blocks, damages))
}

/// Tracks and blocks of any kind in any order: what is written is read, from a file that grows, that is finished, and that
/// was cut somewhere and repaired.
pub fn webm_write(data: &[u8]) {
    let mut source = Source(data);
    let Some(flags) = source.byte() else { return };
    let config = webm::Config {
        head_size: 512 + source.number() as u32 % 2048,
        cluster_ns: 1 + source.number() * 100,
        cluster_size: 1 + source.number(),
        cues_in_head: flags & 1 != 0,
        cluster_sizes: flags & 2 != 0,
        ..webm::Config::default()
    };
    let mut writer = webm::Writer::new(config, [], Cursor::new(Vec::new())).expect("a head of that size is enough");
    let (mut tracks, mut blocks, mut now_ms) = (Vec::new(), Vec::new(), 0u64);
    while let Some(operation) = source.byte() {
        match operation % 8 {
            0 => {
                let number = source.number() as u32 % 20_000;
                let mut track = match source.byte().unwrap_or(0) % 3 {
                    0 => webm::Track::video(number, u64::from(number) + 1, webm::Codec::Vp9, 320, 180),
                    1 => webm::Track::video(number, u64::from(number) + 1, webm::Codec::H264, 320, 180),
                    _ => webm::Track::opus(number, u64::from(number) + 1, &webm::opus::Head::relayed()),
                };
                track.name = source.text();
                if writer.add_track(track.clone()).is_ok() {
                    tracks.push(track);
                }
            }
            1 => {
                let tag = webm::Tag { track_uid: None, values: vec![("TITLE".into(), source.text())] };
                writer.muxer_mut().set_tags(vec![tag]);
            }
            2 => {
                let size = source.number() % 500;
                let position = writer.muxer().position() + size;
                assert_eq!(writer.fill_to(position).is_ok(), size >= 2);
            }
            _ => {
                let Some(track) = tracks.get(usize::from(operation / 8) % tracks.len().max(1)) else { continue };
                let kind = source.byte().unwrap_or(0);
                now_ms = match kind % 4 {
                    0 => now_ms + source.number(),
                    1 => now_ms.saturating_sub(source.number()),
                    _ => now_ms + u64::from(kind),
                };
                let block = webm::Block {
                    duration_ns: (kind & 0x10 != 0).then(|| source.number() * 1_000_000),
                    discard_padding_ns: if kind & 0x20 != 0 { source.number() as i64 - (1 << 23) } else { 0 },
                    ..webm::Block::new(track.number, now_ms * 1_000_000, kind & 0x40 != 0)
                };
                let size = source.number() as usize % 300;
                let payload = source.take(size).to_vec();
                writer.write_block(&block, payload.chunks(7)).expect("memory takes it");
                blocks.push((block, payload));
            }
        }
    }
    let growing = writer.get_ref().get_ref().clone();
    assert!(webm_blocks(&growing) == Some((blocks.clone(), 0)), "while it grows");
    let cut = usize::from(flags) * growing.len() / 256;
    let end_ns = writer.muxer().duration_ns();
    let length = writer.finish().expect("memory takes it");
    let file = writer.into_inner().into_inner();
    assert_eq!(file.len() as u64, length);
    assert!(webm_blocks(&file) == Some((blocks.clone(), 0)), "when it is finished");
    let known = || webm::repair::Known { tracks: tracks.clone(), ..webm::repair::Known::default() };
    match webm::repair::scan(Cursor::new(&file), known(), |_| {}) {
        Ok(scan) => assert!(scan.is_finished && scan.duration_ns() == end_ns),
        Err(error) => assert!(blocks.is_empty(), "{error}"),
    }
    let mut cut = Cursor::new(growing[..cut].to_vec());
    if let Ok(scan) = webm::repair::repair(&mut cut, known()) {
        let (kept, damages) = webm_blocks(cut.get_ref()).expect("a file");
        assert!(kept.len() as u64 == scan.blocks && damages == 0 && kept == blocks[..kept.len()], "when it was cut");
    }
}

/// Reads bytes as operations. At the end everything is zero or empty, so that any prefix of an input is an input.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// 16 bits.
    fn size(&mut self) -> usize {
        self.take(2).iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
    }

    /// 24 bits.
    fn number(&mut self) -> u64 {
        self.take(3).iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    /// Up to the next zero byte.
    fn text(&mut self) -> String {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(self.take(length)).into_owned();
        self.byte();
        text
    }
}

/// The same bytes in pieces whose sizes depend on the bytes only.
fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let seed = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = if random.bool() { 3 } else { 64 };
        let (head, tail) = rest.split_at(random.usize(1..=most.min(rest.len())));
        rest = tail;
        Some(head)
    })
}

/// The one reading of the clock: an [`Instant`] cannot be made otherwise.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn local() -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 41000)
}

fn remote(who: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 50000 + who as u16)
}

fn peer_config() -> Arc<PeerConfig> {
    static CONFIG: OnceLock<Arc<PeerConfig>> = OnceLock::new();
    let make = || {
        Arc::new(PeerConfig {
            candidates: vec![local()],
            tcp_candidates: Vec::new(),
            video_codecs: vec![VideoCodec::Vp8, VideoCodec::H264, VideoCodec::Vp9, VideoCodec::Av1],
            audio_bitrate: 96_000,
            video_max_bitrate: 1_500_000,
            retransmission_share: 0.25,
            limits: peer::sdp::Limits::default(),
            channels: 16,
            channel_message: 64 * 1024,
            channel_buffer: 1024 * 1024,
        })
    };
    CONFIG.get_or_init(make).clone()
}

const SECRET: &str = "fuzz-fuzz-fuzz-fuzz-fuzz-fuzz-fuzz";

fn auth() -> AuthConfig {
    AuthConfig { jwt_secret: Some(Secret::new(SECRET)), ..AuthConfig::default() }
}

struct Keys {
    verifier: Verifier,
    signer: Signer,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        verifier: Verifier::new(&auth()).expect("a key"),
        signer: Signer::new(&auth()).expect("a key").expect("a secret signs"),
    })
}

/// Of a host and of a participant.
fn grants() -> &'static [Grants; 2] {
    static GRANTS: OnceLock<[Grants; 2]> = OnceLock::new();
    GRANTS.get_or_init(|| {
        [("ann", Role::Host), ("bob", Role::Participant)].map(|(user, role)| {
            let claims = Claims {
                user: UserId::new(user).expect("an id"),
                name: None,
                role,
                rooms: RoomScope::Any,
                permissions: None,
                ttl: Duration::from_secs(3600),
            };
            let token = keys().signer.mint(&claims, wall());
            keys().verifier.verify(&token, wall()).expect("our own token")
        })
    })
}

fn base64url(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// Of nobody.
const FINGERPRINT: &str = "a=fingerprint:sha-256 \
    4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF";

/// Audio both ways and simulcast video, in the manner of Chrome.
const OFFER: &str = include_str!("../../fuzz/seeds/sdp_guard/chrome");

#[cfg(test)]
mod tests {
    use super::*;

    /// Every seed, then `rounds` mutations of them. A failure names the input, which can become a seed.
    fn run(target: &str, body: fn(&[u8]), rounds: usize) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut seeds: Vec<Vec<u8>> = Vec::new();
        let mut files: Vec<_> = std::fs::read_dir(&folder).expect("seeds").map(|f| f.expect("a file").path()).collect();
        files.sort();
        for file in files {
            seeds.push(std::fs::read(&file).expect("a seed"));
            try_one(target, body, seeds.last().expect("just pushed"));
        }
        assert!(!seeds.is_empty(), "{target} has no seeds");
        let mut random = fastrand::Rng::with_seed(0xf0);
        for _ in 0..rounds {
            let input = mutated(&mut random, &seeds);
            try_one(target, body, &input);
        }
    }

    fn try_one(target: &str, body: fn(&[u8]), input: &[u8]) {
        if let Err(panic) = std::panic::catch_unwind(|| body(input)) {
            eprintln!("{target} fails with {:?}", String::from_utf8_lossy(input));
            eprintln!("in hexadecimal: {}", input.iter().map(|b| format!("{b:02x}")).collect::<String>());
            std::panic::resume_unwind(panic);
        }
    }

    /// One to eight small changes: a bit, a byte, a gap, a repetition, a piece of another seed.
    fn mutated(random: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[random.usize(..seeds.len())].clone();
        for _ in 0..random.usize(1..=8) {
            let at = random.usize(..=input.len());
            let end = random.usize(at..=input.len().min(at + 40));
            match random.u8(..7) {
                0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
                1 if at < input.len() => input[at] = random.u8(..),
                2 => input.insert(at, random.u8(..)),
                3 => drop(input.drain(at..end)),
                4 => {
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
                5 => {
                    let other = &seeds[random.usize(..seeds.len())];
                    let from = random.usize(..=other.len());
                    let to = random.usize(from..=other.len().min(from + 200));
                    input.splice(at..end, other[from..to].iter().copied());
                }
                _ if at < input.len() => {
                    input[at] = [0, 0xff, 0x7f, 0x80, b'0', b'9', b'"', b'\n', b' '][random.usize(..9)];
                }
                _ => {}
            }
        }
        input.truncate(16 * 1024);
        input
    }

    macro_rules! targets {
        ($($name:ident $rounds:literal,)*) => {
            $(
                #[test]
                fn $name() {
                    run(stringify!($name), super::$name, $rounds);
                }
            )*
            const TARGETS: &[&str] = &[$(stringify!($name)),*];
        };
    }

    targets! {
        http_request 4000,
        ws_frames 4000,
        signal_json 4000,
        jwt 2000,
        sdp_guard 300,
        whip_offer 300,
        sdp_frag 4000,
        ice_candidate 4000,
        demux 4000,
        frames 3000,
        rtp_payload 4000,
        sfu_switch 2000,
        room_ops 2000,
        config 1000,
        wheel_ops 2000,
        session 300,
        webm_read 4000,
        webm_write 2000,
        recording_frames 4000,
        recording_ops 300,
        manifest 2000,
        http_range 4000,
        upload_queue 3000,
    }

    /// Each body has its thin target and its seeds, and none is without a body.
    #[test]
    fn targets_are_complete() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = std::fs::read_dir(root.join(folder)).expect("a folder");
            entries.map(|e| e.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into()).collect()
        };
        let expected: BTreeSet<String> = TARGETS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names("fuzz_targets"), expected);
        assert_eq!(names("seeds"), expected);
    }

    /// The whole-session body gets as far as it is meant to: both are in the call, and a check makes an address known.
    #[test]
    fn the_bench_reaches_the_media() {
        let mut bench = Bench::new();
        assert_eq!(bench.shard.participant_count(), 2);
        bench.say(0, "offer", &serde_json::json!({ "sdp": OFFER }));
        bench.check(0);
        assert!(bench.credentials[0].is_some());
        let before = bench.metrics.read();
        bench.datagram(0, &[22, 0xfe, 0xfd, 0, 0]);
        bench.datagram(1, &[22, 0xfe, 0xfd, 0, 0]);
        let after = bench.metrics.read();
        assert_eq!(after.datagrams_dropped - before.datagrams_dropped, 1, "the first is known, the second is not");
        let (_, offer) = bench.offers[1].clone().expect("what ann publishes is offered to bob");
        bench.say(1, "answer", &serde_json::json!({ "sdp": answer_to(&offer) }));
        bench.check(1);
        assert!(bench.credentials[1].is_some());
    }
}
