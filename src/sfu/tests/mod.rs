//! The machine from its edge: rows for each rule, then random weather watched by a guard at the exit.

mod layers;
mod receiver;
mod stream;
mod weather;

use std::collections::{HashMap, HashSet};

use str0m::rtp::Vp8Descriptor;

use super::*;

/// What `Vp8Patch` does at serialisation. str0m keeps that to itself, so the bytes are read from its `Debug` form.
pub(super) fn apply(patch: Option<Vp8Patch>, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let Some(patch) = patch else { return payload };
    let text = format!("{patch:?}");
    let list = |name: &str| -> Vec<usize> {
        let start = text.find(name).expect("field") + name.len();
        let end = start + text[start..].find(']').expect("end of list");
        text[start..end].split(", ").map(|n| n.parse().expect("number")).collect()
    };
    let length = text.split("len: ").nth(1).and_then(|t| t.split(',').next()).expect("len").parse().expect("number");
    for (offset, byte) in list("offsets: [").into_iter().zip(list(" bytes: [")).take(length) {
        payload[offset] = byte as u8;
    }
    payload
}

const TRACK: TrackId = TrackId(1);
const OTHER: TrackId = TrackId(2);

fn slot(n: u32) -> Slot {
    Slot { participant: ParticipantKey { slot: n, generation: 0 }, mid: "0".into() }
}

/// One packet as a row would describe it.
#[derive(Debug, Clone)]
struct Packet {
    track: TrackId,
    rid: Option<&'static str>,
    ssrc: u32,
    codec: Codec,
    seq: u64,
    time: u32,
    clock_rate: u32,
    marker: bool,
    payload: Vec<u8>,
    ext: ExtensionValues,
}

impl Packet {
    /// VP8 without counters.
    fn video(seq: u64, key: bool) -> Self {
        Packet {
            track: TRACK,
            rid: None,
            ssrc: 1,
            codec: Codec::Vp8,
            seq,
            time: (seq as u32).wrapping_mul(3000),
            clock_rate: 90_000,
            marker: true,
            payload: vec![0x10, u8::from(!key), seq as u8],
            ext: ExtensionValues::default(),
        }
    }

    fn audio(seq: u64) -> Self {
        Packet {
            codec: Codec::Opus,
            clock_rate: 48_000,
            time: (seq as u32).wrapping_mul(960),
            ..Packet::video(seq, false)
        }
    }

    fn of(mut self, track: TrackId, ssrc: u32) -> Self {
        (self.track, self.ssrc) = (track, ssrc);
        self
    }

    fn rid(mut self, rid: &'static str) -> Self {
        self.rid = Some(rid);
        self.ssrc = rid.bytes().map(u32::from).sum();
        self
    }

    fn size(mut self, size: usize) -> Self {
        self.payload.resize(size, 0);
        self
    }
}

/// An [`Sfu`] with a clock in milliseconds.
struct Room {
    start: Instant,
    ms: u64,
    sfu: Sfu,
    out: Vec<Forward>,
}

impl Room {
    fn new() -> Self {
        Room { start: Instant::now(), ms: 0, sfu: Sfu::new(SfuConfig::default()), out: Vec::new() }
    }

    /// With `TRACK` published and subscribed to by slot 0.
    fn with(kind: MediaKind) -> Self {
        let mut room = Room::new();
        room.sfu.publish(TRACK, kind);
        assert!(room.subscribe(slot(0), TRACK));
        room
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        assert!(ms >= self.ms, "time goes on");
        self.ms = ms;
        self
    }

    fn subscribe(&mut self, slot: Slot, track: TrackId) -> bool {
        let now = self.now();
        self.sfu.subscribe(now, slot, track, Target::Best, 0, &mut self.out)
    }

    /// What the packet became.
    fn send(&mut self, packet: &Packet) -> Vec<Forward> {
        let payload: Arc<[u8]> = packet.payload.clone().into();
        let now = self.now();
        let incoming = Incoming {
            track: packet.track,
            rid: packet.rid.map(Rid::from),
            codec: packet.codec,
            red: false,
            inner_pt: 96.into(),
            seq_no: packet.seq.into(),
            ssrc: packet.ssrc,
            time: packet.time,
            clock_rate: packet.clock_rate,
            marker: packet.marker,
            payload: &payload,
            ext: &packet.ext,
            arrival: now,
        };
        self.sfu.handle_rtp(now, incoming, &mut self.out);
        for forward in &self.out {
            // What was held came with another packet.
            assert!(Arc::ptr_eq(&forward.payload, &payload) || forward.payload != payload, "the payload is shared");
        }
        std::mem::take(&mut self.out)
    }

    /// The outgoing numbers of the packet for slot 0.
    fn seq(&mut self, packet: &Packet) -> Option<u64> {
        let out = self.send(packet);
        assert!(out.len() <= 1);
        out.first().map(|f| *f.seq_no)
    }

    fn requests(&mut self) -> Vec<Option<&'static str>> {
        let mut all = Vec::new();
        self.sfu.handle_timeout(self.now());
        while let Some(request) = self.sfu.poll_keyframe_request(self.now()) {
            assert_eq!(request.track, TRACK);
            let rid = request.rid.map(|rid| ["q", "h", "f"].into_iter().find(|r| Rid::from(*r) == rid).expect("known"));
            all.push(rid);
        }
        assert!(self.sfu.poll_timeout().is_none_or(|at| at > self.now()), "all that was due has been polled");
        all
    }

    fn timeout_ms(&self) -> Option<u64> {
        self.sfu.keyframe_due().map(|at| at.saturating_duration_since(self.start).as_millis() as u64)
    }
}

