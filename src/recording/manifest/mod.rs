//! The lines of `manifest.jsonl`, which only grows while a recording is made, and from which everything can be rebuilt.
//!
//! One JSON object a line, told apart by its `type`. The first line is [`Line::Begin`] and has the version. Times are
//! milliseconds of the file ([`at_ms`](Joined::at_ms)) and, where it matters, of the wall clock since 1970 (`wallMs`).
//! [`State`] is what all lines together say; whoever writes one applies it to a state as well, so that a repair and a live
//! recording make the same of it. Reading passes over lines that are cut, damaged or not known.

use std::io::{self, BufRead, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::block::{Description, Quality};
use super::library::FileEntry;
use super::names;
use crate::base::rfc3339;
use crate::webm::{self, Audio, Chapter, Codec, Info, Media, Tag, Video};

/// Of what is written here. A reader of another one makes of it what it can.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Line {
    Begin(Begin),
    Joined(Joined),
    Left(Left),
    /// A track of the call.
    Source(Source),
    SourceEnded(SourceEnded),
    Muted(Muted),
    /// A track of the file.
    Track(Track),
    Size(Size),
    Gap(Gap),
    Overflow(Overflow),
    Changed(Changed),
    Slewed(Slewed),
    Speakers(Speakers),
    Paused(Moment),
    Resumed(Moment),
    /// The file of the whole call is called so from here on.
    Renamed(Renamed),
    Quality(Measured),
    Extent(Extent),
    End(End),
    File(FileEntry),
    /// All files are there, and are those that were listed since the last such line.
    Finished(Finished),
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    pub version: u32,
    pub recording: String,
    pub call: String,
    pub started: String,
    pub started_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default)]
    pub audio_only: bool,
    /// Only these. `None`: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participants: Option<Vec<String>>,
    /// [`webm::Config::head_size`].
    pub head_size: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    pub at_ms: u64,
    pub wall_ms: u64,
    pub user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub role: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    pub at_ms: u64,
    pub wall_ms: u64,
    pub user: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub at_ms: u64,
    pub number: u32,
    pub id: String,
    pub user: String,
    pub is_video: bool,
    /// `camera`, `microphone`, `screen` or `screen-audio`.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceEnded {
    pub at_ms: u64,
    pub source: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Muted {
    pub at_ms: u64,
    pub source: u32,
    pub muted: bool,
}

/// All that the head of the file says about a track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Track {
    pub at_ms: u64,
    pub number: u32,
    pub uid: u64,
    /// The number of its [`Source`], and what that says.
    pub source_number: u32,
    pub user: String,
    pub role: String,
    pub source: String,
    pub name: String,
    /// CodecID.
    pub codec: String,
    /// In hexadecimal.
    #[serde(default)]
    pub private: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
    /// Hertz, channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<(f64, u32)>,
    #[serde(default)]
    pub codec_delay_ns: u64,
    #[serde(default)]
    pub seek_pre_roll_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_duration_ns: Option<u64>,
}

/// The picture has become larger than it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    pub at_ms: u64,
    pub track: u32,
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    pub at_ms: u64,
    pub source: u32,
    pub duration_ms: u64,
    pub packets: u64,
}

