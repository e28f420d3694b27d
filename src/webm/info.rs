//! What a file says about itself beside its tracks: Info, Tags, Chapters (RFC 9559 §5.1.2, §5.1.8, §5.1.7).

use std::time::{Duration, SystemTime};

use super::ebml::{self, Children, Fault, Put};
use super::ids;

/// Nanoseconds in a tick, unless a file says otherwise. What WebM asks for: a block's place in its Cluster is 16 bits, so a
/// finer scale would limit a Cluster to less than 32 s.
pub const TIMESTAMP_SCALE_NS: u64 = 1_000_000;

/// The Info element.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// Nanoseconds in a tick; not 0.
    pub timestamp_scale_ns: u64,
    /// To the end of the last block. `None`: not known (yet).
    pub duration_ns: Option<u64>,
    /// When timestamp 0 was, to be written as DateUTC. Between the years 1709 and 2292.
    pub date: Option<SystemTime>,
    /// Empty: none.
    pub title: String,
    /// The library and the program that wrote it.
    pub muxing_app: String,
    pub writing_app: String,
}

impl Default for Info {
    fn default() -> Self {
        Info {
            timestamp_scale_ns: TIMESTAMP_SCALE_NS,
            duration_ns: None,
            date: None,
            title: String::new(),
            muxing_app: String::new(),
            writing_app: String::new(),
        }
    }
}

impl Info {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.master(ids::INFO, |info| {
            info.uint(ids::TIMESTAMP_SCALE, self.timestamp_scale_ns);
            match self.duration_ns {
                Some(duration) => info.float(ids::DURATION, duration as f64 / self.timestamp_scale_ns as f64),
                // As long as that, so that nothing moves when it is known.
                None => info.binary(ids::VOID, &[0; 9]),
            }
            if let Some(date) = self.date.and_then(date_to_ns) {
                info.binary(ids::DATE_UTC, &date.to_be_bytes());
            }
            if !self.title.is_empty() {
                info.string(ids::TITLE, &self.title);
            }
            info.string(ids::MUXING_APP, &self.muxing_app);
            info.string(ids::WRITING_APP, &self.writing_app);
        });
    }

    /// What comes after a fault is left out.
    pub(super) fn parse(data: &[u8]) -> Result<Info, Fault> {
        let mut info = Info::default();
        let mut ticks = None;
        for (id, data) in Children::of(data).map_while(Result::ok) {
            match id {
                ids::TIMESTAMP_SCALE => info.timestamp_scale_ns = ebml::parse_uint(data)?,
                ids::DURATION => ticks = Some(ebml::parse_float(data)?),
                ids::DATE_UTC => info.date = date_from_ns(ebml::parse_int(data)?),
                ids::TITLE => info.title = ebml::parse_string(data),
                ids::MUXING_APP => info.muxing_app = ebml::parse_string(data),
                ids::WRITING_APP => info.writing_app = ebml::parse_string(data),
                _ => {}
            }
        }
        if info.timestamp_scale_ns == 0 {
            return Err(Fault::Invalid);
        }
        // As a cast does: below zero it is nothing, above all numbers it is the largest.
        info.duration_ns = ticks.map(|ticks| (ticks * info.timestamp_scale_ns as f64).round() as u64);
        Ok(info)
    }
}

/// Something said about the file or a track: (`TagName`, `TagString`) pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tag {
    /// `None`: the whole file. The format has several tracks for one tag, but FFmpeg sees the last of them only; such a tag is
    /// read as one for each.
    pub track_uid: Option<u64>,
    pub values: Vec<(String, String)>,
}

/// A place in time with a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chapter {
    /// Not 0, unlike any other of the file.
    pub uid: u64,
    pub start_ns: u64,
    pub end_ns: Option<u64>,
    pub title: String,
}

/// The whole element; nothing for none.
pub(super) fn encode_tags(tags: &[Tag], out: &mut Vec<u8>) {
    if tags.is_empty() {
        return;
    }
    out.master(ids::TAGS, |all| {
        for tag in tags {
            all.master(ids::TAG, |out| {
                out.master(ids::TARGETS, |targets| {
                    // 50 is a whole (a film, a call), 30 a part of it (a track).
                    targets.uint(ids::TARGET_TYPE_VALUE, if tag.track_uid.is_none() { 50 } else { 30 });
                    if let Some(uid) = tag.track_uid {
                        targets.uint(ids::TAG_TRACK_UID, uid);
                    }
                });
                for (name, value) in &tag.values {
                    out.master(ids::SIMPLE_TAG, |out| {
                        out.string(ids::TAG_NAME, name);
                        out.string(ids::TAG_LANGUAGE, "und");
                        out.string(ids::TAG_STRING, value);
                    });
                }
            });
        }
    });
}

