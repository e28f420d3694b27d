//! Frames out of packets: what belongs together is put together, per codec.
