//! Whole recordings, finished, and stopped in between.

use std::collections::BTreeMap;

use super::super::live::Ended;
use super::super::repair;
use super::super::tests::{Content, MS, Scratch, Script, h264, hashes, sound, vp8};
use super::*;

/// Ann comes, goes and comes again; bob shows a screen, and changes his codec.
fn call(root: &Path) -> Script {
    let mut script = Script::new(root, 1);
    script.join(0, "ann");
    script.source(0, 1, "ann", "microphone");
    script.source(0, 2, "ann", "camera");
    script.blocks(1, 1, sound(), 0, 1000);
    script.blocks(2, 2, vp8(), 20, 1000);
    script.speak(100, &["ann"]);
    script.leave(1000, "ann");
    script.join(1200, "b/b");
    script.source(1200, 3, "b/b", "screen");
    script.source(1200, 4, "b/b", "camera");
    script.blocks(3, 3, vp8(), 1200, 2400);
    script.blocks(4, 4, vp8(), 1300, 1600);
    script.blocks(4, 5, h264(1), 1600, 2000);
    script.join(2000, "ann");
    script.source(2000, 5, "ann", "microphone");
    script.source(2000, 6, "ann", "camera");
    script.blocks(5, 6, sound(), 2000, 3000);
    script.blocks(6, 7, vp8(), 2040, 3000);
    script.speak(2100, &["b/b"]);
    for (source, lost) in [(2, 3), (6, 4)] {
        script.live.note_quality(source, Quality { lost, ..Quality::default() }).expect("room");
    }
    script
}

/// With a disk that has room, or says that it has none, or has less than it says.
fn finish_with(ended: Ended, directory: &Path, is_cancelled: bool, may_take: bool, room: Room) -> Result<Entry, Error> {
    ended.completed.expect("room");
    let mut told = Vec::new();
    let mut work = Work {
        begins: &mut |_| {},
        progress: &mut |_, part| told.push(part),
        cancel: &AtomicBool::new(is_cancelled),
        may_take: &|_| may_take,
        room: &room,
    };
    let entry = repair::complete(directory, ended.journal, true, false, &mut work);
    assert!(told.iter().all(|part| (0.0..=1.0).contains(part)) && told.is_sorted(), "{told:?}");
    entry
}

fn complete(script: Script) -> (PathBuf, Entry) {
    let directory = script.directory();
    let entry = finish_with(script.end(), &directory, false, true, Room::default()).expect("room");
    (directory, entry)
}

