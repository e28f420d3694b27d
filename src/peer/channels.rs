//! The data channels of one connection (RFC 8831): found by their label, opened where they are missing, bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use str0m::Rtc;
use str0m::channel::{ChannelConfig, ChannelId, Reliability};

/// How a channel delivers; what a channel to another client is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery {
    pub ordered: bool,
    pub reliability: Reliability,
}

impl Delivery {
    pub fn is_reliable(self) -> bool {
        self.reliability == Reliability::Reliable
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// On its way, or waiting for its channel to open.
    Queued,
    /// Too much waits already, and the channel may lose messages.
    Dropped,
    /// Too much waits already, and the channel may lose none: it was closed.
    Closed,
    /// The client has no data channels, or as many as it may have.
    Unavailable,
}

#[derive(Debug, Default)]
pub(super) struct Channels {
    open: Vec<Channel>,
}

#[derive(Debug)]
struct Channel {
    id: ChannelId,
    label: Arc<str>,
    delivery: Delivery,
    is_open: bool,
    /// Written before the channel was open; at most [`WAITING_MAX`] octets.
    waiting: VecDeque<(bool, Arc<[u8]>)>,
    waiting_octets: usize,
}

impl Channels {
    /// The channel is usable. `false`: it is one too many and was closed.
    pub fn on_open(&mut self, rtc: &mut Rtc, id: ChannelId, label: String, most: usize) -> bool {
        if let Some(channel) = self.open.iter_mut().find(|c| c.id == id) {
            channel.is_open = true;
            let waiting = std::mem::take(&mut channel.waiting);
            channel.waiting_octets = 0;
            for (binary, data) in waiting {
                write(rtc, id, binary, &data);
            }
            return true;
        }
        if self.open.len() >= most || label.len() > LABEL_MAX {
            rtc.direct_api().close_data_channel(id);
            return false;
        }
        let delivery = rtc.channel(id).and_then(|c| {
            let config = c.config()?;
            Some(Delivery { ordered: config.ordered, reliability: config.reliability })
        });
        self.open.push(Channel {
            id,
            label: label.into(),
            delivery: delivery.unwrap_or(Delivery { ordered: true, reliability: Reliability::Reliable }),
            is_open: true,
            waiting: VecDeque::new(),
            waiting_octets: 0,
        });
        true
    }

    pub fn on_close(&mut self, id: ChannelId) {
        self.open.retain(|c| c.id != id);
    }

    /// Label and delivery of a channel on which something came.
    pub fn describe(&self, id: ChannelId) -> Option<(Arc<str>, Delivery)> {
        self.open.iter().find(|c| c.id == id).map(|c| (c.label.clone(), c.delivery))
    }

    pub fn send(
        &mut self,
        rtc: &mut Rtc,
        label: &Arc<str>,
        delivery: Delivery,
        most: usize,
        binary: bool,
        data: &Arc<[u8]>,
    ) -> Sending {
        let Some(index) = self.open.iter().position(|c| c.label == *label) else {
            return self.open(rtc, label, delivery, most, binary, data);
        };
        let channel = &mut self.open[index];
        let taken = if channel.is_open { write(rtc, channel.id, binary, data) } else { channel.wait(binary, data) };
        match taken {
            true => Sending::Queued,
            false if channel.delivery.is_reliable() => {
                let id = channel.id;
                self.open.swap_remove(index);
                rtc.direct_api().close_data_channel(id);
                Sending::Closed
            }
            false => Sending::Dropped,
        }
    }

    fn open(
        &mut self,
        rtc: &mut Rtc,
        label: &Arc<str>,
        delivery: Delivery,
        most: usize,
        binary: bool,
        data: &Arc<[u8]>,
    ) -> Sending {
        if self.open.len() >= most {
            return Sending::Unavailable;
        }
        let id = rtc.direct_api().create_data_channel(ChannelConfig {
            label: label.to_string(),
            ordered: delivery.ordered,
            reliability: delivery.reliability,
            ..ChannelConfig::default()
        });
        let mut channel =
            Channel { id, label: label.clone(), delivery, is_open: false, waiting: VecDeque::new(), waiting_octets: 0 };
        channel.wait(binary, data);
        self.open.push(channel);
        Sending::Queued
    }
}

impl Channel {
    fn wait(&mut self, binary: bool, data: &Arc<[u8]>) -> bool {
        if self.waiting_octets + data.len() > WAITING_MAX {
            return false;
        }
        self.waiting_octets += data.len();
        self.waiting.push_back((binary, data.clone()));
        true
    }
}

fn write(rtc: &mut Rtc, id: ChannelId, binary: bool, data: &[u8]) -> bool {
    match rtc.channel(id) {
        Some(mut channel) => channel.write(binary, data).unwrap_or(false),
        None => false,
    }
}

/// What may wait for a channel that opens, which takes a round trip.
const WAITING_MAX: usize = 256 * 1024;
/// Octets; a label is kept for every client of the room.
const LABEL_MAX: usize = 64;
