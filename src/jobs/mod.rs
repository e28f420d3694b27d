//! Blocking work as a value: a [`Job`] goes to another thread, a [`Done`] comes back. No event loop ever waits for a
//! disk.

pub mod certificate;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use crate::base::queue::{Full, Sender, bounded};
use crate::config::TlsFiles;

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Job {
    /// Read certificate and key.
    LoadCertificate(TlsFiles),
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// The configuration for new connections, or why the files cannot be used.
    Certificate(Result<Arc<rustls::ServerConfig>, String>),
}

/// The thread that does jobs, one after the other.
pub struct Jobs {
    queue: Sender<Job>,
    done: Receiver<Done>,
}

impl Jobs {
    pub fn start() -> std::io::Result<Jobs> {
        let (queue, todo) = bounded::<Job>(QUEUE);
        let (report, done) = bounded::<Done>(QUEUE);
        thread::Builder::new().name("jobs".into()).spawn(move || {
            while let Ok(job) = todo.recv() {
                let result = match job {
                    Job::LoadCertificate(files) => Done::Certificate(certificate::load(&files)),
                };
                if report.try_send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Jobs { queue, done })
    }

    /// Hands a job over; it comes back when as many wait as may.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        self.queue.try_send(job).map_err(|Full(job)| job)
    }

    /// What has been done since it was last asked.
    pub fn poll_done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

/// Jobs that wait, and results that were not fetched. Both are bounded by how often the starter asks.
const QUEUE: usize = 64;
