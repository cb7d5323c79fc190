//! Chance that can be repeated.

/// xorshift64 from a seed that is printed.
#[derive(Debug)]
pub struct Draw(u64);

impl Draw {
    /// From `TALLYSTICK_SEED` if set, else a new seed; printed either way.
    ///
    /// # Panics
    /// When the variable is not a number.
    #[must_use]
    pub fn seeded(what: &str) -> Self {
        Self::of(Self::seed(what))
    }

    /// From a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(spread(seed) | 1)
    }

    /// `TALLYSTICK_SEED` if set, else a new seed; printed either way.
    ///
    /// # Panics
    /// When the variable is not a number.
    #[must_use]
    pub fn seed(what: &str) -> u64 {
        let seed = match std::env::var("TALLYSTICK_SEED") {
            Ok(text) => text.parse().expect("TALLYSTICK_SEED is a whole number"),
            Err(_) => {
                let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
                since.as_secs() ^ u64::from(std::process::id()) << 32
            }
        };
        println!("{what}: TALLYSTICK_SEED={seed}");
        seed
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.number() >> 16) % end
    }

    /// Puts `things` in an order drawn anew.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            let other = usize::try_from(self.below(place as u64 + 1)).unwrap_or(0);
            things.swap(place, other);
        }
    }
}

/// Neighbouring seeds begin far apart.
fn spread(seed: u64) -> u64 {
    seed.to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}
