//! The network between a client and the server: weather per direction, and an address translator that may rebind.

use std::time::Duration;

/// What a direction of a link does to datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Shares of 1.
    pub loss: f64,
    pub duplicate: f64,
    /// Share of datagrams that are held back by [`HELD_BACK`], so that later ones overtake them.
    pub reorder: f64,
    pub delay: Duration,
    /// Added evenly between 0 and this; larger than the distance of two packets, it reorders them.
    pub jitter: Duration,
    /// Octets per second; what would wait longer than [`QUEUE`] is dropped.
    pub rate: Option<u64>,
    /// Nothing passes.
    pub dark: bool,
}

pub const FAIR: Weather = Weather {
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    rate: None,
    dark: false,
};

impl Weather {
    pub fn is_lossless(&self) -> bool {
        self.loss == 0.0 && !self.dark && self.rate.is_none()
    }
}

const HELD_BACK: Duration = Duration::from_millis(30);
const QUEUE: Duration = Duration::from_millis(200);

/// One direction of one client's link.
#[derive(Debug)]
pub struct Link {
    pub weather: Weather,
    busy_until: Duration,
}

impl Link {
    pub fn new(weather: Weather) -> Link {
        Link { weather, busy_until: Duration::ZERO }
    }

    /// When the copies of a datagram arrive: none, one or two of them.
    pub fn pass(&mut self, random: &mut fastrand::Rng, now: Duration, octets: usize) -> Vec<Duration> {
        let Weather { loss, duplicate, reorder, delay, jitter, rate, dark } = self.weather;
        if dark || random.f64() < loss {
            return Vec::new();
        }
        let mut leaves = now;
        if let Some(rate) = rate {
            let start = self.busy_until.max(now);
            if start - now > QUEUE {
                return Vec::new();
            }
            self.busy_until = start + Duration::from_micros(octets as u64 * 1_000_000 / rate);
            leaves = self.busy_until;
        }
        let copies = if random.f64() < duplicate { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let held = if random.f64() < reorder { HELD_BACK } else { Duration::ZERO };
                leaves + delay + held + jitter.mul_f64(random.f64())
            })
            .collect()
    }
}
