//! S3 and those who speak like it. Requests are presigned, which every one of them understands, with session tokens too.
//!
//! Integrity: `Content-MD5` goes with every part and put, and the tag of an object is the MD5 that it should be. That is what
//! AWS, MinIO, R2, Ceph and small servers have in common; checksum headers are not (R2 long refused them). Where keys of a
//! KMS encrypt, tags are no MD5: then the tag that completion told has to be there still, or the object is read back.

use std::io::Read;
use std::time::Duration;

use jiff::Timestamp;
use rusty_s3::signing::sign;
use rusty_s3::{Bucket, Credentials, Method, UrlStyle};

use super::super::store::{Fault, FaultKind, Object, PartTag, Range, Sent, Store, Stored, UploadId};
use super::bucket::{self, Api, Ask, Opened};
use super::checksum::{Checksums, tags};
use super::http::{Body, Http, Pace, Reply, Request};
use super::{disposition, is_same, object_key, size_here};
use crate::config::{ConfigError, RecordingConfig};

pub struct S3 {
    http: Http,
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    sse: Option<&'static str>,
    storage_class: Option<String>,
    part_size: u64,
}

impl S3 {
    pub fn new(config: &RecordingConfig, part_size: u64, http: Http) -> Result<S3, ConfigError> {
        let missing = |name: &str| ConfigError::new(format!("{name} is missing"));
        let name = config.s3_bucket.clone().ok_or_else(|| missing("RECORDING_S3_BUCKET"))?;
        let key = config.s3_access_key_id.as_ref().ok_or_else(|| missing("RECORDING_S3_ACCESS_KEY_ID"))?;
        let secret = config.s3_secret_access_key.as_ref().ok_or_else(|| missing("RECORDING_S3_SECRET_ACCESS_KEY"))?;
        let (region, endpoint) = match (&config.s3_region, &config.s3_endpoint) {
            (Some(region), Some(endpoint)) => (region.clone(), endpoint.clone()),
            // What those take who have no regions.
            (None, Some(endpoint)) => ("us-east-1".to_owned(), endpoint.clone()),
            (Some(region), None) => {
                let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
                (region.clone(), format!("https://s3.{region}.amazonaws.com{suffix}"))
            }
            (None, None) => return Err(missing("RECORDING_S3_REGION")),
        };
        // A certificate for `*.host` does not cover a name with dots.
        let style = match config.s3_path_style || name.contains('.') {
            true => UrlStyle::Path,
            false => UrlStyle::VirtualHost,
        };
        let url = endpoint.parse().map_err(|_| ConfigError::new("RECORDING_S3_ENDPOINT must be a URL"))?;
        let bucket = Bucket::new(url, style, name, region).map_err(|_| {
            ConfigError::new("RECORDING_S3_BUCKET and RECORDING_S3_ENDPOINT make no URL; try RECORDING_S3_PATH_STYLE")
        })?;
        let token = config.s3_session_token.as_ref().map(|token| token.expose());
        let credentials = match token {
            Some(token) => Credentials::new_with_token(key, secret.expose(), token),
            None => Credentials::new(key, secret.expose()),
        };
        Ok(S3 {
            http,
            bucket,
            credentials,
            prefix: config.s3_prefix.clone().unwrap_or_default(),
            sse: config.s3_sse,
            storage_class: config.s3_storage_class.clone(),
            part_size,
        })
    }

    fn key(&self, key: &str) -> Result<String, Fault> {
        object_key(&self.prefix, key)
    }

    fn signed(&self, ask: &Ask<'_>, valid: Duration, now: Timestamp) -> String {
        let (mut query, mut headers) = (ask.query.to_vec(), ask.headers.to_vec());
        query.sort_unstable();
        headers.sort_unstable();
        let method = match ask.method {
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "HEAD" => Method::Head,
            _ => Method::Get,
        };
        sign(
            &now,
            method,
            self.bucket.object_url(ask.key),
            self.credentials.key(),
            self.credentials.secret(),
            self.credentials.token(),
            self.bucket.region(),
            valid.as_secs(),
            query.iter().copied(),
            headers.iter().copied(),
        )
        .into()
    }

    fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket.name())
    }

    fn head_reply(&self, key: &str) -> Result<Option<Reply>, Fault> {
        let ask = Ask { method: "HEAD", key, query: &[], headers: &[], body: Body::None, pace: Pace::Soon };
        let reply = self.send(&ask)?;
        match reply.status {
            404 => Ok(None),
            _ if reply.is_success() => Ok(Some(reply)),
            _ => Err(bucket::refusal(self, &reply)),
        }
    }

    fn stored(&self, key: &str, reply: &Reply) -> Result<Stored, Fault> {
        let size = reply.content_length();
        Ok(Stored {
            size: size.ok_or_else(|| Fault::new(FaultKind::Server, "the store does not say how long the object is"))?,
            etag: reply.header("etag").unwrap_or_default().to_owned(),
            checksum: None,
            url: self.url(key),
        })
    }
}

