//! Uploads that are under way: the queries.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::recordings::{self, signed, unsigned};
use crate::base::RecordingId;
use crate::recording::upload::{Change, FileUpload, Head, Part, Phase, Step, Upload, What};

/// Writes a change. To be called in a transaction.
pub fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    if let Some(entry) = &change.entry {
        recordings::save(connection, entry)?;
    }
    match &change.what {
        What::Head(head) => save_head(connection, head),
        What::File(head, file) => {
            save_head(connection, head)?;
            forget(connection, &head.recording, &file.name)?;
            save_file(connection, &head.recording, file)
        }
        What::Part(head, name, part) => {
            save_head(connection, head)?;
            save_part(connection, &head.recording, name, part)
        }
        What::Forget(head, name) => {
            save_head(connection, head)?;
            forget(connection, &head.recording, name)
        }
        What::Remove => remove(connection, &change.recording),
    }
}

/// With all its files and parts. Nothing happens when it is not there.
pub fn remove(connection: &Connection, recording: &RecordingId) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM uploads WHERE recording = ?1", [recording.as_str()])?;
    Ok(())
}

pub fn find(connection: &Connection, recording: &RecordingId) -> rusqlite::Result<Option<Upload>> {
    let sql = "SELECT store, phase, keep_local, attempts, restarts, next_try_ms, first_failure_ms, error \
               FROM uploads WHERE recording = ?1";
    let found = connection.query_row(sql, [recording.as_str()], |row| head(row, recording)).optional()?;
    let Some(head) = found.flatten() else { return Ok(None) };
    let sql = "SELECT name, remote_key, content_type, step, part_size, upload_id, object, etag, url, sha256, size \
               FROM upload_files WHERE recording = ?1 ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([recording.as_str()])?;
    let mut files = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(mut file) = file(row)? else { continue };
        file.parts = parts(connection, recording, &file.name)?;
        files.push(file);
    }
    Ok(Some(Upload { head, files }))
}

/// Those that were given up, in order.
pub fn failed(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<RecordingId>> {
    let sql = "SELECT recording FROM uploads WHERE phase = 'failed' ORDER BY recording LIMIT ?1";
    recordings::ids(connection, sql, [limit as i64])
}

/// One that was given up, or waits, is tried again at once, from where it was. To be called in a transaction.
pub fn again(connection: &Connection, recording: &RecordingId) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE uploads SET phase = CASE phase WHEN 'failed' THEN 'sending' ELSE phase END, attempts = 0, restarts = 0, \
         next_try_ms = NULL, first_failure_ms = NULL, error = NULL \
         WHERE recording = ?1 AND phase IN ('failed', 'sending', 'settling')",
        [recording.as_str()],
    )?;
    Ok(())
}

fn save_head(connection: &Connection, head: &Head) -> rusqlite::Result<()> {
    // Not REPLACE, which takes the files with it.
    connection.execute(
        "INSERT INTO uploads (recording, store, phase, keep_local, attempts, restarts, next_try_ms, first_failure_ms, error) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (recording) DO UPDATE SET store = ?2, phase = ?3, \
         keep_local = ?4, attempts = ?5, restarts = ?6, next_try_ms = ?7, first_failure_ms = ?8, error = ?9",
        params![
            head.recording.as_str(),
            head.provider,
            head.phase.as_str(),
            head.keep_local,
            head.attempts,
            head.restarts,
            head.next_try_ms.map(signed),
            head.first_failure_ms.map(signed),
            head.error,
        ],
    )?;
    Ok(())
}

fn save_file(connection: &Connection, recording: &RecordingId, file: &FileUpload) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO upload_files (recording, name, remote_key, content_type, step, part_size, upload_id, object, etag, \
         url, sha256, size) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            recording.as_str(),
            file.name,
            file.key,
            file.content_type,
            file.step.as_str(),
            signed(file.part_size),
            file.id,
            file.object,
            file.etag,
            file.url,
            file.sha256,
            signed(file.size),
        ],
    )?;
    file.parts.iter().try_for_each(|part| save_part(connection, recording, &file.name, part))
}

