//! Random operations on layered tracks over a path that loses, delays and doubles; every receiver is judged by the truth.

use super::stream::{Mode, Stage, Tail, layer};
use super::*;

const MODES: [Mode; 9] = [
    Mode::Vp8 { temporal: 3 },
    Mode::Vp8 { temporal: 2 },
    Mode::Vp9 { spatial: 3, temporal: 3, flexible: false },
    Mode::Vp9 { spatial: 2, temporal: 2, flexible: true },
    Mode::Av1 { spatial: 3, temporal: 3, keyed: false },
    Mode::Av1 { spatial: 2, temporal: 2, keyed: true },
    Mode::Av1 { spatial: 1, temporal: 2, keyed: false },
    Mode::Vp8Described { temporal: 3 },
    Mode::H264,
];

/// How bad a path is, in thousandths of its packets.
#[derive(Debug, Clone, Copy)]
struct Path {
    delayed: u32,
    /// Lost, and come with the retransmission.
    retransmitted: u32,
    /// Lost for good.
    lost: u32,
    doubled: u32,
}

const CLEAR: Path = Path { delayed: 0, retransmitted: 0, lost: 0, doubled: 0 };
const ROUGH: Path = Path { delayed: 50, retransmitted: 40, lost: 0, doubled: 20 };
const LOSSY: Path = Path { delayed: 20, retransmitted: 40, lost: 10, doubled: 5 };

struct Weather {
    stage: Stage,
    path: Path,
    wire: Vec<(u64, u64, Packet)>,
    sent: u64,
}

impl Weather {
    fn new(seed: u64, path: Path) -> Weather {
        Weather { stage: Stage::new(seed), path, wire: Vec::new(), sent: 0 }
    }

    fn send(&mut self, packet: Packet) {
        let random = &mut self.stage.random;
        let now = self.stage.room.ms;
        let luck = random.u32(0..1000);
        let Path { delayed, retransmitted, lost, doubled } = self.path;
        let delay = match luck {
            l if l < delayed => random.u64(1..90),
            l if l < delayed + retransmitted => random.u64(60..220),
            l if l < delayed + retransmitted + lost => {
                self.stage.lost.insert(Tail::of(&packet.payload).frame);
                return;
            }
            _ => 0,
        };
        if random.u32(0..1000) < doubled {
            self.sent += 1;
            self.wire.push((now + random.u64(0..150), self.sent, packet.clone()));
        }
        self.sent += 1;
        self.wire.push((now + delay, self.sent, packet));
    }

    /// Delivers what is due, in the order in which it comes.
    fn deliver(&mut self) {
        let now = self.stage.room.ms;
        let (mut due, rest): (Vec<_>, Vec<_>) = self.wire.drain(..).partition(|(at, ..)| *at <= now);
        self.wire = rest;
        due.sort_by_key(|(at, order, _)| (*at, *order));
        for (_, _, packet) in due {
            self.stage.deliver(&packet);
        }
    }

    fn run(&mut self, steps: u32, operate: impl Fn(&mut Stage)) {
        for step in 0..steps {
            self.stage.room.ms += 11;
            if step % 3 == 0 {
                operate(&mut self.stage);
                for packet in self.stage.make() {
                    self.send(packet);
                }
            }
            self.deliver();
            self.stage.poll();
        }
    }
}

/// A random target among the layers that can be chosen, or one that makes no sense.
fn any_target(stage: &mut Stage, track: TrackId) -> Target {
    let mut infos = Vec::new();
    stage.room.sfu.layers(stage.room.now(), track, &mut infos);
    let random = &mut stage.random;
    match random.u32(0..8) {
        0 => Target::Best,
        1 => Target::Paused,
        2 => layer(random.u8(0..5), random.u8(0..5), random.u8(0..5)),
        _ if infos.is_empty() => Target::Best,
        _ => Target::Layer(infos[random.usize(0..infos.len())].layer),
    }
}

