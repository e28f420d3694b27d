//! `recordings list` and `recordings repair`: what is in `RECORDING_OUTPUT_DIR`, told and completed without a server.
//!
//! A recording that a running server is at is left alone: its manifest is locked.

use std::io::Write;
use std::path::Path;

use super::Failure;
use crate::base::rfc3339;
use crate::config::Config;
use crate::log::Safe;
use crate::storage::repair::{self, Outcome, Report};

pub(super) fn list(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let root = &config.recording.output_dir;
    let reports = repair::list(root).map_err(|e| unreadable(root, &e))?;
    for report in &reports {
        let state = match &report.outcome {
            Outcome::Complete | Outcome::Repaired => "",
            Outcome::InUse => "  in use",
            Outcome::Cancelled => "  not looked at",
            Outcome::Failed(why) => why.as_str(),
        };
        writeln!(
            out,
            "{}{}",
            line(report),
            if state.is_empty() { String::new() } else { format!("  {}", Safe(state.trim())) }
        )?;
    }
    Ok(writeln!(out, "{} in {}", count(reports.len()), Safe(&root.to_string_lossy()))?)
}

/// Errors: something could not be completed; each is told on its own.
pub(super) fn repair(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let root = &config.recording.output_dir;
    let mut told = Ok(());
    let reports = repair::repair_all(root, |report| {
        let outcome = match &report.outcome {
            Outcome::Complete => return,
            Outcome::Repaired => "repaired".to_owned(),
            Outcome::InUse => "in use, left alone".to_owned(),
            Outcome::Cancelled => "not looked at".to_owned(),
            Outcome::Failed(why) => format!("FAILED: {why}"),
        };
        let line = writeln!(out, "{}  {}", line(report), Safe(&outcome));
        told = std::mem::replace(&mut told, Ok(())).and(line);
    });
    let reports = reports.map_err(|e| unreadable(root, &e))?;
    told?;
    let failed = reports.iter().filter(|report| matches!(report.outcome, Outcome::Failed(_))).count();
    let repaired = reports.iter().filter(|report| report.outcome == Outcome::Repaired).count();
    writeln!(out, "{} looked at, {repaired} repaired, {failed} failed", count(reports.len()))?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{} could not be repaired", count(failed)))),
    }
}

/// Where it is, and what is known of it.
fn line(report: &Report) -> String {
    let directory = report.directory.to_string_lossy();
    let Some(entry) = &report.entry else { return Safe(&directory).to_string() };
    let seconds = entry.duration_ms / 1000;
    let remotes: Vec<_> = entry.files.iter().filter_map(|file| file.remote.as_ref()).collect();
    let place = match remotes.first() {
        None => String::new(),
        Some(remote) if remotes.iter().any(|remote| remote.is_only) => format!("  in {}", Safe(&remote.provider)),
        Some(remote) => format!("  here and in {}", Safe(&remote.provider)),
    };
    format!(
        "{}  {}  {}  {}:{:02}:{:02}  {} files  {:.1} MB{place}",
        Safe(&directory),
        rfc3339(entry.started),
        entry.status.as_str(),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        entry.files.len(),
        entry.size as f64 / 1e6,
    )
}

fn count(number: usize) -> String {
    format!("{number} recording{}", if number == 1 { "" } else { "s" })
}

fn unreadable(root: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("RECORDING_OUTPUT_DIR {}: {error}", root.display()))
}
