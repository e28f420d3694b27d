//! All threads together, with a recorder that makes a block of each packet.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};

use str0m::format::Codec;
use str0m::media::MediaKind;

use super::super::repair;
use super::super::standin;
use super::super::tests::{Content, Scratch, Script, begin, user, vp8};
use super::*;
use crate::base::TrackId;
use crate::recording::feed::{Begin, EndReason, Item, NoticeKind, Packet, Refusal, TrackInfo};
use crate::recording::library::{Entry, Status, Update};

/// Threads, and all that they say.
struct Bench {
    recorders: Recorders,
    notices: Receiver<(WorkerId, Notice)>,
    library: Receiver<Request>,
    scratch: Scratch,
}

impl Bench {
    fn new(name: &str) -> Bench {
        Bench::with(name, 10_000, |_| {})
    }

    fn with(name: &str, library: usize, change: impl FnOnce(&mut Config)) -> Bench {
        Bench::on(Scratch::new(name), library, change)
    }

    fn on(scratch: Scratch, library: usize, change: impl FnOnce(&mut Config)) -> Bench {
        let mut config = Config {
            directory: scratch.path().to_owned(),
            threads: 2,
            recordings_max: 10,
            length_max: Duration::from_secs(3600),
            size_max: u64::MAX,
            free_min: 0,
            free: |_| Ok(u64::MAX),
            room: Room::default(),
            upload: None,
        };
        change(&mut config);
        let (tell, notices) = channel();
        let (queue, library) = bounded(library);
        let notice = Arc::new(move |worker, notice| drop(tell.send((worker, notice))));
        let recorders = Recorders::start_with::<standin::Recorder>(config, notice, queue).expect("threads");
        Bench { recorders, notices, library, scratch }
    }

    fn send(&self, feed: Feed) {
        self.recorders.handle().send(feed).expect("room in the queue");
    }

    /// One that is under way.
    fn begin(&self, number: u8) -> Begin {
        let begin = begin(number);
        self.send(Feed::Begin(Box::new(begin.clone())));
        let (worker, notice) = self.notice();
        assert!(matches!(notice.what, NoticeKind::Opened), "{notice:?}");
        assert_eq!(
            (worker, notice.recording, notice.room),
            (begin.worker, begin.recording.clone(), begin.room.clone())
        );
        begin
    }

    fn batch(&self, begin: &Begin, items: Vec<Item>) {
        let octets = items.iter().map(|item| if let Item::Packet(packet) = item { packet.payload.len() } else { 0 });
        begin.backlog.fetch_add(octets.sum(), Ordering::Relaxed);
        self.send(Feed::Batch { recording: begin.recording.clone(), items });
    }

    fn notice(&self) -> (WorkerId, Notice) {
        self.notices.recv_timeout(PATIENCE).expect("a notice")
    }

    /// The next that is no wish for a key frame.
    fn what(&self) -> NoticeKind {
        loop {
            match self.notice().1.what {
                NoticeKind::KeyframeWanted { .. } => {}
                what => return what,
            }
        }
    }

    /// All that the database was told up to now, without progress.
    fn saved(&self) -> Vec<Entry> {
        let saves = self.library.try_iter().filter_map(|request| match request {
            Request::Update(Update::Save(entry)) => Some(*entry),
            _ => None,
        });
        saves.collect()
    }

