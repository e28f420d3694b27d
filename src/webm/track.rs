//! What a file says about a track (RFC 9559 §5.1.4), and which codecs go where.

use super::ebml::{self, Children, Fault, Put};
use super::{Error, ids};

/// The largest track number that is written: two octets in front of each block, one below 127.
pub const NUMBER_MAX: u32 = 16_382;
/// Octets of codec private data that are written. Parameter sets and headers are below one KiB.
pub const PRIVATE_MAX: usize = 16 * 1024;
/// Octets of a name or language that are written.
pub const TEXT_MAX: usize = 1024;

/// How the payload of a track's blocks is to be read. What each needs is in the modules named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Codec {
    /// A block is a frame (RFC 7741 without the payload descriptor). No private data.
    Vp8,
    /// A block is a frame or superframe. Private data: [`vp9`](super::vp9), optional.
    Vp9,
    /// A block is a temporal unit. Private data: [`av1`](super::av1).
    Av1,
    /// A block is an access unit of NAL units behind their lengths. Private data: [`avc`](super::avc). Not in WebM.
    H264,
    /// A block is a packet. Private data: [`opus`](super::opus).
    Opus,
    /// Anything else, by its CodecID. Written as Matroska.
    Other(String),
}

impl Codec {
    /// The CodecID (RFC 9559 §5.1.4.1.22 and the registry of §27.2).
    pub fn id(&self) -> &str {
        match self {
            Codec::Vp8 => "V_VP8",
            Codec::Vp9 => "V_VP9",
            Codec::Av1 => "V_AV1",
            Codec::H264 => "V_MPEG4/ISO/AVC",
            Codec::Opus => "A_OPUS",
            Codec::Other(id) => id,
        }
    }

    pub fn from_id(id: &str) -> Codec {
        let known = [Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H264, Codec::Opus];
        known.into_iter().find(|codec| codec.id() == id).unwrap_or_else(|| Codec::Other(id.to_owned()))
    }

    /// Whether a file with it may be called WebM; otherwise it is Matroska.
    pub fn is_webm(&self) -> bool {
        match self {
            Codec::Vp8 | Codec::Vp9 | Codec::Av1 | Codec::Opus => true,
            Codec::H264 => false,
            Codec::Other(id) => id == "A_VORBIS",
        }
    }
}

/// Sizes in pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Video {
    /// Of the coded picture; the largest one where it changes (VP8 and VP9 carry the size of each in its key frame).
    pub width: u32,
    pub height: u32,
    /// What the picture is shown at. `None`: as it is coded.
    pub display: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Audio {
    /// Hertz.
    pub sampling_frequency: f64,
    pub channels: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Media {
    Video(Video),
    Audio(Audio),
    /// The TrackType of something else, e.g. 17 for subtitles.
    Other(u8),
}

impl Media {
    fn track_type(&self) -> u8 {
        match self {
            Media::Video(_) => VIDEO_TYPE,
            Media::Audio(_) => AUDIO_TYPE,
            Media::Other(number) => *number,
        }
    }
}

/// A TrackEntry. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// In front of every block: from 1 to [`NUMBER_MAX`], unlike any other of the file.
    pub number: u32,
    /// What tags refer to: not 0, unlike any other of the file.
    pub uid: u64,
    pub media: Media,
    pub codec: Codec,
    /// CodecPrivate. Empty: none.
    pub private: Vec<u8>,
    /// For people. Empty: none.
    pub name: String,
    /// ISO 639-2 in three letters ("und": not known), or else a BCP 47 tag.
    pub language: String,
    /// Whether players choose it when nobody has said what to play (FlagDefault).
    pub is_default: bool,
    /// Between two frames, where that is constant.
    pub default_duration_ns: Option<u64>,
    /// What the decoder adds in front and a player takes away from every timestamp (CodecDelay).
    pub codec_delay_ns: u64,
    /// What has to be decoded before a place to seek to, until the sound is right.
    pub seek_pre_roll_ns: u64,
}

