//! A store in memory, for tests: it fails when it is told to, before or after it has done what it was asked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::recording::names;
use crate::recording::upload::{Upload, What};
use crate::storage::store::{Fault, FaultKind, Object, PartTag, Range, Sent, Store, Stored, UploadId};

/// See the module's documentation.
pub struct Fake {
    part_size: u64,
    /// URLs are signed by those that can.
    pub signs: bool,
    inner: Mutex<Inner>,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// Nothing was done.
    Before(Fault),
    /// It was done, and nobody hears of it.
    After(Fault),
}

type Plan = Box<dyn FnMut(u64, &'static str) -> Fate + Send>;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Vec<u8>>,
    /// By id: the key, and the parts.
    uploads: BTreeMap<String, (String, BTreeMap<u32, Vec<u8>>)>,
    ids: u64,
    calls: u64,
    /// What was asked, by word.
    counts: BTreeMap<&'static str, u64>,
    /// Asked for the number of each call, from 1, and what it is.
    plan: Option<Plan>,
}

impl Fake {
    pub fn new(part_size: u64) -> Fake {
        Fake { part_size, signs: false, inner: Mutex::default() }
    }

    pub fn plan(&self, plan: impl FnMut(u64, &'static str) -> Fate + Send + 'static) {
        self.inner().plan = Some(Box::new(plan));
    }

    /// Everything works from here on.
    pub fn heal(&self) {
        self.inner().plan = None;
    }

    pub fn calls(&self) -> u64 {
        self.inner().calls
    }

    pub fn count(&self, what: &str) -> u64 {
        self.inner().counts.get(what).copied().unwrap_or(0)
    }

    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.inner().objects.clone()
    }

    /// Multipart uploads that are not over, and how many parts each has.
    pub fn uploads(&self) -> Vec<(String, usize)> {
        self.inner().uploads.iter().map(|(id, (_, parts))| (id.clone(), parts.len())).collect()
    }

    /// Somebody, or a rule of the store, has taken all uploads away.
    pub fn lose_uploads(&self) {
        self.inner().uploads.clear();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, what: &'static str, work: impl FnOnce(&mut Inner) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut inner = self.inner();
        inner.calls += 1;
        *inner.counts.entry(what).or_default() += 1;
        let number = inner.calls;
        match inner.plan.as_mut().map_or(Fate::Fine, |plan| plan(number, what)) {
            Fate::Fine => work(&mut inner),
            Fate::Before(fault) => Err(fault),
            Fate::After(fault) => work(&mut inner).and(Err(fault)),
        }
    }
}

/// Writes down what is to be written down, as the database does it.
pub fn apply(saved: &mut Option<Upload>, what: What) {
    let (What::Head(head) | What::File(head, _) | What::Part(head, ..) | What::Forget(head, _)) = &what else {
        *saved = None;
        return;
    };
    let upload = saved.get_or_insert_with(|| Upload { head: head.clone(), files: Vec::new() });
    upload.head = head.clone();
    match what {
        What::Head(_) | What::Remove => {}
        What::File(_, file) => {
            upload.files.retain(|known| known.name != file.name);
            upload.files.push(file);
            upload.files.sort_by(|a, b| a.name.cmp(&b.name));
        }
        What::Part(_, name, part) => {
            let file =
                upload.files.iter_mut().find(|file| file.name == name).expect("a file is there before its parts");
            file.parts.retain(|known| known.number != part.number);
            file.parts.push(part);
            file.parts.sort_by_key(|part| part.number);
        }
        What::Forget(_, name) => upload.files.retain(|known| known.name != name),
    }
}

fn octets(range: Range<'_>) -> Result<Vec<u8>, Fault> {
    let read = || {
        let mut file = File::open(range.path)?;
        file.seek(SeekFrom::Start(range.offset))?;
        let mut octets = Vec::new();
        file.take(range.length).read_to_end(&mut octets)?;
        Ok(octets)
    };
    let octets = read().map_err(|error: std::io::Error| Fault::new(FaultKind::Local, error.to_string()))?;
    match octets.len() as u64 == range.length {
        true => Ok(octets),
        false => Err(Fault::new(FaultKind::Local, "it is shorter")),
    }
}

