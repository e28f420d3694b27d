//! Octets of files for those who download them.
