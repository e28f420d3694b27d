//! Reads WebM and Matroska (RFC 9559), block by block, whatever state the file is in.
//!
//! No size is trusted: one that is unknown, too large, or longer than the file is no reason to stop, and nothing is allocated
//! by what a size says. What cannot be read is passed over up to the next Cluster and reported as [`Event::Damage`]. In
//! memory are 64 KiB of the file, and one element of the head while it is parsed.
//!
//! ```no_run
//! # use webrtc_engine::webm::{Event, Reader};
//! # fn read(file: impl std::io::Read + std::io::Seek) -> Result<(), webrtc_engine::webm::Error> {
//! let mut reader = Reader::new(file, Default::default())?;
//! let mut payload = Vec::new();
//! while let Some(event) = reader.next_event()? {
//!     match event {
//!         Event::Tracks(tracks) => println!("{} tracks", tracks.len()),
//!         Event::Block(found) => reader.read_payload(&found, &mut payload)?,
//!         _ => {}
//!     }
//! }
//! # Ok(()) }
//! ```

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

use super::cues::{self, CUES_MAX, Cue};
use super::ebml::{self, Children, Fault, Head};
use super::info::{self, Chapter, Info, Tag};
use super::muxer::{Block, PAYLOAD_MAX, TRACKS_MAX};
use super::track::{self, Track};
use super::{Error, ids};

/// What is too large to be read. The defaults are above all that [`Muxer`](super::Muxer) writes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Octets of Info, Tracks, Tags, Chapters or Cues; larger ones are passed over as if they were unknown.
    pub element: usize,
    /// Octets of a block with all that belongs to it; a larger one is damage.
    pub block: usize,
    /// Tracks, values of tags, chapters: what comes after so many is left out.
    pub tracks: usize,
    pub values: usize,
    pub cues: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            element: 8 * 1024 * 1024,
            block: PAYLOAD_MAX + 1024,
            tracks: TRACKS_MAX,
            values: 64 * 1024,
            cues: CUES_MAX,
        }
    }
}

/// What is next in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Info(Info),
    Tracks(Vec<Track>),
    Tags(Vec<Tag>),
    Chapters(Vec<Chapter>),
    Cues(Vec<Cue>),
    Cluster(Cluster),
    Block(Found),
    Damage(Damage),
}

/// A Cluster whose timestamp was read; its blocks follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    pub position: u64,
    /// Id and size.
    pub head: Head,
    pub ticks: u64,
}

impl Cluster {
    /// Where its first child is.
    pub fn data(&self) -> u64 {
        self.position + self.head.length() as u64
    }
}

/// A whole SimpleBlock or BlockGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What would write it again. A time before 0 is 0.
    pub block: Block,
    /// All of the element, and its payload, from the beginning of the file.
    pub element: Range<u64>,
    pub payload: Range<u64>,
    /// Whether the payload is several frames with lengths in front (RFC 9559 §10.3), which are not taken apart here.
    pub is_laced: bool,
}

/// Octets that make no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Up to the next Cluster, or the end of the file.
    pub range: Range<u64>,
    pub fault: Fault,
}

/// A file that is read.
#[derive(Debug)]
pub struct Reader<R> {
    window: Window<R>,
    limits: Limits,
    doc_type: String,
    /// Where the Segment's data is, as far as the file goes; and where it should end.
    segment: Range<u64>,
    declared_end: Option<u64>,
    scale_ns: u64,
    is_scale_assumed: bool,
    cluster: Option<Open>,
    /// Where what is next begins, and where what was last given did.
    at: u64,
    event_at: u64,
    /// Where the last Cluster was over.
    closed_at: u64,
}

