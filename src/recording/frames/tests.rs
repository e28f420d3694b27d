//! Frames out of packets, codec by codec.