#[test]
fn everybody_has_files_on_the_same_clock() {
    let scratch = Scratch::new("finish");
    let (directory, entry) = complete(call(scratch.path()));
    assert_eq!((entry.status, entry.error.as_deref(), entry.recovered), (Status::Completed, None, false));
    assert_eq!((entry.duration_ms, entry.end_reason.as_deref()), (3000, Some("requested")));
    let names: Vec<&str> = entry.files.iter().map(|file| file.name.as_str()).collect();
    let participants = ["ann-1.webm", "b%2Fb-1.webm", "b%2Fb-2.webm", "b%2Fb-3.mkv"];
    let rest = ["poster.webp", "speakers.vtt", "manifest.jsonl", "metadata.json"];
    assert_eq!(names, [&["recording.mkv"][..], &participants, &rest].concat());
    // What is said of files is true of them, and there are no others.
    let on_disk = hashes(&directory);
    let said: BTreeMap<String, String> =
        entry.files.iter().map(|file| (file.name.clone(), file.sha256.clone())).collect();
    assert_eq!(on_disk, said);
    for file in &entry.files {
        assert_eq!(fs::metadata(directory.join(&file.name)).expect("a file").len(), file.size);
    }
    assert_eq!(entry.size, entry.files.iter().map(|file| file.size).sum::<u64>());

    let whole = Content::read(&directory.join("recording.mkv"));
    let ann = Content::read(&directory.join("ann-1.webm"));
    assert_eq!((ann.doc_type.as_str(), ann.names()), ("webm", vec!["The ann (camera)", "The ann (microphone)"]));
    assert_eq!((ann.span(1), ann.span(2)), ((49, 20, 2960), (100, 0, 2980)));
    let blocks_of = |numbers: &[u32]| -> Vec<String> {
        let mine = whole.blocks.iter().filter(|(number, ..)| numbers.contains(number));
        mine.map(|(.., text)| text.clone()).collect()
    };
    assert_eq!(ann.blocks.iter().map(|block| block.2.clone()).collect::<Vec<_>>(), blocks_of(&[1, 2, 6, 7]));
    // Cues come before what they lead to.
    assert!(ann.cues > 4 && ann.cues_at < 16 * 1024, "{} at {}", ann.cues, ann.cues_at);
    assert_eq!(
        ann.info.as_ref().map(|info| (&info.title[..], info.date)),
        Some(("call: The ann", Some(entry.started)))
    );
    assert_eq!(ann.tags[0].values[0].1, "ann");
    let screen = Content::read(&directory.join("b%2Fb-1.webm"));
    assert_eq!((screen.names(), screen.span(1)), (vec!["The b/b (screen)"], (30, 1200, 2360)));
    assert_eq!(Content::read(&directory.join("b%2Fb-2.webm")).span(1), (8, 1300, 1580));
    assert_eq!(Content::read(&directory.join("b%2Fb-3.mkv")).span(1), (10, 1600, 1960));

    let file = &entry.files[1];
    assert_eq!((file.participant.as_deref(), &file.content_type[..]), (Some("ann"), "video/webm"));
    let tracks = &file.media.as_ref().expect("it has some").tracks;
    assert_eq!((tracks[0].start_offset_ms, tracks[0].duration_ms, &tracks[0].codec[..]), (20, 2940, "vp8"));
    assert_eq!((tracks[0].quality.lost, tracks[1].quality.lost), (7, 0));
    let captions = fs::read_to_string(directory.join("speakers.vtt")).expect("a text");
    assert!(captions.contains("00:00:00.100 --> 00:00:01.000\n<v The ann>The ann\n"), "{captions}");
    let poster = fs::read(directory.join("poster.webp")).expect("a picture");
    assert!(poster.starts_with(b"RIFF") && &poster[8..16] == b"WEBPVP8 ");
}

#[test]
fn metadata_is_enough_for_a_database() {
    let scratch = Scratch::new("finish-metadata");
    let (directory, entry) = complete(call(scratch.path()));
    let bytes = fs::read(directory.join(names::METADATA)).expect("a file");
    let metadata: Metadata = serde_json::from_slice(&bytes).expect("what was written");
    let sha256 = names::hex(&openssl::sha::sha256(&bytes));
    assert_eq!(metadata.to_entry(bytes.len() as u64, sha256), Some(entry));
    let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!((&value["version"], value["tracks"].as_array().map(Vec::len)), (&1.into(), Some(7)));
    assert_eq!(value["tracks"][2]["trackId"], "tr_0000000000000003");
    assert_eq!(
        (&value["participants"][0]["leftMs"], &value["participants"][2]["joinedMs"]),
        (&1000.into(), &2000.into())
    );
    let outside = Metadata { files: vec![metadata::file("../x", FileKind::Poster, 1, String::new())], ..metadata };
    assert_eq!(outside.to_entry(1, String::new()), None);
}

#[test]
fn without_media_there_is_nothing_but_words() {
    let scratch = Scratch::new("finish-none");
    let mut script = Script::new(scratch.path(), 1);
    script.join(0, "ann");
    script.source(0, 1, "ann", "camera");
    let (directory, entry) = complete(script);
    assert_eq!((entry.status, entry.error.as_deref()), (Status::Failed, Some(NO_MEDIA)));
    let names: Vec<&str> = entry.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["manifest.jsonl", "metadata.json"]);
    // The file of the call stays, whatever is in it.
    assert!(directory.join("recording.webm").exists());
}

