//! Measurements counted in buckets, as Prometheus sums them up: how often something took how long.
//!
//! Pure, and without a lock: whoever measures holds it as it holds its other numbers.

/// Counts by upper bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds: what is above the last.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Nothing measured yet; `bounds` ascend, each inclusive.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one measurement.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// For each bound, how many measurements were not above it but above the bound before it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.bounds.iter().copied().zip(self.counts.iter().copied())
    }

    /// How many measurements there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: &[f64] = &[1.0, 2.0, 5.0];

    #[test]
    fn a_bound_is_inclusive_and_what_is_above_all_is_counted_too() {
        let mut histogram = Histogram::new(BOUNDS);
        for value in [0.0, 1.0, 1.5, 5.0, 9.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(1.0, 2), (2.0, 1), (5.0, 1)]);
        assert_eq!((histogram.count(), histogram.sum()), (5, 16.5));
    }

    proptest! {
        #[test]
        fn buckets_count_what_a_filter_counts(values in prop::collection::vec(0.0f64..8.0, 0..40)) {
            let mut histogram = Histogram::new(BOUNDS);
            values.iter().for_each(|value| histogram.observe(*value));
            let mut total = 0;
            for (bound, count) in histogram.buckets() {
                total += count;
                prop_assert_eq!(total, values.iter().filter(|value| **value <= bound).count() as u64);
            }
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }
}
