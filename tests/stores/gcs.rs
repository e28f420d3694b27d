//! GCS: tokens against a verifier of our own, objects against an emulator, uploads in parts through a proxy that wants the token
//! and speaks to a server of S3, whose wire shape they have.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Rsa;
use openssl::sign::Verifier;
use rusty_s3::Method;
use webrtc_engine::storage::cloud::check;
use webrtc_engine::storage::store::{FaultKind, Object, Store};

use crate::harness::*;
use crate::server::{Request, Response, Server, decoded};

const EMAIL: &str = "recorder@project.iam.gserviceaccount.com";

/// Where tokens come from, and the account that may have them.
struct Google {
    server: Server,
    tokens: Arc<Mutex<Vec<String>>>,
    public: PKey<Public>,
    scratch: Scratch,
}

#[derive(serde::Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    iat: u64,
    exp: u64,
}

impl Google {
    fn start(expires_in: u64) -> Google {
        let key = Rsa::generate(2048).expect("a key");
        let public_pem = key.public_key_to_pem().expect("a key");
        let public = PKey::public_key_from_pem(&public_pem).expect("a key");
        let decoding = DecodingKey::from_rsa_pem(&public_pem).expect("a key");
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let issued = tokens.clone();
        let server = Server::start(move |request| match verify(request, &decoding) {
            Ok(()) => {
                let mut issued = issued.lock().expect("no panic");
                let token = format!("ya29.test-token-{}-{}", issued.len(), "x".repeat(100));
                issued.push(token.clone());
                let body =
                    serde_json::json!({ "access_token": token, "expires_in": expires_in, "token_type": "Bearer" });
                Response::new(200, body.to_string())
            }
            Err(why) => {
                let body = serde_json::json!({ "error": "invalid_grant", "error_description": why });
                Response::new(400, body.to_string())
            }
        });
        let pem = PKey::from_rsa(key).and_then(|key| key.private_key_to_pem_pkcs8()).expect("a key");
        let google = Google { server, tokens, public, scratch: Scratch::new() };
        google.write_account("account.json", &String::from_utf8(pem).expect("PEM is text"));
        google
    }

    fn write_account(&self, name: &str, pem: &str) -> PathBuf {
        let account = serde_json::json!({
            "type": "service_account",
            "client_email": EMAIL,
            "private_key_id": "key-1",
            "private_key": pem,
            "token_uri": format!("{}/token", self.server.url()),
        });
        let path = self.scratch.path().join(name);
        std::fs::write(&path, account.to_string()).expect("it can be written");
        path
    }

    fn store(&self, endpoint: &str) -> Arc<dyn Store> {
        self.store_with(endpoint, "account.json", BUCKET)
    }

    fn store_with(&self, endpoint: &str, account: &str, bucket: &str) -> Arc<dyn Store> {
        let account = self.scratch.path().join(account);
        let env = [
            ("RECORDING_STORAGE_PROVIDER", "gcs"),
            ("RECORDING_GCS_BUCKET", bucket),
            ("RECORDING_GCS_ENDPOINT", endpoint),
            ("GOOGLE_APPLICATION_CREDENTIALS", account.to_str().expect("a path")),
        ];
        open(&env, SHORT)
    }

    fn issued(&self) -> usize {
        self.tokens.lock().expect("no panic").len()
    }
}

/// RFC 7523 §3, as Google has it.
fn verify(request: &Request, key: &DecodingKey) -> Result<(), String> {
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let field = |name: &str| form.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(decoded);
    if request.head.method != "POST" || request.head.path() != "/token" {
        return Err("not the address".into());
    }
    if field("grant_type").as_deref() != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err("not the grant".into());
    }
    let assertion = field("assertion").ok_or("no assertion")?;
    let header = jsonwebtoken::decode_header(&assertion).map_err(|e| e.to_string())?;
    if header.kid.as_deref() != Some("key-1") {
        return Err("not the key".into());
    }
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[format!("http://{}/token", request.head.header("host").unwrap_or_default())]);
    validation.set_required_spec_claims(&["exp", "aud", "iss"]);
    let claims = jsonwebtoken::decode::<Claims>(&assertion, key, &validation).map_err(|e| e.to_string())?.claims;
    let is_right = claims.iss == EMAIL
        && claims.scope == "https://www.googleapis.com/auth/devstorage.read_write"
        && claims.exp - claims.iat <= 3600;
    if is_right { Ok(()) } else { Err("not these claims".into()) }
}

