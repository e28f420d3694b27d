//! Synthetic senders, whose truth is known: what is placed is compared with when it was captured.
//!
//! The truth of a frame is when it was captured plus the least delay of its sender's network: that delay cannot be known by
//! anybody who only receives.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

const MS_F: f64 = 1e6;

/// What a call is like.
#[derive(Clone)]
struct Weather {
    name: &'static str,
    seconds: u64,
    /// Packets are late by up to this, evenly.
    jitter_ms: u64,
    /// Of RTP clocks and of the senders' clocks, with either sign.
    drift_ppm: f64,
    /// Reports are off by up to this.
    noise_ms: f64,
    /// When the first report comes.
    first_report_s: f64,
    event: Event,
    /// 99 % of all frames have to be as close as that, in ms: sound to picture, participant to participant.
    limits: (f64, f64),
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    None,
    NoReports,
    /// One in four is off by so many ms.
    Wrong(f64),
    /// Of the microphone, all are; anything up to so many ms.
    Garbage(f64),
    /// The reports of the microphone have no time.
    Zero,
    /// The sender's clock is set by so many ms in the middle.
    ClockStep(f64),
    /// RTP time of the microphone leaps in the middle, by so many ms.
    RtpJump(f64),
    /// The camera gets another SSRC in the middle.
    SsrcChange,
    RtpWrap,
    /// The network's delay grows by so many ms in the middle.
    Delay(f64),
    /// All packets of so many ms in the middle arrive at their end.
    Freeze(f64),
    /// The microphone sends nothing for so many seconds in the middle.
    Mute(f64),
}

const FINE: Weather = Weather {
    name: "fine",
    seconds: 120,
    jitter_ms: 10,
    drift_ppm: 20.0,
    noise_ms: 1.0,
    first_report_s: 1.0,
    event: Event::None,
    limits: (40.0, 100.0),
};

/// Until three reports agree: for 10 to 20 s of the microphone.
const LEAP: (f64, f64) = (210.0, 210.0);

#[derive(Debug, Clone, Copy)]
enum What {
    Packet { time: u32, ssrc: u32, captured: f64, is_last: bool },
    Report { time: u32, ssrc: u32, ntp: SystemTime },
}

/// A track of a sender. Times in ns since the beginning, f64.
struct Source {
    ssrc: u32,
    rate: f64,
    ppm: f64,
    base: u32,
    interval: f64,
    /// From capture until it is sent.
    encode: f64,
    packets: usize,
    report: f64,
}

impl Source {
    fn rtp(&self, captured: f64, jump_ms: f64) -> u32 {
        let ticks = (captured * (1.0 + self.ppm * 1e-6) + jump_ms * MS_F) * self.rate / 1e9;
        self.base.wrapping_add(ticks as i64 as u32)
    }
}

