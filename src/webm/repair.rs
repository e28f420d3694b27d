//! Completes a file that was cut anywhere: whoever wrote it was killed, or the power went.
//!
//! Every whole block before the end stays where it is, also behind damage in the middle, which becomes a Void. Behind the
//! last one Cues, Tags and Chapters are written, and a head with the duration in front. Nothing is moved, so it takes the
//! time to read the file once. Stopped in the middle, it can be done again: the head, which refers to the rest, comes last.
//!
//! [`scan`] reads, [`Scan::plan`] says what to write, [`Plan::apply`] does.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use super::Error;
use super::ebml::{self, Head};
use super::info::{Chapter, Info, Tag};
use super::muxer::{Config, Muxer, TRACKS_MAX};
use super::reader::{Event, Found, Limits, Reader};
use super::track::Track;

/// How many damages are passed over; behind more, the file is cut off.
pub const DAMAGES_MAX: usize = 1024;

/// How many Clusters are told their size; a day of them, and 12 MiB of memory. Above, they stay without.
const PATCHES_MAX: usize = 256 * 1024;

/// What somebody else knows of the file, better than its head.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// `None` or empty: what the file says.
    pub info: Option<Info>,
    pub tracks: Vec<Track>,
    pub tags: Vec<Tag>,
    pub chapters: Vec<Chapter>,
    /// [`Config::head_size`] of the writer: then whatever is wrong in the head hides nothing behind it.
    pub head_size: Option<u32>,
    pub limits: Limits,
}

/// What is in a file.
#[derive(Debug)]
pub struct Scan {
    muxer: Muxer,
    /// Blocks, and octets of their payloads.
    pub blocks: u64,
    pub octets: u64,
    /// Where the last whole block ends. What comes behind is made again.
    pub end: u64,
    /// What made no sense, in order, also what is behind the end.
    pub damages: Vec<Range<u64>>,
    /// Nothing is missing: it was finished, and is as long as it says.
    pub is_finished: bool,
    patches: Vec<(u64, Vec<u8>)>,
}

