//! The module as a whole: what is written is read, from files that are finished, growing, cut anywhere, damaged, repaired.

use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::time::{Duration, SystemTime};

use super::ebml::{self, Fault};
use super::reader::Limits;
use super::repair::{self, Known};
use super::*;

type Memory = Cursor<Vec<u8>>;

/// A block and its payload, as it went in or came out.
type Written = (Block, Vec<u8>);

/// All that a reader gives.
#[derive(Debug, Default, PartialEq)]
struct Content {
    doc_type: String,
    info: Option<Info>,
    tracks: Vec<Track>,
    tags: Vec<Tag>,
    chapters: Vec<Chapter>,
    cues: Vec<Cue>,
    clusters: Vec<u64>,
    blocks: Vec<Written>,
    /// Where each block's element ends.
    ends: Vec<u64>,
    damages: Vec<reader::Damage>,
    segment_data: u64,
}

fn read(bytes: &[u8]) -> Content {
    let mut reader = Reader::new(Cursor::new(bytes), Limits::default()).expect("a file");
    let mut content =
        Content { doc_type: reader.doc_type().into(), segment_data: reader.segment_data(), ..Content::default() };
    while let Some(event) = reader.next_event().expect("memory can be read") {
        match event {
            Event::Info(info) => content.info = Some(info),
            Event::Tracks(tracks) => content.tracks.extend(tracks),
            Event::Tags(tags) => content.tags.extend(tags),
            Event::Chapters(chapters) => content.chapters.extend(chapters),
            Event::Cues(cues) => content.cues.extend(cues),
            Event::Cluster(cluster) => content.clusters.push(cluster.position),
            Event::Block(found) => {
                let mut payload = Vec::new();
                reader.read_payload(&found, &mut payload).expect("memory can be read");
                content.ends.push(found.element.end);
                content.blocks.push((found.block, payload));
            }
            Event::Damage(damage) => content.damages.push(damage),
        }
    }
    content
}

fn config() -> Config {
    let info = Info { muxing_app: "muxer".into(), writing_app: "writer".into(), ..Info::default() };
    Config { head_size: 4096, info, ..Config::default() }
}

fn vp8(number: u32) -> Track {
    Track { name: format!("Track {number}"), ..Track::video(number, 1000 + u64::from(number), Codec::Vp8, 640, 360) }
}

fn opus(number: u32) -> Track {
    let track = Track::opus(number, 2000 + u64::from(number), &opus::Head::relayed());
    Track { default_duration_ns: Some(20_000_000), ..track }
}

const MS: u64 = 1_000_000;

/// Two people for a few seconds; every payload says what it is.
fn small_file(payload_size: usize) -> (Writer<Memory>, Vec<Written>) {
    let mut writer = Writer::new(Config { cluster_ns: 400 * MS, ..config() }, [vp8(1), opus(2)], Memory::default())
        .expect("a writer");
    let mut blocks = Vec::new();
    for step in 0..30u64 {
        let is_video = step % 3 == 0;
        let (track, is_keyframe) = if is_video { (1, step % 12 == 0) } else { (2, true) };
        let mut block = Block::new(track, step * 40 * MS, is_keyframe);
        if step % 7 == 3 {
            block.duration_ns = Some(40 * MS);
        }
        let payload = vec![step as u8; payload_size + step as usize];
        writer.write_block(&block, [&payload[..]]).expect("memory takes it");
        blocks.push((block, payload));
    }
    (writer, blocks)
}

fn finished(mut writer: Writer<Memory>) -> Vec<u8> {
    writer.finish().expect("memory takes it");
    writer.into_inner().into_inner()
}

