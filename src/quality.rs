//! The words for how good a participant's connection is.

/// What is worst about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing is.
    Good,
    PacketLoss,
    Latency,
    Jitter,
    /// Video is smaller than it could be, or paused, because the network takes no more.
    Bandwidth,
    /// Nothing has arrived for a while.
    Lost,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Good => "good",
            Reason::PacketLoss => "packet-loss",
            Reason::Latency => "latency",
            Reason::Jitter => "jitter",
            Reason::Bandwidth => "bandwidth",
            Reason::Lost => "lost",
        }
    }
}

/// What a participant is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WarningKind {
    PacketLoss,
    Latency,
    Bandwidth,
}

impl WarningKind {
    pub fn as_str(self) -> &'static str {
        match self {
            WarningKind::PacketLoss => "packet-loss",
            WarningKind::Latency => "latency",
            WarningKind::Bandwidth => "bandwidth",
        }
    }
}

/// Seen from the participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the participant sends.
    Send,
    /// What the participant is sent.
    Receive,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Send => "send",
            Direction::Receive => "receive",
        }
    }
}