#[test]
fn video_starts_at_a_key_frame_which_is_asked_for_until_it_comes() {
    let mut room = Room::with(MediaKind::Video);
    assert_eq!(room.requests(), [], "nothing was heard, nobody can be asked");
    assert_eq!(room.seq(&Packet::video(10, false)), None);
    assert_eq!(room.requests(), [None]);
    assert_eq!(room.timeout_ms(), Some(500));
    assert_eq!(room.at(100).seq(&Packet::video(11, false)), None);
    assert_eq!(room.requests(), []);
    assert_eq!(room.at(500).requests(), [None]);
    assert_eq!(room.at(1000).requests(), [None]);
    let first = room.at(1100).seq(&Packet::video(12, true)).expect("starts here");
    assert!(first < 1 << 15);
    assert_eq!(room.timeout_ms(), None);
    assert_eq!(room.seq(&Packet::video(13, false)), Some(first + 1));
    assert_eq!(room.at(5000).requests(), []);
    let counters = room.sfu.counters();
    assert_eq!((counters.forwarded, counters.dropped_no_keyframe, counters.keyframe_requests_sent), (2, 2, 3));
    assert_eq!(counters.switches, 0);
}

#[test]
fn a_late_key_frame_start_brings_what_came_before_it() {
    let mut room = Room::with(MediaKind::Video);
    for (seq, key) in [(10, false), (13, false), (12, false)] {
        assert_eq!(room.send(&Packet::video(seq, key)).len(), 0);
    }
    let out = room.send(&Packet::video(11, true));
    let first = *out[0].seq_no;
    let got: Vec<(u64, u8)> = out.iter().map(|f| (*f.seq_no - first, f.payload[2])).collect();
    assert_eq!(got, [(0, 11), (1, 12), (2, 13)]);
    assert_eq!(room.timeout_ms(), None, "nobody waits any longer");
    assert_eq!(room.seq(&Packet::video(14, false)), Some(first + 3));
    // The next one who comes does not get what was held for the first.
    room.subscribe(slot(1), TRACK);
    assert_eq!(room.send(&Packet::video(16, false)).len(), 1);
    let out = room.send(&Packet::video(15, true));
    let got: Vec<(Slot, u8)> = out.iter().map(|f| (f.slot, f.payload[2])).collect();
    assert_eq!(got, [(slot(0), 15), (slot(1), 15), (slot(1), 16)]);
    // Nothing else has come since somebody waits: the first packet that comes of a key frame is its last.
    room.subscribe(slot(2), TRACK);
    for seq in [19, 18] {
        assert_eq!(room.send(&Packet::video(seq, false)).len(), 2);
    }
    let out = room.send(&Packet::video(17, true));
    let got: Vec<u8> = out.iter().filter(|f| f.slot == slot(2)).map(|f| f.payload[2]).collect();
    assert_eq!(got, [17, 18, 19]);
}

#[test]
fn a_late_key_frame_start_is_no_start_when_what_followed_is_gone() {
    let mut room = Room::new();
    room.sfu.publish(TRACK, MediaKind::Video);
    room.send(&Packet::video(10, false));
    room.send(&Packet::video(12, false));
    room.subscribe(slot(0), TRACK);
    assert_eq!(room.seq(&Packet::video(11, true)), None, "12 passed before anybody waited");
    assert!(room.seq(&Packet::video(13, true)).is_some());

    let mut room = Room::with(MediaKind::Video);
    for seq in (11..400).chain([10]) {
        let is_start = seq == 10;
        assert_eq!(room.send(&Packet::video(seq, is_start)).len(), 0, "{seq}: too much has been held since");
    }
}

/// A part of what is kept that fits the line is that part to its end: a picture of a higher layer in between would be more
/// than fits, and would have no time of its own.
#[test]
fn what_is_kept_goes_out_as_one_layer() {
    let mut room = Room::new();
    room.sfu.publish(TRACK, MediaKind::Video);
    for n in 0..12_u8 {
        let temporal = [0, 2, 1, 2][usize::from(n % 4)];
        let sync = u8::from(temporal > 0) << 5;
        let mut packet = Packet::video(u64::from(n), n == 0);
        // Picture id, TL0PICIDX and TID.
        packet.payload = vec![0x90, 0xe0, n, n / 4, temporal << 6 | sync, u8::from(n > 0)];
        room.at(u64::from(n) * 33).send(&packet.size(100));
    }
    for (octets, kept) in [(1200, 12), (600, 6), (300, 3)] {
        room.out.clear();
        let (now, slot) = (room.now(), slot(octets as u32));
        room.sfu.subscribe(now, slot, TRACK, Target::Best, octets, &mut room.out);
        let times: Vec<u32> = room.out.iter().map(|forward| forward.time).collect();
        assert_eq!(times.len(), kept, "what fits {octets} octets");
        assert!(times.windows(2).all(|w| w[1].wrapping_sub(w[0]).cast_signed() > 0), "{times:?}");
        let seqs: Vec<u64> = room.out.iter().map(|forward| *forward.seq_no).collect();
        assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
    }
    // What comes next is everything again.
    room.out.clear();
    let mut packet = Packet::video(12, false);
    packet.payload = vec![0x90, 0xe0, 12, 3, 0, 1];
    assert_eq!(room.send(&packet).len(), 3);
    packet = Packet::video(13, false);
    packet.payload = vec![0x90, 0xe0, 13, 3, 2 << 6 | 1 << 5, 1];
    assert_eq!(room.send(&packet).len(), 3);
}