/// Packets were dropped before they came here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overflow {
    pub at_ms: u64,
    pub source: u32,
    pub packets: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    pub at_ms: u64,
    pub source: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slewed {
    pub at_ms: u64,
    pub source: u32,
    pub by_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Speakers {
    pub at_ms: u64,
    pub users: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    pub at_ms: u64,
    pub wall_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renamed {
    pub file: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    pub source: u32,
    pub quality: Quality,
}

/// Where the blocks of a track of the file are, by their timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extent {
    pub track: u32,
    pub start_ms: u64,
    pub end_ms: u64,
    pub blocks: u64,
    pub octets: u64,
    pub keyframes: u64,
}

impl Extent {
    /// Of a first block.
    pub fn of(block: &webm::Block, octets: u64) -> Extent {
        let at_ms = ms(block.timestamp_ns);
        let mut extent =
            Extent { track: block.track, start_ms: at_ms, end_ms: at_ms, blocks: 0, octets: 0, keyframes: 0 };
        extent.add(block, octets);
        extent
    }

    pub fn add(&mut self, block: &webm::Block, octets: u64) {
        let at_ms = ms(block.timestamp_ns);
        (self.start_ms, self.end_ms) = (self.start_ms.min(at_ms), self.end_ms.max(at_ms));
        self.blocks += 1;
        self.octets += octets;
        self.keyframes += u64::from(block.is_keyframe);
    }

    /// Whether there can be such a track, so that whoever counts them together need not ask.
    fn is_sane(&self) -> bool {
        let numbers = [self.end_ms, self.blocks, self.octets, self.keyframes];
        self.start_ms <= self.end_ms && numbers.iter().all(|number| *number <= COUNT_MAX)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    pub wall_ms: u64,
    /// As [`EndReason::as_str`](super::feed::EndReason::as_str) says.
    pub reason: String,
    pub duration_ms: u64,
    /// Octets of the file of the whole call, before it was completed.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finished {
    pub recovered: bool,
}

/// To the nearest, as the file rounds.
pub fn ms(ns: u64) -> u64 {
    ns / NS_PER_MS + u64::from(ns % NS_PER_MS >= NS_PER_MS / 2)
}

/// Since 1970.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}

/// What such a time says; the year 2262 for later ones, which nobody has meant.
pub fn from_unix_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.min(i64::MAX as u64 / NS_PER_MS))
}