fn operate(stage: &mut Stage) {
    let tracks = [TrackId(1), TrackId(2)];
    let track = tracks[stage.random.usize(0..2)];
    let slot = slot(stage.random.u32(0..4));
    stage.replay_max = [0, 20_000, usize::MAX][stage.random.usize(0..3)];
    match stage.random.u32(0..100) {
        0..=3 => {
            let target = any_target(stage, track);
            stage.subscribe(slot, track, target);
        }
        4..=14 => {
            let target = match stage.room.sfu.subscribed(slot) {
                Some(track) => any_target(stage, track),
                None => Target::Best,
            };
            stage.set_target(slot, target);
        }
        15 => stage.room.sfu.unsubscribe(slot),
        16 => {
            let is_muted = stage.random.bool();
            stage.room.sfu.set_muted(track, is_muted);
        }
        17 => {
            let index = stage.random.usize(0..stage.encoders.len());
            let Stage { encoders, random, .. } = stage;
            encoders[index].restart(random);
        }
        18..=20 => {
            let index = stage.random.usize(0..stage.encoders.len());
            let encoder = &mut stage.encoders[index];
            encoder.key_wanted |= !encoder.is_active;
            encoder.is_active = !encoder.is_active;
        }
        21..=22 => {
            let index = stage.random.usize(0..stage.encoders.len());
            // Upper layers that go on from a key frame alone cannot begin between two.
            if !matches!(stage.encoders[index].mode, Mode::Av1 { keyed: true, .. }) {
                stage.encoders[index].spatial_active = stage.random.u8(1..5);
            }
        }
        23..=26 => stage.room.sfu.handle_keyframe_request(stage.room.now(), slot),
        _ => {}
    }
}

fn run(path: Path, seeds: std::ops::Range<u64>) -> (usize, u64, u64) {
    let mut totals = (0, 0, 0);
    for seed in seeds {
        let mut weather = Weather::new(seed, path);
        let stage = &mut weather.stage;
        stage.obeys = seed % 2 == 0;
        for (n, track) in [(0, TrackId(1)), (1, TrackId(2))] {
            let mode = MODES[(seed as usize + 4 * n) % MODES.len()];
            let rids = [&[None][..], &[Some("q"), Some("f")], &[Some("q"), Some("h"), Some("f")]];
            stage.publish(track, mode, rids[seed as usize % 3]);
        }
        weather.run(3000, operate);
        // In the end it clears up, and everybody gets what they want.
        weather.path = CLEAR;
        let tracks = [TrackId(1), TrackId(2)];
        for track in tracks {
            weather.stage.room.sfu.set_muted(track, false);
        }
        for encoder in &mut weather.stage.encoders {
            encoder.is_active = true;
            encoder.spatial_active = 4;
        }
        weather.stage.obeys = true;
        for n in 0..4 {
            weather.stage.subscribe(slot(n), tracks[n as usize % 2], Target::Best);
        }
        weather.run(600, |_| {});
        let settled = weather.stage.room.ms;
        weather.run(90, |_| {});
        for n in 0..4 {
            let stage = &weather.stage;
            let track = tracks[n as usize % 2];
            let best = choose_best(stage, track);
            let got = stage.receiver(slot(n)).layers_since(settled, &stage.truth);
            assert_eq!(got.last().map(|l| l.0), Some(best), "seed {seed}: slot {n} of {track:?}: {got:?}");
        }
        weather.stage.verify();
        totals.0 += weather.stage.receivers.values().map(receiver::Receiver::count).sum::<usize>();
        totals.1 += weather.stage.room.sfu.counters().switches;
        totals.2 += weather.stage.room.sfu.counters().replays;
    }
    totals
}

/// The encoder of the largest pictures.
fn choose_best(stage: &Stage, track: TrackId) -> usize {
    let of_track = stage.encoders.iter().enumerate().filter(|(_, e)| e.track == track);
    of_track.max_by_key(|(_, e)| e.size).map(|(n, _)| n).expect("an encoder")
}

#[test]
fn clear() {
    let (packets, switches, replays) = run(CLEAR, 0..18);
    assert!(packets > 100_000 && switches > 500 && replays > 100, "too calm: {packets} {switches} {replays}");
}

#[test]
fn rough() {
    let (packets, switches, replays) = run(ROUGH, 100..145);
    assert!(packets > 200_000 && switches > 1000 && replays > 100, "too calm: {packets} {switches} {replays}");
}

#[test]
fn lossy() {
    let (packets, switches, replays) = run(LOSSY, 200..227);
    assert!(packets > 100_000 && switches > 500 && replays > 50, "too calm: {packets} {switches} {replays}");
}
