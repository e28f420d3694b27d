//! What a recorder thread needs of a recorder, so that it can be tried with one that is simpler.

use std::time::Instant;

use crate::recording::feed::Item;
use crate::recording::{Block, Note, Quality};

/// See [`crate::recording::recorder`] for what each does.
pub trait Machine: Send + 'static {
    fn begin(now: Instant) -> Self;
    fn handle_item(&mut self, now: Instant, item: &Item);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_block(&mut self) -> Option<Block>;
    fn poll_keyframe_request(&mut self, now: Instant) -> Option<u32>;
    fn poll_note(&mut self) -> Option<Note>;
    fn quality(&self, track: u32) -> Quality;
    fn position_ns(&self, now: Instant) -> u64;
    fn is_finished(&self) -> bool;
}

macro_rules! machine {
    ($recorder:ty) => {
        impl Machine for $recorder {
            fn begin(now: Instant) -> Self {
                <$recorder>::new(now, Default::default())
            }
            fn handle_item(&mut self, now: Instant, item: &Item) {
                self.handle_item(now, item);
            }
            fn handle_timeout(&mut self, now: Instant) {
                self.handle_timeout(now);
            }
            fn poll_timeout(&self) -> Option<Instant> {
                self.poll_timeout()
            }
            fn poll_block(&mut self) -> Option<Block> {
                self.poll_block()
            }
            fn poll_keyframe_request(&mut self, now: Instant) -> Option<u32> {
                self.poll_keyframe_request(now)
            }
            fn poll_note(&mut self) -> Option<Note> {
                self.poll_note()
            }
            fn quality(&self, track: u32) -> Quality {
                self.quality(track)
            }
            fn position_ns(&self, now: Instant) -> u64 {
                self.position_ns(now)
            }
            fn is_finished(&self) -> bool {
                self.is_finished()
            }
        }
    };
}

machine!(crate::recording::Recorder);
#[cfg(test)]
machine!(super::standin::Recorder);

/// The one that records calls.
pub type Recorder = crate::recording::Recorder;