    fn stop(self) -> (Scratch, Receiver<Request>) {
        self.recorders.stop(Instant::now() + PATIENCE);
        (self.scratch, self.library)
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

fn joins(begin: &Begin, name: &str, number: u32) -> Vec<Item> {
    let at = begin.at;
    let source = |number, kind, source| TrackInfo {
        number,
        id: TrackId(number.into()),
        user: user(name),
        kind,
        source,
        name: None,
    };
    vec![
        Item::Joined { at, user: user(name), name: None, role: "guest" },
        Item::TrackAdded { at, track: source(number, MediaKind::Video, "camera") },
        Item::TrackAdded { at, track: source(number + 1, MediaKind::Audio, "microphone") },
    ]
}

fn packet(begin: &Begin, track: u32, codec: Codec, seq_no: u64) -> Item {
    let first = if seq_no.is_multiple_of(10) { 0x10 } else { 0x11 };
    let payload: Vec<u8> = [first, 0, 0, 0x9d, 1, 0x2a, 64, 1, 180, 0].into_iter().chain([7; 90]).collect();
    Item::Packet(Packet {
        track,
        ssrc: track,
        seq_no,
        time: 0,
        clock_rate: 90_000,
        codec,
        red: false,
        marker: true,
        payload: payload.into(),
        arrival: begin.at + Duration::from_millis(seq_no * 20),
    })
}

fn packets(begin: &Begin, track: u32, codec: Codec, range: std::ops::Range<u64>) -> Vec<Item> {
    range.map(|seq_no| packet(begin, track, codec, seq_no)).collect()
}

fn finish(begin: &Begin) -> Vec<Item> {
    vec![Item::Finish { at: begin.at, reason: EndReason::Requested }]
}

#[test]
fn a_recording_from_beginning_to_end() {
    let bench = Bench::new("recorder");
    let begin = bench.begin(1);
    bench.batch(&begin, joins(&begin, "ann", 1));
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 0..50));
    bench.batch(&begin, packets(&begin, 2, Codec::Opus, 0..50));
    bench.batch(&begin, vec![Item::Paused { at: begin.at + Duration::from_secs(1) }]);
    bench.batch(&begin, vec![Item::Resumed { at: begin.at + Duration::from_secs(2) }]);
    // Something is missing, so a key frame is wanted.
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 110..120));
    let (_, notice) = bench.notice();
    assert!(matches!(notice.what, NoticeKind::KeyframeWanted { track: 1 }), "{notice:?}");
    bench.batch(&begin, finish(&begin));
    let NoticeKind::Completed { duration_ms, size } = bench.what() else { panic!("it is complete") };
    // A second of it was not recorded.
    assert_eq!(duration_ms, 1380);
    assert_eq!(begin.backlog.load(Ordering::Relaxed), 0);

    let saved = bench.saved();
    let statuses: Vec<Status> = saved.iter().map(|entry| entry.status).collect();
    use Status::*;
    assert_eq!(statuses, [Recording, Paused, Recording, Stopping, Processing, Completed]);
    let entry = saved.last().expect("some");
    assert_eq!((entry.size, entry.duration_ms, entry.end_reason.as_deref()), (size, 1380, Some("requested")));
    let directory = bench.scratch.path().join(&entry.directory);
    assert_eq!(Content::read(&directory.join("recording.webm")).blocks.len(), 110);
    assert_eq!(Content::read(&directory.join("ann-1.webm")).span(2), (50, 0, 980));
    let text = fs::read_to_string(directory.join("metadata.json")).expect("a text");
    let metadata: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(metadata["tracks"][0]["quality"]["lost"], 60);
    assert_eq!((&metadata["gaps"][0]["packets"], &metadata["pauses"][0]["atMs"]), (&60.into(), &1000.into()));
    bench.stop();
}

#[test]
fn two_at_once_stay_apart() {
    let bench = Bench::new("recorder-two");
    let begins: Vec<Begin> = (1..=5).map(|number| bench.begin(number)).collect();
    for begin in &begins {
        bench.batch(begin, joins(begin, "ann", 1));
    }
    for part in 0..10 {
        for (index, begin) in begins.iter().enumerate() {
            let count = 2 + index as u64;
            bench.batch(begin, packets(begin, 1, Codec::Vp8, part * count..(part + 1) * count));
        }
    }
    for begin in &begins {
        bench.batch(begin, finish(begin));
    }
    for _ in &begins {
        assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    }
    for (index, begin) in begins.iter().enumerate() {
        let path = bench.scratch.path().join("call").join(begin.recording.as_str()).join("recording.webm");
        assert_eq!(Content::read(&path).blocks.len(), 10 * (2 + index));
        assert_eq!(begin.backlog.load(Ordering::Relaxed), 0);
    }
    bench.stop();
}

#[test]
fn what_is_refused() {
    let bench = Bench::with("recorder-many", 100, |config| config.recordings_max = 1);
    let first = bench.begin(1);
    bench.send(Feed::Begin(Box::new(begin(2))));
    assert!(matches!(bench.what(), NoticeKind::Refused(Refusal::TooMany)));
    bench.send(Feed::Begin(Box::new(begin(1))));
    assert!(matches!(bench.what(), NoticeKind::Refused(Refusal::Failed(_))));
    bench.batch(&first, finish(&first));
    // Nothing came, so nothing is there; and another one may begin.
    let NoticeKind::Failed { error } = bench.what() else { panic!("nothing was recorded") };
    assert_eq!(error, "no media was received");
    bench.begin(3);
    bench.stop();

    let bench = Bench::with("recorder-full", 100, |config| {
        config.free_min = 1 << 30;
        config.free = |_| Ok((1 << 30) - 1);
    });
    bench.send(Feed::Begin(Box::new(begin(1))));
    assert!(matches!(bench.what(), NoticeKind::Refused(Refusal::DiskFull)));
    assert_eq!(fs::read_dir(bench.scratch.path()).expect("a directory").count(), 0);
    bench.stop();

    let scratch = Scratch::new("recorder-file");
    fs::write(scratch.path().join("call"), b"in the way").expect("room");
    let bench = Bench::on(scratch, 100, |_| {});
    bench.send(Feed::Begin(Box::new(begin(1))));
    assert!(matches!(bench.what(), NoticeKind::Refused(Refusal::Failed(_))));
    bench.stop();
}