#[test]
fn the_octets_of_a_small_file() {
    let mut muxer = Muxer::new(config()).expect("a muxer");
    muxer.add_track(vp8(1)).expect("a track");
    let head = muxer.head();
    assert_eq!(head.len(), 4096);
    // RFC 8794 §11.2: header, versions, lengths, type; RFC 9559 §5.1: a Segment of unknown size.
    let begin = [
        &[0x1a, 0x45, 0xdf, 0xa3, 0xa3][..],
        &[0x42, 0x86, 0x81, 1, 0x42, 0xf7, 0x81, 1, 0x42, 0xf2, 0x81, 4, 0x42, 0xf3, 0x81, 8],
        &[0x42, 0x82, 0x84, b'w', b'e', b'b', b'm', 0x42, 0x87, 0x85, 0, 0, 0, 0, 4, 0x42, 0x85, 0x81, 2],
        &[0x18, 0x53, 0x80, 0x67, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x11, 0x4d, 0x9b, 0x74, 0xe9],
    ]
    .concat();
    assert_eq!(head[..begin.len()], begin);

    // A Cluster of unknown size at 1 s, then a SimpleBlock: track 1, at its beginning, key frame.
    let key = muxer.frame(&Block::new(1, 1000 * MS, true), 5).expect("a frame");
    let cluster = [0x1f, 0x43, 0xb6, 0x75, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe7, 0x82, 0x03, 0xe8];
    assert_eq!(*key.prefix(), [&cluster[..], &[0xa3, 0x89, 0x81, 0, 0, 0x80]].concat());
    assert_eq!((key.suffix(), key.patch(), key.position()), (&[][..], None, 4096));
    muxer.commit(&key);
    // One that is older than the Cluster, and no key frame; rounded to the nearest millisecond.
    let older = muxer.frame(&Block::new(1, 998_400_000, false), 200).expect("a frame");
    assert_eq!(*older.prefix(), [0xa3, 0x40, 0xcc, 0x81, 0xff, 0xfe, 0x00]);
    muxer.commit(&older);
    // A BlockGroup: size, block, then duration 40, reference -40 (+2), padding of 1 ms.
    let block = Block { duration_ns: Some(40 * MS), discard_padding_ns: 1_000_000, ..Block::new(1, 1038 * MS, false) };
    let group = muxer.frame(&block, 1).expect("a frame");
    assert_eq!(*group.prefix(), [0xa0, 0x93, 0xa1, 0x85, 0x81, 0, 38, 0x00]);
    assert_eq!(*group.suffix(), [0x9b, 0x81, 40, 0xfb, 0x81, 0xd8, 0x75, 0xa2, 0x83, 0x0f, 0x42, 0x40]);
    muxer.commit(&group);
    // A second later the Cluster is over: 4 + 6 + 5, 7 + 200, 8 + 1 + 12 octets.
    let next = muxer.frame(&Block::new(1, 2000 * MS, false), 1).expect("a frame");
    let patch = next.patch().expect("a size");
    assert_eq!((patch.position, patch.bytes), (4100, &[1, 0, 0, 0, 0, 0, 0, 15 + 207 + 21][..]));
    assert_eq!(muxer.duration_ns(), 1078 * MS);
}

#[test]
fn a_head_says_everything_about_tracks() {
    let mut tracks = vec![
        Track { language: "deu".into(), is_default: false, ..vp8(1) },
        opus(2),
        Track { language: "pt-BR".into(), default_duration_ns: Some(33_333_333), ..vp8(300) },
        Track {
            private: avc::private([&[0x67, 0x42, 0xc0, 0x1f][..], &[0x68, 0xce]]).expect("a record"),
            name: "Jürgen 🎥".into(),
            ..Track::video(4, u64::MAX, Codec::H264, 1920, 1080)
        },
        Track::opus(5, 5, &opus::Head { channels: 1, pre_skip: 312, sample_rate: 16_000, output_gain: 5 }),
        Track {
            media: Media::Video(Video { width: 3840, height: 2160, display: Some((16, 9)) }),
            ..Track::video(6, 6, Codec::Av1, 0, 0)
        },
        Track { media: Media::Other(17), codec: Codec::Other("S_TEXT/WEBVTT".into()), ..vp8(7) },
    ];
    let date = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789);
    let info = Info { title: "A call".into(), date: Some(date), ..config().info };
    let config = Config { info: info.clone(), ..config() };
    let mut writer = Writer::new(config, tracks.clone(), Memory::default()).expect("a writer");
    let live = read(writer.get_ref().get_ref());
    assert_eq!((&live.tracks, &live.doc_type[..]), (&tracks, "matroska"));
    assert_eq!(live.info, Some(info.clone()));

    let tags = vec![
        Tag { track_uid: None, values: vec![("TITLE".into(), "A call".into())] },
        Tag { track_uid: Some(2002), values: vec![("ARTIST".into(), "ann".into()), ("ROLE".into(), "".into())] },
    ];
    let chapters = vec![
        Chapter { uid: 1, start_ns: 0, end_ns: None, title: "ann joins".into() },
        Chapter { uid: 2, start_ns: 1_500_000_001, end_ns: Some(7_000_000_000), title: "bob shows a screen".into() },
    ];
    writer.muxer_mut().set_tags(tags.clone());
    writer.muxer_mut().set_chapters(chapters.clone());
    tracks[0].name = "renamed".into();
    writer.muxer_mut().replace_track(tracks[0].clone()).expect("a track");
    assert!(writer.muxer_mut().note_size(1, 320, 480) && !writer.muxer_mut().note_size(1, 640, 480));
    tracks[0].media = Media::Video(Video { width: 640, height: 480, display: None });
    let before = Block::new(2, 7_000 * MS, true);
    writer.write_block(&before, [&b"abc"[..]]).expect("memory takes it");
    let content = read(&finished(writer));
    let info = Info { duration_ns: Some(7_020 * MS), ..info };
    assert_eq!((content.tracks, content.tags, content.chapters), (tracks, tags, chapters));
    assert_eq!((content.info, content.blocks), (Some(info), vec![(before, b"abc".to_vec())]));
}

