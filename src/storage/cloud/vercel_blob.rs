//! Vercel Blob, by what its public client sends. Objects are private: reading needs the token, so downloads go through us.
//!
//! It has no abort: the parts of an upload that is given up go by themselves. Nor does it tell a checksum: a part has a tag, and
//! the whole is read back here and there, or all of it where its tag is not the one that was heard.

use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::store::{Fault, FaultKind, Object, PartTag, Range, Sent, Store, Stored, UploadId};
use super::bucket::{missing_is_fine, range_header, ranged};
use super::http::{Body, Http, Pace, Reply, Request, host_of, kind_of_status};
use super::{encoded, is_same, is_same_range, object_key, size_here};
use crate::config::{ConfigError, RecordingConfig, Secret};

pub struct VercelBlob {
    http: Http,
    /// Without a slash at its end.
    api: String,
    token: Secret,
    /// Of the store; a part of the token that is not secret.
    store_id: String,
    part_size: u64,
}

impl VercelBlob {
    pub fn new(config: &RecordingConfig, part_size: u64, http: Http) -> Result<VercelBlob, ConfigError> {
        let token = config.blob_token.clone().ok_or_else(|| ConfigError::new("BLOB_READ_WRITE_TOKEN is missing"))?;
        // vercel_blob_rw_<store>_<secret>
        let store_id = token.expose().split('_').nth(3).filter(|id| !id.is_empty()).map(str::to_owned);
        let store_id = store_id.filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        let wrong = || ConfigError::new("BLOB_READ_WRITE_TOKEN is not a read-write token of Vercel Blob");
        let (store_id, api) = (store_id.ok_or_else(wrong)?, config.blob_api_url.as_deref().unwrap_or(API));
        Ok(VercelBlob { http, api: api.trim_end_matches('/').to_owned(), token, store_id, part_size })
    }

    /// Asks the API and expects a success.
    fn ask(&self, method: &'static str, path: &str, more: &[(&str, &str)], body: Body<'_>) -> Result<Reply, Fault> {
        let url = format!("{}{path}", self.api);
        let authorization = format!("Bearer {}", self.token.expose());
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let request_id = format!("{}:{ms}:{:013x}", self.store_id, fastrand::u64(..1 << 52));
        let mut headers = vec![
            ("authorization", authorization.as_str()),
            ("x-api-version", API_VERSION),
            ("x-vercel-blob-store-id", self.store_id.as_str()),
            ("x-api-blob-request-id", request_id.as_str()),
            ("x-api-blob-request-attempt", "0"),
        ];
        headers.extend_from_slice(more);
        let is_completion = more.contains(&("x-mpu-action", "complete"));
        let pace = if is_completion { Pace::Completion } else { Pace::Soon };
        let reply = self.http.send(Request { method, url: &url, headers: &headers, body, pace })?;
        if reply.is_success() { Ok(reply) } else { Err(self.refusal(&reply)) }
    }

    /// A step of an upload in parts.
    fn step(
        &self,
        object: Object<'_>,
        action: &str,
        upload: Option<&UploadId>,
        more: &[(&str, &str)],
        body: Body<'_>,
    ) -> Result<Reply, Fault> {
        let path = format!("/mpu?pathname={}", encoded(&object_key("", object.key)?, false));
        let mut headers = object_headers(object.content_type).to_vec();
        headers.push(("x-mpu-action", action));
        let key = upload.map(|upload| encoded(upload.object.as_deref().unwrap_or(object.key), false));
        if let (Some(upload), Some(key)) = (upload, &key) {
            headers.push(("x-mpu-upload-id", &upload.id));
            headers.push(("x-mpu-key", key));
        }
        headers.extend_from_slice(more);
        self.ask("POST", &path, &headers, body)
    }

    fn refusal(&self, reply: &Reply) -> Fault {
        let said = serde_json::from_slice::<Refusal>(&reply.body).unwrap_or_default().error;
        self.http.refusal(reply, kind_of_code(reply.status, &said.code), &said.code, &said.message)
    }

    fn parsed<T: DeserializeOwned>(&self, reply: &Reply) -> Result<T, Fault> {
        let odd = |_| Fault::new(FaultKind::Server, "the answer of the store is not what it should be");
        serde_json::from_slice(&reply.body).map_err(odd)
    }