#[test]
fn audio_needs_no_key_frame_and_is_not_kept() {
    let mut room = Room::with(MediaKind::Audio);
    let out = room.send(&Packet::audio(70_000));
    assert_eq!(out.len(), 1);
    assert!(!out[0].nackable && out[0].vp8_patch.is_none() && *out[0].seq_no < 1 << 15);
    // Another payload of the same numbering (comfort noise, telephone events) is no restart.
    let tone = Packet { codec: Codec::Tele, ..Packet::audio(70_001) };
    assert_eq!(room.seq(&tone), Some(*out[0].seq_no + 1));
    assert_eq!(room.requests(), []);
    room.sfu.handle_keyframe_request(room.now(), slot(0));
    assert_eq!(room.requests(), []);
}

#[test]
fn only_the_whitelist_of_extensions_goes_out() {
    let mut room = Room::with(MediaKind::Audio);
    let mut packet = Packet::audio(1);
    packet.ext = ExtensionValues {
        audio_level: Some(-30),
        voice_activity: Some(true),
        video_content_type: Some(1),
        mid: Some("p".into()),
        rid: Some("f".into()),
        transport_cc: Some(7),
        tx_time_offs: Some(9),
        abs_send_time: Some(room.start),
        ..ExtensionValues::default()
    };
    packet.ext.user_values.set(17_u32);
    let out = room.send(&packet);
    let expect = ExtensionValues {
        audio_level: Some(-30),
        voice_activity: Some(true),
        video_content_type: Some(1),
        ..ExtensionValues::default()
    };
    assert_eq!(out[0].ext, expect);
}

#[test]
fn sizes_and_shapes_that_are_not_forwarded() {
    let mut room = Room::with(MediaKind::Video);
    let first = room.seq(&Packet::video(1, true)).unwrap();
    let rows: &[(&str, Packet, Option<u64>)] = &[
        ("the largest", Packet::video(2, false).size(1400), Some(1)),
        ("one octet more", Packet::video(3, false).size(1401), None),
        ("its number stays free", Packet::video(4, false), Some(3)),
        ("malformed", Packet { payload: vec![0x90, 0x80, 0x91], ..Packet::video(5, false) }, None),
        ("a duplicate", Packet::video(4, false), None),
        ("padding", Packet::video(6, false).size(0), None),
        ("takes no number", Packet::video(7, false), Some(5)),
        ("more padding", Packet::video(9, false).size(0), None),
        ("before it", Packet::video(8, false), Some(6)),
        ("after it", Packet::video(10, false), Some(7)),
        ("a payload with padding's number", Packet::video(9, false), None),
        ("padding that comes late", Packet::video(12, false), Some(9)),
        ("leaves a hole", Packet::video(11, false).size(0), None),
        ("and moves nothing", Packet::video(13, false), Some(10)),
        ("unknown track", Packet::video(14, false).of(TrackId(9), 1), None),
        ("too late", Packet::video(0, false), None),
    ];
    for (name, packet, expect) in rows {
        assert_eq!(room.seq(packet), expect.map(|n| first + n), "{name}");
    }
    let counters = *room.sfu.counters();
    let expect = Counters {
        forwarded: 8,
        dropped_payload_size: 1,
        dropped_empty: 3,
        dropped_malformed: 1,
        dropped_duplicate: 2,
        dropped_late: 1,
        dropped_unknown: 1,
        ..Counters::default()
    };
    assert_eq!(counters, expect);
}

#[test]
fn a_slot_keeps_its_numbering_whatever_it_carries() {
    let mut room = Room::with(MediaKind::Video);
    room.sfu.publish(OTHER, MediaKind::Video);
    let first = room.seq(&Packet::video(100, true)).unwrap();

    room.subscribe(slot(0), OTHER);
    assert_eq!(room.sfu.subscribed(slot(0)), Some(OTHER));
    assert_eq!(room.sfu.subscribers(TRACK).count(), 0);
    assert_eq!(room.seq(&Packet::video(101, false)), None, "stops at once");
    assert_eq!(room.at(10).seq(&Packet::video(7, true).of(OTHER, 2)), Some(first + 1));

    // Subscribing again to the same changes nothing.
    room.subscribe(slot(0), OTHER);
    assert_eq!(room.seq(&Packet::video(8, false).of(OTHER, 2)), Some(first + 2));

    room.sfu.unsubscribe(slot(0));
    assert_eq!(room.sfu.subscribed(slot(0)), None);
    assert_eq!(room.seq(&Packet::video(9, true).of(OTHER, 2)), None);
    room.subscribe(slot(0), TRACK);
    assert_eq!(room.at(20).seq(&Packet::video(102, true)), Some(first + 3));

    room.sfu.unpublish(TRACK);
    assert_eq!(room.sfu.subscribed(slot(0)), None);
    assert!(!room.subscribe(slot(0), TRACK), "not published");
    room.sfu.publish(TRACK, MediaKind::Video);
    assert!(room.subscribe(slot(0), TRACK));
    assert_eq!(room.at(30).seq(&Packet::video(5, true)), Some(first + 4));
    assert_eq!(room.sfu.counters().switches, 3);
}

#[test]
fn participants_and_tracks_that_go_leave_nothing() {
    let mut room = Room::with(MediaKind::Video);
    room.subscribe(slot(1), TRACK);
    room.send(&Packet::video(1, false));
    assert_eq!(room.sfu.subscribers(TRACK).collect::<Vec<_>>(), [slot(0), slot(1)]);
    room.sfu.remove_participant(slot(0).participant);
    room.sfu.remove_participant(slot(0).participant);
    assert_eq!(room.sfu.subscribers(TRACK).collect::<Vec<_>>(), [slot(1)]);
    assert_eq!(room.send(&Packet::video(2, true)).len(), 1);
    room.sfu.unsubscribe(slot(0));
    room.sfu.remove_participant(slot(1).participant);
    room.sfu.unpublish(TRACK);
    room.sfu.unpublish(TRACK);
    assert!(room.sfu.slots.is_empty() && room.sfu.tracks.is_empty() && room.sfu.listed.is_empty());
}

