//! `recordings upload`: what is not in the store is sent there now, without a server.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::{Failure, data_dir};
use crate::base::RecordingId;
use crate::base::queue::Sender;
use crate::config::Config;
use crate::db::Database;
use crate::log::Safe;
use crate::recording::library::{Answer, Entry, Inquiry, Request, Status, Unavailable};
use crate::storage::cloud;
use crate::storage::outbox::Outbox;
use crate::storage::store::Store;
use crate::storage::uploader::{self, Uploads};

/// Which recordings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that are on their way, as a server would at its start.
    Unfinished,
    /// And those whose upload was given up.
    Failed,
    /// And these.
    Named(Vec<RecordingId>),
}

impl Which {
    pub fn parse(words: &[&str], all_failed: bool) -> Result<Which, Failure> {
        let id = |word: &&str| {
            RecordingId::parse(word).ok_or_else(|| Failure::Usage(format!("{}: not the id of a recording", Safe(word))))
        };
        match (words, all_failed) {
            ([], false) => Ok(Which::Unfinished),
            ([], true) => Ok(Which::Failed),
            (words, false) => words.iter().map(id).collect::<Result<_, _>>().map(Which::Named),
            (_, true) => Err(Failure::Usage("--all-failed: not together with ids".to_owned())),
        }
    }
}

/// Errors: one of them is not in the store; each is told on its own.
pub(super) fn upload(config: &Config, which: Which, out: &mut dyn Write) -> Result<(), Failure> {
    match cloud::open(config)? {
        Some(store) => upload_to(store, config, which, out),
        None => Err(Failure::Failed("RECORDING_STORAGE_PROVIDER is local: recordings stay on this machine".to_owned())),
    }
}

fn upload_to(store: Arc<dyn Store>, config: &Config, which: Which, out: &mut dyn Write) -> Result<(), Failure> {
    let data_dir = &config.server.data_dir;
    let lock = data_dir::lock(data_dir).map_err(|e| Failure::Failed(format!("{e}; it uploads by itself")))?;
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(e.to_string());
    let database = Database::start(&data_dir.join("webrtc-engine.db"), &config.recording.output_dir);
    let database = database.map_err(|e| failed(&e))?;
    let library = database.sender();
    let result = run(store, config, &library, which, out);
    drop(library);
    database.close();
    drop(lock);
    result
}

fn run(
    store: Arc<dyn Store>,
    config: &Config,
    library: &Sender<Request>,
    which: Which,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut left: BTreeMap<RecordingId, Entry> = BTreeMap::new();
    let mut failures = 0;
    let wanted = match which {
        Which::Unfinished => None,
        Which::Failed => Some(None),
        Which::Named(ids) => Some(Some(ids)),
    };
    if let Some(recordings) = wanted {
        let named = recordings.clone().unwrap_or_default();
        let Answer::Upload(entries) = ask(library, Inquiry::Upload { recordings })? else { return Err(no_answer()) };
        left.extend(entries.into_iter().map(|entry| (entry.recording.clone(), entry)));
        for id in named.iter().filter(|id| !left.contains_key(*id)) {
            failures += 1;
            writeln!(out, "{}  FAILED: not known, not whole, or in a store already", id.as_str())?;
        }
    }
    let mut after = None;
    loop {
        // Also what has met a fault is tried now.
        let inquiry = Inquiry::Uploads { after: after.clone(), limit: PAGE };
        let Answer::Uploads(found) = ask(library, inquiry)? else { return Err(no_answer()) };
        let is_last = found.len() < PAGE;
        after = found.last().map(|unfinished| unfinished.recording.clone());
        let entries = found.into_iter().filter_map(|unfinished| unfinished.entry);
        let ids = entries.filter(|entry| entry.status == Status::Uploading).map(|entry| entry.recording);
        let inquiry = Inquiry::Upload { recordings: Some(ids.collect()) };
        let Answer::Upload(entries) = ask(library, inquiry)? else { return Err(no_answer()) };
        left.extend(entries.into_iter().map(|entry| (entry.recording.clone(), entry)));
        if is_last {
            break;
        }
    }
    let count = left.len();
    let recording = &config.recording;
    let outbox = Arc::new(Outbox::new(library.clone()));
    let uploads = Uploads::start(
        uploader::Config::new(store, &recording.output_dir, recording.keep_local),
        library.clone(),
        outbox,
        Arc::new(|_, _| {}),
    );
    let uploads = uploads.map_err(|e| Failure::Failed(format!("a thread: {e}")))?;
    let result = wait(library, left, out);
    uploads.stop(Instant::now() + STOP_WITHIN);
    failures += result?;
    match failures {
        0 => Ok(writeln!(out, "{count} uploaded")?),
        _ => Err(Failure::Failed(format!("{failures} could not be uploaded"))),
    }
}

