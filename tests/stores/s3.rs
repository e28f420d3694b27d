//! S3: signatures, uploads in parts, what is refused.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use webrtc_engine::storage::cloud::check;
use webrtc_engine::storage::store::{FaultKind, Object};

use crate::harness::*;
use crate::server::{Response, Server};

#[test]
fn objects_live_and_die_in_s3s_fs() {
    let Some(s3fs) = S3sFs::start("objects_live_and_die_in_s3s_fs") else { return };
    let store = s3(&s3fs.program.url());
    assert_eq!((store.provider(), store.part_size()), ("s3", 8 * MIB));
    lives_and_dies(&*store, 5 * MIB);
    check(&*store, s3fs.scratch.path()).expect("everything is as it should be");
}

#[test]
fn a_prefix_comes_before_keys() {
    let Some(s3fs) = S3sFs::start("a_prefix_comes_before_keys") else { return };
    let store = s3_with(&s3fs.program.url(), &[("RECORDING_S3_PREFIX", "/media/calls/")]);
    let path = s3fs.scratch.file("f", 1000);
    let stored = store.put(Object { key: "c/r/f", content_type: WEBM }, whole(&path)).expect("it is put");
    assert_eq!(stored.url, "s3://recordings/media/calls/c/r/f");
    assert_eq!(std::fs::read(s3fs.kept("media/calls/c/r/f")).expect("it is there"), content(1000));
}

#[test]
fn what_is_wrong_is_named() {
    let Some(s3fs) = S3sFs::start("what_is_wrong_is_named") else { return };
    let url = s3fs.program.url();
    let rows: [(&[(&str, &str)], FaultKind); 2] = [
        (&[("RECORDING_S3_SECRET_ACCESS_KEY", "not-the-secret")], FaultKind::Credentials),
        (&[("RECORDING_S3_ACCESS_KEY_ID", "AKNOBODY")], FaultKind::Credentials),
    ];
    for (more, expected) in rows {
        let fault = check(&*s3_with(&url, more), s3fs.scratch.path()).expect_err("it cannot work");
        assert_eq!(fault.kind, expected, "{fault}");
        assert!(fault.text.starts_with("write: ") && !fault.text.contains('\n'), "{fault}");
        assert!(!fault.text.contains("not-the-secret") && !fault.text.contains("Signature="), "{fault}");
    }
}

#[test]
fn uploads_are_given_up_and_small_parts_are_refused() {
    let Some(s3fs) = S3sFs::start("uploads_are_given_up_and_small_parts_are_refused") else { return };
    let store = s3(&s3fs.program.url());
    let object = Object { key: "c/r/x.webm", content_type: WEBM };
    let path = s3fs.scratch.file("f", 3 * MIB);
    let fault = upload(&*store, object.key, &path, MIB).expect_err("parts are too small");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(fault.text.contains("EntityTooSmall"), "{fault}");

    let upload = store.create(object).expect("an upload");
    parts(&*store, object, &upload, &path, 5 * MIB).expect("parts");
    store.abort(object, &upload).expect("it is given up");
    assert_eq!(store.head(object.key), Ok(None));
}

#[test]
fn signed_urls_are_for_anybody() {
    let Some(s3fs) = S3sFs::start("signed_urls_are_for_anybody") else { return };
    let store = s3(&s3fs.program.url());
    let path = s3fs.scratch.file("f", 5000);
    store.put(Object { key: "c/r/f.webm", content_type: WEBM }, whole(&path)).expect("it is put");
    let url = store.signed_url("c/r/f.webm", "f.webm", Duration::from_secs(60)).expect("a URL").expect("a URL");
    let mut reply = ureq::get(&url).call().expect("anybody may");
    assert_eq!(reply.body_mut().read_to_vec().expect("a body"), content(5000));
    let tampered = url.replace("f.webm?", "g.webm?");
    assert!(ureq::get(&tampered).call().is_err());
}

/// It believes every signature, so it is asked about other things.
pub fn moto(story: &str) -> Option<Program> {
    let tool = tool(".venv/bin/moto_server", story)?;
    let program = Program::start(|port| {
        let mut command = Command::new(&tool);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command
    });
    ureq::put(format!("{}/{BUCKET}", program.url())).send_empty().expect("a bucket");
    Some(program)
}

#[test]
fn objects_live_and_die_in_moto() {
    let Some(moto) = moto("objects_live_and_die_in_moto") else { return };
    let store = s3_with(
        &moto.url(),
        &[("RECORDING_S3_STORAGE_CLASS", "STANDARD_IA"), ("RECORDING_S3_SSE", "AES256"), ("AWS_SESSION_TOKEN", "t")],
    );
    lives_and_dies(&*store, 5 * MIB);
    check(&*store, &std::env::temp_dir()).expect("everything is as it should be");
}