#[test]
fn the_last_waiting_subscription_takes_its_wish_along() {
    let mut room = Room::with(MediaKind::Video);
    room.send(&Packet::video(1, false));
    assert!(room.sfu.poll_timeout().is_some());
    room.sfu.unsubscribe(slot(0));
    assert_eq!(room.requests(), []);
    assert_eq!(room.timeout_ms(), None);
}

#[test]
fn switch_storm() {
    let mut room = Room::with(MediaKind::Video);
    room.sfu.publish(OTHER, MediaKind::Video);
    let (mut last_seq, mut last_time) = (None::<u64>, None::<u32>);
    for n in 0..1000_u64 {
        let (track, ssrc) = if n % 2 == 0 { (TRACK, 1) } else { (OTHER, 2) };
        room.subscribe(slot(0), track);
        // Both publishers send; only one of the packets goes out.
        let mut out = room.send(&Packet::video(500 + n, true).of(TRACK, 1));
        out.extend(room.send(&Packet::video(9 + n, true).of(OTHER, 2)));
        assert_eq!(out.len(), 1, "{n}: {ssrc}");
        assert!(last_seq.is_none_or(|last| *out[0].seq_no == last + 1));
        assert!(last_time.is_none_or(|last| out[0].time.wrapping_sub(last) == 1));
        (last_seq, last_time) = (Some(*out[0].seq_no), Some(out[0].time));
    }
    assert_eq!(room.sfu.counters().switches, 999);
}

#[test]
fn a_restarted_publisher_is_a_switch() {
    let mut room = Room::with(MediaKind::Video);
    let first = room.seq(&Packet::video(60_000, true)).unwrap();
    assert_eq!(room.seq(&Packet::video(60_001, false)), Some(first + 1));
    // Another SSRC: nothing until its key frame, which is asked for.
    assert_eq!(room.at(100).seq(&Packet::video(3, false).of(TRACK, 77)), None);
    assert_eq!(room.requests(), [None]);
    assert_eq!(room.at(110).seq(&Packet::video(60_002, false)), None, "a straggler of the former SSRC");
    assert_eq!(room.at(120).seq(&Packet::video(4, true).of(TRACK, 77)), Some(first + 2));
    assert_eq!(room.seq(&Packet::video(2, false).of(TRACK, 77)), None, "older than the switch");
    assert_eq!(room.at(130).seq(&Packet::video(60_003, false)), None, "another straggler");
    assert_eq!(room.seq(&Packet::video(5, false).of(TRACK, 77)), Some(first + 3), "is no restart");
    // Back to the first SSRC later: a switch again.
    assert_eq!(room.at(1200).seq(&Packet::video(60_010, true)), Some(first + 4));
    // A jump of the numbering: so is this.
    assert_eq!(room.at(1300).seq(&Packet::video(160_010, false)), None);
    assert_eq!(room.at(1310).seq(&Packet::video(160_011, true)), Some(first + 5));
    // Another codec on the same numbering.
    let idr = Packet { codec: Codec::H264, payload: vec![0x65, 1, 2], ..Packet::video(160_013, false) };
    let slice = Packet { codec: Codec::H264, payload: vec![0x41, 1, 2], ..Packet::video(160_012, false) };
    assert_eq!(room.at(1400).seq(&slice), None);
    assert_eq!(room.seq(&Packet::video(160_009, true)), None, "late, of the former codec");
    assert_eq!(room.seq(&idr), Some(first + 6));
    assert_eq!(room.sfu.counters().switches, 4);
}

#[test]
fn muted_means_silence_at_once_and_a_key_frame_afterwards() {
    let mut room = Room::with(MediaKind::Video);
    let first = room.seq(&Packet::video(1, true)).unwrap();
    room.sfu.handle_keyframe_request(room.now(), slot(0));
    room.sfu.set_muted(TRACK, true);
    assert_eq!(room.at(20).seq(&Packet::video(2, true)), None);
    room.sfu.handle_keyframe_request(room.now(), slot(0));
    assert_eq!(room.at(900).requests(), [], "nobody asks a muted track");
    room.sfu.set_muted(TRACK, false);
    assert_eq!(room.requests(), [None]);
    assert_eq!(room.at(1000).seq(&Packet::video(3, false)), None);
    assert_eq!(room.at(1010).seq(&Packet::video(4, true)), Some(first + 1), "what was muted leaves no hole");

    let mut room = Room::with(MediaKind::Audio);
    let first = room.seq(&Packet::audio(1)).unwrap();
    room.sfu.set_muted(TRACK, true);
    assert_eq!(room.seq(&Packet::audio(2)), None);
    room.sfu.set_muted(TRACK, false);
    assert_eq!(room.seq(&Packet::audio(3)), Some(first + 1));
}

#[test]
fn requests_of_many_subscribers_are_one() {
    let mut room = Room::with(MediaKind::Video);
    for n in 1..50 {
        room.subscribe(slot(n), TRACK);
    }
    room.send(&Packet::video(1, true));
    for n in 0..50 {
        room.sfu.handle_keyframe_request(room.now(), slot(n));
    }
    assert_eq!(room.requests(), [None]);
    for n in 0..50 {
        room.ms += 1;
        room.sfu.handle_keyframe_request(room.now(), slot(n));
        assert_eq!(room.requests(), []);
    }
    assert_eq!(room.timeout_ms(), Some(500));
    room.at(300).send(&Packet::video(2, true));
    assert_eq!(room.at(600).requests(), [], "a key frame came meanwhile");
    room.sfu.handle_keyframe_request(room.now(), slot(3));
    room.sfu.handle_keyframe_request(room.now(), slot(99));
    assert_eq!(room.requests(), [None]);
    let counters = room.sfu.counters();
    assert_eq!((counters.keyframe_requests_sent, counters.keyframe_requests_merged), (2, 49 + 49));
}

