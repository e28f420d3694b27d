//! How good a participant's connection is: a score for everybody to see, and warnings for the one concerned.
//!
//! A [`Meter`] for each participant, fed by [`crate::shard`] with a [`Sample`] about every two seconds. Knows neither
//! connections nor clocks; time is counted in samples.
//!
//! # The score
//!
//! It follows the E-model (ITU-T G.107), which adds up impairments to a rating R of 0 to 93: what people say of a
//! conversation depends on delay and loss in a way that is measured, and sums of unlike ills have to come from somewhere. The
//! figures for what the standard does not know (a codec with redundancy, video) are ours:
//!
//! | impairment | of R | for example |
//! | --- | --- | --- |
//! | delay *d* from mouth to ear in ms | 0.024 *d*, and 0.11 (*d* - 177) beyond 177 | 90 ms: 2; 240 ms: 13; 440 ms: 39 |
//! | loss of *p* percent | 95 *p* / (*p* + 25) | 1 %: 4; 5 %: 16; 10 %: 27; 20 %: 42 |
//! | video smaller than it could be, paused | 12, 30 | |
//!
//! The delay is the round trip to the server, as if the other participant were as far away, 40 ms for what the devices do, and
//! three times the jitter for the buffer that smooths it. 25 is for Opus with redundancy; without it the standard has 4 to 10.
//!
//! R of 86 and more is a 5, 76 a 4, 64 a 3, 45 a 2, as the standard's own classes but for a wider 2: a video call with it is
//! still a call.
//!
//! # No flapping
//!
//! What is bad shows at once, what is a little worse on the second sample, what is better on the third in a row, and only when
//! it is better by more than chance. Warnings begin and end the same way.

use std::time::Duration;

/// What is known of a connection, of the time since the last sample.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// What the participant sends.
    pub send: Path,
    /// What the participant is sent.
    pub receive: Path,
    /// To the server and back.
    pub rtt: Option<Duration>,
    /// Nothing arrives any more; the rest of the sample means nothing.
    pub is_lost: bool,
}

/// One direction. `None`: nothing was sent there, or it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Path {
    /// The share of packets that were lost, 0 to 1, before anything repaired it.
    pub loss: Option<f32>,
    /// RFC 3550 interarrival jitter.
    pub jitter: Option<Duration>,
    pub video: Video,
    /// What the network is thought to take, in bit/s; only told in the warning.
    pub estimate: Option<u64>,
}

/// What bandwidth does to video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Video {
    /// Nothing, or there is no video.
    #[default]
    Fine,
    /// Some is smaller than it could be.
    Limited,
    /// Some is paused.
    Paused,
}

/// How good a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rating {
    /// 1 (bad) to 5 (excellent).
    pub score: u8,
    /// [`Reason::Good`] with a score of 5 only.
    pub reason: Reason,
}

/// Something that goes wrong began, or is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warning {
    pub kind: WarningKind,
    /// Latency is there and back, and told as [`Direction::Send`].
    pub direction: Direction,
    /// Loss as a share of 0 to 1, latency in milliseconds, bandwidth in bit/s (0: not known).
    pub value: f64,
    /// `false`: it is over.
    pub is_active: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    Rated(Rating),
    Warning(Warning),
}

/// What is worst about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing is.
    Good,
    PacketLoss,
    Latency,
    Jitter,
    /// Video is smaller than it could be, or paused, because the network takes no more.
    Bandwidth,
    /// Nothing has arrived for a while.
    Lost,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Good => "good",
            Reason::PacketLoss => "packet-loss",
            Reason::Latency => "latency",
            Reason::Jitter => "jitter",
            Reason::Bandwidth => "bandwidth",
            Reason::Lost => "lost",
        }
    }
}

/// What a participant is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WarningKind {
    PacketLoss,
    Latency,
    Bandwidth,
}

impl WarningKind {
    pub fn as_str(self) -> &'static str {
        match self {
            WarningKind::PacketLoss => "packet-loss",
            WarningKind::Latency => "latency",
            WarningKind::Bandwidth => "bandwidth",
        }
    }
}

