//! Whole calls in virtual time: what goes in is made here, and so is known.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use str0m::format::Codec;

use super::super::feed::{Arrival, EndReason, Report};
use super::*;
use crate::base::{TrackId, UserId};

const SOUND: u32 = 1;
const PICTURE: u32 = 2;

/// A recorder with time around it. Milliseconds since the beginning, everywhere.
struct Call {
    start: Instant,
    recorder: Recorder,
    now_ms: u64,
    /// With when it came out.
    blocks: Vec<(u64, Block)>,
    notes: Vec<Note>,
    requests: Vec<(u64, u32)>,
    timeouts: u64,
}

impl Call {
    fn new() -> Self {
        let start = Instant::now();
        Call {
            start,
            recorder: Recorder::new(start, Config::default()),
            now_ms: 0,
            blocks: Vec::new(),
            notes: Vec::new(),
            requests: Vec::new(),
            timeouts: 0,
        }
    }

    /// Ada's microphone and camera.
    fn of_ada() -> Self {
        let mut call = Call::new();
        call.add(0, SOUND, "ada", MediaKind::Audio);
        call.add(0, PICTURE, "ada", MediaKind::Video);
        call
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Time goes on; the recorder is woken when it wants to be.
    fn run(&mut self, ms: u64) {
        let until = self.at(ms);
        let mut last = (None, 0);
        while let Some(at) = self.recorder.poll_timeout().filter(|at| *at <= until) {
            last = if last.0 == Some(at) { (last.0, last.1 + 1) } else { (Some(at), 0) };
            assert!(last.1 < 100, "it wants to be woken at {:?} again and again", at - self.start);
            let at = at.max(self.at(self.now_ms));
            self.now_ms = (at - self.start).as_millis() as u64;
            self.recorder.handle_timeout(at);
            self.timeouts += 1;
            self.drain(at);
        }
        self.now_ms = ms;
        self.recorder.handle_timeout(until);
        self.drain(until);
    }

    fn drain(&mut self, now: Instant) {
        while let Some(block) = self.recorder.poll_block() {
            self.blocks.push((self.now_ms, block));
        }
        while let Some(track) = self.recorder.poll_keyframe_request(now) {
            self.requests.push((self.now_ms, track));
        }
        self.notes.extend(std::iter::from_fn(|| self.recorder.poll_note()));
    }

    fn item(&mut self, ms: u64, item: Item) {
        if ms > self.now_ms {
            self.run(ms);
        }
        let now = self.at(self.now_ms);
        self.recorder.handle_item(now, &item);
        self.drain(now);
    }

    fn add(&mut self, ms: u64, number: u32, user: &str, kind: MediaKind) {
        let source = if kind == MediaKind::Audio { "microphone" } else { "camera" };
        let user = UserId::new(user).expect("a name");
        let track = TrackInfo { number, id: TrackId(number.into()), user, kind, source, name: None };
        self.item(ms, Item::TrackAdded { at: self.at(ms), track });
    }

    fn mute(&mut self, ms: u64, track: u32, muted: bool) {
        self.item(ms, Item::Muted { at: self.at(ms), track, muted });
    }

    fn finish(&mut self, ms: u64) {
        self.item(ms, Item::Finish { at: self.at(ms), reason: EndReason::Requested });
        assert!(self.recorder.is_finished());
    }

    /// Milliseconds at which the blocks of a track begin, in the order of the file.
    fn times(&self, source: u32) -> Vec<u64> {
        self.of(source).map(|block| (block.timestamp_ns + 500_000) / 1_000_000).collect()
    }

    fn of(&self, source: u32) -> impl Iterator<Item = &Block> {
        self.blocks.iter().map(|(_, block)| block).filter(move |block| block.source == source)
    }

    /// What holds of every file.
    fn check(&self) {
        let mut numbers = std::collections::BTreeSet::new();
        let mut last = std::collections::HashMap::new();
        for (_, block) in &self.blocks {
            if block.begins.is_some() {
                assert!(numbers.insert(block.number), "each number is of one track");
            }
            let first = block.begins.is_some().then_some((block.number, None));
            let (number, time) = first.or(last.get(&block.source).copied()).expect("a description comes first");
            assert_eq!(number, block.number);
            assert!(time.is_none_or(|time| time + 1_000_000 <= block.timestamp_ns), "a track's time ascends by ticks");
            assert!(block.begins.is_none() || block.is_keyframe);
            last.insert(block.source, (number, Some(block.timestamp_ns)));
        }
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "no number is left out");
    }
}

