//! Every line there and back, and manifests that are cut anywhere.

use std::io::Cursor;

use super::*;
use crate::recording::library::FileKind;
use crate::recording::metadata;

fn lines() -> Vec<Line> {
    let (started, started_ms) = Begin::at(from_unix_ms(1_790_000_000_123));
    vec![
        Line::Begin(Begin {
            version: VERSION,
            recording: "rec_0123456789abcdefghijklmn".into(),
            call: "call".into(),
            started,
            started_ms,
            by: Some("ann".into()),
            audio_only: false,
            participants: Some(vec!["ann".into(), "bob".into()]),
            head_size: 65536,
        }),
        Line::Joined(Joined {
            at_ms: 0,
            wall_ms: started_ms,
            user: "ann".into(),
            name: Some("Ann \"\n".into()),
            role: "host".into(),
        }),
        Line::Source(Source {
            at_ms: 1,
            number: 7,
            id: "tr_1".into(),
            user: "ann".into(),
            is_video: true,
            source: "camera".into(),
            name: None,
        }),
        Line::Track(Track {
            at_ms: 2,
            number: 1,
            uid: u64::MAX,
            source_number: 7,
            user: "ann".into(),
            role: "host".into(),
            source: "camera".into(),
            name: "Ann (camera)".into(),
            codec: "V_VP9".into(),
            private: "010203".into(),
            size: Some((640, 360)),
            sound: None,
            codec_delay_ns: 0,
            seek_pre_roll_ns: 0,
            default_duration_ns: Some(33_333_333),
        }),
        Line::Size(Size { at_ms: 3, track: 1, width: 320, height: 480 }),
        Line::Muted(Muted { at_ms: 4, source: 7, muted: true }),
        Line::Gap(Gap { at_ms: 5, source: 7, duration_ms: 40, packets: 3 }),
        Line::Overflow(Overflow { at_ms: 5, source: 7, packets: 3 }),
        Line::Changed(Changed { at_ms: 5, source: 7, size: Some((1, 2)) }),
        Line::Slewed(Slewed { at_ms: 5, source: 7, by_us: -5 }),
        Line::Speakers(Speakers { at_ms: 6, users: vec!["ann".into()] }),
        Line::Paused(Moment { at_ms: 7, wall_ms: started_ms + 7 }),
        Line::Resumed(Moment { at_ms: 7, wall_ms: started_ms + 70 }),
        Line::Joined(Joined {
            at_ms: 2000,
            wall_ms: started_ms + 2070,
            user: "bob".into(),
            name: None,
            role: "guest".into(),
        }),
        Line::Renamed(Renamed { file: "recording.mkv".into() }),
        Line::SourceEnded(SourceEnded { at_ms: 8, source: 7 }),
        Line::Quality(Measured { source: 7, quality: Quality { lost: 4, ..Quality::default() } }),
        Line::Left(Left { at_ms: 9, wall_ms: started_ms + 90, user: "ann".into(), reason: "left".into() }),
        Line::Extent(Extent { track: 1, start_ms: 2, end_ms: 9, blocks: 3, octets: 1000, keyframes: 1 }),
        Line::End(End { wall_ms: started_ms + 3000, reason: "requested".into(), duration_ms: 10, size: 70_000 }),
        Line::File(metadata::file("speakers.vtt", FileKind::Captions, 5, "ab".into())),
        Line::Finished(Finished { recovered: true }),
    ]
}

fn state(lines: &[Line]) -> State {
    let mut state = State::default();
    lines.iter().for_each(|line| state.apply(line));
    state
}

fn read(bytes: &[u8]) -> State {
    State::read(Cursor::new(bytes)).expect("memory can be read")
}

#[test]
fn lines_are_read_as_they_were_written() {
    for line in lines() {
        let bytes = line.encode();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(Line::parse(&bytes), Some(line));
    }
}

