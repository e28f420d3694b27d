//! The command line.

use std::time::Duration;

use lexopt::Arg::Long;
use lexopt::ValueExt;

use crate::channel::Via;
use crate::client::ReceiveMode;
use crate::crypto::Backend;
use crate::http::HttpUrl;
use crate::media::{AudioSource, Kind, VIDEO_OVERHEAD, VideoConfig};
use crate::token::Source;
use crate::whip;

pub const HELP: &str = "\
Usage: loadgen --url ws://HOST:PORT/video-calls/ws (--secret JWT_SECRET | --token-url http://HOST:PORT/dev/token) [...]

Calls a running server with many participants and measures what it does.

Who
  --rooms N             calls (1)
  --room ID             the id of the only call, if it is to be a certain one
  --publishers N        of each call (1)
  --subscribers N       of each call, beside the publishers (10)
  --meeting             publishers receive one another
  --via signaling|whip  over the WebSocket, or publishers by WHIP and subscribers by WHEP (signaling); the server takes 20
                        sessions a second of one call, after a burst of 100
  --receive slots|tracks  lines that the client offers once, or one server offer after the other (slots)
  --slots VIDEO[,AUDIO]   most lines in slots mode (9,3)
  --join-rate N         participants per second (50)
  --join-timeout S      until all have joined and have media (30)

What is sent
  --video-bitrate B     bit/s (1500000), key frames included
  --video-fps N         (30)
  --packet-size B       largest video payload (1160)
  --keyframe-interval S unasked key frames (4)
  --pacing X            multiple of the bitrate at which packets of a frame leave (2.5, as in libwebrtc)
  --no-video
  --audio               Opus, 50 packets/s
  --audio-size B        payload (80)

How it is measured
  --warmup S            between the last join and the measurement (3)
  --seconds S           measurement (20)
  --server-pid PID      reads the server's CPU, context switches and memory
  --threads N           of the generator (1)
  --crypto aws|own      the clients' cryptography: another implementation than the server's, or the same (aws)
  --no-kernel-timestamps  delay is measured by what the generator sees only
  --seed N              of phases and wire counters (1)
  --json                the report as JSON
";

pub enum Command {
    Run(Box<Options>),
    Help,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub url: HttpUrl,
    pub tokens: Source,
    pub rooms: usize,
    pub room: Option<String>,
    pub publishers: usize,
    pub subscribers: usize,
    pub meeting: bool,
    pub via: Via,
    pub mode: ReceiveMode,
    /// By [`Kind`].
    pub slots: [usize; 2],
    /// Per second.
    pub join_rate: f64,
    pub join_timeout: Duration,
    pub video: Option<VideoConfig>,
    pub audio_bytes: Option<usize>,
    pub warmup: Duration,
    pub seconds: Duration,
    pub server_pid: Option<u32>,
    pub threads: usize,
    pub backend: Backend,
    pub kernel_timestamps: bool,
    pub seed: u64,
    pub json: bool,
}