fn emulator(story: &str) -> Option<Program> {
    let tool = tool(".venv/bin/gcp-storage-emulator", story)?;
    Some(Program::start(|port| {
        let mut command = Command::new(&tool);
        command.args(["start", "--host=127.0.0.1", "--in-memory", &format!("--port={port}")]);
        command.arg(format!("--default-bucket={BUCKET}"));
        command
    }))
}

#[test]
fn objects_live_and_die_in_the_emulator() {
    let Some(emulator) = emulator("objects_live_and_die_in_the_emulator") else { return };
    let google = Google::start(3600);
    let store = google.store(&emulator.url());
    assert_eq!((store.provider(), store.part_size()), ("gcs", 8 * MIB));
    let path = google.scratch.file("f", 3 * MIB + 7);
    let key = "call/rec/a%40b-1.webm";
    assert_eq!(store.head(key), Ok(None));
    let stored = store.put(Object { key, content_type: WEBM }, whole(&path)).expect("it is put");
    let head = store.head(key).expect("an answer").expect("it is there");
    assert_eq!((head.size, &head.checksum, &head.url), (3 * MIB + 7, &stored.checksum, &stored.url));
    assert_eq!(stored.url, "gs://recordings/call/rec/a%40b-1.webm");
    assert!(store.agrees(key, sent(&path, &[], None)).expect("an answer"));
    assert_eq!(read(&*store, key, 2 * MIB, 1000), content(3 * MIB)[2 * MIB as usize..][..1000]);
    let mut other = content(3 * MIB + 7);
    other[5] ^= 1;
    std::fs::write(&path, other).expect("it can be written");
    assert!(!store.agrees(key, sent(&path, &[], None)).expect("an answer"));
    store.delete(key).expect("it is deleted");
    store.delete(key).expect("and again");
    assert_eq!(store.head(key), Ok(None));
    check(&*store, google.scratch.path()).expect("everything is as it should be");
    assert_eq!(google.issued(), 1, "one token serves all");

    let nowhere = google.store_with(&emulator.url(), "account.json", "nowhere");
    let fault = check(&*nowhere, google.scratch.path()).expect_err("there is no such bucket");
    assert_eq!(fault.kind, FaultKind::Bucket, "{fault}");
}

/// The XML API in front of S3, for who has the token. Objects are looked at by the JSON API.
fn front(google: &Google, s3fs: &S3sFs, refuses: impl Fn(&str) -> bool + Send + Sync + 'static) -> Server {
    let (tokens, behind, url) = (google.tokens.clone(), s3(&s3fs.program.url()), s3fs.program.url());
    Server::start(move |request| {
        let token = request.head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let is_known = token.is_some_and(|token| tokens.lock().expect("no panic").iter().any(|known| known == token));
        if !is_known || token.is_some_and(&refuses) {
            return Response::new(401, "<Error><Code>AuthenticationRequired</Code></Error>");
        }
        match request.head.path().strip_prefix(&format!("/storage/v1/b/{BUCKET}/o/")) {
            Some(key) => json_api(request, &*behind, &decoded(key)),
            None => xml_api(request, &url),
        }
    })
}

