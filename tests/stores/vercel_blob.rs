//! Vercel Blob: the stand-in passes its public client, and our store passes the stand-in.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use webrtc_engine::storage::cloud::check;
use webrtc_engine::storage::store::{FaultKind, Object, Store};

use crate::blob_standin::{BlobStandin, TOKEN};
use crate::harness::*;
use crate::server::{Response, Server};

fn store(url: &str, token: &str) -> Arc<dyn Store> {
    let env =
        [("RECORDING_STORAGE_PROVIDER", "vercel-blob"), ("BLOB_READ_WRITE_TOKEN", token), ("VERCEL_BLOB_API_URL", url)];
    open(&env, SHORT)
}

#[test]
fn the_standin_is_as_the_public_client_wants_it() {
    let Some(client) = tool("node_modules/@vercel/blob/package.json", "the_standin_is_as_the_public_client_wants_it")
    else {
        return;
    };
    assert!(client.exists());
    let standin = BlobStandin::start();
    let output = Command::new("node")
        .arg(e2e().join("peers/vercel_blob.mjs"))
        .env("VERCEL_BLOB_API_URL", standin.server.url())
        .env("VERCEL_BLOB_RETRIES", "1")
        .env("BLOB_READ_WRITE_TOKEN", TOKEN)
        .output()
        .expect("node");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "passed", "{said}");
    let (content_type, octets) = standin.object("left/large.webm").expect("it was left");
    assert_eq!((content_type.as_str(), octets.len()), ("video/webm", 9 << 20));
    // What others put there is read by us.
    let store = store(&standin.server.url(), TOKEN);
    assert_eq!(store.head("left/large.webm").expect("an answer").expect("it is there").size, 9 << 20);
    assert_eq!(read(&*store, "left/large.webm", (8 << 20) - 2, 4), [7, 7, 8, 8]);
}

#[test]
fn objects_live_and_die_in_the_standin() {
    let standin = BlobStandin::start();
    let store = store(&standin.server.url(), TOKEN);
    assert_eq!((store.provider(), store.part_size()), ("vercel-blob", 8 * MIB));
    lives_and_dies(&*store, 5 * MIB);
    check(&*store, &std::env::temp_dir()).expect("everything is as it should be");
    assert_eq!(store.signed_url("k", "k", Duration::from_secs(5)), Ok(None));
}

/// With the tag that was heard, only samples are read back; they find what differs where they look, which is at the ends too.
#[test]
fn ends_are_always_compared() {
    let standin = BlobStandin::start();
    let store = store(&standin.server.url(), TOKEN);
    let scratch = Scratch::new();
    let path = scratch.file("f", 12 * MIB);
    let (parts, stored) = upload(&*store, "k", &path, 5 * MIB).expect("it is uploaded");
    for at in [0, 12 * MIB - 1] {
        let mut other = content(12 * MIB);
        other[at as usize] ^= 1;
        std::fs::write(&path, &other).expect("it can be written");
        assert!(!store.agrees("k", sent(&path, &parts, Some(&stored.etag))).expect("an answer"), "{at}");
    }
}

#[test]
fn a_second_try_replaces_the_first_and_an_upload_needs_no_end() {
    let standin = BlobStandin::start();
    let store = store(&standin.server.url(), TOKEN);
    let scratch = Scratch::new();
    let object = Object { key: "c/r/f.webm", content_type: WEBM };
    for size in [10, 20] {
        let path = scratch.file("f", size);
        store.put(object, whole(&path)).expect("it is put");
        assert_eq!(standin.object(object.key), Some((WEBM.into(), content(size))));
    }
    let upload = store.create(object).expect("an upload");
    assert_ne!(upload.object.as_deref(), Some(object.key));
    store.abort(object, &upload).expect("nothing is done");
}

#[test]
fn what_is_refused_is_named() {
    let standin = BlobStandin::start();
    let wrong = "vercel_blob_rw_AbCdEf123_NotTheSecretNotTheSecret";
    let fault = check(&*store(&standin.server.url(), wrong), &std::env::temp_dir()).expect_err("it cannot work");
    assert_eq!(fault.kind, FaultKind::Credentials, "{fault}");
    assert!(!fault.text.contains("NotTheSecret"), "{fault}");
    for (status, code, expected) in [
        (404, "store_not_found", FaultKind::Bucket),
        (403, "store_suspended", FaultKind::Bucket),
        (429, "rate_limited", FaultKind::Throttled),
        (500, "internal_server_error", FaultKind::Server),
    ] {
        let server = Server::start(move |_| {
            let body = format!(r#"{{"error":{{"code":"{code}","message":"token {TOKEN}"}}}}"#);
            Response::new(status, body).with("retry-after", "9")
        });
        let fault = store(&server.url(), TOKEN).head("k").expect_err("it is refused");
        assert_eq!((fault.kind, fault.retry_after), (expected, Some(Duration::from_secs(9))), "{fault}");
        assert!(!fault.text.contains("VerySecret"), "{fault}");
    }
}

/// The token is for Vercel, whatever an answer says.
#[test]
fn the_token_goes_nowhere_else() {
    let elsewhere = Server::start(|_| panic!("nobody asks here"));
    let url = elsewhere.url();
    let server = Server::start(move |_| {
        let body = serde_json::json!({ "url": format!("{url}/x"), "size": 5, "etag": "e" });
        Response::new(200, body.to_string())
    });
    let fault = store(&server.url(), TOKEN).read("k", 0, 5).err().expect("it is refused");
    assert_eq!(fault.kind, FaultKind::Refused);
}