/// # Errors
///
/// A line that names the option.
pub fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut video = VideoConfig {
        bitrate: 1_500_000,
        fps: 30,
        packet_size: 1160,
        key_interval: Duration::from_secs(4),
        key_factor: 4.0,
        pacing: 2.5,
    };
    let (mut with_video, mut with_audio, mut audio_bytes) = (true, false, 80);
    let mut url = None;
    let mut tokens = None;
    let mut options = Options {
        url: HttpUrl { authority: String::new(), path: String::new() },
        tokens: Source::Secret(String::new()),
        rooms: 1,
        room: None,
        publishers: 1,
        subscribers: 10,
        meeting: false,
        via: Via::Signaling,
        mode: ReceiveMode::Slots,
        slots: [3, 9],
        join_rate: 50.0,
        join_timeout: Duration::from_secs(30),
        video: None,
        audio_bytes: None,
        warmup: Duration::from_secs(3),
        seconds: Duration::from_secs(20),
        server_pid: None,
        threads: 1,
        backend: Backend::Aws,
        kernel_timestamps: true,
        seed: 1,
        json: false,
    };
    while let Some(arg) = parser.next()? {
        let Long(name) = arg else { return Err(arg.unexpected()) };
        let name = name.to_owned();
        let bad = |what: &str| lexopt::Error::from(format!("--{name} wants {what}"));
        match name.as_str() {
            "help" => return Ok(Command::Help),
            "url" => url = Some(HttpUrl::parse("ws", &parser.value()?.string()?).ok_or_else(|| bad("ws://…"))?),
            "secret" => tokens = Some(Source::Secret(parser.value()?.string()?)),
            "token-url" => {
                let url = HttpUrl::parse("http", &parser.value()?.string()?).ok_or_else(|| bad("http://…"))?;
                tokens = Some(Source::Url(url));
            }
            "rooms" => options.rooms = parser.value()?.parse()?,
            "room" => options.room = Some(parser.value()?.string()?),
            "publishers" => options.publishers = parser.value()?.parse()?,
            "subscribers" => options.subscribers = parser.value()?.parse()?,
            "meeting" => options.meeting = true,
            "via" => {
                options.via = match parser.value()?.string()?.as_str() {
                    "signaling" => Via::Signaling,
                    "whip" => Via::Whip,
                    _ => return Err(bad("signaling or whip")),
                }
            }
            "receive" => {
                options.mode = match parser.value()?.string()?.as_str() {
                    "slots" => ReceiveMode::Slots,
                    "tracks" => ReceiveMode::Tracks,
                    _ => return Err(bad("slots or tracks")),
                }
            }
            "slots" => {
                let text = parser.value()?.string()?;
                let (video, audio) = text.split_once(',').unwrap_or((&text, "3"));
                options.slots[Kind::Video as usize] = video.parse().map_err(|_| bad("one or two numbers"))?;
                options.slots[Kind::Audio as usize] = audio.parse().map_err(|_| bad("one or two numbers"))?;
            }
            "join-rate" => options.join_rate = positive(parser.value()?.parse()?).ok_or_else(|| bad("a rate"))?,
            "join-timeout" => options.join_timeout = seconds(parser.value()?.parse()?).ok_or_else(|| bad("seconds"))?,
            "video-bitrate" => video.bitrate = parser.value()?.parse()?,
            "video-fps" => video.fps = parser.value()?.parse()?,
            "packet-size" => video.packet_size = parser.value()?.parse()?,
            "keyframe-interval" => {
                video.key_interval = seconds(parser.value()?.parse()?).ok_or_else(|| bad("seconds"))?;
            }
            "pacing" => video.pacing = positive(parser.value()?.parse()?).ok_or_else(|| bad("a factor"))?,
            "no-video" => with_video = false,
            "audio" => with_audio = true,
            "audio-size" => audio_bytes = parser.value()?.parse()?,
            "warmup" => options.warmup = seconds(parser.value()?.parse()?).ok_or_else(|| bad("seconds"))?,
            "seconds" => options.seconds = seconds(parser.value()?.parse()?).ok_or_else(|| bad("seconds"))?,
            "server-pid" => options.server_pid = Some(parser.value()?.parse()?),
            "threads" => options.threads = parser.value()?.parse()?,
            "crypto" => {
                options.backend = match parser.value()?.string()?.as_str() {
                    "aws" => Backend::Aws,
                    "own" => Backend::Own,
                    _ => return Err(bad("aws or own")),
                }
            }
            "no-kernel-timestamps" => options.kernel_timestamps = false,
            "seed" => options.seed = parser.value()?.parse()?,
            "json" => options.json = true,
            _ => return Err(Long(&name).unexpected()),
        }
    }
    options.url = url.ok_or("--url is missing")?;
    options.tokens = tokens.ok_or("--secret or --token-url is missing")?;
    options.video = with_video.then_some(video);
    options.audio_bytes = with_audio.then_some(audio_bytes);
    check(&options)?;
    Ok(Command::Run(Box::new(options)))
}