fn json_api(request: &Request, behind: &dyn Store, key: &str) -> Response {
    let missing = || Response::new(404, r#"{"error":{"code":404,"message":"No such object"}}"#);
    match (request.head.method.as_str(), behind.head(key).expect("an answer")) {
        (_, None) => missing(),
        ("DELETE", Some(_)) => {
            behind.delete(key).expect("it is deleted");
            Response::new(204, "")
        }
        (_, Some(stored)) => {
            let crc = crc32c_base64(&read(behind, key, 0, stored.size));
            let object = serde_json::json!({ "size": stored.size.to_string(), "etag": "C", "crc32c": crc });
            Response::new(200, object.to_string())
        }
    }
}

fn xml_api(request: &Request, s3: &str) -> Response {
    let (path, query) = request.head.target.split_once('?').unwrap_or((&request.head.target, ""));
    let mut query: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect();
    query.sort();
    let method = match request.head.method.as_str() {
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        _ => Method::Get,
    };
    if request.head.method == "PUT" && request.head.header("content-md5").is_none() {
        return Response::new(400, "<Error><Code>NoMd5</Code></Error>");
    }
    let url = rusty_s3::signing::sign(
        &jiff::Timestamp::now(),
        method,
        format!("{s3}{path}").parse().expect("a URL"),
        ACCESS_KEY,
        SECRET_KEY,
        None,
        "us-east-1",
        60,
        query.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        std::iter::empty(),
    );
    let mut builder = ureq::http::Request::builder().method(request.head.method.as_str()).uri(url.as_str());
    for name in ["content-md5", "content-type", "range"] {
        if let Some(value) = request.head.header(name) {
            builder = builder.header(name, value);
        }
    }
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut reply = agent.run(builder.body(&request.body[..]).expect("a request")).expect("an answer");
    let body = reply.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body");
    let mut response = match reply.status().as_u16() {
        // What s3s-fs says of an upload that it does not know.
        403 if query.iter().any(|(name, _)| name == "uploadId") => {
            Response::new(404, "<Error><Code>NoSuchUpload</Code></Error>")
        }
        status => Response::new(status, body),
    };
    if let Some(etag) = reply.headers().get("etag") {
        response = response.with("etag", etag.to_str().expect("a text"));
    }
    if request.head.method == "PUT" {
        response = response.with("x-goog-hash", format!("crc32c={}", crc32c_base64(&request.body)));
    }
    response
}

/// Slowly, and not as the store does it.
fn crc32c_base64(octets: &[u8]) -> String {
    let crc = octets.iter().fold(!0_u32, |crc, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    });
    openssl::base64::encode_block(&(!crc).to_be_bytes())
}

#[test]
fn objects_live_and_die_behind_the_token() {
    let Some(s3fs) = S3sFs::start("objects_live_and_die_behind_the_token") else { return };
    let google = Google::start(3600);
    let front = front(&google, &s3fs, |_| false);
    let store = google.store(&front.url());
    lives_and_dies(&*store, 5 * MIB);

    let object = Object { key: "c/r/x.webm", content_type: WEBM };
    let upload = store.create(object).expect("an upload");
    let path = google.scratch.file("f", 3 * MIB);
    let parts = parts(&*store, object, &upload, &path, 5 * MIB).expect("parts");
    store.abort(object, &upload).expect("it is given up");
    let fault = store.complete(object, &upload, &parts).expect_err("there is none any more");
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    assert_eq!(google.issued(), 1, "one token serves all");
}

#[test]
fn a_withdrawn_token_is_replaced_once() {
    let Some(s3fs) = S3sFs::start("a_withdrawn_token_is_replaced_once") else { return };
    let google = Google::start(3600);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let first = front(&google, &s3fs, move |token| {
        count.fetch_add(1, Ordering::SeqCst);
        token.starts_with("ya29.test-token-0-")
    });
    let path = google.scratch.file("f", 100_000);
    let object = Object { key: "k", content_type: WEBM };
    let store = google.store(&first.url());
    store.put(object, whole(&path)).expect("the second token is good");
    assert_eq!((google.issued(), asked.load(Ordering::SeqCst)), (2, 2));
    assert!(store.agrees("k", sent(&path, &[], None)).expect("an answer"));
    assert_eq!(google.issued(), 2);

    let never = front(&google, &s3fs, |_| true);
    let fault = google.store(&never.url()).put(object, whole(&path)).expect_err("no token is good");
    assert_eq!(fault.kind, FaultKind::Credentials, "{fault}");
    assert_eq!(google.issued(), 4, "two more, and no third");
    assert!(!fault.text.contains("ya29"), "{fault}");
}