#[test]
fn what_kms_encrypts_has_tags_that_say_nothing() {
    let Some(moto) = moto("what_kms_encrypts_has_tags_that_say_nothing") else { return };
    lives_and_dies(&*s3_with(&moto.url(), &[("RECORDING_S3_SSE", "aws:kms")]), 5 * MIB);
}

#[test]
fn nothing_is_left_of_an_upload_that_is_given_up() {
    let Some(moto) = moto("nothing_is_left_of_an_upload_that_is_given_up") else { return };
    let store = s3(&moto.url());
    let object = Object { key: "c/r/x.webm", content_type: WEBM };
    let listed = || {
        let mut reply = ureq::get(format!("{}/{BUCKET}?uploads", moto.url())).call().expect("a list");
        reply.body_mut().read_to_string().expect("a text").matches("<UploadId>").count()
    };
    let scratch = Scratch::new();
    let path = scratch.file("f", 6 * MIB);
    let upload = store.create(object).expect("an upload");
    parts(&*store, object, &upload, &path, 5 * MIB).expect("parts");
    assert_eq!(listed(), 1);
    store.abort(object, &upload).expect("it is given up");
    assert_eq!(listed(), 0);
    store.abort(object, &upload).expect("and again");

    let nowhere = s3_with(&moto.url(), &[("RECORDING_S3_BUCKET", "nowhere")]);
    let fault = check(&*nowhere, scratch.path()).expect_err("there is no such bucket");
    assert_eq!(fault.kind, FaultKind::Bucket, "{fault}");
    assert_eq!(nowhere.create(object).expect_err("nor here").kind, FaultKind::Bucket);
}

/// Headers of what is to be encrypted and of the class go with what makes objects, and are signed.
#[test]
fn what_objects_are_to_be_is_told() {
    let server = Server::start(|request| {
        let signed = request.head.query("X-Amz-SignedHeaders").unwrap_or_default();
        let is_told = [("x-amz-server-side-encryption", "aws:kms"), ("x-amz-storage-class", "GLACIER_IR")]
            .iter()
            .all(|(name, value)| request.head.header(name) == Some(value) && signed.contains(name));
        let token = request.head.query("X-Amz-Security-Token");
        if !is_told || token.as_deref() != Some("to/ken+") {
            return Response::new(400, "<Error><Code>NotTold</Code></Error>");
        }
        match request.head.method.as_str() {
            "POST" => Response::new(200, "<InitiateMultipartUploadResult><UploadId>u&amp;1</UploadId></Init>"),
            _ => Response::new(200, "").with("etag", "\"x\""),
        }
    });
    let store = s3_with(
        &server.url(),
        &[
            ("RECORDING_S3_STORAGE_CLASS", "GLACIER_IR"),
            ("RECORDING_S3_SSE", "aws:kms"),
            ("RECORDING_S3_SESSION_TOKEN", "to/ken+"),
        ],
    );
    let scratch = Scratch::new();
    let path = scratch.file("f", 10);
    let object = Object { key: "k", content_type: WEBM };
    assert_eq!(store.create(object).expect("an upload").id, "u&1");
    assert_eq!(store.put(object, whole(&path)).expect("it is put").etag, "\"x\"");
}

/// Tags of what a KMS encrypts are no MD5: the one that was heard is enough, and without it the object is read back.
#[test]
fn opaque_tags_are_believed_when_they_were_heard() {
    let reads = Arc::new(AtomicUsize::new(0));
    let count = reads.clone();
    let server = Server::start(move |request| {
        let response = Response::new(200, content(2 * MIB))
            .with("etag", "\"0123456789abcdef0123456789abcdef-1\"")
            .with("x-amz-server-side-encryption", "aws:kms");
        count.fetch_add(usize::from(request.head.method == "GET"), Ordering::SeqCst);
        response
    });
    let (store, scratch) = (s3(&server.url()), Scratch::new());
    let path = scratch.file("f", 2 * MIB);
    let heard = "\"0123456789ABCDEF0123456789abcdef-1\"";
    assert!(store.agrees("k", sent(&path, &[], Some(heard))).expect("an answer"));
    assert_eq!(reads.load(Ordering::SeqCst), 0);
    assert!(store.agrees("k", sent(&path, &[], None)).expect("an answer"));
    assert!(store.agrees("k", sent(&path, &[], Some("\"other\""))).expect("an answer"));
    assert_eq!(reads.load(Ordering::SeqCst), 2);
    let mut other = content(2 * MIB);
    other[1_500_000] ^= 1;
    std::fs::write(&path, other).expect("it can be written");
    assert!(!store.agrees("k", sent(&path, &[], None)).expect("an answer"));
}