fn check(options: &Options) -> Result<(), String> {
    let demand = |fulfilled: bool, what: &str| if fulfilled { Ok(()) } else { Err(what.to_owned()) };
    demand(options.rooms > 0 && options.publishers + options.subscribers > 0, "there is nobody to join")?;
    demand(options.room.is_none() || options.rooms == 1, "--room names one call, --rooms wants several")?;
    if options.via == Via::Whip {
        demand(!options.meeting, "--meeting wants --via signaling: a WHIP session only publishes")?;
        demand(options.mode == ReceiveMode::Slots, "--receive tracks wants --via signaling")?;
        demand(whip::endpoint(&options.url, "", None).is_some(), "--via whip wants a --url that ends in /ws")?;
    }
    demand(options.threads > 0, "--threads wants at least 1")?;
    demand(options.video.is_some() || options.audio_bytes.is_some(), "--no-video without --audio leaves nothing")?;
    if let Some(video) = &options.video {
        let sizes = VIDEO_OVERHEAD..=MAX_PAYLOAD;
        demand(sizes.contains(&video.packet_size), &format!("--packet-size wants {sizes:?}"))?;
        demand((1..=240).contains(&video.fps), "--video-fps wants 1..=240")?;
        demand(video.bitrate >= 10_000, "--video-bitrate wants at least 10000")?;
    }
    if let Some(bytes) = options.audio_bytes {
        let sizes = AudioSource::MIN_BYTES..=MAX_PAYLOAD;
        demand(sizes.contains(&bytes), &format!("--audio-size wants {sizes:?}"))?;
    }
    Ok(())
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok().filter(|d| *d <= Duration::from_secs(7 * 24 * 3600))
}

fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

/// With all headers it still fits an Ethernet frame.
const MAX_PAYLOAD: usize = 1300;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Options, String> {
        let args = line.split_ascii_whitespace().map(str::to_owned);
        match parse(lexopt::Parser::from_args(args)) {
            Ok(Command::Run(options)) => Ok(*options),
            Ok(Command::Help) => Err("help".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    const NEEDED: &str = "--url ws://127.0.0.1:3000/video-calls/ws --secret s";

    #[test]
    fn options_are_understood() {
        let defaults = parse_line(NEEDED).expect("enough");
        assert_eq!((defaults.publishers, defaults.subscribers, defaults.slots), (1, 10, [3, 9]));
        assert!(defaults.video.is_some() && defaults.audio_bytes.is_none() && defaults.via == Via::Signaling);
        assert_eq!(parse_line(&format!("{NEEDED} --via whip")).map(|options| options.via), Ok(Via::Whip));
        let all = "--rooms 2 --publishers 3 --subscribers 0 --meeting --slots 4,2 --audio --audio-size 120 --no-video \
                   --receive tracks --seconds 0.5 --crypto own --server-pid 7 --json";
        let options = parse_line(&format!("{NEEDED} {all}")).expect("all known");
        assert_eq!(options.slots, [2, 4]);
        assert_eq!((options.audio_bytes, options.video, options.mode), (Some(120), None, ReceiveMode::Tracks));
        assert_eq!((options.seconds, options.server_pid), (Duration::from_millis(500), Some(7)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, part) in [
            ("", "--url"),
            ("--url ws://h:1/", "--secret"),
            ("--url wss://h/ --secret s", "--url"),
            ("--url ws://h/ --secret s --rooms 0", "nobody"),
            ("--url ws://h/ --secret s --no-video", "nothing"),
            ("--url ws://h/ --secret s --packet-size 2000", "--packet-size"),
            ("--url ws://h/ --secret s --seconds -1", "--seconds"),
            ("--url ws://h/ --secret s --join-rate 0", "--join-rate"),
            ("--url ws://h/ --secret s --room a --rooms 2", "--room"),
            ("--url ws://h/ --secret s --slots x", "--slots"),
            ("--url ws://h/ws --secret s --via smoke", "--via"),
            ("--url ws://h/ --secret s --via whip", "--url"),
            ("--url ws://h/ws --secret s --via whip --meeting", "--meeting"),
            ("--url ws://h/ws --secret s --via whip --receive tracks", "--receive"),
            ("--url ws://h/ --secret s --nonsense", "--nonsense"),
            ("--url ws://h/ --secret s extra", "extra"),
        ] {
            let error = parse_line(line).map(|_| ()).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
