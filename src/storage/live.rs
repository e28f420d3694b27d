//! One recording while it is made: its file and its manifest.