fn save_part(connection: &Connection, recording: &RecordingId, name: &str, part: &Part) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO upload_parts (recording, name, number, etag, size, checksum, sha256) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![recording.as_str(), name, part.number, part.etag, signed(part.size), part.checksum, part.sha256],
    )?;
    Ok(())
}

fn forget(connection: &Connection, recording: &RecordingId, name: &str) -> rusqlite::Result<()> {
    connection
        .execute("DELETE FROM upload_files WHERE recording = ?1 AND name = ?2", params![recording.as_str(), name])?;
    Ok(())
}

fn head(row: &Row<'_>, recording: &RecordingId) -> rusqlite::Result<Option<Head>> {
    let phase: String = row.get(1)?;
    let Some(phase) = Phase::parse(&phase) else {
        tracing::warn!(%recording, phase, "a row of the database is no upload");
        return Ok(None);
    };
    Ok(Some(Head {
        recording: recording.clone(),
        provider: row.get(0)?,
        phase,
        keep_local: row.get(2)?,
        attempts: small(row.get(3)?),
        restarts: small(row.get(4)?),
        next_try_ms: row.get::<_, Option<i64>>(5)?.map(unsigned),
        first_failure_ms: row.get::<_, Option<i64>>(6)?.map(unsigned),
        error: row.get(7)?,
    }))
}

fn file(row: &Row<'_>) -> rusqlite::Result<Option<FileUpload>> {
    let (name, step): (String, String) = (row.get(0)?, row.get(3)?);
    let Some(step) = Step::parse(&step) else {
        tracing::warn!(name, step, "a row of the database is no file that is uploaded");
        return Ok(None);
    };
    Ok(Some(FileUpload {
        name,
        key: row.get(1)?,
        content_type: row.get(2)?,
        step,
        part_size: unsigned(row.get(4)?),
        id: row.get(5)?,
        object: row.get(6)?,
        etag: row.get(7)?,
        url: row.get(8)?,
        sha256: row.get(9)?,
        size: unsigned(row.get(10)?),
        parts: Vec::new(),
    }))
}

fn parts(connection: &Connection, recording: &RecordingId, name: &str) -> rusqlite::Result<Vec<Part>> {
    let sql = "SELECT number, etag, size, checksum, sha256 FROM upload_parts WHERE recording = ?1 AND name = ?2 \
               ORDER BY number";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(params![recording.as_str(), name], |row| {
        Ok(Part {
            number: small(row.get(0)?),
            etag: row.get(1)?,
            size: unsigned(row.get(2)?),
            checksum: row.get(3)?,
            sha256: row.get(4)?,
        })
    })?;
    rows.collect()
}

fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema;

    fn head(recording: &RecordingId) -> Head {
        Head {
            recording: recording.clone(),
            provider: "s3".into(),
            phase: Phase::Live,
            keep_local: false,
            attempts: 0,
            restarts: 0,
            next_try_ms: None,
            first_failure_ms: None,
            error: None,
        }
    }

    fn file(name: &str, step: Step) -> FileUpload {
        FileUpload {
            name: name.into(),
            key: format!("call/r/{name}"),
            content_type: "video/webm".into(),
            step,
            part_size: 8 << 20,
            id: None,
            object: None,
            etag: None,
            url: None,
            sha256: String::new(),
            size: 0,
            parts: Vec::new(),
        }
    }

    fn part(number: u32) -> Part {
        Part { number, etag: format!("\"{number}\""), size: 8 << 20, checksum: None, sha256: "ab".into() }
    }

    /// What is written is read, in every shape; done twice, it is the same.
    #[test]
    fn changes_come_back() {
        let mut connection = Connection::open_in_memory().expect("memory");
        connection.pragma_update(None, "foreign_keys", true).expect("a pragma");
        schema::migrate(&mut connection).expect("tables");
        let recording = RecordingId::new(1, [1; 9]);
        let first = head(&recording);
        let faulty = Head {
            phase: Phase::Sending,
            keep_local: true,
            attempts: 3,
            restarts: 2,
            next_try_ms: Some(1),
            first_failure_ms: Some(2),
            error: Some("no such key".into()),
            ..first.clone()
        };
        let call = FileUpload { id: Some("id".into()), object: Some("o".into()), ..file("b.webm", Step::Parts) };
        let done = FileUpload {
            step: Step::Done,
            etag: Some("e".into()),
            url: Some("s3://b/k".into()),
            sha256: "cd".into(),
            size: 5,
            ..file("a.webm", Step::Done)
        };
        let mut expected = Upload { head: first.clone(), files: Vec::new() };
        let mut with_parts = call.clone();
        with_parts.parts = vec![part(2), Part { checksum: Some("c".into()), ..part(10) }];
        let changes: Vec<(What, Head, Vec<FileUpload>)> = vec![
            (What::Head(first.clone()), first.clone(), vec![]),
            (What::File(first.clone(), call.clone()), first.clone(), vec![call.clone()]),
            (What::Part(first.clone(), "b.webm".into(), part(10)), first.clone(), {
                vec![FileUpload { parts: vec![part(10)], ..call.clone() }]
            }),
            (What::Part(faulty.clone(), "b.webm".into(), part(2)), faulty.clone(), {
                vec![FileUpload { parts: vec![part(2), part(10)], ..call.clone() }]
            }),
            (What::File(faulty.clone(), with_parts.clone()), faulty.clone(), vec![with_parts.clone()]),
            (What::File(faulty.clone(), done.clone()), faulty.clone(), vec![done.clone(), with_parts]),
            (What::Forget(first.clone(), "b.webm".into()), first.clone(), vec![done]),
        ];
        for (what, head, files) in changes {
            (expected.head, expected.files) = (head, files);
            let change = Change { recording: recording.clone(), what, entry: None };
            for _ in 0..2 {
                apply(&connection, &change).expect("it is taken");
                assert_eq!(find(&connection, &recording).expect("rows"), Some(expected.clone()));
            }
        }
        let remove = Change { recording: recording.clone(), what: What::Remove, entry: None };
        apply(&connection, &remove).expect("it is taken");
        assert_eq!(find(&connection, &recording).expect("rows"), None);
        for table in ["uploads", "upload_files", "upload_parts"] {
            let sql = format!("SELECT count(*) FROM {table}");
            let rows: i64 = connection.query_row(&sql, [], |row| row.get(0)).expect("a number");
            assert_eq!(rows, 0, "{table}");
        }
    }

    #[test]
    fn what_was_given_up_begins_again() {
        let mut connection = Connection::open_in_memory().expect("memory");
        schema::migrate(&mut connection).expect("tables");
        for (number, phase, after) in [
            (1, Phase::Failed, Phase::Sending),
            (2, Phase::Sending, Phase::Sending),
            (3, Phase::Settling, Phase::Settling),
            (4, Phase::Deleting, Phase::Deleting),
        ] {
            let recording = RecordingId::new(number, [1; 9]);
            let head = Head { phase, attempts: 9, error: Some("x".into()), ..head(&recording) };
            let change = Change { recording: recording.clone(), what: What::Head(head), entry: None };
            apply(&connection, &change).expect("it is taken");
            let failed = failed(&connection, 10).expect("rows");
            assert_eq!(failed.contains(&recording), phase == Phase::Failed);
            again(&connection, &recording).expect("it is taken");
            let head = find(&connection, &recording).expect("rows").expect("an upload").head;
            assert_eq!((head.phase, head.error.is_some()), (after, phase == Phase::Deleting));
        }
    }
}
