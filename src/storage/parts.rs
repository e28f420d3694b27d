//! Which tracks of the whole call go into which participant's file. A decision only; [`finish`](super::finish) writes.
//!
//! A file is one participant's own camera and microphone, or their screen with its sound. A track that comes after another of
//! its kind, as after a rejoin, goes on in the same track of the file where a player would not notice: the same codec, the same
//! private data, and nothing at the same time. Otherwise it begins the participant's next file.

use std::collections::{BTreeMap, HashMap};

use crate::recording::manifest::{Extent, State, Track};
use crate::recording::names;

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    pub user: String,
    pub is_screen: bool,
    pub is_webm: bool,
    pub video: Option<Lane>,
    pub sound: Option<Lane>,
}

/// One track of such a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// In the part's file.
    pub number: u32,
    /// Tracks of the call's file, in order of time; never none.
    pub tracks: Vec<u32>,
    /// Blocks of all of them that can be sought.
    pub keyframes: u64,
    pub end_ms: u64,
}

/// All files, in the order in which they begin. The same for the same recording, whoever asks.
pub fn parts(state: &State, extents: &[Extent]) -> Vec<Part> {
    let mut order: Vec<(&Extent, &Track)> =
        extents.iter().filter_map(|extent| Some((extent, state.track(extent.track)?))).collect();
    // Without a key frame there is nothing to be seen.
    order.retain(|(extent, track)| !track.is_video() || extent.keyframes > 0);
    order.sort_by_key(|(extent, _)| (extent.start_ms, extent.track));
    let mut parts: Vec<Part> = Vec::new();
    let mut of_user: HashMap<(&str, bool), Vec<usize>> = HashMap::new();
    for (extent, track) in order {
        let mine = of_user.entry((&track.user, track.is_screen())).or_default();
        let fitting = mine.iter().copied().find(|index| fits(state, &parts[*index], extent, track));
        let index = fitting.unwrap_or_else(|| {
            mine.push(parts.len());
            parts.push(Part {
                name: String::new(),
                user: track.user.clone(),
                is_screen: track.is_screen(),
                is_webm: true,
                video: None,
                sound: None,
            });
            parts.len() - 1
        });
        let part = &mut parts[index];
        part.is_webm &= track.is_webm();
        let (lane, number) =
            if track.is_video() { (&mut part.video, VIDEO_NUMBER) } else { (&mut part.sound, SOUND_NUMBER) };
        let lane = lane.get_or_insert(Lane { number, tracks: Vec::new(), keyframes: 0, end_ms: 0 });
        lane.tracks.push(extent.track);
        lane.keyframes += extent.keyframes;
        lane.end_ms = lane.end_ms.max(extent.end_ms);
    }
    // By what the name becomes, so that two that become the same are counted together.
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for part in &mut parts {
        let name = names::encode(&part.user);
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        part.name = names::participant(&name, *count, part.is_webm);
    }
    parts
}

fn fits(state: &State, part: &Part, extent: &Extent, track: &Track) -> bool {
    let lane = if track.is_video() { &part.video } else { &part.sound };
    let Some(lane) = lane else { return true };
    let is_same = |before: &Track| {
        before.codec == track.codec
            && before.private == track.private
            && before.sound == track.sound
            && before.codec_delay_ns == track.codec_delay_ns
    };
    lane.end_ms < extent.start_ms && lane.tracks.last().and_then(|last| state.track(*last)).is_some_and(is_same)
}

impl Part {
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.video.iter().chain(&self.sound)
    }
}

/// Players take the first of each kind.
const VIDEO_NUMBER: u32 = 1;
const SOUND_NUMBER: u32 = 2;

#[cfg(test)]
mod tests {
    use super::super::tests::{opus_line, vp8_line};
    use super::*;
    use crate::recording::manifest::Line;

    /// Number, user, source, codec, private data, from, to.
    type Row<'a> = (u32, &'a str, &'a str, &'a str, &'a str, u64, u64);

    fn check(rows: &[Row<'_>], expected: &[(&str, &[u32], &[u32])]) {
        let mut state = State::default();
        let mut extents = Vec::new();
        for (number, user, source, codec, private, start_ms, end_ms) in rows {
            let is_video = matches!(*source, "camera" | "screen");
            let line = if is_video { vp8_line(*number, user, source) } else { opus_line(*number, user, source) };
            let line = Track { codec: codec.to_string(), private: private.to_string(), ..line };
            state.apply(&Line::Track(line));
            let (start_ms, end_ms) = (*start_ms, *end_ms);
            extents.push(Extent { track: *number, start_ms, end_ms, blocks: 1, octets: 1, keyframes: 1 });
        }
        let parts = parts(&state, &extents);
        let found: Vec<(&str, Vec<u32>, Vec<u32>)> = parts
            .iter()
            .map(|part| {
                let tracks = |lane: &Option<Lane>| lane.as_ref().map_or(Vec::new(), |lane| lane.tracks.clone());
                (part.name.as_str(), tracks(&part.video), tracks(&part.sound))
            })
            .collect();
        let expected: Vec<_> =
            expected.iter().map(|(name, video, sound)| (*name, video.to_vec(), sound.to_vec())).collect();
        assert_eq!(found, expected, "{rows:?}");
    }

    #[test]
    fn who_gets_which_files() {
        const VP8: &str = "V_VP8";
        const H264: &str = "V_MPEG4/ISO/AVC";
        const OPUS: &str = "A_OPUS";
        // Camera and microphone together, a screen apart.
        check(
            &[
                (1, "ann", "microphone", OPUS, "", 0, 100),
                (2, "ann", "camera", VP8, "", 5, 100),
                (3, "b/b", "screen-audio", OPUS, "", 10, 100),
                (4, "b/b", "screen", VP8, "", 20, 100),
                (5, "b/b", "camera", VP8, "", 30, 100),
            ],
            &[("ann-1.webm", &[2], &[1]), ("b%2Fb-1.webm", &[4], &[3]), ("b%2Fb-2.webm", &[5], &[])],
        );
        // A rejoin goes on, whatever is in between.
        check(
            &[
                (1, "ann", "camera", VP8, "", 0, 100),
                (2, "ann", "microphone", OPUS, "", 0, 100),
                (3, "ann", "camera", VP8, "", 300, 400),
                (9, "ann", "microphone", OPUS, "", 200, 400),
            ],
            &[("ann-1.webm", &[1, 3], &[2, 9])],
        );
        // Two at once do not, nor where one ends as the other begins.
        check(
            &[
                (1, "ann", "camera", VP8, "", 0, 100),
                (2, "ann", "camera", VP8, "", 100, 200),
                (3, "ann", "camera", VP8, "", 101, 150),
                (4, "ann", "camera", VP8, "", 201, 250),
            ],
            &[("ann-1.webm", &[1, 3, 4], &[]), ("ann-2.webm", &[2], &[])],
        );
        // Another codec, other parameters; and back.
        check(
            &[
                (1, "ann", "camera", H264, "01", 0, 100),
                (2, "ann", "microphone", OPUS, "", 0, 900),
                (3, "ann", "camera", H264, "02", 200, 300),
                (4, "ann", "camera", VP8, "", 400, 500),
                (5, "ann", "camera", H264, "01", 600, 700),
            ],
            &[("ann-1.mkv", &[1, 5], &[2]), ("ann-2.mkv", &[3], &[]), ("ann-3.webm", &[4], &[])],
        );
        check(&[], &[]);
    }
}
