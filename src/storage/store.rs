//! What an upload asks of a store of objects, whichever it is. Everything blocks, on threads of jobs.
//!
//! A store is told keys, which are paths with `/` below its prefix (`<callId>/<recordingId>/<name>`). Whatever goes wrong is a
//! [`Fault`], which says whether to try again, and whose text holds no secret.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Octets of a file on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    pub path: &'a Path,
    pub offset: u64,
    pub length: u64,
}

/// What an object is to be.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    pub key: &'a str,
    pub content_type: &'a str,
}

/// A multipart upload under way, as the store knows it. Kept in the database, so it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadId {
    pub id: String,
    /// Vercel Blob names the object of an upload by another key than its path.
    pub object: Option<String>,
}

/// A part that the store has, as it is to be named at completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTag {
    /// From 1.
    pub number: u32,
    pub etag: String,
    pub size: u64,
    /// Checksum in the store's own kind, base64, where it has one.
    pub checksum: Option<String>,
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub size: u64,
    pub etag: String,
    /// The store's checksum of the whole, as it says it (S3: composite; GCS: crc32c); to be compared by [`Store::agrees`].
    pub checksum: Option<String>,
    /// Where it is, to be shown and kept: `s3://bucket/key`, `gs://bucket/key`, or a Vercel Blob URL. Not signed.
    pub url: String,
}

/// What was sent, for comparison with what is there.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    pub size: u64,
    pub path: &'a Path,
    /// Empty: it was one put.
    pub parts: &'a [PartTag],
    /// The answer to the put or completion, where it was heard.
    pub etag: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Key, token or account is not accepted.
    Credentials,
    /// This machine's clock is too far off.
    Clock,
    /// There is no such bucket or store, or it is suspended.
    Bucket,
    /// The bucket is in another region.
    Region,
    /// Not reached, broken off, or too slow.
    Network,
    /// The certificate is not trusted.
    Tls,
    /// Come back later.
    Throttled,
    /// 5xx.
    Server,
    /// There is no such object or upload (any more).
    Missing,
    /// What arrived is not what was sent.
    Corrupt,
    /// A file here cannot be read.
    Local,
    /// Anything else that is refused.
    Refused,
}

impl FaultKind {
    /// What to look at, in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            FaultKind::Credentials => "credentials",
            FaultKind::Clock => "clock",
            FaultKind::Bucket => "bucket",
            FaultKind::Region => "region",
            FaultKind::Network => "network",
            FaultKind::Tls => "certificate",
            FaultKind::Throttled => "throttled",
            FaultKind::Server => "store",
            FaultKind::Missing => "missing",
            FaultKind::Corrupt => "corrupt",
            FaultKind::Local => "local file",
            FaultKind::Refused => "refused",
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// One line for people, without secrets, signatures or tokens.
    pub text: String,
    /// The store has said when.
    pub retry_after: Option<Duration>,
}

impl Fault {
    pub fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Fault { kind, text: text.into(), retry_after: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

/// One of the providers, for all recordings. Shared by the threads that upload, download and delete.
pub trait Store: Send + Sync {
    /// `s3`, `gcs`, `vercel-blob`.
    fn provider(&self) -> &'static str;
    /// Octets of every part but the last. Constant for a configuration.
    fn part_size(&self) -> u64;

    /// The whole object in one request, over what was there.
    fn put(&self, object: Object<'_>, from: Range<'_>) -> Result<Stored, Fault>;

    fn create(&self, object: Object<'_>) -> Result<UploadId, Fault>;
    /// Sends a part, again over an earlier one of the same number.
    fn part(&self, object: Object<'_>, upload: &UploadId, number: u32, from: Range<'_>) -> Result<PartTag, Fault>;
    /// Parts ascend. Some stores answer 200 and an error in the body; that is a fault here.
    fn complete(&self, object: Object<'_>, upload: &UploadId, parts: &[PartTag]) -> Result<Stored, Fault>;
    /// No error when there is none any more. Where the store has no abort, nothing.
    fn abort(&self, object: Object<'_>, upload: &UploadId) -> Result<(), Fault>;

    /// `None`: there is no such object.
    fn head(&self, key: &str) -> Result<Option<Stored>, Fault>;
    /// Whether the object that is there is what was sent: size and checksum; reads it back where the store tells none.
    fn agrees(&self, key: &str, sent: Sent<'_>) -> Result<bool, Fault>;
    /// No error when it is not there.
    fn delete(&self, key: &str) -> Result<(), Fault>;

    /// A URL by which anybody can read the object so long. `None`: this store's objects go through the server.
    fn signed_url(&self, key: &str, name: &str, valid: Duration) -> Result<Option<String>, Fault>;
    /// Octets `offset..offset + length` of the object.
    fn read(&self, key: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault>;
}
