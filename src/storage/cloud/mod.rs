//! Stores of objects: S3 and those like it, Google Cloud Storage, Vercel Blob, each behind [`Store`].
//!
//! - `s3`, `gcs` with `google`, `vercel_blob`: the providers
//! - `bucket`, `xml`: what the first two have in common
//! - `http`, `tcp`: requests, with bounds on time and size; what goes wrong as a [`Fault`]
//! - `checksum`: of files, in the kinds that stores know
//!
//! Nothing is tried twice here but a request of GCS with a token that was fresh a moment ago: whoever uploads knows when to
//! come back.

mod bucket;
mod checksum;
mod gcs;
mod google;
mod http;
mod s3;
mod tcp;
mod vercel_blob;
mod xml;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use tcp::Timeouts;

use super::store::{Fault, FaultKind, Object, Range, Sent, Store};
use crate::config::{Config, ConfigError, Secret, StorageProvider};

/// The store that is configured. `None`: recordings stay here. The error is one line that names the key.
pub fn open(config: &Config) -> Result<Option<Arc<dyn Store>>, ConfigError> {
    open_with(config, Timeouts::default())
}

/// [`open`] with other patience.
pub fn open_with(config: &Config, timeouts: Timeouts) -> Result<Option<Arc<dyn Store>>, ConfigError> {
    let recording = &config.recording;
    let part_size = part_size(config.limits.recording_size);
    let http = |secrets: &[&Option<Secret>]| {
        let secrets = secrets.iter().filter_map(|secret| (*secret).clone()).collect();
        http::Http::new(config.server.tls_ca_file.as_deref(), timeouts, secrets)
            .map_err(|line| ConfigError::new(format!("TLS_CA_FILE: {line}")))
    };
    Ok(match recording.provider {
        StorageProvider::Local => None,
        StorageProvider::S3 => {
            let http = http(&[&recording.s3_secret_access_key, &recording.s3_session_token])?;
            Some(Arc::new(s3::S3::new(recording, part_size, http)?))
        }
        StorageProvider::Gcs => Some(Arc::new(gcs::Gcs::new(recording, part_size, http(&[])?)?)),
        StorageProvider::VercelBlob => {
            let http = http(&[&recording.blob_token])?;
            Some(Arc::new(vercel_blob::VercelBlob::new(recording, part_size, http)?))
        }
    })
}

/// Writes, reads back and deletes a small object. The fault names the cause. A file of `directory` is what is sent.
pub fn check(store: &dyn Store, directory: &Path) -> Result<(), Fault> {
    let name = format!("webrtc-engine-check-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let path = directory.join(&name);
    let content = format!("{name}: written to see whether recordings can be stored here\n");
    std::fs::write(&path, &content).map_err(|error| http::local(&path, &error))?;
    let result = check_with(store, &name, &path, content.as_bytes());
    let _ = std::fs::remove_file(&path);
    result
}

fn check_with(store: &dyn Store, key: &str, path: &Path, content: &[u8]) -> Result<(), Fault> {
    let size = content.len() as u64;
    let step = |step: &'static str| move |fault: Fault| Fault { text: format!("{step}: {}", fault.text), ..fault };
    let object = Object { key, content_type: "text/plain" };
    let stored = store.put(object, Range { path, offset: 0, length: size }).map_err(step("write"))?;
    let mut read = Vec::new();
    let whole = store.read(key, 0, size).map_err(step("read back"))?;
    let broken = |_| Fault::new(FaultKind::Network, "read back: it broke off");
    whole.take(size).read_to_end(&mut read).map_err(broken)?;
    let sent = Sent { size, path, parts: &[], etag: Some(&stored.etag) };
    let agrees = store.agrees(key, sent).map_err(step("compare"))?;
    store.delete(key).map_err(step("delete"))?;
    if !agrees || read != content {
        return Err(Fault::new(FaultKind::Corrupt, "read back: it is not what was written"));
    }
    match store.head(key).map_err(step("look after it was deleted"))? {
        None => Ok(()),
        Some(_) => Err(Fault::new(FaultKind::Refused, "delete: the object is still there")),
    }
}

/// So that a recording of the greatest size has no more parts than any store allows.
fn part_size(recording_size_max: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    recording_size_max.div_ceil(PARTS_MAX).div_ceil(MIB).saturating_mul(MIB).max(PART_SIZE_MIN)
}

/// The name of an object below a prefix. URLs, and so stores, make others of names with `.` or empty segments.
fn object_key(prefix: &str, key: &str) -> Result<String, Fault> {
    let prefix = prefix.trim_matches('/');
    let whole = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
    let is_odd = |segment: &str| matches!(segment, "" | "." | "..") || segment.chars().any(char::is_control);
    if whole.len() > KEY_MAX || whole.split('/').any(is_odd) {
        return Err(Fault::new(FaultKind::Refused, "a name that no object can have"));
    }
    Ok(whole)
}

/// As in URLs: all but what RFC 3986 leaves alone, and `/` where it separates.
fn encoded(text: &str, keeps_slashes: bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b'/' if keeps_slashes => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// `Content-Disposition` for who follows a signed URL: shown where it can be, saved under the name.
fn disposition(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._ ".contains(c);
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if plain == name {
        return format!("inline; filename=\"{plain}\"");
    }
    format!("inline; filename=\"{plain}\"; filename*=UTF-8''{}", encoded(name, false))
}

fn size_here(path: &Path) -> Result<u64, Fault> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(|error| http::local(path, &error))
}

/// Whether all octets of an object are those of the file.
fn is_same(store: &dyn Store, key: &str, sent: Sent<'_>) -> Result<bool, Fault> {
    let range = Range { path: sent.path, offset: 0, length: sent.size };
    is_same_range(store.read(key, 0, sent.size)?, range)
}

fn is_same_range(mut remote: Box<dyn Read + Send>, range: Range<'_>) -> Result<bool, Fault> {
    let mut buffer = Vec::new();
    let mut is_same = true;
    let compared = checksum::pieces(range, |piece| {
        buffer.resize(piece.len(), 0);
        let broken = |_| Fault::new(FaultKind::Network, "the object broke off while it was read back");
        remote.read_exact(&mut buffer).map_err(broken)?;
        is_same = buffer == piece;
        // Enough is known.
        if is_same { Ok(()) } else { Err(Fault::new(FaultKind::Corrupt, "")) }
    });
    match compared {
        Err(_) if !is_same => Ok(false),
        other => other.map(|()| true),
    }
}

/// S3, GCS and R2 allow ten thousand; some room is left.
const PARTS_MAX: u64 = 9_000;
/// Above the 5 MiB that stores want of all parts but the last. Smaller ones would lose less when a connection breaks, and cost
/// more requests.
const PART_SIZE_MIN: u64 = 8 << 20;
/// In octets. What Vercel Blob takes; the others take 1,024.
const KEY_MAX: usize = 950;
/// What S3 and GCS take.
const SIGNED_MAX: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

#[cfg(test)]
mod tests;
