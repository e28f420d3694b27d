//! Messages on data channels, relayed to the room or to one person of it.

use std::sync::Arc;
use std::time::Instant;

use super::Shard;
use crate::base::ParticipantKey;
use crate::peer::{Delivery, Sending};
use crate::signal::channel;
use crate::signal::message::ErrorCode;

impl Shard {
    /// A message that came on the channel `label` goes out on the channels of that label.
    pub(super) fn relay_message(
        &mut self,
        now: Instant,
        from: ParticipantKey,
        label: Arc<str>,
        delivery: Delivery,
        binary: bool,
        data: &[u8],
    ) {
        let Some(participant) = self.participant_mut(from) else { return };
        if !participant.messages.take(now) {
            return self.error_to(
                from,
                ErrorCode::RateLimited,
                "too many messages on data channels; this one was dropped",
            );
        }
        let index = participant.room;
        let state = &self.rooms[index];
        let Some(sender) = state.room.participant(from) else { return };
        if !sender.permissions.data {
            return self.error_to(from, ErrorCode::Forbidden, "the token does not allow to send data");
        }
        let Some(message) = channel::parse(binary, data, &self.message_limits) else {
            let text = "a message on a data channel is not of the form that is relayed";
            return self.error_to(from, ErrorCode::BadMessage, text);
        };
        let receivers: Vec<ParticipantKey> = match message.to {
            None => state.room.participants().map(|(key, _)| key).filter(|key| *key != from).collect(),
            Some(to) => {
                let other = to.user().and_then(|user| state.room.by_user(&user)).filter(|key| *key != from);
                let Some(other) = other else {
                    let text = "a message on a data channel is for nobody who is here";
                    return self.error_to(from, ErrorCode::ParticipantNotFound, text);
                };
                vec![other]
            }
        };
        let text = channel::encode(&sender.user, &message);
        for key in receivers {
            let Some(receiver) = self.participants.get_mut(key.slot as usize) else { continue };
            let Some(peer) = &mut receiver.peer else { continue };
            match peer.send_message(&label, delivery, binary, &text, &mut self.sink) {
                Sending::Queued => {
                    receiver.dirty = true;
                    self.touch(key);
                }
                Sending::Unavailable => {}
                Sending::Dropped => self.metrics.dropped_message(),
                Sending::Closed => {
                    self.metrics.dropped_message();
                    if let Some(receiver) = self.participant_mut(key) {
                        receiver.dirty = true;
                    }
                    self.touch(key);
                    let text = "a data channel was closed, since its messages are not read fast enough";
                    self.error_to(key, ErrorCode::Overloaded, text);
                }
            }
        }
    }
}