/// Seen from the participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the participant sends.
    Send,
    /// What the participant is sent.
    Receive,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Send => "send",
            Direction::Receive => "receive",
        }
    }
}

/// Follows the connection of one participant.
#[derive(Debug, Default)]
pub struct Meter {
    rating: Option<Rating>,
    /// How many samples in a row were better, and the worst of those.
    better: Option<(u32, Rating)>,
    /// How many in a row were worse, or as bad for another reason.
    other: u32,
    /// Send and receive.
    loss: [Alarm; 2],
    latency: Alarm,
    bandwidth: [Alarm; 2],
}

impl Meter {
    /// Takes a sample and appends what changed to `out`: at most one rating and five warnings.
    pub fn handle_sample(&mut self, sample: &Sample, out: &mut Vec<Event>) {
        if let Some(rating) = self.rate(sample) {
            self.rating = Some(rating);
            (self.better, self.other) = (None, 0);
            out.push(Event::Rated(rating));
        }
        // Who is lost cannot be warned; what has begun ends when the connection is back.
        if !sample.is_lost {
            self.warn(sample, out);
        }
    }

    /// `None`: nothing is known yet.
    pub fn rating(&self) -> Option<Rating> {
        self.rating
    }

    /// The rating that is to replace the present one.
    fn rate(&mut self, sample: &Sample) -> Option<Rating> {
        let lost = Rating { score: 1, reason: Reason::Lost };
        if sample.is_lost {
            return Some(lost).filter(|_| self.rating != Some(lost));
        }
        let impairment = Impairment::of(sample)?;
        let next = impairment.rating(0.0);
        // What was before the loss says nothing.
        let Some(now) = self.rating.filter(|rating| *rating != lost) else { return Some(next) };
        // Better by more than chance.
        let surely = impairment.rating(BETTER_R);
        if surely.score > now.score {
            let (count, worst) = self.better.map_or((1, surely), |(count, worst)| {
                (count + 1, if surely.score < worst.score { surely } else { worst })
            });
            (self.better, self.other) = (Some((count, worst)), 0);
            return (count >= BETTER_SAMPLES).then_some(worst);
        }
        self.better = None;
        if next.score >= now.score && (next.score > now.score || next.reason == now.reason) {
            self.other = 0;
            return None;
        }
        self.other += 1;
        let enough = match next.score {
            same if same == now.score => BETTER_SAMPLES,
            bad if bad <= BAD_SCORE || bad + 1 < now.score => 1,
            _ => WORSE_SAMPLES,
        };
        (self.other >= enough).then_some(next)
    }

    fn warn(&mut self, sample: &Sample, out: &mut Vec<Event>) {
        let mut tell = |kind, direction, value, change: Option<bool>| {
            out.extend(change.map(|is_active| Event::Warning(Warning { kind, direction, value, is_active })));
        };
        for (at, direction, path) in [(0, Direction::Send, &sample.send), (1, Direction::Receive, &sample.receive)] {
            let loss = share(path.loss).unwrap_or_default();
            let state = match loss {
                _ if loss > LOSS_BAD => State::Bad,
                _ if loss > LOSS_BEGIN => State::Begin,
                _ if loss < LOSS_END => State::Fine,
                _ => State::Between,
            };
            let value = (f64::from(loss) * 1000.0).round() / 1000.0;
            tell(WarningKind::PacketLoss, direction, value, self.loss[at].step(state, WORSE_SAMPLES));
            let state = if path.video == Video::Fine { State::Fine } else { State::Begin };
            let value = path.estimate.unwrap_or_default() as f64;
            tell(WarningKind::Bandwidth, direction, value, self.bandwidth[at].step(state, LIMITED_SAMPLES));
        }
        if let Some(rtt) = sample.rtt {
            let state = match rtt {
                _ if rtt > RTT_BEGIN => State::Begin,
                _ if rtt < RTT_END => State::Fine,
                _ => State::Between,
            };
            let change = self.latency.step(state, WORSE_SAMPLES);
            tell(WarningKind::Latency, Direction::Send, rtt.as_millis() as f64, change);
        }
    }
}

