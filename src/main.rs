//! The program: everything is in the library.

use std::process::ExitCode;

/// str0m allocates for every packet that it sends; this way that costs the same in a static binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    webrtc_engine::cli::main()
}
