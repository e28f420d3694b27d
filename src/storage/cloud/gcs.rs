//! Google Cloud Storage: uploads and reading by its XML API, which has the wire shape of S3; looking and deleting by its JSON
//! API, whose answers say more than those to `HEAD`.
//!
//! Integrity: `Content-MD5` goes with every part and put; CRC32C of the whole is compared with that of the file.

use std::io::Read;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::super::store::{Fault, FaultKind, Object, PartTag, Range, Sent, Store, Stored, UploadId};
use super::bucket::{self, Api, Ask, Opened};
use super::checksum::Checksums;
use super::google::{ServiceAccount, Tokens};
use super::http::{Body, Http, Pace, Reply, Request, host_of, kind_of_status};
use super::{disposition, encoded, is_same, object_key, size_here};
use crate::config::{ConfigError, RecordingConfig};
use crate::recording::names;

pub struct Gcs {
    http: Http,
    account: ServiceAccount,
    tokens: Tokens,
    /// Without a slash at its end.
    endpoint: String,
    bucket: String,
    prefix: String,
    part_size: u64,
}

impl Gcs {
    pub fn new(config: &RecordingConfig, part_size: u64, http: Http) -> Result<Gcs, ConfigError> {
        let missing = |name: &str| ConfigError::new(format!("{name} is missing"));
        let bucket = config.gcs_bucket.clone().ok_or_else(|| missing("RECORDING_GCS_BUCKET"))?;
        let path = config.gcs_credentials_file.as_ref().ok_or_else(|| missing("GOOGLE_APPLICATION_CREDENTIALS"))?;
        let account = ServiceAccount::read(path)
            .map_err(|line| ConfigError::new(format!("GOOGLE_APPLICATION_CREDENTIALS: {line}")))?;
        Ok(Gcs {
            http,
            account,
            tokens: Tokens::default(),
            endpoint: config.gcs_endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/').to_owned(),
            bucket,
            prefix: config.gcs_prefix.clone().unwrap_or_default(),
            part_size,
        })
    }

    fn key(&self, key: &str) -> Result<String, Fault> {
        object_key(&self.prefix, key)
    }

    fn url(&self, key: &str) -> String {
        format!("gs://{}/{key}", self.bucket)
    }

    /// Of the object in the XML API, without what is asked of it.
    fn object_url(&self, key: &str) -> String {
        format!("{}/{}/{}", self.endpoint, encoded(&self.bucket, false), encoded(key, true))
    }

    /// Makes a request with the token, and once more with another if it is refused: tokens can be withdrawn.
    fn authorised<T>(&self, make: impl Fn(&str) -> Result<T, Fault>, status: impl Fn(&T) -> u16) -> Result<T, Fault> {
        let token = self.tokens.token(&self.account, &self.http, None)?;
        let answer = make(&format!("Bearer {}", token.expose()))?;
        if status(&answer) != 401 {
            return Ok(answer);
        }
        let token = self.tokens.token(&self.account, &self.http, Some(&token))?;
        make(&format!("Bearer {}", token.expose()))
    }

    fn xml_url(&self, ask: &Ask<'_>) -> String {
        let mut url = self.object_url(ask.key);
        for (n, (name, value)) in ask.query.iter().enumerate() {
            url.push(if n == 0 { '?' } else { '&' });
            url.push_str(name);
            if !value.is_empty() {
                url.push('=');
                url.push_str(&encoded(value, false));
            }
        }
        url
    }

    fn json(&self, method: &'static str, key: &str) -> Result<Reply, Fault> {
        let (bucket, key) = (encoded(&self.bucket, false), encoded(key, false));
        let url = format!("{}/storage/v1/b/{bucket}/o/{key}", self.endpoint);
        let make = |authorization: &str| {
            let headers = [("authorization", authorization)];
            self.http.send(Request { method, url: &url, headers: &headers, body: Body::None, pace: Pace::Soon })
        };
        let reply = self.authorised(make, |reply| reply.status)?;
        if reply.is_success() { Ok(reply) } else { Err(self.json_refusal(&reply)) }
    }

    fn json_refusal(&self, reply: &Reply) -> Fault {
        let said = serde_json::from_slice::<JsonRefusal>(&reply.body).unwrap_or_default().error;
        let mut kind = kind_of_status(reply.status);
        if kind == FaultKind::Missing && said.message.to_ascii_lowercase().contains("bucket does not exist") {
            kind = FaultKind::Bucket;
        }
        let reason = said.errors.first().map_or("", |error| error.reason.as_str());
        self.http.refusal(reply, kind, reason, &said.message)
    }

    fn signed(&self, key: &str, query: &[(&str, &str)], valid: Duration, now: Timestamp) -> Result<String, Fault> {
        let date = now.strftime("%Y%m%d").to_string();
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!("{date}/auto/storage/goog4_request");
        let credential = format!("{}/{scope}", self.account.email);
        let valid = valid.clamp(Duration::from_secs(1), super::SIGNED_MAX).as_secs().to_string();
        let mut all = vec![
            ("X-Goog-Algorithm", "GOOG4-RSA-SHA256"),
            ("X-Goog-Credential", &credential),
            ("X-Goog-Date", &time),
            ("X-Goog-Expires", &valid),
            ("X-Goog-SignedHeaders", "host"),
        ];
        all.extend_from_slice(query);
        all.sort_unstable();
        let all: Vec<String> =
            all.iter().map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false))).collect();
        let (query, url) = (all.join("&"), self.object_url(key));
        let host = host_of(&url);
        let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("/");
        let canonical = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let hash = names::hex(&openssl::sha::sha256(canonical.as_bytes()));
        let signature = self.account.sign(&format!("GOOG4-RSA-SHA256\n{time}\n{scope}\n{hash}"))?;
        Ok(format!("{url}?{query}&X-Goog-Signature={signature}"))
    }
}

