//! Names, sizes and secrets.

use super::*;
use crate::config::{KEYS, RecordingConfig};

#[test]
fn names_of_objects() {
    for (prefix, key, expected) in [
        ("", "c/r/recording.webm", Some("c/r/recording.webm")),
        ("/a/b/", "c", Some("a/b/c")),
        ("", "../c", None),
        ("", "a//b", None),
        ("", "", None),
        ("", "a/./b", None),
        ("..", "a", None),
        ("", "a\nb", None),
    ] {
        assert_eq!(object_key(prefix, key).ok().as_deref(), expected, "{prefix} {key}");
    }
    assert!(object_key("", &"x".repeat(KEY_MAX + 1)).is_err());
    assert_eq!(encoded("a b/ü+%~", true), "a%20b/%C3%BC%2B%25~");
    assert_eq!(encoded("a/b", false), "a%2Fb");
    assert_eq!(disposition("a.webm"), "inline; filename=\"a.webm\"");
    let expected = "inline; filename=\"a___.webm\"; filename*=UTF-8''a%22%C3%BC%25.webm";
    assert_eq!(disposition("a\"ü%.webm"), expected);
}

#[test]
fn parts_are_few_enough() {
    let mib = 1 << 20;
    for (size, expected) in [(20 << 30, 8 * mib), (1 << 40, 117 * mib), (0, 8 * mib)] {
        assert_eq!(part_size(size), expected);
        assert!(u64::div_ceil(size, part_size(size)) <= PARTS_MAX);
    }
}

#[test]
fn the_configured_store_is_opened() {
    let mut config = Config::default();
    assert!(matches!(open(&config), Ok(None)));
    config.recording = RecordingConfig { provider: StorageProvider::S3, ..config.recording };
    assert_eq!(open(&config).err().map(|e| e.to_string()).as_deref(), Some("RECORDING_S3_BUCKET is missing"));
    config.recording.provider = StorageProvider::Gcs;
    config.recording.gcs_bucket = Some("b".into());
    let expected = "GOOGLE_APPLICATION_CREDENTIALS is missing";
    assert_eq!(open(&config).err().map(|e| e.to_string()).as_deref(), Some(expected));
    config.recording.provider = StorageProvider::VercelBlob;
    assert_eq!(open(&config).err().map(|e| e.to_string()).as_deref(), Some("BLOB_READ_WRITE_TOKEN is missing"));
    config.recording.blob_token = Some(Secret::new("vercel_blob_rw_store_x"));
    config.server.tls_ca_file = Some("/nonexistent.pem".into());
    let error = open(&config).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.starts_with("TLS_CA_FILE: /nonexistent.pem"), "{error}");
    config.server.tls_ca_file = None;
    assert_eq!(open(&config).expect("a store").expect("a store").provider(), "vercel-blob");
    assert!(
        KEYS.iter()
            .filter(|key| key.name.contains("SECRET") || key.name.contains("TOKEN"))
            .all(|key| key.secret || !key.file.starts_with("recording"))
    );
}
