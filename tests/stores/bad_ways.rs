//! What goes wrong between us and a store is told as what it is, and with no secret in it.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use webrtc_engine::storage::store::{Fault, FaultKind, Object, Store, UploadId};

use crate::faults::{Do, Proxy};
use crate::harness::*;
use crate::server::{Response, Server};

const OBJECT: Object<'static> = Object { key: "c/r/x.webm", content_type: WEBM };

/// A store behind a proxy, and a file to send.
struct Way {
    s3fs: S3sFs,
    proxy: Proxy,
    store: Arc<dyn Store>,
}

impl Way {
    fn start(story: &str) -> Option<Way> {
        let s3fs = S3sFs::start(story)?;
        let proxy = Proxy::start(s3fs.program.address, |_, _| Do::Pass);
        let store = s3(&proxy.url());
        Some(Way { s3fs, proxy, store })
    }

    fn put(&self, path: &Path) -> Result<(), Fault> {
        self.store.put(OBJECT, whole(path)).map(|_| ())
    }

    fn fault(&self, path: &Path, what: Do) -> Fault {
        let text = format!("{what:?}");
        self.proxy.script(move |_, _| what.clone());
        let fault = self.put(path).expect_err(&text);
        assert!(!fault.text.contains(SECRET_KEY) && !fault.text.contains('\n'), "{fault}");
        assert!(!fault.text.contains("Signature="), "{fault}");
        fault
    }
}

#[test]
fn every_fault_is_of_its_kind() {
    let Some(way) = Way::start("every_fault_is_of_its_kind") else { return };
    let path = way.s3fs.scratch.file("f", MIB);
    let rows = [
        (Do::Reset, FaultKind::Network),
        (Do::ResetBody { after: 100_000 }, FaultKind::Network),
        (Do::ResetBody { after: 0 }, FaultKind::Network),
        (Do::ResetAnswer { after: 20 }, FaultKind::Network),
        (Do::LoseAnswer, FaultKind::Network),
        (Do::error(403, "AccessDenied"), FaultKind::Credentials),
        (Do::error(403, "SignatureDoesNotMatch"), FaultKind::Credentials),
        (Do::error(403, "RequestTimeTooSkewed"), FaultKind::Clock),
        (Do::error(404, "NoSuchBucket"), FaultKind::Bucket),
        (Do::error(301, "PermanentRedirect"), FaultKind::Region),
        (Do::error(400, "AuthorizationHeaderMalformed"), FaultKind::Region),
        (Do::error(400, "BadDigest"), FaultKind::Corrupt),
        (Do::error(500, "InternalError"), FaultKind::Server),
        (Do::Answer { status: 500, headers: vec![], body: "<html>".into() }, FaultKind::Server),
        (Do::Answer { status: 403, headers: vec![], body: String::new() }, FaultKind::Credentials),
        (Do::expired_token(), FaultKind::Credentials),
        (Do::WrongEtag, FaultKind::Corrupt),
    ];
    for (what, expected) in rows {
        let text = format!("{what:?}");
        let fault = way.fault(&path, what);
        assert_eq!(fault.kind, expected, "{text}: {fault}");
    }
    let fault = way.fault(&path, Do::slow_down(7));
    assert_eq!((fault.kind, fault.retry_after), (FaultKind::Throttled, Some(Duration::from_secs(7))), "{fault}");

    way.proxy.refuse();
    let fault = way.put(&path).expect_err("nobody listens");
    assert_eq!(fault.kind, FaultKind::Network, "{fault}");
    assert!(fault.text.contains("refused"), "{fault}");
    way.proxy.listen();
    way.proxy.script(|_, _| Do::Pass);
    way.put(&path).expect("all is well again");
}

/// The store has it, and says so when it is asked.
#[test]
fn an_answer_that_is_lost_is_found_again() {
    let Some(moto) = crate::s3::moto("an_answer_that_is_lost_is_found_again") else { return };
    let proxy = Proxy::start(moto.address, |_, _| Do::Pass);
    let (store, scratch) = (s3(&proxy.url()), Scratch::new());
    let path = scratch.file("f", 6 * MIB);
    let upload = store.create(OBJECT).expect("an upload");
    let parts = parts(&*store, OBJECT, &upload, &path, 5 * MIB).expect("parts");
    proxy.script(|_, _| Do::LoseAnswer);
    let fault = store.complete(OBJECT, &upload, &parts).expect_err("nothing is heard");
    assert_eq!(fault.kind, FaultKind::Network, "{fault}");
    proxy.script(|_, _| Do::Pass);
    assert!(store.agrees(OBJECT.key, sent(&path, &parts, None)).expect("an answer"));
    // Once more is no harm: some stores say that it is complete, some that there is no such upload.
    let again = store.complete(OBJECT, &upload, &parts);
    assert!(again.as_ref().map_or_else(|fault| fault.kind == FaultKind::Missing, |_| true), "{again:?}");
    assert_eq!(proxy.requests().len(), 6);
}