#[test]
fn a_file_of_browsers_codecs_is_webm() {
    let mut muxer = Muxer::new(config()).expect("a muxer");
    for (number, codec) in [(1, Codec::Vp8), (2, Codec::Vp9), (3, Codec::Av1)] {
        muxer.add_track(Track { codec, ..vp8(number) }).expect("a track");
    }
    muxer.add_track(opus(4)).expect("a track");
    let webm = muxer.head();
    assert_eq!((muxer.doc_type(), &read(&webm).doc_type[..]), ("webm", "webm"));
    muxer.add_track(Track { codec: Codec::H264, ..vp8(5) }).expect("a track");
    let matroska = muxer.head();
    assert_eq!((muxer.doc_type(), &read(&matroska).doc_type[..]), ("matroska", "matroska"));
    assert_eq!(read(&webm).segment_data, read(&matroska).segment_data, "nothing moves");
}

/// Whatever the head holds, it is exactly as long as it was said, and nothing is lost.
#[test]
fn heads_of_every_length() {
    let title = |length: usize| "t".repeat(length);
    for length in 0..700 {
        let mut muxer = Muxer::new(Config { head_size: 1024, ..config() }).expect("a muxer");
        muxer.add_track(vp8(1)).expect("a track");
        let tag = Tag { track_uid: None, values: vec![("T".into(), title(length))] };
        muxer.set_tags(vec![tag.clone()]);
        let frame = muxer.frame(&Block::new(1, 0, true), 0).expect("a frame");
        let mut file = muxer.head();
        assert_eq!(file.len(), 1024, "with a title of {length}");
        assert!(read(&file).damages.is_empty());
        file.extend_from_slice(frame.prefix());
        muxer.commit(&frame);
        let finish = muxer.finish();
        assert_eq!(finish.head.len(), 1024, "with a title of {length}");
        file.extend_from_slice(&finish.tail);
        file[..1024].copy_from_slice(&finish.head);
        let content = read(&file);
        assert_eq!((content.tags, content.damages, content.cues.len()), (vec![tag], vec![], 1));
        assert_eq!(file.len() as u64, finish.length);
    }
    assert!(matches!(Muxer::new(Config { head_size: 511, ..config() }), Err(Error::Config)));
    let long = Info { title: title(500), ..Info::default() };
    assert!(matches!(Muxer::new(Config { head_size: 512, info: long, ..config() }), Err(Error::Config)));
}

#[test]
fn tracks_that_do_not_fit_go_to_the_end() {
    let config = Config { head_size: 1024, ..config() };
    let mut writer = Writer::new(config, [], Memory::default()).expect("a writer");
    let tracks: Vec<Track> = (1..=40).map(vp8).collect();
    for (step, track) in tracks.iter().enumerate() {
        writer.add_track(track.clone()).expect("memory takes it");
        writer.write_block(&Block::new(track.number, step as u64 * 100 * MS, true), [&[1, 2, 3][..]]).expect("room");
    }
    assert!(writer.muxer().is_head_full());
    let live = read(writer.get_ref().get_ref());
    assert!(live.tracks.len() > 3 && live.tracks[..] == tracks[..live.tracks.len()], "as many as fit");
    let cut = writer.get_ref().clone().into_inner();
    let content = read(&finished(writer));
    assert_eq!((content.tracks, content.blocks.len(), content.cues.len()), (tracks.clone(), 40, 40));

    // Cut before they were written, somebody else has to know them.
    let mut file = Cursor::new(cut);
    let scan = repair::repair(&mut file, Known { tracks: tracks.clone(), ..Known::default() }).expect("blocks");
    assert_eq!(scan.blocks, 40);
    let content = read(file.get_ref());
    assert_eq!((content.tracks, content.blocks.len(), content.cues.len()), (tracks, 40, 40));
}