/// What a track sends. RTP time follows `ms` exactly.
struct Sender {
    track: u32,
    ssrc: u32,
    seq_no: u64,
    base: u32,
    frames: u64,
    size: u16,
}

impl Sender {
    fn new(track: u32) -> Self {
        Sender { track, ssrc: 1000 + track, seq_no: 100, base: 0xffff_0000, frames: 0, size: 640 }
    }

    fn packet(&mut self, ms: u64, clock_rate: u32, codec: Codec, payload: Vec<u8>) -> Packet {
        self.seq_no += 1;
        Packet {
            track: self.track,
            ssrc: self.ssrc,
            seq_no: self.seq_no,
            time: self.base.wrapping_add((ms * u64::from(clock_rate) / 1000) as u32),
            clock_rate,
            codec,
            red: false,
            marker: true,
            payload: Arc::from(payload),
            arrival: Instant::now(),
        }
    }

    /// 20 ms of stereo, with a number inside.
    fn sound(&mut self, ms: u64) -> Packet {
        self.frames += 1;
        let mut payload = vec![0xfc, 0xff];
        payload.extend_from_slice(&self.frames.to_be_bytes());
        self.packet(ms, 48_000, Codec::Opus, payload)
    }

    /// A VP8 frame in one packet.
    fn picture(&mut self, ms: u64, is_keyframe: bool) -> Packet {
        self.frames += 1;
        let mut payload = vec![0x10, if is_keyframe { 0x10 } else { 0x11 }, 2, 0];
        if is_keyframe {
            payload.extend_from_slice(&[0x9d, 0x01, 0x2a]);
            payload.extend_from_slice(&self.size.to_le_bytes());
            payload.extend_from_slice(&360u16.to_le_bytes());
        }
        payload.extend_from_slice(&self.frames.to_be_bytes());
        self.packet(ms, 90_000, Codec::Vp8, payload)
    }
}

/// Arrives at `ms`.
fn arrives(call: &mut Call, ms: u64, mut packet: Packet) {
    packet.arrival = call.at(ms);
    call.item(ms, Item::Packet(packet));
}

/// Sound every 20 ms in `[from, to)`, without any delay.
fn talk(call: &mut Call, sender: &mut Sender, from: u64, to: u64) {
    for ms in (from..to).step_by(20) {
        let packet = sender.sound(ms);
        arrives(call, ms, packet);
    }
}

/// Pictures every 40 ms in `[from, to)`; the first is a key frame if wanted.
fn show(call: &mut Call, sender: &mut Sender, from: u64, to: u64, keyframe: bool) {
    for ms in (from..to).step_by(40) {
        let packet = sender.picture(ms, keyframe && ms == from);
        arrives(call, ms, packet);
    }
}

/// Both, in order.
fn send(call: &mut Call, sound: &mut Sender, picture: &mut Sender, from: u64, to: u64, keyframe: bool) {
    for ms in (from..to).step_by(20) {
        talk(call, sound, ms, ms + 20);
        if (ms - from).is_multiple_of(40) {
            show(call, picture, ms, ms + 40, keyframe && ms == from);
        }
    }
}

/// Two people, jitter, loss and retransmissions, in batches or as it comes: (when it is fed, item).
fn stormy(seed: u64, loss: u8) -> Vec<(u64, u64, u32, u64, Item)> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let origin = Instant::now();
    let mut all = Vec::new();
    for track in 1..=4 {
        let mut sender = Sender::new(track);
        let is_sound = track % 2 == 1;
        let step = if is_sound { 20 } else { 40 };
        for ms in (0..20_000u64).step_by(step) {
            let mut packet =
                if is_sound { sender.sound(ms) } else { sender.picture(ms, ms % 4000 == 0 && rng.bool() || ms == 0) };
            let mut at = ms + 20 + if ms == 0 { 0 } else { rng.u64(..80) };
            if ms > 0 && rng.u8(..100) < loss {
                at += if rng.u8(..10) == 0 { 2000 } else { 100 + rng.u64(..200) };
            }
            packet.arrival = origin + Duration::from_millis(at);
            all.push((at, ms, track, at, Item::Packet(packet)));
        }
    }
    all.sort_by_key(|event| (event.0, event.1, event.2));
    all
}