/// Three encodings that send every 20 ms; each second row says what changes.
struct Simulcast {
    room: Room,
    seq: u64,
    sizes: [usize; 3],
}

const RIDS: [&str; 3] = ["q", "h", "f"];

impl Simulcast {
    fn new(sizes: [usize; 3]) -> Self {
        Simulcast { room: Room::with(MediaKind::Video), seq: 0, sizes }
    }

    /// Runs for `ms` with key frames as they are asked for (if `answer`); returns the rids that were forwarded, runs merged.
    fn run(&mut self, ms: u64, answer: bool) -> Vec<&'static str> {
        let mut forwarded: Vec<&'static str> = Vec::new();
        let mut key = [false; 3];
        let end = self.room.ms + ms;
        while self.room.ms < end {
            self.room.ms += 20;
            self.seq += 1;
            for (n, rid) in RIDS.into_iter().enumerate() {
                if self.sizes[n] == 0 {
                    continue;
                }
                let packet = Packet::video(self.seq, key[n]).rid(rid).size(self.sizes[n]);
                if !self.room.send(&packet).is_empty() && forwarded.last() != Some(&rid) {
                    assert!(forwarded.is_empty() || key[n], "a switch is at a key frame");
                    forwarded.push(rid);
                }
            }
            key = [false; 3];
            for rid in self.room.requests() {
                let n = RIDS.iter().position(|r| Some(*r) == rid).expect("known");
                key[n] = answer;
            }
        }
        forwarded
    }
}

#[test]
fn simulcast_goes_up_to_the_best_and_down_when_it_dies() {
    let mut simulcast = Simulcast::new([100, 0, 0]);
    assert_eq!(simulcast.run(500, true), ["q"], "one encoding");
    simulcast.sizes = [100, 400, 0];
    assert_eq!(simulcast.run(1000, true), ["q", "h"], "a better one");
    simulcast.sizes = [100, 400, 1200];
    assert_eq!(simulcast.run(1000, true), ["h", "f"]);
    simulcast.sizes = [100, 400, 0];
    assert_eq!(simulcast.run(1400, true), [""; 0], "silent, not yet dead");
    assert_eq!(simulcast.run(300, true), ["h"], "dead");
    simulcast.sizes = [100, 450, 0];
    assert_eq!(simulcast.run(500, true), ["h"]);
    simulcast.sizes = [100, 420, 450];
    assert_eq!(simulcast.run(3000, true), ["h"], "not better by enough to be worth a key frame");
    assert_eq!(simulcast.room.sfu.counters().switches, 3);
}

#[test]
fn simulcast_without_key_frames_goes_on_with_what_it_has() {
    let mut simulcast = Simulcast::new([100, 0, 0]);
    simulcast.run(500, true);
    simulcast.sizes = [100, 0, 1200];
    let sent = simulcast.room.sfu.counters().keyframe_requests_sent;
    assert_eq!(simulcast.run(3000, false), ["q"], "no gap");
    let asked = simulcast.room.sfu.counters().keyframe_requests_sent - sent;
    assert!((5..=7).contains(&asked), "the high encoding is asked every 500 ms: {asked}");
    assert_eq!(simulcast.run(600, true), ["q", "f"]);
}

#[test]
fn low_encodings_are_asked_more_often_than_high_ones() {
    let mut simulcast = Simulcast::new([100, 0, 1200]);
    simulcast.run(1000, true);
    let room = &mut simulcast.room;
    // The slot is moved to the low encoding by silence of the high one.
    let mut asked = Vec::new();
    let begin = room.ms;
    for n in 0..150 {
        room.ms += 20;
        room.send(&Packet::video(1000 + n, false).rid("q"));
        if room.requests() == [Some("q")] {
            asked.push(room.ms - begin);
        }
    }
    assert_eq!(asked.len(), 3, "{asked:?}");
    // It is the only one alive, so it counts as high.
    assert!(asked.windows(2).all(|w| w[1] - w[0] == 500), "{asked:?}");

    let mut simulcast = Simulcast::new([100, 0, 0]);
    simulcast.run(500, true);
    simulcast.sizes = [100, 0, 1200];
    simulcast.run(300, false);
    let room = &mut simulcast.room;
    assert_eq!(room.sfu.counters().switches, 0, "still on the low encoding");
    room.sfu.handle_keyframe_request(room.now(), slot(0));
    let first: Vec<_> = room.requests();
    let at = room.ms;
    room.sfu.handle_keyframe_request(room.now(), slot(0));
    assert!(first.contains(&Some("q")));
    room.at(at + 180);
    assert!(!room.requests().contains(&Some("q")));
    room.at(at + 200);
    assert!(room.requests().contains(&Some("q")));
}

#[test]
fn a_fourth_encoding_takes_the_place_of_a_dead_one_only() {
    let mut room = Room::with(MediaKind::Video);
    for rid in RIDS {
        room.send(&Packet::video(1, true).rid(rid));
    }
    assert!(room.send(&Packet::video(1, true).rid("x")).is_empty());
    assert_eq!(room.sfu.counters().dropped_unknown, 1);
    room.at(1000);
    for rid in ["q", "h"] {
        room.send(&Packet::video(2, false).rid(rid));
    }
    assert_eq!(room.at(1600).send(&Packet::video(1, true).rid("x").size(100)).len(), 1);
    assert_eq!(room.sfu.counters().dropped_unknown, 1);
}

