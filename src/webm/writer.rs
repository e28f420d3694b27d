//! A [`Muxer`] and something to write to, kept in step.
//!
//! A block, or several, is one `write_vectored` of what stands around it and of the slices of its payload, which stay where they
//! are. A failed write leaves the file as it was before: the next one begins at the same place, and [`Writer::finish`] works where
//! there is room for the cues. The thing written to is not flushed to disk here.

use std::io::{self, ErrorKind, IoSlice, Seek, SeekFrom, Write};

use super::Error;
use super::muxer::{Block, Config, Frame, Muxer};
use super::track::Track;

/// Slices that are written at once: as many as an array on the stack may take; a system takes 1024.
const SLICES_MAX: usize = 128;

/// Writes a file that can be played at any time.
#[derive(Debug)]
pub struct Writer<W> {
    muxer: Muxer,
    out: W,
    /// Where the next octet goes without seeking. `None`: not known, after a failure.
    at: Option<u64>,
}

impl<W: Write + Seek> Writer<W> {
    /// Writes the head; `out` is empty, or is overwritten from its beginning. `tracks` may be none: others can be added.
    pub fn new(config: Config, tracks: impl IntoIterator<Item = Track>, out: W) -> Result<Self, Error> {
        let mut muxer = Muxer::new(config)?;
        for track in tracks {
            muxer.add_track(track)?;
        }
        let mut writer = Writer { muxer, out, at: None };
        writer.write_head()?;
        Ok(writer)
    }

    /// See there for what can be asked.
    pub fn muxer(&self) -> &Muxer {
        &self.muxer
    }

    /// For names, sizes, tags and chapters; [`write_head`](Self::write_head) puts them into the live file, and finishing does
    /// in any case.
    pub fn muxer_mut(&mut self) -> &mut Muxer {
        &mut self.muxer
    }

    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// Adds a track and writes the head. After an error of writing the track is there, and the head as it was or broken:
    /// [`write_head`](Self::write_head) has to be tried again.
    pub fn add_track(&mut self, track: Track) -> Result<(), Error> {
        self.muxer.add_track(track)?;
        self.write_head()
    }

    /// Writes the head of the live file again, with all that is known.
    pub fn write_head(&mut self) -> Result<(), Error> {
        let head = self.muxer.head();
        Ok(self.overwrite(0, &head)?)
    }

    /// Appends a block whose payload is the slices one after another.
    ///
    /// Errors: as [`Muxer::frame`], and those of writing; after either the file is as before.
    pub fn write_block<'a, P>(&mut self, block: &Block, payload: P) -> Result<(), Error>
    where
        P: IntoIterator<Item = &'a [u8]>,
        P::IntoIter: Clone,
    {
        let mut refused = Ok(());
        self.write_blocks([(*block, payload.into_iter())], |_, why| refused = Err(why))?;
        refused
    }

    /// Appends blocks, all in one go: a system call costs more than what is done about a block otherwise. `refused` hears of those
    /// that no file takes (as [`Muxer::frame`]), by their place; they are left out.
    ///
    /// Errors: those of writing; then none of them is in the file.
    pub fn write_blocks<'a, P>(
        &mut self,
        blocks: impl IntoIterator<Item = (Block, P)>,
        mut refused: impl FnMut(usize, Error),
    ) -> Result<(), Error>
    where
        P: Iterator<Item = &'a [u8]> + Clone,
    {
        let mut frames: Vec<(Frame, P)> = Vec::new();
        for (place, (block, payload)) in blocks.into_iter().enumerate() {
            let size = payload.clone().try_fold(0usize, |size, slice| size.checked_add(slice.len()));
            let pending = frames.iter().map(|(frame, _)| frame);
            let frame = size.ok_or(Error::TooLarge).and_then(|size| self.muxer.frame_after(pending, &block, size));
            match frame {
                Ok(frame) => frames.push((frame, payload)),
                Err(why) => refused(place, why),
            }
        }
        let Some((first, _)) = frames.first() else { return Ok(()) };
        self.seek(first.position())?;
        self.at = None;
        write_slices(&mut self.out, frames.iter().flat_map(|(frame, payload)| around(frame, payload.clone())))?;
        for (frame, _) in &frames {
            self.muxer.commit(frame);
        }
        self.at = Some(self.muxer.position());
        for patch in frames.iter().filter_map(|(frame, _)| frame.patch()) {
            // Only now that another Cluster is there is the last one over. A size that cannot be written stays unknown, which
            // is as good, and what is wrong with the disk the next block will find as well.
            let _ = self.overwrite(patch.position, patch.bytes);
        }
        Ok(())
    }

    /// Fills up to a position, from the beginning of the file, with nothing. Errors: it is less than two octets away.
    pub fn fill_to(&mut self, position: u64) -> Result<(), Error> {
        let size = position.checked_sub(self.muxer.position()).ok_or(Error::Position)?;
        let void = self.muxer.void(size).ok_or(Error::Position)?;
        self.seek(self.muxer.position())?;
        self.at = None;
        self.out.write_all(&void)?;
        io::copy(&mut io::Read::take(io::repeat(0), size - void.len() as u64), &mut self.out)?;
        self.muxer.commit_void(size);
        self.at = Some(self.muxer.position());
        Ok(())
    }

    /// Appends what belongs to the end, then completes the head. Octets of the file: where an earlier write has failed, more
    /// may be in it, to be cut off. After an error it may be called again.
    pub fn finish(&mut self) -> Result<u64, Error> {
        let finish = self.muxer.finish();
        self.seek(self.muxer.position())?;
        self.at = None;
        self.out.write_all(&finish.tail)?;
        for patch in finish.patches() {
            self.overwrite(patch.position, patch.bytes)?;
        }
        self.out.flush()?;
        Ok(finish.length)
    }

    pub fn into_inner(self) -> W {
        self.out
    }

    fn overwrite(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.at = None;
        self.out.seek(SeekFrom::Start(position))?;
        self.out.write_all(bytes)
    }

    fn seek(&mut self, position: u64) -> io::Result<()> {
        if self.at != Some(position) {
            self.at = None;
            self.out.seek(SeekFrom::Start(position))?;
            self.at = Some(position);
        }
        Ok(())
    }
}

/// A payload, and what stands around it.
fn around<'f, 'a: 'f>(frame: &'f Frame, payload: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'f [u8]> {
    // The annotation lets the payload's slices be of the shorter life of what stands around them.
    let payload = payload.map(|slice: &'a [u8]| -> &'f [u8] { slice });
    [frame.prefix()].into_iter().chain(payload).chain([frame.suffix()])
}

/// All of them, in as few calls as they fit into.
fn write_slices<'a>(out: &mut impl Write, slices: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut slices = slices.filter(|slice| !slice.is_empty()).peekable();
    while slices.peek().is_some() {
        let mut batch = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (place, slice) in batch.iter_mut().zip(std::iter::from_fn(|| slices.next())) {
            *place = IoSlice::new(slice);
            count += 1;
        }
        let mut left = &mut batch[..count];
        while !left.is_empty() {
            match out.write_vectored(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
