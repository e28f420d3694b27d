//! What is written while a call runs is read back.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::tests::{Content, MS, Scratch, Script, begin, block, h264, sound, vp8};
use super::*;
use crate::webm::Media;

#[test]
fn a_call_with_all_that_is_said_about_it() {
    let scratch = Scratch::new("live");
    let mut script = Script::new(scratch.path(), 1);
    let directory = script.directory();
    assert_eq!(directory, scratch.path().join("call").join(begin(1).recording.as_str()));
    script.join(0, "ann");
    script.source(0, 7, "ann", "camera");
    script.source(0, 8, "ann", "microphone");
    script.blocks(7, 1, vp8(), 0, 2000);
    script.blocks(8, 2, sound(), 0, 2000);
    script.join(2000, "bob");
    script.join(2000, "carl");
    script.source(2500, 9, "bob", "screen");
    let larger = Block { begins: Some(vp8()), size: Some((640, 100)), ..block(9, 3, 2500, true) };
    script.live.write(&[larger]).expect("room");
    // While it is written, it can be played.
    let growing = Content::read(&directory.join("recording.webm"));
    assert_eq!((growing.blocks.len(), growing.tracks.len(), growing.cues), (151, 3, 0));
    assert!(directory.join("ballast.tmp").exists());

    let Ended { journal, duration_ms, completed } = script.end();
    completed.expect("room");
    assert_eq!(duration_ms, 2500);
    let content = Content::read(&directory.join("recording.webm"));
    assert_eq!(content.names(), ["The ann (camera)", "The ann (microphone)", "The bob (screen)"]);
    assert_eq!(content.tracks.iter().map(|track| track.is_default).collect::<Vec<_>>(), [true, true, false]);
    let Media::Video(video) = content.tracks[2].media else { panic!("a picture") };
    assert_eq!((video.width, video.height), (640, 180));
    let value = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let values = [value("PARTICIPANT_ID", "bob"), value("ROLE", "guest"), value("SOURCE", "screen")];
    assert_eq!((content.tags[2].track_uid, &content.tags[2].values[..]), (Some(content.tracks[2].uid), &values[..]));
    let chapters: Vec<(u64, &str)> =
        content.chapters.iter().map(|chapter| (chapter.start_ns / MS, &chapter.title[..])).collect();
    assert_eq!(chapters, [(2000, "The bob joins, The carl joins"), (2500, "The bob shares the screen")]);
    assert_eq!(content.blocks.len(), 151);
    assert!(content.cues >= 6 && content.damages == 0);
    let info = content.info.expect("it says so");
    assert_eq!((&info.title[..], info.date, info.duration_ns), ("call", Some(begin(1).wall), Some(2500 * MS)));
    assert!(!directory.join("ballast.tmp").exists());

    // The manifest says the same to whoever reads it.
    let state = journal.state().clone();
    drop(journal);
    assert_eq!(Journal::open(&directory).expect("it is free").state(), &state);
    assert_eq!(state.extents.len(), 3);
    let of_camera = Extent { track: 1, start_ms: 0, end_ms: 1960, blocks: 50, octets: 50 * 17 + 27, keyframes: 5 };
    assert_eq!(Extent { octets: of_camera.octets, ..state.extents[0] }, of_camera);
    assert_eq!(state.webm_tracks(), content.tracks);
}

#[test]
fn what_webm_does_not_have_is_matroska() {
    let scratch = Scratch::new("live-mkv");
    let mut script = Script::new(scratch.path(), 1);
    let directory = script.directory();
    script.source(0, 1, "ann", "camera");
    script.blocks(1, 1, vp8(), 0, 400);
    script.blocks(1, 2, h264(1), 400, 800);
    script.blocks(1, 3, h264(2), 800, 1200);
    assert!(!directory.join("recording.webm").exists());
    let Ended { journal, completed, .. } = script.end();
    completed.expect("room");
    let content = Content::read(&directory.join("recording.mkv"));
    assert_eq!((content.doc_type.as_str(), content.blocks.len(), content.tracks.len()), ("matroska", 30, 3));
    assert_eq!(content.tracks[2].private, [1, 2]);
    assert_eq!(journal.state().file.as_deref(), Some("recording.mkv"));
}

