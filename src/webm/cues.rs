//! Where to seek to (RFC 9559 §5.1.5): one entry for each key frame of video, and now and then one for sound.

use super::ebml::{self, Children, Fault, Put};
use super::ids;

/// How many are kept; above, the distance between those of a track doubles and what is closer goes. Key frames of ten
/// people every ten seconds take 36 hours to get there. Each takes 32 octets of memory and about 20 of the file.
pub const CUES_MAX: usize = 128 * 1024;

/// A place to seek to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cue {
    /// In the file's timestamp scale.
    pub ticks: u64,
    pub track: u32,
    /// Of the Cluster, from the beginning of the Segment's data.
    pub cluster: u64,
    /// Of the block, from the beginning of the Cluster's data. `None`: not said.
    pub block: Option<u32>,
}

/// Those of a file that is written.
#[derive(Debug)]
pub(super) struct Cues {
    list: Vec<Cue>,
    /// At least so far from the last one of a track.
    distance_ticks: u64,
    count_max: usize,
}

impl Cues {
    pub fn new(count_max: usize) -> Cues {
        Cues { list: Vec::new(), distance_ticks: 0, count_max: count_max.max(1) }
    }

    /// `last`: ticks of the track's last one. Whether it was taken.
    pub fn push(&mut self, cue: Cue, last: Option<u64>) -> bool {
        let is_close = |ticks: u64| ticks.abs_diff(cue.ticks) < self.distance_ticks;
        if last.is_some_and(is_close) {
            return false;
        }
        while self.list.len() >= self.count_max {
            self.thin();
        }
        self.list.push(cue);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn thin(&mut self) {
        let before = self.list.len();
        let longest = self.list.iter().map(|cue| cue.ticks).max().unwrap_or(0);
        let mut last = std::collections::HashMap::new();
        let distance = if self.distance_ticks == 0 { 500 } else { self.distance_ticks.saturating_mul(2) };
        self.distance_ticks = distance;
        self.list.retain(|cue| {
            let is_far = last.get(&cue.track).is_none_or(|last: &u64| last.abs_diff(cue.ticks) >= distance);
            if is_far {
                last.insert(cue.track, cue.ticks);
            }
            is_far
        });
        // As many tracks as cues: then there is nothing to tell them apart by distance.
        if self.list.len() == before && distance > longest {
            self.list.truncate(before / 2);
        }
    }

    /// The whole element, in order of time; nothing for none.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if self.list.is_empty() {
            return;
        }
        let mut list = self.list.clone();
        list.sort_unstable();
        out.master(ids::CUES, |cues| {
            for point in list.chunk_by(|a, b| a.ticks == b.ticks) {
                cues.master(ids::CUE_POINT, |out| {
                    out.uint(ids::CUE_TIME, point[0].ticks);
                    for cue in point {
                        out.master(ids::CUE_TRACK_POSITIONS, |out| {
                            out.uint(ids::CUE_TRACK, u64::from(cue.track));
                            out.uint(ids::CUE_CLUSTER_POSITION, cue.cluster);
                            if let Some(block) = cue.block {
                                out.uint(ids::CUE_RELATIVE_POSITION, u64::from(block));
                            }
                        });
                    }
                });
            }
        });
    }
}

/// At most `count_max`; what comes after a fault is left out.
pub(super) fn parse(data: &[u8], count_max: usize) -> Vec<Cue> {
    let mut cues = Vec::new();
    for (_, data) in Children::of(data).map_while(Result::ok).filter(|(id, _)| *id == ids::CUE_POINT) {
        let mut ticks = 0;
        for (id, data) in Children::of(data).map_while(Result::ok) {
            match id {
                ids::CUE_TIME => ticks = ebml::parse_uint(data).unwrap_or(u64::MAX),
                ids::CUE_TRACK_POSITIONS if cues.len() < count_max => cues.extend(parse_position(ticks, data)),
                _ => {}
            }
        }
    }
    cues
}

fn parse_position(ticks: u64, data: &[u8]) -> Result<Cue, Fault> {
    let mut cue = Cue { ticks, track: 0, cluster: 0, block: None };
    for child in Children::of(data) {
        let (id, data) = child?;
        let value = || ebml::parse_uint(data);
        match id {
            ids::CUE_TRACK => cue.track = u32::try_from(value()?).map_err(|_| Fault::Invalid)?,
            ids::CUE_CLUSTER_POSITION => cue.cluster = value()?,
            ids::CUE_RELATIVE_POSITION => cue.block = u32::try_from(value()?).ok(),
            _ => {}
        }
    }
    Ok(cue)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cue(ticks: u64, track: u32) -> Cue {
        Cue { ticks, track, cluster: ticks * 100, block: Some(track) }
    }

    #[test]
    fn what_is_written_is_read_in_order_of_time() {
        let mut cues = Cues::new(CUES_MAX);
        for (ticks, track) in [(40, 1), (20, 2), (20, 1)] {
            assert!(cues.push(cue(ticks, track), None));
        }
        let mut bytes = Vec::new();
        cues.encode(&mut bytes);
        let (_, data) = Children::of(&bytes).next().expect("an element").expect("a whole one");
        assert_eq!(parse(data, 10), [cue(20, 1), cue(20, 2), cue(40, 1)]);
        assert_eq!(parse(data, 2).len(), 2);
        // Two of one time share a point.
        assert_eq!(Children::of(data).count(), 2);
    }

    #[test]
    fn too_many_are_thinned() {
        let mut cues = Cues::new(64);
        let mut last = [None; 3];
        for step in 0..10_000 {
            let cue = cue(step * 100, step as u32 % 3);
            if cues.push(cue, last[step as usize % 3]) {
                last[step as usize % 3] = Some(cue.ticks);
            }
            assert!(cues.list.len() <= 64);
        }
        assert!(cues.list.len() > 20, "{}", cues.list.len());
        let times: Vec<u64> = cues.list.iter().filter(|cue| cue.track == 1).map(|cue| cue.ticks).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= cues.distance_ticks));
        assert!(*times.last().expect("some") > 900_000, "the end is covered as well");
        // One for each track, all at once.
        let mut cues = Cues::new(8);
        (0..100).for_each(|track| assert!(cues.push(cue(0, track), None)));
    }
}
