//! What forwarding costs: time per packet and per forward, and bytes allocated per packet (want: none).
//!
//! One iteration is one packet to all subscribers; items per second are forwards. The payload is made outside of what is
//! measured, since the connection makes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use str0m::format::Codec;
use str0m::media::MediaKind;
use str0m::rtp::ExtensionValues;
use webrtc_engine::base::{ParticipantKey, TrackId};
use webrtc_engine::sfu::{Forward, Incoming, Layer, Sfu, SfuConfig, Slot, Target};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SUBSCRIBERS: [u32; 3] = [1, 10, 100];
const TRACK: TrackId = TrackId(1);

fn main() {
    divan::main();
}

#[divan::bench(args = SUBSCRIBERS)]
fn audio(bencher: Bencher<'_, '_>, subscribers: u32) {
    let ext = ExtensionValues { audio_level: Some(-30), voice_activity: Some(true), ..ExtensionValues::default() };
    let payload: Arc<[u8]> = [0x78; 80].into();
    let mut source = Source::new(Codec::Opus, subscribers, Target::Best, payload.clone(), vec![payload], ext);
    assert_eq!(source.send(), subscribers as usize);
    run(bencher, source);
}

#[divan::bench(args = SUBSCRIBERS)]
fn video_vp8(bencher: Bencher<'_, '_>, subscribers: u32) {
    let source = Source::video(Codec::Vp8, subscribers, Target::Best, vp8(0, true), vec![vp8(0, false)]);
    assert!(source.out.iter().all(|forward| forward.vp8_patch.is_some()));
    assert_eq!(source.out.len(), subscribers as usize);
    run(bencher, source);
}

/// Half of the pictures are of a layer that nobody gets.
#[divan::bench(args = SUBSCRIBERS)]
fn video_vp8_base_layer(bencher: Bencher<'_, '_>, subscribers: u32) {
    let base = Target::Layer(Layer { encoding: 0, spatial: 0, temporal: 0 });
    let pictures = vec![vp8(0, false), vp8(1, false)];
    let mut source = Source::video(Codec::Vp8, subscribers, base, vp8(0, true), pictures);
    assert_eq!(source.send() + source.send(), subscribers as usize);
    run(bencher, source);
}

/// After a change of the source every payload is copied for each slot, to change its counters.
#[divan::bench(args = SUBSCRIBERS)]
fn video_vp9(bencher: Bencher<'_, '_>, subscribers: u32) {
    let source = Source::video(Codec::Vp9, subscribers, Target::Best, vp9(true), vec![vp9(false)]);
    let sent = source.payloads[0].clone();
    assert!(source.out.iter().all(|forward| forward.payload != sent && forward.payload.len() == sent.len()));
    run(bencher, source);
}

/// The first packet of a picture, with all counters.
fn vp8(temporal: u8, is_key: bool) -> Arc<[u8]> {
    let mut payload = vec![0x90, 0xf0, 0x80, 0x01, 0x02, temporal << 6 | 0x03, u8::from(!is_key)];
    payload.resize(1150, 0x55);
    payload.into()
}

fn vp9(is_key: bool) -> Arc<[u8]> {
    let mut payload = vec![if is_key { 0xac } else { 0xec }, 0x80, 0x01, 0x00, 0x02];
    payload.resize(1150, 0x55);
    payload.into()
}

fn run(bencher: Bencher<'_, '_>, mut source: Source) {
    let forwards = (0..source.payloads.len()).map(|_| source.send()).sum::<usize>() / source.payloads.len();
    bencher.counter(ItemsCount::new(forwards.max(1))).bench_local(|| black_box(source.send()));
}

/// A publisher and its room.
struct Source {
    sfu: Sfu,
    codec: Codec,
    /// One after the other, again and again.
    payloads: Vec<Arc<[u8]>>,
    ext: ExtensionValues,
    out: Vec<Forward>,
    now: Instant,
    seq: u64,
    time: u32,
}

impl Source {
    fn new(
        codec: Codec,
        subscribers: u32,
        target: Target,
        first: Arc<[u8]>,
        payloads: Vec<Arc<[u8]>>,
        ext: ExtensionValues,
    ) -> Self {
        let now = Instant::now();
        let mut sfu = Sfu::new(SfuConfig::default());
        sfu.publish(TRACK, if codec.is_audio() { MediaKind::Audio } else { MediaKind::Video });
        for slot in 0..subscribers {
            let slot = Slot { participant: ParticipantKey { slot, generation: 0 }, mid: "2".into() };
            assert!(sfu.subscribe(now, slot, TRACK, target, 0, &mut Vec::new()));
        }
        let mut source = Source { sfu, codec, payloads: vec![first], ext, out: Vec::new(), now, seq: 1, time: 0 };
        source.send();
        source.sfu.set_muted(TRACK, true);
        source.sfu.set_muted(TRACK, false);
        source.send();
        source.payloads = payloads;
        source
    }

    /// With two sources one after the other, so that every counter is rewritten afterwards.
    fn video(codec: Codec, subscribers: u32, target: Target, key: Arc<[u8]>, payloads: Vec<Arc<[u8]>>) -> Self {
        let mut source = Source::new(codec, subscribers, target, key, payloads, ExtensionValues::default());
        source.send();
        source
    }

    /// Sends the next packet; how many forwards it became.
    fn send(&mut self) -> usize {
        let (clock_rate, step_ms) = if self.codec.is_audio() { (48_000, 20) } else { (90_000, 2) };
        self.seq += 1;
        self.time = self.time.wrapping_add(clock_rate / 1000 * step_ms);
        self.now += Duration::from_millis(step_ms.into());
        self.out.clear();
        let packet = Incoming {
            track: TRACK,
            rid: None,
            codec: self.codec,
            red: false,
            inner_pt: 96.into(),
            seq_no: self.seq.into(),
            ssrc: 1,
            time: self.time,
            clock_rate,
            marker: false,
            payload: &self.payloads[self.seq as usize % self.payloads.len()],
            ext: &self.ext,
            arrival: self.now,
        };
        self.sfu.handle_rtp(self.now, packet, &mut self.out);
        self.out.len()
    }
}