#[test]
fn cues_may_be_in_the_head() {
    for cues_in_head in [false, true] {
        let config = Config { cues_in_head, ..config() };
        let mut writer = Writer::new(config, [vp8(1)], Memory::default()).expect("a writer");
        for step in 0..20 {
            writer.write_block(&Block::new(1, step * 700 * MS, true), [&[0; 50][..]]).expect("memory takes it");
        }
        let blocks_end = writer.muxer().position();
        let file = finished(writer);
        assert_eq!(read(&file).cues.len(), 20);
        assert_eq!(file.len() as u64 == blocks_end, cues_in_head, "nothing follows the blocks");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let mut muxer = Muxer::new(config()).expect("a muxer");
    muxer.add_track(vp8(1)).expect("a track");
    let refused = |result: Result<(), Error>| result.expect_err("refused");
    assert!(matches!(refused(muxer.add_track(vp8(1))), Error::TrackNumber(1)));
    for number in [0, track::NUMBER_MAX + 1, u32::MAX] {
        assert!(matches!(refused(muxer.add_track(Track { number, uid: 5, ..vp8(9) })), Error::TrackNumber(_)));
    }
    for uid in [0, 1001] {
        assert!(matches!(refused(muxer.add_track(Track { uid, ..vp8(2) })), Error::TrackField(2)));
    }
    let nan = Media::Audio(Audio { sampling_frequency: f64::NAN, channels: 1 });
    assert!(matches!(refused(muxer.add_track(Track { media: nan, ..vp8(2) })), Error::TrackField(2)));
    assert!(matches!(refused(muxer.add_track(Track { private: vec![0; 20_000], ..vp8(2) })), Error::TooLarge));
    assert!(matches!(refused(muxer.replace_track(vp8(2))), Error::TrackNumber(2)));
    assert!(matches!(muxer.frame(&Block::new(2, 0, true), 1), Err(Error::TrackNumber(2))));
    assert!(matches!(muxer.frame(&Block::new(1, 0, true), muxer::PAYLOAD_MAX + 1), Err(Error::TooLarge)));
    assert!(matches!(muxer.frame(&Block::new(1, u64::MAX, true), 1), Err(Error::Timestamp)));
    let endless = Block { duration_ns: Some(u64::MAX), ..Block::new(1, 1, true) };
    assert!(matches!(muxer.frame(&endless, 1), Err(Error::Timestamp)));
    for scale in [0, u64::MAX] {
        let info = Info { timestamp_scale_ns: scale, ..Info::default() };
        assert!(matches!(Muxer::new(Config { info, ..config() }), Err(Error::Config)));
    }
}

/// Random tracks, random blocks in random order and pieces: what comes out is what went in, while the file grows, when it
/// is finished, and when it is repaired instead.
#[test]
fn what_is_written_is_read() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let scale = [1_000_000, 1_000_000, 1, 20_833, 1_000_000_000][random.usize(..5)];
        let info = Info { timestamp_scale_ns: scale, ..config().info };
        let config = Config {
            head_size: random.u32(512..4096),
            info,
            cluster_ns: random.u64(1..3_000_000_000),
            cluster_size: random.u64(1..20_000),
            cues_in_head: random.bool(),
            cluster_sizes: random.bool(),
        };
        let mut tracks = Vec::new();
        let mut numbers: Vec<u32> = (1..200).chain(16_000..=track::NUMBER_MAX).collect();
        random.shuffle(&mut numbers);
        for number in numbers.into_iter().take(random.usize(1..8)) {
            let name: String = (0..random.usize(0..20)).map(|_| random.char('a'..'\u{2000}')).collect();
            tracks.push(if random.bool() { Track { name, ..vp8(number) } } else { Track { name, ..opus(number) } });
        }
        let late = tracks.split_off(random.usize(..=tracks.len()));
        let mut late_at: Vec<usize> = late.iter().map(|_| random.usize(..100)).collect();
        late_at.sort_unstable();
        let mut late: Vec<(usize, Track)> = late_at.into_iter().zip(late).collect();

        let has_late = !late.is_empty();
        let mut writer = Writer::new(config, tracks.clone(), Memory::default()).expect("a writer");
        let mut blocks: Vec<Written> = Vec::new();
        let mut now = 0u64;
        for step in 0..random.usize(1..150) {
            while let Some((_, track)) = late.first().filter(|(at, _)| *at <= step).cloned() {
                late.remove(0);
                writer.add_track(track.clone()).expect("memory takes it");
                tracks.push(track);
            }
            if random.u8(..10) == 0 {
                let position = writer.muxer().position() + random.u64(2..300);
                writer.fill_to(position).expect("room");
            }
            let Some(track) = random.choice(&tracks) else { continue };
            now = match random.u8(..30) {
                0 => now + random.u64(..100_000) * MS,
                1 => now.saturating_sub(random.u64(..100_000) * MS),
                _ => now + random.u64(..40_000_000),
            };
            let is_video = matches!(track.media, Media::Video(_));
            let ticks_ns = |ns: u64| (ns + scale / 2) / scale * scale;
            let timestamp_ns = ticks_ns(now.saturating_sub(random.u64(..500) * MS));
            let block = Block {
                duration_ns: (random.u8(..8) == 0).then(|| ticks_ns(random.u64(..100_000_000))),
                discard_padding_ns: if random.u8(..8) == 0 { random.i64(-50_000_000..50_000_000) } else { 0 },
                ..Block::new(track.number, timestamp_ns, !is_video || random.u8(..6) == 0)
            };
            let payload: Vec<u8> = (0..random.usize(..2000)).map(|_| random.u8(..)).collect();
            let size = random.usize(1..900);
            writer.write_block(&block, payload.chunks(size)).expect("memory takes it");
            blocks.push((block, payload));
        }
        let live = writer.get_ref().get_ref().clone();
        let content = read(&live);
        assert!(content.blocks == blocks && content.damages.is_empty(), "seed {seed}, growing");
        assert!(content.tracks.iter().all(|track| tracks.contains(track)));

        let end_ns = writer.muxer().duration_ns();
        let file = finished(writer);
        let content = read(&file);
        assert!(content.blocks == blocks && content.damages.is_empty(), "seed {seed}, finished");
        assert_eq!(content.tracks, tracks, "seed {seed}");
        // A duration is a number with a fraction: exact to a tick.
        let duration = content.info.as_ref().and_then(|info| info.duration_ns).expect("a duration");
        assert!(duration.abs_diff(end_ns) <= 1 + end_ns / (1 << 50), "seed {seed}");
        check_cues(&file, &content);

        if !blocks.is_empty() {
            let mut repaired = Cursor::new(live);
            let known = Known { tracks: tracks.clone(), ..Known::default() };
            let scan = repair::repair(&mut repaired, known).expect("it has blocks");
            let again = read(repaired.get_ref());
            assert!(again.blocks == blocks && again.damages.is_empty(), "seed {seed}, repaired");
            assert_eq!((scan.blocks, scan.duration_ns()), (blocks.len() as u64, end_ns), "seed {seed}");
            // Repair knows from the beginning that there will be video.
            assert!(again.cues == content.cues || has_late, "seed {seed}");
            check_cues(repaired.get_ref(), &again);
        }
    }
}