/// Reads the whole file. `on_block` is told of every whole block in its order.
///
/// Errors: it is no such file, or has no block; its first Cluster is so early that a head has no room; and those of reading.
pub fn scan<R: Read + Seek>(io: R, known: Known, mut on_block: impl FnMut(&Found)) -> Result<Scan, Error> {
    let mut reader = Reader::new(io, known.limits.clone())?;
    if let Some(info) = &known.info {
        reader.assume_timestamp_scale(info.timestamp_scale_ns);
    }
    let mut tags = Vec::new();
    let mut chapters = Vec::new();
    let mut tracks = Vec::new();
    let mut info = Info::default();
    let mut has_cues = false;

    let mut found: Option<Inside> = None;
    let mut damages: Vec<Range<u64>> = Vec::new();
    let mut is_head_whole = true;
    let mut first_at = known.head_size.map(u64::from);
    loop {
        let event = reader.next_event()?;
        if let Some(first) = first_at.filter(|first| reader.event_position() >= *first) {
            first_at = None;
            if reader.event_position() > first || !matches!(event, Some(Event::Cluster(_))) {
                is_head_whole = false;
                reader.seek_to_cluster(first);
                continue;
            }
        }
        let Some(event) = event else { break };
        match event {
            Event::Info(parsed) => info = parsed,
            Event::Tracks(parsed) => match &mut found {
                // At the end, since the head had no room for all of them.
                Some(inside) => {
                    let room = TRACKS_MAX.saturating_sub(inside.late_tracks.len());
                    inside.late_tracks.extend(parsed.iter().take(room).cloned());
                    if known.tracks.is_empty() {
                        inside.add_tracks(parsed);
                    }
                }
                None => tracks.extend(parsed.into_iter().take(TRACKS_MAX.saturating_sub(tracks.len()))),
            },
            Event::Tags(parsed) => tags = parsed,
            Event::Chapters(parsed) => chapters = parsed,
            Event::Cues(_) => has_cues = true,
            Event::Cluster(cluster) => {
                let inside = match &mut found {
                    Some(inside) => inside,
                    place => {
                        let mut info = known.info.clone().unwrap_or_else(|| info.clone());
                        info.timestamp_scale_ns = reader.timestamp_scale_ns();
                        let tracks = if known.tracks.is_empty() { &tracks } else { &known.tracks };
                        place.insert(Inside::new(cluster.position, info, tracks.clone())?)
                    }
                };
                inside.next_cluster(reader.last_cluster_end());
                inside.muxer.found_cluster(cluster.position, cluster.data(), cluster.ticks);
                inside.cluster = Some(Open { data: cluster.data(), head: cluster.head });
            }
            Event::Block(block) => {
                let Some(inside) = &mut found else { continue };
                inside.block(&block);
                on_block(&block);
            }
            Event::Damage(damage) => {
                damages.push(damage.range);
                if damages.len() >= DAMAGES_MAX {
                    break;
                }
            }
        }
    }
    let mut inside = found.filter(|inside| inside.blocks > 0).ok_or(Error::NoBlocks)?;
    inside.last_cluster(reader.last_cluster_end());
    inside.muxer.found_end(inside.end, !inside.has_unsized);
    inside.patches.retain(|(position, _)| *position < inside.end);
    for range in damages.iter().filter(|range| range.end <= inside.end && range.start >= inside.begin) {
        let void = ebml::void(range.end - range.start).ok_or(Error::NoRoom)?;
        inside.patches.push((range.start, void.to_vec()));
    }
    // As if there were nothing better to know.
    let said = if inside.late_tracks.is_empty() { &tracks } else { &inside.late_tracks };
    let ends = |duration: u64| duration.abs_diff(inside.muxer.duration_ns()) <= info.timestamp_scale_ns;
    let is_finished = is_head_whole
        && damages.is_empty()
        && inside.muxer.tracks().eq(said)
        && info.duration_ns.is_some_and(ends)
        && (has_cues || !inside.muxer.has_cues())
        && reader.declared_end().is_none_or(|end| end == reader.length())
        && !inside.has_lies;
    if !known.tags.is_empty() {
        tags = known.tags;
    }
    if !known.chapters.is_empty() {
        chapters = known.chapters;
    }
    inside.muxer.set_tags(tags);
    inside.muxer.set_chapters(chapters);
    Ok(Scan {
        muxer: inside.muxer,
        blocks: inside.blocks,
        octets: inside.octets,
        end: inside.end,
        damages,
        is_finished,
        patches: inside.patches,
    })
}

/// From the first Cluster on.
struct Inside {
    muxer: Muxer,
    begin: u64,
    end: u64,
    blocks: u64,
    octets: u64,
    cluster: Option<Open>,
    patches: Vec<(u64, Vec<u8>)>,
    /// A Cluster has said that it is longer than it is; one has an unknown size that cannot be written over.
    has_lies: bool,
    has_unsized: bool,
    /// What the file says behind the first Cluster.
    late_tracks: Vec<Track>,
}

struct Open {
    data: u64,
    head: Head,
}

impl Open {
    fn declared_end(&self) -> Option<u64> {
        self.head.size.map(|size| self.data + size)
    }
}

impl Inside {
    fn new(begin: u64, info: Info, tracks: Vec<Track>) -> Result<Inside, Error> {
        let head_size = u32::try_from(begin).map_err(|_| Error::NoRoom)?;
        let config = Config { head_size, info, ..Config::default() };
        let muxer = Muxer::new(config).map_err(|_| Error::NoRoom)?;
        let mut inside = Inside {
            muxer,
            begin,
            end: begin,
            blocks: 0,
            octets: 0,
            cluster: None,
            patches: Vec::new(),
            has_lies: false,
            has_unsized: false,
            late_tracks: Vec::new(),
        };
        inside.add_tracks(tracks);
        Ok(inside)
    }