/// `batch`: milliseconds in which what arrives is fed together.
fn weather(seed: u64, loss: u8, batch: u64) -> Call {
    let mut call = Call::new();
    for (number, user) in [(1, "ada"), (2, "ada"), (3, "bob"), (4, "bob")] {
        call.add(0, number, user, if number % 2 == 1 { MediaKind::Audio } else { MediaKind::Video });
    }
    for (at, _, _, _, item) in stormy(seed, loss) {
        let Item::Packet(mut packet) = item else { continue };
        packet.arrival = call.at(at);
        call.item(at.div_ceil(batch) * batch, Item::Packet(packet));
    }
    call.finish(22_500);
    call.check();
    call
}

#[test]
fn blocks_leave_in_order_and_soon() {
    for seed in 0..4 {
        let call = weather(seed, 5, 1);
        let mut last = 0;
        let mut late = 0;
        for (at, block) in &call.blocks {
            // Those at the end are let out by it.
            assert!(*at <= block.timestamp_ns / 1_000_000 + 720 || *at == 22_500, "seed {seed}: {at} {block:?}");
            late += usize::from(block.timestamp_ns < last);
            last = last.max(block.timestamp_ns);
        }
        assert!(late * 200 < call.blocks.len(), "seed {seed}: {late} of {} are out of order", call.blocks.len());
        for track in 1..=4 {
            let quality = call.recorder.quality(track);
            let sent = if track % 2 == 1 { 1000 } else { 500 };
            assert!(quality.packets + quality.lost <= sent && quality.packets > sent * 98 / 100, "{quality:?}");
            assert!(quality.recovered > 0, "{quality:?}");
            assert!(track % 2 == 0 || quality.frames > sent * 98 / 100, "{quality:?}");
        }
        // Sound is without a hole.
        for source in [1, 3] {
            let times = call.times(source);
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 80), "seed {seed}");
            assert!(times[times.len() - 1] >= 22_400);
        }
    }
}

#[test]
fn batches_change_nothing_but_when() {
    for seed in 0..2 {
        let said = |call: &Call, source| -> Vec<_> {
            call.of(source).map(|block| (block.timestamp_ns, block.size, block.payload.to_vec())).collect()
        };
        let (fluent, batched) = (weather(seed, 0, 1), weather(seed, 0, 100));
        for source in 1..=4 {
            assert_eq!(said(&fluent, source), said(&batched, source), "seed {seed}");
        }
        let order: Vec<_> = batched.blocks.iter().map(|(_, block)| block.timestamp_ns).collect();
        assert!(order.is_sorted(), "seed {seed}");
    }
}

#[test]
fn what_is_sent_is_what_is_written() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    send(&mut call, &mut sound, &mut picture, 100, 2100, true);
    call.finish(2100);
    call.check();
    assert_eq!(call.times(SOUND), (100..2100).step_by(20).collect::<Vec<_>>());
    assert_eq!(call.times(PICTURE), (100..2100).step_by(40).collect::<Vec<_>>());
    let first = call.of(PICTURE).next().expect("a picture");
    assert_eq!((first.size, first.is_keyframe), (Some((640, 360)), true));
    assert!(call.of(PICTURE).skip(1).all(|block| block.size.is_none() && !block.is_keyframe));
    assert!(call.of(SOUND).all(|block| block.duration_ns == Some(20_000_000)));
    assert_eq!(call.of(SOUND).nth(1).map(|block| block.payload.to_vec()[9]), Some(2));
    assert!(call.notes.is_empty(), "{:?}", call.notes);
}