/// Whether a warning is on, and how many samples in a row say that it should not be so.
#[derive(Debug, Clone, Copy, Default)]
struct Alarm {
    is_active: bool,
    against: u32,
}

enum State {
    Fine,
    /// Neither a reason to begin nor to end.
    Between,
    Begin,
    /// To begin with at once.
    Bad,
}

impl Alarm {
    /// The warning begins after `begin` samples. `Some`: it begins or ends with this one.
    fn step(&mut self, state: State, begin: u32) -> Option<bool> {
        let enough = match (self.is_active, state) {
            (false, State::Bad) => 1,
            (false, State::Begin) => begin,
            (true, State::Fine) => BETTER_SAMPLES,
            _ => {
                self.against = 0;
                return None;
            }
        };
        self.against += 1;
        if self.against < enough {
            return None;
        }
        *self = Alarm { is_active: !self.is_active, against: 0 };
        Some(self.is_active)
    }
}

/// What each ill takes from R.
struct Impairment {
    latency: f32,
    jitter: f32,
    loss: f32,
    bandwidth: f32,
}

impl Impairment {
    /// `None`: the sample says nothing.
    fn of(sample: &Sample) -> Option<Self> {
        let paths = [&sample.send, &sample.receive];
        let loss = paths.into_iter().filter_map(|path| share(path.loss)).reduce(f32::max);
        let jitter = paths.into_iter().filter_map(|path| path.jitter).max();
        let is_fine = paths.into_iter().all(|path| path.video == Video::Fine);
        if loss.is_none() && jitter.is_none() && sample.rtt.is_none() && is_fine {
            return None;
        }
        let distance = sample.rtt.unwrap_or_default() + DEVICES;
        let latency = delay_impairment(distance);
        let percent = loss.unwrap_or_default() * 100.0;
        let worst = paths.into_iter().map(|path| match path.video {
            Video::Fine => 0.0,
            Video::Limited => LIMITED_R,
            Video::Paused => PAUSED_R,
        });
        Some(Impairment {
            latency,
            jitter: delay_impairment(distance.saturating_add(jitter.unwrap_or_default().saturating_mul(3))) - latency,
            loss: 95.0 * percent / (percent + LOSS_ROBUSTNESS),
            bandwidth: worst.fold(0.0, f32::max),
        })
    }

    /// The rating, were R less by `margin`.
    fn rating(&self, margin: f32) -> Rating {
        let r = R_MAX - self.latency - self.jitter - self.loss - self.bandwidth - margin;
        let score = 1 + SCORE_R.iter().filter(|least| r >= **least).count() as u8;
        if score == 5 {
            return Rating { score, reason: Reason::Good };
        }
        let ills = [
            (Reason::PacketLoss, self.loss),
            (Reason::Latency, self.latency),
            (Reason::Jitter, self.jitter),
            (Reason::Bandwidth, self.bandwidth),
        ];
        let (reason, _) = ills.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b)).expect("there are four");
        Rating { score, reason }
    }
}

fn delay_impairment(delay: Duration) -> f32 {
    let ms = delay.as_secs_f32() * 1000.0;
    0.024 * ms + 0.11 * (ms - 177.3).max(0.0)
}

/// A share that can be counted with.
fn share(loss: Option<f32>) -> Option<f32> {
    loss.filter(|loss| loss.is_finite()).map(|loss| loss.clamp(0.0, 1.0))
}