    fn add_tracks(&mut self, tracks: Vec<Track>) {
        for track in tracks {
            // One that was there before, or, in a file of somebody else, cannot be written: its blocks stay.
            let _ = self.muxer.add_track(track);
        }
    }

    fn block(&mut self, found: &Found) {
        let Some(cluster) = &self.cluster else { return };
        self.muxer.found_block(&found.block, found.element.start - cluster.data);
        self.end = found.element.end;
        self.blocks += 1;
        self.octets += found.payload.end - found.payload.start;
    }

    /// Another Cluster begins, and this one was over at a position. If it says nothing of its size, or that it goes on, be it
    /// because of damage, it says afterwards how long it really is.
    fn next_cluster(&mut self, end: u64) {
        let Some(open) = self.cluster.take() else { return };
        let is_kept = self.end > open.data;
        match open.declared_end() {
            Some(declared) if declared <= end => {
                if is_kept {
                    self.end = self.end.max(declared);
                }
                return;
            }
            declared => self.has_lies |= declared.is_some(),
        }
        self.resize(&open, end);
        if is_kept {
            self.end = self.end.max(end);
        }
    }

    /// Nothing is kept behind this Cluster; nor is it itself, without a block.
    fn last_cluster(&mut self, end: u64) {
        let Some(open) = self.cluster.take().filter(|open| self.end > open.data) else { return };
        match open.declared_end() {
            Some(declared) if declared <= end => self.end = self.end.max(declared),
            declared => {
                self.has_lies |= declared.is_some();
                self.resize(&open, self.end);
            }
        }
    }

    fn resize(&mut self, open: &Open, end: u64) {
        let (size, length) = (end - open.data, open.head.size_length);
        if ebml::vint_length(size) > length || self.patches.len() >= PATCHES_MAX {
            self.has_unsized = true;
            return;
        }
        let octets = ebml::vint(size, length)[..length].to_vec();
        self.patches.push((open.data - length as u64, octets));
    }
}

/// What makes a file whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The file is cut off here, then the tail is appended.
    pub keep: u64,
    pub tail: Vec<u8>,
    /// Then these octets are written over others, in this order; the head is the last.
    pub patches: Vec<(u64, Vec<u8>)>,
    /// Octets of the file when all is done.
    pub length: u64,
}

/// A file that can be repaired in place.
pub trait File: Read + Write + Seek {
    /// Cuts it off, as `std::fs::File::set_len` does.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Returns when what was written is on the disk. What can be lost without that is only the order of things.
    fn sync(&mut self) -> io::Result<()>;
}

impl File for io::Cursor<Vec<u8>> {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.get_mut().truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Scan {
    pub fn duration_ns(&self) -> u64 {
        self.muxer.duration_ns()
    }

    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.muxer.tracks()
    }

    pub fn plan(&self) -> Plan {
        let finish = self.muxer.finish();
        let mut patches = self.patches.clone();
        patches.extend(finish.patches().map(|patch| (patch.position, patch.bytes.to_vec())));
        Plan { keep: self.end, tail: finish.tail, patches, length: finish.length }
    }
}

impl Plan {
    /// In an order in which it can be interrupted and done again.
    pub fn apply(&self, file: &mut impl File) -> Result<(), Error> {
        file.set_len(self.keep)?;
        file.seek(SeekFrom::Start(self.keep))?;
        file.write_all(&self.tail)?;
        file.sync()?;
        for (position, bytes) in &self.patches {
            file.seek(SeekFrom::Start(*position))?;
            file.write_all(bytes)?;
        }
        file.flush()?;
        file.sync()?;
        Ok(())
    }
}

/// [`scan`], and [`Plan::apply`] unless it is finished already.
pub fn repair(file: &mut impl File, known: Known) -> Result<Scan, Error> {
    let scan = scan(&mut *file, known, |_| {})?;
    if !scan.is_finished {
        scan.plan().apply(file)?;
    }
    Ok(scan)
}