/// (arrival, track, what), in order of arrival.
fn send(weather: &Weather, sender: usize, rng: &mut fastrand::Rng) -> (f64, Vec<(i64, usize, What)>) {
    let sign = if sender.is_multiple_of(2) { 1.0 } else { -1.0 };
    let end = weather.seconds as f64 * 1e9;
    let base = (10.0 + 35.0 * sender as f64) * MS_F;
    let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + rng.u64(0..100_000_000));
    let rtp = |rng: &mut fastrand::Rng| if weather.event == Event::RtpWrap { u32::MAX - 500_000 } else { rng.u32(..) };
    let sound = Source {
        ssrc: 1,
        rate: 48e3,
        ppm: weather.drift_ppm * sign,
        base: rtp(rng),
        interval: 20.0 * MS_F,
        encode: 2.0 * MS_F,
        packets: 1,
        report: 5e9,
    };
    let picture = Source {
        ssrc: 2,
        rate: 90e3,
        ppm: -weather.drift_ppm * sign / 2.0,
        base: rtp(rng),
        interval: 1e9 / 30.0,
        encode: 30.0 * MS_F,
        packets: 3,
        report: 1e9,
    };
    let mut events = Vec::new();
    for (track, source) in [sound, picture].into_iter().enumerate() {
        let half = |at: f64| at >= end / 2.0;
        let changed = |at: f64| weather.event == Event::SsrcChange && track == 1 && half(at);
        let jump = |at: f64| match weather.event {
            Event::RtpJump(ms) if track == 0 && half(at) => ms,
            _ => 0.0,
        };
        let ssrc = |at: f64| source.ssrc + if changed(at) { 10 } else { 0 };
        let time = |at: f64| source.rtp(at, jump(at)).wrapping_add(if changed(at) { 0x1234_5678 } else { 0 });
        let arrive = |sent: f64, rng: &mut fastrand::Rng| {
            let mut at = sent + base + rng.f64() * weather.jitter_ms as f64 * MS_F;
            match weather.event {
                Event::Delay(ms) if half(sent) => at += ms * MS_F,
                Event::Freeze(ms) if half(at) && at < end / 2.0 + ms * MS_F => at = end / 2.0 + ms * MS_F + sent / 1e6,
                _ => {}
            }
            at as i64
        };
        let mut captured = 0.0;
        while captured < end {
            let is_mute = matches!(weather.event, Event::Mute(s) if track == 0 && half(captured) && captured < end / 2.0 + s * 1e9);
            for n in 0..source.packets {
                let at = arrive(captured + source.encode + n as f64 * 2.0 * MS_F, rng);
                let is_last = n + 1 == source.packets;
                let what = What::Packet { time: time(captured), ssrc: ssrc(captured), captured, is_last };
                if !is_mute {
                    events.push((at, track, what));
                }
            }
            captured += source.interval;
        }
        let mut at = weather.first_report_s * 1e9 + rng.f64() * source.report / 2.0;
        let mut count = 0u64;
        while at < end && weather.event != Event::NoReports {
            let mut off = (rng.f64() * 2.0 - 1.0) * weather.noise_ms;
            match weather.event {
                Event::Wrong(ms) if count % 4 == 3 => off += ms,
                Event::Garbage(ms) if track == 0 => off += rng.f64() * ms,
                Event::ClockStep(ms) if half(at) => off += ms,
                _ => {}
            }
            let ntp = at * (1.0 - weather.drift_ppm * sign * 1e-6) + off * MS_F + 1e15;
            let ntp = epoch + Duration::from_nanos(ntp as u64);
            let ntp = if weather.event == Event::Zero && track == 0 { UNIX_EPOCH } else { ntp };
            events.push((arrive(at, rng), track, What::Report { time: time(at), ssrc: ssrc(at), ntp }));
            count += 1;
            at += source.report * (0.5 + rng.f64());
        }
    }
    events.sort_by_key(|event| event.0);
    (base, events)
}

/// What was measured of one sender.
struct Measured {
    /// By how much each frame of a track is off: (captured, ns).
    off: [Vec<(f64, f64)>; 2],
    drift_ppm: [i32; 2],
    slews: usize,
}

fn receive(weather: &Weather, sender: usize, seed: u64) -> Measured {
    let mut rng = fastrand::Rng::with_seed(seed * 100 + sender as u64);
    let (base, events) = send(weather, sender, &mut rng);
    let origin = Instant::now();
    let mut clock = Clock::new(origin);
    let user = UserId::new("ada").expect("a name");
    let mut tracks = [clock.add(&user), clock.add(&user)];
    let rates = [48_000, 90_000];
    let mut measured = Measured { off: [Vec::new(), Vec::new()], drift_ppm: [0; 2], slews: 0 };
    let mut last = [(f64::MIN, i64::MIN); 2];
    for (at, track, what) in events {
        let arrival = origin + Duration::from_nanos(at as u64);
        let (of, clock_rate) = (&mut tracks[track], rates[track]);
        match what {
            What::Report { time, ssrc, ntp } => {
                clock.handle_report(of, &Report { track: 1, ssrc, ntp, time, clock_rate, arrival });
            }
            What::Packet { time, ssrc, captured, is_last } => {
                clock.handle_packet(of, ssrc, time, clock_rate, arrival);
                // A jitter buffer has put them into order.
                if is_last && captured > last[track].0 {
                    let out = clock.place(of, ssrc, time, clock_rate, arrival);
                    assert!(out <= at + AHEAD_MAX_NS + JUMP_NS, "{}: {out} at {at}", weather.name);
                    measured.off[track].push((captured, out as f64 - captured - base));
                    measured.slews += usize::from(of.take_slewed().is_some());
                    last[track] = (captured, out);
                }
            }
        }
    }
    measured.drift_ppm = [tracks[0].drift_ppm(), tracks[1].drift_ppm()];
    measured
}

