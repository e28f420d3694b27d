//! Files that we write, as others read them: FFmpeg, MKVToolNix, Chromium, Firefox.
//!
//! FFmpeg makes samples, our reader takes them apart, our writer puts them together, and what comes out has to be right for
//! everybody without a word of complaint. A test whose tools are missing prints `SKIPPED`, or fails where `CI` or
//! `E2E_REQUIRE` is set; `tests/e2e/setup.sh` installs them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use webrtc_engine::webm::repair::{self, Known};
use webrtc_engine::webm::{
    Block, Chapter, Codec, Config, Event, Info, Media, Reader, Tag, Track, Writer, av1, avc, opus,
};

const MS: u64 = 1_000_000;

/// Two people with sound and picture, one of whom comes later; the picture of the other changes its size.
#[test]
fn a_call_in_one_file() {
    let Some(bench) = Bench::new("call", &["ffmpeg", "ffprobe", "mkvmerge", "mkvinfo"]) else { return };
    let path = bench.path("call.webm");
    let mut writer = call(&bench, File::create(&path).expect("a file"));

    // While it grows.
    let growing = bench.path("growing.webm");
    fs::copy(&path, &growing).expect("a copy");
    check_call(&growing, false);
    let length = writer.finish().expect("room");
    assert_eq!(length, fs::metadata(&path).expect("a file").len());
    check_call(&path, true);

    // Cut in the middle of the last block, and repaired.
    let cut = File::options().read(true).write(true).open(&growing).expect("a file");
    cut.set_len(cut.metadata().expect("a file").len() - 5).expect("it can be cut");
    let scan = repair::repair(&mut OnDisk(cut), Known::default()).expect("blocks");
    assert!(scan.blocks > 400, "{} blocks", scan.blocks);
    check_call(&growing, true);
}

fn check_call(path: &Path, is_finished: bool) {
    let probe = probe(path);
    let streams = probe["streams"].as_array().expect("streams");
    let titles: Vec<&str> = streams.iter().map(|stream| stream["tags"]["title"].as_str().unwrap_or("-")).collect();
    assert_eq!(titles, ["ann: camera", "ann: microphone", "bob: camera", "bob: microphone"], "{path:?}");
    let codecs: Vec<&str> = streams.iter().map(|stream| stream["codec_name"].as_str().unwrap_or("-")).collect();
    assert_eq!(codecs, ["vp8", "opus", "vp8", "opus"]);
    assert_eq!(streams[0]["tags"]["PARTICIPANT"], "ann");
    assert_eq!(streams[2]["tags"]["language"], "deu");
    let frames: Vec<u64> = streams.iter().map(|stream| number(&stream["nb_read_frames"]) as u64).collect();
    // 4 s at 25 pictures and 50 packets each for ann, 2 s less for bob; one packet more, and one may have been cut.
    assert!(frames[0] == 100 && frames[2] == 50, "{frames:?}");
    assert!((199..=201).contains(&frames[1]) && (99..=101).contains(&frames[3]), "{frames:?}");
    assert_eq!(probe["format"]["tags"]["title"], "A call", "{path:?}");
    assert!(probe["format"]["tags"]["creation_time"].as_str().expect("a date").starts_with("2026-09-21T"));
    if is_finished {
        let duration = number(&probe["format"]["duration"]);
        assert!((3.9..4.1).contains(&duration), "{duration} s");
    }
    assert_eq!(probe["chapters"].as_array().map(Vec::len), Some(2), "{path:?}");
    assert_eq!(probe["chapters"][1]["tags"]["title"], "bob joins");
    decodes(path, &["-map", "0"]);
    monotonic(path);
    mkvtoolnix_reads(path, is_finished);

    if is_finished {
        // Seeking leads to the key frame that is nearest before.
        let packet = output(
            Command::new("ffprobe")
                .args(["-v", "error", "-read_intervals", "3%+#1", "-select_streams", "v:0"])
                .args(["-show_entries", "packet=pts_time,flags", "-of", "csv=p=0"])
                .arg(path),
        );
        let time: f64 = packet.split(',').next().and_then(|time| time.parse().ok()).expect("a packet");
        assert!(packet.contains('K') && (2.0..=3.0).contains(&time), "{packet}");
    }
}