impl Api for S3 {
    fn send(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let url = self.signed(ask, REQUEST_VALID, Timestamp::now());
        self.http.send(request(ask, &url))
    }

    fn open(&self, ask: &Ask<'_>) -> Result<Opened, Fault> {
        let url = self.signed(ask, REQUEST_VALID, Timestamp::now());
        self.http.open(request(ask, &url))
    }

    fn http(&self) -> &Http {
        &self.http
    }

    fn object_headers(&self) -> Vec<(&'static str, &str)> {
        let sse = self.sse.map(|sse| ("x-amz-server-side-encryption", sse));
        let class = self.storage_class.as_deref().map(|class| ("x-amz-storage-class", class));
        sse.into_iter().chain(class).collect()
    }

    fn is_other(&self, reply: &Reply, sent: &Checksums) -> bool {
        let etag = bare(reply.header("etag").unwrap_or_default());
        is_md5(&etag) && !is_opaque(reply) && etag != sent.md5_hex()
    }

    fn is_elsewhere(&self, reply: &Reply) -> bool {
        reply.header("x-amz-bucket-region").is_some_and(|region| region != self.bucket.region())
    }
}

impl Store for S3 {
    fn provider(&self) -> &'static str {
        "s3"
    }

    fn part_size(&self) -> u64 {
        self.part_size
    }

    fn put(&self, object: Object<'_>, from: Range<'_>) -> Result<Stored, Fault> {
        let key = self.key(object.key)?;
        let (reply, _) = bucket::put(self, &key, object, from)?;
        let etag = reply.header("etag").unwrap_or_default().to_owned();
        Ok(Stored { size: from.length, etag, checksum: None, url: self.url(&key) })
    }

    fn create(&self, object: Object<'_>) -> Result<UploadId, Fault> {
        bucket::create(self, &self.key(object.key)?, object)
    }

    fn part(&self, object: Object<'_>, upload: &UploadId, number: u32, from: Range<'_>) -> Result<PartTag, Fault> {
        let (etag, sums) = bucket::part(self, &self.key(object.key)?, upload, number, from)?;
        Ok(PartTag { number, etag, size: from.length, checksum: Some(sums.md5_base64()) })
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
        self.head_reply(&key)?.map(|reply| self.stored(&key, &reply)).transpose()
    }

    fn agrees(&self, key: &str, sent: Sent<'_>) -> Result<bool, Fault> {
        let whole_key = self.key(key)?;
        let Some(reply) = self.head_reply(&whole_key)? else { return Ok(false) };
        if self.stored(&whole_key, &reply)?.size != sent.size || size_here(sent.path)? != sent.size {
            return Ok(false);
        }
        let sizes: Vec<u64> = match sent.parts {
            [] => vec![sent.size],
            parts => parts.iter().map(|part| part.size).collect(),
        };
        if sizes.iter().sum::<u64>() != sent.size {
            return Ok(false);
        }
        // Of what is on the disk, not of what was: the copy there may go when this is true.
        let (whole, composite) = tags(sent.path, sizes.into_iter())?;
        let etag = bare(reply.header("etag").unwrap_or_default());
        if etag == composite || etag == whole {
            return Ok(true);
        }
        let is_heard = sent.etag.is_some_and(|heard| !heard.is_empty() && bare(heard) == etag);
        if is_opaque(&reply) && is_heard {
            return Ok(true);
        }
        is_same(self, key, sent)
    }

    fn delete(&self, key: &str) -> Result<(), Fault> {
        let key = self.key(key)?;
        let ask = Ask { method: "DELETE", key: &key, query: &[], headers: &[], body: Body::None, pace: Pace::Soon };
        bucket::missing_is_fine(bucket::succeed(self, &ask))
    }

    fn signed_url(&self, key: &str, name: &str, valid: Duration) -> Result<Option<String>, Fault> {
        let key = self.key(key)?;
        let disposition = disposition(name);
        let query = [("response-content-disposition", disposition.as_str())];
        let ask = Ask { method: "GET", key: &key, query: &query, headers: &[], body: Body::None, pace: Pace::Soon };
        let valid = valid.clamp(Duration::from_secs(1), super::SIGNED_MAX);
        Ok(Some(self.signed(&ask, valid, Timestamp::now())))
    }

    fn read(&self, key: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault> {
        bucket::read(self, &self.key(key)?, offset, length)
    }
}

fn request<'a>(ask: &Ask<'a>, url: &'a str) -> Request<'a> {
    Request { method: ask.method, url, headers: ask.headers, body: ask.body, pace: ask.pace }
}