/// At most `count_max` tags and values altogether; what comes after a fault is left out. Tags of chapters and attachments are
/// taken for tags of the file, tags inside tags are left out.
pub(super) fn parse_tags(data: &[u8], count_max: usize) -> Vec<Tag> {
    let mut left = count_max;
    let mut tags = Vec::new();
    for (_, data) in Children::of(data).map_while(Result::ok).filter(|(id, _)| *id == ids::TAG) {
        let (mut uids, mut values) = (Vec::new(), Vec::new());
        for (id, data) in Children::of(data).map_while(Result::ok) {
            let inner = Children::of(data).map_while(Result::ok);
            if id == ids::TARGETS {
                let targets = inner.filter(|(id, _)| *id == ids::TAG_TRACK_UID);
                // 0 means all tracks (RFC 9559 §5.1.8.1.1.3).
                let targets = targets.filter_map(|(_, data)| ebml::parse_uint(data).ok()).filter(|uid| *uid != 0);
                uids.extend(targets.take(count_max));
            } else if id == ids::SIMPLE_TAG && values.len() < left {
                let (mut name, mut value) = (String::new(), String::new());
                for (id, data) in inner {
                    match id {
                        ids::TAG_NAME => name = ebml::parse_string(data),
                        ids::TAG_STRING => value = ebml::parse_string(data),
                        _ => {}
                    }
                }
                values.push((name, value));
            }
        }
        let targets = if uids.is_empty() { vec![None] } else { uids.into_iter().map(Some).collect() };
        for track_uid in targets {
            let Some(after) = left.checked_sub(1 + values.len()) else { return tags };
            left = after;
            tags.push(Tag { track_uid, values: values.clone() });
        }
    }
    tags
}

/// The whole element; nothing for none.
pub(super) fn encode_chapters(chapters: &[Chapter], out: &mut Vec<u8>) {
    if chapters.is_empty() {
        return;
    }
    out.master(ids::CHAPTERS, |all| {
        all.master(ids::EDITION_ENTRY, |edition| {
            for chapter in chapters {
                edition.master(ids::CHAPTER_ATOM, |atom| {
                    atom.uint(ids::CHAPTER_UID, chapter.uid);
                    atom.uint(ids::CHAPTER_TIME_START, chapter.start_ns);
                    if let Some(end) = chapter.end_ns {
                        atom.uint(ids::CHAPTER_TIME_END, end);
                    }
                    atom.master(ids::CHAPTER_DISPLAY, |display| {
                        display.string(ids::CHAP_STRING, &chapter.title);
                        display.string(ids::CHAP_LANGUAGE, "und");
                    });
                });
            }
        });
    });
}

/// Of all editions, at most `count_max`; what comes after a fault is left out, and chapters inside chapters are.
pub(super) fn parse_chapters(data: &[u8], count_max: usize) -> Vec<Chapter> {
    let editions = Children::of(data).map_while(Result::ok).filter(|(id, _)| *id == ids::EDITION_ENTRY);
    let atoms = editions.flat_map(|(_, data)| Children::of(data).map_while(Result::ok));
    let atoms = atoms.filter(|(id, _)| *id == ids::CHAPTER_ATOM).take(count_max);
    atoms.filter_map(|(_, data)| parse_chapter(data).ok()).collect()
}

fn parse_chapter(data: &[u8]) -> Result<Chapter, Fault> {
    let mut chapter = Chapter::default();
    for child in Children::of(data) {
        match child? {
            (ids::CHAPTER_UID, data) => chapter.uid = ebml::parse_uint(data)?,
            (ids::CHAPTER_TIME_START, data) => chapter.start_ns = ebml::parse_uint(data)?,
            (ids::CHAPTER_TIME_END, data) => chapter.end_ns = Some(ebml::parse_uint(data)?),
            (ids::CHAPTER_DISPLAY, data) => {
                for child in Children::of(data) {
                    if let (ids::CHAP_STRING, data) = child? {
                        chapter.title = ebml::parse_string(data);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(chapter)
}

/// EBML counts from the beginning of 2001 (RFC 8794 §7.6), Unix from that of 1970.
const EPOCH: Duration = Duration::from_secs(978_307_200);

fn date_to_ns(date: SystemTime) -> Option<i64> {
    let epoch = SystemTime::UNIX_EPOCH + EPOCH;
    match date.duration_since(epoch) {
        Ok(after) => i64::try_from(after.as_nanos()).ok(),
        Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|ns| -ns),
    }
}

fn date_from_ns(ns: i64) -> Option<SystemTime> {
    let epoch = SystemTime::UNIX_EPOCH + EPOCH;
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
}
