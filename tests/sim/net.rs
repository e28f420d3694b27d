//! The network between a client and the server: weather per direction, and an address translator that may rebind.

use std::time::Duration;

/// What a direction of a link does to datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Shares of 1.
    pub loss: f64,
    /// Mean number of datagrams that are lost in a row, when loss comes in bursts (Gilbert's model); 0: each on its own.
    pub burst: f64,
    pub duplicate: f64,
    /// Share of datagrams that are held back by [`HELD_BACK`], so that later ones overtake them.
    pub reorder: f64,
    pub delay: Duration,
    /// Added evenly between 0 and this; larger than the distance of two packets, it reorders them.
    pub jitter: Duration,
    /// Octets per second, IP and UDP included.
    pub rate: Option<u64>,
    /// What would wait longer than this for its turn is dropped.
    pub queue: Duration,
    /// Nothing passes.
    pub dark: bool,
}

pub const FAIR: Weather = Weather {
    loss: 0.0,
    burst: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    rate: None,
    queue: Duration::from_millis(200),
    dark: false,
};

/// Nothing passes.
pub const DARK: Weather = Weather { dark: true, ..FAIR };

/// What a home's line does on a good day.
pub const HOME: Weather = Weather { delay: Duration::from_millis(20), jitter: Duration::from_millis(4), ..FAIR };

impl Weather {
    pub fn is_lossless(&self) -> bool {
        self.loss == 0.0 && !self.dark && self.rate.is_none()
    }

    /// How much later than another one a packet may arrive that left before it.
    pub fn disorder(&self) -> Duration {
        self.jitter + if self.reorder > 0.0 { HELD_BACK } else { Duration::ZERO }
    }

    /// The same with a rate, given in kilobits per second.
    pub fn narrow(self, kbps: u64) -> Weather {
        Weather { rate: Some(kbps * 125), queue: Duration::from_millis(250), ..self }
    }

    pub fn lossy(self, loss: f64) -> Weather {
        Weather { loss, ..self }
    }
}

const HELD_BACK: Duration = Duration::from_millis(30);
/// IPv4 and UDP.
const HEADERS: u64 = 28;

/// One direction of one client's link.
#[derive(Debug)]
pub struct Link {
    pub weather: Weather,
    busy_until: Duration,
    in_burst: bool,
    pub counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub datagrams: u64,
    pub octets: u64,
    pub lost: u64,
    /// No room in the queue; among the lost.
    pub overflowed: u64,
}

impl Link {
    pub fn new(weather: Weather) -> Link {
        Link { weather, busy_until: Duration::ZERO, in_burst: false, counts: Counts::default() }
    }

    /// When the copies of a datagram arrive: none, one or two of them.
    pub fn pass(&mut self, random: &mut fastrand::Rng, now: Duration, octets: usize) -> Vec<Duration> {
        let Weather { duplicate, reorder, delay, jitter, rate, queue, .. } = self.weather;
        self.counts.datagrams += 1;
        if self.loses(random) {
            self.counts.lost += 1;
            return Vec::new();
        }
        let mut leaves = now;
        if let Some(rate) = rate {
            let start = self.busy_until.max(now);
            if start - now > queue {
                self.counts.lost += 1;
                self.counts.overflowed += 1;
                return Vec::new();
            }
            self.busy_until = start + Duration::from_micros((octets as u64 + HEADERS) * 1_000_000 / rate);
            leaves = self.busy_until;
        }
        self.counts.octets += octets as u64 + HEADERS;
        let copies = if random.f64() < duplicate { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let held = if random.f64() < reorder { HELD_BACK } else { Duration::ZERO };
                leaves + delay + held + jitter.mul_f64(random.f64())
            })
            .collect()
    }

    fn loses(&mut self, random: &mut fastrand::Rng) -> bool {
        let Weather { loss, burst, dark, .. } = self.weather;
        if dark {
            return true;
        }
        if burst < 1.0 {
            return random.f64() < loss;
        }
        // The share of time in the bad state is `loss`, a stay there lasts `burst` datagrams on average.
        let change = if self.in_burst { 1.0 / burst } else { loss / (1.0 - loss) / burst };
        if random.f64() < change {
            self.in_burst = !self.in_burst;
        }
        self.in_burst
    }
}