#[test]
fn a_state_is_all_lines_together() {
    let lines = lines();
    let bytes: Vec<u8> = lines.iter().flat_map(Line::encode).collect();
    let state = read(&bytes);
    assert_eq!(state, self::state(&lines));
    assert_eq!(state.unknown, 0);
    assert_eq!(state.file.as_deref(), Some("recording.mkv"));
    assert_eq!(state.tracks[0].size, Some((640, 480)));
    assert_eq!(state.presences[0].left_ms, Some(9));
    assert_eq!(state.presences[1].left_ms, None);
    assert_eq!(state.sources[0].quality.lost, 4);
    assert_eq!((state.display_name("ann"), state.display_name("bob"), state.role("bob")), ("Ann \"\n", "bob", "guest"));
    assert_eq!(state.chapters().iter().map(|chapter| &chapter.title[..]).collect::<Vec<_>>(), ["bob joins"]);
    assert_eq!(state.finished.as_ref().map(|(_, files)| files.len()), Some(1));
    assert!(matches!(&state.pauses[..], [(_, Some(_))]));
    let track = &state.webm_tracks()[0];
    assert_eq!((track.private.as_slice(), track.is_default), (&[1, 2, 3][..], true));
    let entry = metadata::entry(&state).expect("an entry");
    assert_eq!((entry.duration_ms, entry.end_reason.as_deref()), (10, Some("requested")));
}

#[test]
fn every_cut_leaves_the_lines_before() {
    let lines = lines();
    let encoded: Vec<Vec<u8>> = lines.iter().map(Line::encode).collect();
    let bytes = encoded.concat();
    let (mut whole, mut end) = (0, 0);
    for cut in 0..=bytes.len() {
        if encoded.get(whole).is_some_and(|line| end + line.len() <= cut) {
            end += encoded[whole].len();
            whole += 1;
        }
        let mut expected = state(&lines[..whole]);
        expected.unknown = u64::from(cut > end);
        assert_eq!(read(&bytes[..cut]), expected, "cut at {cut}");
    }
}

#[test]
fn what_makes_no_sense_is_passed_over() {
    let lines = lines();
    let zeros = vec![0; 5000];
    let long = vec![b'x'; LINE_MAX as usize + 10];
    let later = br#"{"type":"later","x":{"y":1}}"#;
    let wrong = br#"{"type":"gap","atMs":"soon"}"#;
    for (odd, count) in [(&zeros[..], 1), (&long, 2), (later, 1), (wrong, 1), (b"", 0), (b"null", 1), (b"[[[[", 1)] {
        let bytes = [&lines[0].encode()[..], odd, b"\n", &lines[3].encode()].concat();
        let mut expected = state(&[lines[0].clone(), lines[3].clone()]);
        expected.unknown = count;
        assert_eq!(read(&bytes), expected);
    }
    // A file is never one outside of the directory.
    let state = state(&[Line::Renamed(Renamed { file: "../../other".into() })]);
    assert_eq!(state.file, None);
}

/// Where the sums and differences of what it says would have no room.
#[test]
fn an_extent_that_no_track_has_is_passed_over() {
    let sane = Extent { track: 1, start_ms: 2, end_ms: 9, blocks: 3, octets: 1000, keyframes: 1 };
    let rows = [
        (sane, 1),
        (Extent { start_ms: 9, ..sane }, 1),
        (Extent { start_ms: 10, ..sane }, 0),
        (Extent { end_ms: u64::MAX, ..sane }, 0),
        (Extent { blocks: u64::MAX, ..sane }, 0),
        (Extent { octets: u64::MAX, ..sane }, 0),
        (Extent { keyframes: u64::MAX, ..sane }, 0),
    ];
    for (extent, kept) in rows {
        let state = state(&[Line::Extent(extent)]);
        assert_eq!((state.extents.len(), state.unknown), (kept, 1 - kept as u64), "{extent:?}");
    }
}

#[test]
fn files_whose_sizes_have_no_sum() {
    let mut entry = metadata::entry(&state(&lines())).expect("an entry");
    for name in ["a.webm", "b.webm"] {
        entry.files.push(metadata::file(name, FileKind::Participant, u64::MAX, "ab".into()));
    }
    let metadata = metadata::Metadata::of(&entry, false);
    assert_eq!(metadata.to_entry(5, "cd".into()).map(|entry| entry.size), Some(u64::MAX));
}

#[test]
fn a_flood_takes_no_memory() {
    let gap = Line::Gap(Gap { at_ms: 5, source: 7, duration_ms: 40, packets: 3 });
    let state = state(&vec![gap; LIST_MAX + 10]);
    assert_eq!(state.gaps.len(), LIST_MAX);
}