#[test]
fn loudest_with_hysteresis() {
    let mut room = Room::new();
    let ids = [TrackId(1), TrackId(2), TrackId(3), TrackId(4)];
    for id in ids {
        room.sfu.publish(id, MediaKind::Audio);
    }
    room.sfu.publish(TrackId(5), MediaKind::Video);
    let mut seq = 0;
    let mut talk = |room: &mut Room, ms: u64, levels: [Option<i8>; 4]| {
        for _ in 0..ms / 20 {
            room.ms += 20;
            seq += 1;
            for (id, level) in ids.into_iter().zip(levels) {
                let mut packet = Packet::audio(seq).of(id, id.0 as u32);
                packet.ext.audio_level = level;
                room.send(&packet);
            }
        }
        let loudest: Vec<u64> = room.sfu.loudest(room.now(), 2).into_iter().map(|(id, _)| id.0).collect();
        loudest
    };
    assert_eq!(talk(&mut room, 400, [None; 4]), [0; 0], "no level, no speaker");
    assert_eq!(talk(&mut room, 400, [Some(-30), Some(-40), Some(-50), None]), [1, 2]);
    assert_eq!(talk(&mut room, 400, [Some(-30), Some(-40), Some(-36), None]), [1, 2], "louder, not clearly");
    assert_eq!(talk(&mut room, 400, [Some(-30), Some(-40), Some(-25), None]), [1, 3], "clearly louder");
    assert_eq!(talk(&mut room, 100, [Some(-90), Some(-40), Some(-25), None]), [3, 1], "a short pause");
    assert_eq!(talk(&mut room, 600, [Some(-90), Some(-40), Some(-25), None]), [3, 2]);
    let levels: HashMap<u64, i8> = room.sfu.levels(room.now()).map(|(id, level)| (id.0, level)).collect();
    assert_eq!(levels, HashMap::from([(1, -90), (2, -40), (3, -25), (4, level::SILENCE)]));
    room.sfu.set_muted(TrackId(3), true);
    assert_eq!(talk(&mut room, 100, [Some(-90), Some(-40), Some(-25), None]), [2, 1]);
    room.sfu.unpublish(TrackId(2));
    assert_eq!(talk(&mut room, 400, [Some(-90), Some(-40), Some(-25), None]), [1]);
    room.at(room.ms + 1000);
    assert!(room.sfu.loudest(room.now(), 2).is_empty(), "silence");
}

/// Checks what every subscriber is sent against the invariants of the module.
#[derive(Default)]
struct Guard {
    /// Every packet that was ever sent to the machine; its index is in the last four octets of its payload.
    sent: Vec<Sent>,
    slots: HashMap<Slot, Seen>,
    switches: u64,
    forwarded: u64,
}

/// What is known of a packet.
#[derive(Debug, Clone)]
struct Sent {
    /// Names encoding and SSRC.
    source: (TrackId, usize, u32),
    seq: u64,
    time: u32,
    key_start: bool,
    /// Picture id, TL0PICIDX, KEYIDX.
    vp8: Option<(u16, u8, u8)>,
}

struct Seen {
    by_seq: HashMap<u64, usize>,
    highest: u64,
    time_max: u32,
    /// Of the newest packet that had them.
    vp8: Option<(u16, u8, u8)>,
    source: (TrackId, usize, u32),
    /// Out minus in.
    seq_delta: u64,
    time_delta: u32,
    vp8_delta: Option<(u16, u8, u8)>,
    arrival: Instant,
}

fn vp8_difference(a: (u16, u8, u8), b: (u16, u8, u8)) -> (u16, u8, u8) {
    (a.0.wrapping_sub(b.0) & 0x7fff, a.1.wrapping_sub(b.1), a.2.wrapping_sub(b.2) & 0x1f)
}

impl Guard {
    fn check(&mut self, forward: &Forward) {
        self.forwarded += 1;
        let payload = apply(forward.vp8_patch, &forward.payload);
        let tail = payload.last_chunk::<4>().expect("an index");
        let index = u32::from_be_bytes(*tail) as usize;
        let sent = self.sent[index].clone();
        let vp8 = sent.vp8.map(|_| {
            let d = Vp8Descriptor::parse(&payload).expect("still VP8 after the patch");
            (d.picture_id().unwrap(), d.tl0_pic_idx().unwrap(), d.key_idx().unwrap())
        });
        let seq = *forward.seq_no;
        let seq_delta = seq.wrapping_sub(sent.seq);
        let time_delta = forward.time.wrapping_sub(sent.time);
        let vp8_delta = vp8.zip(sent.vp8).map(|(a, b)| vp8_difference(a, b));

        let Some(seen) = self.slots.get_mut(&forward.slot) else {
            assert!(sent.key_start, "a slot starts with a key frame");
            assert!((1..1 << 15).contains(&seq), "and below the wire's half");
            let seen = Seen {
                by_seq: HashMap::from([(seq, index)]),
                highest: seq,
                time_max: forward.time,
                vp8,
                source: sent.source,
                seq_delta,
                time_delta,
                vp8_delta,
                arrival: forward.arrival,
            };
            self.slots.insert(forward.slot, seen);
            return;
        };
        assert!(seen.by_seq.insert(seq, index).is_none(), "a number goes out once");
        let continues = seen.source == sent.source
            && seen.seq_delta == seq_delta
            && seen.time_delta == time_delta
            && seen.vp8_delta == vp8_delta;
        if !continues {
            self.switches += 1;
            assert!(sent.key_start, "a switch is at a key frame");
            assert_eq!(seq, seen.highest + 1, "a switch follows directly");
            let later = forward.time.wrapping_sub(seen.time_max);
            let wall = forward.arrival.saturating_duration_since(seen.arrival).as_millis() as u32 * 90;
            assert!(later >= 1 && later <= wall.max(1), "time moves as the clock does: {later} in {wall}");
            if let (Some(now), Some(last)) = (vp8, seen.vp8) {
                assert_eq!(vp8_difference(now, last), (1, 1, 1), "counters follow directly");
            }
            (seen.source, seen.seq_delta, seen.time_delta, seen.vp8_delta) =
                (sent.source, seq_delta, time_delta, vp8_delta);
        }
        if seq > seen.highest {
            let step = forward.time.wrapping_sub(seen.time_max).cast_signed();
            assert!(step >= 0, "time does not go back in order");
            if step > 0 {
                (seen.time_max, seen.arrival) = (forward.time, forward.arrival);
            }
            seen.highest = seq;
            seen.vp8 = vp8.or(seen.vp8);
        }
    }
}

