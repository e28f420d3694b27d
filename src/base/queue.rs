//! Bounded mailbox between threads: many senders, one receiver, a bound, and nobody ever waits.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The sending side; cloned for every sender.
pub struct Sender<T>(SyncSender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

/// The queue was full or its receiver is gone; the value comes back.
#[derive(Debug)]
pub struct Full<T>(pub T);

impl<T> Sender<T> {
    pub fn try_send(&self, value: T) -> Result<(), Full<T>> {
        self.0.try_send(value).map_err(|e| match e {
            TrySendError::Full(v) | TrySendError::Disconnected(v) => Full(v),
        })
    }
}

/// A queue that holds at most `bound` values; the sender decides what happens when it is full.
pub fn bounded<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    let (tx, rx) = sync_channel(bound);
    (Sender(tx), rx)
}