impl Track {
    /// A video track without a name; the size may be completed with [`Muxer::note_size`](super::muxer::Muxer::note_size).
    pub fn video(number: u32, uid: u64, codec: Codec, width: u32, height: u32) -> Track {
        Track::new(number, uid, codec, Media::Video(Video { width, height, display: None }))
    }

    /// An Opus track as its head says (RFC 7845 §5.1): the delay agrees with it, and a player decodes 80 ms before it is
    /// heard after seeking.
    pub fn opus(number: u32, uid: u64, head: &super::opus::Head) -> Track {
        let audio = Audio { sampling_frequency: 48_000.0, channels: u32::from(head.channels) };
        Track {
            private: head.encode().to_vec(),
            codec_delay_ns: head.delay_ns(),
            seek_pre_roll_ns: super::opus::SEEK_PRE_ROLL_NS,
            ..Track::new(number, uid, Codec::Opus, Media::Audio(audio))
        }
    }

    fn new(number: u32, uid: u64, codec: Codec, media: Media) -> Track {
        Track {
            number,
            uid,
            media,
            codec,
            private: Vec::new(),
            name: String::new(),
            language: "und".into(),
            is_default: true,
            default_duration_ns: None,
            codec_delay_ns: 0,
            seek_pre_roll_ns: 0,
        }
    }

