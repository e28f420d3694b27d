//! Octets of files for those who download them: two threads that open files and read pieces of them, so that no event loop waits
//! for a disk; and some more for what only a store has, so that no disk waits for a network. They know neither connections nor
//! recordings.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::remote;
use super::store::Store;
use crate::base::queue::{Full, Sender, bounded};
use crate::recording::library::{PIECE_MAX, Piece, Read, ReadFrom, Unreadable};

/// The running threads. They end when all senders are gone.
pub struct Files {
    queue: Sender<Read>,
}

impl Files {
    pub fn start() -> io::Result<Files> {
        Files::start_with(None)
    }

    /// The same, and reads what only the store has.
    pub fn start_with(store: Option<Arc<dyn Store>>) -> io::Result<Files> {
        let (queue, reads) = bounded::<Read>(QUEUE);
        let remote = store.map(start_remote).transpose()?;
        let reads = Arc::new(Mutex::new(reads));
        for number in 0..THREADS {
            let (reads, remote) = (reads.clone(), remote.clone());
            thread::Builder::new().name(format!("files-{number}")).spawn(move || {
                work(&reads, |Read { from, offset, length, reply }| match from {
                    ReadFrom::Remote { .. } | ReadFrom::Stream(_) => {
                        let read = Read { from, offset, length, reply };
                        let sent = match &remote {
                            Some(remote) => remote.try_send(read),
                            None => Err(Full(read)),
                        };
                        if let Err(Full(Read { reply, .. })) = sent {
                            reply(Err(Unreadable::Failed));
                        }
                    }
                    ReadFrom::Path(_) | ReadFrom::Open(_) => reply(read(from, offset, length)),
                });
            })?;
        }
        Ok(Files { queue })
    }

    /// For whoever has something to read. Full: it is to be tried again.
    pub fn sender(&self) -> Sender<Read> {
        self.queue.clone()
    }
}

fn start_remote(store: Arc<dyn Store>) -> io::Result<Sender<Read>> {
    let (queue, reads) = bounded::<Read>(QUEUE);
    let reads = Arc::new(Mutex::new(reads));
    for number in 0..REMOTE_THREADS {
        let (reads, store) = (reads.clone(), store.clone());
        thread::Builder::new().name(format!("files-remote-{number}")).spawn(move || {
            work(&reads, |Read { from, offset, length, reply }| {
                reply(remote::read(&store, from, offset, length));
            });
        })?;
    }
    Ok(queue)
}

fn work(reads: &Mutex<Receiver<Read>>, mut answer: impl FnMut(Read)) {
    loop {
        // One waits for what comes, the other for its turn to wait.
        let next = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(next) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| answer(next))).is_err() {
            tracing::error!("a thread that reads files panicked, and goes on");
        }
    }
}

fn read(from: ReadFrom, offset: u64, length: usize) -> Result<Piece, Unreadable> {
    let result = match &from {
        ReadFrom::Path(path) => open(path).and_then(|file| Ok((piece(&file, offset, length)?, Arc::new(file.into())))),
        ReadFrom::Open(open) => piece(&borrowed(open), offset, length).map(|octets| (octets, open.clone())),
        ReadFrom::Remote { .. } | ReadFrom::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    match result {
        Ok((octets, file)) => Ok(Piece { octets, from: ReadFrom::Open(file) }),
        Err(error) => {
            match from {
                ReadFrom::Path(path) => tracing::warn!(path = %path.display(), %error, "a file cannot be read"),
                _ => tracing::warn!(offset, %error, "a file cannot be read to its end"),
            }
            Err(if error.kind() == io::ErrorKind::NotFound { Unreadable::Missing } else { Unreadable::Failed })
        }
    }
}

/// Only what is a file itself: no link, and nothing that blocks until somebody writes.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a file")) }
}

/// The same descriptor with the methods of a file.
fn borrowed(open: &OwnedFd) -> ManuallyDrop<File> {
    // SAFETY: the descriptor is open as long as `open`, which the caller holds while it uses this, and is never closed by it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(open.as_raw_fd()) })
}

fn piece(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; length.min(PIECE_MAX)];
    file.read_exact_at(&mut octets, offset)?;
    Ok(octets)
}

/// As many disks as are read at once. More would help only where they are slow each for itself.
const THREADS: usize = 2;
/// Each reads one stream at a time, and gives it back after a piece.
const REMOTE_THREADS: usize = 4;
/// Pieces that wait, of either kind.
const QUEUE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::time::Duration;

    type Answer = Result<Piece, Unreadable>;

    fn ask(files: &Files, from: ReadFrom, offset: u64, length: usize) -> Answer {
        let (send, answer) = mpsc::channel();
        let reply = Box::new(move |piece| send.send(piece).unwrap());
        let asked = files.sender().try_send(Read { from, offset, length, reply });
        assert!(matches!(asked, Ok(())), "the queue has room");
        answer.recv_timeout(Duration::from_secs(10)).expect("an answer")
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("webrtc-engine-files-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn pieces_of_a_file() {
        let directory = directory("pieces");
        let path = directory.join("a");
        let content: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let files = Files::start().unwrap();
        let first = ask(&files, ReadFrom::Path(path.clone()), 0, 10).unwrap();
        assert_eq!(first.octets, content[..10]);
        // The file that was opened is read on, also when its name is gone.
        std::fs::remove_file(&path).unwrap();
        let open = first.from;
        assert_eq!(ask(&files, open.clone(), 99_000, 1_000).unwrap().octets, content[99_000..]);
        assert_eq!(ask(&files, open, 99_001, 1_000).unwrap_err(), Unreadable::Failed, "it is shorter");
        assert_eq!(ask(&files, ReadFrom::Path(path), 0, 10).unwrap_err(), Unreadable::Missing);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn only_files() {
        let directory = directory("only");
        std::fs::write(directory.join("a"), "secret").unwrap();
        std::os::unix::fs::symlink(directory.join("a"), directory.join("link")).unwrap();
        let files = Files::start().unwrap();
        for path in [directory.join("link"), directory.clone()] {
            assert_eq!(ask(&files, ReadFrom::Path(path), 0, 1).unwrap_err(), Unreadable::Failed);
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_full_queue_gives_back_and_a_panic_ends_nothing() {
        let files = Files::start().unwrap();
        let (held, gate) = (mpsc::channel::<()>(), mpsc::channel::<()>());
        let gates = Arc::new(Mutex::new(gate.1));
        let missing = || ReadFrom::Path(PathBuf::from("/nonexistent/file"));
        for _ in 0..THREADS {
            let (gates, begun) = (gates.clone(), held.0.clone());
            let reply = Box::new(move |_| {
                begun.send(()).unwrap();
                let _ = gates.lock().unwrap().recv();
                panic!("as a bug would");
            });
            assert!(files.sender().try_send(Read { from: missing(), offset: 0, length: 1, reply }).is_ok());
        }
        for _ in 0..THREADS {
            held.1.recv_timeout(Duration::from_secs(10)).expect("both are at work");
        }
        let read = || Read { from: missing(), offset: 0, length: 1, reply: Box::new(|_| {}) };
        for _ in 0..QUEUE {
            assert!(files.sender().try_send(read()).is_ok());
        }
        assert!(matches!(files.sender().try_send(read()), Err(Full(_))));
        drop(gate.0);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while files.sender().try_send(read()).is_err() {
            assert!(std::time::Instant::now() < until, "they go on");
            thread::yield_now();
        }
    }
}
