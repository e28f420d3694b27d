//! The tables, and how an older database becomes a newer one.
