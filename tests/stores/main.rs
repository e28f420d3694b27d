//! The stores of objects against what they are in the world, or what stands in for them: s3s-fs and moto for S3, an emulator
//! for GCS, and for Vercel Blob a stand-in of our own that its public client has to pass as well. What goes wrong on the way
//! comes from a proxy with a script ([`faults`]).
//!
//! `tests/e2e/setup.sh` installs the tools. A test whose tools are missing prints `SKIPPED`, or fails where `CI` or
//! `E2E_REQUIRE` is set. Everything listens on free ports of loopback and ends with its test.

mod blob_standin;
mod faults;
mod harness;
mod server;

mod bad_ways;
mod gcs;
mod s3;
mod tls;
mod uploads;
mod vercel_blob;
