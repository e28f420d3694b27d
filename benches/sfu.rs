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
use webrtc_engine::sfu::{Forward, Incoming, Sfu, SfuConfig, Slot, Target};

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
    run(bencher, Source::new(MediaKind::Audio, subscribers, vec![0x78; 80], ext));
}

#[divan::bench(args = SUBSCRIBERS)]
fn video_vp8(bencher: Bencher<'_, '_>, subscribers: u32) {
    // All counters, the start of an inter frame.
    let mut payload = vec![0x90, 0xf0, 0x80, 0x01, 0x02, 0x23, 0x01];
    payload.resize(1150, 0x55);
    run(bencher, Source::new(MediaKind::Video, subscribers, payload, ExtensionValues::default()));
}

fn run(bencher: Bencher<'_, '_>, mut source: Source) {
    let forwards = source.send();
    bencher.counter(ItemsCount::new(forwards)).bench_local(|| black_box(source.send()));
}

/// A publisher and its room.
struct Source {
    sfu: Sfu,
    kind: MediaKind,
    payload: Arc<[u8]>,
    ext: ExtensionValues,
    out: Vec<Forward>,
    now: Instant,
    seq: u64,
    time: u32,
}

impl Source {
    fn new(kind: MediaKind, subscribers: u32, payload: Vec<u8>, ext: ExtensionValues) -> Self {
        let now = Instant::now();
        let mut sfu = Sfu::new(SfuConfig::default());
        sfu.publish(TRACK, kind);
        for slot in 0..subscribers {
            let slot = Slot { participant: ParticipantKey { slot, generation: 0 }, mid: "2".into() };
            assert!(sfu.subscribe(now, slot, TRACK, Target::Best, 0, &mut Vec::new()));
        }
        let mut key = payload.clone();
        if let (true, Some(header)) = (kind.is_video(), key.get_mut(6)) {
            *header = 0x00;
        }
        let mut source = Source { sfu, kind, payload: key.into(), ext, out: Vec::new(), now, seq: 1, time: 0 };
        // Two sources one after the other, so that every VP8 counter is rewritten afterwards.
        source.send();
        source.sfu.set_muted(TRACK, true);
        source.sfu.set_muted(TRACK, false);
        source.send();
        source.payload = payload.into();
        assert_eq!(source.send(), subscribers as usize);
        if kind.is_video() {
            assert!(source.out.iter().all(|forward| forward.vp8_patch.is_some()));
        }
        source
    }

    /// Sends the next packet; how many forwards it became.
    fn send(&mut self) -> usize {
        let (codec, clock_rate, step_ms) =
            if self.kind.is_video() { (Codec::Vp8, 90_000, 2) } else { (Codec::Opus, 48_000, 20) };
        self.seq += 1;
        self.time = self.time.wrapping_add(clock_rate / 1000 * step_ms);
        self.now += Duration::from_millis(step_ms.into());
        self.out.clear();
        let packet = Incoming {
            track: TRACK,
            rid: None,
            codec,
            red: false,
            inner_pt: 96.into(),
            seq_no: self.seq.into(),
            ssrc: 1,
            time: self.time,
            clock_rate,
            marker: false,
            payload: &self.payload,
            ext: &self.ext,
            arrival: self.now,
        };
        self.sfu.handle_rtp(self.now, packet, &mut self.out);
        self.out.len()
    }
}