#[derive(Debug)]
struct Open {
    position: u64,
    head: Head,
    end: Option<u64>,
    ticks: Option<u64>,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads as far as the Segment. What is appended to the file afterwards is not seen. Errors: it is no such file, or it ends
    /// before; and those of reading.
    pub fn new(io: R, limits: Limits) -> Result<Reader<R>, Error> {
        let mut window = Window::new(io)?;
        let header = window.head(0)?;
        let size =
            header.size.filter(|size| *size <= HEADER_MAX && header.id == ids::EBML).ok_or(Error::NotMatroska)?;
        let data = window.peek(header.length() as u64, size as usize)?;
        let (mut doc_type, mut read_version) = (String::new(), 1);
        for (id, data) in Children::of(data).map_while(Result::ok) {
            match id {
                ids::DOC_TYPE => doc_type = ebml::parse_string(data),
                ids::EBML_READ_VERSION => read_version = ebml::parse_uint(data).unwrap_or(u64::MAX),
                _ => {}
            }
        }
        if !["webm", "matroska"].contains(&doc_type.as_str()) || read_version > 1 {
            return Err(Error::NotMatroska);
        }
        let mut at = header.length() as u64 + size;
        let segment = loop {
            let head = window.head(at)?;
            match (head.id, head.size) {
                (ids::SEGMENT, _) => break head,
                (ids::VOID, Some(size)) if at.saturating_add(size) < window.length => at += head.length() as u64 + size,
                _ => return Err(Error::NotMatroska),
            }
        };
        let data = at + segment.length() as u64;
        let declared_end = segment.size.map(|size| data + size);
        let end = declared_end.unwrap_or(u64::MAX).min(window.length);
        Ok(Reader {
            window,
            limits,
            doc_type,
            segment: data..end,
            declared_end,
            scale_ns: info::TIMESTAMP_SCALE_NS,
            is_scale_assumed: false,
            cluster: None,
            at: data,
            event_at: data,
            closed_at: data,
        })
    }

    /// `webm` or `matroska`.
    pub fn doc_type(&self) -> &str {
        &self.doc_type
    }

    /// What positions in cues are counted from.
    pub fn segment_data(&self) -> u64 {
        self.segment.start
    }

    /// Where the Segment says that it ends. `None`: it does not, as while it is being written.
    pub fn declared_end(&self) -> Option<u64> {
        self.declared_end
    }

    /// Where the last event's element begins; after the end, where that is.
    pub fn event_position(&self) -> u64 {
        self.event_at
    }

    /// Where the Cluster before the last event was over, whatever it has said.
    pub fn last_cluster_end(&self) -> u64 {
        self.closed_at
    }

    /// Whatever the file says of nanoseconds in a tick, these are right.
    pub fn assume_timestamp_scale(&mut self, scale_ns: u64) {
        (self.scale_ns, self.is_scale_assumed) = (scale_ns.max(1), true);
    }

    /// Nanoseconds in a tick, as the file has said so far.
    pub fn timestamp_scale_ns(&self) -> u64 {
        self.scale_ns
    }

    /// Octets of the file, as they were at the beginning.
    pub fn length(&self) -> u64 {
        self.window.length
    }

    pub fn into_inner(self) -> R {
        self.window.io
    }

    /// Goes on with the Cluster that begins at a position; what is not one is damage. Only after [`Event::Info`], which says
    /// what a tick is, or with an assumption about it.
    pub fn seek_to_cluster(&mut self, position: u64) {
        self.close();
        self.at = position.clamp(self.segment.start, self.segment.end);
    }

