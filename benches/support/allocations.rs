//! The server's allocator, with a count per thread of what is asked of it. OpenSSL does not ask it.

use std::alloc::{GlobalAlloc, Layout};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use mimalloc::MiMalloc;

/// To be made the `#[global_allocator]` of a bench.
pub struct Counting;

/// What one thread asked for so far; a reallocation is one allocation of the whole new size.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub allocations: u64,
    pub bytes: u64,
    /// Allocated and not freed, by this thread.
    pub live_bytes: i64,
}

impl std::ops::Sub for Counts {
    type Output = Counts;

    fn sub(self, earlier: Counts) -> Counts {
        Counts {
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
            live_bytes: self.live_bytes - earlier.live_bytes,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.allocations += other.allocations;
        self.bytes += other.bytes;
        self.live_bytes += other.live_bytes;
    }
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { allocations: 0, bytes: 0, live_bytes: 0 }) };
    static TRACING: Cell<bool> = const { Cell::new(false) };
    static TRACES: RefCell<Vec<(usize, Backtrace)>> = const { RefCell::new(Vec::new()) };
}

/// Of the calling thread, since it began.
pub fn counts() -> Counts {
    COUNTS.get()
}

/// What C code holds, of which the counts above know nothing; all threads.
#[cfg(target_env = "gnu")]
pub fn c_heap() -> i64 {
    // SAFETY: the call reads the allocator's own books.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as i64
}

/// Other C libraries do not tell.
#[cfg(not(target_env = "gnu"))]
pub fn c_heap() -> i64 {
    0
}

/// Where allocations come from: how many and how many bytes, by the innermost function of a library or of this crate,
/// and the innermost of this crate that led there.
#[derive(Debug, Default)]
pub struct Sites(HashMap<String, (u64, u64)>);

impl Sites {
    /// Notes what `work` allocates. Slow.
    pub fn trace(&mut self, work: impl FnOnce()) {
        TRACING.set(true);
        work();
        TRACING.set(false);
        for (bytes, backtrace) in TRACES.take() {
            let entry = self.0.entry(site(&backtrace.to_string())).or_default();
            entry.0 += 1;
            entry.1 += bytes as u64;
        }
    }

    /// The most frequent first.
    pub fn by_count(self) -> Vec<(String, u64, u64)> {
        let mut sites: Vec<_> = self.0.into_iter().map(|(site, (count, bytes))| (site, count, bytes)).collect();
        sites.sort_by_key(|site| std::cmp::Reverse(site.1));
        sites
    }
}

/// Of a backtrace that begins in the allocator.
fn site(backtrace: &str) -> String {
    let (_, callers) = backtrace.rsplit_once("allocations::Counting").unwrap_or(("", backtrace));
    let mut names = callers
        .lines()
        .filter_map(|line| line.trim_start().split_once(": ").filter(|(n, _)| n.parse::<u32>().is_ok()))
        .map(|(_, name)| name)
        .filter(|name| !STANDARD.iter().any(|standard| name.starts_with(standard)));
    let innermost = names.next().unwrap_or("?").to_owned();
    if innermost.contains("webrtc_engine::") {
        return innermost;
    }
    let ours = names.find(|n| n.contains("webrtc_engine::") && !n.contains("webrtc_engine::peer::Peer::guard"));
    format!("{innermost} < {}", ours.unwrap_or("?"))
}

/// What the names of functions of the standard library begin with.
const STANDARD: [&str; 8] = ["alloc::", "core::", "std::", "<alloc", "<core", "<T ", "__rust", "hashbrown"];

fn note(allocated: usize, freed: usize) {
    // A thread that ends frees after its counters are gone.
    let _ = COUNTS.try_with(|cell| {
        let mut counts = cell.get();
        if allocated > 0 {
            counts.allocations += 1;
            counts.bytes += allocated as u64;
        }
        counts.live_bytes += allocated as i64 - freed as i64;
        cell.set(counts);
    });
    if allocated > 0 && TRACING.try_with(Cell::get).unwrap_or(false) {
        TRACING.set(false);
        TRACES.with_borrow_mut(|traces| traces.push((allocated, Backtrace::force_capture())));
        TRACING.set(true);
    }
}

// SAFETY: everything is MiMalloc's; the notes touch nothing of the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}