/// What came before it says how long pictures are under way otherwise, or what comes soon after it.
#[test]
fn a_first_key_frame_that_takes_long() {
    for is_told in [true, false] {
        let mut call = Call::of_ada();
        let mut picture = Sender::new(PICTURE);
        for ms in (0..400u64).step_by(40).filter(|_| is_told) {
            let time = picture.base.wrapping_add(ms as u32 * 90);
            let arrival = call.at(ms);
            call.item(
                ms,
                Item::Arrival(Arrival { track: PICTURE, ssrc: picture.ssrc, time, clock_rate: 90_000, arrival }),
            );
        }
        let keyframe = picture.picture(400, true);
        arrives(&mut call, 630, keyframe);
        show(&mut call, &mut picture, 640, 3000, false);
        call.finish(3000);
        call.check();
        assert_eq!(call.times(PICTURE)[0], 400, "told: {is_told}");
    }
}

/// All that somebody sends at first is late, and less so from packet to packet.
#[test]
fn who_is_busy_at_first_is_put_where_it_belongs() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    for ms in (0..2000u64).step_by(20) {
        let late = 200u64.saturating_sub(ms / 2);
        let packet = sound.sound(ms);
        arrives(&mut call, ms + late, packet);
        if ms % 40 == 0 {
            let packet = picture.picture(ms, ms == 0);
            arrives(&mut call, ms + late, packet);
        }
    }
    call.finish(2000);
    call.check();
    for (track, step) in [(SOUND, 20), (PICTURE, 40)] {
        let times = call.times(track);
        assert_eq!(times[..20], (0..20 * step).step_by(step as usize).collect::<Vec<_>>(), "{track}");
    }
}

/// Pictures that are all late are put where a report says, if one comes soon.
#[test]
fn first_pictures_wait_for_a_report() {
    let mut call = Call::of_ada();
    let mut picture = Sender::new(PICTURE);
    for ms in (0..2000u64).step_by(20) {
        if ms % 40 == 0 {
            let packet = picture.picture(ms, ms == 0);
            arrives(&mut call, ms + if ms < 1400 { 250 } else { 0 }, packet);
        }
        if ms == 460 {
            let (time, arrival) = (picture.base.wrapping_add(ms as u32 * 90), call.at(ms + 20));
            let ntp = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + ms);
            call.item(
                ms + 20,
                Item::Report(Report { track: PICTURE, ssrc: picture.ssrc, ntp, time, clock_rate: 90_000, arrival }),
            );
        }
    }
    call.finish(2000);
    call.check();
    let times = call.times(PICTURE);
    assert!(times.iter().take(20).zip((0..).step_by(40)).all(|(at, truth)| at - truth <= 20), "{times:?}");
}

/// A first key frame that is under way for longer than others wait for anybody: it begins where they are.
#[test]
fn a_track_does_not_begin_long_before_what_is_written() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    talk(&mut call, &mut sound, 0, 3000);
    for ms in (0..400u64).step_by(40) {
        let time = picture.base.wrapping_add(ms as u32 * 90);
        let arrival = call.at(ms);
        call.item(
            3000,
            Item::Arrival(Arrival { track: PICTURE, ssrc: picture.ssrc, time, clock_rate: 90_000, arrival }),
        );
    }
    let keyframe = picture.picture(400, true);
    arrives(&mut call, 3000, keyframe);
    for ms in (3000..5000u64).step_by(20) {
        talk(&mut call, &mut sound, ms, ms + 20);
        if ms % 40 == 0 {
            show(&mut call, &mut picture, ms, ms + 40, false);
        }
    }
    call.finish(5000);
    call.check();
    let times = call.times(PICTURE);
    assert!((2000..2300).contains(&times[0]), "{:?}", &times[..3]);
    assert_eq!(times[1], 3000);
}