    /// What is next. `None`: the end of the Segment, or of what there is of it.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(end) = self.cluster.as_ref().and_then(|cluster| cluster.end)
                && self.at >= end
            {
                self.close();
            }
            self.event_at = self.at;
            if self.at >= self.segment.end {
                self.close();
                return Ok(None);
            }
            match self.element() {
                Ok(Step::Event(event)) => return Ok(Some(event)),
                Ok(Step::Nothing) => {}
                Ok(Step::End) => {
                    self.close();
                    self.segment.end = self.at;
                    return Ok(None);
                }
                Err(Stop::Fault(fault)) => return Ok(Some(self.pass_over(fault)?)),
                Err(Stop::Io(error)) => return Err(Error::Io(error)),
            }
        }
    }

    /// Reads what [`next_event`](Self::next_event) has found, at any time after. Instead of what was in `payload`.
    pub fn read_payload(&mut self, found: &Found, payload: &mut Vec<u8>) -> Result<(), Error> {
        payload.clear();
        let size =
            usize::try_from(found.payload.end.saturating_sub(found.payload.start)).map_err(|_| Error::TooLarge)?;
        if size > self.limits.block {
            return Err(Error::TooLarge);
        }
        Ok(self.window.read(found.payload.start, size, payload)?)
    }

    /// One element at `self.at`, and on to the next.
    fn element(&mut self) -> Result<Step, Stop> {
        let head = self.window.head(self.at)?;
        let data = self.at + head.length() as u64;
        // An id of the Segment ends a Cluster, even one that says it is longer.
        if let Some(cluster) = &self.cluster
            && ids::is_top_level(head.id)
        {
            if cluster.end.is_some() && cluster.ticks.is_none() {
                return Err(Fault::Invalid.into()); // nobody would be told of its lie
            }
            self.close();
        }
        if self.cluster.is_none() && head.id == ids::CLUSTER {
            let end = head.size.map(|size| data + size);
            self.cluster = Some(Open { position: self.at, head, end, ticks: None });
            self.at = data;
            return Ok(Step::Nothing);
        }
        let may_end = self.cluster.as_ref().is_none_or(|cluster| cluster.end.is_none());
        if may_end && matches!(head.id, ids::EBML | ids::SEGMENT) {
            return Ok(Step::End); // another file behind this one
        }
        let element = self.at..data + head.size.ok_or(Fault::Invalid)?;
        let step = match &self.cluster {
            Some(_) => self.of_cluster(head.id, element.clone(), data)?,
            None => self.of_segment(head, element.clone(), data)?,
        };
        self.at = element.end;
        Ok(step)
    }

    fn of_cluster(&mut self, id: u32, element: Range<u64>, data: u64) -> Result<Step, Stop> {
        let Some(open) = &mut self.cluster else { return Ok(Step::Nothing) };
        let is_block = matches!(id, ids::SIMPLE_BLOCK | ids::BLOCK_GROUP);
        let is_too_large = is_block && element.end - data > self.limits.block as u64;
        if is_too_large || open.end.is_some_and(|end| element.end > end) {
            return Err(Fault::Invalid.into());
        }
        if element.end > self.segment.end {
            return Err(Fault::Cut.into());
        }
        match (id, open.ticks) {
            (ids::TIMESTAMP, None) => {
                let ticks = self.window.uint(data..element.end)?;
                open.ticks = Some(ticks);
                self.event_at = open.position;
                Ok(Step::Event(Event::Cluster(Cluster { position: open.position, head: open.head, ticks })))
            }
            (ids::SIMPLE_BLOCK, Some(ticks)) => {
                let data = data..element.end;
                self.block(ticks, element, data, true).map(|found| Step::Event(Event::Block(found)))
            }
            (ids::BLOCK_GROUP, Some(ticks)) => {
                self.group(ticks, element, data).map(|found| Step::Event(Event::Block(found)))
            }
            (ids::TIMESTAMP | ids::SIMPLE_BLOCK | ids::BLOCK_GROUP, _) => Err(Fault::Invalid.into()),
            (ids::VOID | ids::CRC_32 | ids::POSITION | ids::PREV_SIZE, _) => Ok(Step::Nothing),
            (ids::SILENT_TRACKS | ids::ENCRYPTED_BLOCK, _) => Ok(Step::Nothing),
            // What a later version of the format may have; but not in a Cluster that may end anywhere.
            _ if open.end.is_some() => Ok(Step::Nothing),
            _ => Err(Fault::Invalid.into()),
        }
    }

    fn of_segment(&mut self, head: Head, element: Range<u64>, data: u64) -> Result<Step, Stop> {
        if head.id_length != ebml::ID_LENGTH_MAX && !matches!(head.id, ids::VOID | ids::CRC_32) {
            return Err(Fault::Invalid.into());
        }
        if element.end > self.segment.end {
            return Err(Fault::Cut.into());
        }
        Ok(self.top_level(head.id, data, element.end - data)?.map_or(Step::Nothing, Step::Event))
    }

    /// `None`: passed over.
    fn top_level(&mut self, id: u32, data: u64, size: u64) -> io::Result<Option<Event>> {
        if !matches!(id, ids::INFO | ids::TRACKS | ids::TAGS | ids::CHAPTERS | ids::CUES) {
            return Ok(None);
        }
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= self.limits.element) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        self.window.read(data, size, &mut bytes)?;
        Ok(match id {
            ids::INFO => Info::parse(&bytes).ok().map(|info| {
                if !self.is_scale_assumed {
                    self.scale_ns = info.timestamp_scale_ns;
                }
                Event::Info(info)
            }),
            ids::TRACKS => Some(Event::Tracks(track::parse_all(&bytes, self.limits.tracks))),
            ids::TAGS => Some(Event::Tags(info::parse_tags(&bytes, self.limits.values))),
            ids::CHAPTERS => Some(Event::Chapters(info::parse_chapters(&bytes, self.limits.values))),
            _ => Some(Event::Cues(cues::parse(&bytes, self.limits.cues))),
        })
    }

    /// A block (RFC 9559 §10.1, §10.2) whose data is that range.
    fn block(&mut self, ticks: u64, element: Range<u64>, data: Range<u64>, is_simple: bool) -> Result<Found, Stop> {
        let length = (data.end - data.start).min(BLOCK_HEAD_MAX) as usize;
        let bytes = self.window.peek(data.start, length)?;
        let (number, number_length, offset, flags) = block_head(bytes).ok_or(Fault::Invalid)?;
        let ticks = ticks.saturating_add_signed(i64::from(offset));
        let timestamp_ns = ticks.checked_mul(self.scale_ns).ok_or(Fault::Invalid)?;
        let block = Block::new(number, timestamp_ns, !is_simple || flags & 0x80 != 0);
        let payload = data.start + number_length as u64 + 3..data.end;
        Ok(Found { block, element, payload, is_laced: flags & 0x06 != 0 })
    }

    fn group(&mut self, ticks: u64, element: Range<u64>, mut at: u64) -> Result<Found, Stop> {
        let mut found: Option<Found> = None;
        let (mut duration_ns, mut padding_ns, mut is_keyframe) = (None, 0, true);
        while at < element.end {
            let head = self.window.head(at)?;
            let begin = at + head.length() as u64;
            let data = begin..begin + head.size.ok_or(Fault::Invalid)?;
            if data.end > element.end {
                return Err(Fault::Invalid.into());
            }
            at = data.end;
            match head.id {
                ids::BLOCK if found.is_none() => found = Some(self.block(ticks, element.clone(), data, false)?),
                ids::BLOCK_DURATION => duration_ns = self.window.uint(data)?.checked_mul(self.scale_ns),
                ids::DISCARD_PADDING => padding_ns = ebml::parse_int(self.window.number(data)?)?,
                ids::REFERENCE_BLOCK => is_keyframe = false,
                _ => {}
            }
        }
        let mut found = found.ok_or(Fault::Invalid)?;
        found.block = Block { is_keyframe, duration_ns, discard_padding_ns: padding_ns, ..found.block };
        Ok(found)
    }

    /// To the next Cluster after the element at `self.at`, or the end.
    fn pass_over(&mut self, fault: Fault) -> io::Result<Event> {
        // A Cluster of which not even the timestamp makes sense is a part of the damage.
        let begin = self.cluster.as_ref().filter(|open| open.ticks.is_none()).map_or(self.at, |open| open.position);
        self.event_at = begin;
        self.close();
        let mut at = begin + 1;
        self.at = loop {
            match self.window.find(&ids::CLUSTER.to_be_bytes(), at, self.segment.end)? {
                None => break self.segment.end,
                Some(place) if self.is_cluster(place)? => break place,
                Some(place) => at = place + 1,
            }
        };
        Ok(Event::Damage(Damage { range: begin..self.at, fault }))
    }

    /// The Cluster is over before what is at `self.at`.
    fn close(&mut self) {
        if self.cluster.take().is_some_and(|open| open.ticks.is_some()) {
            self.closed_at = self.at;
        }
    }

    /// Whether there is a Cluster, and not only four octets like it: its first child is its timestamp.
    fn is_cluster(&mut self, position: u64) -> io::Result<bool> {
        let mut child = || {
            let head = self.window.head(position)?;
            self.window.head(position + head.length() as u64)
        };
        match child() {
            Ok(child) => Ok(child.id == ids::TIMESTAMP && child.size.is_some_and(|size| (1..=8).contains(&size))),
            Err(Stop::Fault(_)) => Ok(false),
            Err(Stop::Io(error)) => Err(error),
        }
    }
}