#[test]
fn an_upload_that_is_gone_is_missing() {
    let proxy = Proxy::start("127.0.0.1:1".parse().expect("an address"), |_, _| Do::error(404, "NoSuchUpload"));
    let (store, scratch) = (s3(&proxy.url()), Scratch::new());
    let path = scratch.file("f", 1000);
    let upload = UploadId { id: "gone".into(), object: None };
    let fault = store.part(OBJECT, &upload, 1, whole(&path)).expect_err("it is gone");
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    let fault = store.complete(OBJECT, &upload, &[]).expect_err("it is gone");
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    store.abort(OBJECT, &upload).expect("which is what was wanted");
}

/// A store that refuses does not wait for the end of a body, and closes. What it said is heard.
#[test]
fn what_is_said_before_the_end_is_heard() {
    let Some(way) = Way::start("what_is_said_before_the_end_is_heard") else { return };
    let path = way.s3fs.scratch.file("f", 32 * MIB);
    let body = "<Error><Code>SlowDown</Code></Error>".to_owned();
    let fault = way.fault(&path, Do::AnswerEarly { status: 503, body });
    assert_eq!(fault.kind, FaultKind::Throttled, "{fault}");
}

#[test]
fn what_stalls_ends() {
    let Some(way) = Way::start("what_stalls_ends") else { return };
    let path = way.s3fs.scratch.file("f", 32 * MIB);
    for what in [Do::Stall { after: 50_000 }, Do::NoAnswer] {
        let begin = Instant::now();
        let fault = way.fault(&path, what);
        assert_eq!(fault.kind, FaultKind::Network, "{fault}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    }
}

/// A completion may take longer than other answers, and not for ever.
#[test]
fn completions_are_waited_for() {
    let Some(way) = Way::start("completions_are_waited_for") else { return };
    let upload = way.store.create(OBJECT).expect("an upload");
    way.proxy.script(|_, _| Do::NoAnswer);
    let begin = Instant::now();
    let fault = way.store.complete(OBJECT, &upload, &[]).expect_err("nothing is heard");
    assert_eq!(fault.kind, FaultKind::Network, "{fault}");
    assert!(begin.elapsed() >= SHORT.completion, "{:?}", begin.elapsed());
}

/// It takes longer than anything may stand still, in both directions.
#[test]
fn what_is_slow_goes_on() {
    let Some(way) = Way::start("what_is_slow_goes_on") else { return };
    let path = way.s3fs.scratch.file("f", 70_000);
    way.proxy.script(|_, _| Do::Slow { octets_per_second: 10_000 });
    let begin = Instant::now();
    way.put(&path).expect("it arrives");
    assert!(begin.elapsed() > SHORT.answer + SHORT.idle, "it was not slow: {:?}", begin.elapsed());
    assert_eq!(read(&*way.store, OBJECT.key, 0, 70_000), content(70_000));
}

/// What takes the kernel's buffers long to lose is no stall either.
#[test]
fn what_waits_in_buffers_goes_on() {
    let Some(way) = Way::start("what_waits_in_buffers_goes_on") else { return };
    let path = way.s3fs.scratch.file("f", 3 * MIB);
    way.proxy.script(|_, _| Do::Slow { octets_per_second: 400_000 });
    let begin = Instant::now();
    way.put(&path).expect("it arrives");
    assert!(begin.elapsed() > SHORT.answer + SHORT.idle, "it was not slow: {:?}", begin.elapsed());
}

#[test]
fn a_download_that_breaks_off_is_an_error() {
    let Some(way) = Way::start("a_download_that_breaks_off_is_an_error") else { return };
    let path = way.s3fs.scratch.file("f", MIB);
    way.put(&path).expect("it is put");
    for what in [Do::ResetAnswer { after: 300_000 }, Do::ResetAnswer { after: 20 }] {
        way.proxy.script(move |_, _| what.clone());
        let read = way.store.read(OBJECT.key, 0, MIB);
        let end = read
            .map_err(|fault| fault.kind)
            .and_then(|mut reader| io::copy(&mut reader, &mut io::sink()).map_err(|_| FaultKind::Network));
        assert_eq!(end, Err(FaultKind::Network));
    }
}

/// A success that is none: the status was sent before the store knew.
#[test]
fn a_completion_is_judged_by_its_body() {
    let Some(way) = Way::start("a_completion_is_judged_by_its_body") else { return };
    let upload = way.store.create(OBJECT).expect("an upload");
    for (body, expected) in [
        ("<?xml version=\"1.0\"?>\n  \n <Error><Code>InternalError</Code></Error>", FaultKind::Server),
        ("<Error><Code>SlowDown</Code></Error>", FaultKind::Throttled),
        ("<Error><Code>NoSuchUpload</Code></Error>", FaultKind::Missing),
        ("", FaultKind::Server),
        ("<html></html>", FaultKind::Server),
    ] {
        let what = Do::Answer { status: 200, headers: vec![], body: body.to_owned() };
        way.proxy.script(move |_, _| what.clone());
        let fault = way.store.complete(OBJECT, &upload, &[]).expect_err("it failed");
        assert_eq!(fault.kind, expected, "{body}: {fault}");
    }
}

#[test]
fn files_that_are_not_there_or_shorter_are_ours() {
    let Some(way) = Way::start("files_that_are_not_there_or_shorter_are_ours") else { return };
    let path = way.s3fs.scratch.file("f", 1000);
    let mut range = whole(&path);
    range.length = 2000;
    let fault = way.store.put(OBJECT, range).expect_err("it is shorter");
    assert_eq!(fault.kind, FaultKind::Local, "{fault}");
    range.path = Path::new("/nonexistent/file");
    assert_eq!(way.store.put(OBJECT, range).expect_err("it is not there").kind, FaultKind::Local);
}

#[test]
fn nobody_is_followed_and_nothing_is_read_without_end() {
    let elsewhere = Server::start(|_| panic!("nobody asks here"));
    let place = elsewhere.url();
    let server = Server::start(move |_| Response::new(307, "").with("location", format!("{place}/x")));
    let fault = s3(&server.url()).head("k").expect_err("it is elsewhere");
    assert_eq!(fault.kind, FaultKind::Region, "{fault}");

    let server = Server::start(|_| Response::new(200, vec![b'x'; 3 << 20]));
    let fault = s3(&server.url()).create(OBJECT).expect_err("it is too long");
    assert_eq!(fault.kind, FaultKind::Server, "{fault}");

    let server = Server::start(|_| Response::new(403, "").with("x-amz-bucket-region", "eu-north-1"));
    let fault = s3(&server.url()).head("k").expect_err("it is in another region");
    assert_eq!(fault.kind, FaultKind::Region, "{fault}");
}

#[test]
fn places_that_are_not_there() {
    for (endpoint, expected) in [
        ("http://no-such-host.invalid", FaultKind::Network),
        ("http://169.254.169.254", FaultKind::Network),
        ("http://127.0.0.1:1", FaultKind::Network),
    ] {
        let fault = s3(endpoint).head("k").expect_err("it is not there");
        assert_eq!(fault.kind, expected, "{fault}");
        assert!(fault.text.contains(endpoint.trim_start_matches("http://")), "{fault}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").expect("it is written");
        let _ = stream.read(&mut [0; 4096]);
    });
    let fault = s3(&format!("http://{address}")).head("k").expect_err("it is no store");
    assert_eq!(fault.kind, FaultKind::Network, "{fault}");
    thread.join().expect("no panic");
}

/// Everything that is said while things go well and badly, at the greatest detail.
#[test]
fn no_secret_is_logged() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(octets);
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let token = "FwoGZXIvYXdzEXAMPLETOKENEXAMPLETOKEN";
    let echo = format!(
        "<Error><Code>{SECRET_KEY}</Code><Message>{token} X-Amz-Signature={}</Message></Error>",
        "a".repeat(64)
    );
    let server = Server::start(move |_| Response::new(403, echo.clone()));
    let said = tracing::subscriber::with_default(subscriber, || {
        tracing::info!("begun");
        let env = [("RECORDING_S3_SESSION_TOKEN", token)];
        let config = config(&[("RECORDING_S3_SECRET_ACCESS_KEY", SECRET_KEY), env[0]]);
        let store = s3_with(&server.url(), &env);
        let faults = [store.create(OBJECT).err(), store.head("k").err(), store.delete("k").err()];
        format!("{faults:?} {config:?}")
    });
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("a text");
    assert!(log.contains("begun"));
    for text in [&said, &log] {
        for secret in [SECRET_KEY, token, &"a".repeat(64)] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