/// One that does not live long is replaced before it expires.
#[test]
fn tokens_are_fetched_before_they_expire() {
    let google = Google::start(0);
    let server = Server::start(|_| Response::new(204, ""));
    let store = google.store(&server.url());
    store.delete("k").expect("it is deleted");
    store.delete("k").expect("it is deleted");
    assert_eq!(google.issued(), 2);
}

#[test]
fn what_google_refuses_is_named() {
    let google = Google::start(3600);
    let other = Rsa::generate(2048).and_then(PKey::from_rsa).and_then(|key| key.private_key_to_pem_pkcs8());
    google.write_account("other.json", &String::from_utf8(other.expect("a key")).expect("PEM is text"));
    let store = google.store_with("http://127.0.0.1:9", "other.json", BUCKET);
    let fault = check(&*store, google.scratch.path()).expect_err("the signature is another");
    assert_eq!(fault.kind, FaultKind::Credentials, "{fault}");
    assert!(fault.text.contains("invalid_grant"), "{fault}");
    assert_eq!(google.issued(), 0);

    for (status, body, expected) in [
        (404, r#"{"error":{"message":"The specified bucket does not exist."}}"#, FaultKind::Bucket),
        (403, r#"{"error":{"message":"no","errors":[{"reason":"forbidden"}]}}"#, FaultKind::Credentials),
        (429, r#"{"error":{"message":"rateLimitExceeded"}}"#, FaultKind::Throttled),
        (500, "", FaultKind::Server),
    ] {
        let server = Server::start(move |_| Response::new(status, body));
        let fault = google.store(&server.url()).head("k").expect_err("it is refused");
        assert_eq!(fault.kind, expected, "{fault}");
    }
}

/// Checked as Google checks it: the canonical request is made again from the URL.
#[test]
fn signed_urls_hold() {
    let google = Google::start(3600);
    let store = google.store("https://storage.googleapis.com");
    let url = store.signed_url("c/r/a b%40.webm", "ü.webm", Duration::from_secs(600)).expect("a URL").expect("a URL");
    let (base, query) = url.split_once('?').expect("a query");
    assert_eq!(base, "https://storage.googleapis.com/recordings/c/r/a%20b%2540.webm");
    let (signed, signature) = query.split_once("&X-Goog-Signature=").expect("a signature");
    let field = |name: &str| {
        let mut pairs = signed.split('&').filter_map(|pair| pair.split_once('='));
        decoded(pairs.find(|(found, _)| *found == name).expect("it is there").1)
    };
    assert_eq!(field("X-Goog-Expires"), "600");
    assert_eq!(field("response-content-disposition"), "inline; filename=\"_.webm\"; filename*=UTF-8''%C3%BC.webm");
    let scope = field("X-Goog-Credential").strip_prefix(&format!("{EMAIL}/")).expect("the account").to_owned();
    let path = base.strip_prefix("https://storage.googleapis.com").expect("the host");
    let mut pairs: Vec<&str> = signed.split('&').collect();
    pairs.sort_unstable();
    let canonical = format!("GET\n{path}\n{}\nhost:storage.googleapis.com\n\nhost\nUNSIGNED-PAYLOAD", pairs.join("&"));
    let hash = openssl::sha::sha256(canonical.as_bytes());
    let hash: String = hash.iter().map(|octet| format!("{octet:02x}")).collect();
    let text = format!("GOOG4-RSA-SHA256\n{}\n{scope}\n{hash}", field("X-Goog-Date"));
    let signature: Vec<u8> = (0..signature.len() / 2)
        .map(|n| u8::from_str_radix(&signature[2 * n..2 * n + 2], 16).expect("hexadecimal"))
        .collect();
    let mut verifier = Verifier::new(MessageDigest::sha256(), &google.public).expect("a verifier");
    verifier.update(text.as_bytes()).expect("it can be read");
    assert!(verifier.verify(&signature).expect("a verdict"));
}
