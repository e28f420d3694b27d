//! The result of a run, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::client::{Outcome, ReceiveMode, Settings};
use crate::driver::{Finished, Timings};
use crate::media::Kind;
use crate::options::Options;
use crate::process::{MachineSample, ProcessSample};
use crate::stats::{Delivery, Histogram};

/// One reading of everything around the run.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub server: Option<ProcessSample>,
    pub machine: MachineSample,
    pub own_cpu_us: u64,
    pub at: Instant,
}

/// What a run leaves behind.
pub struct Input<'a> {
    pub settings: &'a Settings,
    pub options: &'a Options,
    pub participants: usize,
    pub ready: usize,
    pub all_ready_after: Duration,
    pub handshakes: Histogram,
    /// Before anybody joined, and at both ends of the window.
    pub samples: [Sample; 3],
    pub finished: Vec<Finished>,
    pub errors: BTreeMap<String, (u64, String)>,
    pub profiles: Vec<(&'static str, u64)>,
}

#[derive(Debug)]
pub struct Report {
    participants: usize,
    ready: usize,
    joined: usize,
    failed: usize,
    subscribers: usize,
    all_ready_after: Duration,
    handshakes: Histogram,
    joined_after: Histogram,
    connected_after: Histogram,
    first_media_after: Histogram,
    /// Of those who found somebody's video there.
    first_frames: Vec<Duration>,
    every_frame: Vec<Duration>,
    seconds: f64,
    delivery: [Delivery; 2],
    timings: Timings,
    key_frames: u64,
    key_frame_requests: u64,
    offers_answered: u64,
    /// What must not happen, by name.
    oddities: [(&'static str, u64); 4],
    server: Option<Server>,
    machine: Machine,
    errors: BTreeMap<String, (u64, String)>,
    profiles: Vec<(&'static str, u64)>,
}

/// Of the server, within the window.
#[derive(Debug, Clone, Copy)]
struct Server {
    user_us: u64,
    system_us: u64,
    context_switches: u64,
    threads: u64,
    rss_before_kb: u64,
    rss_begin_kb: u64,
    rss_end_kb: u64,
    rss_peak_kb: u64,
}

/// In cores: 1 is one core all the time.
#[derive(Debug, Clone, Copy)]
struct Machine {
    generator: f64,
    busiest_thread: f64,
    idle: f64,
    /// Neither server nor generator; `None` when the server's is unknown.
    others: Option<f64>,
    udp_receive_errors: u64,
    udp_send_errors: u64,
}

impl Report {
    pub fn new(input: Input<'_>) -> Report {
        let Input { settings, samples: [before, begin, end], finished, .. } = input;
        let seconds = (end.at - begin.at).as_secs_f64().max(1e-6);
        let busiest_us = finished.iter().map(|f| f.cpu_us).max().unwrap_or(0);
        let mut timings = Timings::default();
        let mut outcomes = Vec::new();
        for thread in finished {
            timings.merge(&thread.timings);
            outcomes.extend(thread.outcomes);
        }
        let span =
            |pick: fn(&Outcome) -> Option<Duration>| histogram(&outcomes.iter().filter_map(pick).collect::<Vec<_>>());
        let sum = |pick: fn(&Outcome) -> u64| outcomes.iter().map(pick).sum::<u64>();
        let server = before.server.zip(begin.server).zip(end.server).map(|((before, begin), end)| Server {
            user_us: end.user_us.saturating_sub(begin.user_us),
            system_us: end.system_us.saturating_sub(begin.system_us),
            context_switches: end.context_switches.saturating_sub(begin.context_switches),
            threads: end.threads,
            rss_before_kb: before.rss_kb,
            rss_begin_kb: begin.rss_kb,
            rss_end_kb: end.rss_kb,
            rss_peak_kb: end.rss_peak_kb,
        });
        let cores = |us: u64| us as f64 / 1e6 / seconds;
        let own_us = end.own_cpu_us.saturating_sub(begin.own_cpu_us);
        let busy_us = end.machine.busy_us.saturating_sub(begin.machine.busy_us);
        let machine = Machine {
            generator: cores(own_us),
            busiest_thread: cores(busiest_us),
            idle: cores(end.machine.idle_us.saturating_sub(begin.machine.idle_us)),
            others: server.map(|s| cores(busy_us.saturating_sub(own_us + s.user_us + s.system_us))),
            udp_receive_errors: end.machine.udp_receive_errors - begin.machine.udp_receive_errors,
            udp_send_errors: end.machine.udp_send_errors - begin.machine.udp_send_errors,
        };
        Report {
            participants: input.participants,
            ready: input.ready,
            joined: outcomes.iter().filter(|o| o.joined_after.is_some()).count(),
            failed: input.participants - outcomes.iter().filter(|o| o.failure.is_none()).count(),
            subscribers: outcomes.iter().filter(|o| o.plan.receives).count(),
            all_ready_after: input.all_ready_after,
            handshakes: input.handshakes,
            joined_after: span(|o| o.joined_after),
            connected_after: span(|o| o.connected_after),
            first_media_after: span(|o| o.first_media_after),
            first_frames: outcomes.iter().filter_map(|o| o.first_frame_after).collect(),
            every_frame: outcomes.iter().filter_map(|o| o.every_frame_after).collect(),
            seconds: input.options.seconds.as_secs_f64(),
            delivery: delivery(settings, &outcomes),
            timings,
            key_frames: sum(|o| o.key_frames),
            key_frame_requests: sum(|o| o.key_frame_requests),
            offers_answered: sum(|o| o.offers_answered),
            oddities: [
                ("packets of another room", sum(|o| o.foreign)),
                ("packets on a line announced for somebody else", sum(|o| o.mislabelled)),
                ("packets that no publisher made", sum(|o| o.unstamped)),
                ("packets that the generator could not send", sum(|o| o.send_failures)),
            ],
            server,
            machine,
            errors: input.errors,
            profiles: input.profiles,
        }
    }

    /// Everybody got in, everything wanted was carried, and nothing strange was seen.
    pub fn is_sound(&self) -> bool {
        let carried =
            self.delivery.iter().all(|d| d.pairs_missing == 0 && (d.pairs_wanted == 0 || d.pairs_carried > 0));
        let [(_, foreign), (_, mislabelled), (_, unstamped), _] = self.oddities;
        self.ready == self.participants && self.failed == 0 && carried && foreign + mislabelled + unstamped == 0
    }

    fn forwarded(&self) -> u64 {
        self.delivery.iter().map(|d| d.received + d.duplicates).sum()
    }

    fn latency(&self) -> Histogram {
        let [mut all, video] = self.timings.latency.clone();
        all.merge(&video);
        all
    }

    fn per_packet(&self, count: u64) -> f64 {
        count as f64 / self.forwarded().max(1) as f64
    }

    /// What makes the figures doubtful.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.machine.busiest_thread > 0.7 {
            let share = self.machine.busiest_thread * 100.0;
            warnings.push(format!("the generator is saturated: its busiest thread ran {share:.0} % of the time"));
        }
        if self.machine.idle < 0.1 {
            warnings.push("the machine has no idle core: latency is not usable, CPU is 10 to 30 % too high".into());
        }
        let late = self.timings.lateness.quantile(0.99);
        if late > Duration::from_millis(2) {
            warnings.push(format!("packets left late (p99 {late:?}): the pacing is not that of a browser"));
        }
        if self.machine.udp_receive_errors + self.machine.udp_send_errors > 0 {
            warnings.push(format!(
                "the kernel dropped datagrams on full buffers: {} received, {} sent",
                self.machine.udp_receive_errors, self.machine.udp_send_errors
            ));
        }
        warnings
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let Report { participants, joined, ready, failed, .. } = self;
        writeln!(out, "participants    {participants}, joined {joined}, ready {ready}, failed {failed}")?;
        writeln!(out, "all ready after {:.2} s", self.all_ready_after.as_secs_f64())?;
        for (name, histogram) in [
            ("open", &self.handshakes),
            ("joined after", &self.joined_after),
            ("connected after", &self.connected_after),
            ("media after", &self.first_media_after),
            ("first frame", &histogram(&self.first_frames)),
            ("every frame", &histogram(&self.every_frame)),
        ] {
            if histogram.count() == 0 {
                continue;
            }
            let [p50, p95] = [0.5, 0.95].map(|q| ms(histogram.quantile(q)));
            writeln!(out, "{name:<15} p50 {p50:.1}  p95 {p95:.1}  max {:.1} ms", ms(histogram.max()))?;
        }
        for kind in Kind::ALL {
            let d = &self.delivery[kind as usize];
            if d.sent + d.expected + d.received == 0 {
                continue;
            }
            writeln!(
                out,
                "{:<15} sent {} ({:.0}/s)  expected {}  received {} ({:.0}/s)  lost {} ({:.4} %)  duplicates {}  \
                 reordered {}  pairs {} of {}",
                kind.as_str(),
                d.sent,
                d.sent as f64 / self.seconds,
                d.expected,
                d.received,
                d.received as f64 / self.seconds,
                d.lost(),
                d.loss_percent(),
                d.duplicates,
                d.reordered,
                d.pairs_carried,
                d.pairs_wanted,
            )?;
        }
        for (name, histogram) in [
            ("latency", &self.latency()),
            ("  audio", &self.timings.latency[Kind::Audio as usize]),
            ("  video", &self.timings.latency[Kind::Video as usize]),
            ("  as seen", &self.timings.seen),
            ("sent late by", &self.timings.lateness),
        ] {
            if histogram.count() > 0 {
                let [p50, p95, p99, p999] = [0.5, 0.95, 0.99, 0.999].map(|q| us(histogram.quantile(q)));
                let max = us(histogram.max());
                writeln!(out, "{name:<15} p50 {p50:.0}  p95 {p95:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0} us")?;
            }
        }
        writeln!(out, "key frames      {}, {} asked for", self.key_frames, self.key_frame_requests)?;
        if self.offers_answered > 0 {
            writeln!(out, "server offers   {}", self.offers_answered)?;
        }
        if let Some(s) = &self.server {
            writeln!(
                out,
                "server CPU      {:.2} us per packet ({:.2} user + {:.2} system), {:.3} cores, {} threads",
                self.per_packet(s.user_us + s.system_us),
                self.per_packet(s.user_us),
                self.per_packet(s.system_us),
                (s.user_us + s.system_us) as f64 / 1e6 / self.seconds,
                s.threads,
            )?;
            writeln!(out, "  switches      {:.3} per packet", self.per_packet(s.context_switches))?;
            writeln!(
                out,
                "  memory        {:.1} MB before, {:.1} begin, {:.1} end, {:.1} peak; {:.0} kB per subscriber",
                mb(s.rss_before_kb),
                mb(s.rss_begin_kb),
                mb(s.rss_end_kb),
                mb(s.rss_peak_kb),
                self.rss_per_subscriber(s),
            )?;
        }
        let m = &self.machine;
        write!(
            out,
            "generator CPU   {:.3} cores, busiest thread {:.3}; idle {:.2}",
            m.generator, m.busiest_thread, m.idle
        )?;
        writeln!(out, "{}", m.others.map_or(String::new(), |others| format!(", other processes {others:.2}")))?;
        for (profile, count) in &self.profiles {
            writeln!(out, "SRTP profile    {profile} x {count}")?;
        }
        let missing = self.delivery.iter().map(|d| d.pairs_missing).sum();
        for (name, count) in
            self.oddities.iter().chain(&[("pairs over which nothing came", missing)]).filter(|o| o.1 > 0)
        {
            writeln!(out, "WRONG           {count} {name}")?;
        }
        for (code, (count, first)) in &self.errors {
            writeln!(out, "error           {count} x {code}, first: {first}")?;
        }
        for warning in self.warnings() {
            writeln!(out, "warning         {warning}")?;
        }
        Ok(())
    }

    fn rss_per_subscriber(&self, server: &Server) -> f64 {
        server.rss_end_kb.saturating_sub(server.rss_before_kb) as f64 / self.subscribers.max(1) as f64
    }

    pub fn json(&self) -> Value {
        let quantiles = |h: &Histogram| {
            json!({
                "count": h.count(),
                "p50": us(h.quantile(0.5)),
                "p95": us(h.quantile(0.95)),
                "p99": us(h.quantile(0.99)),
                "p999": us(h.quantile(0.999)),
                "max": us(h.max()),
            })
        };
        let mut delivery = Map::new();
        for kind in Kind::ALL {
            let d = &self.delivery[kind as usize];
            let value = json!({
                "sent": d.sent,
                "expected": d.expected,
                "received": d.received,
                "lost": d.lost(),
                "lossPercent": d.loss_percent(),
                "duplicates": d.duplicates,
                "reordered": d.reordered,
                "pairsWanted": d.pairs_wanted,
                "pairsCarried": d.pairs_carried,
                "pairsMissing": d.pairs_missing,
            });
            delivery.insert(kind.as_str().into(), value);
        }
        let server = self.server.as_ref().map(|s| {
            json!({
                "cpuUsPerPacket": self.per_packet(s.user_us + s.system_us),
                "userUsPerPacket": self.per_packet(s.user_us),
                "systemUsPerPacket": self.per_packet(s.system_us),
                "cores": (s.user_us + s.system_us) as f64 / 1e6 / self.seconds,
                "contextSwitchesPerPacket": self.per_packet(s.context_switches),
                "threads": s.threads,
                "rssBeforeKb": s.rss_before_kb,
                "rssBeginKb": s.rss_begin_kb,
                "rssEndKb": s.rss_end_kb,
                "rssPeakKb": s.rss_peak_kb,
                "rssPerSubscriberKb": self.rss_per_subscriber(s),
            })
        });
        let errors: Map<_, _> = self
            .errors
            .iter()
            .map(|(code, (count, first))| (code.clone(), json!({ "count": count, "first": first })))
            .collect();
        let oddities: Map<_, _> = self.oddities.iter().map(|(name, count)| ((*name).into(), json!(count))).collect();
        let profiles: Map<_, _> = self.profiles.iter().map(|(name, count)| ((*name).into(), json!(count))).collect();
        json!({
            "sound": self.is_sound(),
            "participants": self.participants,
            "joined": self.joined,
            "ready": self.ready,
            "failed": self.failed,
            "subscribers": self.subscribers,
            "allReadySeconds": self.all_ready_after.as_secs_f64(),
            "openUs": quantiles(&self.handshakes),
            "joinedUs": quantiles(&self.joined_after),
            "connectedUs": quantiles(&self.connected_after),
            "firstMediaUs": quantiles(&self.first_media_after),
            // One by one, so that runs can be put together.
            "firstFramesMs": self.first_frames.iter().copied().map(ms).collect::<Vec<_>>(),
            "everyFrameMs": self.every_frame.iter().copied().map(ms).collect::<Vec<_>>(),
            "seconds": self.seconds,
            "packetsPerSecond": self.forwarded() as f64 / self.seconds,
            "payloadBitrateSent": self.timings.bytes_sent as f64 * 8.0 / self.seconds,
            "delivery": delivery,
            "latencyUs": quantiles(&self.latency()),
            "latencyAudioUs": quantiles(&self.timings.latency[Kind::Audio as usize]),
            "latencyVideoUs": quantiles(&self.timings.latency[Kind::Video as usize]),
            "latencySeenUs": quantiles(&self.timings.seen),
            "sentLateUs": quantiles(&self.timings.lateness),
            "keyFrames": self.key_frames,
            "keyFrameRequests": self.key_frame_requests,
            "offersAnswered": self.offers_answered,
            "server": server,
            "generator": { "cores": self.machine.generator, "busiestThread": self.machine.busiest_thread },
            "machine": {
                "idleCores": self.machine.idle,
                "otherCores": self.machine.others,
                "udpReceiveBufferErrors": self.machine.udp_receive_errors,
                "udpSendBufferErrors": self.machine.udp_send_errors,
            },
            "srtpProfiles": profiles,
            "wrong": oddities,
            "errors": errors,
            "warnings": self.warnings(),
        })
    }
}

/// Over all pairs, by [`Kind`].
fn delivery(settings: &Settings, outcomes: &[Outcome]) -> [Delivery; 2] {
    let sent: BTreeMap<(usize, usize), [u64; 2]> =
        outcomes.iter().filter(|o| o.plan.publishes).map(|o| ((o.plan.room, o.plan.member), o.sent)).collect();
    let mut delivery = [Delivery::default(); 2];
    for kind in [Kind::Audio, Kind::Video] {
        let sends = match kind {
            Kind::Audio => settings.audio_bytes.is_some(),
            Kind::Video => settings.video.is_some(),
        };
        if !sends {
            continue;
        }
        let d = &mut delivery[kind as usize];
        d.sent = sent.values().map(|sent| sent[kind as usize]).sum();
        let lines = match settings.mode {
            ReceiveMode::Slots => settings.slots[kind as usize],
            ReceiveMode::Tracks => SERVER_TRACKS,
        };
        for outcome in outcomes.iter().filter(|o| o.plan.receives) {
            let wanted: Vec<usize> = outcome.plan.wanted(settings.publishers).collect();
            for publisher in &wanted {
                let sent = sent.get(&(outcome.plan.room, *publisher)).map_or(0, |sent| sent[kind as usize]);
                d.add_pair(&outcome.flows[*publisher][kind as usize], sent, wanted.len() <= lines);
            }
        }
    }
    delivery
}

/// In tracks mode the server offers at most so many lines of a kind (interface.md §4).
const SERVER_TRACKS: usize = 16;

fn histogram(values: &[Duration]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|value| histogram.record(*value));
    histogram
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn mb(kb: u64) -> f64 {
    kb as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Plan;
    use crate::options::{self, Command};
    use crate::stats::Flow;
    use crate::{crypto, process};

    fn options() -> Options {
        let line = "--url ws://h:1/ --secret s --publishers 2 --subscribers 1 --audio --no-video --seconds 10";
        match options::parse(lexopt::Parser::from_args(line.split(' '))) {
            Ok(Command::Run(options)) => *options,
            _ => panic!("the line is valid"),
        }
    }

    fn outcome(member: usize, publishes: bool, sent: u64) -> Outcome {
        Outcome {
            plan: Plan {
                run: String::new(),
                room: 0,
                room_id: "r".into(),
                member,
                user_id: String::new(),
                publishes,
                receives: !publishes,
            },
            joined_after: Some(Duration::from_millis(2)),
            connected_after: None,
            first_media_after: None,
            first_frame_after: (!publishes).then_some(Duration::from_millis(40)),
            every_frame_after: None,
            sent: [sent, 0],
            flows: vec![Default::default(); 2],
            key_frames: 0,
            key_frame_requests: 0,
            send_failures: 0,
            foreign: 0,
            mislabelled: 0,
            unstamped: 0,
            offers_answered: 0,
            failure: None,
        }
    }

    /// Two publishers of 500 packets; the subscriber gets 490 and `second` of them.
    fn report(second: u64) -> Report {
        let options = options();
        let settings = Settings {
            publishers: 2,
            video: None,
            audio_bytes: Some(80),
            mode: ReceiveMode::Slots,
            slots: options.slots,
            crypto: crypto::provider(options.backend),
            kernel_timestamps: true,
            seed: 1,
        };
        let mut subscriber = outcome(2, false, 0);
        for (publisher, count) in [(0, 490), (1, second)] {
            let flow: &mut Flow = &mut subscriber.flows[publisher][Kind::Audio as usize];
            (0..count).for_each(|counter| {
                flow.on_packet(counter, true);
            });
        }
        let outcomes = vec![outcome(0, true, 500), outcome(1, true, 500), subscriber];
        let at = Instant::now();
        let server = |user_us, system_us, context_switches, rss_kb| {
            Some(process::ProcessSample { user_us, system_us, context_switches, rss_kb, ..Default::default() })
        };
        let sample = |server, seconds| Sample {
            server,
            machine: MachineSample { idle_us: seconds * 1_000_000, busy_us: seconds * 900_000, ..Default::default() },
            own_cpu_us: seconds * 50_000,
            at: at + Duration::from_secs(seconds),
        };
        let samples = [
            sample(server(0, 0, 0, 1000), 0),
            sample(server(10, 10, 5, 1500), 0),
            sample(server(5010, 2010, 495, 1800), 10),
        ];
        Report::new(Input {
            settings: &settings,
            options: &options,
            participants: 3,
            ready: 3,
            all_ready_after: Duration::from_secs(1),
            handshakes: Histogram::default(),
            samples,
            finished: vec![Finished { outcomes, timings: Timings::default(), cpu_us: 400_000 }],
            errors: BTreeMap::new(),
            profiles: Vec::new(),
        })
    }

    #[test]
    fn figures_are_per_packet_and_per_subscriber() {
        let report = report(490);
        let json = report.json();
        let audio = &json["delivery"]["audio"];
        assert_eq!((audio["sent"].as_u64(), audio["expected"].as_u64()), (Some(1000), Some(1000)));
        assert_eq!((audio["received"].as_u64(), audio["lossPercent"].as_f64()), (Some(980), Some(2.0)));
        let server = &json["server"];
        for (name, value) in [
            ("cpuUsPerPacket", 7000.0 / 980.0),
            ("userUsPerPacket", 5000.0 / 980.0),
            ("contextSwitchesPerPacket", 490.0 / 980.0),
            ("rssPerSubscriberKb", 800.0),
            ("cores", 0.0007),
        ] {
            assert!((server[name].as_f64().unwrap_or_default() - value).abs() < 1e-6, "{name}: {}", server[name]);
        }
        assert_eq!(json["generator"]["busiestThread"].as_f64(), Some(0.04));
        assert_eq!(json["machine"]["idleCores"].as_f64(), Some(1.0));
        assert_eq!(json["delivery"]["video"]["sent"].as_u64(), Some(0));
        assert!(report.is_sound());
        let text = report.text();
        assert!(text.contains("lost 20 (2.0000 %)") && !text.contains("WRONG"), "{text}");
        assert!(text.contains("first frame     p50 40.0") && !text.contains("every frame"), "{text}");
        assert_eq!((&json["firstFramesMs"], &json["everyFrameMs"]), (&json!([40.0]), &json!([])));
    }

    #[test]
    fn a_pair_without_a_packet_is_not_sound() {
        let report = report(0);
        assert!(!report.is_sound());
        assert_eq!(report.json()["delivery"]["audio"]["lost"].as_u64(), Some(510));
        assert!(report.text().contains("1 pairs over which nothing came"));
    }
}
