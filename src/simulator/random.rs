//! A random sequence that never changes: the same seed gives the same market in every version.

/// SplitMix64, written here because the next version of a crate could change the sequence.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A whole number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.abs_diff(low).saturating_add(1);
        low + (self.draw() % span) as i64
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.draw() % 100 < percent
    }

    /// A pause in microseconds, at least one, exponentially distributed about `mean_us`.
    pub fn pause_us(&mut self, mean_us: f64) -> i64 {
        // 53 bits fill a float's mantissa; the added half keeps the logarithm away from zero.
        let unit = ((self.draw() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        ((-unit.ln() * mean_us) as i64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_sequence() {
        let mut random = Random::new(7);
        assert_eq!(random.draw(), 7_191_089_600_892_374_487);
    }

    #[test]
    fn numbers_stay_between_their_bounds() {
        let mut random = Random::new(1);
        for _ in 0..1_000 {
            assert!((-3..=3).contains(&random.between(-3, 3)));
            assert!(random.pause_us(10.0) >= 1);
        }
    }
}