#[test]
fn reports_put_sound_and_picture_together() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    // The picture is under way for 150 ms longer than sound.
    for ms in (0..20_000u64).step_by(10) {
        if ms % 20 == 0 {
            let packet = sound.sound(ms);
            arrives(&mut call, ms, packet);
        }
        if ms % 40 == 30 && ms >= 150 {
            let packet = picture.picture(ms - 150, ms == 150);
            arrives(&mut call, ms, packet);
        }
        if ms % 1000 == 900 {
            for (sender, clock_rate) in [(&sound, 48_000), (&picture, 90_000)] {
                let time = sender.base.wrapping_add(ms as u32 * (clock_rate / 1000));
                let ntp = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + ms);
                // As browsers tell it.
                let ntp = if clock_rate == 48_000 { ntp + Duration::from_micros(26_500) } else { ntp };
                let arrival = call.at(ms);
                let report = Report { track: sender.track, ssrc: sender.ssrc, ntp, time, clock_rate, arrival };
                call.item(ms, Item::Report(report));
            }
        }
    }
    call.finish(20_000);
    call.check();
    let truth = |ms: u64| (ms / 40 * 40, ms);
    let late: Vec<_> = call.times(PICTURE).into_iter().filter(|ms| *ms > 2500).map(truth).collect();
    assert!(late.len() > 400 && late.iter().all(|(frame, ms)| ms - frame <= 1), "{late:?}");
    assert!(call.times(PICTURE)[0] >= 149, "arrivals, as long as there are no reports");
    let slewed: Vec<_> =
        call.notes.iter().filter(|note| matches!(note, Note::Slewed { source: PICTURE, .. })).collect();
    assert!(matches!(slewed[..], [Note::Slewed { by_ns: -155_000_000..=-140_000_000, .. }]), "{slewed:?}");
}

#[test]
fn silence_is_written_where_nothing_comes() {
    let mut call = Call::of_ada();
    let mut sound = Sender::new(SOUND);
    talk(&mut call, &mut sound, 1000, 2000);
    // Not sending while nobody speaks: a packet in 400 ms.
    for ms in (2000..6000).step_by(400) {
        talk(&mut call, &mut sound, ms, ms + 20);
    }
    talk(&mut call, &mut sound, 6000, 7000);
    call.mute(7000, SOUND, true);
    call.run(67_000);
    let until = *call.times(SOUND).last().expect("a block");
    assert!((66_700..=67_000).contains(&until), "the file grows with the call: {until}");
    assert!(call.timeouts < 1000, "not for every block: {}", call.timeouts);
    call.mute(67_010, SOUND, false);
    talk(&mut call, &mut sound, 67_020, 68_020);
    call.item(68_020, Item::TrackRemoved { at: call.at(68_020), track: SOUND });
    call.finish(80_000);
    call.check();
    let times = call.times(SOUND);
    assert_eq!(times[0], 1000, "not before the first packet");
    assert_eq!(*times.last().expect("a block"), 68_000, "nor after the last");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 40));
    assert_eq!(times.len(), (68_020 - 1000) / 20);
    let silent: Vec<_> = call.of(SOUND).filter(|block| block.payload.len() == 3).collect();
    assert_eq!(silent.len(), 10 * 19 + 60_000 / 20 + 2);
    assert!(silent.iter().all(|block| block.payload.to_vec()[0] & 4 == 4), "stereo as before");
    // The first packet after the mute: its silence was there already.
    let quality = call.recorder.quality(SOUND);
    assert_eq!((quality.frames, quality.dropped), (159, 1));
    assert!(call.notes.is_empty(), "{:?}", call.notes);
}

#[test]
fn a_mute_track_holds_nobody() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    send(&mut call, &mut sound, &mut picture, 0, 1000, true);
    talk(&mut call, &mut sound, 1000, 2000);
    let (at, block) = call.blocks.last().expect("a block");
    assert!(at - block.timestamp_ns / 1_000_000 >= 600, "the picture is waited for");
    call.mute(2000, PICTURE, true);
    talk(&mut call, &mut sound, 2000, 2500);
    let (at, block) = call.blocks.last().expect("a block");
    assert_eq!((*at, block.timestamp_ns / 1_000_000), (2480, 2480));
}