/// Every cue leads to a block of its track and time that can be decoded by itself, and every video key frame has one.
fn check_cues(file: &[u8], content: &Content) {
    assert!(content.cues.is_sorted());
    let scale = content.info.as_ref().expect("info").timestamp_scale_ns;
    for cue in &content.cues {
        let mut reader = Reader::new(Cursor::new(file), Limits::default()).expect("a file");
        while !matches!(reader.next_event(), Ok(Some(Event::Info(_)))) {}
        let position = reader.segment_data() + cue.cluster;
        reader.seek_to_cluster(position);
        let Ok(Some(Event::Cluster(cluster))) = reader.next_event() else { panic!("no Cluster at {position}") };
        assert_eq!(cluster.position, position);
        let element = cluster.data() + u64::from(cue.block.expect("ours say where"));
        let found = loop {
            match reader.next_event() {
                Ok(Some(Event::Block(found))) if found.element.start == element => break found,
                Ok(Some(Event::Block(_))) => {}
                other => panic!("{other:?} where a block should be"),
            }
        };
        assert_eq!((found.block.track, found.block.timestamp_ns), (cue.track, cue.ticks * scale));
        assert!(found.block.is_keyframe);
    }
    let is_video = |number: u32| {
        content.tracks.iter().any(|track| track.number == number && matches!(track.media, Media::Video(_)))
    };
    let keys = content.blocks.iter().filter(|(block, _)| block.is_keyframe && is_video(block.track)).count();
    assert_eq!(content.cues.iter().filter(|cue| is_video(cue.track)).count(), keys);
}

/// Wherever a file ends, every block that is whole is read, and repair keeps it and completes the file.
/// Octet for octet, whatever is written at once; and of what cannot be written nothing is in the way of the rest.
#[test]
fn several_blocks_at_once_are_as_one_after_the_other() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..50 {
        let blocks: Vec<Written> = (0..120)
            .map(|step| {
                let track = random.u32(1..=3);
                let at_ns = step * 37 * MS + random.u64(0..40) * MS;
                let mut block = Block::new(if track == 3 && round % 2 == 1 { 9 } else { track }, at_ns, random.bool());
                block.duration_ns = (random.u8(..) < 40).then_some(15 * MS);
                (block, (0..random.usize(0..400)).map(|_| random.u8(..)).collect())
            })
            .collect();
        let writer = || {
            let config = Config { cluster_ns: 300 * MS, cluster_size: 6_000, ..config() };
            Writer::new(config, [vp8(1), opus(2), vp8(3)], Memory::default()).expect("a writer")
        };
        let mut one = writer();
        let mut refused = Vec::new();
        for (place, (block, payload)) in blocks.iter().enumerate() {
            if one.write_block(block, [payload.as_slice()]).is_err() {
                refused.push(place);
            }
        }
        let mut several = writer();
        let (mut at, mut refused_too) = (0, Vec::new());
        while at < blocks.len() {
            let count = random.usize(1..40).min(blocks.len() - at);
            let some = blocks[at..at + count].iter().map(|(block, payload)| (*block, payload.chunks(100)));
            several.write_blocks(some, |place, _| refused_too.push(at + place)).expect("memory");
            at += count;
        }
        assert_eq!(refused, refused_too, "round {round}");
        assert_eq!(refused.is_empty(), round % 2 == 0);
        assert!(finished(one) == finished(several), "round {round}");
    }
}