#[test]
fn limits_end_it() {
    let bench = Bench::with("recorder-size", 100, |config| config.size_max = 64 * 1024 + 1000);
    let begin = bench.begin(1);
    bench.batch(&begin, joins(&begin, "ann", 1));
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 0..50));
    assert!(matches!(bench.what(), NoticeKind::Ended(EndReason::Limit)));
    // What was under way is taken off nevertheless.
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 50..60));
    assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    let saved = bench.saved();
    assert_eq!(saved.last().expect("some").end_reason.as_deref(), Some("limit"));
    bench.stop();
    assert_eq!(begin.backlog.load(Ordering::Relaxed), 0);

    let bench = Bench::with("recorder-length", 100, |config| config.length_max = Duration::from_millis(1));
    bench.begin(1);
    assert!(matches!(bench.what(), NoticeKind::Ended(EndReason::Limit)));
    bench.stop();
}

#[test]
fn a_disk_that_fills_up_ends_it() {
    static FREE: AtomicU64 = AtomicU64::new(u64::MAX);
    let bench = Bench::with("recorder-fills", 100, |config| {
        config.free_min = 1 << 30;
        config.free = |_| Ok(FREE.load(Ordering::Relaxed));
    });
    let begin = bench.begin(1);
    bench.batch(&begin, joins(&begin, "ann", 1));
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 0..50));
    // Less than what one needs to begin does not end it; less than half of that does.
    FREE.store((1 << 30) - 1, Ordering::Relaxed);
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 50..60));
    FREE.store((1 << 29) - 1, Ordering::Relaxed);
    assert!(matches!(bench.what(), NoticeKind::Ended(EndReason::DiskFull)));
    assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    bench.stop();
}

#[test]
fn a_write_that_fails_loses_nothing_before_it() {
    let left = Arc::new(AtomicUsize::new(1 << 20));
    let room = Room { left: Some(left.clone()) };
    let bench = Bench::with("recorder-write", 100, |config| config.room = room);
    let begin = bench.begin(1);
    bench.batch(&begin, joins(&begin, "ann", 1));
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 0..50));
    while begin.backlog.load(Ordering::Relaxed) > 0 {
        thread::yield_now();
    }
    // Not even the end can be written: the finisher repairs it.
    left.store(0, Ordering::Relaxed);
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 50..60));
    assert!(matches!(bench.what(), NoticeKind::Ended(EndReason::DiskFull)));
    let NoticeKind::Completed { duration_ms, .. } = bench.what() else { panic!("it is repaired") };
    assert_eq!(duration_ms, 980);
    let saved = bench.saved();
    let entry = saved.last().expect("some");
    assert!(entry.recovered && entry.end_reason.as_deref() == Some("disk-full"));
    assert_eq!(Content::read(&bench.scratch.path().join(&entry.directory).join("recording.webm")).blocks.len(), 50);
    bench.stop();
}

#[test]
fn one_that_breaks_is_repaired_and_takes_no_other_with_it() {
    let bench = Bench::with("recorder-panic", 100, |config| config.threads = 1);
    let (broken, other) = (bench.begin(1), bench.begin(2));
    for begin in [&broken, &other] {
        bench.batch(begin, joins(begin, "ann", 1));
        bench.batch(begin, packets(begin, 1, Codec::Vp8, 0..20));
    }
    bench.batch(&broken, vec![Item::Speakers { at: broken.at, users: vec![user("panic")] }]);
    assert!(matches!(bench.what(), NoticeKind::Ended(EndReason::WriteFailed)));
    assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    bench.batch(&broken, packets(&broken, 1, Codec::Vp8, 20..30));
    bench.batch(&other, packets(&other, 1, Codec::Vp8, 20..30));
    bench.batch(&other, finish(&other));
    assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    let saved = bench.saved();
    let last = |begin: &Begin| saved.iter().rfind(|entry| entry.recording == begin.recording).expect("some").clone();
    let path = |begin| bench.scratch.path().join(last(begin).directory).join("recording.webm");
    assert!(last(&broken).recovered && !last(&other).recovered);
    assert_eq!((Content::read(&path(&broken)).blocks.len(), Content::read(&path(&other)).blocks.len()), (20, 30));
    assert_eq!(broken.backlog.load(Ordering::Relaxed), 0);
    bench.stop();
}

