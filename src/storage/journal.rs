//! `manifest.jsonl` on disk: lines are written at once, and one owner at a time has it locked.
//!
//! Whoever has the journal of a recording may write its files: the thread that records, then the one that finishes, a repair
//! after a crash. Another process, or a second repair, finds it locked and leaves all of it alone.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use super::disk;
use crate::recording::manifest::{Begin, Line, State};
use crate::recording::names;

/// Lines that grow, and what they say so far.
#[derive(Debug)]
pub struct Journal {
    file: Arc<File>,
    state: State,
    lines: u64,
    /// The last line has no end: somebody was killed while writing it, or the disk was full.
    is_cut: bool,
}

/// Why there is none.
#[derive(Debug)]
pub enum OpenError {
    /// Somebody else writes it.
    Locked,
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        OpenError::Io(error)
    }
}

impl Journal {
    /// Makes the file with its first line, and keeps it locked. It has its name only then: nobody finds it without the lock.
    pub fn create(directory: &Path, begin: Begin) -> io::Result<Journal> {
        let name = directory.join(names::MANIFEST);
        if name.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let temporary = disk::temporary(directory, names::MANIFEST);
        let file = File::options().append(true).create_new(true).open(&temporary)?;
        lock(&file).map_err(|error| match error {
            OpenError::Locked => io::ErrorKind::WouldBlock.into(),
            OpenError::Io(error) => error,
        })?;
        let mut journal = Journal { file: Arc::new(file), state: State::default(), lines: 0, is_cut: false };
        journal.write(&Line::Begin(begin))?;
        journal.file.sync_all()?;
        fs::rename(&temporary, &name)?;
        disk::sync_dir(directory);
        Ok(journal)
    }

    /// Reads what is there, to go on with it.
    pub fn open(directory: &Path) -> Result<Journal, OpenError> {
        let mut file = File::options().read(true).append(true).open(directory.join(names::MANIFEST))?;
        lock(&file)?;
        let state = State::read(BufReader::new(&file))?;
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Journal { file: Arc::new(file), state, lines: 0, is_cut: last != [b'\n'] })
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// For whoever sees to it that it reaches the disk.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// In the state it is even when it could not be written. When there are too many lines, those that nothing depends on are
    /// left out.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        if self.lines >= LINES_MAX && !line.is_essential() {
            return Ok(());
        }
        self.lines += 1;
        self.state.apply(line);
        let mut bytes = line.encode();
        if self.is_cut {
            bytes.insert(0, b'\n');
        }
        self.is_cut = true;
        (&*self.file).write_all(&bytes)?;
        self.is_cut = false;
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn lock(file: &File) -> Result<(), OpenError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::Locked,
        TryLockError::Error(error) => OpenError::Io(error),
    })
}

/// In one go of the server; a day of a busy call is a tenth.
const LINES_MAX: u64 = 500_000;

#[cfg(test)]
mod tests {
    use super::super::tests::{Scratch, begin_line};
    use super::*;
    use crate::recording::manifest::{Joined, SourceEnded};

    #[test]
    fn one_owner_at_a_time() {
        let scratch = Scratch::new("journal");
        let journal = Journal::create(scratch.path(), begin_line()).expect("a journal");
        assert!(matches!(Journal::open(scratch.path()), Err(OpenError::Locked)));
        assert!(Journal::create(scratch.path(), begin_line()).is_err());
        drop(journal);
        let journal = Journal::open(scratch.path()).expect("it is free");
        assert_eq!(journal.state().begin, Some(begin_line()));
        drop(journal);
        let other = Scratch::new("journal-none");
        assert!(matches!(Journal::open(other.path()), Err(OpenError::Io(_))));
    }

    #[test]
    fn a_line_that_was_cut_spoils_no_other() {
        let scratch = Scratch::new("journal-cut");
        let joined = Joined { at_ms: 0, wall_ms: 0, user: "ann".into(), name: None, role: "host".into() };
        let mut journal = Journal::create(scratch.path(), begin_line()).expect("a journal");
        journal.write(&Line::Joined(joined.clone())).expect("room");
        drop(journal);
        let path = scratch.path().join(names::MANIFEST);
        let length = fs::metadata(&path).expect("a file").len();
        File::options().write(true).open(&path).and_then(|file| file.set_len(length - 4)).expect("it can be cut");
        let mut journal = Journal::open(scratch.path()).expect("a journal");
        assert_eq!((journal.state().presences.len(), journal.state().unknown), (0, 1));
        journal.write(&Line::Joined(joined)).expect("room");
        journal.write(&Line::SourceEnded(SourceEnded { at_ms: 0, source: 1 })).expect("room");
        let state = journal.state().clone();
        drop(journal);
        let journal = Journal::open(scratch.path()).expect("a journal");
        assert_eq!((journal.state(), state.presences.len()), (&state, 1));
    }
}
