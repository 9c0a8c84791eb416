//! Counts measurements in buckets, as a Prometheus histogram does.
//!
//! Pure and without a lock: the owner guards it as it guards its other counters.

/// Counts of measurements by upper bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds: the last counts what exceeds every bound.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram; `bounds` ascend and are inclusive.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one measurement.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Each bound with the number of measurements up to it and above the bound before it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.bounds.iter().copied().zip(self.counts.iter().copied())
    }

    /// Number of measurements.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all measurements.
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
    fn a_bound_is_inclusive_and_a_value_above_all_bounds_is_counted() {
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
