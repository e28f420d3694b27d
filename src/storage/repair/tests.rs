//! Recordings that were cut off anywhere, and what else may be below the directory of recordings.

use std::io::Cursor;

use super::super::tests::{Content, Scratch, Script, block, h264, sound, vp8};
use super::*;
use crate::recording::library::FileKind;

/// Two people for a moment; small, so that it can be cut at every octet.
fn small(root: &Path) -> Script {
    let mut script = Script::new(root, 1);
    script.join(0, "ann");
    script.source(0, 1, "ann", "camera");
    script.source(0, 2, "ann", "microphone");
    script.blocks(1, 1, vp8(), 0, 1600);
    script.blocks(2, 2, sound(), 0, 1600);
    script.join(1000, "bob");
    script.source(1600, 3, "bob", "screen");
    script.blocks(3, 3, vp8(), 1600, 3000);
    script
}

/// As a killed process leaves it. Below the root, and all of it.
fn killed(script: Script) -> PathBuf {
    let directory = script.directory();
    drop(script);
    directory
}

fn repair_one(root: &Path) -> Report {
    let mut reports = repair_all(root, |_| {}).expect("a directory");
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

#[test]
fn a_killed_process_loses_nothing() {
    let scratch = Scratch::new("repair");
    let directory = killed(small(scratch.path()));
    let before = Content::read(&directory.join("recording.webm"));
    let listed = list(scratch.path()).expect("a directory");
    assert!(matches!(&listed[0], Report { outcome: Outcome::Failed(_), entry: Some(_), .. }));

    let report = repair_one(scratch.path());
    assert_eq!(report.outcome, Outcome::Repaired);
    let entry = report.entry.expect("an entry");
    assert!(entry.recovered && entry.status == Status::Completed);
    assert_eq!((entry.duration_ms, entry.end_reason.as_deref()), (2960, None));
    assert_eq!(entry.ended, Some(entry.started + std::time::Duration::from_millis(2960)));
    let after = Content::read(&directory.join("recording.webm"));
    assert_eq!((&after.blocks, after.damages), (&before.blocks, 0));
    assert_eq!(after.names(), ["The ann (camera)", "The ann (microphone)", "The bob (screen)"]);
    assert_eq!(after.chapters.len(), 2);
    assert!(after.cues > 4 && !directory.join("ballast.tmp").exists());
    let names: Vec<&str> = entry.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names[..3], ["recording.webm", "ann-1.webm", "bob-1.webm"]);

    // Again there is nothing to do, and the entry is the same out of the metadata.
    let again = repair_one(scratch.path());
    assert_eq!((again.outcome, again.entry.as_ref()), (Outcome::Complete, Some(&entry)));
    assert_eq!(list(scratch.path()).expect("a directory")[0].entry, Some(entry));
}

/// Where each block ends.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut reader = Reader::new(Cursor::new(bytes), webm::reader::Limits::default()).expect("a file");
    let mut ends = Vec::new();
    while let Some(event) = reader.next_event().expect("memory") {
        if let Event::Block(found) = event {
            ends.push(found.element.end as usize);
        }
    }
    ends
}

#[test]
fn every_cut_keeps_every_whole_block() {
    let scratch = Scratch::new("repair-cuts");
    let directory = killed(small(scratch.path()));
    let bytes = fs::read(directory.join("recording.webm")).expect("a file");
    let ends = ends(&bytes);
    assert!(bytes.len() > 67 * 1024 && ends.len() == 155, "{} blocks in {}", ends.len(), bytes.len());
    let mut journal = Journal::open(&directory).expect("a journal");
    // Within the head there is nothing to be kept, wherever the cut is.
    let head_size = super::super::live::HEAD_SIZE as usize;
    for cut in (bytes.len() - 64 * 1024..head_size).step_by(97).chain(head_size..=bytes.len()) {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let mut file = Cursor::new(bytes[..cut].to_vec());
        let mended = mend_file(&mut file, &mut journal).expect("memory");
        let kept: u64 = mended.iter().flat_map(|mended| &mended.0).map(|extent| extent.blocks).sum();
        assert_eq!(kept, whole as u64, "cut at {cut}");
        // That it can be read afterwards, now and then: it takes longer.
        if cut % 97 == 0 && whole > 0 {
            let length = file.get_ref().len();
            let again = mend_file(&mut file, &mut journal).expect("memory");
            assert_eq!((again, file.get_ref().len()), (mended, length), "cut at {cut}");
        }
    }
}