/// For each of `a` how far the last of `b` before it is from it, in ms: the 99th percentile of that, and the median.
fn apart(a: &[(f64, f64)], b: &[(f64, f64)]) -> (f64, f64) {
    let mut other = b.iter().peekable();
    let mut last = None;
    let mut all = Vec::new();
    for (captured, off) in a {
        while let Some((_, off)) = other.next_if(|(at, _)| at <= captured) {
            last = Some(*off);
        }
        if let Some(last) = last {
            all.push((off - last).abs() / MS_F);
        }
    }
    all.sort_by(f64::total_cmp);
    (all[all.len() * 99 / 100], all[all.len() / 2])
}

fn check(weather: &Weather) {
    let seeds = if weather.seconds > 600 { 1 } else { 2 };
    let (mut worst, mut usual) = ((0f64, 0f64), 0f64);
    for seed in 0..seeds {
        let all: Vec<Measured> = (0..3).map(|sender| receive(weather, sender, seed)).collect();
        for sender in &all {
            let [sound, picture] = &sender.off;
            let (most, median) = apart(picture, sound);
            (worst.0, usual) = (worst.0.max(most), usual.max(median));
            for other in &all {
                worst.1 = worst.1.max(apart(picture, &other.off[1]).0).max(apart(sound, &other.off[0]).0);
            }
        }
    }
    println!("{:<34} {:6.1} ms, usually {usual:4.1}; {:6.1} ms", weather.name, worst.0, worst.1);
    let (sync, participants) = weather.limits;
    assert!(worst.0 <= sync, "{}: sound and picture are {:.1} ms apart", weather.name, worst.0);
    // As long as there are reports that can be believed, arrivals only matter at the beginning.
    if !matches!(weather.event, Event::NoReports | Event::Zero | Event::Garbage(_)) {
        assert!(usual <= 12.0, "{}: sound and picture are usually {usual:.1} ms apart", weather.name);
    }
    assert!(worst.1 <= participants, "{}: participants are {:.1} ms apart", weather.name, worst.1);
}