    fn details(&self, key: &str) -> Result<Option<Details>, Fault> {
        let path = format!("?url={}", encoded(&object_key("", key)?, false));
        match self.ask("GET", &path, &[], Body::None) {
            Ok(reply) => self.parsed(&reply).map(Some),
            Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The token goes to Vercel, and to where the API was configured to be, and nowhere else.
    fn is_trusted(&self, url: &str) -> bool {
        let is_vercel = url.starts_with("https://") && host_of(url).ends_with(".blob.vercel-storage.com");
        let origin = |url: &str| url.split_once("://").map(|(scheme, _)| (scheme.to_owned(), host_of(url)));
        is_vercel || origin(url) == origin(&self.api)
    }

    /// Of the object that is at a URL which the API told.
    fn read_at(&self, url: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault> {
        if !self.is_trusted(url) {
            return Err(Fault::new(FaultKind::Refused, "the object is said to be where no token is sent"));
        }
        if length == 0 {
            return Ok(Box::new(std::io::empty()));
        }
        // From where it is kept, not from a cache that may have an older one.
        let url = format!("{url}{}cache=0", if url.contains('?') { '&' } else { '?' });
        let (authorization, range) = (format!("Bearer {}", self.token.expose()), range_header(offset, length));
        let headers = [("authorization", authorization.as_str()), ("range", range.as_str())];
        let opened = self.http.open(Request {
            method: "GET",
            url: &url,
            headers: &headers,
            body: Body::None,
            pace: Pace::Soon,
        })?;
        match opened {
            (reply, Some(body)) => ranged(reply.status, body, offset, length),
            (reply, None) => Err(self.refusal(&reply)),
        }
    }

    /// Some pieces of the object, evenly over all of it, and its end.
    fn agrees_here_and_there(&self, url: &str, sent: Sent<'_>) -> Result<bool, Fault> {
        let piece = SAMPLE.min(sent.size);
        let last = sent.size - piece;
        let count = sent.size.div_ceil(self.part_size).clamp(2, SAMPLES_MAX);
        let mut before = None;
        for n in 0..count {
            let offset = (u128::from(last) * u128::from(n) / u128::from(count - 1)) as u64;
            if before.replace(offset) == Some(offset) {
                continue;
            }
            if !is_same_range(self.read_at(url, offset, piece)?, Range { path: sent.path, offset, length: piece })? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Store for VercelBlob {
    fn provider(&self) -> &'static str {
        "vercel-blob"
    }

    fn part_size(&self) -> u64 {
        self.part_size
    }

    fn put(&self, object: Object<'_>, from: Range<'_>) -> Result<Stored, Fault> {
        let path = format!("/?pathname={}", encoded(&object_key("", object.key)?, false));
        let reply = self.ask("PUT", &path, &object_headers(object.content_type), Body::File(from))?;
        let Put { url, etag } = self.parsed(&reply)?;
        Ok(Stored { size: from.length, etag, checksum: None, url })
    }

    fn create(&self, object: Object<'_>) -> Result<UploadId, Fault> {
        let reply = self.step(object, "create", None, &[], Body::Octets(&[]))?;
        let Created { upload_id, key } = self.parsed(&reply)?;
        Ok(UploadId { id: upload_id, object: Some(key) })
    }

    fn part(&self, object: Object<'_>, upload: &UploadId, number: u32, from: Range<'_>) -> Result<PartTag, Fault> {
        let text = number.to_string();
        let headers = [("x-mpu-part-number", text.as_str()), ("content-type", "application/octet-stream")];
        let reply = self.step(object, "upload", Some(upload), &headers, Body::File(from))?;
        let Part { etag } = self.parsed(&reply)?;
        Ok(PartTag { number, etag, size: from.length, checksum: None })
    }

    fn complete(&self, object: Object<'_>, upload: &UploadId, parts: &[PartTag]) -> Result<Stored, Fault> {
        let list: Vec<_> =
            parts.iter().map(|part| serde_json::json!({ "etag": part.etag, "partNumber": part.number })).collect();
        let body = serde_json::Value::from(list).to_string();
        let headers = [("content-type", "application/json")];
        let reply = self.step(object, "complete", Some(upload), &headers, Body::Octets(body.as_bytes()))?;
        let Put { url, etag } = self.parsed(&reply)?;
        Ok(Stored { size: parts.iter().map(|part| part.size).sum(), etag, checksum: None, url })
    }

    fn abort(&self, _: Object<'_>, _: &UploadId) -> Result<(), Fault> {
        Ok(())
    }

    fn head(&self, key: &str) -> Result<Option<Stored>, Fault> {
        let details = self.details(key)?;
        Ok(details.map(|Details { url, size, etag }| Stored { size, etag, checksum: None, url }))
    }

    fn agrees(&self, key: &str, sent: Sent<'_>) -> Result<bool, Fault> {
        let Some(stored) = self.head(key)? else { return Ok(false) };
        if stored.size != sent.size || size_here(sent.path)? != sent.size {
            return Ok(false);
        }
        match sent.etag {
            Some(heard) if !heard.is_empty() && heard == stored.etag => self.agrees_here_and_there(&stored.url, sent),
            _ => is_same(self, key, sent),
        }
    }

    fn delete(&self, key: &str) -> Result<(), Fault> {
        let body = serde_json::json!({ "urls": [object_key("", key)?] }).to_string();
        let headers = [("content-type", "application/json")];
        missing_is_fine(self.ask("POST", "/delete", &headers, Body::Octets(body.as_bytes())))
    }

    fn signed_url(&self, _: &str, _: &str, _: Duration) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    fn read(&self, key: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault> {
        // Its place is asked for: how a name is written in it is the store's affair.
        let missing = || Fault::new(FaultKind::Missing, "there is no such object");
        let url = self.details(key)?.ok_or_else(missing)?.url;
        self.read_at(&url, offset, length)
    }
}

/// Of everything that makes an object. A second try replaces what the first may have made.
fn object_headers(content_type: &str) -> [(&str, &str); 5] {
    [
        ("x-vercel-blob-access", "private"),
        ("x-content-type", content_type),
        ("x-add-random-suffix", "0"),
        ("x-allow-overwrite", "1"),
        ("x-cache-control-max-age", "60"),
    ]
}

fn kind_of_code(status: u16, code: &str) -> FaultKind {
    match code {
        "forbidden" | "client_token_expired" | "client_token_not_allowed" => FaultKind::Credentials,
        "store_not_found" | "store_suspended" => FaultKind::Bucket,
        "not_found" => FaultKind::Missing,
        "rate_limited" => FaultKind::Throttled,
        "service_unavailable" if status == 503 => FaultKind::Throttled,
        "service_unavailable" | "internal_server_error" | "unknown_error" => FaultKind::Server,
        "bad_request" | "not_allowed" | "file_too_large" | "content_type_not_allowed" | "precondition_failed" => {
            FaultKind::Refused
        }
        _ => kind_of_status(status),
    }
}

#[derive(Deserialize)]
struct Put {
    url: String,
    #[serde(default)]
    etag: String,
}

#[derive(Deserialize)]
struct Details {
    url: String,
    size: u64,
    #[serde(default)]
    etag: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    upload_id: String,
    key: String,
}

#[derive(Deserialize)]
struct Part {
    etag: String,
}

#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(default)]
    error: Said,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Said {
    code: String,
    message: String,
}

const API: &str = "https://vercel.com/api/blob";
/// Of the client whose requests these are.
const API_VERSION: &str = "12";
/// Octets that are read back at a place.
const SAMPLE: u64 = 64 * 1024;
/// Places in the largest object.
const SAMPLES_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use super::super::tcp::Timeouts;
    use super::*;

    fn open(token: &str, api: Option<&str>) -> Result<VercelBlob, ConfigError> {
        let config = RecordingConfig {
            blob_token: Some(Secret::new(token)),
            blob_api_url: api.map(Into::into),
            ..RecordingConfig::default()
        };
        let http = Http::new(None, Timeouts::default(), Vec::new()).expect("a client");
        VercelBlob::new(&config, 8 << 20, http)
    }

    #[test]
    fn tokens_name_their_store() {
        let store = open("vercel_blob_rw_AbC123_secret_with_more", None).expect("a store");
        assert_eq!(store.store_id, "AbC123");
        for token in ["x", "vercel_blob_rw__secret", "vercel_blob_rw_a/b_secret"] {
            let error = open(token, None).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.starts_with("BLOB_READ_WRITE_TOKEN") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn where_the_token_is_sent() {
        let store = open("vercel_blob_rw_a_b", Some("http://127.0.0.1:5/api/")).expect("a store");
        for (url, expected) in [
            ("https://a.private.blob.vercel-storage.com/x", true),
            ("http://a.private.blob.vercel-storage.com/x", false),
            ("https://a.private.blob.vercel-storage.com.evil.example/x", false),
            ("https://evil.example/x.blob.vercel-storage.com", false),
            ("http://127.0.0.1:5/blob/x", true),
            ("http://127.0.0.1:6/blob/x", false),
            ("https://127.0.0.1:5/blob/x", false),
            ("127.0.0.1:5", false),
        ] {
            assert_eq!(store.is_trusted(url), expected, "{url}");
        }
    }

    #[test]
    fn codes_are_kinds() {
        for (status, code, expected) in [
            (403, "forbidden", FaultKind::Credentials),
            (404, "not_found", FaultKind::Missing),
            (404, "store_not_found", FaultKind::Bucket),
            (403, "store_suspended", FaultKind::Bucket),
            (429, "rate_limited", FaultKind::Throttled),
            (503, "service_unavailable", FaultKind::Throttled),
            (500, "internal_server_error", FaultKind::Server),
            (400, "bad_request", FaultKind::Refused),
            (502, "", FaultKind::Server),
        ] {
            assert_eq!(kind_of_code(status, code), expected, "{status} {code}");
        }
    }
}