/// Sound and picture of ann, then of bob as well, as they would come: in order, but with bob's half a second late.
fn call(bench: &Bench, out: File) -> Writer<File> {
    let small = bench.sample("small.webm", &["-f", "lavfi", "-i", "testsrc=s=320x180:r=25:d=2"], VP8);
    let large = bench.sample("large.webm", &["-f", "lavfi", "-i", "testsrc=s=640x360:r=25:d=2"], VP8);
    let sound = bench.sample("sound.webm", &["-f", "lavfi", "-i", "sine=frequency=440:duration=4"], OPUS);
    let mut blocks = Vec::new();
    let mut take = |path: &Path, number: u32, shift_ms: u64, late_ms: u64, until_ms: u64| {
        for (block, payload) in read(path).1 {
            if block.timestamp_ns < until_ms * MS {
                let timestamp_ns = block.timestamp_ns + shift_ms * MS;
                blocks.push((timestamp_ns + late_ms * MS, Block { track: number, timestamp_ns, ..block }, payload));
            }
        }
    };
    take(&small, 1, 0, 0, 2000);
    take(&large, 1, 2000, 0, 2000);
    take(&sound, 2, 0, 0, 4000);
    take(&large, 3, 2000, 500, 2000);
    take(&sound, 4, 2000, 500, 2000);
    blocks.sort_by_key(|(arrival, ..)| *arrival);

    let head = opus::Head { pre_skip: 312, ..opus::Head::relayed() };
    let head = opus::Head { channels: 1, ..head };
    let name = |track: Track, name: &str| Track { name: name.into(), ..track };
    let ann = [
        name(Track::video(1, 11, Codec::Vp8, 320, 180), "ann: camera"),
        name(Track { default_duration_ns: Some(20 * MS), ..Track::opus(2, 12, &head) }, "ann: microphone"),
    ];
    let bob = [
        name(Track { language: "deu".into(), ..Track::video(3, 13, Codec::Vp8, 640, 360) }, "bob: camera"),
        name(Track { default_duration_ns: Some(20 * MS), ..Track::opus(4, 14, &head) }, "bob: microphone"),
    ];
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let info = Info {
        title: "A call".into(),
        date: Some(date),
        muxing_app: "test".into(),
        writing_app: "test".into(),
        ..Info::default()
    };
    let mut writer = Writer::new(Config { info, ..Config::default() }, ann, out).expect("a writer");
    let mut bob = bob.into_iter();
    for (arrival, block, payload) in &blocks {
        if *arrival >= 2_500 * MS && bob.len() > 0 {
            bob.by_ref().for_each(|track| writer.add_track(track).expect("room"));
            writer.muxer_mut().note_size(1, 640, 360);
            let tag = |(uid, name): (u64, &str)| Tag {
                track_uid: Some(uid),
                values: vec![("PARTICIPANT".into(), name.into()), ("ROLE".into(), "host".into())],
            };
            let tags = [(11, "ann"), (12, "ann"), (13, "bob"), (14, "bob")].map(tag);
            writer.muxer_mut().set_tags(tags.to_vec());
            let chapter = |uid, start_ms, title: &str| Chapter {
                uid,
                start_ns: start_ms * MS,
                end_ns: None,
                title: title.into(),
            };
            writer.muxer_mut().set_chapters(vec![chapter(1, 0, "ann joins"), chapter(2, 2000, "bob joins")]);
            writer.write_head().expect("room");
        }
        // In pieces, as packets carry it.
        writer.write_block(block, payload.chunks(1100)).expect("room");
    }
    writer
}