#[test]
fn cuts_on_the_disk_are_finished() {
    let scratch = Scratch::new("repair-disk");
    let directory = killed(small(scratch.path()));
    let webm = fs::read(directory.join("recording.webm")).expect("a file");
    let manifest = fs::read(directory.join(names::MANIFEST)).expect("a file");
    let first_end = ends(&webm)[0];
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..30 {
        let cut = if round == 0 { 0 } else { random.usize(60 * 1024..=webm.len()) };
        let lines = if round % 3 == 0 { manifest.len() } else { random.usize(manifest.len() / 3..=manifest.len()) };
        fs::remove_dir_all(&directory).and_then(|()| fs::create_dir(&directory)).expect("a directory");
        fs::write(directory.join("recording.webm"), &webm[..cut]).expect("room");
        fs::write(directory.join(names::MANIFEST), &manifest[..lines]).expect("room");
        let report = repair_one(scratch.path());
        let entry = report.entry.expect("an entry");
        assert_eq!(report.outcome, Outcome::Repaired, "{cut} and {lines}");
        let has_media = cut >= first_end;
        assert_eq!(entry.status == Status::Completed, has_media, "{cut} and {lines}");
        if !has_media {
            continue;
        }
        let content = Content::read(&directory.join("recording.webm"));
        assert_eq!(content.damages, 0);
        // What the manifest has lost, the head has kept.
        assert!(content.tracks.iter().all(|track| track.name.starts_with("The ")), "{:?}", content.names());
        let kept: usize = entry
            .files
            .iter()
            .filter(|file| file.kind == FileKind::Participant)
            .map(|file| Content::read(&directory.join(&file.name)).blocks.len())
            .sum();
        assert_eq!(kept, content.blocks.len(), "{cut} and {lines}");
    }
}

#[test]
fn a_head_that_was_lost_is_made_again() {
    let scratch = Scratch::new("repair-head");
    let directory = killed(small(scratch.path()));
    let path = directory.join("recording.webm");
    let before = Content::read(&path);
    let mut bytes = fs::read(&path).expect("a file");
    bytes[..4096].fill(0);
    fs::write(&path, bytes).expect("room");
    assert_eq!(repair_one(scratch.path()).outcome, Outcome::Repaired);
    let after = Content::read(&path);
    assert_eq!((&after.blocks, after.names()), (&before.blocks, before.names()));
}

#[test]
fn a_crash_between_two_names() {
    // H.264 came, and the file was not called otherwise yet; or it was, and the manifest does not say so.
    for is_renamed in [false, true] {
        let scratch = Scratch::new("repair-names");
        let mut script = Script::new(scratch.path(), 1);
        script.source(0, 1, "ann", "camera");
        script.blocks(1, 1, h264(1), 0, 400);
        let directory = killed(script);
        let manifest = fs::read_to_string(directory.join(names::MANIFEST)).expect("a text");
        let manifest: Vec<&str> = manifest.lines().filter(|line| !line.contains("renamed")).collect();
        fs::write(directory.join(names::MANIFEST), format!("{}\n", manifest.join("\n"))).expect("room");
        if !is_renamed {
            fs::rename(directory.join("recording.mkv"), directory.join("recording.webm")).expect("a file");
        }
        let report = repair_one(scratch.path());
        assert_eq!(report.outcome, Outcome::Repaired);
        assert_eq!(report.entry.expect("an entry").files[0].name, "recording.mkv");
        assert_eq!(Content::read(&directory.join("recording.mkv")).blocks.len(), 10);
        assert!(!directory.join("recording.webm").exists());
    }
}

#[test]
fn what_is_recorded_is_left_alone() {
    let scratch = Scratch::new("repair-live");
    let mut script = small(scratch.path());
    assert_eq!(repair_one(scratch.path()).outcome, Outcome::InUse);
    assert_eq!(list(scratch.path()).expect("a directory")[0].outcome, Outcome::InUse);
    script.live.write(&[block(3, 3, 3000, true)]).expect("room");
    let path = script.directory().join("recording.webm");
    script.end().completed.expect("room");
    assert_eq!(Content::read(&path).blocks.len(), 156);
}

