#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| webrtc_engine::fuzz::upload_queue(data));