/// Of a connection without any impairment.
const R_MAX: f32 = 93.2;
/// The least R of the scores 2 to 5.
const SCORE_R: [f32; 4] = [45.0, 64.0, 76.0, 86.0];
/// A better score has to be better by so much of R: 1 % of loss, or 20 ms of a long delay. Higher is slower to show that
/// things are well, lower flaps when R is near a bound.
const BETTER_R: f32 = 3.0;
/// Percent of loss that take half of what loss can take.
const LOSS_ROBUSTNESS: f32 = 25.0;
/// Capture, coding and playout on both sides.
const DEVICES: Duration = Duration::from_millis(40);
/// Takes an excellent connection to 4.
const LIMITED_R: f32 = 12.0;
/// Takes an excellent connection to 2.
const PAUSED_R: f32 = 30.0;
/// A score that is shown at once.
const BAD_SCORE: u8 = 2;
/// Samples in a row until a worse score, or a warning, is believed.
const WORSE_SAMPLES: u32 = 2;
/// The same for a better score, another reason, or the end of a warning.
const BETTER_SAMPLES: u32 = 3;
/// The same for a warning of bandwidth: the estimate climbs for some seconds after a join.
const LIMITED_SAMPLES: u32 = 4;
const LOSS_BAD: f32 = 0.15;
const LOSS_BEGIN: f32 = 0.05;
const LOSS_END: f32 = 0.03;
const RTT_BEGIN: Duration = Duration::from_millis(400);
const RTT_END: Duration = Duration::from_millis(350);

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(share: f32) -> Sample {
        Sample { receive: Path { loss: Some(share), ..Path::default() }, ..good() }
    }

    fn loss_up(share: f32) -> Sample {
        Sample { send: Path { loss: Some(share), ..Path::default() }, ..good() }
    }

    fn rtt(ms: u64) -> Sample {
        Sample { rtt: Some(Duration::from_millis(ms)), ..good() }
    }

    fn jitter(ms: u64) -> Sample {
        Sample { send: Path { jitter: Some(Duration::from_millis(ms)), ..Path::default() }, ..good() }
    }

    fn video(video: Video) -> Sample {
        Sample { receive: Path { video, estimate: Some(300_000), ..Path::default() }, ..good() }
    }

    fn good() -> Sample {
        let path = Path { loss: Some(0.0), jitter: Some(Duration::from_millis(3)), ..Path::default() };
        Sample { send: path, receive: path, rtt: Some(Duration::from_millis(50)), is_lost: false }
    }

    fn lost() -> Sample {
        Sample { is_lost: true, ..Sample::default() }
    }

    #[test]
    fn one_sample_is_rated() {
        let both = Sample { rtt: Some(Duration::from_millis(210)), ..loss(0.03) };
        let rows = [
            ("good", good(), 5, Reason::Good),
            ("near", rtt(2), 5, Reason::Good),
            ("loss", loss(0.01), 5, Reason::Good),
            ("loss", loss(0.02), 4, Reason::PacketLoss),
            ("loss", loss(0.04), 4, Reason::PacketLoss),
            ("loss", loss(0.06), 3, Reason::PacketLoss),
            ("loss", loss_up(0.06), 3, Reason::PacketLoss),
            ("loss", loss(0.12), 2, Reason::PacketLoss),
            ("loss", loss(0.2), 2, Reason::PacketLoss),
            ("loss", loss(0.3), 1, Reason::PacketLoss),
            ("all lost", loss(1.0), 1, Reason::PacketLoss),
            ("far", rtt(150), 5, Reason::Good),
            ("far", rtt(200), 4, Reason::Latency),
            ("far", rtt(260), 3, Reason::Latency),
            ("far", rtt(400), 2, Reason::Latency),
            ("far", rtt(600), 1, Reason::Latency),
            ("unsteady", jitter(20), 5, Reason::Good),
            ("unsteady", jitter(50), 4, Reason::Jitter),
            ("unsteady", jitter(75), 3, Reason::Jitter),
            ("unsteady", jitter(100), 2, Reason::Jitter),
            ("narrow", video(Video::Limited), 4, Reason::Bandwidth),
            ("too narrow", video(Video::Paused), 2, Reason::Bandwidth),
            ("ills add up, the worst is the reason", both, 3, Reason::Latency),
            ("lost", lost(), 1, Reason::Lost),
            ("lost whatever else", Sample { is_lost: true, ..good() }, 1, Reason::Lost),
            ("no figure", Sample { send: Path::default(), ..loss(f32::NAN) }, 5, Reason::Good),
            ("no share", loss(-3.0), 5, Reason::Good),
            ("no share", loss(7.0), 1, Reason::PacketLoss),
            ("absurd", Sample { rtt: Some(Duration::MAX / 2), ..jitter(u64::MAX) }, 1, Reason::Latency),
        ];
        for (why, sample, score, reason) in rows {
            let mut out = Vec::new();
            let mut meter = Meter::default();
            meter.handle_sample(&sample, &mut out);
            assert_eq!(meter.rating(), Some(Rating { score, reason }), "{why}: {sample:?}");
            assert_eq!(out.first(), Some(&Event::Rated(Rating { score, reason })), "{why}: the first is told");
        }
        let mut meter = Meter::default();
        let mut out = Vec::new();
        meter.handle_sample(&Sample::default(), &mut out);
        assert_eq!((meter.rating(), out.len()), (None, 0), "nothing is known");
        meter.handle_sample(&loss(0.3), &mut out);
        let before = out.len();
        meter.handle_sample(&Sample::default(), &mut out);
        assert_eq!(
            (meter.rating().map(|rating| rating.score), out.len()),
            (Some(1), before),
            "nor does it change anything"
        );
    }

    /// Scores as they are told, `.` where nothing is: `5..3`.
    fn told(samples: &[Sample]) -> String {
        let mut meter = Meter::default();
        let mut out = Vec::new();
        let sign = |sample| {
            out.clear();
            meter.handle_sample(sample, &mut out);
            let rated = out.iter().find_map(|event| match event {
                Event::Rated(rating) => Some(rating.score),
                Event::Warning(_) => None,
            });
            rated.map_or('.', |score| char::from(b'0' + score))
        };
        samples.iter().map(sign).collect()
    }

    #[test]
    fn ratings_do_not_flap() {
        let (fine, fair, poor, bad) = (good(), loss(0.03), loss(0.06), loss(0.3));
        let rows: &[(&str, &[Sample], &str)] = &[
            ("steady", &[fine, fine, fine], "5.."),
            ("a little worse: on the second sample", &[fine, fair, fair, fair], "5.4."),
            ("once is no change", &[fine, fair, fine, fair, fine], "5...."),
            ("much worse: at once", &[fine, poor], "53"),
            ("bad: at once", &[fine, fair, fair, bad], "5.41"),
            ("better: on the third", &[bad, fine, fine, fine], "1..5"),
            ("as much as is sure", &[bad, fine, poor, fine], "1..3"),
            ("not in a row", &[bad, fine, fine, bad, fine, fine, fine], "1.....5"),
            (
                "better is not enough near the bound",
                &[fair, loss(0.013), loss(0.013), loss(0.013), loss(0.013)],
                "4....",
            ),
            ("lost at once, and back at once", &[fine, lost(), lost(), fine], "51.5"),
            ("back, and bad", &[fine, lost(), bad, fine], "511."),
            ("a worse one between better ones begins anew", &[poor, fine, bad, fine, fine, fine], "3.1..5"),
            ("a better one between worse ones too", &[fair, poor, fine, poor, poor], "4...3"),
            ("another reason: on the third", &[fair, rtt(200), rtt(200), rtt(200), rtt(200)], "4..4."),
        ];
        for (why, samples, expect) in rows {
            assert_eq!(told(samples), *expect, "{why}");
        }
    }

    #[test]
    fn random_weather_is_calm() {
        let mut random = fastrand::Rng::with_seed(1);
        let samples: Vec<Sample> = (0..3000)
            .map(|_| Sample { rtt: Some(Duration::from_millis(random.u64(90..130))), ..loss(random.f32() * 0.03) })
            .collect();
        let changes = told(&samples).chars().filter(|sign| *sign != '.').count();
        assert!(changes < 300, "{changes} changes in 100 minutes of scattered loss around a bound");
    }

    /// Warnings as they are told: `+send packet-loss 0.07`.
    fn warnings(samples: &[Sample]) -> String {
        let mut meter = Meter::default();
        let mut told = Vec::new();
        for (n, sample) in samples.iter().enumerate() {
            let mut out = Vec::new();
            meter.handle_sample(sample, &mut out);
            for event in out {
                if let Event::Warning(Warning { kind, direction, value, is_active }) = event {
                    let sign = if is_active { '+' } else { '-' };
                    told.push(format!("{n}{sign}{} {} {value}", direction.as_str(), kind.as_str()));
                }
            }
        }
        told.join(", ")
    }

    #[test]
    fn warnings_begin_and_end() {
        let (fine, some, much) = (good(), loss(0.06), loss(0.2));
        let (limited, paused) = (video(Video::Limited), video(Video::Paused));
        let both = Sample { send: some.receive, ..some };
        let silent = Sample { receive: Path::default(), ..good() };
        let rows: &[(&str, &[Sample], &str)] = &[
            ("none", &[fine, fine, fine, fine], ""),
            ("up to five percent is none", &[loss(0.05), loss(0.05), loss(0.05)], ""),
            ("on the second", &[fine, some, some, some], "2+receive packet-loss 0.06"),
            ("not once", &[some, fine, some, fine], ""),
            ("much: at once", &[fine, much], "1+receive packet-loss 0.2"),
            (
                "it ends on the third good one, and not between",
                &[much, fine, loss(0.04), fine, fine, loss(0.0123), fine],
                "0+receive packet-loss 0.2, 5-receive packet-loss 0.012",
            ),
            ("each direction", &[both, both], "1+send packet-loss 0.06, 1+receive packet-loss 0.06"),
            (
                "nothing sent is nothing lost",
                &[much, silent, silent, silent],
                "0+receive packet-loss 0.2, 3-receive packet-loss 0",
            ),
            ("latency", &[rtt(401), rtt(401)], "1+send latency 401"),
            ("latency", &[rtt(400), rtt(400), rtt(400)], ""),
            (
                "latency ends",
                &[rtt(900), rtt(800), rtt(349), rtt(349), rtt(360), rtt(349), rtt(349), rtt(300)],
                "1+send latency 800, 7-send latency 300",
            ),
            (
                "bandwidth: not while the estimate climbs after a join",
                &[limited, paused, limited, fine, limited, limited, limited],
                "",
            ),
            (
                "bandwidth",
                &[limited, paused, paused, limited, limited, fine, fine, fine],
                "3+receive bandwidth 300000, 7-receive bandwidth 0",
            ),
            ("who is lost is not warned", &[some, lost(), lost(), lost()], ""),
            (
                "what has begun ends after the loss",
                &[much, lost(), lost(), lost(), fine, fine, fine],
                "0+receive packet-loss 0.2, 6-receive packet-loss 0",
            ),
        ];
        for (why, samples, expect) in rows {
            assert_eq!(warnings(samples), *expect, "{why}");
        }
    }

    /// Every warning that begins ends, and never twice.
    #[test]
    fn warnings_alternate() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut meter = Meter::default();
        let mut active = Vec::new();
        let mut count = 0;
        for n in 0..20_000 {
            let mut path = || Path {
                loss: random.bool().then(|| random.f32() * 0.2 - 0.05),
                jitter: None,
                video: [Video::Fine, Video::Limited, Video::Paused][random.usize(0..3)],
                estimate: None,
            };
            let (send, receive) = (path(), path());
            let rtt = random.bool().then(|| Duration::from_millis(random.u64(300..450)));
            let calm = n / 10 % 2 == 0;
            let sample = if calm { good() } else { Sample { send, receive, rtt, is_lost: random.u8(0..9) == 0 } };
            let mut out = Vec::new();
            meter.handle_sample(&sample, &mut out);
            for event in out {
                match event {
                    Event::Rated(rating) => {
                        assert_eq!(meter.rating(), Some(rating));
                        assert_eq!(rating.score == 5, rating.reason == Reason::Good);
                    }
                    Event::Warning(warning) => {
                        count += 1;
                        let which = (warning.kind, warning.direction);
                        let at = active.iter().position(|other| *other == which);
                        assert_eq!(at.is_none(), warning.is_active, "{warning:?} at {n}");
                        match at {
                            Some(at) => drop(active.remove(at)),
                            None => active.push(which),
                        }
                    }
                }
            }
            if calm && n % 10 == 9 {
                assert!(active.is_empty(), "{active:?} at {n}");
            }
        }
        assert!(count > 1000, "{count}");
    }
}