#[test]
fn a_file_that_was_cut_anywhere() {
    let (writer, blocks) = small_file(40);
    let growing = writer.get_ref().get_ref().clone();
    let unsized_clusters = {
        let config = Config { cluster_ns: 400 * MS, cluster_sizes: false, ..config() };
        let mut writer = Writer::new(config, [vp8(1), opus(2)], Memory::default()).expect("a writer");
        for (block, payload) in &blocks {
            writer.write_block(block, [&payload[..]]).expect("memory takes it");
        }
        writer.into_inner().into_inner()
    };
    for file in [growing, unsized_clusters, finished(writer)] {
        let whole = read(&file);
        assert_eq!(whole.blocks, blocks);
        for cut in 0..=file.len() {
            let kept = whole.ends.iter().filter(|end| **end <= cut as u64).count();
            let part = &file[..cut];
            if cut < 52 {
                assert!(matches!(Reader::new(Cursor::new(part), Limits::default()), Err(Error::NotMatroska)));
                continue;
            }
            let content = read(part);
            assert!(content.blocks == blocks[..kept], "cut at {cut}");
            let mut repaired = Cursor::new(part.to_vec());
            match repair::repair(&mut repaired, Known::default()) {
                Ok(scan) => {
                    assert_eq!(scan.blocks, kept as u64, "cut at {cut}");
                    check_repaired(repaired.get_ref(), &blocks[..kept], cut);
                }
                Err(Error::NoBlocks) => assert_eq!(kept, 0, "cut at {cut}"),
                Err(error) => panic!("cut at {cut}: {error}"),
            }
            // Behind the blocks there may be zeros or old octets, as a disk leaves them after a power cut. They may look like
            // the rest of the last block.
            for tail in [[0; 700], [0xa5; 700]].into_iter().filter(|_| cut % 5 == 0 && kept > 0) {
                let mut repaired = Cursor::new([part, &tail].concat());
                let scan = repair::repair(&mut repaired, Known::default()).expect("it has blocks");
                assert!([0, 1].contains(&(scan.blocks - kept as u64)), "cut at {cut}");
                let content = read(repaired.get_ref());
                assert!(content.blocks[..kept] == blocks[..kept] && content.damages.is_empty(), "cut at {cut}");
            }
        }
    }
}

fn check_repaired(file: &[u8], blocks: &[Written], at: usize) {
    let content = read(file);
    assert!(content.blocks == blocks && content.damages.is_empty(), "at {at}");
    for head_size in [None, Some(4096)] {
        let known = Known { head_size, ..Known::default() };
        let again = repair::scan(Cursor::new(file), known, |_| {}).expect("it has blocks");
        assert!(again.is_finished, "at {at}");
    }
    if !content.tracks.is_empty() {
        assert_eq!(content.tracks.len(), 2);
        check_cues(file, &content);
    }
    let ends = blocks.iter().map(|(block, _)| {
        let default = if block.track == 2 && !content.tracks.is_empty() { 20 * MS } else { 0 };
        block.timestamp_ns + block.duration_ns.unwrap_or(default)
    });
    assert_eq!(content.info.and_then(|info| info.duration_ns), ends.max(), "at {at}");
}

