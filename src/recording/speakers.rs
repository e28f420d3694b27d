//! Who spoke when, as WebVTT.