    /// Whether it can be written so that a reader gets it back.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !(1..=NUMBER_MAX).contains(&self.number) {
            return Err(Error::TrackNumber(self.number));
        }
        let texts = [self.name.as_str(), self.language.as_str(), self.codec.id()];
        let is_sane = match self.media {
            Media::Audio(audio) => audio.sampling_frequency.is_finite() && audio.sampling_frequency > 0.0,
            Media::Video(_) => true,
            Media::Other(number) => ![0, VIDEO_TYPE, AUDIO_TYPE].contains(&number),
        };
        if self.uid == 0 || !is_sane {
            return Err(Error::TrackField(self.number));
        }
        if self.private.len() > PRIVATE_MAX || texts.iter().any(|text| text.len() > TEXT_MAX) {
            return Err(Error::TooLarge);
        }
        Ok(())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.master(ids::TRACK_ENTRY, |entry| {
            entry.uint(ids::TRACK_NUMBER, u64::from(self.number));
            entry.uint(ids::TRACK_UID, self.uid);
            entry.uint(ids::TRACK_TYPE, u64::from(self.media.track_type()));
            entry.uint(ids::FLAG_LACING, 0);
            entry.uint(ids::FLAG_DEFAULT, u64::from(self.is_default));
            if let Some(duration) = self.default_duration_ns.filter(|duration| *duration > 0) {
                entry.uint(ids::DEFAULT_DURATION, duration);
            }
            if !self.name.is_empty() {
                entry.string(ids::NAME, &self.name);
            }
            // What is not said is English (RFC 9559 §5.1.4.1.19), so something is always said.
            if self.language.len() == 3 {
                entry.string(ids::LANGUAGE, &self.language);
            } else {
                entry.string(ids::LANGUAGE, "und");
                entry.string(ids::LANGUAGE_BCP47, &self.language);
            }
            entry.string(ids::CODEC_ID, self.codec.id());
            if !self.private.is_empty() {
                entry.binary(ids::CODEC_PRIVATE, &self.private);
            }
            if self.codec_delay_ns > 0 || self.codec == Codec::Opus {
                entry.uint(ids::CODEC_DELAY, self.codec_delay_ns);
            }
            if self.seek_pre_roll_ns > 0 {
                entry.uint(ids::SEEK_PRE_ROLL, self.seek_pre_roll_ns);
            }
            match self.media {
                Media::Video(video) => entry.master(ids::VIDEO, |out| {
                    out.uint(ids::PIXEL_WIDTH, u64::from(video.width));
                    out.uint(ids::PIXEL_HEIGHT, u64::from(video.height));
                    if let Some((width, height)) = video.display {
                        out.uint(ids::DISPLAY_WIDTH, u64::from(width));
                        out.uint(ids::DISPLAY_HEIGHT, u64::from(height));
                    }
                }),
                Media::Audio(audio) => entry.master(ids::AUDIO, |out| {
                    out.float(ids::SAMPLING_FREQUENCY, audio.sampling_frequency);
                    out.uint(ids::CHANNELS, u64::from(audio.channels));
                }),
                Media::Other(_) => {}
            }
        });
    }

    fn parse(data: &[u8]) -> Result<Track, Fault> {
        let mut track = Track::new(0, 0, Codec::Other(String::new()), Media::Other(0));
        let mut video = Video::default();
        let mut audio = Audio { sampling_frequency: 8000.0, channels: 1 };
        let (mut display_width, mut display_height) = (None, None);
        // What a file does not say (RFC 9559 §5.1.4.1.19).
        track.language = "eng".into();
        let (mut bcp47, mut track_type) = (None, 0);
        let uint32 = |data: &[u8]| Ok(u32::try_from(ebml::parse_uint(data)?).unwrap_or(u32::MAX));
        for child in Children::of(data) {
            let (id, data) = child?;
            match id {
                ids::TRACK_NUMBER => track.number = uint32(data)?,
                ids::TRACK_UID => track.uid = ebml::parse_uint(data)?,
                ids::TRACK_TYPE => track_type = u8::try_from(ebml::parse_uint(data)?).map_err(|_| Fault::Invalid)?,
                ids::FLAG_DEFAULT => track.is_default = ebml::parse_uint(data)? != 0,
                ids::DEFAULT_DURATION => track.default_duration_ns = Some(ebml::parse_uint(data)?).filter(|ns| *ns > 0),
                ids::NAME => track.name = ebml::parse_string(data),
                ids::LANGUAGE => track.language = ebml::parse_string(data),
                ids::LANGUAGE_BCP47 => bcp47 = Some(ebml::parse_string(data)),
                ids::CODEC_ID => track.codec = Codec::from_id(&ebml::parse_string(data)),
                ids::CODEC_PRIVATE => track.private = data.to_vec(),
                ids::CODEC_DELAY => track.codec_delay_ns = ebml::parse_uint(data)?,
                ids::SEEK_PRE_ROLL => track.seek_pre_roll_ns = ebml::parse_uint(data)?,
                ids::VIDEO => {
                    for child in Children::of(data) {
                        match child? {
                            (ids::PIXEL_WIDTH, data) => video.width = uint32(data)?,
                            (ids::PIXEL_HEIGHT, data) => video.height = uint32(data)?,
                            (ids::DISPLAY_WIDTH, data) => display_width = Some(uint32(data)?),
                            (ids::DISPLAY_HEIGHT, data) => display_height = Some(uint32(data)?),
                            _ => {}
                        }
                    }
                }
                ids::AUDIO => {
                    for child in Children::of(data) {
                        match child? {
                            (ids::SAMPLING_FREQUENCY, data) => audio.sampling_frequency = ebml::parse_float(data)?,
                            (ids::CHANNELS, data) => audio.channels = uint32(data)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(tag) = bcp47 {
            track.language = tag;
        }
        video.display = display_width.zip(display_height);
        track.media = match track_type {
            VIDEO_TYPE => Media::Video(video),
            AUDIO_TYPE => Media::Audio(audio),
            other => Media::Other(other),
        };
        Ok(track)
    }
}

/// Of the data of a Tracks element, at most `count_max`; what is no track, and what comes after a fault, is left out.
pub(super) fn parse_all(data: &[u8], count_max: usize) -> Vec<Track> {
    let entries = Children::of(data).map_while(Result::ok).filter(|(id, _)| *id == ids::TRACK_ENTRY);
    entries.filter_map(|(_, data)| Track::parse(data).ok()).filter(|track| track.number > 0).take(count_max).collect()
}

const VIDEO_TYPE: u8 = 1;
const AUDIO_TYPE: u8 = 2;
