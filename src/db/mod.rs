//! The database: SQLite on a thread of its own, asked by [`Request`](crate::recording::library::Request)s.

pub mod recordings;
pub mod schema;