/// At most so many octets of a text, whole characters.
pub fn cut(text: &str, length_max: usize) -> &str {
    let end = (0..=length_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

impl Line {
    /// With its end.
    pub fn encode(&self) -> Vec<u8> {
        // Plain structures with names for keys have a form in JSON.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Without its end. `None`: cut, or no line of ours.
    pub fn parse(bytes: &[u8]) -> Option<Line> {
        serde_json::from_slice(bytes).ok()
    }

    /// Without it something that was recorded could not be understood. Others may be left out when there are too many.
    pub fn is_essential(&self) -> bool {
        use Line::*;
        matches!(
            self,
            Begin(_) | Track(_) | Paused(_) | Resumed(_) | Renamed(_) | Extent(_) | End(_) | File(_) | Finished(_)
        )
    }

    fn wall_ms(&self) -> Option<u64> {
        match self {
            Line::Begin(line) => Some(line.started_ms),
            Line::Joined(line) => Some(line.wall_ms),
            Line::Left(line) => Some(line.wall_ms),
            Line::Paused(line) | Line::Resumed(line) => Some(line.wall_ms),
            Line::End(line) => Some(line.wall_ms),
            _ => None,
        }
    }
}

impl Track {
    /// `None`: it says of neither picture nor sound what it is, or its private data is none.
    pub fn to_webm(&self, is_default: bool) -> Option<webm::Track> {
        let media = match (self.size, self.sound) {
            (Some((width, height)), _) => Media::Video(Video { width, height, display: None }),
            (None, Some((sampling_frequency, channels))) => Media::Audio(Audio { sampling_frequency, channels }),
            (None, None) => return None,
        };
        Some(webm::Track {
            number: self.number,
            uid: self.uid,
            media,
            codec: Codec::from_id(&self.codec),
            private: names::from_hex(&self.private)?,
            name: self.name.clone(),
            language: "und".into(),
            is_default,
            default_duration_ns: self.default_duration_ns,
            codec_delay_ns: self.codec_delay_ns,
            seek_pre_roll_ns: self.seek_pre_roll_ns,
        })
    }

    /// Takes over what a recorder says about it.
    pub fn describe(&mut self, description: &Description) {
        match description.media {
            Media::Video(video) => self.size = Some((video.width, video.height)),
            Media::Audio(audio) => self.sound = Some((audio.sampling_frequency, audio.channels)),
            Media::Other(_) => {}
        }
        self.codec = description.codec.id().to_owned();
        self.private = names::hex(&description.private);
        self.codec_delay_ns = description.codec_delay_ns;
        self.seek_pre_roll_ns = description.seek_pre_roll_ns;
        self.default_duration_ns = description.default_duration_ns;
    }

    pub fn is_video(&self) -> bool {
        self.size.is_some()
    }

    pub fn is_screen(&self) -> bool {
        self.source.starts_with("screen")
    }

    /// `vp8`, `vp9`, `av1`, `h264` or `opus`; of others the CodecID.
    pub fn codec_name(&self) -> &str {
        match Codec::from_id(&self.codec) {
            Codec::Vp8 => "vp8",
            Codec::Vp9 => "vp9",
            Codec::Av1 => "av1",
            Codec::H264 => "h264",
            Codec::Opus => "opus",
            Codec::Other(_) => &self.codec,
        }
    }

    pub fn is_webm(&self) -> bool {
        Codec::from_id(&self.codec).is_webm()
    }

    /// What the file says beside the track, each for itself.
    pub fn tag(&self, uid: u64) -> Tag {
        let mut values = vec![("PARTICIPANT_ID".to_owned(), self.user.clone())];
        values.push(("ROLE".to_owned(), self.role.clone()));
        values.push(("SOURCE".to_owned(), self.source.clone()));
        Tag { track_uid: Some(uid), values }
    }
}

/// Somebody's time in the call.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub role: String,
    pub joined_ms: u64,
    pub joined_wall_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_reason: Option<String>,
}

/// A track of the call, and what happened to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    pub source: Source,
    pub ended_ms: Option<u64>,
    pub quality: Quality,
}

/// What all lines say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub begin: Option<Begin>,
    /// The file of the whole call, where it is not `recording.webm`.
    pub file: Option<String>,
    pub presences: Vec<Presence>,
    pub sources: Vec<Origin>,
    pub tracks: Vec<Track>,
    pub mutes: Vec<Muted>,
    pub gaps: Vec<Gap>,
    pub overflows: Vec<Overflow>,
    pub changes: Vec<Changed>,
    pub slews: Vec<Slewed>,
    pub speakers: Vec<Speakers>,
    /// Each pause, and its end.
    pub pauses: Vec<(Moment, Option<Moment>)>,
    pub extents: Vec<Extent>,
    pub end: Option<End>,
    pub finished: Option<(Finished, Vec<FileEntry>)>,
    /// The latest wall time of a line.
    pub wall_ms: u64,
    /// Lines that were not understood.
    pub unknown: u64,
    /// Listed since the last line that says that they are all.
    files: Vec<FileEntry>,
}