#[test]
fn stopping_finishes_what_runs() {
    let bench = Bench::new("recorder-stop");
    let begin = bench.begin(1);
    bench.batch(&begin, joins(&begin, "ann", 1));
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 0..20));
    let handle = bench.recorders.handle();
    let (scratch, library) = bench.stop();
    let path = scratch.path().join("call").join(begin.recording.as_str());
    assert_eq!(Content::read(&path.join("recording.webm")).blocks.len(), 20);
    assert!(path.join("metadata.json").exists());
    let saved = library.try_iter().filter_map(|request| match request {
        Request::Update(Update::Save(entry)) => Some((entry.status, entry.end_reason)),
        _ => None,
    });
    assert_eq!(saved.last(), Some((Status::Completed, Some("server-stopped".into()))));
    // Nobody is there any more.
    let feed = Feed::Batch { recording: begin.recording, items: Vec::new() };
    assert!(handle.send(feed).is_err());
}

#[test]
fn a_stop_without_time_leaves_the_rest_for_the_next_start() {
    let bench = Bench::new("recorder-late");
    let begin = bench.begin(1);
    bench.batch(&begin, joins(&begin, "ann", 1));
    bench.batch(&begin, packets(&begin, 1, Codec::Vp8, 0..20));
    bench.recorders.stop(Instant::now());
    let bench = Bench::on(bench.scratch, 100, |_| {});
    let path = bench.scratch.path().join("call").join(begin.recording.as_str());
    wait_for(&bench.library, |update| {
        matches!(update, Update::Save(entry) if entry.status == Status::Completed) || matches!(update, Update::Found(_))
    });
    assert_eq!(Content::read(&path.join("ann-1.webm")).blocks.len(), 20);
    bench.stop();
}

/// Until the database is told something.
fn wait_for(library: &Receiver<Request>, is_it: impl Fn(&Update) -> bool) -> Vec<Update> {
    let mut seen = Vec::new();
    loop {
        if let Request::Update(update) = library.recv_timeout(PATIENCE).expect("an update") {
            let is_last = is_it(&update);
            seen.push(update);
            if is_last {
                return seen;
            }
        }
    }
}

#[test]
fn a_start_repairs_and_tells_what_it_finds() {
    let scratch = Scratch::new("recorder-start");
    let whole = Script::new(scratch.path(), 1);
    drop(whole);
    repair::repair_all(scratch.path(), |_| {}).expect("a directory");
    let mut cut = Script::new(scratch.path(), 2);
    cut.source(0, 1, "ann", "camera");
    cut.blocks(1, 1, vp8(), 0, 400);
    drop(cut);
    let bench = Bench::on(scratch, 1, |_| {});
    // The room of one is enough, and what runs is not touched.
    let live = bench.begin(3);
    let seen =
        wait_for(&bench.library, |update| matches!(update, Update::Save(entry) if entry.status == Status::Completed));
    let found =
        seen.iter().filter(|update| matches!(update, Update::Found(entry) if entry.recording == begin(1).recording));
    assert_eq!(found.count(), 1, "{seen:?}");
    let Some(Update::Save(last)) = seen.last() else { panic!("it is saved") };
    assert_eq!((last.recording.clone(), last.recovered), (begin(2).recording, true));
    bench.batch(&live, joins(&live, "ann", 1));
    bench.batch(&live, packets(&live, 1, Codec::Vp8, 0..20));
    bench.batch(&live, finish(&live));
    assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    wait_for(&bench.library, |update| matches!(update, Update::Save(entry) if entry.status == Status::Completed));
    bench.stop();
}

#[test]
fn a_database_that_is_stuck_is_told_in_the_end() {
    let bench = Bench::with("recorder-stuck", 1, |_| {});
    let begins: Vec<Begin> = (1..=4).map(|number| bench.begin(number)).collect();
    for begin in &begins {
        bench.batch(begin, joins(begin, "ann", 1));
        bench.batch(begin, packets(begin, 1, Codec::Vp8, 0..20));
        bench.batch(begin, finish(begin));
    }
    // Nobody reads, and nobody waits for it.
    for _ in &begins {
        assert!(matches!(bench.what(), NoticeKind::Completed { .. }));
    }
    let mut left: Vec<RecordingId> = begins.iter().map(|begin| begin.recording.clone()).collect();
    while !left.is_empty() {
        let seen = wait_for(
            &bench.library,
            |update| matches!(update, Update::Save(entry) if entry.status == Status::Completed),
        );
        let Some(Update::Save(last)) = seen.last() else { panic!("it is saved") };
        left.retain(|recording| *recording != last.recording);
    }
    bench.stop();
}

#[test]
fn a_queue_that_is_full_gives_back_what_was_sent() {
    let (queue, _messages) = bounded(1);
    let handle = Handle { queues: [queue].into() };
    let feed = || Feed::Batch { recording: begin(1).recording, items: Vec::new() };
    handle.send(feed()).expect("room for one");
    assert!(matches!(handle.send(feed()), Err(Feed::Batch { .. })));
}

#[test]
fn recordings_are_spread_over_threads() {
    let mut counts = [0; 4];
    for number in 0..100 {
        counts[place(&begin(number).recording, 4)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
}