/// Octets in the middle that went wrong: what stands in the same Cluster behind them is lost, and nothing else.
#[test]
fn a_file_that_was_damaged_anywhere() {
    let (mut writer, blocks) = small_file(60);
    let growing = writer.get_ref().get_ref().clone();
    writer.finish().expect("memory takes it");
    for file in [growing, writer.into_inner().into_inner()] {
        let whole = read(&file);
        let mut random = fastrand::Rng::with_seed(9);
        let blocks_end = *whole.ends.last().expect("blocks") as usize;
        for at in (whole.segment_data as usize..blocks_end).step_by(3) {
            let mut damaged = file.clone();
            let size = random.usize(8..200).min(damaged.len() - at);
            let fill: u8 = if random.bool() { 0 } else { random.u8(..) };
            let garbage = random.bool();
            damaged[at..at + size].fill_with(|| if garbage { random.u8(..) } else { fill });
            let mut file = Cursor::new(damaged);
            // The head is somebody else's knowledge as well.
            let known = Known {
                info: whole.info.clone(),
                tracks: whole.tracks.clone(),
                head_size: Some(4096),
                ..Known::default()
            };
            match repair::repair(&mut file, known) {
                Ok(scan) => {
                    let content = read(file.get_ref());
                    assert_eq!(content.damages, [], "at {at}");
                    assert_eq!(content.blocks.len() as u64, scan.blocks);
                    assert_eq!(content.tracks, whole.tracks);
                    // In front of the damage, and from the second Cluster behind it on, at the latest.
                    let is_before = whole.ends.iter().filter(|end| **end <= at as u64).count();
                    assert!(content.blocks[..is_before] == blocks[..is_before], "at {at}");
                    let behind = whole.clusters.iter().find(|cluster| **cluster >= (at + size) as u64);
                    let is_behind = behind.map_or(0, |cluster| whole.ends.iter().filter(|end| *end > cluster).count());
                    let rest = &content.blocks[content.blocks.len() - is_behind.min(content.blocks.len())..];
                    assert!(rest == &blocks[blocks.len() - is_behind..], "at {at}");
                    let again = repair::scan(Cursor::new(file.get_ref()), Known::default(), |_| {}).expect("blocks");
                    assert!(again.is_finished, "at {at}");
                }
                Err(error) => panic!("at {at}: {error}"),
            }
        }
    }
}

/// Repair that is stopped anywhere can be done again.
#[test]
fn a_repair_that_was_cut_as_well() {
    let (writer, blocks) = small_file(40);
    let mut file = writer.into_inner().into_inner();
    file.truncate(file.len() - 7);
    let plan = repair::scan(Cursor::new(&file), Known::default(), |_| {}).expect("blocks").plan();
    let mut steps: Vec<(u64, Vec<u8>)> = vec![(plan.keep, plan.tail.clone())];
    steps.extend(plan.patches.iter().cloned());
    let total: usize = steps.iter().map(|(_, bytes)| bytes.len()).sum();
    for stop in (0..=total).step_by(11) {
        let mut file = file.clone();
        file.truncate(plan.keep as usize);
        let mut left = stop;
        for (position, bytes) in &steps {
            let part = &bytes[..left.min(bytes.len())];
            let end = *position as usize + part.len();
            file.resize(file.len().max(end), 0);
            file[*position as usize..end].copy_from_slice(part);
            left -= part.len();
        }
        let mut file = Cursor::new(file);
        repair::repair(&mut file, Known::default()).expect("blocks");
        check_repaired(file.get_ref(), &blocks[..blocks.len() - 1], stop);
    }
}

/// Fails once so many octets were written, then works again; takes few octets at a time.
struct Flaky {
    memory: Memory,
    octets_left: usize,
}

