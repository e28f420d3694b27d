//! Directories and free space.
