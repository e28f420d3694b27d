//! Negotiation against a str0m client: order of codecs, caps, glare, stale answers, datagrams that are none of ours.

use std::sync::Arc;
use std::time::Instant;

use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind};
use str0m::{Rtc, RtcConfig};

use super::*;

fn config(video_codecs: &[VideoCodec]) -> Arc<PeerConfig> {
    Arc::new(PeerConfig {
        candidates: vec!["127.0.0.1:40000".parse().unwrap()],
        tcp_candidates: Vec::new(),
        video_codecs: video_codecs.to_vec(),
        audio_bitrate: 64_000,
        video_max_bitrate: 1_200_000,
        retransmission_share: 0.25,
        limits: sdp::Limits::default(),
        channels: 16,
        channel_message: 64 * 1024,
        channel_buffer: 1024 * 1024,
    })
}

fn client(now: Instant) -> Rtc {
    RtcConfig::new().set_crypto_provider(crypto::provider()).set_rtp_mode(true).build(now)
}

/// An offer with a line of each kind on which the client sends.
fn client_offer(client: &mut Rtc) -> (String, SdpPendingOffer) {
    let mut api = client.sdp_api();
    api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
    api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
    let (offer, pending) = api.apply().unwrap();
    (offer.to_sdp_string(), pending)
}