/// Why there is nothing: because of what is there, or because it cannot be read.
enum Stop {
    Fault(Fault),
    Io(io::Error),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

impl From<Stop> for Error {
    /// Before the Segment.
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fault(_) => Error::NotMatroska,
            Stop::Io(error) => Error::Io(error),
        }
    }
}

enum Step {
    Event(Event),
    Nothing,
    End,
}

/// Track number, its length, ticks from the Cluster, flags. `None`: too short, or no number.
fn block_head(bytes: &[u8]) -> Option<(u32, usize, i16, u8)> {
    let (number, length) = ebml::parse_vint(bytes).ok()?;
    let [high, low, flags] = *bytes.get(length..)?.first_chunk::<3>()?;
    let number = u32::try_from(number).ok().filter(|number| *number > 0)?;
    Some((number, length, i16::from_be_bytes([high, low]), flags))
}

const BLOCK_HEAD_MAX: u64 = 11;
/// Of an EBML header; ours has 40 octets.
const HEADER_MAX: u64 = 4096;

/// A part of a file, brought into memory where it is looked at.
#[derive(Debug)]
struct Window<R> {
    io: R,
    /// Of the file, at the beginning.
    length: u64,
    buffer: Box<[u8]>,
    /// What of the file is in the buffer.
    filled: Range<u64>,
}