/// Until each is there or has met a fault, which a server would try again. How many have.
fn wait(
    library: &Sender<Request>,
    mut left: BTreeMap<RecordingId, Entry>,
    out: &mut dyn Write,
) -> Result<usize, Failure> {
    let mut failures = 0;
    while !left.is_empty() {
        for (recording, entry) in left.clone() {
            let inquiry = Inquiry::Status { room: entry.room.clone(), recording: recording.clone() };
            let Answer::Entry(entry) = ask(library, inquiry)? else { return Err(no_answer()) };
            let outcome = match (entry.status, &entry.error) {
                (Status::Completed, _) => "uploaded".to_owned(),
                (Status::Uploading, None) => continue,
                (_, error) => {
                    failures += 1;
                    format!("FAILED: {}", error.as_deref().unwrap_or("it is not uploaded"))
                }
            };
            writeln!(out, "{}  {}", Safe(&entry.directory.to_string_lossy()), Safe(&outcome))?;
            left.remove(&recording);
        }
        thread::sleep(LOOK);
    }
    Ok(failures)
}

fn ask(library: &Sender<Request>, inquiry: Inquiry) -> Result<Answer, Failure> {
    let (send, answer) = channel();
    let reply = Box::new(move |answer| drop(send.send(answer)));
    library.try_send(Request::Ask { inquiry, reply }).map_err(|_| no_answer())?;
    match answer.recv_timeout(ANSWER_WITHIN) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Unavailable::NotFound)) => Err(Failure::Failed("a recording is gone".to_owned())),
        Ok(Err(_)) | Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> Failure {
    Failure::Failed("DATA_DIR: the database does not answer".to_owned())
}

const PAGE: usize = 100;
const LOOK: Duration = Duration::from_millis(200);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const STOP_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::super::data_dir::tests::TempDir;
    use super::*;
    use crate::recording::library::{FileKind, Update};
    use crate::recording::metadata;
    use crate::storage::store::{Fault, FaultKind};
    use crate::storage::tests::entry;
    use crate::storage::upload::fake::{Fake, Fate};

    fn call(store: &Arc<Fake>, config: &Config, which: Which) -> (Result<(), String>, String) {
        let mut out = Vec::new();
        let result = upload_to(store.clone(), config, which, &mut out).map_err(|failure| failure.to_string());
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn by_hand() {
        let temp = TempDir::new();
        let mut config = Config::default();
        config.server.data_dir = temp.0.join("data");
        config.recording.output_dir = temp.0.join("recordings");
        std::fs::create_dir_all(&config.server.data_dir).unwrap();
        let database = Database::start(&config.server.data_dir.join("webrtc-engine.db"), &config.recording.output_dir);
        let database = database.unwrap();
        let put = |number, status| {
            let mut entry = Entry { status, ..entry(number) };
            let directory = config.recording.output_dir.join(&entry.directory);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("a.webm"), b"abc").unwrap();
            let sha256 = crate::recording::names::hex(&openssl::sha::sha256(b"abc"));
            entry.files.push(metadata::file("a.webm", FileKind::Call, 3, sha256));
            let update = Request::Update(Update::Save(Box::new(entry.clone())));
            assert!(database.sender().try_send(update).is_ok());
            entry.recording
        };
        let unfinished = put(1, Status::Uploading);
        let local = put(2, Status::Completed);
        database.close();
        let store = Arc::new(Fake::new(100));

        let (result, out) = call(&store, &config, Which::Unfinished);
        assert_eq!((result, store.objects().len()), (Ok(()), 1), "{out}");
        assert!(out.contains(&format!("{}  uploaded", unfinished.as_str())) && out.ends_with("1 uploaded\n"), "{out}");
        assert_eq!(call(&store, &config, Which::Failed), (Ok(()), "0 uploaded\n".to_owned()));

        store.plan(|_, _| Fate::Before(Fault::new(FaultKind::Credentials, "no such key")));
        let (result, out) = call(&store, &config, Which::Named(vec![local.clone()]));
        assert!(result.is_err() && out.contains("FAILED: no such key"), "{out}");
        store.heal();
        // By then it is unfinished; the last fault is shown until it goes on, so it is waited for.
        let (_, out) = call(&store, &config, Which::Named(vec![local]));
        assert_eq!((store.objects().len(), out.ends_with("1 uploaded\n")), (2, true), "{out}");

        let unknown = entry(9).recording;
        let (result, out) = call(&store, &config, Which::Named(vec![unknown, unfinished]));
        assert!(result.is_err() && out.matches("FAILED: not known").count() == 2, "{out}");

        let held = data_dir::lock(&config.server.data_dir).unwrap();
        let (result, _) = call(&store, &config, Which::Unfinished);
        assert!(result.unwrap_err().contains("another server"));
        drop(held);
    }
}
