//! Clocks, quantiles, the machine, and the options that all benches take.

use std::fs;
use std::time::Duration;

/// CPU of the calling thread.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What two readings of [`thread_cpu`] are apart when nothing is between them: it is a system call, a fraction of a
/// microsecond.
pub fn clock_cost() -> Duration {
    let mut samples: Vec<Duration> = (0..1_000)
        .map(|_| {
            let start = thread_cpu();
            thread_cpu().saturating_sub(start)
        })
        .collect();
    samples.sort();
    samples[samples.len() / 2]
}

/// The value below which a share of the samples lies; sorts them. 0 without samples.
pub fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

pub fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len().max(1) as f64
}

/// The one-minute load average.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").ok().and_then(|l| l.split(' ').next().map(str::to_owned)).unwrap_or_default()
}

/// True when the bench was started with this option (`cargo bench --bench NAME -- --quick`).
pub fn has_option(name: &str) -> bool {
    std::env::args().any(|arg| arg == name)
}

/// Names what the figures below depend on.
pub fn print_conditions() {
    let profile = if cfg!(debug_assertions) { "DEVELOPMENT build: figures mean nothing" } else { "release build" };
    println!("{profile}, load average {}", load());
}

/// Keeps the calling thread on the last core that it may use, away from the server's first worker, which takes the
/// first. On a machine with one core nothing is gained.
pub fn pin_to_last_core() {
    // SAFETY: a set of cores is plain integers, for which zeroes are valid; the calls read and write one of its size.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed) != 0 {
            return;
        }
        let cores = libc::CPU_SETSIZE as usize;
        let Some(last) = (0..cores).rev().find(|core| libc::CPU_ISSET(*core, &allowed)) else { return };
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last, &mut one);
        // Where it is refused the thread stays where it may be.
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one);
    }
}
