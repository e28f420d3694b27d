//! What `/proc` says of the server, of the machine and of the generator itself (proc(5)).

use std::fs;
use std::io;

/// A reading of the server's counters.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessSample {
    /// Since the process began, microseconds, all threads.
    pub user_us: u64,
    pub system_us: u64,
    /// Voluntary and involuntary, of the threads that are alive.
    pub context_switches: u64,
    /// Resident memory in kB, and the most that it was.
    pub rss_kb: u64,
    pub rss_peak_kb: u64,
    pub threads: u64,
}

impl ProcessSample {
    /// # Errors
    ///
    /// When the process is gone or may not be read.
    pub fn of(pid: u32) -> io::Result<ProcessSample> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = parse_stat(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat is not understood"))?;
        let mut sample =
            ProcessSample { user_us: ticks_to_us(user), system_us: ticks_to_us(system), ..Default::default() };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        sample.rss_kb = status_field(&status, "VmRSS");
        sample.rss_peak_kb = status_field(&status, "VmHWM");
        sample.threads = status_field(&status, "Threads");
        // The counts in /proc/PID/status are those of the first thread alone.
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may end between listing and reading.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            sample.context_switches +=
                status_field(&status, "voluntary_ctxt_switches") + status_field(&status, "nonvoluntary_ctxt_switches");
        }
        Ok(sample)
    }
}

/// A reading of the whole machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineSample {
    /// Microseconds of all cores together.
    pub idle_us: u64,
    pub busy_us: u64,
    /// Datagrams that found a full receive or send buffer, in this network namespace.
    pub udp_receive_errors: u64,
    pub udp_send_errors: u64,
}

impl MachineSample {
    /// What cannot be read stays 0.
    pub fn take() -> MachineSample {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (idle, busy) = parse_machine_stat(&stat).unwrap_or_default();
        let (receive, send) = parse_udp(&fs::read_to_string("/proc/net/snmp").unwrap_or_default()).unwrap_or_default();
        MachineSample {
            idle_us: ticks_to_us(idle),
            busy_us: ticks_to_us(busy),
            udp_receive_errors: receive,
            udp_send_errors: send,
        }
    }
}

/// CPU of this process, user and system, microseconds.
pub fn own_cpu_us() -> u64 {
    rusage_us(libc::RUSAGE_SELF)
}

/// CPU of the calling thread, user and system, microseconds.
pub fn thread_cpu_us() -> u64 {
    rusage_us(libc::RUSAGE_THREAD)
}

fn rusage_us(who: libc::c_int) -> u64 {
    // SAFETY: rusage is plain integers, for which zeroes are valid, and the call only writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    let us = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

fn ticks_to_us(ticks: u64) -> u64 {
    // SAFETY: no memory is involved.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    ticks * 1_000_000 / per_second
}

/// `utime` and `stime`. The name of the program comes before them and may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn status_field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Idle (with waiting for disks) and everything else.
fn parse_machine_stat(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // The last two, guest times, are in the first two already.
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((idle, ticks.iter().sum::<u64>() - idle))
}

fn parse_udp(snmp: &str) -> Option<(u64, u64)> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let field = |name| {
        let index = names.split_ascii_whitespace().position(|n| n == name)?;
        values.split_ascii_whitespace().nth(index)?.parse().ok()
    };
    Some((field("RcvbufErrors")?, field("SndbufErrors")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 250 130 0 0 20 0";
        for name in ["server", "a b", "x) y (", ")"] {
            assert_eq!(parse_stat(&format!("42 ({name}) {rest}")), Some((250, 130)), "{name}");
        }
        assert_eq!(parse_stat("42 (server) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn fields_of_status_are_found_by_their_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t   4312 kB\nvoluntary_ctxt_switches:\t17\n";
        assert_eq!(status_field(status, "VmRSS"), 4312);
        assert_eq!(status_field(status, "voluntary_ctxt_switches"), 17);
        assert_eq!(status_field(status, "VmHWM"), 0);
    }

    #[test]
    fn idle_and_busy_are_split() {
        let stat = "cpu  10 1 5 100 20 2 3 4 50 60\ncpu0 1 2 3 4\n";
        assert_eq!(parse_machine_stat(stat), Some((120, 25)));
        assert_eq!(parse_machine_stat("intr 1"), None);
    }

    #[test]
    fn udp_errors_are_found_by_column() {
        let snmp =
            "Ip: A\nIp: 1\nUdp: InDatagrams InErrors RcvbufErrors SndbufErrors\nUdp: 9 8 7 6\nUdpLite: X\nUdpLite: 1\n";
        assert_eq!(parse_udp(snmp), Some((7, 6)));
        assert_eq!(parse_udp("Udp: A\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let sample = ProcessSample::of(std::process::id()).expect("our own process");
        assert!(sample.rss_kb > 0 && sample.rss_peak_kb >= sample.rss_kb && sample.threads > 0);
        assert!(ProcessSample::of(u32::MAX).is_err());
        let machine = MachineSample::take();
        assert!(machine.idle_us + machine.busy_us > 0);
    }
}