impl State {
    /// Reads lines to the end. Errors are those of reading only.
    pub fn read(mut io: impl BufRead) -> io::Result<State> {
        let mut state = State::default();
        let mut bytes = Vec::new();
        let mut octets = 0;
        while octets < MANIFEST_MAX {
            bytes.clear();
            let read = io.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes)? as u64;
            if read == 0 {
                break;
            }
            octets += read;
            let is_whole = bytes.pop_if(|last| *last == b'\n').is_some();
            match Line::parse(&bytes) {
                Some(line) if is_whole => state.apply(&line),
                // Cut; or so long that its rest comes as another one, which is none either.
                _ => state.unknown += u64::from(!bytes.is_empty()),
            }
        }
        Ok(state)
    }

    pub fn apply(&mut self, line: &Line) {
        self.wall_ms = self.wall_ms.max(line.wall_ms().unwrap_or(0));
        match line {
            Line::Begin(line) if self.begin.is_none() => self.begin = Some(line.clone()),
            Line::Begin(_) => self.unknown += 1,
            Line::Joined(line) => self.joined(line),
            Line::Left(line) => {
                let is_open = |presence: &&mut Presence| presence.user == line.user && presence.left_ms.is_none();
                if let Some(presence) = self.presences.iter_mut().rev().find(is_open) {
                    (presence.left_ms, presence.left_reason) = (Some(line.at_ms), Some(line.reason.clone()));
                }
            }
            Line::Source(line) if self.origin(line.number).is_none() => {
                let origin = Origin { source: line.clone(), ended_ms: None, quality: Quality::default() };
                push(&mut self.sources, origin);
            }
            Line::Source(_) => {}
            Line::SourceEnded(line) => {
                if let Some(origin) = self.origin_mut(line.source) {
                    origin.ended_ms = Some(line.at_ms);
                }
            }
            Line::Muted(line) => push(&mut self.mutes, line.clone()),
            Line::Track(line) if self.track(line.number).is_none() => push(&mut self.tracks, line.clone()),
            Line::Track(_) => {}
            Line::Size(line) => {
                let track = self.tracks.iter_mut().find(|track| track.number == line.track);
                if let Some((width, height)) = track.and_then(|track| track.size.as_mut()) {
                    (*width, *height) = ((*width).max(line.width), (*height).max(line.height));
                }
            }
            Line::Gap(line) => push(&mut self.gaps, line.clone()),
            Line::Overflow(line) => push(&mut self.overflows, line.clone()),
            Line::Changed(line) => push(&mut self.changes, line.clone()),
            Line::Slewed(line) => push(&mut self.slews, line.clone()),
            Line::Speakers(line) => push(&mut self.speakers, line.clone()),
            Line::Paused(line) => push(&mut self.pauses, (line.clone(), None)),
            Line::Resumed(line) => {
                if let Some((_, end @ None)) = self.pauses.last_mut() {
                    *end = Some(line.clone());
                }
            }
            // Where it leads is never anywhere else.
            Line::Renamed(line) => {
                let known = [names::call(true), names::call(false)];
                self.file = known.into_iter().find(|name| *name == line.file).or(self.file.take());
            }
            Line::Quality(line) => {
                if let Some(origin) = self.origin_mut(line.source) {
                    origin.quality = line.quality;
                }
            }
            Line::Extent(line) if line.is_sane() => push(&mut self.extents, *line),
            Line::Extent(_) => self.unknown += 1,
            Line::End(line) => self.end = Some(line.clone()),
            Line::File(line) => {
                // Listed before by somebody who was killed.
                self.files.retain(|file| file.name != line.name);
                push(&mut self.files, line.clone());
            }
            Line::Finished(line) => self.finished = Some((line.clone(), std::mem::take(&mut self.files))),
            Line::Unknown => self.unknown += 1,
        }
    }

    fn joined(&mut self, line: &Joined) {
        let presence = Presence {
            user: line.user.clone(),
            name: line.name.clone(),
            role: line.role.clone(),
            joined_ms: line.at_ms,
            joined_wall_ms: line.wall_ms,
            left_ms: None,
            left_reason: None,
        };
        push(&mut self.presences, presence);
    }

    /// Of the file.
    pub fn track(&self, number: u32) -> Option<&Track> {
        self.tracks.iter().find(|track| track.number == number)
    }

    /// Of the call.
    pub fn origin(&self, number: u32) -> Option<&Origin> {
        // Mostly one of the last.
        self.sources.iter().rev().find(|origin| origin.source.number == number)
    }

    fn origin_mut(&mut self, number: u32) -> Option<&mut Origin> {
        self.sources.iter_mut().rev().find(|origin| origin.source.number == number)
    }

    /// What people call somebody: as they were called last, or else their id.
    pub fn display_name<'a>(&'a self, user: &'a str) -> &'a str {
        let named = self.presences.iter().rev().filter(|presence| presence.user == user);
        named.filter_map(|presence| presence.name.as_deref()).find(|name| !name.is_empty()).unwrap_or(user)
    }

    /// As somebody had it last.
    pub fn role(&self, user: &str) -> &str {
        let presence = self.presences.iter().rev().find(|presence| presence.user == user);
        presence.map_or("", |presence| &presence.role)
    }

    pub fn started(&self) -> SystemTime {
        from_unix_ms(self.begin.as_ref().map_or(0, |begin| begin.started_ms))
    }

    /// What the file says about itself.
    pub fn info(&self) -> Info {
        Info {
            date: Some(self.started()),
            title: self.begin.as_ref().map(|begin| begin.call.clone()).unwrap_or_default(),
            muxing_app: APP.into(),
            writing_app: APP.into(),
            ..Info::default()
        }
    }

    /// Of the file, the first of each kind being what is played when nobody chooses.
    pub fn webm_tracks(&self) -> Vec<webm::Track> {
        let (mut has_video, mut has_sound) = (false, false);
        let tracks = self.tracks.iter().filter_map(|track| {
            let has = if track.is_video() { &mut has_video } else { &mut has_sound };
            track.to_webm(!std::mem::replace(has, true))
        });
        tracks.collect()
    }

    /// Who and what each track of the file is.
    pub fn tags(&self) -> Vec<Tag> {
        self.tracks.iter().map(|track| track.tag(track.uid)).collect()
    }

    /// Who came, and what was shown; what happened at once is one. Those who were there at the beginning are not worth a chapter.
    pub fn chapters(&self) -> Vec<Chapter> {
        let came = |presence: &&Presence| presence.joined_ms >= BEGINNING_MS;
        let joins = self.presences.iter().filter(came).map(|presence| {
            let name = presence.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&presence.user);
            (presence.joined_ms, format!("{name} joins"))
        });
        let screens = self.sources.iter().filter(|origin| origin.source.source == "screen").map(|origin| {
            let source = &origin.source;
            (source.at_ms, format!("{} shares the screen", self.display_name(&source.user)))
        });
        let mut places: Vec<(u64, String)> = joins.chain(screens).take(CHAPTERS_MAX).collect();
        places.sort_by_key(|(at_ms, _)| *at_ms);
        // FFmpeg shows one chapter of a moment only.
        places.dedup_by(|next, one| {
            let is_same = next.0 == one.0;
            if is_same {
                one.1 = format!("{}, {}", one.1, next.1);
            }
            is_same
        });
        let chapter = |(uid, (at_ms, title)): (u64, (u64, String))| Chapter {
            uid,
            start_ns: at_ms.saturating_mul(NS_PER_MS),
            end_ns: None,
            title,
        };
        (1..).zip(places).map(chapter).collect()
    }
}

