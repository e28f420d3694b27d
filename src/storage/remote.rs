//! Octets of objects for those who download them: sent to the store where it signs URLs, else read from it piece by piece.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::store::{Fault, FaultKind, Store};
use crate::recording::library::{PIECE_MAX, Piece, ReadFrom, Remote, Stream, Unreadable};

/// A piece of an object; the first of one that can be had from elsewhere is where.
pub fn read(store: &Arc<dyn Store>, from: ReadFrom, offset: u64, length: usize) -> Result<Piece, Unreadable> {
    let stream = match from {
        ReadFrom::Remote { remote, name, rest } => {
            if remote.provider != store.provider() {
                tracing::warn!(url = remote.url, configured = store.provider(), "a file is in another store");
                return Err(Unreadable::Failed);
            }
            match store.signed_url(&remote.key, &name, URL_VALID) {
                Ok(Some(url)) => return Err(Unreadable::Elsewhere(url)),
                Ok(None) => {}
                Err(fault) => return Err(unreadable(&remote.url, &fault)),
            }
            let (store, end) = (store.clone(), offset.saturating_add(rest));
            Arc::new(Object { store, remote: *remote, end, open: Mutex::new(None) })
        }
        ReadFrom::Stream(stream) => stream,
        ReadFrom::Path(_) | ReadFrom::Open(_) => return Err(Unreadable::Failed),
    };
    let mut octets = vec![0; length.min(PIECE_MAX)];
    stream.read(offset, &mut octets)?;
    Ok(Piece { octets, from: ReadFrom::Stream(stream) })
}

/// One that is being read.
struct Object {
    store: Arc<dyn Store>,
    remote: Remote,
    /// Where reading ends, of the file.
    end: u64,
    /// What comes next, and where in the file that is; `None` after a failure.
    open: Mutex<Option<(u64, Box<dyn Read + Send>)>>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("remote", &self.remote).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Stream for Object {
    fn read(&self, offset: u64, octets: &mut [u8]) -> Result<(), Unreadable> {
        // A stream that nobody has read from for a while may be closed.
        let read = match self.fill(offset, octets) {
            Err(fault) if fault.kind != FaultKind::Missing => self.fill(offset, octets),
            read => read,
        };
        read.map_err(|fault| unreadable(&self.remote.url, &fault))
    }
}

impl Object {
    fn fill(&self, offset: u64, octets: &mut [u8]) -> Result<(), Fault> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = match open.take() {
            Some((at, reader)) if at == offset => reader,
            _ => self.store.read(&self.remote.key, offset, self.end.saturating_sub(offset))?,
        };
        reader.read_exact(octets).map_err(|error| Fault::new(FaultKind::Network, error.to_string()))?;
        let at = offset + octets.len() as u64;
        // What has nothing more to say goes at once.
        *open = (at < self.end).then_some((at, reader));
        Ok(())
    }
}

fn unreadable(url: &str, fault: &Fault) -> Unreadable {
    tracing::warn!(url, %fault, "a file of the store cannot be read");
    if fault.kind == FaultKind::Missing { Unreadable::Missing } else { Unreadable::Failed }
}

/// Whoever is sent to the store has to be there by then.
const URL_VALID: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::super::upload::fake::{Fake, Fate};
    use super::*;
    use crate::storage::store::{self, Range};

    fn store(content: &[u8]) -> Arc<Fake> {
        let scratch = Scratch::new("remote");
        let path = scratch.path().join("file");
        std::fs::write(&path, content).expect("room");
        let store = Fake::new(1000);
        let object = store::Object { key: "call/r/a.webm", content_type: "video/webm" };
        store.put(object, Range { path: &path, offset: 0, length: content.len() as u64 }).expect("a store");
        Arc::new(store)
    }

    fn from(rest: u64) -> ReadFrom {
        let remote =
            Remote { provider: "fake".into(), key: "call/r/a.webm".into(), url: "fake://x".into(), is_only: true };
        ReadFrom::Remote { remote: Box::new(remote), name: "a.webm".into(), rest }
    }

    #[test]
    fn a_stream_is_opened_once_and_again_when_it_breaks() {
        let content: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        let store = store(&content);
        let of: Arc<dyn Store> = store.clone();
        let mut piece = read(&of, from(9_000), 1_000, 500).expect("a piece");
        assert_eq!(piece.octets, content[1_000..1_500]);
        for at in (1_500..10_000).step_by(500) {
            piece = read(&of, piece.from, at as u64, 500).expect("a piece");
            assert_eq!(piece.octets, content[at..at + 500]);
        }
        assert_eq!(store.count("read"), 1);
        // Elsewhere than it was: it is opened there.
        piece = read(&of, piece.from, 2_000, 10).expect("a piece");
        assert_eq!((piece.octets.as_slice(), store.count("read")), (&content[2_000..2_010], 2));
        // One that breaks off is tried once more, and no further.
        let failures = store.calls() + 1;
        store.plan(move |number, _| match number == failures {
            true => Fate::Before(Fault::new(FaultKind::Network, "reset")),
            false => Fate::Fine,
        });
        assert!(read(&of, piece.from, 3_000, 10).is_ok());
        store.plan(|_, _| Fate::Before(Fault::new(FaultKind::Network, "reset")));
        assert_eq!(read(&of, from(10), 0, 10).expect_err("a fault"), Unreadable::Failed);
        store.heal();
        assert_eq!(read(&of, from(99), 9_990, 20).expect_err("it is shorter"), Unreadable::Failed);
        store.delete("call/r/a.webm").expect("a store");
        assert_eq!(read(&of, from(10), 0, 10).expect_err("it is gone"), Unreadable::Missing);
    }

    #[test]
    fn who_can_be_sent_elsewhere_is() {
        let mut store = Fake::new(1000);
        store.signs = true;
        let of: Arc<dyn Store> = Arc::new(store);
        let Err(Unreadable::Elsewhere(url)) = read(&of, from(3), 0, 3) else { panic!("not read here") };
        assert_eq!(url, "https://fake.example/call/r/a.webm?name=a.webm&valid=300&signature=s");
        let ReadFrom::Remote { remote, name, rest } = from(3) else { panic!("as made") };
        let other = ReadFrom::Remote { remote: Box::new(Remote { provider: "s3".into(), ..*remote }), name, rest };
        assert_eq!(read(&of, other, 0, 3).expect_err("not ours"), Unreadable::Failed);
    }
}