#[test]
fn a_pause_is_cut_out() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    send(&mut call, &mut sound, &mut picture, 0, 3000, true);
    call.item(3000, Item::Paused { at: call.at(3000) });
    assert_eq!(call.times(SOUND).len(), 150, "what waits is written");
    send(&mut call, &mut sound, &mut picture, 3000, 13_000, false);
    let (blocks, position) = (call.blocks.len(), call.recorder.position_ns(call.at(12_000)));
    assert_eq!((blocks, position), (225, 3_000_000_000));
    assert_eq!(call.requests, [(0, PICTURE)]);
    call.item(13_000, Item::Resumed { at: call.at(13_000) });
    assert_eq!(call.requests, [(0, PICTURE), (13_000, PICTURE)]);
    // From before its end.
    arrives(&mut call, 13_000, sound.sound(12_980));
    send(&mut call, &mut sound, &mut picture, 13_000, 13_400, false);
    assert_eq!(call.blocks.len(), 225 + 20, "sound at once, no picture yet");
    send(&mut call, &mut sound, &mut picture, 13_400, 15_000, true);
    call.finish(15_000);
    call.check();
    assert_eq!(call.times(SOUND), (0..5000).step_by(20).collect::<Vec<_>>());
    let pictures: Vec<_> = (0..3000).chain(3400..5000).step_by(40).collect();
    assert_eq!(call.times(PICTURE), pictures);
    assert_eq!(call.recorder.position_ns(call.at(15_000)), 5_000_000_000);
    assert!(call.notes.is_empty(), "{:?}", call.notes);
}

#[test]
fn losses_are_told_of() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    send(&mut call, &mut sound, &mut picture, 0, 1000, true);
    sound.seq_no += 4;
    picture.seq_no += 1;
    send(&mut call, &mut sound, &mut picture, 1080, 3080, false);
    assert_eq!(call.requests, [(0, PICTURE), (1580, PICTURE), (2080, PICTURE)]);
    send(&mut call, &mut sound, &mut picture, 3080, 6000, true);
    call.finish(6000);
    call.check();
    let ms = Duration::from_millis;
    assert_eq!(
        call.notes,
        [
            Note::Gap { source: SOUND, at_ns: 1_000_000_000, duration: ms(80), packets: 4 },
            Note::Gap { source: PICTURE, at_ns: 960_000_000, duration: ms(2120), packets: 1 },
        ]
    );
    let (sound, picture) = (call.recorder.quality(SOUND), call.recorder.quality(PICTURE));
    assert_eq!((sound.lost, sound.gaps, sound.frames, sound.dropped), (4, 1, 296, 0));
    assert_eq!((picture.lost, picture.gaps, picture.keyframes, picture.keyframe_interval_ms), (1, 1, 2, 3080));
    assert_eq!((picture.frames, picture.dropped), (25 + 73, 50));
    // Silence instead of what was lost.
    assert_eq!(call.times(SOUND), (0..6000).step_by(20).collect::<Vec<_>>());
}

#[test]
fn an_overflow_is_a_gap() {
    let mut call = Call::of_ada();
    let mut sound = Sender::new(SOUND);
    talk(&mut call, &mut sound, 0, 1000);
    call.item(1000, Item::Overflow { at: call.at(1000), track: SOUND, packets: 10_000 });
    sound.seq_no += 10_000;
    talk(&mut call, &mut sound, 3000, 6000);
    call.finish(6000);
    let [Note::Gap { source: SOUND, at_ns, duration, packets: 10_000 }] = call.notes[..] else {
        panic!("{:?}", call.notes)
    };
    assert_eq!((at_ns / 1_000_000, duration.as_millis() / 100), (1000, 20));
}

#[test]
fn changes_of_encoding_and_size_are_told_of() {
    let mut call = Call::of_ada();
    let mut picture = Sender::new(PICTURE);
    show(&mut call, &mut picture, 0, 2000, true);
    (picture.ssrc, picture.base, picture.size) = (7, 12_345, 320);
    show(&mut call, &mut picture, 2000, 4000, true);
    show(&mut call, &mut picture, 4000, 6000, true);
    call.finish(6000);
    call.check();
    assert_eq!(call.notes, [Note::Changed { source: PICTURE, at_ns: 2_000_000_000, size: Some((320, 360)) }]);
    let sizes: Vec<_> = call.of(PICTURE).filter_map(|block| block.size).collect();
    assert_eq!(sizes, [(640, 360), (320, 360)]);
    assert_eq!(call.times(PICTURE), (0..6000).step_by(40).collect::<Vec<_>>());
}