#[test]
fn what_is_no_recording_is_left_alone() {
    let scratch = Scratch::new("repair-odd");
    let root = scratch.path();
    assert!(directories(&root.join("not there")).expect("nothing").is_empty());
    let directory = killed(small(root));
    let name = directory.file_name().expect("a name").to_owned();
    let manifest = fs::read(directory.join(names::MANIFEST)).expect("a file");
    let other = RecordingId::new(1, [1; 9]);
    let make = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(&path).expect("a directory");
        path
    };
    // Names that are none of ours; nothing yet; no manifest; one of another recording; one that says nothing; metadata that is
    // none.
    make("call/other");
    fs::create_dir_all(root.join("c%20ll").join(&name)).expect("a directory");
    make(&format!("empty/{other}"));
    fs::write(make(&format!("begun/{other}")).join("manifest.jsonl.tmp"), b"{").expect("room");
    fs::write(make(&format!("lost/{other}")).join(names::call(true)), b"").expect("room");
    fs::write(make(&format!("copy/{other}")).join(names::MANIFEST), &manifest).expect("room");
    fs::write(make(&format!("junk/{other}")).join(names::MANIFEST), b"{\"type\":\"x\"}\n\0\0").expect("room");
    fs::write(directory.join(names::METADATA), b"{}").expect("room");
    fs::write(root.join("file"), b"").expect("room");
    let reports = repair_all(root, |_| {}).expect("a directory");
    let outcome = |report: &Report| {
        let call = report.directory.parent().expect("a call").to_string_lossy().into_owned();
        let outcome = match (&report.outcome, &report.entry) {
            (Outcome::Repaired, Some(_)) => "repaired",
            (Outcome::Failed(_), None) => "failed",
            (Outcome::Complete, None) => "nothing",
            other => panic!("{other:?}"),
        };
        (call, outcome)
    };
    let expected = [
        ("begun", "nothing"),
        ("call", "repaired"),
        ("copy", "failed"),
        ("empty", "nothing"),
        ("junk", "failed"),
        ("lost", "failed"),
    ];
    assert_eq!(reports.iter().map(outcome).collect::<Vec<_>>(), expected.map(|(call, is)| (call.to_owned(), is)));
    assert!(root.join(format!("begun/{other}/manifest.jsonl.tmp")).exists(), "somebody may be at it");
    assert_eq!(list(root).expect("a directory").len(), 4);
    assert_eq!(fs::read(root.join(format!("copy/{other}/{}", names::MANIFEST))).expect("a file"), manifest);
}

#[test]
fn a_file_that_cannot_be_read_is_kept_for_another_try() {
    let scratch = Scratch::new("repair-broken");
    let directory = killed(small(scratch.path()));
    let junk = b"this is not a film".repeat(5000);
    fs::write(directory.join("recording.webm"), &junk).expect("room");
    let report = repair_one(scratch.path());
    assert!(matches!(&report.outcome, Outcome::Failed(_)));
    let entry = report.entry.expect("an entry");
    assert!(entry.status == Status::Failed && entry.error.is_some());
    assert!(!directory.join(names::METADATA).exists());
    assert_eq!(fs::read(directory.join("recording.webm")).expect("a file"), junk);
}

#[test]
fn what_had_no_room_is_made_later() {
    let scratch = Scratch::new("repair-incomplete");
    let directory = killed(small(scratch.path()));
    assert_eq!(repair_one(scratch.path()).outcome, Outcome::Repaired);
    let path = directory.join(names::METADATA);
    let text = fs::read_to_string(&path).expect("a text");
    fs::write(&path, text.replace("\"incomplete\": false", "\"incomplete\": true")).expect("room");
    fs::remove_file(directory.join("ann-1.webm")).expect("a file");
    assert_eq!(repair_one(scratch.path()).outcome, Outcome::Repaired);
    assert!(directory.join("ann-1.webm").exists());
    assert_eq!(repair_one(scratch.path()).outcome, Outcome::Complete);
}