impl Begin {
    pub fn at(started: SystemTime) -> (String, u64) {
        (rfc3339(started), unix_ms(started))
    }
}

/// What comes after so many is left out: somebody who floods a recording takes no memory.
fn push<T>(list: &mut Vec<T>, value: T) {
    if list.len() < LIST_MAX {
        list.push(value);
    }
}

pub const NS_PER_MS: u64 = 1_000_000;
/// What wrote a file.
const APP: &str = concat!("webrtc-engine ", env!("CARGO_PKG_VERSION"));
/// Octets that are read of a line: the largest private data in hexadecimal, names, and much air.
const LINE_MAX: u64 = 1024 * 1024;
/// Octets that are read of a manifest. A day of a busy call takes a tenth.
const MANIFEST_MAX: u64 = 512 * 1024 * 1024;
/// Of lines of each kind that are kept: somebody who speaks every two seconds for twelve hours, three times.
const LIST_MAX: usize = 64 * 1024;
/// Of milliseconds, blocks or octets of a track: no file is as long.
const COUNT_MAX: u64 = 1 << 40;
/// More than anybody looks at.
const CHAPTERS_MAX: usize = 1000;
/// Whoever comes as early was there when it began.
const BEGINNING_MS: u64 = 1000;

#[cfg(test)]
mod tests;