/// Names of the video codecs in the order of the m-line.
fn codecs(sdp: &str) -> Vec<String> {
    let line = sdp.lines().find(|l| l.starts_with("m=video")).unwrap();
    let mut names = Vec::new();
    for pt in line.split(' ').skip(3) {
        let map = format!("a=rtpmap:{} ", pt.trim());
        let name = sdp.lines().find_map(|l| l.strip_prefix(map.as_str())).unwrap();
        let name = name.split('/').next().unwrap().to_owned();
        if name != "rtx" && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[test]
fn codecs_stand_in_the_configured_order() {
    let now = Instant::now();
    let rows: [(&[VideoCodec], &[&str]); 2] = [
        (&[VideoCodec::H264, VideoCodec::Vp8], &["H264", "VP8"]),
        (&[VideoCodec::Av1, VideoCodec::Vp9, VideoCodec::Vp8], &["AV1", "VP9", "VP8"]),
    ];
    for (configured, expected) in rows {
        let mut sink = Sink::default();
        let mut offering = Peer::new(now, config(configured));
        let changes = [Change::Add(MediaKind::Video, Direction::RecvOnly)];
        let offer = offering.create_offer(now, 1, &changes, false, &mut sink).unwrap().unwrap();
        assert_eq!(codecs(&offer.sdp), expected, "offer");
        let (theirs, _) = client_offer(&mut client(now));
        let answer = Peer::new(now, config(configured)).handle_offer(now, &theirs, &mut sink).unwrap();
        assert_eq!(codecs(&answer), expected, "answer");
    }
}

#[test]
fn caps_stand_where_the_client_sends_and_red_comes_first() {
    let now = Instant::now();
    let mut sink = Sink::default();
    let (offer, _) = client_offer(&mut client(now));
    let answer = Peer::new(now, config(&[VideoCodec::Vp8])).handle_offer(now, &offer, &mut sink).unwrap();
    assert_eq!(answer.matches("b=TIAS:64000\r\n").count(), 1, "{answer}");
    // Chromium holds all that it sends to this one, so the voice has room in it.
    assert_eq!(answer.matches("b=TIAS:1264000\r\n").count(), 1, "{answer}");
    let changes = [Change::Add(MediaKind::Audio, Direction::RecvOnly)];
    let mut peer = Peer::new(now, config(&[VideoCodec::Vp8]));
    let offer = peer.create_offer(now, 2, &changes, false, &mut sink).unwrap().unwrap();
    let line = offer.sdp.lines().find(|l| l.starts_with("m=audio")).unwrap();
    let first = line.split(' ').nth(3).unwrap();
    assert!(offer.sdp.contains(&format!("a=rtpmap:{first} red/48000/2")), "{}", offer.sdp);
}

/// Redundant audio goes to who negotiated it, whoever offered. str0m lists the payload types of primary codecs only.
#[test]
fn red_is_sent_to_who_takes_it() {
    let now = Instant::now();
    for takes_red in [true, false] {
        let client = || {
            let config = RtcConfig::new().set_crypto_provider(crypto::provider()).set_rtp_mode(true);
            config.clear_codecs().enable_opus(true, takes_red).build(now)
        };
        let sends_red = |peer: &Peer| {
            peer.outgoing
                .values()
                .flat_map(|o| &o.formats)
                .any(|(codec, _, red)| *codec == Codec::Opus && red.is_some())
        };
        let mut sink = Sink::default();
        let mut answering = Peer::new(now, config(&[VideoCodec::Vp8]));
        let mut theirs = client();
        let mut api = theirs.sdp_api();
        api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let offer = api.apply().unwrap().0.to_sdp_string();
        answering.handle_offer(now, &offer, &mut sink).unwrap();
        assert_eq!(sends_red(&answering), takes_red, "answered");

        let mut offering = Peer::new(now, config(&[VideoCodec::Vp8]));
        let changes = [Change::Add(MediaKind::Audio, Direction::SendOnly)];
        let offer = offering.create_offer(now, 1, &changes, false, &mut sink).unwrap().unwrap();
        let offer = SdpOffer::from_sdp_string(&sdp::essential(&offer.sdp)).unwrap();
        let answer = client().sdp_api().accept_offer(offer).unwrap().to_sdp_string();
        offering.handle_answer(now, Some(1), &answer, &mut sink).unwrap();
        assert_eq!(sends_red(&offering), takes_red, "offered");
    }
}

#[test]
fn on_glare_the_server_gives_way() {
    let now = Instant::now();
    let mut sink = Sink::default();
    let mut peer = Peer::new(now, config(&[VideoCodec::Vp8]));
    let mut client = client(now);
    let changes = [Change::Add(MediaKind::Audio, Direction::SendOnly)];
    let dropped = peer.create_offer(now, 3, &changes, false, &mut sink).unwrap().unwrap();

    // The client's offer crosses it, and is answered.
    let (offer, pending) = client_offer(&mut client);
    let answer = peer.handle_offer(now, &offer, &mut sink).unwrap();
    let answer = SdpAnswer::from_sdp_string(&sdp::essential(&answer)).unwrap();
    client.sdp_api().accept_answer(pending, answer).unwrap();
    assert_eq!(peer.pending_offer(), None);
    assert_eq!(peer.lines().iter().filter(|l| l.receives).count(), 2);

    // An answer to what was dropped is stale, by its id and without one.
    let mut other = Rtc::builder().set_crypto_provider(crypto::provider()).build(now);
    let late = other.sdp_api().accept_offer(SdpOffer::from_sdp_string(&dropped.sdp).unwrap()).unwrap().to_sdp_string();
    assert_eq!(peer.handle_answer(now, Some(dropped.id), &late, &mut sink), Err(NegotiationError::Stale));
    let again = peer.create_offer(now, 4, &changes, false, &mut sink).unwrap().unwrap();
    assert_ne!(again.id, dropped.id);
    assert_eq!(peer.handle_answer(now, Some(dropped.id), &late, &mut sink), Err(NegotiationError::Stale));
    assert_eq!(peer.handle_answer(now, None, &late, &mut sink), Err(NegotiationError::Stale), "other mids");

    // And the one made afterwards goes through.
    let theirs = SdpOffer::from_sdp_string(&sdp::essential(&again.sdp)).unwrap();
    let answer = client.sdp_api().accept_offer(theirs).unwrap().to_sdp_string();
    assert_eq!(peer.handle_answer(now, Some(again.id), &answer, &mut sink), Ok(()));
    assert!(peer.lines().iter().any(|l| l.mid == again.added[0] && l.sends));
}

#[test]
fn the_time_to_connect_begins_with_the_answer() {
    let start = Instant::now();
    let late = start + Duration::from_secs(120);
    let mut sink = Sink::default();
    let mut peer = Peer::new(start, config(&[VideoCodec::Vp8]));
    let changes = [Change::Add(MediaKind::Video, Direction::RecvOnly)];
    let offer = peer.create_offer(start, 1, &changes, false, &mut sink).unwrap().unwrap();
    peer.flush(late, &mut sink);
    assert!(!peer.is_dead() && peer.negotiated().is_none(), "an offer waits");
    let theirs = SdpOffer::from_sdp_string(&sdp::essential(&offer.sdp)).unwrap();
    let answer = client(late).sdp_api().accept_offer(theirs).unwrap().to_sdp_string();
    assert_eq!(peer.handle_answer(late, Some(1), &answer, &mut sink), Ok(()));
    assert_eq!(peer.negotiated(), Some(late));
}

#[test]
fn an_answer_needs_an_offer() {
    let now = Instant::now();
    let mut sink = Sink::default();
    let mut peer = Peer::new(now, config(&[VideoCodec::Vp8]));
    assert_eq!(peer.handle_answer(now, None, "v=0", &mut sink), Err(NegotiationError::Unexpected));
    assert!(peer.is_fresh());
}

#[test]
fn another_connection_is_told_by_its_fingerprint() {
    let now = Instant::now();
    let mut sink = Sink::default();
    let mut peer = Peer::new(now, config(&[VideoCodec::Vp8]));
    let (offer, _) = client_offer(&mut client(now));
    assert!(!peer.is_foreign(&offer));
    peer.handle_offer(now, &offer, &mut sink).unwrap();
    assert!(!peer.is_foreign(&offer));
    let fingerprint = sdp::fingerprint(&offer).unwrap();
    assert!(peer.is_foreign(&offer.replace(&fingerprint, "sha-256 00:11")));
}

#[test]
fn strange_datagrams_are_not_answered() {
    let now = Instant::now();
    let mut sink = Sink::default();
    let mut peer = Peer::new(now, config(&[VideoCodec::Vp8]));
    let (offer, _) = client_offer(&mut client(now));
    peer.handle_offer(now, &offer, &mut sink).unwrap();
    sink.transmits.clear();
    let (source, local) = ("10.0.0.9:5".parse().unwrap(), "127.0.0.1:40000".parse().unwrap());
    let mut random = fastrand::Rng::with_seed(3);
    for length in (1..1500).step_by(7) {
        for first in [0, 1, 22, 128, 144, 255] {
            let mut data: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            data[0] = first;
            peer.handle_packet(now, Protocol::Udp, source, local, &data, &mut sink);
        }
    }
    peer.flush(now, &mut sink);
    assert!(!peer.is_dead());
    assert!(sink.transmits.is_empty());
    assert!(sink.events.is_empty() && sink.received.is_empty());
}
