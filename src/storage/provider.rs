//! Which store recordings go into, as it is configured.

use std::sync::Arc;

use super::store::Store;
use crate::config::{RecordingConfig, StorageProvider};

/// The store; `None`: recordings stay on this machine. Errors: it cannot be used as it is configured, one line for people.
pub fn open(config: &RecordingConfig) -> Result<Option<Arc<dyn Store>>, String> {
    let name = match config.provider {
        StorageProvider::Local => return Ok(None),
        StorageProvider::S3 => "s3",
        StorageProvider::Gcs => "gcs",
        StorageProvider::VercelBlob => "vercel-blob",
    };
    Err(format!("RECORDING_STORAGE_PROVIDER: uploads to {name} are not available"))
}