/// Large enough for a system call to be worth it, and small enough to skip what is larger.
const WINDOW: usize = 64 * 1024;

impl<R: Read + Seek> Window<R> {
    fn new(mut io: R) -> io::Result<Self> {
        let length = io.seek(SeekFrom::End(0))?;
        Ok(Window { io, length, buffer: vec![0; WINDOW].into_boxed_slice(), filled: 0..0 })
    }

    /// As much as there is at a position, up to so much, which is less than a window.
    fn look(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let end = at.saturating_add(length.min(WINDOW) as u64).min(self.length);
        if at >= end {
            return Ok(&[]);
        }
        if at < self.filled.start || end > self.filled.end {
            self.fill(at, end)?;
        }
        let begin = (at - self.filled.start) as usize;
        let end = (end.min(self.filled.end) - self.filled.start) as usize;
        Ok(self.buffer.get(begin..end).unwrap_or_default())
    }

    /// From `at` at least as far as `end`, if the file goes on as long as it said.
    fn fill(&mut self, at: u64, end: u64) -> io::Result<()> {
        self.filled = at..at;
        self.io.seek(SeekFrom::Start(at))?;
        while self.filled.end < end {
            let have = (self.filled.end - at) as usize;
            match self.io.read(&mut self.buffer[have..]) {
                Ok(0) => break,
                Ok(read) => self.filled.end += read as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.filled.end = self.filled.end.min(self.length);
        Ok(())
    }

    /// Exactly so much.
    fn peek(&mut self, at: u64, length: usize) -> Result<&[u8], Stop> {
        let bytes = self.look(at, length)?;
        if bytes.len() == length { Ok(bytes) } else { Err(Fault::Cut.into()) }
    }

    fn head(&mut self, at: u64) -> Result<Head, Stop> {
        Ok(Head::parse(self.look(at, Head::LENGTH_MAX)?)?)
    }

    /// The data of a number.
    fn number(&mut self, data: Range<u64>) -> Result<&[u8], Stop> {
        let length = data.end - data.start;
        if length > 8 { Err(Fault::Invalid.into()) } else { self.peek(data.start, length as usize) }
    }

    fn uint(&mut self, data: Range<u64>) -> Result<u64, Stop> {
        Ok(ebml::parse_uint(self.number(data)?)?)
    }

    /// Appends so much of the file, of which there is as much. Memory grows with what was read.
    fn read(&mut self, mut at: u64, size: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let bytes = self.look(at, left)?;
            if bytes.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            out.extend_from_slice(bytes);
            (at, left) = (at + bytes.len() as u64, left - bytes.len());
        }
        Ok(())
    }

    /// The first place of four octets that are whole within a range.
    fn find(&mut self, octets: &[u8; 4], mut at: u64, end: u64) -> io::Result<Option<u64>> {
        while at.saturating_add(4) <= end {
            let wanted = (end - at).min(WINDOW as u64) as usize;
            let bytes = self.look(at, wanted)?;
            if bytes.len() < 4 {
                return Ok(None);
            }
            if let Some(place) = bytes.windows(4).position(|four| four == octets) {
                return Ok(Some(at + place as u64));
            }
            at += bytes.len() as u64 - 3;
        }
        Ok(None)
    }
}