/// A tag without quotes, in lower case.
fn bare(etag: &str) -> String {
    etag.trim().trim_matches('"').to_ascii_lowercase()
}

fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Tags of what is encrypted with keys of a KMS or of ours say nothing about the content.
fn is_opaque(reply: &Reply) -> bool {
    let sse = reply.header("x-amz-server-side-encryption");
    sse.is_some_and(|sse| sse.starts_with("aws:kms"))
        || reply.header("x-amz-server-side-encryption-customer-algorithm").is_some()
}

/// Judged when a request begins, which is a moment after it is signed.
const REQUEST_VALID: Duration = Duration::from_secs(900);

#[cfg(test)]
mod tests {
    use super::super::tcp::Timeouts;
    use super::*;
    use crate::config::Secret;

    fn config() -> RecordingConfig {
        RecordingConfig {
            s3_bucket: Some("examplebucket".into()),
            s3_region: Some("us-east-1".into()),
            s3_access_key_id: Some("AKIAIOSFODNN7EXAMPLE".into()),
            s3_secret_access_key: Some(Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")),
            ..RecordingConfig::default()
        }
    }

    fn open(config: &RecordingConfig) -> Result<S3, ConfigError> {
        let http = Http::new(None, Timeouts::default(), Vec::new()).expect("a client");
        S3::new(config, 8 << 20, http)
    }

    /// The example in Amazon's description of presigned requests.
    #[test]
    fn signatures_are_those_of_the_description() {
        let config = RecordingConfig { s3_endpoint: Some("https://s3.amazonaws.com".into()), ..config() };
        let store = open(&config).expect("a store");
        let ask = Ask { method: "GET", key: "test.txt", query: &[], headers: &[], body: Body::None, pace: Pace::Soon };
        let now = Timestamp::from_second(1_369_353_600).expect("a time");
        let url = store.signed(&ask, Duration::from_secs(86_400), now);
        assert!(url.starts_with("https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&"));
        assert!(
            url.ends_with("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
            "{url}"
        );
    }

    #[test]
    fn headers_and_tokens_are_signed() {
        let config = RecordingConfig { s3_session_token: Some(Secret::new("t/1")), ..config() };
        let store = open(&config).expect("a store");
        let headers = [("x-amz-storage-class", "STANDARD_IA"), ("content-md5", "YQ==")];
        let query = [("uploadId", "a b/c"), ("partNumber", "1")];
        let ask = Ask {
            method: "PUT",
            key: "a b/ü+.webm",
            query: &query,
            headers: &headers,
            body: Body::None,
            pace: Pace::Soon,
        };
        let url = store.signed(&ask, Duration::from_secs(60), Timestamp::UNIX_EPOCH);
        for part in [
            "https://examplebucket.s3.us-east-1.amazonaws.com/a%20b/%C3%BC%2B.webm?",
            "X-Amz-Security-Token=t%2F1",
            "X-Amz-SignedHeaders=content-md5%3Bhost%3Bx-amz-storage-class",
            "&partNumber=1&uploadId=a%20b%2Fc&",
        ] {
            assert!(url.contains(part), "{url} lacks {part}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let base = RecordingConfig::default;
        let rows: [(RecordingConfig, &str); 4] = [
            (RecordingConfig { s3_bucket: None, ..config() }, "RECORDING_S3_BUCKET is missing"),
            (RecordingConfig { s3_bucket: Some("b".into()), ..base() }, "RECORDING_S3_ACCESS_KEY_ID is missing"),
            (RecordingConfig { s3_secret_access_key: None, ..config() }, "RECORDING_S3_SECRET_ACCESS_KEY is missing"),
            (RecordingConfig { s3_region: None, ..config() }, "RECORDING_S3_REGION is missing"),
        ];
        for (config, expected) in rows {
            assert_eq!(open(&config).err().map(|e| e.to_string()).as_deref(), Some(expected));
        }
    }

    #[test]
    fn where_buckets_are() {
        let url = |bucket: &str, endpoint: Option<&str>, region: Option<&str>, s3_path_style: bool| {
            let config = RecordingConfig {
                s3_bucket: Some(bucket.into()),
                s3_endpoint: endpoint.map(Into::into),
                s3_region: region.map(Into::into),
                s3_path_style,
                ..config()
            };
            open(&config).expect("a store").bucket.base_url().to_string()
        };
        assert_eq!(url("b", None, Some("eu-west-1"), false), "https://b.s3.eu-west-1.amazonaws.com/");
        assert_eq!(url("b", None, Some("cn-north-1"), true), "https://s3.cn-north-1.amazonaws.com.cn/b/");
        assert_eq!(url("a.b", None, Some("eu-west-1"), false), "https://s3.eu-west-1.amazonaws.com/a.b/");
        assert_eq!(url("b", Some("http://127.0.0.1:9000"), None, true), "http://127.0.0.1:9000/b/");
    }
}