/// One file for each codec: VP9, AV1 from a stream of OBUs, H.264 from an Annex B stream, Opus whose end is cut off.
#[test]
fn a_file_of_every_codec() {
    let Some(bench) = Bench::new("codecs", &["ffmpeg", "ffprobe", "mkvmerge", "mkvinfo"]) else { return };
    let source = ["-f", "lavfi", "-i", "testsrc=s=320x180:r=25:d=2"];
    let pixels = ["-pix_fmt", "yuv420p", "-g", "25"];

    let vp9 = bench.sample("vp9-source.webm", &source, &["-c:v", "libvpx-vp9", "-deadline", "realtime"]);
    let path = bench.path("vp9.webm");
    let mut file =
        Writer::new(Config::default(), [Track::video(1, 1, Codec::Vp9, 320, 180)], create(&path)).expect("a writer");
    for (block, payload) in read(&vp9).1 {
        file.write_block(&block, [&payload[..]]).expect("room");
    }
    finish(file, &path, "vp9", 50);

    let args = [&["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-f", "obu"], &pixels[..]].concat();
    let stream = fs::read(bench.sample("source.obu", &source, &args)).expect("a sample");
    let path = bench.path("av1.webm");
    let mut obus = Vec::new();
    let mut rest = &stream[..];
    while let Some((obu, after)) = av1::Obu::parse(rest) {
        obus.push((obu, &rest[..rest.len() - after.len()]));
        rest = after;
    }
    let (_, header) = obus.iter().find(|(obu, _)| obu.is_sequence_header()).expect("a sequence header");
    let (private, sequence) = av1::private(header).expect("a record");
    let track = Track { private, ..Track::video(1, 1, Codec::Av1, sequence.width, sequence.height) };
    let mut file = Writer::new(Config::default(), [track], create(&path)).expect("a writer");
    // A temporal delimiter begins each unit.
    for (unit, obus) in obus.chunk_by(|_, (next, _)| next.is_kept()).enumerate() {
        let is_keyframe = obus.iter().any(|(obu, _)| obu.is_sequence_header());
        let kept: Vec<_> = obus.iter().filter(|(obu, _)| obu.is_kept()).collect();
        let prefixes: Vec<_> = kept.iter().map(|(obu, _)| obu.prefix(obu.payload.len() as u32)).collect();
        let slices = prefixes.iter().zip(&kept).flat_map(|(prefix, (obu, _))| [&prefix[..], obu.payload]);
        file.write_block(&Block::new(1, unit as u64 * 40 * MS, is_keyframe), slices).expect("room");
    }
    finish(file, &path, "av1", 50);

    let args =
        [&["-c:v", "libx264", "-bf", "0", "-bsf:v", "h264_metadata=aud=insert", "-f", "h264"], &pixels[..]].concat();
    let stream = fs::read(bench.sample("source.h264", &source, &args)).expect("a sample");
    let path = bench.path("h264.mkv");
    let nals: Vec<&[u8]> = avc::nal_units(&stream).collect();
    let private = avc::private(nals.iter().copied()).expect("a record");
    let track = Track { private, ..Track::video(1, 1, Codec::H264, 320, 180) };
    let mut file = Writer::new(Config::default(), [track], create(&path)).expect("a writer");
    let mut lengths = avc::Lengths::default();
    let nal_type = |nal: &[u8]| nal[0] & 0x1f;
    for (unit, nals) in nals.chunk_by(|_, next| nal_type(next) != 9).enumerate() {
        let is_keyframe = nals.iter().any(|nal| nal_type(nal) == 5);
        let block = Block::new(1, unit as u64 * 40 * MS, is_keyframe);
        file.write_block(&block, lengths.interleave(nals)).expect("room");
    }
    assert_eq!(file.muxer().doc_type(), "matroska");
    finish(file, &path, "h264", 50);

    // FFmpeg says how much of the last packet is not to be heard; so do we, after having read it.
    let sound = bench.sample("opus-source.webm", &["-f", "lavfi", "-i", "sine=d=1.234"], OPUS);
    let (tracks, blocks) = read(&sound);
    assert!(blocks.last().expect("blocks").0.discard_padding_ns > 0, "the sample has padding");
    let path = bench.path("opus.webm");
    let packets = blocks.len() as u64;
    let mut file = Writer::new(Config::default(), tracks, create(&path)).expect("a writer");
    for (block, payload) in blocks {
        file.write_block(&block, [&payload[..]]).expect("room");
    }
    finish(file, &path, "opus", packets);
    let samples = |path: &Path| {
        let raw = run(Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(path).args(["-f", "s16le", "-"]));
        raw.len()
    };
    assert_eq!(samples(&path), samples(&sound), "as long as what it was made from");
}

/// What FFmpeg makes comes through our reader and writer without a change: the same packets, byte by byte, at the same times.
#[test]
fn a_copy_has_the_same_packets() {
    let Some(bench) = Bench::new("copy", &["ffmpeg", "mkvmerge", "mkvinfo"]) else { return };
    let source = bench.source();
    let path = bench.path("copy.webm");
    copy(&source, &path, Config { cues_in_head: true, ..Config::default() });
    let without_sizes = bench.path("without-sizes.webm");
    copy(&source, &without_sizes, Config { cluster_sizes: false, ..Config::default() });
    let packets = |path: &Path| {
        output(Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(path).args(["-c", "copy", "-f", "framemd5", "-"]))
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect::<String>())
            .collect::<Vec<_>>()
    };
    let (ours, theirs) = (packets(&path), packets(&source));
    assert!(ours.len() > 300);
    assert_eq!(ours, theirs);
    assert_eq!(packets(&without_sizes), theirs);
    mkvtoolnix_reads(&without_sizes, true);
}