impl Write for Flaky {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.octets_left == 0 {
            self.octets_left = usize::MAX;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let size = bytes.len().min(self.octets_left).min(13);
        self.octets_left -= size;
        self.memory.write(&bytes[..size])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Flaky {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.memory.seek(to)
    }
}

/// A block that could not be written leaves no trace, and the file is finished without it.
#[test]
fn a_disk_that_is_full_for_a_moment() {
    let (writer, all) = small_file(40);
    let size = writer.get_ref().get_ref().len();
    for octets_left in (4096..size + 400).step_by(7) {
        let flaky = Flaky { memory: Memory::default(), octets_left };
        let mut writer = Writer::new(config(), [vp8(1), opus(2)], flaky).expect("the head fits");
        let mut expect = Vec::new();
        for (block, payload) in &all {
            match writer.write_block(block, payload.chunks(9)) {
                Ok(()) => expect.push((*block, payload.clone())),
                Err(Error::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
                Err(error) => panic!("{error}"),
            }
        }
        let length = writer.finish().or_else(|_| writer.finish()).expect("it works again");
        let mut file = writer.into_inner().memory.into_inner();
        file.truncate(length as usize);
        let content = read(&file);
        assert_eq!((content.blocks, content.damages), (expect, vec![]), "full after {octets_left}");
        assert!(repair::scan(Cursor::new(&file), Known::default(), |_| {}).expect("blocks").is_finished);
    }
}

/// What is not ours: elements nobody knows, long sizes, unknown sizes, Clusters that lie, a second file behind the first.
#[test]
fn files_of_others() {
    use ebml::Put;
    let block = [0x81, 0, 5, 0x80, 1, 2, 3];
    let header = |doc_type: &str| {
        let mut out = Vec::new();
        out.master(ids::EBML, |header| header.string(ids::DOC_TYPE, doc_type));
        out.binary(ids::VOID, &[9; 5]);
        out.id(ids::SEGMENT);
        out.put(&[0xff]); // unknown, in one octet
        out
    };
    let mut file = header("matroska");
    file.binary(0x1122_3344, &[1, 2, 3]);
    file.id(ids::CLUSTER);
    file.put(&[0x20, 0, 27]); // known, in three octets
    file.uint_of(ids::TIMESTAMP, 7, 8);
    file.binary(0x4abc, &[1, 2]);
    file.uint(ids::PREV_SIZE, 3);
    file.binary(ids::SIMPLE_BLOCK, &block);
    file.id(ids::CLUSTER);
    file.put(&[0xff]);
    file.binary(ids::CRC_32, &[1, 2, 3, 4]);
    file.uint(ids::TIMESTAMP, 100);
    file.master(ids::BLOCK_GROUP, |group| {
        group.uint(0x75a1, 3);
        group.int(ids::REFERENCE_BLOCK, -3);
        group.binary(ids::BLOCK, &[0x40, 0x01, 0xff, 0xff, 0x06, 9]);
    });
    // Longer than it is: the next one begins all the same.
    file.id(ids::CLUSTER);
    file.size(1000);
    file.uint(ids::TIMESTAMP, 3);
    file.binary(ids::SIMPLE_BLOCK, &block);
    file.id(ids::CLUSTER);
    file.put(&ebml::SIZE_UNKNOWN);
    file.uint(ids::TIMESTAMP, 0);
    file.binary(ids::SIMPLE_BLOCK, &[0x81, 0xff, 0x00, 0x80]);
    file.extend(header("webm"));
    let content = read(&file);
    let block = |track, ms: u64, is_keyframe| Block::new(track, ms * MS, is_keyframe);
    let expect = [
        (block(1, 12, true), vec![1, 2, 3]),
        (block(1, 99, false), vec![9]),
        (block(1, 8, true), vec![1, 2, 3]),
        (block(1, 0, true), vec![]),
    ];
    assert_eq!((&content.blocks[..], content.damages), (&expect[..], vec![]));

    for doc_type in ["webm2", "", "avi"] {
        assert!(matches!(Reader::new(Cursor::new(header(doc_type)), Limits::default()), Err(Error::NotMatroska)));
    }
    for bytes in [&b""[..], b"RIFF....", &[0x1a, 0x45, 0xdf, 0xa3, 0xff], &[0; 100]] {
        assert!(matches!(Reader::new(Cursor::new(bytes), Limits::default()), Err(Error::NotMatroska)));
    }
}

#[test]
fn damage_says_where_and_what() {
    let (writer, _) = small_file(40);
    let file = writer.into_inner().into_inner();
    let whole = read(&file);
    let cut = &file[..file.len() - 1];
    let range = whole.ends[whole.ends.len() - 2]..cut.len() as u64;
    assert_eq!(read(cut).damages, [reader::Damage { range, fault: Fault::Cut }]);
    let mut zeros = file.clone();
    let (from, to) = (whole.ends[2], whole.clusters[1]);
    zeros[from as usize..to as usize].fill(0);
    assert_eq!(read(&zeros).damages, [reader::Damage { range: from..to, fault: Fault::Invalid }]);
}

/// Limits are kept without reading what is beyond them.
#[test]
fn what_is_too_large_is_passed_over() {
    let (writer, blocks) = small_file(40);
    let file = finished(writer);
    let limits = Limits { element: 100, block: 60, tracks: 1, values: 1, cues: 1 };
    let mut reader = Reader::new(Cursor::new(&file), limits).expect("a file");
    let mut damages = 0;
    let mut found = 0;
    while let Some(event) = reader.next_event().expect("memory can be read") {
        match event {
            Event::Tracks(_) | Event::Cues(_) => panic!("larger than allowed"),
            Event::Block(_) => found += 1,
            Event::Damage(_) => damages += 1,
            _ => {}
        }
    }
    assert!(damages > 0 && found > 0 && found < blocks.len());
}

/// Arbitrary changes to a file: nothing panics, nothing is endless, and a repair leads to a file without damage.
#[test]
fn arbitrary_files_are_survived() {
    let (mut writer, _) = small_file(20);
    writer.finish().expect("memory takes it");
    let file = writer.into_inner().into_inner();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..3000 {
        let mut bytes = file.clone();
        // The Void of the head is of no interest.
        let interesting: Vec<usize> = (0..400).chain(4090..bytes.len()).collect();
        for _ in 0..random.usize(1..8) {
            let at = *random.choice(&interesting).expect("some");
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => bytes[at] = 0xff,
                _ => bytes.truncate(bytes.len().max(2) - 1),
            }
            bytes.resize(file.len(), 0);
        }
        check_survival(bytes);
    }
}

/// As the fuzz target does.
fn check_survival(bytes: Vec<u8>) {
    let mut file = Cursor::new(bytes);
    if repair::repair(&mut file, Known::default()).is_ok() {
        assert_eq!(read(file.get_ref()).damages, []);
    }
}