#[test]
fn a_part_begins_with_a_key_frame() {
    let scratch = Scratch::new("finish-key");
    let mut script = Script::new(scratch.path(), 1);
    script.source(0, 1, "ann", "camera");
    script.source(0, 2, "bob", "camera");
    let block = super::super::tests::block;
    for (at_ms, is_keyframe) in [(0, false), (40, false), (80, true), (120, false)] {
        let begins = (at_ms == 0).then(vp8);
        script.live.write(&[crate::recording::Block { begins, ..block(1, 1, at_ms, is_keyframe) }]).expect("room");
    }
    // Never one: then there is nothing to be seen.
    script.live.write(&[crate::recording::Block { begins: Some(vp8()), ..block(2, 2, 90, false) }]).expect("room");
    let (directory, entry) = complete(script);
    assert_eq!(Content::read(&directory.join("ann-1.webm")).span(1), (2, 80, 120));
    assert!(!entry.files.iter().any(|file| file.participant.as_deref() == Some("bob")));
    assert_eq!(Content::read(&directory.join("recording.webm")).blocks.len(), 5);
}

#[test]
fn more_files_than_may_be_open() {
    let scratch = Scratch::new("finish-many");
    let mut script = Script::new(scratch.path(), 1);
    let count = OUTPUTS_MAX as u32 + 10;
    for number in 1..=count {
        let name = format!("user{number}");
        script.source(0, number, &name, "microphone");
        script.blocks(number, number, sound(), 0, 40);
    }
    let (directory, entry) = complete(script);
    let files = entry.files.iter().filter(|file| file.kind == FileKind::Participant).count();
    assert_eq!(files, count as usize);
    assert_eq!(Content::read(&directory.join(format!("user{count}-1.webm"))).span(2), (2, 0, 20));
    // All tracks are in the whole file, though its head had no room for them.
    assert_eq!(Content::read(&directory.join("recording.webm")).tracks.len(), count as usize);
}

#[test]
fn who_stops_in_between_makes_the_same_later() {
    let scratch = Scratch::new("finish-steps");
    let (directory, entry) = complete(call(scratch.path()));
    let expected = hashes(&directory);
    let manifest = fs::read(directory.join(names::MANIFEST)).expect("a file");
    let lines: Vec<&[u8]> = manifest.split_inclusive(|byte| *byte == b'\n').collect();
    let ends_at = lines.iter().position(|line| line.starts_with(b"{\"type\":\"file\"")).expect("files are listed");
    // In the order in which they are made, backwards: each step is left out together with all that come after it.
    let steps: &[&[&str]] = &[
        &["metadata.json"],
        &["poster.webp", "speakers.vtt"],
        &["b%2Fb-3.mkv"],
        &["b%2Fb-2.webm", "b%2Fb-1.webm"],
        &["ann-1.webm"],
    ];
    for left_out in 1..=steps.len() {
        for lines_kept in [lines.len(), lines.len() - 1, ends_at + 1, ends_at] {
            for name in steps[..left_out].iter().copied().flatten() {
                let _ = fs::remove_file(directory.join(name));
            }
            fs::write(directory.join("half.webm.tmp"), b"half").expect("room");
            fs::write(directory.join(names::MANIFEST), lines[..lines_kept].concat()).expect("room");
            let report = repair::repair_all(scratch.path(), |_| {}).expect("a directory").remove(0);
            assert_eq!(report.outcome, repair::Outcome::Repaired);
            let mut found = hashes(&directory);
            let mut wanted = expected.clone();
            // These two say that it was repaired.
            for name in [names::MANIFEST, names::METADATA] {
                assert!(found.remove(name).is_some() && wanted.remove(name).is_some());
            }
            assert_eq!(found, wanted, "{left_out} steps, {lines_kept} lines");
            let repaired = report.entry.expect("an entry");
            assert!(repaired.recovered);
            let media = |entry: &Entry| entry.files[..entry.files.len() - 2].to_vec();
            assert_eq!(media(&repaired), media(&entry));
            assert_eq!((repaired.duration_ms, repaired.ended), (entry.duration_ms, entry.ended));
        }
    }
}