/// A publisher's encoder: frames of one to three packets.
struct Encoder {
    track: TrackId,
    encoding: usize,
    codec: Codec,
    ssrc: u32,
    seq: u64,
    time: u32,
    vp8: (u16, u8, u8),
}

impl Encoder {
    fn new(random: &mut fastrand::Rng, track: TrackId, encoding: usize) -> Self {
        let codec = if track.0 % 3 == 2 { Codec::H264 } else { Codec::Vp8 };
        let vp8 = (random.u16(..) & 0x7fff, random.u8(..), random.u8(..32));
        let ssrc = random.u32(1..);
        Encoder { track, encoding, codec, ssrc, seq: random.u64(0..200_000), time: random.u32(..), vp8 }
    }

    fn frame(&mut self, random: &mut fastrand::Rng, key: bool, guard: &mut Guard, out: &mut Vec<Packet>) {
        self.time = self.time.wrapping_add(3000);
        self.vp8.0 = (self.vp8.0 + 1) & 0x7fff;
        self.vp8.1 = self.vp8.1.wrapping_add(1);
        if key {
            self.vp8.2 = (self.vp8.2 + 1) & 0x1f;
        }
        let count = random.usize(1..4);
        for n in 0..count {
            self.seq += 1;
            let is_vp8 = self.codec == Codec::Vp8;
            let mut payload = if is_vp8 {
                let (picture_id, tl0, key_idx) = self.vp8;
                let head = if n == 0 { 0x90 } else { 0x80 };
                vec![head, 0xf0, 0x80 | (picture_id >> 8) as u8, picture_id as u8, tl0, key_idx, u8::from(!key)]
            } else {
                vec![0x7c, if n == 0 { 0x80 } else { 0 } | if key { 5 } else { 1 }]
            };
            payload.extend((guard.sent.len() as u32).to_be_bytes());
            payload.splice(payload.len() - 4..payload.len() - 4, std::iter::repeat_n(0, 40 * (self.encoding * 3 + 1)));
            guard.sent.push(Sent {
                source: (self.track, self.encoding, self.ssrc),
                seq: self.seq,
                time: self.time,
                key_start: key && n == 0,
                vp8: is_vp8.then_some(self.vp8),
            });
            out.push(Packet {
                track: self.track,
                rid: Some(RIDS[self.encoding]),
                ssrc: self.ssrc,
                codec: self.codec,
                seq: self.seq,
                time: self.time,
                clock_rate: 90_000,
                marker: n + 1 == count,
                payload,
                ext: ExtensionValues::default(),
            });
        }
    }
}

/// Random publishing, subscribing, muting, restarting, loss, delay and duplicates; the guard watches each subscriber.
#[test]
fn random_weather() {
    let mut totals = (0, 0);
    for seed in 0..24 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut room = Room::new();
        room.sfu = Sfu::new(SfuConfig { seed, ..SfuConfig::default() });
        let mut guard = Guard::default();
        let mut encoders: Vec<Encoder> = Vec::new();
        let mut wire: Vec<(u64, Packet)> = Vec::new();
        let tracks = [TrackId(1), TrackId(2), TrackId(3), TrackId(4)];
        for track in tracks {
            room.sfu.publish(track, MediaKind::Video);
            for encoding in 0..=(track.0 as usize % 3) {
                encoders.push(Encoder::new(&mut random, track, encoding));
            }
        }
        let mut asked: Vec<KeyframeRequest> = Vec::new();
        for _ in 0..1500 {
            room.ms += 10;
            let now = room.now();
            match random.u32(0..60) {
                0..=3 => {
                    room.subscribe(slot(random.u32(0..5)), tracks[random.usize(0..4)]);
                }
                4 => room.sfu.unsubscribe(slot(random.u32(0..5))),
                5 => room.sfu.set_muted(tracks[random.usize(0..4)], random.bool()),
                6 => {
                    // The new connection's numbering starts anew.
                    let leaving = slot(random.u32(0..5));
                    room.sfu.remove_participant(leaving.participant);
                    guard.slots.remove(&leaving);
                }
                7 => {
                    let track = tracks[random.usize(0..4)];
                    room.sfu.unpublish(track);
                    room.sfu.publish(track, MediaKind::Video);
                }
                8 => {
                    let encoder = random.usize(0..encoders.len());
                    let (track, encoding) = (encoders[encoder].track, encoders[encoder].encoding);
                    encoders[encoder] = Encoder::new(&mut random, track, encoding);
                }
                9..=12 => room.sfu.handle_keyframe_request(now, slot(random.u32(0..5))),
                _ => {}
            }
            let mut fresh = Vec::new();
            for encoder in &mut encoders {
                if random.u32(0..3) == 0 {
                    let rid = Some(Rid::from(RIDS[encoder.encoding]));
                    let request = KeyframeRequest { track: encoder.track, rid };
                    let wanted = asked.iter().position(|r| *r == request).map(|n| asked.swap_remove(n)).is_some();
                    encoder.frame(&mut random, wanted, &mut guard, &mut fresh);
                }
            }
            for packet in fresh {
                let delay = if random.u32(0..10) == 0 { random.u64(0..80) } else { 0 };
                if random.u32(0..20) == 0 {
                    wire.push((room.ms + random.u64(0..120), packet.clone()));
                }
                if random.u32(0..30) != 0 {
                    wire.push((room.ms + delay, packet));
                }
            }
            let mut rest = Vec::new();
            for (at, packet) in wire.drain(..) {
                if at > room.ms {
                    rest.push((at, packet));
                    continue;
                }
                for forward in room.send(&packet) {
                    assert_eq!(room.sfu.subscribed(forward.slot), Some(packet.track), "seed {seed}");
                    guard.check(&forward);
                }
            }
            wire = rest;
            room.sfu.handle_timeout(now);
            while let Some(request) = room.sfu.poll_keyframe_request(now) {
                asked.push(request);
            }
            assert!(room.sfu.poll_timeout().is_none_or(|at| at > now));
        }
        totals = (totals.0 + guard.forwarded, totals.1 + guard.switches);
    }
    assert!(totals.0 > 20_000 && totals.1 > 500, "the weather was too calm to prove anything: {totals:?}");
}