#[test]
fn key_frames_are_asked_for() {
    let mut call = Call::of_ada();
    let mut picture = Sender::new(PICTURE);
    show(&mut call, &mut picture, 0, 22_000, true);
    // At the start, then for seeking, more and more rarely.
    assert_eq!(call.requests, [0, 10_000, 10_500, 11_500, 13_500, 17_500].map(|ms| (ms, PICTURE)));
    show(&mut call, &mut picture, 22_000, 23_000, true);
    call.requests.clear();
    call.mute(23_000, PICTURE, true);
    call.run(60_000);
    assert!(call.requests.is_empty(), "{:?}", call.requests);
    call.mute(60_000, PICTURE, false);
    assert_eq!(call.requests, [(60_000, PICTURE)]);
    show(&mut call, &mut picture, 60_000, 61_000, true);
    call.run(120_000);
    assert_eq!(call.requests, [(60_000, PICTURE)], "nobody sends");
    assert_eq!(call.recorder.quality(PICTURE).keyframe_interval_ms, 22_000, "a mute is none");
}

#[test]
fn who_comes_again_has_another_clock() {
    let mut call = Call::of_ada();
    for (round, track) in [(0, SOUND), (10_000, 7)] {
        if round > 0 {
            call.add(round, track, "ada", MediaKind::Audio);
        }
        let mut sound = Sender::new(track);
        for ms in (round..round + 8000).step_by(20) {
            talk(&mut call, &mut sound, ms, ms + 20);
            if ms % 1000 == 0 {
                // Years apart.
                let ntp = UNIX_EPOCH + Duration::from_millis(ms + round * 10_000_000);
                let time = sound.base.wrapping_add(ms as u32 * 48);
                let (ssrc, arrival) = (sound.ssrc, call.at(ms));
                call.item(ms, Item::Report(Report { track, ssrc, ntp, time, clock_rate: 48_000, arrival }));
            }
        }
        call.item(round + 8000, Item::TrackRemoved { at: call.at(round + 8000), track });
        call.item(
            round + 8000,
            Item::Left { at: call.at(round + 8000), user: UserId::new("ada").unwrap(), reason: "left" },
        );
        assert_eq!(call.times(track), (round..round + 8000).step_by(20).collect::<Vec<_>>());
    }
    call.finish(20_000);
    call.check();
    assert!(call.notes.is_empty(), "{:?}", call.notes);
}

#[test]
fn a_file_has_no_more_numbers() {
    let mut call = Call::new();
    call.recorder.out.number = crate::webm::track::NUMBER_MAX;
    for track in [1, 2] {
        call.add(0, track, "ada", MediaKind::Audio);
        let mut sound = Sender::new(track);
        talk(&mut call, &mut sound, u64::from(track) * 1000, u64::from(track) * 1000 + 500);
    }
    call.finish(5000);
    assert_eq!((call.times(1).is_empty(), call.times(2).len()), (false, 0));
    assert!(call.of(1).all(|block| block.number == crate::webm::track::NUMBER_MAX));
    let gap = Note::Gap { source: 2, at_ns: 2_000_000_000, duration: Duration::from_millis(480), packets: 25 };
    assert_eq!(call.notes, [gap]);
    assert_eq!(call.recorder.quality(2).dropped, 25);
}

#[test]
fn a_finish_lets_everything_out() {
    let mut call = Call::of_ada();
    let (mut sound, mut picture) = (Sender::new(SOUND), Sender::new(PICTURE));
    send(&mut call, &mut sound, &mut picture, 0, 1000, true);
    // Behind a hole that is still waited for.
    sound.seq_no += 1;
    talk(&mut call, &mut sound, 1020, 1100);
    call.finish(1600);
    call.check();
    assert_eq!(
        call.times(SOUND),
        (0..1600).step_by(20).collect::<Vec<_>>().into_iter().filter(|ms| *ms != 1000).collect::<Vec<_>>()
    );
    let blocks = call.blocks.len();
    talk(&mut call, &mut sound, 1600, 2000);
    assert_eq!((call.blocks.len(), call.recorder.poll_timeout()), (blocks, None));
}