/// Sound and picture of a participant, and participants, in every weather: 99 % within 40 and 100 ms, from the first second.
#[test]
fn rows() {
    let rows = [
        FINE,
        Weather { name: "jitter", jitter_ms: 200, ..FINE },
        Weather { name: "drift", drift_ppm: 200.0, ..FINE },
        Weather { name: "jitter and drift", jitter_ms: 200, drift_ppm: 200.0, noise_ms: 10.0, ..FINE },
        Weather { name: "noisy reports", noise_ms: 15.0, ..FINE },
        Weather { name: "no report for 5 s", first_report_s: 5.0, jitter_ms: 100, ..FINE },
        Weather { name: "no reports", event: Event::NoReports, drift_ppm: 200.0, jitter_ms: 100, ..FINE },
        Weather { name: "wrong reports, a little", event: Event::Wrong(300.0), ..FINE },
        Weather { name: "wrong reports, much", event: Event::Wrong(-30_000.0), ..FINE },
        Weather { name: "noise of 300 ms", event: Event::Garbage(300.0), limits: (350.0, 350.0), ..FINE },
        Weather { name: "garbage within an hour", event: Event::Garbage(3.6e6), limits: (45.0, 100.0), ..FINE },
        Weather { name: "reports without a time", event: Event::Zero, ..FINE },
        Weather { name: "clock set by an hour", event: Event::ClockStep(3.6e6), jitter_ms: 50, ..FINE },
        Weather { name: "clock set back by an hour", event: Event::ClockStep(-3.6e6), jitter_ms: 50, ..FINE },
        Weather { name: "clock set by 300 ms", event: Event::ClockStep(300.0), jitter_ms: 50, ..FINE },
        Weather { name: "clock set back by 300 ms", event: Event::ClockStep(-300.0), jitter_ms: 50, ..FINE },
        Weather { name: "RTP time leaps by an hour", event: Event::RtpJump(3.6e6), jitter_ms: 50, ..FINE },
        Weather { name: "RTP time leaps back by an hour", event: Event::RtpJump(-3.6e6), jitter_ms: 50, ..FINE },
        Weather { name: "RTP time leaps by 2 s", event: Event::RtpJump(2_000.0), jitter_ms: 50, ..FINE },
        Weather { name: "RTP time leaps back by 2 s", event: Event::RtpJump(-2_000.0), jitter_ms: 50, ..FINE },
        Weather { name: "RTP time leaps by 200 ms", event: Event::RtpJump(200.0), limits: LEAP, ..FINE },
        Weather { name: "RTP time leaps back by 200 ms", event: Event::RtpJump(-200.0), limits: LEAP, ..FINE },
        Weather { name: "another SSRC", event: Event::SsrcChange, jitter_ms: 50, ..FINE },
        Weather { name: "RTP time wraps", event: Event::RtpWrap, ..FINE },
        Weather { name: "longer way", event: Event::Delay(60.0), jitter_ms: 50, ..FINE },
        Weather { name: "shorter way", event: Event::Delay(-9.0), ..FINE },
        Weather { name: "nothing for 3 s, then all", event: Event::Freeze(3_000.0), ..FINE },
        Weather { name: "mute", event: Event::Mute(30.0), jitter_ms: 50, drift_ppm: 100.0, ..FINE },
    ];
    for row in &rows {
        check(row);
    }
}

/// Drift is followed for long, and told of.
#[test]
fn long_drift() {
    let weather = Weather { name: "half an hour", seconds: 1800, drift_ppm: 200.0, jitter_ms: 50, ..FINE };
    check(&weather);
    let measured = receive(&weather, 0, 1);
    assert!((195..=205).contains(&measured.drift_ppm[0]), "{:?}", measured.drift_ppm);
    assert!((-105..=-95).contains(&measured.drift_ppm[1]), "{:?}", measured.drift_ppm);
}

/// One SSRC whose reports are of another clock than those of all others: they are not believed, and nothing grows.
#[test]
fn a_foreign_clock_is_kept_out() {
    let origin = Instant::now();
    let mut clock = Clock::new(origin);
    let user = UserId::new("ada").expect("a name");
    let mut tracks = [clock.add(&user), clock.add(&user)];
    for n in 0..60_000u64 {
        let (ms, track) = (n * 20, n as usize % 2);
        let (time, arrival) = ((ms * 48) as u32, origin + Duration::from_millis(ms));
        let of = &mut tracks[track];
        clock.handle_packet(of, 1, time, 48_000, arrival);
        if n % 100 < 2 {
            let ntp = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + ms + 3_600_000 * track as u64);
            clock.handle_report(of, &Report { track: 1, ssrc: 1, ntp, time, clock_rate: 48_000, arrival });
        }
        let placed = clock.place(of, 1, time, 48_000, arrival);
        assert!((placed - ms as i64 * MS).abs() <= MS, "track {track} at {ms}: {placed}");
    }
    assert!(tracks[0].ssrcs[0].is_lined(1_200 * SECOND, 0) && !tracks[1].ssrcs[0].is_lined(1_200 * SECOND, 0));
    assert!(tracks[1].ssrcs[0].line.is_small());
}