fn etag(octets: &[u8]) -> String {
    names::hex(&openssl::sha::sha256(octets)[..8])
}

fn stored(key: &str, octets: &[u8]) -> Stored {
    Stored { size: octets.len() as u64, etag: etag(octets), checksum: None, url: format!("fake://bucket/{key}") }
}

fn missing() -> Fault {
    Fault::new(FaultKind::Missing, "there is none")
}

impl Store for Fake {
    fn provider(&self) -> &'static str {
        "fake"
    }

    fn part_size(&self) -> u64 {
        self.part_size
    }

    fn put(&self, object: Object<'_>, from: Range<'_>) -> Result<Stored, Fault> {
        let octets = octets(from)?;
        self.call("put", |inner| {
            let stored = stored(object.key, &octets);
            inner.objects.insert(object.key.to_owned(), octets);
            Ok(stored)
        })
    }

    fn create(&self, object: Object<'_>) -> Result<UploadId, Fault> {
        self.call("create", |inner| {
            inner.ids += 1;
            let id = format!("upload-{}", inner.ids);
            inner.uploads.insert(id.clone(), (object.key.to_owned(), BTreeMap::new()));
            Ok(UploadId { id, object: None })
        })
    }

    fn part(&self, _object: Object<'_>, upload: &UploadId, number: u32, from: Range<'_>) -> Result<PartTag, Fault> {
        let octets = octets(from)?;
        self.call("part", |inner| {
            let (_, parts) = inner.uploads.get_mut(&upload.id).ok_or_else(missing)?;
            let tag = PartTag { number, etag: etag(&octets), size: octets.len() as u64, checksum: None };
            parts.insert(number, octets);
            Ok(tag)
        })
    }

    fn complete(&self, object: Object<'_>, upload: &UploadId, parts: &[PartTag]) -> Result<Stored, Fault> {
        let part_size = self.part_size;
        self.call("complete", |inner| {
            let (key, sent) = inner.uploads.get(&upload.id).ok_or_else(missing)?;
            assert_eq!(key, object.key, "an upload is of one object");
            let mut octets = Vec::new();
            let mut last = 0;
            for (place, tag) in parts.iter().enumerate() {
                let part = sent.get(&tag.number).filter(|part| etag(part) == tag.etag);
                let part = part.ok_or_else(|| Fault::new(FaultKind::Refused, "no such part"))?;
                assert!(tag.number > last, "parts ascend");
                last = tag.number;
                let is_last = place + 1 == parts.len();
                assert!(part.len() as u64 == part_size || is_last, "parts are of one size");
                octets.extend_from_slice(part);
            }
            inner.uploads.remove(&upload.id);
            let stored = stored(object.key, &octets);
            inner.objects.insert(object.key.to_owned(), octets);
            Ok(stored)
        })
    }

    fn abort(&self, _object: Object<'_>, upload: &UploadId) -> Result<(), Fault> {
        self.call("abort", |inner| {
            inner.uploads.remove(&upload.id);
            Ok(())
        })
    }

    fn head(&self, key: &str) -> Result<Option<Stored>, Fault> {
        self.call("head", |inner| Ok(inner.objects.get(key).map(|octets| stored(key, octets))))
    }

    fn agrees(&self, key: &str, sent: Sent<'_>) -> Result<bool, Fault> {
        let local = octets(Range { path: sent.path, offset: 0, length: sent.size })?;
        self.call("agrees", |inner| inner.objects.get(key).map(|octets| *octets == local).ok_or_else(missing))
    }

    fn delete(&self, key: &str) -> Result<(), Fault> {
        self.call("delete", |inner| {
            inner.objects.remove(key);
            Ok(())
        })
    }

    fn signed_url(&self, key: &str, name: &str, valid: Duration) -> Result<Option<String>, Fault> {
        let url = format!("https://fake.example/{key}?name={name}&valid={}&signature=s", valid.as_secs());
        self.call("sign", |_| Ok(self.signs.then_some(url)))
    }

    fn read(&self, key: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault> {
        self.call("read", |inner| {
            let octets = inner.objects.get(key).ok_or_else(missing)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(octets.len());
            let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(octets.len());
            let read: Box<dyn Read + Send> = Box::new(Cursor::new(octets[from..to].to_vec()));
            Ok(read)
        })
    }
}