#[test]
fn chromium_plays_and_seeks() {
    plays_and_seeks("chromium", "chromium");
}

#[test]
fn firefox_plays_and_seeks() {
    plays_and_seeks("firefox", "firefox-esr");
}

/// A browser plays finished files and one that was repaired, knows how long they are, and seeks in them.
fn plays_and_seeks(browser: &str, program: &str) {
    let Some(bench) = Bench::new(browser, &["ffmpeg", "node", program]) else { return };
    let scenarios = root().join("tests/e2e/scenarios");
    if !root().join("tests/e2e/node_modules/playwright-core").exists() {
        return skipped("node_modules is missing: run tests/e2e/setup.sh");
    }
    // The same lock as for all stories in browsers.
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e.lock")).expect("the lock file");
    lock.lock().expect("the lock between test processes");

    let source = bench.source();
    copy(&source, &bench.path("cues-at-the-end.webm"), Config::default());
    copy(&source, &bench.path("cues-in-the-head.webm"), Config { cues_in_head: true, ..Config::default() });
    copy(&source, &bench.path("without-sizes.webm"), Config { cluster_sizes: false, ..Config::default() });
    let repaired = bench.path("repaired.webm");
    copy(&source, &repaired, Config::default());
    let file = File::options().read(true).write(true).open(&repaired).expect("a file");
    file.set_len(file.metadata().expect("a file").len() * 9 / 10).expect("it can be cut");
    repair::repair(&mut OnDisk(file), Known::default()).expect("blocks");
    let output = Command::new("node")
        .arg(scenarios.join("webm_file.mjs"))
        .env("SERVER_URL", "http://127.0.0.1/")
        .env("BROWSER", browser)
        .env("FILES", &bench.folder)
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => println!("{said}"),
        Some(77) => skipped(said.lines().find(|line| line.starts_with("SKIPPED")).unwrap_or("SKIPPED")),
        code => panic!("{code:?}\n{said}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}

const VP8: &[&str] = &["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "500k", "-g", "25"];
const OPUS: &[&str] = &["-c:a", "libopus", "-b:a", "32k"];

/// A folder of its own, and the machine for itself.
struct Bench {
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// `None`, having said so: a tool is missing.
    fn new(name: &str, tools: &[&str]) -> Option<Bench> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let missing: Vec<&str> = tools.iter().copied().filter(|tool| !is_installed(tool)).collect();
        if !missing.is_empty() {
            skipped(&format!("{} not installed: run tests/e2e/setup.sh", missing.join(", ")));
            return None;
        }
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("webm-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Some(Bench { folder, _alone: alone })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn sample(&self, name: &str, input: &[&str], codec: &[&str]) -> PathBuf {
        let path = self.path(name);
        run(Command::new("ffmpeg").args(["-v", "error", "-y"]).args(input).args(codec).arg(&path));
        path
    }

    /// Eight seconds of a picture that counts, and a tone.
    fn source(&self) -> PathBuf {
        let input =
            ["-f", "lavfi", "-i", "testsrc=s=320x180:r=25:d=8", "-f", "lavfi", "-i", "sine=frequency=440:duration=8"];
        self.sample("source.webm", &input, &[VP8, OPUS].concat())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_installed(tool: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(tool).is_file())
}

/// A test that did not run is a failure where nothing may be left out.
fn skipped(reason: &str) {
    let required = ["CI", "E2E_REQUIRE"].iter().any(|name| std::env::var_os(name).is_some_and(|value| value != "0"));
    assert!(!required, "skipped where every test must run: {reason}");
    println!("SKIPPED: {}", reason.trim_start_matches("SKIPPED: "));
}

/// The output of a program that has nothing to complain about.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("it runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{command:?}: {}\n{complaint}", output.status);
    output.stdout
}

fn output(command: &mut Command) -> String {
    String::from_utf8(run(command)).expect("text")
}

fn create(path: &Path) -> File {
    File::create(path).expect("a file")
}

fn read(path: &Path) -> (Vec<Track>, Vec<(Block, Vec<u8>)>) {
    let mut reader = Reader::new(File::open(path).expect("a file"), Default::default()).expect("it is Matroska");
    let (mut tracks, mut blocks) = (Vec::new(), Vec::new());
    while let Some(event) = reader.next_event().expect("a file can be read") {
        match event {
            Event::Tracks(found) => tracks = found,
            Event::Block(found) => {
                assert!(!found.is_laced);
                let mut payload = Vec::new();
                reader.read_payload(&found, &mut payload).expect("a file can be read");
                blocks.push((found.block, payload));
            }
            Event::Damage(damage) => panic!("{damage:?} in {path:?}"),
            _ => {}
        }
    }
    (tracks, blocks)
}

fn copy(from: &Path, to: &Path, config: Config) {
    let (tracks, blocks) = read(from);
    assert!(tracks.iter().any(|track| matches!(track.media, Media::Audio(_))));
    let mut writer = Writer::new(config, tracks, create(to)).expect("a writer");
    for (block, payload) in &blocks {
        writer.write_block(block, [&payload[..]]).expect("room");
    }
    writer.finish().expect("room");
}

/// Completes a file of one track, and has everybody look at it.
fn finish(mut writer: Writer<File>, path: &Path, codec: &str, packets: u64) {
    writer.finish().expect("room");
    let probe = probe(path);
    assert_eq!(probe["streams"][0]["codec_name"], codec);
    assert_eq!(number(&probe["streams"][0]["nb_read_frames"]) as u64, packets, "{codec}");
    assert!(number(&probe["format"]["duration"]) > 1.0);
    decodes(path, &["-map", "0"]);
    monotonic(path);
    mkvtoolnix_reads(path, true);
    let doc_type = if codec == "h264" { "matroska" } else { "webm" };
    assert_eq!(
        Reader::new(File::open(path).expect("a file"), Default::default()).expect("Matroska").doc_type(),
        doc_type
    );
}

fn probe(path: &Path) -> Value {
    let arguments = ["-v", "error", "-count_frames", "-show_streams", "-show_format", "-show_chapters", "-of", "json"];
    serde_json::from_str(&output(Command::new("ffprobe").args(arguments).arg(path))).expect("JSON")
}

/// A number that is written as text.
fn number(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

fn decodes(path: &Path, arguments: &[&str]) {
    let said =
        run(Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(path).args(arguments).args(["-f", "null", "-"]));
    assert!(said.is_empty());
}

/// The timestamps of each track rise.
fn monotonic(path: &Path) {
    let arguments = ["-v", "error", "-show_entries", "packet=stream_index,pts", "-of", "json"];
    let shown: Value = serde_json::from_str(&output(Command::new("ffprobe").args(arguments).arg(path))).expect("JSON");
    let mut last = [i64::MIN; 8];
    for packet in shown["packets"].as_array().expect("packets") {
        let (index, time) =
            (packet["stream_index"].as_u64().expect("an index"), packet["pts"].as_i64().expect("a time"));
        let last = &mut last[index as usize];
        assert!(*last < time, "{path:?}: {time} after {last} in track {index}");
        *last = time;
    }
    assert!(last[0] > 0);
}

/// Without a warning, and with cues and a duration when it is finished.
fn mkvtoolnix_reads(path: &Path, is_finished: bool) {
    let identified: Value = serde_json::from_str(&output(Command::new("mkvmerge").arg("-J").arg(path))).expect("JSON");
    assert_eq!(identified["container"]["recognized"], true);
    for list in ["errors", "warnings"] {
        assert_eq!(identified[list].as_array().map(Vec::len), Some(0), "{identified}");
    }
    assert_eq!(identified["container"]["properties"]["duration"].is_number(), is_finished, "{identified}");
    let elements = output(Command::new("mkvinfo").args(["--ui-language", "en_US", "-a", "-v"]).arg(path));
    for element in ["|+ Cues", "|+ Seek head", "| + Duration"] {
        assert!(elements.contains(element) || !is_finished, "{element} is missing:\n{elements}");
    }
    for complaint in ["unknown element", "Unknown element", "rror", "nvalid", "arning"] {
        assert!(!elements.contains(complaint), "{complaint}:\n{elements}");
    }
    // All of it is read and written again.
    let copy = path.with_extension("remuxed.mkv");
    output(Command::new("mkvmerge").arg("--quiet").arg("-o").arg(&copy).arg(path));
    decodes(&copy, &["-map", "0"]);
}

/// A file that can be cut off.
struct OnDisk(File);

impl repair::File for OnDisk {
    fn set_len(&mut self, length: u64) -> std::io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.0.sync_data()
    }
}

impl std::io::Read for OnDisk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for OnDisk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl std::io::Seek for OnDisk {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}