/// Whatever comes, nothing panics, time ascends, and nothing grows.
#[test]
fn garbage_is_bounded() {
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut call = Call::of_ada();
        // Nobody takes anything out, every other time.
        let polls = seed % 2 == 0;
        let mut now = 0;
        for n in 0..60_000u64 {
            now += rng.u64(..3);
            let at = call.at(now);
            let before = at.checked_sub(Duration::from_millis(rng.u64(..200))).unwrap_or(at);
            let track = rng.u32(..4);
            let bits = rng.u32(14..64);
            let item = match rng.u32(..1000) {
                0 => Item::Muted { at, track, muted: rng.bool() },
                1 if seed > 2 => Item::Paused { at },
                2..8 => Item::Resumed { at },
                8 => Item::Overflow { at, track, packets: rng.u32(..) },
                9..60 => Item::Report(Report {
                    track,
                    ssrc: rng.u32(..3),
                    ntp: UNIX_EPOCH + Duration::from_millis(rng.u64(..) >> bits),
                    time: rng.u32(..),
                    clock_rate: [0, 1, 48_000, 90_000, u32::MAX][rng.usize(..5)],
                    arrival: before,
                }),
                _ => {
                    let length = rng.usize(..1200);
                    Item::Packet(Packet {
                        track,
                        ssrc: if rng.u8(..10) == 0 { rng.u32(..) } else { rng.u32(..3) },
                        seq_no: match rng.u8(..100) {
                            0 => rng.u64(..),
                            1 => u64::MAX,
                            _ => n + rng.u64(..100),
                        },
                        time: if rng.bool() { rng.u32(..) } else { (now as u32).wrapping_mul(48) },
                        clock_rate: [0, 1, 48_000, 90_000, u32::MAX][rng.usize(..5)],
                        codec: if track == SOUND { Codec::Opus } else { Codec::Vp8 },
                        red: false,
                        marker: rng.bool(),
                        payload: Arc::from(std::iter::repeat_with(|| rng.u8(..)).take(length).collect::<Vec<_>>()),
                        arrival: before,
                    })
                }
            };
            call.recorder.handle_item(at, &item);
            if n % 100 == 0 {
                call.recorder.handle_timeout(at);
            }
            call.now_ms = now;
            if polls {
                call.drain(at);
            }
        }
        assert!(polls || call.recorder.out.notes.len() <= 1024);
        call.finish(now + 1);
        call.check();
        let position = call.recorder.position_ns(call.at(now + 1)) + 1_000_000_000;
        assert!(call.blocks.iter().all(|(_, block)| block.timestamp_ns <= position + 120_000_000), "seed {seed}");
        assert!(call.blocks.len() < 70_000, "seed {seed}: {}", call.blocks.len());
    }
}

/// Silence of a mute track goes where it belongs among what others say.
#[test]
fn silence_is_in_order() {
    let mut call = Call::of_ada();
    call.add(0, 3, "bob", MediaKind::Audio);
    let (mut sound, mut other) = (Sender::new(SOUND), Sender::new(3));
    for ms in (0..30_000).step_by(20) {
        call.recorder.handle_timeout(call.at(ms));
        talk(&mut call, &mut other, ms, ms + 20);
        match ms {
            0..5000 | 20_000.. => talk(&mut call, &mut sound, ms, ms + 20),
            // Somebody is not muted, but gone.
            12_000..15_000 => talk(&mut call, &mut sound, ms, ms + 20),
            5000 => call.mute(5000, SOUND, true),
            11_000 => call.mute(11_000, SOUND, false),
            _ => {}
        }
    }
    call.finish(30_000);
    call.check();
    let order: Vec<_> = call.blocks.iter().map(|(_, block)| block.timestamp_ns / 1_000_000).collect();
    assert!(order.is_sorted(), "{:?}", order.windows(2).filter(|pair| pair[1] < pair[0]).collect::<Vec<_>>());
    assert_eq!(call.times(SOUND), call.times(3));
    assert!(call.blocks.iter().all(|(at, block)| *at <= block.timestamp_ns / 1_000_000 + 700));
}

/// A recorder of which nobody takes anything.
#[test]
fn nothing_grows_without_end() {
    let mut call = Call::of_ada();
    let start = call.start;
    let mut sound = Sender::new(SOUND);
    for ms in (0..1_200_000u64).step_by(20) {
        let mut packet = sound.sound(ms);
        packet.arrival = start + Duration::from_millis(ms);
        call.recorder.handle_item(packet.arrival, &Item::Packet(packet));
    }
    assert!(call.recorder.out.interleaver.len() < 40_000);
    call.finish(1_200_000);
    call.check();
    assert!(call.recorder.quality(SOUND).gaps > 0, "and it is told of");
}