#[test]
fn a_full_disk_loses_nothing_that_was_written() {
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let scratch = Scratch::new("live-full");
    let mut script = Script::with_room(scratch.path(), 1, Room { left: Some(left.clone()) });
    let path = script.directory().join("recording.webm");
    script.source(0, 1, "ann", "camera");
    script.blocks(1, 1, vp8(), 0, 400);
    left.store(100, Ordering::Relaxed);
    let mut written = 10;
    let failure = loop {
        let at_ms = 400 + written * 40;
        match script.live.write(&[block(1, 1, at_ms, false)]) {
            Ok(()) => written += 1,
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, Failure::DiskFull) && failure.reason() == EndReason::DiskFull);
    assert!((11..15).contains(&written), "{written}");
    // What comes after is dropped, so that there is room for the end.
    script.live.write(&[block(1, 1, 5000, true)]).expect("nothing is written");
    left.store(1 << 20, Ordering::Relaxed);
    let Ended { journal, completed, .. } = script.end();
    completed.expect("what was set aside");
    let content = Content::read(&path);
    assert_eq!((content.blocks.len() as u64, content.damages), (written, 0));
    assert_eq!(journal.state().extents[0].blocks, written);
    assert!(content.info.and_then(|info| info.duration_ns).is_some());
}

#[test]
fn a_recording_is_made_once() {
    let scratch = Scratch::new("live-twice");
    let script = Script::new(scratch.path(), 1);
    script.end().completed.expect("room");
    let again = Live::create(scratch.path(), &begin(1), Room::default());
    assert_eq!(again.expect_err("it is there").kind(), io::ErrorKind::AlreadyExists);
    assert!(Live::create(scratch.path(), &begin(2), Room::default()).is_ok());
    // What could not be made whole leaves nothing behind.
    let room = Room { left: Some(Arc::new(AtomicUsize::new(1000))) };
    assert_eq!(Live::create(scratch.path(), &begin(4), room).expect_err("no room").kind(), io::ErrorKind::StorageFull);
    assert!(!scratch.path().join("call").join(begin(4).recording.as_str()).exists());
    // Where nothing can be made.
    let file = scratch.path().join("file");
    fs::write(&file, b"").expect("room");
    assert!(Live::create(&file, &begin(3), Room::default()).is_err());
}

#[test]
fn blocks_that_no_file_takes_are_left_out() {
    let scratch = Scratch::new("live-odd");
    let mut script = Script::new(scratch.path(), 1);
    let path = script.directory().join("recording.webm");
    // Without a description; with a number that there is not; of a source of which nobody has heard.
    script.live.write(&[block(1, 5, 0, true)]).expect("nothing is written");
    script.live.write(&[Block { begins: Some(vp8()), ..block(1, 0, 0, true) }]).expect("nothing is written");
    script.blocks(99, 1, vp8(), 0, 100);
    script.end().completed.expect("room");
    let content = Content::read(&path);
    assert_eq!((content.blocks.len(), content.names()), (3, vec!["unknown (unknown)"]));
}

/// What is said not to change any more does not, whatever comes after: tracks, another name, the end.
#[test]
fn what_is_stable_stays() {
    let scratch = Scratch::new("live-stable");
    let mut script = Script::new(scratch.path(), 1);
    script.join(0, "ann");
    script.source(0, 1, "ann", "camera");
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut look = |script: &Script| {
        let stable = script.live.stable_len() as usize;
        let octets = fs::read(script.directory().join(script.live.name())).expect("a file");
        assert!(stable <= octets.len() && stable >= HEAD_SIZE as usize);
        seen.push(octets[HEAD_SIZE as usize..stable].to_vec());
    };
    for second in 0..10 {
        let (number, kind) = if second < 6 { (1, vp8()) } else { (2, h264(1)) };
        if matches!(second, 0 | 6) {
            script.blocks(1, number, kind, second * 1000, second * 1000 + 900);
        } else {
            for at_ms in (second * 1000..second * 1000 + 900).step_by(40) {
                script.live.write(&[block(1, number, at_ms, at_ms % 400 == 0)]).expect("room");
            }
        }
        look(&script);
    }
    let directory = script.directory();
    drop(script.end());
    let octets = fs::read(directory.join("recording.mkv")).expect("a file");
    assert!(seen.windows(2).all(|pair| pair[0].len() <= pair[1].len()) && seen[9].len() > 1000);
    assert!(seen.iter().all(|stable| octets[HEAD_SIZE as usize..].starts_with(stable)), "as it was");
}