impl Api for Gcs {
    fn send(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let url = self.xml_url(ask);
        let make = |authorization: &str| {
            let mut headers = ask.headers.to_vec();
            headers.push(("authorization", authorization));
            self.http.send(Request { method: ask.method, url: &url, headers: &headers, body: ask.body, pace: ask.pace })
        };
        self.authorised(make, |reply| reply.status)
    }

    fn open(&self, ask: &Ask<'_>) -> Result<Opened, Fault> {
        let url = self.xml_url(ask);
        let make = |authorization: &str| {
            let mut headers = ask.headers.to_vec();
            headers.push(("authorization", authorization));
            self.http.open(Request { method: ask.method, url: &url, headers: &headers, body: ask.body, pace: ask.pace })
        };
        self.authorised(make, |(reply, _)| reply.status)
    }

    fn http(&self) -> &Http {
        &self.http
    }

    fn object_headers(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }

    fn is_other(&self, reply: &Reply, sent: &Checksums) -> bool {
        crc32c(reply).is_some_and(|crc| crc != sent.crc32c_base64())
    }
}

impl Store for Gcs {
    fn provider(&self) -> &'static str {
        "gcs"
    }

    fn part_size(&self) -> u64 {
        self.part_size
    }

    fn put(&self, object: Object<'_>, from: Range<'_>) -> Result<Stored, Fault> {
        let key = self.key(object.key)?;
        let (reply, sums) = bucket::put(self, &key, object, from)?;
        let etag = reply.header("etag").unwrap_or_default().to_owned();
        Ok(Stored { size: from.length, etag, checksum: Some(sums.crc32c_base64()), url: self.url(&key) })
    }

    fn create(&self, object: Object<'_>) -> Result<UploadId, Fault> {
        bucket::create(self, &self.key(object.key)?, object)
    }

    fn part(&self, object: Object<'_>, upload: &UploadId, number: u32, from: Range<'_>) -> Result<PartTag, Fault> {
        let (etag, sums) = bucket::part(self, &self.key(object.key)?, upload, number, from)?;
        Ok(PartTag { number, etag, size: from.length, checksum: Some(sums.crc32c_base64()) })
    }

    fn complete(&self, object: Object<'_>, upload: &UploadId, parts: &[PartTag]) -> Result<Stored, Fault> {
        let key = self.key(object.key)?;
        let etag = bucket::complete(self, &key, upload, parts)?;
        let size = parts.iter().map(|part| part.size).sum();
        Ok(Stored { size, etag, checksum: None, url: self.url(&key) })
    }

    fn abort(&self, object: Object<'_>, upload: &UploadId) -> Result<(), Fault> {
        bucket::abort(self, &self.key(object.key)?, upload)
    }

    fn head(&self, key: &str) -> Result<Option<Stored>, Fault> {
        let key = self.key(key)?;
        let reply = match self.json("GET", &key) {
            Ok(reply) => reply,
            Err(fault) if fault.kind == FaultKind::Missing => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let odd = || Fault::new(FaultKind::Server, "the store says of an object what cannot be understood");
        let found: JsonObject = serde_json::from_slice(&reply.body).map_err(|_| odd())?;
        Ok(Some(Stored {
            size: found.size.parse().map_err(|_| odd())?,
            etag: found.etag,
            checksum: found.crc32c.filter(|crc| !crc.is_empty()),
            url: self.url(&key),
        }))
    }

    fn agrees(&self, key: &str, sent: Sent<'_>) -> Result<bool, Fault> {
        let Some(stored) = self.head(key)? else { return Ok(false) };
        if stored.size != sent.size || size_here(sent.path)? != sent.size {
            return Ok(false);
        }
        let Some(remote) = stored.checksum else { return is_same(self, key, sent) };
        let here = Checksums::of(Range { path: sent.path, offset: 0, length: sent.size })?;
        Ok(here.crc32c_base64() == remote)
    }

    fn delete(&self, key: &str) -> Result<(), Fault> {
        bucket::missing_is_fine(self.json("DELETE", &self.key(key)?))
    }

    fn signed_url(&self, key: &str, name: &str, valid: Duration) -> Result<Option<String>, Fault> {
        let disposition = disposition(name);
        let query = [("response-content-disposition", disposition.as_str())];
        self.signed(&self.key(key)?, &query, valid, Timestamp::now()).map(Some)
    }

    fn read(&self, key: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault> {
        bucket::read(self, &self.key(key)?, offset, length)
    }
}

/// `x-goog-hash: crc32c=…,md5=…`, in one header or several.
fn crc32c(reply: &Reply) -> Option<&str> {
    reply.headers("x-goog-hash").flat_map(|value| value.split(',')).find_map(|hash| hash.trim().strip_prefix("crc32c="))
}

#[derive(Deserialize)]
struct JsonObject {
    /// A number, as text.
    size: String,
    #[serde(default)]
    etag: String,
    crc32c: Option<String>,
}

#[derive(Deserialize, Default)]
struct JsonRefusal {
    #[serde(default)]
    error: JsonError,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonError {
    message: String,
    errors: Vec<JsonReason>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonReason {
    reason: String,
}

const ENDPOINT: &str = "https://storage.googleapis.com";