/// The numbers on the wire over many wraps of their 16 bits, through the whole machine.
#[test]
fn wire_numbers_over_200_000_packets() {
    let mut room = Room::with(MediaKind::Audio);
    let first = room.seq(&Packet::audio(40_000)).unwrap();
    for n in 1..200_000 {
        room.ms += 20;
        let forward = &room.send(&Packet::audio(40_000 + n))[0];
        assert_eq!(*forward.seq_no, first + n);
        assert_eq!(forward.seq_no.as_u16(), (first as u16).wrapping_add(n as u16));
    }
}

#[test]
fn reorder_across_a_switch() {
    let mut room = Room::with(MediaKind::Video);
    room.sfu.publish(OTHER, MediaKind::Video);
    let first = room.seq(&Packet::video(10, true)).unwrap();
    assert_eq!(room.seq(&Packet::video(13, false)), Some(first + 3));
    room.subscribe(slot(0), OTHER);
    room.send(&Packet::video(50, false).of(OTHER, 2));
    assert_eq!(room.at(5).seq(&Packet::video(52, true).of(OTHER, 2)), Some(first + 4));
    assert_eq!(room.seq(&Packet::video(11, false)), None, "of the track that was left");
    assert_eq!(room.seq(&Packet::video(51, false).of(OTHER, 2)), None, "from before the key frame");
    assert_eq!(room.seq(&Packet::video(54, false).of(OTHER, 2)), Some(first + 6));
    assert_eq!(room.seq(&Packet::video(53, false).of(OTHER, 2)), Some(first + 5));
}

/// Whatever a publisher sends, nothing panics and the numbers stay within reach of a receiver.
#[test]
fn arbitrary_packets_are_survived() {
    let mut random = fastrand::Rng::with_seed(42);
    let mut room = Room::new();
    let codecs = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1, Codec::Opus, Codec::H266];
    room.sfu.publish(TRACK, MediaKind::Video);
    room.sfu.publish(OTHER, MediaKind::Audio);
    for n in 0..4 {
        room.subscribe(slot(n), if n % 2 == 0 { TRACK } else { OTHER });
    }
    let mut highest: HashMap<Slot, u64> = HashMap::new();
    let mut seq = 0_u64;
    for _ in 0..80_000 {
        room.ms += random.u64(0..200);
        seq = match random.u32(0..200) {
            0 => random.u64(..),
            1 => u64::MAX - random.u64(0..3),
            2 => 0,
            3..=20 => seq.saturating_sub(random.u64(0..1100)),
            21..=30 => seq.saturating_add(random.u64(0..700)),
            _ => seq.saturating_add(1),
        };
        let packet = Packet {
            track: if random.bool() { TRACK } else { OTHER },
            rid: [None, Some("q"), Some("h"), Some("f"), Some("x")][random.usize(0..5)],
            ssrc: random.u32(0..400) / 399,
            codec: codecs[random.usize(0..codecs.len())],
            time: random.u32(..),
            clock_rate: if random.bool() { 90_000 } else { random.u32(..) },
            payload: (0..random.usize(0..12)).map(|_| random.u8(..)).collect(),
            ext: ExtensionValues { audio_level: Some(random.i8(..)), ..ExtensionValues::default() },
            ..Packet::video(seq, false)
        };
        for forward in room.send(&packet) {
            apply(forward.vp8_patch, &forward.payload);
            let highest = highest.entry(forward.slot).or_insert(*forward.seq_no);
            assert!(*forward.seq_no <= *highest + 513, "{} after {highest}", forward.seq_no);
            *highest = (*highest).max(*forward.seq_no);
        }
        while room.sfu.poll_keyframe_request(room.now()).is_some() {}
        room.sfu.loudest(room.now(), 3);
    }
    let counters = room.sfu.counters();
    assert!(counters.forwarded > 10_000 && counters.switches > 100, "{counters:?}");
}