#[test]
fn a_step_that_is_cancelled_leaves_no_metadata() {
    let scratch = Scratch::new("finish-cancel");
    let script = call(scratch.path());
    let directory = script.directory();
    let done = finish_with(script.end(), &directory, true, true, Room::default());
    assert!(matches!(done, Err(Error::Cancelled)));
    assert!(!directory.join(names::METADATA).exists());
    let reports = repair::repair_all(scratch.path(), |_| {}).expect("a directory");
    assert_eq!(reports[0].outcome, repair::Outcome::Repaired);
    assert!(directory.join("ann-1.webm").exists());
    assert_eq!(Content::read(&directory.join("ann-1.webm")).info.expect("some").duration_ns, Some(3000 * MS));
}

#[test]
fn without_room_for_more_the_call_is_complete() {
    // Enough for the first heads; and all of it, which is for others.
    let little = Room { left: Some(std::sync::Arc::new(20_000.into())) };
    for (may_take, room) in [(true, little), (false, Room::default())] {
        let scratch = Scratch::new("finish-full");
        let script = call(scratch.path());
        let directory = script.directory();
        let entry = finish_with(script.end(), &directory, false, may_take, room).expect("the rest has room");
        assert!(entry.status == Status::Completed && entry.error.is_some());
        let names: Vec<&str> = entry.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["recording.mkv", "speakers.vtt", "manifest.jsonl", "metadata.json"]);
        let on_disk = hashes(&directory);
        assert_eq!((on_disk.len(), &on_disk["recording.mkv"]), (names.len(), &entry.files[0].sha256));
        // The next start has another try, and it has not crashed.
        let report = repair::repair_all(scratch.path(), |_| {}).expect("a directory").remove(0);
        let entry = report.entry.expect("an entry");
        assert!(report.outcome == repair::Outcome::Repaired && !entry.recovered && entry.error.is_none());
        assert_eq!(entry.files.len(), 9);
    }
}

/// How long the end takes: head and cues below 3 s, everything else below a minute.
#[test]
#[ignore = "writes 5 GiB"]
fn an_hour_of_four_people() {
    use crate::recording::{Block, Payload};
    let scratch = Scratch::new("finish-hour");
    let mut script = Script::new(scratch.path(), 1);
    let key: std::sync::Arc<[u8]> = vec![0x10; 1200].into();
    let payload = |packets: usize, last: usize| {
        let mut payload = Payload::default();
        (0..packets).for_each(|_| payload.push(&key, 0..1200));
        payload.push(&key, 0..last);
        payload
    };
    let (picture, voice) = (payload(5, 250), payload(0, 80));
    let started = std::time::Instant::now();
    let ticks = 3600 * 50;
    for person in 0..4u32 {
        let name = format!("user{person}");
        script.source(0, person * 2 + 1, &name, "camera");
        script.source(0, person * 2 + 2, &name, "microphone");
    }
    for tick in 0..ticks {
        let at_ms = tick * 20;
        for person in 0..4 {
            let begins = |description: fn() -> crate::recording::Description| (tick == 0).then(description);
            let block = |number, is_keyframe, payload: &Payload| Block {
                payload: payload.clone(),
                ..super::super::tests::block(number, number, at_ms, is_keyframe)
            };
            // 30 pictures a second, a key frame every ten.
            if tick * 3 / 5 != (tick + 1) * 3 / 5 || tick == 0 {
                let video = block(person * 2 + 1, tick % 500 == 0, &picture);
                script.live.write(&[Block { begins: begins(vp8), ..video }]).expect("room");
            }
            let sound_block = block(person * 2 + 2, true, &voice);
            script.live.write(&[Block { begins: begins(sound), ..sound_block }]).expect("room");
        }
    }
    let (written, size) = (started.elapsed(), script.live.size());
    let (directory, started) = (script.directory(), std::time::Instant::now());
    let ended = script.end();
    let stopped = started.elapsed();
    let started = std::time::Instant::now();
    let entry = finish_with(ended, &directory, false, true, Room::default()).expect("room");
    let finished = started.elapsed();
    println!("{size} octets written in {written:?}, stopped in {stopped:?}, finished in {finished:?}");
    assert_eq!(entry.files.iter().filter(|file| file.kind == FileKind::Participant).count(), 4);
    assert!(stopped.as_secs() < 3 && finished.as_secs() < 60);
}
